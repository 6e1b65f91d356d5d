// SPDX-License-Identifier: Apache-2.0
/*
 * Interrupts: those of devices, by the IO-APIC, and the timer of the local APIC.
 *
 * The core runs with interrupts off.  They come while a program runs, which stops for them, and while a CPU waits.  One that
 * comes at another time stays pending, so that the next program stops at once and the core looks at the devices.
 */
#include "kvm.h"

enum { X2APIC = 1 << 21, TSC_DEADLINE = 1 << 24, APIC_BASE = 0x1b, X2APIC_ON = 1 << 10, APIC_ON = 1 << 11 };
enum { ID = 0x20, PRIORITY = 0x80, EOI = 0xb0, SPURIOUS = 0xf0, TIMER = 0x320, LINE_0 = 0x350, LINE_1 = 0x360 };
enum { COMMAND = 0x300, COMMAND_TO = 0x310, SENDING = 1 << 12, INITIAL = 0x380, DIVIDE = 0x3e0 };
enum { BY_1 = 0x0b, MASKED = 0x10000, DEADLINE = 0x40000, ENABLED = 0x100 };
enum { DEADLINE_MSR = 0x6e0, X2APIC_MSR = 0x800, EOI_MSR = 0x4b564d04, PIC_MASK_1 = 0x21, PIC_MASK_2 = 0xa1 };
enum { KVM_PV_EOI = 1 << 6, EOI_ON = 1, NO_EOI_NEEDED = 0 /* a bit */ };
#define APIC (DIRECT + 0xfee00000)
#define IOAPIC (DIRECT + 0xfec00000)
#define MINUTE 60000000000ull
#define SLICE 10000000ull

static bool wide, deadlines; /* x2APIC; the timer compares with the TSC */
static bool reported;	     /* input that no task has read yet: it ends no further wait without a task */

static void apic_write(u32 reg, u32 value)
{
	if (wide)
		write_msr(X2APIC_MSR + reg / 16, value);
	else
		*(volatile u32 *)(APIC + reg) = value;
}

u32 apic_id(void)
{
	return wide ? (u32)read_msr(X2APIC_MSR + ID / 16) : *(volatile u32 *)(APIC + ID) >> 24;
}

void apic_send(u32 to, u32 what)
{
	if (wide) {
		write_msr(X2APIC_MSR + COMMAND / 16, (u64)to << 32 | what);
		return;
	}
	apic_write(COMMAND_TO, to << 24);
	apic_write(COMMAND, what);
	while (*(volatile u32 *)(APIC + COMMAND) & SENDING)
		asm volatile("pause");
}

static void ioapic_write(u32 reg, u32 value)
{
	*(volatile u32 *)IOAPIC = reg;
	*(volatile u32 *)(IOAPIC + 0x10) = value;
}

/* Edge-triggered, active high: as those of all devices here. */
void pin_enable(u32 pin)
{
	if (pin >= PINS)
		return;
	ioapic_write(0x11 + 2 * pin, apic_id() << 24);
	ioapic_write(0x10 + 2 * pin, VECTOR_PINS + pin);
}

/* KVM notes in memory that it needs no EOI for what it has delivered, which saves an exit for each interrupt. */
static void avoid_eoi(struct cpu *cpu)
{
	cpu->eoi = 0;
	if (kvm_features() & KVM_PV_EOI)
		write_msr(EOI_MSR, ((u64)&cpu->eoi - KERNEL) | EOI_ON);
}

/*
 * KVM reads and writes the note while this CPU is out of the guest: if the note is still there, it takes it back, and expects
 * an EOI.  So one instruction must read and clear it.
 */
static void end_interrupt(struct cpu *cpu)
{
	bool noted;

	asm volatile("btrl %2, %0" : "+m"(cpu->eoi), "=@ccc"(noted) : "i"(NO_EOI_NEEDED) : "memory");
	if (!noted)
		apic_write(EOI, 0);
}

void apic_begin(void)
{
	this_cpu()->armed = NEVER;
	write_msr(APIC_BASE, read_msr(APIC_BASE) | APIC_ON | (wide ? X2APIC_ON : 0));
	apic_write(SPURIOUS, ENABLED | VECTOR_SPURIOUS);
	apic_write(PRIORITY, 0);
	apic_write(LINE_0, MASKED);
	apic_write(LINE_1, MASKED);
	apic_write(DIVIDE, BY_1);
	apic_write(TIMER, VECTOR_TIMER | (deadlines ? DEADLINE : 0));
	asm volatile("mfence" : : : "memory"); /* before the first deadline */
	avoid_eoi(this_cpu());
}

void interrupts_init(void)
{
	const u32 features = cpuid(1).c;

	out(PIC_MASK_1, 0xff);
	out(PIC_MASK_2, 0xff);
	wide = features & X2APIC;
	deadlines = features & TSC_DEADLINE;
	apic_begin();
	for (u32 pin = 0; pin < PINS; pin++)
		ioapic_write(0x10 + 2 * pin, MASKED);
}

void interrupt_arrived(u32 vector)
{
	if (vector == VECTOR_TIMER)
		this_cpu()->armed = NEVER;
	else if (vector == VECTOR_PINS + SERIAL_PIN)
		serial_arrived();
	if (vector != VECTOR_SPURIOUS)
		end_interrupt(this_cpu());
}

/*
 * At a time of the monotonic clock, or before.  It is not set to a later time, nor off: both take an exit, and most waits
 * are shorter than a slice.  Whoever it wakes too early looks, and sets it again.
 */
static void set_timer(u64 deadline)
{
	u64 now, rest;

	if (deadline >= this_cpu()->armed)
		return;
	this_cpu()->armed = deadline;
	now = monotonic();
	rest = deadline > now ? deadline - now : 0;
	if (rest > MINUTE)
		rest = MINUTE;
	if (deadlines) {
		write_msr(DEADLINE_MSR, ticks() + ticks_in(rest) + 1);
		return;
	}
	rest = bus_ticks_in(rest) + 1;
	apic_write(INITIAL, rest < 0xffffffff ? (u32)rest : 0xffffffff);
}

void start_slice(void)
{
	if (this_cpu()->armed == NEVER)
		set_timer(monotonic() + SLICE);
}

/* STI takes effect after the instruction behind it: an interrupt that is pending already ends the HLT. */
bool wait_until(u64 deadline)
{
	const bool leaves = sched_waits();
	bool input = serial_ready();

	reported = reported && input;
	if (deadline && deadline > monotonic() && (!input || reported)) {
		set_timer(deadline);
		if (leaves)
			core_unlock();
		asm volatile("sti; hlt; cli" : : : "memory");
		if (leaves)
			core_lock();
		if (this_cpu()->armed == deadline)
			this_cpu()->armed = NEVER; /* it may be too late for a slice */
		input = serial_ready();
	}
	reported = reported || (leaves && input);
	return input;
}
