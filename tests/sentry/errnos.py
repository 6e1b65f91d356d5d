"""The errnos of each system call, and why some of them have no test.

The list is that of section 2 of Debian's manual pages (manpages-dev 6.9): Linux is the specification, and the source of
the core would show only what somebody has thought of. A page about several calls is divided among them. Errnos that the
programs provoke on Linux as well, and that no page has, are in ``call_coverage.txt`` alone.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import NamedTuple

PATH = "EACCES EFAULT ELOOP ENAMETOOLONG ENOENT ENOTDIR "
AT = PATH + "EBADF "
CHANGE = "EPERM EROFS "
MAKE = PATH + "EDQUOT EEXIST ENOSPC EPERM EROFS "
OPEN = MAKE + "EBUSY EINTR EINVAL EISDIR EMFILE ENFILE ENODEV ENXIO EOVERFLOW ETXTBSY EAGAIN ENOMEM "
READ = "EAGAIN EBADF EFAULT EINTR EINVAL EIO EISDIR "
WRITE = "EAGAIN EBADF EDESTADDRREQ EDQUOT EFAULT EFBIG EINTR EINVAL EIO ENOSPC EPERM EPIPE "
RENAME = MAKE + "EBUSY EINVAL EISDIR EMLINK ENOTEMPTY EXDEV "
FD = "EMFILE ENFILE ENOMEM "
TIMES = "EACCES EFAULT ENOENT EPERM EROFS "
SYNC = "EBADF EDQUOT EIO ENOSPC "
SOCKET = "EBADF ENOTSOCK "
SEND = SOCKET + "EACCES EAGAIN ECONNRESET EDESTADDRREQ EFAULT EINTR EINVAL EISCONN EMSGSIZE ENOBUFS ENOTCONN EPIPE "
RECEIVE = SOCKET + "EAGAIN ECONNREFUSED EFAULT EINTR EINVAL ENOMEM ENOTCONN "
ACCEPT = SOCKET + "EAGAIN ECONNABORTED EFAULT EINTR EINVAL ENOBUFS EOPNOTSUPP " + FD
CLONE = "EAGAIN EINVAL ENOMEM ENOSPC EPERM "
SIGNAL = "EAGAIN EINVAL EPERM ESRCH "
SCHEDULE = "EINVAL EPERM ESRCH "
KEEP = "EAGAIN EINVAL ENOMEM EPERM "
XATTR = "EFAULT ENODATA EOPNOTSUPP ERANGE EBADF "
"""For an open file; with a name there is no EBADF."""
XATTR_PATH = "EACCES EFAULT ELOOP ENAMETOOLONG ENOENT ENOTDIR EOPNOTSUPP "

_LIST = {
    "read pread64 readv preadv preadv2": READ,
    "pread64 preadv preadv2 pwrite64 pwritev pwritev2": "ESPIPE",
    "preadv2 pwritev2": "EOPNOTSUPP",
    "write pwrite64 writev pwritev pwritev2": WRITE,
    "open creat openat openat2": OPEN,
    "openat": "EBADF",
    "openat2": "EBADF E2BIG EXDEV",
    "close": "EBADF EINTR EIO ENOSPC EDQUOT",
    "stat lstat newfstatat statx": PATH + "ENOMEM EOVERFLOW",
    "newfstatat statx": "EBADF EINVAL",
    "fstat": "EBADF EFAULT ENOMEM EOVERFLOW",
    "poll ppoll": "EFAULT EINTR EINVAL ENOMEM",
    "select pselect6": "EBADF EFAULT EINTR EINVAL ENOMEM",
    "lseek": "EBADF EINVAL ENXIO EOVERFLOW ESPIPE",
    "mmap": "EACCES EAGAIN EBADF EEXIST EINVAL ENFILE ENODEV ENOMEM EOVERFLOW EPERM ETXTBSY",
    "mprotect pkey_mprotect": "EACCES EINVAL ENOMEM",
    "munmap": "EINVAL ENOMEM",
    "brk sched_yield getpid getuid getgid geteuid getegid getppid getpgrp gettid": "",
    "rt_sigaction rt_sigprocmask": "EFAULT EINVAL",
    "rt_sigpending": "EFAULT EINVAL",
    "rt_sigreturn exit exit_group set_tid_address umask alarm setfsuid setfsgid sync munlockall restart_syscall": "",
    "ioctl": "EBADF EFAULT EINVAL ENOTTY",
    "access faccessat faccessat2": PATH + "EINVAL EIO ENOMEM EPERM EROFS ETXTBSY",
    "faccessat faccessat2": "EBADF",
    "pipe pipe2": "EFAULT EMFILE ENFILE",
    "pipe2": "EINVAL",
    "mremap": "EAGAIN EFAULT EINVAL ENOMEM",
    "msync": "EBUSY EINVAL ENOMEM",
    "mincore": "EAGAIN EFAULT EINVAL ENOMEM",
    "madvise": "EACCES EAGAIN EBADF EBUSY EFAULT EINVAL EIO ENOMEM EPERM",
    "shmget": "EACCES EEXIST EINVAL ENFILE ENOENT ENOMEM ENOSPC EPERM",
    "shmat": "EACCES EIDRM EINVAL ENOMEM",
    "shmdt": "EINVAL",
    "shmctl": "EACCES EFAULT EIDRM EINVAL ENOMEM EOVERFLOW EPERM",
    "dup": "EBADF EMFILE ENOMEM",
    "dup2 dup3": "EBADF EBUSY EINTR EMFILE ENOMEM",
    "dup3": "EINVAL",
    "pause": "EINTR",
    "nanosleep": "EFAULT EINTR EINVAL",
    "clock_nanosleep": "EFAULT EINTR EINVAL EOPNOTSUPP",
    "getitimer setitimer": "EFAULT EINVAL",
    "sendfile": "EAGAIN EBADF EFAULT EINVAL EIO ENOMEM EOVERFLOW ESPIPE",
    "socket": "EACCES EAFNOSUPPORT EINVAL EMFILE ENFILE ENOBUFS EPROTONOSUPPORT",
    "connect": SOCKET
    + "EACCES EADDRINUSE EADDRNOTAVAIL EAFNOSUPPORT EAGAIN EALREADY ECONNREFUSED EFAULT EINPROGRESS EINTR EISCONN "
    "ENETUNREACH EPERM EPROTOTYPE ETIMEDOUT",
    "accept accept4": ACCEPT,
    "sendto sendmsg sendmmsg": SEND,
    "recvfrom recvmsg recvmmsg": RECEIVE,
    "shutdown": SOCKET + "EINVAL ENOTCONN",
    "bind": SOCKET + "EACCES EADDRINUSE EADDRNOTAVAIL EFAULT EINVAL ELOOP ENAMETOOLONG ENOENT ENOMEM ENOTDIR EROFS",
    "listen": SOCKET + "EADDRINUSE EOPNOTSUPP",
    "getsockname": SOCKET + "EFAULT EINVAL ENOBUFS",
    "getpeername": SOCKET + "EFAULT EINVAL ENOBUFS ENOTCONN",
    "socketpair": "EAFNOSUPPORT EFAULT EMFILE ENFILE EOPNOTSUPP EPROTONOSUPPORT",
    "setsockopt getsockopt": SOCKET + "EFAULT EINVAL ENOPROTOOPT",
    "clone clone3": CLONE,
    "clone3": "EEXIST EFAULT E2BIG",
    "fork vfork": "EAGAIN ENOMEM",
    "execve execveat": PATH + "E2BIG EAGAIN EINVAL EIO EISDIR ELIBBAD EMFILE ENFILE ENOEXEC ENOMEM EPERM ETXTBSY",
    "execveat": "EBADF",
    "wait4": "EAGAIN ECHILD EINTR EINVAL ESRCH EFAULT",
    "waitid": "EAGAIN ECHILD EINTR EINVAL ESRCH EFAULT EBADF",
    "kill": "EINVAL EPERM ESRCH",
    "uname sysinfo times time getresuid getresgid getcpu": "EFAULT",
    "semget": "EACCES EEXIST EINVAL ENOENT ENOMEM ENOSPC",
    "semop semtimedop": "E2BIG EACCES EAGAIN EFAULT EFBIG EIDRM EINTR EINVAL ENOMEM ERANGE",
    "semctl": "EACCES EFAULT EIDRM EINVAL EPERM ERANGE",
    "msgget": "EACCES EEXIST ENOENT ENOMEM ENOSPC",
    "msgsnd": "EACCES EAGAIN EFAULT EIDRM EINTR EINVAL ENOMEM",
    "msgrcv": "E2BIG EACCES EFAULT EIDRM EINTR EINVAL ENOMSG ENOSYS",
    "msgctl": "EACCES EFAULT EIDRM EINVAL EPERM",
    "fcntl": "EACCES EAGAIN EBADF EBUSY EFAULT EINTR EINVAL EMFILE ENOLCK ENOTDIR EPERM EDEADLK",
    "flock": "EBADF EINTR EINVAL ENOLCK EAGAIN",
    "fsync fdatasync": SYNC + "EINTR EINVAL EROFS",
    "syncfs": SYNC,
    "truncate": PATH + "EFBIG EINTR EINVAL EIO EISDIR EPERM EROFS ETXTBSY",
    "ftruncate": "EBADF EFBIG EINTR EINVAL EIO EPERM",
    "getdents getdents64": "EBADF EFAULT EINVAL ENOENT ENOTDIR",
    "getcwd": "EFAULT EINVAL ENAMETOOLONG ENOENT ENOMEM ERANGE",
    "chdir": PATH + "EIO ENOMEM",
    "fchdir": "EACCES EBADF ENOTDIR",
    "rename renameat renameat2": RENAME,
    "renameat renameat2": "EBADF",
    "mkdir mkdirat": MAKE + "EINVAL EMLINK",
    "rmdir": PATH + CHANGE + "EBUSY EINVAL ENOTEMPTY",
    "link linkat": MAKE + "EIO EMLINK EXDEV",
    "linkat": "EBADF EINVAL",
    "mkdirat mknodat symlinkat": "EBADF",
    "unlink unlinkat": PATH + CHANGE + "EBUSY EIO EISDIR",
    "unlinkat": "EBADF EINVAL ENOTEMPTY",
    "symlink symlinkat": MAKE + "EIO",
    "readlink readlinkat": PATH + "EINVAL EIO",
    "readlinkat": "EBADF",
    "chmod chown lchown": PATH + CHANGE + "EIO",
    "fchmod fchown": "EBADF EIO EPERM EROFS",
    "fchmodat fchownat fchmodat2": AT + CHANGE + "EIO",
    "fchownat fchmodat2": "EINVAL",
    "gettimeofday": "EFAULT",
    "getrlimit": "EFAULT EINVAL",
    "setrlimit": "EFAULT EINVAL EPERM",
    "prlimit64": "EFAULT EINVAL EPERM ESRCH",
    "getrusage": "EFAULT EINVAL",
    "ptrace": "EBUSY EFAULT EINVAL EIO EPERM ESRCH",
    "setuid setgid setreuid setregid setresuid setresgid": "EINVAL EPERM",
    "setuid setreuid setresuid": "EAGAIN",
    "setpgid": "EACCES EINVAL EPERM ESRCH",
    "getpgid getsid": "EPERM ESRCH",
    "setsid": "EPERM",
    "getgroups": "EFAULT EINVAL",
    "setgroups": "EFAULT EINVAL ENOMEM EPERM",
    "capget": "EFAULT EINVAL ESRCH",
    "capset": "EFAULT EINVAL EPERM",
    "rt_sigtimedwait": "EAGAIN EINTR EINVAL EFAULT",
    "rt_sigqueueinfo rt_tgsigqueueinfo": SIGNAL + "EFAULT",
    "rt_sigsuspend": "EFAULT EINTR EINVAL",
    "sigaltstack": "EFAULT EINVAL ENOMEM EPERM",
    "utime utimes": TIMES,
    "futimesat": TIMES + "EBADF ENOTDIR",
    "utimensat": AT + CHANGE + "EINVAL ESRCH",
    "mknod mknodat": MAKE + "EINVAL",
    "personality": "EINVAL",
    "statfs": PATH + "EINTR EIO ENOMEM ENOSYS EOVERFLOW",
    "fstatfs": "EBADF EFAULT EINTR EIO ENOMEM ENOSYS EOVERFLOW",
    "getpriority": "EINVAL ESRCH",
    "setpriority": "EACCES EINVAL EPERM ESRCH",
    "sched_setparam sched_setscheduler": SCHEDULE,
    "sched_getparam sched_getscheduler": "EINVAL ESRCH",
    "sched_get_priority_max sched_get_priority_min": "EINVAL",
    "sched_rr_get_interval": "EFAULT EINVAL ENOSYS ESRCH",
    "mlock mlock2": KEEP,
    "munlock": "EAGAIN EINVAL ENOMEM",
    "mlockall": "EINVAL ENOMEM EPERM",
    "vhangup": "EPERM",
    "pivot_root": "EBUSY EINVAL ENOTDIR EPERM",
    "prctl": "EACCES EBADF EBUSY EFAULT EINVAL ENODEV ENXIO EOPNOTSUPP EPERM ERANGE",
    "arch_prctl": "EFAULT EINVAL ENODEV EPERM",
    "chroot": PATH + "EIO ENOMEM EPERM",
    "mount": PATH + "EBUSY EINVAL EMFILE ENODEV ENOMEM ENOTBLK ENXIO EPERM EROFS",
    "umount2": "EAGAIN EBUSY EFAULT EINVAL ENAMETOOLONG ENOENT ENOMEM EPERM",
    "sethostname setdomainname": "EFAULT EINVAL EPERM",
    "readahead": "EBADF EINVAL",
    "setxattr lsetxattr": XATTR_PATH + CHANGE + "E2BIG EDQUOT EEXIST EINVAL ENODATA ENOSPC ERANGE",
    "fsetxattr": "EBADF EDQUOT EEXIST EFAULT EINVAL ENODATA ENOSPC EOPNOTSUPP EPERM ERANGE EROFS E2BIG",
    "getxattr lgetxattr": XATTR_PATH + "E2BIG ENODATA ERANGE",
    "fgetxattr": XATTR + "E2BIG",
    "listxattr llistxattr": XATTR_PATH.replace("EOPNOTSUPP", "") + "E2BIG ERANGE",
    "flistxattr": "EBADF E2BIG EFAULT ERANGE",
    "removexattr lremovexattr": XATTR_PATH + CHANGE + "ENODATA ERANGE",
    "fremovexattr": XATTR + CHANGE,
    "tkill": SIGNAL,
    "tgkill": SIGNAL,
    "futex": "EACCES EAGAIN EDEADLK EFAULT EINTR EINVAL ENFILE ENOMEM ENOSYS EPERM ESRCH ETIMEDOUT",
    "sched_setaffinity": "EFAULT EINVAL EPERM ESRCH",
    "sched_getaffinity": "EFAULT EINVAL ESRCH",
    "epoll_create": "EINVAL " + FD,
    "epoll_create1": "EINVAL " + FD,
    "epoll_wait epoll_pwait epoll_pwait2": "EBADF EFAULT EINTR EINVAL",
    "epoll_ctl": "EBADF EEXIST EFAULT EINVAL ELOOP ENOENT ENOMEM ENOSPC EPERM",
    "fadvise64": "EBADF EINVAL ESPIPE",
    "timer_create": "EAGAIN EINVAL ENOMEM EOPNOTSUPP EPERM",
    "timer_settime timer_gettime": "EFAULT EINVAL",
    "timer_getoverrun timer_delete": "EINVAL",
    "clock_gettime clock_getres clock_settime": "EFAULT EINVAL ENODEV EOPNOTSUPP",
    "clock_settime": "EACCES EPERM",
    "mq_open": "EACCES EEXIST EFAULT EINVAL EMFILE ENAMETOOLONG ENFILE ENOENT ENOMEM ENOSPC",
    "mq_unlink": "EACCES EFAULT ENAMETOOLONG ENOENT",
    "mq_timedsend mq_timedreceive": "EAGAIN EBADF EFAULT EINTR EINVAL EMSGSIZE ETIMEDOUT",
    "mq_notify": "EBADF EBUSY EFAULT EINVAL ENOMEM",
    "mq_getsetattr": "EBADF EFAULT EINVAL",
    "ioprio_set": "EINVAL EPERM ESRCH",
    "ioprio_get": "EINVAL ESRCH",
    "inotify_init": FD,
    "inotify_init1": "EINVAL " + FD,
    "inotify_add_watch": PATH.replace("ELOOP ", "") + "EBADF EEXIST EINVAL ENOMEM ENOSPC",
    "inotify_rm_watch": "EBADF EINVAL",
    "unshare": "EINVAL ENOMEM ENOSPC EPERM",
    "set_robust_list": "EINVAL",
    "get_robust_list": "EFAULT EPERM ESRCH",
    "splice": "EAGAIN EBADF EFAULT EINVAL ENOMEM ESPIPE",
    "tee": "EAGAIN EBADF EINVAL ENOMEM",
    "vmsplice": "EAGAIN EBADF EFAULT EINVAL ENOMEM",
    "sync_file_range": "EBADF EINVAL EIO ENOMEM ENOSPC ESPIPE",
    "signalfd signalfd4": "EBADF EFAULT EINVAL ENODEV " + FD,
    "timerfd_create": "EINVAL ENODEV EPERM " + FD,
    "timerfd_settime": "EBADF ECANCELED EFAULT EINVAL",
    "timerfd_gettime": "EBADF EFAULT EINVAL",
    "eventfd": "ENODEV " + FD,
    "eventfd2": "EINVAL ENODEV " + FD,
    "fallocate": "EBADF EFBIG EINTR EINVAL EIO ENODEV ENOSPC ENOSYS EOPNOTSUPP EPERM ESPIPE ETXTBSY",
    "setns": "EBADF EINVAL ENOMEM EPERM ESRCH",
    "process_vm_readv process_vm_writev": "EFAULT EINVAL ENOMEM EPERM ESRCH",
    "kcmp": "EBADF EFAULT EINVAL ENOENT EPERM ESRCH",
    "sched_setattr": "E2BIG EBUSY EFAULT EINVAL EPERM ESRCH",
    "sched_getattr": "E2BIG EFAULT EINVAL ESRCH",
    "seccomp": "EACCES EBUSY EFAULT EINVAL ENOMEM EOPNOTSUPP ESRCH",
    "getrandom": "EAGAIN EFAULT EINTR EINVAL ENOSYS",
    "memfd_create": "EFAULT EINVAL EPERM " + FD,
    "membarrier": "EINVAL ENOSYS EPERM",
    "copy_file_range": "EBADF EFAULT EFBIG EINVAL EIO EISDIR ENOMEM ENOSPC EOVERFLOW EPERM ETXTBSY EXDEV",
    "pkey_alloc": "EINVAL ENOSPC",
    "pkey_free": "EINVAL",
    "pidfd_send_signal": "EBADF EFAULT EINVAL EPERM ESRCH",
    "pidfd_open": "EINVAL ENODEV ESRCH " + FD,
    "pidfd_getfd": "EBADF EINVAL EMFILE ENFILE EPERM ESRCH",
    "close_range": "EINVAL EMFILE ENOMEM",
}


class Excuse(NamedTuple):
    """Why a result has no test.

    :ivar result: an errno or ``success``
    :ivar calls: patterns of their names
    """

    result: str
    calls: str
    reason: str


_NO_MEMORY = "when the kernel has no memory left; what a program can provoke by its address space is covered"
_LIBRARY = "the manual is about the C library's function or another version: this system call never returns it"
_RACE = "only in a race between two processes"
_DIFFERENCE = "a difference, which SYSCALLS.md has"
_NOT_THERE = "for a feature, device or file system that neither the host nor the Sentry has"
_FREEZE = "only when a signal arrives within a call that does not wait on a tmpfs"
_POSITION = "only of a file that has positions and also waits, or of none: the errno before is ESPIPE"

EXCUSED: tuple[Excuse, ...] = (
    Excuse("ENOMEM", "*", _NO_MEMORY),
    Excuse("ENOBUFS", "*", _NO_MEMORY),
    Excuse("ENFILE", "*", "the limit of the whole machine, which no test may reach"),
    Excuse("EIO", "*", "a device fails; those of terminals are covered by read, write and ioctl"),
    Excuse("EDQUOT", "*", "there are no quotas"),
    Excuse("EMLINK", "*", "a tmpfs has no limit of links"),
    Excuse("EOVERFLOW", "*", "only for programs of 32 bits, or other limits than those of a tmpfs"),
    Excuse("ENODEV", "open creat openat openat2 signalfd* timerfd_create eventfd* pidfd_open arch_prctl", _NOT_THERE),
    Excuse("ENODEV", "clock_* prctl", _NOT_THERE),
    Excuse("EOPNOTSUPP", "clock_gettime clock_getres clock_settime prctl", _NOT_THERE),
    Excuse("EBUSY", "open creat openat openat2", "a block device that is mounted"),
    Excuse("EAGAIN", "open creat openat openat2", "a lease of another process, of which there are none"),
    Excuse("ENOSPC", "close fsync fdatasync syncfs sync_file_range", "a disk that allocates late; a tmpfs does not"),
    Excuse("ENOSPC", "renameat renameat2 copy_file_range", "the name or the page takes no room of a tmpfs here"),
    Excuse("EROFS", "fsync fdatasync", _LIBRARY),
    Excuse("EINTR", "close dup* fsync fdatasync truncate ftruncate statfs fstatfs fallocate getrandom", _FREEZE),
    Excuse("EINTR", "pread64 pwrite64 preadv pwritev", _POSITION),
    Excuse("EAGAIN", "pread64 pwrite64 preadv pwritev", _POSITION),
    Excuse("EDESTADDRREQ", "pwrite64 pwritev", _POSITION),
    Excuse("EPIPE", "pwrite64 pwritev", _POSITION),
    Excuse("EAGAIN", "writev pwritev2", "the same code as write, which is covered"),
    Excuse("ETXTBSY", "mmap access* faccessat* fallocate copy_file_range", _LIBRARY),
    Excuse(
        "EPERM", "access faccessat* creat truncate symlink* mkdirat", "file systems that cannot; unchangeable files"
    ),
    Excuse("EPERM", "memfd_create shmget copy_file_range execve*", "unchangeable files, or huge pages"),
    Excuse("EEXIST", "creat rename renameat", "the same case as ENOTEMPTY, or O_EXCL, which creat has not"),
    Excuse("EINVAL", "creat mkdir mkdirat personality mlock munlock getcwd", _LIBRARY),
    Excuse("EINVAL", "setre*id setres*id", "an ID without a place in a user namespace"),
    Excuse("EINVAL", "execve", "two interpreters in an ELF file"),
    Excuse("EISDIR", "execve*", _LIBRARY),
    Excuse("EMFILE", "execve* dup2 dup3 mount close_range", _LIBRARY),
    Excuse(
        "EAGAIN",
        "execve* setuid setreuid setresuid",
        "the limit of processes: execve, since 5.14",
    ),
    Excuse("EAGAIN", "mmap mlock* munlock mremap", _DIFFERENCE),
    Excuse("EPERM", "mlock*", _DIFFERENCE),
    Excuse("EAGAIN", "timer_create rt_sigqueueinfo rt_tgsigqueueinfo tkill tgkill", _DIFFERENCE),
    Excuse("EAGAIN", "mincore wait4 getrandom madvise", _NO_MEMORY),
    Excuse("EACCES", "madvise fcntl futex clock_settime", _LIBRARY),
    Excuse("EBADF", "madvise prctl", "advice or an option that is not there"),
    Excuse("EBUSY", "madvise dup2 dup3 ptrace prctl sched_setattr seccomp", _RACE),
    Excuse(
        "EPERM",
        "madvise timer_create timerfd_create connect",
        "poison, alarm clocks, firewalls are not there",
    ),
    Excuse("EPERM", "getpgid getsid", "POSIX allows it; Linux has no such case"),
    Excuse("EPERM", "clone3 setns", _DIFFERENCE),
    Excuse("EEXIST", "clone3", "process IDs of the caller's choice: a difference"),
    Excuse("ENOSPC", "clone clone3 unshare", "nested namespaces, which are a difference"),
    Excuse("EIDRM", "shmat shmctl semctl msgctl", _RACE),
    Excuse(
        "ENOSPC",
        "shmget semget msgget mq_open epoll_ctl inotify_add_watch",
        "thousands of objects",
    ),
    Excuse("EACCES", "socket", "a policy of security modules"),
    Excuse("EADDRINUSE", "connect", "all ports of the machine are used"),
    Excuse("EADDRNOTAVAIL", "connect", "all ports of the machine are used"),
    Excuse("EALREADY", "connect", "connections on the loopback are not pending"),
    Excuse("ETIMEDOUT", "connect", "takes minutes"),
    Excuse("ECONNABORTED", "accept*", "Linux accepts such a connection"),
    Excuse("ENAMETOOLONG", "bind", "108 bytes have no room for a name that is too long"),
    Excuse("ENOSYS", "msgrcv sched_rr_get_interval getrandom membarrier statfs fstatfs fallocate", _LIBRARY),
    Excuse("EDEADLK", "fcntl", _DIFFERENCE),
    Excuse("ENOLCK", "fcntl flock", _NO_MEMORY),
    Excuse("ENOTDIR", "fcntl", "F_NOTIFY: a difference"),
    Excuse("ENAMETOOLONG", "getcwd", "a path that no call can name"),
    Excuse("ENXIO", "prctl mount", _NOT_THERE),
    Excuse("ERANGE", "prctl", _NOT_THERE),
    Excuse("ENOTBLK", "mount", "file systems of disks are a difference"),
    Excuse("E2BIG", "*getxattr *listxattr", "a value or list of over 64 KiB, which a tmpfs cannot have"),
    Excuse("E2BIG", "sched_getattr", _LIBRARY),
    Excuse("ESRCH", "waitid utimensat seccomp setns", _RACE),
    *(Excuse(errno, "futex", "priority inheritance: a difference") for errno in ("EDEADLK", "EPERM", "ESRCH")),
    Excuse("ECANCELED", "timerfd_settime", "no test sets the clock"),
    Excuse("EFAULT", "kcmp", _DIFFERENCE),
    Excuse("ENOENT", "kcmp", _DIFFERENCE),
    Excuse("success", "restart_syscall", "the kernel makes it; programs must not"),
    Excuse("success", "clock_settime", "no test sets the clock"),
    Excuse("success", "setns", _DIFFERENCE),
    Excuse("success", "pause rt_sigsuspend", "they return EINTR when they succeed"),
    Excuse("success", "pkey_alloc pkey_free", _DIFFERENCE),
    Excuse("ENOSPC", "pkey_alloc", "the host's CPU can have keys"),
)
"""The first that fits counts."""


def errnos() -> dict[str, set[str]]:
    """Those of each call."""
    found: dict[str, set[str]] = {}
    for names, words in _LIST.items():
        for name in names.split():
            found.setdefault(name, set()).update(words.split())
    return found


ERRNOS = errnos()


def excuse_of(name: str, result: str) -> Excuse | None:
    """The excuse of a call's result; None: there is none."""
    for each in EXCUSED:
        if each.result == result and any(fnmatchcase(name, pattern) for pattern in each.calls.split()):
            return each
    return None
