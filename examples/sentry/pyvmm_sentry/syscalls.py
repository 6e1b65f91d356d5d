"""The system calls of Linux on x86-64, described once.

The core's dispatch table, its strace, the page SYSCALLS.md, the help and the fuzzer's programs are made from this. To
add a system call, define ``s64 sys_NAME(struct task *, const u64 *args)`` in the core: a row without such a function
answers ENOSYS.  Then run ``python -m pyvmm_sentry.generate --write``.

An argument is ``name:kind``, or ``name:kind(detail)``.

========================  ==========================================================================================
kind                      what it is
========================  ==========================================================================================
int, uint                 32 bits; ``id`` is of a user or group, where -1 has a meaning
long, ulong, size, hex    64 bits
addr                      an address that is not followed
fd, dirfd                 a descriptor; a ``dirfd`` can be AT_FDCWD
mode                      permissions in octal: ``file_mode`` with a type, ``create_mode`` only if a file is made
signal, futex             a number with names; ``fcntl`` follows that of a command
flags(S), one(S)          bits, or one value, of a set of :data:`pyvmm_sentry.abi.SETS`
path, out_path            a text
strings, environment      pointers to texts, up to a NULL
in(N), out(N)             bytes, as many as the argument N
get(T), put(T), change(T)  a pointer to a type of :data:`pyvmm_sentry.abi.STRUCTS`: read, written, both
iovec_in(N), iovec_out(N)  N vectors
polls, epolls, fd_set(N)  N of poll's or epoll's records, or N bits
sockaddr(N)               an address of N bytes; ``put_sockaddr``: N points to the size
========================  ==========================================================================================
"""

from __future__ import annotations

import re
from typing import NamedTuple

MOST_ARGUMENTS = 6
PATHS = ("path", "target", "from", "root")
"""Names of arguments: the first of them that a call has is its path."""
LINKS = r"(unlink|rmdir|mkdir|mknod|symlink|readlink|rename|link|l(set|get|list|remove)xattr|lchown|lstat)(at2?|2)?"
"""The names of calls that do not follow a symbolic link at the end of their path."""


class Argument(NamedTuple):
    """An argument of a system call, as the table above describes it."""

    name: str
    kind: str
    detail: str = ""


class Syscall(NamedTuple):
    """A system call.

    :ivar tier: 1: busybox needs it; 2: ordinary programs do; 3: special ones
    :ivar signature: its arguments
    :ivar note: what is different from Linux; empty if nothing is
    :ivar handler: the function of the core that answers it; ``sys_NAME`` if empty
    :ivar result: the kind of what it returns: a number, unless it is ``addr``, ``mode``, ``fcntl`` or ``nothing``
    """

    number: int
    name: str
    tier: int
    signature: str
    note: str = ""
    handler: str = ""
    result: str = ""

    @property
    def function(self) -> str:
        """The function of the core."""
        return f"sys_{self.handler or self.name}"

    @property
    def path(self) -> str:
        """The name of the argument that is its path; empty: it has none."""
        texts = [each.name for each in self.arguments if each.kind == "path"]
        return next((name for name in PATHS if name in texts), "")

    @property
    def follows(self) -> bool:
        """Whether it follows a symbolic link at the end of its path."""
        return re.fullmatch(LINKS, self.name) is None

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """Its arguments."""
        found = re.findall(r"(\w+):(\w+)(?:\((\w+)\))?", self.signature)
        return tuple(Argument(*words) for words in found)


