// SPDX-License-Identifier: Apache-2.0
/* Sockets of the family AF_UNIX: streams, datagrams and sequences of packets, alone, in pairs or connected. */
#include "../vfs/calls.h"
#include "unix.h"

static struct slab endpoints = SLAB(struct endpoint);
static const struct socket_operations operations;

/* -- lives -- */

void endpoint_put(struct endpoint *end)
{
	if (!end || !reference_put(&end->references))
		return;
	wait_queue_end(&end->room); /* a poll of a socket also waits for its peer, which can be another by now */
	slab_free(&endpoints, end);
}

struct list *unix_all(void)
{
	if (!vfs.sockets.next)
		list_init(&vfs.sockets);
	return &vfs.sockets;
}

static struct socket *make(u16 type)
{
	struct socket *socket = socket_new(AF_UNIX, type, &operations);
	struct endpoint *end = socket ? slab_alloc(&endpoints) : NULL;

	if (!end) {
		kfree(socket);
		return NULL;
	}
	end->references = 1;
	end->socket = socket;
	list_init(&end->packets);
	list_init(&end->waiting);
	list_init(&end->in_waiting);
	list_init(&end->bound);
	list_add(unix_all(), &end->all);
	socket->data = end;
	return socket;
}

int unix_create(struct socket **socket, u32 type, s32 protocol)
{
	if (protocol && protocol != AF_UNIX)
		return -EPROTONOSUPPORT;
	if (type == SOCK_RAW)
		type = SOCK_DGRAM;
	if (type != SOCK_STREAM && type != SOCK_DGRAM && type != SOCK_SEQPACKET)
		return -ESOCKTNOSUPPORT;
	*socket = make((u16)type);
	return *socket ? 0 : -ENOMEM;
}

struct credentials unix_credentials(void)
{
	const struct cred *cred = &core.current->cred;
	const struct process *p = core.current->process;

	return (struct credentials){ { p->pid, cred->user.effective, cred->group.effective }, p->pids };
}

static void join(struct endpoint *a, struct endpoint *b)
{
	reference_get(&a->references);
	reference_get(&b->references);
	a->peer = b;
	b->peer = a;
}

void unix_pair(struct socket *a, struct socket *b)
{
	join(end_of(a), end_of(b));
	a->peer = b->peer = unix_credentials();
}

/* Wake all that wait for an end, whose state has changed. */
static void changed(struct endpoint *end)
{
	wake_all(&end->readable);
	wake_all(&end->writable);
	wake_all(&end->room);
}

/* Close both directions of the other end. */
static void hang_up(struct endpoint *peer, bool unread)
{
	peer->no_receive = peer->no_send = true;
	if (unread && peer->socket)
		peer->socket->error = -ECONNRESET;
	changed(peer);
}

static void drop_packets(struct endpoint *end)
{
	while (!list_empty(&end->packets)) {
		struct packet *packet = CONTAINER(end->packets.next, struct packet, list);

		list_remove(&packet->list);
		packet_free(packet);
	}
	end->bytes = end->count = 0;
}

static void endpoint_close(struct endpoint *end)
{
	struct endpoint *peer = end->peer;
	bool unread = !list_empty(&end->packets), datagram = is_datagram(end->socket);

	end->socket = NULL;
	end->no_receive = end->no_send = true;
	list_remove(&end->bound);
	list_remove(&end->all);
	path_put(&end->place);
	while (!list_empty(&end->waiting)) {
		struct endpoint *one = CONTAINER(end->waiting.next, struct endpoint, in_waiting);
		struct socket *socket = one->socket;

		list_remove(&one->in_waiting);
		hang_up(one->peer, true);
		endpoint_close(one);
		kfree(socket);
	}
	drop_packets(end);
	changed(end);
	end->peer = NULL;
	if (peer && !datagram)
		hang_up(peer, unread);
	else if (peer)
		wake_all(&peer->room);
	endpoint_put(peer);
	endpoint_put(end);
}

static void release(struct socket *socket)
{
	endpoint_close(end_of(socket));
}

/* -- connections -- */

static int connect_datagram(struct socket *socket, const struct address *address, u32 size)
{
	struct endpoint *end = end_of(socket), *other = NULL;
	int error = 0;

	if (address->family != AF_UNSPEC) {
		error = unix_check_name(address, size);
		if (!error)
			error = unix_find(address, size, &other);
		if (!error && !is_datagram(other->socket)) {
			endpoint_put(other);
			error = -EPROTOTYPE;
		}
		if (error)
			return error;
	}
	endpoint_put(end->peer);
	end->peer = other;
	return 0;
}

