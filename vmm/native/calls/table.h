/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The system calls that each kind of thread may make, and why. calls.c makes the filters from this table, and tools/calls.py
 * docs/reference/system-calls.md. A call that is not listed for a thread ends its machine.
 *
 * CALL(name, threads, test, why). A test compares the low 32 bits of one argument: ANY: no test. IN(argument, values...): it
 * is one of these. WITHOUT(argument, bits): none of these bits is set. WITH(argument, bits): all of these are set.
 * OWN(argument): it is the process id of whoever installs the filter. FAIL(errno): the call is not made and returns this
 * errno. REFUSED(errno, argument, value): the same, if the argument has this value. The most frequent calls come first: the
 * kernel tests in this order. For lines with ANY it tests one bit and runs no filter (Linux 5.11).
 */

/* The machine: calls of vCPUs, and of Python on their behalf and in the control loop. */
CALL(ioctl, VMM | VCPU, IN(1, KVM_RUN, KVM_GET_REGS, KVM_GET_SREGS, KVM_GET_LAPIC, KVM_TRANSLATE), "run a vCPU; look at one that has ended the run")
CALL(ioctl, VMM | RUN, IN(1, KVM_IRQFD, KVM_IOEVENTFD, KVM_SET_USER_MEMORY_REGION, KVM_SET_GSI_ROUTING, KVM_IRQ_LINE, TUNSETOFFLOAD,
	TUNSETQUEUE, TCGETS), "map registers and windows; bind kicks and interrupts; Python: is a file a terminal")
CALL(ioctl, VMM, IN(1, KVM_GET_MP_STATE, KVM_KVMCLOCK_CTRL), "is a vCPU halted; go on after a pause")
CALL(ioctl, TTY, IN(1, TCSETS, TIOCGPGRP, TIOCGWINSZ), "the console's terminal")
CALL(ioctl, CONTROL, IN(1, KVM_GET_XSAVE, KVM_GET_XSAVE2, KVM_GET_XCRS, KVM_GET_DEBUGREGS, KVM_GET_CPUID2, KVM_GET_MSRS,
	KVM_GET_TSC_KHZ, KVM_GET_VCPU_EVENTS, KVM_GET_IRQCHIP, KVM_GET_CLOCK, KVM_GET_DEVICE_ATTR, KVM_CHECK_EXTENSION, FICLONE,
	PAGEMAP_SCAN), "read the state of a machine for a snapshot; copy a disk by sharing its blocks; find the pages that a guest has touched")
CALL(ioctl, CONTROL, IN(1, KVM_SET_MP_STATE), "have a vCPU that is added wait for its start-up")
CALL(ioctl, GDB, IN(1, KVM_SET_GUEST_DEBUG, KVM_SET_REGS, KVM_SET_SREGS, KVM_GET_XSAVE, KVM_SET_XSAVE, KVM_GET_MSRS),
	"set breakpoints; read and write registers for a debugger")
CALL(ioctl, VSOCK, IN(1, SIOCOUTQ), "how much of the guest's data the reader has not taken")
CALL(ioctl, SERVER | HOST, IN(1, FIONBIO, TCGETS), "Python: make a socket block; is a file a terminal")
CALL(ioctl, SERVER, IN(1, PAGEMAP_SCAN), "merge the memory of snapshots: which pages have data")
CALL(ioctl, FORKS, IN(1, FIONBIO, FICLONE), "Python: make a socket block; copy a disk by sharing its blocks")
CALL(ioctl, HOST, IN(1, FIOCLEX, FIONCLEX, TIOCGWINSZ, SIOCGIFNAME, SIOCGIFINDEX),
	"Python: who inherits a descriptor; a terminal's size; interfaces by name")
CALL(ioctl, VHOST, IN(1, VHOST_SET_OWNER, VHOST_SET_FEATURES, VHOST_SET_MEM_TABLE, VHOST_SET_VRING_NUM, VHOST_SET_VRING_BASE,
	VHOST_GET_VRING_BASE, VHOST_SET_VRING_ADDR, VHOST_SET_VRING_KICK, VHOST_SET_VRING_CALL, VHOST_SET_VRING_ERR,
	VHOST_VSOCK_SET_RUNNING, VHOST_NET_SET_BACKEND, TUNGETIFF), "rings, kicks and interrupts for the kernel's vhost; does the tap device still exist")

