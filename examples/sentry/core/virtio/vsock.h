/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sockets between the host and the core (virtio 1.2, 5.10): connections that the host opens to a port of the core.
 *
 * None of these functions sleeps. A caller waits on the queues of a connection, and tries again.
 */
#ifndef SENTRY_VSOCK_H
#define SENTRY_VSOCK_H

#include "../list.h"
#include "../wait_queue.h"

enum { VSOCK_BUFFER = 64 << 10 }; /* bytes that the host may have sent and nobody has read */

struct vsock {
	struct list all;
	u32 port, host_port;
	bool attached; /* until vsock_close() */
	bool ended;    /* nothing more comes from the host */
	bool closed;   /* nothing more can be sent */
	bool finished; /* it was reset: no packet belongs to it any more */
	u8 owed;       /* packets that did not fit into the queue, by their operation */
	u8 *buffer;
	u32 first, used;
	u32 taken, reported; /* bytes that were read here, and how many of them were reported to the host */
	u32 room;	     /* size of the host's buffer */
	u32 sent, host_taken; /* bytes that were sent, and how many of them the host has read */
	struct wait_queue readable, writable; /* also woken by the end */
};

/* Call `accept` for each connection of the host to a port: it must not sleep. false: the connection is refused. */
void vsock_listen(u32 port, bool (*accept)(struct vsock *socket));
bool vsock_is_there(void);
bool vsock_has_sent(void); /* everything so far */
s64 vsock_read(struct vsock *socket, void *to, u64 size); /* 0: the end; -EAGAIN */
s64 vsock_write(struct vsock *socket, const void *from, u64 size); /* how many; -EAGAIN, -EPIPE */
void vsock_close(struct vsock *socket); /* which the caller uses no longer */

#endif
