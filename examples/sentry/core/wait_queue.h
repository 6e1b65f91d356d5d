/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a system call sleeps: on queues, until somebody wakes one, a signal comes, or a time.
 *
 * One task at a time is in the core, and no other is before it sleeps or returns to its program. So nothing happens
 * between the check of a condition and the sleep:
 *
 *	while (!(pipe has data)) {
 *		s64 error = sleep_on(&pipe->readers, FOREVER);
 *
 *		if (error)
 *			return error;
 *	}
 *
 * After the sleep everything may be different: check the condition again, and whatever was read before.
 */
#ifndef SENTRY_WAIT_QUEUE_H
#define SENTRY_WAIT_QUEUE_H

#include "types.h"

struct task;

/* A time that never comes. Times are of the monotonic clock, in nanoseconds. */
#define FOREVER (~0ull)

/* Somebody in a queue; zeros are one that is in none. */
struct waiter {
	struct wait_queue *queue;
	struct waiter *next, *before;
	struct task *task;
	bool alone;			  /* of these wake_one wakes one only */
	void (*notify)(struct waiter *w); /* is called instead of waking the task; the waiter stays in the queue */
	void *data;			  /* for notify */
};

/* Zeros are an empty one. It must be empty when it is freed. */
struct wait_queue {
	struct waiter *first, *last;
};

void waiter_add(struct wait_queue *queue, struct waiter *w); /* at the end; of the current task, but for notify */
void waiter_remove(struct waiter *w);			     /* from the queue it is in, if there is one */

/*
 * Sleep until a waiter of this task is woken: 0, -ERESTARTSYS for a signal, -ETIMEDOUT. Waiters that are woken leave
 * their queue; remove the others. poll adds one to each of several queues, checks all, and calls this.
 */
s64 task_sleep(u64 deadline);
/* The same with one queue. */
s64 sleep_on(struct wait_queue *queue, u64 deadline);
/* Signals do not end it, but SIGKILL does: 0, -ERESTARTSYS or -ETIMEDOUT. */
s64 sleep_on_killable(struct wait_queue *queue, u64 deadline);
/* Only a wake-up ends it: for locks, and for devices, which use memory of the caller meanwhile. */
void sleep_on_always(struct wait_queue *queue);

void wake_one(struct wait_queue *queue); /* the first that is alone, and all that are not */
void wake_all(struct wait_queue *queue);
void wait_queue_end(struct wait_queue *queue); /* wake and remove all waiters, before the queue is freed */

/* Calls a function at a time, from the scheduler: it may wake tasks and send signals, but not sleep. */
struct timer {
	u64 deadline;
	void (*expire)(struct timer *timer);
	struct timer *next, *before;
	bool active;
};

void timer_start(struct timer *timer, u64 deadline); /* or start it again */
void timer_stop(struct timer *timer);
u64 monotonic_now(void);

#endif
