// SPDX-License-Identifier: Apache-2.0
/*
 * Time: kvm-clock where the machine has it.  Otherwise the TSC, with the frequency that the machine reports or that is
 * measured by the PC's timer, and the calendar of the PC's clock.
 */
#include "kvm.h"

enum { FEATURES = 0x40000001, TIMING = 0x40000010, CLOCK2 = 1 << 3, WALL_CLOCK = 0x4b564d00, SYSTEM_TIME = 0x4b564d01 };
enum { TIMER_HZ = 1193182, TIMER_CONTROL = 0x43, TIMER_2 = 0x42, TIMER_GATE = 0x61, TIMER_DONE = 0x20 };
enum { CMOS_INDEX = 0x70, CMOS_DATA = 0x71, BUSY = 0x80, BINARY = 4, HOURS_24 = 2, MEASURE_MS = 10 };
#define SECOND 1000000000ull

struct wall_clock {
	u32 version, seconds, nanoseconds;
};

static bool has_page;
static u64 khz = 1000000, bus_khz = 1000000, offset; /* offset: of realtime, in ns */

static u64 scale(u64 value, u64 factor, u64 divisor)
{
	return value / divisor * factor + value % divisor * factor / divisor;
}

static u64 read_page(void)
{
	const volatile struct clock_page *page = &this_cpu()->clock;
	static u64 latest; /* CPUs can differ a little */
	u32 version;
	u64 result;

	do {
		u64 delta;

		version = page->version;
		asm volatile("lfence" : : : "memory");
		delta = ticks() - page->ticks;
		delta = page->shift < 0 ? delta >> -page->shift : delta << page->shift;
		result = page->nanoseconds + (u64)((unsigned __int128)delta * page->factor >> 32);
		asm volatile("" : : : "memory");
	} while (version & 1 || version != page->version);
	latest = result > latest ? result : latest;
	return latest;
}

u64 monotonic(void)
{
	return has_page ? read_page() : scale(ticks(), 1000000, khz);
}

u64 realtime(void)
{
	return offset + monotonic();
}

u64 ticks_in(u64 nanoseconds)
{
	return scale(nanoseconds, khz, 1000000);
}

u64 bus_ticks_in(u64 nanoseconds)
{
	return scale(nanoseconds, bus_khz, 1000000);
}

/* -- without kvm-clock -- */

static void measure(void)
{
	const u32 count = TIMER_HZ * MEASURE_MS / 1000;
	u64 start;

	out(TIMER_GATE, (in(TIMER_GATE) & 0xfd) | 1); /* no speaker */
	out(TIMER_CONTROL, 0xb0);		      /* counter 2, once */
	out(TIMER_2, (u8)count);
	out(TIMER_2, (u8)(count >> 8));
	start = ticks();
	while (!(in(TIMER_GATE) & TIMER_DONE))
		;
	khz = (ticks() - start) / MEASURE_MS;
	khz = khz ? khz : 1000000;
}

static u32 cmos(u8 index, bool binary)
{
	u8 value;

	out(CMOS_INDEX, index);
	value = in(CMOS_DATA);
	return binary ? value : (value >> 4) * 10u + (value & 15);
}

/* Seconds since 1970; 0: the machine has no such clock. */
static u64 calendar(void)
{
	u32 control, year, month, day, seconds;
	u64 days;

	for (u32 tries = 0; tries < 1000000; tries++) {
		control = cmos(10, true);
		if (!(control & BUSY) || control == 0xff)
			break;
	}
	control = cmos(11, true);
	if (control == 0xff || !(control & HOURS_24))
		return 0;
	seconds = cmos(0, control & BINARY) + 60 * cmos(2, control & BINARY) + 3600 * cmos(4, control & BINARY);
	day = cmos(7, control & BINARY);
	month = cmos(8, control & BINARY);
	year = 2000 + cmos(9, control & BINARY);
	/* Months from March on, so that the leap day is the last of a year. */
	year -= month < 3;
	month = month < 3 ? month + 9 : month - 3;
	days = 365ull * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
	return (days - 719468) * 86400 + seconds;
}

/* -- the start -- */

void clock_begin(void)
{
	if (has_page)
		write_msr(SYSTEM_TIME, ((u64)&this_cpu()->clock - KERNEL) | 1);
}

static bool find_page(void)
{
	const volatile struct clock_page *page = &this_cpu()->clock;
	const struct cpuid signature = cpuid(0x40000000);
	static volatile struct wall_clock wall __attribute__((aligned(64)));

	if (signature.b != 0x4b4d564b || signature.c != 0x564b4d56 || signature.d != 0x4d ||
	    !(cpuid(FEATURES).a & CLOCK2))
		return false;
	has_page = true;
	clock_begin();
	has_page = page->version && page->factor;
	if (!has_page)
		return false;
	write_msr(WALL_CLOCK, (u64)&wall - KERNEL);
	offset = wall.seconds * SECOND + wall.nanoseconds;
	khz = (1000000ull << 32) / page->factor;
	khz = page->shift < 0 ? khz << -page->shift : khz >> page->shift;
	return true;
}

void clock_init(void)
{
	const struct cpuid timing = cpuid(0x40000000).a >= TIMING ? cpuid(TIMING) : (struct cpuid){ 0 };

	if (!find_page() && !timing.a)
		measure();
	if (timing.a)
		khz = timing.a;
	if (timing.b)
		bus_khz = timing.b;
	if (!has_page) {
		u64 now = calendar();

		offset = now ? now * SECOND - monotonic() : 0;
	}
}
