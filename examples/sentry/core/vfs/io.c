// SPDX-License-Identifier: Apache-2.0
/* Bytes on their way between a file and the memory of the program, or of the core. */
#include "caller.h"

enum direction { PUT, GET, ZERO };

/* The part of a range that lies in one page of the program, at an address of the core's; NULL: a fault. */
static u8 *part_of(struct io *io, u64 address, u64 *size, bool write)
{
	u64 rest = PAGE - address % PAGE;

	if (!io->mm)
		return (u8 *)address;
	if (*size > rest)
		*size = rest;
	return user_range(address, *size) ? mm_page(io->mm, address, write) : NULL;
}

/* The vector that comes next, and the rest of it. */
static u64 rest_of_vector(struct io *io)
{
	while (io->vectors->size == IO_LINK || io->vectors->size == io->offset) {
		io->vectors = io->vectors->size == IO_LINK ? (const struct iovec *)io->vectors->base : io->vectors + 1;
		io->offset = 0;
	}
	return io->vectors->size - io->offset;
}

static inline __attribute__((always_inline)) u64 move(struct io *io, u8 *mine, u64 size, enum direction direction)
{
	u64 done = 0;

	if (size > io->left)
		size = io->left;
	while (done < size) {
		u64 part = rest_of_vector(io), address = io->vectors->base + io->offset;
		u8 *theirs;

		if (part > size - done)
			part = size - done;
		theirs = part_of(io, address, &part, direction != GET);
		if (!theirs)
			break;
		if (direction == PUT)
			bytes_copy(theirs, mine + done, part);
		else if (direction == GET)
			bytes_copy(mine + done, theirs, part);
		else
			bytes_zero(theirs, part);
		done += part;
		io->offset += part;
	}
	io->left -= done;
	return done;
}

u64 io_put(struct io *io, const void *from, u64 size)
{
	return move(io, (u8 *)from, size, PUT);
}

u64 io_get(struct io *io, void *to, u64 size)
{
	return move(io, to, size, GET);
}

u64 io_zero(struct io *io, u64 size)
{
	return move(io, NULL, size, ZERO);
}

struct io io_core(struct iovec *vector, void *memory, u64 size)
{
	*vector = (struct iovec){ (u64)memory, size };
	return (struct io){ .vectors = vector, .left = size };
}

/* How many bytes, and at most so many, can be written where an io goes next. */
u64 io_writable(const struct io *io, u64 most)
{
	struct io at = *io;
	u64 room = 0;

	if (at.left > most)
		at.left = most;
	while (at.left) {
		u64 want = rest_of_vector(&at), part, address = at.vectors->base + at.offset;

		if (want > at.left)
			want = at.left;
		part = !io->mm ? want : user_range(address, want) ? user_writable(io->mm, address, want) : 0;
		room += part;
		if (part < want)
			break;
		at.offset += part;
		at.left -= part;
	}
	return room;
}
