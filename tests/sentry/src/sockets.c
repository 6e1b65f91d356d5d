// SPDX-License-Identifier: Apache-2.0
/* Sockets of the family AF_UNIX in one process: prints what each call returns. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "report.h"

static char buffer[1 << 20];

static struct sockaddr_un name(const char *text)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	strcpy(address.sun_path, text);
	return address;
}

static void show_name(int line, int fd, int (*get)(int, struct sockaddr *, socklen_t *))
{
	struct sockaddr_un address;
	socklen_t size = sizeof(address);

	memset(&address, 0, sizeof(address));
	if (get(fd, (void *)&address, &size))
		printf("%d    no name: %s\n", line, strerrorname_np(errno));
	else
		printf("%d    name %d %u %s\n", line, address.sun_family, size, size > 2 ? address.sun_path + !address.sun_path[0] : "");
}

static void try_pair(void)
{
	int p[2], value;
	socklen_t size = sizeof(value);
	struct timeval short_time = { 0, 20000 };

	TRY(socketpair, AF_UNIX, SOCK_STREAM, 0, BAD);
	TRY(socketpair, 99, SOCK_STREAM, 0, p);
	TRY(socketpair, AF_NETLINK, SOCK_RAW, 0, p);
	TRY(socketpair, AF_NETLINK, SOCK_STREAM, 0, p);
	TRY(socketpair, AF_INET, SOCK_STREAM, IPPROTO_UDP, p);
	TRY(socketpair, AF_INET6, SOCK_DGRAM, 0, p);
	TRY(socketpair, AF_UNIX, SOCK_STREAM, 7, p);
	TRY(socketpair, AF_UNIX, 9, 0, p);
	TRY(socketpair, AF_UNIX, SOCK_STREAM | 0x100, 0, p);
	TRY(socketpair, AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, p);
	READY(p[0]);
	TRY(write, p[0], "hello", 5);
	TRY(write, p[0], "world", 5);
	READY(p[1]);
	TRY(ioctl, p[1], FIONREAD, &value);
	printf("    %d\n", value);
	TRY(recvfrom, p[1], buffer, 7, MSG_PEEK, NULL, NULL);
	TRY(read, p[1], buffer, 7);
	TRY(read, p[1], buffer, 100);
	TRY(read, p[1], buffer, 100);
	TRY(read, p[1], buffer, 0);
	TRY(write, p[0], BAD, 5);
	TRY(sendto, p[0], "x", 1, 0, &(struct sockaddr_un){ AF_UNIX, "y" }, 10);
	TRY(sendto, 1, "x", 1, 0, NULL, 0);
	TRY(sendto, 99, "x", 1, 0, NULL, 0);
	show_name(__LINE__, p[0], getsockname);
	show_name(__LINE__, p[0], getpeername);
	TRY(getsockopt, p[0], SOL_SOCKET, SO_TYPE, &value, &size);
	printf("    %d %d\n", value, size);
	for (int option = 1; option < 40; option++) {
		static const int same[] = { SO_TYPE, SO_ERROR, SO_DOMAIN, SO_ACCEPTCONN, SO_PASSCRED, SO_PROTOCOL, SO_RCVTIMEO };

		for (unsigned int i = 0; i < sizeof(same) / sizeof(*same); i++) {
			char bytes[32] = { 0 };

			size = sizeof(bytes);
			if (same[i] == option)
				printf("    option %d: %ld %u %d\n", option, syscall(SYS_getsockopt, p[0], SOL_SOCKET, option, bytes, &size),
				       size, bytes[0]);
		}
	}
	TRY(getsockopt, p[0], SOL_SOCKET, 999, &value, &size);
	TRY(getsockopt, p[0], 999, 1, &value, &size);
	TRY(getsockopt, p[0], SOL_SOCKET, SO_TYPE, &value, BAD);
	TRY(setsockopt, p[0], SOL_SOCKET, SO_PASSCRED, &value, 1);
	TRY(setsockopt, p[0], SOL_SOCKET, 999, &value, 4);
	TRY(setsockopt, p[1], SOL_SOCKET, SO_RCVTIMEO, &short_time, sizeof(short_time));
	fcntl(p[1], F_SETFL, 0);
	TRY(read, p[1], buffer, 1);
	TRY(shutdown, p[0], 7);
	TRY(shutdown, p[0], SHUT_WR);
	READY(p[0]), READY(p[1]);
	TRY(read, p[1], buffer, 1);
	TRY(write, p[0], "x", 1);
	TRY(write, p[1], "x", 1);
	close(p[1]);
	READY(p[0]);
	TRY(read, p[0], buffer, 10);
	TRY(read, p[0], buffer, 10);
	close(p[0]);
	socketpair(AF_UNIX, SOCK_STREAM, 0, p);
	write(p[0], "unread", 6);
	close(p[1]);
	READY(p[0]);
	TRY(read, p[0], buffer, 10);
	TRY(read, p[0], buffer, 10);
	TRY(sendto, p[0], "x", 1, MSG_NOSIGNAL, NULL, 0);
	close(p[0]);
	socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, p);
	TRY(write, p[0], "packet", 6);
	TRY(write, p[0], "second", 6);
	TRY(recvfrom, p[1], buffer, 3, MSG_TRUNC, NULL, NULL);
	TRY(read, p[1], buffer, 100);
	TRY(write, p[0], "", 0);
	TRY(read, p[1], buffer, 100);
	close(p[0]);
	TRY(read, p[1], buffer, 100);
	close(p[1]);
}

static void try_names(void)
{
	struct sockaddr_un server = name("server"), other = name("other"), far = name("absent/x"), bound;
	int listener = TRY(socket, AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0), client, end, datagram, second;
	socklen_t size = sizeof(bound);

	TRY(socket, 99, SOCK_STREAM, 0);
	TRY(socket, AF_UNIX, 9, 0);
	TRY(bind, listener, &server, 2000);
	TRY(bind, listener, BAD, sizeof(server));
	TRY(bind, listener, &far, sizeof(far));
	TRY(bind, 1, &server, sizeof(server));
	TRY(listen, listener, 1);
	TRY(accept, listener, NULL, NULL);
	TRY(connect, listener, &server, sizeof(server));
	TRY(bind, listener, &server, offsetof(struct sockaddr_un, sun_path) + 6);
	TRY(bind, listener, &other, sizeof(other));
	show_name(__LINE__, listener, getsockname);
	show_name(__LINE__, listener, getpeername);
	second = TRY(socket, AF_UNIX, SOCK_STREAM, 0);
	TRY(bind, second, &server, sizeof(server));
	client = TRY(socket, AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
	READY(client);
	TRY(write, client, "x", 1);
	TRY(read, client, buffer, 1);
	TRY(shutdown, client, SHUT_RD);
	TRY(connect, client, &server, sizeof(server));
	TRY(connect, client, &other, sizeof(other));
	TRY(listen, listener, 1);
	READY(listener);
	TRY(accept, listener, NULL, NULL);
	TRY(accept4, listener, NULL, NULL, 77);
	TRY(connect, client, &server, sizeof(server));
	TRY(connect, client, &server, sizeof(server));
	READY(listener), READY(client);
	TRY(write, client, "early", 5);
	end = TRY(accept4, listener, &bound, &size, SOCK_CLOEXEC | SOCK_NONBLOCK);
	printf("    %u\n", size);
	TRY(read, end, buffer, 10);
	show_name(__LINE__, end, getsockname);
	show_name(__LINE__, client, getpeername);
	TRY(write, end, "answer", 6);
	TRY(read, client, buffer, 10);
	for (int i = 0; i < 4; i++) {
		int more = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);

		TRY(connect, more, &server, sizeof(server));
	}
	datagram = TRY(socket, AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);
	TRY(connect, datagram, &server, sizeof(server));
	TRY(listen, datagram, 1);
	TRY(accept, datagram, NULL, NULL);
	TRY(sendto, datagram, "x", 1, 0, &server, sizeof(server));
	TRY(write, datagram, "x", 1);
	second = TRY(socket, AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);
	other.sun_path[0] = 0;
	TRY(bind, second, &other, 8);
	TRY(bind, datagram, &other, 8);
	TRY(bind, datagram, &other, 2);
	TRY(sendto, datagram, "datagram", 8, 0, &other, 8);
	TRY(sendto, datagram, "none", 4, 0, &other, 7);
	size = sizeof(bound);
	TRY(recvfrom, second, buffer, 100, 0, &bound, &size);
	printf("    %u\n", size);
	TRY(recvfrom, second, buffer, 100, 0, NULL, NULL);
	TRY(connect, datagram, &other, 8);
	TRY(write, datagram, "again", 5);
	TRY(read, second, buffer, 2);
	TRY(read, second, buffer, 2);
	close(second);
	TRY(write, datagram, "gone", 4);
	TRY(write, datagram, "gone", 4);
	unlink("server");
	TRY(connect, datagram, &server, sizeof(server));
	for (int fd = 3; fd < 20; fd++)
		close(fd);
}

/* A set that waits for the peer of a datagram socket, which ends before the socket does. */
static void try_lost_peer(void)
{
	struct epoll_event event, events[8];
	struct sockaddr none = { .sa_family = AF_UNSPEC };

	for (int i = 0; i < 2; i++) {
		int set = epoll_create1(0), other = epoll_create1(0), p[2], q[2], reported = 0;

		event = (struct epoll_event){ .events = EPOLLOUT | EPOLLET };
		socketpair(AF_UNIX, SOCK_DGRAM, 0, p);
		TRY(epoll_ctl, set, EPOLL_CTL_ADD, p[0], &event);
		close(p[1]);
		if (i)
			TRY(connect, p[0], &none, sizeof(none));
		else
			TRY(write, p[0], "lost", 4);
		socketpair(AF_UNIX, SOCK_DGRAM, 0, q);
		for (int k = 0; k < 2; k++) {
			event.data.fd = q[k];
			TRY(epoll_ctl, other, EPOLL_CTL_ADD, q[k], &event);
		}
		TRY(epoll_wait, other, events, 8, 0);
		close(set);
		TRY(write, q[1], "word", 4);
		TRY(read, q[0], buffer, 100);
		for (int count = epoll_wait(other, events, 8, 0); count > 0; count--)
			reported |= events[count - 1].data.fd == q[1];
		printf("    room at the other end is reported: %d\n", reported);
		close(other), close(p[0]), close(q[0]), close(q[1]);
	}
}

