// SPDX-License-Identifier: Apache-2.0
/* Generated from pyvmm_sentry/syscalls.py and abi.py: python -m pyvmm_sentry.generate --write */
#include "core.h"
#include "strace.h"

#define ANSWER(name) s64 name(struct task *t, const u64 *args) __attribute__((weak))

ANSWER(sys_accept);
ANSWER(sys_accept4);
ANSWER(sys_access);
ANSWER(sys_add_key);
ANSWER(sys_alarm);
ANSWER(sys_arch_prctl);
ANSWER(sys_bind);
ANSWER(sys_brk);
ANSWER(sys_capget);
ANSWER(sys_capset);
ANSWER(sys_chdir);
ANSWER(sys_chmod);
ANSWER(sys_chown);
ANSWER(sys_chroot);
ANSWER(sys_clock_getres);
ANSWER(sys_clock_gettime);
ANSWER(sys_clock_nanosleep);
ANSWER(sys_clock_settime);
ANSWER(sys_clone);
ANSWER(sys_clone3);
ANSWER(sys_close);
ANSWER(sys_close_range);
ANSWER(sys_connect);
ANSWER(sys_copy_file_range);
ANSWER(sys_creat);
ANSWER(sys_dup);
ANSWER(sys_dup2);
ANSWER(sys_dup3);
ANSWER(sys_epoll_create);
ANSWER(sys_epoll_create1);
ANSWER(sys_epoll_ctl);
ANSWER(sys_epoll_pwait);
ANSWER(sys_epoll_pwait2);
ANSWER(sys_epoll_wait);
ANSWER(sys_eventfd);
ANSWER(sys_eventfd2);
ANSWER(sys_execve);
ANSWER(sys_execveat);
ANSWER(sys_exit);
ANSWER(sys_exit_group);
ANSWER(sys_faccessat);
ANSWER(sys_faccessat2);
ANSWER(sys_fadvise64);
ANSWER(sys_fallocate);
ANSWER(sys_fchdir);
ANSWER(sys_fchmod);
ANSWER(sys_fchmodat);
ANSWER(sys_fchmodat2);
ANSWER(sys_fchown);
ANSWER(sys_fchownat);
ANSWER(sys_fcntl);
ANSWER(sys_fdatasync);
ANSWER(sys_fgetxattr);
ANSWER(sys_flistxattr);
ANSWER(sys_flock);
ANSWER(sys_fork);
ANSWER(sys_fremovexattr);
ANSWER(sys_fsconfig);
ANSWER(sys_fsetxattr);
ANSWER(sys_fsmount);
ANSWER(sys_fsopen);
ANSWER(sys_fspick);
ANSWER(sys_fstat);
ANSWER(sys_fstatfs);
ANSWER(sys_fsync);
ANSWER(sys_ftruncate);
ANSWER(sys_futex);
ANSWER(sys_futex_waitv);
ANSWER(sys_futimesat);
ANSWER(sys_get_robust_list);
ANSWER(sys_getcpu);
ANSWER(sys_getcwd);
ANSWER(sys_getdents);
ANSWER(sys_getdents64);
ANSWER(sys_getegid);
ANSWER(sys_geteuid);
ANSWER(sys_getgid);
ANSWER(sys_getgroups);
ANSWER(sys_getitimer);
ANSWER(sys_getpeername);
ANSWER(sys_getpgid);
ANSWER(sys_getpgrp);
ANSWER(sys_getpid);
ANSWER(sys_getppid);
ANSWER(sys_getpriority);
ANSWER(sys_getrandom);
ANSWER(sys_getresgid);
ANSWER(sys_getresuid);
ANSWER(sys_getrlimit);
ANSWER(sys_getrusage);
ANSWER(sys_getsid);
ANSWER(sys_getsockname);
ANSWER(sys_getsockopt);
ANSWER(sys_gettid);
ANSWER(sys_gettimeofday);
ANSWER(sys_getuid);
ANSWER(sys_getxattr);
ANSWER(sys_inotify_add_watch);
ANSWER(sys_inotify_init);
ANSWER(sys_inotify_init1);
ANSWER(sys_inotify_rm_watch);
ANSWER(sys_io_cancel);
ANSWER(sys_io_destroy);
ANSWER(sys_io_getevents);
ANSWER(sys_io_setup);
ANSWER(sys_io_submit);
ANSWER(sys_ioctl);
ANSWER(sys_ioprio_get);
ANSWER(sys_ioprio_set);
ANSWER(sys_kcmp);
ANSWER(sys_keyctl);
ANSWER(sys_kill);
ANSWER(sys_lchown);
ANSWER(sys_lgetxattr);
ANSWER(sys_link);
ANSWER(sys_linkat);
ANSWER(sys_listen);
ANSWER(sys_listxattr);
ANSWER(sys_llistxattr);
ANSWER(sys_lremovexattr);
ANSWER(sys_lseek);
ANSWER(sys_lsetxattr);
ANSWER(sys_lstat);
ANSWER(sys_madvise);
ANSWER(sys_membarrier);
ANSWER(sys_memfd_create);
ANSWER(sys_mincore);
ANSWER(sys_mkdir);
ANSWER(sys_mkdirat);
ANSWER(sys_mknod);
ANSWER(sys_mknodat);
ANSWER(sys_mlock);
ANSWER(sys_mlock2);
ANSWER(sys_mlockall);
ANSWER(sys_mmap);
ANSWER(sys_mount);
ANSWER(sys_mount_setattr);
ANSWER(sys_move_mount);
ANSWER(sys_mprotect);
ANSWER(sys_mq_getsetattr);
ANSWER(sys_mq_notify);
ANSWER(sys_mq_open);
ANSWER(sys_mq_timedreceive);
ANSWER(sys_mq_timedsend);
ANSWER(sys_mq_unlink);
ANSWER(sys_mremap);
ANSWER(sys_msgctl);
ANSWER(sys_msgget);
ANSWER(sys_msgrcv);
ANSWER(sys_msgsnd);
ANSWER(sys_msync);
ANSWER(sys_munlock);
ANSWER(sys_munlockall);
ANSWER(sys_munmap);
ANSWER(sys_nanosleep);
ANSWER(sys_newfstatat);
ANSWER(sys_open);
ANSWER(sys_open_tree);
ANSWER(sys_openat);
ANSWER(sys_openat2);
ANSWER(sys_pause);
ANSWER(sys_personality);
ANSWER(sys_pidfd_getfd);
ANSWER(sys_pidfd_open);
ANSWER(sys_pidfd_send_signal);
ANSWER(sys_pipe);
ANSWER(sys_pipe2);
ANSWER(sys_pivot_root);
ANSWER(sys_pkey_alloc);
ANSWER(sys_pkey_free);
ANSWER(sys_pkey_mprotect);
ANSWER(sys_poll);
ANSWER(sys_ppoll);
ANSWER(sys_prctl);
ANSWER(sys_pread64);
ANSWER(sys_preadv);
ANSWER(sys_preadv2);
ANSWER(sys_prlimit64);
ANSWER(sys_process_vm_readv);
ANSWER(sys_process_vm_writev);
ANSWER(sys_pselect6);
ANSWER(sys_ptrace);
ANSWER(sys_pwrite64);
ANSWER(sys_pwritev);
ANSWER(sys_pwritev2);
ANSWER(sys_read);
ANSWER(sys_readahead);
ANSWER(sys_readlink);
ANSWER(sys_readlinkat);
ANSWER(sys_readv);
ANSWER(sys_recvfrom);
ANSWER(sys_recvmmsg);
ANSWER(sys_recvmsg);
ANSWER(sys_removexattr);
ANSWER(sys_rename);
ANSWER(sys_renameat);
ANSWER(sys_renameat2);
ANSWER(sys_request_key);
ANSWER(sys_restart_syscall);
ANSWER(sys_rmdir);
ANSWER(sys_rseq);
ANSWER(sys_rt_sigaction);
ANSWER(sys_rt_sigpending);
ANSWER(sys_rt_sigprocmask);
ANSWER(sys_rt_sigqueueinfo);
ANSWER(sys_rt_sigreturn);
ANSWER(sys_rt_sigsuspend);
ANSWER(sys_rt_sigtimedwait);
ANSWER(sys_rt_tgsigqueueinfo);
ANSWER(sys_sched_get_priority_max);
ANSWER(sys_sched_get_priority_min);
ANSWER(sys_sched_getaffinity);
ANSWER(sys_sched_getattr);
ANSWER(sys_sched_getparam);
ANSWER(sys_sched_getscheduler);
ANSWER(sys_sched_rr_get_interval);
ANSWER(sys_sched_setaffinity);
ANSWER(sys_sched_setattr);
ANSWER(sys_sched_setparam);
ANSWER(sys_sched_setscheduler);
ANSWER(sys_sched_yield);
ANSWER(sys_seccomp);
ANSWER(sys_select);
ANSWER(sys_semctl);
ANSWER(sys_semget);
ANSWER(sys_semop);
ANSWER(sys_semtimedop);
ANSWER(sys_sendfile);
ANSWER(sys_sendmmsg);
ANSWER(sys_sendmsg);
ANSWER(sys_sendto);
ANSWER(sys_set_robust_list);
ANSWER(sys_set_tid_address);
ANSWER(sys_setdomainname);
ANSWER(sys_setfsgid);
ANSWER(sys_setfsuid);
ANSWER(sys_setgid);
ANSWER(sys_setgroups);
ANSWER(sys_sethostname);
ANSWER(sys_setitimer);
ANSWER(sys_setns);
ANSWER(sys_setpgid);
ANSWER(sys_setpriority);
ANSWER(sys_setregid);
ANSWER(sys_setresgid);
ANSWER(sys_setresuid);
ANSWER(sys_setreuid);
ANSWER(sys_setrlimit);
ANSWER(sys_setsid);
ANSWER(sys_setsockopt);
ANSWER(sys_setuid);
ANSWER(sys_setxattr);
ANSWER(sys_shmat);
ANSWER(sys_shmctl);
ANSWER(sys_shmdt);
ANSWER(sys_shmget);
ANSWER(sys_shutdown);
ANSWER(sys_sigaltstack);
ANSWER(sys_signalfd);
ANSWER(sys_signalfd4);
ANSWER(sys_socket);
ANSWER(sys_socketpair);
ANSWER(sys_splice);
ANSWER(sys_stat);
ANSWER(sys_statfs);
ANSWER(sys_statx);
ANSWER(sys_symlink);
ANSWER(sys_symlinkat);
ANSWER(sys_sync);
ANSWER(sys_sync_file_range);
ANSWER(sys_syncfs);
ANSWER(sys_sysinfo);
ANSWER(sys_syslog);
ANSWER(sys_tee);
ANSWER(sys_tgkill);
ANSWER(sys_time);
ANSWER(sys_timer_create);
ANSWER(sys_timer_delete);
ANSWER(sys_timer_getoverrun);
ANSWER(sys_timer_gettime);
ANSWER(sys_timer_settime);
ANSWER(sys_timerfd_create);
ANSWER(sys_timerfd_gettime);
ANSWER(sys_timerfd_settime);
ANSWER(sys_times);
ANSWER(sys_tkill);
ANSWER(sys_truncate);
ANSWER(sys_umask);
ANSWER(sys_umount2);
ANSWER(sys_uname);
ANSWER(sys_unlink);
ANSWER(sys_unlinkat);
ANSWER(sys_unshare);
ANSWER(sys_utime);
ANSWER(sys_utimensat);
ANSWER(sys_utimes);
ANSWER(sys_vfork);
ANSWER(sys_vhangup);
ANSWER(sys_vmsplice);
ANSWER(sys_wait4);
ANSWER(sys_waitid);
ANSWER(sys_write);
ANSWER(sys_writev);

