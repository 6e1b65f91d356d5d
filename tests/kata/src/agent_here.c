// SPDX-License-Identifier: Apache-2.0
/*
 * usage: agent_here CONNECTION END [FORWARD]
 *
 * The agent without a machine: it serves one connection until END, a pipe, is closed, and forwards what connects to
 * FORWARD (all are numbers of descriptors). Its directories and crun are those of the directory it is started in, and
 * the host's port N is the unix socket host_N in it.
 */
#include "loop.h"
#include "relay.h"
#include "ttrpc.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static void stop(struct watch *watch, uint32_t events)
{
	(void)watch;
	(void)events;
	exit(0); /* what is leaked now is found */
}

int host_connect(unsigned int port)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "host_%u", port);
	if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address))) {
		int error = -errno;

		close(fd);
		return error;
	}
	return fd;
}

int main(int argc, char *argv[])
{
	static struct watch end = { .ready = stop };

	if (argc != 3 && argc != 4)
		return 2;
	end.fd = atoi(argv[2]);
	/* As process 1 does, it inherits what crun has started. */
	if (prctl(PR_SET_CHILD_SUBREAPER, 1) || loop_init() || watch_add(&end, EPOLLIN) || conn_serve(atoi(argv[1])))
		return 1;
	if (argc == 4 && forward_serve(atoi(argv[3]), NULL))
		return 1;
	loop_run();
	return 1;
}
