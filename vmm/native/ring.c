// SPDX-License-Identifier: Apache-2.0
/*
 * The split virtqueue, device side (virtio 1.2, 2.7): the only code that parses rings.
 *
 * The guest can write everything in the three areas at any time, from another CPU. So each index and each descriptor
 * is read exactly once, into a local, and only the local is looked at. What the device itself wrote there (the used
 * ring) is never read back. A rule that the guest breaks is latched: the first error and a sentence about it stay
 * until the ring is freed, nothing more is popped, and nobody retries.
 *
 * Not locked: one thread uses a ring at a time.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ring_struct.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "virtio 1.x rings are little-endian");

enum { DESC_NEXT = 1, DESC_WRITE = 2, DESC_INDIRECT = 4 };
enum { AVAIL_NO_INTERRUPT = 1, USED_NO_NOTIFY = 1 };
enum { DESC_SIZE = 16, AVAIL_ALIGN = 2, USED_ALIGN = 4 };

struct desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags, next;
};

/* The compiler keeps the order of the stores around it; so does the CPU, for whoever looks after this process is gone. */
static inline void state_step(void)
{
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
}

int ring_fail(struct ring *ring, int err, const char *fmt, ...)
{
	va_list ap;

	if (ring->error)
		return ring->error;
	va_start(ap, fmt);
	vsnprintf(ring->reason, sizeof(ring->reason), fmt, ap);
	va_end(ap);
	ring->error = err;
	return err;
}

struct ring *ring_new(const struct mem *mem, const struct ring_config *config, int *err)
{
	uint64_t size = config->size;
	uint8_t *desc, *avail, *used;
	struct ring *ring;

	*err = -EINVAL;
	if (size == 0 || size > RING_MAX_SIZE || (size & (size - 1)))
		return NULL;
	if (config->flags & ~(uint32_t)(RING_EVENT_IDX | RING_INDIRECT))
		return NULL;
	if (config->desc % DESC_SIZE || config->avail % AVAIL_ALIGN || config->used % USED_ALIGN)
		return NULL;
	/*
	 * A split ring gives back as many heads as it takes: between requests both indices are equal. A state saved with
	 * requests in flight would lose them.
	 */
	if (config->next_avail > UINT16_MAX || config->next_used != config->next_avail)
		return NULL;

	*err = -EFAULT;
	/* The event words are part of both rings whether or not EVENT_IDX is negotiated (2.7). */
	desc = mem_ptr(mem, config->desc, size * DESC_SIZE);
	avail = mem_ptr(mem, config->avail, 6 + 2 * size);
	used = mem_ptr(mem, config->used, 6 + 8 * size);
	if (!desc || !avail || !used)
		return NULL;
	/* RAM is mapped page-wise, so the guest's alignment is ours; a caller with odd regions must not get past this. */
	*err = -EINVAL;
	if ((uintptr_t)desc % DESC_SIZE || (uintptr_t)avail % AVAIL_ALIGN || (uintptr_t)used % USED_ALIGN)
		return NULL;

	*err = -ENOMEM;
	ring = calloc(1, sizeof(*ring));
	if (!ring)
		return NULL;
	ring->mem = mem;
	ring->config = *config;
	ring->mask = (uint16_t)(size - 1);
	ring->desc = desc;
	ring->avail = (const uint16_t *)avail;
	ring->avail_ring = ring->avail + 2;
	ring->used_event = ring->avail_ring + size;
	ring->used = (uint16_t *)used;
	ring->used_ring = (struct used_elem *)(used + 4);
	ring->avail_event = (uint16_t *)(used + 4 + 8 * size);
	ring->s = &ring->own;
	ring->avail_idx = ring->s->next_avail = (uint16_t)config->next_avail;
	ring->s->next_used = ring->s->published = ring->s->signalled = (uint16_t)config->next_used;
	*err = 0;
	return ring;
}

void ring_free(struct ring *ring)
{
	free(ring);
}

/* The one read of a descriptor. The empty asm hides where the two words came from: they cannot be read again. */
static struct desc desc_copy(const uint8_t *from)
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

