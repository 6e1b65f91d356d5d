/* SPDX-License-Identifier: Apache-2.0 */
/* Clocks of CPU time, and their timers. */
#ifndef SENTRY_CPU_TIMER_H
#define SENTRY_CPU_TIMER_H

#include "list.h"

struct process;
struct task;

/* It counts for a process, or for one of its tasks. */
struct cpu_clock {
	struct process *process; /* NULL: it is no clock of CPU time */
	struct task *task; /* NULL: all tasks */
};

u64 process_cpu_time(const struct process *p);
u64 cpu_clock_now(const struct cpu_clock *clock);

/* Calls a function when its clock reaches the target. The function may send signals, but not sleep. */
struct cpu_timer {
	struct list list; /* in the process's cpu_timers; zeros: it never ran */
	struct cpu_clock clock;
	u64 target;
	void (*expire)(struct cpu_timer *timer);
};

void cpu_timer_start(struct cpu_timer *timer, struct process *owner, u64 target);
void cpu_timer_stop(struct cpu_timer *timer);
bool cpu_timer_runs(const struct cpu_timer *timer);
void cpu_timers_check(struct process *p); /* after one of its tasks has run */

#endif
