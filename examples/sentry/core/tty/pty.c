// SPDX-License-Identifier: Apache-2.0
/* Pseudo terminals: pairs of a terminal in /dev/pts and its master, a file of /dev/ptmx. */
#include "../vfs/calls.h"
#include "tty.h"

#define TIOCPKT 0x5420u
#define TIOCGPTN 0x80045430u
#define TIOCSPTLCK 0x40045431u
#define TIOCGPKT 0x80045438u
#define TIOCGPTLCK 0x80045439u
#define TIOCSIG 0x40045436u
enum { OUTPUT_BYTES = 3 * PAGE, OUTPUT_KEPT = BUFFER - 1 };

struct pty {
	struct tty tty;
	struct ring output; /* of the terminal, for the master */
	struct wait_queue readable, writable;
	struct turn reading, writing;
	struct inode *inode;
	const void *owner; /* the container whose programs can open the terminal; NULL: those of none. Only compared */
	bool closed;	   /* the terminal has no open file any longer */
	bool locked;	   /* it cannot be opened yet */
	bool packets;	   /* reads begin with a byte that reports what has happened */
	bool stopped;	   /* the master, by a call */
	u32 happened;	   /* PACKET_* */
};

static struct pty *ptys[PTYS_MOST]; /* whose masters are open */
static const struct file_operations operations;

static struct pty *pty_of(struct tty *tty)
{
	return CONTAINER(tty, struct pty, tty);
}

/* -- the driver of the terminal: its output goes to the master -- */

static u64 room(const struct tty *tty)
{
	const struct pty *pty = CONTAINER(tty, struct pty, tty);

	return pty->output.size - pty->output.used;
}

static void write_output(struct tty *tty, const void *data, u64 size)
{
	struct pty *pty = pty_of(tty);

	if (tty->other_closed)
		return;
	ring_put(&pty->output, data, size);
	wake_all(&pty->readable);
}

static void flush_output(struct tty *tty)
{
	struct pty *pty = pty_of(tty);

	/* Linux has passed so much to the master already, and does not discard it. */
	if (pty->output.used > OUTPUT_KEPT)
		pty->output.used = OUTPUT_KEPT;
	tty_report(tty, PACKET_FLUSH_WRITE, 0);
}

static void report(struct tty *tty, u32 what, u32 without)
{
	struct pty *pty = pty_of(tty);

	if (!pty->packets)
		return;
	pty->happened = (pty->happened & ~without) | what;
	wake_all(&pty->readable);
}

static void input_taken(struct tty *tty)
{
	wake_all(&pty_of(tty)->writable);
}

static void last_closed(struct tty *tty)
{
	struct pty *pty = pty_of(tty);

	pty->closed = true;
	wake_all(&pty->readable);
	wake_all(&pty->writable);
}

static bool may_open(struct tty *tty)
{
	struct pty *pty = pty_of(tty);

	if (tty->other_closed || pty->locked)
		return false;
	pty->closed = false;
	return true;
}

static void free_pty(struct tty *tty)
{
	struct pty *pty = pty_of(tty);

	tty_end(tty);
	kfree(pty->output.data);
	kfree(pty);
}

static const struct tty_driver driver = {
	.room = room, .write = write_output, .flush = flush_output, .report = report, .taken = input_taken,
	.last_closed = last_closed, .may_open = may_open, .free = free_pty,
};

/* -- numbers -- */

void ptys_init(void)
{
	bytes_zero(ptys, sizeof(ptys));
}

struct tty *pty_find(u32 index)
{
	return index < PTYS_MOST && ptys[index] ? &ptys[index]->tty : NULL;
}

struct inode *pty_inode(u32 index)
{
	return index < PTYS_MOST && ptys[index] ? ptys[index]->inode : NULL;
}

bool pty_is_own(u32 index)
{
	return ptys[index]->owner == core.current->process->container;
}

void pty_give(struct file *master, const void *container)
{
	struct pty *pty = master->data;

	pty->owner = container;
}

static struct pty *pty_new(u32 index)
{
	struct pty *pty = kmalloc(sizeof(*pty));

	if (!pty)
		return NULL;
	pty->output = (struct ring){ .data = kmalloc(OUTPUT_BYTES), .size = OUTPUT_BYTES };
	if (!tty_start(&pty->tty, &driver, index) || !pty->output.data) {
		free_pty(&pty->tty);
		return NULL;
	}
	pty->locked = true;
	pty->inode = devpts_add(index);
	if (!pty->inode) {
		free_pty(&pty->tty);
		return NULL;
	}
	return pty;
}

/* -- the master -- */

int ptmx_open(struct file *file)
{
	u32 index = console_tty() ? CONSOLE_INDEX + 1 : 0;

	while (index < PTYS_MOST && ptys[index])
		index++;
	if (index == PTYS_MOST)
		return -ENOSPC;
	ptys[index] = pty_new(index);
	if (!ptys[index])
		return -ENOMEM;
	ptys[index]->owner = core.current->process->container;
	file->operations = &operations;
	file->data = ptys[index];
	file->stream = true;
	return 0;
}

struct tty *pty_unlock(struct file *master)
{
	struct pty *pty = master->data;

	pty->locked = false;
	return &pty->tty;
}

static void release(struct file *file)
{
	struct pty *pty = file->data;

	ptys[pty->tty.index] = NULL;
	devpts_remove(pty->inode);
	pty->inode = NULL;
	pty->packets = false;
	pty->tty.other_closed = true;
	wake_all(&pty->tty.readable);
	wake_all(&pty->tty.writable);
	tty_hangup(&pty->tty);
	tty_put(&pty->tty);
}

static s64 wait_for(struct file *file, struct wait_queue *queue)
{
	return file->flags & O_NONBLOCK ? -EAGAIN : sleep_on(queue, FOREVER);
}

