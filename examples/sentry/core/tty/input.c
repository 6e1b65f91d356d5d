// SPDX-License-Identifier: Apache-2.0
/* Input of a terminal: signals, flow control, editing of a line, and its echo. */
#include "tty.h"

static u8 byte_at(const struct tty *tty, u32 index)
{
	return tty->line.bytes[index & BUFFER_MASK];
}

static u8 character(const struct tty *tty, u32 which)
{
	return tty->modes.characters[which];
}

/* Whether a byte is a special character of the modes, where 0 disables one. */
static bool is(const struct tty *tty, u8 c, u32 which)
{
	return c && c == character(tty, which);
}

static void append(struct tty *tty, u8 c)
{
	tty->line.bytes[tty->line.head++ & BUFFER_MASK] = c;
}

/* With PARMRK, 0377 is doubled. */
static void append_marked(struct tty *tty, u8 c)
{
	if (c == 0377 && tty->modes.input & PARMRK)
		append(tty, c);
	append(tty, c);
}

static void finish_erasing(struct tty *tty)
{
	if (!tty->line.erasing)
		return;
	echo_raw(tty, '/');
	tty->line.erasing = false;
}

static void echo_typed(struct tty *tty, u8 c)
{
	if (!(tty->modes.local & ECHO))
		return;
	finish_erasing(tty);
	if (tty->line.line_head == tty->line.head)
		echo_mark_line(tty);
	echo_byte(tty, c);
}

/* -- erasing -- */

static bool is_of_word(u8 c)
{
	return (c >= '0' && c <= '9') || (u8)((c | 32) - 'a') < 26 || c == '_' || (c >= 0xc0 && c != 0xd7 && c != 0xf7);
}

static void rub_out(struct tty *tty)
{
	echo_raw(tty, '\b');
	echo_raw(tty, ' ');
	echo_raw(tty, '\b');
}

/* The columns of what stands before a tab, back to another tab or the start of the line. */
static void erase_tab(struct tty *tty)
{
	u32 columns = 0;
	bool after_tab = false;

	for (u32 at = tty->line.head; at != tty->line.line_head && !after_tab;) {
		u8 c = byte_at(tty, --at);

		if (c == '\t')
			after_tab = true;
		else if (is_control(c))
			columns += tty->modes.local & ECHOCTL ? 2 : 0;
		else if (!is_continuation(tty, c))
			columns++;
	}
	echo_tab_erased(tty, columns, after_tab);
}

/* ECHOPRT prints erased characters between a backslash and a slash. */
static void print_erased(struct tty *tty, u8 c, u32 size)
{
	if (!tty->line.erasing)
		echo_raw(tty, '\\');
	tty->line.erasing = true;
	echo_byte(tty, c);
	for (u32 i = 1; i < size; i++) {
		echo_raw(tty, byte_at(tty, tty->line.head + i));
		echo_back(tty);
	}
}

/* Show that a character of so many bytes was erased, of which c is the first. */
static void echo_erased(struct tty *tty, u8 c, u32 size, bool single)
{
	u32 local = tty->modes.local;

	if (!(local & ECHO))
		return;
	if (local & ECHOPRT) {
		print_erased(tty, c, size);
	} else if (single && !(local & ECHOE)) {
		echo_byte(tty, character(tty, VERASE));
	} else if (c == '\t') {
		erase_tab(tty);
	} else {
		if (is_control(c) && local & ECHOCTL)
			rub_out(tty);
		if (!is_control(c) || local & ECHOCTL)
			rub_out(tty);
	}
}

/* Erase the whole line at once; false: the modes show how each character is erased. */
static bool kill_at_once(struct tty *tty)
{
	u32 local = tty->modes.local;

	if (local & ECHO && local & ECHOK && local & ECHOKE && local & ECHOE)
		return false;
	tty->line.head = tty->line.line_head;
	if (!(local & ECHO))
		return true;
	finish_erasing(tty);
	echo_byte(tty, character(tty, VKILL));
	if (local & ECHOK)
		echo_raw(tty, '\n');
	return true;
}

/* The start of the last character before the end of the line. */
static u32 last_character(const struct tty *tty)
{
	u32 at = tty->line.head;

	do
		at--;
	while (is_continuation(tty, byte_at(tty, at)) && at != tty->line.line_head);
	return at;
}

static void erase(struct tty *tty, u8 c)
{
	struct line_buffer *line = &tty->line;
	bool single = is(tty, c, VERASE), word = !single && is(tty, c, VWERASE), in_word = false;

	if (line->head == line->line_head || (!single && !word && kill_at_once(tty)))
		return;
	while (line->head != line->line_head) {
		u32 at = last_character(tty), size = line->head - at;

		c = byte_at(tty, at);
		if (is_continuation(tty, c))
			break;
		if (word && is_of_word(c))
			in_word = true;
		else if (word && in_word)
			break;
		line->head = at;
		echo_erased(tty, c, size, single);
		if (single)
			break;
	}
	if (line->head == line->line_head && tty->modes.local & ECHO)
		finish_erasing(tty);
}

/* -- lines -- */

static void end_line(struct tty *tty, u8 c)
{
	line_mark_end(&tty->line, tty->line.head);
	append(tty, c);
	tty->line.line_head = tty->line.head;
	wake_all(&tty->readable);
}

static void reprint(struct tty *tty, u8 c)
{
	finish_erasing(tty);
	echo_byte(tty, c);
	echo_raw(tty, '\n');
	for (u32 at = tty->line.line_head; at != tty->line.head; at++)
		echo_byte(tty, byte_at(tty, at));
}