CALL(ioctl, FILL, IN(1, UFFDIO_COPY, UFFDIO_ZEROPAGE, UFFDIO_WAKE), "fill a page of guest RAM that a thread waits for")
CALL(ioctl, VMM | RUN, IN(1, UFFDIO_API, UFFDIO_REGISTER, UFFDIO_UNREGISTER), "pyvmm-fsd has mapped RAM that is filled on demand")
CALL(ioctl, VMM | RUN, IN(1, UFFDIO_COPY, UFFDIO_ZEROPAGE), "pyvmm-fsd cannot take part in that: all RAM is filled at once")

/* Waiting and waking. */
CALL(epoll_wait, BLK | NET | VSOCK | CONSOLE | PMEM | RNG | FILL | VMM | LOOP, ANY, "sleep until the guest or the host has work")
CALL(io_uring_enter, BLK, ANY, "submit and wait; the ring's operations are restricted when it is made")
CALL(sched_yield, BLK | NET | VSOCK | CONSOLE | PMEM | RNG | VMM, ANY, "with one CPU, let the guest begin, or make all of its requests, first")
CALL(write, EVERY | VMM | RUN | SERVER | FORKS | HOST, ANY, "interrupt the guest (eventfd); wake a thread; the console's output")
CALL(futex, EVERY | START, IN(1, FUTEX_WAIT_PRIVATE, FUTEX_WAKE_PRIVATE, FUTEX_WAIT_BITSET_PRIVATE | FUTEX_CLOCK_REALTIME),
	"locks, conditions")
CALL(futex, VMM | RUN | SERVER | FORKS | HOST, IN(1, FUTEX_WAIT_BITSET | FUTEX_CLOCK_REALTIME, FUTEX_WAIT_PRIVATE, FUTEX_WAKE_PRIVATE,
	FUTEX_WAIT_BITSET_PRIVATE, FUTEX_WAIT_BITSET_PRIVATE | FUTEX_CLOCK_REALTIME),
	"locks; wait for the end of a thread")
CALL(epoll_ctl, BLK | NET | VSOCK | CONSOLE | PMEM | RNG | VMM | RUN | START | HOST, ANY, "choose the events that end a sleep")
CALL(poll, CONSOLE | DAX | FILL | VMM | RUN | SERVER | FORKS | HOST, ANY, "is a pipe or terminal writable, is a socket readable")
CALL(timerfd_settime, BLK | NET | RNG | VMM | RUN, ANY, "wait until a limit on operations or bytes allows more")
CALL(clock_gettime, EVERY | VMM | RUN | START | SERVER | FORKS | HOST, ANY, "the time, where the vDSO cannot tell it")
CALL(restart_syscall, BLK | DAX | VMM | RUN | SERVER | FORKS | HOST, ANY, "the kernel makes it when SIGSTOP interrupted a wait with a timeout")

/* Files. */
CALL(pread64, BLK | VMM | LOOP | SERVER | FORKS | HOST, ANY, "read the disk, a snapshot")
CALL(preadv, SERVER, ANY, "merge the memory of snapshots")
CALL(pwrite64, BLK | CONTROL | RUN | SERVER | FORKS | HOST, ANY, "write the disk, a snapshot, the bitmap of an overlay")
CALL(preadv2, NET, IN(3, ~0u), "receive a frame from the tap device, from no offset")
CALL(preadv2, BLK | VMM | RUN | SERVER, ANY, "read a disk or the console without blocking (RWF_NOWAIT); how large are a disk's blocks")
CALL(pwritev2, NET | CONSOLE | RUN, IN(3, ~0u), "send a frame to the tap device; the console's output: at no offset")
CALL(pwritev2, BLK, ANY, "write the disk from many buffers, or through to the disk (RWF_DSYNC)")
CALL(fdatasync, BLK | PMEM | RUN, ANY, "flush")
CALL(fallocate, BLK, ANY, "discard, write zeroes")
CALL(read, PMEM | RNG | DAX | FILL | VMM | LOOP | SERVER | HOST, ANY, "read events of inotify, an eventfd, or a userfaultfd; a source of random bytes")
CALL(fadvise64, PREFETCH, ANY, "read the memory ahead that a clone will need")
CALL(ftruncate, CONTROL | SERVER | FORKS | HOST, ANY, "give a snapshot's files the size of the RAM or disk")
CALL(copy_file_range, CONTROL | FORKS, ANY, "copy a disk")
CALL(memfd_create, CONTROL | FORKS | HOST, ANY, "a file in which a share's server saves its state; RAM and state of copies")
CALL(lseek, PMEM | VMM | RUN | SERVER | FORKS | HOST, ANY, "the size of the image; of an image as memory after a fault in its window")
CALL(fstat, DAX | VMM | LOOP | SERVER | FORKS | HOST, ANY, "the size of a file")
CALL(newfstatat, DAX | VMM | LOOP | BROKER | SERVER | FORKS | HOST, ANY, "the same by an older C library; does a path still name this socket")
CALL(unlink, BROKER | SERVER | FORKS | HOST, ANY, "remove the name of a socket at the end")
CALL(unlinkat, SERVER | HOST, ANY, "remove the snapshot that another one replaces")
CALL(mkdir, SERVER | HOST, ANY, "make the directory of a snapshot")
CALL(rmdir, SERVER | HOST, ANY, "remove the directory of the snapshot that is replaced")
CALL(rename, SERVER | HOST, ANY, "give a snapshot its name when it is complete")
CALL(renameat2, SERVER, ANY, "exchange a snapshot with the one that it replaces")
CALL(chmod, SERVER | HOST, ANY, "make a snapshot's memory read-only: clones map it")
CALL(fchmod, SERVER, ANY, "the same of the memory of snapshots that were merged")
CALL(fsync, SERVER | HOST, ANY, "write a snapshot to the disk before it gets its name")
CALL(getdents64, SERVER | HOST, ANY, "list the snapshot that is replaced")
CALL(getcwd, SERVER | FORKS | HOST, ANY, "resolve a relative path")
CALL(uname, SERVER | HOST, ANY, "record the kernel on which a snapshot was taken")

