// SPDX-License-Identifier: Apache-2.0
/*
 * CPU time of programs, where the host also runs other processes.
 *
 * The core counts by the clock.  An interval that is long enough to contain a time slice of another process is compared with
 * the CPU time of the program's process since that was last read.  The time in the core is added: as measured for programs that
 * others wait for or that have a quota, otherwise the CPU time of this thread.
 */
#define _GNU_SOURCE
#include <time.h>

#include "host.h"

#define LONG 1000000ull	   /* nanoseconds */
#define REFRESH (4 * LONG) /* so much of short intervals is counted before the clocks are read again */

static u64 read_clock(clockid_t clock)
{
	struct timespec time;

	return clock_gettime(clock, &time) ? 0 : (u64)time.tv_sec * SECOND + (u64)time.tv_nsec;
}

/* As clock_getcpuclockid() makes it. */
static clockid_t clock_of(pid_t pid)
{
	enum { SCHED = 2 };

	return (clockid_t)(~(unsigned int)pid << 3 | SCHED);
}

void cpu_clocks_read(struct cpu_clocks *clocks, pid_t pid)
{
	*clocks = (struct cpu_clocks){ read_clock(clock_of(pid)), read_clock(CLOCK_THREAD_CPUTIME_ID), 0 };
}

u64 cpu_time_used(struct cpu_clocks *clocks, pid_t pid, u64 nanoseconds, u64 core, bool ended)
{
	struct cpu_clocks now;
	u64 used;

	clocks->uncounted += ended ? nanoseconds : 0;
	if (ended && nanoseconds < LONG && clocks->uncounted < REFRESH)
		return nanoseconds;
	cpu_clocks_read(&now, pid);
	if (!now.own)
		return nanoseconds; /* it has ended */
	used = now.own - clocks->own + (core == ~0ull ? now.core - clocks->core : core);
	if (ended)
		*clocks = now;
	return used < nanoseconds && (!ended || nanoseconds >= LONG) ? used : nanoseconds;
}
