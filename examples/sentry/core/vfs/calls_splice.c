// SPDX-License-Identifier: Apache-2.0
/* System calls that move bytes from one file to another. */
#include "calls.h"
#include "pipe.h"

enum { AT_ONCE = 16 * PAGE };

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

/* Whether bytes of another file can be moved to it: Linux finds out when it has some. */
static bool takes_pages(const struct file *file)
{
	return file->operations->write && !file->operations->write_simple;
}

/* Move bytes of a file through a buffer; how many, or the first error. */
static s64 copy(struct side *from, struct side *to, u64 size)
{
	const u64 room = from->file->stream || size <= PAGE ? PAGE : size < AT_ONCE ? size : AT_ONCE;
	u8 *buffer = kmalloc(room);
	s64 result = 0;
	u64 done = 0;

	if (!buffer)
		return -ENOMEM;
	while (done < size) {
		struct iovec vector;
		struct io io = io_core(&vector, buffer, size - done < room ? size - done : room);
		u64 before = from->position;
		s64 got = file_transfer(from->file, &io, &from->position, false);

		result = got;
		if (got <= 0)
			break;
		io = io_core(&vector, buffer, (u64)got);
		result = takes_pages(to->file) ? file_transfer(to->file, &io, &to->position, true) : -EINVAL;
		if (result < got)
			from->position = before + (result > 0 ? (u64)result : 0);
		if (result <= 0)
			break;
		done += (u64)result;
		if (result < got || from->file->stream)
			break; /* Linux reads a stream once: the next read would wait */
	}
	kfree(buffer);
	return done ? (s64)done : result;
}

/* Of what has no type (eventfd and the like), Linux splices nothing. */
static bool can(struct file *file, bool write)
{
	if (write)
		return takes_pages(file) && file->writable;
	return file->operations->read && !file->operations->read_simple && file->readable && file->inode->mode & S_IFMT;
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
	if (from.address && !file_has_position(from.file))
		return -ESPIPE;
	side_begin(t, &from);
	if ((s64)from.position < 0 || (s64)args[3] < 0)
		return -EINVAL;
	if (!to.file || !to.file->writable)
		return -EBADF;
	if ((size && !can(from.file, false)) || to.file->flags & O_APPEND ||
	    S_ISFIFO(from.file->inode->mode))
		return -EINVAL;
	if (from.file->stream && !file_pipe(to.file))
		return -EINVAL; /* splice_direct_to_actor() in Linux's fs/splice.c: the input must be seekable */
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
	if (from.file->inode->super != to.file->inode->super)
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

/* Flags of a file for this call: SPLICE_F_NONBLOCK concerns the pipes alone. */
static struct io waits(u32 flags)
{
	return (struct io){ .with = flags & SPLICE_NONBLOCK ? O_NONBLOCK : 0 };
}

/* The pipe keeps the bytes that `to` does not accept. */
static s64 move(struct side *from, struct side *to, u64 size, u32 flags)
{
	struct pipe *in = file_pipe(from->file), *out = file_pipe(to->file);
	struct io io = waits(flags);

	if (in && out)
		return pipe_share(from->file, to->file, size, &io, true);
	return in ? pipe_to_file(from->file, to->file, &to->position, size, &io)
		  : pipe_from_file(to->file, from->file, &from->position, size, &io);
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
	result = move(&from, &to, size, (u32)args[5]);
	error = side_end(t, &from);
	if (!error)
		error = side_end(t, &to);
	return result >= 0 && error ? error : result;
}

s64 sys_tee(struct task *t, const u64 *args)
{
	struct file *from = fd_real(t, args[0]), *to = fd_real(t, args[1]);
	struct io io = waits((u32)args[3]);

	if ((u32)args[3] & ~(u32)SPLICE_ALL)
		return -EINVAL;
	if (!args[2])
		return 0;
	if (!from || !to || !from->readable || !to->writable)
		return -EBADF;
	if (!file_pipe(from) || !file_pipe(to) || file_pipe(from) == file_pipe(to))
		return -EINVAL;
	return pipe_share(from, to, args[2] < MAX_RW_COUNT ? args[2] : MAX_RW_COUNT, &io, false);
}

/* The program's bytes into a pipe, or a pipe's into its memory. */
s64 sys_vmsplice(struct task *t, const u64 *args)
{
	struct file *file = fd_real(t, args[0]);
	struct vectors vectors = { .first = NULL };
	struct io io = waits((u32)args[3]);
	s64 result;

	if ((u32)args[3] & ~(u32)SPLICE_ALL)
		return -EINVAL;
	if (!file)
		return -EBADF;
	result = vectors_get(t, &vectors, args[1], args[2]);
	if (result >= 0 && !file_pipe(file))
		result = -EBADF;
	if (result > 0) {
		io.mm = t->mm;
		io.vectors = vectors.first;
		io.left = (u64)result;
		result = file->writable ? pipe_write(file_pipe(file), file, &io) : pipe_read(file_pipe(file), file, &io);
	}
	vectors_free(&vectors);
	return result;
}
