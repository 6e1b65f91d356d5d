/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The system calls of each kind of thread, and what for: the one table. calls.c makes the filters of it, docs/security.md
 * shows it. What is not listed for a thread ends its machine.
 *
 * CALL(name, whose, test, why). Tests look at the low 32 bits of an argument: ANY; IN(argument, values...), one of these;
 * WITHOUT(argument, bits), none of these. The first lines are those that come most often: the kernel tries them in this
 * order, but for those with ANY, for which it looks at one bit and runs no filter at all (Linux 5.11).
 */

/* Waiting and waking. */
CALL(epoll_wait, BLK | NET | VSOCK | CONSOLE | PMEM, ANY, "sleep until the guest or the host has something")
CALL(io_uring_enter, BLK, ANY, "submit and wait; what the ring may do is restricted when it is made")
CALL(write, EVERY, ANY, "interrupt the guest (eventfd), wake who waits; the console's output")
CALL(futex, EVERY, IN(1, FUTEX_WAIT_PRIVATE, FUTEX_WAKE_PRIVATE, FUTEX_WAIT_BITSET_PRIVATE,
	FUTEX_WAIT_BITSET_PRIVATE | FUTEX_CLOCK_REALTIME, FUTEX_WAKE), "locks; the end of a thread is told by FUTEX_WAKE")
CALL(epoll_ctl, BLK | NET | VSOCK | CONSOLE | PMEM, ANY, "what to sleep for")
CALL(poll, VSOCK | CONSOLE | DAX, ANY, "may a pipe or terminal be written, has a socket more")
CALL(timerfd_settime, BLK | NET, ANY, "wait for a limit on operations or bytes")
CALL(clock_gettime, EVERY, ANY, "the time, where the vDSO does not have it")
CALL(restart_syscall, BLK | DAX, ANY, "the kernel's own, when a wait with an end was interrupted by SIGSTOP")

/* Files. */
CALL(pread64, BLK, ANY, "read the disk")
CALL(pwrite64, BLK, ANY, "write the disk")
CALL(preadv2, BLK, ANY, "read the disk into many buffers, or what the page cache has (RWF_NOWAIT)")
CALL(pwritev2, BLK, ANY, "write the disk from many buffers, or through to the disk (RWF_DSYNC)")
CALL(fdatasync, BLK | PMEM, ANY, "flush")
CALL(fallocate, BLK, ANY, "discard, write zeroes")
CALL(read, PMEM | DAX, ANY, "take a notice of inotify, or of an eventfd")
CALL(lseek, PMEM, ANY, "how long the image is now")
CALL(fstat, DAX, ANY, "how long a file is now")
CALL(newfstatat, DAX, ANY, "the same by an older C library")

/* Networks and sockets. */
CALL(readv, NET, ANY, "a frame from the tap device")
CALL(writev, NET | CONSOLE, ANY, "a frame to the tap device; the console's output")
CALL(recvfrom, NET, ANY, "from passt")
CALL(recvmsg, VSOCK | DAX, ANY, "from a socket of the host; a file to map, from pyvmm-fsd")
CALL(sendmsg, NET | VSOCK | CONSOLE | DAX, ANY, "to passt; to a socket of the host; the answer to pyvmm-fsd")
CALL(sendto, NET, ANY, "the rest of a frame")
CALL(accept4, VSOCK, ANY, "a client of the socket device")
CALL(setsockopt, VSOCK, IN(2, SO_SNDBUF), "room for a message")
CALL(ioctl, VSOCK, IN(1, SIOCOUTQ), "how much of a guest's data has not been read")
CALL(shutdown, VSOCK, ANY, "one direction of a connection has ended")
CALL(openat, VSOCK, IN(2, O_PATH | O_NOFOLLOW | O_CLOEXEC), "find the socket of a port that the guest connects to")
CALL(socket, VSOCK, IN(0, AF_UNIX), "connect to it")
CALL(connect, VSOCK, ANY, "connect to it")
CALL(fstat, VSOCK, ANY, "is it a socket")
CALL(newfstatat, VSOCK, ANY, "the same by an older C library")

/* Memory: none of it can become code. */
CALL(mmap, VSOCK | PMEM | DAX, WITHOUT(2, PROT_EXEC), "memory of connections; pieces of files in a window")
CALL(munmap, BLK | VSOCK | DAX, ANY, "give memory back")
CALL(mprotect, VSOCK, WITHOUT(2, PROT_EXEC), "memory of connections")
CALL(mremap, VSOCK | DAX, ANY, "memory of connections; pieces of files in a window")
CALL(madvise, EVERY, ANY, "give memory back, the stack last; look for pages that files have lost")
CALL(brk, VSOCK, ANY, "memory of connections")
CALL(mincore, DAX, ANY, "has the guest touched what took a lost page's place")

/* Ends. */
CALL(close, BLK | NET | VSOCK | PMEM | DAX, ANY, "connections, timers, the ring of io_uring")
CALL(rt_sigprocmask, EVERY, ANY, "the C library, when a thread ends")
CALL(exit, EVERY, ANY, "the thread's end")

/* Nobody's: here for their names, when somebody tries. */
CALL(open, NOBODY, ANY, "open a file")
CALL(openat2, NOBODY, ANY, "open a file")
CALL(creat, NOBODY, ANY, "make a file")
CALL(open_by_handle_at, NOBODY, ANY, "open a file that no path leads to")
CALL(ioctl, NOBODY, ANY, "make a machine (KVM_CREATE_VM), type on a terminal (TIOCSTI)")
CALL(execve, NOBODY, ANY, "run a program")
CALL(execveat, NOBODY, ANY, "run a program")
CALL(fork, NOBODY, ANY, "make a process")
CALL(vfork, NOBODY, ANY, "make a process")
CALL(clone, NOBODY, ANY, "make a thread or a process")
CALL(clone3, NOBODY, ANY, "make a thread or a process")
CALL(kill, NOBODY, ANY, "send a signal")
CALL(tkill, NOBODY, ANY, "send a signal")
CALL(tgkill, NOBODY, ANY, "send a signal")
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
CALL(capset, NOBODY, ANY, "have capabilities")
CALL(prctl, NOBODY, ANY, "change what the process may do")
CALL(bpf, NOBODY, ANY, "load a program into the kernel")
CALL(io_uring_setup, NOBODY, ANY, "make a ring that may do anything")
CALL(io_uring_register, NOBODY, ANY, "change what a ring may do")
CALL(rt_sigaction, NOBODY, ANY, "change what a signal does")
CALL(userfaultfd, NOBODY, ANY, "make the kernel wait in the middle of something")
CALL(memfd_create, NOBODY, ANY, "make a file of memory, to run")
CALL(init_module, NOBODY, ANY, "load code into the kernel")
CALL(keyctl, NOBODY, ANY, "keys of the kernel")
