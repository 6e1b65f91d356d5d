// SPDX-License-Identifier: Apache-2.0
/* The host's side of a virtio-console: making and freeing it, input, waiting for output, counters. */
#include "console/console.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>

enum { SLICE_MS = 10 };
/*
 * Linux offers buffers before it has made its console, and discards input that comes before that. It does not report when
 * it is ready; it takes a few milliseconds, some tens on a slow machine.
 */
enum { DEAF_NS = 250 * 1000 * 1000 };

struct console *console_new(int out_fd, int drop, int space_fd)
{
	struct console *c = calloc(1, sizeof(*c));
	pthread_condattr_t attr;

	if (!c)
		return NULL;
	c->out_fd = out_fd;
	c->space_fd = space_fd;
	c->drop = drop;
	c->kind = out_kind(out_fd);
	pthread_mutex_init(&c->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&c->moved, &attr);
	pthread_condattr_destroy(&attr);
	return c;
}

void console_free(struct console *c)
{
	if (!c)
		return;
	pthread_cond_destroy(&c->moved);
	pthread_mutex_destroy(&c->lock);
	free(c);
}

/* Of a queue that goes on after a pause, or in a copy of the machine: the driver's console is there. */
static bool has_sent(const struct ring *tx)
{
	struct ring_config at;

	return !ring_save(tx, &at) && at.next_used;
}

void console_prepare(struct console *c, const struct console_queues *queues)
{
	memset(&c->worker, 0, sizeof(c->worker));
	c->rx = queues->rx;
	c->rx_irq = queues->rx_irq;
	c->rx_kick = queues->rx_kick;
	c->watching = c->holding = false;
	c->deaf_until = has_sent(queues->tx) ? 0 : clock_ns() + DEAF_NS;
}

struct worker *console_start(struct console *c, const struct console_queues *queues, int *err)
{
	/* Under the lock: other threads use the worker when they see `running`. */
	pthread_mutex_lock(&c->lock);
	console_prepare(c, queues);
	c->running = true;
	c->worker.calls = SECCOMP_CONSOLE;
	*err = worker_start(&c->worker, &console_ops, queues->tx, queues->tx_kick, queues->tx_irq, queues->event_fd,
			    "pyvmm-console");
	if (*err)
		c->running = false;
	pthread_mutex_unlock(&c->lock);
	return *err ? NULL : &c->worker;
}

int64_t console_input(struct console *c, const uint8_t *data, uint64_t len)
{
	uint64_t tail, first;

	pthread_mutex_lock(&c->lock);
	if (len > CONSOLE_INPUT - c->in_len) {
		len = CONSOLE_INPUT - c->in_len;
		c->in_full = true;
	}
	tail = (c->in_at + c->in_len) % CONSOLE_INPUT;
	first = len < CONSOLE_INPUT - tail ? len : CONSOLE_INPUT - tail;
	memcpy(c->in + tail, data, first);
	memcpy(c->in, data + first, len - first);
	c->in_len += (uint32_t)len;
	if (c->running && len)
		(void)!eventfd_write(c->worker.kick_fd, 1);
	pthread_mutex_unlock(&c->lock);
	return (int64_t)len;
}

/* Write the kept bytes when there is no worker. */
static void keep_write(struct console *c)
{
	struct pollfd pfd = { .fd = c->out_fd, .events = POLLOUT };
	struct iovec iov = { .iov_base = c->keep + c->kept_at, .iov_len = c->kept };
	ssize_t n = out_write(c->kind, c->out_fd, &iov, 1);

	if (n < 0 && errno == EAGAIN) {
		poll(&pfd, 1, SLICE_MS);
		return;
	}
	if (n < 0 && errno != EINTR) {
		c->stats.tx_dropped += c->kept;
		n = c->kept;
	} else if (n > 0) {
		c->stats.tx_bytes += (uint64_t)n;
	}
	if (n > 0) {
		c->kept_at += (uint32_t)n;
		c->kept -= (uint32_t)n;
	}
	c->waiting = c->kept;
}

int64_t console_drain(struct console *c, int timeout_ms)
{
	uint64_t end = clock_ns() + (uint64_t)timeout_ms * 1000000u, wanted;
	struct timespec until = { .tv_sec = (time_t)(end / 1000000000u), .tv_nsec = (long)(end % 1000000000u) };
	int64_t left;

	pthread_mutex_lock(&c->lock);
	wanted = ++c->drain_wanted;
	if (c->running)
		(void)!eventfd_write(c->worker.kick_fd, 1);
	while (c->running && c->drained < wanted)
		if (pthread_cond_timedwait(&c->moved, &c->lock, &until) == ETIMEDOUT)
			break;
	while (!c->running && c->kept && clock_ns() < end)
		keep_write(c);
	left = (int64_t)c->waiting;
	pthread_mutex_unlock(&c->lock);
	return left;
}

int console_error(struct console *c)
{
	int err;

	pthread_mutex_lock(&c->lock);
	err = c->out_errno;
	c->out_errno = 0;
	pthread_mutex_unlock(&c->lock);
	return err;
}

void console_get_stats(struct console *c, struct console_stats *out)
{
	pthread_mutex_lock(&c->lock);
	out->tx_dropped = c->stats.tx_dropped;
	pthread_mutex_unlock(&c->lock);
	out->tx_bytes = __atomic_load_n(&c->stats.tx_bytes, __ATOMIC_RELAXED);
	out->tx_writes = __atomic_load_n(&c->stats.tx_writes, __ATOMIC_RELAXED);
	out->rx_bytes = __atomic_load_n(&c->stats.rx_bytes, __ATOMIC_RELAXED);
}
