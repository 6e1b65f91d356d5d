// SPDX-License-Identifier: Apache-2.0
/* Does something bad, named by its argument. Those that survive it print a line. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096
#define STUB 0x10000ul /* where the ptrace platform has its own page */

static volatile int sink;

static char *pages(size_t count, int prot)
{
	return mmap(NULL, count * PAGE, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static void say(const char *what, long value)
{
	printf("%s %ld\n", what, value);
	fflush(stdout);
}

static volatile int *volatile null = (volatile int *)16;

static void read_null(void) { sink = *null; }
static void read_kernel(void) { sink = *(volatile int *)0xffff888000000000; }
static void read_wild(void) { sink = *(volatile int *)0x8000000000000000; }
static void write_code(void) { *(volatile char *)read_null = 1; }
static void write_read_only(void) { *(volatile char *)pages(1, PROT_READ) = 1; }
static void write_stub(void) { *(volatile char *)STUB = 1; }
static void read_none(void) { sink = *(volatile char *)pages(1, PROT_NONE); }
static void jump_data(void) { ((void (*)(void))memset(pages(1, PROT_READ | PROT_WRITE), 0xc3, 1))(); }
static void jump_null(void) { asm volatile("jmp *%0" : : "r"(0ul)); }
static void undefined(void) { asm volatile("ud2"); }
static void divide(void) { asm volatile("xor %%edx, %%edx; div %%edx" : : : "eax", "edx"); }
static void breakpoint(void) { asm volatile("int3"); }
static void privileged(void) { asm volatile("hlt"); }
static void single_step(void) { asm volatile("pushfq; orl $0x100, (%%rsp); popfq; nop; nop" : : : "memory"); }
static void misaligned(void)
{
	asm volatile("pushfq; orl $0x40000, (%%rsp); popfq; movl 1(%%rsp), %%eax" : : : "eax", "memory");
}

static int deep(int level)
{
	volatile char frame[PAGE];

	frame[0] = (char)level;
	if (sink)
		return 0; /* never */
	return deep(level + 1) + frame[0];
}

static void overflow_stack(void) { sink = deep(0); }
static void fill_memory(void) { memset(pages(1 << 18, PROT_READ | PROT_WRITE), 1, 1ul << 30); }
static void no_stack(void) { asm volatile("xor %%esp, %%esp; push %%rax" : : : "memory"); }

/* The kernel's half is no place for a base, but WRFSBASE and the like do not ask a kernel. */
static void kernel_base(void)
{
	asm volatile("wrgsbase %0" : : "r"(0xffff888000000000));
	say("pid is positive:", getpid() > 0);
}

/* From the platform's own page: just another system call of the program. */
static void call_stub(void)
{
	register long r10 asm("r10") = 0x22, r8 asm("r8") = -1, r9 asm("r9") = 0;
	long result = SYS_munmap;

	asm volatile("call *%1" : "+a"(result) : "r"(STUB), "D"(0), "S"(STUB), "d"(0), "r"(r10), "r"(r8), "r"(r9)
		     : "rcx", "r11", "memory");
	say("unreachable", result);
}

static void many_mappings(void)
{
	char *all = pages(1 << 18, PROT_READ);
	long count = 0;

	while (count < 1 << 17 && !mprotect(all + 2 * PAGE * count, PAGE, PROT_NONE))
		count++;
	say("mappings are limited:", count < 1 << 17 && errno == ENOMEM);
	say("and the limit is no trap:", munmap(all, (size_t)PAGE << 18));
}

static void reuse_memory(void)
{
	for (int i = 0; i < 40; i++) { /* ten times what the sandbox has, but never at once */
		char *some = pages(4096, PROT_READ | PROT_WRITE);

		for (int at = 0; at < 4096; at++)
			sink += some[(long)at * PAGE]++;
		munmap(some, 4096ul * PAGE);
	}
	say("pages were zeros:", sink == 0);
}

static void numbers(void)
{
	static const long numbers[] = { -1, 400, 511, 512, 1 << 20, 1l << 31, 0x4000000000000000, (long)1 << 63 };
	long known = 0;

	for (size_t i = 0; i < sizeof(numbers) / sizeof(*numbers); i++)
		known += syscall(numbers[i], -1, -1, -1, -1, -1, -1) == -1;
	say("failed:", known);
}

static void thirty_two(void)
{
	long result = 20; /* getpid of the 32-bit interface; writev of the other */

	asm volatile("int $0x80" : "+a"(result) : "D"(0), "S"(0), "d"(0) : "r8", "r9", "r10", "r11", "memory");
	say("result", result);
}

static void *wait_for_ever(void *argument)
{
	for (;;)
		pause();
	return argument;
}

/* As many children as there may be, then as many zombies, then threads. */
static void fill_processes(void)
{
	static pid_t children[4096];
	pthread_t thread;
	siginfo_t end;
	int count = 0;

	while (count < 4096 && (children[count] = fork()) > 0)
		count++;
	if (count < 4096 && !children[count])
		wait_for_ever(NULL);
	say("children", count);
	say("error", errno);
	for (int i = 0; i < count; i++) {
		kill(children[i], SIGKILL);
		waitid(P_PID, (id_t)children[i], &end, WEXITED | WNOWAIT);
	}
	say("beside zombies", fork() < 0 ? errno : 0);
	while (wait(NULL) > 0)
		;
	for (count = 0; !pthread_create(&thread, NULL, wait_for_ever, NULL);)
		count++;
	say("threads", count);
	_exit(0);
}

/* All processes fork for ever; the first one until it cannot, and then until there is input. */
static void fork_bomb(void)
{
	pid_t first = getpid();

	while (fork() >= 0 || getpid() != first)
		;
	say("full", errno);
	getchar();
	_exit(5);
}

static const struct {
	const char *name;
	void (*run)(void);
} deeds[] = {
	{ "read_null", read_null }, { "read_kernel", read_kernel }, { "read_wild", read_wild },
	{ "write_code", write_code }, { "write_read_only", write_read_only }, { "write_stub", write_stub },
	{ "read_none", read_none }, { "jump_data", jump_data }, { "jump_null", jump_null }, { "undefined", undefined },
	{ "divide", divide }, { "breakpoint", breakpoint }, { "privileged", privileged },
	{ "single_step", single_step }, { "misaligned", misaligned }, { "overflow_stack", overflow_stack },
	{ "fill_memory", fill_memory }, { "no_stack", no_stack }, { "kernel_base", kernel_base },
	{ "call_stub", call_stub }, { "many_mappings", many_mappings }, { "reuse_memory", reuse_memory },
	{ "numbers", numbers }, { "thirty_two", thirty_two }, { "abort", abort },
	{ "fill_processes", fill_processes }, { "fork_bomb", fork_bomb },
};

int main(int argc, char **argv)
{
	for (size_t i = 0; argc > 1 && i < sizeof(deeds) / sizeof(*deeds); i++)
		if (!strcmp(argv[1], deeds[i].name))
			deeds[i].run();
	return 0;
}
