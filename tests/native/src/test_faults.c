// SPDX-License-Identifier: Apache-2.0
/*
 * A host that fails: each call of the data plane that needs a descriptor, memory or a thread fails once, in devices that are
 * made and in a share that serves. What was made in part is given back, and what is asked later is answered. Besides, what the
 * host takes late, and who has the other end of a window and may say anything.
 */
#include "guest.h"

#include "fs/dax/dax.h"
#include "fs/fs.h"
#include "blk/blk.h"
#include "console/console.h"
#include "net/net.h"
#include "pmem/pmem.h"
#include "rng/rng.h"
#include "vcpu/bus.h"
#include "vsock/vsock.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <unistd.h>

__thread uint32_t fails_at;
static bool disk_fails;

static bool fails(void)
{
	return fails_at && --fails_at == 0;
}

/* The linker has the data plane call these (programs.py). */
#define HOST(type, name, params, args, bad, error)        \
	type __real_##name params;                        \
	type __wrap_##name params;                        \
	type __wrap_##name params                         \
	{                                                 \
		if (!fails())                             \
			return __real_##name args;        \
		errno = error;                            \
		return bad;                               \
	}
HOST(void *, malloc, (size_t n), (n), NULL, ENOMEM)
HOST(void *, calloc, (size_t n, size_t size), (n, size), NULL, ENOMEM)
HOST(char *, strdup, (const char *s), (s), NULL, ENOMEM)
HOST(void *, mmap, (void *p, size_t n, int prot, int flags, int fd, off_t at), (p, n, prot, flags, fd, at), MAP_FAILED, ENOMEM)
HOST(int, eventfd, (unsigned int n, int flags), (n, flags), -1, EMFILE)
HOST(int, epoll_create1, (int flags), (flags), -1, EMFILE)
HOST(int, epoll_ctl, (int fd, int op, int of, struct epoll_event *e), (fd, op, of, e), -1, ENOSPC)
HOST(int, timerfd_create, (int clock, int flags), (clock, flags), -1, EMFILE)
HOST(int, inotify_init1, (int flags), (flags), -1, EMFILE)
HOST(int, inotify_add_watch, (int fd, const char *path, uint32_t mask), (fd, path, mask), -1, ENOSPC)
HOST(int, fcntl, (int fd, int op, long arg), (fd, op, arg), -1, EMFILE)
HOST(int, open, (const char *path, int flags, mode_t mode), (path, flags, mode), -1, EMFILE)
HOST(int, openat, (int dir, const char *path, int flags, mode_t mode), (dir, path, flags, mode), -1, EMFILE)
HOST(int, open_by_handle_at, (int fd, struct file_handle *h, int flags), (fd, h, flags), -1, EMFILE)
HOST(int, name_to_handle_at, (int fd, const char *name, struct file_handle *h, int *mount, int flags),
     (fd, name, h, mount, flags), -1, EIO)
HOST(int, statx, (int fd, const char *name, int flags, unsigned int mask, struct statx *st), (fd, name, flags, mask, st), -1, EIO)
HOST(int, fstat, (int fd, struct stat *st), (fd, st), -1, EIO)
HOST(int, fstatfs, (int fd, struct statfs *st), (fd, st), -1, EIO)
HOST(int, socket, (int family, int type, int protocol), (family, type, protocol), -1, EMFILE)
HOST(void *, mremap, (void *p, size_t n, size_t to, int flags, void *at), (p, n, to, flags, at), MAP_FAILED, ENOMEM)
HOST(int, unshare, (int flags), (flags), -1, ENOMEM)
HOST(int, fchdir, (int fd), (fd), -1, EIO)
HOST(int, pthread_create, (pthread_t *t, const pthread_attr_t *a, void *(*fn)(void *), void *arg), (t, a, fn, arg), EAGAIN, EAGAIN)
HOST(long, syscall, (long nr, long a, long b, long c, long d, long e), (nr, a, b, c, d, e), -1, nr == 437 ? EMFILE : EPERM)

