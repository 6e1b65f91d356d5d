/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-blk: blk.c has the disk and the loop of a queue, blk_req.c parses and answers requests, blk_sync.c and blk_uring.c
 * do them, and blk_overlay.c those of a disk with an overlay. */
#ifndef VMM_NATIVE_BLK_H
#define VMM_NATIVE_BLK_H

#include "dataplane/worker.h"

#include "base/native.h"

#include <liburing.h>

/* ==== for Python ==== */

/* BLK_URING: io_uring does all requests, also those that would not block; for tests and comparisons. */
enum { BLK_RO = 1, BLK_DISCARD = 2, BLK_WRITE_ZEROES = 4, BLK_DIRECT = 8, BLK_NO_URING = 16, BLK_URING = 32 };
enum { BLK_IN_MEMORY = 1, BLK_NOT_IN_MEMORY = 2 };

struct blk_overlay;

struct blk_config {
	int fd;
	uint32_t flags;
	uint64_t capacity;   /* in 512-byte sectors */
	uint32_t seg_max, size_max; /* 0: no limit but the ring's */
	uint32_t max_discard_sectors, max_discard_seg; /* for DISCARD and WRITE_ZEROES; at most 512 segments */
	uint32_t alignment;  /* of memory, offset and length for direct I/O; else 1 */
	uint8_t serial[20];  /* padded with NUL */
	int32_t in_memory;   /* blk_in_memory(fd), of who may ask the file system; 0: find out */
	struct limit *limit; /* shared by all queues, or NULL; freed after the disk */
	struct blk_overlay *overlay; /* fd is only read, and this is written; or NULL; freed after the disk */
	uint32_t queues, queue_size; /* the most that there will be, the largest of each; 0: 1, 256 */
	struct blk_rings *rings; /* where its queues take their io_urings; NULL: the disk makes its own; freed after the disk */
};

struct blk_stats {
	uint64_t reads, writes, flushes, discards, write_zeroes, get_ids, unsupported, errors;
	uint64_t read_bytes, write_bytes;
	int32_t last_errno;  /* the last error of the host, or 0 */
	int32_t uring;       /* 1: io_uring is in use */
};

struct blk;
/* io_urings that wait for queues. Nobody makes one once the machine's threads have their lists of system calls. */
struct blk_rings;

/* n io_urings for queues of at most queue_size. NULL: the host allows none. Freed when no queue runs. */
struct blk_rings *blk_rings_new(uint32_t n, uint32_t queue_size);
void blk_rings_free(struct blk_rings *rings);
/* Is the file in memory, so that no request waits for a device: BLK_IN_MEMORY, BLK_NOT_IN_MEMORY or -errno. */
int blk_in_memory(int fd);
/* A disk, which all its queues share. NULL and *err = -errno. */
struct blk *blk_new(const struct blk_config *config, int *err);
void blk_free(struct blk *blk);
/* Start the worker of one queue. event_fd is signalled when the ring has an error, or when the host reports one. */
struct worker *blk_start(struct blk *blk, struct ring *ring, int kick_fd, struct irq *irq, int event_fd, int *err);
/* 0: writethrough (cache_mode 0): a write is completed when it is on the disk. From any thread. */
void blk_set_writeback(struct blk *blk, int writeback);
/* After the file was resized. A disk with an overlay keeps its size. */
void blk_set_capacity(struct blk *blk, uint64_t sectors);
void blk_get_stats(struct blk *blk, struct blk_stats *out);

/*
 * The overlay in the file fd, for a disk of size bytes. Its bitmap, a bit for each block, begins at bits_at, its blocks at data_at;
 * both are multiples of the page size. NULL and *err = -errno.
 */
struct blk_overlay *blk_overlay_new(int fd, uint64_t bits_at, uint64_t data_at, uint64_t size, int *err);
void blk_overlay_free(struct blk_overlay *overlay);
/* Make durable what was written before the call: 0 or -errno. From any thread. */
int blk_overlay_flush(struct blk_overlay *overlay);
/* The bitmap, which the file has only up to the last flush. */
void *blk_overlay_bits(struct blk_overlay *overlay);
/* The first block, from this one on, that the overlay has, or that it has not; after the last: the number of blocks. */
uint64_t blk_overlay_next(const struct blk_overlay *overlay, uint64_t block, int has);

/* ==== end ==== */

enum { SECTOR_SHIFT = 9, SECTOR_SIZE = 1 << SECTOR_SHIFT };
enum { BLK_S_OK = 0, BLK_S_IOERR = 1, BLK_S_UNSUPP = 2 };
enum { BLK_ID_SIZE = 20 };
/* The most that the kernel moves in one call; a larger request is answered with an error. */
enum { BLK_MAX_BYTES = 0x7ffff000 };
enum { BLK_BOUNCE_SIZE = 256 << 10 };
/* Bytes of an overlay's block; the largest disk that one is for. */
enum { BLK_OVERLAY_BLOCK = 4096 };
#define BLK_OVERLAY_MAX (1ull << 46)
enum { BLK_INLINE_IOV = 4, BLK_MAX_RANGES = 512 };

enum blk_op { BLK_OP_NONE, BLK_OP_READ, BLK_OP_WRITE, BLK_OP_FLUSH, BLK_OP_DISCARD, BLK_OP_ZERO, BLK_OP_GET_ID };

/* One segment of a DISCARD or WRITE_ZEROES request, checked. */
struct blk_range {
	uint64_t off, len; /* bytes */
	bool unmap;
};

