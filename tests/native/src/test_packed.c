// SPDX-License-Identifier: Apache-2.0
/* ring_packed*.c: packed rings, their rules, and one that changes hands. The driver is here, one ring at a time. */
#include "guest.h"
#include "ring/ring.h"

enum { AVAIL = 0x80, USED = 0x8000, BOTH = AVAIL | USED };
enum { ENABLE = 0, DISABLE = 1, DESC = 2 };

struct packed {
	uint64_t addr;
	uint32_t len;
	uint16_t id, flags;
};

/* Where the driver's next descriptor goes, and where the device's will be. */
struct driver {
	uint16_t slot, used_slot;
	bool wrap, used_wrap;
};

static struct driver d;
static struct guest g;
static struct iovec iov[RING_MAX_SEGMENTS];
static struct chain chain = { .iov = iov, .max = RING_MAX_SEGMENTS };
static uint32_t *driver_event, *device_event;

static void setup(uint32_t size, uint32_t flags)
{
	guest_open(&g, size, flags | RING_PACKED);
	chain.max = RING_MAX_SEGMENTS;
	d.slot = d.used_slot = 0;
	d.wrap = d.used_wrap = true;
	driver_event = guest_ptr(&g, AT_AVAIL);
	device_event = guest_ptr(&g, AT_USED);
}

static struct packed *at(uint32_t slot)
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

static void put(uint64_t addr, uint32_t len, uint16_t id, uint16_t flags)
{
	struct packed *p = at(d.slot);

	p->addr = addr;
	p->len = len;
	p->id = id;
	__atomic_store_n(&p->flags, flags | (d.wrap ? AVAIL : USED), __ATOMIC_RELEASE);
	advance(&d.slot, &d.wrap, 1);
}

static bool taken(uint16_t *id, uint32_t *len, uint32_t descs)
{
	const struct packed *p = at(d.used_slot);

	if ((__atomic_load_n(&p->flags, __ATOMIC_ACQUIRE) & BOTH) != (d.used_wrap ? BOTH : 0))
		return false;
	*id = p->id;
	*len = p->len;
	advance(&d.used_slot, &d.used_wrap, descs);
	return true;
}

static void take(uint16_t want, uint32_t len, uint32_t descs)
{
	uint16_t id;
	uint32_t got;

	CHECK(taken(&id, &got, descs));
	CHECK_EQ(id, want);
	CHECK_EQ(got, len);
}

static void breaks(int err, const char *words)
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

static void complete(uint32_t n)
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

/* One test for each rule of packed rings that a driver can break. */

static void id_out_of_range(void)
{
	setup(7, 0);
	put(AT_DATA, 4, 7, 0);
	breaks(-EPROTO, "buffer id 7");
}

static void id_twice_in_flight(void)
{
	setup(7, 0);
	put(AT_DATA, 4, 3, D_WRITE);
	CHECK_EQ(ring_pop(g.ring, &chain), 1);
	put(AT_DATA, 4, 3, D_WRITE);
	CHECK_EQ(ring_pop(g.ring, &chain), -EPROTO);
	CHECK(strstr(ring_error(g.ring), "buffer id 3 is available again"));
	/* The first is still the device's, and can be given back. */
	CHECK_EQ(ring_push(g.ring, 3, 1), 0);
	ring_flush(g.ring);
	take(3, 1, 1);
	guest_close(&g);
}

static void more_than_the_ring_has(void)
{
	setup(3, 0);
	for (uint16_t i = 0; i < 3; i++) {
		put(AT_DATA, 4, i, 0);
		CHECK_EQ(ring_pop(g.ring, &chain), 1);
	}
	CHECK_EQ(ring_pop(g.ring, &chain), 0);
	put(AT_DATA, 4, 0, 0);
	breaks(-EPROTO, "the device has all 3");
}

