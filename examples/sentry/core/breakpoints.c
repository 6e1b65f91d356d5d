// SPDX-License-Identifier: Apache-2.0
/* Breakpoints of the CPU: debug registers, as a tracer sets them. Intel's manual, volume 3, 19.2 describes them. */
#include "ptrace.h"

enum { STATUS = 6, CONTROL, EXECUTE = 0, WRITE = 1, ACCESS = 3, TRAP_TRACE = 2, RESUME_FLAG = 0x10000 };
/* DR6 has ones where a processor has nothing to report. */
#define STATUS_IDLE 0xffff0ff0ull

/* -- what a tracer sets -- */

static bool is_enabled(u64 control, u32 i)
{
	return control >> 2 * i & 3;
}

static u32 kind_of(u64 control, u32 i)
{
	return control >> (16 + 4 * i) & 3;
}

/* Of a breakpoint, in bytes. */
static u64 size_of(u64 control, u32 i)
{
	static const u8 sizes[] = { 1, 2, 8, 4 };

	return sizes[control >> (18 + 4 * i) & 3];
}

/* One that the CPU must not have: the core is not to stop at its own instructions or data. */
static bool is_bad(const struct breakpoints *all, u32 i)
{
	const u64 address = all->address[i], size = size_of(all->control, i);
	const u32 kind = kind_of(all->control, i);

	if (address >= TASK_SIZE)
		return true;
	if (!is_enabled(all->control, i))
		return false;
	return (kind == EXECUTE ? size != 1 : kind != WRITE && kind != ACCESS) || address % size;
}

s64 breakpoints_get(const struct tracee *e, u32 index, u64 *value)
{
	switch (index) {
	case STATUS: *value = e->hits ^ STATUS_IDLE; break;
	case CONTROL: *value = e->breakpoints.control; break;
	default: *value = index < BREAKPOINTS ? e->breakpoints.address[index] : 0;
	}
	return 0;
}

s64 breakpoints_set(struct tracee *e, u32 index, u64 value)
{
	struct breakpoints wanted = e->breakpoints;

	if (index == STATUS) {
		e->hits = value ^ STATUS_IDLE;
		return 0;
	}
	if (index >= BREAKPOINTS && index != CONTROL)
		return -EIO;
	if (!core.ops->set_breakpoints)
		return value ? -EIO : 0;
	if (index == CONTROL)
		wanted.control = value;
	else
		wanted.address[index] = value;
	for (u32 i = 0; i < BREAKPOINTS; i++)
		if (is_bad(&wanted, i))
			return -EINVAL;
	e->breakpoints = wanted;
	return 0;
}

/* -- what the CPU reports -- */

/* The bits of DR7 for what is enabled; no others, such as the one that traps accesses to the registers. */
static u64 control_for_cpu(u64 control)
{
	u64 wanted = 0;

	for (u32 i = 0; i < BREAKPOINTS; i++)
		if (is_enabled(control, i))
			wanted |= control & (3ull << 2 * i | 15ull << (16 + 4 * i));
	return wanted;
}

/* The program goes on behind the instruction that a breakpoint has stopped it at. */
static void take_hits(struct task *t, u64 hits, u64 control)
{
	for (u32 i = 0; i < BREAKPOINTS; i++)
		if (hits & 1u << i && kind_of(control, i) == EXECUTE) {
			task_flush(t);
			t->regs.flags |= RESUME_FLAG;
		}
}

void breakpoints_enter(struct task *t, bool may_stop, struct event *event)
{
	struct breakpoints wanted = t->tracee->breakpoints;
	u64 hits;

	wanted.control = control_for_cpu(wanted.control);
	if (wanted.control)
		core.ops->set_breakpoints(&wanted);
	task_enter(t, may_stop, event);
	if (wanted.control)
		core.ops->set_breakpoints(NULL);
	if (event->kind != EVENT_SIGNAL || event->signal != SIGTRAP)
		return;
	hits = event->code == TRAP_TRACE ? HIT_STEP : 0;
	for (u32 i = 0; i < BREAKPOINTS; i++)
		if (is_enabled(wanted.control, i))
			hits |= event->hits & 1u << i;
	take_hits(t, hits, wanted.control);
	if (t->tracee && hits)
		t->tracee->hits = hits;
}
