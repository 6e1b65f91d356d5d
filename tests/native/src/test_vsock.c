// SPDX-License-Identifier: Apache-2.0
/* virtio-vsock with its worker's thread: a guest in C on the one side, unix sockets on the other. */
#include "guest.h"

#include <pthread.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <fcntl.h>
#include <unistd.h>

#include "vsock/vsock.h"

enum { SIZE = 64, PORT = 2000, ROUNDS = 2000, BUF = 4096 };
#define RX_DESC 0x40000ull
#define RX_AVAIL 0x50000ull
#define RX_USED 0x60000ull
#define RX_DATA 0x200000ull

static struct guest tx, rx;
static struct vsock *vsock;
static struct worker *worker;
static char dir[32], path[64];
static int dir_fd, listen_fd;
static uint16_t type = VSOCK_TYPE_STREAM;

static int sock_type(void)
{
	return type == VSOCK_TYPE_STREAM ? SOCK_STREAM : SOCK_SEQPACKET;
}

static void post(uint16_t head)
{
	guest_desc(&rx, head, RX_DATA + head * BUF, BUF, D_WRITE, 0);
	guest_offer(&rx, head);
}

static void start(void)
{
	struct vsock_queues queues = {
		.rx = rx.ring, .tx = tx.ring, .rx_kick = rx.kick_fd, .tx_kick = tx.kick_fd,
		.rx_irq = &tx.irq, .tx_irq = &tx.irq, .event_fd = tx.event_fd, .seqpacket = type == VSOCK_TYPE_SEQPACKET,
	};
	int err;

	worker = vsock_start(vsock, &queues, &err);
	CHECK(worker);
}

static void open_all(void)
{
	struct vsock_config config = { .cid = 3, .listen_fd = -1, .seq_listen_fd = -1, .max_conns = 128, .name = "v" };
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	int err;

	guest_open(&tx, SIZE, RING_EVENT_IDX);
	guest_open_queue(&rx, &tx, &(struct ring_config){ SIZE, RING_EVENT_IDX, RX_DESC, RX_AVAIL, RX_USED, 0, 0 });
	strcpy(dir, "/tmp/test-vsock-XXXXXX");
	CHECK(mkdtemp(dir));
	dir_fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	snprintf(path, sizeof(path), "%s/v", dir);
	snprintf(at.sun_path, sizeof(at.sun_path), "%s", path);
	listen_fd = socket(AF_UNIX, sock_type() | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	CHECK(bind(listen_fd, (struct sockaddr *)&at, sizeof(at)) == 0 && listen(listen_fd, 8) == 0);
	config.dir_fd = dir_fd;
	*(type == VSOCK_TYPE_STREAM ? &config.listen_fd : &config.seq_listen_fd) = listen_fd;
	vsock = vsock_new(&config, &err);
	CHECK(vsock);
	for (uint16_t i = 0; i < SIZE; i++)
		post(i);
	start();
}

static void close_all(void)
{
	worker_free(worker);
	vsock_free(vsock);
	guest_close_queue(&rx);
	guest_close(&tx);
	close(dir_fd);
	close(listen_fd);
	unlink(path);
	rmdir(dir);
}

/* The next packet to the guest, its buffer posted again; its data go to `to`. */
static struct vsock_hdr next_packet(uint8_t *to)
{
	struct vsock_hdr h;
	uint32_t len, head = guest_take(&rx, &len);
	const uint8_t *p = guest_ptr(&rx, RX_DATA + head * BUF);

	CHECK(len >= sizeof(h));
	memcpy(&h, p, sizeof(h));
	CHECK_EQ(len, sizeof(h) + h.len);
	if (h.len)
		memcpy(to, p + sizeof(h), h.len);
	post((uint16_t)head);
	guest_kick(&rx);
	return h;
}

static void flagged(uint16_t op, uint32_t flags, uint32_t host_port, uint32_t fwd, const uint8_t *data, uint32_t len)
{
	struct vsock_hdr h = { 3, 2, PORT, host_port, len, type, op, flags, 1 << 20, fwd };
	uint8_t *p = guest_ptr(&tx, AT_DATA);

	memcpy(p, &h, sizeof(h));
	if (len)
		memcpy(p + sizeof(h), data, len);
	guest_desc(&tx, 0, AT_DATA, (uint32_t)sizeof(h) + len, 0, 0);
	guest_offer(&tx, 0);
	guest_kick(&tx);
	guest_take(&tx, NULL);
}

static void packet(uint16_t op, uint32_t host_port, uint32_t fwd, const uint8_t *data, uint32_t len)
{
	flagged(op, 3, host_port, fwd, data, len);
}

static int connect_client(void)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, sock_type() | SOCK_CLOEXEC, 0);

	snprintf(at.sun_path, sizeof(at.sun_path), "%s", path);
	CHECK(connect(fd, (struct sockaddr *)&at, sizeof(at)) == 0);
	CHECK(write(fd, "CONNECT 2000\n", 13) == 13);
	return fd;
}

