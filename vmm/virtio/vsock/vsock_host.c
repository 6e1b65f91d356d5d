// SPDX-License-Identifier: Apache-2.0
/*
 * The host's side: unix sockets.
 *
 * A client connects to the device's socket, writes "CONNECT <port>\n", and reads "OK <local port>\n" when the guest has
 * accepted. A guest that connects to a port of the host is connected to the socket <name>_<port>. A seqpacket connection has
 * a SOCK_SEQPACKET socket with the same messages.
 *
 * Nothing here blocks: neither on a client that does not send CONNECT, nor on a program that does not accept.
 */
#include "vsock/vsock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* Longer than "CONNECT 4294967295\r\n". */
enum { LINE_MAX_LEN = 32 };
enum { ACCEPTS = 64 };
/* The longest message of a guest must fit into the send buffer. */
enum { SEQPACKET_SNDBUF = VSOCK_BUF_ALLOC };

ssize_t vsock_recv(int fd, void *data, size_t len, int flags)
{
	struct iovec iov = { .iov_base = data, .iov_len = len };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };

	return recvmsg(fd, &msg, flags);
}

static void message_room(int fd)
{
	int size = SEQPACKET_SNDBUF;

	/* If that is not allowed, a longer message ends its connection. */
	(void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
}

/* ---- clients ---- */

void vsock_host_accept(struct vsock *v, int listen_fd, uint16_t type)
{
	for (int i = 0; i < ACCEPTS; i++) {
		int fd;

		/* Clients wait in the backlog until a connection ends, or gives way. */
		if (!vsock_conn_room(v)) {
			vsock_conn_listen(v, false);
			return;
		}
		fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd < 0) {
			/* No descriptor is free: the socket stays readable, so stop watching it instead of spinning. */
			if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
				vsock_conn_listen(v, false);
			return;
		}
		if (type == VSOCK_TYPE_SEQPACKET)
			message_room(fd);
		if (v->greeting.n >= VSOCK_GREETING_MAX)
			vsock_conn_kill(v, v->greeting.first);
		if (!vsock_conn_new(v, fd, type, VSOCK_GREETING))
			close(fd);
	}
}

/* The port that a client's line asks for, or -1. */
static int64_t line_port(const char *line, size_t len)
{
	static const char word[] = "CONNECT ";
	uint64_t port = 0;
	size_t i = sizeof(word) - 1;

	if (len && line[len - 1] == '\r')
		len--;
	if (len <= i || len > i + 10 || strncasecmp(line, word, i))
		return -1;
	for (; i < len; i++) {
		if (line[i] < '0' || line[i] > '9')
			return -1;
		port = 10 * port + (uint64_t)(line[i] - '0');
	}
	return port < UINT32_MAX ? (int64_t)port : -1;
}

/* Peek at the line, since data may follow it. Returns its length; 0: it is incomplete; -1: it is invalid. */
static ssize_t line_peek(const struct vsock_conn *c, char *line)
{
	ssize_t n = vsock_recv(c->fd, line, LINE_MAX_LEN, MSG_PEEK | MSG_DONTWAIT);
	char *end;

	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -1;
	if (n == 0)
		return -1;
	end = memchr(line, '\n', (size_t)n);
	if (end)
		return end - line + 1;
	if (c->type == VSOCK_TYPE_SEQPACKET && n < LINE_MAX_LEN) {
		line[n] = '\n';
		return n + 1;
	}
	return n < LINE_MAX_LEN && !c->rdhup ? 0 : -1;
}

static void client_greets(struct vsock *v, struct vsock_conn *c)
{
	char line[LINE_MAX_LEN + 1];
	ssize_t len = line_peek(c, line);
	int64_t port;

	if (len == 0)
		return;
	port = len > 0 ? line_port(line, (size_t)len - 1) : -1;
	if (port < 0 || vsock_recv(c->fd, line, (size_t)len, MSG_DONTWAIT) <= 0) {
		stat_add(&v->stats.refused, 1);
		vsock_conn_kill(v, c);
		return;
	}
	vsock_list_remove(&v->greeting, c);
	c->state = VSOCK_REQUESTED;
	c->guest_port = (uint32_t)port;
	c->host_port = vsock_conn_port(v, c->guest_port);
	c->since_ns = clock_ns();
	if (vsock_conn_enter(v, c) < 0) {
		vsock_conn_kill(v, c);
		return;
	}
	vsock_conn_owe(v, c, VSOCK_OWE_REQUEST);
}

static ssize_t line_send(const struct vsock_conn *c, char *line, size_t len)
{
	struct iovec iov = { .iov_base = line, .iov_len = len };
	const struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };

	return sendmsg(c->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
}

void vsock_host_accepted(struct vsock *v, struct vsock_conn *c)
{
	char line[LINE_MAX_LEN];
	int len = snprintf(line, sizeof(line), "OK %u\n", c->host_port);

	if (line_send(c, line, (size_t)len) != len) {
		vsock_conn_reset(v, c);
		return;
	}
	c->state = VSOCK_ESTABLISHED;
	c->readable = true;
	vsock_conn_ready(v, c);
}

/* ---- what the guest connects to ---- */

/* Ask the broker, since this process is jailed. After an invalid answer it is not asked again. */
static int broker_connect(struct vsock *v, uint32_t port, uint16_t type)
{
	const struct vsock_ask ask = { .port = port, .type = type };
	struct vsock_told told;
	int fd = -1, err;

	if (v->broker_fd < 0)
		return -ECONNREFUSED;
	err = fd_socket_send(v->broker_fd, &ask, sizeof(ask), NULL, 0);
	if (!err)
		err = fd_socket_recv(v->broker_fd, &told, sizeof(told), &fd, 1);
	if (!err && (told.port != port || !told.error != (fd >= 0)))
		err = -EPROTO;
	if (err) {
		if (fd >= 0)
			close(fd);
		v->broker_fd = -1;
		return err;
	}
	return fd >= 0 ? fd : -ECONNREFUSED;
}

int vsock_host_connect(struct vsock *v, uint32_t port, uint16_t type)
{
	int fd = v->has_broker ? broker_connect(v, port, type) : vsock_reach(v->config.dir_fd, v->config.name, port, type);

	if (fd >= 0 && type == VSOCK_TYPE_SEQPACKET)
		message_room(fd);
	return fd;
}

/* ---- what epoll tells ---- */

void vsock_host_event(struct vsock *v, struct vsock_conn *c, uint32_t events)
{
	c->rdhup |= !!(events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR));
	c->hup |= !!(events & (EPOLLHUP | EPOLLERR));
	switch (c->state) {
	case VSOCK_GREETING:
		client_greets(v, c);
		if (c->state == VSOCK_REQUESTED && c->hup)
			vsock_conn_kill(v, c); /* no REQUEST was sent to the guest */
		return;
	case VSOCK_REQUESTED:
		/* The client has gone before the guest answered. */
		if (c->hup)
			vsock_conn_reset(v, c);
		return;
	case VSOCK_ESTABLISHED:
		if (events & ~(uint32_t)EPOLLOUT) {
			c->readable = true;
			vsock_conn_ready(v, c);
		}
		break;
	case VSOCK_DEAD:
		return;
	default:
		break;
	}
	if (c->fd >= 0 && c->want_out && (events & (EPOLLOUT | EPOLLHUP | EPOLLERR)))
		vsock_host_flush(v, c);
}
