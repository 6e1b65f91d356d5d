// SPDX-License-Identifier: Apache-2.0
/* ring_packed_log.c: a packed ring that changes hands. */
#include "test_packed.h"

static _Alignas(4096) uint8_t books[RING_STATE_STRIDE];
static struct ring_state *const state = (struct ring_state *)(void *)books;

/* Whoever served the ring dies here; the next one has what lies in the books. */
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

void adopted_with_chains_under_way(void)
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
void adopted_in_the_middle(void)
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
void books_that_cannot_be(void)
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
	memset(books, 0, sizeof(books));
	CHECK_EQ(ring_share(g.ring, state), 0);
	put(AT_DATA, 1, 5, D_NEXT);
	put(AT_DATA, 2, 6, 0);
	CHECK_EQ(ring_pop(g.ring, &chain), 1);
	memcpy(kept, books, sizeof(books));
	for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
		memcpy(books, kept, sizeof(books));
		memcpy(books + lies[i].offset, &lies[i].value, sizeof(uint16_t));
		if (adopt() != -EPROTO) {
			fprintf(stderr, "lie %zu was believed\n", i);
			exit(1);
		}
	}
	/* A buffer that is none. */
	memcpy(books, kept, sizeof(books));
	memset(books + RING_LOG_OFFSET + offsetof(struct ring_log, desc), 0xff, 8);
	CHECK_EQ(adopt(), 1);
	CHECK_EQ(ring_pop(g.ring, &chain), -EFAULT);
	guest_close(&g);
}