/* A checked request, and its progress. */
struct blk_req {
	enum blk_op op;
	uint8_t status;        /* BLK_OP_NONE: the answer */
	bool aside;            /* a thread of the kernel does it, even if it would not block */
	uint32_t head;
	uint32_t niov;         /* entries of iov that are left */
	uint32_t nranges, at;  /* the number of ranges, and the current one */
	uint64_t off;          /* offset in the image of the bytes that are left */
	uint64_t len, done;    /* bytes asked for, bytes moved */
	uint64_t room;         /* writable bytes before the status byte */
	uint8_t *status_byte;  /* in guest memory */
	struct iovec *iov;
	struct blk_range *range;
	struct iovec inline_iov[BLK_INLINE_IOV];
};

/* Memory for the segments of one request. */
union blk_store {
	struct iovec iov[RING_MAX_SEGMENTS];
	struct blk_range range[BLK_MAX_RANGES];
};

struct blk {
	struct blk_config config;
	uint64_t capacity;     /* sectors; atomic */
	int writeback;         /* atomic */
	bool memory_backed;    /* the file is in memory: no request waits for a device */
	int no_nowait, no_punch, no_zero_range; /* operations that the file system does not have; atomic */
	/*
	 * Only for direct I/O with blocks larger than a sector: a write of a part of a block is a read and a write, and no
	 * other write may happen between these.
	 */
	pthread_rwlock_t rmw;
	bool need_rmw;
	struct blk_rings *rings; /* those of the configuration, or its own; NULL: none */
	uint64_t errno_seen[4];
	struct blk_stats stats; /* shared by the queues: atomic */
};

struct blk_queue {
	struct worker worker;
	struct blk *blk;
	size_t map_size;
	uint64_t batch_bytes;
	uint32_t slow;          /* how many further writes io_uring does, since one has blocked */
	uint32_t aside;         /* how many of worker.in_flight are copies on other CPUs */
	bool uring_up, uring_once, kick_armed, stop_armed, timer_armed;
	struct limit_gate gate; /* in front of ring_pop() */
	struct io_uring uring;
	uint32_t nfree;
	uint16_t *free;         /* indices of unused slots */
	struct blk_req *slot;   /* requests that io_uring has */
	union blk_store *store; /* segments of the requests in slots */
	union blk_store *segments, *ranges; /* those of the current request */
	uint8_t *bounce;
};

/* blk_req.c */

/* Parse a chain, whose iov is changed. 0; or -EPROTO: there is no byte for the status. */
int blk_req_parse(const struct blk *blk, struct chain *chain, struct blk_req *r, union blk_store *ranges);
/* Answer and push a request: err is -errno of the host, or 0. It is not published yet. */
void blk_finish(struct blk_queue *q, struct blk_req *r, int err);

/* blk.c */

/* The functions of the worker; a fuzzer calls them without a thread. */
extern const struct worker_ops blk_ops, blk_overlay_ops; /* blk_overlay_ops: of a disk with an overlay */
/* A queue of n heads, without a thread, which blk_ops.destroy() frees; NULL and errno. */
struct blk_queue *blk_queue_new(struct blk *blk, uint32_t n);
static inline int blk_rw_flags(const struct blk *blk, const struct blk_req *r)
{
	return r->op == BLK_OP_WRITE && !__atomic_load_n(&blk->writeback, __ATOMIC_RELAXED) ? RWF_DSYNC : 0;
}

/* blk_sync.c */

/* Do the rest of a request by blocking calls. 0 or -errno. If blk_cuts_blocks(), no write is in flight. */
int blk_sync(struct blk_queue *q, struct blk_req *r);
/* Count moved bytes of a request as done. */
void blk_req_advance(struct blk_req *r, uint64_t moved);
/* Whether the kernel can take the request as it is: direct I/O requires alignment. */
bool blk_aligned(const struct blk *blk, const struct blk_req *r);
/*
 * Whether the request may write a part of a block. Such a write is a read and a write of the whole block, and excludes all
 * other writes.
 */
bool blk_cuts_blocks(const struct blk *blk, const struct blk_req *r);
/* The fallocate() mode for the current range; 0: fallocate() cannot do it, write zeroes instead. */
int blk_range_mode(const struct blk *blk, const struct blk_req *r);

/* blk_overlay.c */

/* Do a request of a disk with an overlay. 0 or -errno. */
int blk_overlay_do(struct blk_queue *q, struct blk_req *r);
/* Whether it is for a disk of so many sectors. */
bool blk_overlay_fits(const struct blk_overlay *o, uint64_t sectors);

/* blk_uring.c */

/* The io_urings of a disk's own queues: each has a fast one for its first worker, and one for those after a reset. */
struct blk_rings *blk_rings_of(const struct blk_config *config);
/* Take an io_uring, in the worker's thread. If there is none, blk_sync() does all requests. */
void blk_uring_start(struct blk_queue *q);
/* Give it back; nothing is in flight. */
void blk_uring_stop(struct blk_queue *q);
/* Close it; no worker uses it again. The thread that used it has ended. */
void blk_uring_close(struct blk_queue *q);
/* Copy a request and submit it. False: io_uring cannot do it, and the caller must. */
bool blk_uring_submit(struct blk_queue *q, const struct blk_req *r);
/* Handle completions; returns the number of requests that completed. */
int blk_uring_reap(struct blk_queue *q);
/* Submit to the kernel if many requests are queued; otherwise blk_uring_sleep() does. */
void blk_uring_push(struct blk_queue *q);
void blk_uring_sleep(struct blk_queue *q);
/* Wait until nothing is in flight. */
void blk_uring_drain(struct blk_queue *q);

#endif
