/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SENTRY_PIPE_H
#define SENTRY_PIPE_H

#include "vfs.h"

/* A part of a page of RAM. */
struct pipe_slot {
	u64 page; /* a reference */
	u32 start, size;
	bool packet;   /* of O_DIRECT: a read ends behind it */
	bool borrowed; /* somebody else has the page, too */
};

struct pipe {
	struct pipe_slot *slots;
	u32 first, used, size; /* a ring */
	u32 readers, writers, users; /* open files */
	u32 reader_count, writer_count; /* how many there have been */
	struct mutex mutex; /* of the slots; copying bytes can sleep */
	struct wait_queue readable, writable; /* woken when it becomes so, or an end is opened or closed */
};

struct pipe *pipe_new(void);
void pipe_free(struct pipe *pipe);
s64 pipe_read(struct pipe *pipe, struct file *file, struct io *to);
s64 pipe_write(struct pipe *pipe, struct file *file, struct io *from);
/*
 * splice() and tee(): how many bytes, 0 at the end, or -errno.  The flags of `io` are those of the pipes.  As on Linux, a
 * pipe stays locked while the other file is read or written, and keeps the bytes that this file does not accept.
 */
s64 pipe_to_file(struct file *pipe, struct file *to, u64 *position, u64 size, const struct io *io);
s64 pipe_from_file(struct file *pipe, struct file *from, u64 *position, u64 size, const struct io *io);
s64 pipe_share(struct file *from, struct file *to, u64 size, const struct io *io, bool move); /* pages of one with another */
s64 pipe_resize(struct pipe *pipe, u64 size);
struct pipe *file_pipe(struct file *file); /* NULL: it is none */
int fifo_open(struct file *file);
int pipe_make(u32 flags, struct file **ends); /* one to read from, and one to write to */

#endif
