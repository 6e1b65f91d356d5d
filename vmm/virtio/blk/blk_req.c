// SPDX-License-Identifier: Apache-2.0
/*
 * Parses and answers the requests of virtio-blk (virtio 1.2, 5.2.6), without I/O.
 *
 * A driver may divide a request into descriptors as it likes (2.7.4): the header is the first 16 readable bytes, the status
 * the last writable byte, in whatever descriptors they lie. The rest are data.
 */
#include "blk/blk.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>

enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4, T_GET_ID = 8, T_DISCARD = 11, T_WRITE_ZEROES = 13 };
enum { RANGE_UNMAP = 1 };

struct header {
	uint32_t type, reserved;
	uint64_t sector;
};

struct wire_range {
	uint64_t sector;
	uint32_t nsectors, flags;
};

/* Does [sector, sector + n) lie on the disk? Nothing here can overflow. */
static bool blk_on_disk(const struct blk *blk, uint64_t sector, uint64_t n)
{
	uint64_t capacity = __atomic_load_n(&blk->capacity, __ATOMIC_RELAXED);

	return sector <= capacity && n <= capacity - sector;
}

static void blk_refuse(struct blk_req *r, uint8_t status)
{
	r->op = BLK_OP_NONE;
	r->status = status;
}

static void blk_parse_rw(const struct blk *blk, struct blk_req *r, uint64_t sector)
{
	const struct blk_config *c = &blk->config;

	if (r->len % SECTOR_SIZE || r->len > BLK_MAX_BYTES || !blk_on_disk(blk, sector, r->len >> SECTOR_SHIFT))
		return blk_refuse(r, BLK_S_IOERR);
	if (c->seg_max && r->niov > c->seg_max)
		return blk_refuse(r, BLK_S_IOERR);
	if (c->size_max)
		for (uint32_t i = 0; i < r->niov; i++)
			if (r->iov[i].iov_len > c->size_max)
				return blk_refuse(r, BLK_S_IOERR);
	r->off = sector << SECTOR_SHIFT;
}

static void blk_parse_ranges(const struct blk *blk, struct blk_req *r, union blk_store *ranges)
{
	const struct blk_config *c = &blk->config;
	struct wire_range wire = { 0 };

	if (r->len == 0 || r->len % sizeof(wire) || r->len / sizeof(wire) > c->max_discard_seg)
		return blk_refuse(r, BLK_S_IOERR);
	r->nranges = (uint32_t)(r->len / sizeof(wire));
	r->range = ranges->range;
	for (uint32_t i = 0; i < r->nranges; i++) {
		iov_gather(r->iov, r->niov, &wire, sizeof(wire));
		iov_skip(&r->iov, &r->niov, sizeof(wire));
		/* 5.2.6.2: unknown flags, and unmap on a discard, are not supported. */
		if (wire.flags & ~(uint32_t)RANGE_UNMAP || (r->op == BLK_OP_DISCARD && wire.flags))
			return blk_refuse(r, BLK_S_UNSUPP);
		if (wire.nsectors > c->max_discard_sectors || !blk_on_disk(blk, wire.sector, wire.nsectors))
			return blk_refuse(r, BLK_S_IOERR);
		r->range[i] = (struct blk_range){
			.off = wire.sector << SECTOR_SHIFT,
			.len = (uint64_t)wire.nsectors << SECTOR_SHIFT,
			.unmap = wire.flags & RANGE_UNMAP,
		};
	}
}

/* The data of the request are readable: a write, or a list of ranges. */
static void blk_take_readable(struct chain *chain, struct blk_req *r)
{
	r->iov = chain->iov;
	r->niov = chain->nread;
	r->len = chain->read_len - sizeof(struct header);
	iov_skip(&r->iov, &r->niov, sizeof(struct header));
}

static void blk_take_writable(struct chain *chain, struct blk_req *r)
{
	r->iov = chain->iov + chain->nread;
	r->niov = chain->nwrite;
	r->len = r->room;
}

