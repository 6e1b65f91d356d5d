// SPDX-License-Identifier: Apache-2.0
/* System calls that write back, advise, and move bytes between files. */
#include "calls.h"
#include "pipe.h"
#include "tmpfs.h"

static s64 sync_file(struct task *t, u64 number, bool data_only)
{
	struct file *file = fd_real(t, number);

	if (!file)
		return -EBADF;
	return file->operations->fsync ? file->operations->fsync(file, data_only) : -EINVAL;
}

s64 sys_fsync(struct task *t, const u64 *args)
{
	return sync_file(t, args[0], false);
}

s64 sys_fdatasync(struct task *t, const u64 *args)
{
	return sync_file(t, args[0], true);
}

s64 sys_sync(struct task *t, const u64 *args)
{
	struct mount *mount;

	(void)t, (void)args;
	for (u32 id = 0; (mount = mount_after(id)); mount_put(mount)) { /* the list can change meanwhile */
		id = mount->id;
		if (mount->super->operations->sync)
			mount->super->operations->sync(mount->super);
	}
	return 0;
}

s64 sys_syncfs(struct task *t, const u64 *args)
{
	struct file *file = fd_real(t, args[0]);

	if (!file)
		return -EBADF;
	return file->inode->super->operations->sync ? file->inode->super->operations->sync(file->inode->super) : 0;
}

s64 sys_sync_file_range(struct task *t, const u64 *args)
{
	struct file *file = fd_real(t, args[0]);
	u32 mode = file ? file->inode->mode : 0;

	if (!file)
		return -EBADF;
	if ((u32)args[3] & ~7u || (s64)args[1] < 0 || (s64)args[2] < 0 || args[1] + args[2] > MOST_OFFSET)
		return -EINVAL;
	return S_ISREG(mode) || S_ISBLK(mode) || S_ISDIR(mode) ? 0 : -ESPIPE;
}

s64 sys_fadvise64(struct task *t, const u64 *args)
{
	struct file *file = fd_real(t, args[0]);

	if (!file)
		return -EBADF;
	if (S_ISFIFO(file->inode->mode))
		return -ESPIPE;
	return (s64)args[2] < 0 || (u32)args[3] > 5 ? -EINVAL : 0;
}

s64 sys_readahead(struct task *t, const u64 *args)
{
	struct file *file = fd_real(t, args[0]);

	if (!file || !file->readable)
		return -EBADF;
	return S_ISREG(file->inode->mode) && (s64)args[2] >= 0 ? 0 : -EINVAL;
}

/* -- from one file to another -- */

/* One side of a transfer. */
struct side {
	struct file *file;
	u64 address; /* of an offset of the program's; 0: the file's own */
	u64 position;
};

static s64 side_begin(struct task *t, struct side *side)
{
	side->position = side->file->position;
	if (!side->address)
		return 0;
	return user_read(t->mm, &side->position, side->address, sizeof(u64)) ? -EFAULT : 0;
}

static s64 side_end(struct task *t, struct side *side)
{
	if (!side->address)
		side->file->position = side->file->stream ? side->file->position : side->position;
	else if (user_write(t->mm, side->address, &side->position, sizeof(u64)))
		return -EFAULT;
	return 0;
}

/* Move bytes through a page; how many, or the first error. */
static s64 copy(struct side *from, struct side *to, u64 size)
{
	u8 *page = page_alloc();
	s64 result = 0;
	u64 done = 0;

	if (!page)
		return -ENOMEM;
	while (done < size) {
		struct iovec vector;
		struct io io = io_core(&vector, page, size - done < PAGE ? size - done : PAGE);
		u64 before = from->position;
		s64 got = file_transfer(from->file, &io, &from->position, false);

		result = got;
		if (got <= 0)
			break;
		io = io_core(&vector, page, (u64)got);
		result = file_transfer(to->file, &io, &to->position, true);
		if (result < got && !from->file->stream)
			from->position = before + (result > 0 ? (u64)result : 0);
		if (result <= 0)
			break;
		done += (u64)result;
		if (result < got || from->file->stream)
			break;
	}
	page_free(page);
	return done ? (s64)done : result;
}

static bool can(struct file *file, bool write)
{
	return write ? file->operations->write && file->writable : file->operations->read && file->readable;
}

