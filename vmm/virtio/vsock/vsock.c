// SPDX-License-Identifier: Apache-2.0
/*
 * virtio-vsock (virtio 1.2, 5.10) over unix sockets: the device, and its one worker.
 *
 * The worker takes packets off the guest's ring, gives the guest what there is for it, and sleeps in epoll, where the
 * kicks and all sockets are. Connections are the device's, not the worker's: they survive a pause, and end with a reset.
 */
#include "vsock/vsock.h"
#include "calls/calls.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>

enum { EVENTS = 64 };
/* Turns without sleep before the sockets are looked at all the same. */
enum { BUSY_TURNS = 4 };
/* When descriptors have run out, clients wait so long for another look. */
enum { LISTEN_AGAIN_MS = 100 };
/*
 * A guest says by itself when it has read, and much at a time. Asked at once it would tell of every few bytes, and be sent
 * no more than those: a packet, an interrupt and a kick for each. So it is asked only when it has said nothing for so long.
 */
enum { ASK_CREDIT_MS = 50 };
/* Nobody tells that a reader has read what takes the kernel's memory: then somebody else may send, or a socket be closed. */
enum { STARVED_MS = 25, LINGER_MS = 1000 };

struct vsock *vsock_new(const struct vsock_config *config, int *err)
{
	uint64_t random[2];
	struct vsock *v;

	*err = -EINVAL;
	if (config->cid < 3 || config->cid >= UINT32_MAX || !config->max_conns)
		return NULL;
	if (!memchr(config->name, 0, sizeof(config->name)))
		return NULL;
	*err = -ENOMEM;
	v = lazy_new(sizeof(*v));
	if (!v)
		return NULL;
	v->config = *config;
	v->broker_fd = -1;
	if (getrandom(random, sizeof(random), 0) != sizeof(random))
		random[0] = random[1] = clock_ns() ^ (uintptr_t)v;
	v->seed = random[0];
	/* A restored guest may still have sockets of connections that another process made: no new one has their ports. */
	v->next_port = VSOCK_FIRST_PORT - 1 + (uint32_t)(random[1] % VSOCK_PORTS);
	*err = 0;
	return v;
}

void vsock_use_broker(struct vsock *v, int sock)
{
	v->has_broker = true;
	v->broker_fd = sock;
	v->config.dir_fd = -1;
}

static void *reset_main(void *arg)
{
	struct vsock *v = arg;

	(void)seccomp_enter(v->worker.calls, NULL);
	vsock_conn_kill_all(v);
	return NULL;
}

/* The end of all connections, and of what the driver was told. */
static void vsock_forget(struct vsock *v)
{
	vsock_conn_kill_all(v);
	v->reply_first = v->nreplies = 0;
	v->reset_told = false;
}

void vsock_reset(struct vsock *v)
{
	pthread_t thread;

	/*
	 * A driver resets its device on the thread of a vCPU, whose list of system calls has not those that the end of a
	 * connection takes. A thread with the list of the worker makes them.
	 */
	if (v->nconns && thread_start(&thread, "vsock-reset", reset_main, v) == 0)
		pthread_join(thread, NULL);
	v->closes_only = true; /* if the host has no thread left */
	vsock_forget(v);
	v->closes_only = false;
}

void vsock_free(struct vsock *v)
{
	if (!v)
		return;
	vsock_reset(v);
	vsock_kernel_free(v);
	vsock_release(v, v->bucket, v->nbuckets * sizeof(struct vsock_conn *));
	vsock_memory_free(v);
	lazy_free(v, sizeof(*v));
}

/* Who waits for the kernel's memory sends again, when some may be free. */
static void vsock_retry(struct vsock *v)
{
	if (!v->starved && !v->nlinger)
		return;
	if (!vsock_kernel_sweep(v) || !v->starved)
		return;
	v->starved = false;
	vsock_kernel_each(v, vsock_host_flush_starved);
}

