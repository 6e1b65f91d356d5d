// SPDX-License-Identifier: Apache-2.0
/*
 * Starts the threads of the data plane.
 *
 * A thread inherits the restrictions of its creator: seccomp filters and dropped capabilities. A worker starts when its
 * driver is ready, on a vCPU's thread. In a confined machine, that thread's filter lacks system calls that, for
 * example, a disk's worker needs. So a separate thread, the starter, makes the workers and does nothing else.
 */
#include "dataplane/worker.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

/* Larger than the code needs, for sanitizers. Untouched pages use no memory. */
enum { STACK_SIZE = 256 << 10 };

enum { NAME_SIZE = 16 };

/*
 * The argument of a new thread. The thread sets its own name: naming another thread requires opening a file in /proc.
 */
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

/* Make a thread with the small stack. Always frees b, even on errors. */
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
	 * The thread inherits this mask, so that other threads receive the signals. A blocked SIGXFSZ makes write()
	 * return EFBIG. SIGSYS stays unblocked: the thread's own system calls raise it, and a blocked SIGSYS would end
	 * the process.
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

static void spares_forget(void);
static void starter_forget(void);

static void register_forks(void)
{
	pthread_atfork(NULL, NULL, spares_forget);
	pthread_atfork(NULL, NULL, starter_forget);
}

static void watch_forks(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, register_forks);
}

/* ---- spares -------------------------------------------------------------------------------------------------------- */

struct spare {
	struct spare *next;
	pthread_t thread;
	pthread_cond_t changed;
	int (*enter)(uint32_t calls);
	uint32_t calls, cpus;
	uint32_t owners;       /* the thread until it has read its work, and the holder that frees the spare */
	uint32_t forks;        /* spares.forks at its creation */
	void *(*body)(void *); /* the function that it will run */
	void *arg;
	bool ready, taken, end;
	char name[NAME_SIZE];
};

static struct {
	pthread_mutex_t lock;
	struct spare *first; /* the untaken spares */
	uint32_t forks;      /* the number of forks between the first process and this one */
} spares = { .lock = PTHREAD_MUTEX_INITIALIZER };

static void spares_forget(void)
{
	pthread_mutex_init(&spares.lock, NULL);
	spares.first = NULL;
	spares.forks++;
}

/* The caller holds the lock. */
static bool spare_unlink(struct spare *s)
{
	for (struct spare **at = &spares.first; *at; at = &(*at)->next)
		if (*at == s) {
			*at = s->next;
			return true;
		}
	return false;
}

/* The caller holds the lock. */
static void spare_disown(struct spare *s)
{
	if (--s->owners)
		return;
	pthread_cond_destroy(&s->changed);
	free(s);
}

static void *spare_main(void *arg)
{
	struct spare *s = arg;
	void *(*body)(void *);
	cpu_set_t cpus;

	s->cpus = sched_getaffinity(0, sizeof(cpus), &cpus) == 0 ? (uint32_t)CPU_COUNT(&cpus) : 1;
	if (s->enter)
		s->enter(s->calls);
	pthread_mutex_lock(&spares.lock);
	s->ready = true;
	while (!s->taken && !s->end)
		pthread_cond_wait(&s->changed, &spares.lock);
	body = s->taken ? s->body : NULL;
	arg = s->arg;
	spare_disown(s);
	pthread_mutex_unlock(&spares.lock);
	return body ? body(arg) : NULL;
}

int spare_make(struct spare **out, const char *name, uint32_t calls, int (*enter)(uint32_t calls))
{
	struct spare *s = calloc(1, sizeof(*s));
	struct beginning *b = malloc(sizeof(*b));
	int err = -ENOMEM;

	if (!s || !b) {
		free(b);
		goto fail;
	}
	watch_forks();
	*b = (struct beginning){ .body = spare_main, .arg = s };
	copy_name(b->name, name);
	copy_name(s->name, name);
	pthread_cond_init(&s->changed, NULL);
	s->calls = calls;
	s->enter = enter;
	s->owners = 2;
	pthread_mutex_lock(&spares.lock);
	s->forks = spares.forks;
	err = make_thread(&s->thread, b);
	if (!err) {
		s->next = spares.first;
		spares.first = s;
	}
	pthread_mutex_unlock(&spares.lock);
	if (err) {
		pthread_cond_destroy(&s->changed);
		goto fail;
	}
	*out = s;
	return 0;
fail:
	free(s);
	return err;
}

void spare_free(struct spare *s)
{
	bool waits;

	if (!s)
		return;
	pthread_mutex_lock(&spares.lock);
	waits = spare_unlink(s);
	if (waits) {
		pthread_t thread = s->thread;

		s->end = true;
		pthread_cond_signal(&s->changed);
		spare_disown(s);
		pthread_mutex_unlock(&spares.lock);
		pthread_join(thread, NULL);
		return;
	}
	if (s->forks != spares.forks)
		s->owners = 1; /* its thread belongs to another process */
	spare_disown(s);
	pthread_mutex_unlock(&spares.lock);
}

int spare_take(pthread_t *thread, const char *name, uint32_t calls, bool (*fits)(void *arg, uint32_t cpus),
	       void *(*body)(void *), void *arg)
{
	char own[NAME_SIZE];
	int err = -ENOENT;

	copy_name(own, next_name[0] ? next_name : name);
	pthread_mutex_lock(&spares.lock);
	for (struct spare *s = spares.first; s && err; s = s->next) {
		if (!s->ready || s->calls != calls || strcmp(s->name, own) || !fits(arg, s->cpus))
			continue;
		spare_unlink(s);
		s->body = body;
		s->arg = arg;
		s->taken = true;
		*thread = s->thread;
		next_name[0] = 0;
		pthread_cond_signal(&s->changed);
		err = 0;
	}
	pthread_mutex_unlock(&spares.lock);
	return err;
}

/* ---- the starter --------------------------------------------------------------------------------------------------- */

/* A request to the starter for a thread. The requesting thread waits until it is done. */
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
	int err;        /* the result of enter() */
	uint32_t users; /* the starter ends at 0 */
	bool ready, stop;
} starter = { .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };

/* Whether this thread lacks something that the threads it starts need. */
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

/* A child of fork() has only the calling thread: neither the starter nor spares exist there. */
static void starter_forget(void)
{
	pthread_mutex_init(&starter.lock, NULL);
	pthread_cond_init(&starter.changed, NULL);
	starter.first = NULL;
	starter.users = 0;
	starter.ready = starter.stop = false;
}

static int starter_make(void)
{
	struct beginning *b = calloc(1, sizeof(*b));
	int err;

	if (!b)
		return -ENOMEM;
	watch_forks();
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

/* The caller holds the lock, which is released while waiting for the thread. */
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
