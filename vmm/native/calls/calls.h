/* SPDX-License-Identifier: Apache-2.0 */
/* System calls: each kind of thread has a list (table.h), and what is not in it ends the machine. */
#ifndef VMM_NATIVE_CALLS_H
#define VMM_NATIVE_CALLS_H

#include "dataplane/worker.h"

/*
 * From now on the calling thread, and it alone, has the calls of one kind: SECCOMP_BLK and so on. A call that is not
 * among them is not made: *nr gets its number, *event_fd is signalled, and the thread does nothing but wait for *stop, and
 * ends. Without a guard it ends the process. 0; or -errno where the kernel has no filters, or a filter of the caller's does not allow new ones.
 */
struct seccomp_guard {
	int *nr;             /* atomic */
	const bool *stop;    /* atomic */
	const int *event_fd;
};

int seccomp_enter(uint32_t kind, const struct seccomp_guard *guard);

/* The same for a worker, in its begin(). That it cannot be had is no error. */
void seccomp_worker(struct worker *w, uint32_t kind);

#endif
