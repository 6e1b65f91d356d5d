// SPDX-License-Identifier: Apache-2.0
/* virtio-net with its worker's thread: a guest in C on the one side, a socket that keeps the bounds of frames on the other;
 * and the token buckets of limit.c with a clock of the test's own. */
#include "guest.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/net.h"

enum { SIZE = 64, ROUNDS = 2000, BUF = 2048, FRAME = 3000 };
#define RX_DESC 0x40000ull
#define RX_AVAIL 0x50000ull
#define RX_USED 0x60000ull
#define RX_DATA 0x200000ull

static struct guest tx, rx;
static struct net *net;
static struct worker *worker;
static struct limit *limit;
static int wire[2];

static void post(uint16_t head)
{
	guest_desc(&rx, head, RX_DATA + head * BUF, BUF, D_WRITE, 0);
	guest_offer(&rx, head);
}

static void start(void)
{
	struct net_queues queues = {
		.rx = rx.ring, .tx = tx.ring, .rx_kick = rx.kick_fd, .tx_kick = tx.kick_fd, .rx_irq = &rx.irq, .tx_irq = &tx.irq,
		.event_fd = tx.event_fd, .flags = NET_MRG_RXBUF, .rx_frame = FRAME, .rx_limit = limit, .tx_limit = limit,
	};
	int err;

	worker = net_start(net, &queues, &err);
	CHECK(worker);
}

static void open_all(const struct limit_config *limited)
{
	int err;

	guest_open(&tx, SIZE, RING_EVENT_IDX);
	rx = tx;
	rx.kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	rx.irq.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	rx.config = (struct ring_config){ SIZE, RING_EVENT_IDX, RX_DESC, RX_AVAIL, RX_USED, 0, 0 };
	rx.desc = guest_ptr(&rx, RX_DESC);
	rx.avail = guest_ptr(&rx, RX_AVAIL);
	rx.used = guest_ptr(&rx, RX_USED);
	rx.ring = ring_new(&rx.mem, &rx.config, &err);
	CHECK(rx.ring);
	CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, wire) == 0);
	net = net_new(wire[0], NET_TAP, &err);
	CHECK(net && fcntl(wire[0], F_SETFL, O_NONBLOCK) == 0);
	limit = limited ? limit_new(limited) : NULL;
	for (uint16_t i = 0; i < SIZE; i++)
		post(i);
	start();
}

static void close_all(void)
{
	worker_free(worker);
	net_free(net);
	limit_free(limit);
	ring_free(rx.ring);
	close(rx.kick_fd);
	close(rx.irq.fd);
	guest_close(&tx);
	close(wire[0]);
	close(wire[1]);
}

/* Sends numbers in frames of changing length, gets them back. */
static void *far_end(void *arg)
{
	uint8_t out[NET_HDR_SIZE + FRAME] = { 0 }, back[sizeof(out)];

	(void)arg;
	for (uint32_t i = 0; i < ROUNDS; i++) {
		size_t len = NET_HDR_SIZE + 60 + i * 7 % (FRAME - 60);

		memcpy(out + NET_HDR_SIZE, &i, sizeof(i));
		CHECK_EQ(send(wire[1], out, len, 0), len);
		CHECK_EQ(recv(wire[1], back, sizeof(back), 0), len);
		CHECK(!memcmp(out, back, len));
	}
	return NULL;
}

/* The guest sends back what it gets. */
static void echo(uint32_t rounds_until_pause)
{
	uint8_t *out = guest_ptr(&tx, AT_DATA);
	uint32_t head, len, at;
	struct net_hdr h;

	for (uint32_t i = 0; i < ROUNDS; i++) {
		uint16_t buffers = 1;

		at = 0;
		for (uint16_t b = 0; b < buffers; b++) {
			head = guest_take(&rx, &len);
			memcpy(out + at, guest_ptr(&rx, RX_DATA + head * BUF), len);
			if (b == 0) {
				memcpy(&h, out, sizeof(h));
				buffers = h.num_buffers;
			}
			at += len;
			post((uint16_t)head);
		}
		guest_kick(&rx);
		memset(out, 0, sizeof(h));
		guest_desc(&tx, 0, AT_DATA, at, 0, 0);
		guest_offer(&tx, 0);
		guest_kick(&tx);
		guest_take(&tx, NULL);
		if (rounds_until_pause && (i + 1) % rounds_until_pause == 0) {
			worker_free(worker);
			CHECK_EQ(ring_in_flight(rx.ring), 0);
			start();
		}
	}
}

