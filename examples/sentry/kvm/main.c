// SPDX-License-Identifier: Apache-2.0
/*
 * The kvm platform: the core as a kernel with a PVH entry, in ring 0 of a machine with one CPU; the program in ring 3.
 *
 * start.c finds out what to run.  The console is a virtio console, or the serial port.
 */
#include "start.h"
#include "virtio/virtio.h"

#define RDRAND (1u << 30)
enum { STAR = 0xc0000081, LSTAR, CSTAR, FMASK, FS_BASE = 0xc0000100, GS_BASE };

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

struct __attribute__((packed)) tss {
	u32 zero;
	u64 rsp[3], zero2, ist[7], zero3;
	u16 zero4, io_map;
};

struct __attribute__((packed)) table {
	u16 limit;
	u64 base;
};

/* entry.S */
extern u8 vector_stubs[], exception_stack_end[], fatal_stack_end[], kernel_end[];
extern u64 gdt_tss[2], kernel_tables[512], start_info;
extern u32 stopped_for, exception_error;
void syscall_entry(void);
void enter_program(struct regs *regs);
_Noreturn void kernel_main(void);
void kernel_trap(const struct trap *trap);

static struct start start;
static struct gate gates[VECTORS];
static struct tss tss;
static bool has_xsave;
static void *loaded_fpu; /* whose state the CPU has */

void *memcpy(void *to, const void *from, unsigned long size)
{
	void *at = to;

	asm volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(size) : : "memory");
	return to;
}

