// SPDX-License-Identifier: Apache-2.0
/*
 * The seccomp filters that table.h describes. A thread installs its filter before it reads anything that the guest
 * wrote. Other threads of the process, which may be a user's program, are not affected. No privilege is needed: the
 * thread sets no_new_privs, which also applies to one thread.
 *
 * For an unlisted call, the kernel sends SIGSYS to the thread instead of making the call. The handler reports the call
 * and stops the thread, since an attacker may control it. If the signal is blocked or ignored, the kernel's default
 * action ends the process.
 */
#include "calls/calls.h"
#include "base/seccomp.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/fs.h>
#include <linux/futex.h>
#include <linux/if_tun.h>
#include <linux/io_uring.h>
#include <linux/kvm.h>
#include <linux/seccomp.h>
#include <linux/sockios.h>
#include <linux/userfaultfd.h>
#include <linux/vhost.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef PAGEMAP_SCAN
#define PAGEMAP_SCAN 0xc0606610U /* Linux 6.7 */
#endif

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define SANITIZED 1
#endif
#elif defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#endif
#ifndef SANITIZED
#define SANITIZED 0 /* 1: install no filters, since sanitizers make their own system calls */
#endif

enum test { TEST_ANY, TEST_OWN, TEST_IN, TEST_WITHOUT, TEST_WITH, TEST_FAIL, TEST_REFUSED };

struct call {
	const char *name, *text, *why;
	uint32_t nr, whose;
	enum test test;
	uint32_t argument, n;
	const uint32_t *value;
};

enum {
	BLK = SECCOMP_BLK, NET = SECCOMP_NET, VSOCK = SECCOMP_VSOCK, CONSOLE = SECCOMP_CONSOLE, PMEM = SECCOMP_PMEM,
	RNG = SECCOMP_RNG,
	DAX = SECCOMP_DAX, VMM = SECCOMP_VMM, VHOST = SECCOMP_VHOST, TTY = SECCOMP_TTY, DISK = SECCOMP_DISK,
	CHILD = SECCOMP_CHILD, PREFETCH = SECCOMP_PREFETCH, REACH = SECCOMP_REACH,
	CONTROL = SECCOMP_CONTROL, GDB = SECCOMP_GDB, BROKER = SECCOMP_BROKER,
	OUTSIDE = SECCOMP_OUTSIDE, VCPU = SECCOMP_VCPU, LOOP = SECCOMP_LOOP, START = SECCOMP_START,
	FILL = SECCOMP_FILL, SERVER = SECCOMP_SERVER, HOST = SECCOMP_HOST, SPAWN = SECCOMP_SPAWN,
	SHARES = SECCOMP_SHARES, FORKS = SECCOMP_FORKS, GATEWAY = SECCOMP_GATEWAY, RESOLVER = SECCOMP_RESOLVER,
	EVERY = BLK | NET | VSOCK | CONSOLE | PMEM | RNG | DAX | FILL, RUN = VCPU | LOOP, NOBODY = 0,
};

/* The calls of a share server. The process that starts it needs them, too: the server inherits its filter. */
static const struct seccomp_call of_servers[] = {
#include "calls/servers.h"
};

#define VALUES(...) (sizeof((uint32_t[]){ __VA_ARGS__ }) / sizeof(uint32_t)), (const uint32_t[]){ __VA_ARGS__ }
#define ANY TEST_ANY, 0, 0, NULL
#define OWN(arg) TEST_OWN, arg, 0, NULL
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
		.argument = calls[i].argument, .n = calls[i].n, .value = calls[i].value,
	};
	return 0;
}

/* ---- the filter ---------------------------------------------------------------------------------------------------- */

/*
 * Install the lines of `kind` for this thread or all threads; other calls get the action `other`. A line that refuses a
 * call is installed only for kinds in `own`: another kind in the same process makes that call.
 */
