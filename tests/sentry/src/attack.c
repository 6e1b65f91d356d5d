// SPDX-License-Identifier: Apache-2.0
/*
 * A platform whose program is an attacker: damaged ELF files, then system calls and faults with arguments at random.
 *
 * It is built with sanitizers, and checks what the core shows a program: pages of RAM that are its own, each once.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "platform.h"
#ifdef __SANITIZE_ADDRESS__
void __asan_unpoison_memory_region(void const volatile *at, unsigned long size);
#endif

enum { PAGE = 4096, RAM_PAGES = 1024, METADATA = RAM_PAGES * 16 / PAGE, CALLS = 400, FILE_SIZE = 3 * PAGE };
#define USER_MIN 0x11000ull
#define USER_TOP 0x7fffffc00000ull

static u8 *ram, *file;
/* Where a program sees a page; 0: nowhere. */
struct space {
	u64 shown[RAM_PAGES];
	struct space *next;
};

static struct space *spaces;
static int sharing; /* several mappings may have a page */
static bool lied;   /* of how much it has read */
static u64 state, idle, left, mapped, asked, answered, refused, started;

static u64 next(void)
{
	state ^= state << 13, state ^= state >> 7, state ^= state << 17;
	return state;
}

static void check(int good, const char *what)
{
	if (!good) {
		fprintf(stderr, "attack: %s\n", what);
		abort();
	}
}

static void hide(void *which, u64 address, u64 size)
{
	u64 *shown = ((struct space *)which)->shown;

	check(address % PAGE == 0 && size % PAGE == 0 && size && address + size <= USER_TOP, "a bad range is hidden");
	for (u32 i = 0; i < RAM_PAGES; i++)
		if (shown[i] && shown[i] - address < size)
			shown[i] = 0;
}

static int show(void *space, u64 address, u64 offset, u64 size, u32 prot)
{
	u64 *shown = ((struct space *)space)->shown;

	check(address >= USER_MIN && prot < 8, "a bad place is shown");
	check(offset % PAGE == 0 && offset >= METADATA * PAGE && offset + size <= RAM_PAGES * PAGE, "no page of a program");
	hide(space, address, size);
	for (u64 at = 0; at < size; at += PAGE) {
		check(sharing || !shown[(offset + at) / PAGE], "a page is shown twice");
		shown[(offset + at) / PAGE] = address + at;
	}
	return 0;
}

static u64 some_address(void)
{
	static const u64 places[] = { 0x400000, 0x401000, 0x402000, 0x403000, USER_TOP - PAGE, USER_TOP, USER_MIN, 0, ~0ull,
				      0x7ffffffff000, 1ull << 63, 0x7fffff2ff000, 0x600000000000 };
	u64 place = places[next() % (sizeof(places) / sizeof(*places))], r = next();

	return place + (r & 3 ? 0 : (r >> 8 & 0x3fff) - 0x2000);
}

static u64 some_argument(void)
{
	u64 r = next();

	switch (r & 7) {
	case 0: return r >> 8 & 7;
	case 1: return r >> 8 & 0x3f;
	case 2: return 1ull << (r >> 8 & 63);
	case 3: return (r >> 8 & 15) * PAGE;
	case 4: return 0x32 | (r >> 8 & 1) << 20; /* of mmap: private, anonymous, fixed */
	case 5: return r >> 16;
	default: return some_address();
	}
}

