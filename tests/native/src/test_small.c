// SPDX-License-Identifier: Apache-2.0
/*
 * The console and the persistent memory with their workers' threads: a guest in C, readers, typists, files that shrink. The
 * UART with readers of all kinds. A clone's memory, with those who map it.
 */
#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "base/seccomp.h"
#include "console/console.h"
#include "pmem/pmem.h"
#include "rng/rng.h"
#include "uart/uart.h"

enum { SIZE = 64, ROUNDS = 3000, BUF = 512 };
#define RX_DESC 0x40000ull
#define RX_AVAIL 0x50000ull
#define RX_USED 0x60000ull
#define RX_DATA 0x200000ull

static struct guest tx, rx;
static struct console *console;
static struct worker *worker;
static int out[2];
static bool done;

static void start(void)
{
	struct console_queues queues = {
		.rx = rx.ring, .tx = tx.ring, .rx_kick = rx.kick_fd, .tx_kick = tx.kick_fd,
		.rx_irq = &tx.irq, .tx_irq = &tx.irq, .event_fd = tx.event_fd,
	};
	int err;

	worker = console_start(console, &queues, &err);
	CHECK(worker);
}

static void open_console(void)
{
	guest_open(&tx, SIZE, RING_EVENT_IDX);
	guest_open_queue(&rx, &tx, &(struct ring_config){ SIZE, RING_EVENT_IDX, RX_DESC, RX_AVAIL, RX_USED, 0, 0 });
	CHECK(pipe2(out, O_CLOEXEC) == 0);
	console = console_new(out[1], 0, -1);
	CHECK(console);
	done = false;
	start();
}

static void close_console(void)
{
	worker_free(worker);
	console_free(console);
	guest_close_queue(&rx);
	guest_close(&tx);
	close(out[0]);
	close(out[1]);
}

static void send_number(uint32_t i)
{
	memcpy(guest_ptr(&tx, AT_DATA), &i, sizeof(i));
	guest_desc(&tx, 0, AT_DATA, sizeof(i), 0, 0);
	guest_offer(&tx, 0);
	guest_kick(&tx);
	guest_take(&tx, NULL);
}

/* What comes out is what was sent, in order, however slowly it is read. */
static void *reader(void *arg)
{
	uint32_t i, n;

	(void)arg;
	for (i = 0; i < ROUNDS; i++) {
		for (size_t got = 0; got < sizeof(n);) {
			ssize_t some = read(out[0], (uint8_t *)&n + got, sizeof(n) - got);

			CHECK(some > 0);
			got += (size_t)some;
		}
		CHECK_EQ(n, i);
		if (i % 500 == 0)
			poll(NULL, 0, 5);
	}
	return NULL;
}

static void *typist(void *arg)
{
	struct console_stats stats;

	(void)arg;
	while (!__atomic_load_n(&done, __ATOMIC_ACQUIRE)) {
		console_input(console, (const uint8_t *)"key", 3);
		console_drain(console, 1);
		console_get_stats(console, &stats);
		console_error(console);
	}
	return NULL;
}

static void talk(uint32_t rounds_until_pause)
{
	pthread_t reads, types;

	open_console();
	CHECK(pthread_create(&reads, NULL, reader, NULL) == 0 && pthread_create(&types, NULL, typist, NULL) == 0);
	for (uint32_t i = 0; i < ROUNDS; i++) {
		if (i % 4 == 0 && (uint16_t)(rx.avail_idx - __atomic_load_n(&rx.used[1], __ATOMIC_ACQUIRE)) < SIZE) {
			uint16_t head = rx.avail_idx % SIZE;

			guest_desc(&rx, head, RX_DATA + head * BUF, BUF, D_WRITE, 0);
			guest_offer(&rx, head);
			guest_kick(&rx);
		}
		send_number(i);
		if (rounds_until_pause && i % rounds_until_pause == 0) {
			worker_free(worker);
			CHECK_EQ(ring_in_flight(tx.ring), 0);
			CHECK_EQ(ring_in_flight(rx.ring), 0);
			start();
		}
	}
	__atomic_store_n(&done, true, __ATOMIC_RELEASE);
	pthread_join(types, NULL);
	CHECK_EQ(console_drain(console, 20000), 0);
	pthread_join(reads, NULL);
	close_console();
}

static void print_and_type(void)
{
	talk(0);
}

static void pauses_under_load(void)
{
	talk(100);
}

/* Linux may lose input before its console is there; one that has sent output is. */
static void input_waits_for_a_new_console_only(void)
{
	struct console_queues queues;

	open_console();
	queues = (struct console_queues){ .rx = rx.ring, .tx = tx.ring };
	worker_free(worker);
	console_prepare(console, &queues);
	CHECK(console->deaf_until);
	start();
	send_number(0);
	worker_free(worker);
	console_prepare(console, &queues);
	CHECK(!console->deaf_until);
	start();
	close_console();
}

static void *shrink_and_grow(void *arg)
{
	int fd = *(int *)arg;

	while (!__atomic_load_n(&done, __ATOMIC_ACQUIRE)) {
		CHECK(ftruncate(fd, 4096) == 0 && ftruncate(fd, PMEM_ALIGN) == 0);
		poll(NULL, 0, 1);
	}
	return NULL;
}

/* As several vCPUs do it that meet a page which is not there. */
static void *fault(void *arg)
{
	while (!__atomic_load_n(&done, __ATOMIC_ACQUIRE))
		pmem_fault(arg);
	return NULL;
}

