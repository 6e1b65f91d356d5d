// SPDX-License-Identifier: Apache-2.0
/*
 * virtio-rng: requests are answered whole, with one byte at least. A request for which the source has nothing yet
 * stays in the ring, and the source is asked again after a moment: not every character device can be polled.
 */
#include "rng/rng.h"
#include "calls/calls.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <unistd.h>

enum { RNG_BATCH = 8, RNG_AGAIN_MS = 50 };

struct rng_queue {
	struct worker worker; /* first */
	struct rng *rng;
	struct limit_gate gate;
	bool starved; /* the source had nothing for the next request */
	struct iovec iov[RING_MAX_SEGMENTS];
};

/* Some bytes of the source, at least one: how many, or -errno. */
static ssize_t source_read(const struct rng *rng, void *to, size_t len)
{
	const ssize_t got = rng->fd < 0 ? getrandom(to, len, 0) : read(rng->fd, to, len);

	return got < 0 ? -errno : got ? got : -ENODATA;
}

/* Fill the chain as far as the source goes: how many bytes, or -errno where it gave none. */
static int chain_fill(const struct rng *rng, const struct chain *chain)
{
	const struct iovec *iov = chain->iov + chain->nread;
	uint32_t done = 0;

	for (uint32_t i = 0; i < chain->nwrite && done < RNG_MAX_REQUEST; i++) {
		for (size_t at = 0; at < iov[i].iov_len && done < RNG_MAX_REQUEST;) {
			const size_t room = iov[i].iov_len - at, most = RNG_MAX_REQUEST - done;
			const ssize_t got = source_read(rng, (uint8_t *)iov[i].iov_base + at, room < most ? room : most);

			if (got < 0)
				return done ? (int)done : (int)got;
			at += (size_t)got;
			done += (uint32_t)got;
		}
	}
	return (int)done;
}

/* -- the worker ------------------------------------------------------------------------------------------------------ */

static int rng_begin(struct worker *w)
{
	struct rng_queue *q = (struct rng_queue *)w;
	int err = limit_gate_watch(&q->gate, w->epoll_fd, WORKER_OWN);

	seccomp_worker(w);
	return err;
}

static bool rng_plain(const struct worker *w)
{
	const struct rng_queue *q = (const struct rng_queue *)w;

	return !q->gate.limit;
}

static int rng_run(struct worker *w)
{
	struct rng_queue *q = (struct rng_queue *)w;
	struct chain chain = { .max = RING_MAX_SEGMENTS, .iov = q->iov };
	struct rng *rng = q->rng;
	int n = 0, got = 0;

	w->blocked = q->starved = q->gate.closed = false;
	while (n < RNG_BATCH) {
		if (ring_pending(w->ring) && !limit_gate_open(&q->gate)) {
			w->blocked = true;
			break;
		}
		got = ring_pop(w->ring, &chain);
		if (got <= 0)
			break;
		got = chain_fill(rng, &chain);
		if (got < 0) {
			ring_unpop(w->ring, chain.head);
			break;
		}
		limit_gate_charge(&q->gate, (uint32_t)got);
		ring_push(w->ring, chain.head, (uint32_t)got);
		stat_add(&w->stats.chains, 1);
		stat_add(&rng->requests, 1);
		stat_add(&rng->bytes, (uint32_t)got);
		n++;
	}
	if (got == -EAGAIN) {
		stat_add(&rng->empty, 1);
		w->blocked = q->starved = true;
		got = 0;
	}
	worker_flush(w);
	return got < 0 ? got : n;
}

static void rng_sleep(struct worker *w)
{
	const struct rng_queue *q = (const struct rng_queue *)w;
	struct epoll_event ready[3];
	const int n = epoll_wait(w->epoll_fd, ready, 3, q->starved ? RNG_AGAIN_MS : -1);

	for (int i = 0; i < n; i++)
		if (ready[i].data.u64 == WORKER_KICK)
			stat_add(&w->stats.kicks, 1);
}

/* Nothing is in flight between two calls of run(). */
static void rng_rest(struct worker *w)
{
	(void)w;
}

static void rng_destroy(struct worker *w)
{
	limit_gate_deinit(&((struct rng_queue *)w)->gate);
	free(w);
}

static const struct worker_ops rng_ops = {
	.begin = rng_begin,
	.plain = rng_plain,
	.run = rng_run,
	.sleep = rng_sleep,
	.drain = rng_rest,
	.rest = rng_rest,
	.destroy = rng_destroy,
};

struct worker *rng_start(struct rng *rng, struct ring *ring, int kick_fd, struct irq *irq, int event_fd, int *err)
{
	struct rng_queue *q = calloc(1, sizeof(*q));

	*err = -ENOMEM;
	if (!q)
		return NULL;
	q->rng = rng;
	/* Do not spin: drivers ask rarely. */
	q->worker.in_flight = 1;
	limit_gate_init(&q->gate, rng->limit);
	q->worker.calls = SECCOMP_RNG;
	*err = worker_start(&q->worker, &rng_ops, ring, kick_fd, irq, event_fd, "pyvmm-rng");
	if (*err) {
		free(q);
		return NULL;
	}
	return &q->worker;
}
