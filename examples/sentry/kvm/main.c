// SPDX-License-Identifier: Apache-2.0
/*
 * The kvm platform: the core as a kernel with a PVH entry, in ring 0 of a machine with one CPU; the program in ring 3.
 *
 * The program is the machine's initrd, its arguments follow "--" on the command line, its console is the serial port.
 * There are no interrupts yet: the core waits for input by asking again.
 */
#include "platform.h"

enum { PAGE_SIZE = 4096, COM1 = 0x3f8, LINE_STATUS = COM1 + 5, READY = 1, EMPTY = 0x20, END_OF_INPUT = 4 };
enum { ACPI_SLEEP = 0x600, ACPI_POWER_OFF = 1 << 5 | 5 << 2, I8042 = 0x64, I8042_RESET = 0xfe, PVPANIC = 0x505 };
enum { KERNEL_CODE = 0x08, TSS = 0x40, SYSCALL = 256, PAGE_FAULT = 14, WORDS = 64 };
enum { STAR = 0xc0000081, LSTAR, CSTAR, FMASK, FS_BASE = 0xc0000100, GS_BASE };
#define DIRECT 0xffff800000000000ull /* all physical memory; also offsets in RAM are from here */
#define KERNEL 0xffffffff80000000ull
#define GIB4 (1ull << 32)
#define TASK_SIZE 0x7ffffffff000ull

struct start_info {
	u32 magic, version, flags, module_count;
	u64 modules, cmdline, rsdp, map;
	u32 map_count, reserved;
};

struct module {
	u64 address, size, cmdline, reserved;
};

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
extern u8 exception_stubs[], exception_stack_end[], fatal_stack_end[], kernel_end[];
extern u64 gdt_tss[2], kernel_tables[512], start_info;
extern u32 stopped_for, exception_error;
void syscall_entry(void);
void enter_program(struct regs *regs);
_Noreturn void kernel_main(void);
_Noreturn void kernel_fault(const u64 *frame);
/* The compiler calls these. */
void *memcpy(void *to, const void *from, unsigned long size);
void *memset(void *at, int byte, unsigned long size);

static struct gate gates[32];
static struct tss tss;
static u64 ticks_khz = 1000000;

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

/* -- the CPU -- */

