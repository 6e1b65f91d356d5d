// SPDX-License-Identifier: Apache-2.0
/*
 * The filters that table.h describes. A thread puts on its own, before it looks at anything of the guest's; the rest of the
 * process, which may be somebody else's program, is as it was. No right is needed for it, since the thread can gain none any
 * more (no_new_privs, which belongs to the thread, too).
 *
 * A call that is not listed makes the kernel send SIGSYS to the thread instead of making the call. The handler says which
 * it was, and the thread does nothing more: its code is somebody else's by now. Somebody who blocks or ignores the signal
 * ends the process, since the kernel then takes the default action.
 */
#include "calls/calls.h"
#include "base/seccomp.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/fs.h>
#include <linux/futex.h>
#include <linux/if_tun.h>
#include <linux/kvm.h>
#include <linux/seccomp.h>
#include <linux/sockios.h>
#include <linux/userfaultfd.h>
#include <linux/vhost.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define SANITIZED 1
#endif
#elif defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#endif
#ifndef SANITIZED
#define SANITIZED 0 /* sanitizers make calls of their own */
#endif

enum test { TEST_ANY, TEST_IN, TEST_WITHOUT, TEST_WITH, TEST_FAIL, TEST_REFUSED };

struct call {
	const char *name, *text, *why;
	uint32_t nr, whose;
	enum test test;
	uint32_t argument, n;
	const uint32_t *value;
};

enum {
	BLK = SECCOMP_BLK, NET = SECCOMP_NET, VSOCK = SECCOMP_VSOCK, CONSOLE = SECCOMP_CONSOLE, PMEM = SECCOMP_PMEM,
	DAX = SECCOMP_DAX, VMM = SECCOMP_VMM, VHOST = SECCOMP_VHOST, TTY = SECCOMP_TTY, DISK = SECCOMP_DISK,
	CHILD = SECCOMP_CHILD, PREFETCH = SECCOMP_PREFETCH, REACH = SECCOMP_REACH,
	CONTROL = SECCOMP_CONTROL, GDB = SECCOMP_GDB, BROKER = SECCOMP_BROKER,
	OUTSIDE = SECCOMP_OUTSIDE, VCPU = SECCOMP_VCPU, LOOP = SECCOMP_LOOP, START = SECCOMP_START,
	WORKER = SECCOMP_WORKER, FILL = SECCOMP_FILL, SERVER = SECCOMP_SERVER,
	EVERY = WORKER | BLK | NET | VSOCK | CONSOLE | PMEM | DAX | FILL, RUN = VCPU | LOOP, NOBODY = 0,
};

#define VALUES(...) (sizeof((uint32_t[]){ __VA_ARGS__ }) / sizeof(uint32_t)), (const uint32_t[]){ __VA_ARGS__ }
#define ANY TEST_ANY, 0, 0, NULL
#define IN(arg, ...) TEST_IN, arg, VALUES(__VA_ARGS__)
#define WITHOUT(arg, bits) TEST_WITHOUT, arg, VALUES(bits)
#define WITH(arg, bits) TEST_WITH, arg, VALUES(bits)
#undef FAIL
#define FAIL(err) TEST_FAIL, 0, VALUES(err)
#define REFUSED(err, arg, value) TEST_REFUSED, arg, 2, (const uint32_t[]){ value, err }
#undef CALL
#define CALL(call, whose, test, why) { #call, #test, why, SYS_##call, whose, test },

static const struct call calls[] = {
#include "calls/table.h"
};

enum { CALLS = sizeof(calls) / sizeof(calls[0]) };

int seccomp_row(uint32_t i, struct seccomp_row *out)
{
	if (i >= CALLS)
		return -ENOENT;
	*out = (struct seccomp_row){
		.name = calls[i].name, .test = calls[i].text, .why = calls[i].why, .nr = calls[i].nr, .whose = calls[i].whose,
	};
	return 0;
}

/* ---- the filter ---------------------------------------------------------------------------------------------------- */