/* Queue a new end at a listener. */
static int queue_connection(struct socket *socket, struct endpoint *listener)
{
	struct socket *new = make(socket->type);
	struct endpoint *end = new ? end_of(new) : NULL;

	if (!new)
		return -ENOMEM;
	end->name = listener->name;
	end->name_size = listener->name_size;
	join(end_of(socket), end);
	new->peer = unix_credentials();
	socket->peer = listener->socket->peer;
	list_add(&listener->waiting, &end->in_waiting);
	listener->waiting_count++;
	wake_all(&listener->readable);
	return 0;
}

/* -EAGAIN: the queue of the listener is full. */
static int try_connect(struct socket *socket, struct endpoint *listener)
{
	if (listener->socket->type != socket->type)
		return -EPROTOTYPE;
	if (!listener->socket->listening)
		return -ECONNREFUSED;
	if (socket->listening)
		return -EINVAL;
	if (end_of(socket)->peer)
		return -EISCONN;
	return listener->waiting_count <= listener->backlog ? queue_connection(socket, listener) : -EAGAIN;
}

static int connect(struct socket *socket, const struct address *address, u32 size, bool wait)
{
	struct endpoint *listener;
	u64 deadline = socket_deadline(socket->send_timeout, wait);
	int error;

	if (is_datagram(socket))
		return connect_datagram(socket, address, size);
	error = unix_check_name(address, size);
	while (!error) {
		error = unix_find(address, size, &listener);
		if (error)
			break;
		error = try_connect(socket, listener);
		if (error != -EAGAIN) {
			endpoint_put(listener);
			break;
		}
		error = (int)socket_wait(&listener->room, deadline);
		endpoint_put(listener);
	}
	return error;
}

static int listen(struct socket *socket, u32 backlog)
{
	struct endpoint *end = end_of(socket);

	if (is_datagram(socket))
		return -EOPNOTSUPP;
	if (!end->name_size || end->peer)
		return -EINVAL;
	end->backlog = backlog;
	socket->listening = true;
	socket->peer = unix_credentials();
	wake_all(&end->room);
	return 0;
}

static int accept(struct socket *socket, struct socket **new, bool wait)
{
	struct endpoint *end = end_of(socket), *one;
	u64 deadline = socket_deadline(socket->receive_timeout, wait);

	if (is_datagram(socket))
		return -EOPNOTSUPP;
	if (!socket->listening)
		return -EINVAL;
	while (list_empty(&end->waiting)) {
		s64 error;

		if (end->no_receive)
			return -EINVAL;
		error = socket_wait(&end->readable, deadline);
		if (error)
			return (int)error;
	}
	one = CONTAINER(end->waiting.next, struct endpoint, in_waiting);
	list_remove(&one->in_waiting);
	end->waiting_count--;
	wake_all(&end->room);
	*new = one->socket;
	return 0;
}

/* -- the rest -- */

static int name(struct socket *socket, struct address *address, u32 *size, bool of_peer)
{
	struct endpoint *end = end_of(socket);

	if (of_peer && !end->peer)
		return -ENOTCONN;
	unix_put_name(of_peer ? end->peer : end, address, size);
	return 0;
}

static int shutdown(struct socket *socket, bool stop_receive, bool stop_send)
{
	struct endpoint *end = end_of(socket), *peer = is_datagram(socket) ? NULL : end->peer;

	end->no_receive |= stop_receive;
	end->no_send |= stop_send;
	changed(end);
	if (!peer)
		return 0;
	peer->no_send |= stop_receive;
	peer->no_receive |= stop_send;
	changed(peer);
	return 0;
}

static u32 poll(struct socket *socket, struct poll *poll)
{
	struct endpoint *end = end_of(socket), *peer = end->peer;
	bool connected = peer || is_datagram(socket);
	u32 events = socket->error ? POLLERR : 0;

	poll_wait(poll, &end->readable);
	poll_wait(poll, &end->writable);
	if (peer && is_datagram(socket))
		poll_wait(poll, &peer->room);
	if (end->no_receive && end->no_send)
		events |= POLLHUP;
	if (end->no_receive)
		events |= POLLRDHUP | POLLIN | POLLRDNORM;
	if (!list_empty(&end->packets) || !list_empty(&end->waiting))
		events |= POLLIN | POLLRDNORM;
	if (!connected && !socket->listening)
		events |= POLLHUP;
	if (!socket->listening && (!peer || !peer->socket || unix_has_room(peer, socket)))
		events |= POLLOUT | POLLWRNORM | POLLWRBAND;
	return events;
}

static u64 readable(struct socket *socket)
{
	struct endpoint *end = end_of(socket);

	if (!is_stream(socket) && !list_empty(&end->packets))
		return CONTAINER(end->packets.next, struct packet, list)->size;
	return end->bytes;
}

static const struct socket_operations operations = {
	.bind = unix_bind,
	.connect = connect,
	.listen = listen,
	.accept = accept,
	.name = name,
	.send = unix_send,
	.receive = unix_receive,
	.shutdown = shutdown,
	.poll = poll,
	.readable = readable,
	.release = release,
};
