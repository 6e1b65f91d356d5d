/* SPDX-License-Identifier: Apache-2.0 */
/* Descriptors of processes, which outlive them. */
#ifndef SENTRY_PIDFD_H
#define SENTRY_PIDFD_H

#include "../core.h"

struct process_ref;

/* A descriptor for a process that does not exist yet, and a reference: also with an error, unless that is NULL. */
s64 pidfd_new(struct task *t, s32 pid, struct process_ref **ref);
void process_ref_attach(struct process_ref *ref, struct process *p); /* takes the reference */
void process_ref_put(struct process_ref *ref);
void process_ref_ended(struct process *p); /* it is a zombie */
void process_ref_gone(struct process *p);
/* The process of a descriptor, and the flags of its file; NULL: -EBADF, or -ESRCH if its parent has waited for it. */
struct process *pidfd_process(struct task *t, u64 fd, u32 *flags, s64 *error);

#endif
