// SPDX-License-Identifier: Apache-2.0
/* Requests about names: LOOKUP and FORGET; making, renaming, linking and removing files. */
#include "fs/fs.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

int fs_op_lookup(struct fs_req *r)
{
	struct fuse_entry_out out;
	struct fs_ref dir;
	int err = fs_node_get(r->fs, r->in.nodeid, &dir);

	if (err)
		return err;
	err = fs_node_lookup(r, &dir, r->name[0], 0, &out);
	fs_node_put(r->fs, &dir);
	if (err)
		return err;
	err = fs_reply(r, &out, sizeof(out));
	if (err)
		fs_node_forget(r->fs, out.nodeid, 1);
	return err;
}

int fs_op_forget(struct fs_req *r)
{
	const struct fuse_forget_in *in = r->arg;

	fs_node_forget(r->fs, r->in.nodeid, in->nlookup);
	return FS_NO_REPLY;
}

int fs_op_batch_forget(struct fs_req *r)
{
	const struct fuse_batch_forget_in *in = r->arg;
	const struct fuse_forget_one *one = (const void *)(in + 1);
	uint64_t room = (r->arg_len - sizeof(*in)) / sizeof(*one);

	for (uint64_t i = 0; i < in->count && i < room; i++)
		fs_node_forget(r->fs, one[i].nodeid, one[i].nlookup);
	return FS_NO_REPLY;
}

/* Answer with the node of the file that was made. */
static int reply_entry(struct fs_req *r, const struct fs_ref *dir)
{
	struct fuse_entry_out out;
	int err = fs_node_lookup(r, dir, r->name[0], 0, &out);

	if (err)
		return err;
	err = fs_reply(r, &out, sizeof(out));
	if (err)
		fs_node_forget(r->fs, out.nodeid, 1);
	return err;
}

/* Makes a file in a directory: 0 or -errno. */
typedef int (*make_fn)(const struct fs_req *r, int dir);

static int entry_make(struct fs_req *r, uint32_t umask_bits, make_fn fn)
{
	struct fs_ref dir;
	int err;

	/* Check the room for the answer before making the file. */
	if (r->out_room < sizeof(struct fuse_entry_out))
		return -EINVAL;
	err = fs_node_get(r->fs, r->in.nodeid, &dir);
	if (err)
		return err;
	err = fs_begin(r, umask_bits);
	if (!err) {
		do
			err = fn(r, dir.fd);
		while (fs_override(r, err));
		fs_end(r);
	}
	if (!err)
		err = reply_entry(r, &dir);
	fs_node_put(r->fs, &dir);
	return err;
}

static int make_symlink(const struct fs_req *r, int dir)
{
	return symlinkat(r->name[1], dir, r->name[0]) < 0 ? -errno : 0;
}

static int make_node(const struct fs_req *r, int dir)
{
	const struct fuse_mknod_in *in = r->arg;
	dev_t dev = makedev((in->rdev >> 8) & 0xfff, (in->rdev & 0xff) | (in->rdev >> 12 & 0xfff00));

	/* No device nodes: a user of the host could open them. A character device 0:0 is none, but a whiteout of overlayfs. */
	if (S_ISBLK(in->mode) || (S_ISCHR(in->mode) && dev))
		return -EPERM;
	return mknodat(dir, r->name[0], in->mode, dev) < 0 ? -errno : 0;
}

static int make_dir(const struct fs_req *r, int dir)
{
	const struct fuse_mkdir_in *in = r->arg;

	return mkdirat(dir, r->name[0], in->mode & 07777) < 0 ? -errno : 0;
}

int fs_op_symlink(struct fs_req *r)
{
	return entry_make(r, 0, make_symlink);
}

int fs_op_mknod(struct fs_req *r)
{
	const struct fuse_mknod_in *in = r->arg;

	return entry_make(r, in->umask, make_node);
}

int fs_op_mkdir(struct fs_req *r)
{
	const struct fuse_mkdir_in *in = r->arg;

	return entry_make(r, in->umask, make_dir);
}

