// SPDX-License-Identifier: Apache-2.0
/* Makes calls about processes, time, memory, signals and rights, right and wrong, and prints what each returns. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/sysinfo.h>
#include <sys/time.h>
#include <sys/times.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <time.h>

#include "report.h"

static char buffer[8192], *page, *read_only, *none;
static unsigned long set = 1 << 9, mask[16];
static struct timespec short_time = { 0, 1000 }, wrong_time = { 0, 1000000000 }, negative_time = { -1, 0 };

/* Numbers that differ from run to run. */
#define SUCCEEDS(name, ...) show(__LINE__, #name "(" #__VA_ARGS__ ") succeeds", syscall(SYS_##name, ##__VA_ARGS__) == -1 ? -1 : 1)

static void try_identity(void)
{
	SUCCEEDS(getpid);
	SUCCEEDS(getppid);
	SUCCEEDS(gettid);
	TRY(getuid);
	TRY(geteuid);
	TRY(getgid);
	TRY(getegid);
	TRY(setuid, -1);
	TRY(setgid, -1);
	TRY(setreuid, -1, -1);
	TRY(setregid, -1, -1);
	TRY(setresuid, -1, -1, -1);
	TRY(setresgid, -1, -1, -1);
	TRY(setgroups, 65537, buffer);
	SUCCEEDS(getpgid, 0);
	SUCCEEDS(getpgid, 1);
	SUCCEEDS(getsid, 0);
	TRY(getpgid, 1 << 30);
	TRY(getsid, 1 << 30);
	TRY(setpgid, 1 << 30, 0);
	TRY(setpgid, 0, -1);
	TRY(personality, 0xffffffff);
	TRY(personality, 0);
	TRY(personality, 0xffffffff);
	TRY(uname, buffer);
	TRY(sysinfo, buffer);
	TRY(sysinfo, BAD);
	SUCCEEDS(times, buffer);
	TRY(times, BAD);
	TRY(getrusage, RUSAGE_SELF, buffer);
	TRY(getrusage, RUSAGE_CHILDREN, BAD);
	TRY(getrusage, 99, buffer);
	TRY(getcpu, buffer, buffer, NULL);
	TRY(getcpu, BAD, NULL, NULL);
	TRY(getcpu, NULL, BAD, NULL);
	TRY(getcpu, NULL, NULL, BAD);
	TRY(sethostname, "name", 4);
	TRY(sethostname, "name", 65);
	TRY(setdomainname, "domain", 6);
	TRY(setdomainname, "domain", -1);
	uname((struct utsname *)buffer);
	printf("    %s %s\n", ((struct utsname *)buffer)->nodename, ((struct utsname *)buffer)->domainname);
	TRY(capget, &(struct __user_cap_header_struct){ _LINUX_CAPABILITY_VERSION_3, 1 << 30 }, buffer);
	if (!syscall(SYS_fork))
		_exit(3);
	SUCCEEDS(wait4, -1, NULL, 0, NULL);
}

static void try_sched(void)
{
	struct sched_param zero = { 0 }, one = { 1 };
	char small[4];

	TRY(sched_get_priority_max, SCHED_FIFO);
	TRY(sched_get_priority_min, SCHED_FIFO);
	TRY(sched_get_priority_max, 99);
	TRY(sched_get_priority_min, 99);
	SUCCEEDS(sched_rr_get_interval, 0, buffer);
	TRY(sched_setparam, 0, &zero);
	TRY(sched_setparam, 0, &one);
	TRY(sched_setparam, 0, NULL);
	TRY(sched_setparam, 0, BAD);
	TRY(sched_setparam, 1 << 30, &zero);
	TRY(sched_setparam, -1, &zero);
	TRY(sched_getaffinity, 0, 1, mask);
	TRY(sched_getaffinity, 0, 12, mask);
	TRY(sched_getaffinity, 1 << 30, 128, mask);
	TRY(sched_getaffinity, 0, 128, BAD);
	SUCCEEDS(sched_getaffinity, 0, 128, mask);
	TRY(sched_setaffinity, 0, 128, mask);
	TRY(sched_setaffinity, 0, 128, BAD);
	TRY(sched_setaffinity, 1 << 30, 128, mask);
	memset(mask, 0, sizeof(mask));
	TRY(sched_setaffinity, 0, 128, mask);
	TRY(sched_setaffinity, 0, 0, mask);
	TRY(sched_getattr, 0, small, 4, 0);
	TRY(sched_getattr, 0, buffer, 48, 1);
	SUCCEEDS(sched_yield);
	IN_CHILD {
		become(NOBODY);
		memset(mask, 255, sizeof(mask));
		TRY(sched_setaffinity, 1, 128, mask);
		TRY(sched_setparam, 1, &zero);
		TRY(sched_setscheduler, 1, SCHED_OTHER, &zero);
	}
}

