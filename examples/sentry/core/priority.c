// SPDX-License-Identifier: Apache-2.0
/* Priorities and scheduling policies: programs can set and read them, but all tasks take turns. */
#include "core.h"
#include "id_map.h"

enum { SCHED_OTHER, SCHED_FIFO, SCHED_RR, SCHED_BATCH, SCHED_IDLE = 5, SCHED_DEADLINE, HIGHEST = 99, NICEST = 19 };
enum { RESET_ON_FORK = 0x40000000 };

static bool is_real_time(u32 policy)
{
	return policy == SCHED_FIFO || policy == SCHED_RR;
}

void priority_inherit(struct task *t, const struct task *from)
{
	bool real_time = is_real_time(from->policy);

	t->io_priority = from->io_priority;
	t->nice = from->reset_on_fork && (from->nice < 0 || real_time) ? 0 : from->nice;
	if (from->reset_on_fork && real_time)
		return;
	t->policy = from->policy;
	t->priority = from->priority;
}

bool same_owner(const struct task *t, const struct task *other)
{
	u32 user = t->cred.user.effective;

	return user == other->cred.user.effective || user == other->cred.user.real;
}

/* Whether the limit of a task allows this without a capability. */
static bool limit_allows(const struct task *t, s32 nice)
{
	return (u64)(20 - nice) <= t->process->limits[RLIMIT_NICE].current;
}

static s32 clamp_nice(s32 nice)
{
	return nice < -20 ? -20 : nice > NICEST ? NICEST : nice;
}

/* -- a set of tasks: one, those of a group, those of a user -- */

enum which { OF_PROCESS, OF_GROUP, OF_USER };

static bool belongs(const struct task *t, const struct task *other, enum which which, s32 who)
{
	if (other->process->pids != t->process->pids)
		return false; /* also of the same user: containers have the same ones */
	if (which == OF_PROCESS)
		return other->tid == (who ? who : t->tid);
	if (which == OF_GROUP)
		return other->process->group == (who ? who : t->process->group);
	return other->cred.user.real == (who ? (u32)who : t->cred.user.real);
}

#define EACH_OF(other, t, which, who)              \
	EACH_PROCESS(p_)                           \
		EACH_TASK(other, p_)               \
			if (belongs(t, other, which, who))

s64 sys_getpriority(struct task *t, const u64 *args)
{
	s64 found = -ESRCH;

	if ((u32)args[0] > OF_USER)
		return -EINVAL;
	EACH_OF(other, t, (u32)args[0], (s32)args[1])
		found = found > 20 - other->nice ? found : 20 - other->nice;
	return found;
}

s64 sys_setpriority(struct task *t, const u64 *args)
{
	s32 nice = clamp_nice((s32)args[2]);
	s64 error = -ESRCH;

	if ((u32)args[0] > OF_USER)
		return -EINVAL;
	EACH_OF(other, t, (u32)args[0], (s32)args[1]) {
		if (!same_owner(t, other) && !capable(CAP_SYS_NICE)) {
			error = -EPERM;
		} else if (nice < other->nice && !limit_allows(other, nice) && !capable_outside(CAP_SYS_NICE)) {
			error = -EACCES;
		} else {
			error = error == -ESRCH ? 0 : error;
			other->nice = nice;
		}
	}
	return error;
}

/* -- of input and output -- */

enum { IO_NONE, IO_REAL_TIME, IO_BEST_EFFORT, IO_IDLE, IO_CLASS_SHIFT = 13, IO_LEVELS = 7 };

s64 sys_ioprio_set(struct task *t, const u64 *args)
{
	u32 which = (u32)args[0] - 1, priority = (u32)args[2], class = priority >> IO_CLASS_SHIFT & IO_LEVELS;
	s64 error = -ESRCH;

	if (class == IO_REAL_TIME && !capable(CAP_SYS_ADMIN) && !capable(CAP_SYS_NICE))
		return -EPERM;
	if (class > IO_IDLE || (class == IO_NONE && priority & IO_LEVELS) || which > OF_USER)
		return -EINVAL;
	EACH_OF(other, t, which, (s32)args[1]) {
		if (!same_owner(t, other) && !capable(CAP_SYS_NICE))
			return -EPERM;
		other->io_priority = (u16)priority;
		error = 0;
	}
	return error;
}

