// SPDX-License-Identifier: Apache-2.0
/*
 * Time: kvm-clock where the machine has it.  Otherwise the TSC, with the frequency that the machine reports or that is
 * measured by the PC's timer, and the calendar of the PC's clock.
 */
#include "clock_page.h"
#include "kvm.h"

enum { FEATURES = 0x40000001, TIMING = 0x40000010, CLOCK2 = 1 << 3, WALL_CLOCK = 0x4b564d00, SYSTEM_TIME = 0x4b564d01 };
enum { TIMER_HZ = 1193182, TIMER_CONTROL = 0x43, TIMER_2 = 0x42, TIMER_GATE = 0x61, TIMER_DONE = 0x20 };
enum { CMOS_INDEX = 0x70, CMOS_DATA = 0x71, BUSY = 0x80, BINARY = 4, HOURS_24 = 2, MEASURE_MS = 10 };
#define SECOND 1000000000ull

struct wall_clock {
	u32 version, seconds, nanoseconds;
};

static volatile struct clock_page early __attribute__((aligned(64))), *page = &early;
static bool is_kvm;
static u64 khz = 1000000, bus_khz = 1000000;

static u64 scale(u64 value, u64 factor, u64 divisor)
{
	return value / divisor * factor + value % divisor * factor / divisor;
}

static void read_wall_clock(void)
{
	static volatile struct wall_clock wall __attribute__((aligned(64)));

	write_msr(WALL_CLOCK, (u64)&wall - KERNEL);
	page->sequence++;
	page->realtime = wall.seconds * SECOND + wall.nanoseconds;
	page->sequence++;
}

/*
 * All CPUs read the page of the first one: where their TSCs differ, KVM does not report a stable clock, and programs make
 * system calls.  Real time goes on while the machine is paused or saved, but the monotonic clock does not.
 */
static inline __attribute__((always_inline)) struct clock_times times(void)
{
	struct clock_times now;

	if (page->flags & CLOCK_WAS_STOPPED) {
		page->flags &= (u8)~CLOCK_WAS_STOPPED;
		read_wall_clock();
	}
	clock_read(page, &now);
	return now;
}

u64 monotonic(void)
{
	static u64 latest; /* the TSCs of CPUs can differ a little */
	const u64 now = times().monotonic;

	latest = now > latest ? now : latest;
	return latest;
}

u64 realtime(void)
{
	return times().realtime;
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

/* Where KVM writes the page from now on. */
static void set_place(u64 address)
{
	write_msr(SYSTEM_TIME, address | 1);
}

u32 kvm_features(void)
{
	const struct cpuid signature = cpuid(0x40000000);

	return signature.b == 0x4b4d564b && signature.c == 0x564b4d56 && signature.d == 0x4d ? cpuid(FEATURES).a : 0;
}

static bool find_page(void)
{
	if (!(kvm_features() & CLOCK2))
		return false;
	set_place((u64)&early - KERNEL);
	if (!early.version || !early.factor)
		return false;
	read_wall_clock();
	khz = (1000000ull << 32) / early.factor;
	khz = early.shift < 0 ? khz << -early.shift : khz >> early.shift;
	return true;
}

/* Without kvm-clock, the page is never changed. */
static void write_page(void)
{
	u64 now;

	early.factor = (u32)((1000000ull << 30) / khz); /* a quarter: a tick may be a nanosecond and more */
	early.shift = 2;
	early.flags = CLOCK_IS_STABLE;
	now = calendar();
	early.realtime = now ? now * SECOND - monotonic() : 0;
}

void clock_init(void)
{
	const struct cpuid timing = cpuid(0x40000000).a >= TIMING ? cpuid(TIMING) : (struct cpuid){ 0 };

	is_kvm = find_page();
	if (!is_kvm && !timing.a)
		measure();
	if (timing.a)
		khz = timing.a;
	if (timing.b)
		bus_khz = timing.b;
	if (!is_kvm)
		write_page();
	early.most = ~0ull >> 1; /* the TSC of another CPU may be behind */
	early.is_used = true;
}

void clock_show(struct clock_page *shown, u64 address)
{
	if (is_kvm)
		set_place(address);
	else
		*shown = *(struct clock_page *)&early;
	shown->realtime = early.realtime;
	shown->most = early.most;
	shown->is_used = true;
	page = shown;
}
