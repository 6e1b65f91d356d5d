// SPDX-License-Identifier: Apache-2.0
/* Generated from pyvmm_sentry/syscalls.py and abi.py: python -m pyvmm_sentry.generate --write */
#include "core.h"
#include "strace.h"

static const struct trace_name set_access[] = {
	{ "R_OK", 0x4 },
	{ "W_OK", 0x2 },
	{ "X_OK", 0x1 },
};

static const struct trace_name set_arch_prctl[] = {
	{ "ARCH_SET_GS", 0x1001 },
	{ "ARCH_SET_FS", 0x1002 },
	{ "ARCH_GET_FS", 0x1003 },
	{ "ARCH_GET_GS", 0x1004 },
	{ "ARCH_CET_STATUS", 0x3001 },
};

static const struct trace_name set_at[] = {
	{ "AT_SYMLINK_NOFOLLOW", 0x100 },
	{ "AT_REMOVEDIR", 0x200 },
	{ "AT_SYMLINK_FOLLOW", 0x400 },
	{ "AT_NO_AUTOMOUNT", 0x800 },
	{ "AT_EMPTY_PATH", 0x1000 },
	{ "AT_STATX_FORCE_SYNC", 0x2000 },
	{ "AT_STATX_DONT_SYNC", 0x4000 },
	{ "AT_RECURSIVE", 0x8000 },
};

static const struct trace_name set_unlinkat[] = {
	{ "AT_REMOVEDIR", 0x200 },
};

static const struct trace_name set_clock[] = {
	{ "CLOCK_REALTIME", 0x0 },
	{ "CLOCK_MONOTONIC", 0x1 },
	{ "CLOCK_PROCESS_CPUTIME_ID", 0x2 },
	{ "CLOCK_THREAD_CPUTIME_ID", 0x3 },
	{ "CLOCK_MONOTONIC_RAW", 0x4 },
	{ "CLOCK_REALTIME_COARSE", 0x5 },
	{ "CLOCK_MONOTONIC_COARSE", 0x6 },
	{ "CLOCK_BOOTTIME", 0x7 },
	{ "CLOCK_REALTIME_ALARM", 0x8 },
	{ "CLOCK_BOOTTIME_ALARM", 0x9 },
	{ "CLOCK_TAI", 0xb },
};

static const struct trace_name set_clone[] = {
	{ "CLONE_VM", 0x100 },
	{ "CLONE_FS", 0x200 },
	{ "CLONE_FILES", 0x400 },
	{ "CLONE_SIGHAND", 0x800 },
	{ "CLONE_PIDFD", 0x1000 },
	{ "CLONE_PTRACE", 0x2000 },
	{ "CLONE_VFORK", 0x4000 },
	{ "CLONE_PARENT", 0x8000 },
	{ "CLONE_THREAD", 0x10000 },
	{ "CLONE_NEWNS", 0x20000 },
	{ "CLONE_SYSVSEM", 0x40000 },
	{ "CLONE_SETTLS", 0x80000 },
	{ "CLONE_PARENT_SETTID", 0x100000 },
	{ "CLONE_CHILD_CLEARTID", 0x200000 },
	{ "CLONE_DETACHED", 0x400000 },
	{ "CLONE_UNTRACED", 0x800000 },
	{ "CLONE_CHILD_SETTID", 0x1000000 },
	{ "CLONE_NEWCGROUP", 0x2000000 },
	{ "CLONE_NEWUTS", 0x4000000 },
	{ "CLONE_NEWIPC", 0x8000000 },
	{ "CLONE_NEWUSER", 0x10000000 },
	{ "CLONE_NEWPID", 0x20000000 },
	{ "CLONE_NEWNET", 0x40000000 },
	{ "CLONE_IO", 0x80000000 },
};

static const struct trace_name set_close_range[] = {
	{ "CLOSE_RANGE_UNSHARE", 0x2 },
	{ "CLOSE_RANGE_CLOEXEC", 0x4 },
};

static const struct trace_name set_epoll_create[] = {
	{ "EPOLL_CLOEXEC", 0x80000 },
};

static const struct trace_name set_epoll_ctl[] = {
	{ "EPOLL_CTL_ADD", 0x1 },
	{ "EPOLL_CTL_DEL", 0x2 },
	{ "EPOLL_CTL_MOD", 0x3 },
};

static const struct trace_name set_epoll_events[] = {
	{ "EPOLLIN", 0x1 },
	{ "EPOLLPRI", 0x2 },
	{ "EPOLLOUT", 0x4 },
	{ "EPOLLRDNORM", 0x40 },
	{ "EPOLLRDBAND", 0x80 },
	{ "EPOLLWRNORM", 0x100 },
	{ "EPOLLWRBAND", 0x200 },
	{ "EPOLLMSG", 0x400 },
	{ "EPOLLERR", 0x8 },
	{ "EPOLLHUP", 0x10 },
	{ "EPOLLRDHUP", 0x2000 },
	{ "EPOLLEXCLUSIVE", 0x10000000 },
	{ "EPOLLWAKEUP", 0x20000000 },
	{ "EPOLLONESHOT", 0x40000000 },
	{ "EPOLLET", 0x80000000 },
};

static const struct trace_name set_eventfd[] = {
	{ "EFD_SEMAPHORE", 0x1 },
	{ "EFD_CLOEXEC", 0x80000 },
	{ "EFD_NONBLOCK", 0x800 },
};

static const struct trace_name set_fadvise[] = {
	{ "POSIX_FADV_NORMAL", 0x0 },
	{ "POSIX_FADV_RANDOM", 0x1 },
	{ "POSIX_FADV_SEQUENTIAL", 0x2 },
	{ "POSIX_FADV_WILLNEED", 0x3 },
	{ "POSIX_FADV_DONTNEED", 0x4 },
	{ "POSIX_FADV_NOREUSE", 0x5 },
};

static const struct trace_name set_fallocate[] = {
	{ "FALLOC_FL_KEEP_SIZE", 0x1 },
	{ "FALLOC_FL_PUNCH_HOLE", 0x2 },
	{ "FALLOC_FL_NO_HIDE_STALE", 0x4 },
	{ "FALLOC_FL_COLLAPSE_RANGE", 0x8 },
	{ "FALLOC_FL_ZERO_RANGE", 0x10 },
	{ "FALLOC_FL_INSERT_RANGE", 0x20 },
	{ "FALLOC_FL_UNSHARE_RANGE", 0x40 },
};

static const struct trace_name set_family[] = {
	{ "AF_UNSPEC", 0x0 },
	{ "AF_UNIX", 0x1 },
	{ "AF_INET", 0x2 },
	{ "AF_INET6", 0xa },
	{ "AF_NETLINK", 0x10 },
	{ "AF_PACKET", 0x11 },
	{ "AF_VSOCK", 0x28 },
};

