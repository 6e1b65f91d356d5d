// SPDX-License-Identifier: Apache-2.0
/* The current contents of RAM: read without filling it, discarded, or moved into the memfd. */
#include "ram/fill_struct.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static void clear_bit(uint8_t *bits, uint64_t at)
{
	bits[at / PAGE / 8] &= (uint8_t) ~(1 << at / PAGE % 8);
}

int fill_forget(struct fill *f, void *at, uint64_t len)
{
	const uint64_t start = (uint64_t)((const uint8_t *)at - f->ram);
	uint64_t same = start + len;
	bool laid;

	pthread_mutex_lock(&f->lock);
	laid = is_laid(f, start, &same) || same < start + len;
	if (!laid)
		set_bits(f->done, start, start + len);
	pthread_mutex_unlock(&f->lock);
	/* The guest returns pages of its own code: zero them instead. */
	if (laid)
		memset(at, 0, len);
	return laid ? -EBUSY : 0;
}

int fill_unmap(struct fill *f)
{
	int err = 0;

	/* Skip laid ranges: they contain the only copy of what the guest wrote there. */
	for (uint64_t at = 0, end; at < f->size && !err; at = end) {
		end = f->size;
		if (!is_laid(f, at, &end) && madvise(f->ram + at, end - at, MADV_DONTNEED) < 0)
			err = -errno;
	}
	return err;
}

/* Whether the memfd has data at an offset. */
static bool memfd_has(const struct fill *f, struct fill_extent *extent, uint64_t at)
{
	if (at >= extent->hole) {
		off_t data = lseek(f->memfd, (off_t)at, SEEK_DATA);
		off_t hole = data < 0 ? -1 : lseek(f->memfd, data, SEEK_HOLE);

		extent->data = data < 0 ? f->size : (uint64_t)data;
		extent->hole = hole < 0 ? f->size : (uint64_t)hole;
	}
	return at >= extent->data;
}

/* Write to the memfd those pages of a laid range that differ from the template, or that it already has. */
static int laid_write(struct fill *f, const struct piece *laid)
{
	struct fill_extent extent = { 0 };
	int err = 0;

	for (uint64_t at = laid->start; at < laid->end && !err; at += PAGE) {
		if (memfd_has(f, &extent, at) || fill_differs(f, f->ram + at, at)) {
			err = file_write(f->memfd, f->ram + at, PAGE, at);
			set_bits(f->done, at, at + PAGE);
		} else {
			clear_bit(f->done, at);
		}
	}
	return err;
}

int fill_together(struct fill *f)
{
	int err = 0;

	pthread_mutex_lock(&f->lock);
	while (f->laid_ranges && !err) {
		const struct piece laid = f->laid[f->laid_ranges - 1];

		err = laid_write(f, &laid);
		if (!err)
			err = ram_map(f->ram + laid.start, laid.end - laid.start, RAM_SHARED, f->memfd, laid.start);
		if (err)
			break;
		f->laid_ranges--;
		if (f->uffd >= 0)
			err = fill_uffd_register(f, f->uffd, (uintptr_t)f->ram);
	}
	pthread_mutex_unlock(&f->lock);
	return err;
}

void fill_done(struct fill *f, uint8_t *bits)
{
	pthread_mutex_lock(&f->lock);
	memcpy(bits, f->done, bitmap_size(f));
	pthread_mutex_unlock(&f->lock);
}

void fill_own(struct fill *f, uint8_t *bits)
{
	uint64_t at = 0;

	fill_done(f, bits);
	for (uint32_t i = 0; i <= f->pieces; i++) {
		const uint64_t stop = i < f->pieces ? f->piece[i].start : f->size;

		while (at < stop) {
			const off_t data = lseek(f->memfd, (off_t)at, SEEK_DATA);
			off_t hole;

			if (data < 0 || (uint64_t)data >= stop)
				break;
			hole = lseek(f->memfd, data, SEEK_HOLE);
			at = hole < 0 || (uint64_t)hole > stop ? stop : (uint64_t)hole;
			set_bits(bits, (uint64_t)data, at);
		}
		if (i < f->pieces)
			at = f->piece[i].end;
	}
}

void fill_get_stats(struct fill *f, struct fill_stats *out)
{
	pthread_mutex_lock(&f->lock);
	*out = (struct fill_stats){ .faults = f->faults, .filled = f->filled };
	pthread_mutex_unlock(&f->lock);
}

void fill_hold(struct fill *f)
{
	pthread_mutex_lock(&f->lock);
}

void fill_release(struct fill *f)
{
	pthread_mutex_unlock(&f->lock);
}

const uint8_t *fill_look(const struct fill *f, struct fill_extent *extent, uint64_t at, bool *own)
{
	const uint8_t *from;

	if (is_laid_page(f, at)) {
		*own = fill_differs(f, f->ram + at, at);
		return f->ram + at;
	}
	*own = has_page(f->done, at);
	if (!*own) {
		from = template_page(f, at);
		/* A page that the template lacks is zero, unless RAM has it. */
		if (from)
			return from;
	}
	if (!memfd_has(f, extent, at))
		return fill_zero_page;
	*own = true;
	return f->ram + at;
}

bool fill_differs(const struct fill *f, const uint8_t *page, uint64_t at)
{
	const uint8_t *from = template_page(f, at);

	return memcmp(page, from ? from : fill_zero_page, PAGE) != 0;
}
