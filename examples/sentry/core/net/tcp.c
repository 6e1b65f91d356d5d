// SPDX-License-Identifier: Apache-2.0
/* Streams of AF_INET and AF_INET6: connections, from listen() or connect() to their end. */
#include "inet.h"

enum { MOST_WAITING = 256 }; /* connections in TIME_WAIT */

/* -- callbacks of lwIP, which record what happens to a connection -- */

/* From now on lwIP reports nothing about the connection. */
static struct tcp_pcb *detach(struct inet *inet)
{
	struct tcp_pcb *pcb = inet->tcp;

	inet->tcp = NULL;
	tcp_arg(pcb, NULL);
	tcp_ext_arg_set(pcb, 0, NULL);
	if (pcb->state != LISTEN) {
		tcp_recv(pcb, NULL);
		tcp_sent(pcb, NULL);
		tcp_err(pcb, NULL);
	}
	return pcb;
}

static err_t got_data(void *argument, struct tcp_pcb *pcb, struct pbuf *data, err_t error)
{
	struct inet *inet = argument;

	(void)error;
	if (data && !chunk_new(inet, data))
		return ERR_MEM;
	tcp_ack_now(pcb);
	if (!data)
		inet->ended = inet->finished = true;
	if (!data && pcb->state == TIME_WAIT)
		detach(inet);
	wake_all(&inet->changed);
	return ERR_OK;
}

static err_t has_sent(void *argument, struct tcp_pcb *pcb, u16 size)
{
	struct inet *inet = argument;

	(void)pcb;
	(void)size;
	if (!inet->socket || tcp_is_writable(inet->socket))
		wake_all(&inet->changed);
	return ERR_OK;
}

/* The connection is over, and lwIP frees it. */
static void is_over(u8 id, void *data)
{
	struct inet *inet = data;

	(void)id;
	if (!inet)
		return;
	inet->tcp = NULL;
	inet->ended = true;
	wake_all(&inet->changed);
	if (inet->listener && list_empty(&inet->in_waiting)) { /* it was never established */
		inet->listener->pending--;
		inet_free(inet);
	}
}

static void has_failed(void *argument, err_t error)
{
	struct inet *inet = argument;

	if (!inet)
		return;
	if (error == ERR_RST)
		inet->error = !inet->established ? -ECONNREFUSED : inet->finished ? -EPIPE : -ECONNRESET;
	else if (error != ERR_CLSD)
		inet->error = -ETIMEDOUT;
	if (error != ERR_CLSD)
		inet->no_send = true;
	inet->ended = true;
	wake_all(&inet->changed);
}

static err_t is_connected(void *argument, struct tcp_pcb *pcb, err_t error)
{
	struct inet *inet = argument;

	(void)pcb;
	(void)error;
	inet->established = true;
	wake_all(&inet->changed);
	return ERR_OK;
}

static const struct tcp_ext_arg_callbacks endings = { .destroy = is_over };

/* From now on lwIP reports what happens to the connection to this socket. */
static void attach(struct tcp_pcb *pcb, struct inet *inet)
{
	inet->tcp = pcb;
	tcp_arg(pcb, inet);
	tcp_recv(pcb, got_data);
	tcp_sent(pcb, has_sent);
	tcp_err(pcb, has_failed);
	tcp_ext_arg_set_callbacks(pcb, 0, &endings);
	tcp_ext_arg_set(pcb, 0, inet);
}

static void drop(struct inet *inet)
{
	if (inet->tcp)
		tcp_abort(detach(inet));
	net_run();
}

/* A pcb with the port of the socket. */
static int open_pcb(struct socket *socket, const ip_addr_t *remote)
{
	struct inet *inet = inet_of(socket);
	struct tcp_pcb *pcb = tcp_new_ip_type(inet_type(socket, remote));

	if (!pcb)
		return -ENOBUFS;
	if (!(IP_IS_V4(remote) && ip_addr_isany(&inet->local)))
		ip_addr_copy(pcb->local_ip, inet->local);
	if (inet_type(socket, remote) == IPADDR_TYPE_ANY)
		IP_SET_TYPE_VAL(pcb->local_ip, IPADDR_TYPE_ANY);
	pcb->local_port = inet->local_port;
	TCP_REG(&tcp_bound_pcbs, pcb);
	attach(pcb, inet);
	inet_apply_options(socket);
	return 0;
}

