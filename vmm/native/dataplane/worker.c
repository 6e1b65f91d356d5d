// SPDX-License-Identifier: Apache-2.0
/*
 * A worker: a data-plane thread that serves one queue without locks, or all queues of a device that has its own
 * `kicks`.
 *
 * While it has work, it suppresses kicks, which is free with EVENT_IDX. Before it sleeps, it requests a kick and checks
 * the ring once more. Before that it may spin on the ring for a while, see worker_idle(). With one CPU, it may yield to
 * the guest when it wakes up, see worker_yield().
 */
#include "dataplane/worker.h"

#include <errno.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

/*
 * The longest spin: as long as KVM itself spins for a halted vCPU (halt_poll_ns). After an interrupt, a guest usually
 * makes its next request within this time. Then neither side needs a VM exit or a context switch.
 */
enum { POLL_MAX_NS = 200 * 1000 };
/* A longer gap between two clock reads means that another thread used our CPU. */
enum { POLL_HOLE_NS = 50 * 1000 };
/* The number of idle periods without spinning after such a gap. */
enum { POLL_REST = 64 };
/* How often to check the ring for each clock read. */
enum { POLL_SPINS = 32 };
/*
 * With one CPU: the number of wake-ups without a yield after a yield that brought no second chain. It doubles each
 * time. A guest with one request at a time goes idle during a yield, which costs nearly as much as the request.
 */
enum { YIELD_REST_MIN = 16, YIELD_REST_MAX = 64 };
/* How often worker_hold() checks the worker while waiting for it. */
enum { HOLD_LOOK_NS = 20 * 1000 * 1000 };
/* A yield that delays each chain by more does not pay: the guest computes, or other threads use the CPU. */
enum { YIELD_MAX_NS = 100 * 1000 };

uint64_t clock_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

void worker_flush(struct worker *w)
{
	if (!ring_flush(w->ring))
		return;
	stat_add(&w->stats.irqs, 1);
	irq_raise(w->irq, IRQ_VRING);
}

/*
 * The kick is edge-triggered and never read, so that a wake-up takes one system call. Its counter only grows. It cannot
 * overflow during a machine's life, and an overflow would wake the worker, too.
 */
void worker_sleep(struct worker *w)
{
	struct epoll_event ready[2];
	int n = epoll_wait(w->epoll_fd, ready, 2, -1);

	for (int i = 0; i < n; i++)
		if (ready[i].data.u64 == WORKER_KICK)
			stat_add(&w->stats.kicks, 1);
}

/* Spin until there is work. False: it is time to sleep. */
static bool worker_poll(struct worker *w, uint64_t start)
{
	uint64_t last = start, now;

	do {
		for (int i = 0; i < POLL_SPINS; i++) {
			if (ring_pending(w->ring) || worker_called(w))
				return true;
			__builtin_ia32_pause();
		}
		if (w->ops->peek && w->ops->peek(w))
			return true;
		now = clock_ns();
		if (now - last > POLL_HOLE_NS) {
			w->poll_rest = POLL_REST;
			return false;
		}
		last = now;
	} while (now - start < w->poll_ns);
	return false;
}

/*
 * With one CPU, a wake-up preempts the guest while it is making further requests. Each request then costs two context
 * switches, an exit and an interrupt. So yield until the guest waits; this pays if a second chain arrives meanwhile.
 */
static void worker_yield(struct worker *w)
{
	if (w->cpus != 1)
		return;
	if (w->yield_rest) {
		w->yield_rest--;
		return;
	}
	w->yielded = true;
	w->yield_chains = 0;
	w->yield_ns = clock_ns();
	sched_yield();
	w->yield_ns = clock_ns() - w->yield_ns;
}

/* Decide from the chains found between a yield and the next sleep whether to yield again soon. */
static void worker_yielded(struct worker *w)
{
	w->yielded = false;
	if (w->yield_chains > 1 && w->yield_ns / w->yield_chains < YIELD_MAX_NS) {
		w->yield_pause = 0;
		return;
	}
	if (!w->yield_pause)
		w->yield_pause = YIELD_REST_MIN;
	else if (w->yield_pause < YIELD_REST_MAX)
		w->yield_pause *= 2;
	w->yield_rest = w->yield_pause;
}

