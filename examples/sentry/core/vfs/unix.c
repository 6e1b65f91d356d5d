// SPDX-License-Identifier: Apache-2.0
/* Sockets of the family AF_UNIX: streams, datagrams and sequences of packets, by name or in pairs. */
#include "calls.h"
#include "socket.h"

enum { CHUNK = 32768, MOST_PACKETS = 512, PATH_SIZE = 108, BACKLOG_MOST = 4096 };

struct packet {
	struct list list;
	u64 size, start;
	u8 *data;
	struct rights *rights;
	struct credentials_message sender;
	struct endpoint *from; /* a reference, for its name; NULL: it has none */
};

/* One end. It lives as long as its socket, or somebody's peer or message. */
struct endpoint {
	u32 references;
	struct socket *socket; /* NULL: closed */
	struct endpoint *peer; /* a reference */
	struct list packets;
	u64 bytes;
	u32 count;
	struct wait_queue readable, writable;
	struct mutex receiving; /* of a receiver while it copies packets, which can sleep */
	bool no_receive, no_send;
	struct list waiting; /* of a listener: connections that nobody accepted */
	struct list in_waiting;
	u32 waiting_count, backlog;
	struct address name;
	u32 name_size;
	struct path place; /* of a name in a file system */
	struct list bound;
};

static struct slab endpoints = SLAB(struct endpoint);
static struct slab packets = SLAB(struct packet);
static const struct socket_operations operations;

static struct endpoint *end_of(struct socket *socket)
{
	return socket->data;
}

static bool is_stream(const struct socket *socket)
{
	return socket->type == SOCK_STREAM;
}

static bool is_datagram(const struct socket *socket)
{
	return socket->type == SOCK_DGRAM;
}

static struct list *bound_list(void)
{
	if (!vfs.bound.next)
		list_init(&vfs.bound);
	return &vfs.bound;
}

/* -- lives -- */

static void packet_free(struct packet *packet);

static void endpoint_put(struct endpoint *end)
{
	if (end && reference_put(&end->references))
		slab_free(&endpoints, end);
}

