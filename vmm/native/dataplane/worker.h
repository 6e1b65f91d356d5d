/* SPDX-License-Identifier: Apache-2.0 */
/* Workers: the threads of the data plane, for devices in C. */
#ifndef VMM_NATIVE_WORKER_H
#define VMM_NATIVE_WORKER_H

#include "ring/ring.h" /* first, since it defines _GNU_SOURCE */

#include <pthread.h>
#include <sys/mman.h>

/*
 * Zeroed memory for a device with large, mostly unused buffers; pages are allocated on first touch. calloc() may reuse
 * such a buffer from its heap, and then clears all of it.
 */
static inline void *lazy_new(size_t size)
{
	void *made = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return made == MAP_FAILED ? NULL : made;
}

static inline void lazy_free(void *made, size_t size)
{
	if (made)
		munmap(made, size);
}

/* A device's functions. The worker's thread calls all of them except destroy(). */
struct worker_ops {
	/*
	 * Called first. Makes what the thread's filter later forbids, and restricts its system calls
	 * (seccomp_worker()). 0, or -errno: the worker cannot run. May be NULL.
	 */
	int (*begin)(struct worker *w);
	/*
	 * Whether begin() makes only calls on the thread's own list, so that a spare thread, whose filter is already in
	 * force, can run the worker. w->cpus is set. NULL: it does not.
	 */
	bool (*plain)(const struct worker *w);
	/*
	 * Pop chains and complete finished ones, up to a bounded number. Returns that number (if it is not 0, run() is
	 * called again immediately), or the latched error of the ring.
	 */
	int (*run)(struct worker *w);
	/* Sleep until there may be work. NULL: worker_sleep(). */
	void (*sleep)(struct worker *w);
	/*
	 * For a device with several rings in one worker: request kicks from all of them before sleeping (1), or
	 * suppress them (0), like ring_kicks(). NULL: ring_kicks() on the worker's ring.
	 */
	int (*kicks)(struct worker *w, int enable);
	/*
	 * While the worker spins: whether work arrived other than through the worker's ring. Must not sleep. NULL: all
	 * work comes through the ring.
	 */
	bool (*peek)(struct worker *w);
	/* Finish all I/O in flight. run() is not called afterwards. */
	void (*drain)(struct worker *w);
	/* The same for worker_hold(), after which run() is called again. NULL: the worker cannot be held. */
	void (*rest)(struct worker *w);
	/* Called by worker_free() after the thread has ended. Frees the device's part and w itself. */
	void (*destroy)(struct worker *w);
};

/* The epoll data of the worker's own descriptors. A device may add others, for example with pointers as data. */
enum { WORKER_KICK = 1, WORKER_STOP = 2, WORKER_OWN = 3 };

/* The first member of a device's per-queue structure. */
struct worker {
	const struct worker_ops *ops;
	struct ring *ring;
	struct irq *irq;
	int kick_fd, event_fd;
	uint32_t calls;       /* SECCOMP_*: the kind of its thread, set before worker_start(); 0: no filter */
	int stop_fd, epoll_fd;
	uint32_t in_flight;   /* requests in progress on the host: sleep() returns when one completes, so do not spin */
	bool blocked;         /* chains in the ring wait for the host or a limit: no kicks, no spinning */
	bool stop;            /* atomic */
	bool hold;            /* requested by worker_hold(); atomic, written under hold_lock */
	bool resting;         /* the thread waits for the end of a hold; under hold_lock */
	int error;            /* atomic */
	int forbidden;        /* the system call that ended the thread, or -1; atomic */
	bool walled;          /* its filter allows only the system calls of its kind; atomic */

	uint32_t cpus;        /* the number of CPUs that the thread may run on */
	uint64_t poll_max_ns; /* the longest spin; 0: never spin, with one CPU */
	uint64_t poll_ns;     /* how long to spin before the next sleep */
	uint32_t poll_rest;   /* remaining idle periods without spinning, after another thread needed the CPU */
	uint32_t yield_pause; /* the number of wake-ups without a yield after one that did not pay */
	uint32_t yield_rest;  /* how many of these remain */
	uint32_t yield_chains; /* chains since the last yield */
	uint64_t yield_ns;    /* how long the last yield took */
	bool yielded;         /* the thread has yielded since it was last idle */

	struct worker_stats stats; /* written by the thread alone */

	pthread_t thread;
	pthread_mutex_t join_lock;
	bool joined;
	pthread_mutex_t hold_lock;
	pthread_cond_t changed; /* signals `hold`, `resting`, or stop and error during a hold */
};

/* ---- thread.c: starts threads ---- */

