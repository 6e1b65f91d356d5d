// SPDX-License-Identifier: Apache-2.0
/*
 * Pages of the DAX window that do not exist.
 *
 * A file may end before its slot does, when it is mapped or because it was truncated later. The part behind its end is cut:
 * the mapping is parked at the same place of a second range, and its place in the window is closed (PROT_NONE). An access of
 * the guest then makes KVM_RUN fail at once. (With a readable mapping, KVM would wait for the page for ever.) KVM does not
 * report the address, so dax_fault() checks whether a file has grown, and maps it again; whether a file has lost its last
 * page; and at last replaces all closed places by anonymous memory. The thread checks such memory periodically: what the
 * guest has not touched is closed again, and what the file has again is mapped again.
 */
#include "fs/dax/dax_struct.h"

#include <errno.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif
#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

/* Replace a range by new anonymous memory, with this protection. */
static int pages_replace(void *at, size_t len, int prot)
{
	void *p = mmap(at, len, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);

	return p == MAP_FAILED ? -errno : 0;
}

int dax_fill_memory(void *at, size_t len)
{
	return pages_replace(at, len, PROT_READ | PROT_WRITE);
}

/* Replace a range by PROT_NONE. 0 or -errno. */
static int fill_nothing(void *at, size_t len)
{
	return pages_replace(at, len, PROT_NONE);
}

void dax_forget_cut(struct dax *dax, uint32_t i)
{
	struct slot *s = &dax->slot[i];

	if (s->whole == s->pages)
		return;
	fill_nothing(dax_in_park(dax, i, 0), DAX_SLOT);
	dax->ncut -= !s->closed;
	s->whole = s->pages;
	s->lost = s->closed = false;
}

/* Move the mapping at `from` over the one at `to`. `from` stays reserved. */
static int pages_move(uint8_t *from, size_t len, uint8_t *to)
{
	if (mremap(from, len, len, MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, to) != MAP_FAILED)
		return 0;
	return -errno;
}

/* Whether the pages exist. */
static bool pages_exist(uint8_t *at, size_t len)
{
	return madvise(at, len, MADV_POPULATE_READ) == 0 || (errno != EFAULT && errno != EHWPOISON);
}

/* The first missing page of a slot whose last page is missing. */
static uint32_t slot_first_missing(struct dax *dax, uint32_t i)
{
	uint32_t good = 0, bad = dax->slot[i].whole - 1u;

	while (good < bad) {
		uint32_t middle = (good + bad) / 2;

		if (pages_exist(dax_in_window(dax, i, middle), PAGE))
			good = middle + 1;
		else
			bad = middle;
	}
	return bad;
}

/* Cut a slot at a page that is in the window. */
static void slot_cut(struct dax *dax, uint32_t i, uint32_t page, bool closed)
{
	struct slot *s = &dax->slot[i];
	const bool was_memory = s->whole < s->pages && !s->closed;
	/* The part that was cut before is either all memory or all closed. */
	const size_t len = (size_t)(s->whole - page) * PAGE, all = (size_t)(s->pages - page) * PAGE;

	/* If the mapping cannot be parked, the pages stay lost until the guest maps them again. */
	if (pages_move(dax_in_window(dax, i, page), len, dax_in_park(dax, i, page)))
		s->lost = true;
	s->whole = (uint16_t)page;
	s->closed = closed && !was_memory && !s->lost && !fill_nothing(dax_in_window(dax, i, page), len);
	if (!s->closed)
		dax_fill_memory(dax_in_window(dax, i, page), was_memory ? len : all);
	dax->ncut += !s->closed && !was_memory;
}

void dax_close(struct dax *dax, uint32_t i, uint32_t page)
{
	slot_cut(dax, i, page, true);
}

/* The file has a page that was cut: map again all that it has. */
static bool slot_return(struct dax *dax, uint32_t i)
{
	struct slot *s = &dax->slot[i];

	if (pages_move(dax_in_park(dax, i, s->whole), (size_t)(s->pages - s->whole) * PAGE, dax_in_window(dax, i, s->whole)))
		return false;
	dax_forget_cut(dax, i);
	if (!pages_exist(dax_in_window(dax, i, s->pages - 1u), PAGE))
		dax_close(dax, i, slot_first_missing(dax, i));
	s->had = s->whole;
	return true;
}

