// SPDX-License-Identifier: Apache-2.0
/* Control data of datagrams over loopback, and UDP-Lite: prints what each call returns. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

#include "report.h"
#include "socket_options.h"

#ifndef IPPROTO_UDPLITE
#define IPPROTO_UDPLITE 136
#endif
enum { SEND_COVERAGE = 10, RECEIVE_COVERAGE = 11 };

union address {
	struct sockaddr any;
	struct sockaddr_in four;
	struct sockaddr_in6 six;
};

/* A socket with a port at the loopback address. */
static int bound(int family, int protocol, union address *address)
{
	socklen_t size = sizeof(*address);
	int fd = socket(family, SOCK_DGRAM, protocol);

	memset(address, 0, sizeof(*address));
	address->any.sa_family = (sa_family_t)family;
	if (family == AF_INET)
		address->four.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	else
		address->six.sin6_addr = in6addr_loopback;
	CALL(bind(fd, &address->any, family == AF_INET ? sizeof(address->four) : sizeof(address->six)));
	getsockname(fd, &address->any, &size);
	return fd;
}

/* Receive a datagram, and print its control data, for which there is so much room. */
static void receive(int line, int fd, size_t room)
{
	union {
		struct cmsghdr align;
		char bytes[256];
	} control;
	char data[16];
	struct iovec vector = { data, sizeof(data) };
	struct msghdr message = { .msg_iov = &vector, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = room };

	memset(&control, 0, sizeof(control));
	show(line, "recvmsg", recvmsg(fd, &message, 0));
	printf("%d    flags %x, control %zu\n", line, message.msg_flags, message.msg_controllen);
	for (struct cmsghdr *part = CMSG_FIRSTHDR(&message); part; part = CMSG_NXTHDR(&message, part)) {
		printf("%d    level %d type %d:", line, part->cmsg_level, part->cmsg_type);
		for (size_t i = 0; i < part->cmsg_len - CMSG_LEN(0); i++)
			printf(" %02x", CMSG_DATA(part)[i]);
		printf("\n");
	}
}

struct part {
	int level, type;
	const void *data;
	size_t size;
};

static long send_with(int fd, const union address *to, const struct part *parts, int count)
{
	union {
		struct cmsghdr align;
		char bytes[256];
	} control;
	struct iovec vector = { "hello", 5 };
	struct msghdr message = { (void *)to, sizeof(*to), &vector, 1, control.bytes, 0, 0 };
	struct cmsghdr *part = &control.align;

	memset(&control, 0, sizeof(control));
	for (int i = 0; i < count; i++) {
		*part = (struct cmsghdr){ CMSG_LEN(parts[i].size), parts[i].level, parts[i].type };
		memcpy(CMSG_DATA(part), parts[i].data, parts[i].size);
		message.msg_controllen += CMSG_SPACE(parts[i].size);
		part = (struct cmsghdr *)(control.bytes + message.msg_controllen);
	}
	return sendmsg(fd, &message, 0);
}

#define SEND(fd, to, level, type, value) \
	show(__LINE__, "send with " #type, send_with(fd, to, &(struct part){ level, type, &(value), sizeof(value) }, 1))
#define RECEIVE(fd, room) receive(__LINE__, fd, room)

static void try_four(void)
{
	union address to, other;
	int a = bound(AF_INET, 0, &to), b = bound(AF_INET, 0, &other), ttl = 9, bad = 256, tos = 16;
	struct in_pktinfo info = { .ipi_spec_dst.s_addr = htonl(INADDR_LOOPBACK + 1) }, bad_info = { .ipi_spec_dst.s_addr = htonl(0x08080808) };
	unsigned char byte = 8;
	socklen_t size;
	char data[8];

	SEND(b, &to, IPPROTO_IP, IP_TTL, ttl);
	RECEIVE(a, 256);
	SET(a, IPPROTO_IP, IP_RECVTTL, 1);
	SET(a, IPPROTO_IP, IP_RECVTOS, 1);
	SET(a, IPPROTO_IP, IP_PKTINFO, 1);
	SEND(b, &to, IPPROTO_IP, IP_TTL, ttl);
	RECEIVE(a, 256);
	SEND(b, &to, IPPROTO_IP, IP_TOS, tos);
	RECEIVE(a, 256);
	SEND(b, &to, IPPROTO_IP, IP_TOS, byte);
	RECEIVE(a, CMSG_SPACE(sizeof(info)) + 8);
	SEND(b, &to, IPPROTO_IP, IP_TTL, byte);
	SEND(b, &to, IPPROTO_IP, IP_TTL, bad);
	SEND(b, &to, IPPROTO_IP, IP_PKTINFO, bad);
	SEND(b, &to, IPPROTO_IP, 99, bad);
	SEND(b, &to, IPPROTO_IPV6, IPV6_HOPLIMIT, ttl);
	RECEIVE(a, CMSG_SPACE(sizeof(info)) + 18);
	SEND(b, &to, IPPROTO_IP, IP_PKTINFO, info);
	RECEIVE(a, 0);
	SEND(b, &to, IPPROTO_IP, IP_PKTINFO, bad_info);
	close(b);
	b = socket(AF_INET, SOCK_DGRAM, 0);
	other.four.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 4);
	CALL(bind(b, &other.any, sizeof(other.four)));
	CALL(sendto(b, "five", 4, 0, &to.any, sizeof(to.four)));
	size = sizeof(other);
	CALL(recvfrom(a, data, sizeof(data), 0, &other.any, &size));
	CALL(ntohl(other.four.sin_addr.s_addr));
	close(a);
	close(b);
}

