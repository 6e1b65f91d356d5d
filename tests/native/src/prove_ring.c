// SPDX-License-Identifier: Apache-2.0
/*
 * Proofs of the ring code, for CBMC (tests/native/prove.py): each function at the end is one. It takes any state that a ring
 * can be in (held() says which), with anything at all in the guest's memory, makes a step, and holds that the step ends,
 * touches no byte outside of what it may touch, and leaves a state that a ring can be in. So do any number of steps, one behind
 * the other. What the guest changes while a step is made is covered by the rule that nothing is read twice.
 *
 * SIZE is the size of the queue, of a split ring a power of two. A chain has room for twice as many buffers.
 */
#include "base/native.h"

/* CBMC 6.6 takes a pointer in an anonymous union for another. The two formats never read each other's members. */
#define union struct
#include "ring/ring_struct.h"
#undef union

#define mem_ptr guest_mem_ptr
#include "base/guest_access.c"
#undef mem_ptr
#include "ring/ring_chain.c"
#include "ring/ring_packed.c"
#include "ring/ring_split.c"

/* The descriptors, the rings, and room for an indirect table. */
enum { AVAIL_AT = 16 * SIZE, USED_AT = AVAIL_AT + 16 + 2 * SIZE };
enum { MORE_AT = USED_AT + 16 + 8 * SIZE, RAM = MORE_AT + 16 * SIZE };
enum { RAM_AT = 4096 };

uint64_t nondet_u64(void);
uint32_t nondet_u32(void);
uint16_t nondet_u16(void);
bool nondet_bool(void);

static uint8_t __attribute__((aligned(16))) ram[RAM];
static const struct mem mem;
static struct ring ring;
static struct ring_chain chains[SIZE];
static struct iovec iov[2 * SIZE];
static struct chain chain;

/* As guest_mem_ptr(), of one region: with pointers that are made of numbers CBMC does not come to an end. */
void *mem_ptr(const struct mem *of, uint64_t gpa, uint64_t len)
{
	(void)of;
	if (gpa < RAM_AT || gpa - RAM_AT >= RAM || len > RAM - (gpa - RAM_AT))
		return NULL;
	return &ram[gpa - RAM_AT];
}

/* What a message says is nothing to prove. */
int vsnprintf(char *to, size_t size, const char *format, va_list ap)
{
	(void)format;
	(void)ap;
	__CPROVER_assert(__CPROVER_w_ok(to, size), "room for the message");
	to[0] = 0;
	return 0;
}

void packed_log_desc(struct ring *r, uint32_t n, const struct desc *d)
{
	(void)r, (void)n, (void)d;
}

void packed_log_pop(struct ring *r, uint32_t id, uint32_t n)
{
	(void)r, (void)id, (void)n;
}

void packed_log_push(struct ring *r, uint32_t id)
{
	(void)r, (void)id;
}

static uint32_t bits(uint64_t word)
{
	uint32_t n = 0;

	for (int i = 0; i < SIZE; i++)
		n += word >> i & 1;
	return n;
}

/* What is true of a ring between two steps. */
static bool held(void)
{
	const struct ring_state *s = ring.s;

	for (int i = 1; i < RING_MAX_SIZE / 64; i++)
		if (s->busy[i])
			return false;
	if (s->busy[0] >> SIZE || s->in_flight != bits(s->busy[0]))
		return false;
	if (!(ring.config.flags & RING_PACKED))
		return (uint16_t)(s->next_avail - s->next_used) == s->in_flight;
	if (position_index(s->next_avail) >= SIZE || position_index(s->next_used) >= SIZE || position_index(s->published) >= SIZE)
		return false;
	uint32_t descs = 0;
	for (uint32_t id = 0; id < SIZE; id++) {
		if (!ring_is_busy(s, id))
			continue;
		if (position_index(chains[id].position) >= SIZE || chains[id].count < 1 || chains[id].count > SIZE)
			return false;
		descs += chains[id].count;
	}
	return descs == s->descs && descs <= SIZE;
}

