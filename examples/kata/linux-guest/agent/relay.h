/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Relays: copy bytes between two sockets, in both directions, until both have closed. The host connects to servers in
 * the machine, and containers to services of the host. An idle relay has no buffer; one with a slow receiver keeps
 * one read.
 */
#ifndef AGENT_RELAY_H
#define AGENT_RELAY_H

#include "loop.h"
#include "util.h"

#include <sys/types.h>

/* The vsock port for connections of the host to TCP servers in the machine. */
#define FORWARD_PORT 1026
/* Concurrent connections of a listener; others wait in its backlog. */
#define RELAYS_MAX 256

struct relay_listener;

/*
 * Serve a listening socket; `may` accepts or refuses each connection (NULL: accepts all). A client sends six bytes:
 * an IPv4 loopback address, or 0 for ::1, and a port, both big-endian. If nothing listens there, the other address
 * family is tried. The answer is one byte, 0 or an errno; after a 0 the server's bytes follow. 0 or -errno.
 */
int forward_serve(int fd, bool (*may)(int fd));

struct socket_place {
	const char *path;
	unsigned int port;
	mode_t mode;
	uid_t uid;
	gid_t gid;
};

/*
 * Listen on a unix socket at place->path, and create its directory. Each client is connected to that vsock port of
 * the host. 0 or -errno.
 */
int socket_serve(const struct socket_place *place, struct relay_listener **made);
/* Close it and its connections, and remove its path. */
void socket_end(struct relay_listener *listener);

/* A nonblocking socket that connects to a vsock port of the host, or -errno. Tests replace it. */
int host_connect(unsigned int port);

#endif
