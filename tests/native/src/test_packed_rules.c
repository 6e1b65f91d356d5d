// SPDX-License-Identifier: Apache-2.0
/* One test for each rule of packed rings that a driver can break. */
#include "test_packed.h"

void id_out_of_range(void)
{
	setup(7, 0);
	put(AT_DATA, 4, 7, 0);
	breaks(-EPROTO, "buffer id 7");
}

void id_twice_in_flight(void)
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

void more_than_the_ring_has(void)
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

void chain_longer_than_the_ring(void)
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

void next_that_is_not_available(void)
{
	setup(7, 0);
	put(AT_DATA, 4, 0, D_NEXT);
	breaks(-EPROTO, "which is not available");
	setup(7, 0);
	at(1)->flags = BOTH;
	put(AT_DATA, 4, 0, D_NEXT);
	breaks(-EPROTO, "descriptor 1, which is not available");
}

void address_wraps(void)
{
	setup(7, 0);
	put(-16ull, 32, 0, 0);
	breaks(-EFAULT, "not in one piece of RAM");
	setup(7, 0);
	put(-1ull, 0xffffffff, 0, 0);
	breaks(-EFAULT, "not in one piece of RAM");
}

void buffer_not_in_one_piece_of_ram(void)
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

void buffer_of_zero_bytes(void)
{
	setup(7, 0);
	put(AT_DATA, 0, 0, 0);
	breaks(-EPROTO, "zero bytes");
	setup(7, 0);
	put(AT_DATA, 1, 0, D_NEXT);
	put(AT_DATA, 0, 0, D_WRITE);
	breaks(-EPROTO, "zero bytes");
}

void readable_behind_writable(void)
{
	setup(7, 0);
	put(AT_DATA, 4, 0, D_NEXT | D_WRITE);
	put(AT_DATA, 4, 0, 0);
	breaks(-EPROTO, "behind a writable");
}

void more_buffers_than_room(void)
{
	setup(7, 0);
	for (uint16_t i = 0; i < 4; i++)
		put(AT_DATA, 4, 0, i < 3 ? D_NEXT : 0);
	chain.max = 3;
	breaks(-EPROTO, "more than 3 buffers");
}

void indirect_not_negotiated(void)
{
	setup(7, 0);
	put(AT_DATA, 16, 0, D_INDIRECT);
	breaks(-EPROTO, "not negotiated");
}

void indirect_in_a_chain(void)
{
	setup(7, RING_INDIRECT);
	put(AT_DATA, 16, 0, D_INDIRECT | D_NEXT);
	breaks(-EPROTO, "behind an indirect table");
	setup(7, RING_INDIRECT);
	put(AT_DATA, 16, 0, D_NEXT);
	put(AT_DATA, 16, 0, D_INDIRECT);
	breaks(-EPROTO, "indirect table behind a buffer");
}

void indirect_of_a_wrong_size(void)
{
	setup(7, RING_INDIRECT);
	put(AT_DATA, 24, 0, D_INDIRECT);
	breaks(-EPROTO, "24 bytes");
	setup(7, RING_INDIRECT);
	put(AT_DATA, 0, 0, D_INDIRECT);
	breaks(-EPROTO, "0 bytes");
}

void indirect_outside_ram(void)
{
	setup(7, RING_INDIRECT);
	put(LOW_SIZE - 16, 32, 0, D_INDIRECT);
	breaks(-EFAULT, "indirect table at");
	setup(7, RING_INDIRECT);
	put(AT_DATA, 0xfffffff0, 0, D_INDIRECT);
	breaks(-EFAULT, "indirect table at");
}

void indirect_inside_indirect(void)
{
	struct packed entry = { AT_DATA, 16, 0, D_INDIRECT };

	setup(7, RING_INDIRECT);
	memcpy(guest_ptr(&g, AT_DATA), &entry, sizeof(entry));
	put(AT_DATA, 16, 0, D_INDIRECT);
	breaks(-EPROTO, "in an indirect table");
}

void indirect_with_more_entries_than_any_chain(void)
{
	struct packed entry = { AT_DATA, 16, 0, 0 };

	setup(7, RING_INDIRECT);
	for (uint32_t i = 0; i <= RING_MAX_SEGMENTS; i++)
		memcpy(guest_ptr(&g, AT_DATA + 16 * i), &entry, sizeof(entry));
	put(AT_DATA, 16 * (RING_MAX_SEGMENTS + 1), 0, D_INDIRECT);
	breaks(-EPROTO, "more than 1024 buffers");
}
