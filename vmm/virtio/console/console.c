// SPDX-License-Identifier: Apache-2.0
/*
 * virtio-console (virtio 1.2, 5.3) with one port: the worker.
 *
 * The guest's output is written from its own buffers. While out_fd takes nothing, up to CONSOLE_KEEP bytes are copied and
 * kept, so that a short pause of the reader does not stop the guest. Then the chain is held back, and Linux spins until it
 * is pushed, as it does for a full UART.
 */
#include "console/console.h"
#include "calls/calls.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

enum { BATCH = 64, WATCH_AGAIN_MS = 20, WRITE_MOST = 1 << 20 };

/* Count bytes that were lost, and report the error of out_fd, once for each errno. */
static void out_failed(struct console *c, int err, uint64_t lost)
{
	bool tell;

	pthread_mutex_lock(&c->lock);
	stat_add(&c->stats.tx_dropped, lost);
	tell = !c->drop && err && err != c->told_errno;
	if (tell)
		c->told_errno = c->out_errno = err;
	pthread_mutex_unlock(&c->lock);
	if (tell)
		(void)!eventfd_write(c->worker.event_fd, 1);
}

/* One write, of at most WRITE_MOST bytes: buffers may overlap, so a chain can be much longer than RAM. */
static ssize_t out_some(struct console *c, const struct iovec *iov, uint32_t n)
{
	struct iovec one = { .iov_base = iov->iov_base, .iov_len = WRITE_MOST };
	uint64_t bytes = iov->iov_len;
	uint32_t take = 1;

	if (c->kind == OUT_NONE)
		return (ssize_t)iov->iov_len;
	if (bytes > WRITE_MOST)
		return out_write(c->kind, c->out_fd, &one, 1);
	while (take < n && bytes + iov[take].iov_len <= WRITE_MOST)
		bytes += iov[take++].iov_len;
	return out_write(c->kind, c->out_fd, iov, (int)take);
}

/* Write as much as out_fd takes. 0: all; -EAGAIN: it takes no more now; another -errno: it failed. */
static int out_flush(struct console *c, struct iovec **iov, uint32_t *n)
{
	for (bool once = false; *n; once = true) {
		ssize_t done;

		if (once && worker_stopping(&c->worker))
			return -EAGAIN;
		done = out_some(c, *iov, *n);
		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			return done < 0 ? -errno : -EAGAIN;
		stat_add(&c->stats.tx_writes, 1);
		stat_add(&c->stats.tx_bytes, (uint64_t)done);
		iov_skip(iov, n, (size_t)done);
	}
	return 0;
}

static uint64_t iov_bytes(const struct iovec *iov, uint32_t n)
{
	uint64_t bytes = 0;

	for (uint32_t i = 0; i < n; i++)
		bytes += iov[i].iov_len;
	return bytes;
}

/* Write the kept bytes. True: none are left. */
static bool kept_flush(struct console *c)
{
	struct iovec iov = { .iov_base = c->keep + c->kept_at, .iov_len = c->kept }, *at = &iov;
	uint32_t n = c->kept ? 1 : 0;
	int err = out_flush(c, &at, &n);
	uint32_t rest = n ? (uint32_t)iov.iov_len : 0;

	if (err && (c->drop || err != -EAGAIN)) {
		out_failed(c, -err, rest);
		rest = 0;
	}
	c->kept_at = rest ? c->kept_at + c->kept - rest : 0;
	c->kept = rest;
	return !rest;
}

/* Keep a copy of the rest of the chain, if all of it fits. */
static bool keep_rest(struct console *c)
{
	uint64_t bytes = iov_bytes(c->at, c->left);

	if (bytes > CONSOLE_KEEP - c->kept)
		return false;
	memmove(c->keep, c->keep + c->kept_at, c->kept);
	c->kept_at = 0;
	c->kept += (uint32_t)iov_gather(c->at, c->left, c->keep + c->kept, bytes);
	c->left = 0;
	return true;
}

