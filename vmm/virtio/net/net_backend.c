// SPDX-License-Identifier: Apache-2.0
/*
 * The end of a backend, and frames over a stream socket. Each frame follows its length, 32 bits in network order; one system
 * call reads several. If the socket takes only a part of a frame, the rest is kept, and is sent before anything else.
 */
#include "net/net.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

void net_lost(struct net *n, int err)
{
	if (n->gone)
		return;
	n->gone = true;
	n->readable = n->tx_full = false;
	n->starved = n->held != 0;
	n->out_len = 0;
	stat_set(&n->stats.last_errno, (uint64_t)(err ? -err : EPIPE));
	eventfd_write(n->worker.event_fd, 1);
}

bool net_stream_flush(struct net *n)
{
	ssize_t sent;

	while (n->out_len) {
		struct iovec rest = { n->out, n->out_len };
		const struct msghdr msg = { .msg_iov = &rest, .msg_iovlen = 1 };

		sent = sendmsg(n->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (sent < 0 && errno == EINTR)
			continue;
		if (sent < 0) {
			if (errno != EAGAIN)
				net_lost(n, -errno);
			return n->gone;
		}
		n->out_len -= (uint32_t)sent;
		memmove(n->out, n->out + sent, n->out_len);
	}
	return true;
}

/* frame[-1] is free, for the length. */
ssize_t net_stream_send(struct net *n, const struct iovec *frame, uint32_t niov, uint64_t len)
{
	uint32_t wire = htonl((uint32_t)len);
	struct iovec *iov = (struct iovec *)(uintptr_t)frame - 1;
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = niov + 1 };
	size_t left;
	ssize_t sent;

	iov[0] = (struct iovec){ &wire, sizeof(wire) };
	do
		sent = sendmsg(n->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
	while (sent < 0 && errno == EINTR);
	if (sent < 0)
		return -errno;
	left = sizeof(wire) + len - (size_t)sent;
	if (left) {
		niov++;
		iov_skip(&iov, &niov, (size_t)sent);
		n->out_len = (uint32_t)iov_gather(iov, niov, n->out, left);
		n->tx_full = true;
	}
	return (ssize_t)len;
}

/* Read more bytes; -EAGAIN: there are none; 0: the end. */
static ssize_t stream_fill(struct net *n)
{
	struct msghdr msg = { .msg_iovlen = 1 };
	struct iovec room;
	ssize_t got;

	if (n->in_head) {
		memmove(n->in, n->in + n->in_head, n->in_tail - n->in_head);
		n->in_tail -= n->in_head;
		n->in_head = 0;
	}
	room = (struct iovec){ n->in + n->in_tail, sizeof(n->in) - n->in_tail };
	msg.msg_iov = &room;
	do
		got = recvmsg(n->fd, &msg, MSG_DONTWAIT);
	while (got < 0 && errno == EINTR);
	if (got < 0)
		return -errno;
	n->in_tail += (uint32_t)got;
	return got;
}

ssize_t net_stream_read(struct net *n, const struct iovec *iov, uint32_t niov)
{
	const struct net_hdr h = { .flags = n->q.flags & NET_GUEST_CSUM ? NET_F_DATA_VALID : 0 };
	uint32_t len, have;
	ssize_t got;

	for (;;) {
		have = n->in_tail - n->in_head;
		if (have >= NET_LEN_SIZE) {
			memcpy(&len, n->in + n->in_head, sizeof(len));
			len = ntohl(len);
			if (len < NET_ETH_SIZE || len > NET_FRAME_MAX)
				return -EPROTO;
			if (have >= NET_LEN_SIZE + len)
				break;
		}
		got = stream_fill(n);
		if (got <= 0)
			return got;
	}
	iov_write(iov, niov, 0, &h, sizeof(h));
	iov_write(iov, niov, sizeof(h), n->in + n->in_head + NET_LEN_SIZE, len);
	n->in_head += NET_LEN_SIZE + len;
	if (n->in_head == n->in_tail)
		n->in_head = n->in_tail = 0;
	return (ssize_t)(sizeof(h) + len);
}
