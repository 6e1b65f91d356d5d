// SPDX-License-Identifier: Apache-2.0
/*
 * CPUs: how they start, whose turn it is in the core, and how one gets another out of a program.
 *
 * A CPU holds the lock whenever it is in the core.  Interrupts are off there: one that another CPU sends arrives when it
 * runs a program, which stops for it, or waits.
 */
#include "kvm.h"

enum { TRAMPOLINE = 0x8000, PRESENT = 3, LARGE = 0x80, HEADER = 44, LOCAL_APIC = 0, LOCAL_X2APIC = 9, USABLE = 1 };
enum { INIT = 0x4500, START = 0x4600, FEW_PAGES = 32 };
#define MILLISECOND 1000000ull

extern u8 trampoline[], trampoline_end[]; /* entry.S */
extern u64 ap_tables[3 * 512], kernel_tables[512], starting_stack;
_Noreturn void cpu_main(void);

struct cpu cpus[CPUS_MOST];
u32 cpu_count = 1;
static struct cpu *starting;

/* -- the lock: in the order in which CPUs ask for it -- */

static u32 next_ticket, served_ticket;

void core_lock_among_several(void)
{
	u32 ticket = __atomic_fetch_add(&next_ticket, 1, __ATOMIC_RELAXED);

	while (__atomic_load_n(&served_ticket, __ATOMIC_ACQUIRE) != ticket)
		asm volatile("pause");
}

void core_unlock_among_several(void)
{
	__atomic_store_n(&served_ticket, served_ticket + 1, __ATOMIC_RELEASE);
}

/* -- interrupts -- */

void cpu_interrupt(u32 number, bool stop)
{
	struct cpu *cpu = &cpus[number];

	apic_send(cpu->apic_id, VECTOR_WAKE);
	while (stop && cpu->in_program)
		asm volatile("pause");
}

/* -- TLBs -- */

void use_tables(u64 tables)
{
	asm volatile("mov %0, %%cr3" : : "r"(tables) : "memory");
	this_cpu()->tables = tables;
	this_cpu()->stale = false;
}

/* Others than this CPU. */
static void flush_others(u64 tables, bool spare)
{
	for (struct cpu *cpu = cpus; cpu < cpus + cpu_count; cpu++) {
		if (cpu == this_cpu() || cpu->tables != tables)
			continue;
		cpu->stale = true;
		if (cpu->in_program && !spare)
			apic_send(cpu->apic_id, VECTOR_WAKE);
	}
	for (struct cpu *cpu = cpus; cpu < cpus + cpu_count && !spare; cpu++)
		while (cpu != this_cpu() && cpu->tables == tables && cpu->in_program)
			asm volatile("pause");
}

void tlb_flush(u64 tables, u64 address, u64 size, bool spare)
{
	if (cpu_count > 1)
		flush_others(tables, spare);
	if (tables != this_cpu()->tables)
		return;
	if (size > FEW_PAGES * PAGE_SIZE)
		use_tables(tables);
	else
		for (u64 at = 0; at < size; at += PAGE_SIZE)
			asm volatile("invlpg (%0)" : : "r"(address + at) : "memory");
}

/* -- the start -- */

static void pause_for(u64 nanoseconds)
{
	for (u64 start = monotonic(); monotonic() - start < nanoseconds;)
		asm volatile("pause");
}

/* Where a CPU goes when it has started. */
_Noreturn void cpu_main(void)
{
	struct cpu *cpu = starting;
	u64 unused;

	cpu_begin(cpu);
	apic_begin();
	cpu->is_on = true;
	while (!cpu->start_rsp)
		asm volatile("sti; hlt; cli" : : : "memory");
	core_lock();
	context_switch(&unused, cpu->start_rsp);
	__builtin_unreachable();
}

/* false: it does not start. */
static bool start(struct cpu *cpu)
{
	bool is_on;

	starting = cpu;
	cpu->is_on = false;
	starting_stack = (u64)cpu->fatal_stack + PAGE_SIZE;
	apic_send(cpu->apic_id, INIT);
	pause_for(10 * MILLISECOND);
	for (u32 tries = 0; tries < 2 && !cpu->is_on; tries++) {
		apic_send(cpu->apic_id, START | TRAMPOLINE / PAGE_SIZE);
		for (u32 waits = 0; waits < (tries ? 1000 : 10) && !cpu->is_on; waits++)
			pause_for(MILLISECOND / 10);
	}
	is_on = cpu->is_on;
	if (!is_on)
		apic_send(cpu->apic_id, INIT); /* a late start would find no trampoline */
	return is_on;
}

static void start_if_usable(u32 id, u32 flags)
{
	struct cpu *cpu = &cpus[cpu_count];

	if (!(flags & USABLE) || id == cpus->apic_id || cpu_count == CPUS_MOST)
		return;
	cpu->number = cpu_count;
	cpu->apic_id = id;
	if (start(cpu))
		cpu_count++;
}

static void start_all(const u8 *madt)
{
	for (const u8 *at = madt + HEADER, *end = madt + acpi_word(madt + 4); at + 8 <= end && at[1] >= 2; at += at[1]) {
		if (at[0] == LOCAL_APIC)
			start_if_usable(at[3], acpi_word(at + 4));
		else if (at[0] == LOCAL_X2APIC && at + 12 <= end)
			start_if_usable(acpi_word(at + 4), acpi_word(at + 8));
	}
}

void cpus_start(u64 rsdp)
{
	const u8 *madt = acpi_table(rsdp, "APIC");
	u8 *page = (u8 *)(DIRECT + TRAMPOLINE);
	const u64 size = (u64)(trampoline_end - trampoline);
	static u8 before[512];

	cpus->apic_id = apic_id();
	if (!madt || size > sizeof(before))
		return;
	ap_tables[0] = ((u64)&ap_tables[512] - KERNEL) | PRESENT;
	ap_tables[256] = kernel_tables[256];
	ap_tables[511] = kernel_tables[511];
	ap_tables[512] = ((u64)&ap_tables[1024] - KERNEL) | PRESENT;
	ap_tables[1024] = PRESENT | LARGE;
	memcpy(before, page, size);
	memcpy(page, trampoline, size);
	start_all(madt);
	memcpy(page, before, size);
	core_lock();
}

void cpu_enter(u32 number, u64 rsp)
{
	cpus[number].start_rsp = rsp;
	apic_send(cpus[number].apic_id, VECTOR_WAKE);
}
