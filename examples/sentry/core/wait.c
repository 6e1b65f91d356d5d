// SPDX-License-Identifier: Apache-2.0
/* The calls that wait for children and tracees. */
#include "ptrace.h"
#include "vfs/pidfd.h"

enum { WNOHANG = 1, WUNTRACED = 2, WEXITED = 4, WCONTINUED = 8, WNOWAIT = 0x1000000, WNOTHREAD = 0x20000000 };
#define WALL 0x40000000u
#define WCLONE 0x80000000u
enum { P_ALL, P_PID, P_PGID, P_PIDFD };

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

static bool look_at_continuation(struct process *child, struct wanted *w)
{
	if (!child->continue_is_new || !(w->options & WCONTINUED))
		return false;
	child->continue_is_new = w->options & WNOWAIT;
	return found(w, child, child_info(child, CLD_CONTINUED, SIGCONT), 0xffff);
}

static bool look_at(struct process *child, struct wanted *w)
{
	bool keep = w->options & WNOWAIT;

	if (child->zombie) {
		if (!(w->options & WEXITED))
			return false;
		found(w, child, exit_info(child), child->status);
		if (!keep)
			process_reap(child);
		return true;
	}
	if (child->stopped && child->stop_is_new && w->options & WUNTRACED) {
		child->stop_is_new = keep;
		return found(w, child, child_info(child, CLD_STOPPED, child->status >> 8), child->status);
	}
	return look_at_continuation(child, w);
}

/* Whether a child's end is its tracer's first; also of one that has not ended. */
static const struct tracee *leader_of(const struct process *child)
{
	const struct task *leader = child->leader ? NULL : task_find(child->pids, child->pid);

	return leader ? leader->tracee : child->leader;
}

/* The stops of one that this process traces are those of a tracee. */
static bool look_at_children(struct process *p, struct wanted *w, bool *any)
{
	LIST_EACH_SAFE(at, next, &p->children) {
		struct process *child = CONTAINER(at, struct process, siblings);
		const struct tracee *leader = leader_of(child);

		if (!is_eligible(p, child, w))
			continue;
		*any = true;
		if (leader && child->zombie)
			continue;
		if (leader && leader->tracer->process == p ? look_at_continuation(child, w) : look_at(child, w))
			return true;
	}
	return false;
}

static bool is_wanted(const struct process *p, const struct tracee *e, const struct wanted *w)
{
	s32 group = e->task ? e->task->process->group : e->group;

	if (w->type == P_PID)
		return e->tid == w->id;
	return w->type != P_PGID || group == (w->id ? w->id : p->group);
}

static bool found_tracee(struct wanted *w, const struct tracee *e, const struct siginfo *info, s32 status)
{
	w->info = *info;
	w->info.signal = SIGCHLD;
	w->status = status;
	w->pid = e->tid;
	w->cpu_time = e->task ? task_cpu_time(e->task) : 0;
	return true;
}

static bool look_at_tracee(struct tracee *e, struct wanted *w)
{
	bool keep = w->options & WNOWAIT;

	if (!e->task) {
		const struct siginfo info = tracee_end_info(e);

		if (!(w->options & WEXITED) || (e->process && !e->process->zombie))
			return false;
		found_tracee(w, e, &info, e->status);
		if (!keep)
			tracee_forget(e);
		return true;
	}
	if (e->stopped && e->is_new && !e->listening) {
		const struct siginfo info = {
			.code = CLD_TRAPPED,
			.fields = { (u32)e->tid | (u64)e->user << 32, (u32)e->code },
		};

		e->is_new = keep;
		return found_tracee(w, e, &info, e->code << 8 | 0x7f);
	}
	return false;
}

static bool look_at_tracees(struct task *t, struct wanted *w, bool *any)
{
	LIST_EACH_SAFE(at, next, &t->tracees) {
		struct tracee *e = CONTAINER(at, struct tracee, siblings);

		if (!is_wanted(t->process, e, w))
			continue;
		*any = true;
		if (look_at_tracee(e, w))
			return true;
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

		if (look_at_children(p, w, &any))
			return 0;
		EACH_TASK(other, p)
			if ((other == t || !(w->options & WNOTHREAD)) && look_at_tracees(other, w, &any))
				return 0;
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
	if (!p || p->pids != t->process->pids)
		return p || error == -ESRCH ? -ECHILD : error;
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
	u64 time = task_cpu_time(t);

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
