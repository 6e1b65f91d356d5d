/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The system calls of each kind of thread, and what for: the one table. calls.c makes the filters of it, docs/security.md
 * shows it. What is not listed for a thread ends its machine.
 *
 * CALL(name, whose, test, why). Tests look at the low 32 bits of an argument: ANY; IN(argument, values...), one of these;
 * WITHOUT(argument, bits), none of these; WITH(argument, bits), all of these. FAIL(errno): answered so. REFUSED(errno, argument,
 * value): with that, answered so. The first lines are those that come most often: the kernel tries them in this order, but for
 * those with ANY, for which it looks at one bit and runs no filter at all (Linux 5.11).
 */

/* The machine: what vCPUs run by, and what Python does for them and for the control loop. */
CALL(ioctl, VMM | RUN, IN(1, KVM_RUN, KVM_IRQFD, KVM_IOEVENTFD, KVM_SET_USER_MEMORY_REGION, KVM_SET_GSI_ROUTING, KVM_IRQ_LINE,
	KVM_GET_REGS, KVM_GET_SREGS, KVM_GET_LAPIC, KVM_TRANSLATE, KVM_GET_MP_STATE, KVM_KVMCLOCK_CTRL, TUNSETOFFLOAD, TUNSETQUEUE,
	TCGETS),
	"run a vCPU; place registers, windows, kicks and interrupts; is it a terminal")
CALL(ioctl, TTY, IN(1, TCSETS, TIOCGPGRP, TIOCGWINSZ), "the console's terminal")
CALL(ioctl, CONTROL, IN(1, KVM_GET_XSAVE, KVM_GET_XSAVE2, KVM_GET_XCRS, KVM_GET_DEBUGREGS, KVM_GET_CPUID2, KVM_GET_MSRS,
	KVM_GET_TSC_KHZ, KVM_GET_VCPU_EVENTS, KVM_GET_IRQCHIP, KVM_GET_CLOCK, KVM_GET_DEVICE_ATTR, KVM_CHECK_EXTENSION, FICLONE),
	"the state of a machine for a snapshot; a disk's copy that shares its blocks")
CALL(ioctl, GDB, IN(1, KVM_SET_GUEST_DEBUG, KVM_SET_REGS, KVM_SET_SREGS, KVM_GET_XSAVE, KVM_SET_XSAVE, KVM_GET_MSRS, FIONBIO),
	"breakpoints; registers that a debugger reads and writes; its connection")
CALL(ioctl, VSOCK, IN(1, SIOCOUTQ), "how much of a guest's data has not been read")
CALL(ioctl, SERVER, IN(1, FIONBIO, TCGETS), "Python: a socket that waits; is a file a terminal")
CALL(ioctl, VHOST, IN(1, VHOST_SET_OWNER, VHOST_RESET_OWNER, VHOST_SET_FEATURES, VHOST_GET_FEATURES, VHOST_SET_MEM_TABLE,
	VHOST_SET_VRING_NUM, VHOST_SET_VRING_BASE, VHOST_GET_VRING_BASE, VHOST_SET_VRING_ADDR, VHOST_SET_VRING_KICK,
	VHOST_SET_VRING_CALL, VHOST_SET_VRING_ERR, VHOST_VSOCK_SET_GUEST_CID, VHOST_VSOCK_SET_RUNNING,
	VHOST_NET_SET_BACKEND, TUNGETIFF), "rings, kicks and interrupts for the kernel's vhost; is the tap device still there")

CALL(ioctl, FILL, IN(1, UFFDIO_COPY, UFFDIO_ZEROPAGE, UFFDIO_WAKE), "bring a page of guest RAM that somebody waits for")
CALL(ioctl, VMM | RUN, IN(1, UFFDIO_API, UFFDIO_REGISTER, UFFDIO_UNREGISTER), "pyvmm-fsd has mapped RAM that is filled on demand")

