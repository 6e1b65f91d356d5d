// SPDX-License-Identifier: Apache-2.0
/* The ioctl commands of terminals, except those of modes (modes.c) and sessions (session.c). */
#include "tty.h"

enum {
	TCSBRK = 0x5409, TIOCEXCL = 0x540c, TIOCNXCL, TIOCOUTQ = 0x5411, TIOCSTI, TIOCGWINSZ, TIOCSWINSZ, TIOCCONS = 0x541d,
	TIOCSETD = 0x5423, TIOCGETD = 0x5424, TCSBRKP = 0x5425, TIOCSBRK = 0x5427, TIOCCBRK = 0x5428, TIOCVHANGUP = 0x5437,
};
#define TIOCGDEV 0x80045432u
#define TIOCGEXCL 0x80045440u

void tty_flush_output(struct tty *tty)
{
	if (tty->driver->flush)
		tty->driver->flush(tty);
	wake_all(&tty->writable);
}

static s64 flush(struct tty *tty, u64 what)
{
	s64 error = tty_check(tty, SIGTTOU);

	if (error)
		return error;
	if (what > TCIOFLUSH)
		return -EINVAL;
	if (what != TCOFLUSH)
		tty_flush_input(tty);
	if (what != TCIFLUSH)
		tty_flush_output(tty);
	return 0;
}

/* A character for the other side, which is not output of a program. */
static void send_character(struct tty *tty, u8 c)
{
	if (c && tty->driver->room(tty))
		tty->driver->write(tty, &c, 1);
}

static s64 flow(struct tty *tty, u64 what)
{
	s64 error = tty_check(tty, SIGTTOU);

	if (error)
		return error;
	switch (what) {
	case TCOOFF:
		tty_stop(tty);
		tty->stopped_by_call = true;
		return 0;
	case TCOON:
		if (tty->stopped_by_call) {
			tty->stopped_by_call = false;
			tty_restart(tty);
		}
		return 0;
	case TCIOFF:
	case TCION:
		send_character(tty, tty->modes.characters[what == TCIOFF ? VSTOP : VSTART]);
		return 0;
	}
	return -EINVAL;
}

/*
 * Input as if it were typed, or for a master as if the terminal had written it. Linux can forbid it
 * (dev.tty.legacy_tiocsti), as it does here.
 */
static s64 type_character(struct tty *tty, bool master, u64 from)
{
	u8 c;

	if (!caller_capable(CAP_SYS_ADMIN))
		return -EIO;
	if (user_read(core.current->mm, &c, from, 1))
		return -EFAULT;
	if (master)
		tty->driver->write(tty, &c, 1);
	else
		tty_receive(tty, &c, 1);
	return 0;
}

void tty_resize(struct tty *tty, const struct winsize *size)
{
	const struct winsize *old = &tty->size;

	if (old->rows == size->rows && old->columns == size->columns && old->width == size->width &&
	    old->height == size->height)
		return;
	tty_signal_group(tty, SIGWINCH);
	tty->size = *size;
}

static s64 set_size(struct tty *tty, u64 from)
{
	struct winsize size;

	if (user_read(core.current->mm, &size, from, sizeof(size)))
		return -EFAULT;
	tty_resize(tty, &size);
	return 0;
}

static s64 set_discipline(u64 from)
{
	s32 number;

	if (user_read(core.current->mm, &number, from, sizeof(number)))
		return -EFAULT;
	return number ? -EINVAL : 0; /* N_TTY is the only one */
}

static s64 hang_up(struct tty *tty)
{
	if (!caller_capable(CAP_SYS_ADMIN))
		return -EPERM;
	tty_hangup(tty);
	return 0;
}

/* There is no serial line to send a break on. */
static s64 send_break(struct tty *tty, bool master, u32 command)
{
	return master || command == TIOCCBRK ? 0 : tty_check(tty, SIGTTOU);
}

s64 shared_ioctl(struct tty *tty, bool master, struct file *file, u32 command, u64 argument)
{
	s64 result;

	switch (command) {
	case TIOCGWINSZ: return user_write(core.current->mm, argument, &tty->size, sizeof(tty->size));
	case TIOCSWINSZ: return set_size(tty, argument);
	case TIOCGETD: return put_number(argument, 0);
	case TIOCSETD: result = master ? 0 : tty_check(tty, SIGTTOU); return result ? result : set_discipline(argument);
	case TIOCSTI: return type_character(tty, master, argument);
	case TIOCOUTQ: return put_number(argument, 0); /* written bytes are with the reader at once */
	case TIOCGDEV: return put_number(argument, (s32)pts_device(tty->index));
	case TCSBRK:
	case TCSBRKP:
	case TIOCSBRK:
	case TIOCCBRK: return send_break(tty, master, command);
	}
	result = session_ioctl(tty, master, file, command, argument);
	if (result == 1)
		result = modes_ioctl(tty, master, command, argument);
	return result == 1 ? -ENOTTY : result;
}

s64 tty_ioctl(struct file *file, u32 command, u64 argument)
{
	struct tty_file *mine = file->data;
	struct tty *tty = mine->tty;

	if (mine->hung)
		return command == TIOCSPGRP ? -ENOTTY : -EIO;
	switch (command) {
	case TCXONC: return flow(tty, argument);
	case TCFLSH: return flush(tty, argument);
	case TIOCEXCL: tty->exclusive = true; return 0;
	case TIOCNXCL: tty->exclusive = false; return 0;
	case TIOCGEXCL: return put_number(argument, tty->exclusive);
	case FIONREAD: return put_number(argument, (s32)tty_input_size(tty));
	case TIOCVHANGUP: return hang_up(tty);
	case TIOCGPTPEER: return -EIO;
	case TIOCCONS: return caller_capable(CAP_SYS_ADMIN) ? -EINVAL : -EPERM;
	}
	return shared_ioctl(tty, false, file, command, argument);
}