int __real_fdatasync(int fd);
int __wrap_fdatasync(int fd);
int __wrap_fdatasync(int fd)
{
	errno = EIO;
	return __atomic_load_n(&disk_fails, __ATOMIC_ACQUIRE) ? -1 : __real_fdatasync(fd);
}

void each_call_fails(int (*make)(void))
{
	uint32_t failed = 0;

	CHECK_EQ(make(), 0); /* what is made once stays */
	for (uint32_t at = 1;; at++) {
		int before = count_dir("/proc/self/fd"), err;
		bool all;

		fails_at = at;
		err = make();
		all = fails_at != 0;
		fails_at = 0;
		CHECK(err <= 0);
		CHECK_EQ(count_dir("/proc/self/fd"), before);
		if (all) {
			CHECK_EQ(err, 0);
			break;
		}
		failed += err < 0;
	}
	CHECK(failed);
}

/* ---- devices that are made ---- */

#define RX_DESC 0x40000ull
#define RX_AVAIL 0x50000ull
#define RX_USED 0x60000ull

static struct guest g, rx;
static int file = -1, pair[2];

static void open_guest(void)
{
	guest_open(&g, 16, RING_EVENT_IDX);
	guest_open_queue(&rx, &g, &(struct ring_config){ 16, RING_EVENT_IDX, RX_DESC, RX_AVAIL, RX_USED, 0, 0 });
	file = memfd_create("file", MFD_CLOEXEC);
	CHECK(file >= 0 && ftruncate(file, PMEM_ALIGN) == 0);
}

static void close_guest(void)
{
	guest_close_queue(&rx);
	guest_close(&g);
	close(file);
}

static int make_disk(void)
{
	struct blk_config c = { .fd = file, .capacity = 64, .alignment = 512, .flags = BLK_NO_URING };
	struct worker *w;
	struct blk *blk;
	int err;

	blk = blk_new(&c, &err);
	if (!blk)
		return err;
	w = blk_start(blk, g.ring, g.kick_fd, &g.irq, g.event_fd, &err);
	worker_free(w);
	blk_free(blk);
	return w ? 0 : err;
}

static int make_overlay(void)
{
	struct blk_overlay *o;
	int err;

	o = blk_overlay_new(file, 4096, 8192, 1 << 20, &err);
	blk_overlay_free(o);
	return o ? 0 : err;
}

static int make_image(void)
{
	struct worker *w;
	struct pmem *p;
	int err, watch;

	p = pmem_new(file, 0, &err);
	if (!p)
		return err;
	w = pmem_start(p, g.ring, g.kick_fd, &g.irq, g.event_fd, &err);
	worker_free(w);
	watch = pmem_take_watch(p);
	if (watch >= 0)
		close(watch);
	pmem_free(p);
	return w ? 0 : err;
}

static int make_rng(void)
{
	struct limit *limit = limit_new(&(struct limit_config){ .bytes = 1 << 20, .bytes_burst = 1 << 20 });
	struct rng rng = { .fd = -1, .limit = limit };
	struct worker *w;
	int err;

	if (!limit)
		return -ENOMEM;
	w = rng_start(&rng, g.ring, g.kick_fd, &g.irq, g.event_fd, &err);
	worker_free(w);
	limit_free(limit);
	return w ? 0 : err;
}

static int make_console(void)
{
	const struct console_queues queues = {
		.rx = rx.ring, .tx = g.ring, .rx_kick = rx.kick_fd, .tx_kick = g.kick_fd,
		.rx_irq = &g.irq, .tx_irq = &g.irq, .event_fd = g.event_fd,
	};
	struct console *c = console_new(pair[0], 0, -1);
	struct worker *w;
	int err;

	if (!c)
		return -ENOMEM;
	w = console_start(c, &queues, &err);
	worker_free(w);
	CHECK_EQ(console_input(c, (const uint8_t *)"x", 1), 1);
	console_free(c);
	return w ? 0 : err;
}

