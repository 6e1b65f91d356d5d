// SPDX-License-Identifier: Apache-2.0
/* The vDSO: which functions it has, whether its clocks agree with system calls, and whether a debugger can unwind it. */
#define _GNU_SOURCE
#include <elf.h>
#include <link.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>
#include <unwind.h>

typedef int (*gettime)(clockid_t, struct timespec *);

static const char *base;
static gettime in_vdso;

/* -- symbols -- */

static const void *section(ElfW(Sxword) tag)
{
	const ElfW(Ehdr) *header = (const void *)base;
	const ElfW(Phdr) *segments = (const void *)(base + header->e_phoff);

	for (int i = 0; i < header->e_phnum; i++) {
		const ElfW(Dyn) *at = (const void *)(base + segments[i].p_vaddr);

		if (segments[i].p_type == PT_DYNAMIC)
			for (; at->d_tag != DT_NULL; at++)
				if (at->d_tag == tag)
					return base + at->d_un.d_ptr;
	}
	return NULL;
}

static const void *symbol(const char *name)
{
	const ElfW(Sym) *symbols = section(DT_SYMTAB);
	const char *texts = section(DT_STRTAB);
	const ElfW(Half) *versions = section(DT_VERSYM);
	const ElfW(Verdef) *version = section(DT_VERDEF);

	for (size_t i = 1; (const char *)&symbols[i] < texts; i++) {
		if (strcmp(texts + symbols[i].st_name, name) || !symbols[i].st_shndx)
			continue;
		for (const ElfW(Verdef) *at = version;; at = (const void *)((const char *)at + at->vd_next)) {
			const ElfW(Verdaux) *first = (const void *)((const char *)at + at->vd_aux);

			if (at->vd_ndx == (versions[i] & 0x7fff))
				return strcmp(texts + first->vda_name, "LINUX_2.6") ? NULL : base + symbols[i].st_value;
			if (!at->vd_next)
				break;
		}
	}
	return NULL;
}

static void show_symbols(void)
{
	static const char *const names[] = { "clock_gettime", "clock_getres", "gettimeofday", "time", "getcpu" };

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
		char name[32];

		snprintf(name, sizeof(name), "__vdso_%s", names[i]);
		printf("%s: %s\n", name, symbol(name) ? "there" : "missing");
	}
}

static void show_maps(void)
{
	FILE *maps = fopen("/proc/self/maps", "r");
	char line[512];

	while (maps && fgets(line, sizeof(line), maps)) {
		unsigned long start, end;
		char rights[8];

		if (strstr(line, "[vdso]") && sscanf(line, "%lx-%lx %7s", &start, &end, rights) == 3)
			printf("[vdso] %s %s\n", rights, start == (unsigned long)base ? "at its header" : "elsewhere");
	}
	fclose(maps);
}

/* -- clocks -- */

static int64_t nanoseconds(const struct timespec *time)
{
	return time->tv_sec * INT64_C(1000000000) + time->tv_nsec;
}

static int64_t by_call(clockid_t clock)
{
	struct timespec time = { 0, 0 };

	syscall(SYS_clock_gettime, clock, &time);
	return nanoseconds(&time);
}

static int64_t by_vdso(clockid_t clock)
{
	struct timespec time = { 0, 0 };

	in_vdso(clock, &time);
	return nanoseconds(&time);
}

static const struct {
	const char *name;
	clockid_t id;
} clocks[] = {
	{ "real", CLOCK_REALTIME }, { "monotonic", CLOCK_MONOTONIC }, { "raw", CLOCK_MONOTONIC_RAW },
	{ "coarse", CLOCK_REALTIME_COARSE }, { "monotonic coarse", CLOCK_MONOTONIC_COARSE }, { "boot", CLOCK_BOOTTIME },
	{ "tai", CLOCK_TAI }, { "process", CLOCK_PROCESS_CPUTIME_ID },
};
enum { CLOCKS = sizeof(clocks) / sizeof(*clocks) };
static int back[CLOCKS];

/* Each reading is at least the one before, whichever way it was made. */
static void compare(int times)
{
	for (int n = 0; n < times; n++)
		for (int i = 0; i < CLOCKS; i++) {
			const int64_t first = by_call(clocks[i].id), second = by_vdso(clocks[i].id), third = by_call(clocks[i].id);

			back[i] += second < first || third < second;
		}
}

static void compare_clocks(void)
{
	static const long pauses[] = { 1000, 30000, 30000, 150000, 15000, 250000, 1000 };
	int64_t apart;

	for (size_t i = 0; i < sizeof(pauses) / sizeof(*pauses); i++) {
		compare(200);
		usleep(pauses[i]); /* time itself is what is compared */
	}
	for (int i = 0; i < CLOCKS; i++)
		printf("%s: %d times back\n", clocks[i].name, back[i]);
	apart = by_vdso(CLOCK_REALTIME) - by_vdso(CLOCK_MONOTONIC) - (by_call(CLOCK_REALTIME) - by_call(CLOCK_MONOTONIC));
	printf("apart: %s\n", apart > -1000000000 && apart < 1000000000 ? "less than a second" : "too much");
}

