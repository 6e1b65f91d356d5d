// SPDX-License-Identifier: Apache-2.0
/* ring*.c: split rings, one at a time, and the rules that a driver can break. */
#include "guest.h"

/* One test for each rule of split rings that a driver can break. */

static struct guest g;
static struct iovec iov[RING_MAX_SEGMENTS];
static struct chain chain = { .iov = iov, .max = RING_MAX_SEGMENTS };

static void setup(uint32_t size, uint32_t flags)
{
	guest_open(&g, size, flags);
	chain.max = RING_MAX_SEGMENTS;
}

static void complete(uint32_t n)
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

static void avail_idx_too_far(void)
{
	setup(8, 0);
	g.avail_idx = 8;
	breaks(-EPROTO, "9 ahead");
}

static void avail_idx_backwards(void)
{
	setup(8, 0);
	guest_desc(&g, 0, AT_DATA, 4, D_WRITE, 0);
	complete(3);
	g.avail_idx = 1;
	breaks(-EPROTO, "ahead");
}

static void head_out_of_range(void)
{
	setup(8, 0);
	guest_offer(&g, 8);
	breaks(-EPROTO, "head 8");
}

static void next_out_of_range(void)
{
	setup(8, 0);
	guest_desc(&g, 0, AT_DATA, 4, D_NEXT, 8);
	breaks(-EPROTO, "descriptor 8");
}

static void descriptor_points_to_itself(void)
{
	setup(8, 0);
	guest_desc(&g, 0, AT_DATA, 4, D_NEXT, 0);
	breaks(-EPROTO, "loop");
}

static void descriptors_in_a_ring(void)
{
	setup(8, 0);
	for (uint16_t i = 0; i < 8; i++)
		guest_desc(&g, i, AT_DATA, 4, D_NEXT, (i + 1) % 8);
	breaks(-EPROTO, "loop");
}

static void address_wraps(void)
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

static void buffer_over_the_end_of_ram(void)
{
	setup(8, 0);
	guest_desc(&g, 0, LOW_SIZE - 1, 2, 0, 0);
	breaks(-EFAULT, "not in one piece of RAM");
	setup(8, 0);
	guest_desc(&g, 0, HIGH_BASE + HIGH_SIZE, 1, 0, 0);
	breaks(-EFAULT, "not in one piece of RAM");
}

static void buffer_over_the_hole(void)
{
	setup(8, 0);
	guest_desc(&g, 0, LOW_SIZE - 16, (uint32_t)(HIGH_BASE - LOW_SIZE + 32), 0, 0);
	breaks(-EFAULT, "not in one piece of RAM");
	setup(8, 0);
	guest_desc(&g, 0, HIGH_BASE - 1, 2, 0, 0);
	breaks(-EFAULT, "not in one piece of RAM");
}

static void buffer_over_two_regions(void)
{
	setup(8, 0);
	/* Side by side for the guest, not for us. */
	g.mem.region[1].gpa = LOW_SIZE;
	guest_desc(&g, 0, LOW_SIZE - 16, 32, 0, 0);
	breaks(-EFAULT, "not in one piece of RAM");
}

static void buffer_of_zero_bytes(void)
{
	setup(8, 0);
	guest_desc(&g, 0, AT_DATA, 0, 0, 0);
	breaks(-EPROTO, "zero bytes");
}

static void readable_behind_writable(void)
{
	setup(8, 0);
	guest_desc(&g, 0, AT_DATA, 4, D_NEXT | D_WRITE, 1);
	guest_desc(&g, 1, AT_DATA, 4, 0, 0);
	breaks(-EPROTO, "behind a writable");
}

static void more_buffers_than_room(void)
{
	setup(8, 0);
	for (uint16_t i = 0; i < 4; i++)
		guest_desc(&g, i, AT_DATA, 4, i < 3 ? D_NEXT : 0, i + 1);
	chain.max = 3;
	breaks(-EPROTO, "more than 3 buffers");
}

static void indirect_not_negotiated(void)
{
	setup(8, 0);
	guest_desc(&g, 0, AT_DATA, 16, D_INDIRECT, 0);
	breaks(-EPROTO, "not negotiated");
}

static void indirect_with_next(void)
{
	setup(8, RING_INDIRECT);
	guest_desc(&g, 0, AT_DATA, 16, D_INDIRECT | D_NEXT, 1);
	breaks(-EPROTO, "behind an indirect table");
}

