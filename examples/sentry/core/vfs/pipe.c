// SPDX-License-Identifier: Apache-2.0
/* Pipes and FIFOs: a ring of pages, each a message of O_DIRECT or bytes that later writes are added to. */
#include "pipe.h"

#include "calls.h"

enum { DEFAULT_SLOTS = 16, MOST_SLOTS = 256, SIGPIPE_NUMBER = 13 };

static struct slab pipes = SLAB(struct pipe);

static struct pipe_slot *slot_at(struct pipe *pipe, u32 index)
{
	return &pipe->slots[(pipe->first + index) % pipe->size];
}

struct pipe *pipe_new(void)
{
	struct pipe *pipe = slab_alloc(&pipes);

	if (!pipe)
		return NULL;
	pipe->slots = kmalloc(DEFAULT_SLOTS * sizeof(*pipe->slots));
	if (!pipe->slots) {
		slab_free(&pipes, pipe);
		return NULL;
	}
	pipe->size = DEFAULT_SLOTS;
	return pipe;
}

static void drop_first(struct pipe *pipe)
{
	page_put(slot_at(pipe, 0)->page);
	*slot_at(pipe, 0) = (struct pipe_slot){ .page = 0 };
	pipe->first = (pipe->first + 1) % pipe->size;
	pipe->used--;
}

void pipe_free(struct pipe *pipe)
{
	while (pipe->used)
		drop_first(pipe);
	kfree(pipe->slots);
	slab_free(&pipes, pipe);
}

/* An end is opened or closed. */
static void wake(struct pipe *pipe)
{
	wake_all(&pipe->readable);
	wake_all(&pipe->writable);
}

/* -- read -- */

static s64 take(struct pipe *pipe, struct io *to)
{
	u64 done = 0;

	while (pipe->used && to->left) {
		struct pipe_slot *slot = slot_at(pipe, 0);
		u64 part = slot->size < to->left ? slot->size : to->left;
		u64 moved = io_put(to, (u8 *)page_at(slot->page) + slot->start, part);
		bool packet = slot->packet;

		slot->start += (u32)moved;
		slot->size -= (u32)moved;
		done += moved;
		if (!slot->size || (packet && moved == part))
			drop_first(pipe);
		if (moved < part)
			return done ? (s64)done : -EFAULT;
		if (packet)
			break;
	}
	return (s64)done;
}

/* Wait for bytes, and lock the pipe: 1. Without the lock: 0 at the end, or -errno. */
static s64 lock_filled(struct pipe *pipe, const struct file *file, const struct io *io)
{
	for (;;) {
		s64 error;

		mutex_lock(&pipe->mutex);
		if (pipe->used)
			return 1;
		mutex_unlock(&pipe->mutex);
		if (!pipe->writers)
			return 0;
		error = io_wait(io, file, &pipe->readable);
		if (error)
			return error;
	}
}

/* Wake writers if it was full: edges of epoll count. */
static void unlock_drained(struct pipe *pipe, bool full)
{
	mutex_unlock(&pipe->mutex);
	if (full && pipe->used < pipe->size)
		wake_all(&pipe->writable);
}

s64 pipe_read(struct pipe *pipe, struct file *file, struct io *to)
{
	s64 done;
	bool full;

	if (!to->left)
		return 0;
	done = lock_filled(pipe, file, to);
	if (done <= 0)
		return done;
	full = pipe->used == pipe->size;
	done = take(pipe, to);
	unlock_drained(pipe, full);
	return done;
}

/* -- write -- */

/*
 * The part of a write that does not fill pages goes behind the last bytes, if it fits there whole.  So a write of at
 * most PIPE_BUF bytes is done at once or not at all.
 */
static s64 add_to_last(struct pipe *pipe, struct io *from)
{
	struct pipe_slot *last = pipe->used ? slot_at(pipe, pipe->used - 1) : NULL;
	u64 part = from->left % PAGE, end = last ? last->start + last->size : PAGE, moved;

	if (!last || last->packet || last->borrowed || !part || end + part > PAGE)
		return 0;
	moved = io_get(from, (u8 *)page_at(last->page) + end, part);
	if (moved < part)
		return -EFAULT;
	last->size += (u32)moved;
	return (s64)moved;
}