static void chain_longer_than_the_ring(void)
{
	setup(3, 0);
	for (uint16_t i = 0; i < 3; i++)
		put(AT_DATA, 4, i, D_NEXT);
	breaks(-EPROTO, "which is not available");
	/* The guest turns the first over just in time. */
	setup(3, 0);
	CHECK_EQ(ring_pop(g.ring, &chain), 0);
	put(AT_DATA, 4, 0, 0);
	CHECK_EQ(ring_pop(g.ring, &chain), 1);
	for (uint16_t i = 0; i < 3; i++)
		put(AT_DATA, 4, 1, D_NEXT);
	breaks(-EPROTO, "the device has all 3");
}

static void next_that_is_not_available(void)
{
	setup(7, 0);
	put(AT_DATA, 4, 0, D_NEXT);
	breaks(-EPROTO, "which is not available");
	setup(7, 0);
	at(1)->flags = BOTH;
	put(AT_DATA, 4, 0, D_NEXT);
	breaks(-EPROTO, "descriptor 1, which is not available");
}

static void address_wraps(void)
{
	setup(7, 0);
	put(-16ull, 32, 0, 0);
	breaks(-EFAULT, "not in one piece of RAM");
	setup(7, 0);
	put(-1ull, 0xffffffff, 0, 0);
	breaks(-EFAULT, "not in one piece of RAM");
}

static void buffer_not_in_one_piece_of_ram(void)
{
	static const struct packed bad[] = {
		{ LOW_SIZE - 1, 2, 0, 0 }, { HIGH_BASE + HIGH_SIZE, 1, 0, 0 }, { HIGH_BASE - 1, 2, 0, D_WRITE },
		{ AT_DATA, 0xffffffff, 0, 0 }, { LOW_SIZE - 16, (uint32_t)(HIGH_BASE - LOW_SIZE + 32), 0, 0 },
	};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		setup(7, 0);
		put(bad[i].addr, bad[i].len, 0, bad[i].flags);
		breaks(-EFAULT, "not in one piece of RAM");
	}
}

static void buffer_of_zero_bytes(void)
{
	setup(7, 0);
	put(AT_DATA, 0, 0, 0);
	breaks(-EPROTO, "zero bytes");
	setup(7, 0);
	put(AT_DATA, 1, 0, D_NEXT);
	put(AT_DATA, 0, 0, D_WRITE);
	breaks(-EPROTO, "zero bytes");
}

static void readable_behind_writable(void)
{
	setup(7, 0);
	put(AT_DATA, 4, 0, D_NEXT | D_WRITE);
	put(AT_DATA, 4, 0, 0);
	breaks(-EPROTO, "behind a writable");
}

static void more_buffers_than_room(void)
{
	setup(7, 0);
	for (uint16_t i = 0; i < 4; i++)
		put(AT_DATA, 4, 0, i < 3 ? D_NEXT : 0);
	chain.max = 3;
	breaks(-EPROTO, "more than 3 buffers");
}

static void indirect_not_negotiated(void)
{
	setup(7, 0);
	put(AT_DATA, 16, 0, D_INDIRECT);
	breaks(-EPROTO, "not negotiated");
}

static void indirect_in_a_chain(void)
{
	setup(7, RING_INDIRECT);
	put(AT_DATA, 16, 0, D_INDIRECT | D_NEXT);
	breaks(-EPROTO, "behind an indirect table");
	setup(7, RING_INDIRECT);
	put(AT_DATA, 16, 0, D_NEXT);
	put(AT_DATA, 16, 0, D_INDIRECT);
	breaks(-EPROTO, "indirect table behind a buffer");
}

static void indirect_of_a_wrong_size(void)
{
	setup(7, RING_INDIRECT);
	put(AT_DATA, 24, 0, D_INDIRECT);
	breaks(-EPROTO, "24 bytes");
	setup(7, RING_INDIRECT);
	put(AT_DATA, 0, 0, D_INDIRECT);
	breaks(-EPROTO, "0 bytes");
}

