// SPDX-License-Identifier: Apache-2.0
/* ring_packed.c: what a driver of a packed ring may do. */
#include "test_packed.h"

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
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		CHECK(!ring_new(&g.mem, &bad[i], &err));
		CHECK_EQ(err, -EINVAL);
	}
	for (size_t i = 0; i < sizeof(outside) / sizeof(outside[0]); i++) {
		CHECK(!ring_new(&g.mem, &outside[i], &err));
		CHECK_EQ(err, -EFAULT);
	}
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