static void begin_literal(struct tty *tty)
{
	tty->line.literal_next = true;
	if (!(tty->modes.local & ECHO))
		return;
	finish_erasing(tty);
	if (tty->modes.local & ECHOCTL) {
		echo_raw(tty, '^');
		echo_raw(tty, '\b');
	}
}

/* Edit the line by a special character; false: it is an ordinary one. */
static bool edit(struct tty *tty, u8 c)
{
	u32 local = tty->modes.local;
	bool extended = local & IEXTEN;

	if (is(tty, c, VERASE) || is(tty, c, VKILL) || (extended && is(tty, c, VWERASE))) {
		erase(tty, c);
	} else if (extended && is(tty, c, VLNEXT)) {
		begin_literal(tty);
	} else if (extended && local & ECHO && is(tty, c, VREPRINT)) {
		reprint(tty, c);
	} else if (c == '\n') {
		if (local & (ECHO | ECHONL))
			echo_raw(tty, '\n');
		end_line(tty, c);
	} else if (is(tty, c, VEOF)) {
		end_line(tty, 0);
	} else if (is(tty, c, VEOL) || (extended && is(tty, c, VEOL2))) {
		echo_typed(tty, c);
		if (c == 0377 && tty->modes.input & PARMRK)
			append(tty, c);
		end_line(tty, c);
	} else {
		return false;
	}
	return true;
}

/* -- signals and flow control -- */

static void send_signal(struct tty *tty, int signal, u8 c)
{
	tty_signal_group(tty, signal);
	if (!(tty->modes.local & NOFLSH)) {
		echo_forget(tty);
		tty_flush_output(tty);
		line_forget(tty);
		tty_report(tty, PACKET_FLUSH_READ, 0);
	}
	if (tty->modes.input & IXON)
		tty_restart(tty);
	if (tty->modes.local & ECHO)
		echo_byte(tty, c);
	echo_flush(tty);
}

/* Send the signal of a character, or stop or restart output; false: it is another one. */
static bool control(struct tty *tty, u8 c)
{
	int signal;

	if (tty->modes.input & IXON && is(tty, c, VSTART)) {
		tty_restart(tty);
		echo_flush(tty);
		return true;
	}
	if (tty->modes.input & IXON && is(tty, c, VSTOP)) {
		tty_stop(tty);
		return true;
	}
	if (!(tty->modes.local & ISIG))
		return false;
	signal = is(tty, c, VINTR) ? SIGINT : is(tty, c, VQUIT) ? SIGQUIT : is(tty, c, VSUSP) ? SIGTSTP : 0;
	if (signal)
		send_signal(tty, signal, c);
	return signal;
}

static void restart_by_any(struct tty *tty)
{
	if (!tty->stopped || (tty->modes.input & (IXON | IXANY)) != (IXON | IXANY))
		return;
	tty_restart(tty);
	echo_flush(tty);
}

/* -- bytes -- */

static void receive_plain(struct tty *tty, u8 c)
{
	restart_by_any(tty);
	echo_typed(tty, c);
	append_marked(tty, c);
}

static void receive_special(struct tty *tty, u8 c)
{
	u32 input = tty->modes.input;
	bool is_end = false; /* a return became a newline, which is not echoed as ^J */

	if (control(tty, c))
		return;
	restart_by_any(tty);
	if (c == '\r') {
		if (input & IGNCR)
			return;
		is_end = input & ICRNL;
		c = is_end ? '\n' : c;
	} else if (c == '\n' && input & INLCR) {
		c = '\r';
	}
	if (tty->line.canonical && edit(tty, c))
		return;
	if (tty->modes.local & ECHO && is_end) {
		finish_erasing(tty);
		echo_raw(tty, c);
	} else {
		echo_typed(tty, c);
	}
	append_marked(tty, c);
}

static u8 map(const struct tty *tty, u8 c)
{
	if (tty->modes.input & ISTRIP)
		c &= 0x7f;
	if (tty->modes.input & IUCLC && tty->modes.local & IEXTEN && c >= 'A' && c <= 'Z')
		c += 32;
	return c;
}

static void receive(struct tty *tty, u8 c)
{
	c = map(tty, c);
	if (tty->modes.local & EXTPROC) {
		append(tty, c);
	} else if (tty->line.literal_next) {
		tty->line.literal_next = false;
		receive_plain(tty, c);
	} else {
		receive_special(tty, c);
	}
}

/*
 * Whether the buffer takes a byte. When a line without an end fills it, each byte replaces the last one: the end of the
 * line, and characters that erase, must still arrive.
 */
static bool make_room(struct tty *tty)
{
	struct line_buffer *line = &tty->line;
	s32 room = BUFFER - (s32)(line->head - line->tail);

	if (tty->modes.input & PARMRK)
		room = (room + 2) / 3;
	if (room > 1)
		return true;
	if (!line->canonical || line->line_head != line->tail)
		return false;
	if (room < 1)
		line->head--;
	return true;
}

void tty_process(struct tty *tty)
{
	struct line_buffer *line = &tty->line;
	bool any = false;
	u8 c;

	while (tty->input.used && make_room(tty) && ring_take(&tty->input, &c, 1)) {
		receive(tty, c);
		any = true;
		if (tty->echo.head - tty->echo.tail > BUFFER / 2)
			echo_flush(tty);
	}
	if (!any)
		return;
	echo_flush(tty);
	if (tty->driver->taken)
		tty->driver->taken(tty);
	if (is_canonical(tty))
		return;
	line->ready = line->head;
	if (line->ready != line->tail)
		wake_all(&tty->readable);
}

u64 tty_receive(struct tty *tty, const void *data, u64 size)
{
	u64 done = 0;

	while (done < size) {
		u64 part = ring_put(&tty->input, (const u8 *)data + done, size - done);

		if (!part)
			break;
		done += part;
		tty_process(tty);
	}
	return done;
}