/* Writes numbers, reads them back. */
static void *client(void *arg)
{
	char line[32];
	uint32_t back;
	int fd = connect_client();

	(void)arg;
	CHECK(read(fd, line, sizeof(line)) > 3);
	for (uint32_t i = 0; i < ROUNDS; i++) {
		CHECK(write(fd, &i, sizeof(i)) == sizeof(i));
		CHECK(recv(fd, &back, sizeof(back), MSG_WAITALL) == sizeof(back));
		CHECK_EQ(back, i);
	}
	close(fd);
	return NULL;
}

/* The guest sends back what it gets, until the other side has closed. */
static void echo(uint32_t rounds_until_pause)
{
	uint8_t data[BUF];
	uint32_t port, fwd = 0, rounds = 0;
	struct vsock_stats stats;
	struct vsock_hdr h = next_packet(data);

	CHECK_EQ(h.op, VSOCK_OP_REQUEST);
	port = h.src_port;
	packet(VSOCK_OP_RESPONSE, port, 0, NULL, 0);
	for (;;) {
		h = next_packet(data);
		if (h.op == VSOCK_OP_SHUTDOWN)
			break;
		if (h.op != VSOCK_OP_RW)
			continue;
		fwd += h.len;
		packet(VSOCK_OP_RW, port, fwd, data, h.len);
		vsock_get_stats(vsock, &stats);
		if (rounds_until_pause && ++rounds % rounds_until_pause == 0) {
			worker_free(worker);
			CHECK_EQ(ring_in_flight(rx.ring), 0);
			start();
		}
	}
	packet(VSOCK_OP_RST, port, fwd, NULL, 0);
}

static void run(uint32_t rounds_until_pause)
{
	pthread_t thread;

	open_all();
	CHECK(pthread_create(&thread, NULL, client, NULL) == 0);
	echo(rounds_until_pause);
	pthread_join(thread, NULL);
	close_all();
}

static void echo_both_ways(void)
{
	run(0);
}

static void pauses_under_load(void)
{
	run(50);
}

static void stop_with_clients_that_wait(void)
{
	char byte;
	int fd;

	open_all();
	fd = connect_client();
	worker_free(worker);
	vsock_reset(vsock);
	start();
	close_all();
	CHECK(read(fd, &byte, 1) <= 0);
	close(fd);
}

/* A guest that makes them available as fast as it gets them back must not keep the thread for itself. */
static void useless_buffers_are_given_back_in_turns(void)
{
	struct vsock_config config = { .cid = 3, .listen_fd = -1, .seq_listen_fd = -1, .max_conns = 16, .name = "v" };
	enum { MANY = 4 * VSOCK_STASH };
	int err, turns = 0;

	guest_open(&rx, MANY, 0);
	vsock = vsock_new(&config, &err);
	CHECK(vsock);
	vsock->rx = rx.ring;
	for (uint16_t i = 0; i < MANY; i++) {
		guest_desc(&rx, i, RX_DATA, VSOCK_HDR_SIZE, D_WRITE, 0);
		guest_offer(&rx, i);
	}
	for (; ring_pending(rx.ring); turns++)
		CHECK_EQ(vsock_stash_fill(vsock, 1), 0);
	CHECK_EQ(turns, MANY / VSOCK_STASH);
	vsock_free(vsock);
	guest_close(&rx);
}

