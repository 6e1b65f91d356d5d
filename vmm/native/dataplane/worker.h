/* SPDX-License-Identifier: Apache-2.0 */
/* Workers: the threads of the data plane, for devices in C. */
#ifndef VMM_NATIVE_WORKER_H
#define VMM_NATIVE_WORKER_H

#include "ring/ring.h" /* first, since it defines _GNU_SOURCE */

#include <pthread.h>
#include <sys/mman.h>

/*
 * Zeros for a device whose buffers are large and mostly unused: pages that come when they are touched. calloc() takes them from its
 * heap, once there was one such, and clears them all.
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

/* The functions of a device. The worker's thread calls all of them but destroy(). */
struct worker_ops {
	/*
	 * Called first: makes what the thread may not make later, and restricts its system calls (seccomp_worker()). 0, or
	 * -errno: the worker cannot run. May be NULL.
	 */
	int (*begin)(struct worker *w);
	/*
	 * Whether begin() makes no call that the list of the thread does not have: then a spare thread will do, which has its list
	 * already. w->cpus is known. NULL: it is not so.
	 */
	bool (*plain)(const struct worker *w);
	/*
	 * Pop chains and complete finished ones, a bounded number. Returns the number (it is called again at once if that is
	 * not 0), or the latched error of the ring.
	 */
	int (*run)(struct worker *w);
	/* Sleep until there may be work. NULL: worker_sleep(). */
	void (*sleep)(struct worker *w);
	/*
	 * For a device with several rings in one worker: ask for kicks of all of them before sleeping (1), or suppress them
	 * (0), as ring_kicks() does. NULL: ring_kicks() of the worker's ring.
	 */
	int (*kicks)(struct worker *w, int enable);
	/*
	 * While the worker spins: whether there is work that does not come through the worker's ring. Must not sleep. NULL:
	 * all work comes through the ring.
	 */
	bool (*peek)(struct worker *w);
	/* Finish all I/O in flight. run() is not called afterwards. */
	void (*drain)(struct worker *w);
	/* The same, for worker_hold(): run() is called again later. NULL: the worker cannot be held. */
	void (*rest)(struct worker *w);
	/* Called by worker_free() when the thread has ended: free the device's part and w itself. */
	void (*destroy)(struct worker *w);
};

/* The epoll data of the worker's own descriptors; a device may add others, for example with pointers as data. */
enum { WORKER_KICK = 1, WORKER_STOP = 2, WORKER_OWN = 3 };

/* First member of a device's per-queue structure. */
struct worker {
	const struct worker_ops *ops;
	struct ring *ring;
	struct irq *irq;
	int kick_fd, event_fd;
	uint32_t calls;       /* SECCOMP_*: the kind of its thread, set before worker_start(); 0: without a list */
	int stop_fd, epoll_fd;
	uint32_t in_flight;   /* requests that the host has. sleep() returns when one completes, so the worker does not spin */
	bool blocked;         /* the chains in the ring must wait for the host or a limit: no kicks, no spinning */
	bool stop;            /* atomic */
	bool hold;            /* worker_hold(); atomic, written under hold_lock */
	bool resting;         /* the thread waits for the end of that; under hold_lock */
	int error;            /* atomic */
	int forbidden;        /* the system call that ended the thread, or -1; atomic */
	bool walled;          /* its filter allows only the system calls of its kind; atomic */

	uint32_t cpus;        /* how many CPUs the thread may run on */
	uint64_t poll_max_ns; /* the longest spin; 0: never spin, since there is one CPU */
	uint64_t poll_ns;     /* how long to spin before the next sleep */
	uint32_t poll_rest;   /* idle periods without spinning that are left, after another thread needed the CPU */
	uint32_t yield_pause; /* how many wake-ups are without a yield after one that did not pay */
	uint32_t yield_rest;  /* how many of these are left */
	uint32_t yield_chains; /* chains since the last yield */
	uint64_t yield_ns;    /* how long the last yield took */
	bool yielded;         /* there was one since the thread last had nothing to do */

	struct worker_stats stats; /* written by the thread alone */

	pthread_t thread;
	pthread_mutex_t join_lock;
	bool joined;
	pthread_mutex_t hold_lock;
	pthread_cond_t changed; /* `hold`, `resting`, or one of stop and error while a hold is wanted */
};

