// SPDX-License-Identifier: Apache-2.0
/*
 * Token buckets. A bucket is one number, `paid`: the time at which all requests so far are within the rate. Each
 * request advances it by its cost in time; the burst limits how far it may be ahead of now. So nothing needs refilling,
 * and an idle limit costs nothing. A request larger than the burst proceeds immediately, and later ones wait longer.
 */

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "dataplane/worker.h"

enum { NS = 1000000000 };
/* The shortest wait: more frequent wake-ups cost more than a smoother flow is worth. */
enum { WAIT_MIN_NS = 100 * 1000 };

/* Ten days. Costs are capped at this, so that sums cannot overflow. */
#define LONGEST_NS (864000ull * NS)

struct bucket {
	uint64_t rate;     /* per second; 0: no limit */
	uint64_t burst_ns; /* how far paid may be ahead of now */
	uint64_t paid;     /* ns */
	uint64_t rest;     /* the fraction of a nanosecond missing in paid, in units of 1/rate */
};

struct limit {
	pthread_mutex_t lock;
	struct bucket bytes, ops;
	uint64_t waits;
};

static struct bucket bucket_of(uint64_t rate, uint64_t burst)
{
	struct bucket b = { .rate = rate };
	unsigned __int128 ns;

	if (!rate)
		return b;
	ns = (unsigned __int128)burst * NS / rate;
	b.burst_ns = ns < LONGEST_NS ? (uint64_t)ns : LONGEST_NS;
	return b;
}

static uint64_t bucket_wait(const struct bucket *b, uint64_t now)
{
	return b->rate && b->paid > now + b->burst_ns ? b->paid - now - b->burst_ns : 0;
}

static void bucket_charge(struct bucket *b, uint64_t now, uint64_t n)
{
	unsigned __int128 cost;

	if (!b->rate)
		return;
	if (b->paid < now) {
		b->paid = now;
		b->rest = 0;
	}
	cost = (unsigned __int128)n * NS + b->rest;
	b->paid += cost / b->rate < LONGEST_NS ? (uint64_t)(cost / b->rate) : LONGEST_NS;
	b->rest = (uint64_t)(cost % b->rate);
}

struct limit *limit_new(const struct limit_config *config)
{
	struct limit *limit = calloc(1, sizeof(*limit));

	if (!limit)
		return NULL;
	pthread_mutex_init(&limit->lock, NULL);
	limit->bytes = bucket_of(config->bytes, config->bytes_burst);
	limit->ops = bucket_of(config->ops, config->ops_burst);
	return limit;
}

void limit_free(struct limit *limit)
{
	if (!limit)
		return;
	pthread_mutex_destroy(&limit->lock);
	free(limit);
}

uint64_t limit_wait(struct limit *limit, uint64_t now)
{
	uint64_t bytes, ops;

	pthread_mutex_lock(&limit->lock);
	bytes = bucket_wait(&limit->bytes, now);
	ops = bucket_wait(&limit->ops, now);
	pthread_mutex_unlock(&limit->lock);
	return bytes > ops ? bytes : ops;
}

void limit_charge(struct limit *limit, uint64_t now, uint64_t bytes)
{
	pthread_mutex_lock(&limit->lock);
	bucket_charge(&limit->bytes, now, bytes);
	bucket_charge(&limit->ops, now, 1);
	pthread_mutex_unlock(&limit->lock);
}

uint64_t limit_waits(const struct limit *limit)
{
	return __atomic_load_n(&limit->waits, __ATOMIC_RELAXED);
}

void limit_gate_init(struct limit_gate *gate, struct limit *limit)
{
	*gate = (struct limit_gate){ .limit = limit, .timer_fd = -1 };
}

void limit_gate_deinit(struct limit_gate *gate)
{
	if (gate->timer_fd >= 0)
		close(gate->timer_fd);
	gate->timer_fd = -1;
}

int limit_gate_watch(struct limit_gate *gate, int epoll_fd, uint64_t source)
{
	struct epoll_event event = { .events = EPOLLIN | EPOLLET, .data.u64 = source };

	if (!gate->limit)
		return 0;
	gate->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (gate->timer_fd < 0)
		return -errno;
	return epoll_ctl(epoll_fd, EPOLL_CTL_ADD, gate->timer_fd, &event) < 0 ? -errno : 0;
}

bool limit_gate_open(struct limit_gate *gate)
{
	struct itimerspec at = { 0 };
	uint64_t wait;

	if (likely(!gate->limit))
		return true;
	if (gate->closed)
		return false;
	wait = limit_wait(gate->limit, clock_ns());
	if (!wait)
		return true;
	if (wait < WAIT_MIN_NS)
		wait = WAIT_MIN_NS;
	at.it_value.tv_sec = (time_t)(wait / NS);
	at.it_value.tv_nsec = (long)(wait % NS);
	timerfd_settime(gate->timer_fd, 0, &at, NULL);
	__atomic_fetch_add(&gate->limit->waits, 1, __ATOMIC_RELAXED);
	gate->closed = true;
	return false;
}

void limit_gate_charge(struct limit_gate *gate, uint64_t bytes)
{
	if (gate->limit)
		limit_charge(gate->limit, clock_ns(), bytes);
}
