// SPDX-License-Identifier: Apache-2.0
/*
 * Does requests by blocking system calls: all, if the host does not allow io_uring; those that do not block (files in
 * memory, the page cache), since that is faster; and what io_uring did not finish: short transfers, operations that the
 * file system does not have, misaligned direct I/O.
 */
#include "blk/blk.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>
#include <unistd.h>

enum { ZEROES_SIZE = 64 << 10, ZEROES_IOV = 16 };

/* Never written, so that the kernel maps its shared page of zeroes. */
static uint8_t zeroes[ZEROES_SIZE] __attribute__((aligned(4096)));

void blk_req_advance(struct blk_req *r, uint64_t moved)
{
	r->done += moved;
	r->off += moved;
	iov_skip(&r->iov, &r->niov, moved);
}

bool blk_aligned(const struct blk *blk, const struct blk_req *r)
{
	uint64_t bits;

	if (!(blk->config.flags & BLK_DIRECT) || (r->op != BLK_OP_READ && r->op != BLK_OP_WRITE))
		return true;
	bits = r->off;
	for (uint32_t i = 0; i < r->niov; i++)
		bits |= (uintptr_t)r->iov[i].iov_base | r->iov[i].iov_len;
	return !(bits & (blk->config.alignment - 1));
}

bool blk_cuts_blocks(const struct blk *blk, const struct blk_req *r)
{
	uint64_t bits = r->op == BLK_OP_WRITE ? r->off | r->len : 0;

	if (!blk->need_rmw)
		return false;
	for (uint32_t i = 0; i < r->nranges; i++)
		bits |= r->range[i].off | r->range[i].len;
	return bits & (blk->config.alignment - 1);
}

/* One transfer, of all or of the first part. With one buffer and no flags, pread() and pwrite() are the cheapest calls. */
static ssize_t blk_move(const struct blk_config *c, const struct blk_req *r, int flags)
{
	const struct iovec *iov = r->iov;
	int n = (int)r->niov;

	if (r->op == BLK_OP_READ)
		return n == 1 ? pread(c->fd, iov->iov_base, iov->iov_len, (off_t)r->off) : preadv2(c->fd, iov, n, (off_t)r->off, 0);
	if (n == 1 && !flags)
		return pwrite(c->fd, iov->iov_base, iov->iov_len, (off_t)r->off);
	/* With flags, each call would wait for the disk; direct I/O copies nothing. */
	if (n > FILE_WRITE_BUFFERS && !flags && !(c->flags & BLK_DIRECT))
		n = FILE_WRITE_BUFFERS;
	return pwritev2(c->fd, iov, n, (off_t)r->off, flags);
}

static int blk_move_all(struct blk_queue *q, struct blk_req *r)
{
	int fd = q->blk->config.fd, flags = blk_rw_flags(q->blk, r);
	bool sync = false;

	while (r->done < r->len) {
		ssize_t n = blk_move(&q->blk->config, r, flags);

		if (n > 0) {
			blk_req_advance(r, (uint64_t)n);
			continue;
		}
		/* The image is shorter than the disk: it was truncated. */
		if (n == 0)
			return -EIO;
		if (errno == EINTR)
			continue;
		if (errno == EOPNOTSUPP && flags) {
			flags = 0;
			sync = true;
			continue;
		}
		return -errno;
	}
	return sync && fdatasync(fd) < 0 ? -errno : 0;
}