static void try_time(void)
{
	struct timespec now;

	TRY(nanosleep, &short_time, NULL);
	TRY(nanosleep, &wrong_time, NULL);
	TRY(nanosleep, &negative_time, NULL);
	TRY(nanosleep, BAD, NULL);
	TRY(clock_nanosleep, CLOCK_REALTIME, 0, &short_time, NULL);
	TRY(clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &short_time, NULL);
	TRY(clock_nanosleep, CLOCK_BOOTTIME, 0, &short_time, NULL);
	TRY(clock_nanosleep, CLOCK_TAI, 0, &short_time, NULL);
	TRY(clock_nanosleep, CLOCK_MONOTONIC, 0, &wrong_time, NULL);
	TRY(clock_nanosleep, CLOCK_MONOTONIC, 0, BAD, NULL);
	TRY(clock_nanosleep, CLOCK_THREAD_CPUTIME_ID, 0, &short_time, NULL);
	TRY(clock_nanosleep, CLOCK_MONOTONIC_RAW, 0, &short_time, NULL);
	TRY(clock_nanosleep, CLOCK_MONOTONIC_COARSE, 0, &short_time, NULL);
	TRY(clock_nanosleep, 99, 0, &short_time, NULL);
	TRY(clock_nanosleep, -1, 0, &short_time, NULL);
	SUCCEEDS(time, NULL);
	SUCCEEDS(time, buffer);
	TRY(gettimeofday, buffer, buffer);
	TRY(clock_gettime, CLOCK_REALTIME_COARSE, &now);
	TRY(clock_gettime, CLOCK_PROCESS_CPUTIME_ID, &now);
	TRY(clock_gettime, CLOCK_BOOTTIME, &now);
	TRY(clock_gettime, -3, &now);
	TRY(clock_gettime, -5, &now);
	TRY(clock_getres, CLOCK_MONOTONIC, &now);
	TRY(timer_create, 99, NULL, buffer);
	TRY(timer_create, CLOCK_MONOTONIC, BAD, buffer);
	TRY(timer_create, CLOCK_MONOTONIC, NULL, BAD);
	TRY(timer_create, CLOCK_MONOTONIC_RAW, NULL, buffer);
	TRY(alarm, 100);
	TRY(alarm, 0);
	TRY(getitimer, ITIMER_PROF, buffer);
	TRY(setitimer, ITIMER_REAL, BAD, NULL);
	TRY(setitimer, ITIMER_REAL, NULL, buffer);
}