/* lwIP searches lists, so connections in TIME_WAIT slow all others down: end the oldest, as Linux does above its limit. */
static void end_oldest(void)
{
	struct tcp_pcb *pcb = tcp_tw_pcbs;

	for (u32 i = 1; pcb && i < MOST_WAITING; i++)
		pcb = pcb->next;
	while (pcb && pcb->next)
		tcp_abort(pcb->next);
}

/* -- connect -- */

static bool is_taken(struct tcp_pcb *list, const ip_addr_t *from, u16 from_port, const ip_addr_t *to, u16 to_port)
{
	for (struct tcp_pcb *pcb = list; pcb; pcb = pcb->next)
		if (pcb->local_port == from_port && pcb->remote_port == to_port && ip_addr_eq(&pcb->local_ip, from) &&
		    ip_addr_eq(&pcb->remote_ip, to))
			return true;
	return false;
}

static int begin_connect(struct socket *socket, const ip_addr_t *to, u16 port)
{
	struct inet *inet = inet_of(socket);
	ip_addr_t from;
	int error = ip_addr_ismulticast(to) ? -ENETUNREACH : net_source(to, &from);

	if (error)
		return error;
	if (inet->bound_address)
		ip_addr_copy(from, inet->local);
	end_oldest();
	error = inet_bind_port(socket);
	if (error)
		return error == -EADDRINUSE ? -EADDRNOTAVAIL : error;
	if (is_taken(tcp_active_pcbs, &from, inet->local_port, to, port) || is_taken(tcp_tw_pcbs, &from, inet->local_port, to, port))
		return -EADDRNOTAVAIL;
	ip_addr_copy(inet->local, from);
	error = open_pcb(socket, to);
	if (error)
		return error;
	ip_addr_copy(inet->remote, *to);
	inet->remote_port = port;
	inet->ended = inet->finished = inet->no_receive = inet->no_send = false;
	inet->error = 0;
	ip_reset_option(inet->tcp, SOF_REUSEADDR); /* there is no such connection: see above */
	if (tcp_connect(inet->tcp, to, port, is_connected) != ERR_OK) {
		drop(inet);
		return -ENOBUFS;
	}
	inet->phase = CONNECTING;
	inet_apply_options(socket);
	return 0;
}

/* Make the socket one that was never connected. No task may be receiving, as unread data is freed. */
static void reset(struct inet *inet)
{
	inet->phase = UNCONNECTED;
	inet->established = inet->ended = inet->finished = inet->no_receive = inet->no_send = false;
	inet->remote_port = 0;
	ip_addr_set_any(IP_IS_V6(&inet->remote), &inet->remote);
	if (!inet->bound_address)
		ip_addr_set_any(inet->socket->family == AF_INET6, &inet->local);
	inet_drop_chunks(inet);
}

static int finish_connect(struct inet *inet, u64 deadline)
{
	int error = 0;

	while (inet->tcp && !inet->established) {
		error = (int)socket_wait(&inet->changed, deadline);
		if (error)
			return error == -EAGAIN ? -EINPROGRESS : error;
	}
	mutex_lock(&inet->receiving);
	if (!inet->tcp && (inet->error || !inet->established)) {
		error = inet->error ? (int)inet_take_error(inet) : -ECONNABORTED;
		reset(inet);
		if (!inet->bound_port)
			inet_forget_port(inet);
	} else if (inet->established) {
		inet->phase = CONNECTED;
	}
	mutex_unlock(&inet->receiving);
	return error;
}

static void stop_listening(struct inet *inet);

static int disconnect(struct socket *socket)
{
	struct inet *inet = inet_of(socket);

	mutex_lock(&inet->receiving);
	if (inet->listening)
		stop_listening(inet);
	drop(inet);
	reset(inet);
	mutex_unlock(&inet->receiving);
	wake_all(&inet->changed);
	return 0;
}