s64 sys_ioprio_get(struct task *t, const u64 *args)
{
	u32 which = (u32)args[0] - 1;
	s64 found = -ESRCH;

	if (which > OF_USER)
		return -EINVAL;
	EACH_OF(other, t, which, (s32)args[1]) {
		s64 priority = other->io_priority;

		if (!priority && which != OF_PROCESS)
			priority = IO_BEST_EFFORT << IO_CLASS_SHIFT | (other->nice + 20) / 5;
		found = found == -ESRCH || priority < found ? priority : found;
	}
	return found;
}

/* -- policies -- */

s64 sys_sched_get_priority_max(struct task *t, const u64 *args)
{
	u32 policy = (u32)args[0];

	(void)t;
	if (is_real_time(policy))
		return HIGHEST;
	return policy <= SCHED_DEADLINE && policy != SCHED_BATCH + 1 ? 0 : -EINVAL;
}

s64 sys_sched_get_priority_min(struct task *t, const u64 *args)
{
	s64 most = sys_sched_get_priority_max(t, args);

	return most > 0 ? 1 : most;
}

/* As struct sched_attr of Linux. */
struct attributes {
	u32 size, policy;
	u64 flags;
	s32 nice;
	u32 priority;
	u64 runtime, deadline, period;
	u32 least, most;
};

_Static_assert(sizeof(struct attributes) == 56, "as the kernel has it");

enum { RESET = 1, KEEP_POLICY = 8, KEEP_PARAMETERS = 16, CLAMP = 96, KNOWN = 127 };

static bool needs_right(const struct task *t, const struct task *of, const struct attributes *new)
{
	u64 limit = of->process->limits[RLIMIT_RTPRIO].current;

	if (is_real_time(new->policy)) {
		if ((new->policy != of->policy && !limit) || (new->priority > of->priority && new->priority > limit))
			return true;
	} else if (new->policy != SCHED_IDLE && new->nice < of->nice && !limit_allows(of, new->nice)) {
		return true;
	}
	if (of->policy == SCHED_IDLE && new->policy != SCHED_IDLE && !limit_allows(of, of->nice))
		return true;
	return !same_owner(t, of) || (of->reset_on_fork && !(new->flags & RESET));
}

static s64 set_policy(struct task *t, struct task *of, const struct attributes *new)
{
	if (new->policy > SCHED_DEADLINE || new->policy == SCHED_BATCH + 1 || new->flags & ~(u64)KNOWN)
		return -EINVAL;
	if (new->priority > HIGHEST || is_real_time(new->policy) != (new->priority != 0))
		return -EINVAL;
	if (new->policy == SCHED_DEADLINE && (!new->deadline || new->runtime < 1024 || new->runtime > new->deadline))
		return -EINVAL;
	if (new->policy == SCHED_DEADLINE || (needs_right(t, of, new) && !capable(CAP_SYS_NICE)))
		return -EPERM;
	of->policy = (u8)new->policy;
	of->priority = (u8)new->priority;
	of->reset_on_fork = new->flags & RESET;
	if (!is_real_time(new->policy))
		of->nice = new->nice;
	return 0;
}

static s64 set_scheduler(struct task *t, s32 tid, s32 policy, u64 from)
{
	struct attributes new = { .policy = (u32)policy & ~(u32)RESET_ON_FORK };
	struct task *of;

	if (tid < 0 || !from)
		return -EINVAL;
	if (user_read(t->mm, &new.priority, from, sizeof(new.priority)))
		return -EFAULT;
	of = task_named(t, tid); /* after the read, which can sleep */
	if (!of)
		return -ESRCH;
	if (policy < 0) { /* the task keeps its policy */
		new.policy = of->policy;
		new.flags = of->reset_on_fork ? RESET : 0;
	} else {
		new.flags = (u32)policy & RESET_ON_FORK ? RESET : 0;
	}
	new.nice = of->nice;
	return set_policy(t, of, &new);
}

s64 sys_sched_setscheduler(struct task *t, const u64 *args)
{
	return (s32)args[1] < 0 ? -EINVAL : set_scheduler(t, (s32)args[0], (s32)args[1], args[2]);
}