static void try_memory(void)
{
	int file = open("file", O_CREAT | O_RDWR, 0644);
	char *mapped;

	pwrite(file, "text", 4, 0);
	mapped = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	TRY(pipe, BAD);
	TRY(mincore, page, 4096, buffer);
	TRY(mincore, page, 4096, BAD);
	TRY(mincore, page + 1, 4096, buffer);
	TRY(mincore, BAD, 4096, buffer);
	TRY(mincore, page, -1l, buffer);
	TRY(madvise, page, 4096, MADV_WILLNEED);
	TRY(madvise, page, 4096, MADV_POPULATE_READ);
	TRY(madvise, page, 4096, MADV_POPULATE_WRITE);
	TRY(madvise, none, 4096, MADV_POPULATE_READ);
	TRY(madvise, read_only, 4096, MADV_POPULATE_WRITE);
	TRY(madvise, mapped + 4096, 4096, MADV_POPULATE_READ);
	TRY(madvise, mapped, 4096, MADV_WIPEONFORK);
	TRY(madvise, mapped, 4096, MADV_FREE);
	TRY(madvise, mapped, 4096, MADV_WILLNEED);
	TRY(madvise, page, 4096, MADV_REMOVE);
	TRY(madvise, BAD, 4096, MADV_NORMAL);
	TRY(mremap, page, 4096, 0, 0);
	TRY(mremap, page + 1, 4096, 4096, 0);
	TRY(mremap, BAD, 4096, 8192, MREMAP_MAYMOVE);
	TRY(mremap, page, 4096, 8192, 99);
	TRY(mremap, page, 4096, 8192, MREMAP_FIXED);
	TRY(mremap, page, 4096, 8192, 0);
	TRY(pkey_mprotect, page, 4096, PROT_READ | PROT_WRITE, -1);
	TRY(pkey_mprotect, page, 4096, PROT_READ, 99);
	TRY(pkey_mprotect, page, 4096, PROT_READ, 15);
	TRY(pkey_mprotect, page + 1, 4096, PROT_READ, -1);
	TRY(pkey_mprotect, BAD, 4096, PROT_READ, -1);
	TRY(pkey_mprotect, mmap(NULL, 4096, PROT_READ, MAP_SHARED, open("file", O_RDONLY), 0), 4096, PROT_WRITE, -1);
	TRY(pkey_alloc, 1, 0);
	TRY(pkey_alloc, 0, 99);
	TRY(pkey_free, 99);
	TRY(munlock, page, 4096);
	TRY(munlockall);
	TRY(mlockall, 0);
	TRY(mlockall, 99);
	TRY(membarrier, 0, 1, 0);
	TRY(membarrier, 99, 0, 0);
	TRY(membarrier, 8, 0, 0);
	TRY(membarrier, 16, 0, 0);
	TRY(membarrier, 8, 0, 0);
	TRY(membarrier, 1, 0, 0);
	SUCCEEDS(membarrier, 0, 0, 0);
	TRY(get_robust_list, 0, BAD, buffer);
	TRY(get_robust_list, 0, buffer, BAD);
	TRY(get_robust_list, 1 << 30, buffer, buffer);
	TRY(get_robust_list, 0, buffer, buffer + 8);
	IN_CHILD {
		become(NOBODY);
		TRY(get_robust_list, 1, buffer, buffer + 8);
		TRY(madvise, page, 4096, 100);
	}
	TRY(vmsplice, ({ int fds[2]; pipe(fds); fds[1]; }), (&(struct iovec){ BAD, 0 }), 1, 0);
}

static void try_signals(void)
{
	siginfo_t info = { .si_code = SI_QUEUE }, forged = { .si_code = SI_USER };
	pid_t child = fork();

	if (!child)
		for (;;)
			pause();
	TRY(rt_sigpending, BAD, 8);
	TRY(rt_sigpending, buffer, 16);
	TRY(rt_sigpending, buffer, 4);
	TRY(rt_sigtimedwait, BAD, NULL, NULL, 8);
	TRY(rt_sigtimedwait, &set, NULL, BAD, 8);
	TRY(rt_sigtimedwait, &set, NULL, &wrong_time, 8);
	TRY(rt_sigtimedwait, &set, NULL, &short_time, 7);
	TRY(rt_sigtimedwait, &set, BAD, &short_time, 8);
	TRY(rt_sigsuspend, BAD, 8);
	TRY(rt_sigsuspend, &set, 9);
	TRY(rt_sigqueueinfo, child, 0, BAD);
	TRY(rt_sigqueueinfo, child, 99, &info);
	TRY(rt_sigqueueinfo, 1 << 30, 0, &info);
	TRY(rt_sigqueueinfo, child, 0, &forged);
	TRY(rt_sigqueueinfo, child, SIGCHLD, &info);
	TRY(rt_tgsigqueueinfo, child, child, SIGCHLD, &info);
	TRY(rt_tgsigqueueinfo, child, child, 0, BAD);
	TRY(rt_tgsigqueueinfo, child, child, 99, &info);
	TRY(rt_tgsigqueueinfo, 0, child, 0, &info);
	TRY(rt_tgsigqueueinfo, child, 1 << 30, 0, &info);
	TRY(rt_tgsigqueueinfo, child, child, 0, &forged);
	TRY(tgkill, child, 1 << 30, 0);
	TRY(tgkill, 1 << 30, child, 0);
	TRY(tkill, child, 0);
	TRY(kill, child, 0);
	TRY(kill, -2147483648l, 0);
	TRY(kill, -(1 << 30), 0);
	IN_CHILD {
		become(NOBODY);
		TRY(rt_sigqueueinfo, child, 0, &info);
		TRY(rt_tgsigqueueinfo, child, child, 0, &info);
		TRY(kill, child, 0);
	}
	TRY(wait4, child, BAD, WNOHANG, NULL);
	TRY(wait4, -2147483648l, NULL, WNOHANG, NULL);
	TRY(wait4, child, NULL, 99 << 8, NULL);
	TRY(waitid, P_PID, child, BAD, WEXITED | WNOHANG, NULL);
	TRY(waitid, P_PID, child, buffer, 0, NULL);
	TRY(waitid, 99, child, buffer, WEXITED, NULL);
	TRY(waitid, P_PID, -1, buffer, WEXITED, NULL);
	kill(child, SIGKILL);
	TRY(waitid, P_PID, child, NULL, WEXITED | WNOWAIT, NULL);
	TRY(waitid, P_PID, child, NULL, WEXITED | WNOWAIT, BAD);
	TRY(wait4, child, BAD, 0, NULL);
	TRY(wait4, child, NULL, 0, BAD);
	TRY(wait4, -1, NULL, 0, NULL);
}

