// SPDX-License-Identifier: Apache-2.0
/* Attributes of files, and of the file system. */
#include "fs/fs.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>

/* The file of a request: an open file, or a node. */
struct target {
	struct fs_file *file;
	struct fs_ref ref;
	int fd;
};

static int target_get(struct fs_req *r, bool has_fh, uint64_t fh, struct target *t)
{
	int err;

	t->file = has_fh ? fs_file_get(r->fs, fh, FS_FREE) : NULL;
	if (t->file) {
		t->fd = t->file->fd;
		return 0;
	}
	if (has_fh)
		return fs_file_error(r->fs, fh);
	err = fs_node_get(r->fs, r->in.nodeid, &t->ref);
	t->fd = t->ref.fd;
	return err;
}

static void target_put(struct fs_req *r, struct target *t)
{
	if (t->file)
		fs_file_put(r->fs, t->file);
	else
		fs_node_put(r->fs, &t->ref);
}

int fs_get_attr(struct fs_req *r, int fd, struct fuse_attr_out *out)
{
	struct statx st;
	int err = fs_statx(fd, "", &st);

	if (err)
		return err;
	out->attr_valid = fs_tell(r->fs, r->in.nodeid, &st);
	fs_fill_attr(r->fs, &st, &out->attr);
	out->attr.ino = fs_node_ino(r->fs, r->in.nodeid, st.stx_ino);
	return 0;
}

static int reply_attr(struct fs_req *r, int fd)
{
	struct fuse_attr_out out = { 0 };
	int err = fs_get_attr(r, fd, &out);

	return err ? err : fs_reply(r, &out, sizeof(out));
}

int fs_op_getattr(struct fs_req *r)
{
	const struct fuse_getattr_in *in = r->arg;
	struct target t;
	int err = target_get(r, in->getattr_flags & FUSE_GETATTR_FH, in->fh, &t);

	if (err)
		return err;
	err = reply_attr(r, t.fd);
	target_put(r, &t);
	return err;
}

static struct fuse_sx_time sx_time(const struct statx_timestamp *ts)
{
	return (struct fuse_sx_time){ .tv_sec = ts->tv_sec, .tv_nsec = ts->tv_nsec };
}

int fs_op_statx(struct fs_req *r)
{
	const struct fuse_statx_in *in = r->arg;
	struct fuse_statx_out out = { 0 };
	struct statx st;
	struct target t;
	int err = target_get(r, in->getattr_flags & FUSE_GETATTR_FH, in->fh, &t);

	if (err)
		return err;
	err = fs_statx(t.fd, "", &st);
	target_put(r, &t);
	if (err)
		return err;
	out.attr_valid = fs_tell(r->fs, r->in.nodeid, &st);
	out.stat = (struct fuse_statx){
		.mask = st.stx_mask & (STATX_BASIC_STATS | STATX_BTIME),
		.blksize = st.stx_blksize,
		.nlink = st.stx_nlink,
		.uid = fs_id_to_guest(&r->fs->config.users, st.stx_uid),
		.gid = fs_id_to_guest(&r->fs->config.groups, st.stx_gid),
		.mode = st.stx_mode,
		.ino = fs_node_ino(r->fs, r->in.nodeid, st.stx_ino),
		.size = st.stx_size,
		.blocks = st.stx_blocks,
		.atime = sx_time(&st.stx_atime),
		.btime = sx_time(&st.stx_btime),
		.ctime = sx_time(&st.stx_ctime),
		.mtime = sx_time(&st.stx_mtime),
		.rdev_major = st.stx_rdev_major,
		.rdev_minor = st.stx_rdev_minor,
		.dev_major = st.stx_dev_major,
		.dev_minor = st.stx_dev_minor,
	};
	return fs_reply(r, &out, sizeof(out));
}

static int set_owner(struct fs_req *r, const struct fuse_setattr_in *in, int fd)
{
	uint32_t uid = UINT32_MAX, gid = UINT32_MAX;
	int err = 0;

	if (in->valid & FATTR_UID)
		err = fs_id_to_host(&r->fs->config.users, in->uid, &uid);
	if (!err && in->valid & FATTR_GID)
		err = fs_id_to_host(&r->fs->config.groups, in->gid, &gid);
	if (err)
		return err;
	return fchownat(fd, "", uid, gid, AT_EMPTY_PATH) < 0 ? -errno : 0;
}

static int set_size(struct fs_req *r, const struct fuse_setattr_in *in, const struct target *t)
{
	bool kill = in->valid & FATTR_KILL_SUIDGID;
	int err;

	if (in->size > INT64_MAX)
		return -EFBIG;
	if (kill)
		fs_kill_priv(r->q, true);
	if (t->file)
		err = ftruncate(t->fd, (off_t)in->size) < 0 ? -errno : 0;
	else if (!S_ISREG(t->ref.type))
		err = S_ISDIR(t->ref.type) ? -EISDIR : -EINVAL;
	else
		err = truncate(fs_fd_name(t->fd).text, (off_t)in->size) < 0 ? -errno : 0;
	if (kill)
		fs_kill_priv(r->q, false);
	return err;
}

