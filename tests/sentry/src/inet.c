// SPDX-License-Identifier: Apache-2.0
/* Sockets of the families AF_INET and AF_INET6 in one process, over loopback: prints what each call returns. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>

#include "report.h"
#include "socket_options.h"

static char buffer[1 << 20];

static struct sockaddr_in at(const char *address, int port)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons((unsigned short)port) };

	inet_pton(AF_INET, address, &to.sin_addr);
	return to;
}

static struct sockaddr_in6 at6(const char *address, int port)
{
	struct sockaddr_in6 to = { .sin6_family = AF_INET6, .sin6_port = htons((unsigned short)port) };

	inet_pton(AF_INET6, address, &to.sin6_addr);
	return to;
}

static int port_of(int fd)
{
	struct sockaddr_in6 address;
	socklen_t size = sizeof(address);

	memset(&address, 0, sizeof(address));
	getsockname(fd, (void *)&address, &size);
	return ntohs(address.sin6_port);
}

/* An address, and whether it has a port: its number is random. */
static void show_name(int line, int fd, int (*get)(int, struct sockaddr *, socklen_t *))
{
	struct sockaddr_in6 address;
	char text[64] = "";
	socklen_t size = sizeof(address);

	memset(&address, 0, sizeof(address));
	if (get(fd, (void *)&address, &size)) {
		printf("%d    no name: %s\n", line, strerrorname_np(errno));
		return;
	}
	inet_ntop(address.sin6_family, address.sin6_family == AF_INET ? (void *)&((struct sockaddr_in *)&address)->sin_addr
								       : (void *)&address.sin6_addr, text, sizeof(text));
	printf("%d    name %d %u %s %s\n", line, address.sin6_family, size, text, address.sin6_port ? "with a port" : "no port");
}

#define NAMES(fd) (show_name(__LINE__, fd, getsockname), show_name(__LINE__, fd, getpeername))
#define BIND(fd, ...) CALL(bind(fd, (struct sockaddr *)(__typeof__(__VA_ARGS__)[]){ __VA_ARGS__ }, sizeof(__VA_ARGS__)))
#define CONNECT(fd, ...) CALL(connect(fd, (struct sockaddr *)(__typeof__(__VA_ARGS__)[]){ __VA_ARGS__ }, sizeof(__VA_ARGS__)))

static int tcp(int flags)
{
	return socket(AF_INET, SOCK_STREAM | flags, 0);
}

static int listener(struct sockaddr_in *address)
{
	int fd = tcp(0);
	socklen_t size = sizeof(*address);

	*address = at("127.0.0.1", 0);
	if (bind(fd, (void *)address, size) || listen(fd, 5) || getsockname(fd, (void *)address, &size))
		printf("no listener: %s\n", strerrorname_np(errno));
	return fd;
}

/* Both ends of a connection. */
static void pair(int ends[2])
{
	struct sockaddr_in address;
	int fd = listener(&address);

	ends[0] = tcp(0);
	if (connect(ends[0], (void *)&address, sizeof(address)))
		printf("no connection: %s\n", strerrorname_np(errno));
	ends[1] = accept(fd, NULL, NULL);
	close(fd);
}

static void close_both(int ends[2])
{
	close(ends[0]);
	close(ends[1]);
}

static void try_create(void)
{
	TRY(socket, AF_INET, SOCK_STREAM, 17);
	TRY(socket, AF_INET, SOCK_DGRAM, 6);
	TRY(socket, AF_INET, SOCK_SEQPACKET, 0);
	TRY(socket, AF_INET, 9, 0);
	TRY(socket, AF_INET, SOCK_STREAM, -1);
	TRY(socket, AF_INET, SOCK_STREAM, 300);
	TRY(socketpair, AF_INET, SOCK_STREAM, 0, (int[2]){ 0, 0 });
	for (int type = SOCK_STREAM; type <= SOCK_DGRAM; type++) {
		int fd = socket(AF_INET, type, 0), fd6 = socket(AF_INET6, type, 0);

		READY(fd);
		NAMES(fd);
		NAMES(fd6);
		OPTION(fd, SOL_SOCKET, SO_PROTOCOL);
		OPTION(fd6, SOL_SOCKET, SO_DOMAIN);
		TRY(read, fd, buffer, type == SOCK_DGRAM ? 0 : 10);
		TRY(recvfrom, fd, buffer, 10, MSG_DONTWAIT, NULL, NULL);
		TRY(sendto, fd, "x", 1, MSG_NOSIGNAL, NULL, 0);
		TRY(shutdown, fd, 2);
		TRY(listen, fd6, 1);
		TRY(accept, fd, NULL, NULL);
		close(fd);
		close(fd6);
	}
}

