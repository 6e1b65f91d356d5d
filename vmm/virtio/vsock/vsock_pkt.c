// SPDX-License-Identifier: Apache-2.0
/*
 * Packets from the guest (virtio 1.2, 5.10.6): each is copied once and believed in nothing. What is not understood is
 * answered with a RST.
 *
 * Credit is counted modulo 2^32, as the specification has it, and compared only as differences: what the guest has sent
 * and we have not passed on is never more than it was promised, or the connection is cut; what it says of itself is
 * taken only where it can be.
 */
#include "vsock/vsock.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Packets, and bytes, before others get a turn. */
enum { TX_BATCH = 64, TX_BATCH_BYTES = 1 << 20 };

/* A RST to somebody that there is no connection of. */
static void pkt_refuse(struct vsock *v, const struct vsock_hdr *h)
{
	/* Never a RST for a RST: two that do so would not stop. */
	if (h->op == VSOCK_OP_RST)
		return;
	/* There is room: vsock_tx_open(). */
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

/* How much room the guest has, as it says in every packet. */
static void pkt_credit(struct vsock *v, struct vsock_conn *c, const struct vsock_hdr *h)
{
	c->peer_alloc = h->buf_alloc;
	/*
	 * Forward only, and no further than what was sent: an older number can come late, from another CPU of the guest, and a
	 * wrong one must not make room that is not there.
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
	int fd = v->nconns < v->config.max_conns ? vsock_host_connect(v, h->dst_port, h->type) : -EMFILE;

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
	/* Nothing to pass on, also of a message; but it would cost memory, and no credit. */
	if (!h->len)
		return;
	stat_add(&v->stats.from_guest_bytes, h->len);
	c->rx_cnt += h->len;
	if (c->fd < 0 || c->host_shut & VSOCK_SHUT_RCV) {
		/* The guest has not read yet that nobody will read this. */
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
		/* 5.10.6.6.1: the RST says that both sides are done. What the guest has sent still goes to the host. */
		c->state = VSOCK_CLOSING;
		c->owe = 0;
		vsock_conn_owe(v, c, VSOCK_OWE_RST);
	}
	vsock_host_settle(v, c);
}

/* One whole packet: its header, a copy, and len bytes of data that are there. */
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
	/* Over already, and the RST is on its way. */
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

/* A chain of the guest's; what its device-writable part would be for, nobody knows. */
static void tx_chain(struct vsock *v, struct chain *chain)
{
	struct iovec *iov = chain->iov;
	uint32_t niov = chain->nread;
	struct vsock_hdr h;

	stat_add(&v->stats.from_guest_packets, 1);
	if (iov_gather(iov, niov, &h, sizeof(h)) < sizeof(h) || h.src_cid != v->config.cid) {
		/* Whom to answer? Another guest's CID is not to be used by this one. */
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