static void try_rights(void)
{
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(4 * sizeof(int)) + CMSG_SPACE(sizeof(struct ucred))];
	} control;
	struct iovec vector = { "message", 7 }, in = { buffer, 100 };
	struct msghdr out = { .msg_iov = &vector, .msg_iovlen = 1, .msg_control = &control };
	int p[2], pipes[2], on = 1, got[4];
	struct cmsghdr *at = &control.header;
	struct ucred wrong = { 1 << 20, 5, 6 };

	memset(&control, 0, sizeof(control));
	socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, p), pipe(pipes);
	at->cmsg_level = SOL_SOCKET, at->cmsg_type = SCM_RIGHTS, at->cmsg_len = CMSG_LEN(2 * sizeof(int));
	memcpy(CMSG_DATA(at), pipes, sizeof(pipes));
	out.msg_controllen = CMSG_SPACE(2 * sizeof(int));
	TRY(sendmsg, p[0], &out, 0);
	TRY(write, p[0], "plain", 5);
	memset(&control, 0, sizeof(control));
	out.msg_iov = &in, out.msg_controllen = sizeof(control);
	TRY(recvmsg, p[1], &out, MSG_CMSG_CLOEXEC);
	printf("    %x %lu %d %d %lu\n", out.msg_flags, (long)out.msg_controllen, at->cmsg_level, at->cmsg_type, (long)at->cmsg_len);
	memcpy(got, CMSG_DATA(at), sizeof(got));
	printf("    descriptors %d %d, close on exec %d\n", got[0], got[1], fcntl(got[0], F_GETFD));
	TRY(write, got[1], "through", 7);
	TRY(read, pipes[0], buffer, 100);
	close(got[0]), close(got[1]);
	out.msg_controllen = sizeof(control);
	TRY(recvmsg, p[1], &out, 0);
	printf("    %x %lu\n", out.msg_flags, (long)out.msg_controllen);
	at->cmsg_len = CMSG_LEN(sizeof(int)), at->cmsg_level = SOL_SOCKET, at->cmsg_type = SCM_RIGHTS;
	*(int *)CMSG_DATA(at) = 999;
	out.msg_iov = &vector, out.msg_controllen = CMSG_SPACE(sizeof(int));
	TRY(sendmsg, p[0], &out, 0);
	at->cmsg_type = 99;
	TRY(sendmsg, p[0], &out, 0);
	at->cmsg_len = 3;
	TRY(sendmsg, p[0], &out, 0);
	TRY(sendmsg, p[0], BAD, 0);
	TRY(setsockopt, p[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof(on));
	at->cmsg_len = CMSG_LEN(sizeof(wrong)), at->cmsg_type = SCM_CREDENTIALS;
	memcpy(CMSG_DATA(at), &wrong, 8);
	out.msg_controllen = 5;
	TRY(sendmsg, p[0], &out, 0);
	out.msg_iov = &in, out.msg_controllen = sizeof(control);
	TRY(recvmsg, p[1], &out, 0);
	printf("    %x %lu %d %lu, own process %d\n", out.msg_flags, (long)out.msg_controllen, at->cmsg_type, (long)at->cmsg_len,
	       ((struct ucred *)CMSG_DATA(at))->pid == getpid());
	at->cmsg_len = CMSG_LEN(sizeof(int)), at->cmsg_level = SOL_SOCKET, at->cmsg_type = SCM_RIGHTS;
	*(int *)CMSG_DATA(at) = pipes[0];
	on = 0;
	TRY(setsockopt, p[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof(on));
	out.msg_iov = &vector, out.msg_controllen = CMSG_SPACE(sizeof(int));
	TRY(sendmsg, p[0], &out, 0);
	out.msg_iov = &in, out.msg_controllen = 0;
	TRY(recvmsg, p[1], &out, 0);
	printf("    %x %lu\n", out.msg_flags, (long)out.msg_controllen);
	out.msg_iov = &vector, out.msg_controllen = CMSG_SPACE(sizeof(int));
	TRY(sendmsg, p[0], &out, 0);
	TRY(read, p[1], buffer, 100);
	vector.iov_len = 0; /* a stream has no empty messages */
	TRY(sendmsg, p[0], &out, 0);
	TRY(read, p[1], buffer, 100);
	close(p[1]);
	TRY(sendmsg, p[0], &out, 0);
	close(pipes[0]), close(pipes[1]), close(p[0]);
}

/* An epoll set that a socket joins before it is connected. */
static void try_early_set(void)
{
	struct epoll_event event = { .events = EPOLLOUT | EPOLLET };
	struct sockaddr_un address = name("early");
	int set = epoll_create1(0), listener = socket(AF_UNIX, SOCK_STREAM, 0), fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0), other;

	bind(listener, (void *)&address, sizeof(address)), listen(listener, 1);
	TRY(epoll_ctl, set, EPOLL_CTL_ADD, fd, &event);
	TRY(connect, fd, &address, sizeof(address));
	other = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
	while (write(fd, buffer, 4096) > 0)
		;
	while (epoll_wait(set, &event, 1, 0) > 0)
		;
	while (read(other, buffer, sizeof(buffer)) > 0)
		;
	TRY(epoll_wait, set, &event, 1, 0);
	close(set), close(listener), close(fd), close(other);
}

