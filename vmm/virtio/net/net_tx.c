// SPDX-License-Identifier: Apache-2.0
/*
 * Frames from the guest (virtio 1.2, 5.1.6.2). The header is copied once and checked; the frame itself goes from the guest's
 * buffers to the host by one system call. Its content is not read here, and the host's network stack does not trust frames of
 * a tap device.
 */
#include "net/net.h"

#include <errno.h>
#include <string.h>
#include <sys/uio.h>

/* Whether the guest may use this kind of segmentation. */
static bool net_gso_allowed(uint32_t flags, uint8_t type)
{
	if (type & NET_GSO_ECN && !(flags & NET_ECN))
		return false;
	switch (type & ~NET_GSO_ECN) {
	case NET_GSO_TCPV4:
		return flags & NET_TSO4;
	case NET_GSO_TCPV6:
		return flags & NET_TSO6;
	case NET_GSO_UDP:
		return flags & NET_UFO && !(type & NET_GSO_ECN);
	case NET_GSO_UDP_L4:
		return flags & NET_USO && !(type & NET_GSO_ECN);
	}
	return false;
}

bool net_hdr_check(uint32_t flags, struct net_hdr *h, uint64_t len)
{
	if (len < NET_ETH_SIZE || len > NET_FRAME_MAX)
		return false;
	/* 5.1.6.2.2: the other flags, and num_buffers, have no meaning in this direction. */
	h->flags &= NET_F_NEEDS_CSUM;
	h->num_buffers = 0;
	if (h->flags) {
		if (!(flags & NET_CSUM) || (uint64_t)h->csum_start + h->csum_offset + 2 > len)
			return false;
	} else {
		h->csum_start = h->csum_offset = 0;
	}
	if (h->gso_type == NET_GSO_NONE) {
		h->gso_size = h->hdr_len = 0;
		return true;
	}
	/* 5.1.6.2.1: segments need their checksums. */
	if (!net_gso_allowed(flags, h->gso_type) || !h->flags || !h->gso_size)
		return false;
	/* hdr_len is a hint; the kernel refuses one that is beyond the end. */
	if (h->hdr_len > len)
		h->hdr_len = (uint16_t)len;
	return true;
}

/* RFC 826, RFC 791: an Ethernet header, then offsets in the whole frame. */
enum { ETHERTYPE_AT = 12, ARP_OPER_AT = 20, ARP_TARGET_AT = 38, IP_PROTOCOL_AT = 23, IP_DESTINATION_AT = 30, IS_FOR_SIZE = 42 };

/* Whether a frame of len bytes is a request for the address by ARP, or TCP to it. */
static bool net_is_for(uint32_t address, const struct iovec *iov, uint32_t niov, uint64_t len)
{
	uint8_t head[IS_FOR_SIZE];

	if (len < sizeof(head) || iov_gather(iov, niov, head, sizeof(head)) < sizeof(head) || head[ETHERTYPE_AT] != 8)
		return false;
	if (head[ETHERTYPE_AT + 1] == 6)
		return !head[ARP_OPER_AT] && head[ARP_OPER_AT + 1] == 1 && !memcmp(head + ARP_TARGET_AT, &address, 4);
	return !head[ETHERTYPE_AT + 1] && head[IP_PROTOCOL_AT] == 6 && !memcmp(head + IP_DESTINATION_AT, &address, 4);
}

/* iov[0] is free, for the header. The number of bytes sent, or -errno. */
static ssize_t net_send(struct net *n, struct net_hdr *h, struct iovec *iov, uint32_t niov, uint64_t len)
{
	const bool side = unlikely(n->q.side_address) && net_is_for(n->q.side_address, iov + 1, niov, len);
	ssize_t sent;

	if (niov + 1 > NET_IOV_MAX) {
		iov[1] = (struct iovec){ n->flat, iov_gather(iov + 1, niov, n->flat, sizeof(n->flat)) };
		niov = 1;
	}
	if (n->kind == NET_STREAM && !side)
		return net_stream_send(n, iov + 1, niov, len);
	iov[0] = (struct iovec){ h, sizeof(*h) };
	do
		sent = pwritev2(side ? n->q.side_fd : n->fd, iov, (int)niov + 1, -1, 0); /* as writev(), by a call that disks need, too */
	while (sent < 0 && errno == EINTR);
	/* Whoever serves side_fd neither stops the network nor ends it: what it does not take is dropped. */
	return sent >= 0 ? sent : side ? -ENOBUFS : -errno;
}

/* Send one frame; false: the backend takes nothing now. */
static bool net_tx_one(struct net *n, struct chain *chain, uint64_t *bytes)
{
	struct net_hdr h;
	/* tx_iov[0] is for our copy of the header. */
	struct iovec *iov = n->tx_iov + 1;
	uint32_t niov = chain->nread;
	ssize_t sent;

	*bytes = chain->read_len;
	if (iov_gather(iov, niov, &h, sizeof(h)) < sizeof(h) ||
	    !net_hdr_check(n->q.flags, &h, chain->read_len - sizeof(h))) {
		stat_add(&n->stats.tx_malformed, 1);
		stat_add(&n->stats.tx_dropped, 1);
		return true;
	}
	*bytes -= sizeof(h);
	if (unlikely(n->gone)) {
		stat_add(&n->stats.tx_dropped, 1);
		return true;
	}
	iov_skip(&iov, &niov, sizeof(h));
	sent = net_send(n, &h, iov - 1, niov, *bytes);
	if (sent == -EAGAIN)
		return false;
	if (likely(sent >= 0)) {
		stat_add(&n->stats.tx_frames, 1);
		stat_add(&n->stats.tx_bytes, *bytes);
		return true;
	}
	stat_add(&n->stats.tx_dropped, 1);
	if (sent == -EBADFD || sent == -EPIPE || sent == -ECONNRESET || sent == -EBADF)
		net_lost(n, (int)sent);
	return true;
}

int net_tx_run(struct net *n)
{
	struct chain chain = { .max = RING_MAX_SEGMENTS, .iov = n->tx_iov + 1 };
	struct ring *ring = n->worker.ring;
	uint64_t total = 0, bytes;
	int done = 0, err;

	while (done < NET_BATCH && total < NET_BATCH_BYTES) {
		if (n->tx_full || !limit_gate_open(&n->tx_gate))
			break;
		err = ring_pop(ring, &chain);
		if (err <= 0)
			return err < 0 ? err : done;
		if (!net_tx_one(n, &chain, &bytes)) {
			ring_unpop(ring, chain.head);
			n->tx_full = true;
			break;
		}
		limit_gate_charge(&n->tx_gate, bytes);
		stat_add(&n->worker.stats.chains, 1);
		ring_push(ring, chain.head, 0);
		total += bytes;
		done++;
	}
	return done;
}