static void try_bind(void)
{
	struct sockaddr_in any = at("0.0.0.0", 0), same;
	struct sockaddr_in6 any6 = at6("::", 0);
	int a = tcp(0), b = tcp(0), c = socket(AF_INET6, SOCK_STREAM, 0), port;

	BIND(a, at("8.8.8.8", 0));
	CALL(bind(a, (void *)&any, 8));
	CALL(bind(a, (void *)&any6, sizeof(any6)));
	any.sin_family = AF_UNSPEC;
	CALL(bind(a, (void *)&any, sizeof(any)));
	NAMES(a);
	CALL(bind(a, (void *)&any, sizeof(any)));
	port = port_of(a);
	same = at("127.0.0.1", port);
	BIND(b, same);
	BIND(c, at6("::", port));
	SET(c, IPPROTO_IPV6, IPV6_V6ONLY, 1);
	BIND(c, at6("::", port));
	SET(c, IPPROTO_IPV6, IPV6_V6ONLY, 0);
	SET(a, SOL_SOCKET, SO_REUSEADDR, 1);
	BIND(b, same);
	SET(b, SOL_SOCKET, SO_REUSEADDR, 1);
	BIND(b, same);
	CALL(listen(a, 1));
	CALL(listen(b, 1));
	NAMES(b);
	READY(a);
	close(a);
	close(b);
	close(c);
	a = tcp(0);
	BIND(a, at("127.0.0.1", port));
	CALL(listen(a, 1));
	b = tcp(0);
	SET(b, SOL_SOCKET, SO_REUSEADDR, 1);
	BIND(b, at("127.0.0.1", port));
	BIND(b, at("127.0.0.2", port));
	c = socket(AF_INET6, SOCK_STREAM, 0);
	BIND(c, at6("::1", port));
	close(a);
	close(b);
	close(c);
	a = tcp(0);
	CALL(listen(a, 1));
	NAMES(a);
	close(a);
}

