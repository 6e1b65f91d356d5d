/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-console from inside: for its own file, tests and fuzzers. */
#ifndef VMM_NATIVE_CONSOLE_H
#define VMM_NATIVE_CONSOLE_H

#include "base/native.h"
#include "dataplane/worker.h"

/* ==== for Python ==== */

/* Bytes for the guest that wait for its buffers; bytes of the guest's that wait for out_fd. */
enum { CONSOLE_INPUT = 16384, CONSOLE_KEEP = 65536 };

struct console_queues {
	struct ring *rx, *tx;      /* rx: or NULL */
	int rx_kick, tx_kick;
	struct irq *rx_irq, *tx_irq;
	int event_fd;              /* signalled when a ring is broken, or console_error() has something to say */
};

struct console_stats {
	uint64_t tx_bytes, rx_bytes, tx_dropped, tx_writes;
};

struct console;

/*
 * out_fd: where the guest's bytes go, -1 for nowhere; stays the caller's. drop: what it does not take at once is dropped,
 * instead of holding the guest up. space_fd: eventfd signalled when console_input() can take bytes again after it was full,
 * or -1.
 */
struct console *console_new(int out_fd, int drop, int space_fd);
/* After the worker was freed. To lose nothing, console_drain() before. */
void console_free(struct console *console);
/* One worker thread for both queues; one at a time. */
struct worker *console_start(struct console *console, const struct console_queues *queues, int *err);
/* Bytes for the guest; returns how many were taken (0 when full). From any thread. */
int64_t console_input(struct console *console, const uint8_t *data, uint64_t len);
/* Wait until all that the guest has sent is written, at most so long; returns how many bytes still wait. From any thread. */
int64_t console_drain(struct console *console, int timeout_ms);
/* An errno of out_fd that was not told yet, or 0. */
int console_error(struct console *console);
void console_get_stats(struct console *console, struct console_stats *out);

/* ==== end ==== */

struct console {
	struct worker worker; /* first; its ring is what the guest sends */
	struct ring *rx;      /* buffers for what it receives, or NULL */
	struct irq *rx_irq;
	int rx_kick;

	/* The worker's alone while it runs. */
	bool watching; /* epoll has out_fd */
	uint64_t deaf_until;     /* clock_ns() before which the guest gets no input; 0: that is over */
	int deaf_ms;             /* how long that still is, when it was last asked for kicks */
	bool holding;            /* of the chain `held`, what is left does not fit anywhere */
	struct chain held;
	struct iovec *at;
	uint32_t left;
	uint32_t kept_at, kept; /* sent by the guest, taken off its ring, not yet by out_fd */
	uint8_t keep[CONSOLE_KEEP];
	struct iovec iov[RING_MAX_SEGMENTS], rx_iov[RING_MAX_SEGMENTS];

	int out_fd, space_fd;
	bool drop;
	enum out_kind kind;

	pthread_mutex_t lock; /* of all below */
	pthread_cond_t moved; /* `drained` changed, or the worker left */
	bool running;
	uint64_t drain_wanted, drained;
	uint64_t waiting; /* bytes of the guest's that the worker knows of and out_fd has not taken */
	int out_errno, told_errno;
	uint32_t in_at, in_len;
	bool in_full; /* console_input() took less than it was given */
	uint8_t in[CONSOLE_INPUT];
	struct console_stats stats;
};

extern const struct worker_ops console_ops;
/* All of console_start() but the thread. */
void console_prepare(struct console *c, const struct console_queues *queues);

#endif
