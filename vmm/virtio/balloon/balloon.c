// SPDX-License-Identifier: Apache-2.0
/*
 * virtio-balloon (virtio 1.2, 5.5): gives pages that the guest does not need back to the host.
 *
 * Pages are released before their chain is pushed: a driver that did not negotiate MUST_TELL_HOST may use a page again
 * without asking. Adjacent pages, also of different chains, are released by one call, so that a huge page is released as a
 * whole instead of being split.
 */
#include "balloon/balloon.h"
#include "ring/ring.h"

#include <errno.h>

#include "base/native.h"

enum { PAGE_SHIFT = 12 };
enum { PFNS = 512, CHAINS = 32 };

/* Adjacent pages lo .. hi - 1 that are to be released. */
struct run {
	const struct balloon_memory *memory;
	struct balloon_stats *stats;
	uint64_t lo, hi;
};

static void pages_release(const struct run *run, void *at, uint64_t len)
{
	if (ram_release(at, len, run->memory->backing, run->memory->fill) < 0)
		run->stats->errors++;
	else
		run->stats->released += len;
}

/* False: not all of it is RAM. */
static bool run_flush(struct run *run)
{
	const uint64_t gpa = run->lo << PAGE_SHIFT, len = (run->hi - run->lo) << PAGE_SHIFT;
	void *at;

	if (!len)
		return true;
	run->lo = run->hi = 0;
	at = mem_ptr(run->memory->mem, gpa, len);
	if (!at)
		return false;
	pages_release(run, at, len);
	return true;
}

/* Add a page to the run on either side: Linux inflates from the top down or from the bottom up. */
static bool run_add(struct run *run, uint64_t pfn)
{
	if (run->hi > run->lo && pfn == run->hi) {
		run->hi++;
	} else if (run->hi > run->lo && pfn + 1 == run->lo) {
		run->lo--;
	} else {
		if (!run_flush(run))
			return false;
		run->lo = pfn;
		run->hi = pfn + 1;
	}
	return true;
}

/* 5.5.6.1: an array of 32-bit page numbers; the boundaries of buffers may lie anywhere in it. */
static bool chain_inflate(struct run *run, struct chain *chain)
{
	struct iovec *iov = chain->iov;
	uint32_t n = chain->nread, pfn[PFNS];
	size_t got;

	while ((got = iov_gather(iov, n, pfn, sizeof(pfn))) >= sizeof(pfn[0])) {
		for (size_t i = 0; i < got / sizeof(pfn[0]); i++)
			if (!run_add(run, pfn[i]))
				return false;
		run->stats->inflated += got / sizeof(pfn[0]);
		iov_skip(&iov, &n, got);
	}
	return true;
}

/* 5.5.6.5: the buffers are the pages. The ring has checked that they are RAM. Parts of pages are not released. */
static void chain_report(struct run *run, const struct chain *chain)
{
	for (uint32_t i = 0; i < chain->nread + chain->nwrite; i++) {
		uintptr_t start = (uintptr_t)chain->iov[i].iov_base, end = start + chain->iov[i].iov_len;

		start = (start + PAGE - 1) & ~(uintptr_t)(PAGE - 1);
		end &= ~(uintptr_t)(PAGE - 1);
		if (start >= end)
			continue;
		run->stats->reported += end - start;
		pages_release(run, (void *)start, end - start);
	}
}

/* 5.5.6.7.1: a command of 32 bits to read, or pages that the guest keeps for as long as this run lasts. */
static void chain_hint(struct run *run, const struct chain *chain)
{
	uint32_t command;

	if (chain->nread) {
		if (iov_gather(chain->iov, chain->nread, &command, sizeof(command)) < sizeof(command))
			return;
		if (command == BALLOON_HINT_STOP)
			run->stats->hinted = run->stats->hint;
		run->stats->hint = command;
		return;
	}
	if (run->memory->hint > BALLOON_HINT_DONE && run->stats->hint == run->memory->hint)
		chain_report(run, chain);
}

static bool chain_do(struct run *run, int what, struct chain *chain)
{
	switch (what) {
	case BALLOON_INFLATE:
		return chain_inflate(run, chain);
	case BALLOON_DEFLATE:
		/* Nothing to do: the host allocates a page when the guest touches it. */
		run->stats->deflated += chain->read_len / sizeof(uint32_t);
		return true;
	case BALLOON_HINT:
		chain_hint(run, chain);
		return true;
	default:
		chain_report(run, chain);
		return true;
	}
}

int balloon_run(const struct balloon_memory *memory, int what, struct ring *ring, struct iovec *iov,
		struct balloon_stats *stats)
{
	struct run run = { .memory = memory, .stats = stats };
	struct chain chain = { .max = RING_MAX_SEGMENTS, .iov = iov };
	uint32_t head[CHAINS];
	int n = 0, err = 0;

	while (n < CHAINS) {
		err = ring_pop(ring, &chain);
		if (err <= 0)
			break;
		head[n++] = chain.head;
		if (!chain_do(&run, what, &chain)) {
			err = -EFAULT;
			break;
		}
	}
	if (!run_flush(&run))
		err = -EFAULT;
	if (err == -EFAULT)
		return ring_fail(ring, err, "the balloon was given a page that is not RAM");
	for (int i = 0; i < n; i++)
		ring_push(ring, head[i], 0);
	return err < 0 ? err : n;
}
