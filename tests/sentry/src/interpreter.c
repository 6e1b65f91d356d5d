// SPDX-License-Identifier: Apache-2.0
/*
 * Makes the system calls of a program that tests/sentry/fuzz.py wrote, and prints what each returned and did to memory.
 *
 * Memory is at the same address natively and on the Sentry, so that pointers are numbers: pages of data, a page of texts
 * that is read-only, one without access, and a hole. What cannot be equal is overwritten before it is compared.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { PAGE = 4096, DATA_PAGES = 4, CALLS = 1024, FOLDER = 0xffff, OUTPUT = 200 };
#define DATA ((unsigned char *)0x20000000)
#define TIMEOUT (TEXTS - 16)
#define TEXTS (DATA + DATA_PAGES * PAGE)
#define PLAY_END 0x30100000ul

/* A record of the file; numbers of pokes and masks follow it. */
struct call {
	unsigned short number;
	unsigned char references, pokes, masks, pad[3];
	unsigned long args[6];
};

struct poke {
	unsigned long offset, value;
};

struct mask {
	unsigned short offset, size;
};

static unsigned char program[1 << 20];
static long results[CALLS];
static int verbose;

static void fail(const char *what)
{
	dprintf(OUTPUT, "%s: %s\n", what, strerror(errno));
	_exit(1);
}

static unsigned long hash(const unsigned char *bytes, size_t size)
{
	unsigned long value = 0xcbf29ce484222325;

	for (size_t i = 0; i < size; i++)
		value = (value ^ bytes[i]) * 0x100000001b3;
	return value;
}

/* A folder's size and number of links depend on the file system. */
static void normalize_stat(unsigned char *at)
{
	struct stat *status = (struct stat *)at;

	status->st_dev = status->st_ino = 0;
	status->st_blksize = status->st_blocks = 0;
	memset(&status->st_atim, 0, 3 * sizeof(struct timespec));
	if (S_ISDIR(status->st_mode))
		status->st_size = status->st_nlink = 0;
}

static void apply_masks(const struct mask *masks, unsigned int count)
{
	for (unsigned int i = 0; i < count; i++) {
		unsigned int room = DATA_PAGES * PAGE - masks[i].offset;

		if (masks[i].size == FOLDER)
			normalize_stat(DATA + masks[i].offset);
		else
			memset(DATA + masks[i].offset, 0, masks[i].size < room ? masks[i].size : room);
	}
}

static void show_memory(void)
{
	for (unsigned int i = 0; i < DATA_PAGES * PAGE; i += 8)
		if (*(unsigned long *)(DATA + i))
			dprintf(OUTPUT, "  %04x %016lx\n", i, *(unsigned long *)(DATA + i));
}

static void make_call(unsigned int index, const struct call *call)
{
	const struct poke *pokes = (const struct poke *)(call + 1);
	unsigned long args[6];
	char line[128];
	long result;
	int size;

	for (unsigned int i = 0; i < call->pokes; i++)
		*(unsigned long *)(DATA + pokes[i].offset) = pokes[i].value;
	for (unsigned int i = 0; i < 6; i++)
		args[i] = call->references >> i & 1 ? (unsigned long)results[call->args[i] % CALLS] : call->args[i];
	memset(TIMEOUT, 0, 16); /* calls may have written there, and none is to wait */
	errno = 0;
	result = syscall(call->number, args[0], args[1], args[2], args[3], args[4], args[5]);
	results[index] = result;
	apply_masks((const struct mask *)(pokes + call->pokes), call->masks);
	size = snprintf(line, sizeof(line), "%u %s%lx %s %lx\n", index, result < -1 || result > 0xffffffffl ? "@" : "",
			result > (long)PLAY_END ? 0 : result, result == -1 ? strerrorname_np(errno) : "0",
			hash(DATA, DATA_PAGES * PAGE));
	if (write(OUTPUT, line, (size_t)size) != size)
		_exit(2);
	if (verbose)
		show_memory();
}

static void make_memory(const unsigned char *texts, size_t size)
{
	unsigned char *all = mmap(DATA, (DATA_PAGES + 3) * PAGE, PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);

	if (all != DATA)
		fail("mmap");
	memcpy(TEXTS, texts, size);
	mprotect(TEXTS, PAGE, PROT_READ);
	mprotect(TEXTS + PAGE, PAGE, PROT_NONE);
	munmap(TEXTS + 2 * PAGE, PAGE);
}

/* All that the program can refer to by a number is the same natively and on the Sentry. */
static void make_world(const char *root)
{
	const struct rlimit descriptors = { 256, 256 };

	if (dup2(1, OUTPUT) < 0)
		_exit(2);
	if (*root && (chroot(root) || chdir("/")))
		fail("chroot");
	setrlimit(RLIMIT_NOFILE, &descriptors);
	umask(022);
	if ((mkdir("/w", 0755) && errno != EEXIST) || chdir("/w"))
		fail("/w");
	signal(SIGPIPE, SIG_IGN);
	for (int fd = 0; fd < 20; fd++)
		close(fd);
}

int main(int argc, char **argv)
{
	unsigned int size = 0, texts, index = 0;
	ssize_t got;

	if (argc < 2)
		return 2;
	verbose = argc > 2;
	while ((got = read(0, program + size, sizeof(program) - size)) > 0)
		size += (unsigned int)got;
	make_world(argv[1]);
	memcpy(&texts, program, 4);
	if (texts > PAGE || size < 8 + texts)
		fail("program");
	make_memory(program + 8, texts);
	for (unsigned int at = 8 + ((texts + 7) & ~7u); at + sizeof(struct call) <= size && index < CALLS; index++) {
		const struct call *call = (const struct call *)(program + at);

		make_call(index, call);
		at += sizeof(*call) + call->pokes * sizeof(struct poke) + ((call->masks * sizeof(struct mask) + 7) & ~7u);
	}
	return 0;
}