static int put_on(uint32_t kind)
{
	struct seccomp_call list[SECCOMP_LINES];
	size_t n = 0;

	for (uint32_t i = 0; i < CALLS; i++) {
		const struct call *c = &calls[i];

		if (!(c->whose & kind))
			continue;
		/* Each value of IN is a line of its own. */
		for (uint32_t k = 0; k < (c->test == TEST_IN ? c->n : 1); k++) {
			if (n == SECCOMP_LINES)
				return -E2BIG;
			list[n] = (struct seccomp_call){ .nr = c->nr };
			if (c->test == TEST_IN)
				list[n].match[0] = (struct seccomp_match){ c->argument, SECCOMP_ALL, c->value[k] };
			else if (c->test == TEST_WITHOUT)
				list[n].match[0] = (struct seccomp_match){ c->argument, c->value[k], 0 };
			else if (c->test == TEST_WITH)
				list[n].match[0] = (struct seccomp_match){ c->argument, c->value[k], c->value[k] };
			else if (c->test == TEST_REFUSED)
				list[n].match[0] = (struct seccomp_match){ c->argument, SECCOMP_ALL, c->value[0] };
			if (c->test == TEST_FAIL)
				list[n].err = c->value[0];
			else if (c->test == TEST_REFUSED)
				list[n].err = c->value[1];
			n++;
		}
	}
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -errno;
	return seccomp_install(list, n, SECCOMP_RET_TRAP);
}

/* ---- what is never made --------------------------------------------------------------------------------------------- */

#undef CALL
#undef FAIL
#define FAIL(call, error, why) { .nr = SYS_##call, .err = (error) },

static const struct seccomp_call never[] = {
#include "calls/forbidden.h"
};

/* Once it has its machine: no other one, and no program, which would be a process without these filters' meaning. */
static const struct seccomp_call sealed[] = {
	{ .nr = SYS_execve, .err = EPERM },
	{ .nr = SYS_execveat, .err = EPERM },
	{ .nr = SYS_fork, .err = EPERM },
	{ .nr = SYS_vfork, .err = EPERM },
	{ .nr = SYS_clone3, .err = ENOSYS }, /* the C library then takes clone, whose flags can be looked at */
	{ .nr = SYS_clone, .err = EPERM, .match = { { 0, CLONE_THREAD, 0 } } },
	{ .nr = SYS_ioctl, .err = EPERM, .match = { { 1, SECCOMP_ALL, KVM_CREATE_VM } } },
};

int seccomp_forbid(uint32_t programs)
{
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -errno;
	if (programs)
		return seccomp_install(never, sizeof(never) / sizeof(never[0]), SECCOMP_RET_ALLOW);
	return seccomp_install(sealed, sizeof(sealed) / sizeof(sealed[0]), SECCOMP_RET_ALLOW);
}

/* ---- a call that is not listed ------------------------------------------------------------------------------------- */

/* Of this thread. initial-exec: a signal handler must not be the first who makes room for it. */
static __thread struct seccomp_guard mine __attribute__((tls_model("initial-exec")));
static struct sigaction before;
/* Others wait for this thread, and for nobody else. */
static __thread bool needed __attribute__((tls_model("initial-exec")));
/* Its name, where it may not even ask for that. */
static __thread char known_as[17] __attribute__((tls_model("initial-exec")));
static bool whole_process;
static bool confined; /* there are threads with a list and without a guard */

/* Somebody else's filter: as if we were not here. */
static void pass_on(int sig, siginfo_t *info, void *context)
{
	if (before.sa_flags & SA_SIGINFO) {
		before.sa_sigaction(sig, info, context);
	} else if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) {
		before.sa_handler(sig);
	} else {
		signal(sig, SIG_DFL);
		raise(sig); /* when the handler has returned */
	}
}

static size_t append(char *line, size_t at, size_t room, const char *text)
{
	while (*text && at + 1 < room)
		line[at++] = *text++;
	return at;
}