static void indirect_outside_ram(void)
{
	setup(7, RING_INDIRECT);
	put(LOW_SIZE - 16, 32, 0, D_INDIRECT);
	breaks(-EFAULT, "indirect table at");
	setup(7, RING_INDIRECT);
	put(AT_DATA, 0xfffffff0, 0, D_INDIRECT);
	breaks(-EFAULT, "indirect table at");
}

static void indirect_inside_indirect(void)
{
	struct packed entry = { AT_DATA, 16, 0, D_INDIRECT };

	setup(7, RING_INDIRECT);
	memcpy(guest_ptr(&g, AT_DATA), &entry, sizeof(entry));
	put(AT_DATA, 16, 0, D_INDIRECT);
	breaks(-EPROTO, "in an indirect table");
}

static void indirect_with_more_entries_than_any_chain(void)
{
	struct packed entry = { AT_DATA, 16, 0, 0 };

	setup(7, RING_INDIRECT);
	for (uint32_t i = 0; i <= RING_MAX_SEGMENTS; i++)
		memcpy(guest_ptr(&g, AT_DATA + 16 * i), &entry, sizeof(entry));
	put(AT_DATA, 16 * (RING_MAX_SEGMENTS + 1), 0, D_INDIRECT);
	breaks(-EPROTO, "more than 1024 buffers");
}

/* ring_packed_log.c: a packed ring that changes hands. */

static _Alignas(4096) uint8_t ring_states[RING_STATE_STRIDE];
static struct ring_state *const state = (struct ring_state *)(void *)ring_states;

/* Whoever served the ring dies here; the next one has what lies in its state. */
static int adopt(void)
{
	struct ring_config config = g.config;
	int err, n;

	ring_free(g.ring);
	config.next_avail = config.next_used = 0;
	g.ring = ring_new(&g.mem, &config, &err);
	CHECK(g.ring);
	n = ring_adopt(g.ring, state);
	return n;
}

static void adopted_with_chains_under_way(void)
{
	struct packed table[2] = { { AT_DATA, 5, 0, 0 }, { AT_DATA + 64, 6, 0, D_WRITE } };
	uint32_t seen = 0;

	setup(7, RING_EVENT_IDX | RING_INDIRECT);
	CHECK_EQ(ring_share(g.ring, state), 0);
	memcpy(guest_ptr(&g, AT_DATA + 0x800), table, sizeof(table));
	complete(5);
	put(AT_DATA, 1, 6, 0);                     /* 5 */
	put(AT_DATA, 2, 0, D_NEXT);                /* 6 */
	put(AT_DATA + 64, 3, 1, D_WRITE);          /* 0' */
	put(AT_DATA + 0x800, 32, 2, D_INDIRECT);   /* 1' */
	put(AT_DATA, 4, 3, 0);                     /* 2' */
	for (int i = 0; i < 4; i++)
		CHECK_EQ(ring_pop(g.ring, &chain), 1);
	/* Given back over the descriptors of those that are still under way. */
	CHECK_EQ(ring_push(g.ring, 3, 0), 0);
	ring_publish(g.ring);
	CHECK_EQ(ring_push(g.ring, 6, 7), 0);
	CHECK_EQ(adopt(), 2);
	take(3, 0, 1);
	take(6, 7, 1);
	put(AT_DATA, 9, 4, 0);                     /* 3' */
	for (int i = 0; i < 3; i++) {
		CHECK(ring_pending(g.ring));
		CHECK_EQ(ring_pop(g.ring, &chain), 1);
		seen |= 1u << chain.head;
		if (chain.head == 1)
			CHECK(chain.read_len == 2 && chain.write_len == 3);
		else if (chain.head == 2)
			CHECK(chain.read_len == 5 && chain.write_len == 6);
		else
			CHECK(chain.read_len == 9 && chain.nwrite == 0);
	}
	CHECK_EQ(seen, 1 << 1 | 1 << 2 | 1 << 4);
	CHECK_EQ(ring_pop(g.ring, &chain), 0);
	CHECK_EQ(ring_push(g.ring, 2, 1), 0);
	CHECK_EQ(ring_push(g.ring, 1, 2), 0);
	CHECK_EQ(ring_push(g.ring, 4, 3), 0);
	ring_flush(g.ring);
	take(2, 1, 1);
	take(1, 2, 2);
	take(4, 3, 1);
	guest_close(&g);
}

