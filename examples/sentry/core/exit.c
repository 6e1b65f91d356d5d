// SPDX-License-Identifier: Apache-2.0
/* The end of tasks and processes, and the calls that wait for it. */
#include "core.h"
#include "seccomp.h"
#include "control/container.h"
#include "hooks/hooks.h"
#include "ipc/ipc.h"
#include "vfs/pidfd.h"
#include "vfs/vfs.h"

enum { WNOHANG = 1, WUNTRACED = 2, WEXITED = 4, WCONTINUED = 8, WNOWAIT = 0x1000000, WNOTHREAD = 0x20000000 };
#define WALL 0x40000000u
#define WCLONE 0x80000000u
enum { P_ALL, P_PID, P_PGID, P_PIDFD };

/* -- the end -- */

void process_end(struct process *p, s32 status)
{
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

static struct siginfo child_info(struct process *p, s32 code, s32 status)
{
	return (struct siginfo){
		.signal = SIGCHLD, .code = code,
		.fields = { (u32)p->pid | (u64)cred_of(p)->user.real << 32, (u32)status, p->cpu_time / 10000000 },
	};
}

static struct siginfo exit_info(struct process *p)
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

static void reap(struct process *p)
{
	if (p->parent)
		p->parent->child_cpu_time += p->cpu_time + p->child_cpu_time;
	process_free(p);
}

static void become_zombie(struct process *p)
{
	struct process *parent = p->parent;
	struct siginfo info = exit_info(p);
	bool at_once = p->exit_signal == SIGCHLD && is_reaped_at_once(parent);

	p->zombie = true;
	process_ref_ended(p);
	info.signal = p->exit_signal;
	if (p->exit_signal > 0 && p->exit_signal <= SIGNALS)
		signal_send_process(parent, &info);
	if (at_once)
		reap(p);
	wake_all(&parent->child_changed);
}

bool group_is_orphaned(s32 group, const struct process *without)
{
	EACH_PROCESS(p)
		if (p->group == group && p != without && !p->zombie && p->parent && p->parent->group != group &&
		    p->parent->session == p->session)
			return false;
	return true;
}

static bool has_stopped(s32 group)
{
	EACH_PROCESS(p)
		if (p->group == group && p->stopped)
			return true;
	return false;
}

static void continue_if_orphaned(s32 group, const struct process *without)
{
	if (group_is_orphaned(group, without) && has_stopped(group)) {
		signal_group(group, SIGHUP);
		signal_group(group, SIGCONT);
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

static void leave_children(struct process *p)
{
	struct process *to = p->parent;

	while (to->parent && (!to->subreaper || list_empty(&to->tasks)))
		to = to->parent;
	while (!list_empty(&p->children)) {
		struct process *child = CONTAINER(p->children.next, struct process, siblings);
		bool other_group = child->group != p->group && child->session == p->session;
		s32 group = child->group;

		process_adopt(to, child);
		child->exit_signal = SIGCHLD;
		send_death_signals(child);
		if (child->zombie)
			become_zombie(child);
		if (other_group)
			continue_if_orphaned(group, NULL);
	}
}

static void process_exit(struct process *p)
{
	p->stopped = false;
	timer_stop(&p->alarm);
	posix_timers_free(p);
	ipc_exit(p);
	mq_exit(p);
	if (p->guest)
		guest_process_ended(p);
	if (!p->parent) {
		hooks_flush();
		core.exit = (struct core_exit){ p->status >> 8 & 0xff, p->status & 0x7f };
		sched_end();
	}
	session_exit(p);
	leave_children(p);
	if (p->parent->group != p->group && p->parent->session == p->session)
		continue_if_orphaned(p->group, p);
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

	t->exiting = true;
	futex_exit(t);
	release_mm(t);
	t->files = NULL; /* other tasks must not find it while it is freed, which can sleep */
	files_put(files);
	t->fs = NULL;
	fs_put(fs);
	kfree(t->fpu);
	t->fpu = NULL;
	signals_flush(&t->pending, ~0ull);
	p->cpu_time += t->cpu_time;
	posix_timers_forget(t);
	p->last_cred = t->cred;
	p->last_cred.groups = NULL;
	task_remove(t);
	if (list_empty(&p->tasks))
		process_exit(p);
	else
		wake_all(&p->child_changed); /* an exec waits to be alone */
	cred_free(&t->cred);
	seccomp_put(t->seccomp);
	t->seccomp = NULL;
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
	task_exit(t);
}

/* -- waiting -- */

struct wanted {
	s32 type, id;
	u32 options;
	struct siginfo info; /* of the child that was found */
	s32 status, pid;
	u64 cpu_time;
};

static bool is_eligible(const struct process *parent, const struct process *child, const struct wanted *w)
{
	bool clone = child->exit_signal != SIGCHLD;

	if (w->type == P_PID && child->pid != w->id)
		return false;
	if (w->type == P_PGID && child->group != (w->id ? w->id : parent->group))
		return false;
	return w->options & WALL || clone == !!(w->options & WCLONE);
}

static bool found(struct wanted *w, struct process *child, struct siginfo info, s32 status)
{
	w->info = info;
	w->info.signal = SIGCHLD;
	w->status = status;
	w->pid = child->pid;
	w->cpu_time = child->cpu_time + child->child_cpu_time;
	return true;
}

static bool look_at(struct process *child, struct wanted *w)
{
	bool keep = w->options & WNOWAIT;

	if (child->zombie) {
		if (!(w->options & WEXITED))
			return false;
		found(w, child, exit_info(child), child->status);
		if (!keep)
			reap(child);
		return true;
	}
	if (child->stopped && child->stop_is_new && w->options & WUNTRACED) {
		child->stop_is_new = keep;
		return found(w, child, child_info(child, CLD_STOPPED, child->status >> 8), child->status);
	}
	if (child->continue_is_new && w->options & WCONTINUED) {
		child->continue_is_new = keep;
		return found(w, child, child_info(child, CLD_CONTINUED, SIGCONT), 0xffff);
	}
	return false;
}

/* 0 with a pid or without one, or -errno. */
static s64 wait_for(struct task *t, struct wanted *w)
{
	struct process *p = t->process;

	for (;;) {
		bool any = false;
		s64 error;

		LIST_EACH_SAFE(at, next, &p->children) {
			struct process *child = CONTAINER(at, struct process, siblings);

			if (!is_eligible(p, child, w))
				continue;
			any = true;
			if (look_at(child, w))
				return 0;
		}
		if (!any)
			return -ECHILD;
		if (w->options & WNOHANG)
			return 0;
		error = sleep_on(&p->child_changed, FOREVER);
		if (error)
			return error;
	}
}

static s64 put_usage(struct task *t, u64 to, u64 nanoseconds)
{
	u64 usage[18] = { nanoseconds / 1000000000, nanoseconds % 1000000000 / 1000 };

	return to ? user_write(t->mm, to, usage, sizeof(usage)) : 0;
}

s64 sys_wait4(struct task *t, const u64 *args)
{
	const u32 known = WNOHANG | WUNTRACED | WCONTINUED | WNOTHREAD | WCLONE | WALL;
	s32 pid = (s32)args[0];
	struct wanted w = { .type = P_PID, .id = pid, .options = (u32)args[2] | WEXITED };
	s64 error;

	if ((u32)args[2] & ~known)
		return -EINVAL;
	if (pid == -2147483647 - 1)
		return -ESRCH;
	if (pid <= 0) {
		w.type = pid == -1 ? P_ALL : P_PGID;
		w.id = -pid;
	}
	error = wait_for(t, &w);
	if (error || !w.pid)
		return error;
	if (args[1] && user_write(t->mm, args[1], &w.status, sizeof(w.status)))
		return -EFAULT;
	return put_usage(t, args[3], w.cpu_time) ? -EFAULT : w.pid;
}

static s64 use_pidfd(struct task *t, struct wanted *w, bool *nonblock)
{
	u32 flags = 0;
	s64 error;
	const struct process *p = w->id < 0 ? NULL : pidfd_process(t, (u64)w->id, &flags, &error);

	if (w->id < 0)
		return -EINVAL;
	if (!p)
		return error == -ESRCH ? -ECHILD : error;
	*nonblock = flags & O_NONBLOCK && !(w->options & WNOHANG);
	w->options |= *nonblock ? WNOHANG : 0;
	w->type = P_PID;
	w->id = p->pid;
	return 0;
}

s64 sys_waitid(struct task *t, const u64 *args)
{
	const u32 known = WNOHANG | WUNTRACED | WEXITED | WCONTINUED | WNOWAIT | WNOTHREAD | WCLONE | WALL;
	struct wanted w = { .type = (s32)args[0], .id = (s32)args[1], .options = (u32)args[3] };
	u64 info[16] = { 0 };
	bool nonblock = false;
	s64 error;

	if (w.options & ~known || !(w.options & (WUNTRACED | WEXITED | WCONTINUED)))
		return -EINVAL;
	if (w.type == P_PIDFD) {
		error = use_pidfd(t, &w, &nonblock);
		if (error)
			return error;
	}
	if (w.type < P_ALL || w.type > P_PGID || (w.type == P_PID && w.id <= 0) || (w.type == P_PGID && w.id < 0))
		return -EINVAL;
	error = wait_for(t, &w);
	if (error)
		return error;
	if (!w.pid && nonblock)
		return -EAGAIN;
	if (w.pid && put_usage(t, args[4], w.cpu_time))
		return -EFAULT;
	if (!args[2])
		return 0;
	w.info.fields[2] = 0; /* the times are those of signals only */
	if (w.pid)
		bytes_copy(info, &w.info, sizeof(w.info));
	/* Linux leaves what is behind si_status alone. */
	return user_write(t->mm, args[2], info, 28) ? -EFAULT : 0;
}

s64 sys_getrusage(struct task *t, const u64 *args)
{
	enum { SELF = 0, CHILDREN = -1, THREAD = 1 };
	u64 time = t->cpu_time;

	switch ((s32)args[0]) {
	case SELF:
		time = process_cpu_time(t->process);
		break;
	case CHILDREN:
		time = t->process->child_cpu_time;
		break;
	case THREAD:
		break;
	default:
		return -EINVAL;
	}
	return args[1] ? put_usage(t, args[1], time) : -EFAULT;
}
