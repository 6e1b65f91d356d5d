// SPDX-License-Identifier: Apache-2.0
/* Breakpoints of the CPU, which a tracer sets: what each call returns, and where the child stops. */
#define _GNU_SOURCE
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <unistd.h>

#include "report.h"

#define REGISTER(n) (offsetof(struct user, u_debugreg) + 8 * (n))
#define SET(n, value) (printf("%d -- register %d\n", __LINE__, n), TRY(ptrace, PTRACE_POKEUSER, child, REGISTER(n), value))
#define SHOW(n) show_register(__LINE__, n)
#define WATCH(i, kind, size) (1ul << 2 * (i) | ((unsigned long)(kind) | (unsigned long)(size) << 2) << (16 + 4 * (i)))

enum { EXECUTE = 0, WRITE = 1, ACCESS = 3, ONE = 0, TWO = 1, EIGHT = 2, FOUR = 3 };

static volatile long values[4] __attribute__((aligned(32)));
static pid_t child;

static void __attribute__((noinline)) visited(void)
{
	asm volatile("");
}

static void show_register(int line, int n)
{
	unsigned long value = 0;
	long result = syscall(SYS_ptrace, PTRACE_PEEKUSER, child, REGISTER(n), &value);

	if (value == (unsigned long)visited || (value >= (unsigned long)values && value < (unsigned long)(values + 4)))
		printf("%d register %d: an address\n", line, n);
	else
		printf("%d register %d: %s %lx\n", line, n, result ? strerrorname_np(errno) : "ok", value);
}

/* Continue the child, and show where it stops next. */
static void next(int line, long how)
{
	struct user_regs_struct regs;
	siginfo_t info;
	int status = 0;

	syscall(SYS_ptrace, how, child, 0, 0);
	waitpid(child, &status, 0);
	printf("%d wait: %x", line, status);
	if (WIFSTOPPED(status)) {
		memset(&info, 0, sizeof(info));
		syscall(SYS_ptrace, PTRACE_GETSIGINFO, child, 0, &info);
		syscall(SYS_ptrace, PTRACE_GETREGS, child, 0, &regs);
		printf(", code %d, the address is RIP: %d, flags %llx%s", info.si_code, (unsigned long)info.si_addr == regs.rip,
		       regs.eflags & 0x10100, regs.rip == (unsigned long)visited ? ", in the function" : "");
	}
	printf("\n");
	if (WIFSTOPPED(status))
		show_register(line, 6);
}

#define NEXT(how) next(__LINE__, how)

static void begin(void (*deeds)(void))
{
	int status;

	fflush(stdout);
	child = fork();
	if (!child) {
		syscall(SYS_ptrace, PTRACE_TRACEME, 0, 0, 0);
		raise(SIGSTOP);
		deeds();
		_exit((int)values[0]);
	}
	waitpid(child, &status, 0);
}

static void deeds(void)
{
	values[0] = 1;
	values[1] = 2;
	visited();
	values[3] = values[2];
	visited();
	((volatile char *)values)[9] = 1;
	((volatile char *)values)[8] = 1;
	asm volatile("int3");
}

static void test_errors(void)
{
	begin(deeds);
	for (int n = 0; n < 8; n++)
		SHOW(n);
	SET(4, 0);
	SET(4, 1);
	SET(5, 1);
	SET(0, 0xffff800000000000);
	SET(0, -8L);
	SET(0, 0x7ffffffff000);
	SET(0, 0x800000000000);
	SET(7, 1L << 32 | 0x400);
	SHOW(7);
	SET(7, 0x2000); /* which would trap what the core does with these registers */
	SHOW(7);
	SET(7, 0);
	SET(0, (long)&values[0] + 1);
	SHOW(0);
	SET(7, WATCH(0, WRITE, EIGHT));
	SHOW(7);
	SET(0, &values[0]);
	SET(7, WATCH(0, WRITE, EIGHT));
	SET(0, (long)&values[0] + 4);
	SHOW(0);
	SET(7, WATCH(0, 2, ONE));
	SET(7, WATCH(0, EXECUTE, FOUR));
	SET(7, WATCH(0, ACCESS, TWO));
	SET(6, 0);
	SHOW(6);
	SET(6, 0xffff0ff0);
	SHOW(6);
	SET(7, 0);
	NEXT(PTRACE_CONT);
	NEXT(PTRACE_CONT);
}

static void test_stops(void)
{
	begin(deeds);
	SET(0, &values[0]);
	SET(7, WATCH(0, WRITE, EIGHT));
	NEXT(PTRACE_CONT);
	SET(6, 0);
	SET(1, visited);
	SET(2, &values[2]);
	SET(7, WATCH(0, WRITE, EIGHT) | WATCH(1, EXECUTE, ONE) | WATCH(2, ACCESS, EIGHT));
	SHOW(7);
	NEXT(PTRACE_CONT); /* in the function */
	NEXT(PTRACE_SINGLESTEP);
	NEXT(PTRACE_CONT); /* the read */
	NEXT(PTRACE_SINGLESTEP);
	NEXT(PTRACE_CONT); /* in the function */
	SET(3, (long)&values[1] + 1);
	SET(7, WATCH(3, WRITE, ONE));
	NEXT(PTRACE_CONT); /* one byte, and not its neighbour */
	NEXT(PTRACE_CONT); /* int3 */
	SHOW(0);
	NEXT(PTRACE_CONT);
}

static void calls(void)
{
	pid_t other;

	(void)!read(3, (void *)values, 8); /* a write by the kernel */
	other = fork();
	if (!other) {
		values[0] = 7; /* in a child without breakpoints */
		_exit(0);
	}
	waitpid(other, NULL, 0);
	values[0] = 9;
	execl("/proc/self/exe", "breakpoints", "again", NULL);
}

static void test_other_programs(void)
{
	int ends[2];

	(void)!pipe(ends);
	dup2(ends[0], 3);
	(void)!write(ends[1], "12345678", 8);
	begin(calls);
	SET(0, &values[0]);
	SET(7, WATCH(0, WRITE, EIGHT));
	NEXT(PTRACE_CONT); /* the program's own write; or the signal of its child */
	NEXT(PTRACE_CONT);
	NEXT(PTRACE_CONT); /* the exec */
	SHOW(0);
	SHOW(7);
	NEXT(PTRACE_CONT);
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "again"))
		return 5;
	alarm(30);
	test_errors();
	test_stops();
	test_other_programs();
	return 42;
}
