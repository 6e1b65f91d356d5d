// SPDX-License-Identifier: Apache-2.0
/*
 * virtio-blk (virtio 1.2, 5.2): a disk, its queues, and the choice of how a request is done: by a blocking call
 * (blk_sync.c) or by io_uring (blk_uring.c).
 *
 * Nothing is allocated while a queue runs: its memory is one mapping, most of which is never touched. The nth slot is touched
 * only when n requests are in flight, a list of segments only by a request with many.
 */
#include "blk/blk.h"
#include "calls/calls.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <linux/magic.h>

/* Publish after so many requests, or so many bytes: the guest works on them while the worker continues. */
enum { BATCH = 32, BATCH_BYTES = 256 << 10 };
/* A buffered write that took SLOW_NS has waited for the disk: io_uring does the next SLOW_WRITES, in threads of the kernel. */
enum { SLOW_NS = 2 * 1000 * 1000, SLOW_WRITES = 64 };
/* Copying so many bytes takes longer than waking a thread on another CPU to copy them. */
enum { ASIDE_BYTES = 128 << 10 };

int blk_in_memory(int fd)
{
	struct statfs fs;
	struct stat st;

	if (fstat(fd, &st) < 0 || fstatfs(fd, &fs) < 0)
		return -errno;
	return S_ISREG(st.st_mode) &&
			       (fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC || fs.f_type == HUGETLBFS_MAGIC) ?
		       BLK_IN_MEMORY :
		       BLK_NOT_IN_MEMORY;
}

/* A file in memory never blocks: io_uring is useful there only to copy on other CPUs. */
static bool blk_wants_uring(const struct blk *blk, uint32_t cpus)
{
	const uint32_t flags = blk->config.flags;

	/* Its blocks are in two files, and its order of writes is its own. */
	if (blk->config.overlay)
		return false;
	if (flags & (BLK_NO_URING | BLK_URING))
		return flags & BLK_URING;
	return !blk->memory_backed || cpus > 1;
}

static bool blk_may_want_uring(const struct blk *blk)
{
	cpu_set_t cpus;

	return blk_wants_uring(blk, sched_getaffinity(0, sizeof(cpus), &cpus) == 0 ? (uint32_t)CPU_COUNT(&cpus) : 1);
}

struct blk *blk_new(const struct blk_config *config, int *err)
{
	const uint64_t a = config->alignment;
	const int in_memory = config->in_memory ? config->in_memory : blk_in_memory(config->fd);
	struct blk *blk;

	*err = -EINVAL;
	if (config->capacity > INT64_MAX >> SECTOR_SHIFT || config->max_discard_seg > BLK_MAX_RANGES)
		return NULL;
	if (a == 0 || a & (a - 1) || a > BLK_BOUNCE_SIZE / 2)
		return NULL;
	if (config->overlay && (config->flags & BLK_DIRECT || !blk_overlay_fits(config->overlay, config->capacity)))
		return NULL;
	if (in_memory < 0) {
		*err = in_memory;
		return NULL;
	}
	*err = -ENOMEM;
	blk = calloc(1, sizeof(*blk));
	if (!blk)
		return NULL;
	blk->config = *config;
	blk->capacity = config->capacity;
	blk->writeback = 1;
	blk->memory_backed = in_memory == BLK_IN_MEMORY;
	blk->need_rmw = config->flags & BLK_DIRECT && a > SECTOR_SIZE;
	pthread_rwlock_init(&blk->rmw, NULL);
	if (blk_may_want_uring(blk))
		blk->rings = config->rings ? config->rings : blk_rings_of(config);
	*err = 0;
	return blk;
}

void blk_free(struct blk *blk)
{
	if (!blk)
		return;
	if (blk->rings != blk->config.rings)
		blk_rings_free(blk->rings);
	pthread_rwlock_destroy(&blk->rmw);
	free(blk);
}