static void indirect_of_a_wrong_size(void)
{
	setup(8, RING_INDIRECT);
	guest_desc(&g, 0, AT_DATA, 24, D_INDIRECT, 0);
	breaks(-EPROTO, "24 bytes");
	setup(8, RING_INDIRECT);
	guest_desc(&g, 0, AT_DATA, 0, D_INDIRECT, 0);
	breaks(-EPROTO, "0 bytes");
}

static void indirect_outside_ram(void)
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

static void indirect_inside_indirect(void)
{
	indirect_entry((struct desc){ AT_DATA, 16, D_INDIRECT, 0 });
	breaks(-EPROTO, "in an indirect table");
}

static void indirect_next_out_of_range(void)
{
	indirect_entry((struct desc){ AT_DATA, 16, D_NEXT, 2 });
	breaks(-EPROTO, "entry 2 of an indirect table of 2");
}

static void indirect_loop(void)
{
	indirect_entry((struct desc){ AT_DATA, 16, D_NEXT, 0 });
	breaks(-EPROTO, "more than 1024 buffers");
}

static void head_twice_in_flight(void)
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

/* What a driver of a split ring may do. */

static void config_refused(void)
{
	static const struct ring_config bad[] = {
		{ .size = 0, .desc = AT_DESC, .avail = AT_AVAIL, .used = AT_USED },
		{ .size = 3, .desc = AT_DESC, .avail = AT_AVAIL, .used = AT_USED },
		{ .size = 2048, .desc = AT_DESC, .avail = AT_AVAIL, .used = AT_USED },
		{ .size = 0x80000000, .desc = AT_DESC, .avail = AT_AVAIL, .used = AT_USED },
		{ .size = 8, .flags = 8, .desc = AT_DESC, .avail = AT_AVAIL, .used = AT_USED },
		{ .size = 8, .desc = AT_DESC + 8, .avail = AT_AVAIL, .used = AT_USED },
		{ .size = 8, .desc = AT_DESC, .avail = AT_AVAIL + 1, .used = AT_USED },
		{ .size = 8, .desc = AT_DESC, .avail = AT_AVAIL, .used = AT_USED + 2 },
		{ .size = 8, .desc = AT_DESC, .avail = AT_AVAIL, .used = AT_USED, .next_avail = 65536, .next_used = 65536 },
		{ .size = 8, .desc = AT_DESC, .avail = AT_AVAIL, .used = AT_USED, .next_avail = 5, .next_used = 4 },
	};
	static const struct ring_config outside[] = {
		{ .size = 8, .desc = LOW_SIZE - 112, .avail = AT_AVAIL, .used = AT_USED },
		{ .size = 8, .desc = -16ull, .avail = AT_AVAIL, .used = AT_USED },
		{ .size = 8, .desc = AT_DESC, .avail = LOW_SIZE - 20, .used = AT_USED },
		{ .size = 8, .desc = AT_DESC, .avail = AT_AVAIL, .used = LOW_SIZE - 68 },
		{ .size = 8, .desc = AT_DESC, .avail = AT_AVAIL, .used = HIGH_BASE + HIGH_SIZE },
	};
	struct ring_config last = { .size = 8, .desc = LOW_SIZE - 128, .avail = LOW_SIZE - 22 };
	struct ring *ring;
	int err;

	setup(8, 0);
	guest_refuses(&g, bad, sizeof(bad) / sizeof(bad[0]), -EINVAL);
	guest_refuses(&g, outside, sizeof(outside) / sizeof(outside[0]), -EFAULT);
	/* The last bytes of RAM are RAM. The event word belongs to the used ring, whatever was negotiated. */
	last.used = HIGH_BASE + HIGH_SIZE - 68;
	CHECK(!ring_new(&g.mem, &last, &err));
	last.used -= 4;
	ring = ring_new(&g.mem, &last, &err);
	CHECK(ring);
	ring_free(ring);
	guest_close(&g);
}