/* The process died between the steps of a pop and of a push. */
static void adopted_in_the_middle(void)
{
	setup(7, 0);
	CHECK_EQ(ring_share(g.ring, state), 0);
	put(AT_DATA, 1, 5, D_NEXT);
	put(AT_DATA, 2, 6, 0);
	CHECK_EQ(ring_pop(g.ring, &chain), 1);
	state->next_avail = 0; /* as before the last step */
	state->descs = 0;
	CHECK_EQ(adopt(), 1);
	CHECK_EQ(ring_pop(g.ring, &chain), 1);
	CHECK_EQ(chain.read_len, 3);
	CHECK_EQ(ring_pop(g.ring, &chain), 0);
	CHECK_EQ(ring_push(g.ring, 6, 0), 0);
	ring_flush(g.ring);
	take(6, 0, 2);
	guest_close(&g);

	setup(7, 0);
	CHECK_EQ(ring_share(g.ring, state), 0);
	put(AT_DATA, 1, 5, D_NEXT);
	put(AT_DATA, 2, 6, 0);
	put(AT_DATA, 3, 4, 0);
	CHECK_EQ(ring_pop(g.ring, &chain), 1);
	CHECK_EQ(ring_pop(g.ring, &chain), 1);
	CHECK_EQ(ring_push(g.ring, 6, 9), 0);
	state->busy[0] |= 1 << 6; /* as before the last step */
	CHECK_EQ(adopt(), 1);
	take(6, 9, 2);
	CHECK_EQ(ring_pop(g.ring, &chain), 1);
	CHECK_EQ(chain.head, 4);
	guest_close(&g);

	/* The guest has taken what was given back, and offered the place anew, before anybody went on. */
	setup(2, 0);
	CHECK_EQ(ring_share(g.ring, state), 0);
	complete(2);
	put(AT_DATA, 7, 1, 0);
	state->published = 0;
	CHECK_EQ(adopt(), 0);
	CHECK_EQ(ring_pop(g.ring, &chain), 1);
	CHECK_EQ(chain.read_len, 7);
	guest_close(&g);
}

