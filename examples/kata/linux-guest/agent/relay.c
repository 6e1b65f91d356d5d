// SPDX-License-Identifier: Apache-2.0
#include "relay.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define SECOND 1000000000ull
/* Time limit for the request and the connection. */
#define CONNECT_NS (30 * SECOND)
/* How long one side may continue after the other has closed: a server that never closes would occupy a slot. */
#define LINGER_NS (60 * SECOND)
#define PIECE 65536
#define REQUEST 6

struct end {
	struct watch watch;
	struct relay *relay;
	uint32_t events; /* watched events; 0: none */
	uint8_t *kept; /* bytes not yet sent to it */
	size_t kept_at, kept_size;
	bool ended; /* it has sent its end of file */
};

enum relay_state {
	RELAY_ASKING, /* the request is not complete */
	RELAY_CONNECTING,
	RELAY_RUNNING,
};

struct relay {
	struct end near, far; /* the accepted connection, and the connection to the server */
	enum relay_state state;
	struct relay_listener *listener;
	struct relay *next; /* next relay of the same listener */
	struct timer timer;
	uint8_t request[REQUEST];
	size_t request_used;
	bool second; /* the other family is being tried */
};

struct relay_listener {
	struct watch watch;
	bool (*may)(int fd);
	char *path; /* path of the unix socket; NULL for a port forwarding */
	unsigned int port; /* port on the host */
	unsigned int count;
	bool paused;
	struct relay *relays;
};

static void end_ready(struct watch *watch, uint32_t events);

static void end_watch(struct end *end, uint32_t events)
{
	if (events == end->events)
		return;
	if (!events)
		watch_remove(&end->watch);
	else if (end->events ? watch_change(&end->watch, events) : watch_add(&end->watch, events))
		events = 0; /* out of memory: the timer or the peer closes it */
	end->events = events;
}

static void end_init(struct end *end, struct relay *relay, int fd)
{
	end->watch.fd = fd;
	end->watch.ready = end_ready;
	end->relay = relay;
}

static void end_deinit(struct end *end)
{
	end_watch(end, 0);
	if (end->watch.fd >= 0)
		close(end->watch.fd);
	end->watch.fd = -1;
	free(end->kept);
}

static uint32_t end_wants(const struct end *end, const struct end *other)
{
	/* A descriptor that is ready and not read would be reported again and again, so it is not watched then. */
	return (end->ended || other->kept ? 0 : EPOLLIN) | (end->kept ? EPOLLOUT : 0);
}

static void relay_watch(struct relay *relay)
{
	if (relay->state == RELAY_RUNNING) {
		end_watch(&relay->near, end_wants(&relay->near, &relay->far));
		end_watch(&relay->far, end_wants(&relay->far, &relay->near));
	} else {
		end_watch(&relay->near, relay->state == RELAY_ASKING ? EPOLLIN : 0);
		end_watch(&relay->far, relay->state == RELAY_CONNECTING ? EPOLLOUT : 0);
	}
}

static void relay_close(struct relay *relay)
{
	struct relay_listener *listener = relay->listener;
	struct relay **link = &listener->relays;

	while (*link != relay)
		link = &(*link)->next;
	*link = relay->next;
	timer_clear(&relay->timer);
	end_deinit(&relay->near);
	end_deinit(&relay->far);
	free(relay);
	listener->count--;
	if (listener->paused)
		listener->paused = watch_add(&listener->watch, EPOLLIN) != 0;
}

static void relay_expire(struct timer *timer)
{
	relay_close(container_of(timer, struct relay, timer));
}

/* Send, and queue what the socket does not accept; 0 or -errno. */
static int end_send(struct end *end, const uint8_t *data, size_t size)
{
	ssize_t put = send(end->watch.fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT);

	if (put < 0 && errno != EAGAIN && errno != EINTR)
		return -errno;
	if (put < 0)
		put = 0;
	if ((size_t)put == size)
		return 0;
	end->kept_at = 0;
	end->kept_size = size - put;
	end->kept = malloc(end->kept_size);
	if (!end->kept)
		return -ENOMEM;
	memcpy(end->kept, data + put, end->kept_size);
	return 0;
}