/* True: the chain can be pushed. */
static bool chain_send(struct console *c)
{
	int err = 0;

	if (kept_flush(c))
		err = out_flush(c, &c->at, &c->left);
	else
		err = -EAGAIN;
	if (!c->left)
		return true;
	if (c->drop || err != -EAGAIN) {
		out_failed(c, -err, iov_bytes(c->at, c->left));
		return true;
	}
	return keep_rest(c);
}

static bool chain_next(struct console *c, int *err)
{
	if (c->holding)
		return true;
	c->held = (struct chain){ .max = RING_MAX_SEGMENTS, .iov = c->iov };
	*err = ring_pop(c->worker.ring, &c->held);
	if (*err <= 0)
		return false;
	stat_add(&c->worker.stats.chains, 1);
	c->at = c->held.iov;
	c->left = c->held.nread;
	return true;
}

/* Serve the guest's output. Returns the number of chains pushed, or the error of the ring. */
static int console_send(struct console *c)
{
	int n = 0, err = 0;

	if (c->kept)
		kept_flush(c);
	while (n < BATCH && chain_next(c, &err)) {
		c->holding = !chain_send(c);
		if (c->holding)
			break;
		ring_push(c->worker.ring, c->held.head, 0);
		n++;
	}
	return err < 0 ? err : n;
}

/* Copy input into one chain. Called with the lock. */
static uint32_t input_take(struct console *c, const struct chain *chain)
{
	const struct iovec *iov = chain->iov + chain->nread;
	uint32_t done = 0;

	/* The buffer is a ring, so the input is in at most two pieces. */
	for (int i = 0; i < 2 && c->in_len && done < chain->write_len; i++) {
		uint32_t some = CONSOLE_INPUT - c->in_at < c->in_len ? CONSOLE_INPUT - c->in_at : c->in_len;
		struct iovec rest[RING_MAX_SEGMENTS], *at = rest;
		uint32_t n = chain->nwrite;

		memcpy(rest, iov, n * sizeof(*iov));
		iov_skip(&at, &n, done);
		some = (uint32_t)iov_scatter(at, n, c->in + c->in_at, some);
		c->in_at = (c->in_at + some) % CONSOLE_INPUT;
		c->in_len -= some;
		done += some;
	}
	stat_add(&c->stats.rx_bytes, done);
	if (c->in_full && c->in_len <= CONSOLE_INPUT / 2) {
		c->in_full = false;
		if (c->space_fd >= 0)
			(void)!eventfd_write(c->space_fd, 1);
	}
	return done;
}

/* The number of milliseconds until the guest gets input (DEAF_NS). */
static int deaf_ms(struct console *c)
{
	uint64_t now = c->deaf_until ? clock_ns() : 0;

	if (now < c->deaf_until)
		return (int)((c->deaf_until - now) / 1000000u) + 1;
	c->deaf_until = 0;
	return 0;
}

static int console_receive(struct console *c)
{
	int n = 0, err = 0;

	if (!c->rx || deaf_ms(c))
		return 0;
	pthread_mutex_lock(&c->lock);
	while (n < BATCH && c->in_len) {
		struct chain chain = { .max = RING_MAX_SEGMENTS, .iov = c->rx_iov };

		err = ring_pop(c->rx, &chain);
		if (err <= 0)
			break;
		ring_push(c->rx, chain.head, input_take(c, &chain));
		n++;
	}
	pthread_mutex_unlock(&c->lock);
	return err < 0 ? err : n;
}

static void console_flush(struct console *c, struct ring *ring, struct irq *irq)
{
	if (!ring_flush(ring))
		return;
	stat_add(&c->worker.stats.irqs, 1);
	irq_raise(irq, IRQ_VRING);
}

/* Report the progress of this turn to console_drain(). wanted: the request of it that was made when the turn began. */
static void console_tell(struct console *c, uint64_t wanted, bool all)
{
	pthread_mutex_lock(&c->lock);
	c->waiting = c->kept + (c->holding ? iov_bytes(c->at, c->left) : 0);
	if (all && !c->waiting && c->drained < wanted) {
		c->drained = wanted;
		pthread_cond_broadcast(&c->moved);
	}
	pthread_mutex_unlock(&c->lock);
}