/* Networks and sockets. */
CALL(recvfrom, SERVER | FORKS | HOST, ANY, "receive from a client")
CALL(recvmsg, NET | VSOCK | DAX | CHILD | CONTROL | GDB | BROKER | SERVER | HOST, ANY,
	"receive from passt, from a socket of the host, from the broker, from a debugger, and from pyvmm-fsd a file to map")
CALL(sendmsg, NET | VSOCK | CONSOLE | DAX | CHILD | CONTROL | GDB | RUN | BROKER | SERVER | FORKS | HOST, ANY,
	"send to passt, to a socket of the host, to pyvmm-fsd, to the broker, to a debugger")
CALL(sendto, SERVER | FORKS | HOST, ANY, "send to a client")
CALL(accept4, VSOCK | GDB | SERVER | HOST, ANY, "accept a client of the socket device or of the control socket, or a debugger")
CALL(setsockopt, VSOCK, IN(2, SO_SNDBUF), "enlarge a send buffer for a message")
CALL(shutdown, VSOCK | CONTROL | SERVER | FORKS | HOST, ANY, "end one direction of a connection; accept no more requests")
CALL(getsockname, GDB, FAIL(ENOSYS), "Python, when a debugger connects: it can do without")
CALL(getsockname, SERVER | FORKS | HOST, ANY, "Python: the address of a socket")
CALL(getsockopt, SERVER | HOST, ANY, "Python: the type of a socket")
CALL(openat, VMM | RUN | START | FORKS, REFUSED(EACCES, 2, O_RDONLY | O_CLOEXEC),
	"the C library reads the host's overcommit mode when it frees memory; it can do without")
CALL(openat, REACH | BROKER, IN(2, O_PATH | O_NOFOLLOW | O_CLOEXEC), "find the socket of a port that the guest connects to")
CALL(openat, SERVER | HOST, ANY, "open the files of a snapshot")
CALL(openat, FORKS, IN(2, O_TMPFILE | O_RDWR | O_CLOEXEC, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC),
	"make a file for a disk of a child; none that exists is opened")
CALL(socket, REACH | BROKER, IN(0, AF_UNIX), "connect to the socket of a port")
CALL(socketpair, SERVER | FORKS | HOST, IN(0, AF_UNIX), "a socket for the answers of the machine")
CALL(connect, REACH | BROKER | HOST, ANY, "connect to the socket of a port")