/* One of the two times for utimensat(). */
static struct timespec pick_time(const struct fuse_setattr_in *in, uint32_t set, uint32_t now, uint64_t s, uint32_t ns)
{
	if (in->valid & now)
		return (struct timespec){ .tv_nsec = UTIME_NOW };
	if (in->valid & set)
		return (struct timespec){ .tv_sec = (time_t)s, .tv_nsec = ns < 1000000000 ? ns : 999999999 };
	return (struct timespec){ .tv_nsec = UTIME_OMIT };
}

static int set_times(const struct fuse_setattr_in *in, int fd)
{
	struct timespec ts[2] = {
		pick_time(in, FATTR_ATIME, FATTR_ATIME_NOW, in->atime, in->atimensec),
		pick_time(in, FATTR_MTIME, FATTR_MTIME_NOW, in->mtime, in->mtimensec),
	};

	return utimensat(fd, "", ts, AT_EMPTY_PATH) < 0 ? -errno : 0;
}

/*
 * The guest writes back the times of a file that was removed meanwhile, and that it has not forgotten yet. Ignore them: an
 * error would be reported to the next program in the guest that syncs.
 */
static int set_times_of_deleted(struct fs_req *r, const struct fuse_setattr_in *in)
{
	const uint32_t times = FATTR_ATIME | FATTR_MTIME | FATTR_CTIME | FATTR_ATIME_NOW | FATTR_MTIME_NOW;
	struct fuse_attr_out out = { 0 };

	if (in->valid & ~times || !fs_node_deleted(r->fs, r->in.nodeid, &out.attr))
		return -ESTALE;
	return fs_reply(r, &out, sizeof(out));
}

int fs_op_setattr(struct fs_req *r)
{
	const struct fuse_setattr_in *in = r->arg;
	struct target t;
	int err = target_get(r, in->valid & FATTR_FH, in->fh, &t);

	if (err)
		return err == -ESTALE ? set_times_of_deleted(r, in) : err;
	/*
	 * The owner first, since a change of it clears bits of the mode. The times last, since all others change them. The
	 * ctime alone is set to now, which is what a change to the same owner does.
	 */
	if (in->valid & (FATTR_UID | FATTR_GID) || in->valid == FATTR_CTIME)
		err = set_owner(r, in, t.fd);
	if (!err && in->valid & FATTR_SIZE)
		err = set_size(r, in, &t);
	if (!err && in->valid & FATTR_MODE)
		err = fchmodat(AT_FDCWD, fs_fd_name(t.fd).text, in->mode & 07777, 0) < 0 ? -errno : 0;
	if (!err && in->valid & (FATTR_ATIME | FATTR_MTIME | FATTR_ATIME_NOW | FATTR_MTIME_NOW))
		err = set_times(in, t.fd);
	if (!err)
		err = reply_attr(r, t.fd);
	target_put(r, &t);
	return err;
}

/* Linux does not send this, since it checks permissions by itself (default_permissions); other guests may. */
int fs_op_access(struct fs_req *r)
{
	const struct fuse_access_in *in = r->arg;
	struct fs_ref ref;
	int err;

	if (in->mask & ~7u)
		return -EINVAL;
	if (in->mask & W_OK && r->fs->config.flags & FS_RO)
		return -EROFS;
	err = fs_node_get(r->fs, r->in.nodeid, &ref);
	if (err)
		return err;
	err = fs_begin(r, r->q->umask);
	if (!err) {
		err = faccessat(ref.fd, "", (int)in->mask, AT_EMPTY_PATH | AT_EACCESS) < 0 ? -errno : 0;
		fs_end(r);
	}
	fs_node_put(r->fs, &ref);
	return err;
}

int fs_op_statfs(struct fs_req *r)
{
	struct fuse_statfs_out out = { 0 };
	struct statfs sfs;
	struct fs_ref ref;
	int err = fs_node_get(r->fs, r->in.nodeid, &ref);

	if (err)
		return err;
	err = fstatfs(ref.fd, &sfs) < 0 ? -errno : 0;
	fs_node_put(r->fs, &ref);
	if (err)
		return err;
	out.st = (struct fuse_kstatfs){
		.blocks = sfs.f_blocks,
		.bfree = sfs.f_bfree,
		.bavail = sfs.f_bavail,
		.files = sfs.f_files,
		.ffree = sfs.f_ffree,
		.bsize = (uint32_t)sfs.f_bsize,
		.namelen = (uint32_t)sfs.f_namelen,
		.frsize = (uint32_t)sfs.f_frsize,
	};
	return fs_reply(r, &out, sizeof(out));
}

int fs_op_readlink(struct fs_req *r)
{
	struct fs_ref ref;
	ssize_t n;
	int err = fs_node_get(r->fs, r->in.nodeid, &ref);

	if (err)
		return err;
	if (S_ISLNK(ref.type)) {
		n = readlinkat(ref.fd, "", (char *)r->q->out, FS_BUF_SIZE);
		err = n < 0 ? -errno : 0;
	} else {
		err = -EINVAL;
	}
	fs_node_put(r->fs, &ref);
	return err ? err : fs_reply(r, r->q->out, (size_t)n);
}