static int fs_remove(struct fs_req *r, int flags)
{
	struct fs_ref dir, gone;
	int err = fs_node_get(r->fs, r->in.nodeid, &dir);
	bool known;

	if (err)
		return err;
	known = fs_node_named(r->fs, &dir, r->name[0], &gone);
	if (known)
		fs_node_keep(r->fs, &gone, &dir, r->name[0]);
	err = unlinkat(dir.fd, r->name[0], flags) < 0 ? -errno : 0;
	if (known) {
		if (!err)
			fs_node_unnamed(r->fs, &gone, &dir, r->name[0]);
		fs_node_put(r->fs, &gone);
	}
	fs_node_put(r->fs, &dir);
	return err;
}

int fs_op_unlink(struct fs_req *r)
{
	return fs_remove(r, 0);
}

int fs_op_rmdir(struct fs_req *r)
{
	return fs_remove(r, AT_REMOVEDIR);
}

/* Rename, between directories of which there are references. */
static int rename_between(struct fs_req *r, const struct fs_ref *from, const struct fs_ref *to, uint32_t flags)
{
	struct fs_ref moved, other;
	bool known, known_other;
	int err;

	known = fs_node_named(r->fs, from, r->name[0], &moved);
	known_other = !(flags & RENAME_NOREPLACE) && fs_node_named(r->fs, to, r->name[1], &other);
	if (known_other && !(flags & RENAME_EXCHANGE))
		fs_node_keep(r->fs, &other, to, r->name[1]);
	err = renameat2(from->fd, r->name[0], to->fd, r->name[1], flags) < 0 ? -errno : 0;
	/* A rename between two links of one file does nothing. */
	if (!err && !(known && known_other && moved.index == other.index)) {
		if (known_other)
			fs_node_unnamed(r->fs, &other, to, r->name[1]);
		if (known)
			fs_node_moved(r->fs, &moved, to, r->name[1]);
		if (known_other && flags & RENAME_EXCHANGE)
			fs_node_moved(r->fs, &other, from, r->name[0]);
	}
	if (known_other)
		fs_node_put(r->fs, &other);
	if (known)
		fs_node_put(r->fs, &moved);
	return err;
}

static int fs_rename(struct fs_req *r, uint64_t newdir, uint32_t flags)
{
	struct fs_ref from, to;
	int err;

	if (flags & ~(uint32_t)(RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT))
		return -EINVAL;
	err = fs_node_get(r->fs, r->in.nodeid, &from);
	if (err)
		return err;
	err = fs_node_get(r->fs, newdir, &to);
	if (err) {
		fs_node_put(r->fs, &from);
		return err;
	}
	err = rename_between(r, &from, &to, flags);
	if (!err)
		fs_node_changed(r->fs, newdir);
	fs_node_put(r->fs, &to);
	fs_node_put(r->fs, &from);
	return err;
}

int fs_op_rename(struct fs_req *r)
{
	const struct fuse_rename_in *in = r->arg;

	return fs_rename(r, in->newdir, 0);
}

int fs_op_rename2(struct fs_req *r)
{
	const struct fuse_rename2_in *in = r->arg;

	return fs_rename(r, in->newdir, in->flags);
}

int fs_op_link(struct fs_req *r)
{
	const struct fuse_link_in *in = r->arg;
	struct fs_ref dir, node;
	int err;

	if (r->out_room < sizeof(struct fuse_entry_out))
		return -EINVAL;
	err = fs_node_get(r->fs, r->in.nodeid, &dir);
	if (err)
		return err;
	err = fs_node_get(r->fs, in->oldnodeid, &node);
	if (!err) {
		/* AT_SYMLINK_FOLLOW follows the link in /proc/self/fd to the file, which may itself be a symbolic link. */
		err = linkat(r->fs->proc_fd, fs_fd_name(node.fd).text, dir.fd, r->name[0], AT_SYMLINK_FOLLOW) < 0 ? -errno : 0;
		fs_node_put(r->fs, &node);
	}
	if (!err)
		fs_node_changed(r->fs, in->oldnodeid);
	if (!err)
		err = reply_entry(r, &dir);
	fs_node_put(r->fs, &dir);
	return err;
}