/* Add one buffer to the chain. */
static int chain_add(struct ring *ring, struct chain *chain, const struct desc *d)
{
	uint32_t n = chain->nread + chain->nwrite;
	void *p;

	/*
	 * The specification gives a buffer without bytes no meaning; no driver of Linux makes one, and QEMU refuses it too.
	 */
	if (unlikely(d->len == 0))
		return ring_fail(ring, -EPROTO, "chain %u has a buffer of zero bytes", chain->head);
	if (unlikely(n >= chain->max || n >= RING_MAX_SEGMENTS))
		return ring_fail(ring, -EPROTO, "chain %u has more than %u buffers", chain->head, n);
	if (unlikely(!(d->flags & DESC_WRITE) && chain->nwrite))
		return ring_fail(ring, -EPROTO, "chain %u has a readable buffer behind a writable one", chain->head);
	p = mem_ptr(ring->mem, d->addr, d->len);
	if (unlikely(!p))
		return ring_fail(ring, -EFAULT, "chain %u has a buffer at %#llx of %u bytes, not in one piece of RAM",
				 chain->head, (unsigned long long)d->addr, d->len);
	chain->iov[n] = (struct iovec){ .iov_base = p, .iov_len = d->len };
	/* At most RING_MAX_SEGMENTS times 4 GiB: no overflow in 64 bits. */
	if (d->flags & DESC_WRITE) {
		chain->nwrite++;
		chain->write_len += d->len;
	} else {
		chain->nread++;
		chain->read_len += d->len;
	}
	return 0;
}

