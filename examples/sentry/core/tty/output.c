// SPDX-License-Identifier: Apache-2.0
/* Output of a terminal: what programs write, processed if OPOST is set, and the echo of input. */
#include "tty.h"

/* In the buffer of the echo: an operation or a control character follows. */
enum { ESCAPE = 0xff, BACK = 0x80, MARK_LINE = 0x81, ERASE_TAB = 0x82, AFTER_TAB = 0x80 };
/* At most so much echo waits for room; more is dropped from its start. */
enum { ECHO_KEPT = BUFFER - 512 };

/* Bytes on their way to the driver. */
struct output {
	struct tty *tty;
	u64 room; /* left after the collected bytes */
	u32 used;
	u8 data[256];
};

u64 tty_room(const struct tty *tty)
{
	return tty->stopped ? 0 : tty->driver->room(tty);
}

static void flush(struct output *out)
{
	if (out->used)
		out->tty->driver->write(out->tty, out->data, out->used);
	out->used = 0;
}

static void put(struct output *out, u8 c)
{
	if (out->used == sizeof(out->data))
		flush(out);
	out->data[out->used++] = c;
	out->room--;
}

static u8 to_upper(u8 c)
{
	return c >= 'a' && c <= 'z' ? (u8)(c - 32) : c;
}

/* A newline: as two characters with ONLCR. False: there is too little room, here and below. */
static bool put_newline(struct output *out)
{
	u32 flags = out->tty->modes.output;
	struct echo *echo = &out->tty->echo;

	if (flags & ONLCR && out->room < 2)
		return false;
	if (flags & (ONLRET | ONLCR))
		echo->column = 0;
	echo->line_column = echo->column;
	if (flags & ONLCR)
		put(out, '\r');
	put(out, '\n');
	return true;
}

static void put_return(struct output *out)
{
	u32 flags = out->tty->modes.output;
	struct echo *echo = &out->tty->echo;

	if (flags & ONOCR && !echo->column)
		return;
	if (!(flags & OCRNL) || flags & ONLRET)
		echo->column = echo->line_column = 0;
	put(out, flags & OCRNL ? '\n' : '\r');
}

static bool put_tab(struct output *out)
{
	struct echo *echo = &out->tty->echo;
	u32 spaces = 8 - (echo->column & 7);

	if ((out->tty->modes.output & XTABS) != XTABS) {
		put(out, '\t');
	} else if (out->room < spaces) {
		return false;
	} else {
		for (u32 i = 0; i < spaces; i++)
			put(out, ' ');
	}
	echo->column += spaces;
	return true;
}

/* One byte, as the modes of output select. */
static bool put_processed(struct output *out, u8 c)
{
	struct echo *echo = &out->tty->echo;

	if (!out->room)
		return false;
	switch (c) {
	case '\n': return put_newline(out);
	case '\r': put_return(out); return true;
	case '\t': return put_tab(out);
	case '\b': echo->column -= echo->column > 0; break;
	default:
		if (!is_control(c) && !is_continuation(out->tty, c))
			echo->column++;
		if (!is_control(c) && out->tty->modes.output & OLCUC)
			c = to_upper(c);
	}
	put(out, c);
	return true;
}

static bool put_byte(struct output *out, u8 c)
{
	if (out->tty->modes.output & OPOST)
		return put_processed(out, c);
	if (!out->room)
		return false;
	put(out, c);
	return true;
}

u64 tty_output(struct tty *tty, const u8 *data, u64 size)
{
	struct output out = { .tty = tty, .room = tty_room(tty) };
	u64 done = 0;

	if (!(tty->modes.output & OPOST)) {
		done = size < out.room ? size : out.room;
		if (done)
			tty->driver->write(tty, data, done);
		return done;
	}
	while (done < size && put_processed(&out, data[done]))
		done++;
	flush(&out);
	return done;
}

void tty_stop(struct tty *tty)
{
	if (tty->stopped)
		return;
	tty->stopped = true;
	tty_report(tty, PACKET_STOP, PACKET_START);
}