/* Memory: none of it can become code. */
CALL(mmap, HOST, ANY, "memory; parts of Python that come when they are needed")
CALL(mmap, VSOCK | PMEM | DAX | VMM | RUN | START | SERVER | FORKS, WITHOUT(2, PROT_EXEC), "buffers of connections; pieces of files in a window")
CALL(munmap, BLK | VSOCK | DAX | VMM | RUN | START | SERVER | FORKS | HOST, ANY, "give memory back")
CALL(mprotect, HOST, ANY, "memory; parts of Python that come when they are needed")
CALL(mprotect, VMM | RUN | START | SERVER | FORKS, WITHOUT(2, PROT_EXEC), "the C library: the heap of a thread; the guard page of a stack")
CALL(mremap, DAX | VMM | RUN | START | SERVER | FORKS | HOST, ANY, "the C library: resize the heap; pieces of files in a window")
CALL(madvise, EVERY | VMM | RUN | START | SERVER | FORKS | HOST, ANY, "give memory back, at the end a thread's stack; look for pages that files have lost")
CALL(brk, VMM | RUN | START | SERVER | FORKS | HOST, ANY, "the C library: resize the heap")
CALL(mincore, DAX, ANY, "has the guest touched the page that replaced a lost one")

/* Threads and signals. A worker starts when its driver is ready, and installs its own filter. */
CALL(clone, VMM | START | SERVER | FORKS | HOST, WITH(0, CLONE_THREAD), "start a thread, but no process")
CALL(clone3, VMM | START | SERVER | FORKS | HOST, FAIL(ENOSYS), "the C library then calls clone, whose flags a filter can test")
CALL(set_robust_list, VMM | START | SERVER | FORKS | HOST, FAIL(ENOSYS), "the C library, when a thread begins: only for robust mutexes")
CALL(rseq, VMM | START | SERVER | FORKS | HOST, ANY, "the C library, when a thread begins")
CALL(sched_getaffinity, VMM | RUN | START | SERVER | FORKS, ANY,
	"a worker starts: does it have CPUs to spin on; the C library counts them when the ninth thread allocates memory")
CALL(prctl, VMM | START | SERVER | FORKS | HOST, IN(0, PR_SET_NAME), "set the name of a thread")
CALL(prctl, VMM | RUN | START | SERVER | SHARES | FORKS, IN(0, PR_GET_NAME), "the name of a thread that starts another one, or makes a wrong call")
CALL(prctl, VMM | START | HOST, IN(0, PR_SET_NO_NEW_PRIVS), "install the filter of a worker")
CALL(seccomp, VMM | START | HOST, IN(0, SECCOMP_SET_MODE_FILTER), "install the filter of a worker")
CALL(eventfd2, VMM | RUN, ANY, "a worker starts: the descriptor that stops it")
CALL(epoll_create1, VMM | RUN, ANY, "a worker starts: the descriptor that it sleeps on")
CALL(timerfd_create, VMM | START, ANY, "a worker starts: the timer of its limits")
CALL(io_uring_setup, NOBODY, ANY, "make an io_uring, whose operations no filter sees: each disk has its own from the start")
CALL(io_uring_register, DISK | START, IN(1, IORING_REGISTER_FILES_UPDATE, IORING_REGISTER_ENABLE_RINGS),
	"a disk's worker starts: it takes an io_uring, which is restricted already")
CALL(io_uring_register, BLK, IN(1, IORING_REGISTER_FILES_UPDATE), "it ends, and gives that back")
CALL(fcntl, VMM, IN(1, F_GETFL, F_GETFD), "read the flags of a descriptor; those of a file are the caller's, too: they are not set")
CALL(fcntl, CONTROL, IN(1, F_DUPFD_CLOEXEC, F_ADD_SEALS), "Python, when it maps the base of a diff; registers of a share that is plugged in")
CALL(fcntl, HOST, IN(1, F_GETFD, F_SETFL, F_DUPFD, F_SETPIPE_SZ, F_GETPIPE_SZ, F_SETLK, F_SETLKW),
	"streams of containers; locks of files")
