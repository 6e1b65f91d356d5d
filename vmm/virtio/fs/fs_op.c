// SPDX-License-Identifier: Apache-2.0
/*
 * The common part of all FUSE requests: header, length, names, the check for a read-only share, the answer.
 *
 * The header and the arguments are copied from guest memory once, and only the copies are used. A malformed request is
 * answered with an errno. A chain without a header, or without room for an answer, is an error of the ring.
 */
#include "fs/fs.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#define IN(type) sizeof(struct fuse_##type##_in)

static const struct fs_op fs_ops[FS_OPS] = {
	[FUSE_INIT] = { fs_op_init, offsetof(struct fuse_init_in, flags2), OP_FIRST },
	[FUSE_DESTROY] = { fs_op_destroy, 0, OP_FIRST },
	[FUSE_LOOKUP] = { fs_op_lookup, 0, OP_NAME },
	[FUSE_FORGET] = { fs_op_forget, IN(forget), OP_QUIET },
	[FUSE_BATCH_FORGET] = { fs_op_batch_forget, IN(batch_forget), OP_QUIET },
	[FUSE_GETATTR] = { fs_op_getattr, IN(getattr), 0 },
	[FUSE_SETATTR] = { fs_op_setattr, IN(setattr), OP_WRITES },
	[FUSE_STATX] = { fs_op_statx, IN(statx), 0 },
	[FUSE_ACCESS] = { fs_op_access, IN(access), 0 },
	[FUSE_STATFS] = { fs_op_statfs, 0, 0 },
	[FUSE_READLINK] = { fs_op_readlink, 0, 0 },
	[FUSE_SYMLINK] = { fs_op_symlink, 0, OP_WRITES | OP_TARGET },
	[FUSE_MKNOD] = { fs_op_mknod, IN(mknod), OP_WRITES | OP_NAME },
	[FUSE_MKDIR] = { fs_op_mkdir, IN(mkdir), OP_WRITES | OP_NAME },
	[FUSE_UNLINK] = { fs_op_unlink, 0, OP_WRITES | OP_NAME },
	[FUSE_RMDIR] = { fs_op_rmdir, 0, OP_WRITES | OP_NAME },
	[FUSE_RENAME] = { fs_op_rename, IN(rename), OP_WRITES | OP_NAMES },
	[FUSE_RENAME2] = { fs_op_rename2, IN(rename2), OP_WRITES | OP_NAMES },
	[FUSE_LINK] = { fs_op_link, IN(link), OP_WRITES | OP_NAME },
	[FUSE_OPEN] = { fs_op_open, IN(open), OP_OPENS },
	[FUSE_CREATE] = { fs_op_create, IN(create), OP_WRITES | OP_NAME },
	[FUSE_TMPFILE] = { fs_op_tmpfile, IN(create), OP_WRITES },
	[FUSE_FLUSH] = { fs_op_flush, IN(flush), 0 },
	[FUSE_RELEASE] = { fs_op_release, IN(release), 0 },
	[FUSE_READ] = { fs_op_read, IN(read), 0 },
	[FUSE_WRITE] = { fs_op_write, IN(write), OP_WRITES | OP_DATA },
	[FUSE_FSYNC] = { fs_op_fsync, IN(fsync), 0 },
	[FUSE_LSEEK] = { fs_op_lseek, IN(lseek), 0 },
	[FUSE_FALLOCATE] = { fs_op_fallocate, IN(fallocate), OP_WRITES },
	[FUSE_COPY_FILE_RANGE] = { fs_op_copy_file_range, IN(copy_file_range), OP_WRITES },
	[FUSE_SYNCFS] = { fs_op_syncfs, IN(syncfs), 0 },
	[FUSE_OPENDIR] = { fs_op_opendir, IN(open), 0 },
	[FUSE_READDIR] = { fs_op_readdir, IN(read), 0 },
	[FUSE_READDIRPLUS] = { fs_op_readdirplus, IN(read), 0 },
	[FUSE_RELEASEDIR] = { fs_op_releasedir, IN(release), 0 },
	[FUSE_FSYNCDIR] = { fs_op_fsyncdir, IN(fsync), 0 },
	[FUSE_SETXATTR] = { fs_op_setxattr, FUSE_COMPAT_SETXATTR_IN_SIZE, OP_WRITES },
	[FUSE_GETXATTR] = { fs_op_getxattr, IN(getxattr), 0 },
	[FUSE_LISTXATTR] = { fs_op_listxattr, IN(getxattr), 0 },
	[FUSE_REMOVEXATTR] = { fs_op_removexattr, 0, OP_WRITES },
	[FUSE_GETLK] = { fs_op_getlk, IN(lk), 0 },
	[FUSE_SETLK] = { fs_op_setlk, IN(lk), 0 },
	[FUSE_SETLKW] = { fs_op_setlkw, IN(lk), 0 },
	[FUSE_SETUPMAPPING] = { fs_op_setupmapping, IN(setupmapping), 0 },
	[FUSE_REMOVEMAPPING] = { fs_op_removemapping, IN(removemapping), 0 },
	[FUSE_INTERRUPT] = { fs_op_interrupt, IN(interrupt), OP_QUIET },
};

