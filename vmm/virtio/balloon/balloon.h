/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-balloon (virtio 1.2, 5.5): pages that the guest does without go back to the host. */
#ifndef VMM_NATIVE_BALLOON_H
#define VMM_NATIVE_BALLOON_H

#include "base/native.h"

/* ==== for Python ==== */

enum { BALLOON_INFLATE = 0, BALLOON_DEFLATE = 1, BALLOON_REPORT = 2 };

/* How RAM gives pages back: anonymous; a file that others map too; or a private mapping over a file (a snapshot's). */
enum { BALLOON_ANONYMOUS = 0, BALLOON_SHARED = 1, BALLOON_OVER_FILE = 2 };

struct balloon_memory {
	const struct mem *mem;
	struct fill *fill; /* of RAM that is filled on demand, or NULL */
	uint32_t backing; /* BALLOON_ANONYMOUS, ... */
	uint32_t pad;
};

struct balloon_stats {
	uint64_t inflated, deflated; /* pages that the guest has named */
	uint64_t reported;           /* bytes that it has reported as free */
	uint64_t released, errors;   /* bytes given back to the host; ranges that the host did not take */
};

/*
 * Serve chains of one queue, a bounded number; not locked, no worker. iov: room for RING_MAX_SEGMENTS. Returns how many were
 * pushed, for ring_flush() to publish; or -errno, latched: the guest broke the ring, or named a page that is not RAM.
 */
int balloon_run(const struct balloon_memory *memory, int what, struct ring *ring, struct iovec *iov, struct balloon_stats *stats);

/* ==== end ==== */

#endif
