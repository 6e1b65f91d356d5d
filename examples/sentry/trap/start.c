// SPDX-License-Identifier: Apache-2.0
/*
 * Prepares the first process for programs.
 *
 * Its filter reports system calls of programs to the core, and lets the core allow those by which the stub changes the
 * address space.  Even a core that turned bad can allow no call that opens, connects to or changes something outside.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "below.h"
#include "filter.h"
#include "trap.h"

enum { TEMPORARY_STACK = 1 << 16, WORDS = 16, STEPS = 224 };

static const u8 handled[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGURG };

bool stub_handles(int signal)
{
	for (u32 i = 0; i < ARRAY_SIZE(handled); i++)
		if (signal == handled[i])
			return true;
	return false;
}

/*
 * Calls that programs make often. They are reported without a signal for the program, thus without its registers: it is
 * faster. None does any harm if the host's kernel carries it out in a process that has the sandbox's RAM and nothing else.
 */
static const u16 frequent[] = {
	SYS_read, SYS_write, SYS_close, SYS_fstat, SYS_poll, SYS_lseek, SYS_pread64, SYS_pwrite64, SYS_readv, SYS_writev,
	SYS_select, SYS_sched_yield, SYS_nanosleep, SYS_getpid, SYS_sendto, SYS_recvfrom, SYS_sendmsg, SYS_recvmsg, SYS_futex,
	SYS_gettimeofday, SYS_getrusage, SYS_times, SYS_getuid, SYS_getgid, SYS_geteuid, SYS_getegid, SYS_getppid,
	SYS_getpgrp, SYS_gettid, SYS_time, SYS_getdents64, SYS_clock_gettime, SYS_clock_nanosleep, SYS_epoll_wait,
	SYS_epoll_pwait, SYS_pselect6, SYS_ppoll, SYS_preadv, SYS_pwritev, SYS_getrandom, SYS_rt_sigprocmask,
	SYS_rt_sigaction, SYS_wait4,
};

/* The same for calls with names, if the process has an empty root: there is nothing that such a name could lead to. */
static const u16 frequent_names[] = {
	SYS_open, SYS_openat, SYS_stat, SYS_lstat, SYS_newfstatat, SYS_statx, SYS_access, SYS_faccessat, SYS_faccessat2,
	SYS_readlink, SYS_readlinkat, SYS_unlink, SYS_unlinkat, SYS_mkdir, SYS_rmdir, SYS_rename,
};
static bool has_empty_root;

/* -- the filter -- */

#define REPORTED BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF)
#define AT_LEAST(value, if_so, otherwise) BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, value, if_so, otherwise)
#define TRAPPED BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP)

/* A call that only this instruction of the stub may make; count: of the steps that follow, which end with a result. */
#define AT(label, system_call, count) \
	EQUAL((u32)stub_at(label), 0, (count) + 2), LOAD(nr), EQUAL(system_call, 0, (count))

static unsigned short add_stub(struct sock_filter *to)
{
	const struct sock_filter code[] = {
		AT(after_report, REPORT, 2), REPORTED, TRAPPED,
		AT(after_fork, SYS_clone, 5), LOAD(args[0]), EQUAL(FORK_FLAGS, 1, 0), EQUAL(THREAD_FLAGS, 0, 1), REPORTED, TRAPPED,
		AT(after_child, SYS_mmap, 4), LOAD(args[4]), EQUAL(CONTROL_FD, 0, 1), REPORTED, TRAPPED,
		AT(after_altstack, SYS_sigaltstack, 4), LOAD(args[1]), EQUAL(0, 0, 1), REPORTED, TRAPPED,
		AT(after_prctl, SYS_prctl, 6), LOAD(args[0]), EQUAL(PR_SET_PDEATHSIG, 0, 3), LOAD(args[1]), EQUAL(SIGKILL, 0, 1),
		ALLOW, TRAPPED,
		AT(after_exit, SYS_exit_group, 2), ALLOW, TRAPPED,
		AT(after_send, SYS_sendmsg, 4), LOAD(args[0]), EQUAL(SOCKET_FD, 0, 1), ALLOW, TRAPPED,
		AT(after_close, SYS_close_range, 2), ALLOW, TRAPPED,
		EQUAL((u32)stub_at(after_call), 1, 0), TRAPPED, LOAD(nr),
		EQUAL(SYS_munmap, 0, 1), REPORTED, EQUAL(SYS_mmap, 1, 0), TRAPPED,
		LOAD(args[3]), EQUAL(MAP_SHARED | MAP_FIXED, 1, 0), TRAPPED,
		LOAD(args[4]), EQUAL(RAM_FD, 2, 0), EQUAL(BELOW_FD, 1, 0), EQUAL(CONTROL_FD, 0, 1), REPORTED, TRAPPED,
	};

	memcpy(to, code, sizeof(code));
	return ARRAY_SIZE(code);
}