static void flushes_while_the_file_changes(void)
{
	int err, fd = memfd_create("image", MFD_CLOEXEC);
	pthread_t shrinks, faults;
	struct pmem_stats stats;
	struct pmem *pmem;
	uint32_t *answer;

	guest_open(&tx, SIZE, RING_EVENT_IDX);
	CHECK(fd >= 0 && ftruncate(fd, PMEM_ALIGN) == 0);
	pmem = pmem_new(fd, 0, &err);
	CHECK(pmem);
	worker = pmem_start(pmem, tx.ring, tx.kick_fd, &tx.irq, tx.event_fd, &err);
	CHECK(worker);
	done = false;
	CHECK(pthread_create(&shrinks, NULL, shrink_and_grow, &fd) == 0);
	CHECK(pthread_create(&faults, NULL, fault, pmem) == 0);
	answer = guest_ptr(&tx, AT_DATA + 64);
	for (uint32_t i = 0; i < ROUNDS; i++) {
		*answer = 77;
		guest_desc(&tx, 0, AT_DATA, 4, D_NEXT, 1);
		guest_desc(&tx, 1, AT_DATA + 64, 4, D_WRITE, 0);
		guest_offer(&tx, 0);
		guest_kick(&tx);
		guest_take(&tx, NULL);
		CHECK_EQ(*answer, 0);
	}
	__atomic_store_n(&done, true, __ATOMIC_RELEASE);
	pthread_join(shrinks, NULL);
	pthread_join(faults, NULL);
	worker_free(worker);
	pmem_get_stats(pmem, &stats);
	CHECK(stats.flushes > 0 && stats.errors == 0);
	pmem_free(pmem);
	close(fd);
	guest_close(&tx);
}

/* Ask with a buffer of two parts; its bytes are zero before. Returns how many the device wrote. */
static uint32_t ask(uint32_t first, uint32_t second)
{
	uint32_t len = 0;

	memset(guest_ptr(&tx, AT_DATA), 0, first + second);
	guest_desc(&tx, 0, AT_DATA, first, D_WRITE | D_NEXT, 1);
	guest_desc(&tx, 1, AT_DATA + first, second, D_WRITE, 0);
	guest_offer(&tx, 0);
	guest_kick(&tx);
	guest_take(&tx, &len);
	return len;
}

static void random_bytes_of_all_sources(void)
{
	struct rng rng = { .fd = -1 };
	uint8_t *data;
	int source[2], err;
	uint32_t zeroes = 0;

	guest_open(&tx, SIZE, RING_EVENT_IDX);
	data = guest_ptr(&tx, AT_DATA);
	worker = rng_start(&rng, tx.ring, tx.kick_fd, &tx.irq, tx.event_fd, &err);
	CHECK(worker);
	CHECK_EQ(ask(100, 28), 128);
	for (int i = 0; i < 128; i++)
		zeroes += !data[i];
	CHECK(zeroes < 64);
	CHECK_EQ(ask(RNG_MAX_REQUEST - 10, 100), RNG_MAX_REQUEST);
	CHECK(!memcmp(data + RNG_MAX_REQUEST, (uint8_t[90]){ 0 }, 90));
	guest_desc(&tx, 0, AT_DATA, 8, 0, 0); /* no room */
	guest_offer(&tx, 0);
	guest_kick(&tx);
	guest_take(&tx, &zeroes);
	CHECK_EQ(zeroes, 0);
	worker_free(worker);
	CHECK_EQ(rng.requests, 3);
	CHECK_EQ(rng.bytes, 128 + RNG_MAX_REQUEST);

	/* A source that has nothing is asked again; one that has ended stops the worker, and the request stays. */
	CHECK(pipe2(source, O_CLOEXEC | O_NONBLOCK) == 0);
	rng.fd = source[0];
	worker = rng_start(&rng, tx.ring, tx.kick_fd, &tx.irq, tx.event_fd, &err);
	CHECK(worker);
	guest_desc(&tx, 0, AT_DATA, 3, D_WRITE | D_NEXT, 1);
	guest_desc(&tx, 1, AT_DATA + 3, 9, D_WRITE, 0);
	guest_offer(&tx, 0);
	guest_kick(&tx);
	while (__atomic_load_n(&rng.empty, __ATOMIC_RELAXED) < 2)
		poll(NULL, 0, 10);
	CHECK(write(source[1], "bytes", 5) == 5);
	guest_take(&tx, &zeroes);
	CHECK_EQ(zeroes, 5);
	CHECK(!memcmp(data, "bytes", 5));
	close(source[1]);
	guest_offer(&tx, 0);
	guest_kick(&tx);
	CHECK(event_wait(tx.event_fd));
	CHECK_EQ(worker_error(worker), -ENODATA);
	CHECK_EQ(ring_in_flight(tx.ring), 0);
	worker_free(worker);
	close(source[0]);
	guest_close(&tx);
}

static void random_bytes_at_a_limit(void)
{
	struct limit *limit = limit_new(&(struct limit_config){ .bytes = 10 << 20, .bytes_burst = 1 });
	struct rng rng = { .fd = -1, .limit = limit };
	int err;

	guest_open(&tx, SIZE, RING_EVENT_IDX);
	worker = rng_start(&rng, tx.ring, tx.kick_fd, &tx.irq, tx.event_fd, &err);
	CHECK(worker);
	for (int i = 0; i < 20; i++)
		CHECK_EQ(ask(8192, 8192), 16384);
	CHECK(limit_waits(limit) > 0);
	worker_free(worker);
	limit_free(limit);
	guest_close(&tx);
}

static bool refused(long result, int error)
{
	return result < 0 && errno == error;
}

