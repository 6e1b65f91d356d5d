// SPDX-License-Identifier: Apache-2.0
/* The debug registers of the CPU. They are the program's: no address of the core is ever in them. */
#include "kvm.h"

enum { TRAP_TRACE = 2, TRAP_HWBKPT = 4, TRAP_BRKPT = 1, HITS = 0xf, STEP = 0x4000, NOTHING_ENABLED = 0x400 };
#define STATUS_IDLE 0xffff0ff0ull

#define SET(number, value) asm volatile("mov %0, %%db" number : : "r"(value))

static u64 status(void)
{
	u64 value;

	asm volatile("mov %%db6, %0" : "=r"(value));
	return value;
}

void breakpoints_load(const struct breakpoints *wanted)
{
	this_cpu()->has_breakpoints = wanted;
	if (!wanted) {
		SET("7", (u64)NOTHING_ENABLED);
		return;
	}
	SET("0", wanted->address[0]);
	SET("1", wanted->address[1]);
	SET("2", wanted->address[2]);
	SET("3", wanted->address[3]);
	SET("6", STATUS_IDLE);
	SET("7", wanted->control | NOTHING_ENABLED);
}

/* Without breakpoints, nothing but a step is likely: the register is not read, which leaves the guest. */
void breakpoints_report(const struct regs *regs, struct event *event)
{
	event->hits = this_cpu()->has_breakpoints ? status() & (HITS | STEP) : STEP;
	event->code = event->hits & STEP ? TRAP_TRACE : event->hits ? TRAP_HWBKPT : TRAP_BRKPT;
	event->address = regs->rip;
}

/*
 * An exception for what an instruction has used is delayed if that instruction loads SS: up to the first one of the core, if
 * the next one enters it.  Linux forgets it, too.
 */
bool breakpoints_late(void)
{
	bool is_hit = status() & (HITS | STEP);

	SET("6", STATUS_IDLE);
	return is_hit;
}
