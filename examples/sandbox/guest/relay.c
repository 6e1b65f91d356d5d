// SPDX-License-Identifier: Apache-2.0
/* Connections of the host to servers inside, where no other way leads to them. */
#include "box.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static int dial(const struct sockaddr *address, socklen_t size)
{
	int error, fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd >= 0 && !connect(fd, address, size))
		return fd;
	error = errno;
	if (fd >= 0)
		close(fd);
	return -error;
}

/* relay PORT: between a server at that port of a loopback address and the standard streams. Connected, it first writes
 * a NUL byte. The two directions end independently. */
int box_relay(int argc, char **argv)
{
	in_port_t port = htons((uint16_t)atoi(argv[0]));
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_port = port, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct sockaddr_in6 in6 = { .sin6_family = AF_INET6, .sin6_port = port, .sin6_addr = IN6ADDR_LOOPBACK_INIT };
	int fd = dial((struct sockaddr *)&in, sizeof(in));
	pid_t child;

	(void)argc;
	if (fd == -ECONNREFUSED) {
		fd = dial((struct sockaddr *)&in6, sizeof(in6));
		fd = fd < 0 ? -ECONNREFUSED : fd; /* there may be no IPv6 */
	}
	if (fd < 0)
		return -fd;
	if (write(1, "", 1) != 1)
		return EPIPE;
	child = fork();
	if (child < 0)
		return errno;
	if (!child) {
		close(1);
		/* Who is not read any more ends the other direction, too */
		shutdown(fd, copy_bytes(0, fd, UINT64_MAX) ? SHUT_RDWR : SHUT_WR);
		_exit(0);
	}
	if (copy_bytes(fd, 1, UINT64_MAX))
		shutdown(fd, SHUT_RDWR);
	close(1);
	waitpid(child, NULL, 0);
	return 0;
}
