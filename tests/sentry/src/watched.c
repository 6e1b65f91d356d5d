// SPDX-License-Identifier: Apache-2.0
/* For a debugger that watches variables and stops at a function, of two threads. */
#include <pthread.h>
#include <stdio.h>
static volatile int value, other, seen;
static void __attribute__((noinline)) visited(void)
{
	seen++;
}
static void *work(void *unused)
{
	value = 3;
	return unused;
}
int main(void)
{
	pthread_t thread;

	seen = -1; /* where a breakpoint is: QEMU reports a step twice that also writes to a watched variable */
	value = 1;
	value = 2;
	seen = other;
	visited();
	pthread_create(&thread, NULL, work, NULL);
	pthread_join(thread, NULL);
	printf("value %d\n", value);
	return value;
}
