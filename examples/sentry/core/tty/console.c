// SPDX-License-Identifier: Apache-2.0
/* The platform's console as a terminal: the one that the first program starts with, /dev/pts/0 and /dev/console. */
#include "../vfs/calls.h"
#include "../virtio/virtio.h"
#include "tty.h"

enum { TERMINAL = 0 /* the stream that it is written to */, ALL = 7, ROOM = 1 << 16, READS = 64 };

static struct {
	struct tty tty;
	struct inode *inode;
	u32 streams; /* bits of those that are the terminal; 0: it is none */
	bool pulling;
	struct timer again; /* reads the rest of a flood, after others have run */
} console;

bool console_is_terminal(u32 stream)
{
	return console.streams >> stream & 1;
}

struct tty *console_tty(void)
{
	return console.streams ? &console.tty : NULL;
}

struct inode *console_inode(void)
{
	return console.inode;
}

static u64 room(const struct tty *tty)
{
	(void)tty;
	return ROOM;
}

static void write(struct tty *tty, const void *data, u64 size)
{
	u64 done = 0;

	while (done < size && !tty->other_closed) {
		s64 put = core.ops->console_write(TERMINAL, (const u8 *)data + done, size - done);

		if (put <= 0 || (u64)put > size - done)
			return; /* the rest is lost */
		done += (u64)put;
	}
}

static void end_input(void)
{
	console.tty.other_closed = true;
	tty_hangup(&console.tty);
}

/* Receive waiting input, as far as there is room. */
static void pull(struct tty *tty)
{
	u8 data[256];

	if (console.pulling)
		return;
	console.pulling = true;
	timer_stop(&console.again);
	for (u32 i = 0; i < READS && !tty->other_closed; i++) {
		u32 space = tty->input.size - tty->input.used, most = space < sizeof(data) ? space : sizeof(data);
		s64 got = most && core.ops->wait(0) ? core.ops->console_read(data, most) : -EAGAIN;

		if (got == -EAGAIN)
			break;
		if (got <= 0 || got > (s64)most)
			end_input();
		else
			tty_receive(tty, data, (u64)got);
		if (i + 1 == READS)
			timer_start(&console.again, monotonic_now());
	}
	console.pulling = false;
}

static void pull_again(struct timer *timer)
{
	(void)timer;
	pull(&console.tty);
}

static void check_size(void)
{
	struct winsize size = console.tty.size;

	if (core.ops->console_resized && core.ops->console_resized() &&
	    core.ops->console_size(TERMINAL, &size.rows, &size.columns))
		tty_resize(&console.tty, &size);
}

static void happened(bool input)
{
	if (input)
		pull(&console.tty);
	check_size(); /* after the reads, which also detect that the size has changed */
}

static const struct tty_driver driver = { .room = room, .write = write, .taken = pull, .fetch = pull };

/* The streams that are the terminal: those that the platform reports, or all of a virtio console with a size. */
static u32 terminal_streams(void)
{
	u16 rows, columns;

	if (core.config->terminal || !console_is_there())
		return core.config->terminal & 1 ? core.config->terminal & ALL : 0;
	return core.ops->console_size(TERMINAL, &rows, &columns) ? ALL : 0;
}

void ttys_init(void)
{
	bytes_zero(&console, sizeof(console));
	ptys_init();
	devpts_init();
}

/* False: no memory. */
bool console_start_terminal(void)
{
	struct tty *tty = &console.tty;
	u32 streams = terminal_streams();
	u8 modes = 0;

	if (!streams)
		return true;
	if (!tty_start(tty, &driver, CONSOLE_INDEX))
		return false;
	console.inode = devpts_add(CONSOLE_INDEX);
	if (!console.inode)
		return false;
	for (u32 i = 0; i < TCGETS_SIZE; i++)
		modes |= core.config->terminal_modes[i];
	if (modes)
		bytes_copy(&tty->modes, core.config->terminal_modes, TCGETS_SIZE);
	tty->references = REFERENCES_SATURATED;
	core.ops->console_size(TERMINAL, &tty->size.rows, &tty->size.columns);
	line_modes_changed(tty, NULL);
	if (console_is_there())
		console_make_raw();
	console.again.expire = pull_again;
	console.streams = streams;
	core.console_happened = happened;
	return true;
}

/* It becomes the terminal of the first process. */
void console_adopt(struct process *p)
{
	if (!console.streams)
		return;
	p->terminal = &console.tty;
	console.tty.pids = p->pids;
	console.tty.session = p->session;
	console.tty.group = p->group;
}

struct file *console_tty_open(void)
{
	struct file *file = NULL;
	struct path path;

	if (devpts_path(CONSOLE_INDEX, &path))
		return NULL;
	if (file_open(&path, O_RDWR, &file))
		file = NULL;
	path_put(&path);
	return file;
}