/* What a hostile process leaves. */
static void books_that_cannot_be(void)
{
	static const struct {
		size_t offset;
		uint16_t value;
	} lies[] = {
		{ offsetof(struct ring_state, next_avail), 8 },
		{ offsetof(struct ring_state, next_avail), 0x7fff },
		{ offsetof(struct ring_state, next_avail), 5 },
		{ offsetof(struct ring_state, next_used), 0xffff },
		{ offsetof(struct ring_state, next_used), 2 },
		{ offsetof(struct ring_state, published), 100 },
		{ offsetof(struct ring_state, busy), 3 },
		{ offsetof(struct ring_state, busy) + 2, 1 },
		{ offsetof(struct ring_state, busy) + 126, 0x8000 },
		{ RING_LOG_OFFSET + 6 * sizeof(struct ring_chain), 0xff },                                  /* position */
		{ RING_LOG_OFFSET + 6 * sizeof(struct ring_chain) + 2, 0 },                                 /* count */
		{ RING_LOG_OFFSET + 6 * sizeof(struct ring_chain) + 2, 9 },
		{ RING_LOG_OFFSET + 6 * sizeof(struct ring_chain) + 4, 0xffff },                            /* first */
		{ RING_LOG_OFFSET + offsetof(struct ring_log, desc) + offsetof(struct ring_log_desc, next), 0x7777 },
	};
	uint8_t kept[RING_STATE_STRIDE];

	setup(8, RING_INDIRECT);
	memset(ring_states, 0, sizeof(ring_states));
	CHECK_EQ(ring_share(g.ring, state), 0);
	put(AT_DATA, 1, 5, D_NEXT);
	put(AT_DATA, 2, 6, 0);
	CHECK_EQ(ring_pop(g.ring, &chain), 1);
	memcpy(kept, ring_states, sizeof(ring_states));
	for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
		memcpy(ring_states, kept, sizeof(ring_states));
		memcpy(ring_states + lies[i].offset, &lies[i].value, sizeof(uint16_t));
		if (adopt() != -EPROTO) {
			fprintf(stderr, "lie %zu was believed\n", i);
			exit(1);
		}
	}
	/* A buffer that is none. */
	memcpy(ring_states, kept, sizeof(ring_states));
	memset(ring_states + RING_LOG_OFFSET + offsetof(struct ring_log, desc), 0xff, 8);
	CHECK_EQ(adopt(), 1);
	CHECK_EQ(ring_pop(g.ring, &chain), -EFAULT);
	guest_close(&g);
}

/* What a driver of a packed ring may do. */

static void config_refused(void)
{
	const uint32_t flags = RING_PACKED;
	const struct ring_config bad[] = {
		{ .size = 0, .flags = flags, .desc = AT_DESC, .avail = AT_AVAIL, .used = AT_USED },
		{ .size = 1025, .flags = flags, .desc = AT_DESC, .avail = AT_AVAIL, .used = AT_USED },
		{ .size = 8, .flags = flags, .desc = AT_DESC + 8, .avail = AT_AVAIL, .used = AT_USED },
		{ .size = 8, .flags = flags, .desc = AT_DESC, .avail = AT_AVAIL + 2, .used = AT_USED },
		{ .size = 8, .flags = flags, .desc = AT_DESC, .avail = AT_AVAIL, .used = AT_USED + 2 },
		{ .size = 8, .flags = flags, .desc = AT_DESC, .avail = AT_AVAIL, .used = AT_USED, .next_avail = 8, .next_used = 8 },
		{ .size = 8, .flags = flags, .desc = AT_DESC, .avail = AT_AVAIL, .used = AT_USED, .next_avail = 1 },
	};
	const struct ring_config outside[] = {
		{ .size = 8, .flags = flags, .desc = LOW_SIZE - 112, .avail = AT_AVAIL, .used = AT_USED },
		{ .size = 8, .flags = flags, .desc = -16ull, .avail = AT_AVAIL, .used = AT_USED },
		{ .size = 8, .flags = flags, .desc = AT_DESC, .avail = LOW_SIZE, .used = AT_USED },
		{ .size = 8, .flags = flags, .desc = AT_DESC, .avail = AT_AVAIL, .used = HIGH_BASE + HIGH_SIZE },
		{ .size = 8, .flags = flags, .desc = AT_DESC, .avail = AT_AVAIL, .used = -4ull },
	};
	/* A size that is no power of two, all at the last byte of RAM. */
	const struct ring_config last = {
		.size = 7, .flags = flags, .desc = LOW_SIZE - 112, .avail = HIGH_BASE + HIGH_SIZE - 4, .used = HIGH_BASE,
	};
	struct ring *ring;
	int err;

	setup(8, 0);
	guest_refuses(&g, bad, sizeof(bad) / sizeof(bad[0]), -EINVAL);
	guest_refuses(&g, outside, sizeof(outside) / sizeof(outside[0]), -EFAULT);
	ring = ring_new(&g.mem, &last, &err);
	CHECK(ring);
	ring_free(ring);
	guest_close(&g);
}