static const struct trace_name set_fcntl[] = {
	{ "F_DUPFD", 0x0 },
	{ "F_GETFD", 0x1 },
	{ "F_SETFD", 0x2 },
	{ "F_GETFL", 0x3 },
	{ "F_SETFL", 0x4 },
	{ "F_GETLK", 0x5 },
	{ "F_SETLK", 0x6 },
	{ "F_SETLKW", 0x7 },
	{ "F_SETOWN", 0x8 },
	{ "F_GETOWN", 0x9 },
	{ "F_SETSIG", 0xa },
	{ "F_GETSIG", 0xb },
	{ "F_SETOWN_EX", 0xf },
	{ "F_GETOWN_EX", 0x10 },
	{ "F_OFD_GETLK", 0x24 },
	{ "F_OFD_SETLK", 0x25 },
	{ "F_OFD_SETLKW", 0x26 },
	{ "F_SETLEASE", 0x400 },
	{ "F_GETLEASE", 0x401 },
	{ "F_NOTIFY", 0x402 },
	{ "F_DUPFD_QUERY", 0x403 },
	{ "F_DUPFD_CLOEXEC", 0x406 },
	{ "F_SETPIPE_SZ", 0x407 },
	{ "F_GETPIPE_SZ", 0x408 },
	{ "F_ADD_SEALS", 0x409 },
	{ "F_GET_SEALS", 0x40a },
};

static const struct trace_name set_flock[] = {
	{ "LOCK_SH", 0x1 },
	{ "LOCK_EX", 0x2 },
	{ "LOCK_NB", 0x4 },
	{ "LOCK_UN", 0x8 },
};

static const struct trace_name set_futex[] = {
	{ "FUTEX_WAIT", 0x0 },
	{ "FUTEX_WAKE", 0x1 },
	{ "FUTEX_FD", 0x2 },
	{ "FUTEX_REQUEUE", 0x3 },
	{ "FUTEX_CMP_REQUEUE", 0x4 },
	{ "FUTEX_WAKE_OP", 0x5 },
	{ "FUTEX_LOCK_PI", 0x6 },
	{ "FUTEX_UNLOCK_PI", 0x7 },
	{ "FUTEX_TRYLOCK_PI", 0x8 },
	{ "FUTEX_WAIT_BITSET", 0x9 },
	{ "FUTEX_WAKE_BITSET", 0xa },
	{ "FUTEX_WAIT_REQUEUE_PI", 0xb },
	{ "FUTEX_CMP_REQUEUE_PI", 0xc },
};

static const struct trace_name set_getrandom[] = {
	{ "GRND_NONBLOCK", 0x1 },
	{ "GRND_RANDOM", 0x2 },
	{ "GRND_INSECURE", 0x4 },
};

static const struct trace_name set_inotify[] = {
	{ "IN_ACCESS", 0x1 },
	{ "IN_MODIFY", 0x2 },
	{ "IN_ATTRIB", 0x4 },
	{ "IN_CLOSE_WRITE", 0x8 },
	{ "IN_CLOSE_NOWRITE", 0x10 },
	{ "IN_OPEN", 0x20 },
	{ "IN_MOVED_FROM", 0x40 },
	{ "IN_MOVED_TO", 0x80 },
	{ "IN_CREATE", 0x100 },
	{ "IN_DELETE", 0x200 },
	{ "IN_DELETE_SELF", 0x400 },
	{ "IN_MOVE_SELF", 0x800 },
	{ "IN_UNMOUNT", 0x2000 },
	{ "IN_Q_OVERFLOW", 0x4000 },
	{ "IN_IGNORED", 0x8000 },
	{ "IN_ONLYDIR", 0x1000000 },
	{ "IN_DONT_FOLLOW", 0x2000000 },
	{ "IN_EXCL_UNLINK", 0x4000000 },
	{ "IN_MASK_CREATE", 0x10000000 },
	{ "IN_MASK_ADD", 0x20000000 },
	{ "IN_ISDIR", 0x40000000 },
	{ "IN_ONESHOT", 0x80000000 },
};

static const struct trace_name set_ioctl[] = {
	{ "TCGETS", 0x5401 },
	{ "TCSETS", 0x5402 },
	{ "TCSETSW", 0x5403 },
	{ "TCSETSF", 0x5404 },
	{ "TCGETA", 0x5405 },
	{ "TCSETA", 0x5406 },
	{ "TCSETAW", 0x5407 },
	{ "TCSETAF", 0x5408 },
	{ "TCSBRK", 0x5409 },
	{ "TCXONC", 0x540a },
	{ "TCFLSH", 0x540b },
	{ "TIOCPKT", 0x5420 },
	{ "TIOCSETD", 0x5423 },
	{ "TIOCGETD", 0x5424 },
	{ "TCSBRKP", 0x5425 },
	{ "TIOCVHANGUP", 0x5437 },
	{ "TIOCGPTPEER", 0x5441 },
	{ "TIOCGDEV", 0x80045432 },
	{ "TIOCSIG", 0x40045436 },
	{ "TIOCGPKT", 0x80045438 },
	{ "TIOCGPTLCK", 0x80045439 },
	{ "TIOCGEXCL", 0x80045440 },
	{ "TIOCEXCL", 0x540c },
	{ "TIOCNXCL", 0x540d },
	{ "TIOCSCTTY", 0x540e },
	{ "TIOCGPGRP", 0x540f },
	{ "TIOCSPGRP", 0x5410 },
	{ "TIOCOUTQ", 0x5411 },
	{ "TIOCSTI", 0x5412 },
	{ "TIOCGWINSZ", 0x5413 },
	{ "TIOCSWINSZ", 0x5414 },
	{ "FIONREAD", 0x541b },
	{ "FIONBIO", 0x5421 },
	{ "TIOCNOTTY", 0x5422 },
	{ "TIOCGSID", 0x5429 },
	{ "TIOCGPTN", 0x80045430 },
	{ "TIOCSPTLCK", 0x40045431 },
	{ "FIONCLEX", 0x5450 },
	{ "FIOCLEX", 0x5451 },
	{ "FIOASYNC", 0x5452 },
	{ "FICLONE", 0x40049409 },
	{ "FICLONERANGE", 0x4020940d },
};

static const struct trace_name set_ipc[] = {
	{ "IPC_RMID", 0x0 },
	{ "IPC_SET", 0x1 },
	{ "IPC_STAT", 0x2 },
	{ "IPC_INFO", 0x3 },
};

static const struct trace_name set_ipc_get[] = {
	{ "IPC_CREAT", 0x200 },
	{ "IPC_EXCL", 0x400 },
	{ "IPC_NOWAIT", 0x800 },
};

static const struct trace_name set_itimer[] = {
	{ "ITIMER_REAL", 0x0 },
	{ "ITIMER_VIRTUAL", 0x1 },
	{ "ITIMER_PROF", 0x2 },
};

static const struct trace_name set_madvise[] = {
	{ "MADV_NORMAL", 0x0 },
	{ "MADV_RANDOM", 0x1 },
	{ "MADV_SEQUENTIAL", 0x2 },
	{ "MADV_WILLNEED", 0x3 },
	{ "MADV_DONTNEED", 0x4 },
	{ "MADV_FREE", 0x8 },
	{ "MADV_REMOVE", 0x9 },
	{ "MADV_DONTFORK", 0xa },
	{ "MADV_DOFORK", 0xb },
	{ "MADV_MERGEABLE", 0xc },
	{ "MADV_UNMERGEABLE", 0xd },
	{ "MADV_HUGEPAGE", 0xe },
	{ "MADV_NOHUGEPAGE", 0xf },
	{ "MADV_DONTDUMP", 0x10 },
	{ "MADV_DODUMP", 0x11 },
	{ "MADV_WIPEONFORK", 0x12 },
	{ "MADV_KEEPONFORK", 0x13 },
	{ "MADV_COLD", 0x14 },
	{ "MADV_PAGEOUT", 0x15 },
	{ "MADV_POPULATE_READ", 0x16 },
	{ "MADV_POPULATE_WRITE", 0x17 },
};

