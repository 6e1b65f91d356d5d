// SPDX-License-Identifier: Apache-2.0
/* Validates the buffers of a chain and adds them to it, and latches the guest's first error. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#include "ring/ring_struct.h"

int ring_fail(struct ring *ring, int err, const char *fmt, ...)
{
	va_list ap;

	if (ring->error)
		return ring->error;
	va_start(ap, fmt);
	vsnprintf(ring->reason, sizeof(ring->reason), fmt, ap);
	va_end(ap);
	ring->error = err;
	return err;
}

int chain_add(struct ring *ring, struct chain *chain, const struct desc *d)
{
	uint32_t n = chain->nread + chain->nwrite;
	void *p;

	/*
	 * The specification does not define a zero-length buffer. No Linux driver makes one, and QEMU rejects it, too.
	 */
	if (unlikely(d->len == 0))
		return ring_fail(ring, -EPROTO, "chain %u has a buffer of zero bytes", chain->head);
	if (unlikely(n >= chain->max || n >= RING_MAX_SEGMENTS))
		return ring_fail(ring, -EPROTO, "chain %u has more than %u buffers", chain->head, n);
	if (unlikely(!(d->flags & DESC_WRITE) && chain->nwrite))
		return ring_fail(ring, -EPROTO, "chain %u has a readable buffer behind a writable one", chain->head);
	p = mem_ptr(ring->mem, d->addr, d->len);
	if (unlikely(!p))
		return ring_fail(ring, -EFAULT, "chain %u has a buffer at %#llx of %u bytes, not in one piece of RAM",
				 chain->head, (unsigned long long)d->addr, d->len);
	chain->iov[n] = (struct iovec){ .iov_base = p, .iov_len = d->len };
	/* The sums cannot overflow 64 bits: they are at most RING_MAX_SEGMENTS times 4 GiB. */
	if (d->flags & DESC_WRITE) {
		chain->nwrite++;
		chain->write_len += d->len;
	} else {
		chain->nread++;
		chain->read_len += d->len;
	}
	return 0;
}

const uint8_t *chain_indirect(struct ring *ring, const struct chain *chain, const struct desc *at)
{
	const uint8_t *table;

	if (!(ring->config.flags & RING_INDIRECT)) {
		ring_fail(ring, -EPROTO, "chain %u is indirect, which was not negotiated", chain->head);
		return NULL;
	}
	if (at->flags & DESC_NEXT) {
		ring_fail(ring, -EPROTO, "chain %u goes on behind an indirect table", chain->head);
		return NULL;
	}
	if (at->len == 0 || at->len % DESC_SIZE) {
		ring_fail(ring, -EPROTO, "chain %u has an indirect table of %u bytes", chain->head, at->len);
		return NULL;
	}
	table = mem_ptr(ring->mem, at->addr, at->len);
	if (!table)
		ring_fail(ring, -EFAULT, "chain %u has an indirect table at %#llx of %u bytes, not in one piece of RAM",
			  chain->head, (unsigned long long)at->addr, at->len);
	return table;
}

/*
 * The entries of an indirect table form the chain, in order (2.8.7). Only the flag DESC_WRITE has a meaning there, and
 * drivers may set others. As in a split ring, a nested indirect table is rejected.
 */
int packed_add_indirect(struct ring *ring, struct chain *chain, const struct desc *at)
{
	const uint8_t *table = chain_indirect(ring, chain, at);
	uint32_t count = at->len / DESC_SIZE;
	int err;

	if (!table)
		return ring->error;
	for (uint32_t i = 0; i < count; i++) {
		/* A packed descriptor has its flags where a split one has next. */
		struct desc d = desc_copy(table + (size_t)i * DESC_SIZE);

		d.flags = d.next;
		if (unlikely(d.flags & DESC_INDIRECT))
			return ring_fail(ring, -EPROTO, "chain %u has an indirect table in an indirect table", chain->head);
		err = chain_add(ring, chain, &d);
		if (unlikely(err))
			return err;
	}
	return 0;
}
