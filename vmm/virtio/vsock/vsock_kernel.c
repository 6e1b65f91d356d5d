// SPDX-License-Identifier: Apache-2.0
/*
 * Limits the kernel's memory for a guest's data: sk_buffs in unix sockets whose readers do not read.
 *
 * An sk_buff takes some 800 bytes more than its data, so a guest that sends single bytes could use the whole limit of a
 * socket, for each connection. So each connection leases memory from one pool before it sends, as much as its data can take
 * at most. When a lease is used up, SIOCOUTQ says how much is really used. If the pool is empty, data wait as if the socket
 * were full, and are tried again periodically, since nothing reports that the reader of another connection has read. A
 * connection whose own reader has read everything never waits, so that a reader which does not read delays no other
 * connection; this can exceed the pool by one piece of data for each connection.
 */
#include "vsock/vsock.h"

#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

/* The overhead of an sk_buff, with rounding; and the most data in one. */
enum { BUFFER = 2048, PIECE = 16 << 10 };
/* How much is leased beyond the current need. */
enum { AHEAD = 32 << 10 };
enum { SWEEP_NS = 20 * 1000000 };

static uint64_t cost_of(uint64_t len)
{
	return 2 * len + BUFFER * (1 + len / PIECE);
}

/* The memory of data that the reader of a socket has not read. */
static uint32_t socket_unread(int fd)
{
	int used = 0;

	return ioctl(fd, SIOCOUTQ, &used) < 0 || used < 0 ? 0 : (uint32_t)used;
}

/* Set the lease to what is used, and `more`. False: the pool does not have so much. */
static bool conn_lease(struct vsock *v, struct vsock_conn *c, uint64_t more)
{
	uint32_t used = socket_unread(c->fd);
	uint64_t others = v->leased - c->leased;

	if (more && others + used + more + AHEAD <= VSOCK_KERNEL)
		c->room = (uint32_t)more + AHEAD;
	else if (others + used + more <= VSOCK_KERNEL || !used)
		c->room = (uint32_t)more;
	else
		c->room = 0;
	c->leased = used + c->room;
	v->leased = others + c->leased;
	return c->room >= more;
}

static bool sweep_due(uint64_t *last)
{
	uint64_t now = clock_ns();

	if (now - *last < SWEEP_NS)
		return false;
	*last = now;
	return true;
}

void vsock_kernel_each(struct vsock *v, void (*fn)(struct vsock *, struct vsock_conn *))
{
	struct vsock_conn *c, *next;

	for (c = v->orphans.first; c; c = next) {
		next = c->next;
		fn(v, c);
	}
	for (uint32_t i = 0; i < v->nbuckets; i++) {
		for (c = v->bucket[i]; c; c = next) {
			next = c->hash_next;
			fn(v, c);
		}
	}
}

/* Reduce the lease to what is used. */
static void sweep_leases(struct vsock *v, struct vsock_conn *c)
{
	if (c->fd >= 0 && c->leased)
		conn_lease(v, c, 0);
}

bool vsock_kernel_take(struct vsock *v, struct vsock_conn *c, uint64_t len)
{
	uint64_t cost = cost_of(len);

	if (c->room < cost && !conn_lease(v, c, cost)) {
		/* Other connections may have leased more than they use. */
		if (sweep_due(&v->shrunk_ns))
			vsock_kernel_each(v, sweep_leases);
		if (!conn_lease(v, c, cost)) {
			c->starved = v->starved = true;
			return false;
		}
	}
	c->room -= (uint32_t)cost;
	return true;
}

void vsock_kernel_close(struct vsock *v, struct vsock_conn *c)
{
	uint32_t used = v->closes_only ? 0 : socket_unread(c->fd);

	v->leased -= c->leased;
	c->leased = c->room = 0;
	c->starved = false;
	if (used && v->nlinger == v->max_linger) {
		uint32_t max = v->max_linger ? 2 * v->max_linger : 64;
		struct vsock_linger *more = 
			vsock_realloc(v, v->linger, v->max_linger * sizeof(*more), max * sizeof(*more));

		if (more) {
			v->linger = more;
			v->max_linger = max;
		}
	}
	if (!used || v->nlinger == v->max_linger) {
		close(c->fd);
		return;
	}
	/* Keep the descriptor, to ask for what is unread; for the reader it is closed. */
	shutdown(c->fd, SHUT_RDWR);
	v->leased += used;
	v->linger[v->nlinger++] = (struct vsock_linger){ c->fd, used };
}

static void sweep_linger(struct vsock *v)
{
	for (uint32_t i = 0; i < v->nlinger;) {
		struct vsock_linger *l = &v->linger[i];
		uint32_t used = socket_unread(l->fd);

		v->leased -= l->leased - (used < l->leased ? used : l->leased);
		l->leased = used < l->leased ? used : l->leased;
		if (used) {
			i++;
			continue;
		}
		close(l->fd);
		*l = v->linger[--v->nlinger];
	}
}

bool vsock_kernel_sweep(struct vsock *v)
{
	if (!sweep_due(&v->swept_ns))
		return false;
	sweep_linger(v);
	if (v->starved)
		vsock_kernel_each(v, sweep_leases);
	return true;
}

void vsock_kernel_free(struct vsock *v)
{
	while (v->nlinger)
		close(v->linger[--v->nlinger].fd);
	vsock_release(v, v->linger, v->max_linger * sizeof(*v->linger));
	v->linger = NULL;
	v->max_linger = 0;
}
