// SPDX-License-Identifier: Apache-2.0
/* The life of terminals: open files, hangup and end. */
#include "../vfs/calls.h"
#include "tty.h"

static struct slab files = SLAB(struct tty_file);
static const struct file_operations operations;

bool tty_start(struct tty *tty, const struct tty_driver *driver, u32 index)
{
	tty->references = 1;
	tty->driver = driver;
	tty->index = index;
	tty->modes = usual_modes;
	tty->line.canonical = true;
	list_init(&tty->files);
	tty->input = (struct ring){ .data = page_alloc(), .size = PAGE };
	tty->line.bytes = page_alloc();
	tty->echo.bytes = page_alloc();
	return tty->input.data && tty->line.bytes && tty->echo.bytes;
}

void tty_end(struct tty *tty)
{
	page_free(tty->input.data);
	page_free(tty->line.bytes);
	page_free(tty->echo.bytes);
}

void tty_get(struct tty *tty)
{
	reference_get(&tty->references);
}

void tty_put(struct tty *tty)
{
	if (tty && reference_put(&tty->references))
		tty->driver->free(tty);
}

/* -- turns -- */

s64 turn_take(struct turn *turn, bool wait)
{
	while (turn->taken) {
		s64 error = wait ? sleep_on(&turn->queue, FOREVER) : -EAGAIN;

		if (error)
			return error;
	}
	turn->taken = true;
	return 0;
}

void turn_end(struct turn *turn)
{
	turn->taken = false;
	wake_one(&turn->queue);
}

static s64 write_pages(struct file *file, struct io *from, u8 *page, page_writer *write)
{
	u64 done = 0;
	s64 put = 0;

	do {
		u64 want = from->left < PAGE ? from->left : PAGE, part = io_get(from, page, want);

		put = part || !want ? write(file, page, part) : -EFAULT;
		done += put > 0 ? (u64)put : 0;
		if (put < (s64)want)
			break;
	} while (from->left);
	return done || put >= 0 ? (s64)done : put;
}

s64 turn_write(struct turn *turn, struct file *file, struct io *from, page_writer *write)
{
	s64 result = turn_take(turn, !(file->flags & O_NONBLOCK));
	u8 *page;

	if (result)
		return result;
	page = page_alloc();
	result = page ? write_pages(file, from, page, write) : -ENOMEM;
	page_free(page);
	turn_end(turn);
	return result;
}

/* -- open and close -- */

int tty_open(struct file *file, struct tty *tty, bool console)
{
	struct tty_file *mine;

	if (tty->driver->may_open && !tty->driver->may_open(tty))
		return -EIO;
	if (tty->exclusive && tty->open_count && !caller_capable(CAP_SYS_ADMIN))
		return -EBUSY;
	mine = slab_alloc(&files);
	if (!mine)
		return -ENOMEM;
	*mine = (struct tty_file){ .tty = tty, .console = console };
	tty_get(tty);
	tty->open_count++;
	list_add(&tty->files, &mine->files);
	file->operations = &operations;
	file->data = mine;
	file->stream = true;
	if (!console)
		tty_acquire(tty, file);
	return 0;
}

static void release(struct file *file)
{
	struct tty_file *mine = file->data;
	struct tty *tty = mine->tty;

	list_remove(&mine->files);
	slab_free(&files, mine);
	if (!--tty->open_count && tty->driver->last_closed)
		tty->driver->last_closed(tty);
	tty_put(tty);
}

void tty_hangup(struct tty *tty)
{
	const struct modes old = tty->modes;

	LIST_EACH(at, &tty->files)
		CONTAINER(at, struct tty_file, files)->hung = true;
	session_hangup(tty);
	tty->input.used = 0;
	line_forget(tty);
	echo_forget(tty);
	tty_flush_output(tty);
	tty->modes = usual_modes;
	tty->stopped = tty->stopped_by_call = false;
	line_modes_changed(tty, &old);
}

/* -- read, write, poll -- */

static s64 read(struct file *file, struct io *to, u64 *position)
{
	struct tty_file *mine = file->data;
	u64 size = to->left < PAGE ? to->left : PAGE;
	u8 *page;
	s64 got;

	(void)position;
	if (mine->hung || !size)
		return 0;
	page = page_alloc();
	if (!page)
		return -ENOMEM;
	got = tty_read(mine->tty, mine, page, size, !(file->flags & O_NONBLOCK));
	if (got > 0 && io_put(to, page, (u64)got) != (u64)got)
		got = -EFAULT;
	page_free(page);
	return got;
}

static s64 write_page(struct file *file, const u8 *data, u64 size)
{
	struct tty_file *mine = file->data;
	struct tty *tty = mine->tty;
	u64 done = 0;
	s64 error = 0;

	echo_flush(tty);
	while (!error) {
		if (mine->hung || tty->other_closed)
			error = -EIO;
		else
			done += tty_output(tty, data + done, size - done);
		if (error || done == size)
			break;
		error = file->flags & O_NONBLOCK ? -EAGAIN : sleep_on(&tty->writable, FOREVER);
	}
	return done ? (s64)done : error;
}

static s64 write(struct file *file, struct io *from, u64 *position)
{
	struct tty_file *mine = file->data;
	struct tty *tty = mine->tty;
	s64 result = mine->hung ? -EIO : 0;

	(void)position;
	if (!result && tty->modes.local & TOSTOP && !mine->console)
		result = tty_check(tty, SIGTTOU);
	return result ? result : turn_write(&tty->writing, file, from, write_page);
}

static u32 poll(struct file *file, struct poll *poll)
{
	struct tty_file *mine = file->data;
	struct tty *tty = mine->tty;
	u32 ready = 0;

	if (mine->hung)
		return POLLIN | POLLOUT | POLLERR | POLLHUP | POLLRDNORM | POLLWRNORM;
	poll_wait(poll, &tty->readable);
	poll_wait(poll, &tty->writable);
	if (tty->driver->fetch)
		tty->driver->fetch(tty);
	if (tty_has_input(tty, true))
		ready |= POLLIN | POLLRDNORM;
	if (tty->other_closed)
		ready |= POLLHUP;
	if (!tty->writing.taken && tty_room(tty))
		ready |= POLLOUT | POLLWRNORM;
	return ready;
}

static const struct file_operations operations = {
	.read = read, .write = write, .poll = poll, .ioctl = tty_ioctl, .release = release, .async = true,
};

/* vhangup(): of the caller's terminal. */
s64 sys_vhangup(struct task *t, const u64 *args)
{
	(void)t, (void)args;
	if (!caller_capable(CAP_SYS_TTY_CONFIG))
		return -EPERM;
	if (tty_of_caller())
		tty_hangup(tty_of_caller());
	return 0;
}
