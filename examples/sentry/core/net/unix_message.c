// SPDX-License-Identifier: Apache-2.0
/* Packets of sockets of the family AF_UNIX, each with its sender and descriptors. */
#include "../vfs/calls.h"
#include "unix.h"

enum { CHUNK = 32768, MOST_PACKETS = 512 };

static struct slab packets = SLAB(struct packet);

void packet_free(struct packet *packet)
{
	rights_free(packet->rights);
	endpoint_put(packet->from);
	kfree(packet->data);
	slab_free(&packets, packet);
}

/* -- sending -- */

bool unix_has_room(const struct endpoint *to, const struct socket *socket)
{
	return to->count < MOST_PACKETS && to->bytes < (is_datagram(socket) ? 2 : 1) * socket->send_size;
}

/* The sender of a message without SCM_CREDENTIALS. */
static struct credentials sender_credentials(void)
{
	const struct cred *cred = &core.current->cred;
	const struct process *p = core.current->process;

	return (struct credentials){ { p->pid, cred->user.real, cred->group.real }, p->pids };
}

static struct packet *packet_new(struct endpoint *from, struct message *message, struct io *io, u64 size)
{
	struct packet *packet = slab_alloc(&packets);

	if (!packet)
		return NULL;
	packet->data = kmalloc(size ? size : 1);
	packet->size = packet->data ? io_get(io, packet->data, size) : 0;
	list_init(&packet->list);
	packet->sender = message->sender_given ? message->sender : sender_credentials();
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
	while (to->socket && !to->no_receive && !end_of(socket)->no_send && !unix_has_room(to, socket)) {
		s64 error = socket_wait(&to->room, deadline);

		if (error)
			return error;
	}
	return 0;
}

static void deliver(struct endpoint *to, struct packet *packet)
{
	list_add(&to->packets, &packet->list);
	to->bytes += packet->size;
	to->count++;
	wake_all(&to->readable);
}

static bool is_cut(const struct endpoint *end, const struct endpoint *to)
{
	return end->no_send || to->no_receive || !to->socket;
}

static s64 send_stream(struct socket *socket, struct message *message, struct io *from, u32 flags, u64 deadline)
{
	struct endpoint *end = end_of(socket), *to = end->peer;
	s64 error = end->no_send ? -EPIPE : 0;
	u64 done = 0;

	reference_get(&to->references);
	while (!error && from->left) {
		u64 part = from->left < CHUNK ? from->left : CHUNK;
		struct packet *packet;

		error = wait_for_room(socket, to, deadline);
		if (error)
			break;
		packet = is_cut(end, to) ? NULL : packet_new(end, message, from, part);
		if (is_cut(end, to)) { /* perhaps while the copy slept */
			error = -EPIPE;
			if (packet)
				packet_free(packet);
		} else if (packet) {
			deliver(to, packet);
			done += part;
		} else {
			error = -EFAULT;
		}
	}
	endpoint_put(to);
	if (done)
		return (s64)done;
	return error == -EPIPE ? socket_broken(flags) : error;
}

static s64 send_packet(struct socket *socket, struct endpoint *to, struct message *message, struct io *from, u64 deadline)
{
	u64 size = from->left;
	struct packet *packet;
	s64 error;

	if (size > socket->send_size)
		return -EMSGSIZE;
	reference_get(&to->references); /* what follows can sleep */
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
	s64 result;
	int error;

	if (message->address_size) {
		error = unix_check_name(&message->address, message->address_size);
		if (!error)
			error = unix_find(&message->address, message->address_size, &to);
		if (error)
			return error;
		result = is_datagram(to->socket) ? send_packet(socket, to, message, from, deadline) : -EPROTOTYPE;
		endpoint_put(to);
		return result;
	}
	if (!to)
		return -ENOTCONN;
	result = send_packet(socket, to, message, from, deadline);
	if (result == -ECONNREFUSED && end->peer == to) {
		end->peer = NULL;
		endpoint_put(to);
	}
	return result;
}

s64 unix_send(struct socket *socket, struct message *message, struct io *from, u32 flags)
{
	struct endpoint *end = end_of(socket);
	u64 deadline = socket_deadline(socket->send_timeout, !(flags & MSG_DONTWAIT));
	s64 result;

	if (flags & MSG_OOB)
		return -EOPNOTSUPP;
	if (is_datagram(socket)) {
		if (end->no_send)
			return socket_broken(flags);
		result = send_datagram(socket, message, from, deadline);
		return result == -EPIPE ? socket_broken(flags) : result;
	}
	if (message->address_size && is_stream(socket))
		return end->peer ? -EISCONN : -EOPNOTSUPP;
	if (!end->peer)
		return -ENOTCONN;
	if (is_stream(socket))
		return send_stream(socket, message, from, flags, deadline);
	if (from->left <= socket->send_size && (end->no_send || end->peer->no_receive))
		return socket_broken(flags);
	result = send_packet(socket, end->peer, message, from, deadline);
	return result == -EPIPE ? socket_broken(flags) : result;
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
			return is_datagram(socket) && !deadline ? -EAGAIN : -ESHUTDOWN; /* as Linux: only a wait ends */
		if (!end->peer && !is_datagram(socket))
			return socket->type == SOCK_STREAM ? -EINVAL : -ENOTCONN;
		error = socket_wait(&end->readable, deadline);
		if (error)
			return error;
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

/* Wake senders to an end, and whoever waits until its peer can send. */
static void room_made(struct endpoint *end)
{
	wake_all(&end->room);
	if (end->peer && end->peer->peer == end)
		wake_all(&end->peer->writable);
}

static void take_packet(struct endpoint *end, struct packet *packet)
{
	list_remove(&packet->list);
	end->count--;
	packet_free(packet);
	room_made(end);
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

/* Put the name, credentials and files of a packet into a message. */
static void describe(struct packet *packet, struct message *message, bool peek)
{
	message->sender = packet->sender;
	if (packet->from)
		unix_put_name(packet->from, &message->address, &message->address_size);
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
	u64 whole = packet->size, part = whole < to->left ? whole : to->left;

	message->flags |= part < whole ? MSG_TRUNC : 0;
	if (io_put(to, packet->data, part) < part)
		return -EFAULT;
	describe(packet, message, flags & MSG_PEEK);
	if (!(flags & MSG_PEEK)) {
		end->bytes -= whole;
		take_packet(end, packet);
	}
	return flags & MSG_TRUNC ? (s64)whole : (s64)part;
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

static bool goes_together(const struct message *message, const struct packet *packet, const struct credentials *sender)
{
	return !message->rights && (!message->wants_sender || (packet->sender.message.pid == sender->message.pid && packet->sender.pids == sender->pids &&
							      packet->sender.message.user == sender->message.user));
}

/* Copy bytes of the packets that have arrived. */
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
	room_made(end);
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

s64 unix_receive(struct socket *socket, struct message *message, struct io *to, u32 flags)
{
	u64 deadline = socket_deadline(socket->receive_timeout, !(flags & MSG_DONTWAIT));

	message->address_size = 0;
	if (flags & MSG_OOB)
		return is_stream(socket) ? -EINVAL : -EOPNOTSUPP;
	if (!is_stream(socket))
		return receive_packet(socket, message, to, flags, deadline);
	return receive_stream(socket, message, to, flags, deadline);
}