static void run(void *space, struct regs *regs, void *fpu, bool preempt, struct event *event)
{
	static const u16 often[] = { 0, 1, 9, 9, 10, 11, 12, 20, 28, 33, 57, 257, 318 };

	(void)space, (void)fpu, (void)preempt;
	idle = 0;
	check(sharing || (s64)regs->rax < 0 || regs->rax <= asked, "a read returns more than there is room for");
	check(sharing || !lied || asked == ~0ull || (s64)regs->rax < 0, "a lying platform is believed");
	lied = false;
	answered += (s64)regs->rax >= 0;
	refused += (s64)regs->rax < 0;
	*event = (struct event){ .kind = EVENT_SYSCALL };
	left -= left > 0;
	if (!left)
		*event = (struct event){ .kind = EVENT_SIGNAL, .signal = 9 };
	else if (mapped && regs->rax == mapped && next() & 1) /* touch it; elsewhere a fault ends the program */
		*event = (struct event){ .kind = EVENT_FAULT, .address = mapped };
	else if (!(next() & 511))
		*event = (struct event){ .kind = EVENT_FAULT, .address = some_address() };
	do
		regs->rax = next() & 1 ? often[next() % (sizeof(often) / sizeof(*often))] : next() % 520;
	while (regs->rax == 60 || regs->rax == 231 || regs->rax == 62 || regs->rax == 200 || regs->rax == 234);
	mapped = 0;
	sharing |= regs->rax == 25 || (regs->rax >= 56 && regs->rax <= 58) || regs->rax == 435;
	asked = ~0ull;
	regs->rdi = some_argument(), regs->rsi = some_argument(), regs->rdx = some_argument();
	regs->r10 = some_argument(), regs->r8 = some_argument(), regs->r9 = some_argument();
	if (!regs->rax && next() & 1) /* the console, with room for more than a lie */
		regs->rdi = 0, regs->rsi = 0x401000, regs->rdx = 2 * PAGE;
	if (!regs->rax)
		asked = regs->rdx;
	if (regs->rax >= 9 && regs->rax <= 11 && next() & 3) { /* one that can succeed */
		mapped = regs->rdi = 0x600000000000 + (next() & 63) * PAGE;
		regs->rsi = (1 + (next() & 31)) * PAGE, regs->rdx = 1 | (next() & 7), regs->r10 = 0x32, regs->r9 = 0;
	}
	sharing |= regs->rax == 9 && regs->r10 & 1;
}

static void *space_new(u64 tables, void *from, bool copy)
{
	struct space *space = calloc(1, sizeof(*space));

	(void)tables;
	if (copy)
		memcpy(space->shown, ((struct space *)from)->shown, sizeof(space->shown));
	space->next = spaces;
	return spaces = space;
}

static void space_free(void *space)
{
	(void)space;
}

static void flush(void *space, struct regs *regs, void *fpu)
{
	(void)space, (void)regs, (void)fpu;
}

_Noreturn void sched_end(void);

/* A task that waits for ever ends the sandbox: nobody would wake it. */
static bool wait_until(u64 deadline)
{
	if (deadline && ++idle > 1000) /* none wakes up: its time never comes */
		sched_end();
	return true;
}

static bool release(u64 offset, u64 size)
{
	check(offset % PAGE == 0 && offset >= METADATA * PAGE && offset + size <= RAM_PAGES * PAGE, "no page of a program");
	for (const struct space *space = spaces; space; space = space->next)
		for (u64 at = 0; at < size; at += PAGE)
			check(sharing || !space->shown[(offset + at) / PAGE], "a page that a program sees is released");
	memset(ram + offset, 0, size);
	return next() & 7;
}

static _Noreturn void fatal(const char *why)
{
	check(0, why);
	abort();
}

/* Now and then it lies about how much it has read. */
static s64 console_read(void *data, u64 size)
{
	u64 got = next() % (size + 1), r = next();

	memset(data, 'r', got);
	lied = !(r & 31);
	if (lied)
		return (s64)(size + 1 + (r >> 8 & 0xffff));
	return r & 15 ? (s64)got : -11;
}

static s64 console_write(int stream, const void *data, u64 size)
{
	u64 sum = 0;

	check(stream == 1 || stream == 2, "a bad stream is written");
	for (u64 i = 0; i < size; i++)
		sum += ((const u8 *)data)[i];
	check(sum <= size * 255, "what is written can be read");
	return next() & 15 ? (s64)size : (s64)(next() % size);
}

