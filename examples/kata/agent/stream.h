/* SPDX-License-Identifier: Apache-2.0 */
/* The three streams of a process: pipes, or one terminal. */
#ifndef AGENT_STREAM_H
#define AGENT_STREAM_H

#include "ttrpc.h"

struct stream {
	struct watch watch; /* fd -1: there is none */
	bool watched;
	struct call *call; /* the reader or writer that is parked here */
	size_t done; /* bytes of its data that a writer has written */
};

struct stdio {
	bool terminal;
	struct stream in, out, err;
	int listener; /* a socket by which crun hands over the terminal, -1: none */
	char *console; /* its path, NULL: none */
};

void stdio_init(struct stdio *io);
/*
 * Make the streams, and in `child` the descriptors that the process gets (-1: none). With a terminal, listen for it on
 * a unix socket at io->console instead. 0 or -errno.
 */
int stdio_open(struct stdio *io, bool terminal, int child[3]);
/* Close what the process got: it has it. */
void stdio_close_child(const int child[3]);
/* Take the terminal that crun has sent, if one was asked for, and give it a size (0: leave it); 0 or -errno. */
int stdio_take_terminal(struct stdio *io, unsigned int rows, unsigned int columns);
/* Close all; a parked call is answered. */
void stdio_deinit(struct stdio *io);

/* Answer the call with what can be read, at most `size` bytes, or OUT_OF_RANGE at the end; park it until then. */
void stream_read(struct stream *stream, struct call *call, size_t size);
/* Write call->data, park the call until all is written, and answer it. */
void stream_write(struct stream *stream, struct call *call);
void stream_close(struct stream *stream);
/* 0 or -errno (-ENOTTY: there is no terminal). */
int stdio_resize(struct stdio *io, unsigned int rows, unsigned int columns);

#endif
