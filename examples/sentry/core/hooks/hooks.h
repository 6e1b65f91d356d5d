/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host decides system calls, and sees them: over a connection to vsock port 1025.
 *
 * A bit for each system call selects those that it wants. What their pointers lead to is copied first, into a record.
 * The host receives that copy, and the call that it allows is made with the same copy (held.c).
 */
#ifndef SENTRY_HOOKS_H
#define SENTRY_HOOKS_H

#include "../core.h"
#include "../vfs/text.h"

enum { HOOKS_PORT = 1025 };

/* -- exchange.c -- */

const char *hooks_listen(void); /* before the host can connect: NULL, or why not */
const char *hooks_start(void); /* the same when there is a root */
void hooks_run(void); /* the first task: wait for the host, and then run the program */
/* Make a system call that somebody watches, by `call`. */
s64 hooks_call(struct task *t, const u64 *args, u8 watched, s64 (*call)(struct task *t, const u64 *args));
void hooks_flush(void); /* at the end: wait until the host has all */
s64 hooks_content(u64 number, struct text *content); /* of a file that the host serves: 0 or -errno */

/* -- held.c, for user.c -- */

/* The copy of what lies at an address of the current call's record, with *rest bytes from there; NULL: there is none. */
const u8 *held_at(const struct mm *mm, u64 address, u64 *rest);

#endif