static void run(uint32_t rounds_until_pause, const struct limit_config *limited)
{
	struct net_stats stats;
	pthread_t thread;

	open_all(limited);
	CHECK(pthread_create(&thread, NULL, far_end, NULL) == 0);
	echo(rounds_until_pause);
	pthread_join(thread, NULL);
	net_get_stats(net, &stats);
	CHECK_EQ(stats.tx_frames, ROUNDS);
	CHECK_EQ(stats.rx_frames, ROUNDS);
	CHECK_EQ(stats.rx_dropped + stats.tx_dropped, 0);
	close_all();
}

static void echo_both_ways(void)
{
	run(0, NULL);
}

static void pauses_under_load(void)
{
	run(50, NULL);
}

static void limits_under_load(void)
{
	const struct limit_config limited = { .ops = 20000, .ops_burst = 20 };

	run(100, &limited);
}

/* Do what is allowed, for a second of the test's clock in steps of 100 us. */
static uint64_t in_a_second(struct limit *l, uint64_t from, uint64_t bytes)
{
	uint64_t done = 0;

	for (uint64_t t = from; t < from + 1000000000; t += 100000)
		while (!limit_wait(l, t) && done < 1000000) {
			limit_charge(l, t, bytes);
			done++;
		}
	return done;
}

static void a_rate_of_bytes(void)
{
	const struct limit_config c = { .bytes = 1000000, .bytes_burst = 50000 };
	struct limit *l = limit_new(&c);
	uint64_t done = in_a_second(l, 5, 1000);

	/* The burst, a second's worth, and the one that is paid for afterwards. */
	CHECK(done >= 1049 && done <= 1052);
	/* Busy all the time: no more burst. */
	done = in_a_second(l, 1000000005, 1000);
	CHECK(done >= 999 && done <= 1001);
	/* After an idle time there is one again, and no more than one. */
	done = in_a_second(l, 90000000005, 1000);
	CHECK(done >= 1049 && done <= 1052);
	limit_free(l);
}

static void a_rate_of_requests(void)
{
	const struct limit_config c = { .ops = 100, .ops_burst = 1, .bytes = 1ull << 50, .bytes_burst = 1ull << 50 };
	struct limit *l = limit_new(&c);
	uint64_t done = in_a_second(l, 1, 1ull << 31);

	CHECK(done >= 100 && done <= 102);
	limit_free(l);
}

/* What is larger than the burst, and takes longer than a second, is done at once and paid for by those behind it. */
static void a_request_larger_than_the_burst(void)
{
	const struct limit_config c = { .bytes = 1000, .bytes_burst = 10 };
	struct limit *l = limit_new(&c);
	uint64_t wait;

	CHECK_EQ(limit_wait(l, 7), 0);
	limit_charge(l, 7, 5000);
	wait = limit_wait(l, 7);
	CHECK(wait > 4980000000 && wait <= 5000000000);
	CHECK(limit_wait(l, 7 + wait - 1) == 1);
	CHECK_EQ(limit_wait(l, 7 + wait), 0);
	limit_free(l);
}

/* Costs of less than a nanosecond add up. */
static void a_very_high_rate(void)
{
	const struct limit_config c = { .bytes = 30000000000, .bytes_burst = 1 };
	struct limit *l = limit_new(&c);

	for (int i = 0; i < 30000; i++)
		limit_charge(l, 1, 1);
	/* 1 us, less the burst. */
	CHECK(limit_wait(l, 1) >= 998 && limit_wait(l, 1) <= 1000);
	limit_free(l);
}

static void no_number_wraps(void)
{
	const struct limit_config c = { .bytes = 1, .bytes_burst = UINT64_MAX, .ops = 1, .ops_burst = 1 };
	struct limit *l = limit_new(&c);

	for (int i = 0; i < 1000; i++)
		limit_charge(l, 1ull << 62, UINT64_MAX);
	CHECK(limit_wait(l, 1ull << 62) > 1000000000);
	limit_free(l);
}

#define T(name) { #name, name }
static const struct test tests[] = {
	T(echo_both_ways),
	T(pauses_under_load),
	T(limits_under_load),
	T(a_rate_of_bytes),
	T(a_rate_of_requests),
	T(a_request_larger_than_the_burst),
	T(a_very_high_rate),
	T(no_number_wraps),
	{ NULL, NULL },
};

int main(int argc, char **argv)
{
	return test_main(tests, argc, argv);
}