static void any(uint32_t flags)
{
	for (int i = 0; i < RAM; i++)
		ram[i] = (uint8_t)nondet_u16();
	for (int i = 0; i < SIZE; i++)
		chains[i] = (struct ring_chain){ .position = nondet_u16(), .count = nondet_u16(), .first = nondet_u16() };
	ring.mem = &mem;
	ring.s = &ring.own;
	ring.config.size = SIZE;
	ring.config.flags = flags | (nondet_u32() & (RING_EVENT_IDX | RING_INDIRECT));
	ring.own.next_avail = nondet_u16();
	ring.own.next_used = nondet_u16();
	ring.own.published = nondet_u16();
	ring.own.signalled = nondet_u16();
	ring.own.in_flight = nondet_u32();
	ring.own.descs = nondet_u32();
	ring.own.first_flags = nondet_u16();
	ring.own.busy[0] = nondet_u64();
	ring.desc = ram;
	if (flags & RING_PACKED) {
		ring.driver_event = (const uint32_t *)(const void *)&ram[AVAIL_AT];
		ring.device_event = (uint32_t *)(void *)&ram[USED_AT];
		ring.chains = chains;
		ring.unsignalled = nondet_u32();
	} else {
		ring.mask = SIZE - 1;
		ring.avail = (const uint16_t *)(const void *)&ram[AVAIL_AT];
		ring.avail_ring = ring.avail + 2;
		ring.used_event = ring.avail_ring + SIZE;
		ring.used = (uint16_t *)(void *)&ram[USED_AT];
		ring.used_ring = (struct used_elem *)(void *)&ram[USED_AT + 4];
		ring.avail_event = (uint16_t *)(void *)&ram[USED_AT + 4 + 8 * SIZE];
		ring.avail_idx = nondet_u16();
	}
	chain.iov = iov;
	chain.max = nondet_u32();
	__CPROVER_assume(chain.max <= 2 * SIZE && held());
}

static void popped(int n)
{
	uint32_t i = nondet_u32(), count = chain.nread + chain.nwrite;

	__CPROVER_assert(n < 0 ? ring.error == n : n <= 1 && !ring.error, "an error is latched");
	__CPROVER_assert(held(), "held");
	if (n != 1)
		return;
	__CPROVER_assert(chain.head < SIZE && ring_is_busy(ring.s, chain.head), "its head is the device's");
	__CPROVER_assert(count >= 1 && count <= chain.max, "it has buffers");
	__CPROVER_assume(i < count);
	__CPROVER_assert(__CPROVER_rw_ok(iov[i].iov_base, iov[i].iov_len), "which are in RAM");
}

void split_pop_any(void)
{
	any(0);
	popped(split_pop(&ring, &chain));
}

void split_give_back(void)
{
	uint32_t head = nondet_u32();

	any(0);
	__CPROVER_assume(ring_is_busy(ring.s, head)); /* ring_push() and ring_unpop() look */
	if (nondet_bool())
		split_push(&ring, head, nondet_u32());
	else
		split_unpop(&ring, head);
	__CPROVER_assert(held(), "held");
}

void split_tell(void)
{
	any(0);
	if (nondet_bool())
		split_publish(&ring);
	split_signal(&ring);
	split_kicks(&ring, nondet_bool());
	split_pending(&ring);
	__CPROVER_assert(held(), "held");
}

void packed_pop_any(void)
{
	any(RING_PACKED);
	popped(packed_pop(&ring, &chain));
}

void packed_give_back(void)
{
	uint32_t head = nondet_u32();

	any(RING_PACKED);
	__CPROVER_assume(ring_is_busy(ring.s, head));
	for (uint32_t id = 0; id < SIZE; id++) {
		if (id != head)
			continue;
		if (nondet_bool())
			packed_push(&ring, id, nondet_u32());
		else
			packed_unpop(&ring, id);
	}
	__CPROVER_assert(held(), "held");
}

void packed_tell(void)
{
	any(RING_PACKED);
	if (nondet_bool())
		packed_publish(&ring);
	packed_signal(&ring);
	packed_kicks(&ring, nondet_bool());
	packed_pending(&ring);
	__CPROVER_assert(held(), "held");
}

/* A guest address becomes a pointer to bytes of a region, all of them, or none. */
void address_any(void)
{
	struct mem m = { .nregions = nondet_u32() };
	uint64_t gpa = nondet_u64(), len = nondet_u64(), at;

	/* One is looked at like the other. */
	__CPROVER_assume(m.nregions <= 3);
	for (uint32_t i = 0; i < 3; i++) {
		m.region[i] = (struct mem_region){ .gpa = nondet_u64(), .size = nondet_u64(), .hva = nondet_u64() };
		__CPROVER_assume(m.region[i].hva && m.region[i].size && m.region[i].size <= UINT64_MAX - m.region[i].hva);
	}
	at = (uint64_t)(uintptr_t)guest_mem_ptr(&m, gpa, len);
	if (!at)
		return;
	for (uint32_t i = 0; i < m.nregions; i++) {
		const struct mem_region *r = &m.region[i];

		if (at >= r->hva && at - r->hva <= r->size && len <= r->size - (at - r->hva) && gpa - r->gpa == at - r->hva)
			return;
	}
	__CPROVER_assert(0, "in a region");
}
