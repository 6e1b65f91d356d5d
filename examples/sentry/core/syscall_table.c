// SPDX-License-Identifier: Apache-2.0
/* Generated from pyvmm_sentry/syscalls.py: python -m pyvmm_sentry.generate --write */
#include "core.h"

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
ANSWER(sys_getgid);
ANSWER(sys_getgroups);
ANSWER(sys_getitimer);
ANSWER(sys_getpeername);
ANSWER(sys_getpgid);
ANSWER(sys_getpid);
ANSWER(sys_getpriority);
ANSWER(sys_getrandom);
ANSWER(sys_getresgid);
ANSWER(sys_getresuid);
ANSWER(sys_getrlimit);
ANSWER(sys_getrusage);
ANSWER(sys_getsid);
ANSWER(sys_getsockname);
ANSWER(sys_getsockopt);
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
ANSWER(sys_vmsplice);
ANSWER(sys_wait4);
ANSWER(sys_waitid);
ANSWER(sys_write);
ANSWER(sys_writev);
ANSWER(sys_zero);

const struct syscall syscalls[SYSCALLS] = {
	[0] = { "read", sys_read, 3, { ARG_FD, ARG_HEX, ARG_SIZE } },
	[1] = { "write", sys_write, 3, { ARG_FD, ARG_HEX, ARG_SIZE } },
	[2] = { "open", sys_open, 3, { ARG_STRING, ARG_HEX, ARG_HEX } },
	[3] = { "close", sys_close, 1, { ARG_FD } },
	[4] = { "stat", sys_stat, 2, { ARG_STRING, ARG_HEX } },
	[5] = { "fstat", sys_fstat, 2, { ARG_FD, ARG_HEX } },
	[6] = { "lstat", sys_lstat, 2, { ARG_STRING, ARG_HEX } },
	[7] = { "poll", sys_poll, 3, { ARG_HEX, ARG_HEX, ARG_INT } },
	[8] = { "lseek", sys_lseek, 3, { ARG_FD, ARG_HEX, ARG_HEX } },
	[9] = { "mmap", sys_mmap, 6, { ARG_HEX, ARG_SIZE, ARG_HEX, ARG_HEX, ARG_FD, ARG_HEX } },
	[10] = { "mprotect", sys_mprotect, 3, { ARG_HEX, ARG_SIZE, ARG_HEX } },
	[11] = { "munmap", sys_munmap, 2, { ARG_HEX, ARG_SIZE } },
	[12] = { "brk", sys_brk, 1, { ARG_HEX } },
	[13] = { "rt_sigaction", sys_rt_sigaction, 4, { ARG_HEX, ARG_HEX, ARG_HEX, ARG_SIZE } },
	[14] = { "rt_sigprocmask", sys_rt_sigprocmask, 4, { ARG_HEX, ARG_HEX, ARG_HEX, ARG_SIZE } },
	[15] = { "rt_sigreturn", sys_rt_sigreturn, 0, { 0 } },
	[16] = { "ioctl", sys_ioctl, 3, { ARG_FD, ARG_HEX, ARG_HEX } },
	[17] = { "pread64", sys_pread64, 4, { ARG_FD, ARG_HEX, ARG_SIZE, ARG_HEX } },
	[18] = { "pwrite64", sys_pwrite64, 4, { ARG_FD, ARG_HEX, ARG_SIZE, ARG_HEX } },
	[19] = { "readv", sys_readv, 3, { ARG_FD, ARG_HEX, ARG_INT } },
	[20] = { "writev", sys_writev, 3, { ARG_FD, ARG_HEX, ARG_INT } },
	[21] = { "access", sys_access, 2, { ARG_STRING, ARG_HEX } },
	[22] = { "pipe", sys_pipe, 1, { ARG_HEX } },
	[23] = { "select", sys_select, 5, { ARG_INT, ARG_HEX, ARG_HEX, ARG_HEX, ARG_HEX } },
	[24] = { "sched_yield", sys_zero, 0, { 0 } },
	[25] = { "mremap", sys_mremap, 5, { ARG_HEX, ARG_SIZE, ARG_SIZE, ARG_HEX, ARG_HEX } },
	[26] = { "msync", sys_msync, 3, { ARG_HEX, ARG_SIZE, ARG_HEX } },
	[27] = { "mincore", sys_mincore, 3, { ARG_HEX, ARG_SIZE, ARG_HEX } },
	[28] = { "madvise", sys_madvise, 3, { ARG_HEX, ARG_SIZE, ARG_HEX } },
	[29] = { "shmget", sys_shmget, 3, { ARG_HEX, ARG_SIZE, ARG_HEX } },
	[30] = { "shmat", sys_shmat, 3, { ARG_INT, ARG_HEX, ARG_HEX } },
	[31] = { "shmctl", sys_shmctl, 3, { ARG_INT, ARG_HEX, ARG_HEX } },
	[32] = { "dup", sys_dup, 1, { ARG_FD } },
	[33] = { "dup2", sys_dup2, 2, { ARG_FD, ARG_FD } },
	[34] = { "pause", sys_pause, 0, { 0 } },
	[35] = { "nanosleep", sys_nanosleep, 2, { ARG_HEX, ARG_HEX } },
	[36] = { "getitimer", sys_getitimer, 2, { ARG_HEX, ARG_HEX } },
	[37] = { "alarm", sys_alarm, 1, { ARG_HEX } },
	[38] = { "setitimer", sys_setitimer, 3, { ARG_HEX, ARG_HEX, ARG_HEX } },
	[39] = { "getpid", sys_getpid, 0, { 0 } },
	[40] = { "sendfile", sys_sendfile, 4, { ARG_FD, ARG_FD, ARG_HEX, ARG_SIZE } },
	[41] = { "socket", sys_socket, 3, { ARG_HEX, ARG_HEX, ARG_INT } },
	[42] = { "connect", sys_connect, 3, { ARG_FD, ARG_HEX, ARG_INT } },
	[43] = { "accept", sys_accept, 3, { ARG_FD, ARG_HEX, ARG_HEX } },
	[44] = { "sendto", sys_sendto, 6, { ARG_FD, ARG_HEX, ARG_SIZE, ARG_HEX, ARG_HEX, ARG_INT } },
	[45] = { "recvfrom", sys_recvfrom, 6, { ARG_FD, ARG_HEX, ARG_SIZE, ARG_HEX, ARG_HEX, ARG_HEX } },
	[46] = { "sendmsg", sys_sendmsg, 3, { ARG_FD, ARG_HEX, ARG_HEX } },
	[47] = { "recvmsg", sys_recvmsg, 3, { ARG_FD, ARG_HEX, ARG_HEX } },
	[48] = { "shutdown", sys_shutdown, 2, { ARG_FD, ARG_HEX } },
	[49] = { "bind", sys_bind, 3, { ARG_FD, ARG_HEX, ARG_INT } },
	[50] = { "listen", sys_listen, 2, { ARG_FD, ARG_INT } },
	[51] = { "getsockname", sys_getsockname, 3, { ARG_FD, ARG_HEX, ARG_HEX } },
	[52] = { "getpeername", sys_getpeername, 3, { ARG_FD, ARG_HEX, ARG_HEX } },
	[53] = { "socketpair", sys_socketpair, 4, { ARG_HEX, ARG_HEX, ARG_INT, ARG_HEX } },
	[54] = { "setsockopt", sys_setsockopt, 5, { ARG_FD, ARG_HEX, ARG_INT, ARG_HEX, ARG_INT } },
	[55] = { "getsockopt", sys_getsockopt, 5, { ARG_FD, ARG_HEX, ARG_INT, ARG_HEX, ARG_HEX } },
	[56] = { "clone", sys_clone, 5, { ARG_HEX, ARG_HEX, ARG_HEX, ARG_HEX, ARG_HEX } },
	[57] = { "fork", sys_fork, 0, { 0 } },
	[58] = { "vfork", sys_vfork, 0, { 0 } },
	[59] = { "execve", sys_execve, 3, { ARG_STRING, ARG_HEX, ARG_HEX } },
	[60] = { "exit", sys_exit_group, 1, { ARG_INT } },
	[61] = { "wait4", sys_wait4, 4, { ARG_INT, ARG_HEX, ARG_HEX, ARG_HEX } },
	[62] = { "kill", sys_kill, 2, { ARG_INT, ARG_HEX } },
	[63] = { "uname", sys_uname, 1, { ARG_HEX } },
	[64] = { "semget", sys_semget, 3, { ARG_HEX, ARG_INT, ARG_HEX } },
	[65] = { "semop", sys_semop, 3, { ARG_INT, ARG_HEX, ARG_HEX } },
	[66] = { "semctl", sys_semctl, 4, { ARG_INT, ARG_INT, ARG_HEX, ARG_HEX } },
	[67] = { "shmdt", sys_shmdt, 1, { ARG_HEX } },
	[68] = { "msgget", sys_msgget, 2, { ARG_HEX, ARG_HEX } },
	[69] = { "msgsnd", sys_msgsnd, 4, { ARG_INT, ARG_HEX, ARG_SIZE, ARG_HEX } },
	[70] = { "msgrcv", sys_msgrcv, 5, { ARG_INT, ARG_HEX, ARG_SIZE, ARG_HEX, ARG_HEX } },
	[71] = { "msgctl", sys_msgctl, 3, { ARG_INT, ARG_HEX, ARG_HEX } },
	[72] = { "fcntl", sys_fcntl, 3, { ARG_FD, ARG_HEX, ARG_HEX } },
	[73] = { "flock", sys_flock, 2, { ARG_FD, ARG_HEX } },
	[74] = { "fsync", sys_fsync, 1, { ARG_FD } },
	[75] = { "fdatasync", sys_fdatasync, 1, { ARG_FD } },
	[76] = { "truncate", sys_truncate, 2, { ARG_STRING, ARG_HEX } },
	[77] = { "ftruncate", sys_ftruncate, 2, { ARG_FD, ARG_HEX } },
	[78] = { "getdents", sys_getdents, 3, { ARG_FD, ARG_HEX, ARG_HEX } },
	[79] = { "getcwd", sys_getcwd, 2, { ARG_HEX, ARG_SIZE } },
	[80] = { "chdir", sys_chdir, 1, { ARG_STRING } },
	[81] = { "fchdir", sys_fchdir, 1, { ARG_FD } },
	[82] = { "rename", sys_rename, 2, { ARG_STRING, ARG_STRING } },
	[83] = { "mkdir", sys_mkdir, 2, { ARG_STRING, ARG_HEX } },
	[84] = { "rmdir", sys_rmdir, 1, { ARG_STRING } },
	[85] = { "creat", sys_creat, 2, { ARG_STRING, ARG_HEX } },
	[86] = { "link", sys_link, 2, { ARG_STRING, ARG_STRING } },
	[87] = { "unlink", sys_unlink, 1, { ARG_STRING } },
	[88] = { "symlink", sys_symlink, 2, { ARG_STRING, ARG_STRING } },
	[89] = { "readlink", sys_readlink, 3, { ARG_STRING, ARG_HEX, ARG_SIZE } },
	[90] = { "chmod", sys_chmod, 2, { ARG_STRING, ARG_HEX } },
	[91] = { "fchmod", sys_fchmod, 2, { ARG_FD, ARG_HEX } },
	[92] = { "chown", sys_chown, 3, { ARG_STRING, ARG_INT, ARG_INT } },
	[93] = { "fchown", sys_fchown, 3, { ARG_FD, ARG_INT, ARG_INT } },
	[94] = { "lchown", sys_lchown, 3, { ARG_STRING, ARG_INT, ARG_INT } },
	[95] = { "umask", sys_umask, 1, { ARG_HEX } },
	[96] = { "gettimeofday", sys_gettimeofday, 2, { ARG_HEX, ARG_HEX } },
	[97] = { "getrlimit", sys_getrlimit, 2, { ARG_HEX, ARG_HEX } },
	[98] = { "getrusage", sys_getrusage, 2, { ARG_HEX, ARG_HEX } },
	[99] = { "sysinfo", sys_sysinfo, 1, { ARG_HEX } },
	[100] = { "times", sys_times, 1, { ARG_HEX } },
	[101] = { "ptrace", sys_ptrace, 4, { ARG_HEX, ARG_INT, ARG_HEX, ARG_HEX } },
	[102] = { "getuid", sys_getuid, 0, { 0 } },
	[103] = { "syslog", sys_syslog, 3, { ARG_INT, ARG_HEX, ARG_INT } },
	[104] = { "getgid", sys_getgid, 0, { 0 } },
	[105] = { "setuid", sys_setuid, 1, { ARG_INT } },
	[106] = { "setgid", sys_setgid, 1, { ARG_INT } },
	[107] = { "geteuid", sys_getuid, 0, { 0 } },
	[108] = { "getegid", sys_getgid, 0, { 0 } },
	[109] = { "setpgid", sys_setpgid, 2, { ARG_INT, ARG_INT } },
	[110] = { "getppid", sys_zero, 0, { 0 } },
	[111] = { "getpgrp", sys_getpid, 0, { 0 } },
	[112] = { "setsid", sys_setsid, 0, { 0 } },
	[113] = { "setreuid", sys_setreuid, 2, { ARG_INT, ARG_INT } },
	[114] = { "setregid", sys_setregid, 2, { ARG_INT, ARG_INT } },
	[115] = { "getgroups", sys_getgroups, 2, { ARG_INT, ARG_HEX } },
	[116] = { "setgroups", sys_setgroups, 2, { ARG_SIZE, ARG_HEX } },
	[117] = { "setresuid", sys_setresuid, 3, { ARG_INT, ARG_INT, ARG_INT } },
	[118] = { "getresuid", sys_getresuid, 3, { ARG_HEX, ARG_HEX, ARG_HEX } },
	[119] = { "setresgid", sys_setresgid, 3, { ARG_INT, ARG_INT, ARG_INT } },
	[120] = { "getresgid", sys_getresgid, 3, { ARG_HEX, ARG_HEX, ARG_HEX } },
	[121] = { "getpgid", sys_getpgid, 1, { ARG_INT } },
	[122] = { "setfsuid", sys_setfsuid, 1, { ARG_INT } },
	[123] = { "setfsgid", sys_setfsgid, 1, { ARG_INT } },
	[124] = { "getsid", sys_getsid, 1, { ARG_INT } },
	[125] = { "capget", sys_capget, 2, { ARG_HEX, ARG_HEX } },
	[126] = { "capset", sys_capset, 2, { ARG_HEX, ARG_HEX } },
	[127] = { "rt_sigpending", sys_rt_sigpending, 2, { ARG_HEX, ARG_SIZE } },
	[128] = { "rt_sigtimedwait", sys_rt_sigtimedwait, 4, { ARG_HEX, ARG_HEX, ARG_HEX, ARG_SIZE } },
	[129] = { "rt_sigqueueinfo", sys_rt_sigqueueinfo, 3, { ARG_INT, ARG_HEX, ARG_HEX } },
	[130] = { "rt_sigsuspend", sys_rt_sigsuspend, 2, { ARG_HEX, ARG_SIZE } },
	[131] = { "sigaltstack", sys_sigaltstack, 2, { ARG_HEX, ARG_HEX } },
	[132] = { "utime", sys_utime, 2, { ARG_STRING, ARG_HEX } },
	[133] = { "mknod", sys_mknod, 3, { ARG_STRING, ARG_HEX, ARG_HEX } },
	[135] = { "personality", sys_personality, 1, { ARG_HEX } },
	[137] = { "statfs", sys_statfs, 2, { ARG_STRING, ARG_HEX } },
	[138] = { "fstatfs", sys_fstatfs, 2, { ARG_FD, ARG_HEX } },
	[140] = { "getpriority", sys_getpriority, 2, { ARG_HEX, ARG_INT } },
	[141] = { "setpriority", sys_setpriority, 3, { ARG_HEX, ARG_INT, ARG_INT } },
	[142] = { "sched_setparam", sys_sched_setparam, 2, { ARG_INT, ARG_HEX } },
	[143] = { "sched_getparam", sys_sched_getparam, 2, { ARG_INT, ARG_HEX } },
	[144] = { "sched_setscheduler", sys_sched_setscheduler, 3, { ARG_INT, ARG_HEX, ARG_HEX } },
	[145] = { "sched_getscheduler", sys_sched_getscheduler, 1, { ARG_INT } },
	[146] = { "sched_get_priority_max", sys_sched_get_priority_max, 1, { ARG_HEX } },
	[147] = { "sched_get_priority_min", sys_sched_get_priority_min, 1, { ARG_HEX } },
	[148] = { "sched_rr_get_interval", sys_sched_rr_get_interval, 2, { ARG_INT, ARG_HEX } },
	[149] = { "mlock", sys_mlock, 2, { ARG_HEX, ARG_SIZE } },
	[150] = { "munlock", sys_munlock, 2, { ARG_HEX, ARG_SIZE } },
	[151] = { "mlockall", sys_mlockall, 1, { ARG_HEX } },
	[152] = { "munlockall", sys_munlockall, 0, { 0 } },
	[155] = { "pivot_root", sys_pivot_root, 2, { ARG_STRING, ARG_STRING } },
	[157] = { "prctl", sys_prctl, 5, { ARG_HEX, ARG_HEX, ARG_HEX, ARG_HEX, ARG_HEX } },
	[158] = { "arch_prctl", sys_arch_prctl, 2, { ARG_HEX, ARG_HEX } },
	[160] = { "setrlimit", sys_setrlimit, 2, { ARG_HEX, ARG_HEX } },
	[161] = { "chroot", sys_chroot, 1, { ARG_STRING } },
	[162] = { "sync", sys_sync, 0, { 0 } },
	[165] = { "mount", sys_mount, 5, { ARG_STRING, ARG_STRING, ARG_STRING, ARG_HEX, ARG_HEX } },
	[166] = { "umount2", sys_umount2, 2, { ARG_STRING, ARG_HEX } },
	[170] = { "sethostname", sys_sethostname, 2, { ARG_HEX, ARG_SIZE } },
	[171] = { "setdomainname", sys_setdomainname, 2, { ARG_HEX, ARG_SIZE } },
	[186] = { "gettid", sys_getpid, 0, { 0 } },
	[187] = { "readahead", sys_readahead, 3, { ARG_FD, ARG_HEX, ARG_SIZE } },
	[188] = { "setxattr", sys_setxattr, 5, { ARG_STRING, ARG_STRING, ARG_HEX, ARG_SIZE, ARG_HEX } },
	[189] = { "lsetxattr", sys_lsetxattr, 5, { ARG_STRING, ARG_STRING, ARG_HEX, ARG_SIZE, ARG_HEX } },
	[190] = { "fsetxattr", sys_fsetxattr, 5, { ARG_FD, ARG_STRING, ARG_HEX, ARG_SIZE, ARG_HEX } },
	[191] = { "getxattr", sys_getxattr, 4, { ARG_STRING, ARG_STRING, ARG_HEX, ARG_SIZE } },
	[192] = { "lgetxattr", sys_lgetxattr, 4, { ARG_STRING, ARG_STRING, ARG_HEX, ARG_SIZE } },
	[193] = { "fgetxattr", sys_fgetxattr, 4, { ARG_FD, ARG_STRING, ARG_HEX, ARG_SIZE } },
	[194] = { "listxattr", sys_listxattr, 3, { ARG_STRING, ARG_HEX, ARG_SIZE } },
	[195] = { "llistxattr", sys_llistxattr, 3, { ARG_STRING, ARG_HEX, ARG_SIZE } },
	[196] = { "flistxattr", sys_flistxattr, 3, { ARG_FD, ARG_HEX, ARG_SIZE } },
	[197] = { "removexattr", sys_removexattr, 2, { ARG_STRING, ARG_STRING } },
	[198] = { "lremovexattr", sys_lremovexattr, 2, { ARG_STRING, ARG_STRING } },
	[199] = { "fremovexattr", sys_fremovexattr, 2, { ARG_FD, ARG_STRING } },
	[200] = { "tkill", sys_tkill, 2, { ARG_INT, ARG_HEX } },
	[201] = { "time", sys_time, 1, { ARG_HEX } },
	[202] = { "futex", sys_futex, 6, { ARG_HEX, ARG_HEX, ARG_INT, ARG_HEX, ARG_HEX, ARG_HEX } },
	[203] = { "sched_setaffinity", sys_sched_setaffinity, 3, { ARG_INT, ARG_SIZE, ARG_HEX } },
	[204] = { "sched_getaffinity", sys_sched_getaffinity, 3, { ARG_INT, ARG_SIZE, ARG_HEX } },
	[206] = { "io_setup", sys_io_setup, 2, { ARG_HEX, ARG_HEX } },
	[207] = { "io_destroy", sys_io_destroy, 1, { ARG_HEX } },
	[208] = { "io_getevents", sys_io_getevents, 5, { ARG_HEX, ARG_HEX, ARG_HEX, ARG_HEX, ARG_HEX } },
	[209] = { "io_submit", sys_io_submit, 3, { ARG_HEX, ARG_HEX, ARG_HEX } },
	[210] = { "io_cancel", sys_io_cancel, 3, { ARG_HEX, ARG_HEX, ARG_HEX } },
	[213] = { "epoll_create", sys_epoll_create, 1, { ARG_INT } },
	[217] = { "getdents64", sys_getdents64, 3, { ARG_FD, ARG_HEX, ARG_HEX } },
	[218] = { "set_tid_address", sys_getpid, 1, { ARG_HEX } },
	[219] = { "restart_syscall", sys_restart_syscall, 0, { 0 } },
	[220] = { "semtimedop", sys_semtimedop, 4, { ARG_INT, ARG_HEX, ARG_HEX, ARG_HEX } },
	[221] = { "fadvise64", sys_fadvise64, 4, { ARG_FD, ARG_HEX, ARG_SIZE, ARG_HEX } },
	[222] = { "timer_create", sys_timer_create, 3, { ARG_HEX, ARG_HEX, ARG_HEX } },
	[223] = { "timer_settime", sys_timer_settime, 4, { ARG_INT, ARG_HEX, ARG_HEX, ARG_HEX } },
	[224] = { "timer_gettime", sys_timer_gettime, 2, { ARG_INT, ARG_HEX } },
	[225] = { "timer_getoverrun", sys_timer_getoverrun, 1, { ARG_INT } },
	[226] = { "timer_delete", sys_timer_delete, 1, { ARG_INT } },
	[227] = { "clock_settime", sys_clock_settime, 2, { ARG_HEX, ARG_HEX } },
	[228] = { "clock_gettime", sys_clock_gettime, 2, { ARG_HEX, ARG_HEX } },
	[229] = { "clock_getres", sys_clock_getres, 2, { ARG_HEX, ARG_HEX } },
	[230] = { "clock_nanosleep", sys_clock_nanosleep, 4, { ARG_HEX, ARG_HEX, ARG_HEX, ARG_HEX } },
	[231] = { "exit_group", sys_exit_group, 1, { ARG_INT } },
	[232] = { "epoll_wait", sys_epoll_wait, 4, { ARG_FD, ARG_HEX, ARG_INT, ARG_INT } },
	[233] = { "epoll_ctl", sys_epoll_ctl, 4, { ARG_FD, ARG_HEX, ARG_FD, ARG_HEX } },
	[234] = { "tgkill", sys_tgkill, 3, { ARG_INT, ARG_INT, ARG_HEX } },
	[235] = { "utimes", sys_utimes, 2, { ARG_STRING, ARG_HEX } },
	[240] = { "mq_open", sys_mq_open, 4, { ARG_STRING, ARG_HEX, ARG_HEX, ARG_HEX } },
	[241] = { "mq_unlink", sys_mq_unlink, 1, { ARG_STRING } },
	[242] = { "mq_timedsend", sys_mq_timedsend, 5, { ARG_FD, ARG_HEX, ARG_SIZE, ARG_HEX, ARG_HEX } },
	[243] = { "mq_timedreceive", sys_mq_timedreceive, 5, { ARG_FD, ARG_HEX, ARG_SIZE, ARG_HEX, ARG_HEX } },
	[244] = { "mq_notify", sys_mq_notify, 2, { ARG_FD, ARG_HEX } },
	[245] = { "mq_getsetattr", sys_mq_getsetattr, 3, { ARG_FD, ARG_HEX, ARG_HEX } },
	[247] = { "waitid", sys_waitid, 5, { ARG_HEX, ARG_INT, ARG_HEX, ARG_HEX, ARG_HEX } },
	[248] = { "add_key", sys_add_key, 5, { ARG_STRING, ARG_STRING, ARG_HEX, ARG_SIZE, ARG_INT } },
	[249] = { "request_key", sys_request_key, 4, { ARG_STRING, ARG_STRING, ARG_STRING, ARG_INT } },
	[250] = { "keyctl", sys_keyctl, 5, { ARG_INT, ARG_HEX, ARG_HEX, ARG_HEX, ARG_HEX } },
	[251] = { "ioprio_set", sys_ioprio_set, 3, { ARG_INT, ARG_INT, ARG_HEX } },
	[252] = { "ioprio_get", sys_ioprio_get, 2, { ARG_INT, ARG_INT } },
	[253] = { "inotify_init", sys_inotify_init, 0, { 0 } },
	[254] = { "inotify_add_watch", sys_inotify_add_watch, 3, { ARG_FD, ARG_STRING, ARG_HEX } },
	[255] = { "inotify_rm_watch", sys_inotify_rm_watch, 2, { ARG_FD, ARG_INT } },
	[257] = { "openat", sys_openat, 4, { ARG_FD, ARG_STRING, ARG_HEX, ARG_HEX } },
	[258] = { "mkdirat", sys_mkdirat, 3, { ARG_FD, ARG_STRING, ARG_HEX } },
	[259] = { "mknodat", sys_mknodat, 4, { ARG_FD, ARG_STRING, ARG_HEX, ARG_HEX } },
	[260] = { "fchownat", sys_fchownat, 5, { ARG_FD, ARG_STRING, ARG_INT, ARG_INT, ARG_HEX } },
	[261] = { "futimesat", sys_futimesat, 3, { ARG_FD, ARG_STRING, ARG_HEX } },
	[262] = { "newfstatat", sys_newfstatat, 4, { ARG_FD, ARG_STRING, ARG_HEX, ARG_HEX } },
	[263] = { "unlinkat", sys_unlinkat, 3, { ARG_FD, ARG_STRING, ARG_HEX } },
	[264] = { "renameat", sys_renameat, 4, { ARG_FD, ARG_STRING, ARG_FD, ARG_STRING } },
	[265] = { "linkat", sys_linkat, 5, { ARG_FD, ARG_STRING, ARG_FD, ARG_STRING, ARG_HEX } },
	[266] = { "symlinkat", sys_symlinkat, 3, { ARG_STRING, ARG_FD, ARG_STRING } },
	[267] = { "readlinkat", sys_readlinkat, 4, { ARG_FD, ARG_STRING, ARG_HEX, ARG_SIZE } },
	[268] = { "fchmodat", sys_fchmodat, 3, { ARG_FD, ARG_STRING, ARG_HEX } },
	[269] = { "faccessat", sys_faccessat, 3, { ARG_FD, ARG_STRING, ARG_HEX } },
	[270] = { "pselect6", sys_pselect6, 6, { ARG_INT, ARG_HEX, ARG_HEX, ARG_HEX, ARG_HEX, ARG_HEX } },
	[271] = { "ppoll", sys_ppoll, 5, { ARG_HEX, ARG_HEX, ARG_HEX, ARG_HEX, ARG_SIZE } },
	[272] = { "unshare", sys_unshare, 1, { ARG_HEX } },
	[273] = { "set_robust_list", sys_set_robust_list, 2, { ARG_HEX, ARG_SIZE } },
	[274] = { "get_robust_list", sys_get_robust_list, 3, { ARG_INT, ARG_HEX, ARG_HEX } },
	[275] = { "splice", sys_splice, 6, { ARG_FD, ARG_HEX, ARG_FD, ARG_HEX, ARG_SIZE, ARG_HEX } },
	[276] = { "tee", sys_tee, 4, { ARG_FD, ARG_FD, ARG_SIZE, ARG_HEX } },
	[277] = { "sync_file_range", sys_sync_file_range, 4, { ARG_FD, ARG_HEX, ARG_HEX, ARG_HEX } },
	[278] = { "vmsplice", sys_vmsplice, 4, { ARG_FD, ARG_HEX, ARG_SIZE, ARG_HEX } },
	[280] = { "utimensat", sys_utimensat, 4, { ARG_FD, ARG_STRING, ARG_HEX, ARG_HEX } },
	[281] = { "epoll_pwait", sys_epoll_pwait, 6, { ARG_FD, ARG_HEX, ARG_INT, ARG_INT, ARG_HEX, ARG_SIZE } },
	[282] = { "signalfd", sys_signalfd, 3, { ARG_FD, ARG_HEX, ARG_SIZE } },
	[283] = { "timerfd_create", sys_timerfd_create, 2, { ARG_HEX, ARG_HEX } },
	[284] = { "eventfd", sys_eventfd, 1, { ARG_HEX } },
	[285] = { "fallocate", sys_fallocate, 4, { ARG_FD, ARG_HEX, ARG_HEX, ARG_HEX } },
	[286] = { "timerfd_settime", sys_timerfd_settime, 4, { ARG_FD, ARG_HEX, ARG_HEX, ARG_HEX } },
	[287] = { "timerfd_gettime", sys_timerfd_gettime, 2, { ARG_FD, ARG_HEX } },
	[288] = { "accept4", sys_accept4, 4, { ARG_FD, ARG_HEX, ARG_HEX, ARG_HEX } },
	[289] = { "signalfd4", sys_signalfd4, 4, { ARG_FD, ARG_HEX, ARG_SIZE, ARG_HEX } },
	[290] = { "eventfd2", sys_eventfd2, 2, { ARG_HEX, ARG_HEX } },
	[291] = { "epoll_create1", sys_epoll_create1, 1, { ARG_HEX } },
	[292] = { "dup3", sys_dup3, 3, { ARG_FD, ARG_FD, ARG_HEX } },
	[293] = { "pipe2", sys_pipe2, 2, { ARG_HEX, ARG_HEX } },
	[294] = { "inotify_init1", sys_inotify_init1, 1, { ARG_HEX } },
	[295] = { "preadv", sys_preadv, 4, { ARG_FD, ARG_HEX, ARG_INT, ARG_HEX } },
	[296] = { "pwritev", sys_pwritev, 4, { ARG_FD, ARG_HEX, ARG_INT, ARG_HEX } },
	[297] = { "rt_tgsigqueueinfo", sys_rt_tgsigqueueinfo, 4, { ARG_INT, ARG_INT, ARG_HEX, ARG_HEX } },
	[299] = { "recvmmsg", sys_recvmmsg, 5, { ARG_FD, ARG_HEX, ARG_HEX, ARG_HEX, ARG_HEX } },
	[302] = { "prlimit64", sys_prlimit64, 4, { ARG_INT, ARG_HEX, ARG_HEX, ARG_HEX } },
	[306] = { "syncfs", sys_syncfs, 1, { ARG_FD } },
	[307] = { "sendmmsg", sys_sendmmsg, 4, { ARG_FD, ARG_HEX, ARG_HEX, ARG_HEX } },
	[308] = { "setns", sys_setns, 2, { ARG_FD, ARG_HEX } },
	[309] = { "getcpu", sys_getcpu, 3, { ARG_HEX, ARG_HEX, ARG_HEX } },
	[310] = { "process_vm_readv", sys_process_vm_readv, 6, { ARG_INT, ARG_HEX, ARG_HEX, ARG_HEX, ARG_HEX, ARG_HEX } },
	[311] = { "process_vm_writev", sys_process_vm_writev, 6, { ARG_INT, ARG_HEX, ARG_HEX, ARG_HEX, ARG_HEX, ARG_HEX } },
	[314] = { "sched_setattr", sys_sched_setattr, 3, { ARG_INT, ARG_HEX, ARG_HEX } },
	[315] = { "sched_getattr", sys_sched_getattr, 4, { ARG_INT, ARG_HEX, ARG_HEX, ARG_HEX } },
	[316] = { "renameat2", sys_renameat2, 5, { ARG_FD, ARG_STRING, ARG_FD, ARG_STRING, ARG_HEX } },
	[317] = { "seccomp", sys_seccomp, 3, { ARG_HEX, ARG_HEX, ARG_HEX } },
	[318] = { "getrandom", sys_getrandom, 3, { ARG_HEX, ARG_SIZE, ARG_HEX } },
	[319] = { "memfd_create", sys_memfd_create, 2, { ARG_STRING, ARG_HEX } },
	[322] = { "execveat", sys_execveat, 5, { ARG_FD, ARG_STRING, ARG_HEX, ARG_HEX, ARG_HEX } },
	[324] = { "membarrier", sys_membarrier, 3, { ARG_HEX, ARG_HEX, ARG_INT } },
	[325] = { "mlock2", sys_mlock2, 3, { ARG_HEX, ARG_SIZE, ARG_HEX } },
	[326] = { "copy_file_range", sys_copy_file_range, 6, { ARG_FD, ARG_HEX, ARG_FD, ARG_HEX, ARG_SIZE, ARG_HEX } },
	[327] = { "preadv2", sys_preadv2, 6, { ARG_FD, ARG_HEX, ARG_INT, ARG_HEX, ARG_HEX, ARG_HEX } },
	[328] = { "pwritev2", sys_pwritev2, 6, { ARG_FD, ARG_HEX, ARG_INT, ARG_HEX, ARG_HEX, ARG_HEX } },
	[329] = { "pkey_mprotect", sys_pkey_mprotect, 4, { ARG_HEX, ARG_SIZE, ARG_HEX, ARG_INT } },
	[330] = { "pkey_alloc", sys_pkey_alloc, 2, { ARG_HEX, ARG_HEX } },
	[331] = { "pkey_free", sys_pkey_free, 1, { ARG_INT } },
	[332] = { "statx", sys_statx, 5, { ARG_FD, ARG_STRING, ARG_HEX, ARG_HEX, ARG_HEX } },
	[334] = { "rseq", sys_rseq, 4, { ARG_HEX, ARG_HEX, ARG_HEX, ARG_HEX } },
	[424] = { "pidfd_send_signal", sys_pidfd_send_signal, 4, { ARG_FD, ARG_HEX, ARG_HEX, ARG_HEX } },
	[428] = { "open_tree", sys_open_tree, 3, { ARG_FD, ARG_STRING, ARG_HEX } },
	[429] = { "move_mount", sys_move_mount, 5, { ARG_FD, ARG_STRING, ARG_FD, ARG_STRING, ARG_HEX } },
	[430] = { "fsopen", sys_fsopen, 2, { ARG_STRING, ARG_HEX } },
	[431] = { "fsconfig", sys_fsconfig, 5, { ARG_FD, ARG_INT, ARG_STRING, ARG_HEX, ARG_INT } },
	[432] = { "fsmount", sys_fsmount, 3, { ARG_FD, ARG_HEX, ARG_HEX } },
	[433] = { "fspick", sys_fspick, 3, { ARG_FD, ARG_STRING, ARG_HEX } },
	[434] = { "pidfd_open", sys_pidfd_open, 2, { ARG_INT, ARG_HEX } },
	[435] = { "clone3", sys_clone3, 2, { ARG_HEX, ARG_SIZE } },
	[436] = { "close_range", sys_close_range, 3, { ARG_HEX, ARG_HEX, ARG_HEX } },
	[437] = { "openat2", sys_openat2, 4, { ARG_FD, ARG_STRING, ARG_HEX, ARG_SIZE } },
	[438] = { "pidfd_getfd", sys_pidfd_getfd, 3, { ARG_FD, ARG_FD, ARG_HEX } },
	[439] = { "faccessat2", sys_faccessat2, 4, { ARG_FD, ARG_STRING, ARG_HEX, ARG_HEX } },
	[441] = { "epoll_pwait2", sys_epoll_pwait2, 6, { ARG_FD, ARG_HEX, ARG_INT, ARG_HEX, ARG_HEX, ARG_SIZE } },
	[442] = { "mount_setattr", sys_mount_setattr, 5, { ARG_FD, ARG_STRING, ARG_HEX, ARG_HEX, ARG_SIZE } },
	[449] = { "futex_waitv", sys_futex_waitv, 5, { ARG_HEX, ARG_HEX, ARG_HEX, ARG_HEX, ARG_HEX } },
	[452] = { "fchmodat2", sys_fchmodat2, 4, { ARG_FD, ARG_STRING, ARG_HEX, ARG_HEX } },
};

