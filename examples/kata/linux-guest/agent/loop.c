// SPDX-License-Identifier: Apache-2.0
#include "loop.h"

#include "util.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000ull
#define ORPHANS 256

static int epoll_fd = -1;
static struct timer *timers;
static struct child *children;
static struct {
	int holders;
	unsigned int used;
	struct {
		pid_t pid;
		int status;
	} of[ORPHANS];
} orphans;

int watch_add(struct watch *watch, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.ptr = watch };

	return epoll_ctl(epoll_fd, EPOLL_CTL_ADD, watch->fd, &event) ? -errno : 0;
}

int watch_change(struct watch *watch, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.ptr = watch };

	return epoll_ctl(epoll_fd, EPOLL_CTL_MOD, watch->fd, &event) ? -errno : 0;
}

void watch_remove(struct watch *watch)
{
	epoll_ctl(epoll_fd, EPOLL_CTL_DEL, watch->fd, NULL);
}

uint64_t clock_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * SECOND + now.tv_nsec;
}

void timer_clear(struct timer *timer)
{
	struct timer **link = &timers;

	while (*link && *link != timer)
		link = &(*link)->next;
	if (*link)
		*link = timer->next;
	timer->at = 0;
}

void timer_set(struct timer *timer, uint64_t at)
{
	struct timer **link = &timers;

	timer_clear(timer);
	timer->at = at;
	while (*link && (*link)->at <= at)
		link = &(*link)->next;
	timer->next = *link;
	*link = timer;
}

/* Milliseconds until the first timer, rounded up; -1 if there is none. */
static int timers_wait(void)
{
	uint64_t now, wait;

	if (!timers)
		return -1;
	now = clock_now();
	if (timers->at <= now)
		return 0;
	wait = (timers->at - now + 999999) / 1000000;
	return wait > 3600000 ? 3600000 : (int)wait;
}

static void timers_fire(void)
{
	while (timers && timers->at <= clock_now()) {
		struct timer *timer = timers;

		timer_clear(timer);
		timer->fire(timer);
	}
}

static void child_add(struct child *child, pid_t pid)
{
	child->pid = pid;
	child->next = children;
	children = child;
}

void child_forget(struct child *child)
{
	struct child **link = &children;

	while (*link && *link != child)
		link = &(*link)->next;
	if (*link)
		*link = child->next;
	child->pid = 0;
}

int child_start(struct child *child, const char *const argv[], const int fds[CHILD_FDS])
{
	static char *const environment[] = { "PATH=/usr/bin:/usr/sbin:/bin:/sbin", NULL };
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attributes;
	sigset_t all, none;
	pid_t pid;
	int i, error;

	sigfillset(&all);
	sigemptyset(&none);
	posix_spawnattr_init(&attributes);
	posix_spawnattr_setsigdefault(&attributes, &all);
	posix_spawnattr_setsigmask(&attributes, &none);
	posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
	posix_spawn_file_actions_init(&actions);
	/* 0 to 2 are always open in the agent, so no stream has one of these descriptors. */
	for (i = 0; i < CHILD_FDS; i++) {
		if (fds[i] >= 0)
			posix_spawn_file_actions_adddup2(&actions, fds[i], i);
		else if (i < 3)
			posix_spawn_file_actions_addopen(&actions, i, "/dev/null", O_RDWR, 0);
	}
	error = posix_spawn(&pid, argv[0], &actions, &attributes, (char **)argv, environment);
	posix_spawn_file_actions_destroy(&actions);
	posix_spawnattr_destroy(&attributes);
	if (error)
		return -error;
	child_add(child, pid);
	return 0;
}

int child_fork(struct child *child)
{
	pid_t pid = fork();

	if (pid < 0)
		return -errno;
	if (pid)
		child_add(child, pid);
	else
		child->pid = 0;
	return 0;
}

void child_adopt(struct child *child, pid_t pid)
{
	unsigned int i;

	for (i = 0; i < orphans.used; i++) {
		if (orphans.of[i].pid == pid) {
			int status = orphans.of[i].status;

			orphans.of[i] = orphans.of[--orphans.used];
			child->pid = pid;
			child->exited(child, status);
			return;
		}
	}
	child_add(child, pid);
	if (kill(pid, 0) && errno == ESRCH) {
		/* So many processes ended at once that its status was dropped. */
		child_forget(child);
		child->exited(child, 255);
	}
}

void orphans_hold(void)
{
	orphans.holders++;
}

void orphans_release(void)
{
	if (!--orphans.holders)
		orphans.used = 0;
}

static void child_reap(pid_t pid, int status)
{
	struct child *child;

	for (child = children; child; child = child->next) {
		if (child->pid == pid) {
			child_forget(child);
			child->pid = pid;
			child->exited(child, status);
			return;
		}
	}
	if (orphans.holders && orphans.used < ORPHANS) {
		orphans.of[orphans.used].pid = pid;
		orphans.of[orphans.used++].status = status;
	}
}

static void signal_ready(struct watch *watch, uint32_t events)
{
	struct signalfd_siginfo info;
	int status;
	pid_t pid;

	(void)events;
	while (read(watch->fd, &info, sizeof(info)) == sizeof(info))
		;
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		if (WIFEXITED(status))
			child_reap(pid, WEXITSTATUS(status));
		else if (WIFSIGNALED(status))
			child_reap(pid, 128 + WTERMSIG(status));
	}
}

int loop_init(void)
{
	static struct watch signals = { .ready = signal_ready };
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (epoll_fd < 0)
		return -errno;
	signals.fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
	if (signals.fd < 0)
		return -errno;
	return watch_add(&signals, EPOLLIN);
}

int loop_step(int most)
{
	struct epoll_event event;
	int wait = timers_wait(), count;

	if (most >= 0 && (wait < 0 || wait > most))
		wait = most;
	/* One event at a time: its handler may free the watch of the next one. */
	count = epoll_wait(epoll_fd, &event, 1, wait);
	if (count < 0 && errno != EINTR)
		return -errno;
	if (count == 1) {
		struct watch *watch = event.data.ptr;

		watch->ready(watch, event.events);
	}
	timers_fire();
	return count == 1;
}

int loop_run(void)
{
	int result;

	do
		result = loop_step(-1);
	while (result >= 0);
	return result;
}
