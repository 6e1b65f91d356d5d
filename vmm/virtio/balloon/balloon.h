/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-balloon (virtio 1.2, 5.5): gives pages that the guest does not need back to the host. */
#ifndef VMM_NATIVE_BALLOON_H
#define VMM_NATIVE_BALLOON_H

#include "base/native.h"

/* ==== for Python ==== */

enum { BALLOON_INFLATE = 0, BALLOON_DEFLATE = 1, BALLOON_REPORT = 2, BALLOON_HINT = 3 };
/* 5.5.6.7.2: commands of free page hints; from 2 on: the hints of a run. */
enum { BALLOON_HINT_STOP = 0, BALLOON_HINT_DONE = 1 };

struct balloon_memory {
	const struct mem *mem;
	struct fill *fill; /* of RAM that is filled on demand, or NULL */
	uint32_t backing; /* RAM_ANONYMOUS, ... */
	uint32_t hint; /* the command that the host has given */
};

struct balloon_stats {
	uint64_t inflated, deflated; /* pages */
	uint64_t reported;           /* bytes that the guest has reported as free */
	uint64_t released, errors;   /* bytes given back to the host; ranges for which the host refused that */
	uint64_t hint, hinted;       /* the last command of the guest; the run that it has ended last */
};

/*
 * Serve a bounded number of chains of one queue, on the calling thread. iov: RING_MAX_SEGMENTS entries. Returns the number
 * of chains pushed (the caller calls ring_flush()); or the latched -errno: the guest broke the ring, or named a page that
 * is not RAM.
 */
int balloon_run(const struct balloon_memory *memory, int what, struct ring *ring, struct iovec *iov, struct balloon_stats *stats);

/* ==== end ==== */

#endif