/* A thread that runs Python, or one of the C library's: nothing of the process can be relied on. */
static void end_process(int nr)
{
	char line[200], name[17] = "", digits[12], *digit = &digits[sizeof(digits) - 1];
	const char *call = "";
	size_t n = 0;

	if (needed)
		memcpy(name, known_as, sizeof(name));
	else
		prctl(PR_GET_NAME, name, 0, 0, 0);
	for (uint32_t i = 0; i < CALLS; i++)
		if ((int)calls[i].nr == nr)
			call = calls[i].name;
	*digit = 0;
	do
		*--digit = (char)('0' + nr % 10);
	while ((nr /= 10) > 0);
	n = append(line, n, sizeof(line), "pyvmm: thread ");
	n = append(line, n, sizeof(line), name);
	n = append(line, n, sizeof(line), " tried the system call ");
	n = append(line, n, sizeof(line), call);
	n = append(line, n, sizeof(line), " (");
	n = append(line, n, sizeof(line), digit);
	n = append(line, n, sizeof(line), "), which it has no use for: the machine ends\n");
	(void)!write(STDERR_FILENO, line, n);
	for (;;)
		syscall(SYS_exit_group, 1);
}

static void on_forbidden(int sig, siginfo_t *info, void *context)
{
	const struct timespec moment = { .tv_nsec = 20000000 };
	uint32_t same = 0;

	if (!mine.nr) {
		if (whole_process || confined || needed)
			end_process(info->si_syscall);
		pass_on(sig, info, context);
		return;
	}
	__atomic_store_n(mine.nr, info->si_syscall, __ATOMIC_RELEASE);
	(void)!eventfd_write(*mine.event_fd, 1);
	while (!__atomic_load_n(mine.stop, __ATOMIC_ACQUIRE))
		syscall(SYS_futex, &same, FUTEX_WAIT_PRIVATE, same, &moment, NULL, 0);
	/* Nothing of the C library's: this thread may have been in the middle of it. */
	for (;;)
		syscall(SYS_exit, 0);
}

static void set_handler(void)
{
	struct sigaction action = { .sa_sigaction = on_forbidden, .sa_flags = SA_SIGINFO };

	sigfillset(&action.sa_mask);
	sigaction(SIGSYS, &action, &before);
}

static void install_handler(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, set_handler);
}

/* ---- capabilities -------------------------------------------------------------------------------------------------- */

/*
 * Keep of this thread's capabilities (those below 32) what is in `kept`, and gain none. A process that has its own list has
 * none any more, and may not even ask.
 */
static int keep_capabilities(uint32_t kept)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2] = { 0 };

	if (whole_process)
		return 0;
	if (syscall(SYS_capget, &head, data) < 0)
		return -errno;
	data[0].effective &= kept;
	data[0].permitted &= kept;
	data[0].inheritable = data[1].effective = data[1].permitted = data[1].inheritable = 0;
	return syscall(SYS_capset, &head, data) < 0 ? -errno : 0;
}

/* A guest connects to sockets of the host's that may be anybody's, which its monitor has given to it. */
static uint32_t capabilities_of(uint32_t kind)
{
	return kind & REACH ? 1u << CAP_DAC_OVERRIDE : 0;
}

/* ---- going in ------------------------------------------------------------------------------------------------------ */

int seccomp_enter(uint32_t kind, const struct seccomp_guard *guard)
{
	if (SANITIZED)
		return 0;
	install_handler();
	if (guard) {
		mine = *guard;
	} else {
		prctl(PR_GET_NAME, known_as, 0, 0, 0);
		needed = true;
	}
	(void)keep_capabilities(capabilities_of(kind));
	return put_on(kind);
}

int seccomp_enter_process(uint32_t kinds)
{
	install_handler();
	whole_process = true;
	return put_on(kinds);
}

int seccomp_enter_thread(uint32_t kinds)
{
	int err;

	install_handler();
	__atomic_store_n(&confined, true, __ATOMIC_RELEASE);
	thread_needs_starter();
	err = keep_capabilities(capabilities_of(kinds));
	return err ? err : put_on(kinds);
}

static int enter_starter(void)
{
	return seccomp_enter_thread(START | EVERY | REACH);
}

int seccomp_starter_begin(void)
{
	return thread_starter_begin(enter_starter);
}

void seccomp_starter_end(void)
{
	thread_starter_end();
}

void seccomp_worker(struct worker *w, uint32_t kind)
{
	const struct seccomp_guard guard = {
		.nr = &w->forbidden, .stop = &w->stop, .event_fd = &w->event_fd,
	};

	__atomic_store_n(&w->walled, seccomp_enter(kind, &guard) == 0, __ATOMIC_RELEASE);
}
