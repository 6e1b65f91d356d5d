// SPDX-License-Identifier: Apache-2.0
/*
 * TCP between a sandbox and its host: `exchange serve PORT` answers in one of them, and in the other `exchange put|get
 * HOST PORT BYTES` moves a stream, `exchange connect HOST PORT COUNT` makes connections one after the other, each with
 * a byte there and back. These print nanoseconds.
 */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

struct request {
	char kind; /* p: it sends so many bytes; g: it wants so many; c: it wants one */
	uint64_t size;
} __attribute__((packed));

static char buffer[64 << 10];

static void need(int good, const char *what)
{
	if (good)
		return;
	perror(what);
	exit(1);
}

static uint64_t now(void)
{
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	return (uint64_t)at.tv_sec * 1000000000 + (uint64_t)at.tv_nsec;
}

static void receive(int fd, uint64_t size)
{
	while (size) {
		ssize_t part = read(fd, buffer, size < sizeof(buffer) ? size : sizeof(buffer));

		need(part > 0, "read");
		size -= (uint64_t)part;
	}
}

static void put(int fd, uint64_t size)
{
	while (size) {
		ssize_t part = write(fd, buffer, size < sizeof(buffer) ? size : sizeof(buffer));

		need(part > 0, "write");
		size -= (uint64_t)part;
	}
}

static void serve(const struct sockaddr_in *here)
{
	int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1;

	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	need(!bind(listener, (const struct sockaddr *)here, sizeof(*here)), "bind");
	need(!listen(listener, 64), "listen");
	puts("ready");
	fflush(stdout);
	for (;;) {
		int fd = accept(listener, NULL, NULL);
		struct request request;

		need(fd >= 0, "accept");
		need(read(fd, &request, sizeof(request)) == sizeof(request), "request");
		if (request.kind == 'p')
			receive(fd, request.size);
		put(fd, request.kind == 'g' ? request.size : 1);
		close(fd);
	}
}

static void ask(const struct sockaddr_in *there, char kind, uint64_t size)
{
	struct request request = { kind, size };
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	need(!connect(fd, (const struct sockaddr *)there, sizeof(*there)), "connect");
	need(write(fd, &request, sizeof(request)) == sizeof(request), "request");
	if (kind == 'p')
		put(fd, size);
	receive(fd, kind == 'g' ? size : 1);
	need(!read(fd, buffer, 1), "end");
	close(fd);
}

int main(int argc, char **argv)
{
	struct sockaddr_in address = { .sin_family = AF_INET };
	uint64_t begin, count;

	if (argc == 3 && !strcmp(argv[1], "serve")) {
		address.sin_port = htons((uint16_t)atoi(argv[2]));
		serve(&address);
	}
	if (argc != 5 || !inet_aton(argv[2], &address.sin_addr))
		return 2;
	address.sin_port = htons((uint16_t)atoi(argv[3]));
	count = strtoull(argv[4], NULL, 10);
	begin = now();
	if (*argv[1] == 'c')
		for (uint64_t i = 0; i < count; i++)
			ask(&address, 'c', 1);
	else
		ask(&address, *argv[1], count);
	printf("%llu\n", (unsigned long long)(now() - begin));
	return 0;
}
