// SPDX-License-Identifier: Apache-2.0
/*
 * Does requests that may block by io_uring. The worker also sleeps in io_uring: it polls the kick and the stop descriptor
 * there, so that one system call submits, waits for the guest and waits for the host.
 *
 * Operations of an io_uring are not subject to seccomp filters, and a filter cannot tell which io_uring is made. So all are
 * made with their disk, before the machine's threads have their lists of system calls, and restricted for good to the
 * operations below, on the disk and on the three descriptors that are polled. A worker takes one and gives it back; nobody
 * makes another one.
 */
#include "blk/blk.h"

#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* The most requests between two submissions. The completion ring has room for these and for all requests in flight. */
enum { SQ_SIZE = 64 };
/* The registered files: the io_uring cannot access others. */
enum { FILE_DISK = 0, FILE_KICK = 1, FILE_STOP = 2, FILE_TIMER = 3, FILES = 4 };
/* user_data of polls; that of requests is a pointer, which never has these values. */
enum { UD_KICK = 1, UD_STOP = 2, UD_TIMER = 3, UD_CANCEL = 4 };
enum { QUEUE_SIZE = 256 };

struct blk_rings {
	pthread_mutex_t lock;
	/* once: the fastest mode, in which one thread only can use it; again: for any thread, one after the other. */
	struct io_uring *once, *again;
	uint32_t nonce, nagain;
	struct io_uring room[];
};

/* NULL: the kernel takes nothing at the moment; the caller does the request without io_uring. */
static struct io_uring_sqe *uring_sqe(struct blk_queue *q)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&q->uring);

	if (likely(sqe))
		return sqe;
	io_uring_submit(&q->uring);
	return io_uring_get_sqe(&q->uring);
}

/* Like the edge-triggered epoll of worker_sleep(): each kick gives a completion, and the eventfd is never read. */
static bool uring_arm(struct blk_queue *q, int file, uint64_t user_data)
{
	struct io_uring_sqe *sqe = uring_sqe(q);

	if (!sqe)
		return false;
	io_uring_prep_poll_multishot(sqe, file, POLLIN);
	io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
	io_uring_sqe_set_data64(sqe, user_data);
	return true;
}

/* Called before the io_uring is enabled; cannot be undone. 0, or -errno: the kernel is older than 5.10. */
static int uring_restrict(struct io_uring *uring)
{
	static const uint8_t ops[] = {
		IORING_OP_READ, IORING_OP_READV, IORING_OP_WRITE, IORING_OP_WRITEV, IORING_OP_FSYNC, IORING_OP_FALLOCATE,
		IORING_OP_POLL_ADD, IORING_OP_POLL_REMOVE,
	};
	enum { OPS = sizeof(ops) };
	struct io_uring_restriction r[OPS + 3] = {
		[OPS] = { .opcode = IORING_RESTRICTION_SQE_FLAGS_REQUIRED, .sqe_flags = IOSQE_FIXED_FILE },
		[OPS + 1] = { .opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED, .sqe_flags = IOSQE_FIXED_FILE | IOSQE_ASYNC },
		/* Each worker has a descriptor of its own that stops it. */
		[OPS + 2] = { .opcode = IORING_RESTRICTION_REGISTER_OP, .register_op = IORING_REGISTER_FILES_UPDATE },
	};

	for (size_t i = 0; i < OPS; i++) {
		r[i].opcode = IORING_RESTRICTION_SQE_OP;
		r[i].sqe_op = ops[i];
	}
	return io_uring_register_restrictions(uring, r, OPS + 3);
}

static bool uring_make(struct io_uring *uring, uint32_t queue_size, unsigned int flags)
{
	static const int none[FILES] = { -1, -1, -1, -1 };
	struct io_uring_params p = {
		.flags = flags | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP | IORING_SETUP_R_DISABLED,
		.cq_entries = queue_size + SQ_SIZE,
	};

	if (io_uring_queue_init_params(SQ_SIZE, uring, &p) < 0)
		return false;
	if (io_uring_register_files(uring, none, FILES) == 0 && uring_restrict(uring) == 0)
		return true;
	io_uring_queue_exit(uring);
	return false;
}

