// SPDX-License-Identifier: Apache-2.0
/*
 * Threads that write to the same pages at the same time, in different ways, after the program was stopped: no write is lost.
 * Says "ready" before, and then for each line that it reads one with what it has found: [] is nothing.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096, PAGES = 512, WRITERS = 3, TURNS = 100000, CALLS = 4000, SLOTS = 8, TEXT = 2048, SIZE = 64 };

static unsigned char *memory[2]; /* private, and shared with children */
static int file;
static unsigned long start[WRITERS];

static unsigned int next(unsigned int *state)
{
	return *state = *state * 1664525u + 1013904223u;
}

static unsigned long *slot(int which, unsigned int page, int writer)
{
	return (unsigned long *)(memory[which] + page * PAGE) + writer;
}

/* By instructions. */
static void *write_memory(void *number)
{
	const int writer = (int)(long)number;
	unsigned int state = (unsigned int)writer + 1;

	for (int i = 0; i < TURNS; i++)
		++*slot(i % 2, (next(&state) >> 8) % PAGES, writer);
	return NULL;
}

/* By calls: the core writes behind what the others do. */
static long write_by_calls(void)
{
	unsigned int state = 99;
	unsigned char text[SIZE];
	long wrong = 0;

	for (int i = 0; i < CALLS; i++) {
		const unsigned int page = (next(&state) >> 8) % PAGES, at = (next(&state) >> 8) % (PAGES * PAGE - SIZE);
		unsigned char *to = memory[i % 2] + page * PAGE + TEXT;

		if (pread(file, to, SIZE, at) != SIZE || pread(file, text, SIZE, at) != SIZE)
			wrong++;
		wrong += memcmp(to, text, SIZE) != 0;
	}
	return wrong;
}

/* A child sees what its parent had, and what it writes to shared memory stays. */
static long write_in_child(void)
{
	long wrong = 0;

	for (unsigned int page = 0; page < PAGES; page += 64) {
		unsigned char *last = memory[1] + page * PAGE + PAGE - 8, *own = memory[0] + page * PAGE + PAGE - 8;
		const unsigned char before = *last, mine = *own;
		const pid_t pid = fork();
		int status;

		if (!pid) {
			++*last;
			++*own;
			_exit(0);
		}
		wrong += waitpid(pid, &status, 0) != pid || status;
		wrong += *last != (unsigned char)(before + 1) || *own != mine;
	}
	return wrong;
}

static unsigned long sum(int writer)
{
	unsigned long found = 0;

	for (unsigned int page = 0; page < PAGES; page++)
		found += *slot(0, page, writer) + *slot(1, page, writer);
	return found;
}

int main(void)
{
	pthread_t threads[WRITERS];
	unsigned int state = 7;
	char line[64];

	file = memfd_create("file", 0);
	for (int which = 0; which < 2; which++) {
		memory[which] = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, (which ? MAP_SHARED : MAP_PRIVATE) | MAP_ANONYMOUS, -1, 0);
		for (int i = 0; i < PAGES * PAGE; i++)
			memory[which][i] = i % PAGE < SLOTS * 8 ? 0 : (unsigned char)(next(&state) >> 16);
	}
	if (write(file, memory[0], PAGES * PAGE) != PAGES * PAGE)
		return 1;
	printf("ready\n");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		long calls, children, lost = 0;

		for (long i = 0; i < WRITERS; i++) {
			start[i] = sum((int)i);
			pthread_create(&threads[i], NULL, write_memory, (void *)i);
		}
		calls = write_by_calls();
		children = write_in_child();
		for (int i = 0; i < WRITERS; i++) {
			pthread_join(threads[i], NULL);
			lost += sum(i) != start[i] + TURNS;
		}
		printf(calls || children || lost ? "[%ld, %ld, %ld]\n" : "[]\n", calls, children, lost);
		fflush(stdout);
	}
	return 0;
}
