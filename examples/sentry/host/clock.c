// SPDX-License-Identifier: Apache-2.0
/*
 * Clocks by the TSC, where the host's kernel uses it, too: programs can read them without a system call.
 *
 * The page that they read holds for a tenth of a second.  Then the core measures the host's clocks again, and makes
 * those of the page faster or slower, so that they approach them.  None ever goes back.
 */
#include <fcntl.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "clock_page.h"
#include "host.h"

#define MILLISECOND 1000000ull
#define MEASURED (20 * MILLISECOND)
#define WINDOW (4 * SECOND)
#define STEP 10000 /* a smaller difference between two measurements is noise, no step of the host's clock */

enum { TRIES = 4, MOST_TRIES = 100, QUICK = 20000 };

struct sample {
	u64 ticks, monotonic, realtime;
};

static struct clock_page *page;
static struct sample first, middle; /* the rate is measured from the first on, and later from the middle on */
static u64 stopped_at, paused; /* by the monotonic clock; how long it was stopped altogether */
static u64 known;		    /* nanoseconds of a tick, times 2^32; 0: not measured yet */

static u64 host_clock(clockid_t clock)
{
	struct timespec now = { 0, 0 };

	clock_gettime(clock, &now);
	return (u64)now.tv_sec * SECOND + (u64)now.tv_nsec - (clock == CLOCK_MONOTONIC ? paused : 0);
}

/* Whether the host's kernel trusts the TSC. */
static bool is_tsc_used(void)
{
	char name[8] = "";
	int fd = open("/sys/devices/system/clocksource/clocksource0/current_clocksource", O_RDONLY | O_CLOEXEC);
	const bool is_used = fd >= 0 && read(fd, name, sizeof(name)) > 0 && !strncmp(name, "tsc\n", 4);

	if (fd >= 0)
		close(fd);
	return is_used;
}

/* The host's clocks at one time: the quickest of several tries, since this process can be stopped in between. */
static struct sample measure(void)
{
	struct sample best = { 0 };
	u64 least = ~0ull;

	for (int i = 0; i < TRIES || (least > QUICK && i < MOST_TRIES); i++) {
		const u64 start = clock_ticks(), monotonic = host_clock(CLOCK_MONOTONIC), ticks = clock_ticks();
		const u64 realtime = host_clock(CLOCK_REALTIME), took = clock_ticks() - start;

		if (took >= least)
			continue;
		least = took;
		best = (struct sample){ start + (ticks - start) / 2, monotonic, realtime };
	}
	return best;
}

/* -- the page -- */

static u64 ticks_in(u64 nanoseconds)
{
	return (u64)(((unsigned __int128)nanoseconds << 32) / known);
}

/* As measured since the first sample. */
static u64 rate_until(const struct sample *now)
{
	const u64 ticks = now->ticks - first.ticks;

	return ticks ? (u64)(((unsigned __int128)(now->monotonic - first.monotonic) << 32) / ticks) : 0;
}

/* Another rate than before: the TSC has jumped, which the next measurement does not see; or the rate is another one. */
static void measure_rate(const struct sample *now)
{
	static bool is_doubtful;
	const u64 rate = rate_until(now), most = known >> 10;

	if (known && (rate < known - most || rate > known + most) && !is_doubtful) {
		is_doubtful = true;
		first = middle = *now;
		return;
	}
	is_doubtful = false;
	known = rate ? rate : known;
	if (now->monotonic - middle.monotonic > WINDOW) {
		first = middle;
		middle = *now;
	}
}

/* The rate by which the page shows in a second what the host does then. */
static u64 corrected(u64 host, u64 shown)
{
	const s64 behind = (s64)(host - shown);

	if (behind < -(s64)MILLISECOND)
		return known / 2;
	return known + (u64)((s64)(known >> 10) * behind / (s64)(SECOND >> 10));
}

static void write_page(u64 ticks, u64 monotonic, u64 factor, u64 realtime)
{
	signed char shift = 0;

	for (; factor >> 32; factor >>= 1)
		shift++;
	page->ticks = ticks;
	page->nanoseconds = monotonic;
	page->factor = (u32)factor;
	page->shift = shift;
	page->flags = CLOCK_IS_STABLE;
	page->most = ticks_in(SECOND / 10);
	/* The host steps its real time, or slews both clocks. */
	if (realtime - page->realtime > STEP || page->realtime - realtime > STEP)
		page->realtime = realtime;
	page->is_used = true;
}

static void set_version(u32 version)
{
	__atomic_store_n(&page->version, version, __ATOMIC_SEQ_CST);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

/* No program may have read a later time than that at which the new line begins. */
static void update(void)
{
	const struct sample now = measure();
	u64 ticks, passed, shown, host;

	measure_rate(&now);
	set_version(page->version + 1);
	ticks = clock_ticks();
	host = now.monotonic + (u64)((unsigned __int128)(ticks - now.ticks) * known >> 32);
	passed = ticks - page->ticks;
	shown = page->is_used ? page->nanoseconds + clock_scale(page, passed < page->most ? passed : page->most) : host;
	if (shown < host && (passed > page->most || host - shown > MILLISECOND))
		shown = host;
	write_page(ticks, shown, corrected(host, shown), now.realtime - now.monotonic);
	set_version(page->version + 1);
}

static void begin(struct clock_page *where, u64 offset)
{
	(void)offset;
	page = where;
	first = middle = measure();
}

/* -- reading -- */

/* false: the rate is not known yet. */
static bool read_page(struct clock_times *times)
{
	if (!known && host_clock(CLOCK_MONOTONIC) - first.monotonic < MEASURED)
		return false;
	do
		if (clock_ticks() - page->ticks > page->most / 8)
			update();
	while (!clock_read(page, times));
	return true;
}

u64 clock_nanoseconds(enum clock clock)
{
	struct clock_times times;

	if (!page || !read_page(&times))
		return host_clock(clock == CLOCK_IS_MONOTONIC ? CLOCK_MONOTONIC : CLOCK_REALTIME);
	return clock == CLOCK_IS_MONOTONIC ? times.monotonic : times.realtime;
}

void clock_stop(void)
{
	stopped_at = clock_nanoseconds(CLOCK_IS_MONOTONIC);
}

void clock_continue(void)
{
	paused += host_clock(CLOCK_MONOTONIC) - stopped_at;
	if (!page)
		return;
	first = middle = measure();
	set_version(page->version + 1);
	page->ticks = clock_ticks();
	page->nanoseconds = stopped_at;
	set_version(page->version + 1);
	if (page->is_used)
		update();
}

void clock_start(struct platform_ops *ops)
{
	ops->nanoseconds = clock_nanoseconds;
	ops->clock_page = is_tsc_used() ? begin : NULL;
}
