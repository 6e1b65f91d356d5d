// SPDX-License-Identifier: Apache-2.0
/*
 * Makes the system calls of programs that tests/sentry/fuzz.py wrote, and prints what each returned and did to memory.
 * Standard input has the programs, each behind its size; each runs in a process and a root directory of its own.
 *
 * Memory is at the same address natively and on the Sentry, so that pointers are numbers: pages of data, a page of texts
 * that is read-only, one without access, and a hole. What cannot be equal is overwritten before it is compared.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, DATA_PAGES = 4, CALLS = 1024, FOLDER = 0xffff, OUTPUT = 200, LIMIT_S = 20 };
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
	else if (!(status->st_mode & S_IFMT)) /* descriptors without a file: their attributes depend on Linux's version */
		memset(status, 0, sizeof(*status));
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

/* None is to wait. */
static void keep_nonblocking(unsigned int number, unsigned long *args)
{
	if (number == SYS_fcntl && args[1] == F_SETFL)
		args[2] |= O_NONBLOCK;
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
	keep_nonblocking(call->number, args);
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

/* A root directory with the devices that programs name. */
static void make_root(const char *root)
{
	static const struct {
		const char *name;
		unsigned int minor;
	} devices[] = { { "dev/null", 3 }, { "dev/zero", 5 } };

	if ((mkdir(root, 0755) && errno != EEXIST) || chroot(root) || chdir("/"))
		fail("root directory");
	if (mkdir("dev", 0755) && errno != EEXIST)
		fail("dev");
	for (unsigned int i = 0; i < sizeof(devices) / sizeof(*devices); i++)
		if (mknod(devices[i].name, S_IFCHR | 0666, makedev(1, devices[i].minor)) && errno != EEXIST)
			fail(devices[i].name);
}

/* All that the program can refer to by a number is the same natively and on the Sentry. */
static void make_world(const char *root)
{
	const struct rlimit descriptors = { 256, 256 };
	const stack_t none = { .ss_flags = SS_DISABLE };

	sigaltstack(&none, NULL); /* what exec leaves of it depends on the program before */
	if (dup2(1, OUTPUT) < 0)
		_exit(2);
	umask(0);
	make_root(root);
	setrlimit(RLIMIT_NOFILE, &descriptors);
	umask(022);
	if ((mkdir("/w", 0755) && errno != EEXIST) || chdir("/w"))
		fail("/w");
	signal(SIGPIPE, SIG_IGN);
	for (int fd = 0; fd < 20; fd++)
		close(fd);
}

static void run(unsigned int size)
{
	unsigned int texts, index = 0;

	memcpy(&texts, program, 4);
	if (texts > PAGE || size < 8 + texts)
		fail("program");
	make_memory(program + 8, texts);
	for (unsigned int at = 8 + ((texts + 7) & ~7u); at + sizeof(struct call) <= size && index < CALLS; index++) {
		const struct call *call = (const struct call *)(program + at);

		make_call(index, call);
		at += sizeof(*call) + call->pokes * sizeof(struct poke) + ((call->masks * sizeof(struct mask) + 7) & ~7u);
	}
	_exit(0);
}

static int read_all(void *to, size_t size)
{
	ssize_t got;

	for (size_t done = 0; done < size; done += (size_t)got) {
		got = read(0, (unsigned char *)to + done, size - done);
		if (got <= 0)
			return 0;
	}
	return 1;
}

/* Prints how a program ended; the parent's signals are blocked. */
static void await(pid_t pid, const sigset_t *ends)
{
	const struct timespec limit = { .tv_sec = LIMIT_S };
	int status;

	if (sigtimedwait(ends, NULL, &limit) < 0) {
		kill(pid, SIGKILL);
		dprintf(1, "it hangs\n");
	}
	if (waitpid(pid, &status, 0) != pid)
		fail("waitpid");
	sigtimedwait(ends, NULL, &(const struct timespec){ 0 });
	if (status)
		dprintf(1, "it ends with status %x\n", status);
	dprintf(1, "end\n");
}

static int drop(const char *path, const struct stat *status, int kind, struct FTW *place)
{
	(void)status, (void)kind, (void)place;
	return remove(path) && errno != ENOENT;
}

int main(int argc, char **argv)
{
	unsigned int size;
	char root[4096];
	sigset_t ends;

	if (argc < 2)
		return 2;
	verbose = argc > 2;
	sigemptyset(&ends);
	sigaddset(&ends, SIGCHLD);
	sigprocmask(SIG_BLOCK, &ends, NULL);
	for (int number = 0; read_all(&size, sizeof(size)); number++) {
		pid_t pid;

		if (size > sizeof(program) || !read_all(program, size))
			fail("input");
		snprintf(root, sizeof(root), "%s/%d", argv[1], number);
		pid = fork();
		if (!pid) {
			sigprocmask(SIG_UNBLOCK, &ends, NULL);
			make_world(root);
			run(size);
		}
		await(pid, &ends);
		nftw(root, drop, 16, FTW_DEPTH | FTW_PHYS); /* the next ones need the room */
	}
	return 0;
}
