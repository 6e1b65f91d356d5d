// SPDX-License-Identifier: Apache-2.0
/* The end of tasks and processes. */
#include "ptrace.h"
#include "filters.h"
#include "seccomp.h"
#include "control/container.h"
#include "hooks/hooks.h"
#include "ipc/ipc.h"
#include "space.h"
#include "vfs/pidfd.h"
#include "vfs/vfs.h"

void process_end(struct process *p, s32 status)
{
	if (status == SIGKILL)
		tracees_killed(p);
	if (p->ending)
		return;
	p->ending = true;
	p->status = status;
	EACH_TASK(t, p)
		task_ready(t);
}

/* A parent's action for SIGCHLD; NULL: all its tasks have ended. */
static const struct sigaction *child_action(const struct process *parent)
{
	struct task *t = CONTAINER(parent->tasks.next, struct task, siblings);

	return list_empty(&parent->tasks) ? NULL : &t->sighand->actions[SIGCHLD - 1];
}

/* A parent that ignores SIGCHLD never waits: its children are reaped at once. */
static bool is_reaped_at_once(const struct process *parent)
{
	enum { SA_NOCLDWAIT = 2 };
	const struct sigaction *action = child_action(parent);

	return !action || action->handler == SIG_IGN || action->flags & SA_NOCLDWAIT;
}

struct siginfo child_info(struct process *p, s32 code, s32 status)
{
	return (struct siginfo){
		.signal = SIGCHLD, .code = code,
		.fields = { (u32)p->pid | (u64)cred_of(p)->user.real << 32, (u32)status, p->cpu_time / 10000000 },
	};
}

struct siginfo exit_info(struct process *p)
{
	return p->status & 0x7f ? child_info(p, CLD_KILLED, p->status & 0x7f) :
				  child_info(p, CLD_EXITED, p->status >> 8 & 0xff);
}

void process_notify_parent(struct process *p, s32 code, s32 status)
{
	enum { SA_NOCLDSTOP = 1 };
	struct process *parent = p->parent;
	struct siginfo info = child_info(p, code, status);
	const struct sigaction *action = parent ? child_action(parent) : NULL;

	if (!action)
		return;
	if (!(action->flags & SA_NOCLDSTOP))
		signal_send_process(parent, &info);
	wake_all(&parent->child_changed);
}

void process_reap(struct process *p)
{
	if (p->parent)
		p->parent->child_cpu_time += p->cpu_time + p->child_cpu_time;
	process_free(p);
}

void process_show_end(struct process *p)
{
	struct process *parent = p->parent;
	struct siginfo info = exit_info(p);
	bool at_once = p->exit_signal == SIGCHLD && is_reaped_at_once(parent);

	info.signal = p->exit_signal;
	if (p->exit_signal > 0 && p->exit_signal <= SIGNALS)
		signal_send_process(parent, &info);
	if (at_once)
		process_reap(p);
	wake_all(&parent->child_changed);
}

/* If another process than its parent traces it, that must wait for it first. */
static void become_zombie(struct process *p)
{
	if (!p->zombie)
		process_ref_ended(p);
	p->zombie = true;
	if (p->container)
		wake_all(&p->container->changed);
	if (!tracee_holds(p))
		process_show_end(p);
}

bool group_is_orphaned(u32 pids, s32 group, const struct process *without)
{
	EACH_PROCESS(p)
		if (process_in_group(p, pids, group) && p != without && !p->zombie && p->parent && p->parent->group != group &&
		    same_session(p->parent, p))
			return false;
	return true;
}

static bool has_stopped(u32 pids, s32 group)
{
	EACH_PROCESS(p)
		if (process_in_group(p, pids, group) && p->stopped)
			return true;
	return false;
}

static void continue_if_orphaned(u32 pids, s32 group, const struct process *without)
{
	if (group_is_orphaned(pids, group, without) && has_stopped(pids, group)) {
		signal_group(pids, group, SIGHUP);
		signal_group(pids, group, SIGCONT);
	}
}

