// SPDX-License-Identifier: Apache-2.0
/*
 * The memory of a queue of virtio-blk: one mapping, most of which is never touched. The nth slot is touched only when n
 * requests are in flight, a list of segments only by a request with many.
 */
#include "blk/blk.h"

#include <sys/mman.h>

/* The next len bytes of the queue's mapping, page-aligned. */
static size_t blk_place(size_t *at, size_t len)
{
	size_t place = *at;

	*at += (len + PAGE - 1) & ~(size_t)(PAGE - 1);
	return place;
}

struct blk_queue *blk_queue_new(struct blk *blk, uint32_t n)
{
	const uintptr_t align = blk->config.alignment;
	size_t size = 0;
	size_t queue = blk_place(&size, sizeof(struct blk_queue));
	size_t slot = blk_place(&size, n * sizeof(struct blk_req));
	size_t vacant = blk_place(&size, n * sizeof(uint16_t));
	size_t segments = blk_place(&size, sizeof(union blk_store));
	size_t ranges = blk_place(&size, sizeof(union blk_store));
	size_t store = blk_place(&size, n * sizeof(union blk_store));
	size_t bounce = blk_place(&size, blk->config.flags & BLK_DIRECT ? BLK_BOUNCE_SIZE + align : 0);
	struct blk_queue *q;
	uint8_t *map;

	map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (map == MAP_FAILED)
		return NULL;
	/* Touching a byte must not allocate a huge page. This fails only if the kernel has none. */
	madvise(map, size, MADV_NOHUGEPAGE);
	q = (struct blk_queue *)(map + queue);
	q->map_size = size;
	q->blk = blk;
	limit_gate_init(&q->gate, blk->config.limit);
	q->slot = (struct blk_req *)(map + slot);
	q->free = (uint16_t *)(map + vacant);
	q->segments = (union blk_store *)(map + segments);
	q->ranges = (union blk_store *)(map + ranges);
	q->store = (union blk_store *)(map + store);
	q->bounce = (uint8_t *)(((uintptr_t)map + bounce + align - 1) & ~(align - 1));
	/* The slot that was freed last is used next, so that few are ever touched. */
	q->nfree = n;
	for (uint32_t i = 0; i < n; i++)
		q->free[i] = (uint16_t)(n - 1 - i);
	return q;
}

void blk_queue_free(struct worker *w)
{
	struct blk_queue *q = (struct blk_queue *)w;

	munmap(q, q->map_size);
}