/* The descriptors that made themselves heard, after at most so many milliseconds. */
static void vsock_wait(struct vsock *v, int timeout)
{
	struct epoll_event ready[EVENTS];
	int n = epoll_wait(v->worker.epoll_fd, ready, EVENTS, timeout);

	if (n == 0 && timeout > 0)
		vsock_conn_listen(v, true);
	vsock_retry(v);
	for (int i = 0; i < n; i++) {
		switch (ready[i].data.u64) {
		case WORKER_KICK:
			stat_add(&v->worker.stats.kicks, 1);
			break;
		case WORKER_STOP:
			break;
		case VSOCK_SOURCE_LISTEN:
			vsock_host_accept(v, v->config.listen_fd, VSOCK_TYPE_STREAM);
			break;
		case VSOCK_SOURCE_SEQ_LISTEN:
			vsock_host_accept(v, v->config.seq_listen_fd, VSOCK_TYPE_SEQPACKET);
			break;
		default:
			vsock_host_event(v, ready[i].data.ptr, ready[i].events);
		}
	}
	if (v->stalled_ns && clock_ns() - v->stalled_ns >= ASK_CREDIT_MS * 1000000ull)
		vsock_rx_ask(v);
	vsock_conn_bury(v);
	v->turns = 0;
}

static int conn_resume(struct vsock *v, struct vsock_conn *c)
{
	if (c->fd >= 0 && vsock_conn_watch(v, c, EPOLL_CTL_ADD) < 0)
		return -ENOMEM;
	/* What happened meanwhile is found by looking. */
	c->readable = c->state == VSOCK_ESTABLISHED && c->fd >= 0;
	if (c->owe || c->readable)
		vsock_conn_ready(v, c);
	return 0;
}

/* In the worker's thread: its epoll hears of everything that the device has. */
static int vsock_begin(struct worker *w)
{
	struct vsock *v = (struct vsock *)w;
	struct epoll_event kick = { .events = EPOLLIN | EPOLLET, .data.u64 = WORKER_KICK };
	struct vsock_conn *c;
	int err = 0;

	seccomp_worker(w);
	v->running = true;
	if (epoll_ctl(v->worker.epoll_fd, EPOLL_CTL_ADD, v->rx_kick, &kick) < 0)
		return -errno;
	if (v->event && epoll_ctl(v->worker.epoll_fd, EPOLL_CTL_ADD, v->event_kick, &kick) < 0)
		return -errno;
	for (c = v->greeting.first; c && !err; c = c->next)
		err = conn_resume(v, c);
	for (c = v->orphans.first; c && !err; c = c->next)
		err = conn_resume(v, c);
	for (uint32_t i = 0; i < v->nbuckets; i++)
		for (c = v->bucket[i]; c && !err; c = c->hash_next)
			err = conn_resume(v, c);
	vsock_conn_listen(v, true);
	if (v->reset_event && !err)
		err = vsock_event_tell(v);
	return err;
}

static bool vsock_plain(const struct worker *w)
{
	(void)w;
	return true;
}

/* Packets to the guest wait until the driver has handled the event. Returns 1 when it has, 0, or the latched error. */
static int vsock_hold(struct vsock *v)
{
	int taken = vsock_event_taken(v, false);

	if (taken > 0)
		v->reset_told = false;
	return taken;
}

static int vsock_run(struct worker *w)
{
	struct vsock *v = (struct vsock *)w;
	int from, to;

	if (v->turns++ >= BUSY_TURNS)
		vsock_wait(v, 0);
	from = vsock_tx_run(v);
	if (from < 0)
		return from;
	to = v->reset_told ? vsock_hold(v) : vsock_rx_run(v);
	if (to < 0)
		return to;
	vsock_flush(v, v->worker.ring, v->worker.irq);
	vsock_conn_bury(v);
	/* Packets that may not be taken yet are nothing to spin for. */
	v->worker.in_flight = !vsock_tx_open(v);
	return from + to;
}

static void vsock_sleep(struct worker *w)
{
	struct vsock *v = (struct vsock *)w;
	int timeout = v->listening || (v->nconns >= v->config.max_conns && !v->greeting.n) ? -1 : LISTEN_AGAIN_MS;

	if (v->nlinger)
		timeout = timeout < 0 ? LINGER_MS : timeout;
	if (v->stalled_ns)
		timeout = ASK_CREDIT_MS;
	vsock_wait(v, v->starved ? STARVED_MS : timeout);
}