static int connect(struct socket *socket, const struct address *address, u32 size, bool wait)
{
	struct inet *inet = inet_of(socket);
	u64 deadline = socket_deadline(socket->send_timeout, wait);
	ip_addr_t to;
	u16 port;
	int error;

	if (size < sizeof(address->family))
		return -EINVAL;
	if (address->family == AF_UNSPEC)
		return disconnect(socket);
	if (inet->phase == CONNECTED || inet->listening)
		return -EISCONN;
	if (inet->phase == CONNECTING)
		return inet->tcp && !inet->established && !wait ? -EALREADY : finish_connect(inet, deadline);
	error = inet_get_target(socket, address, size, &to, &port);
	if (!error)
		error = begin_connect(socket, &to, port);
	if (error)
		return error;
	/* As on Linux, the next call reports what happens meanwhile. */
	return wait ? finish_connect(inet, deadline) : -EINPROGRESS;
}

/* -- listen and accept -- */

/* A SYN has come: without a place in the queue, the other side tries again. */
static err_t is_asked(u8 id, struct tcp_pcb_listen *pcb, struct tcp_pcb *new)
{
	struct inet *listener = pcb->ext_args[id].data, *child;

	if (!listener || listener->waiting_count + listener->pending > listener->backlog)
		return ERR_MEM;
	end_oldest();
	child = inet_new();
	if (!child)
		return ERR_MEM;
	bytes_copy(child->values, listener->values, sizeof(child->values));
	child->family = listener->family;
	child->listener = listener;
	child->phase = CONNECTING;
	child->local_port = new->local_port;
	child->remote_port = new->remote_port;
	ip_addr_copy(child->local, new->local_ip);
	ip_addr_copy(child->remote, new->remote_ip);
	child->reuse_address = ip_get_option(new, SOF_REUSEADDR);
	listener->pending++;
	attach(new, child);
	tcp_err(new, NULL); /* is_over() is enough, and frees it */
	return ERR_OK;
}

static err_t is_accepted(void *argument, struct tcp_pcb *new, err_t error)
{
	struct inet *child = new ? new->callback_arg : NULL, *listener = child ? child->listener : NULL;

	(void)argument;
	if (error != ERR_OK || !listener)
		return ERR_VAL;
	tcp_err(new, has_failed);
	child->established = true;
	child->phase = CONNECTED;
	listener->pending--;
	listener->waiting_count++;
	list_add(&listener->waiting, &child->in_waiting);
	list_add(inet_all(), &child->all);
	wake_all(&listener->changed);
	return ERR_OK;
}

static const struct tcp_ext_arg_callbacks requests = { .passive_open = is_asked };

static void stop_listening(struct inet *inet)
{
	struct tcp_pcb *next, *pcb;

	inet->listening = inet->socket->listening = false;
	if (inet->tcp)
		tcp_close(detach(inet));
	for (pcb = tcp_active_pcbs; pcb; pcb = next) { /* those not yet established */
		struct inet *child = pcb->callback_arg;

		next = pcb->next;
		if (child && child->listener == inet && list_empty(&child->in_waiting))
			tcp_abort(pcb);
	}
	while (!list_empty(&inet->waiting)) {
		struct inet *child = CONTAINER(inet->waiting.next, struct inet, in_waiting);

		list_remove(&child->in_waiting);
		child->listener = NULL;
		if (child->tcp)
			tcp_abort(detach(child));
		inet_free(child);
	}
	inet->waiting_count = 0;
	wake_all(&inet->changed);
	net_run();
}

static int listen(struct socket *socket, u32 backlog)
{
	struct inet *inet = inet_of(socket);
	struct tcp_pcb *pcb;
	int error;

	inet->backlog = backlog;
	if (inet->listening)
		return 0;
	if (inet->phase != UNCONNECTED)
		return -EINVAL;
	error = inet_bind_port(socket);
	if (!error && inet_port_conflicts(socket, &inet->local, inet->local_port))
		error = -EADDRINUSE;
	if (!error)
		error = open_pcb(socket, &inet->local);
	if (error)
		return error;
	pcb = detach(inet);
	ip_reset_option(pcb, SOF_REUSEADDR); /* inet.c has found no conflict */
	inet->tcp = tcp_listen_with_backlog(pcb, 255);
	if (!inet->tcp) {
		tcp_abort(pcb);
		return -EADDRINUSE;
	}
	inet->listening = socket->listening = true;
	if (core.ops->point)
		core.ops->point(POINT_LISTENS, inet->local_port);
	tcp_arg(inet->tcp, inet);
	tcp_accept(inet->tcp, is_accepted);
	tcp_ext_arg_set_callbacks(inet->tcp, 0, &requests);
	tcp_ext_arg_set(inet->tcp, 0, inet);
	inet_apply_options(socket);
	wake_all(&inet->changed);
	return 0;
}

