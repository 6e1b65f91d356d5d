// SPDX-License-Identifier: Apache-2.0
#include "test_packed.h"

struct driver d;
struct guest g;
struct iovec iov[RING_MAX_SEGMENTS];
struct chain chain = { .iov = iov, .max = RING_MAX_SEGMENTS };
uint32_t *driver_event, *device_event;

void setup(uint32_t size, uint32_t flags)
{
	guest_open(&g, size, flags | RING_PACKED);
	chain.max = RING_MAX_SEGMENTS;
	d.slot = d.used_slot = 0;
	d.wrap = d.used_wrap = true;
	driver_event = guest_ptr(&g, AT_AVAIL);
	device_event = guest_ptr(&g, AT_USED);
}

struct packed *at(uint32_t slot)
{
	return (struct packed *)(void *)&g.desc[slot];
}

static void advance(uint16_t *slot, bool *wrap, uint32_t n)
{
	*slot = (uint16_t)(*slot + n);
	if (*slot >= g.config.size) {
		*slot = (uint16_t)(*slot - g.config.size);
		*wrap = !*wrap;
	}
}

void put(uint64_t addr, uint32_t len, uint16_t id, uint16_t flags)
{
	struct packed *p = at(d.slot);

	p->addr = addr;
	p->len = len;
	p->id = id;
	__atomic_store_n(&p->flags, flags | (d.wrap ? AVAIL : USED), __ATOMIC_RELEASE);
	advance(&d.slot, &d.wrap, 1);
}

bool taken(uint16_t *id, uint32_t *len, uint32_t descs)
{
	const struct packed *p = at(d.used_slot);

	if ((__atomic_load_n(&p->flags, __ATOMIC_ACQUIRE) & BOTH) != (d.used_wrap ? BOTH : 0))
		return false;
	*id = p->id;
	*len = p->len;
	advance(&d.used_slot, &d.used_wrap, descs);
	return true;
}

void take(uint16_t want, uint32_t len, uint32_t descs)
{
	uint16_t id;
	uint32_t got;

	CHECK(taken(&id, &got, descs));
	CHECK_EQ(id, want);
	CHECK_EQ(got, len);
}

void breaks(int err, const char *words)
{
	CHECK_EQ(ring_pop(g.ring, &chain), err);
	CHECK(ring_error(g.ring));
	if (!strstr(ring_error(g.ring), words)) {
		fprintf(stderr, "the ring says: %s\n", ring_error(g.ring));
		CHECK(!"the words expected");
	}
	CHECK_EQ(ring_pop(g.ring, &chain), err);
	CHECK_EQ(ring_kicks(g.ring, 1), 0);
	CHECK_EQ(ring_save(g.ring, &g.config), err);
	guest_close(&g);
}

void complete(uint32_t n)
{
	uint16_t id;
	uint32_t len;

	for (uint32_t i = 0; i < n; i++) {
		put(AT_DATA, 4, 0, D_WRITE);
		CHECK_EQ(ring_pop(g.ring, &chain), 1);
		CHECK_EQ(ring_push(g.ring, 0, 0), 0);
		ring_publish(g.ring);
		CHECK(taken(&id, &len, 1));
	}
}
