// SPDX-License-Identifier: Apache-2.0
/* Makes system calls whose arguments strace has names for; those between two writes to nowhere are compared. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define BAD ((void *)0xdead0000000)

static void files(void)
{
	char buffer[64], text[] = "tab\t, line\n, quote\", escape\33[1m, \0011 and a long rest that is cut";
	struct iovec vectors[2] = { { text, 3 }, { text + 4, 6 } };
	struct stat status;
	int null = open("/dev/null", O_RDWR | O_CLOEXEC), zero = openat(AT_FDCWD, "/dev/zero", O_RDONLY | O_NONBLOCK);

	syscall(SYS_open, "/nonexistent\33[1m", O_WRONLY | O_CREAT | O_EXCL | O_DIRECTORY, 0640);
	syscall(SYS_open, BAD, O_RDWR | O_APPEND);
	syscall(SYS_openat, 99, "x", O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
	syscall(SYS_write, null, text, sizeof(text));
	syscall(SYS_write, null, BAD, 5);
	syscall(SYS_write, 99, "", 0);
	syscall(SYS_read, zero, buffer, 5);
	syscall(SYS_read, zero, buffer, 64);
	syscall(SYS_read, 99, buffer, 64);
	syscall(SYS_writev, null, vectors, 2);
	syscall(SYS_readv, zero, vectors, 2);
	syscall(SYS_lseek, null, -5l, SEEK_END);
	syscall(SYS_lseek, 99, 1l << 40, SEEK_CUR);
	syscall(SYS_fstat, null, &status);
	syscall(SYS_newfstatat, AT_FDCWD, "/dev/zero", &status, AT_SYMLINK_NOFOLLOW);
	syscall(SYS_newfstatat, AT_FDCWD, "", BAD, AT_EMPTY_PATH);
	syscall(SYS_fcntl, null, F_GETFD);
	syscall(SYS_fcntl, null, F_SETFD, FD_CLOEXEC);
	syscall(SYS_fcntl, null, F_SETFL, O_RDWR | O_APPEND | O_NONBLOCK);
	syscall(SYS_fcntl, 99, F_DUPFD_CLOEXEC, 10);
	syscall(SYS_ioctl, null, TCGETS, buffer);
	syscall(SYS_access, "/nonexistent", R_OK | X_OK);
	syscall(SYS_access, "/dev/null", F_OK);
	syscall(SYS_readlink, "/dev/null", buffer, 64);
	syscall(SYS_dup3, null, 9, O_CLOEXEC);
	syscall(SYS_close, null);
	syscall(SYS_close, -1);
}

static void memory(void)
{
	char *at = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	syscall(SYS_mmap, NULL, 4096, PROT_NONE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	syscall(SYS_mmap, NULL, 0, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_FIXED | MAP_STACK, 99, 8192);
	syscall(SYS_mprotect, at, 4096, PROT_READ);
	syscall(SYS_madvise, at, 4096, MADV_DONTNEED);
	syscall(SYS_munmap, at, 8192);
	syscall(SYS_munmap, 1, 1);
}

static void process(void)
{
	struct sigaction action = { .sa_handler = SIG_IGN };
	struct rlimit limit = { 1024, RLIM_INFINITY };
	unsigned long set = 1ul << (SIGTERM - 1) | 1ul << (SIGCHLD - 1) | 1ul << 33, most = ~set;
	struct timespec time;
	struct utsname name;
	unsigned char *bytes = (unsigned char *)&name;

	syscall(SYS_rt_sigprocmask, SIG_BLOCK, &set, NULL, 8);
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, NULL, &set, 8);
	syscall(SYS_rt_sigprocmask, SIG_UNBLOCK, &most, NULL, 8);
	syscall(SYS_fcntl, 1, F_GETFL);
	sigaction(SIGUSR1, &action, NULL);
	syscall(SYS_rt_sigaction, SIGTERM, NULL, bytes, 8);
	syscall(SYS_rt_sigaction, 40, NULL, BAD, 8);
	syscall(SYS_prlimit64, 0, RLIMIT_CORE, &limit, NULL);
	syscall(SYS_prlimit64, 0, RLIMIT_CORE, NULL, &limit);
	syscall(SYS_getrlimit, 99, &limit);
	syscall(SYS_kill, 1 << 30, SIGKILL);
	syscall(SYS_tgkill, -1, 1, SIGRTMIN + 3);
	syscall(SYS_clock_gettime, CLOCK_BOOTTIME, BAD);
	syscall(SYS_clock_getres, CLOCK_REALTIME, &time);
	syscall(SYS_clock_getres, 99, &time);
	syscall(SYS_umask, 027);
	syscall(SYS_umask, 0);
	syscall(SYS_getuid);
	syscall(SYS_getrandom, BAD, 16, GRND_NONBLOCK);
	syscall(SYS_uname, BAD);
	syscall(SYS_sched_yield);
	syscall(SYS_sigaltstack, NULL, NULL);
}

#define TRACE(part)                                   \
	do {                                          \
		write(-1, "compare", 7);              \
		part();                               \
		write(-1, "compare", 7);              \
	} while (0)

int main(void)
{
	TRACE(files);
	TRACE(memory);
	TRACE(process);
	_exit(3);
}
