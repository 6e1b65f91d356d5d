// SPDX-License-Identifier: Apache-2.0
/*
 * The host's side: unix sockets.
 *
 * A client connects to the device's socket, writes "CONNECT <port>\n" and is told "OK <local port>\n" once the guest has
 * accepted; what a guest connects to is the socket <name>_<port>. A stream is a stream socket, a seqpacket connection a
 * SOCK_SEQPACKET socket whose messages are the guest's.
 *
 * Nothing waits for anybody here. What a socket does not take is kept (vsock_conn.c says how much), and epoll tells when
 * it takes more.
 */
#include "vsock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* "CONNECT 4294967295\r\n" and not much more. */
enum { LINE_MAX_LEN = 32 };
enum { ACCEPTS = 64 };
/* A message as long as a guest may make it must fit. */
enum { SEQPACKET_SNDBUF = VSOCK_BUF_ALLOC };

static void message_room(int fd)
{
	int size = SEQPACKET_SNDBUF;

	/* Where it is not allowed, a longer message ends its connection. */
	(void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
}

/* ---- clients ---- */

void vsock_host_listen(struct vsock *v, bool on)
{
	int fds[] = { v->config.listen_fd, v->config.seq_listen_fd };

	if (v->listening == on || !v->running)
		return;
	for (int i = 0; i < 2; i++) {
		struct epoll_event e = { .events = EPOLLIN, .data.u64 = VSOCK_SOURCE_LISTEN + (uint64_t)i };

		if (fds[i] >= 0)
			epoll_ctl(v->worker.epoll_fd, on ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, fds[i], &e);
	}
	v->listening = on;
}

void vsock_host_accept(struct vsock *v, int listen_fd, uint16_t type)
{
	for (int i = 0; i < ACCEPTS; i++) {
		int fd;

		/* Whoever waits in the backlog has its turn when a connection ends. */
		if (v->nconns >= v->config.max_conns) {
			vsock_host_listen(v, false);
			return;
		}
		fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd < 0) {
			/* Out of descriptors: the socket stays readable, and to look again at once would be to spin. */
			if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
				vsock_host_listen(v, false);
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

/* Look at the line without taking it: what comes behind it is data. Returns its length, 0 to wait, or -1. */
static ssize_t line_peek(const struct vsock_conn *c, char *line)
{
	ssize_t n = recv(c->fd, line, LINE_MAX_LEN, MSG_PEEK | MSG_DONTWAIT);
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
	if (port < 0 || recv(c->fd, line, (size_t)len, MSG_DONTWAIT) <= 0) {
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

void vsock_host_accepted(struct vsock *v, struct vsock_conn *c)
{
	char line[LINE_MAX_LEN];
	int len = snprintf(line, sizeof(line), "OK %u\n", c->host_port);

	if (send(c->fd, line, (size_t)len, MSG_DONTWAIT | MSG_NOSIGNAL) != len) {
		vsock_conn_reset(v, c);
		return;
	}
	c->state = VSOCK_ESTABLISHED;
	c->readable = true;
	vsock_conn_ready(v, c);
}

/* ---- what the guest connects to ---- */

int vsock_host_connect(struct vsock *v, uint32_t port, uint16_t type)
{
	int kind = type == VSOCK_TYPE_SEQPACKET ? SOCK_SEQPACKET : SOCK_STREAM;
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	char name[sizeof(v->config.name) + 12];
	int at, fd, err = 0;
	struct stat st;

	snprintf(name, sizeof(name), "%s_%u", v->config.name, port);
	/*
	 * Only a socket that is itself in that directory: a symbolic link would have the guest talk to whatever its maker
	 * likes, with our rights. What is connected to is what was looked at.
	 */
	at = openat(v->config.dir_fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (at < 0)
		return -errno;
	if (fstat(at, &st) < 0 || !S_ISSOCK(st.st_mode)) {
		close(at);
		return -ENOTSOCK;
	}
	fd = socket(AF_UNIX, kind | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0) {
		err = -errno;
		close(at);
		return err;
	}
	if (type == VSOCK_TYPE_SEQPACKET)
		message_room(fd);
	snprintf(to.sun_path, sizeof(to.sun_path), "/proc/self/fd/%d", at);
	/* EAGAIN: a full backlog, as refused. */
	if (connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0) {
		err = -errno;
		close(fd);
	}
	close(at);
	return err ? err : fd;
}

/* ---- from the guest to a socket ---- */

static void want_out(struct vsock *v, struct vsock_conn *c, bool want)
{
	if (c->want_out == want)
		return;
	c->want_out = want;
	if (vsock_conn_watch(v, c, EPOLL_CTL_MOD) < 0)
		vsock_conn_reset(v, c);
}

/* The other end does not read any more: the guest is told, and what it sends until it knows goes nowhere. */
static void no_reader(struct vsock *v, struct vsock_conn *c)
{
	uint32_t lost = c->rx_cnt - c->fwd_cnt;

	if (c->state == VSOCK_ORPHAN) {
		vsock_conn_kill(v, c);
		return;
	}
	stat_set(&v->stats.waiting_bytes, v->stats.waiting_bytes - vsock_pend_len(c->to_host));
	free(c->to_host);
	c->to_host = NULL;
	c->in_message = false;
	c->message_len = 0;
	want_out(v, c, false);
	if (c->state != VSOCK_ESTABLISHED)
		return;
	c->wr_closed = true;
	c->host_shut |= VSOCK_SHUT_RCV;
	vsock_forwarded(v, c, lost);
	vsock_conn_owe(v, c, VSOCK_OWE_SHUTDOWN);
	vsock_host_settle(v, c);
}

/* Bytes taken, 0 when the socket is full, or -errno. */
static ssize_t socket_send(struct vsock_conn *c, struct iovec *iov, uint32_t niov)
{
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = niov };
	ssize_t n;

	do
		n = sendmsg(c->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return errno == EAGAIN || errno == ENOBUFS ? 0 : -errno;
	return n;
}

static int keep(struct vsock *v, struct vsock_conn *c, const struct iovec *iov, uint32_t niov, uint32_t len)
{
	int err = vsock_pend_add(&c->to_host, iov, niov, len);

	if (!err)
		stat_set(&v->stats.waiting_bytes, v->stats.waiting_bytes + len);
	return err;
}

static void kept_gone(struct vsock *v, struct vsock_conn *c, uint32_t len)
{
	vsock_pend_take(&c->to_host, len);
	stat_set(&v->stats.waiting_bytes, v->stats.waiting_bytes - len);
}

/* The next whole piece of what waits: all of a stream, one message. 0: none. */
static uint32_t kept_next(const struct vsock_conn *c, struct iovec *iov)
{
	uint32_t len = vsock_pend_len(c->to_host), prefix = 0;

	if (len && c->type == VSOCK_TYPE_SEQPACKET) {
		if (c->in_message && len == c->message_len + sizeof(len))
			return 0;
		memcpy(&len, c->to_host->data + c->to_host->head, sizeof(len));
		prefix = sizeof(len);
	}
	if (len)
		*iov = (struct iovec){ .iov_base = c->to_host->data + c->to_host->head + prefix, .iov_len = len };
	return len;
}

void vsock_host_flush(struct vsock *v, struct vsock_conn *c)
{
	struct iovec iov;
	uint32_t len;
	ssize_t n;

	while ((len = kept_next(c, &iov)) != 0) {
		n = socket_send(c, &iov, 1);
		if (n < 0) {
			no_reader(v, c);
			return;
		}
		if (n == 0) {
			want_out(v, c, true);
			return;
		}
		kept_gone(v, c, c->type == VSOCK_TYPE_SEQPACKET ? (uint32_t)n + (uint32_t)sizeof(len) : (uint32_t)n);
		vsock_forwarded(v, c, (uint32_t)n);
	}
	want_out(v, c, false);
	vsock_host_settle(v, c);
}

/* A piece of a message joins what waits; a message that is whole can go. */
static int keep_message(struct vsock *v, struct vsock_conn *c, const struct iovec *iov, uint32_t niov, uint32_t len,
			bool eom)
{
	uint32_t prefix = 0;
	const struct iovec at = { .iov_base = &prefix, .iov_len = sizeof(prefix) };
	int err = 0;

	if (!c->in_message) {
		err = keep(v, c, &at, 1, sizeof(prefix));
		if (err)
			return err;
		c->in_message = true;
		c->message_len = 0;
	}
	err = keep(v, c, iov, niov, len);
	if (err)
		return err;
	c->message_len += len;
	if (eom) {
		memcpy(c->to_host->data + c->to_host->tail - c->message_len - sizeof(prefix), &c->message_len,
		       sizeof(prefix));
		c->in_message = false;
	}
	return 0;
}

void vsock_host_send(struct vsock *v, struct vsock_conn *c, struct iovec *iov, uint32_t niov, uint32_t len, bool eom)
{
	bool message = c->type == VSOCK_TYPE_SEQPACKET;
	ssize_t n = 0;
	int err;

	if (!c->to_host && (!message || eom)) {
		n = socket_send(c, iov, niov);
		if (n < 0) {
			no_reader(v, c);
			return;
		}
		if (n) {
			vsock_forwarded(v, c, (uint32_t)n);
			if ((uint32_t)n == len)
				return;
			iov_skip(&iov, &niov, (size_t)n);
			len -= (uint32_t)n;
		}
	}
	err = message ? keep_message(v, c, iov, niov, len, eom) : keep(v, c, iov, niov, len);
	if (err)
		vsock_conn_reset(v, c);
	else if (!message)
		want_out(v, c, true);
	else if (!c->want_out)
		vsock_host_flush(v, c);
}

/* ---- the ends ---- */

void vsock_host_eof(struct vsock *v, struct vsock_conn *c, bool all)
{
	c->readable = false;
	c->host_shut |= VSOCK_SHUT_SEND;
	if (all) {
		c->host_shut = VSOCK_SHUT_BOTH;
		c->wr_closed = true;
		vsock_conn_close_fd(v, c);
	}
	vsock_conn_owe(v, c, VSOCK_OWE_SHUTDOWN);
	vsock_host_settle(v, c);
}

void vsock_host_settle(struct vsock *v, struct vsock_conn *c)
{
	bool sent = (c->guest_shut & VSOCK_SHUT_SEND) && !vsock_pend_len(c->to_host);

	if (c->state == VSOCK_ORPHAN) {
		if (sent)
			vsock_conn_kill(v, c);
		return;
	}
	if (c->fd < 0 || (c->state != VSOCK_ESTABLISHED && c->state != VSOCK_CLOSING))
		return;
	if (sent && !c->wr_closed) {
		shutdown(c->fd, SHUT_WR);
		c->wr_closed = true;
	}
	/* Nothing will be written to the socket, and nothing that is read from it would reach the guest. */
	if (c->wr_closed && ((c->host_shut & VSOCK_SHUT_SEND) || (c->guest_shut & VSOCK_SHUT_RCV))) {
		vsock_conn_close_fd(v, c);
		if (c->state == VSOCK_ESTABLISHED && c->host_shut != VSOCK_SHUT_BOTH) {
			c->host_shut = VSOCK_SHUT_BOTH;
			vsock_conn_owe(v, c, VSOCK_OWE_SHUTDOWN);
		}
	}
}

void vsock_host_event(struct vsock *v, struct vsock_conn *c, uint32_t events)
{
	c->rdhup |= !!(events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR));
	c->hup |= !!(events & (EPOLLHUP | EPOLLERR));
	switch (c->state) {
	case VSOCK_GREETING:
		client_greets(v, c);
		if (c->state == VSOCK_REQUESTED && c->hup)
			vsock_conn_kill(v, c); /* the guest has not heard of it */
		return;
	case VSOCK_REQUESTED:
		/* It waits for the answer of the guest, which nobody wants any more. */
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
