// SPDX-License-Identifier: Apache-2.0
/* Work is CPU time wherever the system calls are: none, before one that sleeps, after the last one of a process. */
#define _GNU_SOURCE
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { TURNS = 20 };

static double seconds(const struct rusage *usage)
{
	return (double)(usage->ru_utime.tv_sec + usage->ru_stime.tv_sec) +
	       (double)(usage->ru_utime.tv_usec + usage->ru_stime.tv_usec) / 1e6;
}

static double used(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return seconds(&usage);
}

static void work(void)
{
	for (volatile unsigned i = 0; i < 1000000; i++)
		;
}

int main(void)
{
	struct timespec soon = { 0, 1000 };
	double start = used(), alone;
	struct rusage usage;

	for (int i = 0; i < TURNS; i++)
		work();
	alone = used() - start; /* on a busy host, several times what it is later */
	printf("work counts: %d\n", alone > 0.002); /* no CPU is so fast */
	start = used();
	for (int i = 0; i < TURNS; i++) {
		getppid();
		work();
		nanosleep(&soon, NULL); /* a call that sleeps is what this is about */
	}
	printf("before a call that sleeps: %d\n", used() - start > alone / 10);
	if (!fork()) {
		getppid();
		for (int i = 0; i < TURNS; i++)
			work();
		_exit(0);
	}
	wait4(-1, NULL, 0, &usage);
	printf("before the end: %d\n", seconds(&usage) > alone / 10);
	return 0;
}
