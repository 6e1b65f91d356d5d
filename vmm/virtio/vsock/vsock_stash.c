// SPDX-License-Identifier: Apache-2.0
/*
 * The stash: buffers of the guest that were popped and not filled. A buffer is small (Linux offers 4 KiB), so several are
 * popped before a read; those that a connection does not fill are used by the next one.
 */
#include "vsock/vsock.h"

#include <string.h>

/* The smallest buffer that can be used: a header and one byte. */
enum { ROOM_MIN = VSOCK_HDR_SIZE + 1 };

/* Move the slots to the front. */
static void stash_pack(struct vsock *v)
{
	struct vsock_slot *first = &v->stash[v->stash_first];
	size_t shift = v->nstash ? (size_t)(first->iov - v->stash_iov) : v->stash_end;

	memmove(v->stash_iov, v->stash_iov + shift, (v->stash_end - shift) * sizeof(v->stash_iov[0]));
	memmove(v->stash, first, v->nstash * sizeof(v->stash[0]));
	for (uint32_t i = 0; i < v->nstash; i++)
		v->stash[i].iov -= shift;
	v->stash_end -= (uint32_t)shift;
	v->stash_first = 0;
}

int vsock_stash_fill(struct vsock *v, uint32_t want)
{
	uint32_t useless = 0;

	/* Bounded, also if the guest offers useless buffers as fast as they are pushed. */
	while (v->nstash < want && useless < VSOCK_STASH) {
		struct chain chain = { .max = RING_MAX_SEGMENTS };
		struct vsock_slot *s;
		int n;

		if (v->stash_first + v->nstash == VSOCK_STASH || v->stash_end + RING_MAX_SEGMENTS > VSOCK_STASH_IOV) {
			stash_pack(v);
			if (v->stash_end + RING_MAX_SEGMENTS > VSOCK_STASH_IOV)
				break;
		}
		chain.iov = v->stash_iov + v->stash_end;
		n = ring_pop(v->rx, &chain);
		if (n < 0)
			return n;
		if (n == 0)
			break;
		if (chain.write_len < ROOM_MIN) {
			/* While the stash has buffers, none popped later may be pushed: ring_unpop() would fail. */
			if (v->nstash) {
				ring_unpop(v->rx, chain.head);
				break;
			}
			stat_add(&v->stats.malformed, 1);
			stat_add(&v->worker.stats.chains, 1);
			ring_push(v->rx, chain.head, 0);
			useless++;
			continue;
		}
		stat_add(&v->worker.stats.chains, 1);
		s = &v->stash[v->stash_first + v->nstash++];
		*s = (struct vsock_slot){ chain.head, chain.nwrite, chain.iov + chain.nread, chain.write_len };
		v->stash_end += chain.nread + chain.nwrite;
	}
	v->rx_starved = v->nstash == 0;
	return (int)v->nstash;
}

void vsock_stash_return(struct vsock *v)
{
	while (v->nstash)
		ring_unpop(v->rx, v->stash[v->stash_first + --v->nstash].head);
	v->stash_first = v->stash_end = 0;
}

void vsock_stash_send(struct vsock *v, const struct vsock_hdr *h)
{
	struct vsock_slot *s = &v->stash[v->stash_first];

	iov_scatter(s->iov, s->niov, h, sizeof(*h));
	ring_push(v->rx, s->head, VSOCK_HDR_SIZE + h->len);
	v->stash_first++;
	if (--v->nstash == 0)
		v->stash_first = v->stash_end = 0;
	stat_add(&v->stats.to_guest_packets, 1);
}

uint32_t vsock_stash_iov(struct vsock *v, uint32_t n, uint64_t max, uint64_t *room)
{
	uint32_t at = 0;

	*room = 0;
	for (uint32_t i = 0; i < n && *room < max; i++) {
		const struct vsock_slot *s = &v->stash[v->stash_first + i];
		size_t skip = VSOCK_HDR_SIZE;

		for (uint32_t k = 0; k < s->niov && *room < max; k++) {
			struct iovec iov = s->iov[k];
			size_t off = skip < iov.iov_len ? skip : iov.iov_len;

			skip -= off;
			iov.iov_len -= off;
			if (!iov.iov_len)
				continue;
			/* The rest is for the next read. */
			if (at == RING_MAX_SEGMENTS)
				return at;
			iov.iov_base = (uint8_t *)iov.iov_base + off;
			if (iov.iov_len > max - *room)
				iov.iov_len = max - *room;
			*room += iov.iov_len;
			v->iov[at++] = iov;
		}
	}
	return at;
}
