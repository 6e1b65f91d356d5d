/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The event loop of the agent's only thread: ready file descriptors, exits of children, timers. A long call from the
 * host is parked in the object that it waits for, so it needs no thread and no lock.
 */
#ifndef AGENT_LOOP_H
#define AGENT_LOOP_H

#include <stdint.h>
#include <sys/types.h>

struct watch {
	int fd;
	void (*ready)(struct watch *watch, uint32_t events);
};

/* 0 or -errno. `events` are those of epoll(7). Remove the watch before closing the descriptor. */
int watch_add(struct watch *watch, uint32_t events);
int watch_change(struct watch *watch, uint32_t events);
void watch_remove(struct watch *watch);

struct timer {
	uint64_t at; /* ns of CLOCK_MONOTONIC; 0: not set */
	void (*fire)(struct timer *timer);
	struct timer *next;
};

uint64_t clock_now(void);
void timer_set(struct timer *timer, uint64_t at);
void timer_clear(struct timer *timer);

/* A child process that has not been reaped. */
struct child {
	pid_t pid;
	void (*exited)(struct child *child, int status); /* a shell's exit status */
	struct child *next;
};

/* A program's descriptors: stdio, and one more. */
#define CHILD_FDS 4
#define CHILD_NO_FDS { -1, -1, -1, -1 }

/*
 * Start a program with these descriptors (-1: /dev/null, or of the last one, none). 0 or -errno. The loop calls
 * child->exited when it has exited.
 */
int child_start(struct child *child, const char *const argv[], const int fds[CHILD_FDS]);
/* fork(2): 0 or -errno; child->pid is 0 in the new process. The loop calls child->exited when that has exited. */
int child_fork(struct child *child);
/* Call child->exited at the exit of a process that became a child by re-parenting. It may have exited already. */
void child_adopt(struct child *child, pid_t pid);
void child_forget(struct child *child);
/*
 * Between hold and release the loop keeps exit statuses of unknown processes: one of them may be the process whose
 * pid crun is about to write.
 */
void orphans_hold(void);
void orphans_release(void);

/* 0 or -errno. */
int loop_init(void);
/* Wait at most that many milliseconds (-1: no limit). 1 if a descriptor was ready, 0 if none was, or -errno. */
int loop_step(int most);
/* Returns only if epoll fails: -errno. */
int loop_run(void);

#endif
