// SPDX-License-Identifier: Apache-2.0
/* System calls for the machine. */
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
	const u32 query = 0xffffffff, same_addresses = 0x40000, new = (u32)args[0], old = t->personality;

	if (new == query)
		return old;
	if (new & ~same_addresses)
		return -EINVAL; /* there is but one */
	t->personality = new; /* without effect: addresses of programs are the same each time */
	return old;
}
