// SPDX-License-Identifier: Apache-2.0
#include "ttrpc.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
/* needs sys/socket.h before */
#include <linux/vm_sockets.h>
#include <unistd.h>

#define CONNECTIONS_MAX 16
/* No more calls are read while that many bytes wait to be written. */
#define OUT_MAX (8u << 20)

static unsigned int connections;

static void conn_close(struct conn *conn)
{
	calls_end(conn);
	watch_remove(&conn->watch);
	close(conn->watch.fd);
	free(conn->body);
	free(conn->out);
	free(conn);
	connections--;
}

static void conn_update(struct conn *conn)
{
	uint32_t events = conn->out_used ? EPOLLOUT : 0;

	if (conn->out_used < OUT_MAX)
		events |= EPOLLIN;
	watch_change(&conn->watch, events);
}

void conn_send(struct conn *conn, const uint8_t *data, size_t size)
{
	if (!conn->out_used) {
		ssize_t put = send(conn->watch.fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (put < 0 && errno != EAGAIN && errno != EINTR)
			return;
		if (put > 0) {
			data += put;
			size -= put;
		}
		if (!size)
			return;
	}
	if (conn->out_size - conn->out_used < size) {
		size_t wanted = conn->out_used + size;
		uint8_t *larger = realloc(conn->out, wanted);

		if (!larger) {
			shutdown(conn->watch.fd, SHUT_RDWR);
			return;
		}
		conn->out = larger;
		conn->out_size = wanted;
	}
	memcpy(conn->out + conn->out_used, data, size);
	conn->out_used += size;
	conn_update(conn);
}

static int conn_flush(struct conn *conn)
{
	ssize_t put = send(conn->watch.fd, conn->out, conn->out_used, MSG_NOSIGNAL | MSG_DONTWAIT);

	if (put < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	conn->out_used -= put;
	memmove(conn->out, conn->out + put, conn->out_used);
	if (!conn->out_used) {
		free(conn->out);
		conn->out = NULL;
		conn->out_size = 0;
	}
	conn_update(conn);
	return 0;
}

static void frame_done(struct conn *conn)
{
	uint32_t stream = frame_get_be32(conn->header + 4);
	uint8_t *body = conn->body;

	conn->header_used = 0;
	conn->body = NULL;
	if (conn->skipping) {
		conn->skipping = false;
		if (conn->header[8] == FRAME_REQUEST)
			conn_send_failure(conn, stream, STATUS_RESOURCE_EXHAUSTED, "a message of more than 4 MiB");
	} else if (conn->header[8] == FRAME_REQUEST) {
		call_begin(conn, stream, body, conn->body_size);
	}
	free(body);
}

/* Read the available bytes of one frame. 1 if there may be more, 0 if not, -errno at the end of the connection. */
static int frame_read(struct conn *conn)
{
	static uint8_t dropped[4096];
	uint8_t *into;
	size_t room;
	ssize_t got;

	if (conn->header_used < TTRPC_HEADER) {
		into = conn->header + conn->header_used;
		room = TTRPC_HEADER - conn->header_used;
	} else {
		room = conn->body_size - conn->body_used;
		into = conn->skipping ? dropped : conn->body + conn->body_used;
		if (conn->skipping && room > sizeof(dropped))
			room = sizeof(dropped);
	}
	got = recv(conn->watch.fd, into, room, MSG_DONTWAIT);
	if (got < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	if (!got)
		return -ECONNRESET;
	if (conn->header_used < TTRPC_HEADER) {
		conn->header_used += got;
		if (conn->header_used < TTRPC_HEADER)
			return 1;
		conn->body_size = frame_get_be32(conn->header);
		conn->body_used = 0;
		conn->skipping = conn->body_size > TTRPC_MESSAGE_MAX;
		if (!conn->skipping)
			conn->body = xzalloc(conn->body_size ? conn->body_size : 1);
	} else {
		conn->body_used += got;
	}
	if (conn->body_used == conn->body_size)
		frame_done(conn);
	return 1;
}

static void conn_ready(struct watch *watch, uint32_t events)
{
	struct conn *conn = container_of(watch, struct conn, watch);
	int error = 0;

	if (events & EPOLLOUT)
		error = conn_flush(conn);
	/* Read all there is, but only so many frames before other connections get a turn. */
	for (int i = 0; !error && i < 64 && conn->out_used < OUT_MAX; i++) {
		error = frame_read(conn);
		if (!error)
			return;
		if (error > 0)
			error = 0;
	}
	if (error < 0)
		conn_close(conn);
}

int conn_serve(int fd)
{
	struct conn *conn = xzalloc(sizeof(*conn));
	int error;

	conn->watch.fd = fd;
	conn->watch.ready = conn_ready;
	error = watch_add(&conn->watch, EPOLLIN);
	if (error) {
		close(fd);
		free(conn);
		return error;
	}
	connections++;
	return 0;
}

/* Containers have vsock as well: accept connections from the host's CID only. */
bool conn_is_host(int fd)
{
	struct sockaddr_vm peer;
	socklen_t size = sizeof(peer);

	return !getpeername(fd, (struct sockaddr *)&peer, &size) && peer.svm_family == AF_VSOCK &&
	       peer.svm_cid == VMADDR_CID_HOST;
}

static void listener_ready(struct watch *watch, uint32_t events)
{
	int fd = accept4(watch->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	(void)events;
	if (fd < 0)
		return;
	if (connections >= CONNECTIONS_MAX || !conn_is_host(fd))
		close(fd);
	else {
		log_connected();
		conn_serve(fd);
	}
}

int ttrpc_serve(int fd)
{
	static struct watch listener = { .ready = listener_ready };

	listener.fd = fd;
	return watch_add(&listener, EPOLLIN);
}