/* Messages without bytes have a limit, too. */
static void try_small_messages(void)
{
	static const int types[] = { SOCK_STREAM, SOCK_SEQPACKET, SOCK_DGRAM };

	for (int i = 0; i < 3; i++) {
		int p[2], sent = 0;

		socketpair(AF_UNIX, types[i] | SOCK_NONBLOCK, 0, p);
		while (sent < 1000 && send(p[0], "x", types[i] == SOCK_STREAM, 0) >= 0)
			sent++;
		printf("    the queue is full: %d, room %d\n", sent > 0 && sent < 1000, poll(&(struct pollfd){ p[0], POLLOUT, 0 }, 1, 0));
		close(p[0]), close(p[1]);
	}
}

/* Sockets in messages to one another: the end of the last one ends them all. */
static void try_chain(void)
{
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = { .header = { CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS } };
	struct iovec vector = { "next", 4 };
	struct msghdr out = { .msg_iov = &vector, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };
	int last, ends[2], pipes[2], sent = 0;

	pipe(pipes);
	last = pipes[1];
	for (int i = 0; i < 900; i++) {
		socketpair(AF_UNIX, SOCK_STREAM, 0, ends);
		*(int *)CMSG_DATA(&control.header) = last;
		sent += sendmsg(ends[0], &out, 0) == 4;
		close(last), close(ends[0]);
		last = ends[1];
	}
	close(last);
	printf("    %d sent\n", sent);
	TRY(read, pipes[0], buffer, 1); /* the end of the pipe: the first one is closed */
	close(pipes[0]);
}

