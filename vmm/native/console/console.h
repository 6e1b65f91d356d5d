/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-console from inside: for its own file, tests and fuzzers. */
#ifndef VMM_NATIVE_CONSOLE_H
#define VMM_NATIVE_CONSOLE_H

#include "base/native.h"
#include "dataplane/worker.h"

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
