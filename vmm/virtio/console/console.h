/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-console: console.c has the worker, console_host.c the functions for the host's side. */
#ifndef VMM_NATIVE_CONSOLE_H
#define VMM_NATIVE_CONSOLE_H

#include "base/native.h"
#include "dataplane/worker.h"

/* ==== for Python ==== */

/* The most input that waits for the guest's buffers, and the most output that waits for out_fd; in bytes. */
enum { CONSOLE_INPUT = 16384, CONSOLE_KEEP = 65536 };

struct console_queues {
	struct ring *rx, *tx;      /* rx: or NULL */
	int rx_kick, tx_kick;
	struct irq *rx_irq, *tx_irq;
	int event_fd;              /* signalled when a ring has an error, or console_error() has one */
};

struct console_stats {
	uint64_t tx_bytes, rx_bytes, tx_dropped, tx_writes;
};

struct console;

/*
 * out_fd: gets the guest's output; -1: it is discarded. The caller keeps it open. drop: bytes that out_fd does not take at
 * once are dropped, instead of making the guest wait. space_fd: an eventfd that is signalled when console_input() can take
 * bytes again after it was full; or -1.
 */
struct console *console_new(int out_fd, int drop, int space_fd);
/* Free it, after the worker. To lose no output, call console_drain() before. */
void console_free(struct console *console);
/* Start the worker of both queues; one at a time. */
struct worker *console_start(struct console *console, const struct console_queues *queues, int *err);
/* Give bytes to the guest; returns how many were taken (0: full). From any thread. */
int64_t console_input(struct console *console, const uint8_t *data, uint64_t len);
/* Wait until all output is written, at most timeout_ms; returns how many bytes are left. From any thread. */
int64_t console_drain(struct console *console, int timeout_ms);
/* An errno of out_fd that was not returned yet, or 0. */
int console_error(struct console *console);
void console_get_stats(struct console *console, struct console_stats *out);

/* ==== end ==== */

struct console {
	struct worker worker; /* first; its ring has the guest's output */
	struct ring *rx;      /* buffers for input, or NULL */
	struct irq *rx_irq;
	int rx_kick;

	/* Only the worker uses these while it runs. */
	bool watching; /* the worker's epoll has out_fd */
	uint64_t deaf_until;     /* clock_ns() at which the guest begins to get input; 0: it gets it */
	int deaf_ms;             /* how long that was at the last console_kicks() */
	bool holding;            /* the chain `held` is held back: its rest can be neither written nor kept */
	struct chain held;
	struct iovec *at;
	uint32_t left;
	uint32_t kept_at, kept; /* output whose chains were pushed, and that out_fd has not taken */
	uint8_t keep[CONSOLE_KEEP];
	struct iovec iov[RING_MAX_SEGMENTS], rx_iov[RING_MAX_SEGMENTS];

	int out_fd, space_fd;
	bool drop;
	enum out_kind kind;

	pthread_mutex_t lock; /* protects the fields below */
	pthread_cond_t moved; /* `drained` has changed, or the worker has ended */
	bool running;
	uint64_t drain_wanted, drained; /* numbers of calls of console_drain(): the last one, the last that is done */
	uint64_t waiting; /* bytes of output that the worker knows of and out_fd has not taken */
	int out_errno, told_errno;
	uint32_t in_at, in_len;
	bool in_full; /* console_input() took less than it was given */
	uint8_t in[CONSOLE_INPUT];
	struct console_stats stats;
};

extern const struct worker_ops console_ops;
/* The part of console_start() before it starts the thread; a fuzzer needs none. */
void console_prepare(struct console *c, const struct console_queues *queues);

#endif