static s64 add_page(struct pipe *pipe, struct io *from, bool packet)
{
	u64 part = from->left < PAGE ? from->left : PAGE, moved;
	u8 *page = page_buffer();

	if (!page)
		return -ENOMEM;
	moved = io_get(from, page, part);
	if (moved < part) { /* Linux drops what it has of this page, too */
		page_free(page);
		return -EFAULT;
	}
	*slot_at(pipe, pipe->used++) = (struct pipe_slot){ page_offset(page), 0, (u32)moved, packet, false };
	return (s64)moved;
}

/* As much as there is room for; 0 if there is none. */
static s64 add(struct pipe *pipe, struct io *from, bool packet, bool start)
{
	s64 moved = packet || !start ? 0 : add_to_last(pipe, from);
	u64 done = 0;

	while (moved >= 0) {
		done += (u64)moved;
		if (!from->left || pipe->used == pipe->size)
			break;
		moved = add_page(pipe, from, packet);
	}
	return done ? (s64)done : moved;
}

static s64 broken(void)
{
	signal_raise(core.current, SIGPIPE_NUMBER);
	return -EPIPE;
}

s64 pipe_write(struct pipe *pipe, struct file *file, struct io *from)
{
	bool packet = file->flags & O_DIRECT;
	u64 done = 0;

	while (from->left) {
		s64 result;

		if (!pipe->readers)
			return done ? (s64)done : broken();
		mutex_lock(&pipe->mutex);
		result = add(pipe, from, packet, !done);
		mutex_unlock(&pipe->mutex);
		if (result > 0) {
			done += (u64)result;
			wake_all(&pipe->readable);
		}
		if (!result)
			result = io_wait(from, file, &pipe->writable);
		if (result < 0)
			return done ? (s64)done : result;
	}
	return (s64)done;
}

/* -- from and to other files -- */

/* A part of the first slot is read. */
static void consume(struct pipe *pipe, u64 size)
{
	struct pipe_slot *slot = slot_at(pipe, 0);

	slot->start += (u32)size;
	slot->size -= (u32)size;
	if (!slot->size)
		drop_first(pipe);
}

s64 pipe_to_file(struct file *file, struct file *to, u64 *position, u64 size, const struct io *flags)
{
	struct pipe *pipe = file_pipe(file);
	s64 result = lock_filled(pipe, file, flags);
	bool full = pipe->used == pipe->size;
	u64 done = 0;

	if (result <= 0)
		return result;
	while (pipe->used && done < size) {
		struct pipe_slot *slot = slot_at(pipe, 0);
		u64 part = slot->size < size - done ? slot->size : size - done;
		struct iovec vector;
		struct io io = io_core(&vector, (u8 *)page_at(slot->page) + slot->start, part);

		result = file_transfer(to, &io, position, true);
		if (result <= 0)
			break;
		consume(pipe, (u64)result);
		done += (u64)result;
		if ((u64)result < part)
			break;
	}
	unlock_drained(pipe, full);
	return done ? (s64)done : result;
}

/* Wait for room, and lock the pipe: 1. Without the lock: -errno. */
static s64 lock_room(struct pipe *pipe, const struct file *file, const struct io *io)
{
	for (;;) {
		s64 error;

		mutex_lock(&pipe->mutex);
		if (pipe->readers && pipe->used < pipe->size)
			return 1;
		mutex_unlock(&pipe->mutex);
		error = pipe->readers ? io_wait(io, file, &pipe->writable) : broken();
		if (error)
			return error;
	}
}

/* Read a page of another file into a slot of its own. */
static s64 fill_slot(struct pipe *pipe, struct file *from, u64 *position, u64 size)
{
	u8 *page = page_buffer();
	struct iovec vector;
	struct io io = io_core(&vector, page, size < PAGE ? size : PAGE);
	s64 got = page ? file_transfer(from, &io, position, false) : -ENOMEM;

	if (got > 0)
		*slot_at(pipe, pipe->used++) = (struct pipe_slot){ page_offset(page), 0, (u32)got, false, false };
	else
		page_free(page);
	return got;
}