static int make_net(void)
{
	const struct net_queues queues = {
		.rx = rx.ring, .tx = g.ring, .rx_kick = rx.kick_fd, .tx_kick = g.kick_fd,
		.rx_irq = &rx.irq, .tx_irq = &g.irq, .event_fd = g.event_fd, .rx_frame = 1514,
	};
	struct worker *w;
	struct net *net;
	int err;

	net = net_new(pair[0], NET_STREAM, &err);
	if (!net)
		return err;
	w = net_start(net, &queues, &err);
	worker_free(w);
	net_free(net);
	return w ? 0 : err;
}

static int make_vsock(void)
{
	const struct vsock_config c = { .cid = 3, .listen_fd = -1, .seq_listen_fd = -1, .dir_fd = -1, .max_conns = 8, .name = "v" };
	const struct vsock_queues queues = {
		.rx = rx.ring, .tx = g.ring, .rx_kick = rx.kick_fd, .tx_kick = g.kick_fd,
		.rx_irq = &rx.irq, .tx_irq = &g.irq, .event_fd = g.event_fd,
	};
	struct worker *w;
	struct vsock *v;
	int err;

	v = vsock_new(&c, &err);
	if (!v)
		return err;
	w = vsock_start(v, &queues, &err);
	worker_free(w);
	vsock_free(v);
	return w ? 0 : err;
}

static int make_window(void)
{
	struct dax *dax;
	int err;

	dax = dax_new(2 * DAX_SLOT, &err);
	if (!dax)
		return err;
	err = dax_begin(dax);
	if (!err)
		err = dax_map(dax, 0, DAX_SLOT, file, 0, true);
	dax_free(dax);
	return err;
}

static int reach_dir;

static int make_connection(void)
{
	int fd = vsock_reach(reach_dir, "socket", 7, VSOCK_TYPE_STREAM);

	if (fd < 0)
		return fd;
	close(fd);
	return 0;
}

static struct fs_config share_config;

static int make_share(void)
{
	struct worker *w;
	struct fs *fs;
	int err;

	fs = fs_new(&share_config, &err);
	if (!fs)
		return err;
	w = fs_start(fs, g.ring, g.kick_fd, &g.irq, g.event_fd, &err);
	worker_free(w);
	fs_free(fs);
	return w ? 0 : err;
}

static void devices_that_cannot_be_made(void)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };

	open_guest();
	each_call_fails(make_disk);
	each_call_fails(make_overlay);
	each_call_fails(make_image);
	each_call_fails(make_rng);
	each_call_fails(make_window);
	CHECK(pipe2(pair, O_CLOEXEC | O_NONBLOCK) == 0);
	each_call_fails(make_console);
	close(pair[0]);
	close(pair[1]);
	CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
	each_call_fails(make_net);
	close(pair[0]);
	close(pair[1]);
	each_call_fails(make_vsock);
	snprintf(at.sun_path, sizeof(at.sun_path), "%s/faults-%d", getenv("DIR"), getpid());
	CHECK(mkdir(at.sun_path, 0700) == 0);
	reach_dir = open(at.sun_path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	strcat(at.sun_path, "/socket_7");
	pair[0] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	CHECK(bind(pair[0], (struct sockaddr *)&at, sizeof(at)) == 0 && listen(pair[0], 100) == 0);
	each_call_fails(make_connection);
	close(pair[0]);
	close(reach_dir);
	unlink(at.sun_path);
	*strrchr(at.sun_path, '/') = 0;
	rmdir(at.sun_path);
	share_config = (struct fs_config){ .proc_fd = -1, .flags = FS_HANDLES };
	share_config.root_fd = open("/tmp", O_PATH | O_DIRECTORY | O_CLOEXEC);
	each_call_fails(make_share);
	close(share_config.root_fd);
	close_guest();
}

/* ---- the window, served to another process ---- */

static int ask_window(int sock, const struct dax_msg *m, int fd)
{
	int32_t answer = 1;

	CHECK_EQ(fd_socket_send(sock, m, sizeof(*m), &fd, 1), 0);
	return fd_socket_recv(sock, &answer, sizeof(answer), NULL, 0) ? 1 : answer;
}

