/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Makes filters from lists of system calls (seccomp(2)).
 *
 * A list is a header with one macro on each line:
 *   CALL allows a call with any arguments;
 *   WHEN allows it if one argument has these bits;
 *   WHEN2 allows it if two arguments have these bits;
 *   FAIL makes it fail with an errno.
 * Several lines of one call are alternatives; the first match counts. The last argument of a macro states what needs
 * the call. tools/calls.py copies it to docs/reference/system-calls.md.
 */
#ifndef VMM_NATIVE_SECCOMP_H
#define VMM_NATIVE_SECCOMP_H

#include <stddef.h>
#include <stdint.h>

/*
 * Matches if ((uint32_t)args[arg] & mask) == value; a mask of 0 always matches. The kernel uses only these low 32 bits,
 * too.
 */
struct seccomp_match {
	uint32_t arg, mask, value;
};

struct seccomp_call {
	uint32_t nr, err; /* err: the call fails with this errno; 0: it is allowed */
	struct seccomp_match match[2];
};

/* The most lines in a list. */
enum { SECCOMP_LINES = 384 };

/* All bits of an argument. */
#define SECCOMP_ALL 0xffffffffu

/* The macros of a list, which is included as the initializer of an array. */
#define CALL(name, why) { .nr = SYS_##name },
#define WHEN(name, arg0, mask0, value0, why)                                                                           \
	{ .nr = SYS_##name, .match = { { (arg0), (uint32_t)(mask0), (uint32_t)(value0) } } },
#define WHEN2(name, arg0, mask0, value0, arg1, mask1, value1, why)                                                     \
	{ .nr = SYS_##name,                                                                                            \
	  .match = { { (arg0), (uint32_t)(mask0), (uint32_t)(value0) }, { (arg1), (uint32_t)(mask1), (uint32_t)(value1) } } },
#define FAIL(name, number, why) { .nr = SYS_##name, .err = (number) },

/*
 * Install the filter permanently for the calling thread, and for threads and processes that it starts. Unlisted calls
 * get the action `other` (SECCOMP_RET_*). With SECCOMP_RET_ALLOW, the list names the calls that fail. Needs
 * PR_SET_NO_NEW_PRIVS or CAP_SYS_ADMIN. 0 or -errno; -E2BIG: the list is too long.
 */
int seccomp_install(const struct seccomp_call *calls, size_t n, uint32_t other);
/* The same for all threads of the process. -EBUSY: another thread has a filter that the calling thread lacks. */
int seccomp_install_for_all(const struct seccomp_call *calls, size_t n, uint32_t other);

#endif