SYSCALLS = (
    Syscall(0, "read", 1, "fd:fd buf:out(count) count:size"),
    Syscall(1, "write", 1, "fd:fd buf:in(count) count:size"),
    Syscall(2, "open", 2, "path:path flags:flags(open) mode:create_mode"),
    Syscall(3, "close", 1, "fd:fd"),
    Syscall(4, "stat", 2, "path:path status:put(stat)"),
    Syscall(5, "fstat", 1, "fd:fd status:put(stat)", "a console that is no terminal is shown as a pipe"),
    Syscall(6, "lstat", 2, "path:path status:put(stat)"),
    Syscall(7, "poll", 2, "polls:polls(count) count:uint timeout:int"),
    Syscall(8, "lseek", 1, "fd:fd offset:long whence:one(seek)"),
    Syscall(
        9,
        "mmap",
        1,
        "address:addr size:size protection:flags(prot) flags:flags(map) fd:fd offset:hex",
        "no huge pages; MAP_GROWSDOWN has no effect",
        result="addr",
    ),
    Syscall(10, "mprotect", 1, "address:addr size:size protection:flags(prot)"),
    Syscall(11, "munmap", 1, "address:addr size:size"),
    Syscall(12, "brk", 1, "end:addr", result="addr"),
    Syscall(13, "rt_sigaction", 1, "signal:signal new:get(sigaction) old:put(sigaction) size:size"),
    Syscall(14, "rt_sigprocmask", 1, "how:one(sigmask) new:get(sigset) old:put(sigset) size:size"),
    Syscall(15, "rt_sigreturn", 1, ""),
    Syscall(16, "ioctl", 1, "fd:fd request:one(ioctl) argument:hex", "TIOCSTI: by the superuser only"),
    Syscall(17, "pread64", 2, "fd:fd buf:out(count) count:size offset:long"),
    Syscall(18, "pwrite64", 2, "fd:fd buf:in(count) count:size offset:long"),
    Syscall(19, "readv", 2, "fd:fd vectors:iovec_out(count) count:int"),
    Syscall(20, "writev", 2, "fd:fd vectors:iovec_in(count) count:int"),
    Syscall(21, "access", 1, "path:path mode:flags(access)"),
    Syscall(22, "pipe", 2, "fds:put(fd_pair)"),
    Syscall(
        23,
        "select",
        2,
        "count:int readable:fd_set(count) writable:fd_set(count) exceptional:fd_set(count) timeout:change(timeval)",
    ),
    Syscall(24, "sched_yield", 2, ""),
    Syscall(
        25, "mremap", 2, "address:addr old_size:size size:size flags:flags(mremap) new_address:addr", result="addr"
    ),
    Syscall(26, "msync", 2, "address:addr size:size flags:flags(msync)"),
    Syscall(27, "mincore", 2, "address:addr size:size vector:addr"),
    Syscall(
        28,
        "madvise",
        2,
        "address:addr size:size advice:one(madvise)",
        "no MADV_REMOVE; MADV_FREE and advice about speed have no effect",
    ),
    Syscall(29, "shmget", 3, "key:hex size:size flags:flags(ipc_get)"),
    Syscall(30, "shmat", 3, "id:int address:addr flags:flags(shmat)", result="addr"),
    Syscall(31, "shmctl", 3, "id:int command:one(ipc) argument:addr"),
    Syscall(32, "dup", 2, "fd:fd"),
    Syscall(33, "dup2", 1, "fd:fd to:fd"),
    Syscall(34, "pause", 2, ""),
    Syscall(35, "nanosleep", 1, "time:get(timespec) rest:put(timespec)"),
    Syscall(36, "getitimer", 2, "which:one(itimer) value:put(itimerval)"),
    Syscall(37, "alarm", 2, "seconds:uint"),
    Syscall(38, "setitimer", 2, "which:one(itimer) new:get(itimerval) old:put(itimerval)"),
    Syscall(39, "getpid", 1, ""),
    Syscall(40, "sendfile", 1, "to:fd from:fd offset:change(long) count:size"),
    Syscall(41, "socket", 2, "family:one(family) type:flags(socket) protocol:int"),
    Syscall(42, "connect", 2, "fd:fd address:sockaddr(size) size:int"),
    Syscall(43, "accept", 2, "fd:fd address:put_sockaddr(size) size:change(int)"),
    Syscall(44, "sendto", 2, "fd:fd buf:in(count) count:size flags:flags(message) address:sockaddr(size) size:int"),
    Syscall(
        45,
        "recvfrom",
        2,
        "fd:fd buf:out(count) count:size flags:flags(message) address:put_sockaddr(size) size:change(int)",
    ),
    Syscall(46, "sendmsg", 2, "fd:fd message:get(msghdr) flags:flags(message)"),
    Syscall(47, "recvmsg", 2, "fd:fd message:put(msghdr) flags:flags(message)"),
    Syscall(48, "shutdown", 2, "fd:fd how:one(shutdown)"),
    Syscall(49, "bind", 2, "fd:fd address:sockaddr(size) size:int"),
    Syscall(50, "listen", 2, "fd:fd backlog:int"),
    Syscall(51, "getsockname", 2, "fd:fd address:put_sockaddr(size) size:change(int)"),
    Syscall(52, "getpeername", 2, "fd:fd address:put_sockaddr(size) size:change(int)"),
    Syscall(53, "socketpair", 2, "family:one(family) type:flags(socket) protocol:int fds:put(fd_pair)"),
    Syscall(54, "setsockopt", 2, "fd:fd level:one(sockopt_level) option:int value:in(size) size:int"),
    Syscall(55, "getsockopt", 2, "fd:fd level:one(sockopt_level) option:int value:addr size:change(int)"),
    Syscall(
        56,
        "clone",
        1,
        "flags:flags(clone) stack:addr parent:addr child:addr tls:hex",
        "no namespaces; CLONE_PIDFD not for threads",
    ),
    Syscall(57, "fork", 2, ""),
    Syscall(58, "vfork", 2, ""),
    Syscall(59, "execve", 1, "path:path arguments:strings environment:environment"),
    Syscall(60, "exit", 1, "status:int", result="nothing"),
    Syscall(61, "wait4", 1, "pid:int status:put(wait_status) options:flags(wait) usage:put(rusage)"),
    Syscall(62, "kill", 1, "pid:int signal:signal"),
    Syscall(63, "uname", 1, "name:put(utsname)"),
    Syscall(64, "semget", 3, "key:hex count:int flags:flags(ipc_get)"),
    Syscall(65, "semop", 3, "id:int operations:addr count:uint"),
    Syscall(66, "semctl", 3, "id:int number:int command:one(ipc) argument:hex"),
    Syscall(67, "shmdt", 3, "address:addr"),
    Syscall(68, "msgget", 3, "key:hex flags:flags(ipc_get)"),
    Syscall(69, "msgsnd", 3, "id:int message:addr size:size flags:flags(ipc_get)"),
    Syscall(70, "msgrcv", 3, "id:int message:addr size:size type:long flags:flags(ipc_get)"),
    Syscall(71, "msgctl", 3, "id:int command:one(ipc) argument:addr"),
    Syscall(
        72,
        "fcntl",
        1,
        "fd:fd command:one(fcntl) argument:fcntl",
        "no leases and no SIGIO; locks do not detect deadlocks",
        result="fcntl",
    ),
    Syscall(73, "flock", 2, "fd:fd operation:flags(flock)"),
    Syscall(74, "fsync", 2, "fd:fd"),
    Syscall(75, "fdatasync", 2, "fd:fd"),
    Syscall(76, "truncate", 2, "path:path size:long"),
    Syscall(77, "ftruncate", 2, "fd:fd size:long"),
    Syscall(78, "getdents", 2, "fd:fd entries:addr size:uint"),
    Syscall(79, "getcwd", 2, "path:out_path(size) size:size"),
    Syscall(80, "chdir", 1, "path:path"),
    Syscall(81, "fchdir", 2, "fd:fd"),
    Syscall(82, "rename", 1, "from:path to:path"),
    Syscall(83, "mkdir", 1, "path:path mode:mode"),
    Syscall(84, "rmdir", 1, "path:path"),
    Syscall(85, "creat", 2, "path:path mode:mode"),
    Syscall(86, "link", 2, "from:path to:path"),
    Syscall(87, "unlink", 1, "path:path"),
    Syscall(88, "symlink", 1, "target:path path:path"),
    Syscall(89, "readlink", 1, "path:path buf:out(size) size:size"),
    Syscall(90, "chmod", 1, "path:path mode:mode"),
    Syscall(91, "fchmod", 2, "fd:fd mode:mode"),
    Syscall(92, "chown", 2, "path:path user:id group:id"),
    Syscall(93, "fchown", 2, "fd:fd user:id group:id"),
    Syscall(94, "lchown", 2, "path:path user:id group:id"),
    Syscall(95, "umask", 1, "mask:mode", result="mode"),
    Syscall(96, "gettimeofday", 1, "time:put(timeval) zone:put(timezone)"),
    Syscall(
        97,
        "getrlimit",
        2,
        "resource:one(rlimit) limit:put(rlimit)",
        "NOFILE, FSIZE, NPROC, AS, NICE and RTPRIO only",
    ),
    Syscall(98, "getrusage", 2, "who:one(rusage) usage:put(rusage)"),
    Syscall(99, "sysinfo", 2, "info:put(sysinfo)"),
    Syscall(100, "times", 2, "times:put(tms)"),
    Syscall(
        101,
        "ptrace",
        3,
        "request:one(ptrace) pid:int address:hex data:hex",
        "no PEEKSIGINFO, SINGLEBLOCK or breakpoints of the CPU; not in other containers",
    ),
    Syscall(102, "getuid", 1, ""),
    Syscall(103, "syslog", 3, "type:int buf:addr size:int"),
    Syscall(104, "getgid", 1, ""),
    Syscall(105, "setuid", 2, "user:id"),
    Syscall(106, "setgid", 2, "group:id"),
    Syscall(107, "geteuid", 1, ""),
    Syscall(108, "getegid", 1, ""),
    Syscall(109, "setpgid", 2, "pid:int group:int"),
    Syscall(110, "getppid", 1, ""),
    Syscall(111, "getpgrp", 2, ""),
    Syscall(112, "setsid", 2, ""),
    Syscall(113, "setreuid", 2, "real:id effective:id"),
    Syscall(114, "setregid", 2, "real:id effective:id"),
    Syscall(115, "getgroups", 1, "count:int list:addr"),
    Syscall(116, "setgroups", 2, "count:size list:addr"),
    Syscall(117, "setresuid", 2, "real:id effective:id saved:id"),
    Syscall(118, "getresuid", 2, "real:put(uint) effective:put(uint) saved:put(uint)"),
    Syscall(119, "setresgid", 2, "real:id effective:id saved:id"),
    Syscall(120, "getresgid", 2, "real:put(uint) effective:put(uint) saved:put(uint)"),
    Syscall(121, "getpgid", 2, "pid:int"),
    Syscall(122, "setfsuid", 2, "user:id"),
    Syscall(123, "setfsgid", 2, "group:id"),
    Syscall(124, "getsid", 2, "pid:int"),
    Syscall(125, "capget", 2, "header:get(cap_header) data:addr"),
    Syscall(126, "capset", 2, "header:get(cap_header) data:addr"),
    Syscall(127, "rt_sigpending", 2, "set:put(sigset) size:size"),
    Syscall(128, "rt_sigtimedwait", 2, "set:get(sigset) info:put(siginfo) timeout:get(timespec) size:size"),
    Syscall(129, "rt_sigqueueinfo", 2, "pid:int signal:signal info:get(siginfo)", "no limit of signals"),
    Syscall(130, "rt_sigsuspend", 1, "set:get(sigset) size:size"),
    Syscall(131, "sigaltstack", 2, "new:get(stack) old:put(stack)"),
    Syscall(132, "utime", 2, "path:path times:get(utimbuf)"),
    Syscall(133, "mknod", 2, "path:path mode:file_mode device:hex"),
    Syscall(135, "personality", 2, "personality:hex", "Linux's own only; ADDR_NO_RANDOMIZE has no effect"),
    Syscall(137, "statfs", 1, "path:path status:put(statfs)"),
    Syscall(138, "fstatfs", 2, "fd:fd status:put(statfs)"),
    Syscall(140, "getpriority", 2, "which:one(priority) who:int"),
    Syscall(141, "setpriority", 2, "which:one(priority) who:int priority:int", "all tasks take turns nevertheless"),
    Syscall(142, "sched_setparam", 2, "pid:int parameter:get(int)", "all tasks take turns nevertheless"),
    Syscall(143, "sched_getparam", 2, "pid:int parameter:put(int)"),
    Syscall(
        144,
        "sched_setscheduler",
        2,
        "pid:int policy:one(sched) parameter:get(int)",
        "all tasks take turns nevertheless",
    ),
    Syscall(145, "sched_getscheduler", 2, "pid:int"),
    Syscall(146, "sched_get_priority_max", 2, "policy:one(sched)"),
    Syscall(147, "sched_get_priority_min", 2, "policy:one(sched)"),
    Syscall(148, "sched_rr_get_interval", 2, "pid:int interval:put(timespec)"),
    Syscall(149, "mlock", 2, "address:addr size:size", "no limit: all memory stays in RAM"),
    Syscall(150, "munlock", 2, "address:addr size:size"),
    Syscall(151, "mlockall", 2, "flags:flags(mlockall)", "no limit: all memory stays in RAM"),
    Syscall(152, "munlockall", 2, ""),
    Syscall(153, "vhangup", 3, ""),
    Syscall(155, "pivot_root", 3, "root:path old:path", "also in the first root, which has no parent"),
    Syscall(
        157,
        "prctl",
        1,
        "option:one(prctl) second:hex third:hex fourth:hex fifth:hex",
        "those for credentials, names and parents",
    ),
    Syscall(158, "arch_prctl", 1, "code:one(arch_prctl) address:hex", "the bases of FS and GS only"),
    Syscall(
        160,
        "setrlimit",
        2,
        "resource:one(rlimit) limit:get(rlimit)",
        "NOFILE, FSIZE, NPROC, AS, NICE and RTPRIO only",
    ),
    Syscall(161, "chroot", 3, "path:path"),
    Syscall(162, "sync", 2, ""),
    Syscall(
        165,
        "mount",
        3,
        "source:path target:path type:path flags:flags(mount) data:addr",
        "tmpfs, proc, sysfs, devpts, devtmpfs and overlay; all mounts are private",
    ),
    Syscall(166, "umount2", 3, "target:path flags:flags(umount)", "the root is not made read-only"),
    Syscall(170, "sethostname", 3, "name:in(size) size:size"),
    Syscall(171, "setdomainname", 3, "name:in(size) size:size"),
    Syscall(186, "gettid", 1, ""),
    Syscall(187, "readahead", 2, "fd:fd offset:long count:size"),
    Syscall(188, "setxattr", 3, "path:path name:path value:in(size) size:size flags:flags(xattr)"),
    Syscall(189, "lsetxattr", 3, "path:path name:path value:in(size) size:size flags:flags(xattr)"),
    Syscall(190, "fsetxattr", 3, "fd:fd name:path value:in(size) size:size flags:flags(xattr)"),
    Syscall(191, "getxattr", 3, "path:path name:path value:out(size) size:size"),
    Syscall(192, "lgetxattr", 3, "path:path name:path value:out(size) size:size"),
    Syscall(193, "fgetxattr", 3, "fd:fd name:path value:out(size) size:size"),
    Syscall(194, "listxattr", 3, "path:path list:out(size) size:size"),
    Syscall(195, "llistxattr", 3, "path:path list:out(size) size:size"),
    Syscall(196, "flistxattr", 3, "fd:fd list:out(size) size:size"),
    Syscall(197, "removexattr", 3, "path:path name:path"),
    Syscall(198, "lremovexattr", 3, "path:path name:path"),
    Syscall(199, "fremovexattr", 3, "fd:fd name:path"),
    Syscall(200, "tkill", 2, "tid:int signal:signal"),
    Syscall(201, "time", 2, "time:put(long)"),
    Syscall(
        202,
        "futex",
        2,
        "word:addr operation:futex value:int timeout:hex word2:addr value3:hex",
        "no priority inheritance",
    ),
    Syscall(203, "sched_setaffinity", 2, "pid:int size:size mask:addr"),
    Syscall(204, "sched_getaffinity", 2, "pid:int size:size mask:addr"),
    Syscall(206, "io_setup", 3, "count:uint context:put(ulong)"),
    Syscall(207, "io_destroy", 3, "context:hex"),
    Syscall(208, "io_getevents", 3, "context:hex least:long most:long events:addr timeout:get(timespec)"),
    Syscall(209, "io_submit", 3, "context:hex count:long requests:addr"),
    Syscall(210, "io_cancel", 3, "context:hex request:addr result:addr"),
    Syscall(213, "epoll_create", 2, "size:int"),
    Syscall(217, "getdents64", 1, "fd:fd entries:addr size:uint"),
    Syscall(218, "set_tid_address", 1, "word:addr"),
    Syscall(219, "restart_syscall", 2, ""),
    Syscall(220, "semtimedop", 3, "id:int operations:addr count:uint timeout:get(timespec)"),
    Syscall(221, "fadvise64", 2, "fd:fd offset:long size:size advice:one(fadvise)"),
    Syscall(222, "timer_create", 3, "clock:one(clock) event:get(sigevent) id:put(int)", "no limit, no alarm clocks"),
    Syscall(223, "timer_settime", 3, "id:int flags:flags(timer) new:get(itimerspec) old:put(itimerspec)"),
    Syscall(224, "timer_gettime", 3, "id:int value:put(itimerspec)"),
    Syscall(225, "timer_getoverrun", 3, "id:int"),
    Syscall(226, "timer_delete", 3, "id:int"),
    Syscall(227, "clock_settime", 2, "clock:one(clock) time:get(timespec)", "EPERM: the time is that of the host"),
    Syscall(
        228,
        "clock_gettime",
        1,
        "clock:one(clock) time:put(timespec)",
        "coarse clocks are fine ones; CPU time does not include system calls",
    ),
    Syscall(229, "clock_getres", 2, "clock:one(clock) resolution:put(timespec)"),
    Syscall(230, "clock_nanosleep", 1, "clock:one(clock) flags:flags(timer) time:get(timespec) rest:put(timespec)"),
    Syscall(231, "exit_group", 1, "status:int", result="nothing"),
    Syscall(232, "epoll_wait", 2, "epoll:fd events:epolls(most) most:int timeout:int"),
    Syscall(233, "epoll_ctl", 2, "epoll:fd operation:one(epoll_ctl) fd:fd event:get(epoll_event)"),
    Syscall(234, "tgkill", 2, "group:int tid:int signal:signal"),
    Syscall(235, "utimes", 2, "path:path times:get(timeval_pair)"),
    Syscall(240, "mq_open", 3, "name:path flags:flags(open) mode:create_mode attributes:get(mq_attr)"),
    Syscall(241, "mq_unlink", 3, "name:path"),
    Syscall(242, "mq_timedsend", 3, "queue:fd message:in(size) size:size priority:uint timeout:get(timespec)"),
    Syscall(243, "mq_timedreceive", 3, "queue:fd message:out(size) size:size priority:put(uint) timeout:get(timespec)"),
    Syscall(244, "mq_notify", 3, "queue:fd event:get(sigevent)", "no SIGEV_THREAD"),
    Syscall(245, "mq_getsetattr", 3, "queue:fd new:get(mq_attr) old:put(mq_attr)"),
    Syscall(247, "waitid", 2, "type:one(waitid) id:int info:put(siginfo) options:flags(wait) usage:put(rusage)"),
    Syscall(248, "add_key", 3, "type:path description:path payload:in(size) size:size ring:int"),
    Syscall(249, "request_key", 3, "type:path description:path information:path ring:int"),
    Syscall(250, "keyctl", 3, "operation:int second:hex third:hex fourth:hex fifth:hex"),
    Syscall(251, "ioprio_set", 3, "which:int who:int priority:hex"),
    Syscall(252, "ioprio_get", 3, "which:int who:int"),
    Syscall(253, "inotify_init", 2, ""),
    Syscall(254, "inotify_add_watch", 2, "fd:fd path:path mask:flags(inotify)"),
    Syscall(255, "inotify_rm_watch", 2, "fd:fd watch:int"),
    Syscall(257, "openat", 1, "directory:dirfd path:path flags:flags(open) mode:create_mode"),
    Syscall(258, "mkdirat", 2, "directory:dirfd path:path mode:mode"),
    Syscall(259, "mknodat", 2, "directory:dirfd path:path mode:file_mode device:hex"),
    Syscall(260, "fchownat", 2, "directory:dirfd path:path user:id group:id flags:flags(at)"),
    Syscall(261, "futimesat", 2, "directory:dirfd path:path times:get(timeval_pair)"),
    Syscall(262, "newfstatat", 1, "directory:dirfd path:path status:put(stat) flags:flags(at)"),
    Syscall(263, "unlinkat", 2, "directory:dirfd path:path flags:flags(unlinkat)"),
    Syscall(264, "renameat", 2, "from_directory:dirfd from:path to_directory:dirfd to:path"),
    Syscall(265, "linkat", 2, "from_directory:dirfd from:path to_directory:dirfd to:path flags:flags(at)"),
    Syscall(266, "symlinkat", 2, "target:path directory:dirfd path:path"),
    Syscall(267, "readlinkat", 1, "directory:dirfd path:path buf:out(size) size:size"),
    Syscall(268, "fchmodat", 2, "directory:dirfd path:path mode:mode"),
    Syscall(269, "faccessat", 2, "directory:dirfd path:path mode:flags(access)"),
    Syscall(
        270,
        "pselect6",
        2,
        "count:int readable:fd_set(count) writable:fd_set(count) exceptional:fd_set(count) "
        "timeout:change(timespec) mask:addr",
    ),
    Syscall(271, "ppoll", 2, "polls:polls(count) count:uint timeout:change(timespec) mask:get(sigset) size:size"),
    Syscall(272, "unshare", 3, "flags:flags(clone)", "no namespaces"),
    Syscall(273, "set_robust_list", 1, "head:addr size:size"),
    Syscall(274, "get_robust_list", 2, "pid:int head:put(ulong) size:put(ulong)"),
    Syscall(
        275, "splice", 2, "from:fd from_offset:change(long) to:fd to_offset:change(long) count:size flags:flags(splice)"
    ),
    Syscall(276, "tee", 2, "from:fd to:fd count:size flags:flags(splice)"),
    Syscall(277, "sync_file_range", 2, "fd:fd offset:long size:long flags:flags(sync_file_range)"),
    Syscall(278, "vmsplice", 2, "fd:fd vectors:iovec_in(count) count:size flags:flags(splice)"),
    Syscall(280, "utimensat", 1, "directory:dirfd path:path times:get(timespec_pair) flags:flags(at)"),
    Syscall(281, "epoll_pwait", 2, "epoll:fd events:epolls(most) most:int timeout:int mask:get(sigset) size:size"),
    Syscall(282, "signalfd", 2, "fd:fd mask:get(sigset) size:size"),
    Syscall(283, "timerfd_create", 2, "clock:one(clock) flags:flags(timerfd)"),
    Syscall(284, "eventfd", 2, "value:uint"),
    Syscall(285, "fallocate", 2, "fd:fd mode:flags(fallocate) offset:long size:long"),
    Syscall(286, "timerfd_settime", 2, "fd:fd flags:flags(timer) new:get(itimerspec) old:put(itimerspec)"),
    Syscall(287, "timerfd_gettime", 2, "fd:fd value:put(itimerspec)"),
    Syscall(288, "accept4", 2, "fd:fd address:put_sockaddr(size) size:change(int) flags:flags(socket_flags)"),
    Syscall(289, "signalfd4", 2, "fd:fd mask:get(sigset) size:size flags:flags(signalfd)"),
    Syscall(290, "eventfd2", 2, "value:uint flags:flags(eventfd)"),
    Syscall(291, "epoll_create1", 2, "flags:flags(epoll_create)"),
    Syscall(292, "dup3", 2, "fd:fd to:fd flags:flags(descriptor)"),
    Syscall(293, "pipe2", 1, "fds:put(fd_pair) flags:flags(descriptor)"),
    Syscall(294, "inotify_init1", 2, "flags:flags(inotify_init)"),
    Syscall(295, "preadv", 2, "fd:fd vectors:iovec_out(count) count:int offset:long"),
    Syscall(296, "pwritev", 2, "fd:fd vectors:iovec_in(count) count:int offset:long"),
    Syscall(297, "rt_tgsigqueueinfo", 2, "group:int tid:int signal:signal info:get(siginfo)"),
    Syscall(299, "recvmmsg", 2, "fd:fd messages:addr count:uint flags:flags(message) timeout:change(timespec)"),
    Syscall(
        302,
        "prlimit64",
        1,
        "pid:int resource:one(rlimit) new:get(rlimit) old:put(rlimit)",
        "NOFILE, FSIZE, NPROC, AS, NICE and RTPRIO only",
    ),
    Syscall(306, "syncfs", 2, "fd:fd"),
    Syscall(307, "sendmmsg", 2, "fd:fd messages:addr count:uint flags:flags(message)"),
    Syscall(308, "setns", 3, "fd:fd type:flags(clone)", "no namespaces"),
    Syscall(309, "getcpu", 2, "cpu:put(uint) node:put(uint) cache:addr"),
    Syscall(
        310, "process_vm_readv", 3, "pid:int local:addr local_count:ulong remote:addr remote_count:ulong flags:hex"
    ),
    Syscall(
        311, "process_vm_writev", 3, "pid:int local:addr local_count:ulong remote:addr remote_count:ulong flags:hex"
    ),
    Syscall(312, "kcmp", 3, "first:int second:int type:int index1:hex index2:hex", "not of files in an epoll"),
    Syscall(314, "sched_setattr", 2, "pid:int attributes:addr flags:hex", "no SCHED_DEADLINE"),
    Syscall(315, "sched_getattr", 2, "pid:int attributes:addr size:uint flags:hex"),
    Syscall(316, "renameat2", 2, "from_directory:dirfd from:path to_directory:dirfd to:path flags:flags(rename)"),
    Syscall(317, "seccomp", 3, "operation:one(seccomp) flags:hex argument:addr", "no listeners"),
    Syscall(318, "getrandom", 1, "buf:out(count) count:size flags:flags(getrandom)"),
    Syscall(319, "memfd_create", 2, "name:path flags:flags(memfd)"),
    Syscall(322, "execveat", 2, "directory:dirfd path:path arguments:strings environment:environment flags:flags(at)"),
    Syscall(324, "membarrier", 2, "command:flags(membarrier) flags:hex cpu:int"),
    Syscall(325, "mlock2", 2, "address:addr size:size flags:hex", "no limit: all memory stays in RAM"),
    Syscall(
        326, "copy_file_range", 2, "from:fd from_offset:change(long) to:fd to_offset:change(long) count:size flags:hex"
    ),
    Syscall(327, "preadv2", 2, "fd:fd vectors:iovec_out(count) count:int offset:long high:long flags:flags(rwf)"),
    Syscall(328, "pwritev2", 2, "fd:fd vectors:iovec_in(count) count:int offset:long high:long flags:flags(rwf)"),
    Syscall(329, "pkey_mprotect", 3, "address:addr size:size protection:flags(prot) key:int"),
    Syscall(330, "pkey_alloc", 2, "flags:hex rights:hex", "ENOSPC: there are no keys"),
    Syscall(331, "pkey_free", 2, "key:int"),
    Syscall(332, "statx", 2, "directory:dirfd path:path flags:flags(at) mask:flags(statx) status:put(statx)"),
    Syscall(334, "rseq", 1, "area:addr size:uint flags:hex signature:hex"),
    Syscall(424, "pidfd_send_signal", 3, "process:fd signal:signal info:get(siginfo) flags:hex"),
    Syscall(428, "open_tree", 3, "directory:dirfd path:path flags:hex"),
    Syscall(429, "move_mount", 3, "from_directory:dirfd from:path to_directory:dirfd to:path flags:hex"),
    Syscall(430, "fsopen", 3, "name:path flags:hex"),
    Syscall(431, "fsconfig", 3, "fd:fd command:int key:path value:addr extra:int"),
    Syscall(432, "fsmount", 3, "fd:fd flags:hex attributes:hex"),
    Syscall(433, "fspick", 3, "directory:dirfd path:path flags:hex"),
    Syscall(434, "pidfd_open", 3, "pid:int flags:flags(pidfd)"),
    Syscall(
        435,
        "clone3",
        2,
        "arguments:get(clone_args) size:size",
        "no namespaces; CLONE_PIDFD not for threads; set_tid: EPERM",
    ),
    Syscall(436, "close_range", 2, "first:uint last:uint flags:flags(close_range)"),
    Syscall(437, "openat2", 2, "directory:dirfd path:path how:get(open_how) size:size"),
    Syscall(438, "pidfd_getfd", 3, "process:fd fd:fd flags:hex"),
    Syscall(439, "faccessat2", 2, "directory:dirfd path:path mode:flags(access) flags:flags(at)"),
    Syscall(
        441, "epoll_pwait2", 2, "epoll:fd events:epolls(most) most:int timeout:get(timespec) mask:get(sigset) size:size"
    ),
    Syscall(442, "mount_setattr", 3, "directory:dirfd path:path flags:flags(at) attributes:addr size:size"),
    Syscall(449, "futex_waitv", 3, "waiters:addr count:uint flags:hex timeout:get(timespec) clock:one(clock)"),
    Syscall(452, "fchmodat2", 2, "directory:dirfd path:path mode:mode flags:flags(at)"),
)
