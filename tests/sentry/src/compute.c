// SPDX-License-Identifier: Apache-2.0
/* Prints the nanoseconds that threads need to compute, each the same amount: how many threads, and how many steps. */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { MOST = 64 };

static long steps;
static uint64_t results[MOST];

static void *compute(void *argument)
{
	uint64_t value = 1 + (uintptr_t)argument;

	for (long i = 0; i < steps; i++)
		value = value * 6364136223846793005u + 1442695040888963407u;
	results[(uintptr_t)argument] = value;
	return NULL;
}

static long now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000 + time.tv_nsec;
}

int main(int argc, char **argv)
{
	long count = argc == 3 ? atol(argv[1]) : 0, begin = now();
	pthread_t threads[MOST];

	if (count < 1 || count > MOST)
		return 2;
	steps = atol(argv[2]);
	for (long i = 0; i < count; i++)
		if (pthread_create(&threads[i], NULL, compute, (void *)i))
			return 1;
	for (long i = 0; i < count; i++)
		if (pthread_join(threads[i], NULL))
			return 1;
	printf("compute %ld\n", now() - begin);
	for (long i = 0; i < count; i++)
		if (!results[i])
			return 1;
	return 0;
}
