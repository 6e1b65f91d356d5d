// SPDX-License-Identifier: Apache-2.0
/* The console: the three streams of the sandbox, a terminal or not. */
#include "../tty/tty.h"
#include "device.h"

/* Wait until there may be input. */
static s64 wait_for_input(struct file *file)
{
	s64 error = 0;

	while (!error && !core.ops->wait(0))
		error = file->flags & O_NONBLOCK ? -EAGAIN : sleep_on(&core.console_input, FOREVER);
	return error;
}

static s64 read(struct file *file, struct io *to, u64 *position)
{
	u64 room = io_writable(to, PAGE); /* first: input that is read but not delivered is lost */
	u8 *page;
	s64 got;

	(void)position;
	if (!to->left)
		return 0;
	got = room ? wait_for_input(file) : -EFAULT;
	if (got)
		return got;
	page = page_buffer();
	if (!page)
		return -ENOMEM;
	got = core.ops->console_read(page, room);
	if (got > (s64)room)
		got = -EIO;
	if (got > 0 && io_put(to, page, (u64)got) != (u64)got)
		got = -EFAULT;
	page_free(page);
	return got;
}

static s64 write(struct file *file, struct io *from, u64 *position)
{
	u8 *page = page_buffer();
	u64 done = 0;
	s64 put = 0;

	(void)position;
	if (!page)
		return -ENOMEM;
	while (from->left) {
		u64 part = io_get(from, page, PAGE);

		put = part ? core.ops->console_write((int)(u64)file->data, page, part) : -EFAULT;
		if (put < 0)
			break;
		done += (u64)put;
		if ((u64)put < part)
			break;
	}
	page_free(page);
	if (put == -EPIPE)
		signal_raise(core.current, SIGPIPE);
	return done || put >= 0 ? (s64)done : put;
}

static u32 poll(struct file *file, struct poll *poll)
{
	bool reads = file->readable && core.ops->wait(0);

	if (file->readable)
		poll_wait(poll, &core.console_input);
	return (reads ? POLLIN | POLLRDNORM : 0) | (file->writable ? POLLOUT | POLLWRNORM : 0);
}

static s64 ioctl(struct file *file, u32 command, u64 argument)
{
	enum { TCGETS = 0x5401, TIOCGWINSZ = 0x5413 };
	struct winsize size = { 0 };

	if (!core.ops->console_size((int)(u64)file->data, &size.rows, &size.columns))
		return -ENOTTY;
	switch (command) {
	case TCGETS:
		return user_write(core.current->mm, argument, &usual_modes, TCGETS_SIZE);
	case TIOCGWINSZ:
		return user_write(core.current->mm, argument, &size, sizeof(size));
	}
	return -ENOTTY;
}

static const struct file_operations operations = { .read = read, .write = write, .poll = poll, .ioctl = ioctl };

/* /dev/tty and /dev/console: what is read comes from the first stream, what is written goes to the second. */
int console_open(struct file *file)
{
	u16 rows, columns;

	if (!core.ops->console_size(0, &rows, &columns) && !core.ops->console_size(1, &rows, &columns))
		return -ENXIO;
	file->operations = &operations;
	file->data = (void *)(u64)1;
	file->stream = true;
	return 0;
}

/* One of the streams again, through /proc/self/fd. */
static int reopen(struct inode *inode, struct file *file)
{
	file->operations = &operations;
	file->data = inode->data;
	file->stream = true;
	return 0;
}

static const struct inode_operations stream_operations = { .open = reopen };

static int make_stream(u32 stream)
{
	u16 rows, columns;
	bool terminal = core.ops->console_size((int)stream, &rows, &columns);
	int error = anonymous_path(terminal ? S_IFCHR | 0620 : S_IFIFO | 0600, "pipe", &vfs.streams[stream]);

	struct inode *inode;

	if (error)
		return error;
	inode = vfs.streams[stream].dentry->inode;
	inode->operations = &stream_operations;
	inode->data = (void *)(u64)stream;
	if (terminal)
		inode->device = MAKE_DEVICE(5, 1);
	return 0;
}

struct file *console_stream(u32 stream)
{
	struct file *file;

	if (!vfs.streams[stream].dentry && make_stream(stream))
		return NULL;
	file = file_new(&vfs.streams[stream], &operations, stream ? O_WRONLY : O_RDONLY);
	if (!file)
		return NULL;
	file->data = (void *)(u64)stream;
	file->stream = true;
	return file;
}