const char *const errnos[] = {
	[1] = "EPERM",
	[2] = "ENOENT",
	[3] = "ESRCH",
	[4] = "EINTR",
	[5] = "EIO",
	[6] = "ENXIO",
	[7] = "E2BIG",
	[8] = "ENOEXEC",
	[9] = "EBADF",
	[10] = "ECHILD",
	[11] = "EAGAIN",
	[12] = "ENOMEM",
	[13] = "EACCES",
	[14] = "EFAULT",
	[15] = "ENOTBLK",
	[16] = "EBUSY",
	[17] = "EEXIST",
	[18] = "EXDEV",
	[19] = "ENODEV",
	[20] = "ENOTDIR",
	[21] = "EISDIR",
	[22] = "EINVAL",
	[23] = "ENFILE",
	[24] = "EMFILE",
	[25] = "ENOTTY",
	[26] = "ETXTBSY",
	[27] = "EFBIG",
	[28] = "ENOSPC",
	[29] = "ESPIPE",
	[30] = "EROFS",
	[31] = "EMLINK",
	[32] = "EPIPE",
	[33] = "EDOM",
	[34] = "ERANGE",
	[35] = "EDEADLOCK",
	[36] = "ENAMETOOLONG",
	[37] = "ENOLCK",
	[38] = "ENOSYS",
	[39] = "ENOTEMPTY",
	[40] = "ELOOP",
	[42] = "ENOMSG",
	[43] = "EIDRM",
	[44] = "ECHRNG",
	[45] = "EL2NSYNC",
	[46] = "EL3HLT",
	[47] = "EL3RST",
	[48] = "ELNRNG",
	[49] = "EUNATCH",
	[50] = "ENOCSI",
	[51] = "EL2HLT",
	[52] = "EBADE",
	[53] = "EBADR",
	[54] = "EXFULL",
	[55] = "ENOANO",
	[56] = "EBADRQC",
	[57] = "EBADSLT",
	[59] = "EBFONT",
	[60] = "ENOSTR",
	[61] = "ENODATA",
	[62] = "ETIME",
	[63] = "ENOSR",
	[64] = "ENONET",
	[65] = "ENOPKG",
	[66] = "EREMOTE",
	[67] = "ENOLINK",
	[68] = "EADV",
	[69] = "ESRMNT",
	[70] = "ECOMM",
	[71] = "EPROTO",
	[72] = "EMULTIHOP",
	[73] = "EDOTDOT",
	[74] = "EBADMSG",
	[75] = "EOVERFLOW",
	[76] = "ENOTUNIQ",
	[77] = "EBADFD",
	[78] = "EREMCHG",
	[79] = "ELIBACC",
	[80] = "ELIBBAD",
	[81] = "ELIBSCN",
	[82] = "ELIBMAX",
	[83] = "ELIBEXEC",
	[84] = "EILSEQ",
	[85] = "ERESTART",
	[86] = "ESTRPIPE",
	[87] = "EUSERS",
	[88] = "ENOTSOCK",
	[89] = "EDESTADDRREQ",
	[90] = "EMSGSIZE",
	[91] = "EPROTOTYPE",
	[92] = "ENOPROTOOPT",
	[93] = "EPROTONOSUPPORT",
	[94] = "ESOCKTNOSUPPORT",
	[95] = "ENOTSUP",
	[96] = "EPFNOSUPPORT",
	[97] = "EAFNOSUPPORT",
	[98] = "EADDRINUSE",
	[99] = "EADDRNOTAVAIL",
	[100] = "ENETDOWN",
	[101] = "ENETUNREACH",
	[102] = "ENETRESET",
	[103] = "ECONNABORTED",
	[104] = "ECONNRESET",
	[105] = "ENOBUFS",
	[106] = "EISCONN",
	[107] = "ENOTCONN",
	[108] = "ESHUTDOWN",
	[109] = "ETOOMANYREFS",
	[110] = "ETIMEDOUT",
	[111] = "ECONNREFUSED",
	[112] = "EHOSTDOWN",
	[113] = "EHOSTUNREACH",
	[114] = "EALREADY",
	[115] = "EINPROGRESS",
	[116] = "ESTALE",
	[117] = "EUCLEAN",
	[118] = "ENOTNAM",
	[119] = "ENAVAIL",
	[120] = "EISNAM",
	[121] = "EREMOTEIO",
	[122] = "EDQUOT",
	[123] = "ENOMEDIUM",
	[124] = "EMEDIUMTYPE",
	[125] = "ECANCELED",
	[126] = "ENOKEY",
	[127] = "EKEYEXPIRED",
	[128] = "EKEYREVOKED",
	[129] = "EKEYREJECTED",
	[130] = "EOWNERDEAD",
	[131] = "ENOTRECOVERABLE",
	[132] = "ERFKILL",
};
const u32 errno_count = ARRAY_SIZE(errnos);
