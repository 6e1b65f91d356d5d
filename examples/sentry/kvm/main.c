// SPDX-License-Identifier: Apache-2.0
/*
 * The kvm platform: the core as a kernel with a PVH entry, in ring 0 of a machine; programs in ring 3.
 *
 * start.c finds out what to run.  The console is a virtio console, or the serial port.
 */
#include "ram.h"
#include "start.h"
#include "virtio/virtio.h"

#define RDRAND (1u << 30)
enum { STAR = 0xc0000081, LSTAR, CSTAR, FMASK, FS_BASE = 0xc0000100, GS_BASE, OTHER_GS_BASE };

struct map_entry {
	u64 address, size;
	u32 type, reserved;
};

struct gate {
	u16 low, selector;
	u8 stack, type;
	u16 middle;
	u32 high, zero;
};

struct __attribute__((packed)) table {
	u16 limit;
	u64 base;
};

/* entry.S */
extern u8 vector_stubs[], kernel_end[];
extern u64 gdt[GDT_ENTRIES], kernel_tables[512], start_info;
void syscall_entry(void);
void enter_program(struct regs *regs);
bool kernel_call(void);
_Noreturn void kernel_main(void);
void kernel_trap(const struct trap *trap);

static struct start start;
static struct gate gates[VECTORS];
static bool has_xsave;
static u64 fpu_features, other_cr4; /* cr4: of CPUs that start later */

void *memcpy(void *to, const void *from, unsigned long size)
{
	bytes_copy(to, from, size);
	return to;
}

void *memset(void *at, int byte, unsigned long size)
{
	bytes_fill(at, (u8)byte, size);
	return at;
}

void *memmove(void *to, const void *from, unsigned long size)
{
	if ((u64)to - (u64)from >= size)
		return memcpy(to, from, size);
	for (u64 i = size; i; i--)
		((volatile u8 *)to)[i - 1] = ((const volatile u8 *)from)[i - 1];
	return to;
}

int memcmp(const void *a, const void *b, unsigned long size)
{
	for (u64 i = 0; i < size; i++)
		if (((const volatile u8 *)a)[i] != ((const volatile u8 *)b)[i])
			return ((const u8 *)a)[i] < ((const u8 *)b)[i] ? -1 : 1;
	return 0;
}

unsigned long strlen(const char *text)
{
	const volatile char *at = text;
	unsigned long size = 0;

	while (at[size])
		size++;
	return size;
}

int strncmp(const char *a, const char *b, unsigned long size)
{
	const volatile u8 *first = (const volatile u8 *)a, *second = (const volatile u8 *)b;

	for (u64 i = 0; i < size; i++)
		if (first[i] != second[i] || !first[i])
			return (int)first[i] - (int)second[i];
	return 0;
}

/* -- what the core needs -- */

/* The console is virtio's, or else the serial port. */
static bool terminal_size(int stream, u16 *rows, u16 *columns)
{
	(void)stream;
	return console_is_there() && console_size(rows, columns);
}

s64 raw_read(void *data, u64 size)
{
	return console_is_there() ? console_read(data, size) : serial_read(data, size);
}

s64 raw_write(int stream, const void *data, u64 size)
{
	return console_is_there() ? console_write(data, size) : serial_write(stream, data, size);
}

static s64 read_console(void *data, u64 size)
{
	return start.frames ? frames_read(data, size) : raw_read(data, size);
}

static s64 write_console(int stream, const void *data, u64 size)
{
	return start.frames ? frames_write(stream, data, size) : raw_write(stream, data, size);
}

static void use_kernel_tables(void)
{
	if (this_cpu()->tables != (u64)kernel_tables - KERNEL)
		use_tables((u64)kernel_tables - KERNEL);
}

static bool wait_for_event(u64 deadline)
{
	bool input;

	if (sched_waits() && cpu_count > 1)
		use_kernel_tables();
	input = wait_until(deadline);
	return frames_ended() || (console_is_there() ? console_ready() : input);
}

static void log_line(const char *line, u64 size)
{
	if (start.frames)
		frames_write(2, line, size);
	else
		serial_write(2, line, size);
}