static void packet_free(struct packet *packet)
{
	rights_free(packet->rights);
	endpoint_put(packet->from);
	kfree(packet->data);
	slab_free(&packets, packet);
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

static struct credentials_message own_credentials(void)
{
	return (struct credentials_message){ core.current->process->pid, caller_user(), caller_group() };
}

static void join(struct endpoint *a, struct endpoint *b)
{
	reference_get(&a->references);
	reference_get(&b->references);
	a->peer = b;
	b->peer = a;
}

int unix_pair(struct socket *a, struct socket *b)
{
	join(end_of(a), end_of(b));
	a->peer = b->peer = own_credentials();
	return 0;
}

/* The other end learns that nothing will come or be taken any longer. */
static void hang_up(struct endpoint *peer, bool unread)
{
	peer->no_receive = peer->no_send = true;
	if (unread && peer->socket)
		peer->socket->error = -ECONNRESET;
	wake_all(&peer->readable);
	wake_all(&peer->writable);
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
	wake_all(&end->readable);
	wake_all(&end->writable);
	end->peer = NULL;
	if (peer && !datagram)
		hang_up(peer, unread);
	else if (peer)
		wake_all(&peer->writable);
	endpoint_put(peer);
	endpoint_put(end);
}

static void release(struct socket *socket)
{
	endpoint_close(end_of(socket));
}

/* -- names -- */

/* A name in a file system ends with a zero that may be missing: 0 or -EINVAL. */
static int check_name(const struct address *address, u32 size)
{
	if (size <= 2 || size > 2 + PATH_SIZE)
		return -EINVAL;
	return address->family == AF_UNIX ? 0 : -EINVAL;
}

static bool is_abstract(const struct address *address)
{
	return !address->rest[0];
}

static bool same_name(const struct endpoint *end, const struct address *address, u32 size)
{
	return !end->place.dentry && end->name_size == size && bytes_equal(&end->name, address, size);
}

/* The endpoint that is bound to a name, borrowed, or -errno. */
static int find_bound(const struct address *address, u32 size, struct endpoint **result)
{
	struct path path;
	int error;

	*result = NULL;
	if (is_abstract(address)) {
		LIST_EACH(at, bound_list())
			if (same_name(CONTAINER(at, struct endpoint, bound), address, size))
				*result = CONTAINER(at, struct endpoint, bound);
		return *result ? 0 : -ECONNREFUSED;
	}
	error = path_lookup(address->rest, WALK_FOLLOW, &path);
	if (error)
		return error;
	error = inode_permission(path.dentry->inode, MAY_WRITE);
	if (!error) {
		LIST_EACH(at, bound_list()) {
			struct endpoint *end = CONTAINER(at, struct endpoint, bound);

			if (end->place.dentry && end->place.dentry->inode == path.dentry->inode)
				*result = end;
		}
	}
	path_put(&path);
	return error ? error : *result ? 0 : -ECONNREFUSED;
}

static int bind_path(struct endpoint *end, struct address *address, u32 *size)
{
	int error;

	address->rest[*size - 2] = 0;
	*size = (u32)string_size(address->rest) + 3;
	error = core_mknod(address->rest, S_IFSOCK | (0777 & ~caller_fs()->umask), 0);
	if (!error)
		error = path_lookup(address->rest, 0, &end->place);
	return error == -EEXIST ? -EADDRINUSE : error;
}

/* A name of five digits that nobody has. */
static int bind_automatically(struct endpoint *end)
{
	struct endpoint *other;

	for (u32 number = 0; number < 0x100000; number++) {
		struct address address = { .family = AF_UNIX };

		for (u32 i = 0; i < 5; i++)
			address.rest[1 + i] = "0123456789abcdef"[number >> (16 - 4 * i) & 15];
		if (!find_bound(&address, 8, &other))
			continue;
		end->name = address;
		end->name_size = 8;
		list_add(bound_list(), &end->bound);
		return 0;
	}
	return -ENOSPC;
}

static int bind(struct socket *socket, const struct address *given, u32 size)
{
	struct endpoint *end = end_of(socket), *other;
	struct address address = *given;
	int error;

	if (address.family != AF_UNIX)
		return -EINVAL;
	if (size == 2)
		return end->name_size ? 0 : bind_automatically(end);
	error = check_name(&address, size);
	if (error)
		return error;
	if (end->name_size)
		return -EINVAL;
	if (!is_abstract(&address))
		error = bind_path(end, &address, &size);
	else if (!find_bound(&address, size, &other))
		error = -EADDRINUSE;
	if (error)
		return error;
	end->name = address;
	end->name_size = size;
	list_add(bound_list(), &end->bound);
	return 0;
}

static void put_name(const struct endpoint *end, struct address *address, u32 *size)
{
	*address = end && end->name_size ? end->name : (struct address){ .family = AF_UNIX };
	*size = end && end->name_size ? end->name_size : 2;
}

static int name(struct socket *socket, struct address *address, u32 *size, bool of_peer)
{
	struct endpoint *end = end_of(socket);

	if (of_peer && !end->peer)
		return -ENOTCONN;
	put_name(of_peer ? end->peer : end, address, size);
	return 0;
}

/* -- connections -- */

static int connect_datagram(struct socket *socket, const struct address *address, u32 size)
{
	struct endpoint *end = end_of(socket), *other = NULL;
	int error = 0;

	if (address->family != AF_UNSPEC) {
		error = check_name(address, size);
		if (!error)
			error = find_bound(address, size, &other);
		if (!error && !is_datagram(other->socket))
			error = -EPROTOTYPE;
		if (error)
			return error;
		reference_get(&other->references);
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
	new->peer = own_credentials();
	socket->peer = listener->socket->peer;
	list_add(&listener->waiting, &end->in_waiting);
	listener->waiting_count++;
	wake_all(&listener->readable);
	return 0;
}

static int connect(struct socket *socket, const struct address *address, u32 size, bool wait)
{
	struct endpoint *end = end_of(socket), *listener;
	u64 deadline = socket_deadline(socket->send_timeout, wait);
	int error;

	if (is_datagram(socket))
		return connect_datagram(socket, address, size);
	error = check_name(address, size);
	while (!error) {
		error = find_bound(address, size, &listener);
		if (error)
			break;
		if (listener->socket->type != socket->type)
			return -EPROTOTYPE;
		if (!listener->socket->listening)
			return -ECONNREFUSED;
		if (socket->listening)
			return -EINVAL;
		if (end->peer)
			return -EISCONN;
		if (listener->waiting_count <= listener->backlog)
			return queue_connection(socket, listener);
		if (!deadline)
			return -EAGAIN;
		reference_get(&listener->references);
		error = (int)sleep_on(&listener->writable, deadline);
		endpoint_put(listener);
		if (error == -ETIMEDOUT)
			error = -EAGAIN;
	}
	return error;
}

static int listen(struct socket *socket, s32 backlog)
{
	struct endpoint *end = end_of(socket);

	if (is_datagram(socket))
		return -EOPNOTSUPP;
	if (!end->name_size || end->peer)
		return -EINVAL;
	end->backlog = (u32)backlog > BACKLOG_MOST ? BACKLOG_MOST : (u32)backlog;
	socket->listening = true;
	socket->peer = own_credentials();
	wake_all(&end->writable);
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
		error = deadline ? sleep_on(&end->readable, deadline) : -EAGAIN;
		if (error)
			return error == -ETIMEDOUT ? -EAGAIN : (int)error;
	}
	one = CONTAINER(end->waiting.next, struct endpoint, in_waiting);
	list_remove(&one->in_waiting);
	end->waiting_count--;
	wake_all(&end->writable);
	*new = one->socket;
	return 0;
}

/* -- sending -- */

static bool has_room(const struct endpoint *to, const struct socket *socket)
{
	if (is_datagram(socket))
		return to->count < MOST_PACKETS && to->bytes < 2 * socket->send_size;
	return to->bytes < socket->send_size;
}

static struct packet *packet_new(struct endpoint *from, struct message *message, struct io *io, u64 size)
{
	struct packet *packet = slab_alloc(&packets);

	if (!packet)
		return NULL;
	packet->data = kmalloc(size ? size : 1);
	packet->size = packet->data ? io_get(io, packet->data, size) : 0;
	list_init(&packet->list);
	packet->sender = message->sender_given ? message->sender : own_credentials();
	if (from->name_size) {
		reference_get(&from->references);
		packet->from = from;
	}
	if (!packet->data || packet->size < size) {
		packet_free(packet);
		return NULL;
	}
	packet->rights = message->rights;
	message->rights = NULL;
	return packet;
}

static s64 wait_for_room(struct socket *socket, struct endpoint *to, u64 deadline)
{
	while (to->socket && !to->no_receive && !end_of(socket)->no_send && !has_room(to, socket)) {
		s64 error = deadline ? sleep_on(&to->writable, deadline) : -EAGAIN;

		if (error)
			return error == -ETIMEDOUT ? -EAGAIN : error;
	}
	return 0;
}

static s64 broken(u32 flags)
{
	if (!(flags & MSG_NOSIGNAL))
		signal_raise(core.current, SIGPIPE);
	return -EPIPE;
}

static void deliver(struct endpoint *to, struct packet *packet)
{
	list_add(&to->packets, &packet->list);
	to->bytes += packet->size;
	to->count++;
	wake_all(&to->readable);
}

static s64 send_stream(struct socket *socket, struct message *message, struct io *from, u32 flags, u64 deadline)
{
	struct endpoint *end = end_of(socket), *to = end->peer;
	s64 error = 0;
	u64 done = 0;

	reference_get(&to->references);
	do {
		u64 part = from->left < CHUNK ? from->left : CHUNK;
		struct packet *packet;

		if (end->no_send || to->no_receive || !to->socket) {
			error = done ? 0 : broken(flags);
			break;
		}
		error = wait_for_room(socket, to, deadline);
		if (error || end->no_send || to->no_receive || !to->socket)
			continue;
		if (!part && !message->rights)
			break;
		packet = packet_new(end, message, from, part);
		if (!packet) {
			error = -EFAULT;
			break;
		}
		deliver(to, packet);
		done += part;
	} while (!error && from->left);
	endpoint_put(to);
	return done ? (s64)done : error;
}

static s64 send_packet(struct socket *socket, struct endpoint *to, struct message *message, struct io *from, u64 deadline)
{
	u64 size = from->left;
	struct packet *packet;
	s64 error;

	if (size > socket->send_size)
		return -EMSGSIZE;
	reference_get(&to->references); /* first: what follows can sleep */
	packet = packet_new(end_of(socket), message, from, size);
	error = packet ? wait_for_room(socket, to, deadline) : -EFAULT;
	if (!error && (!to->socket || to->no_receive))
		error = is_datagram(socket) ? (to->socket ? -EPIPE : -ECONNREFUSED) : -EPIPE;
	if (!error)
		deliver(to, packet);
	else if (packet)
		packet_free(packet);
	endpoint_put(to);
	return error ? error : (s64)size;
}

static s64 send_datagram(struct socket *socket, struct message *message, struct io *from, u64 deadline)
{
	struct endpoint *end = end_of(socket), *to = end->peer;
	int error;

	if (message->address_size) {
		error = check_name(&message->address, message->address_size);
		if (!error)
			error = find_bound(&message->address, message->address_size, &to);
		if (error)
			return error;
		if (!is_datagram(to->socket))
			return -EPROTOTYPE;
	}
	if (!to)
		return -ENOTCONN;
	if (!to->socket) {
		if (end->peer == to) {
			end->peer = NULL;
			endpoint_put(to);
		}
		return -ECONNREFUSED;
	}
	return send_packet(socket, to, message, from, deadline);
}

static s64 send(struct socket *socket, struct message *message, struct io *from, u32 flags)
{
	struct endpoint *end = end_of(socket);
	u64 deadline = socket_deadline(socket->send_timeout, !(flags & MSG_DONTWAIT));
	s64 result;

	if (flags & MSG_OOB)
		return -EOPNOTSUPP;
	if (is_datagram(socket)) {
		if (end->no_send)
			return broken(flags);
		result = send_datagram(socket, message, from, deadline);
		return result == -EPIPE ? broken(flags) : result;
	}
	if (message->address_size && is_stream(socket))
		return end->peer ? -EISCONN : -EOPNOTSUPP;
	if (!end->peer)
		return -ENOTCONN;
	if (is_stream(socket))
		return send_stream(socket, message, from, flags, deadline);
	if (end->no_send || end->peer->no_receive)
		return broken(flags);
	result = send_packet(socket, end->peer, message, from, deadline);
	return result == -EPIPE ? broken(flags) : result;
}

/* -- receiving -- */

static s64 wait_for_packet(struct socket *socket, u64 deadline)
{
	struct endpoint *end = end_of(socket);

	while (list_empty(&end->packets)) {
		s64 error;

		if (socket->error) {
			error = socket->error;
			socket->error = 0;
			return error;
		}
		if (end->no_receive)
			return -ESHUTDOWN;
		if (!end->peer && !is_datagram(socket))
			return socket->type == SOCK_STREAM ? -EINVAL : -ENOTCONN;
		error = deadline ? sleep_on(&end->readable, deadline) : -EAGAIN;
		if (error)
			return error == -ETIMEDOUT ? -EAGAIN : error;
	}
	return 0;
}

/* Wait until there is a packet, and no other receiver at the socket: 0 with the lock, or -errno. */
static s64 begin_receiving(struct socket *socket, u64 deadline)
{
	struct endpoint *end = end_of(socket);

	for (;;) {
		s64 error = wait_for_packet(socket, deadline);

		if (error)
			return error;
		mutex_lock(&end->receiving);
		if (!list_empty(&end->packets))
			return 0;
		mutex_unlock(&end->receiving);
	}
}

static void take_packet(struct endpoint *end, struct packet *packet)
{
	list_remove(&packet->list);
	end->count--;
	packet_free(packet);
	wake_all(&end->writable);
}

static struct rights *copy_rights(const struct rights *from)
{
	struct rights *copy = from ? kmalloc(sizeof(*copy)) : NULL;

	for (u32 i = 0; copy && i < from->count; i++) {
		copy->files[i] = from->files[i];
		file_get(copy->files[i]);
		copy->count++;
	}
	return copy;
}

/* What comes with the bytes of a packet. */
static void describe(struct packet *packet, struct message *message, bool peek)
{
	message->sender = packet->sender;
	if (packet->from)
		put_name(packet->from, &message->address, &message->address_size);
	if (peek) {
		message->rights = copy_rights(packet->rights);
	} else {
		message->rights = packet->rights;
		packet->rights = NULL;
	}
}

/* The first packet, or as much of it as there is room for. */
static s64 take_first(struct endpoint *end, struct message *message, struct io *to, u32 flags)
{
	struct packet *packet = CONTAINER(end->packets.next, struct packet, list);
	u64 part = packet->size < to->left ? packet->size : to->left;

	message->flags |= part < packet->size ? MSG_TRUNC : 0;
	message->whole = packet->size;
	if (io_put(to, packet->data, part) < part)
		return -EFAULT;
	describe(packet, message, flags & MSG_PEEK);
	if (!(flags & MSG_PEEK)) {
		end->bytes -= packet->size;
		take_packet(end, packet);
	}
	return flags & MSG_TRUNC ? (s64)message->whole : (s64)part;
}

static s64 receive_packet(struct socket *socket, struct message *message, struct io *to, u32 flags, u64 deadline)
{
	struct endpoint *end = end_of(socket);
	s64 result = begin_receiving(socket, deadline);

	if (result)
		return result == -ESHUTDOWN ? 0 : result;
	result = take_first(end, message, to, flags);
	mutex_unlock(&end->receiving);
	return result;
}

static bool goes_together(const struct message *message, const struct packet *packet, const struct credentials_message *sender)
{
	return !message->rights && (!message->wants_sender || (packet->sender.pid == sender->pid &&
							      packet->sender.user == sender->user));
}

/* Bytes of the packets that are there. */
static s64 take_stream(struct endpoint *end, struct message *message, struct io *to, bool peek)
{
	struct list *at = end->packets.next;
	u64 done = 0;

	while (at != &end->packets && to->left) {
		struct packet *packet = CONTAINER(at, struct packet, list);
		u64 rest = packet->size - packet->start, part = rest < to->left ? rest : to->left, moved;

		if (done && (packet->rights || !goes_together(message, packet, &message->sender)))
			break;
		moved = io_put(to, packet->data + packet->start, part);
		if (!moved && part)
			return done ? (s64)done : -EFAULT;
		describe(packet, message, peek);
		done += moved;
		at = at->next;
		if (peek)
			continue;
		packet->start += moved;
		end->bytes -= moved;
		if (packet->start == packet->size)
			take_packet(end, packet);
		if (message->rights)
			break;
	}
	wake_all(&end->writable);
	return (s64)done;
}

static s64 receive_stream(struct socket *socket, struct message *message, struct io *to, u32 flags, u64 deadline)
{
	u64 done = 0;

	do {
		s64 result;

		if (!end_of(socket)->peer && list_empty(&end_of(socket)->packets) && !end_of(socket)->no_receive)
			return -EINVAL;
		if (!to->left)
			break;
		result = begin_receiving(socket, deadline);
		if (result)
			return done || result == -ESHUTDOWN ? (s64)done : result;
		result = take_stream(end_of(socket), message, to, flags & MSG_PEEK);
		mutex_unlock(&end_of(socket)->receiving);
		if (result < 0)
			return done ? (s64)done : result;
		done += (u64)result;
	} while (flags & MSG_WAITALL && !(flags & MSG_PEEK) && to->left && !message->rights);
	return (s64)done;
}

static s64 receive(struct socket *socket, struct message *message, struct io *to, u32 flags)
{
	u64 deadline = socket_deadline(socket->receive_timeout, !(flags & MSG_DONTWAIT));

	message->address_size = 0;
	if (flags & MSG_OOB)
		return is_stream(socket) ? -EINVAL : -EOPNOTSUPP;
	if (!is_stream(socket))
		return receive_packet(socket, message, to, flags, deadline);
	return receive_stream(socket, message, to, flags, deadline);
}

/* -- the rest -- */

static int shutdown(struct socket *socket, bool stop_receive, bool stop_send)
{
	struct endpoint *end = end_of(socket), *peer = is_datagram(socket) ? NULL : end->peer;

	end->no_receive |= stop_receive;
	end->no_send |= stop_send;
	wake_all(&end->readable);
	wake_all(&end->writable);
	if (!peer)
		return 0;
	peer->no_send |= stop_receive;
	peer->no_receive |= stop_send;
	wake_all(&peer->readable);
	wake_all(&peer->writable);
	return 0;
}

static u32 poll(struct socket *socket, struct poll *poll)
{
	struct endpoint *end = end_of(socket), *peer = end->peer;
	bool connected = peer || is_datagram(socket);
	u32 events = socket->error ? POLLERR : 0;

	poll_wait(poll, &end->readable);
	poll_wait(poll, &end->writable);
	if (peer)
		poll_wait(poll, &peer->writable);
	if (end->no_receive && end->no_send)
		events |= POLLHUP;
	if (end->no_receive)
		events |= POLLRDHUP | POLLIN | POLLRDNORM;
	if (!list_empty(&end->packets) || !list_empty(&end->waiting))
		events |= POLLIN | POLLRDNORM;
	if (!connected && !socket->listening)
		events |= POLLHUP;
	if (!socket->listening && (!peer || !peer->socket || has_room(peer, socket)))
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
	.bind = bind,
	.connect = connect,
	.listen = listen,
	.accept = accept,
	.name = name,
	.send = send,
	.receive = receive,
	.shutdown = shutdown,
	.poll = poll,
	.readable = readable,
	.release = release,
};
