// SPDX-License-Identifier: Apache-2.0
/*
 * Packets to the guest. One read fills several of its buffers: data go from the socket directly to guest memory.
 *
 * Connections with packets take turns. While the guest offers no buffers, they wait, and so do RSTs for its packets; when
 * there are VSOCK_REPLIES of these, no further packets of the guest are popped.
 */
#include "vsock/vsock.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

enum { RX_BATCH = 64 };
enum { MAY_STARVE = -1000 };

uint32_t vsock_credit(const struct vsock_conn *c)
{
	uint32_t used = c->tx_cnt - c->peer_fwd;

	/* The guest may reduce its buf_alloc. */
	return used < c->peer_alloc ? c->peer_alloc - used : 0;
}

/* ---- packets ---- */

void vsock_flush(struct vsock *v, struct ring *ring, struct irq *irq)
{
	if (!ring_flush(ring))
		return;
	stat_add(&v->worker.stats.irqs, 1);
	irq_raise(irq, IRQ_VRING);
}

void vsock_rx_flush(struct vsock *v)
{
	vsock_flush(v, v->rx, v->rx_irq);
}

static void packet_send(struct vsock *v, struct vsock_conn *c, uint16_t op, uint32_t flags, uint32_t len)
{
	const struct vsock_hdr h = {
		.src_cid = VSOCK_HOST_CID,
		.dst_cid = v->config.cid,
		.src_port = c->host_port,
		.dst_port = c->guest_port,
		.len = len,
		.type = c->type,
		.op = op,
		.flags = flags,
		.buf_alloc = c->buf_alloc,
		.fwd_cnt = c->fwd_cnt,
	};

	/* Every packet has fwd_cnt, so no credit update is needed. */
	c->last_fwd = c->fwd_cnt;
	c->owe &= (uint8_t)~VSOCK_OWE_CREDIT;
	vsock_stash_send(v, &h);
}

/* Send a packet without data if it is owed. 1: sent, or not owed; MAY_STARVE: there is no buffer; or the latched error. */
static int control_send(struct vsock *v, struct vsock_conn *c, uint8_t what, uint16_t op, uint32_t flags)
{
	int n;

	if (!(c->owe & what))
		return 1;
	n = vsock_stash_fill(v, 1);
	if (n <= 0)
		return n ? n : MAY_STARVE;
	c->owe &= (uint8_t)~what;
	if (op == VSOCK_OP_CREDIT_UPDATE)
		stat_add(&v->stats.credit_updates, 1);
	packet_send(v, c, op, flags, 0);
	return 1;
}

/* The stash has len bytes of data: write the headers and push the buffers. Returns the number of buffers. */
static uint32_t data_send(struct vsock *v, struct vsock_conn *c, uint64_t len, bool eom)
{
	uint32_t n = 0;

	c->tx_cnt += (uint32_t)len;
	stat_add(&v->stats.to_guest_bytes, len);
	for (; len; n++) {
		uint64_t some = v->stash[v->stash_first].room - VSOCK_HDR_SIZE;

		if (some > len)
			some = len;
		len -= some;
		packet_send(v, c, VSOCK_OP_RW, eom && !len ? VSOCK_SEQ_EOM : 0, (uint32_t)some);
	}
	return n;
}

/* Handle a read without data. n: the result of recv(). */
static void data_none(struct vsock *v, struct vsock_conn *c, ssize_t n)
{
	if (n < 0 && (errno == EINTR || errno == ENOBUFS || errno == ENOMEM))
		return;
	if (n < 0 && errno == EAGAIN)
		c->readable = false;
	else
		vsock_host_eof(v, c, n < 0 || c->hup);
}