int blk_req_parse(const struct blk *blk, struct chain *chain, struct blk_req *r, union blk_store *ranges)
{
	const uint32_t flags = blk->config.flags;
	struct iovec *last;
	struct header h;

	r->head = chain->head;
	r->aside = false;
	r->at = r->nranges = 0;
	r->len = r->done = 0;
	r->niov = 0;
	if (!chain->nwrite)
		return -EPROTO;
	last = &chain->iov[chain->nread + chain->nwrite - 1];
	last->iov_len--;
	r->status_byte = (uint8_t *)last->iov_base + last->iov_len;
	if (last->iov_len == 0)
		chain->nwrite--;
	r->room = chain->write_len - 1;

	r->op = BLK_OP_NONE;
	r->status = BLK_S_IOERR;
	if (iov_gather(chain->iov, chain->nread, &h, sizeof(h)) < sizeof(h))
		return 0;
	if (flags & BLK_RO && (h.type == T_OUT || h.type == T_DISCARD || h.type == T_WRITE_ZEROES))
		return 0;

	r->status = BLK_S_UNSUPP;
	switch (h.type) {
	case T_IN:
		r->op = BLK_OP_READ;
		blk_take_writable(chain, r);
		blk_parse_rw(blk, r, h.sector);
		break;
	case T_OUT:
		r->op = BLK_OP_WRITE;
		blk_take_readable(chain, r);
		blk_parse_rw(blk, r, h.sector);
		break;
	case T_FLUSH:
		r->op = BLK_OP_FLUSH;
		break;
	case T_GET_ID:
		r->op = BLK_OP_GET_ID;
		blk_take_writable(chain, r);
		break;
	case T_DISCARD:
	case T_WRITE_ZEROES:
		if (!(flags & (h.type == T_DISCARD ? BLK_DISCARD : BLK_WRITE_ZEROES)))
			break;
		r->op = h.type == T_DISCARD ? BLK_OP_DISCARD : BLK_OP_ZERO;
		blk_take_readable(chain, r);
		blk_parse_ranges(blk, r, ranges);
		break;
	default:
		break;
	}
	return 0;
}

static void blk_count(uint64_t *counter, uint64_t n)
{
	__atomic_fetch_add(counter, n, __ATOMIC_RELAXED);
}

/* Report an error of the host, once for each errno: a full disk fails every write. */
static void blk_host_error(struct blk_queue *q, int err)
{
	struct blk *blk = q->blk;
	uint32_t e = (uint32_t)-err % 256;

	__atomic_store_n(&blk->stats.last_errno, -err, __ATOMIC_RELEASE);
	if (!(__atomic_fetch_or(&blk->errno_seen[e / 64], 1ULL << (e % 64), __ATOMIC_RELAXED) >> (e % 64) & 1))
		eventfd_write(q->worker.event_fd, 1);
}

static void blk_account(struct blk *blk, const struct blk_req *r, uint8_t status)
{
	struct blk_stats *s = &blk->stats;

	if (status == BLK_S_IOERR)
		blk_count(&s->errors, 1);
	else if (status == BLK_S_UNSUPP)
		blk_count(&s->unsupported, 1);
	switch (r->op) {
	case BLK_OP_READ:
		blk_count(&s->reads, 1);
		blk_count(&s->read_bytes, r->done);
		break;
	case BLK_OP_WRITE:
		blk_count(&s->writes, 1);
		blk_count(&s->write_bytes, r->done);
		break;
	case BLK_OP_FLUSH:
		blk_count(&s->flushes, 1);
		break;
	case BLK_OP_DISCARD:
		blk_count(&s->discards, 1);
		break;
	case BLK_OP_ZERO:
		blk_count(&s->write_zeroes, 1);
		break;
	case BLK_OP_GET_ID:
		blk_count(&s->get_ids, 1);
		break;
	case BLK_OP_NONE:
		break;
	}
}

void blk_finish(struct blk_queue *q, struct blk_req *r, int err)
{
	uint8_t status = r->op == BLK_OP_NONE ? r->status : err ? BLK_S_IOERR : BLK_S_OK;
	/*
	 * The used length says how much of the writable part, from its start, the guest may take as written (2.7.8.2):
	 * the status byte at its end counts only when everything in front of it does.
	 */
	uint64_t written = r->op == BLK_OP_READ || r->op == BLK_OP_GET_ID ? r->done : 0;

	if (err)
		blk_host_error(q, err);
	blk_account(q->blk, r, status);
	if (written == r->room)
		written++;
	__atomic_store_n(r->status_byte, status, __ATOMIC_RELAXED);
	ring_push(q->worker.ring, r->head, (uint32_t)written);
}
