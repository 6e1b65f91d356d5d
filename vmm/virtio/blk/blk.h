/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-blk, between its files: blk.c (objects, the queue's loop), blk_req.c (what a chain asks for), blk_sync.c and
 * blk_uring.c (doing it). */
#ifndef VMM_NATIVE_BLK_H
#define VMM_NATIVE_BLK_H

#include "dataplane/worker.h"

#include "base/native.h"

#include <liburing.h>

/* ==== for Python ==== */

/* BLK_URING: everything through io_uring, also what would not block; for tests and comparisons. */
enum { BLK_RO = 1, BLK_DISCARD = 2, BLK_WRITE_ZEROES = 4, BLK_DIRECT = 8, BLK_NO_URING = 16, BLK_URING = 32 };

struct blk_config {
	int fd;
	uint32_t flags;
	uint64_t capacity;   /* in 512-byte sectors */
	uint32_t seg_max, size_max; /* 0: no limit but the ring's */
	uint32_t max_discard_sectors, max_discard_seg; /* of DISCARD and of WRITE_ZEROES; at most 512 segments */
	uint32_t alignment;  /* of memory, offset and length for direct I/O, else 1 */
	uint8_t serial[20];  /* padded with NUL */
	struct limit *limit; /* of all queues together, or NULL; outlives the disk */
};

struct blk_stats {
	uint64_t reads, writes, flushes, discards, write_zeroes, get_ids, unsupported, errors;
	uint64_t read_bytes, write_bytes;
	int32_t last_errno;  /* of the host; 0 when none failed */
	int32_t uring;       /* 1 when io_uring is in use */
};

struct blk;

/* What all queues of a disk share. */
struct blk *blk_new(const struct blk_config *config, int *err);
void blk_free(struct blk *blk);
/* A worker thread for one queue. event_fd is signalled when the worker stopped on a broken ring or the host failed. */
struct worker *blk_start(struct blk *blk, struct ring *ring, int kick_fd, struct irq *irq, int event_fd, int *err);
/* In writethrough mode (cache_mode 0) a write is completed only when it is on the disk. From any thread. */
void blk_set_writeback(struct blk *blk, int writeback);
/* After the file was resized. */
void blk_set_capacity(struct blk *blk, uint64_t sectors);
void blk_get_stats(struct blk *blk, struct blk_stats *out);

/* ==== end ==== */

enum { SECTOR_SHIFT = 9, SECTOR_SIZE = 1 << SECTOR_SHIFT };
enum { BLK_S_OK = 0, BLK_S_IOERR = 1, BLK_S_UNSUPP = 2 };
enum { BLK_ID_SIZE = 20 };
/* What the kernel moves in one call at most; a larger request is answered with an error. */
enum { BLK_MAX_BYTES = 0x7ffff000 };
enum { BLK_BOUNCE_SIZE = 256 << 10 };
enum { BLK_INLINE_IOV = 4, BLK_MAX_RANGES = 512 };

enum blk_op { BLK_OP_NONE, BLK_OP_READ, BLK_OP_WRITE, BLK_OP_FLUSH, BLK_OP_DISCARD, BLK_OP_ZERO, BLK_OP_GET_ID };

/* One segment of a DISCARD or WRITE_ZEROES request, checked. */
struct blk_range {
	uint64_t off, len; /* bytes */
	bool unmap;
};

/* A request that is known to be allowed, and how far it has come. */
struct blk_req {
	enum blk_op op;
	uint8_t status;        /* of BLK_OP_NONE: the answer */
	bool aside;            /* for a thread of the kernel's, even if it would not block */
	uint32_t head;
	uint32_t niov;         /* entries of iov left */
	uint32_t nranges, at;  /* ranges, and the one under way */
	uint64_t off;          /* in the image, of the bytes left */
	uint64_t len, done;    /* bytes asked for, bytes moved */
	uint64_t room;         /* writable bytes in front of the status byte */
	uint8_t *status_byte;  /* in guest memory */
	struct iovec *iov;
	struct blk_range *range;
	struct iovec inline_iov[BLK_INLINE_IOV];
};

/* Room for the segments of one request. */
union blk_store {
	struct iovec iov[RING_MAX_SEGMENTS];
	struct blk_range range[BLK_MAX_RANGES];
};

struct blk {
	struct blk_config config;
	uint64_t capacity;     /* sectors; atomic */
	int writeback;         /* atomic */
	bool memory_backed;    /* the file is RAM: no request ever waits for a device */
	int no_nowait, no_punch, no_zero_range; /* what the file system turned out not to have; atomic */
	/*
	 * Only for direct I/O with blocks larger than a sector: a write of a part of a block is a read and a write, which
	 * no other write may come between.
	 */
	pthread_rwlock_t rmw;
	bool need_rmw;
	uint64_t errno_seen[4];
	struct blk_stats stats; /* shared by the queues: atomic */
};

struct blk_queue {
	struct worker worker;
	struct blk *blk;
	size_t map_size;
	uint64_t batch_bytes;
	uint32_t slow;          /* writes to give to io_uring after one that blocked */
	uint32_t aside;         /* of worker.in_flight: copies on other CPUs */
	bool uring_up, kick_armed, stop_armed, timer_armed;
	struct limit_gate gate; /* in front of ring_pop() */
	struct io_uring uring;
	uint32_t nfree;
	uint16_t *free;         /* indices of unused slots */
	struct blk_req *slot;   /* requests that io_uring has */
	union blk_store *store; /* of the slots */
	union blk_store *segments, *ranges; /* of the request being looked at */
	uint8_t *bounce;
};

/* blk_req.c */

/* 0; or -EPROTO when there is no place for a status. chain->iov is used up. */
int blk_req_parse(const struct blk *blk, struct chain *chain, struct blk_req *r, union blk_store *ranges);
/* Give the answer: err is the host's -errno, or 0. Not yet visible to the guest. */
void blk_finish(struct blk_queue *q, struct blk_req *r, int err);

/* blk.c */

/* What blk_start() gives a thread; a fuzzer runs it without one. */
extern const struct worker_ops blk_ops;
/* A queue of n heads, its worker not started; NULL and errno. blk_ops.destroy() is blk_queue_free(). */
struct blk_queue *blk_queue_new(struct blk *blk, uint32_t n);
void blk_queue_free(struct worker *w);
static inline int blk_rw_flags(const struct blk *blk, const struct blk_req *r)
{
	return r->op == BLK_OP_WRITE && !__atomic_load_n(&blk->writeback, __ATOMIC_RELAXED) ? RWF_DSYNC : 0;
}

/* blk_sync.c */

/* Do what is left of a request, here and now. 0 or -errno. No write is in flight when blocks are cut through. */
int blk_sync(struct blk_queue *q, struct blk_req *r);
/* Take moved bytes off a request. */
void blk_req_advance(struct blk_req *r, uint64_t moved);
/* May this request be given to the kernel as it is? Not when direct I/O wants it aligned. */
bool blk_aligned(const struct blk *blk, const struct blk_req *r);
/*
 * Does it write, or may it, a part of a block that can only be written whole? Such a write is a read and a write, which
 * excludes all others.
 */
bool blk_cuts_blocks(const struct blk *blk, const struct blk_req *r);
/* fallocate() mode for the range under way, or 0 when only writing is left. */
int blk_range_mode(const struct blk *blk, const struct blk_req *r);

/* blk_uring.c */

/* Make the ring, in the worker's thread. When the host does not let us, everything is done by blk_sync(). */
void blk_uring_start(struct blk_queue *q);
/* Hand a request over (copied). False when it is not for io_uring: then it is the caller's. */
bool blk_uring_submit(struct blk_queue *q, const struct blk_req *r);
/* Handle what has completed; returns how many requests did. */
int blk_uring_reap(struct blk_queue *q);
/* Tell the kernel now when much has gathered; otherwise blk_uring_sleep() does. */
void blk_uring_push(struct blk_queue *q);
void blk_uring_sleep(struct blk_queue *q);
/* Wait until nothing is in flight. */
void blk_uring_drain(struct blk_queue *q);

#endif