static bool vsock_peek(struct worker *w)
{
	struct vsock *v = (struct vsock *)w;

	vsock_wait(v, 0);
	if (v->reset_told)
		return vsock_event_taken(v, false);
	return v->ready.first || (v->rx_starved && ring_pending(v->rx));
}

static int vsock_kicks(struct worker *w, int enable)
{
	struct vsock *v = (struct vsock *)w;
	int pending = 0;

	/* Buffers are of interest only while something waits for them, packets only while their answers have room. */
	if (!enable || vsock_tx_open(v))
		pending |= ring_kicks(w->ring, enable);
	if (!enable || v->rx_starved)
		pending |= ring_kicks(v->rx, enable);
	if (v->reset_told)
		pending |= enable ? vsock_event_taken(v, true) != 0 : ring_kicks(v->event, 0);
	return pending;
}

static void vsock_rest(struct worker *w)
{
	struct vsock *v = (struct vsock *)w;

	vsock_stash_return(v);
	vsock_flush(v, w->ring, w->irq);
	vsock_rx_flush(v);
}

static void vsock_drain(struct worker *w)
{
	struct vsock *v = (struct vsock *)w;

	vsock_rest(w);
	vsock_conn_listen(v, false);
	epoll_ctl(w->epoll_fd, EPOLL_CTL_DEL, v->rx_kick, NULL);
	if (v->event)
		epoll_ctl(w->epoll_fd, EPOLL_CTL_DEL, v->event_kick, NULL);
	v->running = false;
	/* A broken ring: no packet of any connection will come or go any more. */
	if (!worker_stopping(w) || ring_error(w->ring) || ring_error(v->rx))
		vsock_forget(v);
}

static void vsock_destroy(struct worker *w)
{
	(void)w; /* a part of the device */
}

const struct worker_ops vsock_ops = {
	.begin = vsock_begin,
	.plain = vsock_plain,
	.run = vsock_run,
	.sleep = vsock_sleep,
	.kicks = vsock_kicks,
	.peek = vsock_peek,
	.drain = vsock_drain,
	.rest = vsock_rest,
	.destroy = vsock_destroy,
};

void vsock_prepare(struct vsock *v, const struct vsock_queues *queues)
{
	memset(&v->worker, 0, sizeof(v->worker));
	v->rx = queues->rx;
	v->event = queues->event;
	v->rx_irq = queues->rx_irq;
	v->event_irq = queues->event_irq;
	v->rx_kick = queues->rx_kick;
	v->event_kick = queues->event_kick;
	v->seqpacket = queues->seqpacket;
	v->reset_event = queues->reset_event;
	v->rx_starved = v->listening = v->running = false;
	v->turns = 0;
}

struct worker *vsock_start(struct vsock *v, const struct vsock_queues *queues, int *err)
{
	vsock_prepare(v, queues);
	if (v->event && ring_size(v->event) > VSOCK_EVENTS) {
		*err = -EINVAL;
		return NULL;
	}
	v->worker.calls = v->has_broker ? SECCOMP_VSOCK : SECCOMP_VSOCK | SECCOMP_REACH;
	*err = worker_start(&v->worker, &vsock_ops, queues->tx, queues->tx_kick, queues->tx_irq, queues->event_fd,
			    "pyvmm-vsock");
	return *err ? NULL : &v->worker;
}

void vsock_get_stats(struct vsock *v, struct vsock_stats *out)
{
	const uint64_t *from = (const uint64_t *)&v->stats;
	uint64_t *to = (uint64_t *)out;

	_Static_assert(sizeof(*out) % sizeof(*to) == 0, "counters, and nothing else");
	for (size_t i = 0; i < sizeof(*out) / sizeof(*to); i++)
		to[i] = __atomic_load_n(&from[i], __ATOMIC_RELAXED);
}
