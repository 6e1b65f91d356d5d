// SPDX-License-Identifier: Apache-2.0
/* Counters, timers and epoll in one process: prints what each call returns. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <time.h>

#include "report.h"

static uint64_t value;

static void put(int fd, uint64_t number)
{
	long result = write(fd, &number, 8);

	printf("    put %lx: %s\n", (long)number, result < 0 ? strerrorname_np(errno) : "done");
}

static void try_eventfd(void)
{
	int fd = TRY(eventfd2, 3, EFD_NONBLOCK), semaphore = TRY(eventfd2, 2, EFD_SEMAPHORE | EFD_NONBLOCK);

	TRY(eventfd2, 0, 0x40);
	TRY(eventfd, 7);
	READY(fd);
	TRY(read, fd, &value, 4);
	TRY(read, fd, BAD, 8);
	put(fd, 5);
	TRY(read, fd, &value, 100);
	printf("    %lu\n", (long)value);
	TRY(read, fd, &value, 8);
	READY(fd);
	put(fd, ~0ull);
	put(fd, ~0ull - 1);
	READY(fd);
	put(fd, 1);
	put(fd, 0);
	TRY(write, fd, &value, 7);
	TRY(write, fd, BAD, 8);
	for (int i = 0; i < 3; i++) {
		TRY(read, semaphore, &value, 8);
		printf("    %lu\n", (long)value);
	}
	close(fd), close(semaphore), close(5);
}

static void try_timerfd(void)
{
	struct itimerspec soon = { { 0, 0 }, { 0, 20000000 } }, every = { { 0, 10000000 }, { 0, 1 } }, stop = { 0 }, now;
	struct itimerspec wrong = { { 0, 0 }, { 0, 1000000000 } }, past = { { 0, 0 }, { 1, 0 } };
	int fd = TRY(timerfd_create, CLOCK_MONOTONIC, TFD_NONBLOCK), real = TRY(timerfd_create, CLOCK_REALTIME, 0);

	TRY(timerfd_create, 2, 0);
	TRY(timerfd_create, CLOCK_MONOTONIC, 3);
	TRY(timerfd_settime, fd, 0, &wrong, NULL);
	TRY(timerfd_settime, fd, 8, &soon, NULL);
	TRY(timerfd_settime, fd, 0, BAD, NULL);
	TRY(timerfd_settime, 1, 0, &soon, NULL);
	TRY(timerfd_settime, 99, 0, &soon, NULL);
	TRY(timerfd_gettime, 1, &now);
	TRY(timerfd_gettime, fd, BAD);
	TRY(timerfd_gettime, fd, &now);
	printf("    %ld %ld\n", now.it_value.tv_sec, now.it_value.tv_nsec);
	TRY(read, fd, &value, 8);
	READY(fd);
	TRY(timerfd_settime, fd, 0, &soon, &now);
	TRY(timerfd_gettime, fd, &now);
	printf("    %d\n", now.it_value.tv_nsec > 0 && now.it_value.tv_nsec <= 20000000);
	poll(&(struct pollfd){ fd, POLLIN, 0 }, 1, -1);
	READY(fd);
	TRY(read, fd, &value, 4);
	TRY(read, fd, &value, 8);
	printf("    %lu\n", (long)value);
	TRY(read, fd, &value, 8);
	TRY(write, fd, &value, 8);
	TRY(timerfd_settime, fd, 0, &every, NULL);
	for (int i = 0; i < 3; i++) {
		poll(&(struct pollfd){ fd, POLLIN, 0 }, 1, -1);
		printf("    %d\n", read(fd, &value, 8) == 8 && value >= 1);
	}
	TRY(timerfd_settime, fd, 0, &stop, &now);
	printf("    %ld %ld\n", now.it_interval.tv_sec, now.it_interval.tv_nsec);
	TRY(timerfd_gettime, fd, &now);
	printf("    %ld %ld\n", now.it_value.tv_sec, now.it_value.tv_nsec);
	TRY(timerfd_settime, real, TFD_TIMER_ABSTIME, &past, NULL);
	TRY(read, real, &value, 8);
	printf("    %lu\n", (long)value);
	close(fd), close(real);
}

static int by_data(const void *a, const void *b)
{
	const struct epoll_event *first = a, *second = b;

	return first->data.u64 < second->data.u64 ? -1 : 1;
}

static void wait_events(int line, int set, int most)
{
	struct epoll_event events[8];
	int count = epoll_wait(set, events, most, 0);

	printf("%d    epoll: %d", line, count);
	qsort(events, count > 0 ? count : 0, sizeof(*events), by_data);
	for (int i = 0; i < count; i++)
		printf(" %lx:%x", (long)events[i].data.u64, events[i].events);
	puts(count < 0 ? strerrorname_np(errno) : "");
}

#define WAIT(set, most) wait_events(__LINE__, set, most)

static int control(int line, int set, int operation, int fd, uint32_t events)
{
	struct epoll_event event = { events, { .u64 = 0x100000000 + fd } };
	int result = epoll_ctl(set, operation, fd, &event);

	printf("%d    control %d of %d: %s\n", line, operation, fd, result ? strerrorname_np(errno) : "0");
	return result;
}

#define CONTROL(...) control(__LINE__, __VA_ARGS__)

static void try_epoll(void)
{
	int set = TRY(epoll_create1, EPOLL_CLOEXEC), p[2], q[2], other, copy;
	struct epoll_event event = { EPOLLIN, { .u64 = 1 } };
	struct timespec none = { 0, 0 }, wrong = { -1, 0 };

	pipe(p), pipe(q);
	TRY(epoll_create1, 5);
	TRY(epoll_create, 0);
	TRY(epoll_ctl, set, EPOLL_CTL_ADD, p[0], BAD);
	TRY(epoll_ctl, 99, EPOLL_CTL_ADD, p[0], &event);
	TRY(epoll_ctl, set, EPOLL_CTL_ADD, 99, &event);
	TRY(epoll_ctl, set, EPOLL_CTL_ADD, set, &event);
	TRY(epoll_ctl, p[0], EPOLL_CTL_ADD, q[0], &event);
	TRY(epoll_ctl, set, 9, p[0], &event);
	TRY(epoll_ctl, set, EPOLL_CTL_MOD, p[0], &event);
	TRY(epoll_ctl, set, EPOLL_CTL_DEL, p[0], NULL);
	TRY(epoll_ctl, set, EPOLL_CTL_ADD, open(".", O_RDONLY), &event);
	TRY(epoll_wait, set, BAD, 1, 0);
	TRY(epoll_wait, set, &event, 0, 0);
	TRY(epoll_wait, p[0], &event, 1, 0);
	TRY(epoll_wait, 99, &event, 1, 0);
	TRY(epoll_pwait2, set, &event, 1, &none, NULL, 8);
	TRY(epoll_pwait2, set, &event, 1, &wrong, NULL, 8);
	TRY(epoll_pwait, set, &event, 1, 0, &event, 4);
	CONTROL(set, EPOLL_CTL_ADD, p[0], EPOLLIN);
	CONTROL(set, EPOLL_CTL_ADD, p[0], EPOLLIN);
	CONTROL(set, EPOLL_CTL_ADD, p[1], EPOLLOUT);
	WAIT(set, 8), WAIT(set, 8);
	write(p[1], "x", 1);
	WAIT(set, 8), WAIT(set, 1), WAIT(set, 1), WAIT(set, 1);
	CONTROL(set, EPOLL_CTL_MOD, p[1], EPOLLOUT | EPOLLET);
	CONTROL(set, EPOLL_CTL_MOD, p[0], EPOLLIN | EPOLLET);
	WAIT(set, 8), WAIT(set, 8);
	write(p[1], "y", 1);
	WAIT(set, 8), WAIT(set, 8);
	read(p[0], &value, 1);
	WAIT(set, 8);
	CONTROL(set, EPOLL_CTL_MOD, p[0], EPOLLIN | EPOLLONESHOT);
	WAIT(set, 8);
	write(p[1], "z", 1);
	WAIT(set, 8);
	CONTROL(set, EPOLL_CTL_MOD, p[0], EPOLLIN | EPOLLONESHOT);
	CONTROL(set, EPOLL_CTL_DEL, p[1], 0);
	WAIT(set, 8), WAIT(set, 8);
	CONTROL(set, EPOLL_CTL_ADD, q[0], EPOLLIN | EPOLLEXCLUSIVE);
	CONTROL(set, EPOLL_CTL_MOD, q[0], EPOLLIN);
	CONTROL(set, EPOLL_CTL_ADD, q[1], EPOLLOUT | EPOLLEXCLUSIVE | EPOLLONESHOT);
	write(q[1], "x", 1);
	WAIT(set, 8);
	other = epoll_create1(0);
	CONTROL(other, EPOLL_CTL_ADD, set, EPOLLIN);
	CONTROL(set, EPOLL_CTL_ADD, other, EPOLLIN);
	READY(set), READY(other);
	WAIT(other, 8);
	read(q[0], &value, 8);
	READY(set), READY(other);
	WAIT(other, 8);
	copy = dup(q[0]);
	CONTROL(set, EPOLL_CTL_ADD, copy, EPOLLIN);
	close(q[0]);
	write(q[1], "x", 1);
	WAIT(set, 8);
	close(copy);
	WAIT(set, 8);
	close(p[1]);
	CONTROL(set, EPOLL_CTL_MOD, p[0], 0);
	WAIT(set, 8);
	TRY(read, set, &value, 8);
	TRY(lseek, set, 0, SEEK_SET);
	for (int fd = 3; fd < 16; fd++)
		close(fd);
}

/* Nested epoll sets, from the outermost. */
static void try_nested_sets(void)
{
	struct epoll_event event = { .events = EPOLLIN };
	int sets[10], count = 1, ready;

	sets[0] = epoll_create1(0);
	for (int error = 0; !error && count < 10; count++) {
		sets[count] = epoll_create1(0);
		error = TRY(epoll_ctl, sets[count - 1], EPOLL_CTL_ADD, sets[count], &event);
	}
	ready = eventfd(1, 0);
	TRY(epoll_ctl, sets[count - 2], EPOLL_CTL_ADD, ready, &event);
	TRY(epoll_wait, sets[0], &event, 1, 0);
	while (count)
		close(sets[--count]);
	close(ready);
}

