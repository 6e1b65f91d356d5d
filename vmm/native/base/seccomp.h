/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lists of system calls, made into filters (seccomp(2)).
 *
 * A list is a header of lines, each of which a macro takes: CALL, the call whatever its arguments are; WHEN, with one that
 * has these bits; WHEN2, with two such; FAIL, an errno in its place. Several lines of one call are alternatives, of which the
 * first that fits counts. The last word of a line says what needs the call; tools/calls.py shows it in docs/system-calls.md.
 */
#ifndef VMM_NATIVE_SECCOMP_H
#define VMM_NATIVE_SECCOMP_H

#include <stddef.h>
#include <stdint.h>

/* (uint32_t)args[arg] & mask == value. A mask of 0 is always met. The kernel takes no more of these arguments, either. */
struct seccomp_match {
	uint32_t arg, mask, value;
};

struct seccomp_call {
	uint32_t nr, err; /* err: the answer; 0: the call is made */
	struct seccomp_match match[2];
};

/* A list has so many lines at most. */
enum { SECCOMP_LINES = 256 };

/* All bits of an argument. */
#define SECCOMP_ALL 0xffffffffu

/* For lists: #include one between these braces. */
#define CALL(name, why) { .nr = SYS_##name },
#define WHEN(name, arg0, mask0, value0, why)                                                                           \
	{ .nr = SYS_##name, .match = { { (arg0), (uint32_t)(mask0), (uint32_t)(value0) } } },
#define WHEN2(name, arg0, mask0, value0, arg1, mask1, value1, why)                                                     \
	{ .nr = SYS_##name,                                                                                            \
	  .match = { { (arg0), (uint32_t)(mask0), (uint32_t)(value0) }, { (arg1), (uint32_t)(mask1), (uint32_t)(value1) } } },
#define FAIL(name, number, why) { .nr = SYS_##name, .err = (number) },

/*
 * From here on this thread, and what it makes, does these calls; any other is answered with `other` (SECCOMP_RET_*; _ALLOW: a list
 * of what is not to be made). Takes
 * PR_SET_NO_NEW_PRIVS or CAP_SYS_ADMIN. -errno; -E2BIG: the list is too long.
 */
int seccomp_install(const struct seccomp_call *calls, size_t n, uint32_t other);

#endif