static uint32_t find_grown(struct dax *dax)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < dax->nslots; i++) {
		const struct slot *s = &dax->slot[i];

		if (s->closed && pages_exist(dax_in_park(dax, i, s->whole), PAGE))
			n += slot_return(dax, i);
	}
	return n;
}

/* The guest has accessed a closed place, and it is not known which one: replace all of them by memory. */
static uint32_t open_closed(struct dax *dax)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < dax->nslots; i++) {
		struct slot *s = &dax->slot[i];

		if (!s->closed || dax_fill_memory(dax_in_window(dax, i, s->whole), (size_t)(s->pages - s->whole) * PAGE))
			continue;
		s->closed = false;
		dax->ncut++;
		n++;
	}
	return n;
}

/* Find files that have lost pages at their end. thorough: also in the middle, for example after an error of the disk. */
static uint32_t find_cuts(struct dax *dax, bool thorough)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < dax->nslots; i++) {
		struct slot *s = &dax->slot[i];
		uint32_t first = 0;

		if (!s->whole)
			continue;
		if (!pages_exist(dax_in_window(dax, i, s->whole - 1u), PAGE)) {
			slot_cut(dax, i, slot_first_missing(dax, i), false);
			n++;
		} else if (thorough && !pages_exist(dax_in_window(dax, i, 0), (size_t)s->whole * PAGE)) {
			while (first < s->whole - 1u && pages_exist(dax_in_window(dax, i, first), PAGE))
				first++;
			/* Lost for good: the pages behind it exist, so the file would seem to have grown again. */
			slot_cut(dax, i, first, false);
			s->lost = true;
			n++;
		}
	}
	return n;
}

uint32_t dax_fault(void *window)
{
	struct dax *dax = window;
	uint32_t n;

	pthread_mutex_lock(&dax->lock);
	n = find_grown(dax);
	if (!n)
		n = find_cuts(dax, false);
	if (!n)
		n = open_closed(dax);
	if (!n)
		n = find_cuts(dax, true);
	if (n) {
		dax_changed(dax);
		dax->stats.faults++;
		eventfd_write(dax->wake_fd, 1);
	}
	pthread_mutex_unlock(&dax->lock);
	return n;
}

/* Whether the guest has touched a page of the memory that replaced a file. */
static bool memory_touched(uint8_t *at, uint32_t pages)
{
	unsigned char present[SLOT_PAGES];

	if (mincore(at, (size_t)pages * PAGE, present))
		return true;
	for (uint32_t i = 0; i < pages; i++)
		if (present[i] & 1)
			return true;
	return false;
}

void dax_look_at_cuts(struct dax *dax)
{
	pthread_mutex_lock(&dax->lock);
	for (uint32_t i = 0; i < dax->nslots && dax->ncut; i++) {
		struct slot *s = &dax->slot[i];
		uint32_t at = s->whole, n = (uint32_t)s->pages - at;

		if (!n || s->closed || s->lost)
			continue;
		if (pages_exist(dax_in_park(dax, i, at), PAGE)) {
			if (!slot_return(dax, i))
				continue;
		} else if (memory_touched(dax_in_window(dax, i, at), n) || fill_nothing(dax_in_window(dax, i, at), (size_t)n * PAGE)) {
			continue;
		} else {
			s->closed = true;
			dax->ncut--;
		}
		dax_changed(dax);
	}
	pthread_mutex_unlock(&dax->lock);
}

/*
 * If interrupts are enabled on a vCPU, KVM waits for the page asynchronously, and tries again when it has not come: such an
 * access never fails. So the thread looks for truncated files and closes the lost pages; then the access fails.
 */
void dax_look_for_shrunk(struct dax *dax)
{
	pthread_mutex_lock(&dax->lock);
	for (uint32_t i = 0; i < dax->nslots; i++) {
		const struct slot *s = &dax->slot[i];

		if (!s->had || s->whole < s->had || pages_exist(dax_in_window(dax, i, s->had - 1u), PAGE))
			continue;
		slot_cut(dax, i, slot_first_missing(dax, i), true);
		dax_changed(dax);
		dax->stats.faults++;
	}
	pthread_mutex_unlock(&dax->lock);
}
