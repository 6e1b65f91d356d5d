// SPDX-License-Identifier: Apache-2.0
/* One test for each rule of split rings that a driver can break. */
#include "test_ring.h"

struct guest g;
struct iovec iov[RING_MAX_SEGMENTS];
struct chain chain = { .iov = iov, .max = RING_MAX_SEGMENTS };

void setup(uint32_t size, uint32_t flags)
{
	guest_open(&g, size, flags);
	chain.max = RING_MAX_SEGMENTS;
}

void complete(uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		guest_offer(&g, 0);
		CHECK_EQ(ring_pop(g.ring, &chain), 1);
		CHECK_EQ(ring_push(g.ring, 0, 0), 0);
	}
}

/* Offer head 0 and expect the ring to break, with these words, for good. */
static void breaks(int err, const char *words)
{
	guest_offer(&g, 0);
	CHECK_EQ(ring_pop(g.ring, &chain), err);
	CHECK(ring_error(g.ring));
	if (!strstr(ring_error(g.ring), words)) {
		fprintf(stderr, "the ring says: %s\n", ring_error(g.ring));
		CHECK(!"the words expected");
	}
	/* Latched: also when the guest mends it. */
	guest_desc(&g, 0, AT_DATA, 16, 0, 0);
	CHECK_EQ(ring_pop(g.ring, &chain), err);
	CHECK_EQ(ring_kicks(g.ring, 1), 0);
	CHECK_EQ(ring_save(g.ring, &g.config), err);
	guest_close(&g);
}

void avail_idx_too_far(void)
{
	setup(8, 0);
	g.avail_idx = 8;
	breaks(-EPROTO, "9 ahead");
}

void avail_idx_backwards(void)
{
	setup(8, 0);
	guest_desc(&g, 0, AT_DATA, 4, D_WRITE, 0);
	complete(3);
	g.avail_idx = 1;
	breaks(-EPROTO, "ahead");
}

void head_out_of_range(void)
{
	setup(8, 0);
	guest_offer(&g, 8);
	breaks(-EPROTO, "head 8");
}

void next_out_of_range(void)
{
	setup(8, 0);
	guest_desc(&g, 0, AT_DATA, 4, D_NEXT, 8);
	breaks(-EPROTO, "descriptor 8");
}

void descriptor_points_to_itself(void)
{
	setup(8, 0);
	guest_desc(&g, 0, AT_DATA, 4, D_NEXT, 0);
	breaks(-EPROTO, "loop");
}

void descriptors_in_a_ring(void)
{
	setup(8, 0);
	for (uint16_t i = 0; i < 8; i++)
		guest_desc(&g, i, AT_DATA, 4, D_NEXT, (i + 1) % 8);
	breaks(-EPROTO, "loop");
}

void address_wraps(void)
{
	setup(8, 0);
	guest_desc(&g, 0, -16ull, 32, 0, 0);
	breaks(-EFAULT, "not in one piece of RAM");
	setup(8, 0);
	guest_desc(&g, 0, -1ull, 0xffffffff, 0, 0);
	breaks(-EFAULT, "not in one piece of RAM");
	setup(8, 0);
	guest_desc(&g, 0, AT_DATA, 0xffffffff, 0, 0);
	breaks(-EFAULT, "not in one piece of RAM");
}

void buffer_over_the_end_of_ram(void)
{
	setup(8, 0);
	guest_desc(&g, 0, LOW_SIZE - 1, 2, 0, 0);
	breaks(-EFAULT, "not in one piece of RAM");
	setup(8, 0);
	guest_desc(&g, 0, HIGH_BASE + HIGH_SIZE, 1, 0, 0);
	breaks(-EFAULT, "not in one piece of RAM");
}

void buffer_over_the_hole(void)
{
	setup(8, 0);
	guest_desc(&g, 0, LOW_SIZE - 16, (uint32_t)(HIGH_BASE - LOW_SIZE + 32), 0, 0);
	breaks(-EFAULT, "not in one piece of RAM");
	setup(8, 0);
	guest_desc(&g, 0, HIGH_BASE - 1, 2, 0, 0);
	breaks(-EFAULT, "not in one piece of RAM");
}