/* ---- readers that are slow, or go ---- */

/* A connection whose client does not read by itself, as the guest has it. */
struct slow {
	int fd;
	uint32_t port, credit, sent, forwarded;
	bool over; /* the other end said that it reads no more, or the connection is gone */
};

static struct slow slow_open(void)
{
	struct slow s = { .fd = connect_client() };
	uint8_t data[BUF];
	struct vsock_hdr h = next_packet(data);
	char line[32];

	CHECK_EQ(h.op, VSOCK_OP_REQUEST);
	s.port = h.src_port;
	s.credit = h.buf_alloc;
	packet(VSOCK_OP_RESPONSE, s.port, 0, NULL, 0);
	CHECK(read(s.fd, line, sizeof(line)) > 3 && !memcmp(line, "OK ", 3));
	return s;
}

/* Take the next packet of this connection. */
static struct vsock_hdr slow_hear(struct slow *s, uint8_t *data)
{
	struct vsock_hdr h = next_packet(data);

	if (h.dst_port == PORT && h.src_port == s->port) {
		s->forwarded = h.fwd_cnt;
		s->over = s->over || h.op == VSOCK_OP_RST || (h.op == VSOCK_OP_SHUTDOWN && (h.flags & VSOCK_SHUT_RCV));
	}
	return h;
}

static bool has_packet(void)
{
	return __atomic_load_n(&rx.used[1], __ATOMIC_ACQUIRE) != rx.seen;
}

static uint8_t byte_at(uint32_t i)
{
	return (uint8_t)(i * 7 + (i >> 10));
}

/* Send as much as the other end lets us, in pieces; without an end of a message where eom is 0. */
static void slow_fill(struct slow *s, uint32_t piece, uint32_t eom)
{
	uint8_t data[BUF];

	for (;;) {
		while (has_packet())
			slow_hear(s, data);
		if (s->over || s->sent - s->forwarded + piece > s->credit)
			return;
		for (uint32_t i = 0; i < piece; i++)
			data[i] = byte_at(s->sent + i);
		flagged(VSOCK_OP_RW, eom, s->port, 0, data, piece);
		s->sent += piece;
	}
}

static uint64_t waiting(void)
{
	struct vsock_stats stats;

	vsock_get_stats(vsock, &stats);
	return stats.waiting_bytes;
}

/* Read all that was sent, and after it the end. */
static void read_to_the_end(int fd, uint32_t len)
{
	uint8_t data[BUF];
	uint32_t at = 0;
	ssize_t n;

	while ((n = read(fd, data, sizeof(data))) > 0)
		for (ssize_t i = 0; i < n; i++)
			CHECK_EQ(data[i], byte_at(at++));
	CHECK_EQ(n, 0);
	CHECK_EQ(at, len);
}

static void a_guest_that_has_gone_is_read_to_the_end(void)
{
	struct slow s;
	uint8_t data[BUF];

	open_all();
	s = slow_open();
	slow_fill(&s, 1024, 0);
	CHECK(waiting() > 0 && s.sent > s.credit);
	flagged(VSOCK_OP_SHUTDOWN, VSOCK_SHUT_BOTH, s.port, 0, NULL, 0);
	while (!s.over)
		slow_hear(&s, data);
	read_to_the_end(s.fd, s.sent);
	CHECK_EQ(waiting(), 0);
	close(s.fd);
	close_all();
}