static int stream_turn(struct vsock *v, struct vsock_conn *c, uint32_t credit)
{
	int slots = vsock_stash_fill(v, c->burst);
	struct msghdr msg = { .msg_iov = v->iov };
	uint64_t room;
	ssize_t n;

	if (slots <= 0)
		return slots ? slots : MAY_STARVE;
	if (slots > c->burst)
		slots = c->burst;
	msg.msg_iovlen = vsock_stash_iov(v, (uint32_t)slots, credit, &room);
	n = recvmsg(c->fd, &msg, MSG_DONTWAIT);
	if (n <= 0) {
		data_none(v, c, n);
		return 1;
	}
	slots = (int)data_send(v, c, (uint64_t)n, false);
	if ((uint64_t)n == room) {
		c->burst = c->burst < VSOCK_STASH / 2 ? (uint8_t)(2 * c->burst) : VSOCK_STASH;
	} else {
		/* That was all: epoll reports when there is more. It may have reported the end already. */
		c->burst = (uint8_t)(slots > VSOCK_BURST_MIN ? slots : VSOCK_BURST_MIN);
		c->readable = c->rdhup;
	}
	return 1;
}

/* Send the next part of a message that was kept. */
static int message_rest(struct vsock *v, struct vsock_conn *c, uint32_t credit)
{
	struct vsock_pend *p = c->to_guest;
	uint32_t len = vsock_pend_len(p);
	int slots = vsock_stash_fill(v, VSOCK_STASH);
	uint64_t room;
	uint32_t n;

	if (slots <= 0)
		return slots ? slots : MAY_STARVE;
	n = vsock_stash_iov(v, (uint32_t)slots, credit < len ? credit : len, &room);
	iov_scatter(v->iov, n, p->data + p->head, room);
	vsock_pend_take(v, &c->to_guest, (uint32_t)room);
	data_send(v, c, room, room == len);
	return 1;
}

/* Read a message that is too long for the buffers or the credit: a socket returns a message only as a whole. */
static int message_keep(struct vsock *v, struct vsock_conn *c, uint32_t len)
{
	struct vsock_pend *p = vsock_pend_new(v, len);
	ssize_t n;

	if (!p) {
		vsock_conn_reset(v, c);
		return 1;
	}
	n = vsock_recv(c->fd, p->data, len, MSG_DONTWAIT);
	if (n <= 0) {
		vsock_pend_drop(v, &p);
		data_none(v, c, n);
		return 1;
	}
	p->tail = (uint32_t)n;
	c->to_guest = p;
	return 1;
}

/*
 * recv() returns 0 for an empty message and for the end. An empty message is dropped, since credit does not count it. epoll
 * reports the end, at the latest after BUSY_TURNS; until then recv() returns 0 again.
 */
static void message_empty(struct vsock *v, struct vsock_conn *c)
{
	if (c->rdhup)
		vsock_host_eof(v, c, c->hup);
	else
		(void)!vsock_recv(c->fd, NULL, 0, MSG_DONTWAIT);
}

static int message_turn(struct vsock *v, struct vsock_conn *c, uint32_t credit)
{
	struct msghdr msg = { .msg_iov = v->iov };
	uint64_t room;
	ssize_t len;
	int slots;

	if (c->to_guest)
		return message_rest(v, c, credit);
	len = vsock_recv(c->fd, NULL, 0, MSG_PEEK | MSG_TRUNC | MSG_DONTWAIT);
	if (len == 0) {
		message_empty(v, c);
		return 1;
	}
	if (len < 0) {
		data_none(v, c, len);
		return 1;
	}
	/* The guest will never have credit for all of it. */
	if (len > VSOCK_MESSAGE_MAX || (uint64_t)len > c->peer_alloc) {
		vsock_conn_reset(v, c);
		return 1;
	}
	slots = vsock_stash_fill(v, VSOCK_STASH);
	if (slots <= 0)
		return slots ? slots : MAY_STARVE;
	msg.msg_iovlen = vsock_stash_iov(v, (uint32_t)slots, (uint64_t)len, &room);
	if (room < (uint64_t)len || credit < len)
		return message_keep(v, c, (uint32_t)len);
	len = recvmsg(c->fd, &msg, MSG_DONTWAIT);
	if (len <= 0)
		data_none(v, c, len);
	else
		data_send(v, c, (uint64_t)len, true);
	return 1;
}

/* Whether there may be data for the guest. */
static bool conn_reads(const struct vsock_conn *c)
{
	return c->state == VSOCK_ESTABLISHED && c->fd >= 0 && c->readable && !(c->guest_shut & VSOCK_SHUT_RCV);
}

