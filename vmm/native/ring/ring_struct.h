/* SPDX-License-Identifier: Apache-2.0 */
/* Internals of a ring, for ring.c and the two formats, ring_split.c and ring_packed.c. */
#ifndef VMM_NATIVE_RING_STRUCT_H
#define VMM_NATIVE_RING_STRUCT_H

#include <string.h>

#include "ring/ring.h"

enum { DESC_NEXT = 1, DESC_WRITE = 2, DESC_INDIRECT = 4 };
enum { DESC_SIZE = 16 };

/* A copy of a descriptor in the split layout. A packed one has no next, and its buffer id precedes the flags. */
struct desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags, next;
};

struct used_elem {
	uint32_t id, len;
};

/* The operations of a format, called by the functions of ring.c. */
struct ring_ops {
	/* Validate the format's part of the configuration and set up the ring. 0 or -errno. */
	int (*init)(struct ring *ring);
	/* Free the allocations of init(), share() and adopt(). May be NULL. */
	void (*deinit)(struct ring *ring);
	bool (*pending)(struct ring *ring);
	/* Like ring_pop(), for a ring without an error. */
	int (*pop)(struct ring *ring, struct chain *chain);
	/* Read the chain of chain->head again, which was popped before. 0 or the latched error. */
	int (*pop_again)(struct ring *ring, struct chain *chain);
	/* Like ring_unpop(); head is busy. */
	int (*unpop)(struct ring *ring, uint32_t head);
	void (*push)(struct ring *ring, uint32_t head, uint32_t written);
	void (*publish)(struct ring *ring);
	/* Whether the guest wants an interrupt for what was published since the last call. */
	bool (*signal)(struct ring *ring);
	void (*kicks)(struct ring *ring, int enable);
	/* Move the state to memory of RING_STATE_STRIDE bytes. 0 or -ENOMEM. */
	int (*share)(struct ring *ring, struct ring_state *state);
	/* Validate *s, a copy of *state, and continue from it. Returns the number of chains in flight, or -errno. */
	int (*adopt)(struct ring *ring, struct ring_state *s, const struct ring_state *state);
};

extern const struct ring_ops ring_split_ops, ring_packed_ops;

struct ring {
	const struct mem *mem;
	const struct ring_ops *ops;
	struct ring_state *s;   /* &own, or the shared memory of ring_share() */
	uint8_t *desc;
	union {
		struct {
			const uint16_t *avail;  /* flags, idx, ring[size], used_event */
			uint16_t *used;         /* flags, idx */
			struct used_elem *used_ring;
			const uint16_t *avail_ring, *used_event;
			uint16_t *avail_event;
			uint16_t mask;
			uint16_t avail_idx; /* the last value read of avail.idx; entries before it may be popped */
		};
		struct {
			const uint32_t *driver_event; /* whether the guest wants an interrupt */
			uint32_t *device_event;       /* whether the device wants a kick */
			struct ring_chain *chains;    /* by buffer id; own_chains, or in shared memory */
			struct ring_chain *own_chains;
			struct ring_log *log;         /* in shared memory, or NULL */
			uint16_t *log_free;           /* the nlog_free free entries of the log */
			uint32_t nlog_free;
			uint32_t unsignalled;         /* descriptors pushed since the last signal() */
			struct desc *redo_desc;       /* descriptors of the chains in redo */
		};
	};
	int error;
	struct ring_config config;
	char reason[160];
	uint32_t nredo;         /* number of bits set in redo */
	uint64_t redo[RING_MAX_SIZE / 64]; /* heads that ring_adopt() found in flight, to pop again */
	struct ring_state own;
};

/* Orders stores for the compiler. A CPU barrier is not needed: the reader starts after this process has ended. */
static inline void state_step(void)
{
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
}

static inline bool ring_is_busy(const struct ring_state *s, uint32_t head)
{
	return head < RING_MAX_SIZE && s->busy[head / 64] >> (head % 64) & 1;
}

static inline void ring_set_busy(struct ring_state *s, uint32_t head)
{
	s->busy[head / 64] |= 1ULL << (head % 64);
	s->in_flight++;
}

static inline void ring_clear_busy(struct ring_state *s, uint32_t head)
{
	s->busy[head / 64] &= ~(1ULL << (head % 64));
	s->in_flight--;
}

static inline void chain_begin(struct chain *chain, uint32_t head)
{
	chain->head = head;
	chain->nread = chain->nwrite = 0;
	chain->read_len = chain->write_len = 0;
}

/* Read a descriptor once. The empty asm prevents the compiler from reading guest memory a second time. */
static inline struct desc desc_copy(const uint8_t *from)
{
	uint64_t word[2];

	memcpy(word, from, sizeof(word));
	__asm__ volatile("" : "+r"(word[0]), "+r"(word[1]));
	return (struct desc){
		.addr = word[0],
		.len = (uint32_t)word[1],
		.flags = (uint16_t)(word[1] >> 32),
		.next = (uint16_t)(word[1] >> 48),
	};
}

/* ring_chain.c */

/* Add a buffer to the chain. 0 or the latched error. */
int chain_add(struct ring *ring, struct chain *chain, const struct desc *d);
/* Validate an indirect table's descriptor (the formats share its fields). Returns its address; NULL: latched error. */
const uint8_t *chain_indirect(struct ring *ring, const struct chain *chain, const struct desc *at);

/* Packed rings: ring_packed.c, ring_packed_log.c */

/*
 * A position in the ring: the index of a descriptor, with POSITION_ODD set if the wrap counter is 0 (2.8.1). In a new
 * ring both positions are 0, so both wrap counters are 1.
 */
enum { POSITION_ODD = 0x8000 };

static inline uint16_t position_index(uint16_t position)
{
	return position & (uint16_t)~POSITION_ODD;
}

/* The position n descriptors later; n is at most the ring size. */
static inline uint16_t position_add(const struct ring *ring, uint16_t position, uint32_t n)
{
	uint32_t index = position_index(position) + n;

	if (index < ring->config.size)
		return (uint16_t)(position + n);
	return (uint16_t)((index - ring->config.size) | ((position & POSITION_ODD) ^ POSITION_ODD));
}

/* The distance from `from` to `to` in descriptors, modulo two rounds. */
static inline uint32_t position_distance(const struct ring *ring, uint16_t from, uint16_t to)
{
	uint32_t size = ring->config.size, distance = position_index(to) + 2 * size - position_index(from);

	if ((from ^ to) & POSITION_ODD)
		distance += size;
	return distance % (2 * size);
}

/* A copy of a packed descriptor (2.8.13). */
struct packed_desc {
	uint64_t addr;
	uint32_t len;
	uint16_t id, flags;
};

enum { PACKED_AVAIL = 0x80, PACKED_USED = 0x8000 };

/* The two ownership bits of an available and of a used descriptor at this position (2.8.1). */
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

/* In ring_chain.c: add the buffers of an indirect table. 0 or the latched error. */
int packed_add_indirect(struct ring *ring, struct chain *chain, const struct desc *at);

/* Copy the nth descriptor of the chain being popped to the log. */
void packed_log_desc(struct ring *ring, uint32_t n, const struct desc *d);
/* Assign the n descriptors copied last to the chain of this buffer id. */
void packed_log_pop(struct ring *ring, uint32_t id, uint32_t n);
/* Remove the chain of this buffer id from the log. */
void packed_log_push(struct ring *ring, uint32_t id);

int packed_share(struct ring *ring, struct ring_state *state);
int packed_adopt(struct ring *ring, struct ring_state *s, const struct ring_state *state);
int packed_pop_again(struct ring *ring, struct chain *chain);

#endif