s64 sys_sendfile(struct task *t, const u64 *args)
{
	struct side from = { fd_file(t, args[1]), args[2], 0 }, to = { fd_file(t, args[0]), 0, 0 };
	u64 size = args[3] < MAX_RW_COUNT ? args[3] : MAX_RW_COUNT, position;
	s64 result = 0, error;

	if (from.address && user_read(t->mm, &position, from.address, sizeof(position)))
		return -EFAULT;
	if (!from.file || !from.file->readable)
		return -EBADF;
	if (from.address && (from.file->stream || from.file->fixed))
		return -ESPIPE;
	side_begin(t, &from);
	if ((s64)from.position < 0 || (s64)args[3] < 0)
		return -EINVAL;
	if (!to.file || !to.file->writable)
		return -EBADF;
	if ((size && !can(from.file, false)) || !can(to.file, true) || to.file->flags & O_APPEND ||
	    S_ISFIFO(from.file->inode->mode))
		return -EINVAL;
	side_begin(t, &to);
	if (size)
		result = copy(&from, &to, size);
	error = side_end(t, &from);
	side_end(t, &to);
	return result >= 0 && error ? error : result;
}

s64 sys_copy_file_range(struct task *t, const u64 *args)
{
	struct side from = { fd_real(t, args[0]), args[1], 0 }, to = { fd_real(t, args[2]), args[3], 0 };
	u64 size = args[4] < MAX_RW_COUNT ? args[4] : MAX_RW_COUNT, left;
	s64 result, error;

	if (!from.file || !to.file)
		return -EBADF;
	error = side_begin(t, &from);
	if (!error)
		error = side_begin(t, &to);
	if (error)
		return error;
	if ((u32)args[5])
		return -EINVAL;
	if (S_ISDIR(from.file->inode->mode) || S_ISDIR(to.file->inode->mode))
		return -EISDIR;
	if (!S_ISREG(from.file->inode->mode) || !S_ISREG(to.file->inode->mode))
		return -EINVAL;
	if (!from.file->readable || !to.file->writable || to.file->flags & O_APPEND)
		return -EBADF;
	if (from.file->inode->super != to.file->inode->super && from.file->inode->super->type != to.file->inode->super->type)
		return -EXDEV;
	if (from.position + args[4] < from.position || to.position + args[4] < to.position)
		return -EOVERFLOW;
	left = from.position < from.file->inode->size ? from.file->inode->size - from.position : 0;
	size = size < left ? size : left;
	if (from.file->inode == to.file->inode && from.position < to.position + size && to.position < from.position + size)
		return -EINVAL;
	if ((s64)from.position < 0 || (s64)to.position < 0)
		return -EINVAL;
	result = size ? copy(&from, &to, size) : 0;
	error = side_end(t, &from);
	if (!error)
		error = side_end(t, &to);
	return result >= 0 && error ? error : result;
}

/* -- splice -- */

enum { SPLICE_NONBLOCK = 2, SPLICE_ALL = 15 };

/* Read the positions, then check the files, in the order of Linux. */
static s64 check_splice(struct task *t, struct side *from, struct side *to)
{
	struct pipe *in = file_pipe(from->file), *out = file_pipe(to->file);

	if ((in && from->address) || (out && to->address))
		return -ESPIPE;
	if (side_begin(t, to) || side_begin(t, from))
		return -EFAULT;
	if (!from->file->readable || !to->file->writable)
		return -EBADF;
	if (!in && !out)
		return -EINVAL;
	if (in && in == out)
		return -EINVAL;
	if ((from->address && from->file->stream) || (to->address && to->file->stream))
		return -EINVAL;
	if (!can(from->file, false) || !can(to->file, true) || (in && to->file->flags & O_APPEND && !out))
		return -EINVAL;
	return 0;
}

static s64 do_splice(struct side *from, struct side *to, u64 size, u32 flags)
{
	u32 old_from = from->file->flags, old_to = to->file->flags;
	s64 result;

	if (flags & SPLICE_NONBLOCK) {
		if (file_pipe(from->file))
			from->file->flags |= O_NONBLOCK;
		if (file_pipe(to->file))
			to->file->flags |= O_NONBLOCK;
	}
	result = copy(from, to, size);
	from->file->flags = old_from;
	to->file->flags = old_to;
	return result;
}