static int console_begin(struct worker *w)
{
	struct console *c = (struct console *)w;
	struct epoll_event kick = { .events = EPOLLIN | EPOLLET, .data.u64 = WORKER_KICK };

	seccomp_worker(w);
	return c->rx && epoll_ctl(w->epoll_fd, EPOLL_CTL_ADD, c->rx_kick, &kick) < 0 ? -errno : 0;
}

static bool console_plain(const struct worker *w)
{
	(void)w;
	return true;
}

static int console_run(struct worker *w)
{
	struct console *c = (struct console *)w;
	int sent, received = 0;
	uint64_t wanted;

	pthread_mutex_lock(&c->lock);
	wanted = c->drain_wanted;
	pthread_mutex_unlock(&c->lock);
	sent = console_send(c);
	if (sent >= 0)
		received = console_receive(c);
	/*
	 * Linux polls the ring until its output is done. It would count a later interrupt as spurious. So publish now, and
	 * decide about the interrupt when there is no more work.
	 */
	ring_publish(w->ring);
	if (c->rx)
		console_flush(c, c->rx, c->rx_irq);
	console_tell(c, wanted, sent == 0);
	/* sleep() returns when out_fd takes more. */
	w->in_flight = c->kept || c->holding;
	return sent < 0 ? sent : received < 0 ? received : sent + received;
}

static void console_sleep(struct worker *w)
{
	struct console *c = (struct console *)w;
	struct epoll_event writable = { .events = EPOLLOUT, .data.u64 = WORKER_OWN }, ready[4];
	int n, timeout = c->deaf_ms;

	if (w->in_flight)
		c->watching = epoll_ctl(w->epoll_fd, EPOLL_CTL_ADD, c->out_fd, &writable) == 0;
	if (w->in_flight && !c->watching)
		timeout = WATCH_AGAIN_MS;
	n = epoll_wait(w->epoll_fd, ready, 4, timeout ? timeout : -1);
	for (int i = 0; i < n; i++)
		if (ready[i].data.u64 == WORKER_KICK)
			stat_add(&w->stats.kicks, 1);
	if (c->watching)
		epoll_ctl(w->epoll_fd, EPOLL_CTL_DEL, c->out_fd, NULL);
	c->watching = false;
}

static int console_kicks(struct worker *w, int enable)
{
	struct console *c = (struct console *)w;
	bool want_rx;
	int pending = 0;

	if (enable)
		console_flush(c, w->ring, w->irq);
	pthread_mutex_lock(&c->lock);
	c->deaf_ms = deaf_ms(c);
	want_rx = c->in_len > 0 && !c->deaf_ms;
	pthread_mutex_unlock(&c->lock);
	/* Ask for kicks for output only if it can be written, and for buffers only if there is input. */
	if (!enable || !c->holding)
		pending |= ring_kicks(w->ring, enable);
	if (c->rx && (!enable || want_rx))
		pending |= ring_kicks(c->rx, enable);
	return pending;
}

/* Serve the output that the guest has already sent, as far as it can be written or kept. */
static void console_drain_rings(struct worker *w)
{
	struct console *c = (struct console *)w;

	for (uint32_t i = 0; i <= ring_size(w->ring) / BATCH && !c->holding; i++)
		if (console_send(c) <= 0)
			break;
	if (c->holding) {
		out_failed(c, 0, iov_bytes(c->at, c->left));
		ring_push(w->ring, c->held.head, 0);
		c->holding = false;
	}
	console_flush(c, w->ring, w->irq);
	if (c->rx)
		console_flush(c, c->rx, c->rx_irq);
	pthread_mutex_lock(&c->lock);
	c->running = false;
	c->waiting = c->kept;
	pthread_cond_broadcast(&c->moved);
	pthread_mutex_unlock(&c->lock);
}

static void console_destroy(struct worker *w)
{
	(void)w; /* a part of the device */
}

const struct worker_ops console_ops = {
	.begin = console_begin,
	.plain = console_plain,
	.run = console_run,
	.sleep = console_sleep,
	.kicks = console_kicks,
	.drain = console_drain_rings,
	.destroy = console_destroy,
};
