// SPDX-License-Identifier: Apache-2.0
/* The host's sockets that a guest connects to: by the machine's process, or by its broker. */
#include "vsock/vsock.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

int vsock_reach(int dir_fd, const char *name, uint32_t port, uint32_t type)
{
	const int kind = type == VSOCK_TYPE_SEQPACKET ? SOCK_SEQPACKET : SOCK_STREAM;
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	char path[NAME_MAX + 13]; /* what is longer is no name */
	int at, fd, err = 0;

	snprintf(path, sizeof(path), "%s_%u", name, port);
	/*
	 * Only a socket that is itself in that directory: a symbolic link would have the guest talk to whatever its maker
	 * likes, with our rights. What is connected to is what was looked at.
	 */
	at = openat(dir_fd, path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (at < 0)
		return -errno;
	fd = socket(AF_UNIX, kind | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0) {
		err = -errno;
		close(at);
		return err;
	}
	snprintf(to.sun_path, sizeof(to.sun_path), "/proc/self/fd/%d", at);
	/* EAGAIN: a full backlog, as refused. */
	if (connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0) {
		err = -errno;
		close(fd);
	}
	close(at);
	return err ? err : fd;
}