/* All names are checked here: a name is one component of a path. */
static int name_check(const char *name, size_t len)
{
	if (len == 0 || memchr(name, '/', len))
		return -EINVAL;
	if (len > FS_NAME_MAX)
		return -ENAMETOOLONG;
	if (name[0] == '.' && (len == 1 || (len == 2 && name[1] == '.')))
		return -EINVAL;
	return 0;
}

/* Find the names behind the fixed part. Nothing may follow the last one. */
static int fs_parse_names(struct fs_req *r, const struct fs_op *op)
{
	const char *at = (const char *)r->arg + op->arg_min, *end = (const char *)r->arg + r->arg_len;
	uint32_t count = op->flags & OP_NAME ? 1 : op->flags & (OP_NAMES | OP_TARGET) ? 2 : 0;
	int err;

	for (uint32_t i = 0; i < count; i++) {
		const char *nul = memchr(at, 0, (size_t)(end - at));

		if (!nul)
			return -EINVAL;
		r->name[i] = at;
		r->name_len[i] = (uint32_t)(nul - at);
		if (i == 1 && op->flags & OP_TARGET)
			err = nul == at ? -ENOENT : r->name_len[i] > FS_TARGET_MAX ? -ENAMETOOLONG : 0;
		else
			err = name_check(at, r->name_len[i]);
		if (err)
			return err;
		at = nul + 1;
	}
	return count && at != end ? -EINVAL : 0;
}

/* Parse the extensions at the end of a request: a supplementary group for a new file. */
static int fs_parse_extensions(struct fs_req *r)
{
	uint32_t len = r->in.total_extlen * 8u, at;

	if (!len || !fs_has(r->fs, FUSE_CREATE_SUPP_GROUP))
		return 0;
	if (len > r->arg_len)
		return -EINVAL;
	r->arg_len -= len;
	for (at = r->arg_len; len;) {
		struct fuse_ext_header h;
		uint32_t count;

		if (len < sizeof(h))
			return -EINVAL;
		memcpy(&h, (const uint8_t *)r->arg + at, sizeof(h));
		if (h.size < sizeof(h) || h.size > len || h.size % 8)
			return -EINVAL;
		if (h.type == FUSE_EXT_GROUPS && h.size >= sizeof(h) + 8) {
			memcpy(&count, (const uint8_t *)r->arg + at + sizeof(h), 4);
			memcpy(&r->supp, (const uint8_t *)r->arg + at + sizeof(h) + 4, 4);
			r->has_supp = count == 1;
		}
		at += h.size;
		len -= h.size;
	}
	return 0;
}

/* Copy the arguments, but not the data of a WRITE. */
static int fs_parse(struct fs_req *r, const struct fs_op *op, struct chain *chain)
{
	uint64_t left = chain->read_len - sizeof(r->in);
	int err;

	if (left < op->arg_min)
		return -EINVAL;
	r->in_iov = chain->iov;
	r->in_n = chain->nread;
	iov_skip(&r->in_iov, &r->in_n, sizeof(r->in));
	if (op->flags & OP_DATA) {
		r->arg_len = op->arg_min;
	} else {
		if (left > FS_BUF_SIZE)
			return -E2BIG;
		r->arg_len = (uint32_t)left;
	}
	iov_gather(r->in_iov, r->in_n, r->q->buf, r->arg_len);
	iov_skip(&r->in_iov, &r->in_n, r->arg_len);
	r->in_len = left - r->arg_len;
	r->arg = r->q->buf;
	if (op->flags & OP_DATA)
		return 0;
	err = fs_parse_extensions(r);
	if (err)
		return err;
	if (r->arg_len < op->arg_min)
		return -EINVAL;
	return fs_parse_names(r, op);
}

