"""Names of Linux's binary interface on x86-64: the values of flags, and the fields of structures.

A test compares both with the headers of the host.
"""

from __future__ import annotations

from typing import NamedTuple


class Set(NamedTuple):
    """Names of values.

    :ivar values: name and value, in the order in which strace prints them
    :ivar mask: in which bits the value is one number; the other bits are flags
    :ivar zero: the name of 0, or empty
    """

    values: tuple[tuple[str, int], ...]
    mask: int = 0
    zero: str = ""


class Field(NamedTuple):
    """A field of a structure.

    :ivar kind: as that of an argument, or a structure
    :ivar detail: the set of its flags
    """

    name: str
    kind: str
    detail: str
    offset: int


class Struct(NamedTuple):
    """A structure of which fields are printed.

    :ivar fields: those that are printed, in that order
    :ivar more: others are there, which are not printed
    :ivar header: the type in the headers of the host, empty if they have another
    """

    fields: tuple[Field, ...]
    size: int
    more: bool = False
    header: str = ""


def _set(text: str, mask: int = 0, zero: str = "") -> Set:
    pairs = (word.split("=") for word in text.split())
    return Set(tuple((name, int(value, 0)) for name, value in pairs), mask, zero)


SETS = {
    "access": _set("R_OK=4 W_OK=2 X_OK=1", zero="F_OK"),
    "arch_prctl": _set(
        "ARCH_SET_GS=0x1001 ARCH_SET_FS=0x1002 ARCH_GET_FS=0x1003 ARCH_GET_GS=0x1004 ARCH_CET_STATUS=0x3001"
    ),
    "at": _set(
        "AT_SYMLINK_NOFOLLOW=0x100 AT_REMOVEDIR=0x200 AT_SYMLINK_FOLLOW=0x400 AT_NO_AUTOMOUNT=0x800 "
        "AT_EMPTY_PATH=0x1000 AT_STATX_FORCE_SYNC=0x2000 AT_STATX_DONT_SYNC=0x4000 AT_RECURSIVE=0x8000"
    ),
    "unlinkat": _set("AT_REMOVEDIR=0x200"),
    "clock": _set(
        "CLOCK_REALTIME=0 CLOCK_MONOTONIC=1 CLOCK_PROCESS_CPUTIME_ID=2 CLOCK_THREAD_CPUTIME_ID=3 "
        "CLOCK_MONOTONIC_RAW=4 CLOCK_REALTIME_COARSE=5 CLOCK_MONOTONIC_COARSE=6 CLOCK_BOOTTIME=7 "
        "CLOCK_REALTIME_ALARM=8 CLOCK_BOOTTIME_ALARM=9 CLOCK_TAI=0xb"
    ),
    "clone": _set(
        "CLONE_VM=0x100 CLONE_FS=0x200 CLONE_FILES=0x400 CLONE_SIGHAND=0x800 CLONE_PIDFD=0x1000 "
        "CLONE_PTRACE=0x2000 CLONE_VFORK=0x4000 CLONE_PARENT=0x8000 CLONE_THREAD=0x10000 CLONE_NEWNS=0x20000 "
        "CLONE_SYSVSEM=0x40000 CLONE_SETTLS=0x80000 CLONE_PARENT_SETTID=0x100000 "
        "CLONE_CHILD_CLEARTID=0x200000 CLONE_DETACHED=0x400000 CLONE_UNTRACED=0x800000 "
        "CLONE_CHILD_SETTID=0x1000000 CLONE_NEWCGROUP=0x2000000 CLONE_NEWUTS=0x4000000 CLONE_NEWIPC=0x8000000 "
        "CLONE_NEWUSER=0x10000000 CLONE_NEWPID=0x20000000 CLONE_NEWNET=0x40000000 CLONE_IO=0x80000000"
    ),
    "close_range": _set("CLOSE_RANGE_UNSHARE=2 CLOSE_RANGE_CLOEXEC=4"),
    "epoll_create": _set("EPOLL_CLOEXEC=0x80000"),
    "epoll_ctl": _set("EPOLL_CTL_ADD=1 EPOLL_CTL_DEL=2 EPOLL_CTL_MOD=3"),
    "epoll_events": _set(
        "EPOLLIN=1 EPOLLPRI=2 EPOLLOUT=4 EPOLLRDNORM=0x40 EPOLLRDBAND=0x80 EPOLLWRNORM=0x100 "
        "EPOLLWRBAND=0x200 EPOLLMSG=0x400 EPOLLERR=8 EPOLLHUP=0x10 EPOLLRDHUP=0x2000 "
        "EPOLLEXCLUSIVE=0x10000000 EPOLLWAKEUP=0x20000000 EPOLLONESHOT=0x40000000 EPOLLET=0x80000000"
    ),
    "eventfd": _set("EFD_SEMAPHORE=1 EFD_CLOEXEC=0x80000 EFD_NONBLOCK=0x800"),
    "fadvise": _set(
        "POSIX_FADV_NORMAL=0 POSIX_FADV_RANDOM=1 POSIX_FADV_SEQUENTIAL=2 POSIX_FADV_WILLNEED=3 "
        "POSIX_FADV_DONTNEED=4 POSIX_FADV_NOREUSE=5"
    ),
    "fallocate": _set(
        "FALLOC_FL_KEEP_SIZE=1 FALLOC_FL_PUNCH_HOLE=2 FALLOC_FL_NO_HIDE_STALE=4 FALLOC_FL_COLLAPSE_RANGE=8 "
        "FALLOC_FL_ZERO_RANGE=0x10 FALLOC_FL_INSERT_RANGE=0x20 FALLOC_FL_UNSHARE_RANGE=0x40"
    ),
    "family": _set("AF_UNSPEC=0 AF_UNIX=1 AF_INET=2 AF_INET6=0xa AF_NETLINK=0x10 AF_PACKET=0x11 AF_VSOCK=0x28"),
    "fcntl": _set(
        "F_DUPFD=0 F_GETFD=1 F_SETFD=2 F_GETFL=3 F_SETFL=4 F_GETLK=5 F_SETLK=6 F_SETLKW=7 F_SETOWN=8 "
        "F_GETOWN=9 F_SETSIG=0xa F_GETSIG=0xb F_SETOWN_EX=0xf F_GETOWN_EX=0x10 F_OFD_GETLK=0x24 "
        "F_OFD_SETLK=0x25 F_OFD_SETLKW=0x26 F_SETLEASE=0x400 F_GETLEASE=0x401 F_NOTIFY=0x402 "
        "F_DUPFD_QUERY=0x403 F_DUPFD_CLOEXEC=0x406 F_SETPIPE_SZ=0x407 F_GETPIPE_SZ=0x408 F_ADD_SEALS=0x409 "
        "F_GET_SEALS=0x40a"
    ),
    "flock": _set("LOCK_SH=1 LOCK_EX=2 LOCK_NB=4 LOCK_UN=8"),
    "futex": _set(
        "FUTEX_WAIT=0 FUTEX_WAKE=1 FUTEX_FD=2 FUTEX_REQUEUE=3 FUTEX_CMP_REQUEUE=4 FUTEX_WAKE_OP=5 "
        "FUTEX_LOCK_PI=6 FUTEX_UNLOCK_PI=7 FUTEX_TRYLOCK_PI=8 FUTEX_WAIT_BITSET=9 FUTEX_WAKE_BITSET=0xa "
        "FUTEX_WAIT_REQUEUE_PI=0xb FUTEX_CMP_REQUEUE_PI=0xc"
    ),
    "getrandom": _set("GRND_NONBLOCK=1 GRND_RANDOM=2 GRND_INSECURE=4"),
    "inotify": _set(
        "IN_ACCESS=1 IN_MODIFY=2 IN_ATTRIB=4 IN_CLOSE_WRITE=8 IN_CLOSE_NOWRITE=0x10 IN_OPEN=0x20 "
        "IN_MOVED_FROM=0x40 IN_MOVED_TO=0x80 IN_CREATE=0x100 IN_DELETE=0x200 IN_DELETE_SELF=0x400 "
        "IN_MOVE_SELF=0x800 IN_UNMOUNT=0x2000 IN_Q_OVERFLOW=0x4000 IN_IGNORED=0x8000 IN_ONLYDIR=0x1000000 "
        "IN_DONT_FOLLOW=0x2000000 IN_EXCL_UNLINK=0x4000000 IN_MASK_CREATE=0x10000000 IN_MASK_ADD=0x20000000 "
        "IN_ISDIR=0x40000000 IN_ONESHOT=0x80000000"
    ),
    "ioctl": _set(
        "TCGETS=0x5401 TCSETS=0x5402 TCSETSW=0x5403 TCSETSF=0x5404 TCGETA=0x5405 TCSETA=0x5406 "
        "TCSETAW=0x5407 TCSETAF=0x5408 TCSBRK=0x5409 TCXONC=0x540a TCFLSH=0x540b TIOCPKT=0x5420 "
        "TIOCSETD=0x5423 TIOCGETD=0x5424 TCSBRKP=0x5425 TIOCVHANGUP=0x5437 TIOCGPTPEER=0x5441 "
        "TIOCGDEV=0x80045432 TIOCSIG=0x40045436 TIOCGPKT=0x80045438 TIOCGPTLCK=0x80045439 "
        "TIOCGEXCL=0x80045440 TIOCEXCL=0x540c TIOCNXCL=0x540d TIOCSCTTY=0x540e TIOCGPGRP=0x540f "
        "TIOCSPGRP=0x5410 TIOCOUTQ=0x5411 TIOCSTI=0x5412 TIOCGWINSZ=0x5413 TIOCSWINSZ=0x5414 FIONREAD=0x541b "
        "FIONBIO=0x5421 TIOCNOTTY=0x5422 TIOCGSID=0x5429 TIOCGPTN=0x80045430 TIOCSPTLCK=0x40045431 "
        "FIONCLEX=0x5450 FIOCLEX=0x5451 FIOASYNC=0x5452 FICLONE=0x40049409 FICLONERANGE=0x4020940d"
    ),
    "ipc": _set("IPC_RMID=0 IPC_SET=1 IPC_STAT=2 IPC_INFO=3"),
    "ipc_get": _set("IPC_CREAT=0x200 IPC_EXCL=0x400 IPC_NOWAIT=0x800"),
    "itimer": _set("ITIMER_REAL=0 ITIMER_VIRTUAL=1 ITIMER_PROF=2"),
    "madvise": _set(
        "MADV_NORMAL=0 MADV_RANDOM=1 MADV_SEQUENTIAL=2 MADV_WILLNEED=3 MADV_DONTNEED=4 MADV_FREE=8 "
        "MADV_REMOVE=9 MADV_DONTFORK=0xa MADV_DOFORK=0xb MADV_MERGEABLE=0xc MADV_UNMERGEABLE=0xd "
        "MADV_HUGEPAGE=0xe MADV_NOHUGEPAGE=0xf MADV_DONTDUMP=0x10 MADV_DODUMP=0x11 MADV_WIPEONFORK=0x12 "
        "MADV_KEEPONFORK=0x13 MADV_COLD=0x14 MADV_PAGEOUT=0x15 MADV_POPULATE_READ=0x16 "
        "MADV_POPULATE_WRITE=0x17"
    ),
    "map": _set(
        "MAP_SHARED=1 MAP_PRIVATE=2 MAP_SHARED_VALIDATE=3 MAP_FIXED=0x10 MAP_ANONYMOUS=0x20 MAP_32BIT=0x40 "
        "MAP_GROWSDOWN=0x100 MAP_DENYWRITE=0x800 MAP_EXECUTABLE=0x1000 MAP_LOCKED=0x2000 MAP_NORESERVE=0x4000 "
        "MAP_POPULATE=0x8000 MAP_NONBLOCK=0x10000 MAP_STACK=0x20000 MAP_HUGETLB=0x40000 MAP_SYNC=0x80000 "
        "MAP_FIXED_NOREPLACE=0x100000",
        mask=15,
    ),
    "membarrier": _set(
        "MEMBARRIER_CMD_GLOBAL=1 MEMBARRIER_CMD_PRIVATE_EXPEDITED=8 MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED=0x10",
        zero="MEMBARRIER_CMD_QUERY",
    ),
    "memfd": _set("MFD_CLOEXEC=1 MFD_ALLOW_SEALING=2 MFD_HUGETLB=4 MFD_NOEXEC_SEAL=8 MFD_EXEC=0x10"),
    "message": _set(
        "MSG_OOB=1 MSG_PEEK=2 MSG_DONTROUTE=4 MSG_CTRUNC=8 MSG_TRUNC=0x20 MSG_DONTWAIT=0x40 MSG_EOR=0x80 "
        "MSG_WAITALL=0x100 MSG_NOSIGNAL=0x4000 MSG_MORE=0x8000 MSG_CMSG_CLOEXEC=0x40000000"
    ),
    "mlockall": _set("MCL_CURRENT=1 MCL_FUTURE=2 MCL_ONFAULT=4"),
    "mount": _set(
        "MS_RDONLY=1 MS_NOSUID=2 MS_NODEV=4 MS_NOEXEC=8 MS_SYNCHRONOUS=0x10 MS_REMOUNT=0x20 MS_MANDLOCK=0x40 "
        "MS_DIRSYNC=0x80 MS_NOATIME=0x400 MS_NODIRATIME=0x800 MS_BIND=0x1000 MS_MOVE=0x2000 MS_REC=0x4000 "
        "MS_SILENT=0x8000 MS_UNBINDABLE=0x20000 MS_PRIVATE=0x40000 MS_SLAVE=0x80000 MS_SHARED=0x100000 "
        "MS_RELATIME=0x200000 MS_STRICTATIME=0x1000000 MS_LAZYTIME=0x2000000"
    ),
    "mremap": _set("MREMAP_MAYMOVE=1 MREMAP_FIXED=2 MREMAP_DONTUNMAP=4"),
    "msync": _set("MS_ASYNC=1 MS_INVALIDATE=2 MS_SYNC=4"),
    "open": _set(
        "O_RDONLY=0 O_WRONLY=1 O_RDWR=2 O_CREAT=0x40 O_EXCL=0x80 O_NOCTTY=0x100 O_TRUNC=0x200 O_APPEND=0x400 "
        "O_NONBLOCK=0x800 O_SYNC=0x101000 O_DSYNC=0x1000 O_DIRECT=0x4000 O_LARGEFILE=0x8000 "
        "O_NOFOLLOW=0x20000 O_NOATIME=0x40000 O_CLOEXEC=0x80000 O_PATH=0x200000 O_TMPFILE=0x410000 "
        "O_DIRECTORY=0x10000",
        mask=3,
    ),
    "descriptor": _set("O_NONBLOCK=0x800 O_DIRECT=0x4000 O_CLOEXEC=0x80000"),
    "inotify_init": _set("IN_NONBLOCK=0x800 IN_CLOEXEC=0x80000"),
    "signalfd": _set("SFD_CLOEXEC=0x80000 SFD_NONBLOCK=0x800"),
    "timerfd": _set("TFD_CLOEXEC=0x80000 TFD_NONBLOCK=0x800"),
    "pidfd": _set("PIDFD_NONBLOCK=0x800"),
    "poll": _set(
        "POLLIN=1 POLLPRI=2 POLLOUT=4 POLLERR=8 POLLHUP=0x10 POLLNVAL=0x20 POLLRDNORM=0x40 POLLRDBAND=0x80 "
        "POLLWRNORM=0x100 POLLWRBAND=0x200 POLLRDHUP=0x2000"
    ),
    "prctl": _set(
        "PR_SET_PDEATHSIG=1 PR_GET_PDEATHSIG=2 PR_GET_DUMPABLE=3 PR_SET_DUMPABLE=4 PR_GET_KEEPCAPS=7 "
        "PR_SET_KEEPCAPS=8 PR_SET_NAME=0xf PR_GET_NAME=0x10 PR_GET_SECCOMP=0x15 PR_SET_SECCOMP=0x16 "
        "PR_CAPBSET_READ=0x17 PR_CAPBSET_DROP=0x18 PR_GET_TSC=0x19 PR_SET_TSC=0x1a PR_GET_SECUREBITS=0x1b "
        "PR_SET_SECUREBITS=0x1c PR_SET_TIMERSLACK=0x1d PR_GET_TIMERSLACK=0x1e PR_SET_MM=0x23 "
        "PR_SET_CHILD_SUBREAPER=0x24 PR_GET_CHILD_SUBREAPER=0x25 PR_SET_NO_NEW_PRIVS=0x26 "
        "PR_GET_NO_NEW_PRIVS=0x27 PR_GET_TID_ADDRESS=0x28 PR_SET_THP_DISABLE=0x29 PR_GET_THP_DISABLE=0x2a "
        "PR_CAP_AMBIENT=0x2f PR_GET_SPECULATION_CTRL=0x34 PR_SET_SPECULATION_CTRL=0x35 PR_SET_VMA=0x53564d41"
    ),
    "priority": _set("PRIO_PROCESS=0 PRIO_PGRP=1 PRIO_USER=2"),
    "prot": _set(
        "PROT_READ=1 PROT_WRITE=2 PROT_EXEC=4 PROT_SEM=8 PROT_GROWSDOWN=0x1000000 PROT_GROWSUP=0x2000000",
        zero="PROT_NONE",
    ),
    "ptrace": _set(
        "PTRACE_TRACEME=0 PTRACE_PEEKTEXT=1 PTRACE_PEEKDATA=2 PTRACE_PEEKUSER=3 PTRACE_POKETEXT=4 "
        "PTRACE_POKEDATA=5 PTRACE_POKEUSER=6 PTRACE_CONT=7 PTRACE_KILL=8 PTRACE_SINGLESTEP=9 "
        "PTRACE_GETREGS=0xc PTRACE_SETREGS=0xd PTRACE_ATTACH=0x10 PTRACE_DETACH=0x11 PTRACE_SYSCALL=0x18 "
        "PTRACE_SETOPTIONS=0x4200 PTRACE_GETEVENTMSG=0x4201 PTRACE_GETSIGINFO=0x4202 PTRACE_SETSIGINFO=0x4203 "
        "PTRACE_GETREGSET=0x4204 PTRACE_SETREGSET=0x4205 PTRACE_SEIZE=0x4206 PTRACE_INTERRUPT=0x4207 "
        "PTRACE_LISTEN=0x4208 PTRACE_GET_SYSCALL_INFO=0x420e"
    ),
    "rename": _set("RENAME_NOREPLACE=1 RENAME_EXCHANGE=2 RENAME_WHITEOUT=4"),
    "rlimit": _set(
        "RLIMIT_CPU=0 RLIMIT_FSIZE=1 RLIMIT_DATA=2 RLIMIT_STACK=3 RLIMIT_CORE=4 RLIMIT_RSS=5 RLIMIT_NPROC=6 "
        "RLIMIT_NOFILE=7 RLIMIT_MEMLOCK=8 RLIMIT_AS=9 RLIMIT_LOCKS=0xa RLIMIT_SIGPENDING=0xb "
        "RLIMIT_MSGQUEUE=0xc RLIMIT_NICE=0xd RLIMIT_RTPRIO=0xe RLIMIT_RTTIME=0xf"
    ),
    "rusage": _set("RUSAGE_SELF=0 RUSAGE_THREAD=1 RUSAGE_CHILDREN=0xffffffff"),
    "rwf": _set("RWF_HIPRI=1 RWF_DSYNC=2 RWF_SYNC=4 RWF_NOWAIT=8 RWF_APPEND=0x10 RWF_NOAPPEND=0x20"),
    "sa": _set(
        "SA_RESTORER=0x4000000 SA_NOCLDSTOP=1 SA_NOCLDWAIT=2 SA_SIGINFO=4 SA_ONSTACK=0x8000000 "
        "SA_RESTART=0x10000000 SA_NODEFER=0x40000000 SA_RESETHAND=0x80000000"
    ),
    "sched": _set("SCHED_OTHER=0 SCHED_FIFO=1 SCHED_RR=2 SCHED_BATCH=3 SCHED_IDLE=5 SCHED_DEADLINE=6"),
    "seccomp": _set(
        "SECCOMP_SET_MODE_STRICT=0 SECCOMP_SET_MODE_FILTER=1 SECCOMP_GET_ACTION_AVAIL=2 SECCOMP_GET_NOTIF_SIZES=3"
    ),
    "seek": _set("SEEK_SET=0 SEEK_CUR=1 SEEK_END=2 SEEK_DATA=3 SEEK_HOLE=4"),
    "shmat": _set("SHM_RDONLY=0x1000 SHM_RND=0x2000 SHM_REMAP=0x4000 SHM_EXEC=0x8000"),
    "shutdown": _set("SHUT_RD=0 SHUT_WR=1 SHUT_RDWR=2"),
    "sigmask": _set("SIG_BLOCK=0 SIG_UNBLOCK=1 SIG_SETMASK=2"),
    "signal": _set(
        "SIGHUP=1 SIGINT=2 SIGQUIT=3 SIGILL=4 SIGTRAP=5 SIGABRT=6 SIGBUS=7 SIGFPE=8 SIGKILL=9 SIGUSR1=0xa "
        "SIGSEGV=0xb SIGUSR2=0xc SIGPIPE=0xd SIGALRM=0xe SIGTERM=0xf SIGSTKFLT=0x10 SIGCHLD=0x11 SIGCONT=0x12 "
        "SIGSTOP=0x13 SIGTSTP=0x14 SIGTTIN=0x15 SIGTTOU=0x16 SIGURG=0x17 SIGXCPU=0x18 SIGXFSZ=0x19 "
        "SIGVTALRM=0x1a SIGPROF=0x1b SIGWINCH=0x1c SIGIO=0x1d SIGPWR=0x1e SIGSYS=0x1f SIGRT_0=0x20 "
        "SIGRT_1=0x21 SIGRT_2=0x22"
    ),
    "socket": _set(
        "SOCK_STREAM=1 SOCK_DGRAM=2 SOCK_RAW=3 SOCK_SEQPACKET=5 SOCK_CLOEXEC=0x80000 SOCK_NONBLOCK=0x800",
        mask=15,
    ),
    "socket_flags": _set("SOCK_CLOEXEC=0x80000 SOCK_NONBLOCK=0x800"),
    "sockopt_level": _set("SOL_SOCKET=1 SOL_IP=0 SOL_TCP=6 SOL_IPV6=0x29 SOL_NETLINK=0x10e"),
    "splice": _set("SPLICE_F_MOVE=1 SPLICE_F_NONBLOCK=2 SPLICE_F_MORE=4 SPLICE_F_GIFT=8"),
    "ss": _set("SS_ONSTACK=1 SS_DISABLE=2 SS_AUTODISARM=0x80000000"),
    "statx": _set(
        "STATX_TYPE=1 STATX_MODE=2 STATX_NLINK=4 STATX_UID=8 STATX_GID=0x10 STATX_ATIME=0x20 STATX_MTIME=0x40 "
        "STATX_CTIME=0x80 STATX_INO=0x100 STATX_SIZE=0x200 STATX_BLOCKS=0x400 STATX_BTIME=0x800 "
        "STATX_MNT_ID=0x1000 STATX_DIOALIGN=0x2000"
    ),
    "sync_file_range": _set("SYNC_FILE_RANGE_WAIT_BEFORE=1 SYNC_FILE_RANGE_WRITE=2 SYNC_FILE_RANGE_WAIT_AFTER=4"),
    "timer": _set("TIMER_ABSTIME=1 TFD_TIMER_CANCEL_ON_SET=2"),
    "umount": _set("MNT_FORCE=1 MNT_DETACH=2 MNT_EXPIRE=4 UMOUNT_NOFOLLOW=8"),
    "wait": _set(
        "WNOHANG=1 WUNTRACED=2 WEXITED=4 WCONTINUED=8 WNOWAIT=0x1000000 __WNOTHREAD=0x20000000 "
        "__WALL=0x40000000 __WCLONE=0x80000000"
    ),
    "waitid": _set("P_ALL=0 P_PID=1 P_PGID=2 P_PIDFD=3"),
    "xattr": _set("XATTR_CREATE=1 XATTR_REPLACE=2"),
    "type": _set(
        "S_IFSOCK=0xc000 S_IFLNK=0xa000 S_IFREG=0x8000 S_IFBLK=0x6000 S_IFDIR=0x4000 S_IFCHR=0x2000 S_IFIFO=0x1000"
    ),
}

