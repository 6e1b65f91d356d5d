// SPDX-License-Identifier: Apache-2.0
/*
 * The system calls of a file server. The filter is a list of numbers, each followed by "allow", so that the kernel finds
 * them to be independent of arguments and does not even run it for most. What is not listed ends the process: it would
 * be somebody else's code that asks for it.
 */
#include "fsd/fsd.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#ifndef SYS_fchmodat2
#define SYS_fchmodat2 452
#endif

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define RETURN(action) BPF_STMT(BPF_RET | BPF_K, action)
#define ALLOW(nr) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (nr), 0, 1), RETURN(SECCOMP_RET_ALLOW)
#define ANSWER(nr, err) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (nr), 0, 1), RETURN(SECCOMP_RET_ERRNO | (err))
/* Only when the low half of an argument has none of these bits; has all of them; is this. */
#define WITHOUT(nr, arg, bits) WHEN(nr, arg, BPF_JSET, bits, 1, 0)
#define WITH(nr, arg, bits) WHEN(nr, arg, BPF_JSET, bits, 0, 1)
#define EQUAL(nr, arg, value) WHEN(nr, arg, BPF_JEQ, value, 0, 1)
#define WHEN(nr, arg, test, k, yes, no)                                                                                \
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (nr), 0, 4), LOAD(args[arg]), BPF_JUMP(BPF_JMP | (test) | BPF_K, (k), yes, no), \
		RETURN(SECCOMP_RET_ALLOW), RETURN(SECCOMP_RET_KILL_PROCESS)

static const struct sock_filter filter[] = {
	LOAD(arch),
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0),
	RETURN(SECCOMP_RET_KILL_PROCESS),
	LOAD(nr),

	/* Queues: sleeping, waking up, interrupting. */
	ALLOW(SYS_epoll_wait), ALLOW(SYS_epoll_ctl), ALLOW(SYS_epoll_create1), ALLOW(SYS_eventfd2), ALLOW(SYS_poll),
	ALLOW(SYS_ppoll), ALLOW(SYS_sendmsg), ALLOW(SYS_recvmsg), ALLOW(SYS_futex), ALLOW(SYS_sched_yield),
	ALLOW(SYS_clock_gettime), ALLOW(SYS_clock_nanosleep),

	/* Files. */
	ALLOW(SYS_read), ALLOW(SYS_write), ALLOW(SYS_pread64), ALLOW(SYS_pwrite64), ALLOW(SYS_readv), ALLOW(SYS_writev),
	ALLOW(SYS_preadv), ALLOW(SYS_pwritev), ALLOW(SYS_preadv2), ALLOW(SYS_pwritev2), ALLOW(SYS_lseek),
	ALLOW(SYS_copy_file_range), ALLOW(SYS_fsync), ALLOW(SYS_fdatasync), ALLOW(SYS_syncfs), ALLOW(SYS_sync_file_range),
	ALLOW(SYS_ftruncate), ALLOW(SYS_truncate), ALLOW(SYS_fallocate), ALLOW(SYS_fadvise64), ALLOW(SYS_flock), ALLOW(SYS_fcntl),

	/* Names. */
	ALLOW(SYS_openat), ALLOW(SYS_openat2), ALLOW(SYS_close), ALLOW(SYS_close_range), ALLOW(SYS_dup), ALLOW(SYS_dup3),
	ALLOW(SYS_name_to_handle_at), ALLOW(SYS_open_by_handle_at), ALLOW(SYS_readlinkat), ALLOW(SYS_getdents64),
	ALLOW(SYS_mkdirat), ALLOW(SYS_mknodat), ALLOW(SYS_symlinkat), ALLOW(SYS_linkat), ALLOW(SYS_unlinkat),
	ALLOW(SYS_renameat), ALLOW(SYS_renameat2), ALLOW(SYS_fchdir), ALLOW(SYS_chdir), ALLOW(SYS_inotify_init1),
	ALLOW(SYS_inotify_add_watch),

	/* Attributes. */
	ALLOW(SYS_fstat), ALLOW(SYS_newfstatat), ALLOW(SYS_statx), ALLOW(SYS_statfs), ALLOW(SYS_fstatfs), ALLOW(SYS_faccessat),
	ALLOW(SYS_faccessat2), ALLOW(SYS_fchmod), ALLOW(SYS_fchmodat), ALLOW(SYS_fchmodat2), ALLOW(SYS_chmod), ALLOW(SYS_fchown),
	ALLOW(SYS_fchownat), ALLOW(SYS_utimensat), ALLOW(SYS_getxattr), ALLOW(SYS_lgetxattr), ALLOW(SYS_fgetxattr),
	ALLOW(SYS_setxattr), ALLOW(SYS_lsetxattr), ALLOW(SYS_fsetxattr), ALLOW(SYS_listxattr), ALLOW(SYS_llistxattr),
	ALLOW(SYS_flistxattr), ALLOW(SYS_removexattr), ALLOW(SYS_lremovexattr), ALLOW(SYS_fremovexattr),

	/* Being one of the guest's users, thread by thread. */
	ALLOW(SYS_setuid), ALLOW(SYS_setgid), ALLOW(SYS_setreuid), ALLOW(SYS_setregid), ALLOW(SYS_setresuid),
	ALLOW(SYS_setresgid), ALLOW(SYS_setfsuid), ALLOW(SYS_setfsgid), ALLOW(SYS_setgroups), ALLOW(SYS_getgroups),
	ALLOW(SYS_getuid), ALLOW(SYS_geteuid), ALLOW(SYS_getgid), ALLOW(SYS_getegid), ALLOW(SYS_getresuid), ALLOW(SYS_getresgid),
	ALLOW(SYS_capget), ALLOW(SYS_capset), ALLOW(SYS_umask), EQUAL(SYS_unshare, 0, CLONE_FS),

	/* Memory and threads; none of it can become code. */
	WITHOUT(SYS_mmap, 2, PROT_EXEC), WITHOUT(SYS_mprotect, 2, PROT_EXEC), ALLOW(SYS_munmap), ALLOW(SYS_mremap), ALLOW(SYS_brk),
	ALLOW(SYS_madvise), WITH(SYS_clone, 0, CLONE_THREAD), ANSWER(SYS_clone3, ENOSYS), ALLOW(SYS_set_robust_list),
	ALLOW(SYS_rseq), ALLOW(SYS_exit), ALLOW(SYS_exit_group), ALLOW(SYS_rt_sigaction), ALLOW(SYS_rt_sigprocmask), ALLOW(SYS_rt_sigreturn),
	ALLOW(SYS_restart_syscall), ALLOW(SYS_sched_getaffinity), ALLOW(SYS_sched_setscheduler), ALLOW(SYS_gettid),
	ALLOW(SYS_getpid), ALLOW(SYS_getrandom), EQUAL(SYS_prctl, 0, PR_SET_NAME),

	RETURN(SECCOMP_RET_KILL_PROCESS),
};

int isolate_seccomp(void)
{
	const struct sock_fprog program = {
		.len = sizeof(filter) / sizeof(*filter),
		.filter = (struct sock_filter *)(uintptr_t)filter,
	};

	return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) < 0 ? -errno : 0;
}
