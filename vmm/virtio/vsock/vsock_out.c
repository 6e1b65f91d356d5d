// SPDX-License-Identifier: Apache-2.0
/*
 * Data from the guest to a unix socket, and the end of each direction of a connection.
 *
 * Data are sent to the socket at once. What it does not take is kept, and epoll reports when it takes more.
 */
#include "vsock/vsock.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

static void want_out(struct vsock *v, struct vsock_conn *c, bool want)
{
	if (c->want_out == want)
		return;
	c->want_out = want;
	if (vsock_conn_watch(v, c, EPOLL_CTL_MOD) < 0)
		vsock_conn_reset(v, c);
}

/* The other end has stopped reading: tell the guest, and drop what it sends meanwhile. */
static void no_reader(struct vsock *v, struct vsock_conn *c)
{
	uint32_t lost = c->rx_cnt - c->fwd_cnt;

	if (c->state == VSOCK_ORPHAN) {
		vsock_conn_kill(v, c);
		return;
	}
	stat_set(&v->stats.waiting_bytes, v->stats.waiting_bytes - vsock_pend_len(c->to_host));
	vsock_pend_drop(v, &c->to_host);
	c->in_message = false;
	c->message_len = 0;
	want_out(v, c, false);
	if (c->state != VSOCK_ESTABLISHED)
		return;
	c->wr_closed = true;
	c->host_shut |= VSOCK_SHUT_RCV;
	vsock_conn_forwarded(v, c, lost);
	vsock_conn_owe(v, c, VSOCK_OWE_SHUTDOWN);
	vsock_host_settle(v, c);
}

/* The number of bytes that the socket took; 0: it is full; or -errno. */
static ssize_t socket_send(struct vsock *v, struct vsock_conn *c, struct iovec *iov, uint32_t niov, uint32_t len)
{
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = niov };
	ssize_t n;

	if (!vsock_kernel_take(v, c, len))
		return 0;
	do
		n = sendmsg(c->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return errno == EAGAIN || errno == ENOBUFS ? 0 : -errno;
	return n;
}

/*
 * Enlarge the send buffer of a socket that was full, so that its reader has data while epoll reports room. Only for a
 * connection with the largest buf_alloc: with many connections, buffers stay small.
 */
static bool socket_widen(struct vsock_conn *c)
{
	int size = VSOCK_BUF_ALLOC;

	if (c->wide || c->starved || c->type != VSOCK_TYPE_STREAM || c->buf_alloc < VSOCK_BUF_ALLOC)
		return false;
	c->wide = true;
	return setsockopt(c->fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)) == 0;
}

static int kept_add(struct vsock *v, struct vsock_conn *c, const struct iovec *iov, uint32_t niov, uint32_t len)
{
	int err = vsock_pend_add(v, &c->to_host, iov, niov, len);

	if (!err)
		stat_set(&v->stats.waiting_bytes, v->stats.waiting_bytes + len);
	return err;
}

static void kept_take(struct vsock *v, struct vsock_conn *c, uint32_t len)
{
	vsock_pend_take(v, &c->to_host, len);
	stat_set(&v->stats.waiting_bytes, v->stats.waiting_bytes - len);
}

/* The next kept data that can be sent: all of a stream, or a complete message. 0: none. */
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
		n = socket_send(v, c, &iov, 1, len);
		if (n < 0) {
			no_reader(v, c);
			return;
		}
		if (n == 0) {
			want_out(v, c, true);
			return;
		}
		kept_take(v, c, c->type == VSOCK_TYPE_SEQPACKET ? (uint32_t)n + (uint32_t)sizeof(len) : (uint32_t)n);
		vsock_conn_forwarded(v, c, (uint32_t)n);
	}
	want_out(v, c, false);
	vsock_host_settle(v, c);
}

void vsock_host_flush_starved(struct vsock *v, struct vsock_conn *c)
{
	if (!c->starved)
		return;
	c->starved = false;
	if (c->fd >= 0)
		vsock_host_flush(v, c);
}

/* Keep a piece of a message; eom: the message is complete. */
static int kept_add_message(struct vsock *v, struct vsock_conn *c, const struct iovec *iov, uint32_t niov, uint32_t len,
			bool eom)
{
	uint32_t prefix = 0;
	const struct iovec at = { .iov_base = &prefix, .iov_len = sizeof(prefix) };
	int err = 0;

	if (!c->in_message) {
		err = kept_add(v, c, &at, 1, sizeof(prefix));
		if (err)
			return err;
		c->in_message = true;
		c->message_len = 0;
	}
	err = kept_add(v, c, iov, niov, len);
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
		do {
			n = socket_send(v, c, iov, niov, len);
			if (n < 0) {
				no_reader(v, c);
				return;
			}
			if (n) {
				vsock_conn_forwarded(v, c, (uint32_t)n);
				if ((uint32_t)n == len)
					return;
				iov_skip(&iov, &niov, (size_t)n);
				len -= (uint32_t)n;
			}
		} while (socket_widen(c));
	}
	err = message ? kept_add_message(v, c, iov, niov, len, eom) : kept_add(v, c, iov, niov, len);
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
	/* Nothing will be written to the socket, and the guest would not get what is read from it. */
	if (c->wr_closed && ((c->host_shut & VSOCK_SHUT_SEND) || (c->guest_shut & VSOCK_SHUT_RCV))) {
		vsock_conn_close_fd(v, c);
		if (c->state == VSOCK_ESTABLISHED && c->host_shut != VSOCK_SHUT_BOTH) {
			c->host_shut = VSOCK_SHUT_BOTH;
			vsock_conn_owe(v, c, VSOCK_OWE_SHUTDOWN);
		}
	}
}