/* Waiting and waking. */
CALL(epoll_wait, WORKER | BLK | NET | VSOCK | CONSOLE | PMEM | FILL | VMM | LOOP, ANY, "sleep until the guest or the host has something")
CALL(io_uring_enter, BLK, ANY, "submit and wait; what the ring may do is restricted when it is made")
CALL(write, EVERY | VMM | RUN | START | SERVER, ANY, "interrupt the guest (eventfd), wake who waits; the console's output")
CALL(futex, EVERY | START, IN(1, FUTEX_WAIT_PRIVATE, FUTEX_WAKE_PRIVATE, FUTEX_WAIT_BITSET_PRIVATE,
	FUTEX_WAIT_BITSET_PRIVATE | FUTEX_CLOCK_REALTIME, FUTEX_WAKE), "locks; the end of a thread is told by FUTEX_WAKE")
CALL(futex, VMM | RUN | SERVER, IN(1, FUTEX_WAIT_BITSET | FUTEX_CLOCK_REALTIME, FUTEX_WAIT_PRIVATE, FUTEX_WAKE_PRIVATE,
	FUTEX_WAIT_BITSET_PRIVATE, FUTEX_WAIT_BITSET_PRIVATE | FUTEX_CLOCK_REALTIME, FUTEX_WAKE),
	"locks; to wait for a thread's end")
CALL(epoll_ctl, WORKER | BLK | NET | VSOCK | CONSOLE | PMEM | VMM | RUN | START, ANY, "what to sleep for")
CALL(poll, CONSOLE | DAX | FILL | VMM | RUN | SERVER, ANY, "may a pipe or terminal be written, has a socket more")
CALL(timerfd_settime, BLK | NET | VMM | RUN, ANY, "wait for a limit on operations or bytes")
CALL(clock_gettime, EVERY | VMM | RUN | START | SERVER, ANY, "the time, where the vDSO does not have it")
CALL(restart_syscall, BLK | DAX | VMM | RUN | BROKER | SERVER, ANY, "the kernel's own, when a wait with an end was interrupted by SIGSTOP")

/* Files. */
CALL(pread64, BLK | VMM | LOOP | SERVER, ANY, "read the disk, a snapshot")
CALL(preadv, SERVER, ANY, "merge the memory of snapshots")
CALL(pwrite64, BLK | CONTROL | SERVER, ANY, "write the disk, a snapshot")
CALL(preadv2, BLK | VMM | RUN, ANY, "read what can be had without waiting (RWF_NOWAIT): of a disk, of the console")
CALL(pwritev2, BLK, ANY, "write the disk from many buffers, or through to the disk (RWF_DSYNC)")
CALL(fdatasync, BLK | PMEM | RUN, ANY, "flush")
CALL(fallocate, BLK, ANY, "discard, write zeroes")
CALL(read, PMEM | DAX | FILL | VMM | LOOP | SERVER, ANY, "take a notice of inotify, of an eventfd, or of a page that is not there")
CALL(fadvise64, PREFETCH, ANY, "read the memory that a clone is going to need")
CALL(ftruncate, CONTROL | SERVER, ANY, "a snapshot's files are as long as what they are of")
CALL(copy_file_range, CONTROL, ANY, "a disk's copy")
CALL(memfd_create, CONTROL, ANY, "where a share's server saves its state")
CALL(lseek, PMEM | VMM | LOOP | SERVER, ANY, "how long the image is now")
CALL(fstat, DAX | VMM | LOOP | SERVER, ANY, "how long a file is now")
CALL(newfstatat, DAX | VMM | LOOP | BROKER | SERVER, ANY, "the same by an older C library; is this socket's name still its own")
CALL(unlink, BROKER | SERVER, ANY, "remove it at the end")
CALL(unlinkat, SERVER, ANY, "remove the snapshot that another one replaces")
CALL(mkdir, SERVER, ANY, "a snapshot is a directory")
CALL(rmdir, SERVER, ANY, "remove the one that it replaces")
CALL(rename, SERVER, ANY, "it gets its name when it is whole")
CALL(renameat2, SERVER, ANY, "in the place of another one")
CALL(chmod, SERVER, ANY, "clones map its memory: nobody writes to it")
CALL(fchmod, SERVER, ANY, "clones map its memory: nobody writes to it")
CALL(fsync, SERVER, ANY, "it is on the disk before it has its name")
CALL(getdents64, SERVER, ANY, "what is in the one that it replaces")
CALL(getcwd, SERVER, ANY, "a path that does not begin at the root")
CALL(uname, SERVER, ANY, "a snapshot says on which kernel it was taken")

