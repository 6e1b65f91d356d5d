// SPDX-License-Identifier: Apache-2.0
/*
 * Packets from the guest (virtio 1.2, 5.10.6). Each header is copied once and checked. The answer to an invalid packet is a
 * RST.
 *
 * Counters of credit are modulo 2^32, as in the specification, so only differences are compared. If the guest sends more than
 * buf_alloc allows, the connection is reset; a fwd_cnt of the guest is used only if it is possible.
 */
#include "vsock/vsock.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* The most packets, and bytes, of one turn. */
enum { TX_BATCH = 64, TX_BATCH_BYTES = 1 << 20 };

/* Answer a packet without a connection by a RST. */
static void pkt_refuse(struct vsock *v, const struct vsock_hdr *h)
{
	/* No RST for a RST: two peers that did so would never stop. */
	if (h->op == VSOCK_OP_RST)
		return;
	/* vsock_tx_open() has checked that there is room. */
	v->reply[(v->reply_first + v->nreplies) % VSOCK_REPLIES] = (struct vsock_hdr){
		.src_cid = h->dst_cid,
		.dst_cid = v->config.cid,
		.src_port = h->dst_port,
		.dst_port = h->src_port,
		.type = h->type,
		.op = VSOCK_OP_RST,
	};
	v->nreplies++;
	stat_add(&v->stats.refused, 1);
}

/* Take the guest's credit, which is in every packet. */
static void pkt_credit(struct vsock *v, struct vsock_conn *c, const struct vsock_hdr *h)
{
	c->peer_alloc = h->buf_alloc;
	/*
	 * fwd_cnt only increases, and never beyond what was sent: an older value can come late, from another CPU of the guest,
	 * and a wrong one must not give credit that does not exist.
	 */
	if (h->fwd_cnt - c->peer_fwd <= c->tx_cnt - c->peer_fwd)
		c->peer_fwd = h->fwd_cnt;
	if (vsock_credit(c)) {
		c->asked_credit = false;
		if (c->readable)
			vsock_conn_ready(v, c);
	}
}

/* A connection was made: count it. */
static void count_open(struct vsock *v, const struct vsock_conn *c)
{
	uint64_t took = (clock_ns() - c->since_ns) >> 10;
	int i = took ? 64 - __builtin_clzll(took) : 0;

	stat_add(&v->stats.opened, 1);
	stat_add(&v->stats.latency[i < VSOCK_LATENCIES ? i : VSOCK_LATENCIES - 1], 1);
}

static void pkt_request(struct vsock *v, const struct vsock_hdr *h)
{
	uint64_t start = clock_ns();
	struct vsock_conn *c = NULL;
	int fd = vsock_conn_room(v) ? vsock_host_connect(v, h->dst_port, h->type) : -EMFILE;

	if (fd < 0) {
		pkt_refuse(v, h);
		return;
	}
	c = vsock_conn_new(v, fd, h->type, VSOCK_ESTABLISHED);
	if (!c) {
		close(fd);
		pkt_refuse(v, h);
		return;
	}
	c->host_port = h->dst_port;
	c->guest_port = h->src_port;
	c->since_ns = start;
	if (vsock_conn_enter(v, c) < 0) {
		vsock_conn_kill(v, c);
		pkt_refuse(v, h);
		return;
	}
	pkt_credit(v, c, h);
	count_open(v, c);
	vsock_conn_owe(v, c, VSOCK_OWE_RESPONSE);
}

static void pkt_data(struct vsock *v, struct vsock_conn *c, const struct vsock_hdr *h, struct iovec *iov, uint32_t niov)
{
	uint32_t waiting = c->rx_cnt - c->fwd_cnt;

	if (c->state != VSOCK_ESTABLISHED || c->guest_shut & VSOCK_SHUT_SEND || h->len > c->buf_alloc - waiting) {
		vsock_conn_reset(v, c);
		return;
	}
	/* Ignore empty packets, also of a message: they would take memory, and no credit. */
	if (!h->len)
		return;
	stat_add(&v->stats.from_guest_bytes, h->len);
	c->rx_cnt += h->len;
	if (c->fd < 0 || c->host_shut & VSOCK_SHUT_RCV) {
		/* The reader is gone, and the guest does not know that yet. */
		vsock_conn_forwarded(v, c, h->len);
		return;
	}
	vsock_host_send(v, c, iov, niov, h->len, h->flags & VSOCK_SEQ_EOM);
}

