// SPDX-License-Identifier: Apache-2.0
/*
 * The table of connections.
 *
 * Idle, a connection is this structure and its unix socket. What the guest sends goes straight into the socket; only
 * what the socket does not take is kept, never more than the guest was promised room for, and all promises together
 * have a budget: no guest makes the host's memory grow by asking for more.
 */
#include "vsock/vsock.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

/* A message in to_host has its length in front of it, and may be as short as a byte. */
enum { SEQPACKET_OVERHEAD = 5 };
enum { PEND_STEP = 512 };

static void list_add(struct vsock_list *list, struct vsock_conn *c)
{
	c->prev = list->last;
	c->next = NULL;
	if (list->last)
		list->last->next = c;
	else
		list->first = c;
	list->last = c;
	list->n++;
}

void vsock_list_remove(struct vsock_list *list, struct vsock_conn *c)
{
	if (c->prev)
		c->prev->next = c->next;
	else
		list->first = c->next;
	if (c->next)
		c->next->prev = c->prev;
	else
		list->last = c->prev;
	c->prev = c->next = NULL;
	list->n--;
}

/* The guest chooses ports; without the seed it could choose them to share one bucket. */
static uint32_t bucket_of(const struct vsock *v, uint32_t host_port, uint32_t guest_port)
{
	uint64_t key = ((uint64_t)host_port << 32 | guest_port) ^ v->seed;

	key = (key ^ key >> 32) * 0x9e3779b97f4a7c15u;
	key = (key ^ key >> 29 ^ v->seed) * 0xbf58476d1ce4e5b9u;
	return (uint32_t)(key >> 32) & (v->nbuckets - 1);
}

struct vsock_conn *vsock_conn_find(const struct vsock *v, uint32_t host_port, uint32_t guest_port)
{
	struct vsock_conn *c;

	if (!v->bucket)
		return NULL;
	for (c = v->bucket[bucket_of(v, host_port, guest_port)]; c; c = c->hash_next)
		if (c->host_port == host_port && c->guest_port == guest_port)
			return c;
	return NULL;
}

static int table_grow(struct vsock *v)
{
	uint32_t old = v->nbuckets, n = old ? 2 * old : VSOCK_BUCKETS_MIN;
	struct vsock_conn **bucket = v->bucket, **fresh = vsock_alloc(v, n * sizeof(struct vsock_conn *));

	if (!fresh)
		return old ? 0 : -ENOMEM; /* the old table continues to work, with longer chains */
	v->bucket = fresh;
	v->nbuckets = n;
	for (uint32_t i = 0; i < old; i++) {
		while (bucket[i]) {
			struct vsock_conn *c = bucket[i];
			struct vsock_conn **to = &fresh[bucket_of(v, c->host_port, c->guest_port)];

			bucket[i] = c->hash_next;
			c->hash_next = *to;
			*to = c;
		}
	}
	vsock_release(v, bucket, old * sizeof(struct vsock_conn *));
	return 0;
}

int vsock_conn_enter(struct vsock *v, struct vsock_conn *c)
{
	struct vsock_conn **to;

	if (v->nconns > v->nbuckets || !v->bucket) {
		int err = table_grow(v);

		if (err)
			return err;
	}
	to = &v->bucket[bucket_of(v, c->host_port, c->guest_port)];
	c->hash_next = *to;
	*to = c;
	c->in_table = true;
	return 0;
}

static void table_remove(struct vsock *v, struct vsock_conn *c)
{
	struct vsock_conn **at;

	if (!c->in_table)
		return;
	c->in_table = false;
	at = &v->bucket[bucket_of(v, c->host_port, c->guest_port)];
	while (*at != c)
		at = &(*at)->hash_next;
	*at = c->hash_next;
}

uint32_t vsock_conn_port(struct vsock *v, uint32_t guest_port)
{
	do {
		if (++v->next_port < VSOCK_FIRST_PORT)
			v->next_port = VSOCK_FIRST_PORT;
	} while (v->next_port == UINT32_MAX || vsock_conn_find(v, v->next_port, guest_port));
	return v->next_port;
}

static uint32_t weight_of(uint16_t type)
{
	return type == VSOCK_TYPE_SEQPACKET ? SEQPACKET_OVERHEAD : 1;
}

/* Increase buf_alloc, if the budget allows it. */
static void conn_promise(struct vsock *v, struct vsock_conn *c)
{
	uint32_t weight = weight_of(c->type);
	uint64_t others = v->promised - c->promised;
	/* An eighth of what is left: the first connections get the most that they can use, and some is left for the next. */
	uint64_t room = VSOCK_BUF_MIN + (others < VSOCK_BUDGET ? (VSOCK_BUDGET - others) / 8 / weight : 0);

	room = room > VSOCK_BUF_ALLOC ? VSOCK_BUF_ALLOC : room & ~(uint64_t)(VSOCK_BUF_MIN - 1);
	/* buf_alloc never decreases: the guest may have used it already. */
	if (room <= c->buf_alloc)
		return;
	c->buf_alloc = (uint32_t)room;
	c->promised = (c->buf_alloc - VSOCK_BUF_MIN) * weight;
	v->promised = others + c->promised;
}

