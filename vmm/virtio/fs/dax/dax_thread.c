// SPDX-License-Identifier: Apache-2.0
/* The thread of the DAX window: it serves requests of dax_remote.c in another process, and looks for truncated files. */
#include "fs/dax/dax_struct.h"
#include "base/native.h"
#include "dataplane/worker.h"
#include "calls/calls.h"

#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

enum { LOOK_MS = 20, SHRUNK_MS = 100 };

/* Serve one request of the other process; false: it has ended, or the request is not valid. */
static bool dax_answer(struct dax *dax)
{
	struct dax_msg msg;
	int32_t answer = -EINVAL;
	int fd;

	if (fd_socket_recv(dax->sock, &msg, sizeof(msg), &fd, 1))
		return false;
	if (msg.op == DAX_MAP && fd >= 0 && msg.writable <= 1)
		answer = dax_map(dax, msg.offset, msg.len, fd, msg.from, msg.writable);
	else if (msg.op == DAX_UNMAP && fd < 0)
		answer = dax_unmap(dax, msg.offset, msg.len);
	if (fd >= 0)
		close(fd);
	return fd_socket_send(dax->sock, &answer, sizeof(answer), NULL, 0) == 0;
}

static void *dax_main(void *arg)
{
	struct dax *dax = arg;
	struct pollfd ready[2] = { { .fd = dax->wake_fd, .events = POLLIN }, { .events = POLLIN } };
	const struct seccomp_guard guard = { .nr = &dax->forbidden, .stop = &dax->stop, .event_fd = &dax->event_fd };
	eventfd_t value;

	seccomp_enter(SECCOMP_DAX, &guard);
	while (!__atomic_load_n(&dax->stop, __ATOMIC_ACQUIRE)) {
		int wait;

		pthread_mutex_lock(&dax->lock);
		ready[1].fd = dax->sock;
		wait = dax->ncut ? LOOK_MS : dax->stats.slots ? SHRUNK_MS : -1;
		pthread_mutex_unlock(&dax->lock);
		if (poll(ready, 2, wait) == 0) {
			dax_look_at_cuts(dax);
			dax_look_for_shrunk(dax);
		}
		if (ready[0].revents)
			eventfd_read(dax->wake_fd, &value);
		if (ready[1].revents && !dax_answer(dax)) {
			pthread_mutex_lock(&dax->lock);
			close(dax->sock);
			dax->sock = -1;
			pthread_mutex_unlock(&dax->lock);
		}
		ready[0].revents = ready[1].revents = 0;
	}
	return NULL;
}

int dax_pair(int *ours, int *child)
{
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	*ours = pair[0];
	*child = pair[1];
	return 0;
}

int dax_serve(struct dax *dax, int sock)
{
	int err = -EBUSY;

	pthread_mutex_lock(&dax->lock);
	if (dax->sock < 0) {
		dax->sock = sock;
		err = 0;
		eventfd_write(dax->wake_fd, 1);
	}
	pthread_mutex_unlock(&dax->lock);
	return err;
}

void dax_watch(struct dax *dax, int event_fd)
{
	__atomic_store_n(&dax->event_fd, event_fd, __ATOMIC_RELEASE);
}

int dax_begin(struct dax *dax)
{
	int err;

	if (dax->started)
		return 0;
	err = thread_start(&dax->thread, "pyvmm-dax", dax_main, dax);
	dax->started = !err;
	return err;
}

int dax_forbidden(struct dax *dax)
{
	return __atomic_load_n(&dax->forbidden, __ATOMIC_ACQUIRE);
}