static void point(enum point which, u32 value)
{
	if (start.frames)
		frames_point(which, value);
}

void kernel_trap(const struct trap *trap)
{
	if (trap->vector == DEBUG_EXCEPTION && breakpoints_late())
		return;
	if (trap->vector < VECTOR_PINS)
		panic_at(trap);
	interrupt_arrived((u32)trap->vector);
}

/* An address space is its page tables, by their offset in RAM. */
static void *space_new(u64 tables, void *from, bool copy)
{
	u64 *root = (u64 *)(DIRECT + tables);

	(void)from, (void)copy;
	root[256] = kernel_tables[256];
	root[511] = kernel_tables[511];
	return (void *)tables;
}

/* No other CPU uses these tables: each that waits uses those of the kernel. */
static void space_free(void *space)
{
	if ((u64)space == this_cpu()->tables)
		use_kernel_tables();
}

/* The program's page tables are the core's own: only TLBs must be flushed. */
static void unmap(void *space, u64 address, u64 size)
{
	tlb_flush((u64)space, address, size, false);
}

/* A CPU that runs the program meanwhile may see less for a while: its fault ends that. */
static int map(void *space, u64 address, u64 ram_offset, u64 size, u32 prot)
{
	(void)ram_offset, (void)prot;
	tlb_flush((u64)space, address, size, true);
	return 0;
}

static void set_bases(struct cpu *cpu, const struct regs *regs)
{
	if (regs->fs_base != cpu->fs)
		write_msr(FS_BASE, cpu->fs = regs->fs_base);
	if (regs->gs_base != cpu->gs)
		write_msr(OTHER_GS_BASE, cpu->gs = regs->gs_base);
}

/*
 * The core uses no register of the FPU: what a program has there stays until another one runs.  With several CPUs it is
 * saved when the task leaves its CPU, and is valid there as long as it runs on no other one.
 */
static void fpu_save(void *fpu)
{
	if (has_xsave)
		asm volatile("xsave64 %0" : "+m"(*(u8(*)[4096])fpu) : "a"(~0u), "d"(~0u));
	else
		asm volatile("fxsave64 %0" : "=m"(*(u8(*)[512])fpu));
}

static void leave_cpu(void *fpu)
{
	if (fpu && fpu == this_cpu()->fpu)
		fpu_save(fpu);
}

static void forget_fpu(const void *fpu)
{
	for (struct cpu *cpu = cpus; cpu < cpus + cpu_count; cpu++)
		if (cpu->fpu == fpu)
			cpu->fpu = NULL;
}

static void program_flush(void *space, struct regs *regs, void *fpu)
{
	(void)space, (void)regs; /* which run has completed */
	leave_cpu(fpu);
	forget_fpu(fpu);
}

static void load_fpu(struct cpu *cpu, void *fpu)
{
	if (fpu == cpu->fpu)
		return;
	if (cpu->fpu && cpu_count == 1)
		fpu_save(cpu->fpu);
	forget_fpu(fpu);
	if (has_xsave)
		asm volatile("xrstor64 %0" : : "m"(*(u8(*)[4096])fpu), "a"(~0u), "d"(~0u));
	else
		asm volatile("fxrstor64 %0" : : "m"(*(u8(*)[512])fpu));
	cpu->fpu = fpu;
}

/*
 * The program has made a system call. false: run() returns, with what this CPU has stopped for.
 *
 * A call that changes more than RAX, or the address space, flushes: then there is no state of the FPU.  RIP is canonical,
 * since no program can have the last page.
 */
bool kernel_call(void)
{
	enum { TRAP = 0x100, RESUME = 0x10000 };

	struct cpu *cpu = this_cpu();
	const struct regs *regs;
	enum next next;

	cpu->in_program = false;
	core_lock();
	next = core_call(cpu->number);
	regs = (const struct regs *)cpu->program_regs;
	/* By SYSRET, as in enter_program. */
	if (next < NEXT_PROGRAM || !cpu->fpu || cpu->stale || regs->rip != regs->rcx || regs->flags & (TRAP | RESUME)) {
		this_cpu()->stopped_for = next == NEXT_CALL ? SYSCALL : ANSWERED;
		return false;
	}
	if (next == NEXT_SLICE)
		start_slice();
	cpu->in_program = true;
	core_unlock();
	return true;
}

