// SPDX-License-Identifier: Apache-2.0
/*
 * A disk whose image is never written: what the guest writes goes into another file, the overlay. This is a sparse file on any
 * file system, with a bitmap, and behind it the blocks of the disk at the places that they have in the image. A set bit says
 * that the overlay has the block.
 *
 * The bitmap is in memory, and is written when the guest flushes: first the blocks become durable, then the bits that say so.
 * A process or a host that dies between two flushes leaves the file as of the first, plus what was written later into blocks
 * that it had. Bits are set after their blocks were written, and are never cleared; so requests that only read take no lock.
 */
#include "blk/blk.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { BITS_PER_PAGE = BLK_OVERLAY_BLOCK * 8 };

struct blk_overlay {
	int fd;
	uint64_t bits_at, data_at; /* where the bitmap and the blocks begin in the file */
	uint64_t size, nblocks;    /* of the disk: bytes, and blocks, of which the last may be shorter */
	uint64_t npages;           /* of the bitmap */
	size_t map_size;
	uint64_t *bits;            /* atomic */
	uint8_t *durable;          /* what is being written of it; under flush */
	uint8_t *dirty, *taken;    /* per page of the bitmap: has bits that the file does not have (atomic); in this flush */
	int any_dirty;             /* atomic */
	/* Writes hold it for reading, who copies the rest of a block that a write cuts, for writing. */
	pthread_rwlock_t copy_up;
	pthread_mutex_t flush;
};

