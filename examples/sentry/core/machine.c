// SPDX-License-Identifier: Apache-2.0
/* System calls for the machine, for priorities and for who the caller is. */
#include "core.h"

struct sysinfo {
	s64 uptime;
	u64 loads[3], total, free, shared, buffers, total_swap, free_swap;
	u16 processes, pad;
	u32 pad2;
	u64 total_high, free_high;
	u32 unit, pad3;
};

_Static_assert(sizeof(struct sysinfo) == 112, "as the kernel has it");

s64 sys_sysinfo(struct task *t, const u64 *args)
{
	struct sysinfo info = {
		.uptime = (s64)(monotonic_now() / 1000000000), .total = core.ram.count * PAGE,
		.free = core.ram.available * PAGE, .unit = 1,
	};

	EACH_PROCESS(p)
		info.processes += (u16)p->task_count;
	return user_write(t->mm, args[0], &info, sizeof(info));
}

s64 sys_personality(struct task *t, const u64 *args)
{
	const u32 query = 0xffffffff;

	(void)t;
	return (u32)args[0] == query || !(u32)args[0] ? 0 : -EINVAL; /* there is but one */
}

/* -- priorities: all processes have the same -- */

static s64 find_priority(u32 which, s32 who)
{
	enum { PROCESS, GROUP, USER };

	if (which > USER)
		return -EINVAL;
	if (!who || (which == USER && (u32)who == core.config->user))
		return 0;
	if (which == PROCESS)
		return task_find(who) ? 0 : -ESRCH;
	if (which == GROUP)
		EACH_PROCESS(p)
			if (p->group == who)
				return 0;
	return -ESRCH;
}

s64 sys_getpriority(struct task *t, const u64 *args)
{
	enum { NICE_0 = 20 };
	s64 error = find_priority((u32)args[0], (s32)args[1]);

	(void)t;
	return error ? error : NICE_0;
}

s64 sys_setpriority(struct task *t, const u64 *args)
{
	s64 error = find_priority((u32)args[0], (s32)args[1]);

	(void)t;
	if (!error && (s32)args[2] < 0 && core.config->user)
		return -EACCES;
	return error;
}

enum { SCHED_OTHER, SCHED_FIFO, SCHED_RR, SCHED_BATCH, SCHED_IDLE = 5, RESET_ON_FORK = 0x40000000, HIGHEST = 99 };

s64 sys_sched_get_priority_max(struct task *t, const u64 *args)
{
	u32 policy = (u32)args[0];

	(void)t;
	if (policy == SCHED_FIFO || policy == SCHED_RR)
		return HIGHEST;
	return policy <= SCHED_IDLE + 1 && policy != SCHED_BATCH + 1 ? 0 : -EINVAL;
}

s64 sys_sched_get_priority_min(struct task *t, const u64 *args)
{
	s64 most = sys_sched_get_priority_max(t, args);

	return most > 0 ? 1 : most;
}

static s64 set_scheduler(struct task *t, s32 tid, u32 policy, u64 from)
{
	s32 priority;

	if (tid < 0 || !from)
		return -EINVAL;
	if (user_read(t->mm, &priority, from, sizeof(priority)))
		return -EFAULT;
	if (tid && !task_find(tid))
		return -ESRCH;
	policy &= ~(u32)RESET_ON_FORK;
	if (policy == SCHED_FIFO || policy == SCHED_RR)
		return priority < 1 || priority > HIGHEST ? -EINVAL : -EPERM;
	return priority || (policy > SCHED_BATCH && policy != SCHED_IDLE) ? -EINVAL : 0;
}

s64 sys_sched_setscheduler(struct task *t, const u64 *args)
{
	return (s32)args[1] < 0 ? -EINVAL : set_scheduler(t, (s32)args[0], (u32)args[1], args[2]);
}

s64 sys_sched_setparam(struct task *t, const u64 *args)
{
	return set_scheduler(t, (s32)args[0], SCHED_OTHER, args[1]);
}

s64 sys_sched_rr_get_interval(struct task *t, const u64 *args)
{
	const struct timespec slice = { 0, 4000000 };

	if ((s32)args[0] < 0)
		return -EINVAL;
	if ((s32)args[0] && !task_find((s32)args[0]))
		return -ESRCH;
	return user_write(t->mm, args[1], &slice, sizeof(slice));
}

/* -- the caller: one user and one group, which do not change -- */

static s64 put_three(struct task *t, const u64 *args, u32 id)
{
	for (u32 i = 0; i < 3; i++)
		if (user_write(t->mm, args[i], &id, sizeof(id)))
			return -EFAULT;
	return 0;
}

s64 sys_getresuid(struct task *t, const u64 *args)
{
	return put_three(t, args, core.config->user);
}

s64 sys_getresgid(struct task *t, const u64 *args)
{
	return put_three(t, args, core.config->group);
}

s64 sys_capget(struct task *t, const u64 *args)
{
	enum { VERSION_1 = 0x19980330, VERSION_2 = 0x20071026, VERSION_3 = 0x20080522 };
	const u32 all[2] = { 0xffffffff, 0x1ff }, wanted = VERSION_3;
	u32 header[2], data[6] = { 0 };

	if (user_read(t->mm, header, args[0], sizeof(header)))
		return -EFAULT;
	if (header[0] != VERSION_1 && header[0] != VERSION_2 && header[0] != VERSION_3) {
		if (user_write(t->mm, args[0], &wanted, sizeof(wanted)))
			return -EFAULT;
		return args[1] ? -EINVAL : 0;
	}
	if ((s32)header[1] < 0)
		return -EINVAL;
	if (header[1] && !task_find((s32)header[1]))
		return -ESRCH;
	for (u32 i = 0; i < 2 && !core.config->user; i++)
		data[3 * i] = data[3 * i + 1] = all[i];
	return args[1] ? user_write(t->mm, args[1], data, header[0] == VERSION_1 ? 12 : 24) : 0;
}
