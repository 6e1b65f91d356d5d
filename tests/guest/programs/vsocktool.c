// SPDX-License-Identifier: Apache-2.0
/*
 * Both ends of vsock connections, for tests and measurements; static, so that it runs in any guest.
 *
 *   vsocktool serve KIND PORT echo|sink|source    in the guest: one process per connection, for ever
 *   vsocktool cat KIND ADDRESS PORT               stdin to the peer, half-close, the peer to stdout
 *   vsocktool send|recv KIND ADDRESS PORT CONNECTIONS SIZE BYTES
 *                                                 each connection moves BYTES by writes and reads of SIZE
 *   vsocktool rtt KIND ADDRESS PORT SIZE COUNT    to an echo and back, one after the other
 *   vsocktool connects KIND ADDRESS PORT COUNT    connect, one byte each way, close, one after the other
 *
 * KIND is stream or seqpacket; ADDRESS a CID, or the path of a device's unix socket. The last three print nanoseconds.
 * "source" writes for as long as somebody reads; "sink" answers the end of its input with one byte.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

static char buf[1 << 20];

static void die(const char *what)
{
	fprintf(stderr, "vsocktool: %s: %s\n", what, strerror(errno));
	exit(1);
}

static int kind_of(const char *word)
{
	return !strcmp(word, "seqpacket") ? SOCK_SEQPACKET : SOCK_STREAM;
}

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void write_all(int fd, const char *data, size_t len)
{
	while (len) {
		ssize_t n = write(fd, data, len);

		if (n < 0)
			die("write");
		data += n;
		len -= (size_t)n;
	}
}

static void read_all(int fd, size_t len)
{
	while (len) {
		ssize_t n = read(fd, buf, len < sizeof(buf) ? len : sizeof(buf));

		if (n < 0)
			die("read");
		if (n == 0) {
			errno = ENODATA;
			die("read");
		}
		len -= (size_t)n;
	}
}

static int connect_unix(const char *path, int kind, unsigned int port)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	char line[64];
	int fd = socket(AF_UNIX, kind | SOCK_CLOEXEC, 0), len;

	snprintf(to.sun_path, sizeof(to.sun_path), "%s%s", path, kind == SOCK_SEQPACKET ? ".seqpacket" : "");
	if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0)
		die(path);
	len = snprintf(line, sizeof(line), "CONNECT %u\n", port);
	write_all(fd, line, (size_t)len);
	for (char c = 0; c != '\n' && kind == SOCK_STREAM;)
		if (read(fd, &c, 1) != 1) {
			errno = ECONNREFUSED;
			die(path);
		}
	if (kind == SOCK_SEQPACKET && read(fd, line, sizeof(line)) < 3) {
		errno = ECONNREFUSED;
		die(path);
	}
	return fd;
}

static int connect_to(const char *address, int kind, const char *port)
{
	struct sockaddr_vm to = { .svm_family = AF_VSOCK, .svm_port = (unsigned int)strtoul(port, NULL, 10) };
	char *end;
	int fd;

	to.svm_cid = (unsigned int)strtoul(address, &end, 10);
	if (*end)
		return connect_unix(address, kind, to.svm_port);
	fd = socket(AF_VSOCK, kind | SOCK_CLOEXEC, 0);
	if (fd < 0)
		die("socket");
	if (connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0)
		die("connect");
	return fd;
}

static void serve_one(int fd, const char *mode)
{
	ssize_t n;

	if (!strcmp(mode, "source")) {
		memset(buf, 's', sizeof(buf));
		while (send(fd, buf, 64 << 10, MSG_NOSIGNAL) > 0)
			;
		return;
	}
	while ((n = read(fd, buf, sizeof(buf))) > 0)
		if (!strcmp(mode, "echo"))
			write_all(fd, buf, (size_t)n);
	if (!strcmp(mode, "sink"))
		write_all(fd, "k", 1);
}

static void serve(int kind, const char *port, const char *mode)
{
	struct sockaddr_vm at = { .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY };
	int listener = socket(AF_VSOCK, kind | SOCK_CLOEXEC, 0);

	at.svm_port = (unsigned int)strtoul(port, NULL, 10);
	if (listener < 0 || bind(listener, (struct sockaddr *)&at, sizeof(at)) < 0 || listen(listener, 128) < 0)
		die("listen");
	signal(SIGCHLD, SIG_IGN);
	puts("listening");
	fflush(stdout);
	for (;;) {
		int fd = accept(listener, NULL, NULL);

		if (fd < 0)
			die("accept");
		if (fork() == 0) {
			close(listener);
			serve_one(fd, mode);
			_exit(0);
		}
		close(fd);
	}
}

static void cat(int fd)
{
	ssize_t n;

	while ((n = read(0, buf, sizeof(buf))) > 0)
		write_all(fd, buf, (size_t)n);
	shutdown(fd, SHUT_WR);
	while ((n = read(fd, buf, sizeof(buf))) > 0)
		write_all(1, buf, (size_t)n);
	if (n < 0)
		die("read");
}

static void move(bool sending, int fd, size_t size, uint64_t bytes)
{
	if (!sending) {
		read_all(fd, bytes);
		return;
	}
	for (uint64_t done = 0; done < bytes; done += size)
		write_all(fd, buf, size < bytes - done ? size : bytes - done);
	shutdown(fd, SHUT_WR);
	/* The sink says that all of it has arrived. */
	read_all(fd, 1);
}