/* The next len bytes of the queue's mapping, page-aligned. */
static size_t blk_place(size_t *at, size_t len)
{
	size_t place = *at;

	*at += pages_round(len);
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

static void blk_queue_free(struct worker *w)
{
	struct blk_queue *q = (struct blk_queue *)w;

	limit_gate_deinit(&q->gate);
	/* After a forbidden call, the thread ends without blk_drain(). */
	if (q->uring_up)
		blk_uring_close(q);
	munmap(q, q->map_size);
}

/* Read the part that is in the page cache, without blocking. */
static void blk_read_cached(struct blk_queue *q, struct blk_req *r)
{
	struct blk *blk = q->blk;
	ssize_t n;

	if (__atomic_load_n(&blk->no_nowait, __ATOMIC_RELAXED))
		return;
	n = preadv2(blk->config.fd, r->iov, (int)r->niov, (off_t)r->off, RWF_NOWAIT);
	if (n > 0)
		blk_req_advance(r, (uint64_t)n);
	else if (n < 0 && errno == EOPNOTSUPP)
		__atomic_store_n(&blk->no_nowait, 1, __ATOMIC_RELAXED);
}

/* A write to the page cache takes no longer than submitting it to io_uring, unless the kernel makes it wait for the disk. */
static int blk_write_cached(struct blk_queue *q, struct blk_req *r)
{
	uint64_t start = clock_ns();
	int err = blk_sync(q, r);

	if (clock_ns() - start > SLOW_NS)
		q->slow = SLOW_WRITES;
	return err;
}

/*
 * A large read from memory only copies. If another request is waiting and there are other CPUs, a thread of the kernel
 * copies this one while the worker does the next. (Writes to one file exclude each other anyway.)
 */
static bool blk_aside(struct blk_queue *q, struct blk_req *r)
{
	if (r->op != BLK_OP_READ || r->len < ASIDE_BYTES || q->aside + 1 >= q->worker.cpus)
		return false;
	if (!ring_pending(q->worker.ring) || !q->uring_up)
		return false;
	r->aside = true;
	return blk_uring_submit(q, r);
}

/* A buffered request. True: it is done, or was submitted. */
static bool blk_do_cached(struct blk_queue *q, struct blk_req *r)
{
	if (r->op == BLK_OP_READ) {
		if (blk_aside(q, r))
			return true;
		blk_read_cached(q, r);
		if (r->done < r->len)
			return false;
		blk_finish(q, r, 0);
		return true;
	}
	if (r->op != BLK_OP_WRITE || blk_rw_flags(q->blk, r))
		return false;
	if (q->slow) {
		q->slow--;
		return false;
	}
	blk_finish(q, r, blk_write_cached(q, r));
	return true;
}

/*
 * Do one request: at once if that does not block, else by io_uring. For nearly every file system, io_uring wakes a thread
 * of the kernel, which costs much more than copying from the page cache.
 */
static void blk_do(struct blk_queue *q, struct blk_req *r)
{
	const uint32_t flags = q->blk->config.flags;

	if (r->op != BLK_OP_NONE && r->op != BLK_OP_GET_ID) {
		if (q->blk->memory_backed && !(flags & BLK_URING)) {
			if (blk_aside(q, r))
				return;
		} else if (blk_aligned(q->blk, r) && q->uring_up) {
			if (!(flags & (BLK_DIRECT | BLK_URING)) && blk_do_cached(q, r))
				return;
			if (blk_uring_submit(q, r))
				return;
		}
	}
	/* Writes in flight hold the lock for reading; blk_sync() takes it for writing, so wait for them first. */
	if (blk_cuts_blocks(q->blk, r))
		blk_uring_drain(q);
	blk_finish(q, r, blk_sync(q, r));
}

/* The io_uring is prepared before the filter, which does not allow to enable one. */
static int blk_begin(struct worker *w)
{
	struct blk_queue *q = (struct blk_queue *)w;
	int err = limit_gate_watch(&q->gate, w->epoll_fd, WORKER_OWN);

	if (!err && blk_wants_uring(q->blk, w->cpus))
		blk_uring_start(q);
	seccomp_worker(w);
	return err;
}

static bool blk_plain(const struct worker *w)
{
	const struct blk_queue *q = (const struct blk_queue *)w;

	return !q->gate.limit && !blk_wants_uring(q->blk, w->cpus);
}

static __always_inline int blk_run_by(struct worker *w, void (*each)(struct blk_queue *q, struct blk_req *r))
{
	struct blk_queue *q = (struct blk_queue *)w;
	struct chain chain = { .max = RING_MAX_SEGMENTS };
	uint64_t bytes = 0;
	int n = 0, err = 0;

	if (q->uring_up)
		n = blk_uring_reap(q);
	/* Ask the limit again, since the timer may have woken the worker. */
	w->blocked = q->gate.closed = false;
	while (n < BATCH && bytes < BATCH_BYTES) {
		struct blk_req r;

		if (!limit_gate_open(&q->gate)) {
			w->blocked = true;
			break;
		}
		chain.iov = q->segments->iov;
		err = ring_pop(w->ring, &chain);
		if (err <= 0)
			break;
		err = blk_req_parse(q->blk, &chain, &r, q->ranges);
		if (unlikely(err)) {
			err = ring_fail(w->ring, err, "chain %u has no byte for the status of a request", chain.head);
			break;
		}
		stat_add(&w->stats.chains, 1);
		n++;
		bytes += r.len;
		limit_gate_charge(&q->gate, r.len);
		each(q, &r);
	}
	if (q->uring_up)
		blk_uring_push(q);
	worker_flush(w);
	return err < 0 ? err : n;
}

static int blk_run(struct worker *w)
{
	return blk_run_by(w, blk_do);
}

static void overlay_do(struct blk_queue *q, struct blk_req *r)
{
	blk_finish(q, r, blk_overlay_do(q, r));
}

static int overlay_run(struct worker *w)
{
	return blk_run_by(w, overlay_do);
}

static void blk_sleep(struct worker *w)
{
	struct blk_queue *q = (struct blk_queue *)w;

	if (q->uring_up)
		blk_uring_sleep(q);
	else
		worker_sleep(w);
}

static void blk_rest(struct worker *w)
{
	struct blk_queue *q = (struct blk_queue *)w;

	if (q->uring_up)
		blk_uring_drain(q);
}

static void blk_drain(struct worker *w)
{
	struct blk_queue *q = (struct blk_queue *)w;

	if (!q->uring_up)
		return;
	blk_uring_drain(q);
	blk_uring_stop(q);
}

const struct worker_ops blk_ops = {
	.begin = blk_begin,
	.plain = blk_plain,
	.run = blk_run,
	.sleep = blk_sleep,
	.drain = blk_drain,
	.rest = blk_rest,
	.destroy = blk_queue_free,
};

const struct worker_ops blk_overlay_ops = {
	.begin = blk_begin,
	.plain = blk_plain,
	.run = overlay_run,
	.sleep = blk_sleep,
	.drain = blk_drain,
	.rest = blk_rest,
	.destroy = blk_queue_free,
};

struct worker *blk_start(struct blk *blk, struct ring *ring, int kick_fd, struct irq *irq, int event_fd, int *err)
{
	const struct worker_ops *ops = blk->config.overlay ? &blk_overlay_ops : &blk_ops;
	struct blk_queue *q = blk_queue_new(blk, ring_size(ring));

	if (!q) {
		*err = -errno;
		return NULL;
	}
	q->worker.calls = SECCOMP_BLK;
	*err = worker_start(&q->worker, ops, ring, kick_fd, irq, event_fd, "pyvmm-blk");
	if (*err) {
		blk_queue_free(&q->worker);
		return NULL;
	}
	return &q->worker;
}

void blk_set_writeback(struct blk *blk, int writeback)
{
	__atomic_store_n(&blk->writeback, !!writeback, __ATOMIC_RELAXED);
}

void blk_set_capacity(struct blk *blk, uint64_t sectors)
{
	if (sectors > INT64_MAX >> SECTOR_SHIFT)
		sectors = INT64_MAX >> SECTOR_SHIFT;
	if (blk->config.overlay && !blk_overlay_fits(blk->config.overlay, sectors))
		return;
	__atomic_store_n(&blk->capacity, sectors, __ATOMIC_RELAXED);
}

void blk_get_stats(struct blk *blk, struct blk_stats *out)
{
	const struct blk_stats *s = &blk->stats;

	out->reads = __atomic_load_n(&s->reads, __ATOMIC_RELAXED);
	out->writes = __atomic_load_n(&s->writes, __ATOMIC_RELAXED);
	out->flushes = __atomic_load_n(&s->flushes, __ATOMIC_RELAXED);
	out->discards = __atomic_load_n(&s->discards, __ATOMIC_RELAXED);
	out->write_zeroes = __atomic_load_n(&s->write_zeroes, __ATOMIC_RELAXED);
	out->get_ids = __atomic_load_n(&s->get_ids, __ATOMIC_RELAXED);
	out->unsupported = __atomic_load_n(&s->unsupported, __ATOMIC_RELAXED);
	out->errors = __atomic_load_n(&s->errors, __ATOMIC_RELAXED);
	out->read_bytes = __atomic_load_n(&s->read_bytes, __ATOMIC_RELAXED);
	out->write_bytes = __atomic_load_n(&s->write_bytes, __ATOMIC_RELAXED);
	out->last_errno = __atomic_load_n(&s->last_errno, __ATOMIC_ACQUIRE);
	out->uring = __atomic_load_n(&s->uring, __ATOMIC_RELAXED);
}
