// SPDX-License-Identifier: Apache-2.0
/* Without a C library: exits with 0 if the memory from its end to the end of the page is zeros. */
char first = 1, more[8];
extern const char _end[];

void _start(void)
{
	const volatile char *at = _end;
	long status = 0;

	for (; (unsigned long)at % 4096; at++)
		status |= *at != 0;
	if (!first || more[0])
		status = 2;
	asm volatile("syscall" : : "a"(231L), "D"(status) : "rcx", "r11", "memory"); /* exit_group */
	__builtin_unreachable();
}
