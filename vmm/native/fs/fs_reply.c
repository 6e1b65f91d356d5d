// SPDX-License-Identifier: Apache-2.0
/* Answers to FUSE requests: what every handler calls, below the table of handlers. */
#include "fs/fs.h"

#include <errno.h>

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