/* The signals that tasks have chosen for the end of their parent (PR_SET_PDEATHSIG). */
static void send_death_signals(struct process *child)
{
	EACH_TASK(t, child)
		if (t->death_signal && may_signal(core.current, child, t->death_signal)) {
			const struct siginfo info = siginfo_user(t->death_signal, SI_USER);

			signal_send_process(child, &info);
		}
}

/* Who adopts the children of a process: a subreaper above it, or process 1 of its namespace. */
static struct process *adopter_of(const struct process *p)
{
	struct process *to = p->parent, *init;

	while (to->parent && (!to->subreaper || list_empty(&to->tasks)))
		to = to->parent;
	init = to->parent || p->pids == SANDBOX_PIDS ? NULL : process_find(p->pids, 1);
	return init && init != p && !list_empty(&init->tasks) ? init : to;
}

static void leave_children(struct process *p)
{
	struct process *to = adopter_of(p);

	while (!list_empty(&p->children)) {
		struct process *child = CONTAINER(p->children.next, struct process, siblings);
		bool other_group = child->group != p->group && same_session(child, p);
		s32 group = child->group;

		process_adopt(to, child);
		child->exit_signal = SIGCHLD;
		send_death_signals(child);
		if (child->zombie)
			become_zombie(child);
		if (other_group)
			continue_if_orphaned(p->pids, group, NULL);
	}
}

static void process_exit(struct process *p)
{
	p->stopped = false;
	timer_stop(&p->alarm);
	posix_timers_free(p);
	ipc_exit(p);
	mq_exit(p);
	if (process_is_init(p))
		space_end(p);
	if (p->guest)
		guest_process_ended(p);
	if (!p->parent) {
		hooks_flush();
		core.exit = (struct core_exit){ p->status >> 8 & 0xff, p->status & 0x7f };
		sched_end();
	}
	session_exit(p);
	leave_children(p);
	if (p->parent->group != p->group && same_session(p->parent, p))
		continue_if_orphaned(p->pids, p->group, p);
	become_zombie(p);
}

void release_mm(struct task *t)
{
	struct mm *mm = t->mm;

	if (!mm)
		return; /* it has no program yet */
	if (t->clear_tid && mm->references > 1) {
		u32 zero = 0;

		if (!user_write(mm, t->clear_tid, &zero, sizeof(zero)))
			futex_wake_address(t, t->clear_tid);
	}
	t->clear_tid = 0;
	task_flush(t);
	t->mm = NULL;
	mm_put(mm);
	if (t->vfork) {
		t->vfork->done = true;
		wake_all(&t->vfork->queue);
		if (reference_put(&t->vfork->references))
			kfree(t->vfork);
		t->vfork = NULL;
	}
}

_Noreturn void task_exit(struct task *t)
{
	struct process *p = t->process;
	struct files *files = t->files;
	struct fs_context *fs = t->fs;

	if (t->tracee)
		tracing_exit(t);
	t->exiting = true;
	tracees_leave(t);
	futex_exit(t);
	release_mm(t);
	t->files = NULL; /* other tasks must not find it while it is freed, which can sleep */
	files_put(files);
	t->fs = NULL;
	fs_put(fs);
	kfree(t->fpu);
	t->fpu = NULL;
	signals_flush(&t->pending, ~0ull);
	task_count_time(t);
	p->cpu_time += task_cpu_time(t);
	posix_timers_forget(t);
	p->last_cred = t->cred;
	p->last_cred.groups = NULL;
	task_remove(t);
	if (t->tracee)
		tracee_end(t);
	if (list_empty(&p->tasks))
		process_exit(p);
	else
		wake_all(&p->child_changed); /* an exec waits to be alone */
	cred_free(&t->cred);
	seccomp_put(t->seccomp);
	t->seccomp = NULL;
	filters_put(t->filters);
	t->filters = NULL;
	sighand_put(t->sighand);
	task_stop();
}

s64 sys_exit_group(struct task *t, const u64 *args)
{
	process_end(t->process, (s32)(args[0] & 0xff) << 8);
	return 0;
}

s64 sys_exit(struct task *t, const u64 *args)
{
	if (t->process->task_count == 1)
		return sys_exit_group(t, args);
	if (t->tracee)
		t->tracee->status = (s32)(args[0] & 0xff) << 8;
	task_exit(t);
}