static void try_connect(void)
{
	struct sockaddr_in address, none;
	int server = listener(&address), a = tcp(0), b = tcp(SOCK_NONBLOCK), c;
	socklen_t size = sizeof(none);

	CALL(connect(a, (void *)&address, 8));
	CALL(connect(a, (void *)&address, 1));
	CONNECT(a, at6("::1", 7));
	CONNECT(a, address);
	CONNECT(a, address);
	NAMES(a);
	READY(a);
	READY(server);
	CONNECT(b, address);
	READY(b);
	OPTION(b, SOL_SOCKET, SO_ERROR);
	CONNECT(b, address);
	CONNECT(b, address);
	c = accept4(server, (void *)&none, &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
	printf("    accepted %d %d %u %d\n", c > 0, none.sin_family, size, none.sin_port == htons((unsigned short)port_of(a)));
	CALL(fcntl(c, F_GETFL));
	CALL(fcntl(c, F_GETFD));
	NAMES(c);
	TRY(read, c, buffer, 10);
	TRY(accept4, c, NULL, NULL, 0);
	TRY(accept4, server, NULL, NULL, 1);
	close(c);
	c = accept(server, BAD, &size);
	printf("    %s\n", c < 0 ? strerrorname_np(errno) : "accepted");
	TRY(read, server, buffer, 1);
	TRY(write, server, buffer, 0);
	CONNECT(server, address);
	close(a);
	close(b);
	fcntl(server, F_SETFL, O_NONBLOCK);
	TRY(accept, server, NULL, NULL);
	close(server);
	a = tcp(0);
	CONNECT(a, address);
	READY(a);
	CONNECT(a, address);
	OPTION(a, SOL_SOCKET, SO_ERROR);
	close(a);
	b = tcp(SOCK_NONBLOCK);
	CONNECT(b, address);
	READY(b);
	OPTION(b, SOL_SOCKET, SO_ERROR);
	OPTION(b, SOL_SOCKET, SO_ERROR);
	CONNECT(b, address);
	CONNECT(b, address);
	CONNECT(b, address);
	READY(b);
	close(b);
	a = tcp(0);
	CONNECT(a, at("8.8.8.8", 7)); /* this network has no route to it */
	CONNECT(a, at("0.0.0.0", ntohs(address.sin_port)));
	close(a);
}

static void try_data(void)
{
	struct timeval little = { 0, 20000 };
	int e[2], value;

	pair(e);
	TRY(write, e[0], "hello world", 11);
	READY(e[1]);
	TRY(ioctl, e[1], FIONREAD, &value);
	printf("    %d\n", value);
	TRY(recvfrom, e[1], buffer, 5, MSG_PEEK, NULL, NULL);
	TRY(recvfrom, e[1], buffer, 5, MSG_TRUNC, NULL, NULL);
	TRY(recvfrom, e[1], buffer, 3, 0, NULL, NULL);
	printf("    %.3s\n", buffer);
	TRY(recvfrom, e[1], BAD, 3, 0, NULL, NULL);
	TRY(recvfrom, e[1], buffer, 100, MSG_DONTWAIT | MSG_WAITALL, NULL, NULL);
	printf("    %.3s\n", buffer);
	TRY(recvfrom, e[1], buffer, 100, MSG_DONTWAIT, NULL, NULL);
	TRY(recvfrom, e[1], buffer, 100, MSG_OOB, NULL, NULL);
	TRY(sendto, e[0], BAD, 100, 0, NULL, 0);
	TRY(sendto, e[0], "x", 1, 0, &(struct sockaddr_in){ AF_INET, 7, { 0 }, { 0 } }, sizeof(struct sockaddr_in));
	TRY(read, e[1], buffer, 100);
	setsockopt(e[1], SOL_SOCKET, SO_RCVTIMEO, &little, sizeof(little));
	TRY(read, e[1], buffer, 100);
	TRY(write, e[0], "", 0);
	TRY(ioctl, e[1], FIONREAD, &value);
	printf("    %d\n", value);
	fcntl(e[0], F_SETFL, O_NONBLOCK);
	for (value = 0; write(e[0], buffer, sizeof(buffer)) > 0;)
		value = 1;
	printf("    filled %d: %s\n", value, strerrorname_np(errno));
	READY(e[0]);
	TRY(sendto, e[0], "x", 1, 0, NULL, 0);
	for (value = 0; read(e[1], buffer, sizeof(buffer)) > 0;)
		value = 1;
	READY(e[0]);
	READY(e[1]);
	close_both(e);
}

static void try_ends(void)
{
	struct linger at_once = { 1, 0 };
	int e[2];

	pair(e);
	TRY(shutdown, e[0], 3);
	TRY(write, e[0], "abc", 3);
	TRY(shutdown, e[0], SHUT_WR);
	TRY(sendto, e[0], "x", 1, MSG_NOSIGNAL, NULL, 0);
	READY(e[0]);
	READY(e[1]);
	TRY(read, e[1], buffer, 100);
	TRY(read, e[1], buffer, 100);
	TRY(write, e[1], "defg", 4);
	TRY(read, e[0], buffer, 100);
	TRY(shutdown, e[1], SHUT_RDWR);
	READY(e[0]);
	READY(e[1]);
	TRY(read, e[0], buffer, 100);
	NAMES(e[0]);
	TRY(shutdown, e[0], SHUT_RDWR);
	close_both(e);

	pair(e);
	TRY(shutdown, e[0], SHUT_RD);
	READY(e[0]);
	TRY(read, e[0], buffer, 100);
	TRY(write, e[1], "late", 4);
	TRY(read, e[0], buffer, 100);
	close_both(e);

	pair(e);
	TRY(write, e[0], "abc", 3);
	close(e[1]); /* with bytes that nobody has read */
	READY(e[0]);
	OPTION(e[0], SOL_SOCKET, SO_ERROR);
	TRY(read, e[0], buffer, 100);
	TRY(sendto, e[0], "x", 1, MSG_NOSIGNAL, NULL, 0);
	close(e[0]);

	pair(e);
	close(e[1]);
	READY(e[0]);
	TRY(write, e[0], "abc", 3);
	READY(e[0]);
	TRY(sendto, e[0], "x", 1, MSG_NOSIGNAL, NULL, 0);
	TRY(read, e[0], buffer, 100);
	close(e[0]);

	pair(e);
	setsockopt(e[1], SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
	OPTION(e[1], SOL_SOCKET, SO_LINGER);
	close(e[1]);
	TRY(read, e[0], buffer, 100);
	TRY(read, e[0], buffer, 100);
	READY(e[0]);
	NAMES(e[0]);
	close(e[0]);

	pair(e);
	signal(SIGPIPE, SIG_IGN);
	TRY(shutdown, e[0], SHUT_WR);
	TRY(write, e[0], "x", 1);
	CONNECT(e[0], (struct sockaddr_in){ .sin_family = AF_UNSPEC });
	NAMES(e[0]);
	TRY(read, e[1], buffer, 10);
	close_both(e);
}

static void try_listener(void)
{
	struct sockaddr_in address;
	int server = listener(&address), a = tcp(0), b;

	CALL(listen(server, 3));
	OPTION(server, SOL_SOCKET, SO_ACCEPTCONN);
	CONNECT(a, address);
	close(server); /* which resets what nobody has accepted */
	TRY(read, a, buffer, 10);
	close(a);
	server = listener(&address);
	TRY(shutdown, server, SHUT_WR);
	TRY(shutdown, server, SHUT_RD);
	TRY(accept, server, NULL, NULL);
	READY(server);
	a = tcp(0);
	CONNECT(a, address);
	close(a);
	close(server);
	server = listener(&address);
	CONNECT(server, (struct sockaddr_in){ .sin_family = AF_UNSPEC });
	OPTION(server, SOL_SOCKET, SO_ACCEPTCONN);
	close(server);
	/* A port is free again only for sockets with SO_REUSEADDR */
	server = listener(&address);
	a = tcp(0);
	CONNECT(a, address);
	b = accept(server, NULL, NULL);
	close(b);
	TRY(read, a, buffer, 1);
	close(a);
	close(server);
	server = tcp(0);
	BIND(server, address);
	SET(server, SOL_SOCKET, SO_REUSEADDR, 1);
	BIND(server, address);
	close(server);
}

static void try_options(void)
{
	static const int socket_options[] = { SO_TYPE, SO_DOMAIN, SO_PROTOCOL, SO_ACCEPTCONN, SO_REUSEADDR, SO_KEEPALIVE, SO_LINGER,
		SO_BROADCAST, SO_OOBINLINE, SO_REUSEPORT, SO_RCVLOWAT, SO_PRIORITY, SO_ERROR, SO_RCVTIMEO, SO_DEBUG };
	static const int tcp_options[] = { TCP_NODELAY, TCP_CORK, TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT, TCP_SYNCNT, TCP_LINGER2,
		TCP_DEFER_ACCEPT, TCP_QUICKACK, TCP_USER_TIMEOUT };
	int fd = tcp(0), udp = socket(AF_INET, SOCK_DGRAM, 0), six = socket(AF_INET6, SOCK_STREAM, 0);

	for (unsigned int i = 0; i < sizeof(socket_options) / sizeof(int); i++) {
		OPTION(fd, SOL_SOCKET, socket_options[i]);
		OPTION(udp, SOL_SOCKET, socket_options[i]);
	}
	for (unsigned int i = 0; i < sizeof(tcp_options) / sizeof(int); i++) {
		OPTION(fd, IPPROTO_TCP, tcp_options[i]);
		OPTION(udp, IPPROTO_TCP, tcp_options[i]);
	}
	SET(fd, SOL_SOCKET, SO_KEEPALIVE, 5);
	OPTION(fd, SOL_SOCKET, SO_KEEPALIVE);
	SET(fd, SOL_SOCKET, SO_RCVLOWAT, 10);
	OPTION(fd, SOL_SOCKET, SO_RCVLOWAT);
	SET(fd, IPPROTO_TCP, TCP_NODELAY, 1);
	OPTION(fd, IPPROTO_TCP, TCP_NODELAY);
	SET(fd, IPPROTO_TCP, TCP_KEEPIDLE, 0);
	SET(fd, IPPROTO_TCP, TCP_KEEPIDLE, 40000);
	SET(fd, IPPROTO_TCP, TCP_KEEPIDLE, 100);
	OPTION(fd, IPPROTO_TCP, TCP_KEEPIDLE);
	SET(fd, IPPROTO_TCP, TCP_KEEPCNT, 128);
	SET(fd, IPPROTO_TCP, 999, 1);
	SET(fd, IPPROTO_IP, IP_TTL, 0);
	SET(fd, IPPROTO_IP, IP_TTL, 17);
	OPTION(fd, IPPROTO_IP, IP_TTL);
	SET(fd, IPPROTO_IP, IP_TOS, 16);
	OPTION(fd, IPPROTO_IP, IP_TOS);
	SET(fd, IPPROTO_IP, IP_TTL, 256);
	SET(udp, IPPROTO_IP, IP_MULTICAST_LOOP, 0);
	OPTION(udp, IPPROTO_IP, IP_MULTICAST_LOOP);
	SET(udp, IPPROTO_IP, IP_MULTICAST_TTL, 3);
	OPTION(udp, IPPROTO_IP, IP_MULTICAST_TTL);
	SET(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1);
	SET(six, IPPROTO_IPV6, IPV6_V6ONLY, 2);
	OPTION(six, IPPROTO_IPV6, IPV6_V6ONLY);
	OPTION(six, IPPROTO_IPV6, IPV6_UNICAST_HOPS);
	SET(udp, IPPROTO_TCP, TCP_NODELAY, 1);
	SET(fd, 77, 1, 1);
	OPTION(fd, 77, 1);
	CALL(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, buffer, 3));
	CALL(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, BAD, 4));
	CALL(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, buffer, (socklen_t)-1));
	SET(fd, SOL_SOCKET, SO_ACCEPTCONN, 1);
	close(fd);
	close(udp);
	close(six);
}