static void show_day(void)
{
	time_t (*get_time)(time_t *) = (time_t (*)(time_t *))symbol("__vdso_time"), before = get_time(NULL), after;
	int (*get_day)(struct timeval *, void *) = (int (*)(struct timeval *, void *))symbol("__vdso_gettimeofday");
	struct timeval now = { 0, 0 };
	struct timezone zone = { 1, 1 };
	int result = get_day(&now, &zone);

	get_time(&after);
	/* time() is that of Linux's last tick: gettimeofday() can be in the next second before. */
	printf("gettimeofday %d, %s, ", result, before <= now.tv_sec && now.tv_sec <= after + 1 ? "in order" : "out of order");
	printf("zone %d %d\n", zone.tz_minuteswest, zone.tz_dsttime);
}

static void show_others(void)
{
	gettime get_resolution = (gettime)symbol("__vdso_clock_getres");
	long (*get_cpu)(unsigned int *, unsigned int *, void *) =
		(long (*)(unsigned int *, unsigned int *, void *))symbol("__vdso_getcpu");
	unsigned int cpu = ~0u, node = ~0u;
	struct timespec time;
	long result;

	for (int i = 0; i < CLOCKS; i++) {
		struct timespec by_function = { 1, 1 }, by_call = { 2, 2 };

		syscall(SYS_clock_getres, clocks[i].id, &by_call);
		result = get_resolution(clocks[i].id, &by_function);
		printf("%s: getres %ld, %s\n", clocks[i].name, result,
		       nanoseconds(&by_function) == nanoseconds(&by_call) ? "as the call's" : "other than the call's");
	}
	printf("getres without a place: %d\n", get_resolution(CLOCK_MONOTONIC, NULL));
	result = get_cpu(&cpu, &node, NULL);
	printf("getcpu %ld, %s\n", result, cpu < 4096 && node < 4096 ? "numbers" : "nothing");
	printf("unknown clock: %s\n", in_vdso(77, &time) ? "an error" : "no error");
}

/* -- single steps through the code, each with a way back to main -- */

static int steps, lost;
static uintptr_t code_end;

struct way {
	uintptr_t to;
	bool found;
};

static _Unwind_Reason_Code look_at(struct _Unwind_Context *context, void *argument)
{
	struct way *way = argument;

	way->found |= _Unwind_FindEnclosingFunction((void *)_Unwind_GetIP(context)) == (void *)way->to;
	return _URC_NO_REASON;
}

static __attribute__((noinline)) void step_through(void)
{
	struct timespec time;

	asm volatile("pushfq; orl $0x100, (%%rsp); popfq" : : : "memory", "cc");
	in_vdso(CLOCK_MONOTONIC, &time);
	asm volatile("pushfq; andl $~0x100, (%%rsp); popfq" : : : "memory", "cc");
}

static void on_step(int signal, siginfo_t *info, void *context)
{
	const uintptr_t rip = (uintptr_t)((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
	struct way way = { (uintptr_t)step_through, false };

	(void)signal, (void)info;
	if (rip < (uintptr_t)base || rip >= code_end)
		return;
	steps++;
	_Unwind_Backtrace(look_at, &way);
	lost += !way.found;
}

static void show_steps(void)
{
	const struct sigaction action = { .sa_sigaction = on_step, .sa_flags = SA_SIGINFO };
	const ElfW(Ehdr) *header = (const void *)base;
	const ElfW(Phdr) *segments = (const void *)(base + header->e_phoff);

	code_end = (uintptr_t)base + segments[0].p_memsz;
	sigaction(SIGTRAP, &action, NULL);
	step_through();
	printf("%s, %d without a way back\n", steps > 10 ? "many steps" : "no steps", lost);
}

/* -- with an argument -- */

/* A process changes its own copy. */
static void show_rights(void)
{
	char *page = (char *)base, byte;
	int ready[2];

	if (pipe(ready))
		return;
	if (!fork()) {
		(void)!read(ready[0], &byte, 1);
		printf("elsewhere: %d\n", page[4095]);
		_exit(0);
	}
	printf("code writable: %d\n", mprotect(page, 4096, PROT_READ | PROT_WRITE | PROT_EXEC));
	page[4095] = 1;
	printf("clocks writable: %d\n", mprotect(page - 4096, 4096, PROT_READ | PROT_WRITE));
	printf("here: %d\n", page[4095]);
	(void)!write(ready[1], "", 1);
	wait(NULL);
	printf("unmapped: %d\n", munmap(page, 4096));
}

/* For one to two seconds; how often the clock was read. */
static void read_clock(void)
{
	const time_t end = time(NULL) + 2;
	struct timespec now;
	long count = 0;

	do
		count++;
	while (!clock_gettime(CLOCK_REALTIME, &now) && now.tv_sec < end);
	printf("%ld\n", count);
}

int main(int argc, char **argv)
{
	base = (const char *)getauxval(AT_SYSINFO_EHDR);
	setvbuf(stdout, NULL, _IONBF, 0);
	if (!base) {
		puts("no vDSO");
		return 1;
	}
	in_vdso = (gettime)symbol("__vdso_clock_gettime");
	if (argc > 1) {
		(argv[1][0] == 'r' ? show_rights : read_clock)();
		return 0;
	}
	show_symbols();
	show_maps();
	compare_clocks();
	show_day();
	show_others();
	show_steps();
	return 0;
}
