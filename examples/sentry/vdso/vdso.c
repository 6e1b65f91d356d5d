// SPDX-License-Identifier: Apache-2.0
/* What the core shows each program as linux-vdso.so.1: clocks, which it reads from a page before this code. */
#include "clock_page.h"

enum { CLOCK_REAL, CLOCK_MONOTONIC, CLOCK_RAW = 4, CLOCK_REAL_COARSE, CLOCK_MONOTONIC_COARSE, CLOCK_BOOT, CLOCK_TAI = 11 };
enum { SYS_gettimeofday = 96, SYS_time = 201, SYS_clock_gettime = 228, SYS_clock_getres = 229, SYS_getcpu = 309 };
#define SECOND 1000000000ull

struct timespec {
	s64 seconds, nanoseconds;
};

extern const volatile struct clock_page clock_page __attribute__((visibility("hidden")));

long __vdso_clock_gettime(int clock, struct timespec *to);
long __vdso_clock_getres(int clock, struct timespec *to);
long __vdso_gettimeofday(struct timespec *to, int *zone);
long __vdso_time(s64 *to);
long __vdso_getcpu(u32 *cpu, u32 *node, void *unused);

static long call(long number, long first, void *second, long third)
{
	asm volatile("syscall" : "+a"(number) : "D"(first), "S"(second), "d"(third) : "rcx", "r11", "memory");
	return number;
}

static bool is_read_here(int clock)
{
	const u32 here = 1 << CLOCK_REAL | 1 << CLOCK_MONOTONIC | 1 << CLOCK_RAW | 1 << CLOCK_REAL_COARSE |
			 1 << CLOCK_MONOTONIC_COARSE | 1 << CLOCK_BOOT | 1 << CLOCK_TAI;

	return clock >= 0 && clock <= CLOCK_TAI && here >> clock & 1;
}

static bool is_coarse(int clock)
{
	return clock == CLOCK_REAL_COARSE || clock == CLOCK_MONOTONIC_COARSE;
}

long __vdso_clock_gettime(int clock, struct timespec *to)
{
	struct clock_times now;
	u64 time;

	if (!is_read_here(clock) || !clock_read(&clock_page, &now))
		return call(SYS_clock_gettime, clock, to, 0);
	time = clock == CLOCK_REAL || clock == CLOCK_REAL_COARSE || clock == CLOCK_TAI ? now.realtime : now.monotonic;
	*to = (struct timespec){ (s64)(time / SECOND), (s64)(time % SECOND) };
	return 0;
}

long __vdso_clock_getres(int clock, struct timespec *to)
{
	enum { TICK = 4000000 };

	if (!is_read_here(clock))
		return call(SYS_clock_getres, clock, to, 0);
	if (to)
		*to = (struct timespec){ 0, is_coarse(clock) ? TICK : 1 };
	return 0;
}

long __vdso_gettimeofday(struct timespec *to, int *zone)
{
	struct clock_times now;

	if (!clock_read(&clock_page, &now))
		return call(SYS_gettimeofday, (long)to, zone, 0);
	if (to)
		*to = (struct timespec){ (s64)(now.realtime / SECOND), (s64)(now.realtime % SECOND / 1000) };
	if (zone)
		zone[0] = zone[1] = 0;
	return 0;
}

long __vdso_time(s64 *to)
{
	struct clock_times now;

	if (!clock_read(&clock_page, &now))
		return call(SYS_time, (long)to, NULL, 0);
	if (to)
		*to = (s64)(now.realtime / SECOND);
	return (long)(now.realtime / SECOND);
}

long __vdso_getcpu(u32 *cpu, u32 *node, void *unused)
{
	(void)unused;
	return call(SYS_getcpu, (long)cpu, node, 0);
}

long clock_gettime(int clock, struct timespec *to) __attribute__((weak, alias("__vdso_clock_gettime")));
long clock_getres(int clock, struct timespec *to) __attribute__((weak, alias("__vdso_clock_getres")));
long gettimeofday(struct timespec *to, int *zone) __attribute__((weak, alias("__vdso_gettimeofday")));
long time(s64 *to) __attribute__((weak, alias("__vdso_time")));
long getcpu(u32 *cpu, u32 *node, void *unused) __attribute__((weak, alias("__vdso_getcpu")));