static void a_half_that_is_closed_leaves_the_other(void)
{
	struct slow s;
	uint8_t data[BUF];
	struct vsock_hdr h;

	open_all();
	s = slow_open();
	slow_fill(&s, 1024, 0);
	flagged(VSOCK_OP_SHUTDOWN, VSOCK_SHUT_SEND, s.port, 0, NULL, 0);
	read_to_the_end(s.fd, s.sent);
	CHECK(write(s.fd, "late", 4) == 4);
	do
		h = slow_hear(&s, data);
	while (h.op != VSOCK_OP_RW);
	CHECK(h.len == 4 && !memcmp(data, "late", 4) && !s.over);
	close(s.fd);
	do
		h = slow_hear(&s, data);
	while (h.op != VSOCK_OP_SHUTDOWN && h.op != VSOCK_OP_RST);
	close_all();
}

static void who_stops_reading_is_told_of_and_can_still_write(void)
{
	struct slow s;
	uint8_t data[BUF];
	struct vsock_hdr h;

	open_all();
	s = slow_open();
	flagged(VSOCK_OP_RW, 0, s.port, 0, data, 100);
	shutdown(s.fd, SHUT_RD);
	flagged(VSOCK_OP_RW, 0, s.port, 0, data, 100);
	while (!s.over)
		slow_hear(&s, data);
	flagged(VSOCK_OP_RW, 0, s.port, 0, data, 100); /* is dropped */
	CHECK(write(s.fd, "mine", 4) == 4);
	do
		h = slow_hear(&s, data);
	while (h.op != VSOCK_OP_RW);
	CHECK(h.len == 4 && !memcmp(data, "mine", 4));
	close(s.fd);
	close_all();
}

static void who_goes_with_all_unread_is_told_of(void)
{
	struct slow s;
	uint8_t data[BUF];

	open_all();
	s = slow_open();
	slow_fill(&s, 1024, 0);
	close(s.fd);
	while (!s.over)
		slow_hear(&s, data);
	CHECK_EQ(waiting(), 0);
	close_all();
}

static void messages_wait_whole_for_their_reader(void)
{
	uint8_t data[BUF], got[4 * BUF];
	struct slow s;
	uint32_t at = 0;

	type = VSOCK_TYPE_SEQPACKET;
	open_all();
	s = slow_open();
	for (int i = 0; i < 3; i++) { /* one message in three packets */
		for (uint32_t n = 0; n < 1000; n++)
			data[n] = byte_at(s.sent + n);
		flagged(VSOCK_OP_RW, i == 2, s.port, 0, data, 1000);
		s.sent += 1000;
	}
	slow_fill(&s, 1500, 1);
	CHECK(waiting() > 0);
	flagged(VSOCK_OP_SHUTDOWN, VSOCK_SHUT_SEND, s.port, 0, NULL, 0);
	while (at < s.sent) {
		ssize_t n = recv(s.fd, got, sizeof(got), 0);

		CHECK_EQ(n, at ? 1500 : 3000);
		for (ssize_t i = 0; i < n; i++)
			CHECK_EQ(got[i], byte_at(at++));
	}
	CHECK_EQ(recv(s.fd, got, sizeof(got), 0), 0);
	close(s.fd);
	close_all();
}

static void the_kernels_memory_for_slow_readers_is_bounded(void)
{
	enum { MANY = 100 };
	static struct slow s[MANY];
	uint8_t data[BUF];

	open_all();
	for (int i = 0; i < MANY; i++) {
		s[i] = slow_open();
		slow_fill(&s[i], 2048, 0);
	}
	CHECK(s[MANY - 1].sent < s[0].sent && waiting() > 0); /* of the last ones the kernel has nothing more */
	for (int i = 0; i < MANY / 2; i++) { /* their memory comes back, when it is read and when it is not */
		if (i % 2)
			packet(VSOCK_OP_RST, s[i].port, 0, NULL, 0);
		else
			flagged(VSOCK_OP_SHUTDOWN, VSOCK_SHUT_BOTH, s[i].port, 0, NULL, 0);
	}
	for (int i = 0; i < MANY / 2; i++) {
		if (i % 2 == 0)
			read_to_the_end(s[i].fd, s[i].sent);
		close(s[i].fd);
	}
	flagged(VSOCK_OP_SHUTDOWN, VSOCK_SHUT_SEND, s[MANY - 1].port, 0, NULL, 0);
	read_to_the_end(s[MANY - 1].fd, s[MANY - 1].sent);
	while (has_packet())
		next_packet(data);
	for (int i = MANY / 2; i < MANY; i++)
		close(s[i].fd);
	close_all();
}