s64 pipe_from_file(struct file *file, struct file *from, u64 *position, u64 size, const struct io *flags)
{
	struct pipe *pipe = file_pipe(file);
	s64 result = lock_room(pipe, file, flags);
	u64 done = 0;

	if (result <= 0)
		return result;
	do {
		result = fill_slot(pipe, from, position, size - done);
		done += result > 0 ? (u64)result : 0;
	} while (result == PAGE && done < size && pipe->used < pipe->size && !from->stream);
	mutex_unlock(&pipe->mutex);
	if (done)
		wake_all(&pipe->readable);
	return done ? (s64)done : result;
}

/* Add references to pages, and drop what they share from the source if it moves: how many bytes. Both pipes are locked. */
static u64 share(struct pipe *from, struct pipe *to, u64 size, bool move)
{
	u64 done = 0;

	for (u32 i = 0; i < from->used && done < size && to->used < to->size; i += !move) {
		struct pipe_slot *slot = slot_at(from, i);
		u32 part = slot->size < size - done ? slot->size : (u32)(size - done);

		slot->borrowed = true;
		page_get(slot->page);
		*slot_at(to, to->used++) = (struct pipe_slot){ slot->page, slot->start, part, slot->packet, true };
		if (move)
			consume(from, part);
		done += part;
	}
	return done;
}

s64 pipe_share(struct file *from, struct file *to, u64 size, const struct io *io, bool move)
{
	struct pipe *in = file_pipe(from), *out = file_pipe(to);

	for (;;) {
		s64 error;
		u64 done;
		bool full;

		mutex_lock_two(&in->mutex, &out->mutex);
		full = in->used == in->size;
		done = out->readers ? share(in, out, size, move) : 0;
		mutex_unlock_two(&in->mutex, &out->mutex);
		if (done) {
			wake_all(&out->readable);
			if (full && in->used < in->size)
				wake_all(&in->writable);
		}
		if (done)
			return (s64)done;
		if (!out->readers)
			return broken();
		if (!in->used && !in->writers)
			return 0;
		error = io_wait(io, in->used ? to : from, in->used ? &out->writable : &in->readable);
		if (error)
			return error;
	}
}

/* -- operations -- */

static s64 read(struct file *file, struct io *to, u64 *position)
{
	(void)position;
	return pipe_read(file->data, file, to);
}

static s64 write(struct file *file, struct io *from, u64 *position)
{
	(void)position;
	return pipe_write(file->data, file, from);
}

static u32 poll(struct file *file, struct poll *poll)
{
	struct pipe *pipe = file->data;
	u32 events = 0;

	if (file->readable) {
		poll_wait(poll, &pipe->readable);
		events |= pipe->used ? POLLIN | POLLRDNORM : 0;
		events |= !pipe->writers && pipe->writer_count != file->no_end_before ? POLLHUP : 0;
	}
	if (file->writable) {
		poll_wait(poll, &pipe->writable);
		events |= pipe->used < pipe->size ? POLLOUT | POLLWRNORM : 0;
		events |= pipe->readers ? 0 : POLLERR;
	}
	return events;
}

static s64 ioctl(struct file *file, u32 command, u64 argument)
{
	enum { FIONREAD = 0x541b };
	struct pipe *pipe = file->data;
	s32 bytes = 0;

	if (command != FIONREAD)
		return -ENOTTY;
	for (u32 i = 0; i < pipe->used; i++)
		bytes += (s32)slot_at(pipe, i)->size;
	return user_write(core.current->mm, argument, &bytes, sizeof(bytes));
}

static void release(struct file *file)
{
	struct pipe *pipe = file->data;

	pipe->readers -= file->readable;
	pipe->writers -= file->writable;
	wake(pipe);
	if (--pipe->users)
		return;
	if (file->inode->pipe == pipe)
		file->inode->pipe = NULL;
	pipe_free(pipe);
}

const struct file_operations pipe_operations = {
	.read = read, .write = write, .poll = poll, .nowait = true, .ioctl = ioctl, .release = release,
	.async = true,
};

struct pipe *file_pipe(struct file *file)
{
	return file->operations == &pipe_operations ? file->data : NULL;
}

static int replace_slots(struct pipe *pipe, u32 size)
{
	struct pipe_slot *new = size < pipe->used ? NULL : kmalloc(size * sizeof(*new));

	if (!new)
		return size < pipe->used ? -EBUSY : -ENOMEM;
	for (u32 i = 0; i < pipe->used; i++)
		new[i] = *slot_at(pipe, i);
	kfree(pipe->slots);
	pipe->slots = new;
	pipe->first = 0;
	pipe->size = size;
	return 0;
}