static const struct trace_name set_map[] = {
	{ "MAP_SHARED", 0x1 },
	{ "MAP_PRIVATE", 0x2 },
	{ "MAP_SHARED_VALIDATE", 0x3 },
	{ "MAP_FIXED", 0x10 },
	{ "MAP_ANONYMOUS", 0x20 },
	{ "MAP_32BIT", 0x40 },
	{ "MAP_GROWSDOWN", 0x100 },
	{ "MAP_DENYWRITE", 0x800 },
	{ "MAP_EXECUTABLE", 0x1000 },
	{ "MAP_LOCKED", 0x2000 },
	{ "MAP_NORESERVE", 0x4000 },
	{ "MAP_POPULATE", 0x8000 },
	{ "MAP_NONBLOCK", 0x10000 },
	{ "MAP_STACK", 0x20000 },
	{ "MAP_HUGETLB", 0x40000 },
	{ "MAP_SYNC", 0x80000 },
	{ "MAP_FIXED_NOREPLACE", 0x100000 },
};

static const struct trace_name set_membarrier[] = {
	{ "MEMBARRIER_CMD_GLOBAL", 0x1 },
	{ "MEMBARRIER_CMD_PRIVATE_EXPEDITED", 0x8 },
	{ "MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED", 0x10 },
};

static const struct trace_name set_memfd[] = {
	{ "MFD_CLOEXEC", 0x1 },
	{ "MFD_ALLOW_SEALING", 0x2 },
	{ "MFD_HUGETLB", 0x4 },
	{ "MFD_NOEXEC_SEAL", 0x8 },
	{ "MFD_EXEC", 0x10 },
};

static const struct trace_name set_message[] = {
	{ "MSG_OOB", 0x1 },
	{ "MSG_PEEK", 0x2 },
	{ "MSG_DONTROUTE", 0x4 },
	{ "MSG_CTRUNC", 0x8 },
	{ "MSG_TRUNC", 0x20 },
	{ "MSG_DONTWAIT", 0x40 },
	{ "MSG_EOR", 0x80 },
	{ "MSG_WAITALL", 0x100 },
	{ "MSG_NOSIGNAL", 0x4000 },
	{ "MSG_MORE", 0x8000 },
	{ "MSG_CMSG_CLOEXEC", 0x40000000 },
};

static const struct trace_name set_mlockall[] = {
	{ "MCL_CURRENT", 0x1 },
	{ "MCL_FUTURE", 0x2 },
	{ "MCL_ONFAULT", 0x4 },
};

static const struct trace_name set_mount[] = {
	{ "MS_RDONLY", 0x1 },
	{ "MS_NOSUID", 0x2 },
	{ "MS_NODEV", 0x4 },
	{ "MS_NOEXEC", 0x8 },
	{ "MS_SYNCHRONOUS", 0x10 },
	{ "MS_REMOUNT", 0x20 },
	{ "MS_MANDLOCK", 0x40 },
	{ "MS_DIRSYNC", 0x80 },
	{ "MS_NOATIME", 0x400 },
	{ "MS_NODIRATIME", 0x800 },
	{ "MS_BIND", 0x1000 },
	{ "MS_MOVE", 0x2000 },
	{ "MS_REC", 0x4000 },
	{ "MS_SILENT", 0x8000 },
	{ "MS_UNBINDABLE", 0x20000 },
	{ "MS_PRIVATE", 0x40000 },
	{ "MS_SLAVE", 0x80000 },
	{ "MS_SHARED", 0x100000 },
	{ "MS_RELATIME", 0x200000 },
	{ "MS_STRICTATIME", 0x1000000 },
	{ "MS_LAZYTIME", 0x2000000 },
};

static const struct trace_name set_mremap[] = {
	{ "MREMAP_MAYMOVE", 0x1 },
	{ "MREMAP_FIXED", 0x2 },
	{ "MREMAP_DONTUNMAP", 0x4 },
};

static const struct trace_name set_msync[] = {
	{ "MS_ASYNC", 0x1 },
	{ "MS_INVALIDATE", 0x2 },
	{ "MS_SYNC", 0x4 },
};

static const struct trace_name set_open[] = {
	{ "O_RDONLY", 0x0 },
	{ "O_WRONLY", 0x1 },
	{ "O_RDWR", 0x2 },
	{ "O_CREAT", 0x40 },
	{ "O_EXCL", 0x80 },
	{ "O_NOCTTY", 0x100 },
	{ "O_TRUNC", 0x200 },
	{ "O_APPEND", 0x400 },
	{ "O_NONBLOCK", 0x800 },
	{ "O_SYNC", 0x101000 },
	{ "O_DSYNC", 0x1000 },
	{ "O_DIRECT", 0x4000 },
	{ "O_LARGEFILE", 0x8000 },
	{ "O_NOFOLLOW", 0x20000 },
	{ "O_NOATIME", 0x40000 },
	{ "O_CLOEXEC", 0x80000 },
	{ "O_PATH", 0x200000 },
	{ "O_TMPFILE", 0x410000 },
	{ "O_DIRECTORY", 0x10000 },
};

static const struct trace_name set_descriptor[] = {
	{ "O_NONBLOCK", 0x800 },
	{ "O_DIRECT", 0x4000 },
	{ "O_CLOEXEC", 0x80000 },
};

static const struct trace_name set_inotify_init[] = {
	{ "IN_NONBLOCK", 0x800 },
	{ "IN_CLOEXEC", 0x80000 },
};

static const struct trace_name set_signalfd[] = {
	{ "SFD_CLOEXEC", 0x80000 },
	{ "SFD_NONBLOCK", 0x800 },
};

static const struct trace_name set_timerfd[] = {
	{ "TFD_CLOEXEC", 0x80000 },
	{ "TFD_NONBLOCK", 0x800 },
};

static const struct trace_name set_pidfd[] = {
	{ "PIDFD_NONBLOCK", 0x800 },
};

static const struct trace_name set_poll[] = {
	{ "POLLIN", 0x1 },
	{ "POLLPRI", 0x2 },
	{ "POLLOUT", 0x4 },
	{ "POLLERR", 0x8 },
	{ "POLLHUP", 0x10 },
	{ "POLLNVAL", 0x20 },
	{ "POLLRDNORM", 0x40 },
	{ "POLLRDBAND", 0x80 },
	{ "POLLWRNORM", 0x100 },
	{ "POLLWRBAND", 0x200 },
	{ "POLLRDHUP", 0x2000 },
};