/* ---- what clients and the broker may say ---- */

static int connect_silently(void)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, sock_type() | SOCK_CLOEXEC, 0);

	snprintf(at.sun_path, sizeof(at.sun_path), "%s", path);
	CHECK(connect(fd, (struct sockaddr *)&at, sizeof(at)) == 0);
	return fd;
}

static void lines_that_are_no_greetings(void)
{
	static const char *const bad[] = {
		"CONNECT\n", "CONNECT \n", "HELLO 12345\n", "CONNECT 12a\n", "CONNECT -1\n", "CONNECT 4294967295\n",
		"CONNECT 99999999999\n", "CONNECT 2000, and more of this kind", "\n", "",
	};
	enum { BAD = sizeof(bad) / sizeof(*bad) };
	struct vsock_stats stats;
	uint8_t data[BUF];
	char byte;

	for (type = VSOCK_TYPE_STREAM; type <= VSOCK_TYPE_SEQPACKET; type++) {
		int fd;

		open_all();
		for (int i = 0; i < BAD; i++) {
			fd = connect_silently();
			if (*bad[i])
				CHECK(write(fd, bad[i], strlen(bad[i])) == (ssize_t)strlen(bad[i]));
			else
				CHECK(shutdown(fd, SHUT_WR) == 0);
			CHECK(read(fd, &byte, 1) <= 0);
			close(fd);
		}
		vsock_get_stats(vsock, &stats);
		CHECK_EQ(stats.refused, BAD);
		/* In two pieces, or as terminals end lines; a message needs no end of a line. */
		for (int i = 0; i < 3; i++) {
			static const char *const good[] = { "CONNECT 2000\r\n", "connect 2000\n", "CONNECT 2000" };
			bool whole = i < 2 || type == VSOCK_TYPE_SEQPACKET;

			fd = connect_silently();
			CHECK(write(fd, good[i], strlen(good[i])) == (ssize_t)strlen(good[i]));
			if (!whole) {
				usleep(1000); /* so that it comes in two pieces */
				CHECK(write(fd, "\n", 1) == 1);
			}
			CHECK_EQ(next_packet(data).op, VSOCK_OP_REQUEST);
			close(fd); /* it does not wait for the answer */
			CHECK_EQ(next_packet(data).op, VSOCK_OP_RST);
		}
		close_all();
	}
	type = VSOCK_TYPE_STREAM;
}

/* Who comes when there are as many as there may be waits until one goes. */
static void no_more_clients_than_there_may_be(void)
{
	enum { MOST = 128 };
	static int fd[MOST];
	uint8_t data[BUF];
	int late;

	open_all();
	for (int i = 0; i < MOST; i++)
		fd[i] = connect_silently();
	late = connect_client();
	usleep(20000); /* nothing may come */
	CHECK(!has_packet());
	close(fd[5]);
	CHECK_EQ(next_packet(data).op, VSOCK_OP_REQUEST);
	close(late);
	CHECK_EQ(next_packet(data).op, VSOCK_OP_RST);
	for (int i = 0; i < MOST; i++)
		if (i != 5)
			close(fd[i]);
	close_all();
}

/* The broker's answer to the next request, with one end of *wire where it has one. */
static void broker_will_say(int broker, struct vsock_told told, bool with_socket, int wire[2])
{
	int fd = -1;

	CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, wire) == 0);
	if (with_socket)
		fd = wire[0];
	CHECK_EQ(fd_socket_send(broker, &told, sizeof(told), &fd, 1), 0);
	close(wire[0]);
}