CALL(fcntl, FORKS | HOST, IN(1, F_DUPFD_CLOEXEC, F_GET_SEALS, F_ADD_SEALS), "files of children; nobody can change their RAM and state any more")
CALL(fcntl, SERVER | HOST, IN(1, F_GETFL, F_SETFD, F_DUPFD_CLOEXEC), "Python: the files of a snapshot, the end of a connection")
CALL(rt_sigaction, VMM | SERVER | FORKS | HOST, ANY, "Python, when it ends; job control")
CALL(rt_sigreturn, VMM | RUN | FORKS | HOST, ANY, "return from a signal handler")
CALL(tgkill, VMM | RUN, OWN(0), "interrupt KVM_RUN of a vCPU; job control")
CALL(tgkill, HOST, ANY, "job control")
CALL(getpid, VMM | RUN | SERVER | FORKS | HOST, ANY, "the receiver of a signal")
CALL(gettid, VMM | RUN | SERVER | FORKS | HOST, ANY, "the receiver of a signal")
CALL(wait4, CHILD | OUTSIDE | FORKS | HOST, ANY, "the exit status of pyvmm-fsd, passt and pyvmm-broker, of a fork")
CALL(kill, HOST, ANY, "end what stands for a container")
CALL(kill, CHILD, FAIL(EPERM), "a child that hangs; it has another user by then, so the kernel would refuse, too")
CALL(prlimit64, SERVER, IN(1, RLIMIT_FSIZE), "a disk that is plugged in or grows: the machine may write files of its size")
CALL(pidfd_send_signal, SERVER | FORKS | HOST, ANY, "kill a machine that does not stop")
CALL(getrandom, RNG | VMM | RUN | START | SERVER | FORKS | HOST, ANY, "the guest's virtio-rng; the C library, Python")
CALL(flock, DISK | VCPU | SERVER | HOST, ANY, "unlock an image; lock one that is plugged in")

/*
 * A process with a machine that goes on serving its host (the container's monitor), and all of its threads. What is not here,
 * nor in the list of a thread of the machine, is answered with ENOSYS: a later C library then does what an earlier one did.
 */
CALL(select, HOST, ANY, "wait for streams")
CALL(pselect6, HOST, ANY, "wait for streams")
CALL(ppoll, HOST, ANY, "wait for streams")
CALL(clock_nanosleep, HOST, ANY, "ask again a moment later")
CALL(pipe2, HOST, ANY, "streams")
CALL(splice, HOST, ANY, "streams, without a copy")
CALL(dup, HOST, ANY, "streams that outlive their requests")
CALL(dup2, HOST, ANY, "streams that outlive their requests")
CALL(dup3, HOST, ANY, "streams that outlive their requests")
CALL(stat, HOST, ANY, "files of a bundle")
CALL(lstat, HOST, ANY, "files of a bundle")
CALL(access, FORKS | HOST, ANY, "files of a bundle; may one write beside a disk")
CALL(faccessat, HOST, ANY, "files of a bundle")
CALL(faccessat2, HOST, ANY, "files of a bundle")
CALL(readlink, SERVER | HOST, ANY, "the path of a snapshot without links; files of a bundle; which namespace is it")
CALL(readlinkat, HOST, ANY, "files of a bundle; which namespace is it")
CALL(statfs, HOST, ANY, "is it a file system of the kernel's own")
CALL(fstatfs, SERVER | HOST, ANY, "of what kind is the file system of a disk that is plugged in; how long names may be")
CALL(getuid, HOST, ANY, "who it is")
CALL(geteuid, HOST, ANY, "who it is")
CALL(getgid, HOST, ANY, "who it is")
CALL(getegid, HOST, ANY, "who it is")
CALL(getppid, HOST, ANY, "who it is")
CALL(prlimit64, HOST, ANY, "how many files may be open")
CALL(sysinfo, HOST, ANY, "the C library: how much memory there is")
CALL(waitid, HOST, ANY, "the end of what stands for a container")
CALL(pidfd_open, FORKS | HOST, ANY, "the end of what stands for a container, of a fork")
CALL(open_tree, HOST, ANY, "the root and the volumes of a container")
CALL(move_mount, HOST, ANY, "the root and the volumes of a container")
CALL(mount_setattr, HOST, ANY, "the root and the volumes of a container")
CALL(mount, HOST, ANY, "the root and the volumes of a container")
CALL(umount2, HOST, ANY, "the root and the volumes of a container")
CALL(fsopen, HOST, ANY, "what shows its processes on the host (FUSE)")
CALL(fsconfig, HOST, ANY, "what shows its processes on the host (FUSE)")
CALL(fsmount, HOST, ANY, "what shows its processes on the host (FUSE)")
CALL(setns, HOST, ANY, "a network that comes late")
CALL(bpf, HOST, ANY, "connections to localhost of its network")
CALL(socket, HOST, IN(0, AF_INET, AF_INET6, AF_NETLINK), "connections to localhost of its network; interfaces that come late")
CALL(bind, HOST, ANY, "sockets of its network, its control socket")
CALL(listen, HOST, ANY, "sockets of its network, its control socket")
CALL(getpeername, HOST, ANY, "who connects to localhost of its network")
CALL(setsockopt, HOST, ANY, "sockets of its network, its control socket")

