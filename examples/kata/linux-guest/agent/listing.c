// SPDX-License-Identifier: Apache-2.0
#include "container.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/nsfs.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LISTING_MAX (1u << 20)
#define FILE_MAX 4096u
#define STAT_MAX 16384u /* one of its lines has a number for each interrupt */
#define HEADER_MAX 64u
#define PROCESS_MAX (3 * (FILE_MAX + HEADER_MAX)) /* and the last line; the names leave room for it */
#define NAMESPACES_MAX 32 /* the kernel's limit of nested pid namespaces */
#define AT_ONCE 8

/*
 * A child reads the files, since reading a command line touches the process's memory and a process can block that.
 * The child is in the agent's pid namespace, so the container does not see it.
 */
struct listing {
	struct watch watch; /* the read end of the pipe from the child */
	struct child child;
	struct call *call; /* NULL: the call was answered, and the child is about to end */
	char *data;
	size_t used;
};

static unsigned int children;

/* -- the child ---------------------------------------------------------------------------------------------------- */

static size_t sent;

static void listing_put(int out, const void *data, size_t size)
{
	if (file_write_all(out, data, size))
		_exit(1);
	sent += size;
}

static void put_file(int out, const char *directory, const char *name, size_t most)
{
	static char content[STAT_MAX];
	char path[HEADER_MAX], header[HEADER_MAX];
	size_t used = 0;
	ssize_t got = 1;
	int fd;

	snprintf(path, sizeof(path), "/proc/%s%s", directory, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	while (fd >= 0 && used < most && (got = read(fd, content + used, most - used)) > 0)
		used += got;
	if (fd >= 0)
		close(fd);
	if (fd < 0 || got < 0) /* the process has ended */
		used = 0;
	listing_put(out, header, snprintf(header, sizeof(header), "%s%s %zu\n", directory, name, used));
	listing_put(out, content, used);
}

/* Whether the process is in that pid namespace or in one below. */
static bool is_in(const char *pid, const struct stat *namespace)
{
	char path[HEADER_MAX];
	struct stat info;
	bool found = false;
	int fd;

	snprintf(path, sizeof(path), "/proc/%.10s/ns/pid", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	for (int i = 0; i < NAMESPACES_MAX && fd >= 0 && !found; i++) {
		int above = -1;

		found = !fstat(fd, &info) && info.st_ino == namespace->st_ino && info.st_dev == namespace->st_dev;
		if (!found)
			above = ioctl(fd, NS_GET_PARENT);
		close(fd);
		fd = above;
	}
	if (fd >= 0)
		close(fd);
	return found;
}

static void listing_make(int out, pid_t first)
{
	char line[HEADER_MAX], path[HEADER_MAX];
	struct dirent *entry;
	struct stat namespace;
	DIR *proc;

	snprintf(path, sizeof(path), "/proc/%d/ns/pid", first);
	proc = opendir("/proc");
	if (stat(path, &namespace) || !proc)
		_exit(1);
	listing_put(out, line, snprintf(line, sizeof(line), "first %d\n", first));
	put_file(out, "", "uptime", FILE_MAX);
	put_file(out, "", "stat", STAT_MAX);
	while (sent + PROCESS_MAX <= LISTING_MAX && (entry = readdir(proc))) {
		if (entry->d_name[0] < '1' || entry->d_name[0] > '9' || strlen(entry->d_name) > 10)
			continue;
		if (atoi(entry->d_name) == getpid() || !is_in(entry->d_name, &namespace))
			continue;
		snprintf(path, sizeof(path), "%.10s/", entry->d_name);
		put_file(out, path, "status", FILE_MAX);
		put_file(out, path, "stat", FILE_MAX);
		put_file(out, path, "cmdline", FILE_MAX);
	}
	listing_put(out, "end\n", 4);
	_exit(0);
}

/* -- the agent ---------------------------------------------------------------------------------------------------- */

static void listing_close(struct listing *listing)
{
	if (listing->watch.fd < 0)
		return;
	watch_remove(&listing->watch);
	close(listing->watch.fd);
	listing->watch.fd = -1;
	free(listing->data);
	listing->data = NULL;
}

static void listing_exited(struct child *child, int status)
{
	struct listing *listing = container_of(child, struct listing, child);

	(void)status;
	child->pid = 0;
	children--;
	if (listing->watch.fd < 0)
		free(listing);
	/* otherwise the pipe still has data */
}

/* Nothing waits for the call any more. */
static void listing_drop(struct listing *listing)
{
	listing_close(listing);
	listing->call = NULL;
	if (listing->child.pid)
		kill(listing->child.pid, SIGKILL);
	else
		free(listing);
}

static void listing_cancel(struct call *call)
{
	listing_drop(call->owner);
}

static void listing_ready(struct watch *watch, uint32_t events)
{
	struct listing *listing = container_of(watch, struct listing, watch);
	struct call *call = listing->call;
	ssize_t got = read(watch->fd, listing->data + listing->used, LISTING_MAX - listing->used);

	(void)events;
	if (got < 0 && errno == EINTR)
		return;
	if (got > 0) {
		listing->used += got;
		return;
	}
	call->cancel = NULL;
	if (got < 0 || listing->used < 4 || memcmp(listing->data + listing->used - 4, "end\n", 4))
		call_fail(call, STATUS_INTERNAL, "the processes cannot be listed");
	else
		call_reply_bytes(call, listing->data, listing->used);
	listing_drop(listing);
}

void listing_send(struct call *call, struct container *container)
{
	const struct process *first = container->processes;
	struct listing *listing;
	int ends[2], error;

	if (!first || !first->child.pid || first->exited) {
		call_fail(call, STATUS_FAILED_PRECONDITION, "the container %s has ended", container->id);
		return;
	}
	if (children >= AT_ONCE) {
		call_fail(call, STATUS_RESOURCE_EXHAUSTED, "too many lists of processes at once");
		return;
	}
	if (pipe2(ends, O_CLOEXEC)) {
		call_fail(call, STATUS_INTERNAL, "a pipe: %s", strerror(errno));
		return;
	}
	listing = xzalloc(sizeof(*listing));
	listing->child.exited = listing_exited;
	error = child_fork(&listing->child);
	if (!error && !listing->child.pid) {
		/* Close all descriptors whose end of file other processes wait for */
		dup2(ends[1], 3);
		syscall(SYS_close_range, 4, ~0U, 0);
		listing_make(3, first->child.pid);
	}
	close(ends[1]);
	listing->watch.fd = ends[0];
	listing->watch.ready = listing_ready;
	if (!error) {
		children++;
		error = watch_add(&listing->watch, EPOLLIN);
	}
	if (error) {
		call_fail(call, STATUS_INTERNAL, "a process that lists others: %s", strerror(-error));
		listing_drop(listing);
		return;
	}
	listing->data = xzalloc(LISTING_MAX);
	listing->call = call;
	call->owner = listing;
	call->cancel = listing_cancel;
}