WIDTHS = {
    **dict.fromkeys(("ushort", "ushort_mode"), 2),
    **dict.fromkeys(("int", "uint", "id", "fd", "mode", "file_mode", "flags", "one", "signal", "hex32"), 4),
    **dict.fromkeys(("long", "ulong", "size", "hex", "addr", "limit", "handler", "sigset"), 8),
    **dict.fromkeys(("flags64", "mode64", "device", "file_size", "restorer"), 8),
    "chars": 65,
}
"""Bytes of a field of each kind."""

STRUCTS: dict[str, Struct] = {}


def _struct(name: str, text: str, *, header: str = "", shown: str = "", more: bool = False, size: int = 0) -> None:
    """Add a structure.

    :param text: its fields as ``name:kind`` or ``name:kind(detail)``; one whose name begins with ``-`` is not printed
    :param shown: the names of the fields that are printed, in another order
    :param size: of all, if the last fields are left out
    """
    at, widest = 0, 1
    fields = []
    for word in text.split():
        label, _, kind = word.partition(":")
        kind, _, detail = kind.rstrip(")").partition("(")
        nested = STRUCTS.get(kind)
        width = nested.size if nested else WIDTHS[kind]
        align = 1 if kind == "chars" else min(width, 8)
        at += -at % align
        widest = max(widest, align)
        fields.append(Field(label, kind, detail, at))
        at += width
    by_name = {field.name: field for field in fields}
    kept = [by_name[label] for label in shown.split()] or [field for field in fields if field.name[0] != "-"]
    STRUCTS[name] = Struct(tuple(kept), size or at + -at % widest, more, header)


