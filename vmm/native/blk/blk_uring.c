// SPDX-License-Identifier: Apache-2.0
/*
 * io_uring: what may block. The worker sleeps in io_uring too, with the kick and the stop descriptor armed in the same
 * ring, so that submitting, waiting for the guest and waiting for the host are one system call.
 *
 * The ring is made when the first request needs it: a disk whose image is in memory never does.
 */
#include "blk/blk.h"

#include <errno.h>
#include <poll.h>
#include <time.h>

/* Requests between two submissions. The completion ring has room for that and for everything in flight. */
enum { SQ_SIZE = 64 };
/* user_data of what is no request: no pointer has these values. */
enum { UD_KICK = 1, UD_STOP = 2, UD_TIMER = 3 };

/* NULL when the kernel takes nothing at the moment: the caller does without. */
static struct io_uring_sqe *uring_sqe(struct blk_queue *q)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&q->uring);

	if (likely(sqe))
		return sqe;
	io_uring_submit(&q->uring);
	return io_uring_get_sqe(&q->uring);
}

/* Edge-triggered like the epoll of worker_sleep(): a completion for each kick, and the eventfd is never read. */
static bool uring_arm(struct blk_queue *q, int fd, uint64_t user_data)
{
	struct io_uring_sqe *sqe = uring_sqe(q);

	if (!sqe)
		return false;
	io_uring_prep_poll_multishot(sqe, fd, POLLIN);
	io_uring_sqe_set_data64(sqe, user_data);
	return true;
}

bool blk_uring_start(struct blk_queue *q)
{
	/* From the best to what every io_uring has. */
	static const unsigned int tries[] = {
		IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
		IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
		0,
	};
	int err = -ENOSYS;

	for (size_t i = 0; i < sizeof(tries) / sizeof(tries[0]) && err < 0; i++) {
		struct io_uring_params p = {
			.flags = tries[i] | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP,
			.cq_entries = ring_size(q->worker.ring) + SQ_SIZE,
		};

		err = io_uring_queue_init_params(SQ_SIZE, &q->uring, &p);
		if (err == -ENOSYS || err == -EPERM || err == -ENOMEM)
			break;
	}
	/* Without it a lookup of the descriptor per request, so not a must; but then nothing is as expected. */
	if (err == 0) {
		err = io_uring_register_files(&q->uring, &q->blk->config.fd, 1);
		if (err < 0)
			io_uring_queue_exit(&q->uring);
	}
	if (err < 0) {
		q->uring_failed = true;
		return false;
	}
	q->uring_up = true;
	q->kick_armed = q->stop_armed = q->timer_armed = false;
	__atomic_store_n(&q->blk->stats.uring, 1, __ATOMIC_RELAXED);
	return true;
}

/* False when this, or its next part, is not for io_uring. */
static bool uring_prepare(struct blk_queue *q, struct blk_req *r)
{
	const struct blk_range *range = NULL;
	struct io_uring_sqe *sqe;
	int mode = 0;

	if (r->op == BLK_OP_DISCARD || r->op == BLK_OP_ZERO) {
		range = &r->range[r->at];
		/* Looked up once: another queue may find out at any time that the file system cannot do it. */
		mode = blk_range_mode(q->blk, r);
		if (!mode || !range->len)
			return false;
	}
	sqe = uring_sqe(q);
	if (unlikely(!sqe))
		return false;
	switch (r->op) {
	case BLK_OP_READ:
		if (r->niov == 1)
			io_uring_prep_read(sqe, 0, r->iov->iov_base, (unsigned int)r->iov->iov_len, r->off);
		else
			io_uring_prep_readv(sqe, 0, r->iov, r->niov, r->off);
		break;
	case BLK_OP_WRITE:
		if (r->niov == 1)
			io_uring_prep_write(sqe, 0, r->iov->iov_base, (unsigned int)r->iov->iov_len, r->off);
		else
			io_uring_prep_writev(sqe, 0, r->iov, r->niov, r->off);
		sqe->rw_flags = blk_rw_flags(q->blk, r);
		break;
	case BLK_OP_DISCARD:
	case BLK_OP_ZERO:
		io_uring_prep_fallocate(sqe, 0, mode, range->off, range->len);
		break;
	default:
		io_uring_prep_fsync(sqe, 0, IORING_FSYNC_DATASYNC);
		break;
	}
	io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE | (r->aside ? IOSQE_ASYNC : 0));
	io_uring_sqe_set_data(sqe, r);
	return true;
}

static bool uring_locks(const struct blk_queue *q, const struct blk_req *r)
{
	return q->blk->need_rmw && r->op == BLK_OP_WRITE;
}

/* Ranges of blocks that are cut through may end in a read and a write, which waits for what is in flight. */
static bool uring_cuts_blocks(const struct blk_queue *q, const struct blk_req *r)
{
	uint64_t bits = 0;

	if (q->blk->need_rmw)
		for (uint32_t i = 0; i < r->nranges; i++)
			bits |= r->range[i].off | r->range[i].len;
	return bits & (q->blk->config.alignment - 1);
}