/* Send more of the queue; 0 or -errno. */
static int end_flush(struct end *end, const struct end *other)
{
	ssize_t put = send(end->watch.fd, end->kept + end->kept_at, end->kept_size - end->kept_at,
			   MSG_NOSIGNAL | MSG_DONTWAIT);

	if (put < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	end->kept_at += put;
	if (end->kept_at < end->kept_size)
		return 0;
	free(end->kept);
	end->kept = NULL;
	if (other->ended)
		shutdown(end->watch.fd, SHUT_WR);
	return 0;
}

/* Read at most one piece and send it to the other side; 0 or -errno. */
static int end_read(struct end *end, struct end *other, uint32_t events)
{
	static uint8_t piece[PIECE];
	ssize_t got = recv(end->watch.fd, piece, sizeof(piece), MSG_DONTWAIT);

	if (got < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	if (got)
		return end_send(other, piece, got);
	end->ended = true;
	shutdown(other->watch.fd, SHUT_WR);
	if (events & EPOLLHUP)
		timer_set(&end->relay->timer, clock_now() + LINGER_NS);
	return 0;
}

/* Start a connection to the requested address; a socket or -errno. */
static int forward_dial(const struct relay *relay)
{
	struct sockaddr_in v4 = { .sin_family = AF_INET };
	struct sockaddr_in6 v6 = { .sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT };
	bool asked_v4, is_v4;
	int fd, error;

	memcpy(&v4.sin_addr, relay->request, sizeof(v4.sin_addr));
	memcpy(&v4.sin_port, relay->request + sizeof(v4.sin_addr), sizeof(v4.sin_port));
	v6.sin6_port = v4.sin_port;
	asked_v4 = v4.sin_addr.s_addr != 0;
	/* Loopback addresses only: servers in this machine. */
	if (asked_v4 && ntohl(v4.sin_addr.s_addr) >> 24 != IN_LOOPBACKNET)
		return -EINVAL;
	if (!asked_v4)
		v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	is_v4 = asked_v4 != relay->second;
	fd = socket(is_v4 ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	error = is_v4 ? connect(fd, (struct sockaddr *)&v4, sizeof(v4)) : connect(fd, (struct sockaddr *)&v6, sizeof(v6));
	if (error && errno != EINPROGRESS) {
		error = -errno;
		close(fd);
		return error;
	}
	return fd;
}

static void relay_answer(struct relay *relay, int error)
{
	uint8_t answer = error <= -UINT8_MAX ? EIO : -error;

	if (!relay->listener->path)
		send(relay->near.watch.fd, &answer, sizeof(answer), MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* 0, or -errno if the relay was refused and must be closed. */
static int relay_dial(struct relay *relay)
{
	int fd = relay->listener->path ? host_connect(relay->listener->port) : forward_dial(relay);

	if (fd < 0 && !relay->listener->path && !relay->second && fd != -EINVAL) {
		relay->second = true;
		/* Report the error of the requested address, not of the other family. */
		int other = forward_dial(relay);

		if (other >= 0)
			fd = other;
	}
	if (fd < 0) {
		relay_answer(relay, fd);
		return fd;
	}
	end_init(&relay->far, relay, fd);
	relay->state = RELAY_CONNECTING;
	return 0;
}

/* The connection attempt has ended; 0 or -errno. */
static int relay_connected(struct relay *relay)
{
	int error = 0, fd;
	socklen_t size = sizeof(error);

	if (getsockopt(relay->far.watch.fd, SOL_SOCKET, SO_ERROR, &error, &size))
		error = errno;
	if (error && !relay->listener->path && !relay->second) {
		relay->second = true;
		fd = forward_dial(relay);
		if (fd >= 0) {
			end_deinit(&relay->far);
			end_init(&relay->far, relay, fd);
			return 0;
		}
	}
	relay_answer(relay, -error);
	if (error)
		return -error;
	timer_clear(&relay->timer);
	relay->state = RELAY_RUNNING;
	return 0;
}

/* Read the request; 0 or -errno. */
static int relay_asked(struct relay *relay)
{
	ssize_t got = recv(relay->near.watch.fd, relay->request + relay->request_used,
			   REQUEST - relay->request_used, MSG_DONTWAIT);

	if (got < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	if (!got)
		return -ECONNRESET;
	relay->request_used += got;
	return relay->request_used == REQUEST ? relay_dial(relay) : 0;
}

static void end_ready(struct watch *watch, uint32_t events)
{
	struct end *end = container_of(watch, struct end, watch), *other;
	struct relay *relay = end->relay;
	int error = 0;

	other = end == &relay->near ? &relay->far : &relay->near;
	if (relay->state == RELAY_ASKING)
		error = relay_asked(relay);
	else if (relay->state == RELAY_CONNECTING)
		error = relay_connected(relay);
	else {
		if (end->kept)
			error = end_flush(end, other);
		if (!error && !end->ended && !other->kept)
			error = end_read(end, other, events);
	}
	if (error || (relay->near.ended && relay->far.ended && !relay->near.kept && !relay->far.kept))
		relay_close(relay);
	else
		relay_watch(relay);
}

static void listener_ready(struct watch *watch, uint32_t events)
{
	struct relay_listener *listener = container_of(watch, struct relay_listener, watch);
	struct relay *relay;
	int fd;

	(void)events;
	if (listener->count >= RELAYS_MAX) {
		watch_remove(watch);
		listener->paused = true;
		return;
	}
	fd = accept4(watch->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0)
		return;
	if (listener->may && !listener->may(fd)) {
		close(fd);
		return;
	}
	relay = xzalloc(sizeof(*relay));
	end_init(&relay->near, relay, fd);
	end_init(&relay->far, relay, -1);
	relay->listener = listener;
	relay->next = listener->relays;
	listener->relays = relay;
	listener->count++;
	relay->timer.fire = relay_expire;
	timer_set(&relay->timer, clock_now() + CONNECT_NS);
	if (listener->path && relay_dial(relay))
		relay_close(relay);
	else
		relay_watch(relay);
}

int forward_serve(int fd, bool (*may)(int fd))
{
	static struct relay_listener listener = { .watch.ready = listener_ready };

	listener.watch.fd = fd;
	listener.may = may;
	return watch_add(&listener.watch, EPOLLIN);
}

/* Listen at a path that may be longer than sun_path. */
static int unix_listen(const struct socket_place *place)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	const char *name = strrchr(place->path, '/') + 1;
	char folder[PATH_MAX];
	int at, fd, error = 0, length;

	snprintf(folder, sizeof(folder), "%.*s", (int)(name - place->path), place->path);
	error = directory_make(folder, 0755);
	if (error)
		return error;
	at = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (at < 0)
		return -errno;
	length = snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/%s", at, name);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (length >= (int)sizeof(address.sun_path))
		error = -ENAMETOOLONG;
	else if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)))
		error = -errno;
	else if (fchownat(at, name, place->uid, place->gid, 0) || fchmodat(at, name, place->mode, 0) ||
		 listen(fd, SOMAXCONN)) {
		error = -errno;
		unlinkat(at, name, 0);
	}
	close(at);
	if (error && fd >= 0)
		close(fd);
	return error ? error : fd;
}

int socket_serve(const struct socket_place *place, struct relay_listener **made)
{
	struct relay_listener *listener;
	int fd = unix_listen(place), error;

	if (fd < 0)
		return fd;
	listener = xzalloc(sizeof(*listener));
	listener->watch.fd = fd;
	listener->watch.ready = listener_ready;
	listener->path = xstrdup(place->path);
	listener->port = place->port;
	error = watch_add(&listener->watch, EPOLLIN);
	if (error) {
		listener->paused = true;
		socket_end(listener);
		return error;
	}
	*made = listener;
	return 0;
}

void socket_end(struct relay_listener *listener)
{
	while (listener->relays)
		relay_close(listener->relays);
	if (!listener->paused)
		watch_remove(&listener->watch);
	close(listener->watch.fd);
	unlink(listener->path);
	free(listener->path);
	free(listener);
}
