// SPDX-License-Identifier: Apache-2.0
/*
 * Makes processes that become cores, with the same addresses.  This one runs no program, and never sees memory of one.
 *
 * A request is struct request and descriptors, its answer the number of the process or -errno.  That is a child of the
 * process that started this one, which waits for its end.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "device.h"
#include "image.h"

enum { STREAMS = 3, ALIVE = STREAMS, RAM, OUT, POINTS, FIRST_DEVICE, PER_DEVICE = DEVICE_QUEUES + 1, HIGH = 64 };
enum { MOST = FIRST_DEVICE + DEVICES * PER_DEVICE + 2 };
/* What a core continues, by one more descriptor; elsewhere: with devices that know nothing of its connections. */
enum continues { NOTHING, HERE, ELSEWHERE };

/*
 * Descriptors: standard streams; what tells the core to go on, and ends with the host; RAM; the image to save; a pipe for
 * points; of each device; the image to continue; RAM of the stopped core, of which this one has no copy (below.c).
 */
struct request {
	u32 devices; /* bits */
	u32 image; /* enum continues */
	u32 below; /* 0 or 1: whether there is that RAM */
};

/* How many descriptors came; -1: the socket was closed. */
static int receive(int sock, struct request *request, int *fds)
{
	union {
		struct cmsghdr header;
		u8 space[CMSG_SPACE(MOST * sizeof(int))];
	} control = { .space = { 0 } };
	struct iovec data = { request, sizeof(*request) };
	struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };
	ssize_t got;
	u64 size;

	do
		got = recvmsg(sock, &message, MSG_CMSG_CLOEXEC);
	while (got < 0 && errno == EINTR);
	if (got != sizeof(*request) || message.msg_flags & (MSG_TRUNC | MSG_CTRUNC))
		return -1;
	if (message.msg_controllen < sizeof(struct cmsghdr))
		return 0;
	size = control.header.cmsg_len - CMSG_LEN(0);
	memcpy(fds, CMSG_DATA(&control.header), size);
	return (int)(size / sizeof(int));
}

static int wanted(const struct request *request)
{
	return FIRST_DEVICE + __builtin_popcount(request->devices) * PER_DEVICE + (request->image ? 1 : 0) + (int)request->below;
}

/* Descriptors become 0, 1, 2, ..., and there are no others. */
static void place(int *fds, int count)
{
	for (int i = 0; i < count; i++) {
		fds[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, HIGH);
		if (fds[i] < 0)
			fail("too many descriptors");
	}
	for (int i = 0; i < count; i++)
		if (dup3(fds[i], i, i < STREAMS ? 0 : O_CLOEXEC) < 0)
			fail("too many descriptors");
	close_range((unsigned)count, ~0u, 0);
}

/* The signal that stops a core waits until that can. */
static void hold_signal(int how)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigprocmask(how, &set, NULL);
}

void nursery_wait(void)
{
	struct pollfd alive = { .fd = ALIVE };
	ssize_t got;
	u8 byte;

	do
		got = read(ALIVE, &byte, 1);
	while (got < 0 && errno == EINTR);
	if (got != 1)
		_exit(0);
	/* From now on, a signal ends the core with its host, whatever it is doing. */
	if (fcntl(ALIVE, F_SETOWN, getpid()) || fcntl(ALIVE, F_SETFL, O_ASYNC))
		fail("the end of the host cannot be watched");
	if (poll(&alive, 1, 0) > 0)
		_exit(0); /* it has ended before that */
	hold_signal(SIG_UNBLOCK);
}

static void set_devices(u32 devices)
{
	int at = FIRST_DEVICE;

	for (u32 i = 0; i < DEVICES; i++)
		if (devices & 1u << i) {
			served[i] = (struct served){ RAM, { at, at + 1 }, at + 2, { -1, -1 } };
			at += PER_DEVICE;
		}
}

static void *map_image(int fd, int prot)
{
	void *at = mmap(NULL, image_size(), prot, MAP_SHARED, fd, 0);

	if (at == MAP_FAILED)
		fail("no memory for a stopped program");
	return at;
}

static struct born begin(const struct request *request, int *fds, int count)
{
	struct born born = { .ram = RAM, .below = -1, .points = POINTS, .moved = request->image == ELSEWHERE };

	place(fds, count);
	set_devices(request->devices);
	if (born.moved)
		device_wake();
	if (ftruncate(OUT, (off_t)image_size()))
		fail("no memory for a stopped program");
	born.out = map_image(OUT, PROT_READ | PROT_WRITE);
	if (request->below)
		born.below = --count;
	born.in = request->image ? map_image(count - 1, PROT_READ) : NULL;
	return born;
}

struct born nursery_serve(int sock)
{
	struct request request;
	int fds[MOST + 1], count; /* control data is padded */
	s32 pid;

	hold_signal(SIG_BLOCK);
	for (;;) {
		count = receive(sock, &request, fds);
		if (count < 0)
			_exit(0);
		pid = -EINVAL;
		if (!(request.devices >> DEVICES) && request.image <= ELSEWHERE && request.below <= (request.image ? 1 : 0) &&
		    count == wanted(&request)) {
			pid = (s32)syscall(SYS_clone, CLONE_PARENT | SIGCHLD, NULL, NULL, NULL, NULL);
			if (!pid)
				return begin(&request, fds, count);
			pid = pid < 0 ? -errno : pid;
		}
		for (int i = 0; i < count; i++)
			close(fds[i]);
		if (send(sock, &pid, sizeof(pid), MSG_NOSIGNAL) != sizeof(pid))
			_exit(0);
	}
}
