// SPDX-License-Identifier: Apache-2.0
/*
 * Frames to the guest (virtio 1.2, 5.1.6.4). The length of a frame is known only when it was read. So buffers for the largest
 * expected frame are popped first (the stash), and one preadv2() fills as many as the frame needs; the others are used for the
 * next one. The part of a frame that does not fit into the stash is read into `spill`, and copied when the guest offers more
 * buffers.
 *
 * With MRG_RXBUF a frame may use several buffers, otherwise it must fit into one.
 */
#include "net/net.h"

#include <errno.h>
#include <string.h>
#include <sys/uio.h>

enum { NUM_BUFFERS_AT = offsetof(struct net_hdr, num_buffers) };

static bool net_merges(const struct net *n)
{
	return n->q.flags & NET_MRG_RXBUF;
}

void net_rx_flush(struct net *n)
{
	if (!ring_flush(n->q.rx))
		return;
	stat_add(&n->worker.stats.irqs, 1);
	irq_raise(n->q.rx_irq, IRQ_VRING);
}

/* Move the stash to the front, to have room for another chain. */
static void stash_compact(struct net *n)
{
	if (!n->stash_first && !n->iov_first)
		return;
	memmove(n->stash, n->stash + n->stash_first, n->nstash * sizeof(n->stash[0]));
	memmove(n->stash_iov, n->stash_iov + n->iov_first, (n->iov_end - n->iov_first) * sizeof(n->stash_iov[0]));
	n->iov_end -= n->iov_first;
	n->stash_first = n->iov_first = 0;
}

/* Pop buffers until `want` bytes fit. 0, or the latched error. If the guest offers fewer, less fits. */
static int stash_fill(struct net *n, uint64_t want)
{
	struct chain chain = { .max = RING_MAX_SEGMENTS };
	struct iovec *iov;
	int got;

	while (n->stash_room < want) {
		if (n->stash_first + n->nstash == NET_STASH || n->iov_end + RING_MAX_SEGMENTS > NET_STASH_IOV)
			stash_compact(n);
		if (n->nstash == NET_STASH || n->iov_end + RING_MAX_SEGMENTS > NET_STASH_IOV)
			return 0;
		iov = chain.iov = n->stash_iov + n->iov_end;
		got = ring_pop(n->q.rx, &chain);
		if (got <= 0)
			return got;
		if (unlikely(!chain.write_len))
			return ring_fail(n->q.rx, -EPROTO, "chain %u has no room for a frame", chain.head);
		if (unlikely(chain.nread))
			memmove(iov, iov + chain.nread, chain.nwrite * sizeof(*iov));
		n->stash[n->stash_first + n->nstash++] =
			(struct net_slot){ .head = chain.head, .niov = chain.nwrite, .room = chain.write_len };
		n->iov_end += chain.nwrite;
		n->stash_room += chain.write_len;
	}
	return 0;
}

void net_rx_unstash(struct net *n)
{
	/* A frame that waits for more buffers is dropped. */
	if (n->held)
		stat_add(&n->stats.rx_dropped, 1);
	n->held = 0;
	while (n->nstash)
		ring_unpop(n->q.rx, n->stash[n->stash_first + --n->nstash].head);
	n->stash_first = n->iov_first = n->iov_end = 0;
	n->stash_room = 0;
}

/* Push the first slot, with so many bytes written. */
static void stash_push(struct net *n, uint64_t written)
{
	const struct net_slot *slot = &n->stash[n->stash_first];

	ring_push(n->q.rx, slot->head, (uint32_t)written);
	stat_add(&n->worker.stats.chains, 1);
	n->stash_room -= slot->room;
	n->iov_first += slot->niov;
	n->stash_first++;
	if (!--n->nstash)
		n->stash_first = n->iov_first = n->iov_end = 0;
}

/* Copy to the stash, from the offset `at` on. */
static void stash_write(struct net *n, uint64_t at, const void *from, size_t len)
{
	iov_write(n->stash_iov + n->iov_first, n->iov_end - n->iov_first, at, from, len);
}

/* Read a frame of fd or side_fd into the stash and the rest into spill. Its length with the header, or -errno. */
static ssize_t net_read(struct net *n, bool side)
{
	const uint32_t slots = n->iov_end - n->iov_first;
	uint32_t niov = net_merges(n) ? slots : n->stash[n->stash_first].niov;
	struct iovec *iov = n->stash_iov + n->iov_first;
	struct iovec saved;
	ssize_t got;

	if (niov > NET_IOV_MAX - 1)
		niov = NET_IOV_MAX - 1;
	n->direct = 0;
	for (uint32_t i = 0; i < niov; i++)
		n->direct += iov[i].iov_len;
	/* The next entry may belong to the next slot: restore it afterwards. */
	saved = iov[niov];
	iov[niov] = (struct iovec){ n->spill, sizeof(n->spill) };
	if (n->kind == NET_STREAM && !side) {
		got = net_stream_read(n, iov, niov + 1);
	} else {
		do
			got = preadv2(side ? n->q.side_fd : n->fd, iov, (int)niov + 1, -1, 0); /* as readv(), by a call that disks need, too */
		while (got < 0 && errno == EINTR);
		if (got < 0)
			got = -errno;
	}
	iov[niov] = saved;
	return got;
}

