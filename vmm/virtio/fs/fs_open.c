// SPDX-License-Identifier: Apache-2.0
/* Opening and closing files. */
#include "fs/fs.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { FLAG_EXEC = 0x20 }; /* __FMODE_EXEC of Linux: the file is opened to be run */
enum { SETTLED_S = 2 };

/* The flags for open(). O_DIRECT is ignored: it concerns the guest's page cache, for which the cache mode decides. */
static int open_flags(const struct fs *fs, uint32_t in)
{
	int flags = (int)in & (O_ACCMODE | O_TRUNC | O_APPEND | O_SYNC | O_DSYNC);

	if (fs_has(fs, FUSE_WRITEBACK_CACHE)) {
		/* With writeback, the guest also reads files that are open for writing, and appends at an offset. */
		if ((flags & O_ACCMODE) == O_WRONLY)
			flags = (flags & ~O_ACCMODE) | O_RDWR;
		flags &= ~O_APPEND;
	}
	return flags | O_NOCTTY | O_NONBLOCK;
}

static uint32_t reply_flags(const struct fs *fs)
{
	switch (fs->config.cache) {
	case FS_CACHE_NONE:
		return FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES;
	case FS_CACHE_ALWAYS:
		return FOPEN_KEEP_CACHE;
	default:
		return 0;
	}
}

static bool times_equal(const struct timespec *a, const struct timespec *b)
{
	return a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec;
}

/*
 * Whether the guest may keep what it has read of a file that it opens to run it, since nothing has changed since the last
 * time; otherwise it would read a shell anew for each command of a script. Times tell that of a file that nobody had
 * changed for a while, or else the next change could have the same time. They do not tell of a mapping through which the
 * host has been writing for that long already: nobody runs such a file.
 */
static bool program_is_same(struct fs *fs, uint64_t node, int fd)
{
	struct fs_program *known = &fs->programs[node % FS_PROGRAMS], now = { .node = node };
	struct timespec time;
	struct stat info;
	bool same;

	if (fstat(fd, &info) || clock_gettime(CLOCK_REALTIME, &time))
		return false;
	now.size = info.st_size;
	now.modified = info.st_mtim;
	now.changed = info.st_ctim;
	if (info.st_ctim.tv_sec > time.tv_sec - SETTLED_S || info.st_mtim.tv_sec > time.tv_sec - SETTLED_S)
		now.node = 0;
	pthread_mutex_lock(&fs->programs_lock);
	same = known->node == node && known->size == now.size && times_equal(&known->modified, &now.modified) &&
	       times_equal(&known->changed, &now.changed);
	*known = now;
	pthread_mutex_unlock(&fs->programs_lock);
	return same;
}

/* Only regular files are opened: opening a FIFO would block, opening a device may have effects. */
static int open_node(struct fs_req *r, struct fs_ref *ref, uint32_t in_flags, uint32_t in_open_flags)
{
	int flags = open_flags(r->fs, in_flags), fd;
	bool kill = in_open_flags & FUSE_OPEN_KILL_SUIDGID && flags & O_TRUNC;

	if (S_ISDIR(ref->type))
		return -EISDIR;
	if (S_ISLNK(ref->type))
		return -ELOOP;
	if (!S_ISREG(ref->type))
		return -ENXIO;
	if (fs_node_closed(r->fs, ref))
		return -EACCES;
	if (kill)
		fs_kill_priv(r->q, true);
	fd = fs_node_open(r->fs, ref, flags);
	/* For writeback it was to be opened for reading, too, but the server may not read it. */
	if (fd == -EACCES && (in_flags & O_ACCMODE) == O_WRONLY)
		fd = fs_node_open(r->fs, ref, (flags & ~O_ACCMODE) | O_WRONLY);
	if (kill)
		fs_kill_priv(r->q, false);
	return fd;
}

/* The node of the request: a descriptor, or -errno. */
static int open_own(struct fs_req *r, uint32_t flags, uint32_t open_flags)
{
	struct fs_ref ref;
	int fd = fs_node_use(r->fs, r->in.nodeid, &ref);

	if (fd)
		return fd;
	fd = open_node(r, &ref, flags, open_flags);
	if (fd >= 0)
		fs_node_opened(r->fs, &ref);
	fs_node_put(r->fs, &ref);
	return fd;
}

int fs_open_to_read(struct fs_req *r)
{
	return open_own(r, O_RDONLY, 0);
}

int fs_op_open(struct fs_req *r)
{
	const struct fuse_open_in *in = r->arg;
	struct fuse_open_out out = { .open_flags = reply_flags(r->fs) };
	int fd, err;

	if (r->out_room < sizeof(out))
		return -EINVAL;
	fd = open_own(r, in->flags, in->open_flags);
	if (fd < 0)
		return fd;
	if (r->fs->config.cache == FS_CACHE_AUTO && in->flags & FLAG_EXEC && program_is_same(r->fs, r->in.nodeid, fd))
		out.open_flags |= FOPEN_KEEP_CACHE;
	err = fs_file_new(r->fs, FS_REGULAR, fd, r->in.nodeid, &out.fh);
	return err ? err : fs_reply(r, &out, sizeof(out));
}