/* ---- thread.c: starts threads ---- */

/*
 * Start a thread with a small stack and all signals blocked. The calling thread makes it; or the starter, if the calling
 * thread needs it and there is one (thread_starter_begin()). Returns 0 or -errno.
 */
int thread_start(pthread_t *thread, const char *name, void *(*body)(void *), void *arg);

/*
 * A spare: a thread that is made before there is work for it, which takes most of the time. It enters its list of system calls
 * (enter(), unless that is NULL) and waits for thread_take(). Returns 0 or -errno.
 */
int spare_make(struct spare **out, const char *name, uint32_t calls, int (*enter)(uint32_t calls));
/*
 * Give body to a spare that has the name and calls that thread_start() would be told, and for which fits(arg, cpus) is true,
 * where cpus is on how many it may run. 0; or -ENOENT: there is none.
 */
int spare_take(pthread_t *thread, const char *name, uint32_t calls, bool (*fits)(void *arg, uint32_t cpus),
	       void *(*body)(void *), void *arg);

/* From now on, the starter makes the threads that the calling thread starts, if there is a starter. */
void thread_needs_starter(void);

/*
 * Make the starter, a thread that makes threads for those that need it. It first calls enter(), which restricts it. 0 or
 * -errno. There is one in a process: further calls only count, and it ends when thread_starter_end() was called as often.
 * A forked child has none.
 */
int thread_starter_begin(int (*enter)(void));
void thread_starter_end(void);

/* ---- worker.c ---- */

/* Set up *w, which is zero or has the device's part, and start the thread. 0; or -errno, and nothing is left to free. */
int worker_start(struct worker *w, const struct worker_ops *ops, struct ring *ring, int kick_fd, struct irq *irq,
		 int event_fd, const char *name);
/* Wait for a kick or for worker_stop(). */
void worker_sleep(struct worker *w);
/* Publish all pushes, and interrupt the guest if it wants that. */
void worker_flush(struct worker *w);

static inline bool worker_stopping(const struct worker *w)
{
	return __atomic_load_n(&w->stop, __ATOMIC_ACQUIRE);
}

/* The thread is wanted elsewhere: by worker_stop(), or by worker_hold(). */
static inline bool worker_called(const struct worker *w)
{
	return worker_stopping(w) || __atomic_load_n(&w->hold, __ATOMIC_ACQUIRE);
}

/* A counter with one writer and readers in other threads. */
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

/* Two token buckets. A rate of 0: no limit of that kind. burst: how much may be done at once after an idle time. */
struct limit_config {
	uint64_t bytes, bytes_burst; /* bytes a second; bytes */
	uint64_t ops, ops_burst;     /* requests, or frames, a second; their number */
};

struct limit;

/* A limit that all queues of a device share. Any thread may use it. NULL: no memory. */
struct limit *limit_new(const struct limit_config *config);
/* Free it, after the workers that use it. */
void limit_free(struct limit *limit);
/* How many ns the next request must wait; 0: it may be done now. now: ns of any clock that does not go back. */
uint64_t limit_wait(struct limit *limit, uint64_t now);
/* Count a request of so many bytes. It may exceed the limit: later requests then wait longer. */
void limit_charge(struct limit *limit, uint64_t now, uint64_t bytes);
/* How often a queue had to wait. */
uint64_t limit_waits(const struct limit *limit);

/* ==== end ==== */

/* The state of one direction of one queue at a limit, which it may share with others. */
struct limit_gate {
	struct limit *limit; /* NULL: no limit */
	int timer_fd;        /* edge-triggered, never read. -1: not made yet */
	bool closed;         /* the timer is armed; the worker clears this when it wakes up */
};

void limit_gate_init(struct limit_gate *gate, struct limit *limit);
void limit_gate_deinit(struct limit_gate *gate);
/* Make the timer and add it to a worker's epoll with `source` as data. 0 or -errno. Without a limit it does nothing. */
int limit_gate_watch(struct limit_gate *gate, int epoll_fd, uint64_t source);
/* Whether the next request may be done now. If not, the timer is armed for the time at which it may. */
bool limit_gate_open(struct limit_gate *gate);
/* Count a request of so many bytes. */
void limit_gate_charge(struct limit_gate *gate, uint64_t bytes);

#endif