static void run(void *space, struct regs *regs, void *fpu, bool preempt, struct event *event)
{
	enum { ARITHMETIC = 0xcd5, TRAP = 0x100, RESUME = 0x10000, ALIGNMENT = 0x40000, ID = 0x200000 };
	enum { ALWAYS = 0x202 }; /* a bit that is always set, and IF */
	/* What Linux sends for each exception. */
	static const u8 signals[32] = { [0] = 8, [1] = 5, [3] = 5, [4] = 11, [6] = 4, [16] = 8, [17] = 7, [19] = 8 };

	struct cpu *cpu = this_cpu();

	if (regs->rip >= TASK_SIZE) { /* IRET would fault in ring 0 */
		*event = (struct event){ .kind = EVENT_SIGNAL, .signal = 11 };
		return;
	}
	regs->flags = (regs->flags & (ARITHMETIC | TRAP | RESUME | ALIGNMENT | ID)) | ALWAYS;
	set_bases(cpu, regs);
	if ((u64)space != cpu->tables || cpu->stale)
		use_tables((u64)space);
	load_fpu(cpu, fpu);
	if (preempt)
		start_slice();
	cpu->in_program = true;
	core_unlock();
	enter_program(regs);
	if (this_cpu()->stopped_for >= SYSCALL) {
		event->kind = this_cpu()->stopped_for == SYSCALL ? EVENT_SYSCALL : EVENT_ANSWERED;
		event->foreign = false;
		return;
	}
	cpu->in_program = false;
	core_lock();
	*event = (struct event){ .kind = EVENT_SIGNAL, .signal = 11 };
	if (cpu->stopped_for == LOST) {
		event->signal = 9; /* it cannot go on */
	} else if (cpu->stopped_for == PAGE_FAULT) {
		event->kind = EVENT_FAULT;
		event->access = cpu->exception_error & 16 ? ACCESS_EXEC : cpu->exception_error & 2 ? ACCESS_WRITE : ACCESS_READ;
		event->present = cpu->exception_error & 1;
		asm volatile("mov %%cr2, %0" : "=r"(event->address));
	} else if (cpu->stopped_for == 2 || cpu->stopped_for == 8 || cpu->stopped_for == 18) {
		panic("the machine reports an error");
	} else if (cpu->stopped_for >= VECTOR_PINS) {
		interrupt_arrived(cpu->stopped_for);
		event->kind = EVENT_PREEMPTED;
	} else if (cpu->stopped_for < 32 && signals[cpu->stopped_for]) {
		event->signal = signals[cpu->stopped_for];
		if (cpu->stopped_for == DEBUG_EXCEPTION)
			breakpoints_report(regs, event);
	}
}

static u64 nanoseconds(enum clock clock)
{
	return clock == CLOCK_IS_REALTIME ? realtime() : monotonic();
}

static bool has_rdrand; /* read once: CPUID leaves the guest */

static bool cpu_random(u64 *word)
{
	bool good = false;

	for (int tries = 0; !good && tries < 100 && has_rdrand; tries++)
		asm volatile("rdrand %0" : "=r"(*word), "=@ccc"(good));
	return good;
}

static const volatile u64 *generation;

/* Before numbers of virtio-rng are used: another copy of this machine may have those that wait. */
static void forget_copied_numbers(void)
{
	static u64 seen[2];

	if (!generation || (generation[0] == seen[0] && generation[1] == seen[1]))
		return;
	seen[0] = generation[0];
	seen[1] = generation[1];
	rng_forget();
}

static void random_bytes(void *data, u64 size)
{
	u8 *at = data;
	u64 word = 0;

	forget_copied_numbers();
	for (u64 i = 0; i < size; i++, word >>= 8) {
		if (i % 8 == 0 && !cpu_random(&word) && !rng_fill(&word, sizeof(word)))
			refuse("the machine has no random numbers: neither RDRAND nor virtio-rng");
		at[i] = (u8)word;
	}
}

