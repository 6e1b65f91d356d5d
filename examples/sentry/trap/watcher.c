// SPDX-License-Identifier: Apache-2.0
/*
 * A thread that waits for the console, for devices and for a time, while the core waits for programs alone: that is one
 * system call less for each of a program.  When something comes, SIGURG interrupts the core's wait.
 *
 * The thread shares the C library's data with the other one, so it calls nothing of it.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "trap.h"

enum { WATCHER_STACK = 1 << 14 };

struct wish {
	struct pollfd sources[SOURCES];
	bool forever;
	struct timespec left;
};

static PROCESS_LOCAL struct wish wanted;
static PROCESS_LOCAL u64 wanted_deadline;
static PROCESS_LOCAL u32 version; /* of what is wanted; odd while it changes */
static PROCESS_LOCAL u32 done;	  /* the version that something has come for */
static PROCESS_LOCAL long process, watcher;
static PROCESS_LOCAL u8 stack[WATCHER_STACK] __attribute__((aligned(16)));

static long system_call(long number, long a, long b, long c, long d, long e)
{
	register long r10 asm("r10") = d;
	register long r8 asm("r8") = e;
	long result;

	asm volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8) : "rcx", "r11", "memory");
	return result;
}

/* -- the thread -- */

/* A copy of what is wanted, of one version; false: it changes just now. */
static bool get_wish(struct wish *wish, u32 *which)
{
	*which = __atomic_load_n(&version, __ATOMIC_ACQUIRE);
	*wish = wanted;
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	return !(*which & 1) && __atomic_load_n(&version, __ATOMIC_RELAXED) == *which;
}

static long wait_for(struct wish *wish, bool finished)
{
	const u64 all_but_urgent = ~(1ull << (SIGURG - 1));
	const bool forever = finished || wish->forever;

	return system_call(SYS_ppoll, (long)wish->sources, finished ? 0 : SOURCES, forever ? 0 : (long)&wish->left,
			   (long)&all_but_urgent, sizeof(all_but_urgent));
}

static _Noreturn void watch(void)
{
	struct wish wish;
	u32 which;

	for (;;) {
		if (!get_wish(&wish, &which))
			continue;
		if (wait_for(&wish, done == which) < 0)
			continue; /* something else is wanted now */
		__atomic_store_n(&done, which, __ATOMIC_RELEASE);
		system_call(SYS_tgkill, process, process, SIGURG, 0, 0);
	}
}

/* -- its use -- */

void watcher_start(void)
{
	const u64 all = ~0ull;
	/* With a table of descriptors of its own: in one that is shared, each system call counts its users. */
	const long flags = CLONE_VM | CLONE_FS | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
	u64 before;

	process = getpid();
	version = done = 0;
	system_call(SYS_rt_sigprocmask, SIG_BLOCK, (long)&all, (long)&before, sizeof(all), 0);
	asm volatile("syscall\n"
		     "	test %%rax, %%rax\n"
		     "	jnz 1f\n"
		     "	xor %%ebp, %%ebp\n"
		     "	call *%[watch]\n"
		     "1:\n"
		     : "=a"(watcher)
		     : "a"(SYS_clone), "D"(flags), "S"(stack + WATCHER_STACK), "d"(0), [watch] "r"(watch)
		     : "rcx", "r11", "memory");
	system_call(SYS_rt_sigprocmask, SIG_SETMASK, (long)&before, 0, sizeof(before), 0);
	if (watcher < 0)
		fail("a thread cannot be started");
}

bool watcher_is_done(void)
{
	return __atomic_load_n(&done, __ATOMIC_ACQUIRE) == version;
}

void watcher_request(const struct pollfd *sources, u64 deadline)
{
	const bool is_same = deadline == wanted_deadline && !memcmp(wanted.sources, sources, sizeof(wanted.sources));
	u64 now, rest;

	if (is_same && !watcher_is_done())
		return;
	now = clock_nanoseconds(CLOCK_IS_MONOTONIC);
	rest = deadline > now ? deadline - now : 0;
	__atomic_store_n(&version, version + 1, __ATOMIC_RELEASE);
	__atomic_thread_fence(__ATOMIC_RELEASE);
	memcpy(wanted.sources, sources, sizeof(wanted.sources));
	wanted.forever = deadline == ~0ull;
	wanted.left = (struct timespec){ (time_t)(rest / SECOND), (long)(rest % SECOND) };
	wanted_deadline = deadline;
	__atomic_store_n(&version, version + 1, __ATOMIC_RELEASE);
	system_call(SYS_tgkill, process, watcher, SIGURG, 0, 0);
}
