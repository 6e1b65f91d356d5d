// SPDX-License-Identifier: Apache-2.0
/* Data of open files: copied directly between the host's page cache and the guest's buffers. */
#include "fs/fs.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>
#include <unistd.h>

/* The most that the kernel moves in one call. */
enum { MAX_MOVE = 0x7ffff000 };
/* The most that one COPY_FILE_RANGE copies, so that it does not block the queue for long; the guest asks for the rest. */
enum { MAX_COPY = 128 << 20 };

/* Join adjacent buffers, which are frequent, to save the kernel work. Returns the new number of entries. */
static uint32_t iov_join(struct iovec *iov, uint32_t n)
{
	uint32_t to = 0;

	for (uint32_t i = 1; i < n; i++) {
		struct iovec *last = &iov[to];

		if ((uint8_t *)last->iov_base + last->iov_len == iov[i].iov_base)
			last->iov_len += iov[i].iov_len;
		else
			iov[++to] = iov[i];
	}
	return n ? to + 1 : 0;
}

/* Bytes, or -errno. */
static ssize_t read_some(struct fs_req *r, int fd)
{
	const struct fuse_read_in *in = r->arg;
	uint32_t n = iov_join(r->out_iov, iov_cut(r->out_iov, r->out_n, in->size));
	ssize_t got;

	do
		got = n == 1 ? pread(fd, r->out_iov->iov_base, r->out_iov->iov_len, (off_t)in->offset) :
			       preadv(fd, r->out_iov, (int)n, (off_t)in->offset);
	while (got < 0 && errno == EINTR);
	return got < 0 ? -errno : got;
}

static ssize_t read_by_node(struct fs_req *r)
{
	int fd = fs_open_to_read(r);
	ssize_t got;

	if (fd < 0)
		return fd;
	got = read_some(r, fd);
	close(fd);
	return got;
}

static ssize_t read_file(struct fs_req *r)
{
	const struct fuse_read_in *in = r->arg;
	struct fs_file *f = fs_file_get(r->fs, in->fh, FS_REGULAR);
	ssize_t got;

	if (!f)
		return fs_file_error(r->fs, in->fh);
	got = read_some(r, f->fd);
	fs_file_put(r->fs, f);
	return got;
}

int fs_op_read(struct fs_req *r)
{
	const struct fuse_read_in *in = r->arg;
	ssize_t got;

	if (in->size > r->out_room || in->size > MAX_MOVE || in->offset > INT64_MAX)
		return -EINVAL;
	if (in->fh == FS_NO_FILE && fs_has(r->fs, FS_READ_BY_NODE))
		got = read_by_node(r);
	else
		got = read_file(r);
	if (got < 0)
		return (int)got;
	r->out_len = (uint64_t)got;
	stat_add(&r->q->stats.read_bytes, (uint64_t)got);
	return 0;
}

/* Whether the file has set-user-id or set-group-id bits, which a write must clear. */
static bool has_priv(int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 && st.st_mode & (S_ISUID | S_ISGID);
}

/* Bytes, or -errno; fewer than there are where the file takes no more. */
static ssize_t write_all(int fd, const struct iovec *iov, uint32_t n, uint64_t at)
{
	ssize_t total = 0, put;
	size_t wanted;

	do {
		const uint32_t some = n < FILE_WRITE_BUFFERS ? n : FILE_WRITE_BUFFERS;

		wanted = 0;
		for (uint32_t i = 0; i < some; i++)
			wanted += iov[i].iov_len;
		do
			put = some == 1 ? pwrite(fd, iov->iov_base, iov->iov_len, (off_t)at + total) :
					  pwritev(fd, iov, (int)some, (off_t)at + total);
		while (put < 0 && errno == EINTR);
		if (put < 0)
			return total ? total : -errno;
		total += put;
		iov += some;
		n -= some;
	} while (n && (size_t)put == wanted);
	return total;
}

