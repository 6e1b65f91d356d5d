// SPDX-License-Identifier: Apache-2.0
/*
 * Large files go through memory that the host and this program share: descriptor 3, a file with SLOTS parts, which are
 * used in turn.  Whoever fills one sends its length, a field; the other one empties it and answers with a byte.  A length
 * of 0 is the end: without it, the sender has failed, and the file is not whole.
 */
#include "box.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/vfs.h>
#include <unistd.h>

enum { WINDOW = 3, SLOTS = 4, FUSE_MAGIC = 0x65735546, PAGE = 4096 };

static char buffer[1 << 21] __attribute__((aligned(PAGE)));

/* Whether a file is on the host, whose kernel caches it: then this one need not. */
static bool is_on_host(int fd)
{
	struct statfs status;

	return !fstatfs(fd, &status) && status.f_type == FUSE_MAGIC;
}

/* Read or write `*size` bytes of the buffer; 0 or an errno. A read may end early, and changes `*size`. */
static int move(int fd, bool reads, off_t at, size_t *size)
{
	size_t done = 0;

	while (done < *size) {
		ssize_t some = reads ? pread(fd, buffer + done, *size - done, at + (off_t)done) :
				       pwrite(fd, buffer + done, *size - done, at + (off_t)done);

		if (some < 0 && errno == EINTR)
			continue;
		if (some < 0)
			return errno;
		if (!some)
			break;
		done += (size_t)some;
	}
	if (done < *size && !reads)
		return EIO;
	*size = done;
	return 0;
}

/* The next field of standard input, a number; -1: there is none. */
static long read_number(void)
{
	char text[16];

	for (size_t i = 0; i < sizeof(text); i++) {
		if (read_exactly(&text[i], 1))
			return -1;
		if (!text[i])
			return strtol(text, NULL, 10);
	}
	return -1;
}

static int is_valid(size_t slot)
{
	return slot && slot <= sizeof(buffer) && slot % PAGE == 0;
}

int window_receive(int to, size_t slot, off_t whole)
{
	off_t at = 0;
	long length;

	if (!is_valid(slot))
		return EINVAL;
	if (is_on_host(to)) {
		(void)fcntl(to, F_SETFL, O_DIRECT);
		/* Writes that do not extend the file are sent to the host at once. */
		if (ftruncate(to, whole))
			return errno;
	}
	for (int turn = 0; (length = read_number()) > 0; turn = (turn + 1) % SLOTS) {
		size_t size = (size_t)length, wanted = size;
		int error = size > slot ? EINVAL : move(WINDOW, true, turn * (off_t)slot, &size);

		if (!error && size < wanted)
			error = EPROTO;
		if (!error && write(1, "", 1) != 1)
			error = EPIPE;
		if (!error)
			error = move(to, false, at, &size);
		if (error)
			return error;
		at += length;
	}
	return length || at != whole ? EPIPE : 0;
}

/* Wait until the host has emptied a part. */
static int await_taken(void)
{
	char taken;

	return read_exactly(&taken, 1);
}

int window_send(int from, size_t slot)
{
	int sent = 0, full = 0, error = 0;
	size_t size = slot;
	off_t at = 0;

	if (!is_valid(slot))
		return EINVAL;
	if (is_on_host(from))
		(void)fcntl(from, F_SETFL, O_DIRECT);
	while (size == slot) {
		error = move(from, true, at, &size);
		if (!error && full == SLOTS) {
			error = await_taken();
			full--;
		}
		if (!error && size)
			error = move(WINDOW, false, sent % SLOTS * (off_t)slot, &size);
		if (error)
			return error;
		if (!size)
			break;
		dprintf(1, "%zu%c", size, 0);
		at += (off_t)size;
		sent++;
		full++;
	}
	dprintf(1, "0%c", 0);
	/* The memory is not shared any more when this program has ended. */
	while (full-- && !error)
		error = await_taken();
	return error;
}
