// SPDX-License-Identifier: Apache-2.0
/* Reads from a terminal: a line at a time, or as VMIN and VTIME select. */
#include "tty.h"

enum { TENTH = 100000000, VMIN_MOST = 64 /* Linux copies at most so many bytes at once */ };

static bool is_end(const struct line_buffer *line, u32 index)
{
	u32 at = index & BUFFER_MASK;

	return line->ends[at / 64] >> at % 64 & 1;
}

void line_mark_end(struct line_buffer *line, u32 index)
{
	u32 at = index & BUFFER_MASK;

	line->ends[at / 64] |= 1ull << at % 64;
}

static void clear_end(struct line_buffer *line, u32 index)
{
	u32 at = index & BUFFER_MASK;

	line->ends[at / 64] &= ~(1ull << at % 64);
}

static bool is_end_of_file(const struct line_buffer *line, u32 index)
{
	return is_end(line, index) && !line->bytes[index & BUFFER_MASK];
}

bool tty_has_input(const struct tty *tty, bool poll)
{
	const struct line_buffer *line = &tty->line;
	u32 minimum = tty->modes.characters[VMIN];

	if (is_canonical(tty))
		return line->line_head != line->tail;
	if (!poll || tty->modes.characters[VTIME] || !minimum)
		minimum = 1;
	return line->ready - line->tail >= minimum;
}

u32 tty_input_size(const struct tty *tty)
{
	const struct line_buffer *line = &tty->line;
	u32 size = 0;

	if (!(tty->modes.local & ICANON) || tty->modes.local & EXTPROC)
		return line->head - line->tail;
	for (u32 at = line->tail; at != line->line_head; at++)
		size += !is_end_of_file(line, at);
	return size;
}

/* Bytes of one line, at most as many as there is room for. */
static u64 take_line(struct line_buffer *line, u8 *to, u64 size)
{
	u64 done = 0;
	bool ended = false;

	while (done < size && line->tail != line->line_head && !ended) {
		u32 at = line->tail++;

		ended = is_end(line, at);
		if (!is_end_of_file(line, at))
			to[done++] = line->bytes[at & BUFFER_MASK];
		clear_end(line, at);
	}
	/* An end of file after bytes that fill the buffer belongs to this read: the next one does not return 0. */
	if (!ended && line->tail != line->line_head && is_end_of_file(line, line->tail))
		clear_end(line, line->tail++);
	return done;
}

static u64 take_raw(struct tty *tty, u8 *to, u64 size)
{
	struct line_buffer *line = &tty->line;
	u64 done = 0;
	bool alone = line->ready - line->tail == 1;

	while (done < size && line->tail != line->ready)
		to[done++] = line->bytes[line->tail++ & BUFFER_MASK];
	/* With EXTPROC, the other side edits the line and sends its end of file alone. */
	if (alone && done && tty->modes.local & EXTPROC && tty->line.canonical && to[0] == tty->modes.characters[VEOF])
		done = 0;
	return done;
}

static s64 wait_for_input(struct tty *tty, struct tty_file *file, bool wait, u64 deadline)
{
	if (tty->other_closed)
		return -EIO;
	if (file->hung || !deadline)
		return -ETIMEDOUT;
	if (!wait)
		return -EAGAIN;
	return sleep_on(&tty->readable, deadline);
}

static u64 in_tenths(const struct tty *tty)
{
	return monotonic_now() + (u64)tty->modes.characters[VTIME] * TENTH;
}

/* How many bytes make a read return, and until when it waits for the first. */
static u64 minimum_of(const struct tty *tty, u64 size, u64 *deadline)
{
	u64 minimum = tty->modes.characters[VMIN];

	*deadline = FOREVER;
	if (tty->line.canonical)
		return 0; /* a line can be empty */
	if (!minimum)
		*deadline = tty->modes.characters[VTIME] ? in_tenths(tty) : 0;
	if (minimum > VMIN_MOST)
		minimum = VMIN_MOST;
	return !minimum ? 1 : minimum < size ? minimum : size;
}

static s64 read(struct tty *tty, struct tty_file *file, u8 *to, u64 size, bool wait)
{
	u64 deadline, minimum = minimum_of(tty, size, &deadline), done = 0;
	bool raw = !tty->line.canonical, timed = raw && tty->modes.characters[VMIN] && tty->modes.characters[VTIME];
	s64 error = 0;

	if (raw && tty->modes.characters[VMIN] > VMIN_MOST && size > VMIN_MOST)
		size = VMIN_MOST;
	while (!error) {
		if (!tty_has_input(tty, false)) {
			error = wait_for_input(tty, file, wait, deadline);
			continue;
		}
		if (is_canonical(tty))
			done += take_line(&tty->line, to + done, size - done);
		else
			done += take_raw(tty, to + done, size - done);
		tty_process(tty);
		if (done >= minimum)
			break;
		if (timed)
			deadline = in_tenths(tty);
	}
	return done || error == -ETIMEDOUT ? (s64)done : error;
}

s64 tty_read(struct tty *tty, struct tty_file *file, u8 *to, u64 size, bool wait)
{
	s64 result = file->console ? 0 : tty_check(tty, SIGTTIN);

	if (!result)
		result = turn_take(&tty->reading, wait);
	if (result)
		return result;
	if (tty->driver->fetch)
		tty->driver->fetch(tty);
	result = read(tty, file, to, size, wait);
	turn_end(&tty->reading);
	return result;
}

/* -- discarding input -- */

void line_forget(struct tty *tty)
{
	struct line_buffer *line = &tty->line;

	line->tail = line->ready = line->line_head = line->head;
	bytes_zero(line->ends, sizeof(line->ends));
	line->erasing = line->literal_next = false;
}

void tty_flush_input(struct tty *tty)
{
	tty->input.used = 0;
	line_forget(tty);
	tty_report(tty, PACKET_FLUSH_READ, 0);
	if (tty->driver->taken)
		tty->driver->taken(tty);
}

void line_modes_changed(struct tty *tty, const struct modes *old)
{
	struct line_buffer *line = &tty->line;

	if (!old || (old->local ^ tty->modes.local) & (ICANON | EXTPROC)) {
		bytes_zero(line->ends, sizeof(line->ends));
		line->line_head = line->tail;
		if (tty->modes.local & ICANON && line->head != line->tail) {
			line_mark_end(line, line->head - 1); /* all input becomes a line, without a newline */
			line->line_head = line->head;
		}
		line->ready = line->head;
		line->erasing = line->literal_next = false;
	}
	line->canonical = tty->modes.local & ICANON;
	if (old && old->input & IXON && !(tty->modes.input & IXON)) {
		tty_restart(tty);
		echo_flush(tty);
	}
	tty_process(tty);
	wake_all(&tty->writable);
	wake_all(&tty->readable);
}