/* What a process may do whose list has the lines of one call apart. */
static int filtered(int fd)
{
	const struct seccomp_call list[] = {
		WHEN(lseek, 2, SECCOMP_ALL, SEEK_SET, "")
		CALL(exit_group, "")
		FAIL(getppid, EACCES, "")
		WHEN2(fcntl, 1, SECCOMP_ALL, F_GETFD, 2, 3, 1, "")
		WHEN(lseek, 2, SECCOMP_ALL, SEEK_END, "")
		WHEN(lseek, 1, 0xf0, 0x50, "")
		WHEN(fcntl, 1, SECCOMP_ALL, F_GETFL, "")
		CALL(getuid, "")
		CALL(fcntl, "") /* whatever the others say */
	};

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	    seccomp_install(list, sizeof(list) / sizeof(list[0]), SECCOMP_RET_ERRNO | EPERM))
		return 1;
	if (syscall(SYS_lseek, fd, 3, SEEK_SET) != 3 || syscall(SYS_lseek, fd, 0, SEEK_END) != 0 ||
	    syscall(SYS_lseek, fd, 0x57, SEEK_CUR) != 0x57)
		return 2;
	if (!refused(syscall(SYS_lseek, fd, 3, SEEK_CUR), EPERM) || !refused(syscall(SYS_getppid), EACCES) ||
	    !refused(syscall(SYS_getpid), EPERM))
		return 3;
	if (syscall(SYS_fcntl, fd, F_GETFL) < 0 || syscall(SYS_fcntl, fd, F_GETFD, 0) < 0 ||
	    syscall(SYS_getuid) < 0)
		return 4;
	return 0;
}

static void lines_of_a_call_may_lie_apart(void)
{
	int fd = memfd_create("empty", MFD_CLOEXEC), status;
	pid_t pid;

	CHECK(fd >= 0);
	pid = fork();
	CHECK(pid >= 0);
	if (!pid)
		syscall(SYS_exit_group, filtered(fd));
	CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status));
	CHECK_EQ(WEXITSTATUS(status), 0);
	close(fd);
}

/* ---- the UART's output ---- */

enum { FIRST_OF_UART = 'a', BYTES_OF_UART = 26 };

static uint8_t uart_byte(uint32_t i)
{
	return (uint8_t)(i % 80 == 79 ? '\n' : FIRST_OF_UART + i % BYTES_OF_UART);
}

static void uart_say(struct uart *u, uint32_t from, uint32_t to)
{
	for (; from < to; from++) {
		uint8_t byte = uart_byte(from);

		CHECK(uart_access(u, UART_TX, &byte, 1, true));
	}
}

struct listener {
	int fd;
	uint32_t len;
};

/* Reads so much, and checks it. */
static void *listen_to(void *arg)
{
	const struct listener *l = arg;
	uint8_t data[300];

	for (uint32_t at = 0; at < l->len;) {
		ssize_t n = read(l->fd, data, l->len - at < sizeof(data) ? l->len - at : sizeof(data));

		CHECK(n > 0);
		for (ssize_t i = 0; i < n; i++)
			CHECK_EQ(data[i], uart_byte(at++));
	}
	return NULL;
}

/* Have the host write what the guest has said, as the loop does it. */
static void uart_drain(struct uart *u)
{
	while (uart_flush(u) > 0)
		poll(NULL, 0, 1);
}

/* With a reader at `from` that is slower than the guest, all comes out of `to`, in order. */
static void uart_into(int from, int to, uint32_t len)
{
	const int irq = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	struct uart *u = uart_new(irq, to, UART_OUT_BLOCK, -1);
	struct listener listener = { from, len };
	struct uart_stats stats;
	pthread_t thread;

	CHECK(u);
	CHECK(pthread_create(&thread, NULL, listen_to, &listener) == 0);
	uart_say(u, 0, len);
	uart_drain(u);
	pthread_join(thread, NULL);
	uart_get_stats(u, &stats);
	CHECK_EQ(stats.tx_bytes, len);
	CHECK_EQ(stats.tx_dropped, 0);
	uart_free(u);
	close(irq);
}

static void uart_output_has_readers_of_all_kinds(void)
{
	struct termios raw;
	int fd[2], tty;

	CHECK(pipe2(fd, O_CLOEXEC) == 0 && fcntl(fd[1], F_SETPIPE_SZ, 4096) == 4096);
	uart_into(fd[0], fd[1], 50000);
	close(fd[0]);
	close(fd[1]);
	CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd) == 0);
	uart_into(fd[0], fd[1], 50000);
	close(fd[0]);
	close(fd[1]);
	fd[0] = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
	CHECK(fd[0] >= 0 && grantpt(fd[0]) == 0 && unlockpt(fd[0]) == 0);
	tty = open(ptsname(fd[0]), O_RDWR | O_NOCTTY | O_CLOEXEC);
	CHECK(tty >= 0 && tcgetattr(tty, &raw) == 0);
	cfmakeraw(&raw);
	CHECK(tcsetattr(tty, TCSANOW, &raw) == 0);
	uart_into(fd[0], tty, 9000);
	close(tty);
	close(fd[0]);
}