s64 sys_splice(struct task *t, const u64 *args)
{
	struct side from = { fd_real(t, args[0]), args[1], 0 }, to = { fd_real(t, args[2]), args[3], 0 };
	u64 size = args[4] < MAX_RW_COUNT ? args[4] : MAX_RW_COUNT;
	s64 result, error;

	if (!size)
		return 0;
	if ((u32)args[5] & ~(u32)SPLICE_ALL)
		return -EINVAL;
	if (!from.file || !to.file)
		return -EBADF;
	error = check_splice(t, &from, &to);
	if (!error && ((from.address && (s64)from.position < 0) || (to.address && (s64)to.position < 0)))
		error = -EINVAL;
	if (error)
		return error;
	result = do_splice(&from, &to, size, (u32)args[5]);
	error = side_end(t, &from);
	if (!error)
		error = side_end(t, &to);
	return result >= 0 && error ? error : result;
}

s64 sys_tee(struct task *t, const u64 *args)
{
	struct file *from = fd_real(t, args[0]), *to = fd_real(t, args[1]);
	struct pipe *in, *out;
	u64 done;

	if ((u32)args[3] & ~(u32)SPLICE_ALL)
		return -EINVAL;
	if (!args[2])
		return 0;
	if (!from || !to || !from->readable || !to->writable)
		return -EBADF;
	in = file_pipe(from);
	out = file_pipe(to);
	if (!in || !out || in == out)
		return -EINVAL;
	for (;;) {
		bool nonblock;
		s64 error;

		mutex_lock_two(&in->mutex, &out->mutex);
		done = out->readers ? pipe_tee(in, out, args[2] < MAX_RW_COUNT ? args[2] : MAX_RW_COUNT) : 0;
		mutex_unlock_two(&in->mutex, &out->mutex);
		if (!out->readers && !done)
			return pipe_write(out, to, &(struct io){ .left = 1 });
		if (done || (!in->used && !in->writers))
			return (s64)done;
		nonblock = (u32)args[3] & SPLICE_NONBLOCK || (in->used ? to : from)->flags & O_NONBLOCK;
		error = nonblock ? -EAGAIN : sleep_on(in->used ? &out->writable : &in->readable, FOREVER);
		if (error)
			return error;
	}
}

/* The program's bytes into a pipe, or a pipe's into its memory. */
s64 sys_vmsplice(struct task *t, const u64 *args)
{
	struct file *file = fd_real(t, args[0]);
	struct vectors vectors = { .first = NULL };
	struct io io = { .mm = t->mm };
	s64 result;

	if ((u32)args[3] & ~(u32)SPLICE_ALL)
		return -EINVAL;
	if (!file)
		return -EBADF;
	if (!file_pipe(file))
		return -EBADF;
	result = vectors_get(t, &vectors, args[1], args[2]);
	if (result > 0) {
		io.vectors = vectors.first;
		io.left = (u64)result;
		result = file->writable ? pipe_write(file_pipe(file), file, &io) : pipe_read(file_pipe(file), file, &io);
	}
	vectors_free(&vectors);
	return result;
}

/* -- memfd -- */

s64 sys_memfd_create(struct task *t, const u64 *args)
{
	enum { CLOEXEC = 1, ALLOW_SEALING = 2, NOEXEC_SEAL = 8, EXEC = 16, NAME_MOST = 249 };
	u32 flags = (u32)args[1];
	struct inode *inode;
	struct file *file;
	struct path path;
	char name[NAME_MOST + 1];
	s64 size;

	if (flags & ~(u32)(CLOEXEC | ALLOW_SEALING | NOEXEC_SEAL | EXEC) || (flags & NOEXEC_SEAL && flags & EXEC))
		return -EINVAL;
	size = user_string(t->mm, name, args[0], sizeof(name));
	if (size < 0)
		return size == -EFAULT ? -EFAULT : -EINVAL;
	inode = tmpfs_file(flags & NOEXEC_SEAL ? 0666 : 0777);
	if (!inode)
		return -ENOMEM;
	inode->may_seal = true;
	inode->seals = flags & NOEXEC_SEAL ? F_SEAL_EXEC : flags & ALLOW_SEALING ? 0 : F_SEAL_SEAL;
	size = anonymous_from(inode, "/memfd:", &path);
	if (size)
		return size;
	size = dentry_rename(path.dentry, name);
	if (!size)
		size = file_open(&path, O_RDWR | O_LARGEFILE, &file);
	path_put(&path);
	return size ? size : fd_install(t, file, 0, flags & CLOEXEC);
}
