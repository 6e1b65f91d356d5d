// SPDX-License-Identifier: Apache-2.0
/* Pins threads to one CPU each and checks it by getcpu(). With an argument, it runs two threads that compute for ever. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static volatile int both;

static int is_on(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		return 0;
	for (int i = 0; i < 200; i++) {
		if (sched_getcpu() != cpu)
			return 0;
		sched_yield();
	}
	return 1;
}

static void *move(void *argument)
{
	int good = 1;

	for (int i = 0; i < 30; i++)
		good = good && is_on((int)((long)argument + i) % 3);
	return (void *)(long)good;
}

static void *compute(void *argument)
{
	both++;
	for (volatile long i = 0;; i++)
		;
	return argument;
}

int main(int argc, char **argv)
{
	pthread_t threads[3];
	void *good;

	(void)argv;
	if (argc > 1) {
		pthread_create(threads, NULL, compute, NULL);
		while (!both)
			;
		printf("waits\n");
		fflush(stdout);
		compute(NULL);
	}
	for (long i = 0; i < 3; i++)
		pthread_create(&threads[i], NULL, move, (void *)i);
	for (int i = 0; i < 3; i++) {
		pthread_join(threads[i], &good);
		printf(good ? "placed\n" : "elsewhere\n");
	}
	return 0;
}
