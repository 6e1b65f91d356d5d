// SPDX-License-Identifier: Apache-2.0
/* The split virtqueue (virtio 1.2, 2.7): a descriptor table, and a ring for each direction. */
#include <errno.h>

#include "ring/ring_struct.h"

enum { AVAIL_NO_INTERRUPT = 1, USED_NO_NOTIFY = 1 };
enum { AVAIL_ALIGN = 2, USED_ALIGN = 4 };

static int split_init(struct ring *ring)
{
	const struct ring_config *config = &ring->config;
	uint64_t size = config->size;
	uint8_t *avail, *used;

	if (size & (size - 1) || config->avail % AVAIL_ALIGN || config->used % USED_ALIGN)
		return -EINVAL;
	/* used_event and avail_event belong to the layout even without EVENT_IDX (2.7). */
	avail = mem_ptr(ring->mem, config->avail, 6 + 2 * size);
	used = mem_ptr(ring->mem, config->used, 6 + 8 * size);
	if (!avail || !used)
		return -EFAULT;
	if ((uintptr_t)avail % AVAIL_ALIGN || (uintptr_t)used % USED_ALIGN)
		return -EINVAL;
	ring->mask = (uint16_t)(size - 1);
	ring->avail = (const uint16_t *)avail;
	ring->avail_ring = ring->avail + 2;
	ring->used_event = ring->avail_ring + size;
	ring->used = (uint16_t *)used;
	ring->used_ring = (struct used_elem *)(used + 4);
	ring->avail_event = (uint16_t *)(used + 4 + 8 * size);
	ring->avail_idx = ring->s->next_avail;
	return 0;
}

/*
 * An indirect table replaces the last descriptor of a chain (2.7.5.3).
 *
 * chain->max limits the number of buffers, not the queue size: Linux makes tables longer than its queue if little
 * memory forced a small queue. Each iteration adds a buffer, so a loop also ends at that limit.
 */
static int split_add_indirect(struct ring *ring, struct chain *chain, const struct desc *at)
{
	const uint8_t *table = chain_indirect(ring, chain, at);
	uint32_t count = at->len / DESC_SIZE, i = 0;
	int err;

	if (!table)
		return ring->error;
	for (;;) {
		const struct desc d = desc_copy(table + (size_t)i * DESC_SIZE);

		if (unlikely(d.flags & DESC_INDIRECT))
			return ring_fail(ring, -EPROTO, "chain %u has an indirect table in an indirect table", chain->head);
		err = chain_add(ring, chain, &d);
		if (unlikely(err))
			return err;
		if (!(d.flags & DESC_NEXT))
			return 0;
		i = d.next;
		if (unlikely(i >= count))
			return ring_fail(ring, -EPROTO, "chain %u goes on at entry %u of an indirect table of %u",
					 chain->head, i, count);
	}
}

static int split_fill(struct ring *ring, struct chain *chain)
{
	uint32_t i = chain->head, hops = 0;
	int err;

	for (;;) {
		const struct desc d = desc_copy(ring->desc + (size_t)i * DESC_SIZE);

		if (d.flags & DESC_INDIRECT)
			return split_add_indirect(ring, chain, &d);
		err = chain_add(ring, chain, &d);
		if (unlikely(err))
			return err;
		if (!(d.flags & DESC_NEXT))
			return 0;
		i = d.next;
		if (unlikely(i > ring->mask))
			return ring_fail(ring, -EPROTO, "chain %u goes on at descriptor %u of a queue of %u", chain->head,
					 i, ring->config.size);
		if (unlikely(++hops > ring->mask))
			return ring_fail(ring, -EPROTO, "chain %u has more descriptors than the queue (%u): a loop",
					 chain->head, ring->config.size);
	}
}

/* Read avail.idx with acquire: having seen the new index, we see everything that the guest wrote before it. */
static bool split_pending(struct ring *ring)
{
	if (ring->avail_idx != ring->s->next_avail)
		return true;
	ring->avail_idx = __atomic_load_n(&ring->avail[1], __ATOMIC_ACQUIRE);
	return ring->avail_idx != ring->s->next_avail;
}

static int split_pop(struct ring *ring, struct chain *chain)
{
	uint16_t head, ahead;
	int err;

	if (!split_pending(ring))
		return 0;
	ahead = (uint16_t)(ring->avail_idx - ring->s->next_avail);
	if (unlikely(ahead > ring->config.size))
		return ring_fail(ring, -EPROTO, "avail.idx %u is %u ahead of the device in a queue of %u",
				 ring->avail_idx, ahead, ring->config.size);
	head = __atomic_load_n(&ring->avail_ring[ring->s->next_avail & ring->mask], __ATOMIC_RELAXED);
	if (unlikely(head > ring->mask))
		return ring_fail(ring, -EPROTO, "head %u is available in a queue of %u", head, ring->config.size);
	/*
	 * Two requests on one chain would write the same buffers, which the guest may reuse once the first completes.
	 */
	if (unlikely(ring_is_busy(ring->s, head)))
		return ring_fail(ring, -EPROTO, "head %u is available again while the device still has it", head);

	chain_begin(chain, head);
	err = split_fill(ring, chain);
	if (unlikely(err))
		return err;
	ring_set_busy(ring->s, head);
	state_step();
	ring->s->next_avail++;
	return 1;
}

