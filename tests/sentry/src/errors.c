// SPDX-License-Identifier: Apache-2.0
/* Makes system calls, most of them wrong, and prints what each returns: the same natively and on the Sentry. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <time.h>

#include "report.h"

#define KERNEL ((void *)0xffff888000000000) /* not for programs */
#define WILD ((void *)0x8000000000000000)   /* not even an address */
#define HUGE_SIZE 0x7fffffffffffffff

static char *page, *read_only, *none, *edge; /* pages; edge: the last byte before a hole */
static char name[8192];

static void try_io(void)
{
	struct iovec negative = { page, -1 }, two[2] = { { page, 1 }, { BAD, 1 } }, kernel = { KERNEL, 1 };
	struct iovec kernel_negative[] = { kernel, negative };
	struct iovec some[3] = { { page, 2 }, { BAD, 0 }, { page + 2, 3 } }, hole[2] = { { read_only, 1 }, { page, 1 } };
	struct iovec more[2] = { { page, 2 }, { page + 100, 3000 } };
	int null = open("/dev/null", O_RDWR), zero = open("/dev/zero", O_RDONLY);

	TRY(read, -1, page, 1);
	TRY(read, 99, page, 1);
	TRY(read, 1u << 31, page, 1);
	TRY(read, 0, BAD, 1);
	TRY(read, 0, KERNEL, 1);
	TRY(read, 0, WILD, 1);
	TRY(read, 0, page, HUGE_SIZE);
	TRY(read, 0, read_only, 1);
	TRY(read, 0, none, 1);
	TRY(read, 0, NULL, 0);
	TRY(read, 0, page, 3);
	TRY(read, zero, edge, 5);
	TRY(readv, 0, some, 3);
	TRY(readv, 0, hole, 2);
	TRY(readv, zero, hole, 2);
	TRY(readv, 0, more, 2);
	show(__LINE__, "readv has read", page[0] << 16 | page[1] << 8 | page[100]);
	TRY(read, null, BAD, 1);
	TRY(read, zero, page, 4096);
	TRY(read, zero, BAD, 1);
	TRY(write, -1, page, 1);
	TRY(write, 1, BAD, 1);
	TRY(write, 1, BAD, 0);
	TRY(write, 1, KERNEL, 1);
	TRY(write, 1, none, 1);
	TRY(write, 1, page, -1l);
	TRY(write, null, BAD, 77);
	TRY(write, null, KERNEL, 77);
	TRY(write, zero, page, 1);
	TRY(readv, 0, BAD, 1);
	TRY(readv, 99, BAD, 1);
	TRY(readv, 0, two, 1025);
	TRY(readv, 0, two, -1);
	TRY(writev, 1, &negative, 1);
	TRY(writev, 1, &kernel, 1);
	TRY(writev, 1, kernel_negative, 2);
	TRY(readv, 0, BAD, 1l << 32 | 1);
	TRY(writev, 1, two, 0);
	TRY(writev, null, two, 2);
	TRY(lseek, 0, 0, SEEK_SET);
	TRY(lseek, 0, 0, 77);
	TRY(lseek, 99, 0, 77);
	TRY(lseek, null, 5, SEEK_SET);
	TRY(ioctl, 99, TIOCGWINSZ, page);
	TRY(ioctl, 0, TIOCGWINSZ, page);
	TRY(ioctl, 0, TCGETS, BAD);
	TRY(close, null);
	TRY(close, null);
	TRY(close, zero);
}

static void try_descriptors(void)
{
	struct rlimit few = { 8, 100 }, wrong = { 9, 8 };

	TRY(close, 99);
	TRY(close, -1);
	TRY(dup, 99);
	TRY(dup, 1);
	TRY(dup2, 1, 1);
	TRY(dup2, 99, 99);
	TRY(dup2, 1, -1);
	TRY(dup2, 1, 1 << 30);
	TRY(dup3, 1, 1, 0);
	TRY(dup3, 1, 5, 1);
	TRY(dup3, 99, 5, O_CLOEXEC);
	TRY(dup3, 1, 5, O_CLOEXEC);
	TRY(fcntl, 5, F_GETFD, 0);
	TRY(fcntl, 5, F_SETFD, 0);
	TRY(fcntl, 5, F_GETFD, 0);
	TRY(fcntl, 99, F_GETFD, 0);
	TRY(fcntl, 1, 77, 0);
	TRY(fcntl, 1, F_GETFL, 0);
	TRY(fcntl, 1, F_DUPFD, 6);
	TRY(fcntl, 1, F_DUPFD, -1);
	TRY(prlimit64, 0, RLIMIT_NOFILE, &wrong, NULL);
	TRY(prlimit64, 0, 99, NULL, page);
	TRY(prlimit64, 0, 99, BAD, page);
	TRY(prlimit64, 1 << 30, RLIMIT_NOFILE, NULL, page);
	TRY(prlimit64, 0, RLIMIT_NOFILE, NULL, BAD);
	TRY(prlimit64, 0, RLIMIT_NOFILE, &few, NULL);
	TRY(getrlimit, RLIMIT_NOFILE, page);
	TRY(getrlimit, 16, page);
	TRY(getrlimit, RLIMIT_NOFILE, BAD);
	TRY(dup, 1);
	TRY(dup, 1);
	TRY(dup, 1);
	TRY(open, "/dev/null", O_RDONLY);
	TRY(fcntl, 1, F_DUPFD, 8);
	TRY(dup2, 1, 8);
	for (int fd = 3; fd < 8; fd++)
		close(fd);
}

