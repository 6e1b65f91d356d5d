// SPDX-License-Identifier: Apache-2.0
/*
 * Lets another process adopt a packed ring. Used descriptors may overwrite those of chains in flight (ring_packed.c).
 * So a log beside the shared state keeps copies of them.
 */
#include <errno.h>
#include <stdlib.h>

#include "ring/ring_struct.h"

_Static_assert(sizeof(struct ring_state) <= RING_LOG_OFFSET, "the log lies behind the state");
_Static_assert(RING_LOG_OFFSET + sizeof(struct ring_log) <= RING_STATE_STRIDE, "states lie side by side in shared memory");

static struct ring_log *log_of(const struct ring_state *state)
{
	return (struct ring_log *)((uintptr_t)state + RING_LOG_OFFSET);
}

/* The log never overflows: it has as many entries as the ring, and a chain uses one for each of its descriptors. */
void packed_log_desc(struct ring *ring, uint32_t n, const struct desc *d)
{
	uint16_t at = ring->log_free[ring->nlog_free - 1 - n];

	ring->log->desc[at] = (struct ring_log_desc){
		.addr = d->addr,
		.len = d->len,
		.flags = d->flags,
		.next = n + 1 < ring->nlog_free ? ring->log_free[ring->nlog_free - 2 - n] : 0,
	};
}

void packed_log_pop(struct ring *ring, uint32_t id, uint32_t n)
{
	ring->chains[id].first = ring->log_free[ring->nlog_free - 1];
	ring->nlog_free -= n;
}

void packed_log_push(struct ring *ring, uint32_t id)
{
	uint16_t at = ring->chains[id].first;

	/*
	 * Only this process writes the log. Wrong values break only its own ring; the bounds end the loop in any case.
	 */
	for (uint32_t n = ring->chains[id].count; n && at < ring->config.size && ring->nlog_free < ring->config.size; n--) {
		ring->log_free[ring->nlog_free++] = at;
		at = ring->log->desc[at].next;
	}
}

int packed_share(struct ring *ring, struct ring_state *state)
{
	struct ring_log *log = log_of(state);

	ring->log_free = malloc(ring->config.size * sizeof(*ring->log_free));
	if (!ring->log_free)
		return -ENOMEM;
	for (ring->nlog_free = 0; ring->nlog_free < ring->config.size; ring->nlog_free++)
		ring->log_free[ring->nlog_free] = (uint16_t)(ring->config.size - 1 - ring->nlog_free);
	memcpy(log->chain, ring->chains, ring->config.size * sizeof(*ring->chains));
	*state = *ring->s;
	ring->s = state;
	ring->chains = log->chain;
	ring->log = log;
	return 0;
}

/* Validate the log. Returns the number of descriptors of all chains in flight; -EPROTO: invalid. */
static int count_descs(const struct ring *ring, const struct ring_state *s)
{
	uint32_t sum = 0;

	for (uint32_t id = 0; id < ring->config.size; id++) {
		const struct ring_chain *c = &ring->own_chains[id];
		uint32_t at = c->first;

		if (!ring_is_busy(s, id))
			continue;
		if (c->count == 0 || c->count > ring->config.size || position_index(c->position) >= ring->config.size)
			return -EPROTO;
		for (uint32_t n = c->count; n; n--, at = ring->redo_desc[at].next)
			if (at >= ring->config.size)
				return -EPROTO;
		sum += c->count;
	}
	return (int)sum;
}

/*
 * Complete an interrupted step: the process was killed within packed_pop() or packed_push(). The chain is busy, but
 * next_avail does not count it yet, or next_used counts it already.
 */
static void adopt_interrupted(const struct ring *ring, struct ring_state *s)
{
	const struct ring_chain *chains = ring->own_chains;

	if (s->last_pop < ring->config.size && ring_is_busy(s, s->last_pop) &&
	    chains[s->last_pop].position == s->next_avail)
		s->next_avail = position_add(ring, s->next_avail, chains[s->last_pop].count);
	else if (s->last_push < ring->config.size && ring_is_busy(s, s->last_push))
		ring_clear_busy(s, s->last_push);
}

/* Publish pushes that may be unpublished, unless the guest has already reused the descriptor. */
static void publish_again(struct ring *ring, struct ring_state *s)
{
	uint16_t flags = (uint16_t)(position_used(s->published) | (s->first_flags & DESC_WRITE));

	if (s->published != s->next_used &&
	    packed_is_available(__atomic_load_n(packed_flags(ring, s->published), __ATOMIC_RELAXED), s->published))
		__atomic_store_n(packed_flags(ring, s->published), flags, __ATOMIC_RELEASE);
	s->published = s->next_used;
}

int packed_adopt(struct ring *ring, struct ring_state *s, const struct ring_state *state)
{
	const struct ring_log *log = log_of(state);
	uint32_t size = ring->config.size, distance;
	int descs;

	if (!ring->redo_desc)
		ring->redo_desc = malloc(size * sizeof(*ring->redo_desc));
	if (!ring->redo_desc)
		return -ENOMEM;
	if (position_index(s->next_avail) >= size || position_index(s->next_used) >= size ||
	    position_index(s->published) >= size)
		return -EPROTO;
	/* Copy first, then validate the copy, as for the state. */
	memcpy(ring->own_chains, log->chain, size * sizeof(*ring->own_chains));
	memcpy(ring->redo_desc, log->desc, size * sizeof(*ring->redo_desc));
	__asm__ volatile("" : : "r"(ring->own_chains), "r"(ring->redo_desc) : "memory");
	descs = count_descs(ring, s);
	if (descs < 0)
		return descs;
	if ((uint32_t)descs != position_distance(ring, s->next_used, s->next_avail)) {
		adopt_interrupted(ring, s);
		descs = count_descs(ring, s);
	}
	distance = position_distance(ring, s->next_used, s->next_avail);
	if ((uint32_t)descs != distance || distance > size)
		return -EPROTO;
	s->descs = distance;
	publish_again(ring, s);
	return (int)s->in_flight;
}

int packed_pop_again(struct ring *ring, struct chain *chain)
{
	const struct ring_chain *c = &ring->own_chains[chain->head];
	uint32_t at = c->first;
	int err = 0;

	for (uint32_t n = c->count; n && !err; n--) {
		const struct desc *d = &ring->redo_desc[at];

		err = d->flags & DESC_INDIRECT ? packed_add_indirect(ring, chain, d) : chain_add(ring, chain, d);
		at = d->next;
	}
	return err;
}

_Static_assert(sizeof(struct desc) == sizeof(struct ring_log_desc), "one is copied into the other");
