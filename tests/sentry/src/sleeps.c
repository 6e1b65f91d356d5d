// SPDX-License-Identifier: Apache-2.0
/*
 * Threads whose buffers are pages of a file that nobody has read: each copy by a system call sleeps on a page fault,
 * and another thread makes the same call meanwhile. Prints totals, the same natively and on the Sentry.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

enum { THREADS = 4, STRIDE = 64 * 4096, COPIES = 4000, FILES = 300, PACKETS = 100 };

static char *pages;
static long next_page, total, ends;
static int fd;

/* A buffer whose page is not present. */
static char *fresh(void)
{
	return pages + __atomic_fetch_add(&next_page, 1, __ATOMIC_RELAXED) % COPIES * STRIDE;
}

static void add(long *to, long value)
{
	__atomic_fetch_add(to, value, __ATOMIC_RELAXED);
}

static void start(pthread_t *threads, void *(*function)(void *))
{
	static char names[THREADS][8];

	total = ends = 0;
	for (int i = 0; i < THREADS; i++) {
		snprintf(names[i], sizeof(names[i]), "s%d", i);
		pthread_create(&threads[i], NULL, function, names[i]);
	}
}

static void finish(pthread_t *threads, const char *what)
{
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	printf("%s: %ld, %ld ends\n", what, total, ends);
}

static void *read_entries(void *unused)
{
	char *buffer;
	long size;

	while ((size = syscall(SYS_getdents64, fd, buffer = fresh(), 300)) > 0)
		for (long at = 0; at < size; at += *(uint16_t *)(buffer + at + 16))
			add(&total, 1);
	add(&ends, size == 0);
	return unused;
}

static void *read_pipe(void *unused)
{
	long size;

	while ((size = read(fd, fresh(), 37)) > 0)
		add(&total, size);
	add(&ends, size == 0);
	return unused;
}

static void *read_packets(void *unused)
{
	char *buffer;

	while (recv(fd, buffer = fresh(), 100, MSG_DONTWAIT) > 0)
		add(&total, buffer[0]);
	return unused;
}

/* Exactly one of the threads gives the socket a name. */
static void *bind_socket(void *number)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	snprintf(address.sun_path, sizeof(address.sun_path), "socket-%d-%s", fd, (char *)number);
	add(&total, !bind(fd, (void *)&address, sizeof(address)));
	return NULL;
}

static void try_names(void)
{
	int sockets[20], found = 0;
	pthread_t threads[THREADS];

	for (int i = 0; i < 20; i++) {
		char what[20];

		fd = sockets[i] = socket(AF_UNIX, SOCK_DGRAM, 0);
		snprintf(what, sizeof(what), "name %d", i);
		start(threads, bind_socket);
		finish(threads, what);
	}
	for (int i = 0; i < 20; i++) {
		struct sockaddr_un address;
		socklen_t size = sizeof(address);

		getsockname(sockets[i], (void *)&address, &size);
		found += sendto(sockets[0], "x", 1, MSG_DONTWAIT, (void *)&address, size) == 1;
	}
	for (int i = 0; i < 20; i++)
		close(sockets[i]);
	printf("found by name: %d\n", found);
}

static void *receive_all(void *unused)
{
	while (recv(fd, fresh(), 1000, MSG_DONTWAIT) > 0)
		;
	add(&ends, 1);
	return unused;
}

/* A connection ends while threads copy its data. */
static void try_disconnect(void)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct sockaddr none = { .sa_family = AF_UNSPEC };
	int listener = socket(AF_INET, SOCK_STREAM, 0), other;
	static char data[100000];
	socklen_t size = sizeof(address);
	pthread_t threads[THREADS];

	bind(listener, (void *)&address, sizeof(address)), listen(listener, 5);
	getsockname(listener, (void *)&address, &size);
	for (int i = 0; i < 20; i++) {
		fd = socket(AF_INET, SOCK_STREAM, 0);
		connect(fd, (void *)&address, sizeof(address));
		other = accept(listener, NULL, NULL);
		send(other, data, sizeof(data), 0);
		recv(fd, data, 1, 0);
		start(threads, receive_all);
		sched_yield();
		connect(fd, &none, sizeof(none));
		finish(threads, "disconnected");
		close(fd), close(other);
	}
	close(listener);
}

