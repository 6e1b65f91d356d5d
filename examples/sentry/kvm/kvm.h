/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the kvm platform have in common: the CPU's instructions, and the parts of the machine. */
#ifndef SENTRY_KVM_H
#define SENTRY_KVM_H

#include "platform.h"

enum { PAGE_SIZE = 4096, KERNEL_CODE = 0x08, SYSRET_BASE = 0x23, TSS = 0x40, LOST = 256, SYSCALL, ANSWERED, PAGE_FAULT = 14, DEBUG_EXCEPTION = 1, VECTORS = 256 };
/* Interrupts: pins of the IO-APIC from one vector on, and those of the local APIC. */
enum { VECTOR_PINS = 0x30, PINS = 24, VECTOR_TIMER = 0xf0, VECTOR_WAKE, VECTOR_SPURIOUS = 0xff, SERIAL_PIN = 4 };
#define DIRECT 0xffff800000000000ull /* all physical memory; also offsets in RAM are from here */
#define KERNEL 0xffffffff80000000ull
#define GIB4 (1ull << 32)
#define TASK_SIZE 0x7ffffffff000ull
#define NEVER (~0ull)

struct start_info {
	u32 magic, version, flags, module_count;
	u64 modules, cmdline, rsdp, map;
	u32 map_count, reserved;
};

struct cpuid {
	u32 a, b, c, d;
};

/* What the core has interrupted, or a fault of its own (entry.S). */
struct trap {
	u64 r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi;
	u64 vector, error, rip, cs, flags, rsp, ss;
};