static void pkt_shutdown(struct vsock *v, struct vsock_conn *c, uint32_t flags)
{
	if (c->state != VSOCK_ESTABLISHED) {
		vsock_conn_reset(v, c);
		return;
	}
	c->guest_shut |= flags & VSOCK_SHUT_BOTH;
	if (c->guest_shut & VSOCK_SHUT_RCV && c->fd >= 0) {
		c->readable = false;
		shutdown(c->fd, SHUT_RD);
	}
	if (c->guest_shut == VSOCK_SHUT_BOTH) {
		/* 5.10.6.6.1: a RST confirms that both directions are closed. Data of the guest still go to the host. */
		c->state = VSOCK_CLOSING;
		c->owe = 0;
		vsock_conn_owe(v, c, VSOCK_OWE_RST);
	}
	vsock_host_settle(v, c);
}

/* Serve a packet: h is a copy of its header, and iov has all h->len bytes of data. */
static void vsock_packet(struct vsock *v, const struct vsock_hdr *h, struct iovec *iov, uint32_t niov)
{
	struct vsock_conn *c = vsock_conn_find(v, h->dst_port, h->src_port);

	if (h->dst_cid != VSOCK_HOST_CID || (h->type != VSOCK_TYPE_STREAM &&
					      (h->type != VSOCK_TYPE_SEQPACKET || !v->seqpacket))) {
		pkt_refuse(v, h);
		return;
	}
	if (!c) {
		if (h->op == VSOCK_OP_REQUEST)
			pkt_request(v, h);
		else
			pkt_refuse(v, h);
		return;
	}
	/* It is closed already, and the RST will be sent. */
	if (c->state == VSOCK_CLOSING && h->op != VSOCK_OP_RST)
		return;
	if (c->type != h->type) {
		vsock_conn_reset(v, c);
		return;
	}
	pkt_credit(v, c, h);
	switch (h->op) {
	case VSOCK_OP_RESPONSE:
		if (c->state != VSOCK_REQUESTED || c->owe & VSOCK_OWE_REQUEST)
			break;
		count_open(v, c);
		vsock_host_accepted(v, c);
		return;
	case VSOCK_OP_RST:
		if (c->state == VSOCK_REQUESTED)
			stat_add(&v->stats.refused, 1);
		c->owe = 0;
		vsock_conn_finish(v, c);
		return;
	case VSOCK_OP_RW:
		pkt_data(v, c, h, iov, niov);
		return;
	case VSOCK_OP_SHUTDOWN:
		pkt_shutdown(v, c, h->flags);
		return;
	case VSOCK_OP_CREDIT_UPDATE:
		if (c->state == VSOCK_ESTABLISHED)
			return;
		break;
	case VSOCK_OP_CREDIT_REQUEST:
		if (c->state != VSOCK_ESTABLISHED)
			break;
		vsock_conn_owe(v, c, VSOCK_OWE_CREDIT);
		return;
	default:
		break;
	}
	vsock_conn_reset(v, c);
}

/* Serve a chain. Its device-writable part has no meaning. */
static void tx_chain(struct vsock *v, struct chain *chain)
{
	struct iovec *iov = chain->iov;
	uint32_t niov = chain->nread;
	struct vsock_hdr h;

	stat_add(&v->stats.from_guest_packets, 1);
	if (iov_gather(iov, niov, &h, sizeof(h)) < sizeof(h) || h.src_cid != v->config.cid) {
		/* There is nobody to answer: no header, or the CID of another guest. */
		stat_add(&v->stats.malformed, 1);
		return;
	}
	iov_skip(&iov, &niov, sizeof(h));
	if (h.op == VSOCK_OP_RW && h.len > chain->read_len - sizeof(h)) {
		struct vsock_conn *c = vsock_conn_find(v, h.dst_port, h.src_port);

		stat_add(&v->stats.malformed, 1);
		if (c && h.dst_cid == VSOCK_HOST_CID)
			vsock_conn_reset(v, c);
		else
			pkt_refuse(v, &h);
		return;
	}
	if (h.op == VSOCK_OP_RW)
		niov = iov_cut(iov, niov, h.len);
	vsock_packet(v, &h, iov, niov);
}

int vsock_tx_run(struct vsock *v)
{
	struct chain chain = { .max = RING_MAX_SEGMENTS, .iov = v->iov };
	uint64_t bytes = 0;
	int n = 0, err = 0;

	while (n < TX_BATCH && bytes < TX_BATCH_BYTES && vsock_tx_open(v)) {
		err = ring_pop(v->worker.ring, &chain);
		if (err <= 0)
			break;
		stat_add(&v->worker.stats.chains, 1);
		n++;
		bytes += chain.read_len;
		tx_chain(v, &chain);
		ring_push(v->worker.ring, chain.head, 0);
	}
	return err < 0 ? err : n;
}
