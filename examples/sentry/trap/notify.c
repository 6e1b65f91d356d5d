// SPDX-License-Identifier: Apache-2.0
/* What the host's kernel reports: system calls, over the descriptor of the filter, and signals for this process. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/ucontext.h>
#include <time.h>
#include <unistd.h>

#include "trap.h"

enum { ROOM = 128 }; /* for structures that may be longer in a newer kernel */

static PROCESS_LOCAL int notify_fd;
static PROCESS_LOCAL volatile sig_atomic_t ticked, child_ended, asked_to_stop;
PROCESS_LOCAL volatile int notify_interrupted; /* a signal came that notify_signals() has not returned */

/*
 * Waits in the host's kernel, unless a signal came before.  A handler that interrupts it before it waits moves it to
 * its end: otherwise a signal between the check and the call would be lost.
 */
long notify_wait(u64 a, u64 b, void *c, const void *d, u64 e, long number);
extern const u8 notify_wait_end[];
asm(".text\n"
    ".type notify_wait, @function\n"
    "notify_wait:\n"
    "	mov %rcx, %r10\n"
    "	mov %r9, %rax\n"
    "	cmpl $0, notify_interrupted(%rip)\n"
    "	jne 1f\n"
    "	syscall\n"
    "	ret\n"
    ".globl notify_wait_end\n"
    "notify_wait_end:\n"
    "1:	mov $-4, %eax\n" /* -EINTR */
    "	cltq\n"
    "	ret\n");

static void on_signal(int signal, siginfo_t *info, void *context)
{
	greg_t *rip = &((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
	const greg_t start = (greg_t)notify_wait, end = (greg_t)notify_wait_end;

	(void)info;
	if (signal == SIGUSR1)
		asked_to_stop = !asked_to_stop; /* the second one takes the first back */
	else if (signal != SIGURG) /* of the watcher, which has noted why */
		*(signal == SIGALRM ? &ticked : &child_ended) = 1;
	notify_interrupted = 1;
	if (*rip >= start && *rip < end - 1) /* the last byte is the way out of a call that has returned */
		*rip = end;
}

struct notify_signals notify_signals(void)
{
	struct notify_signals came;

	notify_interrupted = 0;
	came = (struct notify_signals){ ticked, child_ended };
	if (came.tick)
		ticked = 0;
	if (came.child)
		child_ended = 0;
	return came;
}

bool notify_stop(void)
{
	return asked_to_stop;
}

bool notify_receive(struct seccomp_notif *call)
{
	union {
		struct seccomp_notif call;
		u8 room[ROOM];
	} buffer;
	long result;

	do {
		memset(&buffer, 0, sizeof(buffer));
		result = notify_wait((u64)notify_fd, SECCOMP_IOCTL_NOTIF_RECV, &buffer, NULL, 0, SYS_ioctl);
	} while (result == -ENOENT); /* the process ended meanwhile */
	if (result && result != -EINTR)
		fail("system calls cannot be received");
	*call = buffer.call;
	return !result;
}

long notify_poll(struct pollfd *sources, u32 count, u64 deadline)
{
	static const u64 no_signals;
	const u64 now = clock_nanoseconds(CLOCK_IS_MONOTONIC), rest = deadline > now ? deadline - now : 0;
	struct timespec left = { (time_t)(rest / SECOND), (long)(rest % SECOND) };

	sources[count - 1] = (struct pollfd){ .fd = notify_fd, .events = POLLIN };
	return notify_wait((u64)sources, count, deadline == ~0ull ? NULL : &left, &no_signals, sizeof(no_signals), SYS_ppoll);
}

/*
 * The host's kernel wakes a process on the CPU of the one that wakes it, which is about to wait: the core for a call, a
 * program for an answer.  An older kernel refuses, and is slower.
 */
static void wake_here(bool here)
{
	ioctl(notify_fd, SECCOMP_IOCTL_NOTIF_SET_FLAGS, here ? SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP : 0);
}

static bool send_response(u64 id, s64 value, int error, u32 flags)
{
	union {
		struct seccomp_notif_resp answer;
		u8 room[ROOM];
	} buffer = { .room = { 0 } };

	buffer.answer = (struct seccomp_notif_resp){ .id = id, .val = value, .error = error, .flags = flags };
	while (ioctl(notify_fd, SECCOMP_IOCTL_NOTIF_SEND, &buffer)) {
		if (errno == ENOENT)
			return false;
		if (errno != EINTR)
			fail("a system call cannot be answered");
	}
	return true;
}

bool notify_answer(u64 id, u64 value)
{
	return send_response(id, (s64)value, 0, 0);
}

bool notify_answer_elsewhere(u64 id, u64 value)
{
	bool sent;

	wake_here(false);
	sent = notify_answer(id, value);
	wake_here(true);
	return sent;
}

bool notify_refuse(u64 id)
{
	return send_response(id, 0, -EPERM, 0);
}

bool notify_approve(u64 id)
{
	return send_response(id, 0, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE);
}

void notify_interrupt(pid_t pid)
{
	syscall(SYS_tgkill, pid, pid, SIGURG);
}

void notify_init(int listener)
{
	struct sigaction action = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO };
	struct seccomp_notif_sizes sizes;

	if (syscall(SYS_seccomp, SECCOMP_GET_NOTIF_SIZES, 0, &sizes) ||
	    sizes.seccomp_notif > ROOM || sizes.seccomp_notif_resp > ROOM)
		fail("the host's kernel reports system calls in another way");
	notify_fd = listener;
	wake_here(true);
	sigaction(SIGALRM, &action, NULL);
	sigaction(SIGCHLD, &action, NULL);
	sigaction(SIGURG, &action, NULL);
	if (may_be_stopped)
		sigaction(SIGUSR1, &action, NULL);
}