/* Read up to len bytes at off into the bounce buffer; fewer only at the end of the file. */
static ssize_t bounce_fill(struct blk_queue *q, uint64_t off, size_t len)
{
	size_t done = 0;

	while (done < len) {
		ssize_t n = pread(q->blk->config.fd, q->bounce + done, len - done, (off_t)(off + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		done += (size_t)n;
		/* Direct I/O returns an unaligned count only at the end of a file. */
		if (n == 0 || done % q->blk->config.alignment)
			break;
	}
	return (ssize_t)done;
}

static int bounce_write(struct blk_queue *q, uint64_t off, size_t len, int flags)
{
	size_t done = 0;

	while (done < len) {
		struct iovec iov = { .iov_base = q->bounce + done, .iov_len = len - done };
		ssize_t n = pwritev2(q->blk->config.fd, &iov, 1, (off_t)(off + done), flags);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		done += (size_t)n;
	}
	return 0;
}

/* Direct I/O for misaligned buffers, offsets or lengths, piece by piece through the bounce buffer. */
static int blk_bounce(struct blk_queue *q, struct blk_req *r)
{
	const uint64_t a = q->blk->config.alignment;

	while (r->done < r->len) {
		uint64_t start = r->off & ~(a - 1), pre = r->off - start, left = r->len - r->done;
		uint64_t some = left < BLK_BOUNCE_SIZE - pre ? left : BLK_BOUNCE_SIZE - pre;
		uint64_t span = (pre + some + a - 1) & ~(a - 1);
		ssize_t n;
		int err;

		if (r->op == BLK_OP_READ) {
			n = bounce_fill(q, start, span);
			if (n < 0)
				return (int)n;
			if ((uint64_t)n < pre + some)
				return -EIO;
			iov_scatter(r->iov, r->niov, q->bounce + pre, some);
		} else {
			if (pre || span != some) {
				n = bounce_fill(q, start, span);
				if (n < 0)
					return (int)n;
				memset(q->bounce + n, 0, span - (uint64_t)n);
			}
			iov_gather(r->iov, r->niov, q->bounce + pre, some);
			err = bounce_write(q, start, span, blk_rw_flags(q->blk, r));
			if (err)
				return err;
		}
		blk_req_advance(r, some);
	}
	return 0;
}

static int blk_sync_rw(struct blk_queue *q, struct blk_req *r)
{
	struct blk *blk = q->blk;
	bool lock = blk->need_rmw && r->op == BLK_OP_WRITE;
	int err;

	if (lock) {
		if (blk_cuts_blocks(blk, r))
			pthread_rwlock_wrlock(&blk->rmw);
		else
			pthread_rwlock_rdlock(&blk->rmw);
	}
	err = blk_aligned(blk, r) ? blk_move_all(q, r) : blk_bounce(q, r);
	if (lock)
		pthread_rwlock_unlock(&blk->rmw);
	return err;
}

static int blk_write_zeroes(struct blk_queue *q, uint64_t off, uint64_t len)
{
	struct iovec iov[ZEROES_IOV];
	int err = 0;

	while (len && !err) {
		struct blk_req w = { .op = BLK_OP_WRITE, .off = off, .iov = iov };

		while (w.len < len && w.niov < ZEROES_IOV) {
			size_t some = len - w.len < ZEROES_SIZE ? len - w.len : ZEROES_SIZE;

			iov[w.niov++] = (struct iovec){ .iov_base = zeroes, .iov_len = some };
			w.len += some;
		}
		off += w.len;
		len -= w.len;
		err = blk_sync_rw(q, &w);
	}
	return err;
}

int blk_range_mode(const struct blk *blk, const struct blk_req *r)
{
	if ((r->op == BLK_OP_DISCARD || r->range[r->at].unmap) && !__atomic_load_n(&blk->no_punch, __ATOMIC_RELAXED))
		return FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
	if (r->op == BLK_OP_ZERO && !__atomic_load_n(&blk->no_zero_range, __ATOMIC_RELAXED))
		return FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;
	return 0;
}

/* True: err says that the file system does not have this mode of fallocate(); that is remembered. */
static bool range_refused(struct blk *blk, int mode, int err)
{
	if (err != -EOPNOTSUPP && err != -ENOSYS && err != -ENODEV)
		return false;
	__atomic_store_n(mode & FALLOC_FL_PUNCH_HOLE ? &blk->no_punch : &blk->no_zero_range, 1, __ATOMIC_RELAXED);
	return true;
}

static int blk_sync_range(struct blk_queue *q, const struct blk_req *r)
{
	const struct blk_range *range = &r->range[r->at];
	int mode, err = 0;

	if (range->len == 0)
		return 0;
	while ((mode = blk_range_mode(q->blk, r)) != 0) {
		do
			err = fallocate(q->blk->config.fd, mode, (off_t)range->off, (off_t)range->len) < 0 ? -errno : 0;
		while (err == -EINTR);
		/* A block device refuses ranges that are not aligned to its blocks. */
		if (err == -EINVAL)
			break;
		if (!range_refused(q->blk, mode, err))
			return err;
	}
	/* A DISCARD may be ignored, a WRITE_ZEROES may not. */
	return r->op == BLK_OP_DISCARD ? 0 : blk_write_zeroes(q, range->off, range->len);
}

int blk_sync(struct blk_queue *q, struct blk_req *r)
{
	const struct blk *blk = q->blk;
	int err = 0;

	switch (r->op) {
	case BLK_OP_READ:
	case BLK_OP_WRITE:
		return blk_sync_rw(q, r);
	case BLK_OP_DISCARD:
	case BLK_OP_ZERO:
		for (; r->at < r->nranges && !err; r->at++)
			err = blk_sync_range(q, r);
		if (err || __atomic_load_n(&blk->writeback, __ATOMIC_RELAXED))
			return err;
		break;
	case BLK_OP_FLUSH:
		break;
	case BLK_OP_GET_ID:
		r->done = iov_scatter(r->iov, r->niov, blk->config.serial, BLK_ID_SIZE);
		return 0;
	case BLK_OP_NONE:
		return 0;
	}
	return fdatasync(blk->config.fd) < 0 ? -errno : 0;
}