void tty_restart(struct tty *tty)
{
	if (!tty->stopped || tty->stopped_by_call)
		return;
	tty->stopped = false;
	tty_report(tty, PACKET_START, PACKET_STOP);
	wake_all(&tty->writable);
}

/* -- the echo -- */

static u8 echo_at(const struct echo *echo, u32 index)
{
	return echo->bytes[index & BUFFER_MASK];
}

/* All bytes or none: half an operation would end behind the head. */
static void add(struct tty *tty, const u8 *bytes, u32 size)
{
	struct echo *echo = &tty->echo;

	if (size > BUFFER - (echo->head - echo->tail))
		return;
	for (u32 i = 0; i < size; i++)
		echo->bytes[echo->head++ & BUFFER_MASK] = bytes[i];
}

static void add_plain(struct tty *tty, u8 c)
{
	add(tty, &c, 1);
}

static void add_escaped(struct tty *tty, u8 c)
{
	add(tty, (const u8[]){ ESCAPE, c }, 2);
}

void echo_raw(struct tty *tty, u8 c)
{
	if (c == ESCAPE)
		add_escaped(tty, c);
	else
		add_plain(tty, c);
}

void echo_byte(struct tty *tty, u8 c)
{
	if (c == ESCAPE || (tty->modes.local & ECHOCTL && is_control(c) && c != '\t'))
		add_escaped(tty, c);
	else
		add_plain(tty, c);
}

void echo_back(struct tty *tty)
{
	add_escaped(tty, BACK);
}

void echo_mark_line(struct tty *tty)
{
	add_escaped(tty, MARK_LINE);
}

void echo_tab_erased(struct tty *tty, u32 columns, bool after_tab)
{
	add(tty, (const u8[]){ ESCAPE, ERASE_TAB, (u8)((columns & 7) | (after_tab ? AFTER_TAB : 0)) }, 3);
}

/* Move back over a tab. It had filled the columns up to a multiple of eight, after the text before it. */
static bool erase_tab(struct output *out, u8 before)
{
	struct echo *echo = &out->tty->echo;
	u32 columns = before & AFTER_TAB ? before : before + echo->line_column, back = 8 - (columns & 7);

	if (back > out->room)
		return false;
	for (u32 i = 0; i < back; i++) {
		put(out, '\b');
		echo->column -= echo->column > 0;
	}
	return true;
}

/* Write the operation that an escape begins: its size; 0: there is too little room. */
static u32 echo_operation(struct output *out)
{
	struct echo *echo = &out->tty->echo;
	u8 operation = echo_at(echo, echo->tail + 1);

	switch (operation) {
	case ERASE_TAB: return erase_tab(out, echo_at(echo, echo->tail + 2)) ? 3 : 0;
	case MARK_LINE: echo->line_column = echo->column; return 2;
	case BACK: echo->column -= echo->column > 0; return 2;
	case ESCAPE:
		if (!out->room)
			return 0;
		put(out, ESCAPE);
		echo->column++;
		return 2;
	}
	if (out->room < 2)
		return 0;
	put(out, '^');
	put(out, operation ^ 0100);
	echo->column += 2;
	return 2;
}

/* The next byte or operation: its size; 0: there is too little room. */
static u32 echo_next(struct output *out)
{
	const struct echo *echo = &out->tty->echo;
	u8 c = echo_at(echo, echo->tail);

	return c == ESCAPE ? echo_operation(out) : put_byte(out, c);
}

static u32 next_size(const struct echo *echo)
{
	if (echo_at(echo, echo->tail) != ESCAPE)
		return 1;
	return echo_at(echo, echo->tail + 1) == ERASE_TAB ? 3 : 2;
}

void echo_flush(struct tty *tty)
{
	struct echo *echo = &tty->echo;
	struct output out = { .tty = tty, .room = echo->head != echo->tail ? tty_room(tty) : 0 };

	while (echo->tail != echo->head) {
		u32 size = echo_next(&out);

		if (!size)
			break;
		echo->tail += size;
	}
	flush(&out);
	while (echo->head - echo->tail > ECHO_KEPT)
		echo->tail += next_size(echo);
}

void echo_forget(struct tty *tty)
{
	tty->echo.tail = tty->echo.head;
}