/*
 * Such a process that starts programs (the containerd shim, for each container a pyvmm-face), and these programs.
 */
CALL(clone, SPAWN, ANY, "start a program; a face, which is a child of the shim")
CALL(execve, SPAWN | SHARES, ANY, "start a program")
CALL(arch_prctl, SPAWN | SHARES, ANY, "the C library, when a program begins")
CALL(set_tid_address, SPAWN | SHARES, ANY, "the C library, when a program begins")
CALL(close_range, SPAWN | SHARES, ANY, "a face, or a server, keeps nothing else open")
CALL(unshare, SPAWN, ANY, "namespaces of a face; a thread with a directory of its own, for mounts with many layers")
CALL(sethostname, SPAWN, ANY, "the name of a face's host")
CALL(setsid, SPAWN, ANY, "a session of a face's own")
CALL(ioctl, SPAWN, IN(1, TIOCSCTTY), "a container's terminal is its face's")
CALL(signalfd4, SPAWN, ANY, "a face passes on its signals")
CALL(pivot_root, SPAWN | SHARES, ANY, "the root of a face, or of a server")
CALL(chroot, SPAWN, ANY, "the root of a face")
CALL(chdir, SPAWN, ANY, "the root of a face; mounts with many layers")
CALL(fchdir, SPAWN, ANY, "the root of a face")
CALL(mkdirat, SPAWN, ANY, "places for a face's mounts")
CALL(mknodat, SPAWN, WITH(2, S_IFREG), "places for a face's mounts")
CALL(statx, SPAWN, ANY, "is a volume a file or a directory")
CALL(prctl, SPAWN, IN(0, PR_CAPBSET_DROP, PR_SET_SECCOMP), "a face gives up all rights")

/*
 * The process that starts the servers of shares, and such a server until it has its own list (calls/servers.h), whose calls the
 * filter allows as well; besides what is above of both that and the shim.
 */
CALL(memfd_create, SHARES, ANY, "the notes about a server's rings")
CALL(fcntl, SHARES, IN(1, F_ADD_SEALS, F_SETFD), "their size stays; the server's socket is to be open in it")
CALL(socketpair, SHARES, IN(0, AF_UNIX), "the server's socket")
CALL(clone, SHARES, IN(0, CLONE_VM | CLONE_VFORK | CLONE_PIDFD | SIGCHLD | CLONE_NEWPID,
	CLONE_VM | CLONE_VFORK | CLONE_PIDFD | SIGCHLD | CLONE_NEWPID | CLONE_NEWUSER,
	CLONE_VM | CLONE_VFORK | CLONE_PIDFD | SIGCHLD), "start a server")
CALL(dup2, SHARES, ANY, "its socket has a number that it knows")
CALL(wait4, SHARES, ANY, "one that could not be started")
CALL(kill, SHARES, IN(1, SIGKILL), "one that does not answer")
CALL(prlimit64, SHARES, ANY, "the C library, when a program begins; a server limits itself")
CALL(prctl, SHARES, IN(0, PR_GET_DUMPABLE, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT, PR_CAPBSET_DROP),
	"users of a server's own; what it gives up")
CALL(getpid, SHARES, ANY, "has a server a PID namespace")
CALL(geteuid, SHARES, ANY, "the user of a server's namespace")
CALL(getegid, SHARES, ANY, "the user of a server's namespace")
CALL(unshare, SHARES, IN(0, CLONE_NEWNET, CLONE_NEWIPC, CLONE_NEWUTS, CLONE_NEWCGROUP, CLONE_NEWNS), "namespaces of a server")
CALL(mount, SHARES, ANY, "a server's mounts do not reach the host")
CALL(open_tree, SHARES, ANY, "the directory becomes a server's root")
CALL(mount_setattr, SHARES, ANY, "the directory becomes a server's root")
CALL(move_mount, SHARES, ANY, "the directory becomes a server's root")
CALL(umount2, SHARES, ANY, "the directory becomes a server's root")
CALL(chdir, SHARES, ANY, "the directory becomes a server's root")
CALL(landlock_create_ruleset, SHARES, ANY, "or it is all that a server can open")
CALL(landlock_add_rule, SHARES, ANY, "or it is all that a server can open")
CALL(landlock_restrict_self, SHARES, ANY, "or it is all that a server can open")
CALL(seccomp, SHARES, IN(0, SECCOMP_SET_MODE_FILTER), "a server's own list")
CALL(open_by_handle_at, SHARES, ANY, "a server with the option handles")

