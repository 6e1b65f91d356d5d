// SPDX-License-Identifier: Apache-2.0
/* Reading directories. */
#include "fs/fs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* An entry of getdents64(). */
struct entry {
	uint64_t ino;
	int64_t off; /* where the next one is */
	uint16_t len;
	uint8_t type;
	char name[];
};

int fs_op_opendir(struct fs_req *r)
{
	struct fuse_open_out out = { 0 };
	struct fs_ref ref;
	int fd, err;

	if (r->out_room < sizeof(out))
		return -EINVAL;
	err = fs_node_use(r->fs, r->in.nodeid, &ref);
	if (err)
		return err;
	fd = S_ISDIR(ref.type) ? fs_node_open(r->fs, &ref, O_RDONLY | O_DIRECTORY) : -ENOTDIR;
	fs_node_put(r->fs, &ref);
	if (fd < 0)
		return fd;
	if (r->fs->config.cache == FS_CACHE_ALWAYS)
		out.open_flags = FOPEN_CACHE_DIR | FOPEN_KEEP_CACHE;
	err = fs_file_new(r->fs, FS_DIRECTORY, fd, r->in.nodeid, &out.fh);
	return err ? err : fs_reply(r, &out, sizeof(out));
}

int fs_op_releasedir(struct fs_req *r)
{
	const struct fuse_release_in *in = r->arg;

	return fs_file_close(r->fs, in->fh, FS_DIRECTORY);
}

/* The entry at the current position, NULL at the end or with *err set. */
static const struct entry *dir_next(struct fs_file *f, int *err)
{
	struct fs_dir *d = f->dir;
	long n;

	if (d->at == d->len) {
		n = syscall(SYS_getdents64, f->fd, d->buf, FS_DIR_BUF_SIZE);
		d->at = d->len = 0;
		*err = n < 0 ? -errno : 0;
		if (n <= 0)
			return NULL;
		d->len = (uint32_t)n;
	}
	return (const struct entry *)(d->buf + d->at);
}

static int dir_seek(struct fs_file *f, uint64_t off)
{
	struct fs_dir *d = f->dir;

	/* A rewind also reads the directory again, so that the guest sees new entries. */
	if (off == d->off && (off || !d->len))
		return 0;
	d->at = d->len = 0;
	d->off = off;
	return lseek(f->fd, (off_t)off, SEEK_SET) < 0 ? -errno : 0;
}

static bool is_dots(const char *name)
{
	return name[0] == '.' && (!name[1] || (name[1] == '.' && !name[2]));
}

/*
 * Write an entry to `to`, which has `room` bytes. Returns its size; 0: it does not fit; -errno: the lookup failed.
 */
static int64_t dir_put(struct fs_req *r, const struct fs_ref *dir, const struct entry *e, bool plus, uint8_t *to, uint64_t room)
{
	size_t name_len = strlen(e->name);
	size_t head = plus ? sizeof(struct fuse_direntplus) : sizeof(struct fuse_dirent);
	size_t size = FUSE_DIRENT_ALIGN(head + name_len);
	struct fuse_dirent *out = (struct fuse_dirent *)(to + head - sizeof(*out));
	int err = 0;

	if (size > room)
		return 0;
	if (plus) {
		struct fuse_entry_out *entry = (struct fuse_entry_out *)to;

		/* A nodeid of 0: a name without a node. */
		memset(entry, 0, sizeof(*entry));
		if (!is_dots(e->name))
			err = fs_node_lookup(r, dir, e->name, e->ino, entry);
		if (err == -ENOENT)
			return err;
		if (err)
			memset(entry, 0, sizeof(*entry));
	}
	*out = (struct fuse_dirent){
		/* The guest must not see the inode number of the directory above the share. */
		.ino = r->in.nodeid == FUSE_ROOT_ID && !strcmp(e->name, "..") ? FUSE_ROOT_ID : e->ino,
		.off = (uint64_t)e->off,
		.namelen = (uint32_t)name_len,
		.type = e->type,
	};
	memcpy(out->name, e->name, name_len);
	memset((uint8_t *)out->name + name_len, 0, size - head - name_len);
	return (int64_t)size;
}

/* Fill q->out. Returns how much of it, or -errno. */
static int64_t dir_fill(struct fs_req *r, const struct fs_ref *dir, struct fs_file *f, uint64_t size, bool plus)
{
	struct fs_dir *d = f->dir;
	uint64_t done = 0;
	int err = 0;

	for (;;) {
		const struct entry *e = dir_next(f, &err);
		int64_t n;

		if (!e)
			break;
		n = dir_put(r, dir, e, plus, r->q->out + done, size - done);
		if (n == 0)
			break;
		d->at += e->len;
		d->off = (uint64_t)e->off;
		if (n > 0)
			done += (uint64_t)n;
	}
	return err && !done ? err : (int64_t)done;
}

static int fs_readdir(struct fs_req *r, bool plus)
{
	const struct fuse_read_in *in = r->arg;
	uint64_t size = in->size < FS_BUF_SIZE ? in->size : FS_BUF_SIZE;
	struct fs_file *f;
	struct fs_ref dir;
	int64_t n;
	int err;

	if (in->size > r->out_room)
		return -EINVAL;
	f = fs_file_get(r->fs, in->fh, FS_DIRECTORY);
	if (!f)
		return fs_file_error(r->fs, in->fh);
	/* The node is needed only for lookups. */
	err = plus ? fs_node_get(r->fs, r->in.nodeid, &dir) : 0;
	if (err) {
		fs_file_put(r->fs, f);
		return err;
	}
	pthread_mutex_lock(&f->dir->lock);
	n = dir_seek(f, in->offset);
	if (!n)
		n = dir_fill(r, &dir, f, size, plus);
	pthread_mutex_unlock(&f->dir->lock);
	if (plus)
		fs_node_put(r->fs, &dir);
	fs_file_put(r->fs, f);
	return n < 0 ? (int)n : fs_reply(r, r->q->out, (size_t)n);
}

int fs_op_readdir(struct fs_req *r)
{
	return fs_readdir(r, false);
}

int fs_op_readdirplus(struct fs_req *r)
{
	return fs_readdir(r, true);
}