static int worker_kicks(struct worker *w, int enable)
{
	if (enable && w->blocked)
		return 0;
	return w->ops->kicks ? w->ops->kicks(w, enable) : ring_kicks(w->ring, enable);
}

/*
 * Without work, wait for the guest, first by spinning, then asleep. Spinning pays if the next wait is as short as the
 * last one, so its duration follows that. An idle guest costs no CPU time, and a busy one needs no exits.
 */
static void worker_idle(struct worker *w)
{
	bool poll = w->poll_max_ns && !w->in_flight && !w->blocked, slept = false;
	uint64_t start = 0, waited;

	if (w->yielded)
		worker_yielded(w);
	if (poll) {
		start = clock_ns();
		if (w->poll_ns && worker_poll(w, start))
			return;
	}
	if (!worker_kicks(w, 1)) {
		if (w->ops->sleep)
			w->ops->sleep(w);
		else
			worker_sleep(w);
		stat_add(&w->stats.wakeups, 1);
		slept = true;
	}
	worker_kicks(w, 0);
	if (slept)
		worker_yield(w);
	if (!poll)
		return;
	if (w->poll_rest) {
		w->poll_rest--;
		w->poll_ns = 0;
		return;
	}
	waited = clock_ns() - start;
	w->poll_ns = waited < w->poll_max_ns ? w->poll_max_ns : w->poll_ns / 4;
}

/* Runs on the worker's thread, which touches no guest memory until worker_go_on(). */
static void worker_rest(struct worker *w)
{
	w->ops->rest(w);
	worker_flush(w);
	pthread_mutex_lock(&w->hold_lock);
	w->resting = true;
	pthread_cond_broadcast(&w->changed);
	while (w->hold && !worker_stopping(w))
		pthread_cond_wait(&w->changed, &w->hold_lock);
	w->resting = false;
	pthread_mutex_unlock(&w->hold_lock);
}

static void worker_tell(struct worker *w)
{
	pthread_mutex_lock(&w->hold_lock);
	pthread_cond_broadcast(&w->changed);
	pthread_mutex_unlock(&w->hold_lock);
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;
	struct epoll_event ready;
	cpu_set_t cpus;
	int n = 0;

	if (!w->cpus)
		w->cpus = sched_getaffinity(0, sizeof(cpus), &cpus) == 0 ? (uint32_t)CPU_COUNT(&cpus) : 1;
	if (w->cpus > 1)
		w->poll_max_ns = POLL_MAX_NS;

	if (w->ops->begin)
		n = w->ops->begin(w);
	while (n >= 0 && !worker_stopping(w)) {
		if (worker_called(w)) {
			worker_rest(w);
			continue;
		}
		n = w->ops->run(w);
		if (n < 0)
			break;
		w->yield_chains += (uint32_t)n;
		if (n == 0)
			worker_idle(w);
	}
	w->ops->drain(w);
	worker_flush(w);
	if (n >= 0)
		return NULL;

	/* Report the error once, then wait only for worker_stop(). */
	__atomic_store_n(&w->error, n, __ATOMIC_RELEASE);
	worker_tell(w);
	eventfd_write(w->event_fd, 1);
	epoll_ctl(w->epoll_fd, EPOLL_CTL_DEL, w->kick_fd, NULL);
	while (!worker_stopping(w))
		epoll_wait(w->epoll_fd, &ready, 1, -1);
	return NULL;
}

static bool worker_fits_spare(void *arg, uint32_t cpus)
{
	struct worker *w = arg;

	w->cpus = cpus;
	if (w->ops->plain && w->ops->plain(w))
		return true;
	w->cpus = 0;
	return false;
}

static void locks_destroy(struct worker *w)
{
	pthread_mutex_destroy(&w->join_lock);
	pthread_mutex_destroy(&w->hold_lock);
	pthread_cond_destroy(&w->changed);
}

