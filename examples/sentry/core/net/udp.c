// SPDX-License-Identifier: Apache-2.0
/* Datagrams of AF_INET and AF_INET6. */
#include "inet.h"

enum { LARGEST = 65507, LARGEST_6 = 65487 };

static void got_datagram(void *argument, struct udp_pcb *pcb, struct pbuf *data, const ip_addr_t *from, u16 port)
{
	struct inet *inet = argument;
	struct chunk *chunk = NULL;

	(void)pcb;
	if (ip_current_header_proto() == inet->socket->protocol && inet->cost < inet->socket->receive_size)
		chunk = chunk_new(inet, data);
	if (!chunk) {
		pbuf_free(data);
		return;
	}
	ip_addr_copy(chunk->from, *from);
	chunk->from_port = port;
	inet_note_arrival(chunk);
	wake_all(&inet->changed);
}

/* Open a pcb for the port of the socket, which gets a free one if it has none. */
static int open_pcb(struct socket *socket)
{
	struct inet *inet = inet_of(socket);
	ip_addr_t address;
	int error = inet->udp ? 0 : inet_bind_port(socket);

	if (error || inet->udp)
		return error == -EADDRINUSE ? -EAGAIN : error;
	inet->udp = udp_new_ip_type(inet_type(socket, &inet->local));
	if (!inet->udp)
		return -ENOBUFS;
	inet->udp->flags |= socket->protocol == PROTOCOL_UDPLITE ? UDP_FLAGS_UDPLITE : 0;
	inet_apply_options(socket);
	ip_addr_copy(address, inet->local);
	if (inet_type(socket, &inet->local) == IPADDR_TYPE_ANY)
		IP_SET_TYPE_VAL(address, IPADDR_TYPE_ANY);
	if (udp_bind(inet->udp, &address, inet->local_port) != ERR_OK)
		return -EADDRINUSE;
	udp_recv(inet->udp, got_datagram, inet);
	return 0;
}

static int bind(struct socket *socket, const struct address *address, u32 size)
{
	int error = inet_bind(socket, address, size);

	return error ? error : open_pcb(socket);
}

static void close_pcb(struct inet *inet)
{
	if (inet->udp)
		udp_remove(inet->udp);
	inet->udp = NULL;
}

static int disconnect(struct socket *socket)
{
	struct inet *inet = inet_of(socket);

	close_pcb(inet);
	inet->phase = UNCONNECTED;
	inet->remote_port = 0;
	if (!inet->bound_address)
		ip_addr_set_any(socket->family == AF_INET6, &inet->local);
	if (inet->bound_port)
		return open_pcb(socket);
	if (inet->local_port)
		inet_forget_port(inet);
	return 0;
}

static int find_target(struct socket *socket, const struct address *address, u32 size, ip_addr_t *to, u16 *port)
{
	struct address copy = *address;

	if (copy.family == AF_UNSPEC && socket->family == AF_INET)
		copy.family = AF_INET;
	return inet_get_target(socket, &copy, size, to, port);
}

static int find_source(struct socket *socket, const ip_addr_t *to, ip_addr_t *from)
{
	bool broadcast = IP_IS_V4(to) && ip_2_ip4(to)->addr == IPADDR_BROADCAST;
	int error = net_source(to, from);

	return !error && broadcast && !socket_switch(socket, SO_BROADCAST) ? -EACCES : error;
}

static int connect(struct socket *socket, const struct address *address, u32 size, bool wait)
{
	struct inet *inet = inet_of(socket);
	ip_addr_t to, from;
	u16 port;
	int error;

	(void)wait;
	if (size < sizeof(address->family))
		return -EINVAL;
	if (address->family == AF_UNSPEC)
		return disconnect(socket);
	error = find_target(socket, address, size, &to, &port);
	if (!error)
		error = find_source(socket, &to, &from);
	if (!error)
		error = open_pcb(socket);
	if (error)
		return error;
	if (!inet->bound_address)
		ip_addr_copy(inet->local, from);
	ip_addr_copy(inet->udp->local_ip, inet->local);
	ip_addr_copy(inet->remote, to);
	inet->remote_port = port;
	inet->phase = CONNECTED;
	if (port)
		udp_connect(inet->udp, &to, port);
	return 0;
}

/* -- messages -- */

/* The source can be any address of 127.0.0.0/8; lwIP's interface has only one of them. */
static err_t send_as(struct udp_pcb *pcb, struct pbuf *data, const struct outgoing *out)
{
	u8 ttl = pcb->ttl, tos = pcb->tos;
	struct netif *way = ip_route(&out->source, &out->to);
	err_t error;

	if (!way)
		return ERR_RTE;
	pcb->ttl = out->ttl;
	pcb->tos = out->tos;
	error = udp_sendto_if_src(pcb, data, &out->to, out->port, way, &out->source);
	pcb->ttl = ttl;
	pcb->tos = tos;
	return error;
}

