// SPDX-License-Identifier: Apache-2.0
/* The modes of a terminal: TCGETS and its kin. */
#include "tty.h"

enum {
	TCGETS = 0x5401, TCSETS, TCSETSW, TCSETSF, TCGETA, TCSETA, TCSETAW, TCSETAF, TIOCGSOFTCAR = 0x5419,
	TIOCSSOFTCAR = 0x541a, TIOCGLCKTRMIOS = 0x5456, TIOCSLCKTRMIOS = 0x5457,
};
#define TCGETS2 0x802c542au
#define TCSETS2 0x402c542bu
#define TCSETSW2 0x402c542cu
#define TCSETSF2 0x402c542du
enum { SPEED_SHIFT = 16, OLD_CHARACTERS = 8, B38400 = 15 };

/* As TCGETA has them. The last byte has a name, or no compiler would have to clear it for a program. */
struct old_modes {
	u16 input, output, control, local;
	u8 discipline, characters[OLD_CHARACTERS], unused;
};

const struct modes usual_modes = {
	ICRNL | IXON, OPOST | ONLCR, B38400 | CS8 | CREAD, ISIG | ICANON | ECHO | ECHOE | ECHOK | ECHOCTL | ECHOKE | IEXTEN, 0,
	{ 3, 28, 127, 21, 4, 0, 1, 0, 17, 19, 26, 0, 18, 15, 23, 22 }, 38400, 38400,
};

static u32 speed_of(u32 code, u32 other)
{
	static const u32 speeds[] = {
		0, 50, 75, 110, 134, 150, 200, 300, 600, 1200, 1800, 2400, 4800, 9600, 19200, 38400, 57600, 115200, 230400,
		460800, 500000, 576000, 921600, 1000000, 1152000, 1500000, 2000000, 2500000, 3000000, 3500000, 4000000,
	};

	code &= CBAUD;
	if (code == BOTHER)
		return other;
	if (code & BOTHER)
		code = (code & ~(u32)BOTHER) + 15;
	return code < ARRAY_SIZE(speeds) ? speeds[code] : 0;
}

static void set_speeds(struct modes *modes)
{
	u32 input = modes->control >> SPEED_SHIFT & CBAUD;

	modes->input_speed = input ? speed_of(input, modes->input_speed) : speed_of(modes->control, modes->output_speed);
	modes->output_speed = speed_of(modes->control, modes->output_speed);
}

/* Restore the locked bits and characters from the old modes. */
static void keep_locked(struct modes *new, const struct modes *old, const struct modes *locked)
{
	new->input = (old->input & locked->input) | (new->input & ~locked->input);
	new->output = (old->output & locked->output) | (new->output & ~locked->output);
	new->control = (old->control & locked->control) | (new->control & ~locked->control);
	new->local = (old->local & locked->local) | (new->local & ~locked->local);
	if (locked->discipline)
		new->discipline = old->discipline;
	for (u32 i = 0; i < CHARACTERS; i++)
		if (locked->characters[i])
			new->characters[i] = old->characters[i];
}

static bool has_usual_flow(const struct modes *modes)
{
	return modes->input & IXON && modes->characters[VSTOP] == usual_modes.characters[VSTOP] &&
	       modes->characters[VSTART] == usual_modes.characters[VSTART];
}

static void change(struct tty *tty, struct modes *new)
{
	const struct modes old = tty->modes;
	bool flow;

	set_speeds(new);
	keep_locked(new, &old, &tty->locked);
	new->control = (new->control & ~(u32)(CSIZE | PARENB)) | CS8 | CREAD;
	tty->modes = *new;
	flow = has_usual_flow(new);
	if (flow != has_usual_flow(&old))
		tty_report(tty, flow ? PACKET_DO_STOP : PACKET_NO_STOP, flow ? PACKET_NO_STOP : PACKET_DO_STOP);
	if ((old.local | new->local) & EXTPROC)
		tty_report(tty, PACKET_IOCTL, 0);
	line_modes_changed(tty, &old);
}

static s64 set(struct tty *tty, bool master, u64 from, u64 size, bool flush)
{
	struct modes new = tty->modes;
	s64 error = master ? 0 : tty_check(tty, SIGTTOU);

	if (error)
		return error;
	if (user_read(core.current->mm, &new, from, size))
		return -EFAULT;
	if (flush && !master)
		tty_flush_input(tty);
	change(tty, &new);
	return 0;
}

static s64 get_old(const struct tty *tty, u64 to)
{
	const struct modes *m = &tty->modes;
	struct old_modes old = {
		(u16)m->input, (u16)m->output, (u16)m->control, (u16)m->local, m->discipline, { 0 }, 0,
	};

	bytes_copy(old.characters, m->characters, OLD_CHARACTERS);
	return user_write(core.current->mm, to, &old, sizeof(old));
}

static s64 set_old(struct tty *tty, bool master, u64 from, bool flush)
{
	struct modes new = tty->modes;
	struct old_modes old;
	s64 error = master ? 0 : tty_check(tty, SIGTTOU);

	if (error)
		return error;
	if (user_read(core.current->mm, &old, from, sizeof(old)))
		return -EFAULT;
	new.input = (new.input & 0xffff0000) | old.input;
	new.output = (new.output & 0xffff0000) | old.output;
	new.control = (new.control & 0xffff0000) | old.control;
	new.local = (new.local & 0xffff0000) | old.local;
	new.discipline = old.discipline;
	bytes_copy(new.characters, old.characters, OLD_CHARACTERS);
	if (flush && !master)
		tty_flush_input(tty);
	change(tty, &new);
	return 0;
}

static s64 set_carrier(struct tty *tty, u64 from)
{
	struct modes new = tty->modes;
	s32 value;

	if (user_read(core.current->mm, &value, from, sizeof(value)))
		return -EFAULT;
	new.control = value ? new.control | CLOCAL : new.control & ~(u32)CLOCAL;
	change(tty, &new);
	return 0;
}

static s64 set_locked(struct tty *tty, u64 from)
{
	if (!caller_capable(CAP_SYS_ADMIN))
		return -EPERM;
	return user_read(core.current->mm, &tty->locked, from, TCGETS_SIZE) ? -EFAULT : 0;
}

s64 modes_ioctl(struct tty *tty, bool master, u32 command, u64 argument)
{
	struct mm *mm = core.current->mm;

	switch (command) {
	case TCGETS: return user_write(mm, argument, &tty->modes, TCGETS_SIZE);
	case TCGETS2: return user_write(mm, argument, &tty->modes, sizeof(tty->modes));
	case TCSETS:
	case TCSETSW:
	case TCSETSF: return set(tty, master, argument, TCGETS_SIZE, command == TCSETSF);
	case TCSETS2:
	case TCSETSW2:
	case TCSETSF2: return set(tty, master, argument, sizeof(struct modes), command == TCSETSF2);
	case TCGETA: return get_old(tty, argument);
	case TCSETA:
	case TCSETAW:
	case TCSETAF: return set_old(tty, master, argument, command == TCSETAF);
	case TIOCGSOFTCAR: return put_number(argument, tty->modes.control & CLOCAL ? 1 : 0);
	case TIOCSSOFTCAR: return set_carrier(tty, argument);
	case TIOCGLCKTRMIOS: return user_write(mm, argument, &tty->locked, TCGETS_SIZE);
	case TIOCSLCKTRMIOS: return set_locked(tty, argument);
	}
	return 1;
}