/* The row of a socket in /proc/net/unix, without its address in the kernel. */
static void show_row(int line, int fd)
{
	FILE *file = fopen("/proc/net/unix", "r");
	unsigned references, protocol, flags, type, state;
	unsigned long inode;
	char row[512], path[200];
	struct stat s;
	int count;

	fstat(fd, &s);
	while (file && fgets(row, sizeof(row), file)) {
		count = sscanf(row, "%*[^:]: %8X %8X %8X %4X %2X %lu %199s", &references, &protocol, &flags, &type, &state, &inode, path);
		if (count >= 6 && inode == s.st_ino)
			printf("%d    %d columns: %X %X %X %X %X %s\n", line, count, references, protocol, flags, type, state, count > 6 ? path : "");
	}
	if (file)
		fclose(file);
}

static void try_proc(void)
{
	struct sockaddr_un address = name("row"), abstract = { .sun_family = AF_UNIX, .sun_path = "\0row\0x" };
	int p[2], accepted, client, datagram = socket(AF_UNIX, SOCK_DGRAM, 0), listener = socket(AF_UNIX, SOCK_STREAM, 0);

	socketpair(AF_UNIX, SOCK_SEQPACKET, 0, p);
	show_row(__LINE__, p[0]);
	show_row(__LINE__, datagram);
	CALL(bind(datagram, (void *)&abstract, offsetof(struct sockaddr_un, sun_path) + 6));
	show_row(__LINE__, datagram);
	CALL(bind(listener, (void *)&address, sizeof(address)));
	show_row(__LINE__, listener);
	CALL(listen(listener, 5));
	show_row(__LINE__, listener);
	client = socket(AF_UNIX, SOCK_STREAM, 0);
	CALL(connect(client, (void *)&address, sizeof(address)));
	show_row(__LINE__, client);
	accepted = accept(listener, NULL, NULL);
	show_row(__LINE__, accepted);
	show_row(__LINE__, listener);
	close(accepted);
	show_row(__LINE__, client);
	close(client), close(listener), close(datagram), close(p[0]), close(p[1]);
	unlink("row");
}

int main(int argc, char **argv)
{
	signal(SIGPIPE, SIG_IGN);
	if (enter_folder(argc, argv))
		return 1;
	try_pair();
	try_names();
	try_lost_peer();
	try_rights();
	try_early_set();
	try_small_messages();
	try_chain();
	try_proc();
	return 42;
}