bool vsock_conn_room(struct vsock *v)
{
	struct vsock_conn *oldest = v->greeting.first;

	if (v->nconns < v->config.max_conns)
		return true;
	if (!oldest || clock_ns() - oldest->since_ns < VSOCK_GREETING_MS * 1000000ull)
		return false;
	vsock_conn_kill(v, oldest);
	return true;
}

struct vsock_conn *vsock_conn_new(struct vsock *v, int fd, uint16_t type, enum vsock_state state)
{
	struct vsock_conn *c;

	if (v->nconns + v->nlinger >= v->config.max_conns || v->least + VSOCK_BUF_MIN * weight_of(type) > VSOCK_LEAST)
		return NULL;
	c = vsock_alloc(v, sizeof(*c));
	if (!c)
		return NULL;
	c->fd = fd;
	c->type = type;
	c->state = (uint8_t)state;
	c->burst = VSOCK_BURST_MIN;
	c->since_ns = clock_ns();
	if (vsock_conn_watch(v, c, EPOLL_CTL_ADD) < 0) {
		vsock_release(v, c, sizeof(*c));
		return NULL;
	}
	v->nconns++;
	v->least += VSOCK_BUF_MIN * weight_of(type);
	stat_set(&v->stats.connections, v->nconns);
	conn_promise(v, c);
	if (state == VSOCK_GREETING)
		list_add(&v->greeting, c);
	return c;
}

int vsock_conn_watch(struct vsock *v, struct vsock_conn *c, int how)
{
	/* Edge-triggered: a connection that waits for credit must not wake the worker repeatedly. */
	struct epoll_event e = {
		.events = EPOLLIN | EPOLLRDHUP | EPOLLET | (c->want_out ? EPOLLOUT : 0),
		.data.ptr = c,
	};

	return epoll_ctl(v->worker.epoll_fd, how, c->fd, &e) < 0 ? -errno : 0;
}

static void drop_to_host(struct vsock *v, struct vsock_conn *c)
{
	stat_set(&v->stats.waiting_bytes, v->stats.waiting_bytes - vsock_pend_len(c->to_host));
	vsock_pend_drop(v, &c->to_host);
	c->message_len = 0;
	c->in_message = false;
}

void vsock_conn_listen(struct vsock *v, bool on)
{
	int fds[] = { v->config.listen_fd, v->config.seq_listen_fd };

	if (v->listening == on || !v->running)
		return;
	for (int i = 0; i < 2; i++) {
		struct epoll_event e = { .events = EPOLLIN, .data.u64 = VSOCK_SOURCE_LISTEN + (uint64_t)i };

		if (fds[i] >= 0)
			epoll_ctl(v->worker.epoll_fd, on ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, fds[i], &e);
	}
	v->listening = on;
}

void vsock_conn_close_fd(struct vsock *v, struct vsock_conn *c)
{
	drop_to_host(v, c);
	vsock_pend_drop(v, &c->to_guest);
	c->readable = c->want_out = false;
	if (c->fd < 0)
		return;
	/*
	 * close() removes it from epoll only if there is no duplicate. A child process that another thread is making has one
	 * for a moment; then epoll would report events of a connection that was freed.
	 */
	if (v->running)
		epoll_ctl(v->worker.epoll_fd, EPOLL_CTL_DEL, c->fd, NULL);
	vsock_kernel_close(v, c);
	c->fd = -1;
	/* accept() may have failed for want of descriptors: listen again. */
	vsock_conn_listen(v, true);
}

void vsock_conn_kill(struct vsock *v, struct vsock_conn *c)
{
	if (c->state == VSOCK_DEAD)
		return;
	table_remove(v, c);
	if (c->listed)
		vsock_list_remove(&v->ready, c);
	c->listed = false;
	if (c->state == VSOCK_GREETING)
		vsock_list_remove(&v->greeting, c);
	if (c->state == VSOCK_ORPHAN)
		vsock_list_remove(&v->orphans, c);
	c->state = VSOCK_DEAD;
	v->nconns--;
	v->promised -= c->promised;
	v->least -= VSOCK_BUF_MIN * weight_of(c->type);
	stat_set(&v->stats.connections, v->nconns);
	vsock_conn_close_fd(v, c);
	/* Not freed yet: an event of this turn may point to it. */
	list_add(&v->dead, c);
}

