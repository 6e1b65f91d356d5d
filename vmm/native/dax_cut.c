// SPDX-License-Identifier: Apache-2.0
/*
 * Pages of the DAX window that are not to be had.
 *
 * A file that shrinks takes pages away under the guest. KVM_RUN then fails without saying where, and dax_fault() looks for
 * slots whose last page is not to be had: that is where a shorter file shows. From its first missing page on such a slot
 * is cut: anonymous memory takes the file's place, and the file's mapping is parked at the same place of a second range.
 * Slots that only happen to be longer than their file (a small file in a large slot) are cut by that, too. So the thread
 * looks at what is cut from time to time: what the guest has not touched, or what the file has again, comes back.
 */
#include "dax_struct.h"

#include <errno.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif
#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

/* What lies at from comes to to, in place of what was there. from stays reserved. */
static int move(uint8_t *from, size_t len, uint8_t *to)
{
	if (mremap(from, len, len, MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, to) != MAP_FAILED)
		return 0;
	return -errno;
}

static bool can_be_had(uint8_t *at, size_t len)
{
	return madvise(at, len, MADV_POPULATE_READ) == 0 || (errno != EFAULT && errno != EHWPOISON);
}

/* Cut a slot at its first page that is missing; its last one is. */
static void slot_cut(struct dax *dax, uint32_t i)
{
	struct slot *s = &dax->slot[i];
	uint32_t good = 0, bad = s->whole - 1u;
	size_t len;

	while (good < bad) {
		uint32_t middle = (good + bad) / 2;

		if (can_be_had(dax_in_window(dax, i, middle), PAGE))
			good = middle + 1;
		else
			bad = middle;
	}
	len = (size_t)(s->whole - bad) * PAGE;
	if (s->whole == s->pages)
		dax->ncut++;
	/* A file that cannot be parked does not come back, until the guest maps it again. */
	if (move(dax_in_window(dax, i, bad), len, dax_in_park(dax, i, bad)))
		s->lost = true;
	dax_fill_memory(dax_in_window(dax, i, bad), len);
	s->whole = (uint16_t)bad;
}

/* thorough: a page in the middle, on a disk that has failed, say. */
static uint32_t find_cuts(struct dax *dax, bool thorough)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < dax->nslots; i++) {
		struct slot *s = &dax->slot[i];
		uint32_t first = 0;

		if (!s->whole)
			continue;
		if (!can_be_had(dax_in_window(dax, i, s->whole - 1u), PAGE)) {
			slot_cut(dax, i);
			n++;
		} else if (thorough && !can_be_had(dax_in_window(dax, i, 0), (size_t)s->whole * PAGE)) {
			while (first < s->whole - 1u && can_be_had(dax_in_window(dax, i, first), PAGE))
				first++;
			/* For good: behind it the file is as it should be, which would look as if it had come back. */
			if (s->whole == s->pages)
				dax->ncut++;
			dax_fill_memory(dax_in_window(dax, i, first), (size_t)(s->whole - first) * PAGE);
			s->whole = (uint16_t)first;
			s->lost = true;
			n++;
		}
	}
	return n;
}

uint32_t dax_fault(struct dax *dax)
{
	uint32_t n;

	pthread_mutex_lock(&dax->lock);
	n = find_cuts(dax, false);
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

/* Has the guest touched a page of memory that took a file's place? */
static bool touched(uint8_t *at, uint32_t pages)
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

		if (!n || s->lost)
			continue;
		if ((at < s->had || touched(dax_in_window(dax, i, at), n)) && !can_be_had(dax_in_park(dax, i, at), PAGE))
			continue;
		if (move(dax_in_park(dax, i, at), (size_t)n * PAGE, dax_in_window(dax, i, at)))
			continue;
		dax_forget_cut(dax, i);
		dax_changed(dax);
	}
	pthread_mutex_unlock(&dax->lock);
}

/*
 * KVM lets a vCPU whose interrupts are on wait for a page as if it were on its way, and again when it has not come: such an
 * access never fails. So files are watched for having lost what the guest counts on.
 */
void dax_look_for_shrunk(struct dax *dax)
{
	pthread_mutex_lock(&dax->lock);
	for (uint32_t i = 0; i < dax->nslots; i++) {
		const struct slot *s = &dax->slot[i];

		if (!s->had || s->whole < s->had || can_be_had(dax_in_window(dax, i, s->had - 1u), PAGE))
			continue;
		slot_cut(dax, i);
		dax_changed(dax);
		dax->stats.faults++;
	}
	pthread_mutex_unlock(&dax->lock);
}