bool blk_uring_submit(struct blk_queue *q, const struct blk_req *from)
{
	/* There are as many slots as heads, and the ring gives each head out once. */
	const uint16_t i = q->free[q->nfree - 1];
	struct blk_req *r = &q->slot[i];

	if (uring_cuts_blocks(q, from))
		return false;
	*r = *from;
	if (r->nranges) {
		r->range = q->store[i].range;
		for (uint32_t k = 0; k < r->nranges; k++)
			r->range[k] = from->range[k];
	} else if (r->niov) {
		r->iov = r->niov <= BLK_INLINE_IOV ? r->inline_iov : q->store[i].iov;
		for (uint32_t k = 0; k < r->niov; k++)
			r->iov[k] = from->iov[k];
	}
	if (!uring_prepare(q, r))
		return false;
	if (uring_locks(q, r))
		pthread_rwlock_rdlock(&q->blk->rmw);
	q->nfree--;
	q->worker.in_flight++;
	if (r->aside) {
		q->aside++;
		io_uring_submit(&q->uring);
	}
	return true;
}

/* True when the request is finished, with *err; false when more of it was submitted. */
static bool uring_result(struct blk_queue *q, struct blk_req *r, int res, int *err)
{
	*err = res < 0 ? res : 0;
	switch (r->op) {
	case BLK_OP_READ:
	case BLK_OP_WRITE:
		if (res > 0)
			blk_req_advance(r, (uint64_t)res);
		if (r->done == r->len)
			return true;
		break;
	case BLK_OP_DISCARD:
	case BLK_OP_ZERO:
		if (res == 0 && ++r->at < r->nranges && uring_prepare(q, r))
			return false;
		break;
	default:
		if (res == 0)
			return true;
		break;
	}
	/*
	 * A real error is the answer. What only means "not like this" - a short transfer, an interrupted one, an operation
	 * that is not there - is finished by hand; if it was the end of the file, that finds out.
	 */
	if (res < 0 && res != -EAGAIN && res != -EINTR && res != -EOPNOTSUPP && res != -EINVAL)
		return true;
	*err = blk_aligned(q->blk, r) ? blk_sync(q, r) : -EIO;
	return true;
}

static void uring_complete(struct blk_queue *q, struct blk_req *r, int res)
{
	int err;

	if (!uring_result(q, r, res, &err))
		return;
	if (uring_locks(q, r))
		pthread_rwlock_unlock(&q->blk->rmw);
	q->worker.in_flight--;
	q->aside -= r->aside;
	q->free[q->nfree++] = (uint16_t)(r - q->slot);
	blk_finish(q, r, err);
}

int blk_uring_reap(struct blk_queue *q)
{
	struct io_uring_cqe *cqe;
	int n = 0;

	while (io_uring_peek_cqe(&q->uring, &cqe) == 0) {
		const uint64_t data = cqe->user_data;
		const int res = cqe->res;
		const bool more = cqe->flags & IORING_CQE_F_MORE;

		io_uring_cqe_seen(&q->uring, cqe);
		if (data == UD_KICK) {
			q->kick_armed = more;
			stat_add(&q->worker.stats.kicks, res > 0);
		} else if (data == UD_STOP) {
			q->stop_armed = more;
		} else if (data == UD_TIMER) {
			q->timer_armed = more;
		} else {
			uring_complete(q, (struct blk_req *)(uintptr_t)data, res);
			n++;
		}
	}
	return n;
}

static void uring_submit_and_wait(struct blk_queue *q)
{
	int n = io_uring_submit_and_wait(&q->uring, 1);

	/* EBUSY: first take what has completed. Otherwise the kernel is short of memory: not the moment to insist. */
	if (unlikely(n < 0 && n != -EINTR && n != -EBUSY))
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
}

void blk_uring_sleep(struct blk_queue *q)
{
	if (unlikely(!q->kick_armed))
		q->kick_armed = uring_arm(q, q->worker.kick_fd, UD_KICK);
	if (unlikely(!q->stop_armed))
		q->stop_armed = uring_arm(q, q->worker.stop_fd, UD_STOP);
	if (unlikely(!q->timer_armed && q->gate.timer_fd >= 0))
		q->timer_armed = uring_arm(q, q->gate.timer_fd, UD_TIMER);
	if (likely(q->kick_armed && q->stop_armed && (q->timer_armed || q->gate.timer_fd < 0)))
		uring_submit_and_wait(q);
	else
		io_uring_submit(&q->uring);
}

void blk_uring_push(struct blk_queue *q)
{
	if (io_uring_sq_ready(&q->uring) >= SQ_SIZE / 2)
		io_uring_submit(&q->uring);
}

void blk_uring_drain(struct blk_queue *q)
{
	while (q->worker.in_flight) {
		if (!blk_uring_reap(q))
			uring_submit_and_wait(q);
	}
}
