/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bytes between two sockets, both ways, until both have ended: what the host dials in the machine, and what containers
 * dial of the host's. A relay that waits has no memory for bytes; one whose receiver is slow keeps what was read once.
 */
#ifndef AGENT_RELAY_H
#define AGENT_RELAY_H

#include "loop.h"
#include "util.h"

#include <sys/types.h>

/* The host dials TCP servers of the machine here. */
#define FORWARD_PORT 1026
/* Connections of a listener at a time; others wait in its backlog. */
#define RELAYS_MAX 256

struct relay_listener;

/*
 * Serve a listening socket, whose connections `may` lets in (NULL: all). Each sends six bytes: an IPv4 address of the
 * loopback interface, 0 for ::1, and a port, both big-endian. The same address of the other family is tried when nobody
 * listens there. It is answered by a byte, 0 or an errno; what follows a 0 is the server's. 0 or -errno.
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
 * Listen on a unix socket at place->path, whose directory is made; each client is connected to that port of the
 * host. 0 or -errno.
 */
int socket_serve(const struct socket_place *place, struct relay_listener **made);
/* End it and its connections, and remove its path. */
void socket_end(struct relay_listener *listener);

/* A socket that is being connected to a port of the host, without waiting for it, or -errno. A test has other hosts. */
int host_connect(unsigned int port);

#endif
