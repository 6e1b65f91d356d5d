/* SPDX-License-Identifier: Apache-2.0 */
/* The packed virtqueue from inside: for ring_packed.c and ring_packed_log.c. */
#ifndef VMM_NATIVE_RING_PACKED_H
#define VMM_NATIVE_RING_PACKED_H

#include "ring/ring_struct.h"

/*
 * A place in the ring: the index of a descriptor, and with POSITION_ODD the wrap counter is 0 (2.8.1). A new ring is at
 * place 0, with both wrap counters 1.
 */
enum { POSITION_ODD = 0x8000 };

static inline uint16_t position_index(uint16_t position)
{
	return position & (uint16_t)~POSITION_ODD;
}

/* n is at most the size of the ring. */
static inline uint16_t position_add(const struct ring *ring, uint16_t position, uint32_t n)
{
	uint32_t index = position_index(position) + n;

	if (index < ring->config.size)
		return (uint16_t)(position + n);
	return (uint16_t)((index - ring->config.size) | ((position & POSITION_ODD) ^ POSITION_ODD));
}

/* How many descriptors `to` lies behind `from`, below two rounds. */
static inline uint32_t position_distance(const struct ring *ring, uint16_t from, uint16_t to)
{
	uint32_t size = ring->config.size, distance = position_index(to) + 2 * size - position_index(from);

	if ((from ^ to) & POSITION_ODD)
		distance += size;
	return distance % (2 * size);
}

/* A descriptor of the ring, copied (2.8.13). */
struct packed_desc {
	uint64_t addr;
	uint32_t len;
	uint16_t id, flags;
};

enum { PACKED_AVAIL = 0x80, PACKED_USED = 0x8000 };

/* The bits of a descriptor that the guest made available, and of one that the device gave back, at this place (2.8.1). */
static inline uint16_t position_available(uint16_t position)
{
	return position & POSITION_ODD ? PACKED_USED : PACKED_AVAIL;
}

static inline uint16_t position_used(uint16_t position)
{
	return position & POSITION_ODD ? 0 : PACKED_AVAIL | PACKED_USED;
}

static inline uint16_t *packed_flags(const struct ring *ring, uint16_t position)
{
	return (uint16_t *)(void *)(ring->desc + (size_t)position_index(position) * DESC_SIZE + 14);
}

static inline bool packed_is_available(uint16_t flags, uint16_t position)
{
	return (flags & (PACKED_AVAIL | PACKED_USED)) == position_available(position);
}

/* In ring_chain.c. */
int packed_add_indirect(struct ring *ring, struct chain *chain, const struct desc *at);

/* Note the nth descriptor of the chain that is being popped. */
void packed_log_desc(struct ring *ring, uint32_t n, const struct desc *d);
/* The chain that was noted is that of this buffer. */
void packed_log_pop(struct ring *ring, uint32_t id, uint32_t n);
/* It is given back. */
void packed_log_push(struct ring *ring, uint32_t id);

int packed_share(struct ring *ring, struct ring_state *state);
int packed_adopt(struct ring *ring, struct ring_state *s, const struct ring_state *state);
int packed_pop_again(struct ring *ring, struct chain *chain);

#endif