static void throughput(bool sending, int kind, char **argv)
{
	int n = atoi(argv[2]), fd[64], status, failed = 0;
	uint64_t start;

	if (n > 64)
		n = 64;
	for (int i = 0; i < n; i++)
		fd[i] = connect_to(argv[0], kind, argv[1]);
	start = now_ns();
	for (int i = 0; i < n; i++)
		if (fork() == 0) {
			move(sending, fd[i], strtoul(argv[3], NULL, 10), strtoull(argv[4], NULL, 10));
			_exit(0);
		}
	while (wait(&status) > 0)
		failed |= status;
	if (failed) {
		errno = EIO;
		die("a connection");
	}
	printf("%llu\n", (unsigned long long)(now_ns() - start));
}

static void round_trips(int fd, size_t size, int count)
{
	uint64_t start = now_ns();

	for (int i = 0; i < count; i++) {
		write_all(fd, buf, size);
		read_all(fd, size);
	}
	printf("%llu\n", (unsigned long long)(now_ns() - start));
}

static void connects(const char *address, int kind, const char *port, int count)
{
	uint64_t start = now_ns();

	for (int i = 0; i < count; i++) {
		int fd = connect_to(address, kind, port);

		write_all(fd, "c", 1);
		read_all(fd, 1);
		close(fd);
	}
	printf("%llu\n", (unsigned long long)(now_ns() - start));
}

int main(int argc, char **argv)
{
	const char *verb = argc > 4 ? argv[1] : "";
	int kind = argc > 4 ? kind_of(argv[2]) : 0;

	signal(SIGPIPE, SIG_IGN);
	if (!strcmp(verb, "serve"))
		serve(kind, argv[3], argv[4]);
	else if (!strcmp(verb, "cat"))
		cat(connect_to(argv[3], kind, argv[4]));
	else if (argc == 8 && (!strcmp(verb, "send") || !strcmp(verb, "recv")))
		throughput(!strcmp(verb, "send"), kind, argv + 3);
	else if (argc == 7 && !strcmp(verb, "rtt"))
		round_trips(connect_to(argv[3], kind, argv[4]), strtoul(argv[5], NULL, 10), atoi(argv[6]));
	else if (argc == 6 && !strcmp(verb, "connects"))
		connects(argv[3], kind, argv[4], atoi(argv[5]));
	else {
		fputs("usage: see the head of vsocktool.c\n", stderr);
		return 2;
	}
	return 0;
}
