/* SPDX-License-Identifier: Apache-2.0 */
/* System calls: each kind of thread has a list of allowed calls (table.h); any other call ends the machine. */
#ifndef VMM_NATIVE_CALLS_H
#define VMM_NATIVE_CALLS_H

#include "dataplane/worker.h"

/*
 * Restrict the calling thread alone, permanently, to the system calls of one kind (SECCOMP_BLK etc.). Any other call is
 * not made: *nr receives its number, *event_fd is signalled, and the thread waits for *stop and ends. Without a guard,
 * it ends the process. 0; or -errno: the kernel has no seccomp filters, or an existing filter forbids another one.
 */
struct seccomp_guard {
	int *nr;             /* atomic */
	const bool *stop;    /* atomic */
	const int *event_fd;
};

int seccomp_enter(uint32_t kind, const struct seccomp_guard *guard);

/*
 * The same for a worker, called from its begin(), with its `calls`. Without kernel support it does nothing, and
 * worker_walled() stays 0.
 */
void seccomp_worker(struct worker *w);

#endif
