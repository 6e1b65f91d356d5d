// SPDX-License-Identifier: Apache-2.0
/*
 * The filters that calls.h describes. A thread puts on its own, before it looks at anything of the guest's; the rest of the
 * process, which may be somebody else's program, is as it was. No right is needed for it, since the thread can gain none any
 * more (no_new_privs, which belongs to the thread, too).
 *
 * A call that is not listed makes the kernel send SIGSYS to the thread instead of making the call. The handler says which
 * it was, and the thread does nothing more: its code is somebody else's by now. Somebody who blocks or ignores the signal
 * ends the process, since the kernel then takes the default action.
 */
#include "seccomp/seccomp.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef SECCOMP_FILTER_FLAG_SPEC_ALLOW
#define SECCOMP_FILTER_FLAG_SPEC_ALLOW (1UL << 2)
#endif

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

enum test { TEST_ANY, TEST_IN, TEST_WITHOUT };

struct call {
	const char *name, *text, *why;
	uint32_t nr, whose;
	enum test test;
	uint32_t argument, n;
	const uint32_t *value;
};

enum {
	BLK = SECCOMP_BLK, NET = SECCOMP_NET, VSOCK = SECCOMP_VSOCK, CONSOLE = SECCOMP_CONSOLE, PMEM = SECCOMP_PMEM,
	DAX = SECCOMP_DAX, EVERY = BLK | NET | VSOCK | CONSOLE | PMEM | DAX, NOBODY = 0,
};

#define VALUES(...) (sizeof((uint32_t[]){ __VA_ARGS__ }) / sizeof(uint32_t)), (const uint32_t[]){ __VA_ARGS__ }
#define ANY TEST_ANY, 0, 0, NULL
#define IN(arg, ...) TEST_IN, arg, VALUES(__VA_ARGS__)
#define WITHOUT(arg, bits) TEST_WITHOUT, arg, VALUES(bits)
#define CALL(call, whose, test, why) { #call, #test, why, SYS_##call, whose, test },

static const struct call calls[] = {
#include "seccomp/calls.h"
};

enum { CALLS = sizeof(calls) / sizeof(calls[0]), PROGRAM_MAX = 512 };

int seccomp_call(uint32_t i, struct seccomp_call *out)
{
	if (i >= CALLS)
		return -ENOENT;
	*out = (struct seccomp_call){
		.name = calls[i].name, .test = calls[i].text, .why = calls[i].why, .nr = calls[i].nr, .whose = calls[i].whose,
	};
	return 0;
}

/* ---- the filter ---------------------------------------------------------------------------------------------------- */

struct program {
	uint16_t len;
	struct sock_filter code[PROGRAM_MAX];
};

static void emit(struct program *p, uint16_t code, uint8_t yes, uint8_t no, uint32_t k)
{
	if (p->len < PROGRAM_MAX)
		p->code[p->len] = (struct sock_filter){ code, yes, no, k };
	p->len++;
}

static void emit_call(struct program *p, const struct call *c)
{
	/* Behind the comparison: one instruction, or the load, the comparisons, and both answers. */
	const uint8_t skip = c->test == TEST_ANY ? 1 : (uint8_t)(c->n + 3);

	emit(p, BPF_JMP | BPF_JEQ | BPF_K, 0, skip, c->nr);
	if (c->test == TEST_ANY) {
		emit(p, BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW);
		return;
	}
	emit(p, BPF_LD | BPF_W | BPF_ABS, 0, 0, (uint32_t)offsetof(struct seccomp_data, args) + c->argument * 8);
	for (uint32_t i = 0; i < c->n; i++) {
		const uint8_t to_allow = (uint8_t)(c->n - i);

		if (c->test == TEST_IN)
			emit(p, BPF_JMP | BPF_JEQ | BPF_K, to_allow, 0, c->value[i]);
		else
			emit(p, BPF_JMP | BPF_JSET | BPF_K, 0, to_allow, c->value[i]);
	}
	emit(p, BPF_RET | BPF_K, 0, 0, SECCOMP_RET_TRAP);
	emit(p, BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW);
}

static int put_on(uint32_t kind)
{
	struct program p = { 0 };
	struct sock_fprog prog;

	emit(&p, BPF_LD | BPF_W | BPF_ABS, 0, 0, (uint32_t)offsetof(struct seccomp_data, arch));
	emit(&p, BPF_JMP | BPF_JEQ | BPF_K, 1, 0, AUDIT_ARCH_X86_64);
	emit(&p, BPF_RET | BPF_K, 0, 0, SECCOMP_RET_KILL_PROCESS);
	/* Numbers of the x32 ABI are others, so equal to none of these. */
	emit(&p, BPF_LD | BPF_W | BPF_ABS, 0, 0, (uint32_t)offsetof(struct seccomp_data, nr));
	for (uint32_t i = 0; i < CALLS; i++)
		if (calls[i].whose & kind)
			emit_call(&p, &calls[i]);
	emit(&p, BPF_RET | BPF_K, 0, 0, SECCOMP_RET_TRAP);
	if (p.len > PROGRAM_MAX)
		return -E2BIG;
	prog = (struct sock_fprog){ .len = p.len, .filter = p.code };
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -errno;
	/* Without the flag kernels before 5.16 make every branch of the thread slower; it runs no code of the guest's. */
	if (!syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW, &prog))
		return 0;
	return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog, 0, 0) < 0 ? -errno : 0;
}

/* ---- a call that is not listed ------------------------------------------------------------------------------------- */

/* Of this thread. initial-exec: a signal handler must not be the first who makes room for it. */
static __thread struct seccomp_guard mine __attribute__((tls_model("initial-exec")));
static struct sigaction before;

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

static void on_forbidden(int sig, siginfo_t *info, void *context)
{
	const struct timespec moment = { .tv_nsec = 20000000 };
	uint32_t same = 0;

	if (!mine.nr) {
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

static void install_handler(void)
{
	struct sigaction action = { .sa_sigaction = on_forbidden, .sa_flags = SA_SIGINFO };

	sigfillset(&action.sa_mask);
	sigaction(SIGSYS, &action, &before);
}

int seccomp_enter(uint32_t kind, const struct seccomp_guard *guard)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	if (SANITIZED)
		return 0;
	pthread_once(&once, install_handler);
	mine = *guard;
	return put_on(kind);
}

void seccomp_worker(struct worker *w, uint32_t kind)
{
	const struct seccomp_guard guard = {
		.nr = &w->forbidden, .stop = &w->stop, .event_fd = &w->event_fd,
	};

	__atomic_store_n(&w->walled, seccomp_enter(kind, &guard) == 0, __ATOMIC_RELEASE);
}
