// SPDX-License-Identifier: Apache-2.0
/*
 * A ring that changes hands: what the device remembers of it lies in memory that two processes see, and when the one that
 * serves the ring is gone, stopped or killed in the middle of anything, the other goes on.
 */
#include <errno.h>

#include "ring/ring_struct.h"

int ring_share(struct ring *ring, struct ring_state *state)
{
	return ring->ops->share(ring, state);
}

int ring_adopt(struct ring *ring, const struct ring_state *state)
{
	struct ring_state s = *state;
	int n;

	/* The copy is what we look at: whoever wrote this may be an enemy that is still there. */
	__asm__ volatile("" : : "r"(&s) : "memory");
	s.in_flight = 0;
	for (uint32_t head = 0; head < RING_MAX_SIZE; head++) {
		if (!ring_is_busy(&s, head))
			continue;
		if (head >= ring->config.size)
			return -EPROTO;
		s.in_flight++;
	}
	n = ring->ops->adopt(ring, &s, state);
	if (n < 0)
		return n;
	*ring->s = s;
	memcpy(ring->redo, s.busy, sizeof(ring->redo));
	ring->nredo = s.in_flight;
	return n;
}