static void a_window_and_who_may_say_anything(void)
{
	const struct dax_msg good = { DAX_MAP, 1, DAX_SLOT, DAX_SLOT, 0 };
	const struct { struct dax_msg m; bool fd; } bad[] = {
		{ { 0, 0, 0, DAX_SLOT, 0 }, false },
		{ { 3, 0, 0, DAX_SLOT, 0 }, true },
		{ { DAX_MAP, 0, 0, DAX_SLOT, 0 }, false },
		{ { DAX_MAP, 2, 0, DAX_SLOT, 0 }, true },
		{ { DAX_UNMAP, 0, 0, DAX_SLOT, 0 }, true },
		{ { DAX_UNMAP, 0, PAGE, DAX_SLOT, 0 }, false },
		{ { DAX_UNMAP, 0, 0, 5 * (uint64_t)DAX_SLOT, 0 }, false },
		{ { DAX_MAP, 0, PAGE, PAGE, 0 }, true },
		{ { DAX_MAP, 0, 0, 0, 0 }, true },
		{ { DAX_MAP, 0, 0, 1, 0 }, true },
		{ { DAX_MAP, 0, 4 * (uint64_t)DAX_SLOT, PAGE, 0 }, true },
		{ { DAX_MAP, 0, 0, UINT64_MAX & ~(uint64_t)(PAGE - 1), 0 }, true },
		{ { DAX_MAP, 0, 0, PAGE, 1 }, true },
		{ { DAX_MAP, 0, 0, PAGE, INT64_MAX & ~(uint64_t)(PAGE - 1) }, true },
	};
	struct bus *bus = bus_new();
	struct dax_stats stats;
	uint64_t before;
	int err, ours, theirs, unused[2], two[2];
	uint8_t *window;
	struct dax *dax;
	char byte;

	open_guest();
	CHECK(!dax_new(0, &err) && err == -EINVAL && !dax_new(DAX_SLOT + PAGE, &err));
	dax = dax_new(4 * DAX_SLOT, &err);
	CHECK_EQ(err, 0);
	window = dax_window(dax);
	dax_watch(dax, g.event_fd);
	CHECK_EQ(dax_pair(&ours, &theirs), 0);
	CHECK_EQ(dax_serve(dax, ours), 0);
	CHECK_EQ(dax_begin(dax), 0);
	CHECK_EQ(dax_begin(dax), 0);
	CHECK(pwrite(file, "in the file", 12, 0) == 12);
	CHECK_EQ(ask_window(theirs, &good, file), 0);
	CHECK(!memcmp(window + DAX_SLOT, "in the file", 12));
	window[DAX_SLOT] = 'I';
	CHECK(pread(file, &byte, 1, 0) == 1 && byte == 'I');
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		CHECK_EQ(ask_window(theirs, &bad[i].m, bad[i].fd ? file : -1), -EINVAL);
	CHECK(pipe2(unused, O_CLOEXEC) == 0);
	CHECK_EQ(ask_window(theirs, &good, unused[0]), -ENODEV);
	dax_get_stats(dax, &stats);
	CHECK_EQ(stats.maps, 1);
	CHECK_EQ(stats.slots, 1);
	/* The guest touches a page that the file has lost. */
	CHECK(ftruncate(file, 0) == 0);
	CHECK(dax_fault(dax) == 1);
	CHECK_EQ(window[DAX_SLOT], 0);
	dax_get_stats(dax, &stats);
	CHECK_EQ(stats.cut, 1);
	CHECK_EQ(ask_window(theirs, &(struct dax_msg){ DAX_UNMAP, 0, DAX_SLOT, DAX_SLOT, 0 }, -1), 0);
	/* What is no request ends the connection, and the descriptors that came with it are closed; another may begin then. */
	for (int i = 0; i < 3; i++) {
		struct pollfd gone = { theirs, POLLIN, 0 };
		int next;

		two[0] = two[1] = unused[1];
		if (i == 0)
			CHECK_EQ(fd_socket_send(theirs, &good, sizeof(good), two, 2), 0);
		else if (i == 1)
			CHECK_EQ(fd_socket_send(theirs, &good, 3, two, 1), 0);
		else
			CHECK(shutdown(theirs, SHUT_WR) == 0);
		CHECK(poll(&gone, 1, 20000) == 1);
		CHECK_EQ(recv(theirs, &byte, 1, 0), 0);
		close(theirs);
		CHECK_EQ(dax_pair(&next, &theirs), 0);
		while (dax_serve(dax, next)) /* the socket is closed a moment before it is free */
			sched_yield();
		CHECK_EQ(ask_window(theirs, &good, file), 0);
		CHECK_EQ(dax_serve(dax, next), -EBUSY);
	}
	close(unused[1]);
	CHECK_EQ(read(unused[0], &byte, 1), 0); /* nobody has it any more */
	close(unused[0]);
	CHECK_EQ(dax_forbidden(dax), -1);
	CHECK_EQ(bus_add_dax(bus, dax, 1ull << 40, 4 * DAX_SLOT), 0);
	before = bus_window_generation(bus);
	CHECK_EQ(dax_map(dax, 0, PAGE, file, 0, false), 0);
	CHECK(bus_window_generation(bus) > before);
	/* The guest's access there, which the kernel's emulation answers: the page is not the file's. */
	CHECK(bus_window_mmio(bus, (1ull << 40) + 3 * DAX_SLOT, (uint8_t *)&byte, 1, false));
	CHECK_EQ(byte, 0);
	bus_free(bus);
	dax_free(dax);
	dax_free(NULL);
	close(theirs);
	close_guest();
}

