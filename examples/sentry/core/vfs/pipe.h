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
u64 pipe_tee(struct pipe *from, struct pipe *to, u64 size); /* both are locked */
s64 pipe_resize(struct pipe *pipe, u64 size);
struct pipe *file_pipe(struct file *file); /* NULL: it is none */
int fifo_open(struct file *file);

#endif