static const struct trace_name set_prctl[] = {
	{ "PR_SET_PDEATHSIG", 0x1 },
	{ "PR_GET_PDEATHSIG", 0x2 },
	{ "PR_GET_DUMPABLE", 0x3 },
	{ "PR_SET_DUMPABLE", 0x4 },
	{ "PR_GET_KEEPCAPS", 0x7 },
	{ "PR_SET_KEEPCAPS", 0x8 },
	{ "PR_SET_NAME", 0xf },
	{ "PR_GET_NAME", 0x10 },
	{ "PR_GET_SECCOMP", 0x15 },
	{ "PR_SET_SECCOMP", 0x16 },
	{ "PR_CAPBSET_READ", 0x17 },
	{ "PR_CAPBSET_DROP", 0x18 },
	{ "PR_GET_TSC", 0x19 },
	{ "PR_SET_TSC", 0x1a },
	{ "PR_GET_SECUREBITS", 0x1b },
	{ "PR_SET_SECUREBITS", 0x1c },
	{ "PR_SET_TIMERSLACK", 0x1d },
	{ "PR_GET_TIMERSLACK", 0x1e },
	{ "PR_SET_MM", 0x23 },
	{ "PR_SET_CHILD_SUBREAPER", 0x24 },
	{ "PR_GET_CHILD_SUBREAPER", 0x25 },
	{ "PR_SET_NO_NEW_PRIVS", 0x26 },
	{ "PR_GET_NO_NEW_PRIVS", 0x27 },
	{ "PR_GET_TID_ADDRESS", 0x28 },
	{ "PR_SET_THP_DISABLE", 0x29 },
	{ "PR_GET_THP_DISABLE", 0x2a },
	{ "PR_CAP_AMBIENT", 0x2f },
	{ "PR_GET_SPECULATION_CTRL", 0x34 },
	{ "PR_SET_SPECULATION_CTRL", 0x35 },
	{ "PR_SET_VMA", 0x53564d41 },
};

static const struct trace_name set_priority[] = {
	{ "PRIO_PROCESS", 0x0 },
	{ "PRIO_PGRP", 0x1 },
	{ "PRIO_USER", 0x2 },
};

static const struct trace_name set_prot[] = {
	{ "PROT_READ", 0x1 },
	{ "PROT_WRITE", 0x2 },
	{ "PROT_EXEC", 0x4 },
	{ "PROT_SEM", 0x8 },
	{ "PROT_GROWSDOWN", 0x1000000 },
	{ "PROT_GROWSUP", 0x2000000 },
};

static const struct trace_name set_ptrace[] = {
	{ "PTRACE_TRACEME", 0x0 },
	{ "PTRACE_PEEKTEXT", 0x1 },
	{ "PTRACE_PEEKDATA", 0x2 },
	{ "PTRACE_PEEKUSER", 0x3 },
	{ "PTRACE_POKETEXT", 0x4 },
	{ "PTRACE_POKEDATA", 0x5 },
	{ "PTRACE_POKEUSER", 0x6 },
	{ "PTRACE_CONT", 0x7 },
	{ "PTRACE_KILL", 0x8 },
	{ "PTRACE_SINGLESTEP", 0x9 },
	{ "PTRACE_GETREGS", 0xc },
	{ "PTRACE_SETREGS", 0xd },
	{ "PTRACE_ATTACH", 0x10 },
	{ "PTRACE_DETACH", 0x11 },
	{ "PTRACE_SYSCALL", 0x18 },
	{ "PTRACE_SETOPTIONS", 0x4200 },
	{ "PTRACE_GETEVENTMSG", 0x4201 },
	{ "PTRACE_GETSIGINFO", 0x4202 },
	{ "PTRACE_SETSIGINFO", 0x4203 },
	{ "PTRACE_GETREGSET", 0x4204 },
	{ "PTRACE_SETREGSET", 0x4205 },
	{ "PTRACE_SEIZE", 0x4206 },
	{ "PTRACE_INTERRUPT", 0x4207 },
	{ "PTRACE_LISTEN", 0x4208 },
	{ "PTRACE_GET_SYSCALL_INFO", 0x420e },
};

static const struct trace_name set_rename[] = {
	{ "RENAME_NOREPLACE", 0x1 },
	{ "RENAME_EXCHANGE", 0x2 },
	{ "RENAME_WHITEOUT", 0x4 },
};

static const struct trace_name set_rlimit[] = {
	{ "RLIMIT_CPU", 0x0 },
	{ "RLIMIT_FSIZE", 0x1 },
	{ "RLIMIT_DATA", 0x2 },
	{ "RLIMIT_STACK", 0x3 },
	{ "RLIMIT_CORE", 0x4 },
	{ "RLIMIT_RSS", 0x5 },
	{ "RLIMIT_NPROC", 0x6 },
	{ "RLIMIT_NOFILE", 0x7 },
	{ "RLIMIT_MEMLOCK", 0x8 },
	{ "RLIMIT_AS", 0x9 },
	{ "RLIMIT_LOCKS", 0xa },
	{ "RLIMIT_SIGPENDING", 0xb },
	{ "RLIMIT_MSGQUEUE", 0xc },
	{ "RLIMIT_NICE", 0xd },
	{ "RLIMIT_RTPRIO", 0xe },
	{ "RLIMIT_RTTIME", 0xf },
};

static const struct trace_name set_rusage[] = {
	{ "RUSAGE_SELF", 0x0 },
	{ "RUSAGE_THREAD", 0x1 },
	{ "RUSAGE_CHILDREN", 0xffffffff },
};

static const struct trace_name set_rwf[] = {
	{ "RWF_HIPRI", 0x1 },
	{ "RWF_DSYNC", 0x2 },
	{ "RWF_SYNC", 0x4 },
	{ "RWF_NOWAIT", 0x8 },
	{ "RWF_APPEND", 0x10 },
	{ "RWF_NOAPPEND", 0x20 },
};

static const struct trace_name set_sa[] = {
	{ "SA_RESTORER", 0x4000000 },
	{ "SA_NOCLDSTOP", 0x1 },
	{ "SA_NOCLDWAIT", 0x2 },
	{ "SA_SIGINFO", 0x4 },
	{ "SA_ONSTACK", 0x8000000 },
	{ "SA_RESTART", 0x10000000 },
	{ "SA_NODEFER", 0x40000000 },
	{ "SA_RESETHAND", 0x80000000 },
};

static const struct trace_name set_sched[] = {
	{ "SCHED_OTHER", 0x0 },
	{ "SCHED_FIFO", 0x1 },
	{ "SCHED_RR", 0x2 },
	{ "SCHED_BATCH", 0x3 },
	{ "SCHED_IDLE", 0x5 },
	{ "SCHED_DEADLINE", 0x6 },
};

static const struct trace_name set_seccomp[] = {
	{ "SECCOMP_SET_MODE_STRICT", 0x0 },
	{ "SECCOMP_SET_MODE_FILTER", 0x1 },
	{ "SECCOMP_GET_ACTION_AVAIL", 0x2 },
	{ "SECCOMP_GET_NOTIF_SIZES", 0x3 },
};

static const struct trace_name set_seek[] = {
	{ "SEEK_SET", 0x0 },
	{ "SEEK_CUR", 0x1 },
	{ "SEEK_END", 0x2 },
	{ "SEEK_DATA", 0x3 },
	{ "SEEK_HOLE", 0x4 },
};

static const struct trace_name set_shmat[] = {
	{ "SHM_RDONLY", 0x1000 },
	{ "SHM_RND", 0x2000 },
	{ "SHM_REMAP", 0x4000 },
	{ "SHM_EXEC", 0x8000 },
};

