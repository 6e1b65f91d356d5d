/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A filter of system calls, from a container's specification: an action for each call, and rules that look at arguments.
 *
 * Tasks and programs inherit it.  Those that programs install are in filters.c.
 */
#ifndef SENTRY_SECCOMP_H
#define SENTRY_SECCOMP_H

#include "core.h"

enum seccomp_action {
	SECCOMP_ALLOW, SECCOMP_LOG, SECCOMP_ERRNO, SECCOMP_TRAP, SECCOMP_KILL_THREAD, SECCOMP_KILL_PROCESS,
};

enum seccomp_comparison { COMPARE_NE, COMPARE_LT, COMPARE_LE, COMPARE_EQ, COMPARE_GE, COMPARE_GT, COMPARE_MASKED_EQ };

struct verdict {
	u8 action;
	u16 error; /* of SECCOMP_ERRNO */
};

struct condition {
	u8 argument, comparison;
	u64 value, other;
};

struct seccomp_rule {
	struct seccomp_rule *next; /* of the same call, the next in the specification */
	struct verdict verdict;
	u32 count;
	struct condition conditions[6]; /* all must hold */
};

struct seccomp {
	u32 references, rule_count;
	struct verdict otherwise;
	struct {
		bool decided; /* no argument matters */
		struct verdict verdict;
		struct seccomp_rule *rules;
	} calls[SYSCALLS];
};

void seccomp_get(struct seccomp *seccomp); /* NULL: there is none */
void seccomp_put(struct seccomp *seccomp);
/* Whether a task may make its system call; otherwise *result is what it returns, or its end is under way. */
bool seccomp_allows(struct task *t, const u64 *args, s64 *result);
bool seccomp_log(void); /* that a call is allowed: true */
bool seccomp_kill(struct task *t, s32 signal, bool process); /* for its call, which it does not make: false */

#endif