static void uart_drops_what_nobody_takes_and_counts_it(void)
{
	struct uart_stats stats;
	struct uart *u;
	int fd[2];

	CHECK(pipe2(fd, O_CLOEXEC) == 0 && fcntl(fd[1], F_SETPIPE_SZ, 4096) == 4096);
	u = uart_new(-1, fd[1], UART_OUT_DROP, -1);
	uart_say(u, 0, 20000);
	CHECK_EQ(uart_flush(u), 0);
	uart_get_stats(u, &stats);
	CHECK(stats.tx_dropped > 0 && stats.tx_bytes > 0);
	CHECK_EQ(stats.tx_dropped + stats.tx_bytes, 20000);
	uart_free(u);
	u = uart_new(-1, -1, UART_OUT_BLOCK, -1); /* nobody at all */
	uart_say(u, 0, 20000);
	uart_get_stats(u, &stats);
	CHECK_EQ(stats.tx_bytes, 20000);
	uart_free(u);
	close(fd[0]);
	close(fd[1]);
}

static void uart_tells_once_that_its_reader_has_gone(void)
{
	struct uart_stats stats;
	struct uart *u;
	int fd[2];

	signal(SIGPIPE, SIG_IGN);
	CHECK(pipe2(fd, O_CLOEXEC) == 0);
	u = uart_new(-1, fd[1], UART_OUT_BLOCK, -1);
	close(fd[0]);
	uart_say(u, 0, 1000);
	CHECK_EQ(uart_flush(u), -EPIPE);
	uart_say(u, 0, 1000);
	CHECK_EQ(uart_flush(u), 0);
	uart_get_stats(u, &stats);
	CHECK_EQ(stats.tx_dropped, 2000);
	uart_free(u);
	close(fd[1]);
}

enum { TOO_MUCH = 4096 + UART_TX_SIZE + 80 };

static void *say_too_much(void *arg)
{
	uart_say(arg, 0, TOO_MUCH);
	__atomic_store_n(&done, true, __ATOMIC_RELEASE);
	return NULL;
}

static void on_signal(int number)
{
	(void)number;
}

/* A guest that writes to a full transmitter waits, but not for ever, and not when its vCPU is stopped. */
static void uart_waits_for_a_moment_for_who_reads_nothing(void)
{
	const struct sigaction action = { .sa_handler = on_signal };
	struct uart_stats stats;
	pthread_t thread;
	int fd[2];

	sigaction(SIGUSR1, &action, NULL);
	for (int stopped = 0; stopped < 2; stopped++) {
		struct listener listener;
		struct uart *u;

		CHECK(pipe2(fd, O_CLOEXEC) == 0 && fcntl(fd[1], F_SETPIPE_SZ, 4096) == 4096);
		u = uart_new(-1, fd[1], UART_OUT_BLOCK, -1);
		done = false;
		CHECK(pthread_create(&thread, NULL, say_too_much, u) == 0);
		while (stopped && !__atomic_load_n(&done, __ATOMIC_ACQUIRE)) {
			pthread_kill(thread, SIGUSR1);
			poll(NULL, 0, 1);
		}
		pthread_join(thread, NULL);
		uart_get_stats(u, &stats);
		CHECK(stats.tx_dropped >= 80 && stats.tx_dropped < TOO_MUCH - UART_TX_SIZE);
		/* What was not dropped is there for who reads late. */
		listener = (struct listener){ fd[0], (uint32_t)(TOO_MUCH - stats.tx_dropped) };
		CHECK(pthread_create(&thread, NULL, listen_to, &listener) == 0);
		uart_drain(u);
		pthread_join(thread, NULL);
		uart_free(u);
		close(fd[0]);
		close(fd[1]);
	}
}

/* ---- the guest's memory ---- */

static void pages_in_runs(void)
{
	uint8_t bits[32] = { 0 };
	uint64_t start, end = 0;
	const uint64_t size = sizeof(bits) * 8 * PAGE;
	struct irq irq = { .status = &tx.isr, .fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC) };

	bits[0] = 0x06; /* pages 1, 2 */
	bits[20] = 0x80; /* 167 */
	bits[21] = 0xff; /* to 175 */
	bits[31] = 0x80; /* the last one */
	CHECK(mem_run(bits, size, &start, &end) && start == 1 * PAGE && end == 3 * PAGE);
	CHECK(mem_run(bits, size, &start, &end) && start == 167 * PAGE && end == 176 * PAGE);
	CHECK(mem_run(bits, size, &start, &end) && start == 255 * PAGE && end == 256 * PAGE);
	CHECK(!mem_run(bits, size, &start, &end));
	irq_raise(&irq, 3);
	irq_ack(&irq, 1);
	CHECK_EQ(tx.isr, 2);
	close(irq.fd);
}

/* ---- a clone's memory ---- */

enum { RAM_PIECE = 2 << 20, RAM_SIZE = 5 * RAM_PIECE, AROUND = 16, MANY_PIECES = 40 };

struct clone {
	int template, diff, memfd;
	uint64_t size;
	uint8_t *ram, *bits;
	struct fill *fill;
};

static int sparse_file(uint64_t size)
{
	int fd = memfd_create("test", MFD_CLOEXEC);

	CHECK(fd >= 0 && ftruncate(fd, (off_t)size) == 0);
	return fd;
}

static void put_page(int fd, uint64_t page, uint8_t value)
{
	uint8_t bytes[PAGE];

	memset(bytes, value, sizeof(bytes));
	CHECK(file_write(fd, bytes, PAGE, page * PAGE) == 0);
}

