/* SPDX-License-Identifier: Apache-2.0 */
/* A data-plane thread, as the C devices see it. */
#ifndef VMM_NATIVE_WORKER_H
#define VMM_NATIVE_WORKER_H

#include "ring/ring.h" /* first: it asks for the GNU names of the others */

#include <pthread.h>

/* What a device does in its thread. Called there only, except for destroy. */
struct worker_ops {
	/*
	 * First of all: make what the thread may not make later, and give all other system calls up (seccomp_worker()).
	 * 0, or -errno: the worker cannot run. NULL: nothing to do.
	 */
	int (*begin)(struct worker *w);
	/*
	 * Take chains off the ring and complete what is finished, a bounded amount of it. Returns how much was done (then
	 * it is called again soon), 0 when nothing was, or the latched error of the ring.
	 */
	int (*run)(struct worker *w);
	/* Sleep until there may be something to run. NULL: worker_sleep(). */
	void (*sleep)(struct worker *w);
	/*
	 * Ask for kicks (1) before sleeping, or say that none are needed (0), as ring_kicks() does. NULL: ring_kicks() of
	 * the worker's ring. For a device with more rings in one worker.
	 */
	int (*kicks)(struct worker *w, int enable);
	/*
	 * While the worker spins: look, without sleeping, for work that does not come through the worker's ring. True: there
	 * is some. NULL: all work comes through it.
	 */
	bool (*peek)(struct worker *w);
	/* Finish all I/O in flight. No more run() comes after it. */
	void (*drain)(struct worker *w);
	/* From worker_free(), the thread being gone: free the device's part and w itself. */
	void (*destroy)(struct worker *w);
};

/* What epoll_fd says of the worker's own descriptors; a device may add others, under pointers for example. */
enum { WORKER_KICK = 1, WORKER_STOP = 2, WORKER_OWN = 3 };

/* First member of a device's per-queue structure. */
struct worker {
	const struct worker_ops *ops;
	struct ring *ring;
	struct irq *irq;
	int kick_fd, event_fd;
	int stop_fd, epoll_fd;
	uint32_t in_flight;   /* requests that the host has; completions come through sleep(), so no polling meanwhile */
	bool blocked;         /* what is in the ring must wait for something else than the guest: no kicks, no polling */
	bool stop;            /* atomic */
	int error;            /* atomic */
	int forbidden;        /* the system call that ended the thread, or -1; atomic */
	bool walled;          /* it has no other calls than its kind's; atomic */

	uint32_t cpus;        /* that the thread may run on */
	uint64_t poll_max_ns; /* 0: this machine has no CPU to spare */
	uint64_t poll_ns;     /* how long to look at the ring before sleeping, now */
	uint32_t poll_rest;   /* idle periods not to poll in, after polling was in someone's way */

	struct worker_stats stats; /* written by the thread alone */

	pthread_t thread;
	pthread_mutex_t join_lock;
	bool joined;
};

/* ---- thread.c: how threads of the data plane begin ---- */

/*
 * A thread with a small stack on which no signal is handled. It is the child of the one that calls, or, where that needs it
 * and there is one, of the starter (thread_starter_begin()). Returns 0 or -errno.
 */
int thread_start(pthread_t *thread, const char *name, void *(*body)(void *), void *arg);

/* From now on what the calling thread starts is started by the starter, if there is one. */
void thread_needs_starter(void);

/*
 * Have a thread that starts others for those that need it. It calls enter() first, which gives up what neither it nor they
 * need; -errno of that, or of making it. Whoever has begun it ends it: it is one for all, and goes with the last of them. A
 * forked child has none.
 */
int thread_starter_begin(int (*enter)(void));
void thread_starter_end(void);

/* ---- worker.c ---- */

/* Start the thread. Everything else in *w is set up here; -errno leaves nothing behind. */
int worker_start(struct worker *w, const struct worker_ops *ops, struct ring *ring, int kick_fd, struct irq *irq,
		 int event_fd, const char *name);
/* Wait for a kick or for worker_stop(). */
void worker_sleep(struct worker *w);
/* Publish what was pushed and interrupt the guest if it wants that. */
void worker_flush(struct worker *w);

static inline bool worker_stopping(const struct worker *w)
{
	return __atomic_load_n(&w->stop, __ATOMIC_ACQUIRE);
}

/* A counter with one writer and readers in other threads. */
static inline void stat_add(uint64_t *counter, uint64_t n)
{
	__atomic_store_n(counter, *counter + n, __ATOMIC_RELAXED);
}

/* The same for a number that also goes down. */
static inline void stat_set(uint64_t *gauge, uint64_t n)
{
	__atomic_store_n(gauge, n, __ATOMIC_RELAXED);
}

uint64_t clock_ns(void);

/* ---- limit.c: how much a device may do in a time ---- */

/* ==== for Python ==== */

/* Two token buckets. A rate of 0: no limit of that kind. burst: what may be done at once after an idle time. */
struct limit_config {
	uint64_t bytes, bytes_burst; /* bytes a second; bytes */
	uint64_t ops, ops_burst;     /* requests, or frames, a second; their number */
};

struct limit;

/* Shared by all queues of a device; from any thread. NULL: no memory. */
struct limit *limit_new(const struct limit_config *config);
/* After the workers were freed. */
void limit_free(struct limit *limit);
/* At `now` (ns on any clock that does not go back): 0 when the next request may be done, else how many ns it must wait. */
uint64_t limit_wait(struct limit *limit, uint64_t now);
/* A request of so many bytes is done. It may be larger than what was left: those behind it wait the longer. */
void limit_charge(struct limit *limit, uint64_t now, uint64_t bytes);
/* How often a queue had to wait. */
uint64_t limit_waits(const struct limit *limit);

/* ==== end ==== */

/* One direction of one queue in front of a limit that it may share with others. */
struct limit_gate {
	struct limit *limit; /* NULL: always open */
	int timer_fd;        /* never read: edge-triggered. -1: not made yet */
	bool closed;         /* until whoever woke up opens it: the timer will */
};

void limit_gate_init(struct limit_gate *gate, struct limit *limit);
void limit_gate_deinit(struct limit_gate *gate);
/* Make the timer, and let a worker's epoll tell of it as `source`. -errno; nothing to do without a limit. */
int limit_gate_watch(struct limit_gate *gate, int epoll_fd, uint64_t source);
/* May the next request be done now? If not, the timer is set for when it may. */
bool limit_gate_open(struct limit_gate *gate);
/* A request of so many bytes was done. */
void limit_gate_charge(struct limit_gate *gate, uint64_t bytes);

#endif
