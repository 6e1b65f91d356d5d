/* SPDX-License-Identifier: Apache-2.0 */
/* A ring from inside: for ring.c, and for ring_adopt.c, which makes one of what another left behind. */
#ifndef VMM_NATIVE_RING_STRUCT_H
#define VMM_NATIVE_RING_STRUCT_H

#include "ring.h"

struct used_elem {
	uint32_t id, len;
};

struct ring {
	const struct mem *mem;
	const uint8_t *desc;
	const uint16_t *avail;  /* flags, idx, ring[size], used_event */
	uint16_t *used;         /* flags, idx */
	struct used_elem *used_ring;
	const uint16_t *avail_ring, *used_event;
	uint16_t *avail_event;
	uint16_t mask;
	uint16_t avail_idx;     /* the guest's index as last read; what lies before it may be popped */
	struct ring_state *s;   /* own, or where ring_share() put it */
	int error;
	struct ring_config config;
	char reason[160];
	uint32_t nredo;         /* bits in redo */
	uint64_t redo[RING_MAX_SIZE / 64]; /* heads to pop again, from ring_adopt() */
	struct ring_state own;
};

_Static_assert(sizeof(struct ring_state) <= RING_STATE_STRIDE, "states lie side by side in shared memory");

#endif