static void set_bits(u32 *words, const u16 *numbers, u32 count)
{
	for (u32 i = 0; i < count; i++)
		words[numbers[i] / 32] |= 1u << numbers[i] % 32;
}

/* One bit for each number: set for a frequent call. */
static unsigned short add_program(struct sock_filter *to)
{
	const struct sock_filter head[] = {
		LOAD(nr), EQUAL(SYS_mmap, 0, 4), LOAD(args[3]),
		BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, MAP_SHARED | MAP_GROWSDOWN, 0, 1), TRAPPED,
		REPORTED, /* private memory, which a limit excludes unless it grows down */
		BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 31), BPF_STMT(BPF_MISC | BPF_TAX, 0),
		LOAD(nr), BPF_STMT(BPF_ALU | BPF_RSH | BPF_K, 5),
	};
	u32 words[WORDS] = { 0 };
	unsigned short count = ARRAY_SIZE(head);

	memcpy(to, head, sizeof(head));
	set_bits(words, frequent, ARRAY_SIZE(frequent));
	if (has_empty_root)
		set_bits(words, frequent_names, ARRAY_SIZE(frequent_names));
	for (u32 i = 0; i < WORDS; i++) {
		if (!words[i])
			continue;
		to[count++] = (struct sock_filter)EQUAL(i, 0, 5);
		to[count++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_IMM, words[i]);
		to[count++] = (struct sock_filter)BPF_STMT(BPF_ALU | BPF_RSH | BPF_X, 0);
		to[count++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, 1, 0, 1);
		to[count++] = (struct sock_filter)REPORTED;
		to[count++] = (struct sock_filter)TRAPPED;
	}
	to[count++] = (struct sock_filter)TRAPPED;
	return count;
}

/* The descriptor on which calls are reported; -1: the host cannot report them. */
static int install_filter(void)
{
	struct sock_filter code[STEPS];
	const unsigned short start = 8, stub = add_stub(code + start);
	const struct sock_filter head[] = {
		LOAD(arch), EQUAL(AUDIT_ARCH_X86_64, 1, 0), TRAPPED,
		LOAD_HIGH(instruction_pointer), EQUAL((u32)(STUB >> 32), 0, stub + 3),
		LOAD(instruction_pointer), AT_LEAST((u32)STUB, 0, stub + 1), AT_LEAST((u32)(STUB + STUB_SIZE), stub, 0),
	};
	struct sock_fprog filter = { .filter = code };

	_Static_assert(ARRAY_SIZE(head) == 8, "the stub's part starts behind it");
	memcpy(code, head, sizeof(head));
	filter.len = start + stub + add_program(code + start + stub);
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return -1;
	return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
			    SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, &filter);
}

/* -- the process -- */

static u8 temporary_stack[TEMPORARY_STACK] __attribute__((aligned(16)));
static struct {
	int ram, blocks, socket;
} given;

/* All signals: those that the stub handles, and none that would end the process. */
static bool set_signals(void)
{
	const struct {
		u64 handler, flags, restorer, mask;
	} ignore = { .handler = 1 }, handle = {
		/* Nothing is blocked meanwhile: the stub returns without a system call that would undo it. */
		STUB, SA_SIGINFO | SA_ONSTACK | SA_NODEFER | SA_RESTART | 0x04000000, STUB, 0,
	};
	const stack_t stack = { .ss_sp = (void *)STACK, .ss_size = STACK_SIZE };

	for (int i = 1; i <= 64; i++)
		if (i != SIGKILL && i != SIGSTOP && syscall(SYS_rt_sigaction, i, &ignore, NULL, 8))
			return false;
	for (u32 i = 0; i < ARRAY_SIZE(handled); i++)
		if (syscall(SYS_rt_sigaction, handled[i], &handle, NULL, 8))
			return false;
	return !sigaltstack(&stack, NULL);
}