/*
 * Start a thread with a small stack and all signals blocked. The starter makes it if the calling thread needs that and
 * a starter exists (thread_starter_begin()); otherwise the calling thread does. 0 or -errno.
 */
int thread_start(pthread_t *thread, const char *name, void *(*body)(void *), void *arg);

/*
 * Make a spare: a thread started before there is work for it, since starting takes most of the time. It installs its
 * filter (enter(), unless NULL) and waits for spare_take(). 0 or -errno.
 */
int spare_make(struct spare **out, const char *name, uint32_t calls, int (*enter)(uint32_t calls));
/*
 * Run body on a spare that has this name and these calls, and for which fits(arg, cpus) is true. cpus is the number of
 * CPUs that it may run on. 0; or -ENOENT: no such spare.
 */
int spare_take(pthread_t *thread, const char *name, uint32_t calls, bool (*fits)(void *arg, uint32_t cpus),
	       void *(*body)(void *), void *arg);

/* From now on the starter, if there is one, makes the threads that the calling thread starts. */
void thread_needs_starter(void);

/*
 * Make the starter, a thread that makes threads for those that cannot. It first calls enter(), which restricts it. 0 or
 * -errno. A process has one: further calls only count, and it ends after as many calls of thread_starter_end(). A
 * forked child has none.
 */
int thread_starter_begin(int (*enter)(void));
void thread_starter_end(void);

/* ---- worker.c ---- */

/*
 * Initialize *w, which is zero apart from the device's part, and start the thread. 0; or -errno, and nothing is left to
 * free.
 */
int worker_start(struct worker *w, const struct worker_ops *ops, struct ring *ring, int kick_fd, struct irq *irq,
		 int event_fd, const char *name);
/* Wait for a kick or for worker_stop(). */
void worker_sleep(struct worker *w);
/* Publish all pushes, and interrupt the guest if it wants an interrupt. */
void worker_flush(struct worker *w);

static inline bool worker_stopping(const struct worker *w)
{
	return __atomic_load_n(&w->stop, __ATOMIC_ACQUIRE);
}

/* Whether worker_stop() or worker_hold() needs the thread. */
static inline bool worker_called(const struct worker *w)
{
	return worker_stopping(w) || __atomic_load_n(&w->hold, __ATOMIC_ACQUIRE);
}

/* Add to a counter with one writer and readers in other threads. */
static inline void stat_add(uint64_t *counter, uint64_t n)
{
	__atomic_store_n(counter, *counter + n, __ATOMIC_RELAXED);
}

/* The same for a number that can also decrease. */
static inline void stat_set(uint64_t *gauge, uint64_t n)
{
	__atomic_store_n(gauge, n, __ATOMIC_RELAXED);
}

uint64_t clock_ns(void);

/* ---- limit.c: limits of bytes and operations per second ---- */

/* ==== for Python ==== */

/* Two token buckets. A rate of 0 sets no limit. burst: how much may pass immediately after an idle time. */
struct limit_config {
	uint64_t bytes, bytes_burst; /* bytes per second; bytes */
	uint64_t ops, ops_burst;     /* requests, or frames, per second; their number */
};

struct limit;

/* A limit shared by all queues of a device. Any thread may use it. NULL: out of memory. */
struct limit *limit_new(const struct limit_config *config);
/* Free it, after the workers that use it. */
void limit_free(struct limit *limit);
/* The ns that the next request must wait; 0: it may proceed. now: ns of any monotonic clock. */
uint64_t limit_wait(struct limit *limit, uint64_t now);
/* Charge a request of so many bytes. It may exceed the limit; later requests then wait longer. */
void limit_charge(struct limit *limit, uint64_t now, uint64_t bytes);
/* How often a queue had to wait. */
uint64_t limit_waits(const struct limit *limit);

/* ==== end ==== */

/* One direction of one queue at a limit, which other queues may share. */
struct limit_gate {
	struct limit *limit; /* NULL: no limit */
	int timer_fd;        /* edge-triggered, never read; -1: not made yet */
	bool closed;         /* the timer is armed; the worker clears this at its wake-up */
};

void limit_gate_init(struct limit_gate *gate, struct limit *limit);
void limit_gate_deinit(struct limit_gate *gate);
/* Make the timer and add it to a worker's epoll with `source` as data. Does nothing without a limit. 0 or -errno. */
int limit_gate_watch(struct limit_gate *gate, int epoll_fd, uint64_t source);
/* Whether the next request may proceed. If not, arms the timer for the time when it may. */
bool limit_gate_open(struct limit_gate *gate);
/* Charge a request of so many bytes. */
void limit_gate_charge(struct limit_gate *gate, uint64_t bytes);

#endif