static void chains_come_out(void)
{
	struct desc *table;

	setup(8, RING_INDIRECT);
	CHECK_EQ(ring_pop(g.ring, &chain), 0);
	/* Direct: two to read, two to write, in an order of their own. */
	guest_desc(&g, 3, AT_DATA, 16, D_NEXT, 1);
	guest_desc(&g, 1, HIGH_BASE, 4096, D_NEXT, 0);
	guest_desc(&g, 0, AT_DATA + 0x1000, 512, D_NEXT | D_WRITE, 7);
	guest_desc(&g, 7, LOW_SIZE - 1, 1, D_WRITE, 99);
	guest_offer(&g, 3);
	CHECK_EQ(ring_pop(g.ring, &chain), 1);
	CHECK_EQ(chain.head, 3);
	CHECK_EQ(chain.nread, 2);
	CHECK_EQ(chain.nwrite, 2);
	CHECK_EQ(chain.read_len, 4112);
	CHECK_EQ(chain.write_len, 513);
	CHECK(iov[0].iov_base == guest_ptr(&g, AT_DATA) && iov[0].iov_len == 16);
	CHECK(iov[1].iov_base == guest_ptr(&g, HIGH_BASE) && iov[1].iov_len == 4096);
	CHECK(iov[3].iov_base == guest_ptr(&g, LOW_SIZE - 1) && iov[3].iov_len == 1);
	CHECK_EQ(ring_pop(g.ring, &chain), 0);

	/* A direct one, then a table of more entries than the queue has, at an odd address; WRITE on the link is ignored. */
	table = malloc(100 * sizeof(*table));
	for (int i = 0; i < 100; i++)
		table[i] = (struct desc){ AT_DATA + 0x1000u * (unsigned int)i, 10, D_NEXT | D_WRITE, (uint16_t)(i + 1) };
	table[99].flags = D_WRITE;
	memcpy(guest_ptr(&g, AT_DATA + 0x5003), table, 100 * sizeof(*table));
	free(table);
	guest_desc(&g, 2, AT_DATA, 7, D_NEXT, 4);
	guest_desc(&g, 4, AT_DATA + 0x5003, 1600, D_INDIRECT | D_WRITE, 0);
	guest_offer(&g, 2);
	CHECK_EQ(ring_pop(g.ring, &chain), 1);
	CHECK_EQ(chain.nread, 1);
	CHECK_EQ(chain.nwrite, 100);
	CHECK_EQ(chain.write_len, 1000);
	guest_close(&g);
}

static void used_entries_and_wrap(void)
{
	uint32_t len;

	setup(4, RING_EVENT_IDX);
	for (uint16_t i = 0; i < 4; i++)
		guest_desc(&g, i, AT_DATA, 4, D_WRITE, 0);
	/* Around 16 bits, with up to all in flight, given back in another order. */
	for (uint32_t round = 0; round < 70000; round++) {
		uint32_t n = round % 4 + 1;

		for (uint16_t i = 0; i < n; i++)
			guest_offer(&g, i);
		for (uint32_t i = 0; i < n; i++) {
			CHECK_EQ(ring_pop(g.ring, &chain), 1);
			CHECK_EQ(chain.head, i);
		}
		CHECK_EQ(ring_pop(g.ring, &chain), 0);
		for (uint32_t i = n; i-- > 0;)
			CHECK_EQ(ring_push(g.ring, i, round + i), 0);
		CHECK_EQ(g.used[1], g.seen);
		ring_flush(g.ring);
		for (uint32_t i = n; i-- > 0;) {
			CHECK_EQ(guest_take(&g, &len), i);
			CHECK_EQ(len, round + i);
		}
	}
	guest_close(&g);
}

static void push_once(void)
{
	setup(4, 0);
	guest_desc(&g, 1, AT_DATA, 4, D_WRITE, 0);
	CHECK_EQ(ring_push(g.ring, 1, 0), -EINVAL);
	guest_offer(&g, 1);
	CHECK_EQ(ring_pop(g.ring, &chain), 1);
	CHECK_EQ(ring_push(g.ring, 0, 0), -EINVAL);
	CHECK_EQ(ring_push(g.ring, 4, 0), -EINVAL);
	CHECK_EQ(ring_push(g.ring, 0xffffffff, 0), -EINVAL);
	CHECK_EQ(ring_push(g.ring, 1, 4), 0);
	CHECK_EQ(ring_push(g.ring, 1, 4), -EINVAL);
	ring_flush(g.ring);
	CHECK_EQ(g.used[1], 1);
	guest_close(&g);
}

