// SPDX-License-Identifier: Apache-2.0
/*
 * virtio-net (virtio 1.2, 5.1): a pair of queues and the worker that moves frames between them and a descriptor.
 *
 * The worker sends the guest's frames, receives frames for it, and sleeps in epoll, which has the kicks, the descriptor and
 * the timers of limits. It polls the descriptor for input only while it could receive: not while the guest offers no buffers
 * or has reached its limit.
 */
#include "net/net.h"
#include "calls/calls.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

enum { EVENTS = 8 };
/* The number of turns without sleep after which epoll is asked anyway. */
enum { BUSY_TURNS = 4 };

struct net *net_new(int fd, uint32_t kind, int *err)
{
	struct net *n;

	*err = -EINVAL;
	if (fd < 0 || kind > NET_STREAM)
		return NULL;
	*err = -ENOMEM;
	n = lazy_new(sizeof(*n));
	if (!n)
		return NULL;
	n->fd = fd;
	n->kind = kind;
	limit_gate_init(&n->rx_gate, NULL);
	limit_gate_init(&n->tx_gate, NULL);
	*err = 0;
	return n;
}

void net_free(struct net *n)
{
	lazy_free(n, sizeof(*n));
}

static void net_flush(struct net *n)
{
	net_rx_flush(n);
	if (!ring_flush(n->worker.ring))
		return;
	stat_add(&n->worker.stats.irqs, 1);
	irq_raise(n->q.tx_irq, IRQ_VRING);
}

static int net_watch(struct net *n, int how, uint32_t events)
{
	struct epoll_event event = { .events = events | EPOLLET, .data.u64 = NET_SOURCE_FD };

	n->watched = events;
	return epoll_ctl(n->worker.epoll_fd, how, n->fd, &event) < 0 ? -errno : 0;
}