/*
 * The gateway of a sandbox with network rules (examples/sandbox), which is Python with one thread. It has the host's network,
 * and an empty root directory with one file.
 */
CALL(epoll_wait, GATEWAY, ANY, "sleep until a connection has data")
CALL(epoll_ctl, GATEWAY, ANY, "choose the connections that end a sleep")
CALL(accept4, GATEWAY, ANY, "a connection of the sandbox, or of the library")
CALL(recvfrom, GATEWAY, ANY, "receive from the sandbox, a server, the library, the resolver process")
CALL(sendto, GATEWAY, ANY, "send to them")
CALL(sendmsg, GATEWAY, ANY, "the same from several buffers")
CALL(socket, GATEWAY, IN(0, AF_INET, AF_INET6), "connect to a server; find out whether an address is the host's")
CALL(connect, GATEWAY, ANY, "connect to a server; find out whether an address is the host's")
CALL(shutdown, GATEWAY, ANY, "end one direction of a connection")
CALL(close, GATEWAY, ANY, "close a connection")
CALL(getsockopt, GATEWAY, ANY, "where the sandbox wanted to connect to; has a connection failed")
CALL(setsockopt, GATEWAY, IN(2, TCP_NODELAY, SO_LINGER), "send at once; refuse a connection")
CALL(getsockname, GATEWAY, ANY, "the address of a connection")
CALL(getpeername, GATEWAY, ANY, "the other address of a connection")
CALL(fcntl, GATEWAY, IN(1, F_DUPFD_CLOEXEC), "Python: a stream has a descriptor of its own")
CALL(ioctl, GATEWAY, IN(1, FIONBIO), "Python: a socket that does not block")
CALL(pidfd_open, GATEWAY, ANY, "end with the sandbox")
CALL(pwrite64, GATEWAY, ANY, "write a certificate and its key into the file")
CALL(ftruncate, GATEWAY, ANY, "the same")
CALL(openat, GATEWAY, IN(2, O_RDONLY), "OpenSSL reads them from the file")
CALL(openat, GATEWAY, REFUSED(ENOENT, 2, O_RDONLY | O_CLOEXEC), "Python looks for the source of a message about an error")
CALL(newfstatat, GATEWAY, ANY, "the same")
CALL(fstat, GATEWAY, ANY, "OpenSSL reads the file")
CALL(read, GATEWAY, ANY, "OpenSSL reads the file")
CALL(lseek, GATEWAY, ANY, "OpenSSL closes the file before its end")

/*
 * The process that looks up names for the gateway, and all of its threads. The C library reads files of the host and asks
 * servers.
 */
CALL(recvfrom, RESOLVER, ANY, "a name to look up; an answer of a server")
CALL(sendto, RESOLVER, ANY, "the addresses of a name; a question to a server")
CALL(openat, RESOLVER, IN(2, O_RDONLY | O_CLOEXEC), "files of the host, such as /etc/hosts")
CALL(newfstatat, RESOLVER, ANY, "has such a file changed")
CALL(fstat, RESOLVER, ANY, "the size of such a file")
CALL(lseek, RESOLVER, ANY, "read such a file")
CALL(read, RESOLVER, ANY, "read such a file")
CALL(close, RESOLVER, ANY, "close a file or a socket")
CALL(socket, RESOLVER, IN(0, AF_INET, AF_INET6, AF_NETLINK, AF_UNIX), "ask a server; the host's addresses; a resolver of the host")
CALL(bind, RESOLVER, ANY, "the host's addresses")
CALL(getsockname, RESOLVER, ANY, "the host's addresses; which address reaches a server")
CALL(connect, RESOLVER, ANY, "ask a server")
CALL(setsockopt, RESOLVER, ANY, "ask a server")
CALL(sendmmsg, RESOLVER, ANY, "ask a server for addresses of both kinds")
CALL(writev, RESOLVER, ANY, "ask a server by TCP, since its answer is large")
CALL(sendmsg, RESOLVER, ANY, "ask a resolver of the host")
CALL(getsockopt, RESOLVER, ANY, "systemd's modules: ask the kernel for the host's addresses")
CALL(fcntl, RESOLVER, IN(1, F_GETFD, F_SETFD), "nss-mdns: ask a resolver of the host")
CALL(access, RESOLVER, ANY, "nss-myhostname: does the host have IPv6")
CALL(recvmsg, RESOLVER, ANY, "the host's addresses")
CALL(uname, RESOLVER, ANY, "the domain of the host, for names without a dot")
CALL(poll, RESOLVER, ANY, "wait for an answer")
CALL(ppoll, RESOLVER, ANY, "systemd's modules: the same")
CALL(ioctl, RESOLVER, IN(1, FIONREAD), "the size of an answer")