int fs_op_write(struct fs_req *r)
{
	const struct fuse_write_in *in = r->arg;
	const bool tells = fs_has(r->fs, FS_WRITE_ATTR);
	struct {
		struct fuse_write_out write;
		struct fuse_attr_out attr;
	} out = { 0 };
	const size_t size = tells ? sizeof(out) : sizeof(out.write);
	struct fs_file *f;
	ssize_t put;
	bool kill;

	if (in->size != r->in_len || in->size > MAX_MOVE || in->offset > INT64_MAX || r->out_room < size)
		return -EINVAL;
	f = fs_file_get(r->fs, in->fh, FS_REGULAR);
	if (!f)
		return fs_file_error(r->fs, in->fh);
	kill = in->write_flags & FUSE_WRITE_KILL_SUIDGID && has_priv(f->fd);
	if (kill)
		fs_kill_priv(r->q, true);
	put = write_all(f->fd, r->in_iov, iov_join(r->in_iov, r->in_n), in->offset);
	if (kill)
		fs_kill_priv(r->q, false);
	/* What was written is written: without attributes, the answer has none. */
	if (put >= 0 && tells)
		fs_get_attr(r, f->fd, &out.attr);
	fs_file_put(r->fs, f);
	if (put < 0)
		return (int)put;
	stat_add(&r->q->stats.write_bytes, (uint64_t)put);
	out.write.size = (uint32_t)put;
	return fs_reply(r, &out, size);
}

static int file_sync(struct fs_req *r, enum fs_kind kind)
{
	const struct fuse_fsync_in *in = r->arg;
	struct fs_file *f = fs_file_get(r->fs, in->fh, kind);
	int err;

	if (!f)
		return fs_file_error(r->fs, in->fh);
	err = (in->fsync_flags & FUSE_FSYNC_FDATASYNC ? fdatasync(f->fd) : fsync(f->fd)) < 0 ? -errno : 0;
	fs_file_put(r->fs, f);
	return err;
}

int fs_op_fsync(struct fs_req *r)
{
	return file_sync(r, FS_REGULAR);
}

int fs_op_fsyncdir(struct fs_req *r)
{
	return file_sync(r, FS_DIRECTORY);
}

int fs_op_lseek(struct fs_req *r)
{
	const struct fuse_lseek_in *in = r->arg;
	struct fuse_lseek_out out;
	struct fs_file *f;
	off_t at;

	if (in->whence != SEEK_DATA && in->whence != SEEK_HOLE)
		return -EINVAL;
	f = fs_file_get(r->fs, in->fh, FS_REGULAR);
	if (!f)
		return fs_file_error(r->fs, in->fh);
	/* This changes the file's position, which no other request uses. */
	at = lseek(f->fd, (off_t)in->offset, (int)in->whence);
	if (at < 0)
		at = -errno;
	fs_file_put(r->fs, f);
	if (at < 0)
		return (int)at;
	out.offset = (uint64_t)at;
	return fs_reply(r, &out, sizeof(out));
}

int fs_op_fallocate(struct fs_req *r)
{
	const struct fuse_fallocate_in *in = r->arg;
	struct fs_file *f = fs_file_get(r->fs, in->fh, FS_REGULAR);
	int err;

	if (!f)
		return fs_file_error(r->fs, in->fh);
	do
		err = fallocate(f->fd, (int)in->mode, (off_t)in->offset, (off_t)in->length) < 0 ? -errno : 0;
	while (err == -EINTR);
	fs_file_put(r->fs, f);
	return err;
}

int fs_op_copy_file_range(struct fs_req *r)
{
	const struct fuse_copy_file_range_in *in = r->arg;
	off_t from = (off_t)in->off_in, to = (off_t)in->off_out;
	struct fuse_write_out out = { 0 };
	struct fs_file *a, *b;
	ssize_t n;

	if (r->out_room < sizeof(out) || in->flags)
		return -EINVAL;
	a = fs_file_get(r->fs, in->fh_in, FS_REGULAR);
	if (!a)
		return fs_file_error(r->fs, in->fh_in);
	b = fs_file_get(r->fs, in->fh_out, FS_REGULAR);
	if (!b) {
		fs_file_put(r->fs, a);
		return fs_file_error(r->fs, in->fh_out);
	}
	n = copy_file_range(a->fd, &from, b->fd, &to, in->len < MAX_COPY ? (size_t)in->len : MAX_COPY, 0);
	if (n < 0)
		n = -errno;
	fs_file_put(r->fs, b);
	fs_file_put(r->fs, a);
	if (n < 0)
		return (int)n;
	fs_node_changed(r->fs, in->nodeid_out);
	out.size = (uint32_t)n;
	return fs_reply(r, &out, sizeof(out));
}

int fs_op_syncfs(struct fs_req *r)
{
	struct fs_ref ref;
	int fd, err = fs_node_get(r->fs, r->in.nodeid, &ref);

	if (err)
		return err;
	fd = S_ISDIR(ref.type) ? fs_reopen(r->fs, ref.fd, O_RDONLY | O_DIRECTORY) : -EINVAL;
	fs_node_put(r->fs, &ref);
	if (fd < 0)
		return fd;
	err = syncfs(fd) < 0 ? -errno : 0;
	close(fd);
	return err;
}