static long alternate[4096];

static void on_stack(int signal)
{
	stack_t other = { buffer, 0, sizeof(buffer) };

	(void)signal;
	TRY(sigaltstack, &other, NULL);
	TRY(sigaltstack, NULL, &other);
	printf("    flags %x\n", other.ss_flags);
}

static void try_stack(void)
{
	stack_t stack = { alternate, 0, sizeof(alternate) };
	struct sigaction action = { .sa_handler = on_stack, .sa_flags = SA_ONSTACK };

	TRY(sigaltstack, &stack, NULL);
	sigaction(SIGUSR1, &action, NULL);
	raise(SIGUSR1);
}

static void try_futex(void)
{
	static unsigned word = 5, other;
	struct timespec past = { 1, 0 };

	TRY(futex, &word, 0, 4, NULL);
	TRY(futex, &word, 0, 5, &short_time);
	TRY(futex, &word, 0, 5, &wrong_time);
	TRY(futex, &word, 0, 5, BAD);
	TRY(futex, &word, 0x100, 5, &short_time);
	TRY(futex, &word, 9, 5, &past, NULL, -1);
	TRY(futex, &word, 9, 5, NULL, NULL, 0);
	TRY(futex, (char *)&word + 1, 0, 5, NULL);
	TRY(futex, (char *)&word + 1, 1, 5, NULL);
	TRY(futex, BAD, 0, 5, NULL);
	TRY(futex, BAD, 128, 5, NULL);
	TRY(futex, NULL, 1, 5);
	TRY(futex, &word, 1, 1);
	TRY(futex, &word, 10, 1, NULL, NULL, 0);
	TRY(futex, &word, 3, 1, 1, &other);
	TRY(futex, &word, 3, -1, 1, &other);
	TRY(futex, &word, 4, 1, 1, &other, 4);
	TRY(futex, &word, 4, 1, 1, &other, 5);
	TRY(futex, &word, 4, 1, 1, BAD, 5);
	TRY(futex, &word, 5, 1, 1, &other, 0x01001000);
	TRY(futex, &word, 5, 1, 1, BAD, 0x01001000);
	TRY(futex, &word, 5, 1, 1, &other, 0x7f000000);
	TRY(futex, &word, 99, 1);
	TRY(futex, &word, 2, 1);
}