static bool uring_make_again(struct io_uring *uring, uint32_t queue_size)
{
	if (!uring_make(uring, queue_size, IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG) &&
	    !uring_make(uring, queue_size, 0))
		return false;
	if (io_uring_enable_rings(uring) == 0)
		return true;
	io_uring_queue_exit(uring);
	return false;
}

static struct blk_rings *rings_make(uint32_t once, uint32_t again, uint32_t queue_size)
{
	struct blk_rings *rings = calloc(1, sizeof(*rings) + (once + again) * sizeof(struct io_uring));

	if (!rings)
		return NULL;
	pthread_mutex_init(&rings->lock, NULL);
	rings->once = rings->room;
	rings->again = &rings->room[once];
	while (rings->nagain < again && uring_make_again(&rings->again[rings->nagain], queue_size))
		rings->nagain++;
	/* Linux 6.1 */
	while (rings->nonce < once && uring_make(&rings->once[rings->nonce], queue_size,
						 IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
							 IORING_SETUP_TASKRUN_FLAG))
		rings->nonce++;
	return rings;
}

struct blk_rings *blk_rings_of(const struct blk_config *config)
{
	const uint32_t queues = config->queues ? config->queues : 1;

	return rings_make(queues, queues, config->queue_size ? config->queue_size : QUEUE_SIZE);
}

struct blk_rings *blk_rings_new(uint32_t n, uint32_t queue_size)
{
	return rings_make(0, n, queue_size);
}

void blk_rings_free(struct blk_rings *rings)
{
	if (!rings)
		return;
	while (rings->nonce)
		io_uring_queue_exit(&rings->once[--rings->nonce]);
	while (rings->nagain)
		io_uring_queue_exit(&rings->again[--rings->nagain]);
	pthread_mutex_destroy(&rings->lock);
	free(rings);
}

static bool uring_take(struct blk_queue *q)
{
	struct blk_rings *rings = q->blk->rings;
	bool found = true;

	if (!rings)
		return false;
	pthread_mutex_lock(&rings->lock);
	q->uring_once = rings->nonce > 0;
	if (q->uring_once)
		q->uring = rings->once[--rings->nonce];
	else if (rings->nagain)
		q->uring = rings->again[--rings->nagain];
	else
		found = false;
	pthread_mutex_unlock(&rings->lock);
	return found;
}

static void uring_give(struct blk_queue *q)
{
	struct blk_rings *rings = q->blk->rings;

	if (q->uring_once) {
		io_uring_queue_exit(&q->uring);
		return;
	}
	pthread_mutex_lock(&rings->lock);
	rings->again[rings->nagain++] = q->uring;
	pthread_mutex_unlock(&rings->lock);
}

void blk_uring_start(struct blk_queue *q)
{
	const int files[FILES] = { q->blk->config.fd, q->worker.kick_fd, q->worker.stop_fd, q->gate.timer_fd };
	int err;

	if (!uring_take(q))
		return;
	err = io_uring_register_files_update(&q->uring, 0, files, FILES);
	if (err >= 0 && q->uring_once)
		err = io_uring_enable_rings(&q->uring);
	if (err < 0) {
		uring_give(q);
		return;
	}
	q->uring_up = true;
	q->kick_armed = q->stop_armed = q->timer_armed = false;
	__atomic_store_n(&q->blk->stats.uring, 1, __ATOMIC_RELAXED);
}

