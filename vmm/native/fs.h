/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio-fs, between its files: fs.c (the share, its queues), fs_op.c (the table of requests, what they all have in common),
 * fs_inode.c (what the guest knows), fs_open.c (from there to descriptors), fs_handle.c (what it has open), and one file
 * per family of requests.
 */
#ifndef VMM_NATIVE_FS_H
#define VMM_NATIVE_FS_H

#include "worker.h"

#include "iov.h"

#include <linux/fuse.h>
#include <sys/stat.h>

enum { FS_NAME_MAX = 255, FS_TARGET_MAX = 4095, FS_XATTR_MAX = 65536 };
/* The longest request, without the data of a WRITE; and the longest answer that is not put into guest memory directly. */
enum { FS_BUF_SIZE = 128 << 10 };
enum { FS_MAX_DOMAINS = 256, FS_HANDLE_INLINE = 24 };
/* Other results of a request's handler than 0 and -errno: no answer at all; an answer that comes later. */
enum { FS_NO_REPLY = 1, FS_PENDING = 2 };

struct fs_files;
struct fs_nodes;

struct fs {
	struct fs_config config;
	int root_fd, proc_fd;
	bool can_switch;       /* we may act as the guest's users */
	uint32_t max_write;
	/* What FUSE_INIT settled; atomic. 0: not yet done. */
	uint64_t features;
	struct fs_nodes *nodes;
	struct fs_files *files;
	uint64_t locks_gen;    /* atomic: grows when a lock was given back */

	pthread_mutex_t stats_lock; /* for the two below */
	struct fs_queue *queues;
	struct fs_stats totals;     /* of queues that are gone */
};

/* A lock request that waits. The chain stays in flight. */
struct fs_wait {
	struct fuse_in_header in;
	struct fuse_lk_in lk;
	uint64_t started;
	uint32_t head, nhdr;
	struct iovec hdr[sizeof(struct fuse_out_header)];
};
enum { FS_MAX_WAITS = 64 };

struct fs_queue {
	struct worker worker;
	struct fs *fs;
	struct fs_queue *next;
	bool entered;          /* the thread has made itself ready */
	uint32_t uid, gid, supp; /* the thread acts as these now */
	uint8_t *buf, *out;    /* FS_BUF_SIZE each: arguments, and an answer in pieces */
	uint32_t nwaits;
	uint64_t wait_ns, waits_gen;
	struct fs_wait *wait;
	struct fs_stats stats;
	struct iovec iov[RING_MAX_SEGMENTS];
};

/* A request. Everything but the buffers behind in_iov and out_iov is our own copy. */
struct fs_req {
	struct fs *fs;
	struct fs_queue *q;
	struct fuse_in_header in;
	uint32_t head;
	const void *arg;         /* the fixed part, FS_BUF_SIZE of readable memory at least */
	uint32_t arg_len;        /* of it and of what follows, extensions excluded */
	const char *name[2];     /* checked; NULL when the request has none */
	uint32_t name_len[2];
	bool has_supp;
	uint32_t supp;           /* a group to have too while something is made */
	struct iovec *in_iov;    /* of requests with data: the rest of what is to be read */
	uint32_t in_n;
	uint64_t in_len;
	struct iovec *out_iov;   /* behind the header of the answer */
	uint32_t out_n, nhdr;
	uint64_t out_room;
	uint64_t out_len;        /* how much of it was written */
	struct iovec hdr[sizeof(struct fuse_out_header)];
};

typedef int (*fs_fn)(struct fs_req *r);

enum {
	OP_WRITES = 1,   /* changes something: not on a read-only share */
	OP_NAME = 2,     /* a name follows the fixed part */
	OP_NAMES = 4,    /* two names */
	OP_TARGET = 8,   /* a name, then what a symbolic link says */
	OP_DATA = 16,    /* data follows, left where it is */
	OP_QUIET = 32,   /* is never answered */
	OP_FIRST = 64,   /* may come before FUSE_INIT */
};

struct fs_op {
	fs_fn fn;
	uint16_t arg_min; /* bytes of the fixed part */
	uint16_t flags;
};

/* fs_op.c */

extern const struct fs_op fs_ops[FS_OPS];
/* One chain: parse, do, answer. 0, FS_PENDING, or the latched error of a ring whose chain cannot be answered. */
int fs_handle(struct fs_queue *q, struct chain *chain);
/* Put the answer's payload into guest memory. -EINVAL: the guest left too little room. */
int fs_reply(struct fs_req *r, const void *data, size_t len);
/* Give a chain back: err is 0 or -errno, payload is counted without the header. */
void fs_finish(struct fs_queue *q, uint32_t head, const struct iovec *hdr, uint32_t nhdr, uint64_t unique, int err,
	       uint64_t payload);
static inline bool fs_has(const struct fs *fs, uint64_t feature)
{
	return __atomic_load_n(&fs->features, __ATOMIC_RELAXED) & feature;
}

/* The requests, by file. Each answers one: 0, -errno, FS_NO_REPLY or FS_PENDING. */
int fs_init(struct fs_req *r);

/* fs.c */

extern const struct worker_ops fs_worker_ops;
struct fs_queue *fs_queue_new(struct fs *fs);

#endif