static void try_processes(void)
{
	struct iovec local = { buffer, 4 }, remote = { page, 4 }, wild = { BAD, 4 }, negative = { page, -1 };
	pid_t self = getpid();

	TRY(process_vm_writev, self, &local, 1, &remote, 1, 0);
	TRY(process_vm_writev, self, &local, 1, &wild, 1, 0);
	TRY(process_vm_writev, self, &wild, 1, &remote, 1, 0);
	TRY(process_vm_writev, self, BAD, 1, &remote, 1, 0);
	TRY(process_vm_writev, self, &local, 1, &remote, 1, 1);
	TRY(process_vm_writev, self, &local, 1, &negative, 1, 0);
	TRY(process_vm_writev, self, &local, 2000, &remote, 1, 0);
	TRY(process_vm_writev, 1 << 30, &local, 1, &remote, 1, 0);
	TRY(process_vm_writev, self, &local, 1, &(struct iovec){ read_only, 4 }, 1, 0);
	TRY(kcmp, self, self, 0, 1, 1);
	TRY(kcmp, self, self, 99, 0, 0);
	TRY(kcmp, self, self, 0, 0, 99);
	IN_CHILD {
		become(NOBODY);
		TRY(process_vm_writev, 1, &local, 1, &remote, 1, 0);
		TRY(vhangup);
		TRY(chroot, ".");
		TRY(sethostname, "name", 4);
		TRY(mount, "none", ".", "tmpfs", 0, NULL);
		TRY(umount2, ".", 0);
		TRY(pivot_root, ".", ".");
		TRY(setns, 0, 0);
		TRY(unshare, CLONE_NEWUTS);
		TRY(clone, CLONE_NEWUTS | SIGCHLD, NULL, NULL, NULL, 0);
		TRY(clone, CLONE_NEWNS | CLONE_FS, NULL, NULL, NULL, 0);
		TRY(setpriority, PRIO_PROCESS, 0, -5);
		TRY(prctl, PR_CAPBSET_DROP, 5);
		TRY(prctl, PR_SET_SECUREBITS, 1);
		TRY(seccomp, 1, 0, &(struct { unsigned short n; void *f; }){ 1, buffer });
		TRY(prctl, PR_SET_SECCOMP, 2, &(struct { unsigned short n; void *f; }){ 1, buffer });
		TRY(clock_settime, CLOCK_REALTIME, &short_time);
		TRY(ioprio_set, 1, 0, 1 << 13);
	}
	TRY(clone3, buffer, 8);
	TRY(clone3, buffer, 5000);
	TRY(clone3, (&(struct clone_args){ .flags = CLONE_THREAD, .exit_signal = SIGCHLD }), sizeof(struct clone_args));
	TRY(clone3, (&(struct clone_args){ .exit_signal = 99 }), sizeof(struct clone_args));
	TRY(clone3, (&(struct clone_args){ .stack = 4096, .exit_signal = SIGCHLD }), sizeof(struct clone_args));
	TRY(clone, CLONE_SIGHAND, NULL, NULL, NULL, 0);
	TRY(clone, CLONE_THREAD | CLONE_SIGHAND, NULL, NULL, NULL, 0);
	TRY(clone, CLONE_FS | CLONE_NEWNS, NULL, NULL, NULL, 0);
	TRY(unshare, 1);
	TRY(prctl, PR_SET_PDEATHSIG, 99);
	TRY(prctl, PR_GET_PDEATHSIG, BAD);
	TRY(prctl, PR_SET_DUMPABLE, 7);
	TRY(prctl, PR_SET_TIMING, 1);
	TRY(prctl, PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0);
	TRY(prctl, PR_CAPBSET_READ, 99);
	TRY(prctl, PR_SET_SECCOMP, 9);
}

int main(int argc, char **argv)
{
	char *pages;

	if (enter_folder(argc, argv))
		return 1;
	close_range(3, ~0u, 0);
	pages = mmap(NULL, 8 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	munmap(pages + 7 * 4096, 4096);
	page = pages;
	read_only = pages + 2 * 4096;
	none = pages + 4 * 4096;
	mprotect(read_only, 4096, PROT_READ);
	mprotect(none, 4096, PROT_NONE);
	IN_CHILD try_identity();
	IN_CHILD try_sched();
	IN_CHILD try_time();
	IN_CHILD try_memory();
	IN_CHILD try_signals();
	IN_CHILD try_stack();
	IN_CHILD try_futex();
	IN_CHILD try_processes();
	return 42;
}
