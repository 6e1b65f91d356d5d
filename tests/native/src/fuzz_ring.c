// SPDX-License-Identifier: Apache-2.0
/*
 * A ring of either format against any guest memory. Input: queue size and features, then bytes for the descriptor table,
 * the available ring and the RAM behind; what is left are calls. RAM is on the heap in pieces of just its size, so ASan
 * sees a step over. At the end another goes on with the ring from what lies in shared memory, true or not.
 */
#include "ring/ring.h"

#include <stdlib.h>
#include <string.h>

enum { LOW = 0x3000, HIGH = 0x800, HIGH_AT = 0x10000, DESC = 0, AVAIL = 0x400, USED = 0x600, TABLE = 0x1000 };
enum { MAX_IOV = 64 };
enum { END = 0xfe }; /* of the calls; lies follow */

static uint8_t *low, *high;
static _Alignas(4096) uint8_t ring_states[RING_STATE_STRIDE];
static struct ring_state *const state = (struct ring_state *)(void *)ring_states;

static void require(bool ok)
{
	if (!ok)
		abort();
}

static const uint8_t *take(const uint8_t **data, size_t *size, void *to, size_t want)
{
	size_t n = want < *size ? want : *size;

	memcpy(to, *data, n);
	*data += n;
	*size -= n;
	return to;
}

static void chain_check(const struct mem *mem, const struct chain *c, uint32_t size)
{
	uint64_t sum[2] = { 0, 0 };

	require(c->head < size);
	require(c->nread + c->nwrite > 0 && c->nread + c->nwrite <= c->max);
	for (uint32_t i = 0; i < c->nread + c->nwrite; i++) {
		uint64_t at = (uintptr_t)c->iov[i].iov_base, len = c->iov[i].iov_len;

		require(len > 0);
		require((at >= mem->region[0].hva && at + len <= mem->region[0].hva + LOW) ||
			(at >= mem->region[1].hva && at + len <= mem->region[1].hva + HIGH));
		sum[i >= c->nread] += len;
	}
	require(sum[0] == c->read_len && sum[1] == c->write_len);
}

/* Whoever comes next finds a state of which each byte may be a lie. */
static void adopt(const struct mem *mem, struct ring_config config, const uint8_t *data, size_t size, struct chain *chain)
{
	struct ring *ring;
	int err, n;

	for (; size > 2; data += 3, size -= 3)
		ring_states[(data[0] | data[1] << 8) % sizeof(ring_states)] = data[2];
	config.next_avail = config.next_used = 0;
	ring = ring_new(mem, &config, &err);
	require(ring != NULL);
	n = ring_adopt(ring, state);
	require(n <= (int)config.size);
	while (n-- > 0) {
		err = ring_pop(ring, chain);
		if (err < 0)
			break;
		require(err == 1);
		chain_check(mem, chain, config.size);
		require(ring_push(ring, chain->head, 1) == 0);
	}
	ring_flush(ring);
	ring_free(ring);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct iovec iov[MAX_IOV];
	struct chain chain = { .iov = iov };
	struct mem mem = { .nregions = 2 };
	uint32_t held[64], nheld = 0;
	uint8_t head[4] = { 0 };
	struct ring *ring;
	int err, error = 0;

	if (!low) {
		require(!posix_memalign((void **)&low, 4096, LOW));
		require(!posix_memalign((void **)&high, 4096, HIGH));
	}
	memset(low, 0, LOW);
	memset(high, 0, HIGH);
	mem.region[0] = (struct mem_region){ 0, LOW, (uintptr_t)low };
	mem.region[1] = (struct mem_region){ HIGH_AT, HIGH, (uintptr_t)high };
	take(&data, &size, head, sizeof(head));
	struct ring_config config = {
		.size = head[1] & RING_PACKED ? 1u + head[0] % 32 : 1u << (head[0] % 6),
		.flags = head[1] % 8,
		.desc = DESC,
		.avail = AVAIL,
		.used = USED,
	};
	/* Now and then a place that may not be right. */
	if (head[1] & 0x80) {
		config.used = (uint64_t)head[2] << 8 | head[3];
		config.avail = (uint64_t)head[3] << 8 | head[2];
	}
	chain.max = 1 + head[2] % MAX_IOV;
	take(&data, &size, low + DESC, 16 * config.size);
	take(&data, &size, low + AVAIL, 6 + 2 * config.size);
	take(&data, &size, low + TABLE, 256);
	memset(ring_states, 0, sizeof(ring_states));
	ring = ring_new(&mem, &config, &err);
	require(!ring == !!err);
	if (!ring)
		return 0;
	if (head[1] & 0x40)
		require(ring_share(ring, state) == 0);
	for (; size && *data != END; data++, size--) {
		switch (*data % 8) {
		case 0:
		case 1:
		case 2:
			err = ring_pop(ring, &chain);
			require(!error || err == error);
			require((err < 0) == (ring_error(ring) != NULL));
			if (err < 0)
				error = err;
			if (err == 1) {
				chain_check(&mem, &chain, config.size);
				require(nheld < config.size);
				held[nheld++] = chain.head;
			}
			break;
		case 3:
			if (nheld && *data & 0x80 && ring_unpop(ring, held[nheld - 1]) == 0)
				nheld--;
			else if (nheld)
				require(ring_push(ring, held[--nheld], *data) == 0);
			break;
		case 4:
			require((unsigned int)ring_flush(ring) <= 1);
			break;
		case 5:
			require((unsigned int)ring_kicks(ring, *data >> 7) <= 1);
			break;
		case 6:
			/* The guest goes on: more is available, and bytes change. */
			if (config.flags & RING_PACKED) {
				low[DESC + 16 * ((*data >> 3) % config.size) + 14] ^= 0x80;
				low[DESC + 16 * ((*data >> 3) % config.size) + 15] ^= 0x80;
			} else {
				low[AVAIL + 2] += 1 + (*data >> 6);
			}
			break;
		default:
			if (size > 2) {
				low[data[1] * 2u] = data[2];
				data += 2;
				size -= 2;
			}
			break;
		}
	}
	if (head[1] & 0x40) {
		ring_free(ring);
		adopt(&mem, config, data, size, &chain);
		return 0;
	}
	while (nheld)
		require(ring_push(ring, held[--nheld], 0) == 0);
	ring_flush(ring);
	err = ring_save(ring, &config);
	require(err == error);
	ring_free(ring);
	return 0;
}