static int filter_install(uint32_t kind, uint32_t own, uint32_t other, bool all_threads)
{
	struct seccomp_call list[SECCOMP_LINES];
	size_t n = 0;

	for (uint32_t i = 0; i < CALLS; i++) {
		const struct call *c = &calls[i];

		if (!(c->whose & kind))
			continue;
		if (!(c->whose & own) && (c->test == TEST_FAIL || c->test == TEST_REFUSED))
			continue;
		/* Each value of IN becomes a separate line. */
		for (uint32_t k = 0; k < (c->test == TEST_IN ? c->n : 1); k++) {
			if (n == SECCOMP_LINES)
				return -E2BIG;
			list[n] = (struct seccomp_call){ .nr = c->nr };
			if (c->test == TEST_IN)
				list[n].match[0] = (struct seccomp_match){ c->argument, SECCOMP_ALL, c->value[k] };
			else if (c->test == TEST_OWN)
				list[n].match[0] = (struct seccomp_match){ c->argument, SECCOMP_ALL, (uint32_t)getpid() };
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
	for (size_t i = 0; kind & SHARES && i < sizeof(of_servers) / sizeof(*of_servers); i++) {
		if (n == SECCOMP_LINES)
			return -E2BIG;
		list[n++] = of_servers[i];
	}
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -errno;
	return all_threads ? seccomp_install_for_all(list, n, other) : seccomp_install(list, n, other);
}

/* ---- a process that cannot be jailed -------------------------------------------------------------------------------- */

#undef CALL
#undef FAIL
#define FAIL(call, error, why) { .nr = SYS_##call, .err = (error) },

static const struct seccomp_call never[] = {
#include "calls/forbidden.h"
};

/* After its machine is made, a sealed process cannot make another one, nor start programs or processes. */
static const struct seccomp_call sealed[] = {
	{ .nr = SYS_execve, .err = EPERM },
	{ .nr = SYS_execveat, .err = EPERM },
	{ .nr = SYS_fork, .err = EPERM },
	{ .nr = SYS_vfork, .err = EPERM },
	{ .nr = SYS_clone3, .err = ENOSYS }, /* the C library falls back to clone, whose flags a filter can test */
	{ .nr = SYS_clone, .err = EPERM, .match = { { 0, CLONE_THREAD, 0 } } },
	{ .nr = SYS_ioctl, .err = EPERM, .match = { { 1, SECCOMP_ALL, KVM_CREATE_VM } } },
};

/* The calls in `never` that a machine or a share server makes while it starts. */
static bool is_for_start(uint32_t nr)
{
	return nr == SYS_userfaultfd || nr == SYS_open_by_handle_at;
}

int seccomp_forbid(uint32_t what)
{
	struct seccomp_call list[sizeof(never) / sizeof(never[0])];
	size_t n = 0;

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -errno;
	if (what == SECCOMP_FORBID_SEALED)
		return seccomp_install(sealed, sizeof(sealed) / sizeof(sealed[0]), SECCOMP_RET_ALLOW);
	for (size_t i = 0; i < sizeof(never) / sizeof(never[0]); i++)
		if (what != SECCOMP_FORBID_HELPER || !is_for_start(never[i].nr))
			list[n++] = never[i];
	return seccomp_install(list, n, SECCOMP_RET_ALLOW);
}

/* ---- a call that is not listed ------------------------------------------------------------------------------------- */

/* This thread's guard. initial-exec allocates it at thread start: a signal handler must not allocate memory. */
static __thread struct seccomp_guard own_guard __attribute__((tls_model("initial-exec")));
static struct sigaction previous_action;
/* This thread has a filter but no guard (seccomp_enter() with NULL): the machine cannot continue without it. */
static __thread bool essential __attribute__((tls_model("initial-exec")));
/* The name of such a thread, saved because its filter may forbid reading it later. */
static __thread char essential_name[17] __attribute__((tls_model("initial-exec")));
static bool whole_process;
static bool confined; /* a thread has a filter but no guard (seccomp_enter_thread()) */

/* The signal came from another filter: do what would happen without our handler. */
static void signal_pass_on(int sig, siginfo_t *info, void *context)
{
	if (previous_action.sa_flags & SA_SIGINFO) {
		previous_action.sa_sigaction(sig, info, context);
	} else if (previous_action.sa_handler != SIG_DFL && previous_action.sa_handler != SIG_IGN) {
		previous_action.sa_handler(sig);
	} else {
		signal(sig, SIG_DFL);
		raise(sig); /* takes effect when the handler returns */
	}
}

static size_t line_append(char *line, size_t at, size_t room, const char *text)
{
	while (*text && at + 1 < room)
		line[at++] = *text++;
	return at;
}

/* The thread may have run Python or C library code, so the state of the process is unreliable. */
static void end_process(int nr)
{
	char line[200], name[17] = "", digits[12], *digit = &digits[sizeof(digits) - 1];
	const char *call = "";
	size_t n = 0;

	if (essential)
		memcpy(name, essential_name, sizeof(name));
	else
		prctl(PR_GET_NAME, name, 0, 0, 0);
	for (uint32_t i = 0; i < CALLS; i++)
		if ((int)calls[i].nr == nr)
			call = calls[i].name;
	*digit = 0;
	do
		*--digit = (char)('0' + nr % 10);
	while ((nr /= 10) > 0);
	n = line_append(line, n, sizeof(line), "pyvmm: thread ");
	n = line_append(line, n, sizeof(line), name);
	n = line_append(line, n, sizeof(line), " tried the system call ");
	n = line_append(line, n, sizeof(line), call);
	n = line_append(line, n, sizeof(line), " (");
	n = line_append(line, n, sizeof(line), digit);
	n = line_append(line, n, sizeof(line), "), which it has no use for: the machine ends\n");
	(void)!write(STDERR_FILENO, line, n);
	for (;;)
		syscall(SYS_exit_group, 1);
}

static void on_forbidden(int sig, siginfo_t *info, void *context)
{
	const struct timespec moment = { .tv_nsec = 20000000 };
	uint32_t same = 0;

	if (!own_guard.nr) {
		if (whole_process || confined || essential)
			end_process(info->si_syscall);
		signal_pass_on(sig, info, context);
		return;
	}
	__atomic_store_n(own_guard.nr, info->si_syscall, __ATOMIC_RELEASE);
	(void)!eventfd_write(*own_guard.event_fd, 1);
	while (!__atomic_load_n(own_guard.stop, __ATOMIC_ACQUIRE))
		syscall(SYS_futex, &same, FUTEX_WAIT_PRIVATE, same, &moment, NULL, 0);
	/* Not pthread_exit(): the signal may have interrupted a function of the C library in this thread. */
	for (;;)
		syscall(SYS_exit, 0);
}

static void set_handler(void)
{
	struct sigaction action = { .sa_sigaction = on_forbidden, .sa_flags = SA_SIGINFO };

	sigfillset(&action.sa_mask);
	sigaction(SIGSYS, &action, &previous_action);
}

static void install_handler(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, set_handler);
}

/* ---- capabilities -------------------------------------------------------------------------------------------------- */

/*
 * Drop this thread's capabilities except those in `kept`. A process with a filter (seccomp_enter_process()) has no
 * capabilities left, and its filter forbids these calls.
 */
static int keep_capabilities(uint64_t kept)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2] = { 0 };

	if (whole_process)
		return 0;
	if (syscall(SYS_capget, &head, data) < 0)
		return -errno;
	for (int i = 0; i < 2; i++, kept >>= 32) {
		data[i].effective &= (uint32_t)kept;
		data[i].permitted &= (uint32_t)kept;
		data[i].inheritable = 0;
	}
	return syscall(SYS_capset, &head, data) < 0 ? -errno : 0;
}

