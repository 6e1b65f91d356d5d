// SPDX-License-Identifier: Apache-2.0
/*
 * Threads of the data plane: how they begin.
 *
 * A thread inherits what the one that makes it has given up: filters of system calls, capabilities. A vCPU has given up
 * what a disk's worker needs, and it is on a vCPU that a driver's "ready" arrives. So a confined machine has a thread that
 * makes the others, the starter, and does nothing else.
 */
#include "dataplane/worker.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

/* Touched as needed; the rest is address space. Sanitizers want more than the code does. */
enum { STACK_SIZE = 256 << 10 };

enum { NAME_SIZE = 16 };

/* What a new thread is told. It names itself: to name another one is to open a file of /proc. */
struct beginning {
	void *(*body)(void *);
	void *arg;
	char name[NAME_SIZE];
};

static __thread char next_name[NAME_SIZE];

static void copy_name(char *to, const char *name)
{
	size_t len = strnlen(name, NAME_SIZE - 1);

	memcpy(to, name, len);
	to[len] = 0;
}

void thread_set_name(const char *name)
{
	char text[NAME_SIZE];

	copy_name(text, name);
	prctl(PR_SET_NAME, text, 0, 0, 0);
}

void thread_name_next(const char *name)
{
	copy_name(next_name, name);
}

static void *thread_begin(void *arg)
{
	const struct beginning b = *(struct beginning *)arg;

	free(arg);
	thread_set_name(b.name);
	return b.body(b.arg);
}

/* Takes b over. */
static int make_thread(pthread_t *thread, struct beginning *b)
{
	sigset_t all, before;
	pthread_attr_t attr;
	int err = pthread_attr_init(&attr);

	if (err) {
		free(b);
		return -err;
	}
	pthread_attr_setstacksize(&attr, STACK_SIZE);
	/*
	 * The thread inherits the mask: signals are for the threads that expect them. SIGXFSZ becomes EFBIG. SIGSYS comes
	 * from a system call of the thread's own, and would end the process.
	 */
	sigfillset(&all);
	sigdelset(&all, SIGSYS);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	err = pthread_create(thread, &attr, thread_begin, b);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attr);
	if (err)
		free(b);
	return -err;
}

/* ---- the starter --------------------------------------------------------------------------------------------------- */

/* What a thread asks it for, and waits. */
struct order {
	struct order *next;
	pthread_t *thread;
	struct beginning *b;
	int err;
	bool done;
};

static struct {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	pthread_t thread;
	struct order *first;
	int (*enter)(void);
	int err;        /* of enter() */
	uint32_t users; /* it is there while there are any */
	bool ready, stop;
} starter = { .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };

/* Of a thread that has given up what those need that it starts. */
static __thread bool needs_starter;

void thread_needs_starter(void)
{
	needs_starter = true;
}

static void *starter_main(void *arg)
{
	(void)arg;
	pthread_mutex_lock(&starter.lock);
	starter.err = starter.enter();
	starter.ready = true;
	pthread_cond_broadcast(&starter.changed);
	while (!starter.stop || starter.first) {
		struct order *o = starter.first;

		if (!o) {
			pthread_cond_wait(&starter.changed, &starter.lock);
			continue;
		}
		starter.first = o->next;
		o->err = make_thread(o->thread, o->b);
		o->done = true;
		pthread_cond_broadcast(&starter.changed);
	}
	pthread_mutex_unlock(&starter.lock);
	return NULL;
}

/* A child of fork() has none of our threads. */
static void starter_forget(void)
{
	pthread_mutex_init(&starter.lock, NULL);
	pthread_cond_init(&starter.changed, NULL);
	starter.first = NULL;
	starter.users = 0;
	starter.ready = starter.stop = false;
}

static void starter_watch_forks(void)
{
	pthread_atfork(NULL, NULL, starter_forget);
}

static int starter_make(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	struct beginning *b = calloc(1, sizeof(*b));
	int err;

	if (!b)
		return -ENOMEM;
	pthread_once(&once, starter_watch_forks);
	b->body = starter_main;
	copy_name(b->name, "starter");
	starter.ready = false;
	err = make_thread(&starter.thread, b);
	if (err)
		return err;
	while (!starter.ready)
		pthread_cond_wait(&starter.changed, &starter.lock);
	return 0;
}

/* Under the lock, which is let go meanwhile. */
static void starter_end(void)
{
	starter.stop = true;
	pthread_cond_broadcast(&starter.changed);
	pthread_mutex_unlock(&starter.lock);
	pthread_join(starter.thread, NULL);
	pthread_mutex_lock(&starter.lock);
	starter.stop = false;
	pthread_cond_broadcast(&starter.changed);
}

int thread_starter_begin(int (*enter)(void))
{
	int err = 0;

	pthread_mutex_lock(&starter.lock);
	while (starter.stop)
		pthread_cond_wait(&starter.changed, &starter.lock);
	if (!starter.users) {
		starter.enter = enter;
		err = starter_make();
		if (!err && starter.err) {
			err = starter.err;
			starter_end();
		}
	}
	if (!err)
		starter.users++;
	pthread_mutex_unlock(&starter.lock);
	return err;
}

void thread_starter_end(void)
{
	pthread_mutex_lock(&starter.lock);
	if (starter.users && !--starter.users)
		starter_end();
	pthread_mutex_unlock(&starter.lock);
}

int thread_start(pthread_t *thread, const char *name, void *(*body)(void *), void *arg)
{
	struct beginning *b = malloc(sizeof(*b));
	struct order order = { .thread = thread, .b = b };

	if (!b)
		return -ENOMEM;
	*b = (struct beginning){ .body = body, .arg = arg };
	copy_name(b->name, next_name[0] ? next_name : name);
	next_name[0] = 0;
	if (!needs_starter)
		return make_thread(thread, b);
	pthread_mutex_lock(&starter.lock);
	if (!starter.users) {
		pthread_mutex_unlock(&starter.lock);
		return make_thread(thread, b);
	}
	order.next = starter.first;
	starter.first = &order;
	pthread_cond_broadcast(&starter.changed);
	while (!order.done)
		pthread_cond_wait(&starter.changed, &starter.lock);
	pthread_mutex_unlock(&starter.lock);
	return order.err;
}
