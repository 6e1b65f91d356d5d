// SPDX-License-Identifier: Apache-2.0
/* Answers to FUSE requests, and the attributes in them. All handlers use these functions. */
#include "fs/fs.h"

#include <errno.h>

/* Seconds. */
enum { TIMEOUT_AUTO = 1, TIMEOUT_ALWAYS = 86400 };

uint64_t fs_timeout(const struct fs *fs)
{
	switch (fs->config.cache) {
	case FS_CACHE_AUTO:
		return TIMEOUT_AUTO;
	case FS_CACHE_ALWAYS:
		return TIMEOUT_ALWAYS;
	default:
		return 0;
	}
}

/* A device number in 32 bits, as Linux encodes it (new_encode_dev()). */
static uint32_t dev_pack(uint32_t major, uint32_t minor)
{
	return (minor & 0xff) | major << 8 | (minor & ~0xffu) << 12;
}

void fs_fill_attr(const struct fs *fs, const struct statx *st, struct fuse_attr *attr)
{
	*attr = (struct fuse_attr){
		.ino = st->stx_ino,
		.size = st->stx_size,
		.blocks = st->stx_blocks,
		.atime = (uint64_t)st->stx_atime.tv_sec,
		.mtime = (uint64_t)st->stx_mtime.tv_sec,
		.ctime = (uint64_t)st->stx_ctime.tv_sec,
		.atimensec = st->stx_atime.tv_nsec,
		.mtimensec = st->stx_mtime.tv_nsec,
		.ctimensec = st->stx_ctime.tv_nsec,
		.mode = st->stx_mode,
		.nlink = st->stx_nlink,
		.uid = fs_id_to_guest(&fs->config.users, st->stx_uid),
		.gid = fs_id_to_guest(&fs->config.groups, st->stx_gid),
		.rdev = dev_pack(st->stx_rdev_major, st->stx_rdev_minor),
		.blksize = st->stx_blksize,
	};
}

int fs_reply(struct fs_req *r, const void *data, size_t len)
{
	if (len > r->out_room)
		return -EINVAL;
	r->out_len = iov_scatter(r->out_iov, r->out_n, data, len);
	return 0;
}

void fs_finish(struct fs_queue *q, uint32_t head, const struct iovec *hdr, uint32_t nhdr, uint64_t unique, int err,
	       uint64_t payload)
{
	struct fuse_out_header out = {
		.len = (uint32_t)(sizeof(out) + (err ? 0 : payload)),
		.error = err,
		.unique = unique,
	};

	iov_scatter(hdr, nhdr, &out, sizeof(out));
	ring_push(q->worker.ring, head, out.len);
}

void fs_account(struct fs_queue *q, uint32_t opcode, int err, uint64_t ns)
{
	uint32_t bucket = ns < 512 ? 0 : 63u - (uint32_t)__builtin_clzll(ns) - 8;

	stat_add(&q->stats.ops[opcode], 1);
	stat_add(&q->stats.latency[opcode][bucket < FS_BUCKETS ? bucket : FS_BUCKETS - 1], 1);
	if (err < 0 && err != -ENOENT && err != -ENODATA && err != -ENOSYS)
		stat_add(&q->stats.errors, 1);
}