/* Networks and sockets. */
CALL(readv, NET, ANY, "a frame from the tap device")
CALL(writev, NET | CONSOLE | RUN, ANY, "a frame to the tap device; the console's output")
CALL(recvfrom, NET | GDB | SERVER, ANY, "from passt; from a debugger; a request")
CALL(recvmsg, VSOCK | DAX | CHILD | CONTROL | BROKER | SERVER, ANY,
	"from a socket of the host; a file to map, from pyvmm-fsd; to and from the broker")
CALL(sendmsg, NET | VSOCK | CONSOLE | DAX | CHILD | CONTROL | RUN | BROKER | SERVER, ANY,
	"to passt; to a socket of the host; the answer to pyvmm-fsd, to the broker")
CALL(sendto, NET | CONTROL | GDB | SERVER, ANY, "the rest of a frame; to the broker, to a debugger; an answer")
CALL(accept4, VSOCK | GDB | SERVER, ANY, "a client of the socket device, of the control socket; a debugger")
CALL(setsockopt, VSOCK, IN(2, SO_SNDBUF), "room for a message")
CALL(shutdown, VSOCK | CONTROL | SERVER, ANY, "one direction of a connection has ended; nothing more is asked for")
CALL(getsockname, GDB | SERVER, ANY, "Python, when a debugger connects")
CALL(getsockopt, SERVER, ANY, "Python: of what kind is a socket")
CALL(openat, VMM | RUN | START, REFUSED(EACCES, 2, O_RDONLY | O_CLOEXEC),
	"the C library, when it gives memory back: what of is the host's overcommit; it does without")
CALL(openat, REACH | BROKER, IN(2, O_PATH | O_NOFOLLOW | O_CLOEXEC), "find the socket of a port that the guest connects to")
CALL(openat, SERVER, ANY, "the files of a snapshot")
CALL(socket, REACH | BROKER, IN(0, AF_UNIX), "connect to it")
CALL(socketpair, SERVER, IN(0, AF_UNIX), "for the answers of the machine")
CALL(connect, REACH | BROKER, ANY, "connect to it")

/* Memory: none of it can become code. */
CALL(mmap, VSOCK | PMEM | DAX | VMM | RUN | START | SERVER, WITHOUT(2, PROT_EXEC), "memory of connections; pieces of files in a window")
CALL(munmap, BLK | VSOCK | DAX | VMM | RUN | START | SERVER, ANY, "give memory back")
CALL(mprotect, VMM | RUN | START | SERVER, WITHOUT(2, PROT_EXEC), "the C library: memory of a thread's; a stack's guard")
CALL(mremap, DAX | VMM | RUN | START | SERVER, ANY, "the C library: memory; pieces of files in a window")
CALL(madvise, EVERY | VMM | RUN | START | SERVER, ANY, "give memory back, the stack last; look for pages that files have lost")
CALL(brk, VMM | RUN | START | SERVER, ANY, "the C library: memory")
CALL(mincore, DAX, ANY, "has the guest touched what took a lost page's place")