static const struct trace_name set_shutdown[] = {
	{ "SHUT_RD", 0x0 },
	{ "SHUT_WR", 0x1 },
	{ "SHUT_RDWR", 0x2 },
};

static const struct trace_name set_sigmask[] = {
	{ "SIG_BLOCK", 0x0 },
	{ "SIG_UNBLOCK", 0x1 },
	{ "SIG_SETMASK", 0x2 },
};

static const struct trace_name set_signal[] = {
	{ "SIGHUP", 0x1 },
	{ "SIGINT", 0x2 },
	{ "SIGQUIT", 0x3 },
	{ "SIGILL", 0x4 },
	{ "SIGTRAP", 0x5 },
	{ "SIGABRT", 0x6 },
	{ "SIGBUS", 0x7 },
	{ "SIGFPE", 0x8 },
	{ "SIGKILL", 0x9 },
	{ "SIGUSR1", 0xa },
	{ "SIGSEGV", 0xb },
	{ "SIGUSR2", 0xc },
	{ "SIGPIPE", 0xd },
	{ "SIGALRM", 0xe },
	{ "SIGTERM", 0xf },
	{ "SIGSTKFLT", 0x10 },
	{ "SIGCHLD", 0x11 },
	{ "SIGCONT", 0x12 },
	{ "SIGSTOP", 0x13 },
	{ "SIGTSTP", 0x14 },
	{ "SIGTTIN", 0x15 },
	{ "SIGTTOU", 0x16 },
	{ "SIGURG", 0x17 },
	{ "SIGXCPU", 0x18 },
	{ "SIGXFSZ", 0x19 },
	{ "SIGVTALRM", 0x1a },
	{ "SIGPROF", 0x1b },
	{ "SIGWINCH", 0x1c },
	{ "SIGIO", 0x1d },
	{ "SIGPWR", 0x1e },
	{ "SIGSYS", 0x1f },
	{ "SIGRT_0", 0x20 },
	{ "SIGRT_1", 0x21 },
	{ "SIGRT_2", 0x22 },
};

static const struct trace_name set_socket[] = {
	{ "SOCK_STREAM", 0x1 },
	{ "SOCK_DGRAM", 0x2 },
	{ "SOCK_RAW", 0x3 },
	{ "SOCK_SEQPACKET", 0x5 },
	{ "SOCK_CLOEXEC", 0x80000 },
	{ "SOCK_NONBLOCK", 0x800 },
};

static const struct trace_name set_socket_flags[] = {
	{ "SOCK_CLOEXEC", 0x80000 },
	{ "SOCK_NONBLOCK", 0x800 },
};

static const struct trace_name set_sockopt_level[] = {
	{ "SOL_SOCKET", 0x1 },
	{ "SOL_IP", 0x0 },
	{ "SOL_TCP", 0x6 },
	{ "SOL_IPV6", 0x29 },
	{ "SOL_NETLINK", 0x10e },
};

static const struct trace_name set_splice[] = {
	{ "SPLICE_F_MOVE", 0x1 },
	{ "SPLICE_F_NONBLOCK", 0x2 },
	{ "SPLICE_F_MORE", 0x4 },
	{ "SPLICE_F_GIFT", 0x8 },
};

static const struct trace_name set_ss[] = {
	{ "SS_ONSTACK", 0x1 },
	{ "SS_DISABLE", 0x2 },
	{ "SS_AUTODISARM", 0x80000000 },
};

static const struct trace_name set_statx[] = {
	{ "STATX_TYPE", 0x1 },
	{ "STATX_MODE", 0x2 },
	{ "STATX_NLINK", 0x4 },
	{ "STATX_UID", 0x8 },
	{ "STATX_GID", 0x10 },
	{ "STATX_ATIME", 0x20 },
	{ "STATX_MTIME", 0x40 },
	{ "STATX_CTIME", 0x80 },
	{ "STATX_INO", 0x100 },
	{ "STATX_SIZE", 0x200 },
	{ "STATX_BLOCKS", 0x400 },
	{ "STATX_BTIME", 0x800 },
	{ "STATX_MNT_ID", 0x1000 },
	{ "STATX_DIOALIGN", 0x2000 },
};

static const struct trace_name set_sync_file_range[] = {
	{ "SYNC_FILE_RANGE_WAIT_BEFORE", 0x1 },
	{ "SYNC_FILE_RANGE_WRITE", 0x2 },
	{ "SYNC_FILE_RANGE_WAIT_AFTER", 0x4 },
};

static const struct trace_name set_timer[] = {
	{ "TIMER_ABSTIME", 0x1 },
	{ "TFD_TIMER_CANCEL_ON_SET", 0x2 },
};

static const struct trace_name set_umount[] = {
	{ "MNT_FORCE", 0x1 },
	{ "MNT_DETACH", 0x2 },
	{ "MNT_EXPIRE", 0x4 },
	{ "UMOUNT_NOFOLLOW", 0x8 },
};

static const struct trace_name set_wait[] = {
	{ "WNOHANG", 0x1 },
	{ "WUNTRACED", 0x2 },
	{ "WEXITED", 0x4 },
	{ "WCONTINUED", 0x8 },
	{ "WNOWAIT", 0x1000000 },
	{ "__WNOTHREAD", 0x20000000 },
	{ "__WALL", 0x40000000 },
	{ "__WCLONE", 0x80000000 },
};

static const struct trace_name set_waitid[] = {
	{ "P_ALL", 0x0 },
	{ "P_PID", 0x1 },
	{ "P_PGID", 0x2 },
	{ "P_PIDFD", 0x3 },
};

static const struct trace_name set_xattr[] = {
	{ "XATTR_CREATE", 0x1 },
	{ "XATTR_REPLACE", 0x2 },
};

static const struct trace_name set_type[] = {
	{ "S_IFSOCK", 0xc000 },
	{ "S_IFLNK", 0xa000 },
	{ "S_IFREG", 0x8000 },
	{ "S_IFBLK", 0x6000 },
	{ "S_IFDIR", 0x4000 },
	{ "S_IFCHR", 0x2000 },
	{ "S_IFIFO", 0x1000 },
};

