// SPDX-License-Identifier: Apache-2.0
/*
 * A disk against any guest memory, without a thread, so that a run depends on the input alone. Input: the disk's and the
 * ring's features, then bytes for the descriptor table, the available ring and the RAM that headers and ranges lie in.
 *
 * Nothing behind the disk's end may change in the image, and every chain that was taken is answered once. With an overlay,
 * which has some of the blocks already, the image does not change at all; it is read again from what the file has then.
 */
#include "blk/blk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

enum { LOW = 0x8000, HIGH = 0x1000, HIGH_AT = 0x10000, DESC = 0, AVAIL = 0x400, USED = 0x600, HEADERS = 0x1000 };
enum { SECTORS = 64, GUARD = 4096, ROUNDS = 4 };
enum { BITS_AT = 4096, DATA_AT = 8192, HAS_OVERLAY = 0x40 };

static uint8_t *low, *high;
static int image = -1, event, over = -1;

static void require(bool ok)
{
	if (!ok)
		abort();
}

static void take(const uint8_t **data, size_t *size, void *to, size_t want)
{
	size_t n = want < *size ? want : *size;

	memcpy(to, *data, n);
	*data += n;
	*size -= n;
}

static void setup(void)
{
	uint8_t guard[GUARD];

	if (image < 0) {
		require(!posix_memalign((void **)&low, 4096, LOW));
		require(!posix_memalign((void **)&high, 4096, HIGH));
		image = memfd_create("image", MFD_CLOEXEC);
		over = memfd_create("overlay", MFD_CLOEXEC);
		event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		require(image >= 0 && event >= 0);
	}
	memset(low, 0, LOW);
	memset(high, 0, HIGH);
	memset(guard, 0x5a, sizeof(guard));
	require(ftruncate(image, 0) == 0);
	require(pwrite(image, guard, GUARD, SECTORS * 512) == GUARD);
}

/* Blocks that the overlay has: those of bits, and of rubbish behind the last one. */
static struct blk_overlay *overlay_make(uint8_t bits)
{
	const uint8_t text[16] = { bits, 0xff, bits };
	uint8_t guard[GUARD];
	int err;

	memset(guard, 0x5a, sizeof(guard));
	require(ftruncate(over, 0) == 0 && pwrite(over, text, sizeof(text), BITS_AT) == sizeof(text));
	require(pwrite(over, guard, GUARD, DATA_AT + SECTORS * 512) == GUARD);
	struct blk_overlay *o = blk_overlay_new(over, BITS_AT, DATA_AT, SECTORS * 512, &err);

	require(o);
	return o;
}

/* What was flushed is what another reads; nothing was written elsewhere. */
static void overlay_check(struct blk_overlay *o, uint8_t bits)
{
	static uint8_t whole[SECTORS * 512];
	uint8_t found, guard[GUARD];
	struct blk_overlay *again;
	int err;

	require(pread(image, whole, sizeof(whole), 0) == sizeof(whole));
	for (size_t i = 0; i < sizeof(whole); i++)
		require(!whole[i]);
	require(pread(over, guard, GUARD, DATA_AT + SECTORS * 512) == GUARD && guard[0] == 0x5a && guard[GUARD - 1] == 0x5a);
	require(blk_overlay_flush(o) == 0);
	require(pread(over, &found, 1, BITS_AT) == 1 && (found & bits) == bits);
	again = blk_overlay_new(over, BITS_AT, DATA_AT, SECTORS * 512, &err);
	require(again);
	blk_overlay_free(again);
	blk_overlay_free(o);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct mem mem = { .nregions = 2 };
	uint32_t isr = 0;
	struct irq irq = { .fd = event, .status = &isr };
	const struct worker_ops *ops = &blk_ops;
	uint8_t head[4] = { 0 }, guard[GUARD], bits = 0;
	struct blk_stats stats;
	struct blk_queue *q;
	struct worker *w;
	struct blk *blk;
	int err, n;

	setup();
	mem.region[0] = (struct mem_region){ 0, LOW, (uintptr_t)low };
	mem.region[1] = (struct mem_region){ HIGH_AT, HIGH, (uintptr_t)high };
	take(&data, &size, head, sizeof(head));
	struct ring_config rc = {
		.size = 1u << (head[0] % 6),
		.flags = head[0] >> 6,
		.desc = DESC,
		.avail = AVAIL,
		.used = USED,
	};
	struct blk_config bc = {
		.fd = image,
		.flags = head[1] & (BLK_RO | BLK_DISCARD | BLK_WRITE_ZEROES | BLK_DIRECT),
		.capacity = SECTORS,
		.seg_max = head[2] & 15,
		.size_max = head[2] & 16 ? 4096 : 0,
		.max_discard_sectors = 32,
		.max_discard_seg = head[2] >> 5,
		.alignment = head[1] & BLK_DIRECT ? 512u << (head[3] & 3) : 1,
		.serial = "serial",
	};
	/* Rarely, since a ring for each input is slow. */
	bc.flags |= head[1] >= 0xf0 ? BLK_URING : BLK_NO_URING;
	if (head[3] & HAS_OVERLAY && !(bc.flags & BLK_DIRECT)) {
		bits = (uint8_t)(head[3] << 2);
		bc.overlay = overlay_make(bits);
		ops = &blk_overlay_ops;
	}
	take(&data, &size, low + DESC, 16 * rc.size);
	take(&data, &size, low + AVAIL, 6 + 2 * rc.size);
	take(&data, &size, low + HEADERS, 512);
	struct ring *ring = ring_new(&mem, &rc, &err);

	require(ring);
	blk = blk_new(&bc, &err);
	require(blk);
	blk_set_writeback(blk, head[3] & 0x80);
	q = blk_queue_new(blk, rc.size);
	require(q);
	w = &q->worker;
	w->ring = ring;
	w->ops = ops;
	w->irq = &irq;
	w->kick_fd = w->stop_fd = w->event_fd = event;
	require(!ops->begin || ops->begin(w) == 0);
	for (int round = 0; round < ROUNDS; round++) {
		do
			n = ops->run(w);
		while (n > 0);
		if (n < 0)
			break;
		/* The guest goes on with other bytes. */
		take(&data, &size, low + DESC, 16 * rc.size);
		low[AVAIL + 2]++;
	}
	require(n <= 0);
	ops->drain(w);
	worker_flush(w);
	/* Only a chain without a place for the answer has none, and it is the last one. */
	require(ring_in_flight(ring) <= (n < 0));
	blk_get_stats(blk, &stats);
	require(pread(image, guard, GUARD, SECTORS * 512) == GUARD);
	for (size_t i = 0; i < GUARD; i++)
		require(guard[i] == 0x5a);
	if (bc.flags & BLK_RO)
		require(stats.writes + stats.discards + stats.write_zeroes == 0);
	ops->destroy(w);
	blk_free(blk);
	if (bc.overlay)
		overlay_check(bc.overlay, bits);
	ring_free(ring);
	return 0;
}
