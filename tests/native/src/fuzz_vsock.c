// SPDX-License-Identifier: Apache-2.0
/*
 * A socket device against any packets, without a thread, so that a run depends on the input alone. Input: a seed of the
 * layout, then packets: a byte of what to do, a header, data. A program listens on port 1 for streams and on port 2 for
 * messages, or a broker answers; programs connect to the guest; ports and CIDs are cut down to a few, so that packets meet
 * connections in every state. The worker may be stopped and begin again.
 *
 * Every chain is answered once, what waits for the host is bounded, and nothing is left at the end.
 */
#include "vsock/vsock.h"
#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { LOW = 0x40000, SIZE = 16, RX_DESC = 0, RX_AVAIL = 0x400, RX_USED = 0x600, TX_DESC = 0x1000, TX_AVAIL = 0x1400 };
enum { EV_DESC = 0x2000, EV_AVAIL = 0x2400, EV_USED = 0x2600, STOP = 0x5e, STOP_RESET = 0x5f };
enum { POST_EVENT = 0x3f };
enum { TX_USED = 0x1600, RX_BUFS = 0x4000, RX_BUF = 1024, TX_BUF = 0x10000, PROGRAMS = 8, STEPS = 64 };

static uint8_t *low;
static int dir = -1, event, event_kick, listener[2], inside[2], program[PROGRAMS];
static char path[64];
static uint16_t rx_idx, rx_seen, tx_idx;
static uint32_t rx_busy;

static int listen_at(const char *name, int kind)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, kind | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	snprintf(at.sun_path, sizeof(at.sun_path), "%s/%s", path, name);
	unlink(at.sun_path);
	require(fd >= 0 && bind(fd, (struct sockaddr *)&at, sizeof(at)) == 0 && listen(fd, 64) == 0);
	return fd;
}

static void clean(void)
{
	static const char *const names[] = { "v_1", "v_2", "in", "seq" };

	for (int i = 0; i < 4; i++)
		unlinkat(dir, names[i], 0);
	rmdir(path);
}

static void setup(void)
{
	if (dir < 0) {
		strcpy(path, "/tmp/fuzz-vsock-XXXXXX");
		require(mkdtemp(path) && !posix_memalign((void **)&low, 4096, LOW));
		dir = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
		event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		event_kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		listener[0] = listen_at("v_1", SOCK_STREAM);
		listener[1] = listen_at("v_2", SOCK_SEQPACKET);
		inside[0] = listen_at("in", SOCK_STREAM);
		inside[1] = listen_at("seq", SOCK_SEQPACKET);
		atexit(clean);
	}
	memset(low, 0, LOW);
	memset(program, -1, sizeof(program));
	rx_idx = rx_seen = tx_idx = 0;
	rx_busy = 0;
}

/* Connect to a port of the guest's, or say nonsense to the device. */
static int dial(uint8_t what)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, (what & 8 ? SOCK_SEQPACKET : SOCK_STREAM) | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	char line[64];

	snprintf(at.sun_path, sizeof(at.sun_path), "%s/%s", path, what & 8 ? "seq" : "in");
	snprintf(line, sizeof(line), what & 16 ? "CONNECT %d more than a number, and longer than a line may be" : "CONNECT %d\n",
		 what & 3);
	if (connect(fd, (struct sockaddr *)&at, sizeof(at)) == 0) {
		(void)!send(fd, line, strlen(line), MSG_NOSIGNAL);
		return fd;
	}
	close(fd);
	return -1;
}

/* A broker that has its answers ready: a connection to port 1, none to port 2, and one that nobody asked for. */
static int broker_ready(void)
{
	struct vsock_told told[] = { { 1, 0 }, { 2, ECONNREFUSED }, { 1, 0 }, { 3, 0 } };
	int pair[2], far[2];

	require(!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair));
	for (int i = 0; i < 4; i++) {
		require(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, far));
		require(!fd_socket_send(pair[1], &told[i], sizeof(told[i]), far, told[i].error ? 0 : 1));
		close(far[0]);
		if (i == 0)
			program[0] = far[1];
		else
			close(far[1]);
	}
	shutdown(pair[1], SHUT_WR);
	close(pair[1]);
	return pair[0];
}