static uint8_t *map_ram(int fd, uint64_t size)
{
	/* A huge page has to begin where one of the file does. */
	uint8_t *room = mmap(NULL, size + RAM_PIECE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint8_t *at = (uint8_t *)(((uintptr_t)room + RAM_PIECE - 1) & ~(uintptr_t)(RAM_PIECE - 1));

	CHECK(room != MAP_FAILED);
	munmap(room, (size_t)(at - room));
	munmap(at + size, (size_t)(room + RAM_PIECE - at));
	CHECK(mmap(at, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == at);
	return at;
}

/* False: this host lets nobody have such memory. */
static bool clone_open(struct clone *c, uint64_t size)
{
	int err;

	*c = (struct clone){ .size = size, .template = sparse_file(size), .diff = sparse_file(size), .memfd = sparse_file(size) };
	c->bits = calloc(1, size / PAGE / 8);
	CHECK(c->bits);
	c->ram = map_ram(c->memfd, size);
	c->fill = fill_new(c->ram, size, c->memfd, AROUND, &err);
	CHECK(c->fill || err == -EPERM || err == -ENOSYS || err == -EOPNOTSUPP);
	return c->fill;
}

static void clone_close(struct clone *c)
{
	if (c->fill)
		fill_free(c->fill);
	munmap(c->ram, c->size);
	close(c->template);
	close(c->diff);
	close(c->memfd);
	free(c->bits);
}

static uint8_t ram_at(const uint8_t *ram, uint64_t page)
{
	return __atomic_load_n(ram + page * PAGE + PAGE - 1, __ATOMIC_RELAXED);
}

static bool bit_of(const uint8_t *bits, uint64_t page)
{
	return has_page(bits, page * PAGE);
}

/* Pages 0 to 39 of a template, of which a diff has others for 3 and 4; the last page; and one in between. */
static void clone_layers(struct clone *c)
{
	for (uint8_t page = 0; page < 40; page++)
		put_page(c->template, page, page + 1);
	put_page(c->template, 700, 70);
	put_page(c->template, c->size / PAGE - 1, 99);
	put_page(c->diff, 3, 103);
	/* Page 4 is zero in it. */
	c->bits[0] = 0x18;
	CHECK_EQ(fill_layer(c->fill, c->template, NULL), 0);
	CHECK_EQ(fill_data(c->fill, c->template, 0, c->size), 0);
	CHECK_EQ(fill_layer(c->fill, c->diff, c->bits), 0);
	memset(c->bits, 0, c->size / PAGE / 8);
}

static void clones_have_their_template_s_memory(void)
{
	struct fill_extent extent = { 0, 0 };
	struct fill_stats stats;
	struct clone c;
	bool own;

	if (!clone_open(&c, RAM_SIZE)) {
		clone_close(&c);
		return;
	}
	const struct mem mem = { .nregions = 1, .region = { { .size = RAM_SIZE, .hva = (uintptr_t)c.ram } } };
	const uint64_t places[] = { 37 * PAGE + 8, 700 * PAGE, 1500 * PAGE, UINT64_MAX };

	clone_layers(&c);
	CHECK_EQ(fill_start(c.fill), 0);
	CHECK_EQ(fill_go_on(c.fill), 0); /* it runs already */
	CHECK(ram_at(c.ram, 2) == 3 && ram_at(c.ram, 3) == 103 && ram_at(c.ram, 4) == 0 && ram_at(c.ram, 5) == 6);
	fill_done(c.fill, c.bits);
	CHECK(bit_of(c.bits, 0) && bit_of(c.bits, AROUND - 1) && !bit_of(c.bits, AROUND));
	/* What was discarded is zero, and does not come again. */
	fill_forget(c.fill, c.ram + 20 * PAGE, 2 * PAGE);
	CHECK(ram_at(c.ram, 20) == 0 && ram_at(c.ram, 22) == 23);
	CHECK(madvise(c.ram + 22 * PAGE, PAGE, MADV_REMOVE) == 0);
	CHECK(ram_at(c.ram, 22) == 0);
	/* What is written there is the clone's own; the template is as it was. */
	memset(c.ram + 700 * PAGE, 7, PAGE);
	c.ram[3 * RAM_PIECE + PAGE] = 8; /* where the template has nothing, the kernel fills it */
	fill_own(c.fill, c.bits);
	CHECK(bit_of(c.bits, 700) && bit_of(c.bits, 3 * RAM_PIECE / PAGE + 1) && !bit_of(c.bits, 39));
	fill_hold(c.fill);
	CHECK(fill_look(c.fill, &extent, 39 * PAGE, &own)[0] == 40 && !own);
	CHECK(fill_look(c.fill, &extent, 700 * PAGE, &own)[0] == 7 && own);
	CHECK(fill_look(c.fill, &extent, 3 * RAM_PIECE + PAGE, &own)[0] == 8 && own);
	CHECK(fill_look(c.fill, &extent, 3 * RAM_PIECE + 9 * PAGE, &own)[0] == 0 && !own);
	CHECK(fill_look(c.fill, &extent, 4 * RAM_PIECE, &own)[0] == 0 && !own);
	fill_release(c.fill);
	CHECK(fill_differs(c.fill, c.ram + 700 * PAGE, 700 * PAGE) && !fill_differs(c.fill, c.ram + 5 * PAGE, 5 * PAGE));
	CHECK(!fill_differs(c.fill, c.ram + 4 * RAM_PIECE, 4 * RAM_PIECE));
	/* The rest: what is there, or was discarded, is not written again; nor what somebody else has put there. */
	put_page(c.memfd, 36, 55);
	/* A page of a queue; one that is there, with other bytes; one that the template has not; and what is no RAM. */
	fill_places(c.fill, &mem, places, 4);
	fill_done(c.fill, c.bits);
	CHECK(bit_of(c.bits, 37) && !bit_of(c.bits, 35) && !bit_of(c.bits, 1500) && ram_at(c.ram, 700) == 7);
	CHECK_EQ(fill_range(c.fill, 0, RAM_SIZE), 8 * PAGE);
	CHECK_EQ(fill_range(c.fill, 0, RAM_SIZE), 0);
	CHECK(ram_at(c.ram, 35) == 36 && ram_at(c.ram, 36) == 55 && ram_at(c.ram, 37) == 38 && ram_at(c.ram, 39) == 40);
	CHECK(ram_at(c.ram, RAM_SIZE / PAGE - 1) == 99 && ram_at(c.ram, 700) == 7 && ram_at(c.ram, 21) == 0);
	fill_get_stats(c.fill, &stats);
	CHECK(stats.faults >= 4 && stats.filled == (uint64_t)(40 + 2 - 2) * PAGE);
	fill_rest(c.fill);
	fill_rest(c.fill);
	CHECK_EQ(fill_go_on(c.fill), 0);
	/* Afterwards the kernel fills what is missing, with zeros. */
	fill_stop(c.fill);
	CHECK(madvise(c.ram, RAM_SIZE, MADV_REMOVE) == 0);
	CHECK(ram_at(c.ram, 5) == 0);
	clone_close(&c);
}

/* While it runs, one layer takes the place of two; and all of it comes again where nothing is left. */
static void layers_become_one(void)
{
	const int merged = sparse_file(RAM_SIZE);
	struct clone c;

	if (!clone_open(&c, RAM_SIZE)) {
		clone_close(&c);
		close(merged);
		return;
	}
	clone_layers(&c);
	for (uint8_t page = 0; page < 40; page++)
		if (page != 4)
			put_page(merged, page, page == 3 ? 103 : page + 1);
	put_page(merged, 700, 70);
	CHECK_EQ(fill_start(c.fill), 0);
	CHECK_EQ(ram_at(c.ram, 2), 3);
	fill_layer_bits(c.fill, 1, c.bits);
	CHECK_EQ(c.bits[0], 0x18);
	fill_layer_bits(c.fill, 2, c.bits); /* there is none */
	memset(c.bits, 0xff, 40 / 8);
	c.bits[700 / 8] = 1 << 700 % 8;
	CHECK_EQ(fill_merge(c.fill, 0, merged, c.bits), -EINVAL);
	CHECK_EQ(fill_merge(c.fill, 3, merged, c.bits), -EINVAL);
	CHECK_EQ(fill_merge(c.fill, 2, merged, c.bits), 0);
	for (uint8_t page = 0; page < 40; page++)
		CHECK_EQ(ram_at(c.ram, page), page == 3 ? 103 : page == 4 ? 0 : page + 1);
	CHECK(ram_at(c.ram, 700) == 70 && ram_at(c.ram, RAM_SIZE / PAGE - 1) == 0);
	CHECK(madvise(c.ram, RAM_SIZE, MADV_REMOVE) == 0);
	CHECK_EQ(ram_at(c.ram, 5), 0);
	fill_rest(c.fill);
	CHECK_EQ(fill_layer(c.fill, c.diff, c.bits), 0);
	fill_layer_drop(c.fill);
	CHECK_EQ(fill_again(c.fill, true), 0);
	CHECK_EQ(fill_go_on(c.fill), 0);
	CHECK(madvise(c.ram, RAM_SIZE, MADV_DONTNEED) == 0 && ftruncate(c.memfd, 0) == 0 && ftruncate(c.memfd, RAM_SIZE) == 0);
	CHECK(ram_at(c.ram, 5) == 6 && ram_at(c.ram, 3) == 103);
	clone_close(&c);
	close(merged);
}

/* Two ranges lie over the template: what is written there is the clone's own, and stays when all of RAM is one file again. */
static void some_of_it_lies_over_the_template(void)
{
	struct fill_extent extent = { 0, 0 };
	struct clone c;
	bool own;

	if (!clone_open(&c, RAM_SIZE)) {
		clone_close(&c);
		return;
	}
	for (uint8_t page = 0; page < 40; page++)
		put_page(c.template, page, page + 1);
	CHECK_EQ(fill_layer(c.fill, c.template, NULL), 0);
	CHECK_EQ(fill_data(c.fill, c.template, 0, c.size), 0);
	CHECK_EQ(fill_lay(c.fill, c.template, 8 * PAGE, 16 * PAGE), 0);
	CHECK_EQ(fill_lay(c.fill, c.template, 0, 4 * PAGE), -EINVAL); /* from the bottom up */
	CHECK_EQ(fill_lay(c.fill, c.template, 20 * PAGE + 1, 24 * PAGE), -EINVAL);
	CHECK_EQ(fill_lay(c.fill, c.template, 20 * PAGE, RAM_SIZE + PAGE), -EINVAL);
	CHECK_EQ(fill_lay(c.fill, c.template, 20 * PAGE, 24 * PAGE), 0);
	memset(c.bits, 0xff, 16 / 8);
	CHECK_EQ(fill_ahead(c.fill, c.bits, false), 0);
	CHECK_EQ(fill_start(c.fill), 0);
	for (uint8_t page = 0; page < 40; page++)
		CHECK_EQ(ram_at(c.ram, page), page + 1);
	memset(c.ram + 9 * PAGE, 7, PAGE);
	memset(c.ram + 23 * PAGE, 8, PAGE);
	memset(c.ram + 30 * PAGE, 9, PAGE);
	fill_hold(c.fill);
	CHECK(fill_look(c.fill, &extent, 9 * PAGE, &own)[0] == 7 && own);
	CHECK(fill_look(c.fill, &extent, 10 * PAGE, &own)[0] == 11 && !own);
	CHECK(fill_look(c.fill, &extent, 30 * PAGE, &own)[0] == 9 && own);
	fill_release(c.fill);
	CHECK_EQ(fill_forget(c.fill, c.ram + 12 * PAGE, PAGE), -EBUSY); /* which is done: the template would come again */
	CHECK_EQ(ram_at(c.ram, 12), 0);
	CHECK_EQ(fill_unmap(c.fill), 0);
	for (int together = 0; together < 2; together++) {
		CHECK(ram_at(c.ram, 9) == 7 && ram_at(c.ram, 10) == 11 && ram_at(c.ram, 12) == 0 && ram_at(c.ram, 22) == 23);
		CHECK(ram_at(c.ram, 23) == 8 && ram_at(c.ram, 30) == 9 && ram_at(c.ram, 31) == 32);
		CHECK_EQ(fill_together(c.fill), 0); /* the second time there is nothing to do */
	}
	clone_close(&c);
}

static void memory_is_there_ahead(void)
{
	struct clone c;

	/* A huge page where most is asked for, if the host makes such; single pages elsewhere; and no room on the host. */
	for (int how = 0; how < 3; how++) {
		if (!clone_open(&c, RAM_SIZE)) {
			clone_close(&c);
			return;
		}
		clone_layers(&c);
		memset(c.bits, 0xff, RAM_PIECE / PAGE / 8 - 1);
		c.bits[700 / 8] = 1 << 700 % 8;
		if (how == 2) {
			struct rlimit limit, none;

			signal(SIGXFSZ, SIG_IGN);
			CHECK(getrlimit(RLIMIT_FSIZE, &limit) == 0);
			none = (struct rlimit){ 6 * PAGE, limit.rlim_max };
			CHECK(setrlimit(RLIMIT_FSIZE, &none) == 0);
			CHECK_EQ(fill_ahead(c.fill, c.bits, false), 0); /* what was written is taken back, and comes later */
			CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
		} else {
			CHECK_EQ(fill_ahead(c.fill, c.bits, how == 0), 0);
		}
		fill_done(c.fill, c.bits);
		CHECK(bit_of(c.bits, 9) == (how != 2) && bit_of(c.bits, 700) == (how != 2));
		CHECK_EQ(fill_start(c.fill), 0);
		for (uint8_t page = 0; page < 40; page++)
			CHECK_EQ(ram_at(c.ram, page), page == 3 ? 103 : page == 4 ? 0 : page + 1);
		CHECK(ram_at(c.ram, 700) == 70 && ram_at(c.ram, 300) == 0 && ram_at(c.ram, RAM_SIZE / PAGE - 1) == 99);
		clone_close(&c);
	}
}

/* Pages that are filled before it is known what they will be, as those of a machine that waits for a fork. */
static void pages_filled_early_become_what_they_must_be(void)
{
	struct fill_first *first = calloc(1, sizeof(*first));
	struct clone c;

	CHECK(first);
	/* The layers are the same and one has come; or there is another, and pages that it has not are zero. */
	for (int same = 0; same < 2 && clone_open(&c, RAM_SIZE); same++) {
		const int later = sparse_file(RAM_SIZE);
		uint8_t *bits = calloc(1, RAM_SIZE / PAGE / 8);

		CHECK(bits);
		CHECK_EQ(fill_start(c.fill), 0);
		first->count = 0;
		fill_record(c.fill, first);
		clone_layers(&c);
		c.bits[0] = 0xfe;               /* 1 to 7; page 4 is zero in the template */
		c.bits[600 / 8] = 1 << 600 % 8; /* which it has not */
		c.bits[700 / 8] |= 1 << 700 % 8;
		CHECK_EQ(fill_early(c.fill, c.bits), 0);
		CHECK(c.ram[PAGE] == 2 && c.ram[3 * PAGE] == 103 && c.ram[4 * PAGE] == 0 && c.ram[700 * PAGE] == 70);
		fill_layer_drop(c.fill);
		fill_layer_drop(c.fill);
		memset(c.bits, 0, RAM_SIZE / PAGE / 8);
		put_page(later, 2, 202);
		put_page(later, 4, 204);
		put_page(later, 600, 60);
		/* Page 5 is zero in it. */
		bits[0] = 1 << 2 | 1 << 4 | 1 << 5;
		bits[600 / 8] = 1 << 600 % 8;
		if (same)
			clone_layers(&c);
		CHECK_EQ(fill_layer(c.fill, later, bits), 0);
		fill_renew(c.fill, same ? 2 : 0);
		CHECK_EQ(fill_again(c.fill, false), 0);
		CHECK(ram_at(c.ram, 2) == 202 && ram_at(c.ram, 4) == 204 && ram_at(c.ram, 5) == 0 && ram_at(c.ram, 600) == 60);
		CHECK(ram_at(c.ram, 1) == (same ? 2 : 0) && ram_at(c.ram, 3) == (same ? 103 : 0));
		CHECK_EQ(ram_at(c.ram, 700), same ? 70 : 0);
		CHECK_EQ(__atomic_load_n(&first->count, __ATOMIC_ACQUIRE), 0);
		CHECK_EQ(ram_at(c.ram, 30), same ? 31 : 0);
		if (same)
			CHECK(__atomic_load_n(&first->count, __ATOMIC_ACQUIRE) == 1 && first->page[0] == 30);
		clone_close(&c);
		close(later);
		free(bits);
	}
	free(first);
}

/* A host without room. */
static void pages_that_cannot_be_filled_early(void)
{
	struct rlimit limit, none;
	struct clone c;

	if (clone_open(&c, RAM_SIZE)) {
		CHECK_EQ(fill_start(c.fill), 0);
		clone_layers(&c);
		c.bits[0] = 0xfe;
		signal(SIGXFSZ, SIG_IGN);
		CHECK(getrlimit(RLIMIT_FSIZE, &limit) == 0);
		none = (struct rlimit){ 3 * PAGE / 2, limit.rlim_max };
		CHECK(setrlimit(RLIMIT_FSIZE, &none) == 0);
		CHECK_EQ(fill_early(c.fill, c.bits), -EFBIG);
		CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
	}
	clone_close(&c);
}

/* The template may be in so many places that each has no userfaultfd of its own. */
static void memory_in_many_places(void)
{
	struct clone c;

	if (clone_open(&c, 2ull * MANY_PIECES * RAM_PIECE)) {
		for (uint8_t i = 0; i < MANY_PIECES; i++)
			put_page(c.template, 2ull * i * RAM_PIECE / PAGE, i + 1);
		CHECK_EQ(fill_layer(c.fill, c.template, NULL), 0);
		CHECK_EQ(fill_data(c.fill, c.template, 0, c.size), 0);
		CHECK_EQ(fill_start(c.fill), 0);
		for (uint8_t i = 0; i < MANY_PIECES; i++)
			CHECK(ram_at(c.ram, 2ull * i * RAM_PIECE / PAGE) == i + 1 && ram_at(c.ram, (2ull * i + 1) * RAM_PIECE / PAGE) == 0);
	}
	clone_close(&c);
}

/* As another process that maps RAM: it has its own mapping, and a userfaultfd of its own. */
static void memory_that_others_map(void)
{
	int uffd[80], device, client, made = 0;
	struct clone c;
	uint8_t *theirs;

	if (!clone_open(&c, RAM_SIZE)) {
		clone_close(&c);
		return;
	}
	clone_layers(&c);
	CHECK_EQ(fill_start(c.fill), 0);
	theirs = map_ram(c.memfd, RAM_SIZE);
	CHECK_EQ(fill_client(c.fill, c.memfd), -ENOTTY);
	for (int wrong = 0; wrong < 3; wrong++) {
		const int number = (const int[]){ -1, 64, 63 }[wrong];

		CHECK_EQ(fill_client_maps(c.fill, number, (uintptr_t)theirs), -EINVAL);
		fill_client_drop(c.fill, number);
	}
	device = fill_device();
	for (client = 0; client >= 0; made++) {
		CHECK(made < 80);
		uffd[made] = fill_uffd(device);
		CHECK(uffd[made] >= 0);
		client = fill_client(c.fill, uffd[made]);
		CHECK(client == (made < 64 ? made : -ENOSPC));
	}
	CHECK_EQ(fill_client_maps(c.fill, 5, (uintptr_t)theirs + 1), -EINVAL);
	CHECK_EQ(fill_client_maps(c.fill, 5, ~(uint64_t)(PAGE - 1)), -EINVAL);
	CHECK_EQ(fill_client_maps(c.fill, 5, (uintptr_t)theirs), 0);
	CHECK(ram_at(theirs, 8) == 9 && ram_at(theirs, 3) == 103 && ram_at(c.ram, 8) == 9 && ram_at(c.ram, 39) == 40);
	CHECK(ram_at(theirs, 39) == 40 && ram_at(theirs, RAM_PIECE / PAGE + 5) == 0);
	fill_client_drop(c.fill, 6);
	fill_client_drop(c.fill, 6);
	fill_stop(c.fill);
	CHECK_EQ(ram_at(theirs, 700), 0); /* nobody answers any more, and nobody is asked */
	clone_close(&c);
	munmap(theirs, RAM_SIZE);
	while (made--)
		close(uffd[made]);
	if (device >= 0)
		close(device);
}

/* A page that cannot be had ends the process: its guest would go on with another one. */
static void memory_that_a_template_has_lost(void)
{
	struct clone c;
	int status = 0;
	pid_t child = fork();

	CHECK(child >= 0);
	if (child == 0) {
		if (!clone_open(&c, RAM_SIZE))
			_exit(1);
		clone_layers(&c);
		CHECK_EQ(fill_start(c.fill), 0);
		CHECK(dup2(open("/dev/null", O_WRONLY), 2) == 2 && ftruncate(c.template, 0) == 0);
		_exit(ram_at(c.ram, 30) ? 3 : 4);
	}
	CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
	CHECK_EQ(WEXITSTATUS(status), 1);
}

#define T(name) { #name, name }
static const struct test tests[] = {
	T(print_and_type), T(pauses_under_load), T(input_waits_for_a_new_console_only),
	T(flushes_while_the_file_changes),
	T(random_bytes_of_all_sources), T(random_bytes_at_a_limit),
	T(lines_of_a_call_may_lie_apart), T(uart_output_has_readers_of_all_kinds),
	T(uart_drops_what_nobody_takes_and_counts_it), T(uart_tells_once_that_its_reader_has_gone),
	T(uart_waits_for_a_moment_for_who_reads_nothing), T(pages_in_runs),
	T(clones_have_their_template_s_memory), T(memory_is_there_ahead),
	T(pages_filled_early_become_what_they_must_be), T(pages_that_cannot_be_filled_early), T(memory_in_many_places),
	T(layers_become_one), T(some_of_it_lies_over_the_template),
	T(memory_that_others_map), T(memory_that_a_template_has_lost), { NULL, NULL },
};

int main(int argc, char **argv)
{
	return test_main(tests, argc, argv);
}
