/* SPDX-License-Identifier: Apache-2.0 */
/* Clocks and times. */
#ifndef SENTRY_CLOCK_H
#define SENTRY_CLOCK_H

#include "core.h"

#define SECOND 1000000000ull /* in nanoseconds */

struct itimerspec {
	struct timespec interval, value;
};

enum clock_id {
	CLOCK_REAL, CLOCK_MONOTONIC, CLOCK_PROCESS, CLOCK_THREAD, CLOCK_MONOTONIC_RAW, CLOCK_REAL_COARSE,
	CLOCK_MONOTONIC_COARSE, CLOCK_BOOT, CLOCK_REAL_ALARM, CLOCK_BOOT_ALARM, CLOCK_TAI = 11,
};

/* Check a clock's number: 0 or -EINVAL. *clock is its clock of CPU time, or zeros for another one; read: to read it. */
s64 clock_find(struct task *t, s32 id, bool read, struct cpu_clock *clock);

static inline struct timespec timespec_from(u64 nanoseconds)
{
	return (struct timespec){ (s64)(nanoseconds / SECOND), (s64)(nanoseconds % SECOND) };
}

static inline bool timespec_valid(const struct timespec *time)
{
	return time->seconds >= 0 && (u64)time->nanoseconds < SECOND;
}

/* At most FOREVER / 2. */
static inline u64 timespec_nanoseconds(const struct timespec *time)
{
	const u64 most = FOREVER / 2;

	return (u64)time->seconds > most / SECOND - 1 ? most : (u64)time->seconds * SECOND + (u64)time->nanoseconds;
}

#endif
