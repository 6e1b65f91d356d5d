// SPDX-License-Identifier: Apache-2.0
/*
 * A virtqueue, device side (virtio 1.2, 2.7 and 2.8): the part that both formats share. ring_new() selects the format.
 * Only these files, ring*.c, parse rings.
 *
 * The guest can write all three areas at any time, from another CPU. So each index and descriptor is read exactly once
 * into a local variable, which is validated and used. The device never reads back what it wrote there. When the guest
 * breaks a rule, the first error and its description are latched until the ring is freed, and nothing more is popped.
 *
 * There is no lock: one thread at a time uses a ring.
 */
#include <errno.h>
#include <stdlib.h>

#include "ring/ring_struct.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "virtio 1.x rings are little-endian");

struct ring *ring_new(const struct mem *mem, const struct ring_config *config, int *err)
{
	struct ring *ring;

	*err = -EINVAL;
	if (config->size == 0 || config->size > RING_MAX_SIZE)
		return NULL;
	if (config->flags & ~(uint32_t)(RING_EVENT_IDX | RING_INDIRECT | RING_PACKED))
		return NULL;
	if (config->desc % DESC_SIZE)
		return NULL;
	/* ring_save() accepts only a ring without requests in flight; a state with one would lose it. */
	if (config->next_avail > UINT16_MAX || config->next_used != config->next_avail)
		return NULL;

	*err = -ENOMEM;
	ring = calloc(1, sizeof(*ring));
	if (!ring)
		return NULL;
	ring->mem = mem;
	ring->config = *config;
	ring->ops = config->flags & RING_PACKED ? &ring_packed_ops : &ring_split_ops;
	ring->s = &ring->own;
	ring->s->next_avail = (uint16_t)config->next_avail;
	ring->s->next_used = ring->s->published = ring->s->signalled = (uint16_t)config->next_used;
	*err = -EFAULT;
	ring->desc = mem_ptr(mem, config->desc, (uint64_t)config->size * DESC_SIZE);
	if (ring->desc) {
		/*
		 * RAM is mapped by pages, so alignment of the guest address carries over, unless the caller made odd
		 * regions.
		 */
		*err = (uintptr_t)ring->desc % DESC_SIZE ? -EINVAL : ring->ops->init(ring);
	}
	if (*err) {
		free(ring);
		return NULL;
	}
	return ring;
}

void ring_free(struct ring *ring)
{
	if (!ring)
		return;
	if (ring->ops->deinit)
		ring->ops->deinit(ring);
	free(ring);
}

bool ring_pending(struct ring *ring)
{
	return ring->nredo || ring->ops->pending(ring);
}

/* Return a head again that another process had popped but not pushed when it ended. */
static int ring_pop_again(struct ring *ring, struct chain *chain)
{
	uint32_t word = 0;
	int err;

	while (!ring->redo[word])
		word++;
	chain_begin(chain, word * 64 + (uint32_t)__builtin_ctzll(ring->redo[word]));
	err = ring->ops->pop_again(ring, chain);
	if (unlikely(err))
		return err;
	ring->redo[word] &= ring->redo[word] - 1;
	ring->nredo--;
	return 1;
}

int ring_pop(struct ring *ring, struct chain *chain)
{
	if (unlikely(ring->error))
		return ring->error;
	if (unlikely(ring->nredo))
		return ring_pop_again(ring, chain);
	return ring->ops->pop(ring, chain);
}

int ring_unpop(struct ring *ring, uint32_t head)
{
	return ring_is_busy(ring->s, head) ? ring->ops->unpop(ring, head) : -EINVAL;
}

int ring_push(struct ring *ring, uint32_t head, uint32_t written)
{
	/* Pushing a head twice is a bug of the device, not an error of the guest. */
	if (!ring_is_busy(ring->s, head))
		return -EINVAL;
	ring->ops->push(ring, head, written);
	return 0;
}

void ring_publish(struct ring *ring)
{
	if (ring->s->published != ring->s->next_used)
		ring->ops->publish(ring);
}

/* After an error this still publishes earlier pushes: those chains were valid. */
int ring_flush(struct ring *ring)
{
	ring_publish(ring);
	return ring->ops->signal(ring);
}

int ring_kicks(struct ring *ring, int enable)
{
	ring->ops->kicks(ring, enable);
	if (!enable)
		return 0;
	/*
	 * The request for a kick must be visible before the ring is read. A guest that added a chain before it saw the
	 * request did not kick, so check for that chain here.
	 */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return !ring->error && ring_pending(ring);
}

const char *ring_error(const struct ring *ring)
{
	return ring->error ? ring->reason : NULL;
}

uint32_t ring_size(const struct ring *ring)
{
	return ring->config.size;
}

uint32_t ring_in_flight(const struct ring *ring)
{
	return ring->s->in_flight;
}

int ring_save(const struct ring *ring, struct ring_config *out)
{
	if (ring->error)
		return ring->error;
	if (ring->s->in_flight || ring->s->published != ring->s->next_used)
		return -EBUSY;
	*out = ring->config;
	out->next_avail = ring->s->next_avail;
	out->next_used = ring->s->next_used;
	return 0;
}

/*
 * Two processes can share the device's state of a ring. If the process that serves the ring dies, at any instruction,
 * the other one adopts the ring.
 */
int ring_share(struct ring *ring, struct ring_state *state)
{
	return ring->ops->share(ring, state);
}

int ring_adopt(struct ring *ring, const struct ring_state *state)
{
	struct ring_state s = *state;
	int n;

	/* Validate a copy: the process that wrote the state may be hostile and still running. */
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
