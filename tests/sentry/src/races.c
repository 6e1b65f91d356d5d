// SPDX-License-Identifier: Apache-2.0
/* Two threads change a file or directory at once, while one of them waits for the lower layer. The argument is a tree. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>

#include "report.h"

enum { PAGE = 4096, STRIDE = 64 * PAGE, ROUNDS = 50, GROUPS = 4000, GROUP = 8, MIDDLE = 40 };

static int target, ends[2];
static const char *large; /* a mapping of which each part that is touched must be read first */
static volatile int step;

/* Start a thread, and wait until it is about to do what matters. */
static pthread_t start(void *(*run)(void *), void *argument)
{
	pthread_t thread;

	step = 0;
	pthread_create(&thread, NULL, run, argument);
	while (!step)
		sched_yield();
	return thread;
}

static void *write_parts(void *unused)
{
	step = 1;
	for (int i = 0; i < ROUNDS; i++)
		if (pwrite(target, large + (size_t)i * STRIDE, PAGE, 0) != PAGE)
			printf("    a write failed\n");
	step = 2;
	return unused;
}

/* A write sleeps with a page that a truncation frees: it must not end in other memory. */
static void truncate_during_writes(void)
{
	static char *groups[GROUPS];
	unsigned int changed = 0, count = 0;
	pthread_t writer;

	large = mmap(NULL, (size_t)ROUNDS * STRIDE, PROT_READ, MAP_PRIVATE, open("large", O_RDONLY), 0);
	target = open("target", O_CREAT | O_RDWR, 0644);
	for (writer = start(write_parts, NULL); step < 2; usleep(10)) { /* so that the writer runs */
		ftruncate(target, 0);
		if (count == GROUPS)
			continue;
		groups[count] = mmap(NULL, GROUP * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		for (int i = 0; i < GROUP; i++)
			groups[count][i * PAGE] = 0;
		count++;
	}
	pthread_join(writer, NULL);
	while (count--)
		for (int i = 0; i < GROUP; i++)
			changed += groups[count][i * PAGE] != 0;
	printf("pages that a write changed: %u\n", changed);
}

static void *touch(void *map)
{
	step = 1;
	write(ends[1], (char *)map + MIDDLE * PAGE, 1);
	return NULL;
}

/* A mapping must not show a page that a fault read before the file changed. */
static void truncate_during_faults(void)
{
	unsigned int old = 0;
	char name[20];

	pipe(ends);
	for (int i = 0; i < ROUNDS; i++) {
		int fd = (sprintf(name, "mapped/%d", i), open(name, O_RDWR));
		char *map = mmap(NULL, STRIDE, PROT_READ, MAP_SHARED, fd, 0);
		pthread_t reader;

		old += map[0] != 'x';
		reader = start(touch, map);
		ftruncate(fd, PAGE), ftruncate(fd, STRIDE);
		pthread_join(reader, NULL);
		old += map[MIDDLE * PAGE] != 0;
		close(fd);
	}
	printf("mappings of old content: %u\n", old);
}

static void *remove_directory(void *name)
{
	step = 1;
	return (void *)(long)!rmdir(name);
}

/* Either the directory is removed, or an entry is made in it. */
static void create_during_removals(void)
{
	unsigned int both = 0, neither = 0;
	char name[20], entry[30];

	for (int i = 0; i < ROUNDS; i++) {
		pthread_t remover;
		void *removed;
		int created;

		sprintf(name, "folders/%d", i), sprintf(entry, "folders/%d/entry", i);
		close(open(entry, O_CREAT | O_WRONLY, 0644)), unlink(entry);
		remover = start(remove_directory, name);
		created = open(entry, O_CREAT | O_WRONLY, 0644) >= 0;
		pthread_join(remover, &removed);
		both += removed && created;
		neither += !removed && !created;
	}
	printf("directories that went with an entry: %u, that stayed without: %u\n", both, neither);
}

static void *read_mappings(void *buffer)
{
	step = 1;
	pread(target, buffer, PAGE, 0);
	return NULL;
}

/* A read copies a text that another read replaces by a longer one. */
static void grow_during_reads(void)
{
	static char other[1 << 16];
	unsigned int damaged = 0;
	int file = open("buffers", O_RDONLY);

	for (int i = 0; i < ROUNDS; i++) {
		char *buffer = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, (off_t)i * STRIDE);
		pthread_t reader;

		target = open("/proc/self/maps", O_RDONLY);
		reader = start(read_mappings, buffer);
		for (int j = 0; j < 20; j++)
			mmap(NULL, PAGE, j % 2 ? PROT_READ : PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		pread(target, other, sizeof(other), 0);
		pthread_join(reader, NULL);
		damaged += memmem(buffer, PAGE, "kkkk", 4) || !memchr(buffer, '-', 20);
		close(target);
	}
	printf("damaged texts: %u\n", damaged);
}

int main(int argc, char **argv)
{
	if (argc != 2 || chdir(argv[1]))
		return 1;
	truncate_during_writes();
	truncate_during_faults();
	create_during_removals();
	grow_during_reads();
	return 42;
}
