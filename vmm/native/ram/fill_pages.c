// SPDX-License-Identifier: Apache-2.0
/* Fills missing pages while other threads may touch them. The copy is atomic: a page is either missing or complete. */
#include "ram/fill_struct.h"

#include <errno.h>
#include <poll.h>
#include <sys/ioctl.h>

/* If the host is out of memory, retry a copy TRIES times, pausing for TRY_MS. */
enum { TRIES = 200, TRY_MS = 20 };

/*
 * Handle a UFFDIO_COPY or UFFDIO_ZEROPAGE that did not finish. moved: its result, in bytes, or negative. 0: continue at
 * *at; or -errno. EEXIST: another thread has already filled the page.
 */
static int pages_put_result(int64_t moved, int err, uint64_t *at, int *tries)
{
	if (moved > 0) {
		*at += (uint64_t)moved;
		return 0;
	}
	switch (err) {
	case EEXIST:
		*at += PAGE;
		return 0;
	case EAGAIN:
		return 0;
	case ENOMEM:
		if (++*tries < TRIES) {
			poll(NULL, 0, TRY_MS);
			return 0;
		}
		return -ENOMEM;
	default:
		return -err;
	}
}

int fill_put(struct fill *f, uint64_t start, uint64_t end, const uint8_t *from)
{
	uint64_t at = start;
	int tries = 0, err = 0;

	while (at < end && !err) {
		if (from) {
			struct uffdio_copy c = {
				.dst = (uintptr_t)f->ram + at,
				.src = (uintptr_t)from + (at - start),
				.len = end - at,
			};

			if (ioctl(f->uffd, UFFDIO_COPY, &c) == 0)
				break;
			err = pages_put_result(c.copy, errno, &at, &tries);
		} else {
			struct uffdio_zeropage z = { .range = { (uintptr_t)f->ram + at, end - at } };

			if (ioctl(f->uffd, UFFDIO_ZEROPAGE, &z) == 0)
				break;
			err = pages_put_result(z.zeropage, errno, &at, &tries);
		}
	}
	return err;
}

int64_t fill_missing(struct fill *f, uint64_t start, uint64_t end)
{
	uint64_t at = start, total = 0;

	while (at < end) {
		const uint8_t *from = template_page(f, at);
		uint64_t stop = at + PAGE;
		int err;

		if (has_page(f->done, at) || !from || is_laid_page(f, at)) {
			at = stop;
			continue;
		}
		while (stop < end && !has_page(f->done, stop) && template_page(f, stop) == from + (stop - at) && !is_laid_page(f, stop))
			stop += PAGE;
		err = fill_put(f, at, stop, from);
		if (err)
			return err;
		set_bits(f->done, at, stop);
		total += stop - at;
		at = stop;
	}
	f->filled += total;
	return (int64_t)total;
}

/* Another process touches a laid page: copy the guest's current page there. */
int fill_put_laid(const struct fill *f, int uffd, uint64_t page, uint64_t at)
{
	uint64_t done = 0;
	int tries = 0, err = 0;

	while (!err && done < PAGE) {
		struct uffdio_copy c = { .dst = page, .src = (uintptr_t)f->ram + at, .len = PAGE };

		if (ioctl(uffd, UFFDIO_COPY, &c) == 0)
			break;
		err = pages_put_result(c.copy, errno, &done, &tries);
	}
	return err;
}

int64_t fill_range(struct fill *f, uint64_t start, uint64_t end)
{
	int64_t total = 0;

	while (start < end) {
		const uint64_t stop = end - start > PIECE / 8 ? start + PIECE / 8 : end;
		int64_t some;

		/* Release the lock between pieces, so that page faults are answered meanwhile. */
		pthread_mutex_lock(&f->lock);
		some = fill_missing(f, start, stop);
		pthread_mutex_unlock(&f->lock);
		if (some < 0)
			return some;
		total += some;
		start = stop;
	}
	return total;
}

void fill_places(struct fill *f, const struct mem *mem, const uint64_t *gpa, uint32_t n)
{
	pthread_mutex_lock(&f->lock);
	for (uint32_t i = 0; i < n; i++) {
		const uint8_t *place = mem_ptr(mem, gpa[i], 1);
		const uint64_t at = (uint64_t)(place - f->ram) & ~(uint64_t)(PAGE - 1);

		/* Ignore errors: the first toucher of such a page reports them. */
		if (place && !has_page(f->done, at))
			(void)fill_missing(f, at, at + PAGE);
	}
	pthread_mutex_unlock(&f->lock);
}
