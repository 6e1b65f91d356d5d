/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The page by which programs read clocks without a system call. A platform keeps it up to date, and reads its own clocks
 * by it: so system calls and programs have the same time.
 */
#ifndef SENTRY_CLOCK_PAGE_H
#define SENTRY_CLOCK_PAGE_H

#include "types.h"

enum { CLOCK_IS_STABLE = 1, CLOCK_WAS_STOPPED = 2 }; /* flags: the same on all CPUs; the machine was paused */

struct clock_page {
	/* The monotonic clock, as KVM writes it: at `ticks` of the TSC it shows `nanoseconds`. */
	u32 version, pad;
	u64 ticks, nanoseconds;
	u32 factor; /* nanoseconds of a tick, after the shift, times 2^32 */
	signed char shift;
	u8 flags, pad2[2];
	/* Of the core. */
	u32 sequence; /* odd while what follows changes */
	u32 is_used;  /* otherwise programs make system calls */
	u64 realtime; /* minus the monotonic clock */
	u64 most;     /* ticks for which all this is right */
};

_Static_assert(__builtin_offsetof(struct clock_page, sequence) == 32, "KVM writes 32 bytes");

struct clock_times {
	u64 monotonic, realtime;
};

static inline u64 clock_ticks(void)
{
	u32 low, high;

	asm volatile("lfence; rdtsc" : "=a"(low), "=d"(high) : : "memory");
	return (u64)high << 32 | low;
}

static inline u64 clock_scale(const volatile struct clock_page *page, u64 ticks)
{
	const signed char shift = page->shift;

	ticks = shift < 0 ? ticks >> -shift : ticks << shift;
	return (u64)((unsigned __int128)ticks * page->factor >> 32);
}

/* false: the page does not show the time now. */
static inline bool clock_read(const volatile struct clock_page *page, struct clock_times *times)
{
	u32 version, sequence;
	bool is_good;

	do {
		u64 ticks;

		version = page->version;
		sequence = page->sequence;
		asm volatile("" : : : "memory");
		ticks = clock_ticks() - page->ticks;
		is_good = page->is_used && ticks <= page->most && (page->flags & 3) == CLOCK_IS_STABLE;
		times->monotonic = page->nanoseconds + clock_scale(page, ticks);
		times->realtime = times->monotonic + page->realtime;
		asm volatile("" : : : "memory");
	} while (version & 1 || sequence & 1 || version != page->version || sequence != page->sequence);
	return is_good;
}

#endif