int worker_start(struct worker *w, const struct worker_ops *ops, struct ring *ring, int kick_fd, struct irq *irq,
		 int event_fd, const char *name)
{
	struct epoll_event kick = { .events = EPOLLIN | EPOLLET, .data.u64 = WORKER_KICK };
	struct epoll_event stop = { .events = EPOLLIN, .data.u64 = WORKER_STOP };
	int err;

	w->ops = ops;
	w->ring = ring;
	w->irq = irq;
	w->kick_fd = kick_fd;
	w->event_fd = event_fd;
	w->forbidden = -1;
	pthread_mutex_init(&w->join_lock, NULL);
	pthread_mutex_init(&w->hold_lock, NULL);
	pthread_cond_init(&w->changed, NULL);
	w->epoll_fd = -1;
	w->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (w->stop_fd < 0)
		goto fail;
	w->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (w->epoll_fd < 0)
		goto fail;
	if (epoll_ctl(w->epoll_fd, EPOLL_CTL_ADD, kick_fd, &kick) < 0 ||
	    epoll_ctl(w->epoll_fd, EPOLL_CTL_ADD, w->stop_fd, &stop) < 0)
		goto fail;
	err = w->calls ? spare_take(&w->thread, name, w->calls, worker_fits_spare, worker_main, w) : -ENOENT;
	if (err)
		err = thread_start(&w->thread, name, worker_main, w);
	if (err) {
		errno = -err;
		goto fail;
	}
	return 0;
fail:
	err = -errno;
	if (w->epoll_fd >= 0)
		close(w->epoll_fd);
	if (w->stop_fd >= 0)
		close(w->stop_fd);
	locks_destroy(w);
	return err;
}

void worker_stop(struct worker *worker)
{
	/* Held while joining, so that a second caller also returns only after the thread has ended. */
	pthread_mutex_lock(&worker->join_lock);
	if (!worker->joined) {
		__atomic_store_n(&worker->stop, true, __ATOMIC_RELEASE);
		eventfd_write(worker->stop_fd, 1);
		worker_tell(worker);
		pthread_join(worker->thread, NULL);
		worker->joined = true;
	}
	pthread_mutex_unlock(&worker->join_lock);
}

void worker_free(struct worker *worker)
{
	if (!worker)
		return;
	worker_stop(worker);
	close(worker->epoll_fd);
	close(worker->stop_fd);
	locks_destroy(worker);
	worker->ops->destroy(worker);
}

void worker_hold(struct worker *worker)
{
	eventfd_t count;

	pthread_mutex_lock(&worker->hold_lock);
	__atomic_store_n(&worker->hold, true, __ATOMIC_RELEASE);
	eventfd_write(worker->stop_fd, 1);
	/*
	 * A thread that stopped on an error touches nothing any more. After a forbidden call, it cannot signal
	 * `changed`.
	 */
	while (!worker->resting && !worker_error(worker) && worker_forbidden(worker) < 0) {
		struct timespec until;

		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_nsec += HOLD_LOOK_NS;
		if (until.tv_nsec >= 1000000000) {
			until.tv_nsec -= 1000000000;
			until.tv_sec++;
		}
		pthread_cond_timedwait(&worker->changed, &worker->hold_lock, &until);
	}
	eventfd_read(worker->stop_fd, &count);
	pthread_mutex_unlock(&worker->hold_lock);
}

void worker_go_on(struct worker *worker)
{
	pthread_mutex_lock(&worker->hold_lock);
	__atomic_store_n(&worker->hold, false, __ATOMIC_RELEASE);
	pthread_cond_broadcast(&worker->changed);
	pthread_mutex_unlock(&worker->hold_lock);
}

int worker_error(struct worker *worker)
{
	return __atomic_load_n(&worker->error, __ATOMIC_ACQUIRE);
}

int worker_forbidden(struct worker *worker)
{
	return __atomic_load_n(&worker->forbidden, __ATOMIC_ACQUIRE);
}

int worker_walled(struct worker *worker)
{
	return __atomic_load_n(&worker->walled, __ATOMIC_ACQUIRE);
}

void worker_get_stats(struct worker *worker, struct worker_stats *out)
{
	const struct worker_stats *s = &worker->stats;

	out->kicks = __atomic_load_n(&s->kicks, __ATOMIC_RELAXED);
	out->chains = __atomic_load_n(&s->chains, __ATOMIC_RELAXED);
	out->irqs = __atomic_load_n(&s->irqs, __ATOMIC_RELAXED);
	out->wakeups = __atomic_load_n(&s->wakeups, __ATOMIC_RELAXED);
}
