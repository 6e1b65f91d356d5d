// SPDX-License-Identifier: Apache-2.0
/* Connects, binds, sends and receives where the other side, the name or the rights are wrong. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>

#include "report.h"

static char buffer[70000];
static struct iovec vector = { buffer, 1 };
static struct sockaddr_un stream_name = { AF_UNIX, "stream" }, datagram_name = { AF_UNIX, "datagrams" };
static struct msghdr header = { NULL, 0, &vector, 1, NULL, 0, 0 };
static struct mmsghdr headers;

static struct mmsghdr *many(void)
{
	headers.msg_hdr = header;
	return &headers;
}

#define NAMED(path) (&(struct sockaddr_un){ AF_UNIX, path }), sizeof(struct sockaddr_un)

static int unix_socket(int type)
{
	return socket(AF_UNIX, type, 0);
}

static void try_names(void)
{
	mkdir("closed", 0700);
	mkdir("ro", 0755);
	symlink("loop", "loop");
	close(open("file", O_CREAT | O_RDWR, 0644));
	CALL(mount("none", "ro", "tmpfs", MS_RDONLY, NULL));
	TRY(bind, unix_socket(SOCK_STREAM), NAMED("loop/x"));
	TRY(bind, unix_socket(SOCK_STREAM), NAMED("loop"));
	TRY(bind, unix_socket(SOCK_STREAM), NAMED("file/x"));
	TRY(bind, unix_socket(SOCK_STREAM), NAMED("absent/x"));
	TRY(bind, unix_socket(SOCK_STREAM), NAMED("file"));
	TRY(bind, unix_socket(SOCK_STREAM), NAMED("ro/x"));
	show(__LINE__, "bind in /proc fails", syscall(SYS_bind, unix_socket(SOCK_STREAM), NAMED("/proc/self/x")) == -1);
	TRY(connect, unix_socket(SOCK_STREAM), NAMED("loop/x"));
	TRY(connect, unix_socket(SOCK_STREAM), NAMED("file/x"));
	TRY(connect, unix_socket(SOCK_STREAM), NAMED("file"));
	TRY(connect, unix_socket(SOCK_STREAM), NAMED("stream"));
	TRY(connect, unix_socket(SOCK_DGRAM), NAMED("stream"));
	TRY(sendto, unix_socket(SOCK_DGRAM), buffer, 1, 0, NAMED("absent"));
	TRY(sendto, unix_socket(SOCK_DGRAM), buffer, 1, 0, NAMED("file"));
	TRY(sendto, unix_socket(SOCK_DGRAM), buffer, 1, 0, NAMED("stream"));
	IN_CHILD {
		become(NOBODY);
		TRY(bind, unix_socket(SOCK_STREAM), NAMED("closed/x"));
		TRY(bind, unix_socket(SOCK_STREAM), NAMED("x"));
		TRY(connect, unix_socket(SOCK_STREAM), NAMED("stream"));
		TRY(connect, unix_socket(SOCK_DGRAM), NAMED("datagrams"));
		TRY(sendto, unix_socket(SOCK_DGRAM), buffer, 1, 0, NAMED("datagrams"));
		header.msg_name = &datagram_name;
		header.msg_namelen = sizeof(datagram_name);
		TRY(sendmsg, unix_socket(SOCK_DGRAM), &header, 0);
		TRY(sendmmsg, unix_socket(SOCK_DGRAM), many(), 1, 0);
		TRY(socket, AF_INET, SOCK_RAW, 1);
	}
}

/* -- connections -- */

static int listener;
static struct sockaddr_in inet_name = { AF_INET, 0, { 0 }, { 0 } };

static void listen_to_inet(void)
{
	socklen_t size = sizeof(inet_name);

	inet_name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	listener = socket(AF_INET, SOCK_STREAM, 0);
	bind(listener, (struct sockaddr *)&inet_name, sizeof(inet_name));
	listen(listener, 5);
	getsockname(listener, (struct sockaddr *)&inet_name, &size);
}

/* A connection whose other side has closed without reading all. */
static int reset_connection(void)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0), peer;
	struct pollfd ready;

	connect(fd, (struct sockaddr *)&inet_name, sizeof(inet_name));
	peer = accept(listener, NULL, NULL);
	write(fd, "text", 4);
	ready = (struct pollfd){ peer, POLLIN, 0 };
	poll(&ready, 1, -1);
	close(peer);
	ready = (struct pollfd){ fd, 0, 0 };
	poll(&ready, 1, -1); /* for POLLHUP and POLLERR */
	return fd;
}