/* Whether it changes the file of the node that it names. */
static bool fs_changes(const struct fs_req *r, const struct fs_op *op)
{
	uint32_t flags;

	if (!(op->flags & OP_OPENS))
		return op->flags & OP_WRITES;
	memcpy(&flags, r->arg, sizeof(flags));
	return flags & O_TRUNC;
}

/* Whether a read-only share refuses the request. */
static bool fs_writes(const struct fs_req *r, const struct fs_op *op)
{
	uint32_t flags;

	if (!(op->flags & OP_OPENS))
		return op->flags & OP_WRITES;
	memcpy(&flags, r->arg, sizeof(flags));
	return (flags & O_ACCMODE) != O_RDONLY || flags & (O_TRUNC | O_CREAT);
}

static int fs_do(struct fs_req *r, const struct fs_op *op, struct chain *chain)
{
	int err;

	if (r->in.len != chain->read_len)
		return -EINVAL;
	if (!op->fn)
		return -ENOSYS;
	if (!(op->flags & OP_FIRST) && !__atomic_load_n(&r->fs->features, __ATOMIC_ACQUIRE))
		return -EIO;
	err = fs_parse(r, op, chain);
	if (err)
		return err;
	if (fs_writes(r, op)) {
		if (r->fs->config.flags & FS_RO)
			return -EROFS;
		if (fs_node_is_closed(r->fs, r->in.nodeid))
			return -EACCES;
	}
	err = op->fn(r);
	if (!err && fs_changes(r, op))
		fs_node_changed(r->fs, r->in.nodeid);
	return err;
}

/* Separate the header of the answer from the rest of the writable part. */
static void fs_take_out(struct fs_req *r, struct chain *chain)
{
	uint32_t most = sizeof(struct fuse_out_header);

	r->out_iov = chain->iov + chain->nread;
	r->out_n = chain->nwrite;
	r->out_room = chain->write_len - sizeof(struct fuse_out_header);
	/* No buffer is empty, so the first sixteen hold the header of 16 bytes. */
	r->nhdr = r->out_iov->iov_len >= most ? 1 : r->out_n < most ? r->out_n : most;
	memcpy(r->hdr, r->out_iov, r->nhdr * sizeof(*r->hdr));
	iov_skip(&r->out_iov, &r->out_n, most);
}

int fs_handle(struct fs_queue *q, struct chain *chain)
{
	static const struct fs_op unknown;
	struct fs_req r;
	const struct fs_op *op;
	uint64_t start = clock_ns();
	uint32_t opcode;
	int err;

	memset(&r, 0, offsetof(struct fs_req, hdr));
	r.fs = q->fs;
	r.q = q;
	r.head = chain->head;
	if (iov_gather(chain->iov, chain->nread, &r.in, sizeof(r.in)) < sizeof(r.in))
		return ring_fail(q->worker.ring, -EPROTO, "chain %u has %llu bytes, less than a FUSE header", chain->head,
				 (unsigned long long)chain->read_len);
	opcode = r.in.opcode < FS_OPS && fs_ops[r.in.opcode].fn ? r.in.opcode : 0;
	op = opcode ? &fs_ops[opcode] : &unknown;
	if (op->flags & OP_QUIET) {
		err = fs_do(&r, op, chain);
		ring_push(q->worker.ring, r.head, 0);
	} else {
		if (chain->write_len < sizeof(struct fuse_out_header))
			return ring_fail(q->worker.ring, -EPROTO, "chain %u (FUSE opcode %u) has no room for an answer",
					 chain->head, r.in.opcode);
		q->answered = true;
		fs_take_out(&r, chain);
		err = fs_do(&r, op, chain);
		if (err == FS_PENDING)
			return FS_PENDING;
		fs_finish(q, r.head, r.hdr, r.nhdr, r.in.unique, err, r.out_len);
	}
	fs_account(q, opcode, err, clock_ns() - start);
	return 0;
}