static u32 number_here(void)
{
	return this_cpu()->number;
}

static const struct platform_ops ops = {
	.space_new = space_new,
	.space_free = space_free,
	.run = run,
	.flush = program_flush,
	.map = map,
	.unmap = unmap,
	.wait = wait_for_event,
	.fatal = panic,
	.console_read = read_console,
	.console_write = write_console,
	.console_size = terminal_size,
	.point = point,
	.nanoseconds = nanoseconds,
	.set_breakpoints = breakpoints_load,
	.clock_page = clock_show,
	.random = random_bytes,
	.log = log_line,
	.console_resized = console_resized,
	.leave_cpu = leave_cpu,
	.cpu = number_here,
	.cpu_start = cpu_enter,
	.interrupt = cpu_interrupt,
	.walks = true,
};

/* -- the start -- */

static void set_gate(int vector)
{
	u64 to = (u64)vector_stubs + (u64)vector * 16;
	bool fatal = vector == 1 || vector == 2 || vector == 8 || vector == 18; /* can come where there is no stack */

	gates[vector] = (struct gate){
		.low = (u16)to, .selector = KERNEL_CODE, .stack = fatal, .type = vector == 3 ? 0xee : 0x8e,
		.middle = (u16)(to >> 16), .high = (u32)(to >> 32),
	};
}

static void find_protections(void)
{
	enum { UMIP = 1 << 11, SMEP = 1 << 20, SMAP = 1 << 21 };
	struct cpuid features = cpuid(0).a >= 7 ? cpuid(7) : (struct cpuid){ 0 };

	asm volatile("mov %%cr4, %0" : "=r"(other_cr4));
	other_cr4 |= (features.b & 1 << 7 ? SMEP : 0) | (features.b & 1 << 20 ? SMAP : 0) | (features.c & 1 << 2 ? UMIP : 0);
	for (int vector = 0; vector < VECTORS; vector++)
		set_gate(vector);
}

/* The stacks for what interrupts a program, and for what must not happen. */
static void load_segments(struct cpu *cpu)
{
	const struct table own = { sizeof(cpu->gdt) - 1, (u64)cpu->gdt };
	u64 at = (u64)&cpu->tss;

	cpu->tss.rsp[0] = (u64)cpu->exception_stack + sizeof(cpu->exception_stack);
	cpu->tss.ist[0] = (u64)cpu->fatal_stack + sizeof(cpu->fatal_stack);
	cpu->tss.io_map = sizeof(cpu->tss);
	memcpy(cpu->gdt, gdt, sizeof(cpu->gdt));
	cpu->gdt[TSS / 8] = (sizeof(cpu->tss) - 1) | (at & 0xffffff) << 16 | 0x89ull << 40 | (at >> 24 & 0xff) << 56;
	cpu->gdt[TSS / 8 + 1] = at >> 32;
	asm volatile("lgdt %0; ltr %w1" : : "m"(own), "r"(TSS));
}

void cpu_begin(struct cpu *cpu)
{
	enum { TF = 0x100, IF = 0x200, DF = 0x400, NT = 0x4000, AC = 0x40000 };
	const struct table idt = { sizeof(gates) - 1, (u64)gates };

	cpu->self = cpu;
	cpu->fs = cpu->gs = ~0ull;
	cpu->tables = (u64)kernel_tables - KERNEL;
	write_msr(GS_BASE, (u64)cpu);
	load_segments(cpu);
	asm volatile("lidt %0" : : "m"(idt));
	write_msr(STAR, (u64)KERNEL_CODE << 32 | (u64)SYSRET_BASE << 48);
	write_msr(LSTAR, (u64)syscall_entry);
	write_msr(FMASK, TF | IF | DF | NT | AC);
	asm volatile("mov %0, %%cr4" : : "r"(other_cr4));
	if (fpu_features)
		asm volatile("xsetbv" : : "c"(0), "a"((u32)fpu_features), "d"(0));
}