static int split_unpop(struct ring *ring, uint32_t head)
{
	if (ring->s->next_avail == ring->s->next_used)
		return -EINVAL;
	ring_clear_busy(ring->s, head);
	ring->s->next_avail--;
	return 0;
}

static void split_push(struct ring *ring, uint32_t head, uint32_t written)
{
	struct used_elem *e = &ring->used_ring[ring->s->next_used & ring->mask];

	__atomic_store_n(&e->id, head, __ATOMIC_RELAXED);
	__atomic_store_n(&e->len, written, __ATOMIC_RELAXED);
	/* split_adopt() relies on this order: the process may be killed between two steps. */
	state_step();
	ring->s->next_used++;
	state_step();
	ring_clear_busy(ring->s, head);
}

static void split_publish(struct ring *ring)
{
	ring->s->published = ring->s->next_used;
	/* Release: the used entries and their buffers' data must be visible before the index. */
	__atomic_store_n(&ring->used[1], ring->s->published, __ATOMIC_RELEASE);
}

static bool split_signal(struct ring *ring)
{
	uint16_t from = ring->s->signalled, to = ring->s->published, event;

	if (from == to)
		return false;
	ring->s->signalled = to;
	/*
	 * used.idx must be visible before used_event (or the flag) is read. The guest writes used_event, then reads
	 * used.idx. With a full barrier on both sides, at least one side sees the other's write, so no interrupt is
	 * lost.
	 */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (!(ring->config.flags & RING_EVENT_IDX))
		return !(__atomic_load_n(&ring->avail[0], __ATOMIC_RELAXED) & AVAIL_NO_INTERRUPT);
	/* 2.7.7.2: the guest wants an interrupt if used_event is in from .. to-1. */
	event = __atomic_load_n(ring->used_event, __ATOMIC_RELAXED);
	return (uint16_t)(to - event - 1) < (uint16_t)(to - from);
}

static void split_kicks(struct ring *ring, int enable)
{
	if (!(ring->config.flags & RING_EVENT_IDX))
		__atomic_store_n(&ring->used[0], enable ? 0 : USED_NO_NOTIFY, __ATOMIC_RELAXED);
	else if (enable)
		__atomic_store_n(ring->avail_event, ring->s->next_avail, __ATOMIC_RELAXED);
	/* With EVENT_IDX a stale avail_event suppresses kicks: the guest reaches it again only after 65536 chains. */
}

static int split_share(struct ring *ring, struct ring_state *state)
{
	*state = *ring->s;
	ring->s = state;
	return 0;
}

/*
 * The indices count one busy head too few: the process was killed in split_pop() before next_avail moved, or in
 * split_push() after next_used moved. In the first case, the head is next in the available ring.
 */
static void split_adopt_interrupted(struct ring *ring, struct ring_state *s)
{
	uint16_t head = __atomic_load_n(&ring->avail_ring[s->next_avail & ring->mask], __ATOMIC_RELAXED);

	if (__atomic_load_n(&ring->avail[1], __ATOMIC_ACQUIRE) != s->next_avail && ring_is_busy(s, head)) {
		s->next_avail++;
		return;
	}
	head = (uint16_t)__atomic_load_n(&ring->used_ring[(uint16_t)(s->next_used - 1) & ring->mask].id, __ATOMIC_RELAXED);
	if (ring_is_busy(s, head))
		ring_clear_busy(s, head);
}

static int split_adopt(struct ring *ring, struct ring_state *s, const struct ring_state *state)
{
	uint32_t n = s->in_flight;

	(void)state;
	if (n == (uint32_t)(uint16_t)(s->next_avail - s->next_used) + 1) {
		split_adopt_interrupted(ring, s);
		n = s->in_flight;
	}
	if (n != (uint16_t)(s->next_avail - s->next_used) || n > ring->config.size)
		return -EPROTO;
	/* The last pushes may be unpublished: publish them now. The caller interrupts the guest. */
	s->published = s->signalled = s->next_used;
	ring->avail_idx = s->next_avail;
	__atomic_store_n(&ring->used[1], s->published, __ATOMIC_RELEASE);
	return (int)n;
}

const struct ring_ops ring_split_ops = {
	.init = split_init,
	.pending = split_pending,
	.pop = split_pop,
	.pop_again = split_fill, /* reads the descriptors again: unchanged while the chain is in flight */
	.unpop = split_unpop,
	.push = split_push,
	.publish = split_publish,
	.signal = split_signal,
	.kicks = split_kicks,
	.share = split_share,
	.adopt = split_adopt,
};