/* ---- what the host takes late, or not ---- */

static void say(struct guest *to, uint32_t len)
{
	guest_desc(to, 0, AT_DATA, len, 0, 0);
	guest_offer(to, 0);
	guest_kick(to);
	guest_take(to, NULL);
}

/* A pause, and nobody reads: what the guest has printed waits, and is all there. */
static void output_that_waits_for_a_paused_guest(void)
{
	enum { PIECE = 4096 };
	const struct console_queues queues = {
		.rx = rx.ring, .tx = g.ring, .rx_kick = rx.kick_fd, .tx_kick = g.kick_fd,
		.rx_irq = &g.irq, .tx_irq = &g.irq, .event_fd = g.event_fd,
	};
	static uint8_t read_back[PIECE];
	struct console_queues q = queues;
	struct console_stats stats;
	struct console *console;
	struct worker *w;
	uint64_t got = 0;
	int err;

	signal(SIGPIPE, SIG_IGN); /* as Python does */
	for (int reader = 0; reader < 2; reader++) {
		open_guest();
		q.rx = rx.ring, q.tx = g.ring, q.rx_kick = rx.kick_fd, q.tx_kick = g.kick_fd, q.event_fd = g.event_fd;
		CHECK(pipe2(pair, O_CLOEXEC | O_NONBLOCK) == 0);
		CHECK(__real_fcntl(pair[1], F_SETPIPE_SZ, PIECE) >= 0);
		console = console_new(pair[1], 0, -1);
		w = console_start(console, &q, &err);
		CHECK(w);
		memset(guest_ptr(&g, AT_DATA), 'x', PIECE);
		for (int i = 0; i < 3; i++)
			say(&g, PIECE);
		worker_free(w);
		CHECK(console_drain(console, 1) >= PIECE);
		if (reader) {
			got = 0;
			for (int64_t left = 1; left || got < 3 * PIECE;) {
				ssize_t n = read(pair[0], read_back, PIECE);

				for (ssize_t i = 0; i < n; i++)
					CHECK_EQ(read_back[i], 'x');
				got += n > 0 ? (uint64_t)n : 0;
				left = console_drain(console, 1);
			}
			CHECK_EQ(got, 3 * PIECE);
			close(pair[0]);
		} else {
			close(pair[0]);
			CHECK_EQ(console_drain(console, 1000), 0);
			console_get_stats(console, &stats);
			CHECK(stats.tx_dropped >= PIECE);
		}
		console_free(console);
		close(pair[1]);
		close_guest();
	}
}