s64 pipe_resize(struct pipe *pipe, u64 size)
{
	u64 slots = 1;
	int error;

	if (size > 1ull << 31)
		return -EINVAL;
	while (slots * PAGE < size)
		slots *= 2;
	if (slots > MOST_SLOTS && !caller_capable(CAP_SYS_RESOURCE))
		return -EPERM;
	mutex_lock(&pipe->mutex);
	error = replace_slots(pipe, (u32)slots);
	mutex_unlock(&pipe->mutex);
	if (error)
		return error;
	wake(pipe);
	return (s64)(slots * PAGE);
}

/* -- making and opening -- */

static void attach(struct pipe *pipe, struct file *file)
{
	file->data = pipe;
	file->operations = &pipe_operations;
	file->stream = true;
	file->no_end_before = ~0ull;
	pipe->users++;
	pipe->readers += file->readable;
	pipe->writers += file->writable;
	pipe->reader_count += file->readable;
	pipe->writer_count += file->writable;
}

/* Wait until the other end has been opened, since a count. */
static s64 wait_for_partner(struct wait_queue *queue, const u32 *users, const u32 *count)
{
	u32 before = *count;

	while (!*users && *count == before) {
		s64 error = sleep_on(queue, FOREVER);

		if (error)
			return error;
	}
	return 0;
}

/* A pipe without a name is opened by /proc/self/fd, and waits for no partner. */
int fifo_open(struct file *file)
{
	struct inode *inode = file->inode;
	bool named = inode->super != vfs.anonymous;
	struct pipe *pipe = inode->pipe;
	s64 error = 0;

	if (!pipe)
		pipe = inode->pipe = pipe_new();
	if (!pipe)
		return -ENOMEM;
	if (named && file->writable && !file->readable && file->flags & O_NONBLOCK && !pipe->readers) {
		if (!pipe->users) {
			inode->pipe = NULL;
			pipe_free(pipe);
		}
		return -ENXIO;
	}
	attach(pipe, file);
	if (named && file->flags & O_NONBLOCK && !pipe->writers)
		file->no_end_before = pipe->writer_count;
	wake(pipe);
	if (!named || file->flags & O_NONBLOCK || (file->readable && file->writable))
		return 0;
	error = file->readable ? wait_for_partner(&pipe->readable, &pipe->writers, &pipe->writer_count)
			       : wait_for_partner(&pipe->writable, &pipe->readers, &pipe->reader_count);
	if (error)
		release(file);
	return (int)error;
}

int pipe_make(u32 flags, struct file **ends)
{
	struct pipe *pipe = pipe_new();
	struct path path;
	int error = pipe ? anonymous_path(S_IFIFO | 0600, "pipe", &path) : -ENOMEM;

	if (error) {
		if (pipe)
			pipe_free(pipe);
		return error;
	}
	for (u32 i = 0; i < 2; i++) {
		ends[i] = file_new(&path, &pipe_operations, i ? flags | O_WRONLY : flags & ~(u32)O_DIRECT);
		if (ends[i])
			attach(pipe, ends[i]);
	}
	path.dentry->inode->pipe = pipe; /* for /proc/self/fd */
	path_put(&path);
	if (ends[0] && ends[1])
		return 0;
	if (!pipe->users)
		pipe_free(pipe);
	file_put(ends[0]);
	file_put(ends[1]);
	return -ENOMEM;
}

static s64 make(struct task *t, u64 to, u32 flags)
{
	struct file *ends[2];
	s64 error;

	enum { NOTIFICATIONS = 0x80 };

	if (flags & ~(u32)(O_CLOEXEC | O_NONBLOCK | O_DIRECT | NOTIFICATIONS))
		return -EINVAL;
	if (flags & NOTIFICATIONS) /* as Linux without CONFIG_WATCH_QUEUE */
		return -ENOPKG;
	error = pipe_make(flags, ends);
	return error ? error : fd_install_two(t, ends, to, flags & O_CLOEXEC);
}

s64 sys_pipe(struct task *t, const u64 *args)
{
	return make(t, args[0], 0);
}

s64 sys_pipe2(struct task *t, const u64 *args)
{
	return make(t, args[0], (u32)args[1]);
}