static void try_connections(void)
{
	int pair[2], fd;

	signal(SIGPIPE, SIG_IGN);
	fd = reset_connection();
	TRY(sendto, fd, buffer, 1, 0, NULL, 0);
	TRY(sendto, fd, buffer, 1, 0, NULL, 0);
	TRY(sendmsg, reset_connection(), &header, 0);
	TRY(sendmmsg, reset_connection(), many(), 1, 0);
	fd = reset_connection();
	TRY(recvfrom, fd, buffer, 1, 0, NULL, NULL);
	TRY(recvfrom, fd, buffer, 1, 0, NULL, NULL);
	TRY(connect, fd, &inet_name, sizeof(inet_name));
	TRY(shutdown, reset_connection(), SHUT_RDWR);
	socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
	TRY(sendto, pair[0], buffer, 1, 0, NAMED("stream"));
	header.msg_name = &stream_name;
	header.msg_namelen = sizeof(stream_name);
	TRY(sendmsg, pair[0], &header, 0);
	TRY(sendmmsg, pair[0], many(), 1, 0);
	header.msg_namelen = -1;
	TRY(sendmsg, pair[0], &header, 0);
	TRY(sendmmsg, pair[0], many(), 1, 0);
	header.msg_name = NULL;
	header.msg_namelen = 0;
	header.msg_iovlen = 2000;
	TRY(sendmsg, pair[0], &header, 0);
	TRY(sendmmsg, pair[0], many(), 1, 0);
	header.msg_iovlen = 1;
	fcntl(pair[0], F_SETFL, O_NONBLOCK);
	while (write(pair[0], buffer, 4096) > 0)
		;
	TRY(sendto, pair[0], buffer, 1, 0, NULL, 0);
	TRY(sendmsg, pair[0], &header, 0);
	TRY(sendmmsg, pair[0], many(), 1, 0);
	TRY(shutdown, 99, SHUT_RDWR);
	TRY(shutdown, 0, SHUT_RDWR);
	TRY(connect, pair[0], &stream_name, sizeof(stream_name));
	connect(unix_socket(SOCK_STREAM), (struct sockaddr *)&stream_name, sizeof(stream_name));
}

static void try_accepts(int fd)
{
	socklen_t size = 100;

	for (int i = 0; i < 4; i++)
		connect(unix_socket(SOCK_STREAM), (struct sockaddr *)&stream_name, sizeof(stream_name));
	TRY(accept4, fd, BAD, &size, 0);
	TRY(accept4, fd, buffer, BAD, 0);
	size = -1;
	TRY(accept4, fd, buffer, &size, 0);
	TRY(accept4, fd, NULL, BAD, 0);
}

/* -- datagrams -- */

static int refused(void)
{
	int closed = socket(AF_INET, SOCK_DGRAM, 0), fd = socket(AF_INET, SOCK_DGRAM, 0);
	struct sockaddr_in name = { AF_INET, 0, { htonl(INADDR_LOOPBACK) }, { 0 } };
	socklen_t size = sizeof(name);

	bind(closed, (struct sockaddr *)&name, sizeof(name));
	getsockname(closed, (struct sockaddr *)&name, &size);
	close(closed);
	connect(fd, (struct sockaddr *)&name, sizeof(name));
	write(fd, buffer, 1);
	return fd;
}

static void try_datagrams(void)
{
	int fd = socket(AF_INET, SOCK_DGRAM, 0), pair[2];

	vector.iov_len = sizeof(buffer);
	header.msg_name = &inet_name;
	header.msg_namelen = sizeof(inet_name);
	TRY(sendto, fd, buffer, sizeof(buffer), 0, &inet_name, sizeof(inet_name));
	TRY(sendmsg, fd, &header, 0);
	TRY(sendmmsg, fd, many(), 1, 0);
	vector.iov_len = 1;
	header.msg_name = NULL;
	header.msg_namelen = 0;
	TRY(sendto, fd, buffer, 1, 0, NULL, 0);
	TRY(sendmsg, fd, &header, 0);
	TRY(recvfrom, refused(), buffer, 1, 0, NULL, NULL);
	TRY(recvmsg, refused(), &header, 0);
	TRY(recvmmsg, refused(), many(), 1, 0, NULL);
	TRY(sendto, refused(), buffer, 1, 0, NULL, 0);
	TRY(sendmsg, refused(), &header, 0);
	TRY(sendmmsg, refused(), many(), 1, 0);
	TRY(read, refused(), buffer, 1);
	TRY(write, refused(), buffer, 1);
	socketpair(AF_UNIX, SOCK_DGRAM, 0, pair);
	TRY(write, pair[0], "text", 4);
	TRY(recvmmsg, pair[1], many(), 1, MSG_DONTWAIT, NULL);
	TRY(recvmmsg, pair[1], many(), 1, MSG_DONTWAIT, NULL);
	TRY(recvmmsg, pair[1], many(), 1, 0, (&(struct timespec){ 0, -1 }));
	TRY(sendmmsg, pair[1], many(), 1, 0);
	TRY(sendmmsg, pair[1], NULL, 0, 0);
}

int main(int argc, char **argv)
{
	int fd;

	if (enter_folder(argc, argv))
		return 1;
	close_range(3, ~0u, 0);
	fd = unix_socket(SOCK_STREAM);
	bind(fd, (struct sockaddr *)&stream_name, sizeof(stream_name));
	listen(fd, 20);
	CALL(bind(unix_socket(SOCK_DGRAM), (struct sockaddr *)&datagram_name, sizeof(datagram_name)));
	listen_to_inet();
	try_names();
	IN_CHILD try_connections();
	IN_CHILD try_accepts(fd);
	IN_CHILD try_datagrams();
	return 42;
}