void *memset(void *at, int byte, unsigned long size)
{
	void *to = at;

	asm volatile("rep stosb" : "+D"(to), "+c"(size) : "a"(byte) : "memory");
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

static bool wait_for_event(u64 deadline)
{
	bool input = wait_until(deadline);

	return frames_ended() || (console_is_there() ? console_ready() : input);
}

static void log_line(const char *line, u64 size)
{
	if (start.frames)
		frames_write(2, line, size);
	else
		serial_write(2, line, size);
}

void kernel_trap(const struct trap *trap)
{
	if (trap->vector < VECTOR_PINS)
		panic_at(trap);
	interrupt_arrived((u32)trap->vector);
}

static void use_tables(u64 tables)
{
	asm volatile("mov %0, %%cr3" : : "r"(tables) : "memory");
}

static u64 used_tables(void)
{
	u64 tables;

	asm volatile("mov %%cr3, %0" : "=r"(tables));
	return tables;
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

static void space_free(void *space)
{
	if ((u64)space == used_tables())
		use_tables((u64)kernel_tables - KERNEL);
}

static void flush(void *space, u64 address, u64 size)
{
	if ((u64)space != used_tables())
		return;
	if (size <= 32 * PAGE_SIZE) {
		for (u64 at = 0; at < size; at += PAGE_SIZE)
			asm volatile("invlpg (%0)" : : "r"(address + at) : "memory");
		return;
	}
	use_tables((u64)space);
}

/* The program's page tables are the core's own: only the TLB must be flushed. */
static int map(void *space, u64 address, u64 ram_offset, u64 size, u32 prot)
{
	(void)ram_offset, (void)prot;
	flush(space, address, size);
	return 0;
}

static void set_bases(const struct regs *regs)
{
	static u64 fs = ~0ull, gs = ~0ull;

	if (regs->fs_base != fs)
		write_msr(FS_BASE, fs = regs->fs_base);
	if (regs->gs_base != gs)
		write_msr(GS_BASE, gs = regs->gs_base);
}

/* The core uses no register of the FPU: what a program has there stays until another one runs. */
static void fpu_save(void *fpu)
{
	if (fpu != loaded_fpu)
		return;
	if (has_xsave)
		asm volatile("xsave64 %0" : "+m"(*(u8(*)[4096])fpu) : "a"(~0u), "d"(~0u));
	else
		asm volatile("fxsave64 %0" : "=m"(*(u8(*)[512])fpu));
	loaded_fpu = NULL;
}

static void program_flush(void *space, struct regs *regs, void *fpu)
{
	(void)space, (void)regs; /* which run has completed */
	fpu_save(fpu);
}

static void load_fpu(void *fpu)
{
	if (fpu == loaded_fpu)
		return;
	if (loaded_fpu)
		fpu_save(loaded_fpu);
	if (has_xsave)
		asm volatile("xrstor64 %0" : : "m"(*(u8(*)[4096])fpu), "a"(~0u), "d"(~0u));
	else
		asm volatile("fxrstor64 %0" : : "m"(*(u8(*)[512])fpu));
	loaded_fpu = fpu;
}

static void run(void *space, struct regs *regs, void *fpu, bool preempt, struct event *event)
{
	enum { ARITHMETIC = 0xcd5, TRAP = 0x100, RESUME = 0x10000, ALIGNMENT = 0x40000, ID = 0x200000 };
	enum { ALWAYS = 0x202 }; /* a bit that is always set, and IF */
	/* What Linux sends for each exception. */
	static const u8 signals[32] = { [0] = 8, [1] = 5, [3] = 5, [4] = 11, [6] = 4, [16] = 8, [17] = 7, [19] = 8 };

	*event = (struct event){ .kind = EVENT_SIGNAL, .signal = 11 };
	if (regs->rip >= TASK_SIZE)
		return; /* IRET would fault in ring 0 */
	regs->flags = (regs->flags & (ARITHMETIC | TRAP | RESUME | ALIGNMENT | ID)) | ALWAYS;
	set_bases(regs);
	if ((u64)space != used_tables())
		use_tables((u64)space);
	load_fpu(fpu);
	if (preempt)
		start_slice();
	enter_program(regs);
	if (stopped_for == SYSCALL) {
		event->kind = EVENT_SYSCALL;
	} else if (stopped_for == PAGE_FAULT) {
		event->kind = EVENT_FAULT;
		event->access = exception_error & 16 ? ACCESS_EXEC : exception_error & 2 ? ACCESS_WRITE : ACCESS_READ;
		event->present = exception_error & 1;
		asm volatile("mov %%cr2, %0" : "=r"(event->address));
	} else if (stopped_for == 2 || stopped_for == 8 || stopped_for == 18) {
		panic("the machine reports an error");
	} else if (stopped_for >= VECTOR_PINS) {
		interrupt_arrived(stopped_for);
		event->kind = EVENT_PREEMPTED;
	} else if (stopped_for < 32 && signals[stopped_for]) {
		event->signal = signals[stopped_for];
	}
}

static u64 nanoseconds(enum clock clock)
{
	if (clock == CLOCK_IS_REALTIME)
		return realtime();
	return clock == CLOCK_IS_CPU ? monotonic() - idle_nanoseconds() : monotonic();
}

static bool cpu_random(u64 *word)
{
	bool good = false;

	for (int tries = 0; !good && tries < 100 && cpuid(1).c & RDRAND; tries++)
		asm volatile("rdrand %0" : "=r"(*word), "=@ccc"(good));
	return good;
}

static void random_bytes(void *data, u64 size)
{
	u8 *at = data;
	u64 word = 0;

	for (u64 i = 0; i < size; i++, word >>= 8) {
		if (i % 8 == 0 && !cpu_random(&word) && !rng_fill(&word, sizeof(word)))
			refuse("the machine has no random numbers: neither RDRAND nor virtio-rng");
		at[i] = (u8)word;
	}
}

static const struct platform_ops ops = {
	.space_new = space_new,
	.space_free = space_free,
	.run = run,
	.flush = program_flush,
	.map = map,
	.unmap = flush,
	.wait = wait_for_event,
	.fatal = panic,
	.console_read = read_console,
	.console_write = write_console,
	.console_size = terminal_size,
	.nanoseconds = nanoseconds,
	.random = random_bytes,
	.log = log_line,
	.console_resized = console_resized,
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

static void start_cpu(void)
{
	enum { UMIP = 1 << 11, SMEP = 1 << 20, SMAP = 1 << 21 };
	enum { TF = 0x100, IF = 0x200, DF = 0x400, NT = 0x4000, AC = 0x40000 };
	struct table idt = { sizeof(gates) - 1, (u64)gates };
	struct cpuid features = cpuid(0).a >= 7 ? cpuid(7) : (struct cpuid){ 0 };
	u64 at = (u64)&tss, cr4;

	for (int vector = 0; vector < VECTORS; vector++)
		set_gate(vector);
	asm volatile("lidt %0" : : "m"(idt));
	tss.rsp[0] = (u64)exception_stack_end;
	tss.ist[0] = (u64)fatal_stack_end;
	tss.io_map = sizeof(tss);
	gdt_tss[0] = (sizeof(tss) - 1) | (at & 0xffffff) << 16 | 0x89ull << 40 | (at >> 24 & 0xff) << 56;
	gdt_tss[1] = at >> 32;
	asm volatile("ltr %w0" : : "r"(TSS));
	write_msr(STAR, (u64)KERNEL_CODE << 32);
	write_msr(LSTAR, (u64)syscall_entry);
	write_msr(FMASK, TF | IF | DF | NT | AC);
	asm volatile("mov %%cr4, %0" : "=r"(cr4));
	cr4 |= (features.b & 1 << 7 ? SMEP : 0) | (features.b & 1 << 20 ? SMAP : 0) | (features.c & 1 << 2 ? UMIP : 0);
	asm volatile("mov %0, %%cr4" : : "r"(cr4));
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
	config->fpu_features = cpuid(13).a & COMPONENTS;
	asm volatile("xsetbv" : : "c"(0), "a"((u32)config->fpu_features), "d"(0));
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
	static struct core_config config;
	const char *error;
	u64 kernel = (u64)kernel_end - KERNEL;
	const u64 *devices;
	u32 count;

	start_cpu();
	if (!cpu_random(&__stack_chk_guard))
		__stack_chk_guard = ticks() * 0x9e3779b97f4a7c15;
	protect_kernel();
	interrupts_init();
	clock_init();
	serial_init();
	crash_if_ordered((const char *)(DIRECT + info->cmdline));
	find_start(info, kernel, &start);
	devices = find_devices((const char *)(DIRECT + info->cmdline), info->rsdp, &count);
	config = (struct core_config){
		.ops = &ops, .ram = (u8 *)DIRECT, .ram_reserved = kernel, .ram_dirty = true,
		.ram_size = ram_end(info, kernel, start.initrd), .path = start.argv[0],
		.real_path = start.real_path, .argv = start.argv, .envp = start.envp, .devices = devices,
		.device_count = count, .strace = start.strace,
		.program = start.program, .program_size = start.program_size, .root = start.archive,
		.root_size = start.archive_size, .user = start.user, .group = start.group,
		.scratch = asked_for((const char *)(DIRECT + info->cmdline), "sentry.scratch"),
		.most_tasks = start.pids,
	};
	start_fpu(&config);
	error = core_start(&config);
	if (error)
		refuse(error);
	report_end(core_run());
	power_off();
}