static void broker_was_asked(int broker, uint32_t port)
{
	struct vsock_ask ask;

	CHECK(recv(broker, &ask, sizeof(ask), MSG_DONTWAIT) == sizeof(ask));
	CHECK_EQ(ask.port, port);
	CHECK_EQ(ask.type, VSOCK_TYPE_STREAM);
}

static void a_broker_that_lies_is_not_asked_again(void)
{
	const struct { struct vsock_told told; bool with_socket; } lies[] = {
		{ { 80, 0 }, true }, { { 79, 0 }, false }, { { 79, ECONNREFUSED }, true }, { { 0, 0 }, false },
	};
	struct vsock_hdr h;
	uint8_t data[BUF];
	int broker[2], wire[2];
	char text[8];

	for (size_t i = 0; i < sizeof(lies) / sizeof(*lies); i++) {
		open_all();
		worker_free(worker);
		CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, broker) == 0);
		vsock_use_broker(vsock, broker[0]);
		start();
		broker_will_say(broker[1], (struct vsock_told){ 77, 0 }, true, wire);
		packet(VSOCK_OP_REQUEST, 77, 0, NULL, 0);
		CHECK_EQ(next_packet(data).op, VSOCK_OP_RESPONSE);
		broker_was_asked(broker[1], 77);
		packet(VSOCK_OP_RW, 77, 0, (const uint8_t *)"hello", 5);
		CHECK(recv(wire[1], text, sizeof(text), 0) == 5 && !memcmp(text, "hello", 5));
		close(wire[1]);
		do
			h = next_packet(data);
		while (h.op == VSOCK_OP_CREDIT_UPDATE);
		CHECK(h.op == VSOCK_OP_SHUTDOWN || h.op == VSOCK_OP_RST);
		packet(VSOCK_OP_RST, 77, 0, NULL, 0);
		broker_will_say(broker[1], (struct vsock_told){ 78, ECONNREFUSED }, false, wire);
		packet(VSOCK_OP_REQUEST, 78, 0, NULL, 0);
		CHECK_EQ(next_packet(data).op, VSOCK_OP_RST);
		broker_was_asked(broker[1], 78);
		close(wire[1]);
		/* What is no answer of that port's; what came with it is closed. */
		broker_will_say(broker[1], lies[i].told, lies[i].with_socket, wire);
		packet(VSOCK_OP_REQUEST, 79, 0, NULL, 0);
		CHECK_EQ(next_packet(data).op, VSOCK_OP_RST);
		broker_was_asked(broker[1], 79);
		CHECK_EQ(recv(wire[1], text, 1, 0), 0);
		close(wire[1]);
		packet(VSOCK_OP_REQUEST, 77, 0, NULL, 0);
		CHECK_EQ(next_packet(data).op, VSOCK_OP_RST);
		CHECK(recv(broker[1], text, sizeof(text), MSG_DONTWAIT) < 0 && errno == EAGAIN);
		close(broker[0]);
		close(broker[1]);
		close_all();
	}
}

#define T(name) { #name, name }
static const struct test tests[] = {
	T(echo_both_ways), T(pauses_under_load), T(stop_with_clients_that_wait),
	T(useless_buffers_are_given_back_in_turns), T(a_guest_that_has_gone_is_read_to_the_end),
	T(a_half_that_is_closed_leaves_the_other), T(who_stops_reading_is_told_of_and_can_still_write),
	T(who_goes_with_all_unread_is_told_of), T(messages_wait_whole_for_their_reader),
	T(the_kernels_memory_for_slow_readers_is_bounded), T(lines_that_are_no_greetings), T(no_more_clients_than_there_may_be),
	T(a_broker_that_lies_is_not_asked_again), { NULL, NULL },
};

int main(int argc, char **argv)
{
	return test_main(tests, argc, argv);
}
