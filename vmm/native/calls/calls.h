/* SPDX-License-Identifier: Apache-2.0 */
/* System calls: each kind of thread has a list of those that it may make (table.h). Any other ends the machine. */
#ifndef VMM_NATIVE_CALLS_H
#define VMM_NATIVE_CALLS_H

#include "dataplane/worker.h"

/*
 * Restrict the calling thread, and no other, to the system calls of one kind (SECCOMP_BLK etc.), for good. The kernel does
 * not make any other call: *nr gets its number, *event_fd is signalled, and the thread waits for *stop and ends. Without
 * a guard, such a call ends the process. 0; or -errno: the kernel has no seccomp filters, or a filter of the caller
 * forbids to install another one.
 */
struct seccomp_guard {
	int *nr;             /* atomic */
	const bool *stop;    /* atomic */
	const int *event_fd;
};

int seccomp_enter(uint32_t kind, const struct seccomp_guard *guard);

/* The same for a worker, in its begin(), by its `calls`. It is no error if the kernel has no filters: worker_walled() is 0 then. */
void seccomp_worker(struct worker *w);

#endif
