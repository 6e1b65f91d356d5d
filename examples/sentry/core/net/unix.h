/* SPDX-License-Identifier: Apache-2.0 */
/* Sockets of the family AF_UNIX: their ends, and what the files of the family share. */
#ifndef SENTRY_UNIX_H
#define SENTRY_UNIX_H

#include "socket.h"

struct packet {
	struct list list;
	u64 size, start;
	u8 *data;
	struct rights *rights;
	struct credentials sender;
	struct endpoint *from; /* a reference, for its name; NULL: it has none */
};

/* One end. It lives as long as its socket, or while another end or a message refers to it. */
struct endpoint {
	u32 references;
	struct socket *socket; /* NULL: closed */
	struct endpoint *peer; /* a reference */
	struct list packets;
	u64 bytes;
	u32 count;
	struct wait_queue readable, writable;
	struct wait_queue room; /* of those that wait for room for a packet or connection */
	struct mutex binding;	/* of a task that makes a file for the name, which can sleep */
	struct mutex receiving; /* of a receiver while it copies packets, which can sleep */
	bool no_receive, no_send;
	struct list waiting; /* of a listener: connections that nobody accepted */
	struct list in_waiting;
	u32 waiting_count, backlog;
	struct address name;
	u32 name_size;
	struct path place; /* of a name in a file system */
	struct list bound;
	struct list all; /* until its socket is closed */
};

static inline struct endpoint *end_of(struct socket *socket)
{
	return socket->data;
}

static inline bool is_stream(const struct socket *socket)
{
	return socket->type == SOCK_STREAM;
}

static inline bool is_datagram(const struct socket *socket)
{
	return socket->type == SOCK_DGRAM;
}

/* -- unix.c -- */

void endpoint_put(struct endpoint *end);
struct list *unix_all(void); /* all ends with a socket */
struct credentials unix_credentials(void); /* of the caller */

/* -- unix_name.c -- */

int unix_check_name(const struct address *address, u32 size); /* 0 or -EINVAL */
int unix_find(const struct address *address, u32 size, struct endpoint **result); /* a reference; 0 or -errno */
int unix_bind(struct socket *socket, const struct address *address, u32 size);
void unix_put_name(const struct endpoint *end, struct address *address, u32 *size);

/* -- unix_message.c -- */

bool unix_has_room(const struct endpoint *to, const struct socket *socket);
void packet_free(struct packet *packet);
s64 unix_send(struct socket *socket, struct message *message, struct io *from, u32 flags);
s64 unix_receive(struct socket *socket, struct message *message, struct io *to, u32 flags);

#endif