/* An indirect table takes the place of the last descriptor of a chain (2.7.5.3). */
static int chain_add_indirect(struct ring *ring, struct chain *chain, const struct desc *at)
{
	uint32_t count = at->len / DESC_SIZE, i = 0;
	const uint8_t *table;
	int err;

	if (!(ring->config.flags & RING_INDIRECT))
		return ring_fail(ring, -EPROTO, "chain %u is indirect, which was not negotiated", chain->head);
	if (at->flags & DESC_NEXT)
		return ring_fail(ring, -EPROTO, "chain %u goes on behind an indirect table", chain->head);
	if (at->len == 0 || at->len % DESC_SIZE)
		return ring_fail(ring, -EPROTO, "chain %u has an indirect table of %u bytes", chain->head, at->len);
	table = mem_ptr(ring->mem, at->addr, at->len);
	if (!table)
		return ring_fail(ring, -EFAULT,
				 "chain %u has an indirect table at %#llx of %u bytes, not in one piece of RAM", chain->head,
				 (unsigned long long)at->addr, at->len);

	/*
	 * The number of buffers is bounded by chain->max, not by the queue size: Linux makes longer tables than its queue
	 * when memory was short and the queue came out small. Each turn adds a buffer, so a loop ends there too.
	 */
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

static int chain_fill(struct ring *ring, struct chain *chain)
{
	uint32_t i = chain->head, hops = 0;
	int err;

	for (;;) {
		const struct desc d = desc_copy(ring->desc + (size_t)i * DESC_SIZE);

		if (d.flags & DESC_INDIRECT)
			return chain_add_indirect(ring, chain, &d);
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

/* Look at avail.idx. Acquire: what the guest wrote before it moved the index is visible when we see it moved. */
static uint16_t avail_load(struct ring *ring)
{
	ring->avail_idx = __atomic_load_n(&ring->avail[1], __ATOMIC_ACQUIRE);
	return ring->avail_idx;
}

bool ring_pending(struct ring *ring)
{
	return ring->nredo || ring->avail_idx != ring->s->next_avail || avail_load(ring) != ring->s->next_avail;
}

/* A head that was popped by whoever had this ring before and did not live to push it. Its chain is read anew. */
static int ring_pop_again(struct ring *ring, struct chain *chain)
{
	uint32_t word = 0;
	int err;

	while (!ring->redo[word])
		word++;
	chain->head = word * 64 + (uint32_t)__builtin_ctzll(ring->redo[word]);
	chain->nread = chain->nwrite = 0;
	chain->read_len = chain->write_len = 0;
	err = chain_fill(ring, chain);
	if (unlikely(err))
		return err;
	ring->redo[word] &= ring->redo[word] - 1;
	ring->nredo--;
	return 1;
}

int ring_pop(struct ring *ring, struct chain *chain)
{
	uint16_t head, ahead;
	int err;

	if (unlikely(ring->error))
		return ring->error;
	if (unlikely(ring->nredo))
		return ring_pop_again(ring, chain);
	if (!ring_pending(ring))
		return 0;
	ahead = (uint16_t)(ring->avail_idx - ring->s->next_avail);
	if (unlikely(ahead > ring->config.size))
		return ring_fail(ring, -EPROTO, "avail.idx %u is %u ahead of the device in a queue of %u",
				 ring->avail_idx, ahead, ring->config.size);
	head = __atomic_load_n(&ring->avail_ring[ring->s->next_avail & ring->mask], __ATOMIC_RELAXED);
	if (unlikely(head > ring->mask))
		return ring_fail(ring, -EPROTO, "head %u is available in a queue of %u", head, ring->config.size);
	/* Two requests on one chain would be completed into the same buffers, the first perhaps long reused. */
	if (unlikely(ring->s->busy[head / 64] >> (head % 64) & 1))
		return ring_fail(ring, -EPROTO, "head %u is available again while the device still has it", head);

	chain->head = head;
	chain->nread = chain->nwrite = 0;
	chain->read_len = chain->write_len = 0;
	err = chain_fill(ring, chain);
	if (unlikely(err))
		return err;
	ring->s->busy[head / 64] |= 1ULL << (head % 64);
	ring->s->in_flight++;
	state_step();
	ring->s->next_avail++;
	return 1;
}

int ring_unpop(struct ring *ring, uint32_t head)
{
	if (head > ring->mask || !(ring->s->busy[head / 64] >> (head % 64) & 1) || ring->s->next_avail == ring->s->next_used)
		return -EINVAL;
	ring->s->busy[head / 64] &= ~(1ULL << (head % 64));
	ring->s->in_flight--;
	ring->s->next_avail--;
	return 0;
}

int ring_push(struct ring *ring, uint32_t head, uint32_t written)
{
	struct used_elem *e = &ring->used_ring[ring->s->next_used & ring->mask];

	/* Not the guest's doing: a device that gives a head back twice. */
	if (head > ring->mask || !(ring->s->busy[head / 64] >> (head % 64) & 1))
		return -EINVAL;
	__atomic_store_n(&e->id, head, __ATOMIC_RELAXED);
	__atomic_store_n(&e->len, written, __ATOMIC_RELAXED);
	/* In this order, which ring_adopt() knows: a process may die in between. */
	state_step();
	ring->s->next_used++;
	state_step();
	ring->s->busy[head / 64] &= ~(1ULL << (head % 64));
	ring->s->in_flight--;
	return 0;
}

void ring_publish(struct ring *ring)
{
	if (ring->s->published == ring->s->next_used)
		return;
	ring->s->published = ring->s->next_used;
	/* Release: the entries, and the data they speak of, before the index. */
	__atomic_store_n(&ring->used[1], ring->s->published, __ATOMIC_RELEASE);
}

/*
 * A ring that broke is flushed all the same: what was pushed belongs to chains that were right.
 */
int ring_flush(struct ring *ring)
{
	uint16_t from = ring->s->signalled, to, event;

	ring_publish(ring);
	to = ring->s->published;
	if (from == to)
		return 0;
	ring->s->signalled = to;
	/*
	 * The index must be out before the guest's wish is read. The guest writes its wish, then reads the index: with a
	 * full barrier on both sides one of the two sees the other, and no interrupt is lost.
	 */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (!(ring->config.flags & RING_EVENT_IDX))
		return !(__atomic_load_n(&ring->avail[0], __ATOMIC_RELAXED) & AVAIL_NO_INTERRUPT);
	/* 2.7.7.2: wanted when the entry at used_event is among from .. to-1. */
	event = __atomic_load_n(ring->used_event, __ATOMIC_RELAXED);
	return (uint16_t)(to - event - 1) < (uint16_t)(to - from);
}

int ring_kicks(struct ring *ring, int enable)
{
	if (ring->config.flags & RING_EVENT_IDX) {
		/* Not wanting kicks is an index left behind: the guest does not come past it for 65536 chains. */
		if (!enable)
			return 0;
		__atomic_store_n(ring->avail_event, ring->s->next_avail, __ATOMIC_RELAXED);
	} else {
		__atomic_store_n(&ring->used[0], enable ? 0 : USED_NO_NOTIFY, __ATOMIC_RELAXED);
		if (!enable)
			return 0;
	}
	/*
	 * The wish before the look: a guest that added a chain before it saw the wish did not kick, so look again after.
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