/* Both. */
CALL(futex, RESOLVER, IN(1, FUTEX_WAIT_PRIVATE, FUTEX_WAKE_PRIVATE, FUTEX_WAIT_BITSET | FUTEX_CLOCK_REALTIME,
	FUTEX_WAIT_BITSET_PRIVATE, FUTEX_WAIT_BITSET_PRIVATE | FUTEX_CLOCK_REALTIME), "locks; wait for the end of a thread")
CALL(mmap, GATEWAY | RESOLVER, WITHOUT(2, PROT_EXEC), "memory")
CALL(mprotect, RESOLVER, WITHOUT(2, PROT_EXEC), "memory")
CALL(munmap, GATEWAY | RESOLVER, ANY, "give memory back")
CALL(mremap, GATEWAY | RESOLVER, ANY, "resize memory")
CALL(madvise, RESOLVER, ANY, "give memory back")
CALL(brk, GATEWAY | RESOLVER, ANY, "resize the heap")
CALL(clock_gettime, GATEWAY | RESOLVER, ANY, "the time, where the vDSO cannot tell it")
CALL(restart_syscall, GATEWAY | RESOLVER, ANY, "the kernel makes it when SIGSTOP interrupted a wait with a timeout")
CALL(getrandom, GATEWAY | RESOLVER, ANY, "keys of TLS; numbers of questions to a server")
CALL(getpid, GATEWAY | RESOLVER, ANY, "its own number, for the library; OpenSSL after a fork; systemd's modules")
CALL(prctl, GATEWAY | RESOLVER, IN(0, PR_GET_NAME), "the name of a thread that makes a wrong call")
CALL(write, GATEWAY | RESOLVER, ANY, "a message about a wrong call")
CALL(rt_sigprocmask, RESOLVER, ANY, "the C library, when a thread ends")
CALL(exit, RESOLVER, ANY, "a thread ends")
CALL(exit_group, GATEWAY | RESOLVER, ANY, "end the process")

/* Ends. */
CALL(exit_group, FILL | VMM | RUN | BROKER | SERVER | FORKS | HOST, ANY, "end the process")
CALL(close, BLK | NET | VSOCK | RNG | DAX | VMM | RUN | BROKER | SERVER | FORKS | HOST, ANY, "close connections, timers, an io_uring")
CALL(rt_sigprocmask, EVERY | VMM | RUN | START | SERVER | FORKS | HOST, ANY, "the C library, when a thread ends")
CALL(exit, EVERY | VMM | RUN | START | SERVER | FORKS | HOST, ANY, "end the thread")

/* Calls of no thread. They are listed so that the message about an attempt can name them. */
CALL(open, NOBODY, ANY, "open a file")
CALL(openat2, NOBODY, ANY, "open a file")
CALL(creat, NOBODY, ANY, "make a file")
CALL(open_by_handle_at, NOBODY, ANY, "open a file without a path")
CALL(execveat, NOBODY, ANY, "run a program")
CALL(fork, NOBODY, ANY, "make a process")
CALL(vfork, NOBODY, ANY, "make a process")
CALL(tkill, NOBODY, ANY, "send a signal")
CALL(ptrace, NOBODY, ANY, "trace another process")
CALL(process_vm_readv, NOBODY, ANY, "read the memory of another process")
CALL(process_vm_writev, NOBODY, ANY, "write the memory of another process")
CALL(pidfd_getfd, NOBODY, ANY, "take descriptors of another process")
CALL(setuid, NOBODY, ANY, "change the user")
CALL(setresuid, NOBODY, ANY, "change the user")
CALL(capget, START | HOST, ANY, "a worker gives its capabilities up")
CALL(capset, START | HOST, ANY, "a worker gives its capabilities up")
CALL(userfaultfd, NOBODY, ANY, "stop the kernel in the middle of a copy")
CALL(init_module, NOBODY, ANY, "load code into the kernel")
CALL(keyctl, NOBODY, ANY, "use the kernel's keyrings")
