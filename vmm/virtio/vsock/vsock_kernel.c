// SPDX-License-Identifier: Apache-2.0
/*
 * What the kernel keeps of a guest's data: sk_buffs in unix sockets whose readers do not read.
 *
 * A buffer takes some 800 bytes more than is in it, so a guest that sends single bytes has a socket's whole limit taken, of
 * each connection. Each connection therefore leases memory of one pool before it sends, as much as its data can take at
 * most. When that is used up, the kernel is asked what is really there (SIOCOUTQ). What finds the pool empty waits as
 * if its socket were full, and is tried again from time to time: nobody tells that another connection's reader has read. A
 * connection whose own reader has read everything never waits: one who does not read holds nobody else up. That is a
 * piece of data each, which we keep otherwise, and the buffer around it.
 */
#include "vsock/vsock.h"

#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

/* A buffer's own size, the rounding of what is in it, and how much goes into one at most. */
enum { BUFFER = 2048, PIECE = 16 << 10 };
/* Leased beyond what is needed now. */
enum { AHEAD = 32 << 10 };
enum { SWEEP_NS = 20 * 1000000 };

static uint64_t cost_of(uint64_t len)
{
	return 2 * len + BUFFER * (1 + len / PIECE);
}

/* What its reader has not read. */
static uint32_t unread(int fd)
{
	int used = 0;

	return ioctl(fd, SIOCOUTQ, &used) < 0 || used < 0 ? 0 : (uint32_t)used;
}

/* Have it lease what is used, and more. */
static bool lease(struct vsock *v, struct vsock_conn *c, uint64_t more)
{
	uint32_t used = unread(c->fd);
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

/* A lease is as large as what is used. */
static void sweep_leases(struct vsock *v, struct vsock_conn *c)
{
	if (c->fd >= 0 && c->leased)
		lease(v, c, 0);
}

bool vsock_kernel_take(struct vsock *v, struct vsock_conn *c, uint64_t len)
{
	uint64_t cost = cost_of(len);

	if (c->room < cost && !lease(v, c, cost)) {
		/* Others may have leased what they do not use. */
		if (sweep_due(&v->shrunk_ns))
			vsock_kernel_each(v, sweep_leases);
		if (!lease(v, c, cost)) {
			c->starved = v->starved = true;
			return false;
		}
	}
	c->room -= (uint32_t)cost;
	return true;
}

void vsock_kernel_close(struct vsock *v, struct vsock_conn *c)
{
	uint32_t used = unread(c->fd);

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
	/* To the reader it is closed. */
	shutdown(c->fd, SHUT_RDWR);
	v->leased += used;
	v->linger[v->nlinger++] = (struct vsock_linger){ c->fd, used };
}

static void sweep_linger(struct vsock *v)
{
	for (uint32_t i = 0; i < v->nlinger;) {
		struct vsock_linger *l = &v->linger[i];
		uint32_t used = unread(l->fd);

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