static int wait_for_connection(struct socket *socket, u64 deadline)
{
	struct inet *inet = inet_of(socket);

	while (list_empty(&inet->waiting)) {
		s64 error;

		if (!inet->listening)
			return -EINVAL;
		error = socket_wait(&inet->changed, deadline);
		if (error)
			return (int)error;
	}
	return 0;
}

static int accept(struct socket *socket, struct socket **new, bool wait)
{
	struct inet *inet = inet_of(socket), *child;
	int error = wait_for_connection(socket, socket_deadline(socket->receive_timeout, wait));

	if (error)
		return error;
	child = CONTAINER(inet->waiting.next, struct inet, in_waiting);
	*new = inet_socket(child, socket->family, SOCK_STREAM);
	if (!*new)
		return -ENOBUFS;
	list_remove(&child->in_waiting);
	inet->waiting_count--;
	child->listener = NULL;
	(*new)->switches = socket->switches;
	(*new)->send_size = socket->send_size;
	(*new)->receive_size = socket->receive_size;
	(*new)->send_timeout = socket->send_timeout;
	(*new)->receive_timeout = socket->receive_timeout;
	bytes_copy((*new)->linger, socket->linger, sizeof(socket->linger));
	inet_apply_options(*new);
	return 0;
}

/* -- the end -- */

static int shutdown(struct socket *socket, bool stop_receive, bool stop_send)
{
	struct inet *inet = inet_of(socket);
	int error = 0;

	if (inet->listening) {
		if (stop_receive)
			stop_listening(inet);
		return 0;
	}
	if (!inet->tcp)
		error = -ENOTCONN;
	if (inet->tcp && !inet->established) {
		drop(inet);
		reset(inet); /* nothing has come yet */
		wake_all(&inet->changed);
		return 0;
	}
	inet->no_receive |= stop_receive;
	if (stop_send && inet->tcp && !inet->no_send)
		tcp_shutdown(inet->tcp, 0, 1);
	inet->no_send |= stop_send;
	net_run();
	wake_all(&inet->changed);
	return error;
}

static void release(struct socket *socket)
{
	struct inet *inet = inet_of(socket);

	if (inet->listening)
		stop_listening(inet);
	/* Unread data resets the connection. */
	if (inet->tcp && (inet->bytes || (socket->linger[0] && !socket->linger[1])))
		drop(inet);
	if (inet->tcp) {
		tcp_close(detach(inet));
		net_run();
	}
	inet_free(inet);
}

static u32 poll(struct socket *socket, struct poll *poll)
{
	struct inet *inet = inet_of(socket);
	bool closed = !inet->tcp && !inet->listening;
	bool no_receive = inet->no_receive || inet->ended, no_send = inet->no_send || (inet->ended && closed);
	u32 events = inet->error ? POLLERR : 0;

	poll_wait(poll, &inet->changed);
	if (inet->listening)
		return events | (list_empty(&inet->waiting) ? 0 : POLLIN | POLLRDNORM);
	if (closed || (no_receive && no_send))
		events |= POLLHUP;
	if (no_receive)
		events |= POLLIN | POLLRDNORM | POLLRDHUP;
	if (inet->tcp && !inet->established)
		return events;
	if (inet->bytes && inet->bytes >= socket->low_water)
		events |= POLLIN | POLLRDNORM;
	if (no_send || closed || tcp_is_writable(socket))
		events |= POLLOUT | POLLWRNORM;
	return events;
}

static u64 readable(struct socket *socket)
{
	return inet_of(socket)->bytes;
}

static u64 unsent(struct socket *socket)
{
	return tcp_unsent(inet_of(socket));
}

const struct socket_operations tcp_operations = {
	.bind = inet_bind,
	.connect = connect,
	.listen = listen,
	.accept = accept,
	.name = inet_name,
	.send = tcp_socket_send,
	.receive = tcp_socket_receive,
	.shutdown = shutdown,
	.poll = poll,
	.set_option = inet_set_option,
	.get_option = inet_get_option,
	.changed = inet_apply_options,
	.error = inet_error,
	.readable = readable,
	.unsent = unsent,
	.release = release,
};
