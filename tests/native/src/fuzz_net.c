// SPDX-License-Identifier: Apache-2.0
/*
 * A network card against any frames, headers and buffers, without a thread, so that a run depends on the input alone. Input:
 * what was negotiated and what the cable is, then steps: a byte of what to do, and its data. The other end of the cable is a
 * pair of sockets that keep the bounds of frames, as a tap device does, or a stream.
 *
 * What reaches the other end is a frame with a header that was allowed; every chain is answered once; what was not used of
 * the guest's memory is as it was.
 */
#include "net/net.h"
#include "guest.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

enum { LOW = 0x60000, SIZE = 16, RX_DESC = 0, RX_AVAIL = 0x400, RX_USED = 0x600, TX_DESC = 0x1000, TX_AVAIL = 0x1400 };
enum { TX_USED = 0x1600, RX_BUFS = 0x4000, RX_BUF = 2048, TX_BUF = 0x20000, STEPS = 48, FAR_WAITS = 0x9d, FAR_READS, FAR_GOES };

static uint8_t *low;
static int event, far = -1;
static uint16_t rx_idx, tx_idx;
static uint32_t flags, kind;

static uint16_t used_idx(size_t at)
{
	uint16_t idx;

	memcpy(&idx, low + at + 2, 2);
	return idx;
}

static void offer(size_t avail, uint16_t *idx, uint16_t head)
{
	memcpy(low + avail + 4 + 2 * (*idx % SIZE), &head, 2);
	++*idx;
	memcpy(low + avail + 2, idx, 2);
}

/* The next of SIZE / 2 chains of two descriptors, if the device has given it back. */
static bool next_head(size_t used, uint16_t idx, uint16_t *head)
{
	*head = (uint16_t)(2 * (idx % (SIZE / 2)));
	return (uint16_t)(idx - used_idx(used)) < SIZE / 2;
}

static void post_buffer(const uint8_t **data, size_t *size)
{
	uint16_t cut[2] = { 0 }, head;
	struct desc d[2];
	uint64_t at;

	if (!next_head(RX_USED, rx_idx, &head))
		return;
	input_take(data, size, cut, sizeof(cut));
	at = RX_BUFS + (uint64_t)head * RX_BUF;
	d[0] = (struct desc){ at, cut[0] % RX_BUF + 1u, 3, (uint16_t)(head + 1) };
	d[1] = (struct desc){ at + RX_BUF, cut[1] % RX_BUF + 1u, 2, 0 };
	memcpy(low + RX_DESC + 16 * head, d, sizeof(d));
	offer(RX_AVAIL, &rx_idx, head);
}

static void send_frame(const uint8_t **data, size_t *size)
{
	struct net_hdr h = { 0 };
	uint16_t head, cut = 0, len = 0;
	struct desc d[2];

	if (!next_head(TX_USED, tx_idx, &head))
		return;
	input_take(data, size, &h, sizeof(h));
	input_take(data, size, &len, sizeof(len));
	input_take(data, size, &cut, sizeof(cut));
	memcpy(low + TX_BUF, &h, sizeof(h));
	cut = cut % 20 + 1;
	d[0] = (struct desc){ TX_BUF, cut, 1, (uint16_t)(head + 1) };
	d[1] = (struct desc){ TX_BUF + cut, len + 1u, 0, 0 };
	memcpy(low + TX_DESC + 16 * head, d, sizeof(d));
	offer(TX_AVAIL, &tx_idx, head);
}