void vsock_conn_bury(struct vsock *v)
{
	while (v->dead.first) {
		struct vsock_conn *c = v->dead.first;

		vsock_list_remove(&v->dead, c);
		vsock_release(v, c, sizeof(*c));
	}
}

void vsock_conn_ready(struct vsock *v, struct vsock_conn *c)
{
	if (c->listed || c->state == VSOCK_DEAD || c->state == VSOCK_GREETING || c->state == VSOCK_ORPHAN)
		return;
	c->listed = true;
	list_add(&v->ready, c);
}

void vsock_conn_owe(struct vsock *v, struct vsock_conn *c, uint8_t what)
{
	c->owe |= what;
	vsock_conn_ready(v, c);
}

void vsock_conn_reset(struct vsock *v, struct vsock_conn *c)
{
	if (c->state == VSOCK_DEAD)
		return;
	if (c->state == VSOCK_GREETING || c->state == VSOCK_ORPHAN) {
		vsock_conn_kill(v, c);
		return;
	}
	if (c->state != VSOCK_CLOSING)
		stat_add(&v->stats.resets, 1);
	vsock_conn_close_fd(v, c);
	c->state = VSOCK_CLOSING;
	c->owe = 0;
	vsock_conn_owe(v, c, VSOCK_OWE_RST);
}

void vsock_conn_finish(struct vsock *v, struct vsock_conn *c)
{
	if (c->state == VSOCK_DEAD || c->state == VSOCK_ORPHAN)
		return;
	c->guest_shut = VSOCK_SHUT_BOTH;
	if (c->owe & VSOCK_OWE_RST) {
		/* Send the RST first: vsock_rx.c then calls this again. */
		return;
	}
	if (!vsock_pend_len(c->to_host)) {
		vsock_conn_kill(v, c);
		return;
	}
	table_remove(v, c);
	if (c->listed)
		vsock_list_remove(&v->ready, c);
	c->listed = false;
	c->state = VSOCK_ORPHAN;
	list_add(&v->orphans, c);
}

void vsock_conn_kill_all(struct vsock *v)
{
	while (v->greeting.first)
		vsock_conn_kill(v, v->greeting.first);
	while (v->orphans.first)
		vsock_conn_kill(v, v->orphans.first);
	for (uint32_t i = 0; i < v->nbuckets; i++)
		while (v->bucket[i])
			vsock_conn_kill(v, v->bucket[i]);
	vsock_conn_bury(v);
}

struct vsock_pend *vsock_pend_new(struct vsock *v, uint32_t size)
{
	struct vsock_pend *p = vsock_alloc(v, sizeof(*p) + size);

	if (p)
		p->size = size;
	return p;
}

void vsock_pend_drop(struct vsock *v, struct vsock_pend **pend)
{
	if (*pend)
		vsock_release(v, *pend, sizeof(**pend) + (*pend)->size);
	*pend = NULL;
}

int vsock_pend_add(struct vsock *v, struct vsock_pend **pend, const struct iovec *iov, uint32_t niov, uint32_t len)
{
	struct vsock_pend *p = *pend;
	uint32_t used = vsock_pend_len(p);

	if (p && len > p->size - p->tail && p->head) {
		memmove(p->data, p->data + p->head, used);
		p->head = 0;
		p->tail = used;
	}
	if (!p || len > p->size - p->tail) {
		/* Grow by a quarter: little more than buf_alloc. */
		uint64_t size = ((uint64_t)used + len + used / 4 + PEND_STEP - 1) & ~(uint64_t)(PEND_STEP - 1);

		/* head is 0 here: a new block is zero, and data of an old one were moved above. */
		p = vsock_realloc(v, p, p ? sizeof(*p) + p->size : 0, sizeof(*p) + size);
		if (!p)
			return -ENOMEM;
		p->size = (uint32_t)size;
		p->head = 0;
		p->tail = used;
		*pend = p;
	}
	p->tail += (uint32_t)iov_gather(iov, niov, p->data + p->tail, len);
	return 0;
}

void vsock_pend_take(struct vsock *v, struct vsock_pend **pend, uint32_t len)
{
	struct vsock_pend *p = *pend;

	p->head += len;
	if (p->head == p->tail)
		vsock_pend_drop(v, pend);
}

void vsock_conn_forwarded(struct vsock *v, struct vsock_conn *c, uint32_t len)
{
	c->fwd_cnt += len;
	conn_promise(v, c);
	/* Send a credit update when half of buf_alloc was passed on: the guest can send the other half meanwhile. */
	if (c->fwd_cnt - c->last_fwd >= c->buf_alloc / 2)
		vsock_conn_owe(v, c, VSOCK_OWE_CREDIT);
}
