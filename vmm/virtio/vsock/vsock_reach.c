// SPDX-License-Identifier: Apache-2.0
/* Connects to the host's socket of a port, in the machine's process or in its broker. */
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
	char path[NAME_MAX + 13]; /* the longest file name, and "_4294967295" */
	int at, fd, err = 0;

	snprintf(path, sizeof(path), "%s_%u", name, port);
	/*
	 * Only a socket that is itself in the directory: by a symbolic link, its maker could have the guest connect to any
	 * socket with our rights. The connection is made to the inode that was opened here.
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
	/* EAGAIN: the backlog is full; that is an error, too. */
	if (connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0) {
		err = -errno;
		close(fd);
	}
	close(at);
	return err ? err : fd;
}