static void try_names(void)
{
	struct stat st;

	memset(name, 'a', sizeof(name) - 1);
	TRY(open, BAD, O_RDONLY);
	TRY(open, "", O_RDONLY);
	TRY(open, "/nonexistent", O_RDONLY);
	TRY(open, name, O_RDONLY);
	TRY(open, "/dev/null", O_RDONLY | O_DIRECTORY);
	TRY(openat, AT_FDCWD, KERNEL, O_RDONLY);
	TRY(openat, 99, "/dev/zero", O_RDONLY);
	TRY(openat, 99, "x", O_RDONLY);
	TRY(openat, 0, "x", O_RDONLY);
	TRY(openat, 99, "", O_RDONLY);
	TRY(newfstatat, 99, "x", &st, 0);
	TRY(newfstatat, 0, "x", &st, AT_EMPTY_PATH);
	TRY(readlinkat, 99, "x", page, 1);
	TRY(close, 3);
	TRY(newfstatat, AT_FDCWD, "/nonexistent", &st, 0);
	TRY(newfstatat, AT_FDCWD, "/dev/null", &st, 0);
	TRY(newfstatat, AT_FDCWD, "/dev/null", BAD, 0);
	TRY(newfstatat, AT_FDCWD, "", &st, 0);
	TRY(newfstatat, 99, "", &st, AT_EMPTY_PATH);
	TRY(newfstatat, 0, "", &st, AT_EMPTY_PATH);
	TRY(newfstatat, 0, "", &st, 0x40);
	TRY(newfstatat, 0, BAD, &st, AT_EMPTY_PATH);
	TRY(fstat, 99, &st);
	TRY(fstat, 0, BAD);
	TRY(fstat, 0, read_only);
	fstat(0, &st);
	printf("mode of input %o\n", st.st_mode & S_IFMT);
	TRY(readlink, "/nonexistent", page, 4096);
	TRY(readlink, "/dev/null", page, 4096);
	TRY(readlink, "/proc/self/exe", page, 4);
	TRY(readlink, "/proc/self/exe", BAD, 4096);
	TRY(readlink, "/proc/self/exe", page, 0);
	TRY(readlink, "/proc/self/exe", page, -1);
	TRY(readlinkat, AT_FDCWD, BAD, page, 4096);
}

static void try_memory(void)
{
	const int private = MAP_PRIVATE | MAP_ANONYMOUS;
	char *four = mmap(NULL, 4 * 4096, PROT_READ | PROT_WRITE, private, -1, 0);

	TRY(mmap, NULL, 0, PROT_READ, private, -1, 0);
	TRY(mmap, NULL, -1l, PROT_READ, private, -1, 0);
	TRY(mmap, NULL, 1l << 50, PROT_READ, private, -1, 0);
	TRY(mmap, NULL, 4096, PROT_READ, MAP_ANONYMOUS, -1, 0);
	TRY(mmap, NULL, 4096, PROT_READ, private, -1, 1);
	TRY(mmap, NULL, 4096, PROT_READ, MAP_PRIVATE, 99, 0);
	TRY(mmap, NULL, 4096, PROT_READ, MAP_PRIVATE, 0, 0);
	TRY(mmap, 0x123456789, 4096, PROT_READ, private | MAP_FIXED, -1, 0);
	TRY(mmap, KERNEL, 4096, PROT_READ, private | MAP_FIXED, -1, 0);
	TRY(mmap, WILD, 4096, PROT_READ, private | MAP_FIXED, -1, 0);
	TRY(mmap, four, 4096, PROT_READ, private | MAP_FIXED_NOREPLACE, -1, 0);
	TRY(munmap, four + 1, 4096);
	TRY(munmap, four, 0);
	TRY(munmap, four, -1l);
	TRY(munmap, KERNEL, 4096);
	TRY(munmap, BAD, 4096);
	TRY(munmap, four + 4096, 4096);
	TRY(mprotect, four, 4 * 4096, PROT_READ);
	TRY(mprotect, four + 4096, 4096, PROT_READ);
	TRY(mprotect, four + 1, 4096, PROT_READ);
	TRY(mprotect, four, 0, PROT_READ);
	TRY(mprotect, four, -1l, PROT_READ);
	TRY(mprotect, four, -8192l, PROT_READ);
	TRY(mprotect, four, 4096, 0x100);
	TRY(mprotect, four, 4096, PROT_GROWSDOWN | PROT_GROWSUP);
	TRY(mprotect, KERNEL, 4096, PROT_READ);
	TRY(madvise, four + 1, 4096, MADV_DONTNEED);
	TRY(madvise, four, 4096, 999);
	TRY(madvise, four, 4 * 4096, MADV_DONTNEED);
	TRY(madvise, four, 4096, MADV_DONTNEED);
	TRY(madvise, four, 0, MADV_DONTNEED);
	TRY(madvise, four, -1l, MADV_DONTNEED);
	printf("brk moves: %d\n", syscall(SYS_brk, 0) == syscall(SYS_brk, 1) && syscall(SYS_brk, -1l) == syscall(SYS_brk, 0));
}

