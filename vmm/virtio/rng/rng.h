/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-rng (virtio 1.2, 5.4): random bytes of the host for the guest. */
#ifndef VMM_NATIVE_RNG_H
#define VMM_NATIVE_RNG_H

#include "base/native.h"
#include "dataplane/worker.h"

/* ==== for Python ==== */

/* At most so many bytes for one request: the guest chooses its length, and the time of the host is not the guest's. */
enum { RNG_MAX_REQUEST = 65536 };

/* A device, whose worker writes the counters. */
struct rng {
	int32_t fd;                      /* of the source, non-blocking; -1: getrandom(2) */
	uint32_t pad;
	struct limit *limit;             /* of bytes; NULL: none */
	uint64_t requests, bytes, empty; /* answered; bytes of them; how often the source had nothing */
};

/* Start the worker of the queue; one at a time. event_fd is signalled when the ring has an error, or the source fails:
 * worker_error() is its errno, ENODATA if it has ended. */
struct worker *rng_start(struct rng *rng, struct ring *ring, int kick_fd, struct irq *irq, int event_fd, int *err);

/* ==== end ==== */

#endif