static int pread_all(int fd, void *to, size_t len, uint64_t at)
{
	uint8_t *p = to;

	while (len) {
		ssize_t n = pread(fd, p, len, (off_t)at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		p += n;
		at += (uint64_t)n;
		len -= (size_t)n;
	}
	return 0;
}

/* Read the bitmap, but not its holes, which would take memory. */
static int overlay_load(struct blk_overlay *o)
{
	const uint64_t end = o->bits_at + o->npages * PAGE;
	uint64_t at = o->bits_at;

	while (at < end) {
		off_t data = lseek(o->fd, (off_t)at, SEEK_DATA), hole;
		uint64_t from = data < 0 ? at : (uint64_t)data, to = end;
		int err;

		if (data < 0 && errno == ENXIO)
			return 0;
		if (from >= end)
			return 0;
		hole = lseek(o->fd, (off_t)from, SEEK_HOLE);
		if (data >= 0 && hole > 0 && (uint64_t)hole < end)
			to = (uint64_t)hole;
		err = pread_all(o->fd, (uint8_t *)o->bits + (from - o->bits_at), to - from, from);
		if (err)
			return err;
		at = to;
	}
	return 0;
}

struct blk_overlay *blk_overlay_new(int fd, uint64_t bits_at, uint64_t data_at, uint64_t size, int *err)
{
	struct blk_overlay *o;
	uint64_t bytes, flags;
	uint8_t *map;

	*err = -EINVAL;
	if (!size || size > BLK_OVERLAY_MAX || bits_at % PAGE || data_at % PAGE || bits_at > PAGE)
		return NULL;
	*err = -ENOMEM;
	o = calloc(1, sizeof(*o));
	if (!o)
		return NULL;
	o->fd = fd;
	o->bits_at = bits_at;
	o->data_at = data_at;
	o->size = size;
	o->nblocks = (size + BLK_OVERLAY_BLOCK - 1) / BLK_OVERLAY_BLOCK;
	o->npages = (o->nblocks + BITS_PER_PAGE - 1) / BITS_PER_PAGE;
	bytes = o->npages * PAGE;
	flags = pages_round(o->npages);
	o->map_size = 2 * bytes + 2 * flags;
	map = mmap(NULL, o->map_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (map == MAP_FAILED) {
		free(o);
		return NULL;
	}
	madvise(map, o->map_size, MADV_NOHUGEPAGE);
	o->bits = (uint64_t *)map;
	o->durable = map + bytes;
	o->dirty = map + 2 * bytes;
	o->taken = o->dirty + flags;
	pthread_rwlock_init(&o->copy_up, NULL);
	pthread_mutex_init(&o->flush, NULL);
	*err = data_at < bits_at + bytes ? -EINVAL : overlay_load(o);
	if (*err) {
		blk_overlay_free(o);
		return NULL;
	}
	return o;
}

void blk_overlay_free(struct blk_overlay *o)
{
	if (!o)
		return;
	pthread_mutex_destroy(&o->flush);
	pthread_rwlock_destroy(&o->copy_up);
	munmap(o->bits, o->map_size);
	free(o);
}

bool blk_overlay_fits(const struct blk_overlay *o, uint64_t sectors)
{
	return sectors == o->size >> SECTOR_SHIFT && o->size % SECTOR_SIZE == 0;
}

void *blk_overlay_bits(struct blk_overlay *o)
{
	return o->bits;
}

static bool has_block(const struct blk_overlay *o, uint64_t block)
{
	return __atomic_load_n(&o->bits[block / 64], __ATOMIC_ACQUIRE) >> (block % 64) & 1;
}

static void own_blocks(struct blk_overlay *o, uint64_t block, uint64_t end)
{
	for (; block < end; block++) {
		if (has_block(o, block))
			continue;
		__atomic_fetch_or(&o->bits[block / 64], 1ULL << (block % 64), __ATOMIC_RELEASE);
		/* After the bit: a flush that takes the page sees it. */
		__atomic_store_n(&o->dirty[block / BITS_PER_PAGE], 1, __ATOMIC_RELEASE);
		__atomic_store_n(&o->any_dirty, 1, __ATOMIC_RELEASE);
	}
}

uint64_t blk_overlay_next(const struct blk_overlay *o, uint64_t block, int has)
{
	while (block < o->nblocks) {
		uint64_t word = __atomic_load_n(&o->bits[block / 64], __ATOMIC_ACQUIRE);

		word = (has ? word : ~word) >> (block % 64);
		if (word) {
			block += (uint64_t)__builtin_ctzll(word);
			break;
		}
		block = (block / 64 + 1) * 64;
	}
	return block < o->nblocks ? block : o->nblocks;
}

/* Copy the bits that the file lacks, of blocks that were written before. */
static void take_dirty(struct blk_overlay *o)
{
	uint64_t *to = (uint64_t *)o->durable;

	for (uint64_t page = 0; page < o->npages; page++) {
		o->taken[page] = __atomic_load_n(&o->dirty[page], __ATOMIC_RELAXED) &&
				 __atomic_exchange_n(&o->dirty[page], 0, __ATOMIC_ACQ_REL);
		for (uint64_t i = page * PAGE / 8; o->taken[page] && i < (page + 1) * PAGE / 8; i++)
			to[i] = __atomic_load_n(&o->bits[i], __ATOMIC_ACQUIRE);
	}
}

static int write_taken(struct blk_overlay *o)
{
	int err = 0;

	for (uint64_t page = 0; page < o->npages && !err; page++)
		if (o->taken[page])
			err = file_write(o->fd, o->durable + page * PAGE, PAGE, o->bits_at + page * PAGE);
	return err;
}

int blk_overlay_flush(struct blk_overlay *o)
{
	bool any;
	int err;

	pthread_mutex_lock(&o->flush);
	any = __atomic_exchange_n(&o->any_dirty, 0, __ATOMIC_ACQ_REL);
	if (any)
		take_dirty(o);
	err = fdatasync(o->fd) < 0 ? -errno : 0;
	if (any && !err)
		err = write_taken(o);
	if (any && !err)
		err = fdatasync(o->fd) < 0 ? -errno : 0;
	if (any && err) {
		for (uint64_t page = 0; page < o->npages; page++)
			if (o->taken[page])
				__atomic_store_n(&o->dirty[page], 1, __ATOMIC_RELEASE);
		__atomic_store_n(&o->any_dirty, 1, __ATOMIC_RELEASE);
	}
	pthread_mutex_unlock(&o->flush);
	return err;
}

/* Transfer the next some bytes of a request, from or to this offset of a file; counts what was moved. */
static int overlay_move(struct blk_req *r, int fd, uint64_t at, uint64_t some)
{
	while (some) {
		struct iovec *last = r->iov;
		uint64_t sum = last->iov_len;
		size_t len;
		ssize_t n;

		while (sum < some && (r->op == BLK_OP_READ || last < r->iov + FILE_WRITE_BUFFERS - 1))
			sum += (++last)->iov_len;
		/* The last one may be needed in part. */
		len = last->iov_len;
		if (sum > some)
			last->iov_len -= sum - some;
		if (r->op == BLK_OP_READ)
			n = preadv2(fd, r->iov, (int)(last - r->iov) + 1, (off_t)at, 0);
		else
			n = pwritev2(fd, r->iov, (int)(last - r->iov) + 1, (off_t)at, 0);
		last->iov_len = len;
		if (n < 0 && errno == EINTR)
			continue;
		/* Nothing: the image or the overlay was truncated. */
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		blk_req_advance(r, (uint64_t)n);
		at += (uint64_t)n;
		some -= (uint64_t)n;
	}
	return 0;
}

/* Where the blocks end, or this request, that are like this one. */
static uint64_t run_end(const struct blk_overlay *o, uint64_t block, bool own, uint64_t end)
{
	while (++block < end && has_block(o, block) == own)
		;
	return block;
}

static int overlay_read(const struct blk *blk, struct blk_req *r)
{
	const struct blk_overlay *o = blk->config.overlay;
	const uint64_t end = r->off + (r->len - r->done);
	int err = 0;

	while (r->off < end && !err) {
		uint64_t block = r->off / BLK_OVERLAY_BLOCK;
		const bool own = has_block(o, block);
		uint64_t to = run_end(o, block, own, (end + BLK_OVERLAY_BLOCK - 1) / BLK_OVERLAY_BLOCK) * BLK_OVERLAY_BLOCK;
		uint64_t some = (to < end ? to : end) - r->off;

		err = own ? overlay_move(r, o->fd, o->data_at + r->off, some) : overlay_move(r, blk->config.fd, r->off, some);
	}
	return err;
}

/* Whether a write that begins or ends here leaves a part of a block as it is in the image. */
static bool cuts(const struct blk_overlay *o, uint64_t off)
{
	return off % BLK_OVERLAY_BLOCK && off < o->size && !has_block(o, off / BLK_OVERLAY_BLOCK);
}

static int copy_block(struct blk *blk, uint64_t off)
{
	struct blk_overlay *o = blk->config.overlay;
	const uint64_t block = off / BLK_OVERLAY_BLOCK, at = block * BLK_OVERLAY_BLOCK;
	const size_t len = o->size - at < BLK_OVERLAY_BLOCK ? o->size - at : BLK_OVERLAY_BLOCK;
	uint8_t bytes[BLK_OVERLAY_BLOCK];
	int err = pread_all(blk->config.fd, bytes, len, at);

	if (!err)
		err = file_write(o->fd, bytes, len, o->data_at + at);
	if (!err)
		own_blocks(o, block, block + 1);
	return err;
}

static int overlay_write(struct blk *blk, struct blk_req *r)
{
	struct blk_overlay *o = blk->config.overlay;
	const uint64_t off = r->off, end = r->off + (r->len - r->done);
	int err = 0;

	if (off == end)
		return 0;
	pthread_rwlock_rdlock(&o->copy_up);
	if (cuts(o, off) || cuts(o, end)) {
		pthread_rwlock_unlock(&o->copy_up);
		/* No write is under way now. Look again: another one may have had the block. */
		pthread_rwlock_wrlock(&o->copy_up);
		if (cuts(o, off))
			err = copy_block(blk, off);
		if (!err && cuts(o, end))
			err = copy_block(blk, end);
		pthread_rwlock_unlock(&o->copy_up);
		if (err)
			return err;
		pthread_rwlock_rdlock(&o->copy_up);
	}
	err = overlay_move(r, o->fd, o->data_at + off, end - off);
	if (!err)
		own_blocks(o, off / BLK_OVERLAY_BLOCK, (end + BLK_OVERLAY_BLOCK - 1) / BLK_OVERLAY_BLOCK);
	pthread_rwlock_unlock(&o->copy_up);
	return err;
}

static int overlay_write_zeroes(struct blk *blk, uint64_t off, uint64_t len)
{
	static uint8_t zeroes[64 << 10] __attribute__((aligned(4096)));
	int err = 0;

	while (len && !err) {
		uint64_t some = len < sizeof(zeroes) ? len : sizeof(zeroes);
		struct iovec iov = { .iov_base = zeroes, .iov_len = some };
		struct blk_req w = { .op = BLK_OP_WRITE, .off = off, .len = some, .iov = &iov, .niov = 1 };

		err = overlay_write(blk, &w);
		off += some;
		len -= some;
	}
	return err;
}

/* Whole blocks, which the overlay has afterwards, as holes if the file system can. */
static int overlay_drop_blocks(struct blk *blk, uint64_t off, uint64_t end, bool unmap)
{
	struct blk_overlay *o = blk->config.overlay;
	const int mode = (unmap ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE) | FALLOC_FL_KEEP_SIZE;
	int err;

	pthread_rwlock_rdlock(&o->copy_up);
	do
		err = fallocate(o->fd, mode, (off_t)(o->data_at + off), (off_t)(end - off)) < 0 ? -errno : 0;
	while (err == -EINTR);
	if (!err)
		own_blocks(o, off / BLK_OVERLAY_BLOCK, (end + BLK_OVERLAY_BLOCK - 1) / BLK_OVERLAY_BLOCK);
	pthread_rwlock_unlock(&o->copy_up);
	return err;
}

static int overlay_range(struct blk *blk, enum blk_op op, const struct blk_range *range)
{
	const uint64_t off = range->off, end = range->off + range->len;
	uint64_t from = (off + BLK_OVERLAY_BLOCK - 1) / BLK_OVERLAY_BLOCK * BLK_OVERLAY_BLOCK;
	uint64_t to = end == blk->config.overlay->size ? end : end / BLK_OVERLAY_BLOCK * BLK_OVERLAY_BLOCK;
	int err;

	/* A DISCARD may be ignored, a WRITE_ZEROES may not. */
	if (from >= to)
		return op == BLK_OP_DISCARD ? 0 : overlay_write_zeroes(blk, off, range->len);
	err = overlay_drop_blocks(blk, from, to, op == BLK_OP_DISCARD || range->unmap);
	if (err == -EOPNOTSUPP || err == -ENOSYS)
		return op == BLK_OP_DISCARD ? 0 : overlay_write_zeroes(blk, off, range->len);
	if (err || op == BLK_OP_DISCARD)
		return err;
	err = overlay_write_zeroes(blk, off, from - off);
	return err ? err : overlay_write_zeroes(blk, to, end - to);
}

int blk_overlay_do(struct blk_queue *q, struct blk_req *r)
{
	struct blk *blk = q->blk;
	struct blk_overlay *o = blk->config.overlay;
	bool flush = !__atomic_load_n(&blk->writeback, __ATOMIC_RELAXED);
	int err = 0;

	switch (r->op) {
	case BLK_OP_READ:
		return overlay_read(blk, r);
	case BLK_OP_WRITE:
		err = overlay_write(blk, r);
		break;
	case BLK_OP_DISCARD:
	case BLK_OP_ZERO:
		for (; r->at < r->nranges && !err; r->at++)
			err = overlay_range(blk, r->op, &r->range[r->at]);
		break;
	case BLK_OP_FLUSH:
		flush = true;
		break;
	case BLK_OP_GET_ID:
	case BLK_OP_NONE:
		return blk_sync(q, r);
	}
	return err || !flush ? err : blk_overlay_flush(o);
}