static void out(u16 port, u8 value)
{
	asm volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static u8 in(u16 port)
{
	u8 value;

	asm volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static void write_msr(u32 number, u64 value)
{
	asm volatile("wrmsr" : : "c"(number), "a"((u32)value), "d"((u32)(value >> 32)) : "memory");
}

struct cpuid {
	u32 a, b, c, d;
};

static struct cpuid cpuid(u32 leaf)
{
	struct cpuid r;

	asm volatile("cpuid" : "=a"(r.a), "=b"(r.b), "=c"(r.c), "=d"(r.d) : "a"(leaf), "c"(0));
	return r;
}

static u64 ticks(void)
{
	u32 low, high;

	asm volatile("rdtsc" : "=a"(low), "=d"(high));
	return (u64)high << 32 | low;
}

/* -- the console -- */

static void put_char(char c)
{
	while (!(in(LINE_STATUS) & EMPTY))
		;
	out(COM1, (u8)c);
}

static void put_text(const char *text)
{
	while (*text)
		put_char(*text++);
}

static void put_hex(const char *name, u64 value)
{
	put_text(name);
	for (int shift = 60; shift >= 0; shift -= 4)
		put_char("0123456789abcdef"[value >> shift & 15]);
}

static void put_decimal(u64 value)
{
	if (value >= 10)
		put_decimal(value / 10);
	put_char((char)('0' + value % 10));
}

static u64 nanoseconds(enum clock clock);

static bool input_ended; /* by a byte that came behind others, which have been read */

/* Without interrupts, by asking again and again. */
static bool wait_until(u64 deadline)
{
	while (!input_ended && !(in(LINE_STATUS) & READY)) {
		if (!deadline || (deadline != ~0ull && nanoseconds(CLOCK_IS_MONOTONIC) >= deadline))
			return false;
		asm volatile("pause");
	}
	return true;
}

static s64 console_read(void *data, u64 size)
{
	u8 *at = data;
	u64 got = 0;

	while (!input_ended && got < size && (!got || in(LINE_STATUS) & READY)) {
		u8 byte;

		while (!(in(LINE_STATUS) & READY))
			asm volatile("pause");
		byte = in(COM1);
		input_ended = byte == END_OF_INPUT;
		if (!input_ended)
			at[got++] = byte;
	}
	input_ended = input_ended && got;
	return (s64)got;
}

static s64 console_write(int stream, const void *data, u64 size)
{
	(void)stream;
	for (u64 i = 0; i < size; i++)
		put_char(((const char *)data)[i]);
	return (s64)size;
}

static bool console_size(int stream, u16 *rows, u16 *columns)
{
	(void)stream, (void)rows, (void)columns;
	return false;
}

static void log_line(const char *line, u64 size)
{
	console_write(2, line, size);
}

/* -- ends -- */

static _Noreturn void power_off(void)
{
	out(ACPI_SLEEP, ACPI_POWER_OFF);
	out(I8042, I8042_RESET); /* for machines with another way to power off, which end at a reset */
	for (;;)
		asm volatile("cli; hlt");
}

static _Noreturn void panic(const char *why)
{
	put_text("sentry: ");
	put_text(why);
	put_char('\n');
	out(PVPANIC, 1);
	power_off();
}

_Noreturn void kernel_fault(const u64 *frame)
{
	u64 address;

	asm volatile("mov %%cr2, %0" : "=r"(address));
	put_hex("sentry: exception ", frame[0]);
	put_hex(" error ", frame[1]);
	put_hex(" at ", frame[2]);
	put_hex(" address ", address);
	put_text("\n");
	panic("a fault of the core");
}

/* -- what the core needs -- */

static void use_tables(u64 ram_offset)
{
	u64 *root = (u64 *)(DIRECT + ram_offset);

	root[256] = kernel_tables[256];
	root[511] = kernel_tables[511];
	asm volatile("mov %0, %%cr3" : : "r"(ram_offset) : "memory");
}

static void flush(u64 address, u64 size)
{
	u64 root;

	if (size <= 32 * PAGE_SIZE) {
		for (u64 at = 0; at < size; at += PAGE_SIZE)
			asm volatile("invlpg (%0)" : : "r"(address + at) : "memory");
		return;
	}
	asm volatile("mov %%cr3, %0; mov %0, %%cr3" : "=r"(root) : : "memory");
}

/* The program's page tables are the core's own: only what the CPU remembers of them has to go. */
static int map(u64 address, u64 ram_offset, u64 size, u32 prot)
{
	(void)ram_offset, (void)prot;
	flush(address, size);
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

static void run(struct regs *regs, struct event *event)
{
	enum { ARITHMETIC = 0xcd5, TRAP = 0x100, RESUME = 0x10000, ALIGNMENT = 0x40000, ID = 0x200000, ALWAYS = 2 };
	/* What Linux sends for each exception. */
	static const u8 signals[32] = { [0] = 8, [1] = 5, [3] = 5, [4] = 11, [6] = 4, [16] = 8, [17] = 7, [19] = 8 };

	*event = (struct event){ .kind = EVENT_SIGNAL, .signal = 11 };
	if (regs->rip >= TASK_SIZE)
		return; /* IRET would fault in ring 0 */
	regs->flags = (regs->flags & (ARITHMETIC | TRAP | RESUME | ALIGNMENT | ID)) | ALWAYS;
	set_bases(regs);
	enter_program(regs);
	if (stopped_for == SYSCALL) {
		event->kind = EVENT_SYSCALL;
	} else if (stopped_for == PAGE_FAULT) {
		event->kind = EVENT_FAULT;
		asm volatile("mov %%cr2, %0" : "=r"(event->address));
	} else if (stopped_for == 2 || stopped_for == 8 || stopped_for == 18) {
		panic("the machine reports an error");
	} else if (stopped_for < 32 && signals[stopped_for]) {
		event->signal = signals[stopped_for];
	}
}

static u64 nanoseconds(enum clock clock)
{
	u64 now = ticks();

	(void)clock; /* the machine has no calendar yet */
	return now / ticks_khz * 1000000 + now % ticks_khz * 1000000 / ticks_khz;
}

static void random_bytes(void *data, u64 size)
{
	u8 *at = data;
	u64 word = 0;

	for (u64 i = 0; i < size; i++, word >>= 8) {
		bool good = i % 8;

		for (int tries = 0; !good && tries < 100; tries++)
			asm volatile("rdrand %0" : "=r"(word), "=@ccc"(good));
		if (!good)
			panic("the CPU has no random numbers");
		at[i] = (u8)word;
	}
}

static const struct platform_ops ops = {
	.use_tables = use_tables,
	.run = run,
	.map = map,
	.unmap = flush,
	.wait = wait_until,
	.fatal = panic,
	.console_read = console_read,
	.console_write = console_write,
	.console_size = console_size,
	.nanoseconds = nanoseconds,
	.random = random_bytes,
	.log = log_line,
};

/* -- the start -- */

static void set_gate(int vector)
{
	u64 to = (u64)exception_stubs + (u64)vector * 16;
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

	for (int vector = 0; vector < 32; vector++)
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
	if (!(cpuid(1).c & 1u << 30))
		panic("the CPU has no RDRAND");
	if (cpuid(0x40000000).a >= 0x40000010 && cpuid(0x40000010).a)
		ticks_khz = cpuid(0x40000010).a;
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
	panic("the machine does not say where its memory is");
}

/* The words behind "--", or the program's name alone. */
static void split(char *text, const char **words)
{
	u32 count = 0;

	while (*text && !(text[0] == '-' && text[1] == '-' && (text[2] == ' ' || !text[2])))
		text++;
	text += *text ? 2 : 0;
	while (*text && count < WORDS) {
		while (*text == ' ')
			*text++ = 0;
		if (*text)
			words[count++] = text;
		while (*text && *text != ' ')
			text++;
	}
	words[count] = NULL;
	if (!count)
		words[0] = "program", words[1] = NULL;
}

_Noreturn void kernel_main(void)
{
	static const char *words[WORDS + 1];
	static const char *const environment[] = { "PATH=/bin", "HOME=/", NULL };
	const struct start_info *info = (const struct start_info *)(DIRECT + start_info);
	const struct module *program = (const struct module *)(DIRECT + info->modules);
	static struct core_config config;
	struct core_exit end;
	const char *error;
	u64 kernel = (u64)kernel_end - KERNEL;

	start_cpu();
	if (info->magic != 0x336ec578 || !info->module_count)
		panic("the machine has no initrd: that is the program");
	if (program->address < kernel || program->address >= GIB4 || program->size > GIB4 - program->address)
		panic("the initrd is where the kernel cannot use it");
	split((char *)(DIRECT + info->cmdline), words);
	config = (struct core_config){
		.ops = &ops, .ram = (u8 *)DIRECT, .ram_reserved = kernel, .ram_dirty = true,
		.ram_size = ram_end(info, kernel, program->address), .program = (const u8 *)(DIRECT + program->address),
		.program_size = program->size, .path = words[0], .real_path = "/program", .argv = words, .envp = environment,
	};
	error = core_start(&config);
	if (error)
		panic(error);
	end = core_run();
	if (end.signal || end.status) {
		put_text(end.signal ? "sentry: the program was ended by signal " : "sentry: the program exited with ");
		put_decimal((u64)(end.signal ? end.signal : end.status));
		put_char('\n');
	}
	power_off();
}