/* The stash cannot grow: it is full, or the guest has no other buffer to offer. */
static bool stash_is_all(const struct net *n)
{
	return n->nstash == NET_STASH || ring_in_flight(n->q.rx) == ring_size(n->q.rx) ||
	       n->iov_end - n->iov_first + RING_MAX_SEGMENTS > NET_STASH_IOV;
}

static void net_give(struct net *n)
{
	uint64_t left = n->held;
	uint16_t buffers = 0;

	if (n->held > n->direct)
		stash_write(n, n->direct, n->spill, n->held - n->direct);
	while (left) {
		left -= left < n->stash[n->stash_first + buffers].room ? left : n->stash[n->stash_first + buffers].room;
		buffers++;
	}
	/* 5.1.6.4.1: always, and 1 unless buffers are merged. */
	stash_write(n, NUM_BUFFERS_AT, &buffers, sizeof(buffers));
	for (left = n->held; buffers; buffers--) {
		uint64_t some = n->stash[n->stash_first].room;

		if (some > left)
			some = left;
		left -= some;
		stash_push(n, some);
	}
	stat_add(&n->stats.rx_frames, 1);
	stat_add(&n->stats.rx_bytes, n->held - NET_HDR_SIZE);
	n->held = 0;
}

/* 1: the frame that was read is pushed, or dropped; 0: it waits for buffers; or the latched error. */
static int net_deliver(struct net *n)
{
	int err;

	if (!net_merges(n)) {
		if (n->held > n->stash[n->stash_first].room)
			goto drop;
	} else if (n->held > n->stash_room) {
		err = stash_fill(n, n->held);
		if (err)
			return err;
		if (n->held > n->stash_room) {
			if (stash_is_all(n))
				goto drop;
			return 0;
		}
	}
	net_give(n);
	return 1;
drop:
	stat_add(&n->stats.rx_dropped, 1);
	n->held = 0;
	return 1;
}

static void net_starve(struct net *n)
{
	if (n->starved)
		return;
	n->starved = true;
	stat_add(&n->stats.rx_starved, 1);
}

/* The next frame, those of side_fd first. Its length with the header, or -errno. */
static ssize_t net_next(struct net *n)
{
	ssize_t got;

	while (n->side_readable) {
		got = net_read(n, true);
		if (got > NET_HDR_SIZE)
			return got;
		if (got <= 0)
			n->side_readable = false; /* none left, or its program has ended: the network goes on without it */
	}
	if (!n->readable)
		return -EAGAIN;
	do
		got = net_read(n, false);
	while (got > 0 && got <= NET_HDR_SIZE);
	if (got == -EAGAIN)
		n->readable = false;
	return got;
}

/* Read a frame. 1: it is in the stash; 0: there is none, or it cannot be read now; or the latched error. */
static int net_fetch(struct net *n)
{
	const uint64_t want = NET_HDR_SIZE + (net_merges(n) ? n->q.rx_frame : 1u);
	ssize_t got;
	int err;

	if (!(n->readable || n->side_readable) || !limit_gate_open(&n->rx_gate))
		return 0;
	err = stash_fill(n, want);
	if (err)
		return err;
	if (!n->nstash) {
		net_starve(n);
		return 0;
	}
	n->starved = false;
	got = net_next(n);
	if (got > 0) {
		n->held = (uint64_t)got;
		return 1;
	}
	if (got != -EAGAIN)
		net_lost(n, (int)got);
	return 0;
}

int net_rx_run(struct net *n)
{
	uint64_t total = 0, len;
	int done = 0, ret;

	while (done < NET_BATCH && total < NET_BATCH_BYTES) {
		if (!n->held) {
			ret = net_fetch(n);
			if (ret <= 0)
				return ret < 0 ? ret : done;
		}
		len = n->held;
		ret = net_deliver(n);
		if (ret < 0)
			return ret;
		if (ret == 0) {
			net_starve(n);
			break;
		}
		n->starved = false;
		/* Publish each frame at once: the guest works on it while the next one is read, and then wants no interrupts. */
		net_rx_flush(n);
		limit_gate_charge(&n->rx_gate, len - NET_HDR_SIZE);
		total += len;
		done++;
	}
	return done;
}