const struct trace_set trace_sets[] = {
	{ set_access, ARRAY_SIZE(set_access), 0, "F_OK" },
	{ set_arch_prctl, ARRAY_SIZE(set_arch_prctl), 0, NULL },
	{ set_at, ARRAY_SIZE(set_at), 0, NULL },
	{ set_unlinkat, ARRAY_SIZE(set_unlinkat), 0, NULL },
	{ set_clock, ARRAY_SIZE(set_clock), 0, NULL },
	{ set_clone, ARRAY_SIZE(set_clone), 0, NULL },
	{ set_close_range, ARRAY_SIZE(set_close_range), 0, NULL },
	{ set_epoll_create, ARRAY_SIZE(set_epoll_create), 0, NULL },
	{ set_epoll_ctl, ARRAY_SIZE(set_epoll_ctl), 0, NULL },
	{ set_epoll_events, ARRAY_SIZE(set_epoll_events), 0, NULL },
	{ set_eventfd, ARRAY_SIZE(set_eventfd), 0, NULL },
	{ set_fadvise, ARRAY_SIZE(set_fadvise), 0, NULL },
	{ set_fallocate, ARRAY_SIZE(set_fallocate), 0, NULL },
	{ set_family, ARRAY_SIZE(set_family), 0, NULL },
	{ set_fcntl, ARRAY_SIZE(set_fcntl), 0, NULL },
	{ set_flock, ARRAY_SIZE(set_flock), 0, NULL },
	{ set_futex, ARRAY_SIZE(set_futex), 0, NULL },
	{ set_getrandom, ARRAY_SIZE(set_getrandom), 0, NULL },
	{ set_inotify, ARRAY_SIZE(set_inotify), 0, NULL },
	{ set_ioctl, ARRAY_SIZE(set_ioctl), 0, NULL },
	{ set_ipc, ARRAY_SIZE(set_ipc), 0, NULL },
	{ set_ipc_get, ARRAY_SIZE(set_ipc_get), 0, NULL },
	{ set_itimer, ARRAY_SIZE(set_itimer), 0, NULL },
	{ set_madvise, ARRAY_SIZE(set_madvise), 0, NULL },
	{ set_map, ARRAY_SIZE(set_map), 15, NULL },
	{ set_membarrier, ARRAY_SIZE(set_membarrier), 0, "MEMBARRIER_CMD_QUERY" },
	{ set_memfd, ARRAY_SIZE(set_memfd), 0, NULL },
	{ set_message, ARRAY_SIZE(set_message), 0, NULL },
	{ set_mlockall, ARRAY_SIZE(set_mlockall), 0, NULL },
	{ set_mount, ARRAY_SIZE(set_mount), 0, NULL },
	{ set_mremap, ARRAY_SIZE(set_mremap), 0, NULL },
	{ set_msync, ARRAY_SIZE(set_msync), 0, NULL },
	{ set_open, ARRAY_SIZE(set_open), 3, NULL },
	{ set_descriptor, ARRAY_SIZE(set_descriptor), 0, NULL },
	{ set_inotify_init, ARRAY_SIZE(set_inotify_init), 0, NULL },
	{ set_signalfd, ARRAY_SIZE(set_signalfd), 0, NULL },
	{ set_timerfd, ARRAY_SIZE(set_timerfd), 0, NULL },
	{ set_pidfd, ARRAY_SIZE(set_pidfd), 0, NULL },
	{ set_poll, ARRAY_SIZE(set_poll), 0, NULL },
	{ set_prctl, ARRAY_SIZE(set_prctl), 0, NULL },
	{ set_priority, ARRAY_SIZE(set_priority), 0, NULL },
	{ set_prot, ARRAY_SIZE(set_prot), 0, "PROT_NONE" },
	{ set_ptrace, ARRAY_SIZE(set_ptrace), 0, NULL },
	{ set_rename, ARRAY_SIZE(set_rename), 0, NULL },
	{ set_rlimit, ARRAY_SIZE(set_rlimit), 0, NULL },
	{ set_rusage, ARRAY_SIZE(set_rusage), 0, NULL },
	{ set_rwf, ARRAY_SIZE(set_rwf), 0, NULL },
	{ set_sa, ARRAY_SIZE(set_sa), 0, NULL },
	{ set_sched, ARRAY_SIZE(set_sched), 0, NULL },
	{ set_seccomp, ARRAY_SIZE(set_seccomp), 0, NULL },
	{ set_seek, ARRAY_SIZE(set_seek), 0, NULL },
	{ set_shmat, ARRAY_SIZE(set_shmat), 0, NULL },
	{ set_shutdown, ARRAY_SIZE(set_shutdown), 0, NULL },
	{ set_sigmask, ARRAY_SIZE(set_sigmask), 0, NULL },
	{ set_signal, ARRAY_SIZE(set_signal), 0, NULL },
	{ set_socket, ARRAY_SIZE(set_socket), 15, NULL },
	{ set_socket_flags, ARRAY_SIZE(set_socket_flags), 0, NULL },
	{ set_sockopt_level, ARRAY_SIZE(set_sockopt_level), 0, NULL },
	{ set_splice, ARRAY_SIZE(set_splice), 0, NULL },
	{ set_ss, ARRAY_SIZE(set_ss), 0, NULL },
	{ set_statx, ARRAY_SIZE(set_statx), 0, NULL },
	{ set_sync_file_range, ARRAY_SIZE(set_sync_file_range), 0, NULL },
	{ set_timer, ARRAY_SIZE(set_timer), 0, NULL },
	{ set_umount, ARRAY_SIZE(set_umount), 0, NULL },
	{ set_wait, ARRAY_SIZE(set_wait), 0, NULL },
	{ set_waitid, ARRAY_SIZE(set_waitid), 0, NULL },
	{ set_xattr, ARRAY_SIZE(set_xattr), 0, NULL },
	{ set_type, ARRAY_SIZE(set_type), 0, NULL },
};
const u8 trace_signal_set = 54, trace_type_set = 67, trace_futex_set = 16, trace_poll_set = 38, trace_epoll_set = 9, trace_family_set = 13, trace_open_set = 32;

static const struct trace_field fields_timespec[] = {
	{ "tv_sec", 0, T_LONG, 0 },
	{ "tv_nsec", 8, T_LONG, 0 },
};

static const struct trace_field fields_timeval[] = {
	{ "tv_sec", 0, T_LONG, 0 },
	{ "tv_usec", 8, T_LONG, 0 },
};

static const struct trace_field fields_timezone[] = {
	{ "tz_minuteswest", 0, T_INT, 0 },
	{ "tz_dsttime", 4, T_INT, 0 },
};

static const struct trace_field fields_itimerspec[] = {
	{ "it_interval", 0, T_STRUCT, 0 },
	{ "it_value", 16, T_STRUCT, 0 },
};

static const struct trace_field fields_itimerval[] = {
	{ "it_interval", 0, T_STRUCT, 1 },
	{ "it_value", 16, T_STRUCT, 1 },
};

static const struct trace_field fields_utimbuf[] = {
	{ "actime", 0, T_LONG, 0 },
	{ "modtime", 8, T_LONG, 0 },
};

static const struct trace_field fields_rlimit[] = {
	{ "rlim_cur", 0, T_LIMIT, 0 },
	{ "rlim_max", 8, T_LIMIT, 0 },
};

static const struct trace_field fields_stack[] = {
	{ "ss_sp", 0, T_ADDR, 0 },
	{ "ss_flags", 8, T_FLAGS, 59 },
	{ "ss_size", 16, T_SIZE, 0 },
};

static const struct trace_field fields_sigaction[] = {
	{ "sa_handler", 0, T_HANDLER, 0 },
	{ "sa_mask", 24, T_SIGSET, 0 },
	{ "sa_flags", 8, T_FLAGS64, 47 },
	{ "sa_restorer", 16, T_RESTORER, 0 },
};

static const struct trace_field fields_tms[] = {
	{ "tms_utime", 0, T_LONG, 0 },
	{ "tms_stime", 8, T_LONG, 0 },
	{ "tms_cutime", 16, T_LONG, 0 },
	{ "tms_cstime", 24, T_LONG, 0 },
};

static const struct trace_field fields_stat[] = {
	{ "st_mode", 24, T_FILE_MODE, 0 },
	{ "st_rdev", 40, T_DEVICE, 0 },
	{ "st_size", 48, T_FILE_SIZE, 0 },
};

