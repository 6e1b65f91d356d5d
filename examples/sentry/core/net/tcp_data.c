// SPDX-License-Identifier: Apache-2.0
/* Bytes of streams of AF_INET and AF_INET6. */
#include "inet.h"

enum { PART = 32768 - 512, QUEUE_MOST = TCP_SND_QUEUELEN / 2 };

u64 tcp_unsent(const struct inet *inet)
{
	return inet->tcp && !inet->listening ? TCP_SND_BUF - inet->tcp->snd_buf : 0;
}

u64 tcp_room(const struct socket *socket)
{
	const struct inet *inet = socket->data;
	u64 used, room;

	if (!inet->tcp || tcp_sndqueuelen(inet->tcp) >= QUEUE_MOST)
		return 0;
	room = inet->tcp->snd_buf;
	used = TCP_SND_BUF - room;
	if (used >= socket->send_size)
		return 0;
	return room < socket->send_size - used ? room : socket->send_size - used;
}

bool tcp_is_writable(const struct socket *socket)
{
	u64 room = tcp_room(socket);

	return room * 3 >= TCP_SND_BUF || room * 3 >= socket->send_size;
}

/* -- sending -- */

static s64 sending_error(struct inet *inet, u32 flags)
{
	s64 error = inet_take_error(inet);

	return error && error != -EPIPE ? error : socket_broken(flags);
}

/* Wait for room, if there is none for a third of the buffer: 0, or what the call returns if it has sent nothing. */
static s64 wait_for_room(struct socket *socket, u32 flags, u64 deadline)
{
	struct inet *inet = inet_of(socket);

	for (bool waited = false;; waited = true) {
		bool connecting = inet->tcp && !inet->established && !inet->listening;
		s64 error;

		if (inet->error || inet->no_send || (!connecting && !inet->established) || !inet->tcp)
			return sending_error(inet, flags);
		if (!connecting && (waited ? tcp_is_writable(socket) : tcp_room(socket) != 0))
			return 0;
		error = socket_wait(&inet->changed, deadline);
		if (error)
			return error;
	}
}

static void push(struct inet *inet)
{
	if (inet->tcp && !inet->listening && !inet_is_corked(inet))
		tcp_output(inet->tcp);
	net_run();
}

/* Pass bytes to lwIP, which copies them: how many it accepted. */
static u64 queue(struct socket *socket, const u8 *data, u64 size, bool more)
{
	struct inet *inet = inet_of(socket);
	u64 room = tcp_room(socket);

	size = size < room ? size : room;
	if (!size || inet->no_send || tcp_write(inet->tcp, data, (u16)size, TCP_WRITE_FLAG_COPY | (more ? TCP_WRITE_FLAG_MORE : 0)) != ERR_OK)
		return 0;
	if (!more || !tcp_room(socket))
		tcp_output(inet->tcp);
	net_run();
	return size;
}

/* Send bytes that were copied from the program: how many lwIP accepted, or -errno. */
static s64 send_part(struct socket *socket, const u8 *part, u64 size, u32 flags, u64 deadline)
{
	struct inet *inet = inet_of(socket);
	bool corked = flags & MSG_MORE || inet_is_corked(inet);
	u64 done = 0;

	while (done < size) {
		s64 error = wait_for_room(socket, flags, deadline);
		u64 taken;

		if (error)
			return done ? (s64)done : error;
		taken = queue(socket, part + done, size - done, corked);
		if (!taken && inet->tcp && !tcp_sndqueuelen(inet->tcp))
			return done ? (s64)done : -ENOBUFS; /* nothing will make room */
		if (!taken && inet->tcp) {
			push(inet);
			error = socket_wait(&inet->changed, deadline);
		}
		if (error)
			return done ? (s64)done : error;
		done += taken;
	}
	return (s64)done;
}