s64 sys_sched_setparam(struct task *t, const u64 *args)
{
	return set_scheduler(t, (s32)args[0], -1, args[1]);
}

s64 sys_sched_getscheduler(struct task *t, const u64 *args)
{
	s32 pid = (s32)args[0];
	const struct task *of = task_named(t, pid);

	if (pid < 0)
		return -EINVAL;
	return of ? of->policy | (of->reset_on_fork ? RESET_ON_FORK : 0) : -ESRCH;
}

s64 sys_sched_getparam(struct task *t, const u64 *args)
{
	s32 pid = (s32)args[0];
	const struct task *of = task_named(t, pid);
	u32 priority;

	if (pid < 0 || !args[1])
		return -EINVAL;
	if (!of)
		return -ESRCH;
	priority = of->priority;
	return user_write(t->mm, args[1], &priority, sizeof(priority));
}

/* 0 or -errno; for -E2BIG, the structure gets the known size. */
static s64 get_attributes(struct task *t, struct attributes *new, u64 from)
{
	enum { FIRST_SIZE = 48 };
	const u32 own = sizeof(*new);
	u32 size;

	if (user_read(t->mm, &size, from, sizeof(size)))
		return -EFAULT;
	size = size ? size : FIRST_SIZE;
	if (size < FIRST_SIZE || size > PAGE)
		return user_write(t->mm, from, &own, sizeof(own)) ? -EFAULT : -E2BIG;
	for (u32 at = own; at < size; at++) {
		u8 rest;

		if (user_read(t->mm, &rest, from + at, 1))
			return -EFAULT;
		if (rest)
			return user_write(t->mm, from, &own, sizeof(own)) ? -EFAULT : -E2BIG;
	}
	if (user_read(t->mm, new, from, size < own ? size : own))
		return -EFAULT;
	if (new->flags & CLAMP)
		return size < own ? -EINVAL : -EOPNOTSUPP;
	new->nice = clamp_nice(new->nice);
	return 0;
}

s64 sys_sched_setattr(struct task *t, const u64 *args)
{
	struct attributes new = { 0 };
	struct task *of;
	s64 error;

	if (!args[1] || (s32)args[0] < 0 || (u32)args[2])
		return -EINVAL;
	error = get_attributes(t, &new, args[1]);
	if (error)
		return error;
	if ((s32)new.policy < 0)
		return -EINVAL;
	of = task_named(t, (s32)args[0]); /* after the reads, which can sleep */
	if (!of)
		return -ESRCH;
	if (new.flags & KEEP_POLICY)
		new.policy = of->policy;
	if (new.flags & KEEP_PARAMETERS) {
		new.priority = is_real_time(of->policy) ? of->priority : 0;
		new.nice = of->nice;
	}
	return set_policy(t, of, &new);
}

s64 sys_sched_getattr(struct task *t, const u64 *args)
{
	enum { FIRST_SIZE = 48, SLICE = 3000000 };
	const struct task *of = task_named(t, (s32)args[0]);
	u32 size = (u32)args[2];
	struct attributes found;

	if (!args[1] || (s32)args[0] < 0 || size > PAGE || size < FIRST_SIZE || (u32)args[3])
		return -EINVAL;
	if (!of)
		return -ESRCH;
	found = (struct attributes){
		.size = size < sizeof(found) ? size : sizeof(found), .policy = of->policy, .flags = of->reset_on_fork ? RESET : 0,
		.priority = of->priority, .nice = is_real_time(of->policy) ? 0 : of->nice,
		.runtime = is_real_time(of->policy) ? 0 : SLICE,
	};
	return user_write(t->mm, args[1], &found, found.size);
}

s64 sys_sched_rr_get_interval(struct task *t, const u64 *args)
{
	enum { TURN = 4000000, REAL_TIME_TURN = 100000000 };
	const struct task *of = task_named(t, (s32)args[0]);
	struct timespec slice = { 0, TURN };

	if ((s32)args[0] < 0)
		return -EINVAL;
	if (!of)
		return -ESRCH;
	if (is_real_time(of->policy))
		slice.nanoseconds = of->policy == SCHED_RR ? REAL_TIME_TURN : 0;
	return user_write(t->mm, args[1], &slice, sizeof(slice));
}
