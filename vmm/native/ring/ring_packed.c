// SPDX-License-Identifier: Apache-2.0
/*
 * The packed virtqueue (virtio 1.2, 2.8): one ring of descriptors. The guest makes descriptors available, and the
 * device overwrites them with used ones. Two bits of a descriptor, compared with a wrap counter on each side, determine
 * its owner.
 *
 * The device writes used descriptors in completion order, starting at the oldest available one. So they may overwrite
 * descriptors of chains that are still in flight; these are not read again.
 */
#include "ring/ring_struct.h"

#include <errno.h>
#include <stdlib.h>

enum { EVENT_SIZE = 4, EVENT_ALIGN = 4 };
/* The event suppression structure (2.8.14) as one word: offset and wrap in the low half, flags in the high half. */
enum { EVENT_ENABLE = 0, EVENT_DISABLE = 1, EVENT_DESC = 2 };
enum { EVENT_WRAP = 0x8000 };

static int packed_init(struct ring *ring)
{
	const struct ring_config *config = &ring->config;
	void *driver, *device;

	if (config->avail % EVENT_ALIGN || config->used % EVENT_ALIGN || position_index(ring->s->next_avail) >= config->size)
		return -EINVAL;
	driver = mem_ptr(ring->mem, config->avail, EVENT_SIZE);
	device = mem_ptr(ring->mem, config->used, EVENT_SIZE);
	if (!driver || !device)
		return -EFAULT;
	if ((uintptr_t)driver % EVENT_ALIGN || (uintptr_t)device % EVENT_ALIGN)
		return -EINVAL;
	ring->driver_event = driver;
	ring->device_event = device;
	ring->chains = ring->own_chains = calloc(config->size, sizeof(*ring->own_chains));
	return ring->own_chains ? 0 : -ENOMEM;
}

static void packed_deinit(struct ring *ring)
{
	free(ring->own_chains);
	free(ring->log_free);
	free(ring->redo_desc);
}

/*
 * Read a descriptor once: length, id and flags by one load, then the address. The load acquires: having seen the flags,
 * we see everything that the guest wrote before them.
 */
static struct packed_desc packed_copy(const struct ring *ring, uint16_t position)
{
	const uint64_t *from = (const uint64_t *)(const void *)(ring->desc + (size_t)position_index(position) * DESC_SIZE);
	uint64_t high = __atomic_load_n(&from[1], __ATOMIC_ACQUIRE);
	uint64_t addr = __atomic_load_n(&from[0], __ATOMIC_RELAXED);

	return (struct packed_desc){
		.addr = addr,
		.len = (uint32_t)high,
		.id = (uint16_t)(high >> 32),
		.flags = (uint16_t)(high >> 48),
	};
}

static bool packed_pending(struct ring *ring)
{
	uint16_t at = ring->s->next_avail;

	return packed_is_available(__atomic_load_n(packed_flags(ring, at), __ATOMIC_ACQUIRE), at);
}

static int packed_pop(struct ring *ring, struct chain *chain)
{
	struct ring_state *s = ring->s;
	uint16_t at = s->next_avail;
	struct packed_desc p;
	struct desc d;
	uint32_t n = 0;
	int err;

	/* The chain's last descriptor contains its id. Until then, errors name the chain by its first descriptor. */
	chain_begin(chain, position_index(at));
	for (;;) {
		p = packed_copy(ring, at);
		if (!packed_is_available(p.flags, at)) {
			if (n == 0)
				return 0;
			return ring_fail(ring, -EPROTO, "chain %u goes on at descriptor %u, which is not available", chain->head,
					 position_index(at));
		}
		if (unlikely(s->descs + n == ring->config.size))
			return ring_fail(ring, -EPROTO,
					 "descriptor %u is available while the device has all %u of the queue, or a chain is longer",
					 position_index(at), ring->config.size);
		d = (struct desc){ .addr = p.addr, .len = p.len, .flags = p.flags };
		if (ring->log)
			packed_log_desc(ring, n, &d);
		n++;
		if (d.flags & DESC_INDIRECT) {
			if (unlikely(n > 1))
				return ring_fail(ring, -EPROTO, "chain %u has an indirect table behind a buffer", chain->head);
			err = packed_add_indirect(ring, chain, &d);
		} else {
			err = chain_add(ring, chain, &d);
		}
		if (unlikely(err))
			return err;
		at = position_add(ring, at, 1);
		if (!(d.flags & DESC_NEXT))
			break;
	}
	/* The driver chooses the id. Known drivers count from 0, and devices use it as an index for their requests. */
	if (unlikely(p.id >= ring->config.size))
		return ring_fail(ring, -EPROTO, "buffer id %u is available in a queue of %u", p.id, ring->config.size);
	/* With two requests of one id, neither side could tell which one has completed. */
	if (unlikely(ring_is_busy(s, p.id)))
		return ring_fail(ring, -EPROTO, "buffer id %u is available again while the device still has it", p.id);

	chain->head = p.id;
	ring->chains[p.id].position = s->next_avail;
	ring->chains[p.id].count = (uint16_t)n;
	if (ring->log)
		packed_log_pop(ring, p.id, n);
	s->last_pop = p.id;
	/* packed_adopt() relies on this order: the process may be killed between two steps. */
	state_step();
	ring_set_busy(s, p.id);
	state_step();
	s->next_avail = at;
	s->descs += n;
	return 1;
}