static inline void out(u16 port, u8 value)
{
	asm volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static inline u8 in(u16 port)
{
	u8 value;

	asm volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static inline void write_msr(u32 number, u64 value)
{
	asm volatile("wrmsr" : : "c"(number), "a"((u32)value), "d"((u32)(value >> 32)) : "memory");
}

static inline u64 read_msr(u32 number)
{
	u32 low, high;

	asm volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(number));
	return (u64)high << 32 | low;
}

static inline struct cpuid cpuid(u32 leaf)
{
	struct cpuid r;

	asm volatile("cpuid" : "=a"(r.a), "=b"(r.b), "=c"(r.c), "=d"(r.d) : "a"(leaf), "c"(0));
	return r;
}

static inline u64 ticks(void)
{
	u32 low, high;

	asm volatile("rdtsc" : "=a"(low), "=d"(high) : : "memory");
	return (u64)high << 32 | low;
}

struct __attribute__((packed)) tss {
	u32 zero;
	u64 rsp[3], zero2, ist[7], zero3;
	u16 zero4, io_map;
};

enum { CPUS_MOST = 32, GDT_ENTRIES = 10 };

/* A CPU, to which GS leads while it is in the core. entry.S has the places of the first fields. */
struct cpu {
	u64 core_rsp, program_rsp, program_regs;
	u32 stopped_for, exception_error;
	struct cpu *self;
	u32 number, apic_id;
	volatile bool is_on;
	volatile bool in_program;
	bool has_breakpoints;
	bool stale;	   /* its TLB may have old entries of the program's tables */
	u64 tables;	   /* that it uses, by their physical address */
	void *fpu;	   /* whose state it has */
	u64 fs, gs;	   /* the program's */
	u64 armed;	   /* for when its timer is set */
	volatile u32 eoi;  /* what KVM notes of the interrupt that it has delivered */
	volatile u64 start_rsp; /* where it goes on in the core; 0: not yet */
	struct tss tss;
	u64 gdt[GDT_ENTRIES];
	u8 exception_stack[PAGE_SIZE] __attribute__((aligned(16)));
	u8 fatal_stack[PAGE_SIZE];
} __attribute__((aligned(64)));

static inline struct cpu *this_cpu(void)
{
	struct cpu *cpu;

	asm volatile("mov %%gs:32, %0" : "=r"(cpu));
	return cpu;
}

/* What follows a prefix of a text; NULL: the text begins with something else. */
static inline const char *skip_prefix(const char *text, const char *prefix)
{
	while (*prefix && *text == *prefix)
		text++, prefix++;
	return *prefix ? NULL : text;
}

/* main.c: the compiler and lwIP call these. */
void *memcpy(void *to, const void *from, unsigned long size);
void *memset(void *at, int byte, unsigned long size);
void *memmove(void *to, const void *from, unsigned long size);
int memcmp(const void *a, const void *b, unsigned long size);
unsigned long strlen(const char *text);
int strncmp(const char *a, const char *b, unsigned long size);

/* serial.c */
void serial_init(void);
void serial_arrived(void); /* its interrupt */
bool serial_ready(void); /* a byte has come */
void put_text(const char *text);
void put_hex(const char *name, u64 value);
void put_decimal(u64 value);
s64 serial_read(void *data, u64 size);
s64 serial_write(int stream, const void *data, u64 size);

/* end.c */
extern u64 __stack_chk_guard; /* which the compiler compares on the way out of functions */
_Noreturn void __stack_chk_fail(void);
_Noreturn void power_off(void);
_Noreturn void refuse(const char *why); /* to run this program, or on this machine */
_Noreturn void panic(const char *why); /* the core is broken, or the machine */
_Noreturn void panic_at(const struct trap *trap);
bool asked_for(const char *line, const char *word); /* a word on the command line, before the program's */
void crash_if_ordered(const char *line);

/* main.c */
void cpu_begin(struct cpu *cpu); /* which executes this: its tables and registers */

/* cpu.c */
extern struct cpu cpus[CPUS_MOST];
extern u32 cpu_count;
void core_lock_among_several(void);
void core_unlock_among_several(void);

static inline void core_lock(void)
{
	if (cpu_count > 1)
		core_lock_among_several();
}

static inline void core_unlock(void)
{
	if (cpu_count > 1)
		core_unlock_among_several();
}

void cpus_start(u64 rsdp); /* those of the machine, which then wait for cpu_enter() */
void cpu_enter(u32 number, u64 rsp);
void cpu_interrupt(u32 number, bool stop);
void use_tables(u64 tables);
/* The TLBs no longer have entries for a range; spare: other CPUs may use old ones until they enter a program. */
void tlb_flush(u64 tables, u64 address, u64 size, bool spare);

/* interrupt.c */
void interrupts_init(void);
void apic_begin(void);		/* that of this CPU */
u32 apic_id(void);
void apic_send(u32 to, u32 what); /* to another one */
void pin_enable(u32 pin);
void interrupt_arrived(u32 vector);
void start_slice(void); /* after which the program stops, if it has not begun */
bool wait_until(u64 deadline);

/* clock.c */
u32 kvm_features(void); /* EAX of CPUID 0x40000001; 0: the hypervisor is another one */
void clock_init(void);
void clock_show(struct clock_page *shown, u64 address); /* programs read it from now on */
u64 monotonic(void);
u64 realtime(void);
u64 ticks_in(u64 nanoseconds); /* of the TSC; for at most a minute */
u64 bus_ticks_in(u64 nanoseconds);

/* devices.c */
/* Physical addresses of virtio-mmio registers; their interrupts are on from now on. */
const u64 *find_devices(const char *line, u64 rsdp, u32 *devices);
const volatile u64 *find_generation(u64 rsdp); /* two words, others in each copy of the machine; NULL: there are none */
const u8 *acpi_table(u64 rsdp, const char *name); /* NULL: there is none */
u32 acpi_word(const u8 *at);

/* breakpoints.c */
void breakpoints_load(const struct breakpoints *wanted); /* as set_breakpoints of platform_ops */
void breakpoints_report(const struct regs *regs, struct event *event); /* why the program got a debug exception */
bool breakpoints_late(void); /* whether a program's breakpoint is why the core got one; any stack and GS will do */

/* map.c */
void protect_kernel(void);

#endif