static s64 send_to(struct inet *inet, const struct outgoing *out, struct io *from)
{
	u64 size = from->left;
	struct pbuf *data = pbuf_alloc(PBUF_TRANSPORT, (u16)size, PBUF_RAM);
	err_t error;

	if (!data)
		return -ENOBUFS;
	if (io_get(from, data->payload, size) < size) {
		pbuf_free(data);
		return -EFAULT;
	}
	/* The copy can sleep, and the socket be disconnected meanwhile. */
	error = inet->udp ? send_as(inet->udp, data, out) : ERR_RTE;
	pbuf_free(data);
	net_run();
	return error == ERR_OK ? (s64)size : error == ERR_RTE ? -ENETUNREACH : -ENOBUFS;
}

static s64 send(struct socket *socket, struct message *message, struct io *from, u32 flags)
{
	struct inet *inet = inet_of(socket);
	struct outgoing out = { .to = inet->remote, .port = inet->remote_port };
	s64 error = 0;

	if (flags & MSG_OOB)
		return -EOPNOTSUPP;
	if (from->left > (socket->family == AF_INET ? LARGEST : LARGEST_6))
		return -EMSGSIZE;
	if (message->address_size)
		error = find_target(socket, &message->address, message->address_size, &out.to, &out.port);
	else if (inet->phase != CONNECTED)
		error = -EDESTADDRREQ;
	if (!error && !out.port)
		error = -EINVAL;
	if (!error)
		error = find_source(socket, &out.to, &out.source);
	if (!error && inet->error)
		error = inet_take_error(inet);
	if (!error && inet->no_send)
		error = -EPIPE;
	if (!error)
		error = open_pcb(socket);
	if (!error) {
		out.ttl = inet->udp->ttl;
		out.tos = inet->udp->tos;
		if (!ip_addr_isany(&inet->local))
			ip_addr_copy(out.source, inet->local);
	}
	if (!error && message->controls)
		error = inet_take_control(socket, message->controls, &out);
	return error ? error : send_to(inet, &out, from);
}

/* Wait for a datagram: 1 with the lock; 0: there will be none; -errno. */
static s64 begin_receiving(struct inet *inet, u64 deadline)
{
	for (;;) {
		s64 error;

		if (inet->error)
			return inet_take_error(inet);
		if (!list_empty(&inet->chunks)) {
			mutex_lock(&inet->receiving);
			if (!list_empty(&inet->chunks))
				return 1;
			mutex_unlock(&inet->receiving);
			continue;
		}
		if (inet->no_receive)
			return deadline ? 0 : -EAGAIN; /* as Linux: only a wait ends */
		error = socket_wait(&inet->changed, deadline);
		if (error)
			return error;
	}
}

static s64 receive(struct socket *socket, struct message *message, struct io *to, u32 flags)
{
	struct inet *inet = inet_of(socket);
	struct chunk *chunk;
	u64 whole, part;
	s64 result;

	message->address_size = 0;
	if (flags & MSG_OOB)
		return -EOPNOTSUPP;
	result = begin_receiving(inet, socket_deadline(socket->receive_timeout, !(flags & MSG_DONTWAIT)));
	if (result <= 0)
		return result;
	chunk = CONTAINER(inet->chunks.next, struct chunk, list);
	whole = chunk->data->tot_len;
	part = whole < to->left ? whole : to->left;
	message->flags |= part < whole ? MSG_TRUNC : 0;
	inet_put_address(socket, &chunk->from, chunk->from_port, &message->address, &message->address_size);
	if (message->controls)
		inet_put_control(socket, chunk, message->controls);
	result = chunk_copy(chunk, part, to) < part ? -EFAULT : flags & MSG_TRUNC ? (s64)whole : (s64)part;
	if (!(flags & MSG_PEEK)) {
		inet->bytes -= whole;
		chunk_free(inet, chunk);
	}
	mutex_unlock(&inet->receiving);
	return result;
}

/* -- the rest -- */

static int shutdown(struct socket *socket, bool stop_receive, bool stop_send)
{
	struct inet *inet = inet_of(socket);

	inet->no_receive |= stop_receive;
	inet->no_send |= stop_send;
	wake_all(&inet->changed);
	return inet->phase == CONNECTED ? 0 : -ENOTCONN;
}

static u32 poll(struct socket *socket, struct poll *poll)
{
	struct inet *inet = inet_of(socket);
	u32 events = POLLOUT | POLLWRNORM | POLLWRBAND | (inet->error ? POLLERR : 0);

	poll_wait(poll, &inet->changed);
	if (inet->no_receive)
		events |= POLLRDHUP | POLLIN | POLLRDNORM;
	if (inet->no_receive && inet->no_send)
		events |= POLLHUP;
	if (!list_empty(&inet->chunks))
		events |= POLLIN | POLLRDNORM;
	return events;
}

static u64 readable(struct socket *socket)
{
	struct inet *inet = inet_of(socket);

	return list_empty(&inet->chunks) ? 0 : CONTAINER(inet->chunks.next, struct chunk, list)->data->tot_len;
}

static void release(struct socket *socket)
{
	struct inet *inet = inet_of(socket);

	close_pcb(inet);
	inet_free(inet);
}

const struct socket_operations udp_operations = {
	.bind = bind,
	.connect = connect,
	.name = inet_name,
	.send = send,
	.receive = receive,
	.shutdown = shutdown,
	.poll = poll,
	.set_option = inet_set_option,
	.get_option = inet_get_option,
	.changed = inet_apply_options,
	.error = inet_error,
	.readable = readable,
	.release = release,
};