/* Frames to the guest, or anything. */
static void host_sends(const uint8_t **data, size_t *size, uint8_t what)
{
	static uint8_t buf[NET_LEN_SIZE + NET_HDR_SIZE + NET_FRAME_MAX];
	uint16_t len = 0;
	uint32_t wire;
	size_t n;

	input_take(data, size, &len, sizeof(len));
	memset(buf, 0x5a, sizeof(buf));
	if (kind == NET_TAP) {
		n = len + 1u;
		input_take(data, size, buf, NET_HDR_SIZE);
	} else if (what & 1) {
		n = input_take(data, size, buf, 64);
	} else {
		n = NET_LEN_SIZE + NET_ETH_SIZE + len;
		wire = htonl((uint32_t)(n - NET_LEN_SIZE));
		memcpy(buf, &wire, sizeof(wire));
	}
	if (n)
		(void)!send(far, buf, n, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static bool far_reads;

static void host_receives(void)
{
	static uint8_t buf[NET_HDR_SIZE + NET_FRAME_MAX + 1];
	struct net_hdr h, again;
	ssize_t n;

	while (far_reads && (n = recv(far, buf, sizeof(buf), MSG_DONTWAIT)) > 0) {
		if (kind == NET_STREAM)
			continue;
		require(n >= NET_HDR_SIZE + NET_ETH_SIZE && n <= NET_HDR_SIZE + NET_FRAME_MAX);
		memcpy(&h, buf, sizeof(h));
		again = h;
		require(net_hdr_check(flags, &again, (uint64_t)n - NET_HDR_SIZE));
		require(!memcmp(&h, &again, sizeof(h)));
		require(!h.flags || (flags & NET_CSUM && h.csum_start + h.csum_offset + 2 <= n - NET_HDR_SIZE));
	}
}

static void device_acts(struct net *n)
{
	int did, turns = 0;

	n->turns = 100;
	n->readable = !n->gone;
	do {
		did = net_ops.run(&n->worker);
		require(did >= 0);
		require(++turns < 10000);
		if (!n->gone)
			require(n->in_tail <= NET_STREAM_SIZE && n->out_len <= sizeof(n->out));
		host_receives();
	} while (did > 0);
	if (net_ops.kicks(&n->worker, 1))
		net_ops.run(&n->worker);
	net_ops.kicks(&n->worker, 0);
}

static void setup(void)
{
	if (!low) {
		require(!posix_memalign((void **)&low, 4096, LOW));
		event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	}
	memset(low, 0, LOW);
	memset(low + RX_BUFS + SIZE * RX_BUF, 0xee, TX_BUF - RX_BUFS - SIZE * RX_BUF);
	rx_idx = tx_idx = 0;
	far_reads = true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct mem mem = { .nregions = 1 };
	struct irq irq = { 0 };
	struct ring_config rc = { .size = SIZE, .desc = RX_DESC, .avail = RX_AVAIL, .used = RX_USED };
	struct net_queues queues = { .rx_frame = 65549 };
	uint8_t first[2] = { 0 };
	struct net *n;
	int err, end[2], epoll = epoll_create1(EPOLL_CLOEXEC);

	setup();
	input_take(&data, &size, first, sizeof(first));
	flags = queues.flags = first[0];
	kind = first[1] & 1;
	if (first[1] & 2)
		queues.rx_frame = 1518;
	require(!socketpair(AF_UNIX, (kind ? SOCK_STREAM : SOCK_SEQPACKET) | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, end));
	far = end[1];
	irq.fd = event;
	mem.region[0] = (struct mem_region){ 0, LOW, (uintptr_t)low };
	queues.rx = ring_new(&mem, &rc, &err);
	rc = (struct ring_config){ .size = SIZE, .desc = TX_DESC, .avail = TX_AVAIL, .used = TX_USED };
	queues.tx = ring_new(&mem, &rc, &err);
	queues.rx_kick = event;
	queues.rx_irq = queues.tx_irq = &irq;
	n = net_new(end[0], kind, &err);
	require(n && queues.rx && queues.tx);
	net_prepare(n, &queues);
	n->worker.ops = &net_ops;
	n->worker.ring = queues.tx;
	n->worker.irq = &irq;
	n->worker.event_fd = event;
	n->worker.epoll_fd = epoll;
	require(net_ops.begin(&n->worker) == 0);
	for (int step = 0; size && step < STEPS; step++) {
		uint8_t what = 0;

		input_take(&data, &size, &what, 1);
		if (what < 0x50)
			post_buffer(&data, &size);
		else if (what == FAR_WAITS || what == FAR_READS)
			far_reads = what == FAR_READS;
		else if (what == FAR_GOES)
			shutdown(far, SHUT_RDWR);
		else if (what < 0xa0)
			host_sends(&data, &size, what);
		else
			send_frame(&data, &size);
		if (!(what & 8))
			device_acts(n);
	}
	far_reads = true;
	host_receives();
	device_acts(n);
	net_ops.drain(&n->worker);
	require(ring_in_flight(queues.rx) == 0 && ring_in_flight(queues.tx) == 0);
	require(n->gone || n->tx_full || used_idx(TX_USED) == tx_idx);
	for (size_t at = RX_BUFS + SIZE * RX_BUF; at < TX_BUF; at++)
		require(low[at] == 0xee);
	net_free(n);
	ring_free(queues.rx);
	ring_free(queues.tx);
	close(epoll);
	close(end[0]);
	close(end[1]);
	return 0;
}