void buffer_over_two_regions(void)
{
	setup(8, 0);
	/* Side by side for the guest, not for us. */
	g.mem.region[1].gpa = LOW_SIZE;
	guest_desc(&g, 0, LOW_SIZE - 16, 32, 0, 0);
	breaks(-EFAULT, "not in one piece of RAM");
}

void buffer_of_zero_bytes(void)
{
	setup(8, 0);
	guest_desc(&g, 0, AT_DATA, 0, 0, 0);
	breaks(-EPROTO, "zero bytes");
}

void readable_behind_writable(void)
{
	setup(8, 0);
	guest_desc(&g, 0, AT_DATA, 4, D_NEXT | D_WRITE, 1);
	guest_desc(&g, 1, AT_DATA, 4, 0, 0);
	breaks(-EPROTO, "behind a writable");
}

void more_buffers_than_room(void)
{
	setup(8, 0);
	for (uint16_t i = 0; i < 4; i++)
		guest_desc(&g, i, AT_DATA, 4, i < 3 ? D_NEXT : 0, i + 1);
	chain.max = 3;
	breaks(-EPROTO, "more than 3 buffers");
}

void indirect_not_negotiated(void)
{
	setup(8, 0);
	guest_desc(&g, 0, AT_DATA, 16, D_INDIRECT, 0);
	breaks(-EPROTO, "not negotiated");
}

void indirect_with_next(void)
{
	setup(8, RING_INDIRECT);
	guest_desc(&g, 0, AT_DATA, 16, D_INDIRECT | D_NEXT, 1);
	breaks(-EPROTO, "behind an indirect table");
}

void indirect_of_a_wrong_size(void)
{
	setup(8, RING_INDIRECT);
	guest_desc(&g, 0, AT_DATA, 24, D_INDIRECT, 0);
	breaks(-EPROTO, "24 bytes");
	setup(8, RING_INDIRECT);
	guest_desc(&g, 0, AT_DATA, 0, D_INDIRECT, 0);
	breaks(-EPROTO, "0 bytes");
}

void indirect_outside_ram(void)
{
	setup(8, RING_INDIRECT);
	guest_desc(&g, 0, LOW_SIZE - 16, 32, D_INDIRECT, 0);
	breaks(-EFAULT, "indirect table at");
	setup(8, RING_INDIRECT);
	guest_desc(&g, 0, AT_DATA, 0xfffffff0, D_INDIRECT, 0);
	breaks(-EFAULT, "indirect table at");
}

static void indirect_entry(struct desc entry)
{
	setup(8, RING_INDIRECT);
	memcpy(guest_ptr(&g, AT_DATA), &entry, sizeof(entry));
	guest_desc(&g, 0, AT_DATA, 32, D_INDIRECT, 0);
}

void indirect_inside_indirect(void)
{
	indirect_entry((struct desc){ AT_DATA, 16, D_INDIRECT, 0 });
	breaks(-EPROTO, "in an indirect table");
}

void indirect_next_out_of_range(void)
{
	indirect_entry((struct desc){ AT_DATA, 16, D_NEXT, 2 });
	breaks(-EPROTO, "entry 2 of an indirect table of 2");
}

void indirect_loop(void)
{
	indirect_entry((struct desc){ AT_DATA, 16, D_NEXT, 0 });
	breaks(-EPROTO, "more than 1024 buffers");
}

void head_twice_in_flight(void)
{
	setup(8, 0);
	guest_desc(&g, 0, AT_DATA, 4, D_WRITE, 0);
	guest_offer(&g, 0);
	CHECK_EQ(ring_pop(g.ring, &chain), 1);
	guest_offer(&g, 0);
	CHECK_EQ(ring_pop(g.ring, &chain), -EPROTO);
	CHECK(strstr(ring_error(g.ring), "head 0 is available again"));
	/* The first is still the device's, and can be given back. */
	CHECK_EQ(ring_push(g.ring, 0, 0), 0);
	ring_flush(g.ring);
	CHECK_EQ(g.used[1], 1);
	CHECK_EQ(ring_pop(g.ring, &chain), -EPROTO);
	guest_close(&g);
}