/* A flush that the disk refuses is an error for the guest, said once; the next one is none. */
static void an_image_whose_disk_fails(void)
{
	struct pmem_stats stats;
	struct worker *w;
	struct pmem *p;
	uint32_t *answer;
	int err, watch;

	open_guest();
	p = pmem_new(file, 0, &err);
	CHECK(p);
	w = pmem_start(p, g.ring, g.kick_fd, &g.irq, g.event_fd, &err);
	CHECK(w);
	answer = guest_ptr(&g, AT_DATA + 64);
	for (int i = 0; i < 4; i++) {
		__atomic_store_n(&disk_fails, i == 1 || i == 2, __ATOMIC_RELEASE);
		*answer = 77;
		*(uint32_t *)guest_ptr(&g, AT_DATA) = 0;
		guest_desc(&g, 0, AT_DATA, 4, D_NEXT, 1);
		guest_desc(&g, 1, AT_DATA + 64, 4, D_WRITE, 0);
		guest_offer(&g, 0);
		guest_kick(&g);
		guest_take(&g, NULL);
		CHECK_EQ(*answer, i == 1 || i == 2);
		if (i == 1)
			CHECK(event_wait(g.event_fd));
	}
	pmem_get_stats(p, &stats);
	CHECK_EQ(stats.errors, 2);
	CHECK_EQ(stats.last_errno, EIO);
	CHECK_EQ(worker_error(w), 0);
	worker_free(w);
	/* It has grown: the window has not. */
	CHECK(ftruncate(file, 2 * PMEM_ALIGN) == 0);
	CHECK_EQ(pmem_fault(p), 0);
	watch = pmem_take_watch(p);
	CHECK_EQ(pmem_take_watch(p), -1);
	if (watch >= 0)
		close(watch);
	CHECK_EQ(((uint8_t *)pmem_window(p))[0], 0);
	pmem_free(p);
	close_guest();
}

/* The other end of a network takes a frame in pieces, and all of them; then it goes. */
static void frames_that_are_taken_in_pieces(void)
{
	enum { FRAME = 60000, ROUNDS = 20 };
	struct net_queues q = { .rx_frame = 1514 };
	const int small = 4096;
	static uint8_t back[ROUNDS * (FRAME + NET_LEN_SIZE)];
	struct net_stats stats;
	struct worker *w;
	struct net *net;
	size_t got = 0;
	int err;

	open_guest();
	CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
	CHECK(setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)) == 0);
	net = net_new(pair[0], NET_STREAM, &err);
	q.rx = rx.ring, q.tx = g.ring, q.rx_kick = rx.kick_fd, q.tx_kick = g.kick_fd, q.event_fd = g.event_fd;
	q.rx_irq = &rx.irq, q.tx_irq = &g.irq;
	w = net_start(net, &q, &err);
	CHECK(w);
	for (uint32_t i = 0; i < ROUNDS; i++) {
		uint8_t *at = guest_ptr(&g, AT_DATA);

		memset(at, 0, NET_HDR_SIZE);
		memset(at + NET_HDR_SIZE, (int)i + 1, FRAME);
		guest_desc(&g, 0, AT_DATA, NET_HDR_SIZE + FRAME, 0, 0);
		guest_offer(&g, 0);
		guest_kick(&g);
		while (got < (i + 1) * (size_t)(FRAME + NET_LEN_SIZE)) {
			struct pollfd ready = { pair[1], POLLIN, 0 };
			ssize_t n;

			CHECK(poll(&ready, 1, 20000) == 1);
			n = recv(pair[1], back + got, 1000, 0);
			CHECK(n > 0);
			got += (size_t)n;
		}
		guest_take(&g, NULL);
		for (uint32_t k = 0; k < FRAME; k++)
			CHECK_EQ(back[i * (FRAME + NET_LEN_SIZE) + NET_LEN_SIZE + k], (uint8_t)(i + 1));
	}
	/* It goes in the middle of one. */
	guest_desc(&g, 0, AT_DATA, NET_HDR_SIZE + FRAME, 0, 0);
	guest_offer(&g, 0);
	guest_kick(&g);
	CHECK(recv(pair[1], back, 1000, MSG_WAITALL) > 0 || poll(&(struct pollfd){ pair[1], POLLIN, 0 }, 1, 20000) == 1);
	close(pair[1]);
	guest_take(&g, NULL);
	CHECK(event_wait(g.event_fd));
	net_get_stats(net, &stats);
	CHECK(stats.last_errno);
	CHECK_EQ(worker_error(w), 0);
	worker_free(w);
	net_free(net);
	close(pair[0]);
	close_guest();
}