/* Queue a request, or its next range. False: io_uring cannot do it. */
static bool uring_prepare(struct blk_queue *q, struct blk_req *r)
{
	const struct blk_range *range = NULL;
	struct io_uring_sqe *sqe;
	int mode = 0;

	if (r->op == BLK_OP_DISCARD || r->op == BLK_OP_ZERO) {
		range = &r->range[r->at];
		/* Read once: another queue may find out at any time that the file system does not have this mode. */
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
			io_uring_prep_read(sqe, FILE_DISK, r->iov->iov_base, (unsigned int)r->iov->iov_len, r->off);
		else
			io_uring_prep_readv(sqe, FILE_DISK, r->iov, r->niov, r->off);
		break;
	case BLK_OP_WRITE:
		if (r->niov == 1)
			io_uring_prep_write(sqe, FILE_DISK, r->iov->iov_base, (unsigned int)r->iov->iov_len, r->off);
		else
			io_uring_prep_writev(sqe, FILE_DISK, r->iov, r->niov, r->off);
		sqe->rw_flags = blk_rw_flags(q->blk, r);
		break;
	case BLK_OP_DISCARD:
	case BLK_OP_ZERO:
		io_uring_prep_fallocate(sqe, FILE_DISK, mode, range->off, range->len);
		break;
	default:
		io_uring_prep_fsync(sqe, FILE_DISK, IORING_FSYNC_DATASYNC);
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

bool blk_uring_submit(struct blk_queue *q, const struct blk_req *from)
{
	/* There are as many slots as heads, and each head is in flight at most once, so one is free. */
	const uint16_t i = q->free[q->nfree - 1];
	struct blk_req *r = &q->slot[i];

	if (blk_cuts_blocks(q->blk, from))
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

/* True: the request is finished, with *err; false: its next range was submitted. */
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
	 * An error of the disk is the answer. After a short or interrupted transfer, or if the operation does not exist,
	 * blk_sync() does the rest; it also finds out if the file has ended.
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
		} else if (data != UD_CANCEL) {
			uring_complete(q, (struct blk_req *)(uintptr_t)data, res);
			n++;
		}
	}
	return n;
}

/* The filter of this thread does not allow nanosleep(). */
static void wait_a_moment(void)
{
	const struct timespec ms = { .tv_nsec = 1000000 };
	uint32_t same = 0;

	syscall(SYS_futex, &same, FUTEX_WAIT_PRIVATE, same, &ms, NULL, 0);
}

static void uring_submit_and_wait(struct blk_queue *q)
{
	int n = io_uring_submit_and_wait(&q->uring, 1);

	/* EBUSY: completions must be taken first. Any other error: the kernel is short of memory, so wait before retrying. */
	if (unlikely(n < 0 && n != -EINTR && n != -EBUSY))
		wait_a_moment();
}

void blk_uring_sleep(struct blk_queue *q)
{
	if (unlikely(!q->kick_armed))
		q->kick_armed = uring_arm(q, FILE_KICK, UD_KICK);
	if (unlikely(!q->stop_armed))
		q->stop_armed = uring_arm(q, FILE_STOP, UD_STOP);
	if (unlikely(!q->timer_armed && q->gate.timer_fd >= 0))
		q->timer_armed = uring_arm(q, FILE_TIMER, UD_TIMER);
	/* The wake-up to stop may have been taken with the last completions: there is no other. */
	if (likely(q->kick_armed && q->stop_armed && (q->timer_armed || q->gate.timer_fd < 0) && !worker_called(&q->worker)))
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

static void uring_disarm(struct blk_queue *q, uint64_t user_data)
{
	struct io_uring_sqe *sqe = uring_sqe(q);

	if (!sqe)
		return;
	io_uring_prep_poll_remove(sqe, user_data);
	io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
	io_uring_sqe_set_data64(sqe, UD_CANCEL);
}

void blk_uring_close(struct blk_queue *q)
{
	q->uring_up = false;
	io_uring_queue_exit(&q->uring);
}

void blk_uring_stop(struct blk_queue *q)
{
	static const int none[FILES] = { -1, -1, -1, -1 };

	/* The next worker finds it as the first one did. */
	while (!q->uring_once && (q->kick_armed || q->stop_armed || q->timer_armed)) {
		if (q->kick_armed)
			uring_disarm(q, UD_KICK);
		if (q->stop_armed)
			uring_disarm(q, UD_STOP);
		if (q->timer_armed)
			uring_disarm(q, UD_TIMER);
		uring_submit_and_wait(q);
		blk_uring_reap(q);
	}
	if (!q->uring_once)
		io_uring_register_files_update(&q->uring, 0, none, FILES);
	q->uring_up = false;
	uring_give(q);
}