/* Who reads a socket makes room for the other end, which is no event of its own. */
static void try_edges_of_sockets(void)
{
	int set = epoll_create1(0), pair[2];

	CALL(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
	CONTROL(set, EPOLL_CTL_ADD, pair[0], EPOLLIN | EPOLLOUT | EPOLLET);
	WAIT(set, 8), WAIT(set, 8);
	CALL(write(pair[1], "ab", 2));
	WAIT(set, 8), WAIT(set, 8);
	CALL(read(pair[0], &value, 1));
	WAIT(set, 8);
	CALL(read(pair[0], &value, 1));
	WAIT(set, 8);
	close(pair[1]);
	WAIT(set, 8), WAIT(set, 8);
	close(pair[0]), close(set);
}

/* Each vector is a write of its own; nothing is spliced to such a file. */
static void try_vectors_of_eventfd(void)
{
	uint64_t values[] = { 1, 2 }, most = -2ull;
	struct iovec both[] = { { &values[0], 8 }, { &values[1], 8 } }, half[] = { { &values[0], 8 }, { &values[1], 4 } };
	struct iovec none[] = { { values, 0 }, { values, 8 } }, bad[] = { { values, 8 }, { BAD, 8 } };
	int fd = eventfd(0, EFD_NONBLOCK), timer = timerfd_create(CLOCK_MONOTONIC, 0), data = memfd_create("data", 0);

	TRY(writev, fd, both, 2);
	TRY(read, fd, values, 8);
	printf("    %ld\n", (long)values[0]);
	TRY(writev, fd, half, 2);
	TRY(writev, fd, none, 2);
	TRY(writev, fd, none, 1);
	TRY(writev, fd, bad, 2);
	TRY(pwritev2, fd, both, 2, -1l, 0, 0);
	TRY(write, fd, &most, 8);
	TRY(sendfile, timer, data, NULL, 100);
	(void)!write(data, "12345678", 8);
	TRY(sendfile, timer, data, NULL, 100);
	lseek(data, 0, SEEK_SET);
	TRY(sendfile, timer, data, NULL, 100);
	TRY(sendfile, fd, data, NULL, 8);
	printf("    at %ld\n", (long)lseek(data, 0, SEEK_CUR));
	TRY(sendfile, timer, data, NULL, 0);
	close(fd), close(timer), close(data);
}

int main(int argc, char **argv)
{
	if (enter_folder(argc, argv))
		return 1;
	try_eventfd();
	try_vectors_of_eventfd();
	try_timerfd();
	try_epoll();
	try_nested_sets();
	try_edges_of_sockets();
	return 42;
}