const struct syscall syscalls[SYSCALLS] = {
	[0] = { "read", sys_read, 3, T_LONG, { { T_FD, 0 }, { T_OUT, 2 }, { T_SIZE, 0 } } },
	[1] = { "write", sys_write, 3, T_LONG, { { T_FD, 0 }, { T_IN, 2 }, { T_SIZE, 0 } } },
	[2] = { "open", sys_open, 3, T_LONG, { { T_PATH, 1 }, { T_FLAGS, 32 }, { T_CREATE_MODE, 0 } } },
	[3] = { "close", sys_close, 1, T_LONG, { { T_FD, 0 } } },
	[4] = { "stat", sys_stat, 2, T_LONG, { { T_PATH, 1 }, { T_PUT, 10 } } },
	[5] = { "fstat", sys_fstat, 2, T_LONG, { { T_FD, 0 }, { T_PUT, 10 } } },
	[6] = { "lstat", sys_lstat, 2, T_LONG, { { T_PATH, 2 }, { T_PUT, 10 } } },
	[7] = { "poll", sys_poll, 3, T_LONG, { { T_POLLS, 1 }, { T_UINT, 0 }, { T_INT, 0 } } },
	[8] = { "lseek", sys_lseek, 3, T_LONG, { { T_FD, 0 }, { T_LONG, 0 }, { T_ONE, 50 } } },
	[9] = { "mmap", sys_mmap, 6, T_HEX,
		{ { T_ADDR, 0 }, { T_SIZE, 0 }, { T_FLAGS, 41 }, { T_FLAGS, 24 }, { T_FD, 0 }, { T_HEX, 0 } } },
	[10] = { "mprotect", sys_mprotect, 3, T_LONG, { { T_ADDR, 0 }, { T_SIZE, 0 }, { T_FLAGS, 41 } } },
	[11] = { "munmap", sys_munmap, 2, T_LONG, { { T_ADDR, 0 }, { T_SIZE, 0 } } },
	[12] = { "brk", sys_brk, 1, T_HEX, { { T_ADDR, 0 } } },
	[13] = { "rt_sigaction", sys_rt_sigaction, 4, T_LONG,
		{ { T_SIGNAL, 0 }, { T_GET, 8 }, { T_PUT, 8 }, { T_SIZE, 0 } } },
	[14] = { "rt_sigprocmask", sys_rt_sigprocmask, 4, T_LONG,
		{ { T_ONE, 53 }, { T_GET, 28 }, { T_PUT, 28 }, { T_SIZE, 0 } } },
	[15] = { "rt_sigreturn", sys_rt_sigreturn, 0, T_LONG, { { 0, 0 } } },
	[16] = { "ioctl", sys_ioctl, 3, T_LONG, { { T_FD, 0 }, { T_ONE, 19 }, { T_HEX, 0 } } },
	[17] = { "pread64", sys_pread64, 4, T_LONG, { { T_FD, 0 }, { T_OUT, 2 }, { T_SIZE, 0 }, { T_LONG, 0 } } },
	[18] = { "pwrite64", sys_pwrite64, 4, T_LONG, { { T_FD, 0 }, { T_IN, 2 }, { T_SIZE, 0 }, { T_LONG, 0 } } },
	[19] = { "readv", sys_readv, 3, T_LONG, { { T_FD, 0 }, { T_IOVEC_OUT, 2 }, { T_INT, 0 } } },
	[20] = { "writev", sys_writev, 3, T_LONG, { { T_FD, 0 }, { T_IOVEC_IN, 2 }, { T_INT, 0 } } },
	[21] = { "access", sys_access, 2, T_LONG, { { T_PATH, 1 }, { T_FLAGS, 0 } } },
	[22] = { "pipe", sys_pipe, 1, T_LONG, { { T_PUT, 30 } } },
	[23] = { "select", sys_select, 5, T_LONG,
		{ { T_INT, 0 }, { T_FD_SET, 0 }, { T_FD_SET, 0 }, { T_FD_SET, 0 }, { T_CHANGE, 1 } } },
	[24] = { "sched_yield", sys_sched_yield, 0, T_LONG, { { 0, 0 } } },
	[25] = { "mremap", sys_mremap, 5, T_HEX,
		{ { T_ADDR, 0 }, { T_SIZE, 0 }, { T_SIZE, 0 }, { T_FLAGS, 30 }, { T_ADDR, 0 } } },
	[26] = { "msync", sys_msync, 3, T_LONG, { { T_ADDR, 0 }, { T_SIZE, 0 }, { T_FLAGS, 31 } } },
	[27] = { "mincore", sys_mincore, 3, T_LONG, { { T_ADDR, 0 }, { T_SIZE, 0 }, { T_ADDR, 0 } } },
	[28] = { "madvise", sys_madvise, 3, T_LONG, { { T_ADDR, 0 }, { T_SIZE, 0 }, { T_ONE, 23 } } },
	[29] = { "shmget", sys_shmget, 3, T_LONG, { { T_HEX, 0 }, { T_SIZE, 0 }, { T_FLAGS, 21 } } },
	[30] = { "shmat", sys_shmat, 3, T_HEX, { { T_INT, 0 }, { T_ADDR, 0 }, { T_FLAGS, 51 } } },
	[31] = { "shmctl", sys_shmctl, 3, T_LONG, { { T_INT, 0 }, { T_ONE, 20 }, { T_ADDR, 0 } } },
	[32] = { "dup", sys_dup, 1, T_LONG, { { T_FD, 0 } } },
	[33] = { "dup2", sys_dup2, 2, T_LONG, { { T_FD, 0 }, { T_FD, 0 } } },
	[34] = { "pause", sys_pause, 0, T_LONG, { { 0, 0 } } },
	[35] = { "nanosleep", sys_nanosleep, 2, T_LONG, { { T_GET, 0 }, { T_PUT, 0 } } },
	[36] = { "getitimer", sys_getitimer, 2, T_LONG, { { T_ONE, 22 }, { T_PUT, 4 } } },
	[37] = { "alarm", sys_alarm, 1, T_LONG, { { T_UINT, 0 } } },
	[38] = { "setitimer", sys_setitimer, 3, T_LONG, { { T_ONE, 22 }, { T_GET, 4 }, { T_PUT, 4 } } },
	[39] = { "getpid", sys_getpid, 0, T_LONG, { { 0, 0 } } },
	[40] = { "sendfile", sys_sendfile, 4, T_LONG, { { T_FD, 0 }, { T_FD, 0 }, { T_CHANGE, 26 }, { T_SIZE, 0 } } },
	[41] = { "socket", sys_socket, 3, T_LONG, { { T_ONE, 13 }, { T_FLAGS, 55 }, { T_INT, 0 } } },
	[42] = { "connect", sys_connect, 3, T_LONG, { { T_FD, 0 }, { T_SOCKADDR, 2 }, { T_INT, 0 } } },
	[43] = { "accept", sys_accept, 3, T_LONG, { { T_FD, 0 }, { T_PUT_SOCKADDR, 2 }, { T_CHANGE, 24 } } },
	[44] = { "sendto", sys_sendto, 6, T_LONG,
		{ { T_FD, 0 }, { T_IN, 2 }, { T_SIZE, 0 }, { T_FLAGS, 27 }, { T_SOCKADDR, 5 }, { T_INT, 0 } } },
	[45] = { "recvfrom", sys_recvfrom, 6, T_LONG,
		{ { T_FD, 0 }, { T_OUT, 2 }, { T_SIZE, 0 }, { T_FLAGS, 27 }, { T_PUT_SOCKADDR, 5 }, { T_CHANGE, 24 } } },
	[46] = { "sendmsg", sys_sendmsg, 3, T_LONG, { { T_FD, 0 }, { T_GET, 31 }, { T_FLAGS, 27 } } },
	[47] = { "recvmsg", sys_recvmsg, 3, T_LONG, { { T_FD, 0 }, { T_PUT, 31 }, { T_FLAGS, 27 } } },
	[48] = { "shutdown", sys_shutdown, 2, T_LONG, { { T_FD, 0 }, { T_ONE, 52 } } },
	[49] = { "bind", sys_bind, 3, T_LONG, { { T_FD, 0 }, { T_SOCKADDR, 2 }, { T_INT, 0 } } },
	[50] = { "listen", sys_listen, 2, T_LONG, { { T_FD, 0 }, { T_INT, 0 } } },
	[51] = { "getsockname", sys_getsockname, 3, T_LONG, { { T_FD, 0 }, { T_PUT_SOCKADDR, 2 }, { T_CHANGE, 24 } } },
	[52] = { "getpeername", sys_getpeername, 3, T_LONG, { { T_FD, 0 }, { T_PUT_SOCKADDR, 2 }, { T_CHANGE, 24 } } },
	[53] = { "socketpair", sys_socketpair, 4, T_LONG,
		{ { T_ONE, 13 }, { T_FLAGS, 55 }, { T_INT, 0 }, { T_PUT, 30 } } },
	[54] = { "setsockopt", sys_setsockopt, 5, T_LONG,
		{ { T_FD, 0 }, { T_ONE, 57 }, { T_INT, 0 }, { T_IN, 4 }, { T_INT, 0 } } },
	[55] = { "getsockopt", sys_getsockopt, 5, T_LONG,
		{ { T_FD, 0 }, { T_ONE, 57 }, { T_INT, 0 }, { T_ADDR, 0 }, { T_CHANGE, 24 } } },
	[56] = { "clone", sys_clone, 5, T_LONG,
		{ { T_FLAGS, 5 }, { T_ADDR, 0 }, { T_ADDR, 0 }, { T_ADDR, 0 }, { T_HEX, 0 } } },
	[57] = { "fork", sys_fork, 0, T_LONG, { { 0, 0 } } },
	[58] = { "vfork", sys_vfork, 0, T_LONG, { { 0, 0 } } },
	[59] = { "execve", sys_execve, 3, T_LONG, { { T_PATH, 1 }, { T_STRINGS, 0 }, { T_ENVIRONMENT, 0 } } },
	[60] = { "exit", sys_exit, 1, T_NOTHING, { { T_INT, 0 } } },
	[61] = { "wait4", sys_wait4, 4, T_LONG, { { T_INT, 0 }, { T_PUT, 29 }, { T_FLAGS, 64 }, { T_PUT, 13 } } },
	[62] = { "kill", sys_kill, 2, T_LONG, { { T_INT, 0 }, { T_SIGNAL, 0 } } },
	[63] = { "uname", sys_uname, 1, T_LONG, { { T_PUT, 15 } } },
	[64] = { "semget", sys_semget, 3, T_LONG, { { T_HEX, 0 }, { T_INT, 0 }, { T_FLAGS, 21 } } },
	[65] = { "semop", sys_semop, 3, T_LONG, { { T_INT, 0 }, { T_ADDR, 0 }, { T_UINT, 0 } } },
	[66] = { "semctl", sys_semctl, 4, T_LONG, { { T_INT, 0 }, { T_INT, 0 }, { T_ONE, 20 }, { T_HEX, 0 } } },
	[67] = { "shmdt", sys_shmdt, 1, T_LONG, { { T_ADDR, 0 } } },
	[68] = { "msgget", sys_msgget, 2, T_LONG, { { T_HEX, 0 }, { T_FLAGS, 21 } } },
	[69] = { "msgsnd", sys_msgsnd, 4, T_LONG, { { T_INT, 0 }, { T_ADDR, 0 }, { T_SIZE, 0 }, { T_FLAGS, 21 } } },
	[70] = { "msgrcv", sys_msgrcv, 5, T_LONG,
		{ { T_INT, 0 }, { T_ADDR, 0 }, { T_SIZE, 0 }, { T_LONG, 0 }, { T_FLAGS, 21 } } },
	[71] = { "msgctl", sys_msgctl, 3, T_LONG, { { T_INT, 0 }, { T_ONE, 20 }, { T_ADDR, 0 } } },
	[72] = { "fcntl", sys_fcntl, 3, T_FCNTL, { { T_FD, 0 }, { T_ONE, 14 }, { T_FCNTL, 0 } } },
	[73] = { "flock", sys_flock, 2, T_LONG, { { T_FD, 0 }, { T_FLAGS, 15 } } },
	[74] = { "fsync", sys_fsync, 1, T_LONG, { { T_FD, 0 } } },
	[75] = { "fdatasync", sys_fdatasync, 1, T_LONG, { { T_FD, 0 } } },
	[76] = { "truncate", sys_truncate, 2, T_LONG, { { T_PATH, 1 }, { T_LONG, 0 } } },
	[77] = { "ftruncate", sys_ftruncate, 2, T_LONG, { { T_FD, 0 }, { T_LONG, 0 } } },
	[78] = { "getdents", sys_getdents, 3, T_LONG, { { T_FD, 0 }, { T_ADDR, 0 }, { T_UINT, 0 } } },
	[79] = { "getcwd", sys_getcwd, 2, T_LONG, { { T_OUT_PATH, 1 }, { T_SIZE, 0 } } },
	[80] = { "chdir", sys_chdir, 1, T_LONG, { { T_PATH, 1 } } },
	[81] = { "fchdir", sys_fchdir, 1, T_LONG, { { T_FD, 0 } } },
	[82] = { "rename", sys_rename, 2, T_LONG, { { T_PATH, 2 }, { T_PATH, 0 } } },
	[83] = { "mkdir", sys_mkdir, 2, T_LONG, { { T_PATH, 2 }, { T_MODE, 0 } } },
	[84] = { "rmdir", sys_rmdir, 1, T_LONG, { { T_PATH, 2 } } },
	[85] = { "creat", sys_creat, 2, T_LONG, { { T_PATH, 1 }, { T_MODE, 0 } } },
	[86] = { "link", sys_link, 2, T_LONG, { { T_PATH, 2 }, { T_PATH, 0 } } },
	[87] = { "unlink", sys_unlink, 1, T_LONG, { { T_PATH, 2 } } },
	[88] = { "symlink", sys_symlink, 2, T_LONG, { { T_PATH, 0 }, { T_PATH, 2 } } },
	[89] = { "readlink", sys_readlink, 3, T_LONG, { { T_PATH, 2 }, { T_OUT, 2 }, { T_SIZE, 0 } } },
	[90] = { "chmod", sys_chmod, 2, T_LONG, { { T_PATH, 1 }, { T_MODE, 0 } } },
	[91] = { "fchmod", sys_fchmod, 2, T_LONG, { { T_FD, 0 }, { T_MODE, 0 } } },
	[92] = { "chown", sys_chown, 3, T_LONG, { { T_PATH, 1 }, { T_ID, 0 }, { T_ID, 0 } } },
	[93] = { "fchown", sys_fchown, 3, T_LONG, { { T_FD, 0 }, { T_ID, 0 }, { T_ID, 0 } } },
	[94] = { "lchown", sys_lchown, 3, T_LONG, { { T_PATH, 2 }, { T_ID, 0 }, { T_ID, 0 } } },
	[95] = { "umask", sys_umask, 1, T_MODE, { { T_MODE, 0 } } },
	[96] = { "gettimeofday", sys_gettimeofday, 2, T_LONG, { { T_PUT, 1 }, { T_PUT, 2 } } },
	[97] = { "getrlimit", sys_getrlimit, 2, T_LONG, { { T_ONE, 44 }, { T_PUT, 6 } } },
	[98] = { "getrusage", sys_getrusage, 2, T_LONG, { { T_ONE, 45 }, { T_PUT, 13 } } },
	[99] = { "sysinfo", sys_sysinfo, 1, T_LONG, { { T_PUT, 14 } } },
	[100] = { "times", sys_times, 1, T_LONG, { { T_PUT, 9 } } },
	[101] = { "ptrace", sys_ptrace, 4, T_LONG, { { T_ONE, 42 }, { T_INT, 0 }, { T_HEX, 0 }, { T_HEX, 0 } } },
	[102] = { "getuid", sys_getuid, 0, T_LONG, { { 0, 0 } } },
	[103] = { "syslog", sys_syslog, 3, T_LONG, { { T_INT, 0 }, { T_ADDR, 0 }, { T_INT, 0 } } },
	[104] = { "getgid", sys_getgid, 0, T_LONG, { { 0, 0 } } },
	[105] = { "setuid", sys_setuid, 1, T_LONG, { { T_ID, 0 } } },
	[106] = { "setgid", sys_setgid, 1, T_LONG, { { T_ID, 0 } } },
	[107] = { "geteuid", sys_geteuid, 0, T_LONG, { { 0, 0 } } },
	[108] = { "getegid", sys_getegid, 0, T_LONG, { { 0, 0 } } },
	[109] = { "setpgid", sys_setpgid, 2, T_LONG, { { T_INT, 0 }, { T_INT, 0 } } },
	[110] = { "getppid", sys_getppid, 0, T_LONG, { { 0, 0 } } },
	[111] = { "getpgrp", sys_getpgrp, 0, T_LONG, { { 0, 0 } } },
	[112] = { "setsid", sys_setsid, 0, T_LONG, { { 0, 0 } } },
	[113] = { "setreuid", sys_setreuid, 2, T_LONG, { { T_ID, 0 }, { T_ID, 0 } } },
	[114] = { "setregid", sys_setregid, 2, T_LONG, { { T_ID, 0 }, { T_ID, 0 } } },
	[115] = { "getgroups", sys_getgroups, 2, T_LONG, { { T_INT, 0 }, { T_ADDR, 0 } } },
	[116] = { "setgroups", sys_setgroups, 2, T_LONG, { { T_SIZE, 0 }, { T_ADDR, 0 } } },
	[117] = { "setresuid", sys_setresuid, 3, T_LONG, { { T_ID, 0 }, { T_ID, 0 }, { T_ID, 0 } } },
	[118] = { "getresuid", sys_getresuid, 3, T_LONG, { { T_PUT, 25 }, { T_PUT, 25 }, { T_PUT, 25 } } },
	[119] = { "setresgid", sys_setresgid, 3, T_LONG, { { T_ID, 0 }, { T_ID, 0 }, { T_ID, 0 } } },
	[120] = { "getresgid", sys_getresgid, 3, T_LONG, { { T_PUT, 25 }, { T_PUT, 25 }, { T_PUT, 25 } } },
	[121] = { "getpgid", sys_getpgid, 1, T_LONG, { { T_INT, 0 } } },
	[122] = { "setfsuid", sys_setfsuid, 1, T_LONG, { { T_ID, 0 } } },
	[123] = { "setfsgid", sys_setfsgid, 1, T_LONG, { { T_ID, 0 } } },
	[124] = { "getsid", sys_getsid, 1, T_LONG, { { T_INT, 0 } } },
	[125] = { "capget", sys_capget, 2, T_LONG, { { T_GET, 19 }, { T_ADDR, 0 } } },
	[126] = { "capset", sys_capset, 2, T_LONG, { { T_GET, 19 }, { T_ADDR, 0 } } },
	[127] = { "rt_sigpending", sys_rt_sigpending, 2, T_LONG, { { T_PUT, 28 }, { T_SIZE, 0 } } },
	[128] = { "rt_sigtimedwait", sys_rt_sigtimedwait, 4, T_LONG,
		{ { T_GET, 28 }, { T_PUT, 21 }, { T_GET, 0 }, { T_SIZE, 0 } } },
	[129] = { "rt_sigqueueinfo", sys_rt_sigqueueinfo, 3, T_LONG, { { T_INT, 0 }, { T_SIGNAL, 0 }, { T_GET, 21 } } },
	[130] = { "rt_sigsuspend", sys_rt_sigsuspend, 2, T_LONG, { { T_GET, 28 }, { T_SIZE, 0 } } },
	[131] = { "sigaltstack", sys_sigaltstack, 2, T_LONG, { { T_GET, 7 }, { T_PUT, 7 } } },
	[132] = { "utime", sys_utime, 2, T_LONG, { { T_PATH, 1 }, { T_GET, 5 } } },
	[133] = { "mknod", sys_mknod, 3, T_LONG, { { T_PATH, 2 }, { T_FILE_MODE, 0 }, { T_HEX, 0 } } },
	[135] = { "personality", sys_personality, 1, T_LONG, { { T_HEX, 0 } } },
	[137] = { "statfs", sys_statfs, 2, T_LONG, { { T_PATH, 1 }, { T_PUT, 12 } } },
	[138] = { "fstatfs", sys_fstatfs, 2, T_LONG, { { T_FD, 0 }, { T_PUT, 12 } } },
	[140] = { "getpriority", sys_getpriority, 2, T_LONG, { { T_ONE, 40 }, { T_INT, 0 } } },
	[141] = { "setpriority", sys_setpriority, 3, T_LONG, { { T_ONE, 40 }, { T_INT, 0 }, { T_INT, 0 } } },
	[142] = { "sched_setparam", sys_sched_setparam, 2, T_LONG, { { T_INT, 0 }, { T_GET, 24 } } },
	[143] = { "sched_getparam", sys_sched_getparam, 2, T_LONG, { { T_INT, 0 }, { T_PUT, 24 } } },
	[144] = { "sched_setscheduler", sys_sched_setscheduler, 3, T_LONG,
		{ { T_INT, 0 }, { T_ONE, 48 }, { T_GET, 24 } } },
	[145] = { "sched_getscheduler", sys_sched_getscheduler, 1, T_LONG, { { T_INT, 0 } } },
	[146] = { "sched_get_priority_max", sys_sched_get_priority_max, 1, T_LONG, { { T_ONE, 48 } } },
	[147] = { "sched_get_priority_min", sys_sched_get_priority_min, 1, T_LONG, { { T_ONE, 48 } } },
	[148] = { "sched_rr_get_interval", sys_sched_rr_get_interval, 2, T_LONG, { { T_INT, 0 }, { T_PUT, 0 } } },
	[149] = { "mlock", sys_mlock, 2, T_LONG, { { T_ADDR, 0 }, { T_SIZE, 0 } } },
	[150] = { "munlock", sys_munlock, 2, T_LONG, { { T_ADDR, 0 }, { T_SIZE, 0 } } },
	[151] = { "mlockall", sys_mlockall, 1, T_LONG, { { T_FLAGS, 28 } } },
	[152] = { "munlockall", sys_munlockall, 0, T_LONG, { { 0, 0 } } },
	[153] = { "vhangup", sys_vhangup, 0, T_LONG, { { 0, 0 } } },
	[155] = { "pivot_root", sys_pivot_root, 2, T_LONG, { { T_PATH, 1 }, { T_PATH, 0 } } },
	[157] = { "prctl", sys_prctl, 5, T_LONG,
		{ { T_ONE, 39 }, { T_HEX, 0 }, { T_HEX, 0 }, { T_HEX, 0 }, { T_HEX, 0 } } },
	[158] = { "arch_prctl", sys_arch_prctl, 2, T_LONG, { { T_ONE, 1 }, { T_HEX, 0 } } },
	[160] = { "setrlimit", sys_setrlimit, 2, T_LONG, { { T_ONE, 44 }, { T_GET, 6 } } },
	[161] = { "chroot", sys_chroot, 1, T_LONG, { { T_PATH, 1 } } },
	[162] = { "sync", sys_sync, 0, T_LONG, { { 0, 0 } } },
	[165] = { "mount", sys_mount, 5, T_LONG,
		{ { T_PATH, 0 }, { T_PATH, 1 }, { T_PATH, 0 }, { T_FLAGS, 29 }, { T_ADDR, 0 } } },
	[166] = { "umount2", sys_umount2, 2, T_LONG, { { T_PATH, 1 }, { T_FLAGS, 63 } } },
	[170] = { "sethostname", sys_sethostname, 2, T_LONG, { { T_IN, 1 }, { T_SIZE, 0 } } },
	[171] = { "setdomainname", sys_setdomainname, 2, T_LONG, { { T_IN, 1 }, { T_SIZE, 0 } } },
	[186] = { "gettid", sys_gettid, 0, T_LONG, { { 0, 0 } } },
	[187] = { "readahead", sys_readahead, 3, T_LONG, { { T_FD, 0 }, { T_LONG, 0 }, { T_SIZE, 0 } } },
	[188] = { "setxattr", sys_setxattr, 5, T_LONG,
		{ { T_PATH, 1 }, { T_PATH, 0 }, { T_IN, 3 }, { T_SIZE, 0 }, { T_FLAGS, 66 } } },
	[189] = { "lsetxattr", sys_lsetxattr, 5, T_LONG,
		{ { T_PATH, 2 }, { T_PATH, 0 }, { T_IN, 3 }, { T_SIZE, 0 }, { T_FLAGS, 66 } } },
	[190] = { "fsetxattr", sys_fsetxattr, 5, T_LONG,
		{ { T_FD, 0 }, { T_PATH, 0 }, { T_IN, 3 }, { T_SIZE, 0 }, { T_FLAGS, 66 } } },
	[191] = { "getxattr", sys_getxattr, 4, T_LONG, { { T_PATH, 1 }, { T_PATH, 0 }, { T_OUT, 3 }, { T_SIZE, 0 } } },
	[192] = { "lgetxattr", sys_lgetxattr, 4, T_LONG, { { T_PATH, 2 }, { T_PATH, 0 }, { T_OUT, 3 }, { T_SIZE, 0 } } },
	[193] = { "fgetxattr", sys_fgetxattr, 4, T_LONG, { { T_FD, 0 }, { T_PATH, 0 }, { T_OUT, 3 }, { T_SIZE, 0 } } },
	[194] = { "listxattr", sys_listxattr, 3, T_LONG, { { T_PATH, 1 }, { T_OUT, 2 }, { T_SIZE, 0 } } },
	[195] = { "llistxattr", sys_llistxattr, 3, T_LONG, { { T_PATH, 2 }, { T_OUT, 2 }, { T_SIZE, 0 } } },
	[196] = { "flistxattr", sys_flistxattr, 3, T_LONG, { { T_FD, 0 }, { T_OUT, 2 }, { T_SIZE, 0 } } },
	[197] = { "removexattr", sys_removexattr, 2, T_LONG, { { T_PATH, 1 }, { T_PATH, 0 } } },
	[198] = { "lremovexattr", sys_lremovexattr, 2, T_LONG, { { T_PATH, 2 }, { T_PATH, 0 } } },
	[199] = { "fremovexattr", sys_fremovexattr, 2, T_LONG, { { T_FD, 0 }, { T_PATH, 0 } } },
	[200] = { "tkill", sys_tkill, 2, T_LONG, { { T_INT, 0 }, { T_SIGNAL, 0 } } },
	[201] = { "time", sys_time, 1, T_LONG, { { T_PUT, 26 } } },
	[202] = { "futex", sys_futex, 6, T_LONG,
		{ { T_ADDR, 0 }, { T_FUTEX, 0 }, { T_INT, 0 }, { T_HEX, 0 }, { T_ADDR, 0 }, { T_HEX, 0 } } },
	[203] = { "sched_setaffinity", sys_sched_setaffinity, 3, T_LONG,
		{ { T_INT, 0 }, { T_SIZE, 0 }, { T_ADDR, 0 } } },
	[204] = { "sched_getaffinity", sys_sched_getaffinity, 3, T_LONG,
		{ { T_INT, 0 }, { T_SIZE, 0 }, { T_ADDR, 0 } } },
	[206] = { "io_setup", sys_io_setup, 2, T_LONG, { { T_UINT, 0 }, { T_PUT, 27 } } },
	[207] = { "io_destroy", sys_io_destroy, 1, T_LONG, { { T_HEX, 0 } } },
	[208] = { "io_getevents", sys_io_getevents, 5, T_LONG,
		{ { T_HEX, 0 }, { T_LONG, 0 }, { T_LONG, 0 }, { T_ADDR, 0 }, { T_GET, 0 } } },
	[209] = { "io_submit", sys_io_submit, 3, T_LONG, { { T_HEX, 0 }, { T_LONG, 0 }, { T_ADDR, 0 } } },
	[210] = { "io_cancel", sys_io_cancel, 3, T_LONG, { { T_HEX, 0 }, { T_ADDR, 0 }, { T_ADDR, 0 } } },
	[213] = { "epoll_create", sys_epoll_create, 1, T_LONG, { { T_INT, 0 } } },
	[217] = { "getdents64", sys_getdents64, 3, T_LONG, { { T_FD, 0 }, { T_ADDR, 0 }, { T_UINT, 0 } } },
	[218] = { "set_tid_address", sys_set_tid_address, 1, T_LONG, { { T_ADDR, 0 } } },
	[219] = { "restart_syscall", sys_restart_syscall, 0, T_LONG, { { 0, 0 } } },
	[220] = { "semtimedop", sys_semtimedop, 4, T_LONG,
		{ { T_INT, 0 }, { T_ADDR, 0 }, { T_UINT, 0 }, { T_GET, 0 } } },
	[221] = { "fadvise64", sys_fadvise64, 4, T_LONG, { { T_FD, 0 }, { T_LONG, 0 }, { T_SIZE, 0 }, { T_ONE, 11 } } },
	[222] = { "timer_create", sys_timer_create, 3, T_LONG, { { T_ONE, 4 }, { T_GET, 20 }, { T_PUT, 24 } } },
	[223] = { "timer_settime", sys_timer_settime, 4, T_LONG,
		{ { T_INT, 0 }, { T_FLAGS, 62 }, { T_GET, 3 }, { T_PUT, 3 } } },
	[224] = { "timer_gettime", sys_timer_gettime, 2, T_LONG, { { T_INT, 0 }, { T_PUT, 3 } } },
	[225] = { "timer_getoverrun", sys_timer_getoverrun, 1, T_LONG, { { T_INT, 0 } } },
	[226] = { "timer_delete", sys_timer_delete, 1, T_LONG, { { T_INT, 0 } } },
	[227] = { "clock_settime", sys_clock_settime, 2, T_LONG, { { T_ONE, 4 }, { T_GET, 0 } } },
	[228] = { "clock_gettime", sys_clock_gettime, 2, T_LONG, { { T_ONE, 4 }, { T_PUT, 0 } } },
	[229] = { "clock_getres", sys_clock_getres, 2, T_LONG, { { T_ONE, 4 }, { T_PUT, 0 } } },
	[230] = { "clock_nanosleep", sys_clock_nanosleep, 4, T_LONG,
		{ { T_ONE, 4 }, { T_FLAGS, 62 }, { T_GET, 0 }, { T_PUT, 0 } } },
	[231] = { "exit_group", sys_exit_group, 1, T_NOTHING, { { T_INT, 0 } } },
	[232] = { "epoll_wait", sys_epoll_wait, 4, T_LONG,
		{ { T_FD, 0 }, { T_EPOLLS, 2 }, { T_INT, 0 }, { T_INT, 0 } } },
	[233] = { "epoll_ctl", sys_epoll_ctl, 4, T_LONG, { { T_FD, 0 }, { T_ONE, 8 }, { T_FD, 0 }, { T_GET, 32 } } },
	[234] = { "tgkill", sys_tgkill, 3, T_LONG, { { T_INT, 0 }, { T_INT, 0 }, { T_SIGNAL, 0 } } },
	[235] = { "utimes", sys_utimes, 2, T_LONG, { { T_PATH, 1 }, { T_GET, 23 } } },
	[240] = { "mq_open", sys_mq_open, 4, T_LONG,
		{ { T_PATH, 0 }, { T_FLAGS, 32 }, { T_CREATE_MODE, 0 }, { T_GET, 18 } } },
	[241] = { "mq_unlink", sys_mq_unlink, 1, T_LONG, { { T_PATH, 0 } } },
	[242] = { "mq_timedsend", sys_mq_timedsend, 5, T_LONG,
		{ { T_FD, 0 }, { T_IN, 2 }, { T_SIZE, 0 }, { T_UINT, 0 }, { T_GET, 0 } } },
	[243] = { "mq_timedreceive", sys_mq_timedreceive, 5, T_LONG,
		{ { T_FD, 0 }, { T_OUT, 2 }, { T_SIZE, 0 }, { T_PUT, 25 }, { T_GET, 0 } } },
	[244] = { "mq_notify", sys_mq_notify, 2, T_LONG, { { T_FD, 0 }, { T_GET, 20 } } },
	[245] = { "mq_getsetattr", sys_mq_getsetattr, 3, T_LONG, { { T_FD, 0 }, { T_GET, 18 }, { T_PUT, 18 } } },
	[247] = { "waitid", sys_waitid, 5, T_LONG,
		{ { T_ONE, 65 }, { T_INT, 0 }, { T_PUT, 21 }, { T_FLAGS, 64 }, { T_PUT, 13 } } },
	[248] = { "add_key", sys_add_key, 5, T_LONG,
		{ { T_PATH, 0 }, { T_PATH, 0 }, { T_IN, 3 }, { T_SIZE, 0 }, { T_INT, 0 } } },
	[249] = { "request_key", sys_request_key, 4, T_LONG,
		{ { T_PATH, 0 }, { T_PATH, 0 }, { T_PATH, 0 }, { T_INT, 0 } } },
	[250] = { "keyctl", sys_keyctl, 5, T_LONG,
		{ { T_INT, 0 }, { T_HEX, 0 }, { T_HEX, 0 }, { T_HEX, 0 }, { T_HEX, 0 } } },
	[251] = { "ioprio_set", sys_ioprio_set, 3, T_LONG, { { T_INT, 0 }, { T_INT, 0 }, { T_HEX, 0 } } },
	[252] = { "ioprio_get", sys_ioprio_get, 2, T_LONG, { { T_INT, 0 }, { T_INT, 0 } } },
	[253] = { "inotify_init", sys_inotify_init, 0, T_LONG, { { 0, 0 } } },
	[254] = { "inotify_add_watch", sys_inotify_add_watch, 3, T_LONG,
		{ { T_FD, 0 }, { T_PATH, 1 }, { T_FLAGS, 18 } } },
	[255] = { "inotify_rm_watch", sys_inotify_rm_watch, 2, T_LONG, { { T_FD, 0 }, { T_INT, 0 } } },
	[257] = { "openat", sys_openat, 4, T_LONG,
		{ { T_DIRFD, 0 }, { T_PATH, 1 }, { T_FLAGS, 32 }, { T_CREATE_MODE, 0 } } },
	[258] = { "mkdirat", sys_mkdirat, 3, T_LONG, { { T_DIRFD, 0 }, { T_PATH, 2 }, { T_MODE, 0 } } },
	[259] = { "mknodat", sys_mknodat, 4, T_LONG,
		{ { T_DIRFD, 0 }, { T_PATH, 2 }, { T_FILE_MODE, 0 }, { T_HEX, 0 } } },
	[260] = { "fchownat", sys_fchownat, 5, T_LONG,
		{ { T_DIRFD, 0 }, { T_PATH, 1 }, { T_ID, 0 }, { T_ID, 0 }, { T_FLAGS, 2 } } },
	[261] = { "futimesat", sys_futimesat, 3, T_LONG, { { T_DIRFD, 0 }, { T_PATH, 1 }, { T_GET, 23 } } },
	[262] = { "newfstatat", sys_newfstatat, 4, T_LONG,
		{ { T_DIRFD, 0 }, { T_PATH, 1 }, { T_PUT, 10 }, { T_FLAGS, 2 } } },
	[263] = { "unlinkat", sys_unlinkat, 3, T_LONG, { { T_DIRFD, 0 }, { T_PATH, 2 }, { T_FLAGS, 3 } } },
	[264] = { "renameat", sys_renameat, 4, T_LONG,
		{ { T_DIRFD, 0 }, { T_PATH, 2 }, { T_DIRFD, 0 }, { T_PATH, 0 } } },
	[265] = { "linkat", sys_linkat, 5, T_LONG,
		{ { T_DIRFD, 0 }, { T_PATH, 2 }, { T_DIRFD, 0 }, { T_PATH, 0 }, { T_FLAGS, 2 } } },
	[266] = { "symlinkat", sys_symlinkat, 3, T_LONG, { { T_PATH, 0 }, { T_DIRFD, 0 }, { T_PATH, 2 } } },
	[267] = { "readlinkat", sys_readlinkat, 4, T_LONG,
		{ { T_DIRFD, 0 }, { T_PATH, 2 }, { T_OUT, 3 }, { T_SIZE, 0 } } },
	[268] = { "fchmodat", sys_fchmodat, 3, T_LONG, { { T_DIRFD, 0 }, { T_PATH, 1 }, { T_MODE, 0 } } },
	[269] = { "faccessat", sys_faccessat, 3, T_LONG, { { T_DIRFD, 0 }, { T_PATH, 1 }, { T_FLAGS, 0 } } },
	[270] = { "pselect6", sys_pselect6, 6, T_LONG,
		{ { T_INT, 0 }, { T_FD_SET, 0 }, { T_FD_SET, 0 }, { T_FD_SET, 0 }, { T_CHANGE, 0 }, { T_ADDR, 0 } } },
	[271] = { "ppoll", sys_ppoll, 5, T_LONG,
		{ { T_POLLS, 1 }, { T_UINT, 0 }, { T_CHANGE, 0 }, { T_GET, 28 }, { T_SIZE, 0 } } },
	[272] = { "unshare", sys_unshare, 1, T_LONG, { { T_FLAGS, 5 } } },
	[273] = { "set_robust_list", sys_set_robust_list, 2, T_LONG, { { T_ADDR, 0 }, { T_SIZE, 0 } } },
	[274] = { "get_robust_list", sys_get_robust_list, 3, T_LONG, { { T_INT, 0 }, { T_PUT, 27 }, { T_PUT, 27 } } },
	[275] = { "splice", sys_splice, 6, T_LONG,
		{ { T_FD, 0 }, { T_CHANGE, 26 }, { T_FD, 0 }, { T_CHANGE, 26 }, { T_SIZE, 0 }, { T_FLAGS, 58 } } },
	[276] = { "tee", sys_tee, 4, T_LONG, { { T_FD, 0 }, { T_FD, 0 }, { T_SIZE, 0 }, { T_FLAGS, 58 } } },
	[277] = { "sync_file_range", sys_sync_file_range, 4, T_LONG,
		{ { T_FD, 0 }, { T_LONG, 0 }, { T_LONG, 0 }, { T_FLAGS, 61 } } },
	[278] = { "vmsplice", sys_vmsplice, 4, T_LONG,
		{ { T_FD, 0 }, { T_IOVEC_IN, 2 }, { T_SIZE, 0 }, { T_FLAGS, 58 } } },
	[280] = { "utimensat", sys_utimensat, 4, T_LONG,
		{ { T_DIRFD, 0 }, { T_PATH, 1 }, { T_GET, 22 }, { T_FLAGS, 2 } } },
	[281] = { "epoll_pwait", sys_epoll_pwait, 6, T_LONG,
		{ { T_FD, 0 }, { T_EPOLLS, 2 }, { T_INT, 0 }, { T_INT, 0 }, { T_GET, 28 }, { T_SIZE, 0 } } },
	[282] = { "signalfd", sys_signalfd, 3, T_LONG, { { T_FD, 0 }, { T_GET, 28 }, { T_SIZE, 0 } } },
	[283] = { "timerfd_create", sys_timerfd_create, 2, T_LONG, { { T_ONE, 4 }, { T_FLAGS, 36 } } },
	[284] = { "eventfd", sys_eventfd, 1, T_LONG, { { T_UINT, 0 } } },
	[285] = { "fallocate", sys_fallocate, 4, T_LONG,
		{ { T_FD, 0 }, { T_FLAGS, 12 }, { T_LONG, 0 }, { T_LONG, 0 } } },
	[286] = { "timerfd_settime", sys_timerfd_settime, 4, T_LONG,
		{ { T_FD, 0 }, { T_FLAGS, 62 }, { T_GET, 3 }, { T_PUT, 3 } } },
	[287] = { "timerfd_gettime", sys_timerfd_gettime, 2, T_LONG, { { T_FD, 0 }, { T_PUT, 3 } } },
	[288] = { "accept4", sys_accept4, 4, T_LONG,
		{ { T_FD, 0 }, { T_PUT_SOCKADDR, 2 }, { T_CHANGE, 24 }, { T_FLAGS, 56 } } },
	[289] = { "signalfd4", sys_signalfd4, 4, T_LONG,
		{ { T_FD, 0 }, { T_GET, 28 }, { T_SIZE, 0 }, { T_FLAGS, 35 } } },
	[290] = { "eventfd2", sys_eventfd2, 2, T_LONG, { { T_UINT, 0 }, { T_FLAGS, 10 } } },
	[291] = { "epoll_create1", sys_epoll_create1, 1, T_LONG, { { T_FLAGS, 7 } } },
	[292] = { "dup3", sys_dup3, 3, T_LONG, { { T_FD, 0 }, { T_FD, 0 }, { T_FLAGS, 33 } } },
	[293] = { "pipe2", sys_pipe2, 2, T_LONG, { { T_PUT, 30 }, { T_FLAGS, 33 } } },
	[294] = { "inotify_init1", sys_inotify_init1, 1, T_LONG, { { T_FLAGS, 34 } } },
	[295] = { "preadv", sys_preadv, 4, T_LONG, { { T_FD, 0 }, { T_IOVEC_OUT, 2 }, { T_INT, 0 }, { T_LONG, 0 } } },
	[296] = { "pwritev", sys_pwritev, 4, T_LONG, { { T_FD, 0 }, { T_IOVEC_IN, 2 }, { T_INT, 0 }, { T_LONG, 0 } } },
	[297] = { "rt_tgsigqueueinfo", sys_rt_tgsigqueueinfo, 4, T_LONG,
		{ { T_INT, 0 }, { T_INT, 0 }, { T_SIGNAL, 0 }, { T_GET, 21 } } },
	[299] = { "recvmmsg", sys_recvmmsg, 5, T_LONG,
		{ { T_FD, 0 }, { T_ADDR, 0 }, { T_UINT, 0 }, { T_FLAGS, 27 }, { T_CHANGE, 0 } } },
	[302] = { "prlimit64", sys_prlimit64, 4, T_LONG, { { T_INT, 0 }, { T_ONE, 44 }, { T_GET, 6 }, { T_PUT, 6 } } },
	[306] = { "syncfs", sys_syncfs, 1, T_LONG, { { T_FD, 0 } } },
	[307] = { "sendmmsg", sys_sendmmsg, 4, T_LONG, { { T_FD, 0 }, { T_ADDR, 0 }, { T_UINT, 0 }, { T_FLAGS, 27 } } },
	[308] = { "setns", sys_setns, 2, T_LONG, { { T_FD, 0 }, { T_FLAGS, 5 } } },
	[309] = { "getcpu", sys_getcpu, 3, T_LONG, { { T_PUT, 25 }, { T_PUT, 25 }, { T_ADDR, 0 } } },
	[310] = { "process_vm_readv", sys_process_vm_readv, 6, T_LONG,
		{ { T_INT, 0 }, { T_ADDR, 0 }, { T_ULONG, 0 }, { T_ADDR, 0 }, { T_ULONG, 0 }, { T_HEX, 0 } } },
	[311] = { "process_vm_writev", sys_process_vm_writev, 6, T_LONG,
		{ { T_INT, 0 }, { T_ADDR, 0 }, { T_ULONG, 0 }, { T_ADDR, 0 }, { T_ULONG, 0 }, { T_HEX, 0 } } },
	[312] = { "kcmp", sys_kcmp, 5, T_LONG,
		{ { T_INT, 0 }, { T_INT, 0 }, { T_INT, 0 }, { T_HEX, 0 }, { T_HEX, 0 } } },
	[314] = { "sched_setattr", sys_sched_setattr, 3, T_LONG, { { T_INT, 0 }, { T_ADDR, 0 }, { T_HEX, 0 } } },
	[315] = { "sched_getattr", sys_sched_getattr, 4, T_LONG,
		{ { T_INT, 0 }, { T_ADDR, 0 }, { T_UINT, 0 }, { T_HEX, 0 } } },
	[316] = { "renameat2", sys_renameat2, 5, T_LONG,
		{ { T_DIRFD, 0 }, { T_PATH, 2 }, { T_DIRFD, 0 }, { T_PATH, 0 }, { T_FLAGS, 43 } } },
	[317] = { "seccomp", sys_seccomp, 3, T_LONG, { { T_ONE, 49 }, { T_HEX, 0 }, { T_ADDR, 0 } } },
	[318] = { "getrandom", sys_getrandom, 3, T_LONG, { { T_OUT, 1 }, { T_SIZE, 0 }, { T_FLAGS, 17 } } },
	[319] = { "memfd_create", sys_memfd_create, 2, T_LONG, { { T_PATH, 0 }, { T_FLAGS, 26 } } },
	[322] = { "execveat", sys_execveat, 5, T_LONG,
		{ { T_DIRFD, 0 }, { T_PATH, 1 }, { T_STRINGS, 0 }, { T_ENVIRONMENT, 0 }, { T_FLAGS, 2 } } },
	[324] = { "membarrier", sys_membarrier, 3, T_LONG, { { T_FLAGS, 25 }, { T_HEX, 0 }, { T_INT, 0 } } },
	[325] = { "mlock2", sys_mlock2, 3, T_LONG, { { T_ADDR, 0 }, { T_SIZE, 0 }, { T_HEX, 0 } } },
	[326] = { "copy_file_range", sys_copy_file_range, 6, T_LONG,
		{ { T_FD, 0 }, { T_CHANGE, 26 }, { T_FD, 0 }, { T_CHANGE, 26 }, { T_SIZE, 0 }, { T_HEX, 0 } } },
	[327] = { "preadv2", sys_preadv2, 6, T_LONG,
		{ { T_FD, 0 }, { T_IOVEC_OUT, 2 }, { T_INT, 0 }, { T_LONG, 0 }, { T_LONG, 0 }, { T_FLAGS, 46 } } },
	[328] = { "pwritev2", sys_pwritev2, 6, T_LONG,
		{ { T_FD, 0 }, { T_IOVEC_IN, 2 }, { T_INT, 0 }, { T_LONG, 0 }, { T_LONG, 0 }, { T_FLAGS, 46 } } },
	[329] = { "pkey_mprotect", sys_pkey_mprotect, 4, T_LONG,
		{ { T_ADDR, 0 }, { T_SIZE, 0 }, { T_FLAGS, 41 }, { T_INT, 0 } } },
	[330] = { "pkey_alloc", sys_pkey_alloc, 2, T_LONG, { { T_HEX, 0 }, { T_HEX, 0 } } },
	[331] = { "pkey_free", sys_pkey_free, 1, T_LONG, { { T_INT, 0 } } },
	[332] = { "statx", sys_statx, 5, T_LONG,
		{ { T_DIRFD, 0 }, { T_PATH, 1 }, { T_FLAGS, 2 }, { T_FLAGS, 60 }, { T_PUT, 11 } } },
	[334] = { "rseq", sys_rseq, 4, T_LONG, { { T_ADDR, 0 }, { T_UINT, 0 }, { T_HEX, 0 }, { T_HEX, 0 } } },
	[424] = { "pidfd_send_signal", sys_pidfd_send_signal, 4, T_LONG,
		{ { T_FD, 0 }, { T_SIGNAL, 0 }, { T_GET, 21 }, { T_HEX, 0 } } },
	[428] = { "open_tree", sys_open_tree, 3, T_LONG, { { T_DIRFD, 0 }, { T_PATH, 1 }, { T_HEX, 0 } } },
	[429] = { "move_mount", sys_move_mount, 5, T_LONG,
		{ { T_DIRFD, 0 }, { T_PATH, 1 }, { T_DIRFD, 0 }, { T_PATH, 0 }, { T_HEX, 0 } } },
	[430] = { "fsopen", sys_fsopen, 2, T_LONG, { { T_PATH, 0 }, { T_HEX, 0 } } },
	[431] = { "fsconfig", sys_fsconfig, 5, T_LONG,
		{ { T_FD, 0 }, { T_INT, 0 }, { T_PATH, 0 }, { T_ADDR, 0 }, { T_INT, 0 } } },
	[432] = { "fsmount", sys_fsmount, 3, T_LONG, { { T_FD, 0 }, { T_HEX, 0 }, { T_HEX, 0 } } },
	[433] = { "fspick", sys_fspick, 3, T_LONG, { { T_DIRFD, 0 }, { T_PATH, 1 }, { T_HEX, 0 } } },
	[434] = { "pidfd_open", sys_pidfd_open, 2, T_LONG, { { T_INT, 0 }, { T_FLAGS, 37 } } },
	[435] = { "clone3", sys_clone3, 2, T_LONG, { { T_GET, 16 }, { T_SIZE, 0 } } },
	[436] = { "close_range", sys_close_range, 3, T_LONG, { { T_UINT, 0 }, { T_UINT, 0 }, { T_FLAGS, 6 } } },
	[437] = { "openat2", sys_openat2, 4, T_LONG, { { T_DIRFD, 0 }, { T_PATH, 1 }, { T_GET, 17 }, { T_SIZE, 0 } } },
	[438] = { "pidfd_getfd", sys_pidfd_getfd, 3, T_LONG, { { T_FD, 0 }, { T_FD, 0 }, { T_HEX, 0 } } },
	[439] = { "faccessat2", sys_faccessat2, 4, T_LONG,
		{ { T_DIRFD, 0 }, { T_PATH, 1 }, { T_FLAGS, 0 }, { T_FLAGS, 2 } } },
	[441] = { "epoll_pwait2", sys_epoll_pwait2, 6, T_LONG,
		{ { T_FD, 0 }, { T_EPOLLS, 2 }, { T_INT, 0 }, { T_GET, 0 }, { T_GET, 28 }, { T_SIZE, 0 } } },
	[442] = { "mount_setattr", sys_mount_setattr, 5, T_LONG,
		{ { T_DIRFD, 0 }, { T_PATH, 1 }, { T_FLAGS, 2 }, { T_ADDR, 0 }, { T_SIZE, 0 } } },
	[449] = { "futex_waitv", sys_futex_waitv, 5, T_LONG,
		{ { T_ADDR, 0 }, { T_UINT, 0 }, { T_HEX, 0 }, { T_GET, 0 }, { T_ONE, 4 } } },
	[452] = { "fchmodat2", sys_fchmodat2, 4, T_LONG,
		{ { T_DIRFD, 0 }, { T_PATH, 1 }, { T_MODE, 0 }, { T_FLAGS, 2 } } },
};