static void chains_come_out(void)
{
	struct packed *table;

	setup(5, RING_INDIRECT);
	CHECK_EQ(ring_pop(g.ring, &chain), 0);
	put(AT_DATA, 16, 9, D_NEXT);
	put(HIGH_BASE, 4096, 9, D_NEXT);
	put(LOW_SIZE - 1, 1, 3, D_WRITE);
	CHECK_EQ(ring_pop(g.ring, &chain), 1);
	/* The id of a chain is that of its last descriptor. */
	CHECK_EQ(chain.head, 3);
	CHECK_EQ(chain.nread, 2);
	CHECK_EQ(chain.nwrite, 1);
	CHECK_EQ(chain.read_len, 4112);
	CHECK_EQ(chain.write_len, 1);
	CHECK(iov[1].iov_base == guest_ptr(&g, HIGH_BASE) && iov[1].iov_len == 4096);
	CHECK_EQ(ring_pop(g.ring, &chain), 0);

	/* A table of more entries than the queue has, at an odd address; flags that mean nothing there are ignored. */
	table = malloc(100 * sizeof(*table));
	for (int i = 0; i < 100; i++)
		table[i] = (struct packed){ AT_DATA + 0x1000u * (unsigned int)i, 10, 7, D_WRITE | D_NEXT | BOTH };
	memcpy(guest_ptr(&g, AT_DATA + 0x5003), table, 100 * sizeof(*table));
	free(table);
	put(AT_DATA + 0x5003, 1600, 4, D_INDIRECT | D_WRITE);
	CHECK_EQ(ring_pop(g.ring, &chain), 1);
	CHECK_EQ(chain.head, 4);
	CHECK_EQ(chain.nread, 0);
	CHECK_EQ(chain.nwrite, 100);
	CHECK_EQ(chain.write_len, 1000);
	CHECK_EQ(ring_in_flight(g.ring), 2);
	guest_close(&g);
}

/* Rings of sizes that are and are not powers of two, several times around, chains of 1 to 3, given back in any order. */
static void used_and_wrap(void)
{
	static const uint32_t sizes[] = { 3, 4, 7, 8, 1000, 1024 };

	for (size_t s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++) {
		setup(sizes[s], RING_EVENT_IDX);
		for (uint32_t round = 0; round < 20000; round++) {
			uint32_t a = round % 2 + 1, order = round % 3 % 2;
			uint16_t first = (uint16_t)(round % sizes[s]), second = (uint16_t)((round + 1) % sizes[s]);

			for (uint32_t i = 0; i < a; i++)
				put(AT_DATA, 4, first, i + 1 < a ? D_NEXT | D_WRITE : D_WRITE);
			put(AT_DATA, 4, second, D_WRITE);
			CHECK_EQ(ring_pop(g.ring, &chain), 1);
			CHECK_EQ(chain.head, first);
			CHECK_EQ(chain.nwrite, a);
			CHECK_EQ(ring_pop(g.ring, &chain), 1);
			CHECK_EQ(chain.head, second);
			CHECK_EQ(ring_pop(g.ring, &chain), 0);
			CHECK_EQ(ring_push(g.ring, order ? second : first, round), 0);
			CHECK_EQ(ring_push(g.ring, order ? first : second, 0), 0);
			/* Nothing is seen before it is published, then all is. */
			CHECK((at(d.used_slot)->flags & BOTH) != (d.used_wrap ? BOTH : 0));
			ring_publish(g.ring);
			CHECK_EQ(!!(at(d.used_slot)->flags & D_WRITE), round != 0);
			take(order ? second : first, round, order ? 1 : a);
			take(order ? first : second, 0, order ? a : 1);
			CHECK_EQ(ring_in_flight(g.ring), 0);
		}
		guest_close(&g);
	}
}