static void output_taken(struct pty *pty)
{
	echo_flush(&pty->tty);
	wake_all(&pty->tty.writable);
}

/* Read into a page of the core. */
static s64 take(struct pty *pty, struct file *file, u8 *to, u64 size)
{
	u64 done = 0;
	s64 error = 0;

	while (!error && !pty->output.used && !(pty->packets && pty->happened))
		error = pty->closed ? -EIO : wait_for(file, &pty->readable);
	if (error)
		return error;
	if (pty->packets) {
		to[done++] = (u8)pty->happened;
		if (pty->happened) {
			pty->happened = 0;
			return (s64)done;
		}
	}
	done += ring_take(&pty->output, to + done, size - done);
	output_taken(pty);
	return (s64)done;
}

static s64 read(struct file *file, struct io *to, u64 *position)
{
	struct pty *pty = file->data;
	u64 size = to->left < PAGE ? to->left : PAGE;
	s64 got = size ? turn_take(&pty->reading, !(file->flags & O_NONBLOCK)) : 0;
	u8 *page;

	(void)position;
	if (got || !size)
		return got;
	page = page_alloc();
	got = page ? take(pty, file, page, size) : -ENOMEM;
	if (got > 0 && io_put(to, page, (u64)got) != (u64)got)
		got = -EFAULT;
	page_free(page);
	turn_end(&pty->reading);
	return got;
}

static s64 write_page(struct file *file, const u8 *data, u64 size)
{
	struct pty *pty = file->data;
	u64 done = 0;
	s64 error = 0;

	while (!error && done < size) {
		if (!pty->stopped)
			done += tty_receive(&pty->tty, data + done, size - done);
		if (done < size)
			error = wait_for(file, &pty->writable);
	}
	return done ? (s64)done : error;
}

static s64 write(struct file *file, struct io *from, u64 *position)
{
	struct pty *pty = file->data;

	(void)position;
	return turn_write(&pty->writing, file, from, write_page);
}

static u32 poll(struct file *file, struct poll *poll)
{
	struct pty *pty = file->data;
	bool happened = pty->packets && pty->happened;
	u32 ready = 0;

	poll_wait(poll, &pty->readable);
	poll_wait(poll, &pty->writable);
	if (pty->output.used || happened)
		ready |= POLLIN | POLLRDNORM;
	if (happened)
		ready |= POLLPRI;
	if (pty->closed)
		ready |= POLLHUP;
	if (!pty->stopped && !pty->writing.taken && pty->tty.input.used < pty->tty.input.size)
		ready |= POLLOUT | POLLWRNORM;
	return ready;
}

/* -- calls -- */

static s64 set_flag(bool *flag, u64 from)
{
	s32 value;

	if (user_read(core.current->mm, &value, from, sizeof(value)))
		return -EFAULT;
	*flag = value != 0;
	return 0;
}

static s64 set_packets(struct pty *pty, u64 from)
{
	bool before = pty->packets;
	s64 error = set_flag(&pty->packets, from);

	if (!error && !before)
		pty->happened = 0;
	return error;
}

static s64 flush(struct pty *pty, u64 what)
{
	if (what > TCIOFLUSH)
		return -EINVAL;
	if (what != TCOFLUSH) {
		pty->output.used = 0;
		output_taken(pty);
	}
	if (what != TCIFLUSH) {
		pty->tty.input.used = 0;
		wake_all(&pty->writable);
	}
	return 0;
}

static s64 flow(struct pty *pty, u64 what)
{
	if (what > TCION)
		return -EINVAL;
	if (what >= TCIOFF) {
		tty_receive(&pty->tty, &usual_modes.characters[what == TCIOFF ? VSTOP : VSTART], 1);
		return 0;
	}
	pty->stopped = what == TCOOFF;
	wake_all(&pty->writable);
	return 0;
}

static s64 send_signal(struct pty *pty, u64 signal)
{
	if (signal != SIGINT && signal != SIGQUIT && signal != SIGTSTP)
		return -EINVAL;
	tty_signal_group(&pty->tty, (int)signal);
	return 0;
}

/* A descriptor of the terminal, even where /dev/pts is not mounted. */
static s64 open_peer(struct pty *pty, u64 flags)
{
	struct file *peer;
	struct path path;
	int error = devpts_path(pty->tty.index, &path);

	if (error)
		return error;
	error = file_open(&path, (u32)flags & (O_ACCMODE | O_NONBLOCK | O_NOCTTY), &peer);
	path_put(&path);
	if (error)
		return error;
	peer->flags |= (u32)flags & O_CLOEXEC; /* as Linux shows it */
	return fd_install(core.current, peer, 0, (u32)flags & O_CLOEXEC);
}

static s64 ioctl(struct file *file, u32 command, u64 argument)
{
	struct pty *pty = file->data;

	switch (command) {
	case TIOCGPTN: return put_number(argument, (s32)pty->tty.index);
	case TIOCSPTLCK: return set_flag(&pty->locked, argument);
	case TIOCGPTLCK: return put_number(argument, pty->locked);
	case TIOCPKT: return set_packets(pty, argument);
	case TIOCGPKT: return put_number(argument, pty->packets);
	case TIOCSIG: return send_signal(pty, argument);
	case TIOCGPTPEER: return open_peer(pty, argument);
	case FIONREAD: return put_number(argument, (s32)pty->output.used);
	case TCFLSH: return flush(pty, argument);
	case TCXONC: return flow(pty, argument);
	}
	return shared_ioctl(&pty->tty, true, file, command, argument);
}

static const struct file_operations operations = {
	.read = read, .write = write, .poll = poll, .ioctl = ioctl, .release = release, .async = true,
};
