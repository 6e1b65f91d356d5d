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

static void post(uint16_t head)
{
	guest_desc(&rx, head, RX_DATA + head * BUF, BUF, D_WRITE, 0);
	guest_offer(&rx, head);
}

static void start(void)
{
	struct vsock_queues queues = {
		.rx = rx.ring, .tx = tx.ring, .rx_kick = rx.kick_fd, .tx_kick = tx.kick_fd,
		.rx_irq = &tx.irq, .tx_irq = &tx.irq, .event_fd = tx.event_fd,
	};
	int err;

	worker = vsock_start(vsock, &queues, &err);
	CHECK(worker);
}

static void open_all(void)
{
	struct vsock_config config = { .cid = 3, .seq_listen_fd = -1, .max_conns = 16, .name = "v" };
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	int err;

	guest_open(&tx, SIZE, RING_EVENT_IDX);
	guest_open_queue(&rx, &tx, &(struct ring_config){ SIZE, RING_EVENT_IDX, RX_DESC, RX_AVAIL, RX_USED, 0, 0 });
	strcpy(dir, "/tmp/test-vsock-XXXXXX");
	CHECK(mkdtemp(dir));
	dir_fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	snprintf(path, sizeof(path), "%s/v", dir);
	snprintf(at.sun_path, sizeof(at.sun_path), "%s", path);
	listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	CHECK(bind(listen_fd, (struct sockaddr *)&at, sizeof(at)) == 0 && listen(listen_fd, 8) == 0);
	config.dir_fd = dir_fd;
	config.listen_fd = listen_fd;
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

static void packet(uint16_t op, uint32_t host_port, uint32_t fwd, const uint8_t *data, uint32_t len)
{
	struct vsock_hdr h = { 3, 2, PORT, host_port, len, VSOCK_TYPE_STREAM, op, 3, 1 << 20, fwd };
	uint8_t *p = guest_ptr(&tx, AT_DATA);

	memcpy(p, &h, sizeof(h));
	if (len)
		memcpy(p + sizeof(h), data, len);
	guest_desc(&tx, 0, AT_DATA, (uint32_t)sizeof(h) + len, 0, 0);
	guest_offer(&tx, 0);
	guest_kick(&tx);
	guest_take(&tx, NULL);
}

static int connect_client(void)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

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

#define T(name) { #name, name }
static const struct test tests[] = {
	T(echo_both_ways), T(pauses_under_load), T(stop_with_clients_that_wait),
	T(useless_buffers_are_given_back_in_turns), { NULL, NULL },
};

int main(int argc, char **argv)
{
	return test_main(tests, argc, argv);
}