/* Data from the socket. 1: done; MAY_STARVE: no buffers; or an error. */
static int data_turn(struct vsock *v, struct vsock_conn *c)
{
	uint32_t credit = vsock_credit(c);

	if (!conn_reads(c))
		return 1;
	/* This direction is closed; only the end of the other one is still to be found. */
	if (c->host_shut & VSOCK_SHUT_SEND && !c->hup) {
		c->readable = false;
		return 1;
	}
	if (!credit)
		return 1;
	return c->type == VSOCK_TYPE_SEQPACKET ? message_turn(v, c, credit) : stream_turn(v, c, credit);
}

/* ---- turns ---- */

static int conn_send(struct vsock *v, struct vsock_conn *c)
{
	int n;

	if (c->owe & VSOCK_OWE_RST) {
		n = control_send(v, c, VSOCK_OWE_RST, VSOCK_OP_RST, 0);
		if (n > 0)
			vsock_conn_finish(v, c);
		return n;
	}
	n = control_send(v, c, VSOCK_OWE_REQUEST, VSOCK_OP_REQUEST, 0);
	if (n > 0)
		n = control_send(v, c, VSOCK_OWE_RESPONSE, VSOCK_OP_RESPONSE, 0);
	if (n > 0)
		n = data_turn(v, c);
	/* The read may have reset the connection. */
	if (n > 0 && c->owe & VSOCK_OWE_RST)
		return 1;
	if (!v->stalled_ns && conn_reads(c) && !vsock_credit(c) && !c->asked_credit)
		v->stalled_ns = clock_ns();
	if (n > 0)
		n = control_send(v, c, VSOCK_OWE_CREDIT, VSOCK_OP_CREDIT_UPDATE, 0);
	if (n > 0)
		n = control_send(v, c, VSOCK_OWE_CREDIT_REQUEST, VSOCK_OP_CREDIT_REQUEST, 0);
	if (n > 0)
		n = control_send(v, c, VSOCK_OWE_SHUTDOWN, VSOCK_OP_SHUTDOWN, c->host_shut);
	return n;
}

void vsock_rx_ask(struct vsock *v)
{
	v->stalled_ns = 0;
	for (uint32_t i = 0; i < v->nbuckets; i++) {
		for (struct vsock_conn *c = v->bucket[i]; c; c = c->hash_next) {
			if (!conn_reads(c) || vsock_credit(c) || c->asked_credit)
				continue;
			c->asked_credit = true;
			vsock_conn_owe(v, c, VSOCK_OWE_CREDIT_REQUEST);
		}
	}
}

static bool conn_has_more(const struct vsock_conn *c)
{
	if (c->state == VSOCK_DEAD || c->state == VSOCK_ORPHAN)
		return false;
	return c->owe || (conn_reads(c) && vsock_credit(c));
}

static int replies_send(struct vsock *v)
{
	int done = 0;

	while (v->nreplies) {
		int n = vsock_stash_fill(v, 1);

		if (n <= 0)
			return n ? n : MAY_STARVE;
		vsock_stash_send(v, &v->reply[v->reply_first]);
		v->reply_first = (v->reply_first + 1) % VSOCK_REPLIES;
		v->nreplies--;
		done++;
	}
	return done;
}

int vsock_rx_run(struct vsock *v)
{
	int done = 0, n;

	v->rx_starved = false;
	n = replies_send(v);
	vsock_rx_flush(v);
	if (n < 0)
		return n == MAY_STARVE ? 0 : n;
	done += n;
	while (v->ready.first && done < RX_BATCH) {
		struct vsock_conn *c = v->ready.first;

		vsock_list_remove(&v->ready, c);
		c->listed = false;
		n = conn_send(v, c);
		/* Publish after each connection: the guest works on it during the next read, and then wants no interrupts. */
		vsock_rx_flush(v);
		if (conn_has_more(c))
			vsock_conn_ready(v, c);
		if (n < 0)
			return n == MAY_STARVE ? done : n;
		done++;
	}
	return done;
}