static void try_datagrams(void)
{
	struct sockaddr_in to = at("127.0.0.1", 0), from;
	socklen_t size = sizeof(from);
	int a = socket(AF_INET, SOCK_DGRAM, 0), b = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0), value;
	struct iovec vector = { buffer, 4 };
	struct msghdr message = { .msg_name = &from, .msg_namelen = sizeof(from), .msg_iov = &vector, .msg_iovlen = 1 };

	BIND(a, to);
	getsockname(a, (void *)&to, &size);
	CALL(sendto(b, "hello", 5, 0, (void *)&to, 8));
	CALL(sendto(b, "hello", 5, 0, NULL, 0));
	CALL(sendto(b, "hello", 5, 0, (void *)&to, sizeof(to)));
	CALL(sendto(b, "", 0, 0, (void *)&to, sizeof(to)));
	CALL(sendto(b, buffer, 65508, 0, (void *)&to, sizeof(to)));
	CALL(sendto(b, buffer, 65507, 0, (void *)&to, sizeof(to)));
	NAMES(b);
	READY(a);
	TRY(ioctl, a, FIONREAD, &value);
	printf("    %d\n", value);
	TRY(recvfrom, a, buffer, 3, MSG_PEEK | MSG_TRUNC, NULL, NULL);
	CALL(recvmsg(a, &message, 0));
	printf("    flags %x, from %d %u %d %.4s\n", message.msg_flags, from.sin_family, message.msg_namelen,
	       from.sin_port == htons((unsigned short)port_of(b)), buffer);
	TRY(recvfrom, a, buffer, 100, 0, NULL, NULL);
	TRY(recvfrom, a, buffer, sizeof(buffer), 0, NULL, NULL);
	TRY(recvfrom, a, buffer, 100, MSG_DONTWAIT, NULL, NULL);
	CONNECT(b, to);
	NAMES(b);
	TRY(write, b, "one", 3);
	TRY(read, a, buffer, 100);
	TRY(shutdown, b, SHUT_WR);
	TRY(write, b, "two", 3);
	READY(b);
	close(a);
	close(b);
	b = socket(AF_INET, SOCK_DGRAM, 0);
	CONNECT(b, to); /* where no socket is bound now */
	TRY(write, b, "one", 3);
	READY(b);
	TRY(read, b, buffer, 10);
	TRY(write, b, "one", 3);
	OPTION(b, SOL_SOCKET, SO_ERROR);
	OPTION(b, SOL_SOCKET, SO_ERROR);
	CONNECT(b, (struct sockaddr_in){ .sin_family = AF_UNSPEC });
	NAMES(b);
	TRY(write, b, "one", 3);
	CONNECT(b, at("8.8.8.8", 7));
	CONNECT(b, at("255.255.255.255", 7));
	TRY(shutdown, b, SHUT_RD);
	READY(b);
	TRY(read, b, buffer, 10);
	TRY(recvfrom, b, buffer, 10, MSG_DONTWAIT, NULL, NULL);
	TRY(listen, b, 1);
	TRY(accept, b, NULL, NULL);
	close(b);
}