static void try_six(void)
{
	union address to, other;
	int a = bound(AF_INET6, 0, &to), b = bound(AF_INET6, 0, &other), hops = 3, class = 17, normal = -1, bad = 300;
	struct in6_pktinfo info = { .ipi6_addr = in6addr_loopback };
	struct part both[] = { { IPPROTO_IPV6, IPV6_TCLASS, &class, sizeof(class) }, { IPPROTO_IPV6, IPV6_HOPLIMIT, &hops, sizeof(hops) } };

	SET(a, IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 1);
	SET(a, IPPROTO_IPV6, IPV6_RECVTCLASS, 1);
	SET(a, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1);
	CALL(send_with(b, &to, both, 2));
	RECEIVE(a, 256);
	SET(b, IPPROTO_IPV6, IPV6_TCLASS, 5);
	SET(b, IPPROTO_IPV6, IPV6_UNICAST_HOPS, 7);
	CALL(send_with(b, &to, both, 1));
	RECEIVE(a, 256);
	SEND(b, &to, IPPROTO_IPV6, IPV6_HOPLIMIT, normal);
	RECEIVE(a, 256);
	SEND(b, &to, IPPROTO_IPV6, IPV6_HOPLIMIT, bad);
	SEND(b, &to, IPPROTO_IPV6, IPV6_TCLASS, bad);
	SEND(b, &to, IPPROTO_IPV6, 999, bad);
	SEND(b, &to, IPPROTO_IPV6, IPV6_PKTINFO, info);
	for (size_t room = 0; room < 3; room++) {
		RECEIVE(a, CMSG_SPACE(sizeof(info)) + CMSG_LEN(1) * room);
		SEND(b, &to, IPPROTO_IPV6, IPV6_HOPLIMIT, hops);
	}
	RECEIVE(a, 15);
	close(a);
	close(b);
}

static void try_lite(void)
{
	union address to, other, full;
	int a = bound(AF_INET, IPPROTO_UDPLITE, &to), b = bound(AF_INET, IPPROTO_UDPLITE, &other), c, hops = 3;
	int plain = socket(AF_INET, SOCK_DGRAM, 0);

	CALL(socket(AF_INET, SOCK_STREAM, IPPROTO_UDPLITE));
	OPTION(a, SOL_SOCKET, SO_PROTOCOL);
	CALL(bind(plain, &to.any, sizeof(to.four)));
	SET(plain, IPPROTO_UDPLITE, SEND_COVERAGE, 8);
	OPTION(b, IPPROTO_UDPLITE, SEND_COVERAGE);
	SET(b, IPPROTO_UDPLITE, SEND_COVERAGE, 3);
	OPTION(b, IPPROTO_UDPLITE, SEND_COVERAGE);
	SET(b, IPPROTO_UDPLITE, SEND_COVERAGE, 70000);
	OPTION(b, IPPROTO_UDPLITE, SEND_COVERAGE);
	SET(b, IPPROTO_UDPLITE, SEND_COVERAGE, 10);
	SET(a, IPPROTO_UDPLITE, RECEIVE_COVERAGE, 10);
	OPTION(a, IPPROTO_UDPLITE, RECEIVE_COVERAGE);
	SEND(b, &to, IPPROTO_IP, IP_TTL, hops);
	READY(plain);
	RECEIVE(a, 256);
	CALL(connect(b, &to.any, sizeof(to.four)));
	CALL(send(b, "x", 1, 0));
	RECEIVE(a, 256);
	c = bound(AF_INET6, IPPROTO_UDPLITE, &full);
	SET(c, IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 1);
	SEND(c, &full, IPPROTO_IPV6, IPV6_HOPLIMIT, hops);
	RECEIVE(c, 256);
	close(a);
	close(b);
	close(c);
	close(plain);
}

int main(void)
{
	try_four();
	try_six();
	try_lite();
	return 0;
}