struct create_out {
	struct fuse_entry_out entry;
	struct fuse_open_out open;
};
_Static_assert(sizeof(struct create_out) == sizeof(struct fuse_entry_out) + sizeof(struct fuse_open_out), "no padding");

/* Answer to CREATE with the node of fd, which becomes an open file of the guest. Owns fd. */
static int reply_created(struct fs_req *r, const struct fs_ref *dir, const char *name, int fd)
{
	struct create_out out = { .open = { .open_flags = reply_flags(r->fs) } };
	int err = fs_node_enter(r, dir, name, fd, &out.entry);

	if (err) {
		close(fd);
		return err;
	}
	err = fs_file_new(r->fs, FS_REGULAR, fd, out.entry.nodeid, &out.open.fh);
	if (err) {
		fs_node_forget(r->fs, out.entry.nodeid, 1);
		return err;
	}
	return fs_reply(r, &out, sizeof(out));
}

/* The file exists already, and the guest did not know that. */
static int create_found(struct fs_req *r, const struct fs_ref *dir, const struct fuse_create_in *in)
{
	struct create_out out = { .open = { .open_flags = reply_flags(r->fs) } };
	struct fs_ref ref;
	int fd, err = fs_node_lookup(r, dir, r->name[0], 0, &out.entry);

	if (err)
		return err;
	err = fs_node_get(r->fs, out.entry.nodeid, &ref);
	if (!err) {
		/* The guest has not checked the permissions of this file, so the host does. */
		err = fs_begin(r, r->q->umask);
		fd = err ? err : open_node(r, &ref, in->flags, in->open_flags);
		if (!err)
			fs_end(r);
		err = fd < 0 ? fd : fs_file_new(r->fs, FS_REGULAR, fd, out.entry.nodeid, &out.open.fh);
		fs_node_put(r->fs, &ref);
	}
	if (err) {
		fs_node_forget(r->fs, out.entry.nodeid, 1);
		return err;
	}
	return fs_reply(r, &out, sizeof(out));
}

/* Makes a file in a directory: its descriptor, or -1 and errno. */
typedef int (*create_fn)(const struct fs_req *r, int dir, int flags);

static int create_named(const struct fs_req *r, int dir, int flags)
{
	const struct fuse_create_in *in = r->arg;

	return openat(dir, r->name[0], flags | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, in->mode & 07777);
}

static int create_unnamed(const struct fs_req *r, int dir, int flags)
{
	const struct fuse_create_in *in = r->arg;

	return openat(r->fs->proc_fd, fs_fd_name(dir).text, flags | O_TMPFILE | (int)(in->flags & O_EXCL) | O_CLOEXEC,
		      in->mode & 07777);
}

static int file_create(struct fs_req *r, int flags, const char *name, create_fn fn)
{
	const struct fuse_create_in *in = r->arg;
	struct fs_ref dir;
	int err, fd;

	if (r->out_room < sizeof(struct create_out))
		return -EINVAL;
	err = fs_node_get(r->fs, r->in.nodeid, &dir);
	if (err)
		return err;
	err = fs_begin(r, in->umask);
	if (!err) {
		do {
			fd = fn(r, dir.fd, flags);
			err = fd < 0 ? -errno : 0;
		} while (fs_override(r, err));
		fs_end(r);
	}
	if (!err)
		err = reply_created(r, &dir, name, fd);
	else if (name && err == -EEXIST && !(in->flags & O_EXCL))
		err = create_found(r, &dir, in);
	fs_node_put(r->fs, &dir);
	return err;
}

int fs_op_create(struct fs_req *r)
{
	const struct fuse_create_in *in = r->arg;

	return file_create(r, open_flags(r->fs, in->flags) & ~O_TRUNC, r->name[0], create_named);
}

/* The request has a name, which has no meaning. */
int fs_op_tmpfile(struct fs_req *r)
{
	const struct fuse_create_in *in = r->arg;

	return file_create(r, open_flags(r->fs, in->flags) & ~(O_TRUNC | O_APPEND), NULL, create_unnamed);
}

/* A process of the guest has closed a descriptor of the file; there may be others. */
int fs_op_flush(struct fs_req *r)
{
	const struct fuse_flush_in *in = r->arg;
	struct fs_file *f;

	/* FLUSH is only needed for locks. After ENOSYS Linux does not send it again, which saves a request for each file. */
	if (r->fs->config.flags & FS_NO_LOCKS)
		return -ENOSYS;
	f = fs_file_get(r->fs, in->fh, FS_REGULAR);
	if (!f)
		return fs_file_error(r->fs, in->fh);
	fs_file_put(r->fs, f);
	fs_locks_drop(r->fs, r->in.nodeid, in->lock_owner);
	return 0;
}

int fs_op_release(struct fs_req *r)
{
	const struct fuse_release_in *in = r->arg;
	int err = fs_file_close(r->fs, in->fh, FS_REGULAR);

	if (!err)
		fs_locks_release(r->fs, in->fh);
	return err;
}