static void try_six(void)
{
	int server = socket(AF_INET6, SOCK_STREAM, 0), a = socket(AF_INET6, SOCK_STREAM, 0), b = tcp(0), port, c;
	int u = socket(AF_INET6, SOCK_DGRAM, 0), v = socket(AF_INET, SOCK_DGRAM, 0);
	struct sockaddr_in6 from;
	socklen_t size = sizeof(from);
	char text[64];

	CALL(bind(server, (void *)&(struct sockaddr_in6){ .sin6_family = AF_INET6 }, 20));
	BIND(server, at6("::", 0));
	CALL(listen(server, 5));
	port = port_of(server);
	CONNECT(a, at6("::1", port));
	NAMES(a);
	CONNECT(b, at("127.0.0.1", port));
	c = accept(server, NULL, NULL);
	NAMES(c);
	close(c);
	c = accept(server, NULL, NULL);
	NAMES(c);
	TRY(write, c, "four", 4);
	TRY(read, b, buffer, 10);
	close(c);
	close(a);
	a = socket(AF_INET6, SOCK_STREAM, 0);
	CONNECT(a, at6("::ffff:127.0.0.1", port));
	NAMES(a);
	close(a);
	a = socket(AF_INET6, SOCK_STREAM, 0);
	CONNECT(a, at6("2001:db8::1", port));
	CONNECT(a, at("127.0.0.1", port));
	close(a);
	close(b);
	close(server);
	BIND(u, at6("::", 0));
	CALL(sendto(v, "x", 1, 0, (void *)(struct sockaddr_in[]){ at("127.0.0.1", port_of(u)) }, sizeof(struct sockaddr_in)));
	CALL(recvfrom(u, buffer, 10, 0, (void *)&from, &size));
	printf("    %s\n", inet_ntop(AF_INET6, &from.sin6_addr, text, sizeof(text)));
	CALL(sendto(u, "y", 1, 0, (void *)&from, sizeof(from)));
	CALL(recvfrom(v, buffer, 10, 0, NULL, NULL));
	CALL(sendto(u, "z", 1, 0, (void *)(struct sockaddr_in6[]){ at6("::1", port_of(u)) }, sizeof(from)));
	size = sizeof(from);
	CALL(recvfrom(u, buffer, 10, 0, (void *)&from, &size));
	printf("    %s\n", inet_ntop(AF_INET6, &from.sin6_addr, text, sizeof(text)));
	close(u);
	close(v);
}