static bool was_woken(void *arg)
{
	struct worker_stats stats;

	worker_get_stats(arg, &stats);
	return stats.wakeups > 0;
}

/* With one CPU a worker waits for whoever makes requests; they are all done. */
static void one_processor(void)
{
	struct blk_config c = { .capacity = 4096, .alignment = 512, .flags = BLK_NO_URING };
	struct worker *w;
	struct blk *blk;
	cpu_set_t cpus, one;
	int err, cpu = 0;

	CHECK(sched_getaffinity(0, sizeof(cpus), &cpus) == 0);
	while (!CPU_ISSET(cpu, &cpus))
		cpu++;
	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	CHECK(sched_setaffinity(0, sizeof(one), &one) == 0);
	open_guest();
	c.fd = file;
	blk = blk_new(&c, &err);
	w = blk_start(blk, g.ring, g.kick_fd, &g.irq, g.event_fd, &err);
	CHECK(w);
	for (int round = 0; round < 400; round++) {
		int n = round % 3 ? 1 : 4;

		/* Or the interrupt of each request could bring the next one before the worker has found the ring empty. */
		guest_wait_idle(&g);
		for (int i = 0; i < n; i++) {
			struct { uint32_t type, zero; uint64_t sector; } *head = guest_ptr(&g, AT_DATA + 0x1000 * i);

			head->type = 0;
			head->sector = i;
			*(uint8_t *)guest_ptr(&g, AT_DATA + 0x1000 * i + 0x800) = 0xee;
			guest_desc(&g, 3 * i, AT_DATA + 0x1000 * i, 16, D_NEXT, 3 * i + 1);
			guest_desc(&g, 3 * i + 1, AT_DATA + 0x1000 * i + 0x200, 512, D_NEXT | D_WRITE, 3 * i + 2);
			guest_desc(&g, 3 * i + 2, AT_DATA + 0x1000 * i + 0x800, 1, D_WRITE, 0);
			guest_offer(&g, 3 * i);
			guest_kick(&g);
		}
		for (int i = 0; i < n; i++)
			guest_take(&g, NULL);
		for (int i = 0; i < n; i++)
			CHECK_EQ(*(uint8_t *)guest_ptr(&g, AT_DATA + 0x1000 * i + 0x800), 0);
	}
	/* A request before it sleeps only ends that sleep, at once: it is counted a moment after the answer. */
	CHECK(condition_wait(was_woken, w));
	CHECK_EQ(worker_forbidden(w), -1);
	worker_free(w);
	blk_free(blk);
	CHECK(sched_setaffinity(0, sizeof(cpus), &cpus) == 0);
	close_guest();
}

#define T(name) { #name, name }
static const struct test tests[] = {
	T(devices_that_cannot_be_made), T(requests_of_a_share_fail), T(requests_of_a_share_with_handles_fail),
	T(requests_of_a_share_without_marks_fail), T(few_descriptors_and_handles), T(few_descriptors_and_marks),
	T(few_descriptors_and_names), T(a_limit_on_open_files), T(a_limit_on_nodes), T(many_nodes), T(programs_that_are_run_again),
	T(mounts_below_a_share), T(files_of_an_overlay), T(a_window_and_who_may_say_anything),
	T(output_that_waits_for_a_paused_guest), T(an_image_whose_disk_fails), T(frames_that_are_taken_in_pieces), T(one_processor),
	{ NULL, NULL },
};

int main(int argc, char **argv)
{
	return test_main(tests, argc, argv);
}