/* All that the CPU can save in a format that the program finds in signal frames, but for the tiles of AMX. */
static void start_fpu(struct core_config *config)
{
	enum { XSAVE = 1 << 26, OSXSAVE = 1 << 18, COMPONENTS = 0x2e7 };
	u64 cr4;

	has_xsave = cpuid(1).c & XSAVE;
	config->fpu_size = 512;
	config->fpu_features = 3;
	if (!has_xsave)
		return;
	asm volatile("mov %%cr4, %0" : "=r"(cr4));
	asm volatile("mov %0, %%cr4" : : "r"(cr4 | OSXSAVE));
	config->fpu_features = fpu_features = cpuid(13).a & COMPONENTS;
	asm volatile("xsetbv" : : "c"(0), "a"((u32)fpu_features), "d"(0));
	config->fpu_size = cpuid(13).b;
}

/* Where the RAM that the kernel is in ends, or the program begins: up to there it is the core's. */
static u64 ram_end(const struct start_info *info, u64 kernel, u64 program)
{
	const struct map_entry *map = (const struct map_entry *)(DIRECT + info->map);

	for (u32 i = 0; i < info->map_count; i++) {
		u64 end = map[i].address + map[i].size;

		if (map[i].type != 1 || map[i].address > kernel || end <= kernel)
			continue;
		end = end < GIB4 ? end : GIB4;
		return program > kernel && program < end ? program & -(u64)PAGE_SIZE : end;
	}
	refuse("the machine does not report where its memory is");
}

static void report_end(struct core_exit end)
{
	if (start.frames)
		frames_end(end);
	console_drain();
	if (start.frames || (!end.signal && !end.status))
		return;
	put_text(end.signal ? "sentry: the program was ended by signal " : "sentry: the program exited with ");
	put_decimal((u64)(end.signal ? end.signal : end.status));
	put_text("\n");
}

_Noreturn void kernel_main(void)
{
	const struct start_info *info = (const struct start_info *)(DIRECT + start_info);
	const char *line = (const char *)(DIRECT + info->cmdline);
	static struct core_config config;
	const char *error;
	u64 kernel = (u64)kernel_end - KERNEL;
	const u64 *devices;
	u32 count;

	find_protections();
	cpu_begin(cpus);
	has_rdrand = cpuid(1).c & RDRAND;
	if (!cpu_random(&__stack_chk_guard))
		__stack_chk_guard = ticks() * 0x9e3779b97f4a7c15;
	protect_kernel();
	interrupts_init();
	clock_init();
	serial_init();
	crash_if_ordered(line);
	find_start(info, kernel, &start);
	generation = find_generation(info->rsdp);
	devices = find_devices(line, info->rsdp, &count);
	config = (struct core_config){
		.ops = &ops, .ram = (u8 *)DIRECT, .ram_reserved = kernel, .ram_dirty = !asked_for(line, "sentry.zeroed"),
		.ram_touched = asked_for(line, "sentry.touched"),
		.ram_size = ram_end(info, kernel, start.initrd), .path = start.argv[0],
		.real_path = start.real_path, .directory = start.directory, .argv = start.argv, .envp = start.envp,
		.devices = devices, .device_count = count, .strace = start.strace || asked_for(line, "sentry.strace"),
		.program = start.program, .program_size = start.program_size, .root = start.archive,
		.root_size = start.archive_size, .user = start.user, .group = start.group,
		.scratch = asked_for(line, "sentry.scratch"), .control = asked_for(line, "sentry.control"),
		.hooks = asked_for(line, "sentry.hooks"),
		.most_tasks = start.pids, .terminal = start.terminal,
	};
	if (start.terminal)
		memcpy(config.terminal_modes, start.terminal_modes, sizeof(config.terminal_modes));
	start_fpu(&config);
	asm volatile("mov %%cr4, %0" : "=r"(other_cr4));
	cpus_start(info->rsdp);
	config.cpus = cpu_count;
	error = core_start(&config);
	if (error)
		refuse(error);
	report_end(core_run());
	power_off();
}