s64 tcp_socket_send(struct socket *socket, struct message *message, struct io *from, u32 flags)
{
	u64 deadline = socket_deadline(socket->send_timeout, !(flags & MSG_DONTWAIT)), done = 0;
	s64 result = 0;
	u8 *part;

	(void)message;
	if (flags & MSG_OOB)
		return -EOPNOTSUPP;
	if (!from->left) {
		struct inet *inet = inet_of(socket);

		return inet->established && !inet->no_send && !inet->error ? 0 : wait_for_room(socket, flags, deadline);
	}
	part = buffer_alloc(from->left < PART ? from->left : PART);
	if (!part)
		return -ENOBUFS;
	while (from->left && result >= 0) {
		u32 now = done ? flags | MSG_NOSIGNAL : flags;
		u64 size;

		result = wait_for_room(socket, now, deadline);
		if (result)
			break;
		size = tcp_room(socket);
		size = size < PART ? size : PART;
		size = io_get(from, part, from->left < size ? from->left : size);
		/* The segments of a call leave together. */
		now |= from->left ? MSG_MORE : 0;
		result = size ? send_part(socket, part, size, now, deadline) : -EFAULT;
		if (result > 0)
			done += (u64)result;
		if (result >= 0 && (u64)result < size)
			break;
	}
	if (from->left && !(flags & MSG_MORE))
		push(inet_of(socket));
	kfree(part);
	return done ? (s64)done : result;
}

/* -- receiving -- */

/* Wait for bytes: 1 with the lock; 0: there will be none; -errno. */
static s64 begin_receiving(struct inet *inet, u64 deadline)
{
	for (;;) {
		s64 error;

		if (!list_empty(&inet->chunks)) {
			mutex_lock(&inet->receiving);
			if (!list_empty(&inet->chunks))
				return 1;
			mutex_unlock(&inet->receiving);
			continue;
		}
		if (inet->error && !inet->finished)
			return inet_take_error(inet);
		if (inet->ended || inet->no_receive)
			return 0;
		if (!inet->tcp || inet->listening)
			return -ENOTCONN;
		error = socket_wait(&inet->changed, deadline);
		if (error)
			return error;
	}
}

/* The program has read so many bytes: the other side may send more. */
static void give_window(struct inet *inet, u64 size)
{
	while (inet->tcp && size) {
		u16 part = size < 0xffff ? (u16)size : 0xffff;

		tcp_recved(inet->tcp, part);
		size -= part;
	}
	net_run();
}

/* Copy bytes that have arrived. */
static s64 take(struct inet *inet, struct io *to, u32 flags)
{
	struct list *at = inet->chunks.next;
	u64 done = 0;

	while (at != &inet->chunks && to->left) {
		struct chunk *chunk = CONTAINER(at, struct chunk, list);
		u64 rest = chunk->data->tot_len - chunk->start, part = rest < to->left ? rest : to->left;
		u64 moved = flags & MSG_TRUNC ? part : chunk_copy(chunk, part, to);

		if (flags & MSG_TRUNC)
			to->left -= part;
		done += moved;
		at = at->next;
		if (!(flags & MSG_PEEK)) {
			chunk->start += (u32)moved;
			inet->bytes -= moved;
			if (chunk->start == chunk->data->tot_len)
				chunk_free(inet, chunk);
		}
		if (moved < part)
			return done ? (s64)done : -EFAULT;
	}
	return (s64)done;
}

s64 tcp_socket_receive(struct socket *socket, struct message *message, struct io *to, u32 flags)
{
	u64 deadline = socket_deadline(socket->receive_timeout, !(flags & MSG_DONTWAIT)), done = 0;
	struct inet *inet = inet_of(socket);

	message->address_size = 0;
	if (flags & MSG_ERRQUEUE)
		return -EAGAIN; /* there are no errors with details */
	if (flags & MSG_OOB)
		return -EINVAL;
	if (!to->left && inet->established)
		return 0;
	do {
		s64 result = begin_receiving(inet, deadline);

		if (result <= 0)
			return done ? (s64)done : result;
		result = take(inet, to, flags);
		mutex_unlock(&inet->receiving);
		if (result < 0)
			return done ? (s64)done : result;
		if (!(flags & MSG_PEEK))
			give_window(inet, (u64)result);
		done += (u64)result;
	} while (flags & MSG_WAITALL && !(flags & MSG_PEEK) && to->left);
	return (s64)done;
}
