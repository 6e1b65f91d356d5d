/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The agent's one thread: file descriptors that become ready, children that end, times that come. A long call of the
 * host is parked in what it waits for, so there is no thread for it and no lock anywhere.
 */
#ifndef AGENT_LOOP_H
#define AGENT_LOOP_H

#include <stdint.h>
#include <sys/types.h>

struct watch {
	int fd;
	void (*ready)(struct watch *watch, uint32_t events);
};

/* 0 or -errno. `events` are epoll's. Remove the watch before the descriptor is closed. */
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

/* A program that was started and not waited for. */
struct child {
	pid_t pid;
	void (*exited)(struct child *child, int status); /* a shell's exit status */
	struct child *next;
};

/*
 * Start a program with the three descriptors as its stdio (-1: /dev/null); 0 or -errno. child->exited runs when it
 * has ended.
 */
int child_start(struct child *child, const char *const argv[], const int stdio[3]);
/* fork(2): 0 or -errno; child->pid is 0 in the new process. child->exited runs when that has ended. */
int child_fork(struct child *child);
/* Call child->exited for a process that is this one's child by re-parenting; it may have ended already. */
void child_adopt(struct child *child, pid_t pid);
void child_forget(struct child *child);
/*
 * Between hold and release the exit statuses of processes that nobody knows are kept: one of them may be the process
 * that the runtime program is about to name.
 */
void orphans_hold(void);
void orphans_release(void);

/* 0 or -errno. */
int loop_init(void);
/* Wait for at most so many milliseconds (-1: no limit): 1 when a descriptor was ready, 0 when none was, or -errno. */
int loop_step(int most);
/* Does not return but for an error of epoll: -errno. */
int loop_run(void);

#endif