static int net_add(struct net *n, int fd, uint64_t source)
{
	struct epoll_event event = { .events = EPOLLIN | EPOLLET, .data.u64 = source };

	return epoll_ctl(n->worker.epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

/* Add all descriptors to the worker's epoll, before the filter. */
static int net_begin(struct worker *w)
{
	struct net *n = (struct net *)w;
	int err = net_add(n, n->q.rx_kick, WORKER_KICK);

	if (!err)
		err = limit_gate_watch(&n->rx_gate, n->worker.epoll_fd, NET_SOURCE_RX_TIMER);
	if (!err)
		err = limit_gate_watch(&n->tx_gate, n->worker.epoll_fd, NET_SOURCE_TX_TIMER);
	if (!err)
		err = net_watch(n, EPOLL_CTL_ADD, EPOLLIN);
	if (!err && n->q.side_address)
		err = net_add(n, n->q.side_fd, NET_SOURCE_SIDE);
	seccomp_worker(w);
	return err;
}

static bool net_plain(const struct worker *w)
{
	const struct net *n = (const struct net *)w;

	return !n->rx_gate.limit && !n->tx_gate.limit;
}

static void net_wait(struct net *n, int timeout)
{
	struct epoll_event ready[EVENTS];
	int count = epoll_wait(n->worker.epoll_fd, ready, EVENTS, timeout);

	n->turns = 0;
	for (int i = 0; i < count; i++) {
		switch (ready[i].data.u64) {
		case WORKER_KICK:
			stat_add(&n->worker.stats.kicks, 1);
			break;
		case NET_SOURCE_FD:
			n->readable |= (ready[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0;
			if (ready[i].events & (EPOLLOUT | EPOLLHUP | EPOLLERR))
				n->tx_full = n->kind == NET_STREAM && !n->gone && !net_stream_flush(n);
			break;
		case NET_SOURCE_SIDE:
			n->side_readable = true;
			break;
		case NET_SOURCE_RX_TIMER:
			n->rx_gate.closed = false;
			break;
		case NET_SOURCE_TX_TIMER:
			n->tx_gate.closed = false;
			break;
		}
	}
}

static int net_run(struct worker *w)
{
	struct net *n = (struct net *)w;
	int from, to;

	if (n->turns++ >= BUSY_TURNS)
		net_wait(n, 0);
	from = net_tx_run(n);
	if (unlikely(from < 0))
		return from;
	to = net_rx_run(n);
	if (unlikely(to < 0))
		return to;
	net_flush(n);
	return from + to;
}

static void net_sleep(struct worker *w)
{
	struct net *n = (struct net *)w;
	uint32_t events = (n->starved || n->rx_gate.closed ? 0 : EPOLLIN) | (n->tx_full ? EPOLLOUT : 0);

	if (n->gone)
		events = 0;
	/* EPOLL_CTL_MOD also reports what is readable already. */
	if (events != n->watched)
		net_watch(n, EPOLL_CTL_MOD, events);
	net_wait(n, -1);
}

static int net_kicks(struct worker *w, int enable)
{
	struct net *n = (struct net *)w;
	int pending = 0;

	/* Ask for kicks for frames only if they can be sent, and for buffers only if a frame waits for them. */
	if (!enable || !(n->tx_full || n->tx_gate.closed))
		pending |= ring_kicks(w->ring, enable);
	if (!enable || (n->starved && !n->rx_gate.closed))
		pending |= ring_kicks(n->q.rx, enable);
	return pending;
}

static void net_rest(struct worker *w)
{
	struct net *n = (struct net *)w;

	net_rx_unstash(n);
	net_flush(n);
}

static void net_drain(struct worker *w)
{
	struct net *n = (struct net *)w;

	net_rest(w);
	epoll_ctl(w->epoll_fd, EPOLL_CTL_DEL, n->q.rx_kick, NULL);
	epoll_ctl(w->epoll_fd, EPOLL_CTL_DEL, n->fd, NULL);
	if (n->q.side_address)
		epoll_ctl(w->epoll_fd, EPOLL_CTL_DEL, n->q.side_fd, NULL);
}

/* The memory is a part of the pair. */
static void net_destroy(struct worker *w)
{
	struct net *n = (struct net *)w;

	limit_gate_deinit(&n->rx_gate);
	limit_gate_deinit(&n->tx_gate);
}

const struct worker_ops net_ops = {
	.begin = net_begin,
	.plain = net_plain,
	.run = net_run,
	.sleep = net_sleep,
	.kicks = net_kicks,
	.drain = net_drain,
	.rest = net_rest,
	.destroy = net_destroy,
};

void net_prepare(struct net *n, const struct net_queues *queues)
{
	memset(&n->worker, 0, sizeof(n->worker));
	n->q = *queues;
	n->starved = false;
	n->readable = !n->gone;
	n->side_readable = queues->side_address != 0;
	n->tx_full = n->out_len != 0;
	n->nstash = n->stash_first = n->iov_first = n->iov_end = 0;
	n->stash_room = n->held = 0;
	limit_gate_init(&n->rx_gate, queues->rx_limit);
	limit_gate_init(&n->tx_gate, queues->tx_limit);
	/* Do not spin on the ring: work comes from the descriptor as often. */
	n->worker.in_flight = 1;
}

struct worker *net_start(struct net *n, const struct net_queues *queues, int *err)
{
	net_prepare(n, queues);
	n->worker.calls = SECCOMP_NET;
	*err = worker_start(&n->worker, &net_ops, queues->tx, queues->tx_kick, queues->tx_irq, queues->event_fd,
			    "pyvmm-net");
	return *err ? NULL : &n->worker;
}

void net_get_stats(struct net *n, struct net_stats *out)
{
	const uint64_t *from = (const uint64_t *)&n->stats;
	uint64_t *to = (uint64_t *)out;

	_Static_assert(sizeof(*out) % sizeof(*to) == 0, "counters, and nothing else");
	for (size_t i = 0; i < sizeof(*out) / sizeof(*to); i++)
		to[i] = __atomic_load_n(&from[i], __ATOMIC_RELAXED);
}