/* Threads and signals: workers begin with their driver, and put their own filters on. */
CALL(clone, VMM | START | SERVER, WITH(0, CLONE_THREAD), "a thread, no process")
CALL(clone3, VMM | START | SERVER, FAIL(ENOSYS), "the C library then takes clone, whose flags can be looked at")
CALL(set_robust_list, VMM | START | SERVER, ANY, "the C library, when a thread begins")
CALL(rseq, VMM | START | SERVER, ANY, "the C library, when a thread begins")
CALL(sched_getaffinity, VMM | START, ANY, "a worker: are there CPUs to spin on")
CALL(prctl, VMM | RUN | START | SERVER, IN(0, PR_SET_NAME, PR_GET_NAME, PR_SET_NO_NEW_PRIVS), "a thread's name; a worker's filter")
CALL(seccomp, VMM | START, IN(0, SECCOMP_SET_MODE_FILTER), "a worker's filter")
CALL(eventfd2, VMM | RUN | START, ANY, "a worker begins: what ends it")
CALL(epoll_create1, VMM | RUN, ANY, "a worker begins: what it sleeps in")
CALL(timerfd_create, VMM | START, ANY, "a worker begins: limits on operations and bytes")
CALL(io_uring_setup, DISK | START, ANY, "a disk's worker begins")
CALL(io_uring_register, DISK | START, ANY, "a disk's worker restricts its ring")
CALL(fcntl, VMM, IN(1, F_GETFL, F_SETFL, F_GETFD), "how a descriptor is open; the terminal without waiting")
CALL(fcntl, CONTROL, IN(1, F_DUPFD_CLOEXEC), "Python, when it maps the base of a diff")
CALL(fcntl, SERVER, IN(1, F_GETFL, F_SETFD, F_DUPFD_CLOEXEC), "Python: the files of a snapshot, the end of a connection")
CALL(rt_sigaction, VMM | SERVER, ANY, "Python, when it ends; job control")
CALL(rt_sigreturn, VMM | RUN | SERVER, ANY, "the end of a signal's handler")
CALL(tgkill, VMM | RUN, ANY, "get a vCPU out of KVM_RUN; job control")
CALL(getpgrp, TTY, ANY, "is the terminal ours at the moment")
CALL(getpid, VMM | RUN | SERVER, ANY, "whom to send a signal")
CALL(gettid, VMM | RUN | SERVER, ANY, "whom to send a signal")
CALL(wait4, CHILD | OUTSIDE, ANY, "how pyvmm-fsd, passt and pyvmm-broker ended")
CALL(kill, CHILD, FAIL(EPERM), "one that hangs is another user's by then")
CALL(pidfd_send_signal, SERVER, ANY, "a machine that does not stop is killed")
CALL(getrandom, VMM | RUN | START | SERVER, ANY, "the C library, Python; the guest's virtio-rng")
CALL(flock, DISK | VCPU, ANY, "let an image go")

/* Ends. */
CALL(exit_group, FILL | VMM | RUN | START | BROKER | SERVER, ANY, "the process's end")
CALL(close, BLK | NET | VSOCK | DAX | VMM | RUN | START | BROKER | SERVER, ANY, "connections, timers, the ring of io_uring")
CALL(rt_sigprocmask, EVERY | VMM | RUN | START | SERVER, ANY, "the C library, when a thread ends")
CALL(exit, EVERY | VMM | RUN | START | SERVER, ANY, "the thread's end")

/* Nobody's: here for their names, when somebody tries. */
CALL(open, NOBODY, ANY, "open a file")
CALL(openat2, NOBODY, ANY, "open a file")
CALL(creat, NOBODY, ANY, "make a file")
CALL(open_by_handle_at, NOBODY, ANY, "open a file that no path leads to")
CALL(execve, NOBODY, ANY, "run a program")
CALL(execveat, NOBODY, ANY, "run a program")
CALL(fork, NOBODY, ANY, "make a process")
CALL(vfork, NOBODY, ANY, "make a process")
CALL(tkill, NOBODY, ANY, "send a signal")
CALL(ptrace, NOBODY, ANY, "steer another process")
CALL(process_vm_readv, NOBODY, ANY, "read another process")
CALL(process_vm_writev, NOBODY, ANY, "write another process")
CALL(pidfd_getfd, NOBODY, ANY, "take another process's descriptors")
CALL(bind, NOBODY, ANY, "be reached at an address")
CALL(mount, NOBODY, ANY, "change what files there are")
CALL(move_mount, NOBODY, ANY, "change what files there are")
CALL(unshare, NOBODY, ANY, "make a namespace, and have rights in it")
CALL(setns, NOBODY, ANY, "enter a namespace")
CALL(setuid, NOBODY, ANY, "be another user")
CALL(setresuid, NOBODY, ANY, "be another user")
CALL(capget, START, ANY, "a worker gives its capabilities up")
CALL(capset, START, ANY, "a worker gives its capabilities up")
CALL(bpf, NOBODY, ANY, "load a program into the kernel")
CALL(userfaultfd, NOBODY, ANY, "make the kernel wait in the middle of something")
CALL(init_module, NOBODY, ANY, "load code into the kernel")
CALL(keyctl, NOBODY, ANY, "keys of the kernel")