_struct("timespec", "tv_sec:long tv_nsec:long", header="struct timespec")
_struct("timeval", "tv_sec:long tv_usec:long", header="struct timeval")
_struct("timezone", "tz_minuteswest:int tz_dsttime:int", header="struct timezone")
_struct("itimerspec", "it_interval:timespec it_value:timespec", header="struct itimerspec")
_struct("itimerval", "it_interval:timeval it_value:timeval", header="struct itimerval")
_struct("utimbuf", "actime:long modtime:long", header="struct utimbuf")
_struct("rlimit", "rlim_cur:limit rlim_max:limit", header="struct rlimit")
_struct("stack", "ss_sp:addr ss_flags:flags(ss) -:int ss_size:size", shown="ss_sp ss_flags ss_size", header="stack_t")
_struct(
    "sigaction",
    "sa_handler:handler sa_flags:flags64(sa) sa_restorer:restorer sa_mask:sigset",
    shown="sa_handler sa_mask sa_flags sa_restorer",
)
_struct("tms", "tms_utime:long tms_stime:long tms_cutime:long tms_cstime:long", header="struct tms")
_struct(
    "stat",
    "-dev:ulong -ino:ulong -nlink:ulong st_mode:file_mode -uid:id -gid:id -:int st_rdev:device st_size:file_size",
    shown="st_mode st_rdev st_size",
    more=True,
    size=144,
    header="struct stat",
)
_struct(
    "statx",
    "stx_mask:flags(statx) -blksize:uint stx_attributes:hex -nlink:uint -uid:id -gid:id stx_mode:ushort_mode -:ushort "
    "-ino:ulong stx_size:ulong",
    shown="stx_mask stx_attributes stx_mode stx_size",
    more=True,
    size=256,
    header="struct statx",
)
_struct(
    "statfs",
    "f_type:hex f_bsize:ulong f_blocks:ulong f_bfree:ulong f_bavail:ulong f_files:ulong f_ffree:ulong -fsid:ulong "
    "f_namelen:ulong f_frsize:ulong f_flags:hex",
    size=120,
    header="struct statfs",
)
_struct("rusage", "ru_utime:timeval ru_stime:timeval", more=True, size=144, header="struct rusage")
_struct(
    "sysinfo",
    "uptime:long -load1:ulong -load5:ulong -load15:ulong totalram:ulong freeram:ulong sharedram:ulong "
    "bufferram:ulong totalswap:ulong freeswap:ulong procs:ushort",
    more=True,
    size=112,
    header="struct sysinfo",
)
_struct("utsname", "sysname:chars nodename:chars", more=True, size=390, header="struct utsname")
_struct(
    "clone_args",
    "flags:flags64(clone) pidfd:hex child_tid:hex parent_tid:hex exit_signal:ulong stack:hex stack_size:hex tls:hex",
    size=88,
)
_struct("open_how", "flags:flags64(open) mode:mode64 resolve:hex")
_struct("mq_attr", "mq_flags:flags64(open) mq_maxmsg:long mq_msgsize:long mq_curmsgs:long", size=64)
_struct("cap_header", "version:hex32 pid:int")
_struct("sigevent", "sigev_value:hex sigev_signo:signal sigev_notify:int", size=64)
_struct("siginfo", "si_signo:signal si_errno:int si_code:int", more=True, size=128)

PAIRS = {"timespec_pair": "timespec", "timeval_pair": "timeval"}
"""Two in a row."""
WORDS = {
    "int": 4,
    "uint": 4,
    "long": 8,
    "ulong": 8,
    "sigset": 8,
    "wait_status": 4,
    "fd_pair": 8,
    "msghdr": 56,
    "epoll_event": 12,
}
"""Other types that pointers lead to, and their sizes."""
