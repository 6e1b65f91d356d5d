// SPDX-License-Identifier: Apache-2.0
/*
 * Attacks what the trap platform keeps above a program: its code, what the core writes for it, and a stack for signals.
 *
 * Each deed runs in a process of its own, and the parent prints how that ended.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* As trap/stub.h has it. */
#define STUB 0x7fffffff0000ul
#define CONTROL (STUB + 0x1000)
#define STACK (STUB + 0x5000)
#define END (STUB + 0xf000)

enum { PAGE = 4096, CODE_SIZE = 612, REACHED = 7 };

static char *const place = (char *)0x600000000000;
static int entered;

static void report(const char *what, long value)
{
	printf("%s %ld\n", what, value);
	fflush(stdout);
}

/* -- jumps into the stub -- */

/*
 * Go there with registers for a call. Some ways lead back here, to the state of an earlier call: what the deed was
 * about must not be there.
 */
static void enter(unsigned long at, const long *registers)
{
	if (entered++) {
		alarm(0);
		exit(*place ? REACHED : REACHED + 1);
	}
	asm volatile("mov (%1), %%rax; mov 8(%1), %%rdi; mov 16(%1), %%rsi; mov 24(%1), %%rdx; mov 32(%1), %%r10;"
		     "mov 40(%1), %%r8; mov 48(%1), %%r9; xor %%ebx, %%ebx; xor %%ebp, %%ebp; jmp *%0"
		     :
		     : "r"(at), "r"(registers)
		     : "memory");
}

static const long map_ram[] = { SYS_mmap, 0x600000000000, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, 0, 0 };
static const long map_blocks[] = { SYS_mmap, 0x600000000000, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, 1, 0 };
static const long unmap_control[] = { SYS_munmap, (long)CONTROL, PAGE };
static const long copy[] = { SYS_clone, CLONE_PARENT | SIGCHLD };
static const long send_nothing[] = { SYS_sendmsg, 2 };
static const long fault[] = { SYS_getpid, SIGSEGV, (long)STACK + 64, (long)STACK + 1024 };
static const long nonsense[] = { SYS_getpid, 77, -8, 0x10, 1, 1l << 62 };
static const long nothing[] = { SYS_getpid, 0, 1234 };
static const long interruption[] = { SYS_getpid, SIGURG, 0, (long)STACK };

/* At each byte of the code: how many of the processes ended, without what they wanted. */
static void everywhere(const char *what, const long *registers)
{
	long ended = 0;

	for (unsigned long at = STUB; at < STUB + CODE_SIZE; at++) {
		int status = 0;
		pid_t child = fork();

		if (!child) {
			alarm(20);
			enter(at, registers);
		}
		if (waitpid(child, &status, 0) == child)
			ended += WIFSIGNALED(status) && WTERMSIG(status) != SIGALRM;
	}
	report(what, ended);
}

/* -- other attacks -- */

static void alone(const char *what, void (*deed)(void))
{
	int status = 0;
	pid_t child = fork();

	if (!child) {
		deed();
		exit(0);
	}
	waitpid(child, &status, 0);
	report(what, WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status));
}

static void write_code(void) { *(volatile char *)STUB = 0; }
static void write_control(void) { *(volatile char *)CONTROL = 0; }

static void write_stack(void)
{
	memset((void *)STACK, 0xff, END - STACK);
	report("  there is a parent:", getppid() > 0);
	report("  no such file:", access("/absent", 0));
}

/* The frame of a signal lands elsewhere on its stack. */
static void use_stack(void)
{
	long result;

	asm volatile("mov %%rsp, %%rbx; mov %1, %%rsp; syscall; mov %%rbx, %%rsp"
		     : "=a"(result)
		     : "r"(END - 64), "a"(SYS_access), "D"("/absent"), "S"(0)
		     : "rbx", "rcx", "r11", "memory");
	report("  result:", result);
}

static void overflow_stack(void)
{
	asm volatile("mov %0, %%rsp; ud2" : : "r"(STACK + 128));
}

static void change_mappings(void)
{
	void *at = mmap((void *)STUB, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);

	report("  mapped:", at != MAP_FAILED);
	report("  unmapped:", munmap((void *)STUB, END - STUB));
	report("  protected:", mprotect((void *)CONTROL, PAGE, PROT_READ | PROT_WRITE));
	report("  moved:", mremap((void *)STACK, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, place) != MAP_FAILED);
	*(volatile char *)CONTROL = 0;
}

/* An endless loop, half of which is an instruction of the stub. */
static void hide_in_stub(void)
{
	const unsigned char *at = (const unsigned char *)STUB;
	static unsigned long frame[5];
	pid_t child = fork();

	while (at[0] != 0x48 || at[1] != 0xcf) /* IRETQ */
		at++;
	if (!child)
		asm volatile("lea 1f(%%rip), %%rax; mov %%rax, (%0); movq $0x33, 8(%0); movq $0x202, 16(%0); mov %%rsp, 24(%0);"
			     "movq $0x2b, 32(%0)\n1: mov %0, %%rsp; jmp *%1"
			     :
			     : "r"(frame), "r"(at)
			     : "rax", "memory");
	for (int i = 0; i < 5; i++)
		usleep(10000); /* its end interrupts the loop, wherever that is */
	kill(child, SIGTERM);
	waitpid(child, NULL, 0);
}

int main(void)
{
	alone("code", write_code);
	alone("control", write_control);
	alone("stack", write_stack);
	alone("use", use_stack);
	alone("overflow", overflow_stack);
	alone("mappings", change_mappings);
	alone("hidden", hide_in_stub);
	everywhere("RAM", map_ram);
	everywhere("blocks", map_blocks);
	everywhere("unmap", unmap_control);
	everywhere("copy", copy);
	everywhere("send", send_nothing);
	everywhere("fault", fault);
	everywhere("nonsense", nonsense);
	everywhere("nothing", nothing);
	everywhere("interruption", interruption);
	return 0;
}