static bool console_size(int stream, u16 *rows, u16 *columns)
{
	check(stream >= 0 && stream < 3, "a bad stream is asked for its size");
	*rows = 24, *columns = 80;
	return state & 1;
}

static u64 nanoseconds(enum clock clock)
{
	return clock + next() % (1ull << 62);
}

static void random_bytes(void *data, u64 size)
{
	memset(data, 'x', size);
}

static void log_line(const char *line, u64 size)
{
	for (u64 i = 0; i < size; i++)
		check(line[i] == '\n' || (line[i] >= ' ' && line[i] < 127), "a terminal would obey that");
}

static const struct platform_ops ops = {
	space_new, space_free, run, flush, show, hide, wait_until, console_read, console_write, console_size,
	nanoseconds, random_bytes, NULL, fatal, log_line, .release = release,
};

static void put(u64 at, u64 value, u32 size)
{
	memcpy(file + at, &value, size);
}

/* A file of two segments, code and data, and some damage to most. Its size. */
static u64 make_file(void)
{
	static const u8 head[] = { 0x7f, 'E', 'L', 'F', 2, 1, 1 };
	u32 damage = next() & 3;

	memset(file, 0, FILE_SIZE);
	memcpy(file, head, sizeof(head));
	put(16, 2 + (next() & 1), 2), put(18, 62, 2), put(24, 0x400100, 8), put(32, 64, 8), put(54, 56, 2), put(56, 2, 2);
	for (u32 i = 0; i < 2; i++) {
		put(64 + i * 56, 1 | (u64)(i ? 6 : 5) << 32, 8), put(72 + i * 56, i * PAGE, 8);
		put(80 + i * 56, 0x400000 + i * PAGE, 8), put(96 + i * 56, PAGE, 8), put(104 + i * 56, PAGE * (1 + i), 8);
	}
	while (damage--) {
		u64 at = next() % 176;

		if (next() & 1)
			put(at & -8ull, next() & 1 ? some_argument() : -(next() & 0x1fff), 8);
		else
			file[at] = (u8)next();
	}
	return next() & 7 ? FILE_SIZE : next() % FILE_SIZE;
}

static void sandbox(u64 seed)
{
	static const char *const argv[] = { "program", "argument", NULL }, *const envp[] = { "A=B", NULL };
	struct core_config config = { .ops = &ops, .ram = ram, .ram_size = RAM_PAGES * PAGE, .path = "program",
				       .fpu_size = 576, .fpu_features = 3 };
	u8 *program;

	state = seed * 0x9e3779b97f4a7c15 + 1;
#ifdef __SANITIZE_ADDRESS__
	__asan_unpoison_memory_region(ram, RAM_PAGES * PAGE); /* stacks of tasks that slept when the last sandbox ended */
#endif
	memset(ram, 0, RAM_PAGES * PAGE);
	sharing = 0, lied = false;
	config.program_size = make_file();
	program = malloc(config.program_size + !config.program_size); /* so that a sanitizer knows where it ends */
	memcpy(program, file, config.program_size);
	config.program = program;
	config.real_path = "/program";
	config.argv = argv, config.envp = envp;
	config.strace = seed & 1;
	left = CALLS;
	mapped = 0;
	if (!core_start(&config)) {
		started++;
		core_run();
	}
	while (spaces) {
		struct space *space = spaces;

		spaces = space->next;
		free(space);
	}
	free(program);
}

int main(int argc, char **argv)
{
	u64 first = argc > 1 ? strtoull(argv[1], NULL, 10) : 0, count = argc > 2 ? strtoull(argv[2], NULL, 10) : 1000;

	ram = aligned_alloc(PAGE, RAM_PAGES * PAGE);
	file = malloc(FILE_SIZE);
	for (u64 i = 0; ram && file && i < count; i++)
		sandbox(first + i);
	printf("%llu started, %llu calls answered, %llu refused\n", started, answered, refused);
	return 0;
}
