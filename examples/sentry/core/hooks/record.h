/* SPDX-License-Identifier: Apache-2.0 */
/* Records of system calls, which are also the messages to the host. */
#ifndef SENTRY_RECORD_H
#define SENTRY_RECORD_H

#include "hooks.h"

#include "../vfs/vfs.h"

/* An address from here on is an offset in the record. No program has such a pointer. */
#define HELD (1ull << 63)

enum record_kind { RECORD_DECIDE, RECORD_TRACE, RECORD_DROPPED, RECORD_FILE, RECORD_REPLY };

/* pyvmm_sentry/events.py has the same. Texts and structures follow; pointers to them are addresses from HELD on. */
struct record {
	u64 id;	  /* of what is to be answered */
	u64 time; /* in nanoseconds since 1970 */
	u32 kind, number;
	s32 pid, tid;
	s64 result;
	u64 args[6];
	u64 directory; /* where a relative path starts; 0: there is none */
	u64 real; /* its path without symbolic links, before the call; 0: there is none */
	char name[16]; /* of the task */
};

struct held {
	struct list outgoing;
	u32 references;
	struct text text; /* the record, and what it leads to */
	struct fs_context *fs; /* where its relative path starts; NULL: there is none */
};

struct held *held_new(enum record_kind kind); /* NULL: no memory */
void held_put(struct held *held);
struct record *held_record(const struct held *held);
u64 held_add(struct held *held, const void *data, u64 size); /* its address in the record */
/* Copy what the arguments of a system call lead to, as far as `most` bytes suffice: 0, -E2BIG or -ENOMEM. */
s64 held_copy(struct held *held, struct task *t, const u64 *args, u64 most);
/* Make the call with the copy, from a directory that no other task can change. */
s64 held_call(struct held *held, struct task *t, s64 (*call)(struct task *t, const u64 *args));
/* Replace the path that an argument leads to: 0 or -EPERM. */
s64 held_rewrite(struct held *held, u32 i, const void *text, u64 size);

/* -- file.c -- */

s64 hosted_file(u64 number, const char *path); /* serve a file of the host there: 0 or -errno */

#endif