static const struct trace_field fields_statx[] = {
	{ "stx_mask", 0, T_FLAGS, 60 },
	{ "stx_attributes", 8, T_HEX, 0 },
	{ "stx_mode", 28, T_USHORT_MODE, 0 },
	{ "stx_size", 40, T_ULONG, 0 },
};

static const struct trace_field fields_statfs[] = {
	{ "f_type", 0, T_HEX, 0 },
	{ "f_bsize", 8, T_ULONG, 0 },
	{ "f_blocks", 16, T_ULONG, 0 },
	{ "f_bfree", 24, T_ULONG, 0 },
	{ "f_bavail", 32, T_ULONG, 0 },
	{ "f_files", 40, T_ULONG, 0 },
	{ "f_ffree", 48, T_ULONG, 0 },
	{ "f_namelen", 64, T_ULONG, 0 },
	{ "f_frsize", 72, T_ULONG, 0 },
	{ "f_flags", 80, T_HEX, 0 },
};

static const struct trace_field fields_rusage[] = {
	{ "ru_utime", 0, T_STRUCT, 1 },
	{ "ru_stime", 16, T_STRUCT, 1 },
};

static const struct trace_field fields_sysinfo[] = {
	{ "uptime", 0, T_LONG, 0 },
	{ "totalram", 32, T_ULONG, 0 },
	{ "freeram", 40, T_ULONG, 0 },
	{ "sharedram", 48, T_ULONG, 0 },
	{ "bufferram", 56, T_ULONG, 0 },
	{ "totalswap", 64, T_ULONG, 0 },
	{ "freeswap", 72, T_ULONG, 0 },
	{ "procs", 80, T_USHORT, 0 },
};

static const struct trace_field fields_utsname[] = {
	{ "sysname", 0, T_CHARS, 0 },
	{ "nodename", 65, T_CHARS, 0 },
};

static const struct trace_field fields_clone_args[] = {
	{ "flags", 0, T_FLAGS64, 5 },
	{ "pidfd", 8, T_HEX, 0 },
	{ "child_tid", 16, T_HEX, 0 },
	{ "parent_tid", 24, T_HEX, 0 },
	{ "exit_signal", 32, T_ULONG, 0 },
	{ "stack", 40, T_HEX, 0 },
	{ "stack_size", 48, T_HEX, 0 },
	{ "tls", 56, T_HEX, 0 },
};

static const struct trace_field fields_open_how[] = {
	{ "flags", 0, T_FLAGS64, 32 },
	{ "mode", 8, T_MODE64, 0 },
	{ "resolve", 16, T_HEX, 0 },
};

static const struct trace_field fields_mq_attr[] = {
	{ "mq_flags", 0, T_FLAGS64, 32 },
	{ "mq_maxmsg", 8, T_LONG, 0 },
	{ "mq_msgsize", 16, T_LONG, 0 },
	{ "mq_curmsgs", 24, T_LONG, 0 },
};

static const struct trace_field fields_cap_header[] = {
	{ "version", 0, T_HEX32, 0 },
	{ "pid", 4, T_INT, 0 },
};

static const struct trace_field fields_sigevent[] = {
	{ "sigev_value", 0, T_HEX, 0 },
	{ "sigev_signo", 8, T_SIGNAL, 0 },
	{ "sigev_notify", 12, T_INT, 0 },
};

static const struct trace_field fields_siginfo[] = {
	{ "si_signo", 0, T_SIGNAL, 0 },
	{ "si_errno", 4, T_INT, 0 },
	{ "si_code", 8, T_INT, 0 },
};

const struct trace_type trace_types[] = {
	{ T_STRUCT, 0, 2, false, 16, fields_timespec },
	{ T_STRUCT, 0, 2, false, 16, fields_timeval },
	{ T_STRUCT, 0, 2, false, 8, fields_timezone },
	{ T_STRUCT, 0, 2, false, 32, fields_itimerspec },
	{ T_STRUCT, 0, 2, false, 32, fields_itimerval },
	{ T_STRUCT, 0, 2, false, 16, fields_utimbuf },
	{ T_STRUCT, 0, 2, false, 16, fields_rlimit },
	{ T_STRUCT, 0, 3, false, 24, fields_stack },
	{ T_STRUCT, 0, 4, false, 32, fields_sigaction },
	{ T_STRUCT, 0, 4, false, 32, fields_tms },
	{ T_STRUCT, 0, 3, true, 144, fields_stat },
	{ T_STRUCT, 0, 4, true, 256, fields_statx },
	{ T_STRUCT, 0, 10, false, 120, fields_statfs },
	{ T_STRUCT, 0, 2, true, 144, fields_rusage },
	{ T_STRUCT, 0, 8, true, 112, fields_sysinfo },
	{ T_STRUCT, 0, 2, true, 390, fields_utsname },
	{ T_STRUCT, 0, 8, false, 88, fields_clone_args },
	{ T_STRUCT, 0, 3, false, 24, fields_open_how },
	{ T_STRUCT, 0, 4, false, 64, fields_mq_attr },
	{ T_STRUCT, 0, 2, false, 8, fields_cap_header },
	{ T_STRUCT, 0, 3, false, 64, fields_sigevent },
	{ T_STRUCT, 0, 3, true, 128, fields_siginfo },
	{ T_PAIR, 0, 0, false, 32, NULL },
	{ T_PAIR, 1, 0, false, 32, NULL },
	{ T_INT, 0, 0, false, 4, NULL },
	{ T_UINT, 0, 0, false, 4, NULL },
	{ T_LONG, 0, 0, false, 8, NULL },
	{ T_ULONG, 0, 0, false, 8, NULL },
	{ T_SIGSET, 0, 0, false, 8, NULL },
	{ T_WAIT_STATUS, 0, 0, false, 4, NULL },
	{ T_FD_PAIR, 0, 0, false, 8, NULL },
	{ T_MSGHDR, 0, 0, false, 56, NULL },
	{ T_EPOLL_EVENT, 0, 0, false, 12, NULL },
};