static void push_once(void)
{
	setup(4, 0);
	CHECK_EQ(ring_push(g.ring, 1, 0), -EINVAL);
	put(AT_DATA, 4, 1, D_WRITE);
	CHECK_EQ(ring_pop(g.ring, &chain), 1);
	CHECK_EQ(ring_push(g.ring, 0, 0), -EINVAL);
	CHECK_EQ(ring_push(g.ring, 4, 0), -EINVAL);
	CHECK_EQ(ring_push(g.ring, 0xffffffff, 0), -EINVAL);
	CHECK_EQ(ring_push(g.ring, 1, 4), 0);
	CHECK_EQ(ring_push(g.ring, 1, 4), -EINVAL);
	ring_flush(g.ring);
	take(1, 4, 1);
	guest_close(&g);
}

static void wish(uint32_t slot, bool wrap)
{
	*driver_event = DESC << 16 | (uint32_t)wrap << 15 | slot;
}

static void interrupts_as_wished(void)
{
	setup(6, 0);
	CHECK_EQ(ring_flush(g.ring), 0);
	complete(1);
	CHECK_EQ(ring_flush(g.ring), 1);
	CHECK_EQ(ring_flush(g.ring), 0);
	*driver_event = DISABLE << 16;
	complete(1);
	CHECK_EQ(ring_flush(g.ring), 0);
	/* Only two bits mean something; a place without EVENT_IDX, and what is reserved, are no reason to be silent. */
	for (uint32_t flags = 0; flags < 4; flags++) {
		*driver_event = (flags | 0xfffc) << 16;
		complete(1);
		CHECK_EQ(ring_flush(g.ring), flags != DISABLE);
	}
	guest_close(&g);

	/* The descriptor whose giving back is to be told, on this side of the wrap and on the other. */
	setup(6, RING_EVENT_IDX);
	wish(0, true);
	complete(1);
	CHECK_EQ(ring_flush(g.ring), 1);
	complete(1);
	CHECK_EQ(ring_flush(g.ring), 0);
	wish(3, true);
	complete(1);
	CHECK_EQ(ring_flush(g.ring), 0);
	complete(1);
	CHECK_EQ(ring_flush(g.ring), 1);
	wish(1, false); /* behind 4, 5 and 0' */
	complete(3);
	CHECK_EQ(ring_flush(g.ring), 0);
	complete(1);
	CHECK_EQ(ring_flush(g.ring), 1);
	wish(4, false);
	complete(4);
	CHECK_EQ(ring_flush(g.ring), 1);
	/* In the past: not until it comes round. */
	wish(4, false);
	complete(6);
	CHECK_EQ(ring_flush(g.ring), 0);
	/* More was given back than two rounds: whatever was wished is among it. */
	complete(12);
	CHECK_EQ(ring_flush(g.ring), 1);
	wish(100, true);
	complete(1);
	CHECK_EQ(ring_flush(g.ring), 1);
	*driver_event = DISABLE << 16;
	complete(1);
	CHECK_EQ(ring_flush(g.ring), 0);
	guest_close(&g);
}

static void kicks_as_wished(void)
{
	setup(6, 0);
	CHECK_EQ(ring_kicks(g.ring, 0), 0);
	CHECK_EQ(*device_event, DISABLE << 16);
	CHECK_EQ(ring_kicks(g.ring, 1), 0);
	CHECK_EQ(*device_event, ENABLE << 16);
	put(AT_DATA, 4, 0, 0);
	CHECK_EQ(ring_kicks(g.ring, 1), 1);
	guest_close(&g);

	setup(6, RING_EVENT_IDX);
	complete(3);
	CHECK_EQ(ring_kicks(g.ring, 0), 0);
	CHECK_EQ(*device_event, DISABLE << 16);
	CHECK_EQ(ring_kicks(g.ring, 1), 0);
	CHECK_EQ(*device_event, DESC << 16 | 0x8000 | 3);
	complete(4);
	CHECK_EQ(ring_kicks(g.ring, 1), 0);
	CHECK_EQ(*device_event, DESC << 16 | 1);
	put(AT_DATA, 4, 0, 0);
	CHECK_EQ(ring_kicks(g.ring, 1), 1);
	guest_close(&g);
}