/* A worker without a broker connects to host sockets for the guest, and any user may own these. */
static uint32_t capabilities_of(uint32_t kind)
{
	return kind & REACH ? 1u << CAP_DAC_OVERRIDE : 0;
}

/* ---- installing filters -------------------------------------------------------------------------------------------- */

int seccomp_enter(uint32_t kind, const struct seccomp_guard *guard)
{
	if (SANITIZED)
		return 0;
	install_handler();
	if (guard) {
		own_guard = *guard;
	} else {
		prctl(PR_GET_NAME, essential_name, 0, 0, 0);
		essential = true;
	}
	(void)keep_capabilities(capabilities_of(kind));
	return filter_install(kind, kind, SECCOMP_RET_TRAP, false);
}

int seccomp_keep(uint64_t capabilities, uint32_t programs)
{
	const uint32_t machine = VMM | RUN | START | EVERY | VHOST | DISK | CHILD | PREFETCH | REACH;
	const uint32_t own = HOST | (programs ? SPAWN : 0);
	int err = keep_capabilities(capabilities);

	/* HOST's list excludes everything that seccomp_forbid(0) forbids, so one filter suffices. */
	return err ? err : filter_install(own | machine, own, SECCOMP_RET_ERRNO | ENOSYS, true);
}

int seccomp_enter_process(uint32_t kinds)
{
	install_handler();
	whole_process = true;
	return filter_install(kinds, kinds, SECCOMP_RET_TRAP, false);
}

int seccomp_enter_thread(uint32_t kinds)
{
	int err;

	install_handler();
	__atomic_store_n(&confined, true, __ATOMIC_RELEASE);
	thread_needs_starter();
	err = keep_capabilities(capabilities_of(kinds));
	return err ? err : filter_install(kinds, kinds, SECCOMP_RET_TRAP, false);
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

/* The kind whose filter this spare thread has already installed. */
static __thread uint32_t spare_calls;

static int enter_spare(uint32_t kind)
{
	int err;

	install_handler();
	(void)keep_capabilities(capabilities_of(kind));
	err = SANITIZED ? -ENOSYS : filter_install(kind, kind, SECCOMP_RET_TRAP, false);
	if (!err)
		spare_calls = kind;
	return err;
}

int worker_spare(struct worker *like, const char *name, struct spare **out)
{
	return like->calls ? spare_make(out, name, like->calls, enter_spare) : -EINVAL;
}

void seccomp_worker(struct worker *w)
{
	const struct seccomp_guard guard = {
		.nr = &w->forbidden, .stop = &w->stop, .event_fd = &w->event_fd,
	};
	bool entered = spare_calls == w->calls;

	if (entered)
		own_guard = guard;
	else
		entered = seccomp_enter(w->calls, &guard) == 0;
	__atomic_store_n(&w->walled, entered, __ATOMIC_RELEASE);
}