static void *read_events(void *unused)
{
	char *buffer;
	long size;

	while ((size = read(fd, buffer = fresh(), 64)) > 0)
		for (long at = 0; at < size; at += sizeof(struct inotify_event) + ((struct inotify_event *)(buffer + at))->len)
			add(&total, 1);
	return unused;
}

static void *wait_for_events(void *unused)
{
	int count;

	while ((count = epoll_wait(fd, (struct epoll_event *)fresh(), 3, 0)) > 0)
		add(&total, count);
	return unused;
}

static void *read_file(void *unused)
{
	for (int i = 0; i < 100; i++) {
		char *buffer = fresh();
		long size = pread(fd, buffer, 4000, 0);

		for (long at = 0; at < size; at++)
			add(&total, buffer[at] && buffer[at] != 'x');
	}
	return unused;
}

static void *write_pages(void *name)
{
	int file = open(name, O_RDWR | O_CREAT, 0600);
	char *shared;

	ftruncate(file, 4096);
	shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	for (int i = 0; i < 20; i++) {
		shared[i]++;
		sync();
		add(&total, shared[i]);
	}
	munmap(shared, 4096);
	close(file);
	return NULL;
}

static void run(void *(*function)(void *), const char *what)
{
	pthread_t threads[THREADS];

	start(threads, function);
	finish(threads, what);
}

int main(int argc, char **argv)
{
	pthread_t threads[THREADS];
	struct epoll_event event = { .events = EPOLLIN | EPOLLONESHOT };
	int ends_of[2], watches = inotify_init1(IN_NONBLOCK), file;
	char name[32];

	if (argc != 2 || mkdir(argv[1], 0755) || chdir(argv[1]) || mkdir("many", 0755))
		return 1;
	file = open("pages", O_RDWR | O_CREAT, 0600);
	if (ftruncate(file, (off_t)COPIES * STRIDE))
		return 2;
	pages = mmap(NULL, (size_t)COPIES * STRIDE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, file, 0);
	if (pages == MAP_FAILED)
		return 3;
	inotify_add_watch(watches, "many", IN_CREATE);
	for (int i = 0; i < FILES; i++) {
		snprintf(name, sizeof(name), "many/%d", i);
		close(open(name, O_WRONLY | O_CREAT, 0600));
	}
	fd = open("many", O_RDONLY);
	run(read_entries, "entries");
	fd = watches;
	run(read_events, "events");
	pipe(ends_of);
	fd = ends_of[0];
	start(threads, read_pipe);
	for (int i = 0; i < 200; i++) {
		fcntl(fd, F_SETPIPE_SZ, i % 2 ? 65536 : 131072);
		write(ends_of[1], pages, 100);
	}
	close(ends_of[1]);
	finish(threads, "pipe");
	socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends_of);
	fd = ends_of[0];
	for (int i = 0; i < PACKETS; i++)
		send(ends_of[1], memset(name, i % 100 + 1, sizeof(name)), sizeof(name), 0);
	run(read_packets, "packets");
	try_names();
	try_disconnect();
	fd = epoll_create1(0);
	for (int i = 0; i < PACKETS; i++)
		epoll_ctl(fd, EPOLL_CTL_ADD, eventfd(1, 0), &event);
	run(wait_for_events, "ready");
	fd = memfd_create("content", 0);
	start(threads, read_file);
	for (int i = 0; i < 1000; i++) {
		ftruncate(fd, 0);
		pwrite(fd, memset(alloca(4000), 'x', 4000), 4000, 0);
	}
	finish(threads, "others");
	run(write_pages, "syncs");
	return 42;
}