static void unpopped_and_popped_again(void)
{
	setup(4, 0);
	complete(2);
	put(AT_DATA, 4, 2, D_WRITE);
	put(AT_DATA, 4, 0, D_NEXT);
	put(AT_DATA, 4, 1, D_WRITE);
	for (int i = 0; i < 3; i++) {
		CHECK_EQ(ring_pop(g.ring, &chain), 1);
		CHECK_EQ(ring_pop(g.ring, &chain), 1);
		CHECK_EQ(chain.head, 1);
		CHECK_EQ(ring_unpop(g.ring, 2), -EINVAL); /* not the last */
		CHECK_EQ(ring_unpop(g.ring, 1), 0);
		CHECK_EQ(ring_unpop(g.ring, 1), -EINVAL);
		CHECK_EQ(ring_unpop(g.ring, 2), 0);
		CHECK_EQ(ring_in_flight(g.ring), 0);
	}
	/* Another was given back where its descriptors were. */
	CHECK_EQ(ring_pop(g.ring, &chain), 1);
	CHECK_EQ(ring_pop(g.ring, &chain), 1);
	CHECK_EQ(ring_push(g.ring, 1, 0), 0);
	CHECK_EQ(ring_unpop(g.ring, 2), -EINVAL);
	guest_close(&g);
}

static void saved_and_restored(void)
{
	struct ring_config saved;
	int err;

	/* On both sides of the wrap. */
	for (uint32_t n = 5; n < 16; n += 5) {
		setup(7, RING_EVENT_IDX);
		complete(n - 1);
		put(AT_DATA, 4, 0, D_WRITE);
		CHECK_EQ(ring_pop(g.ring, &chain), 1);
		CHECK_EQ(ring_save(g.ring, &saved), -EBUSY);
		CHECK_EQ(ring_push(g.ring, 0, 0), 0);
		CHECK_EQ(ring_save(g.ring, &saved), -EBUSY);
		ring_flush(g.ring);
		take(0, 0, 1);
		put(AT_DATA, 4, 6, D_WRITE);
		CHECK_EQ(ring_save(g.ring, &saved), 0);
		ring_free(g.ring);
		CHECK_EQ(saved.next_avail, n % 7 | (n / 7 % 2 ? 0x8000 : 0));
		g.ring = ring_new(&g.mem, &saved, &err);
		CHECK(g.ring);
		CHECK_EQ(ring_pop(g.ring, &chain), 1);
		CHECK_EQ(chain.head, 6);
		CHECK_EQ(ring_push(g.ring, 6, 3), 0);
		ring_flush(g.ring);
		take(6, 3, 1);
		guest_close(&g);
	}
}

#define T(name) { #name, name }
static const struct test tests[] = {
	T(config_refused), T(chains_come_out), T(used_and_wrap), T(push_once), T(interrupts_as_wished), T(kicks_as_wished),
	T(unpopped_and_popped_again), T(saved_and_restored), T(adopted_with_chains_under_way), T(adopted_in_the_middle),
	T(books_that_cannot_be), T(id_out_of_range), T(id_twice_in_flight), T(more_than_the_ring_has),
	T(chain_longer_than_the_ring), T(next_that_is_not_available), T(address_wraps), T(buffer_not_in_one_piece_of_ram),
	T(buffer_of_zero_bytes), T(readable_behind_writable), T(more_buffers_than_room), T(indirect_not_negotiated),
	T(indirect_in_a_chain), T(indirect_of_a_wrong_size), T(indirect_outside_ram), T(indirect_inside_indirect),
	T(indirect_with_more_entries_than_any_chain), { NULL, NULL },
};

int main(int argc, char **argv)
{
	return test_main(tests, argc, argv);
}