/* Only the last chain can be returned: the descriptors of others may be overwritten. */
static int packed_unpop(struct ring *ring, uint32_t head)
{
	const struct ring_chain *c = &ring->chains[head];
	struct ring_state *s = ring->s;

	if (position_add(ring, c->position, c->count) != s->next_avail)
		return -EINVAL;
	if (ring->log)
		packed_log_push(ring, head);
	s->next_avail = c->position;
	s->descs -= c->count;
	ring_clear_busy(s, head);
	return 0;
}

static void packed_push(struct ring *ring, uint32_t head, uint32_t written)
{
	struct ring_state *s = ring->s;
	uint8_t *to = ring->desc + (size_t)position_index(s->next_used) * DESC_SIZE;
	uint16_t flags = (uint16_t)(position_used(s->next_used) | (written ? DESC_WRITE : 0));
	uint32_t count = ring->chains[head].count;

	__atomic_store_n((uint32_t *)(void *)(to + 8), written, __ATOMIC_RELAXED);
	__atomic_store_n((uint16_t *)(void *)(to + 12), (uint16_t)head, __ATOMIC_RELAXED);
	/* The guest reads used descriptors in order, so it sees none of them before the flags of the first. */
	if (s->next_used == s->published)
		s->first_flags = flags;
	else
		__atomic_store_n(packed_flags(ring, s->next_used), flags, __ATOMIC_RELAXED);
	s->last_push = (uint16_t)head;
	/* In this order for packed_adopt(), as in packed_pop(). */
	state_step();
	s->next_used = position_add(ring, s->next_used, count);
	state_step();
	ring_clear_busy(s, head);
	s->descs -= count;
	ring->unsignalled += count;
	if (ring->log)
		packed_log_push(ring, head);
}

static void packed_publish(struct ring *ring)
{
	uint16_t *flags = packed_flags(ring, ring->s->published);

	/* Release: the used descriptors and their buffers' data must be visible before the first flags. */
	__atomic_store_n(flags, ring->s->first_flags, __ATOMIC_RELEASE);
	ring->s->published = ring->s->next_used;
}

static bool packed_signal(struct ring *ring)
{
	uint32_t since = ring->unsignalled, event, behind;
	uint16_t position;

	if (!since)
		return false;
	ring->unsignalled = 0;
	/* The same barrier as in split_signal(). */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	event = __atomic_load_n(ring->driver_event, __ATOMIC_RELAXED);
	switch (event >> 16 & 3) {
	case EVENT_DISABLE:
		return false;
	case EVENT_DESC:
		/*
		 * 2.8.10: the guest wants an interrupt if its event position is within the pushes since the last one.
		 */
		position = (uint16_t)((event & 0xffff) ^ EVENT_WRAP);
		if (!(ring->config.flags & RING_EVENT_IDX) || position_index(position) >= ring->config.size)
			return true;
		behind = position_distance(ring, position, ring->s->published);
		return since >= 2 * ring->config.size || (behind && behind <= since);
	default:
		return true;
	}
}

static void packed_kicks(struct ring *ring, int enable)
{
	uint32_t event = EVENT_DISABLE << 16;

	if (enable && ring->config.flags & RING_EVENT_IDX)
		event = EVENT_DESC << 16 | (uint32_t)(ring->s->next_avail ^ EVENT_WRAP);
	else if (enable)
		event = EVENT_ENABLE << 16;
	__atomic_store_n(ring->device_event, event, __ATOMIC_RELAXED);
}

const struct ring_ops ring_packed_ops = {
	.init = packed_init,
	.deinit = packed_deinit,
	.pending = packed_pending,
	.pop = packed_pop,
	.pop_again = packed_pop_again,
	.unpop = packed_unpop,
	.push = packed_push,
	.publish = packed_publish,
	.signal = packed_signal,
	.kicks = packed_kicks,
	.share = packed_share,
	.adopt = packed_adopt,
};