/* What programs of the host do: accept, read, write, shut down, close, connect. */
static void host_acts(uint8_t what)
{
	int *slot = &program[what % PROGRAMS];
	uint8_t buf[4096] = { 0 };

	switch (what >> 5) {
	case 0:
	case 1:
		if (*slot < 0)
			*slot = accept4(listener[what >> 5], NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		break;
	case 2:
	case 3:
		if (*slot >= 0)
			(void)!send(*slot, buf, what & 8 ? sizeof(buf) : 1, MSG_NOSIGNAL);
		break;
	case 4:
		while (*slot >= 0 && recv(*slot, buf, sizeof(buf), 0) > 0)
			;
		break;
	case 5:
		if (*slot >= 0)
			shutdown(*slot, what & 8 ? SHUT_WR : SHUT_RD);
		break;
	case 6:
		if (*slot >= 0)
			close(*slot);
		*slot = -1;
		break;
	case 7:
		if (*slot < 0)
			*slot = dial(what);
		break;
	}
}

static uint16_t used_idx(size_t at)
{
	uint16_t idx;

	memcpy(&idx, low + at + 2, 2);
	return idx;
}

/* Buffers come back in any order: which are ours to post again? */
static void post_buffer(uint8_t what)
{
	uint16_t head = 0;
	struct desc d;
	uint32_t id;

	for (; rx_seen != used_idx(RX_USED); rx_seen++) {
		memcpy(&id, low + RX_USED + 4 + 8 * (rx_seen % SIZE), sizeof(id));
		require(id < SIZE && rx_busy >> id & 1);
		rx_busy &= ~(1u << id);
	}
	while (head < SIZE && rx_busy >> head & 1)
		head++;
	if (head == SIZE)
		return;
	rx_busy |= 1u << head;
	d = (struct desc){ RX_BUFS + head * RX_BUF, what & 1 ? RX_BUF : 40u + (what >> 2), 2, 0 };

	memcpy(low + RX_DESC + 16 * head, &d, sizeof(d));
	memcpy(low + RX_AVAIL + 4 + 2 * (rx_idx % SIZE), &head, 2);
	rx_idx++;
	memcpy(low + RX_AVAIL + 2, &rx_idx, 2);
}

/* The driver has handled an event, and posts its buffer again. */
static void post_event(void)
{
	uint16_t idx = used_idx(EV_USED) + 1;

	memcpy(low + EV_AVAIL + 2, &idx, sizeof(idx));
}

/* A packet, perhaps in two descriptors. */
static void send_packet(const uint8_t **data, size_t *size, uint8_t what)
{
	uint16_t head = (uint16_t)(2 * tx_idx % SIZE), first;
	struct vsock_hdr h = { 0 };
	struct desc d[2];
	size_t len;
	uint8_t cut = 0, n = 0;

	input_take(data, size, &h, sizeof(h));
	input_take(data, size, &cut, 1);
	input_take(data, size, &n, 1);
	if (!(what & 0x10)) {
		h.src_cid = 3;
		h.dst_cid = VSOCK_HOST_CID;
		h.op %= 9;
		h.src_port %= 4;
		if (h.dst_port >> 31) { /* of a program that has connected */
			h.dst_port = VSOCK_FIRST_PORT + h.dst_port % 8;
			h.type = h.type & 1 ? VSOCK_TYPE_STREAM : VSOCK_TYPE_SEQPACKET;
		} else {
			h.dst_port %= 4;
			h.type = h.dst_port == 2 ? VSOCK_TYPE_SEQPACKET : VSOCK_TYPE_STREAM;
		}
		h.len = (uint32_t)n << (what & 7);
	}
	len = VSOCK_HDR_SIZE + ((size_t)n << (what & 7));
	memcpy(low + TX_BUF, &h, sizeof(h));
	first = cut % (VSOCK_HDR_SIZE + 4) + 1;
	d[0] = (struct desc){ TX_BUF, first, 1, (uint16_t)(head + 1) };
	d[1] = (struct desc){ TX_BUF + first, (uint32_t)(len > first ? len - first : 1), 0, 0 };
	memcpy(low + TX_DESC + 16 * head, d, sizeof(d));
	memcpy(low + TX_AVAIL + 4 + 2 * (tx_idx % SIZE), &head, 2);
	tx_idx++;
	memcpy(low + TX_AVAIL + 2, &tx_idx, 2);
}

/* Events, then turns until there is nothing to do. */
static void device_acts(struct vsock *v)
{
	int n, turns = 0;

	v->turns = 100;
	do {
		n = vsock_ops.run(&v->worker);
		require(n >= 0);
		require(++turns < 10000);
		require(vsock_ops.kicks(&v->worker, 0) == 0);
	} while (n > 0);
}

/* The worker stops, as for a pause, and begins again in another thread, which has an epoll of its own. */
static int begin_again(struct vsock *v, int epoll, bool reset)
{
	vsock_ops.drain(&v->worker);
	close(epoll);
	v->worker.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	v->reset_event = reset;
	require(vsock_ops.begin(&v->worker) == 0);
	return v->worker.epoll_fd;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct mem mem = { .nregions = 1 };
	uint32_t isr = 0;
	struct irq irq = { .fd = event, .status = &isr };
	struct ring_config rc = { .size = SIZE, .desc = RX_DESC, .avail = RX_AVAIL, .used = RX_USED };
	struct vsock_config vc = { .cid = 3, .listen_fd = -1, .seq_listen_fd = -1, .max_conns = 8, .name = "v" };
	struct vsock_queues queues = { .seqpacket = 1 };
	struct vsock *v;
	int err, fd, broker = -1, epoll = epoll_create1(EPOLL_CLOEXEC);

	setup();
	vc.listen_fd = inside[0];
	vc.seq_listen_fd = inside[1];
	mem.region[0] = (struct mem_region){ 0, LOW, (uintptr_t)low };
	queues.rx = ring_new(&mem, &rc, &err);
	rc = (struct ring_config){ .size = SIZE, .desc = TX_DESC, .avail = TX_AVAIL, .used = TX_USED };
	queues.tx = ring_new(&mem, &rc, &err);
	rc = (struct ring_config){ .size = SIZE, .desc = EV_DESC, .avail = EV_AVAIL, .used = EV_USED };
	queues.event = ring_new(&mem, &rc, &err);
	require(queues.event);
	memcpy(low + EV_DESC, &(struct desc){ RX_BUFS + SIZE * RX_BUF, 8, 2, 0 }, sizeof(struct desc));
	low[EV_AVAIL + 2] = 1;
	queues.rx_kick = event;
	queues.event_kick = event_kick;
	queues.rx_irq = queues.tx_irq = queues.event_irq = &irq;
	vc.dir_fd = dir;
	v = vsock_new(&vc, &err);
	require(v && queues.rx && queues.tx);
	v->seed = 1;
	v->next_port = VSOCK_FIRST_PORT - 1;
	if (size % 8 == 7)
		vsock_use_broker(v, broker = broker_ready());
	vsock_prepare(v, &queues);
	v->worker.ops = &vsock_ops;
	v->worker.ring = queues.tx;
	v->worker.irq = &irq;
	irq.fd = event;
	v->worker.epoll_fd = epoll;
	require(vsock_ops.begin(&v->worker) == 0);
	for (int step = 0; size && step < STEPS; step++) {
		uint8_t what = 0;

		input_take(&data, &size, &what, 1);
		if (what == POST_EVENT)
			post_event();
		else if (what < 0x40)
			post_buffer(what);
		else if (what == STOP || what == STOP_RESET)
			epoll = begin_again(v, epoll, what == STOP_RESET);
		else if (what < 0x60 && size)
			host_acts(*data);
		else if ((uint16_t)(tx_idx - used_idx(TX_USED)) < SIZE / 2)
			send_packet(&data, &size, what);
		device_acts(v);
		require(v->nconns <= vc.max_conns && v->nreplies <= VSOCK_REPLIES);
		require(v->stats.waiting_bytes <= 8 * 5 * (uint64_t)VSOCK_BUF_ALLOC);
	}
	vsock_ops.drain(&v->worker);
	require(ring_in_flight(queues.rx) == 0 && ring_in_flight(queues.tx) == 0);
	vsock_reset(v);
	require(v->nconns == 0 && v->promised == 0 && v->stats.waiting_bytes == 0);
	vsock_free(v);
	ring_free(queues.rx);
	ring_free(queues.tx);
	ring_free(queues.event);
	close(epoll);
	if (broker >= 0)
		close(broker);
	for (int i = 0; i < PROGRAMS; i++)
		if (program[i] >= 0)
			close(program[i]);
	for (int i = 0; i < 4; i++)
		while ((fd = accept4(i < 2 ? listener[i] : inside[i - 2], NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0)
			close(fd);
	return 0;
}