static void interrupts_as_wished(void)
{
	setup(8, 0);
	guest_desc(&g, 0, AT_DATA, 4, D_WRITE, 0);
	CHECK_EQ(ring_flush(g.ring), 0);
	complete(1);
	CHECK_EQ(ring_flush(g.ring), 1);
	CHECK_EQ(ring_flush(g.ring), 0);
	g.avail[0] = 1;
	complete(1);
	CHECK_EQ(ring_flush(g.ring), 0);
	/* Only the one bit means something. */
	g.avail[0] = 0xfffe;
	complete(1);
	CHECK_EQ(ring_flush(g.ring), 1);
	guest_close(&g);

	/* used_event: the entry whose completion is to be told. */
	setup(8, RING_EVENT_IDX);
	guest_desc(&g, 0, AT_DATA, 4, D_WRITE, 0);
	g.avail[0] = 1; /* no meaning with EVENT_IDX */
	complete(1);
	CHECK_EQ(ring_flush(g.ring), 1);
	complete(1);
	CHECK_EQ(ring_flush(g.ring), 0);
	g.avail[2 + 8] = 3;
	complete(1);
	CHECK_EQ(ring_flush(g.ring), 0);
	complete(1);
	CHECK_EQ(ring_flush(g.ring), 1);
	g.avail[2 + 8] = 5;
	complete(4);
	CHECK_EQ(ring_flush(g.ring), 1);
	/* A wish in the past: no more until it comes round. */
	complete(8);
	CHECK_EQ(ring_flush(g.ring), 0);
	guest_close(&g);
}

static void kicks_as_wished(void)
{
	setup(8, 0);
	guest_desc(&g, 0, AT_DATA, 4, D_WRITE, 0);
	CHECK_EQ(ring_kicks(g.ring, 0), 0);
	CHECK_EQ(g.used[0], 1);
	CHECK_EQ(ring_kicks(g.ring, 1), 0);
	CHECK_EQ(g.used[0], 0);
	/* Offered before the wish was seen: the device has to look itself. */
	guest_offer(&g, 0);
	CHECK_EQ(ring_kicks(g.ring, 1), 1);
	guest_close(&g);

	setup(8, RING_EVENT_IDX);
	guest_desc(&g, 0, AT_DATA, 4, D_WRITE, 0);
	complete(3);
	CHECK_EQ(ring_kicks(g.ring, 0), 0);
	CHECK_EQ(g.used[2 + 32], 0);
	CHECK_EQ(ring_kicks(g.ring, 1), 0);
	CHECK_EQ(g.used[2 + 32], 3);
	guest_offer(&g, 0);
	CHECK_EQ(ring_kicks(g.ring, 1), 1);
	guest_close(&g);
}

static void saved_and_restored(void)
{
	struct ring_config saved;
	int err;

	setup(8, RING_EVENT_IDX);
	guest_desc(&g, 0, AT_DATA, 4, D_WRITE, 0);
	complete(5);
	CHECK_EQ(ring_save(g.ring, &saved), -EBUSY);
	ring_flush(g.ring);
	guest_offer(&g, 0);
	CHECK_EQ(ring_save(g.ring, &saved), 0);
	CHECK_EQ(ring_pop(g.ring, &chain), 1);
	CHECK_EQ(ring_save(g.ring, &g.config), -EBUSY);
	ring_free(g.ring);
	/* What was not popped when it was saved is popped after. */
	CHECK_EQ(saved.next_avail, 5);
	CHECK_EQ(saved.next_used, 5);
	g.ring = ring_new(&g.mem, &saved, &err);
	CHECK(g.ring);
	CHECK_EQ(ring_pop(g.ring, &chain), 1);
	CHECK_EQ(ring_push(g.ring, 0, 0), 0);
	ring_flush(g.ring);
	CHECK_EQ(g.used[1], 6);
	guest_close(&g);
}

#define T(name) { #name, name }
static const struct test tests[] = {
	T(config_refused), T(chains_come_out), T(used_entries_and_wrap), T(push_once), T(interrupts_as_wished),
	T(kicks_as_wished), T(saved_and_restored), T(avail_idx_too_far), T(avail_idx_backwards), T(head_out_of_range),
	T(next_out_of_range), T(descriptor_points_to_itself), T(descriptors_in_a_ring), T(address_wraps),
	T(buffer_over_the_end_of_ram), T(buffer_over_the_hole), T(buffer_over_two_regions), T(buffer_of_zero_bytes),
	T(readable_behind_writable), T(more_buffers_than_room), T(indirect_not_negotiated), T(indirect_with_next),
	T(indirect_of_a_wrong_size), T(indirect_outside_ram), T(indirect_inside_indirect), T(indirect_next_out_of_range),
	T(indirect_loop), T(head_twice_in_flight), { NULL, NULL },
};

int main(int argc, char **argv)
{
	return test_main(tests, argc, argv);
}