static void try_process(void)
{
	unsigned long set = 0;
	stack_t small = { page, 0, 100 }, odd = { page, 99, 65536 };

	TRY(uname, BAD);
	TRY(uname, none);
	TRY(getrandom, page, 4096, 0);
	TRY(getrandom, page, 1, 0x100);
	TRY(getrandom, page, 1, 6);
	TRY(getrandom, BAD, 1, 0);
	TRY(getrandom, KERNEL, 1, 0);
	TRY(getrandom, edge, 100, 0);
	TRY(getrandom, BAD, 0, 0);
	TRY(clock_gettime, 99, page);
	TRY(clock_gettime, CLOCK_REALTIME, BAD);
	TRY(clock_gettime, CLOCK_MONOTONIC, page);
	TRY(clock_gettime, -1, BAD);
	TRY(clock_getres, 99, page);
	TRY(clock_getres, CLOCK_REALTIME, NULL);
	TRY(clock_getres, CLOCK_REALTIME, BAD);
	TRY(gettimeofday, BAD, NULL);
	TRY(gettimeofday, NULL, BAD);
	TRY(gettimeofday, NULL, NULL);
	TRY(time, BAD);
	TRY(arch_prctl, 0x1003, BAD);
	TRY(arch_prctl, 0x1002, KERNEL);
	TRY(arch_prctl, 0x9999, 0);
	TRY(prctl, PR_SET_NAME, BAD);
	TRY(prctl, PR_SET_NAME, "a name of many letters");
	TRY(prctl, PR_GET_NAME, page);
	TRY(prctl, PR_GET_NAME, BAD);
	TRY(prctl, 0x7fffffff, 0);
	printf("name %s\n", page);
	TRY(set_robust_list, page, 23);
	TRY(set_robust_list, page, 24);
	TRY(getgroups, -1, page);
	TRY(umask, 0777777);
	TRY(umask, 022);
	TRY(rt_sigaction, SIGUSR1, NULL, page, 4);
	TRY(rt_sigaction, SIGUSR1, BAD, NULL, 8);
	TRY(rt_sigaction, SIGUSR1, NULL, BAD, 8);
	TRY(rt_sigaction, 0, NULL, NULL, 8);
	TRY(rt_sigaction, 65, NULL, NULL, 8);
	TRY(rt_sigaction, SIGKILL, page, NULL, 8);
	TRY(rt_sigaction, SIGKILL, NULL, page, 8);
	TRY(rt_sigprocmask, 77, &set, NULL, 8);
	TRY(rt_sigprocmask, 77, NULL, NULL, 8);
	TRY(rt_sigprocmask, SIG_BLOCK, BAD, NULL, 8);
	TRY(rt_sigprocmask, SIG_BLOCK, NULL, BAD, 8);
	TRY(rt_sigprocmask, SIG_BLOCK, NULL, page, 16);
	TRY(sigaltstack, &small, NULL);
	TRY(sigaltstack, &odd, NULL);
	TRY(sigaltstack, BAD, NULL);
	TRY(sigaltstack, NULL, BAD);
	TRY(tgkill, 0, 1, 0);
	TRY(tgkill, 1, -1, 0);
	TRY(tkill, 0, 0);
	TRY(tkill, 1 << 30, 0);
	TRY(kill, 1 << 30, 0);
	TRY(kill, 0, 77);
	show(__LINE__, "kill(self, 0)", kill(getpid(), 0));
	show(__LINE__, "kill(self, 65)", kill(getpid(), 65));
	show(__LINE__, "kill(self, SIGCHLD)", kill(getpid(), SIGCHLD));
	TRY(sched_yield);
	TRY(sched_getscheduler, 0);
	TRY(sched_getscheduler, -1);
	TRY(sched_getscheduler, 1 << 30);
	errno = 0;
	show(__LINE__, "system call 511", syscall(511) == -1 && errno == ENOSYS);
	show(__LINE__, "system call of the other interface", syscall(0x40000027) == -1 && errno == ENOSYS);
}

int main(void)
{
	char *pages = mmap(NULL, 5 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	setvbuf(stdout, malloc(1 << 16), _IOFBF, 1 << 16);
	page = pages;
	read_only = pages + 4096;
	none = pages + 2 * 4096;
	edge = pages + 4 * 4096 - 1;
	mprotect(read_only, 4096, PROT_READ);
	mprotect(none, 4096, PROT_NONE);
	munmap(pages + 4 * 4096, 4096);
	try_io();
	try_descriptors();
	try_names();
	try_memory();
	try_process();
	return 42;
}
