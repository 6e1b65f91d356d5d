// SPDX-License-Identifier: Apache-2.0
/*
 * A ring that changes hands: what the device remembers of it lies in memory that two processes see, and when the one that
 * serves the ring is gone, stopped or killed in the middle of anything, the other goes on.
 */
#include <errno.h>
#include <string.h>

#include "ring_struct.h"

void ring_share(struct ring *ring, struct ring_state *state)
{
	*state = *ring->s;
	ring->s = state;
}

static uint32_t count_busy(const struct ring_state *s)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < RING_MAX_SIZE / 64; i++)
		n += (uint32_t)__builtin_popcountll(s->busy[i]);
	return n;
}

static bool is_busy(const struct ring_state *s, uint32_t head)
{
	return head < RING_MAX_SIZE && s->busy[head / 64] >> (head % 64) & 1;
}

/*
 * One head is busy that the indices do not know of: it died in ring_pop(), before the index moved, or in ring_push(),
 * after the index moved. In the first case the head is the next to pop.
 */
static void adopt_interrupted(struct ring *ring, struct ring_state *s)
{
	uint16_t head = __atomic_load_n(&ring->avail_ring[s->next_avail & ring->mask], __ATOMIC_RELAXED);

	if (__atomic_load_n(&ring->avail[1], __ATOMIC_ACQUIRE) != s->next_avail && is_busy(s, head)) {
		s->next_avail++;
		return;
	}
	head = (uint16_t)__atomic_load_n(&ring->used_ring[(uint16_t)(s->next_used - 1) & ring->mask].id, __ATOMIC_RELAXED);
	if (is_busy(s, head))
		s->busy[head / 64] &= ~(1ULL << (head % 64));
}

int ring_adopt(struct ring *ring, const struct ring_state *state)
{
	struct ring_state s = *state;
	uint32_t n;

	/* The copy is what we look at: whoever wrote this may be an enemy that is still there. */
	__asm__ volatile("" : : "r"(&s) : "memory");
	for (uint32_t head = ring->config.size; head < RING_MAX_SIZE; head++)
		if (is_busy(&s, head))
			return -EPROTO;
	n = count_busy(&s);
	if (n == (uint32_t)(uint16_t)(s.next_avail - s.next_used) + 1) {
		adopt_interrupted(ring, &s);
		n = count_busy(&s);
	}
	if (n != (uint16_t)(s.next_avail - s.next_used) || n > ring->config.size)
		return -EPROTO;
	/* Whether the guest has seen the last pushes, and had its interrupt, is not known: it sees them now. */
	s.published = s.signalled = s.next_used;
	s.in_flight = n;
	*ring->s = s;
	memcpy(ring->redo, s.busy, sizeof(ring->redo));
	ring->nredo = n;
	ring->avail_idx = s.next_avail;
	__atomic_store_n(&ring->used[1], s.published, __ATOMIC_RELEASE);
	return (int)n;
}