static void try_epoll(void)
{
	struct epoll_event event = { .events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET };
	int e[2], epoll = epoll_create1(0);

	pair(e);
	CALL(epoll_ctl(epoll, EPOLL_CTL_ADD, e[0], &event));
	CALL(epoll_wait(epoll, &event, 1, 100));
	printf("    %x\n", event.events);
	CALL(epoll_wait(epoll, &event, 1, 0));
	TRY(write, e[1], "x", 1);
	CALL(epoll_wait(epoll, &event, 1, 100));
	printf("    %x\n", event.events);
	TRY(shutdown, e[1], SHUT_WR);
	CALL(epoll_wait(epoll, &event, 1, 100));
	printf("    %x\n", event.events);
	TRY(read, e[0], buffer, 10);
	TRY(write, e[0], "x", 1);
	close(e[1]);
	CALL(epoll_wait(epoll, &event, 1, 100));
	printf("    %x\n", event.events);
	close(e[0]);
	close(epoll);
}

/* Enter a network with a loopback interface only, as that of the Sentry. */
static void enter_network(void)
{
	struct ifreq loopback = { .ifr_name = "lo", .ifr_flags = IFF_UP };
	int fd;

	if (unshare(CLONE_NEWNET) && unshare(CLONE_NEWUSER | CLONE_NEWNET))
		return;
	fd = socket(AF_INET, SOCK_DGRAM, 0);
	if (ioctl(fd, SIOCSIFFLAGS, &loopback))
		printf("no network: %s\n", strerrorname_np(errno));
	close(fd);
}

int main(int argc, char **argv)
{
	(void)argv;
	if (argc > 1)
		enter_network();
	signal(SIGPIPE, SIG_IGN);
	try_create();
	try_bind();
	try_connect();
	try_data();
	try_ends();
	try_listener();
	try_options();
	try_datagrams();
	try_six();
	try_epoll();
	return 0;
}