const struct trace_errno trace_errnos[] = {
	[1] = { "EPERM", "Operation not permitted" },
	[2] = { "ENOENT", "No such file or directory" },
	[3] = { "ESRCH", "No such process" },
	[4] = { "EINTR", "Interrupted system call" },
	[5] = { "EIO", "Input/output error" },
	[6] = { "ENXIO", "No such device or address" },
	[7] = { "E2BIG", "Argument list too long" },
	[8] = { "ENOEXEC", "Exec format error" },
	[9] = { "EBADF", "Bad file descriptor" },
	[10] = { "ECHILD", "No child processes" },
	[11] = { "EAGAIN", "Resource temporarily unavailable" },
	[12] = { "ENOMEM", "Cannot allocate memory" },
	[13] = { "EACCES", "Permission denied" },
	[14] = { "EFAULT", "Bad address" },
	[15] = { "ENOTBLK", "Block device required" },
	[16] = { "EBUSY", "Device or resource busy" },
	[17] = { "EEXIST", "File exists" },
	[18] = { "EXDEV", "Invalid cross-device link" },
	[19] = { "ENODEV", "No such device" },
	[20] = { "ENOTDIR", "Not a directory" },
	[21] = { "EISDIR", "Is a directory" },
	[22] = { "EINVAL", "Invalid argument" },
	[23] = { "ENFILE", "Too many open files in system" },
	[24] = { "EMFILE", "Too many open files" },
	[25] = { "ENOTTY", "Inappropriate ioctl for device" },
	[26] = { "ETXTBSY", "Text file busy" },
	[27] = { "EFBIG", "File too large" },
	[28] = { "ENOSPC", "No space left on device" },
	[29] = { "ESPIPE", "Illegal seek" },
	[30] = { "EROFS", "Read-only file system" },
	[31] = { "EMLINK", "Too many links" },
	[32] = { "EPIPE", "Broken pipe" },
	[33] = { "EDOM", "Numerical argument out of domain" },
	[34] = { "ERANGE", "Numerical result out of range" },
	[35] = { "EDEADLOCK", "Resource deadlock avoided" },
	[36] = { "ENAMETOOLONG", "File name too long" },
	[37] = { "ENOLCK", "No locks available" },
	[38] = { "ENOSYS", "Function not implemented" },
	[39] = { "ENOTEMPTY", "Directory not empty" },
	[40] = { "ELOOP", "Too many levels of symbolic links" },
	[42] = { "ENOMSG", "No message of desired type" },
	[43] = { "EIDRM", "Identifier removed" },
	[44] = { "ECHRNG", "Channel number out of range" },
	[45] = { "EL2NSYNC", "Level 2 not synchronized" },
	[46] = { "EL3HLT", "Level 3 halted" },
	[47] = { "EL3RST", "Level 3 reset" },
	[48] = { "ELNRNG", "Link number out of range" },
	[49] = { "EUNATCH", "Protocol driver not attached" },
	[50] = { "ENOCSI", "No CSI structure available" },
	[51] = { "EL2HLT", "Level 2 halted" },
	[52] = { "EBADE", "Invalid exchange" },
	[53] = { "EBADR", "Invalid request descriptor" },
	[54] = { "EXFULL", "Exchange full" },
	[55] = { "ENOANO", "No anode" },
	[56] = { "EBADRQC", "Invalid request code" },
	[57] = { "EBADSLT", "Invalid slot" },
	[59] = { "EBFONT", "Bad font file format" },
	[60] = { "ENOSTR", "Device not a stream" },
	[61] = { "ENODATA", "No data available" },
	[62] = { "ETIME", "Timer expired" },
	[63] = { "ENOSR", "Out of streams resources" },
	[64] = { "ENONET", "Machine is not on the network" },
	[65] = { "ENOPKG", "Package not installed" },
	[66] = { "EREMOTE", "Object is remote" },
	[67] = { "ENOLINK", "Link has been severed" },
	[68] = { "EADV", "Advertise error" },
	[69] = { "ESRMNT", "Srmount error" },
	[70] = { "ECOMM", "Communication error on send" },
	[71] = { "EPROTO", "Protocol error" },
	[72] = { "EMULTIHOP", "Multihop attempted" },
	[73] = { "EDOTDOT", "RFS specific error" },
	[74] = { "EBADMSG", "Bad message" },
	[75] = { "EOVERFLOW", "Value too large for defined data type" },
	[76] = { "ENOTUNIQ", "Name not unique on network" },
	[77] = { "EBADFD", "File descriptor in bad state" },
	[78] = { "EREMCHG", "Remote address changed" },
	[79] = { "ELIBACC", "Can not access a needed shared library" },
	[80] = { "ELIBBAD", "Accessing a corrupted shared library" },
	[81] = { "ELIBSCN", ".lib section in a.out corrupted" },
	[82] = { "ELIBMAX", "Attempting to link in too many shared libraries" },
	[83] = { "ELIBEXEC", "Cannot exec a shared library directly" },
	[84] = { "EILSEQ", "Invalid or incomplete multibyte or wide character" },
	[85] = { "ERESTART", "Interrupted system call should be restarted" },
	[86] = { "ESTRPIPE", "Streams pipe error" },
	[87] = { "EUSERS", "Too many users" },
	[88] = { "ENOTSOCK", "Socket operation on non-socket" },
	[89] = { "EDESTADDRREQ", "Destination address required" },
	[90] = { "EMSGSIZE", "Message too long" },
	[91] = { "EPROTOTYPE", "Protocol wrong type for socket" },
	[92] = { "ENOPROTOOPT", "Protocol not available" },
	[93] = { "EPROTONOSUPPORT", "Protocol not supported" },
	[94] = { "ESOCKTNOSUPPORT", "Socket type not supported" },
	[95] = { "ENOTSUP", "Operation not supported" },
	[96] = { "EPFNOSUPPORT", "Protocol family not supported" },
	[97] = { "EAFNOSUPPORT", "Address family not supported by protocol" },
	[98] = { "EADDRINUSE", "Address already in use" },
	[99] = { "EADDRNOTAVAIL", "Cannot assign requested address" },
	[100] = { "ENETDOWN", "Network is down" },
	[101] = { "ENETUNREACH", "Network is unreachable" },
	[102] = { "ENETRESET", "Network dropped connection on reset" },
	[103] = { "ECONNABORTED", "Software caused connection abort" },
	[104] = { "ECONNRESET", "Connection reset by peer" },
	[105] = { "ENOBUFS", "No buffer space available" },
	[106] = { "EISCONN", "Transport endpoint is already connected" },
	[107] = { "ENOTCONN", "Transport endpoint is not connected" },
	[108] = { "ESHUTDOWN", "Cannot send after transport endpoint shutdown" },
	[109] = { "ETOOMANYREFS", "Too many references: cannot splice" },
	[110] = { "ETIMEDOUT", "Connection timed out" },
	[111] = { "ECONNREFUSED", "Connection refused" },
	[112] = { "EHOSTDOWN", "Host is down" },
	[113] = { "EHOSTUNREACH", "No route to host" },
	[114] = { "EALREADY", "Operation already in progress" },
	[115] = { "EINPROGRESS", "Operation now in progress" },
	[116] = { "ESTALE", "Stale file handle" },
	[117] = { "EUCLEAN", "Structure needs cleaning" },
	[118] = { "ENOTNAM", "Not a XENIX named type file" },
	[119] = { "ENAVAIL", "No XENIX semaphores available" },
	[120] = { "EISNAM", "Is a named type file" },
	[121] = { "EREMOTEIO", "Remote I/O error" },
	[122] = { "EDQUOT", "Disk quota exceeded" },
	[123] = { "ENOMEDIUM", "No medium found" },
	[124] = { "EMEDIUMTYPE", "Wrong medium type" },
	[125] = { "ECANCELED", "Operation canceled" },
	[126] = { "ENOKEY", "Required key not available" },
	[127] = { "EKEYEXPIRED", "Key has expired" },
	[128] = { "EKEYREVOKED", "Key has been revoked" },
	[129] = { "EKEYREJECTED", "Key was rejected by service" },
	[130] = { "EOWNERDEAD", "Owner died" },
	[131] = { "ENOTRECOVERABLE", "State not recoverable" },
	[132] = { "ERFKILL", "Operation not possible due to RF-kill" },
};
const u32 trace_errno_count = ARRAY_SIZE(trace_errnos);