/* Map what lies above the program. This replaces the first stack of this process, if it is there. */
static bool map_stub(void)
{
	const u64 size = (u64)(stub_end - stub_code);
	void *code = mmap((void *)STUB, STUB_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);

	if (code == MAP_FAILED || size > STUB_SIZE)
		return false;
	memcpy(code, stub_code, size);
	if (mprotect(code, STUB_SIZE, PROT_READ | PROT_EXEC))
		return false;
	if (mmap((void *)CONTROL, CONTROL_SIZE, PROT_READ, MAP_SHARED | MAP_FIXED, CONTROL_FD, 0) == MAP_FAILED)
		return false;
	return mmap((void *)STACK, STACK_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, CONTROL_FD, CONTROL_SIZE) !=
	       MAP_FAILED;
}

/*
 * The root becomes a directory of a process that ends here: nothing is in it, and nothing can be made there. false: the
 * host does not allow it.
 */
static bool leave_root(void)
{
	int status = 1;
	pid_t child;

	if (chroot("/") && unshare(CLONE_NEWUSER))
		return false;
	child = (pid_t)syscall(SYS_clone, CLONE_FS | SIGCHLD, NULL, NULL, NULL, NULL);
	if (!child)
		_exit(chroot("/proc/self/fdinfo") || chdir("/"));
	return child > 0 && waitpid(child, &status, 0) == child && !status;
}

/* It shares memory alone: it can have no private memory that the sandbox's limit does not contain. */
static bool limit_memory(void)
{
	const struct rlimit none = { 0, 0 };

	return !setrlimit(RLIMIT_DATA, &none);
}

static bool set_descriptors(void)
{
	enum { COUNT = SOCKET_FD + 1 };
	const int wanted[COUNT] = {
		[RAM_FD] = given.ram, [CONTROL_FD] = given.blocks, [BELOW_FD] = below_fd() < 0 ? given.ram : below_fd(),
		[SOCKET_FD] = given.socket,
	};
	int high[COUNT];

	for (int i = 0; i < COUNT; i++) {
		high[i] = fcntl(wanted[i], F_DUPFD, COUNT);
		if (high[i] < 0)
			return false;
	}
	for (int i = 0; i < COUNT; i++)
		if (dup2(high[i], i) < 0)
			return false;
	return !close_range(COUNT, ~0u, 0);
}

static _Noreturn void become_stub(void)
{
	static union {
		struct cmsghdr header;
		u8 space[CMSG_SPACE(sizeof(int))];
	} control;
	static char byte;
	static struct iovec data = { &byte, 1 };
	static struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = &control };
	int fd;

	has_empty_root = leave_root(); /* before it is bound to its parent: a change of its rights undoes that */
	if (!child_detach() || !set_descriptors() || !map_stub() || !set_signals() || !limit_memory())
		_exit(1);
	message.msg_controllen = sizeof(control);
	control.header = (struct cmsghdr){ CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS };
	fd = install_filter();
	if (fd >= 0) {
		memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
		asm volatile("jmp *%0" : : "r"(stub_at(stub_enter)), "S"(&message));
	}
	_exit(1);
}

static int receive_descriptor(int from)
{
	union {
		struct cmsghdr header;
		u8 space[CMSG_SPACE(sizeof(int))];
	} control = { .space = { 0 } };
	char byte;
	struct iovec data = { &byte, 1 };
	struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };
	int fd = -1;

	if (recvmsg(from, &message, MSG_CMSG_CLOEXEC) == 1 && message.msg_controllen >= CMSG_LEN(sizeof(fd)))
		memcpy(&fd, CMSG_DATA(&control.header), sizeof(fd));
	return fd;
}

struct listener stub_start(int ram, int shared)
{
	struct listener listener = { -1, -1 };
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
		fail("a process for programs cannot be started");
	given.ram = ram, given.blocks = shared, given.socket = pair[1];
	listener.first = fork();
	if (!listener.first) {
		asm volatile("mov %0, %%rsp; call *%1"
			     :
			     : "r"(temporary_stack + TEMPORARY_STACK), "r"(become_stub)
			     : "memory");
		__builtin_unreachable();
	}
	close(pair[1]);
	if (listener.first > 0)
		listener.fd = receive_descriptor(pair[0]);
	close(pair[0]);
	if (listener.fd < 0)
		fail("a process for programs cannot be started: does the host's kernel report system calls (Linux 5.19)?");
	return listener;
}
