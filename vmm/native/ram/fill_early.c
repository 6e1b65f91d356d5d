// SPDX-License-Identifier: Apache-2.0
/*
 * Fills RAM before its guest runs, so that these pages cause no faults. fill_lay() and fill_ahead() are called before
 * any piece is registered. fill_early() and fill_renew() serve a shell whose final layers are not known yet.
 */
#include "ram/fill_struct.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif

/* The number of bits that are tested together. */
enum { WORD_PAGES = 64 };
/* A read fault also maps present pages around it, within this size (Linux's fault-around). */
enum { FAULT_AROUND = 64 << 10 };

int fill_lay(struct fill *f, int fd, uint64_t start, uint64_t end)
{
	const uint64_t last = f->laid_ranges ? f->laid[f->laid_ranges - 1].end : 0;
	int err;

	if (f->laid_ranges == FILL_LAID || f->layers != 1 || start % PAGE || end % PAGE || start < last || start >= end || end > f->size)
		return -EINVAL;
	err = ram_map(f->ram + start, end - start, RAM_OVER_FILE, fd, start);
	if (!err)
		f->laid[f->laid_ranges++] = (struct piece){ start, end };
	return err;
}

/*
 * Write the template's pages between two offsets to the memfd. With bits, write the pages whose bits are set, zeros
 * included, and mark them done.
 */
static int write_pages(struct fill *f, const uint8_t *bits, uint64_t start, uint64_t end)
{
	uint64_t at = start;
	int err = 0;

	while (at < end && !err) {
		const uint8_t *from = template_page(f, at);
		uint64_t stop = at + PAGE;

		if (is_laid_page(f, at)) {
			/* It is present already. The bit marks a page that the guest needs. */
			if (bits && has_page(bits, at))
				set_bits(f->done, at, stop);
		} else if (bits ? has_page(bits, at) : from != NULL) {
			while (from && stop < end && template_page(f, stop) == from + (stop - at) && (!bits || has_page(bits, stop)) &&
			       !is_laid_page(f, stop))
				stop += PAGE;
			err = file_write(f->memfd, from ? from : fill_zero_page, stop - at, at);
			if (bits)
				set_bits(f->done, at, stop);
			if (from)
				f->filled += stop - at;
		}
		at = stop;
	}
	return err;
}

static uint32_t count_pages(const uint8_t *bits, uint64_t start, uint64_t end)
{
	uint32_t n = 0;

	for (uint64_t at = start; at < end; at += PAGE)
		n += has_page(bits, at);
	return n;
}

int fill_ahead(struct fill *f, const uint8_t *bits, bool huge)
{
	int err = 0;

	for (uint64_t start = 0; start < f->size && !err; start += PIECE) {
		const uint64_t end = f->size - start > PIECE ? start + PIECE : f->size;
		const uint32_t n = count_pages(bits, start, end);
		uint64_t same = end;

		if (!n)
			continue;
		/* Fill all of a huge page: none of its pages can fault later. */
		if (huge && end - start == PIECE && n >= PIECE / PAGE / 8 * 7 && !is_laid(f, start, &same) && same == end &&
		    ram_huge(f->ram + start, PIECE) == 0) {
			err = write_pages(f, NULL, start, end);
			set_bits(f->done, start, end);
			continue;
		}
		err = write_pages(f, bits, start, end);
		/* Map them: one read for each FAULT_AROUND. */
		for (uint64_t at = start; at < end && !err; at += FAULT_AROUND)
			for (uint64_t page = at; page < at + FAULT_AROUND && page < end; page += PAGE)
				if (has_page(f->done, page)) {
					(void)__atomic_load_n(f->ram + page, __ATOMIC_RELAXED);
					break;
				}
	}
	/* Unmap the template's pages, which this process would otherwise keep mapped. */
	for (uint32_t i = 0; i < f->layers; i++)
		madvise((void *)(uintptr_t)f->layer[i].bytes, f->size, MADV_DONTNEED);
	if (!err)
		return 0;
	/* Discard what was written: a page may be partly filled. */
	memset(f->done, 0, bitmap_size(f));
	f->filled = 0;
	return madvise(f->ram, f->size, MADV_REMOVE) < 0 ? -errno : 0;
}

int fill_early(struct fill *f, const uint8_t *bits)
{
	uint64_t start, end = 0;
	int err;

	pthread_mutex_lock(&f->lock);
	err = write_pages(f, bits, 0, f->size);
	/* Where this fails (before Linux 5.14), pages are mapped on first touch. */
	while (!err && mem_run(bits, f->size, &start, &end))
		(void)madvise(f->ram + start, end - start, MADV_POPULATE_WRITE);
	pthread_mutex_unlock(&f->lock);
	return err;
}

static void page_renew(const struct fill *f, uint64_t at)
{
	const uint8_t *from = template_page(f, at);

	if (!from)
		from = fill_zero_page;
	if (memcmp(f->ram + at, from, PAGE) != 0)
		memcpy(f->ram + at, from, PAGE);
}

/* The pages of one word, starting at `page`, that are done and that a layer after the first `same` contains. */
static uint64_t done_above(const struct fill *f, uint32_t same, uint64_t page, size_t bytes)
{
	uint64_t done = 0, above = same ? 0 : UINT64_MAX, word = 0;

	memcpy(&done, f->done + page / 8, bytes);
	for (uint32_t i = same; same && i < f->layers; i++) {
		memcpy(&word, f->layer[i].bits + page / 8, bytes);
		above |= word;
	}
	return done & above;
}

void fill_renew(struct fill *f, uint32_t same)
{
	const size_t size = bitmap_size(f);

	pthread_mutex_lock(&f->lock);
	for (size_t at = 0; at < size; at += WORD_PAGES / 8) {
		uint64_t left = done_above(f, same, 8 * at, size - at < WORD_PAGES / 8 ? size - at : WORD_PAGES / 8);

		for (; left; left &= left - 1)
			page_renew(f, (8 * at + (uint64_t)__builtin_ctzll(left)) * PAGE);
	}
	pthread_mutex_unlock(&f->lock);
}
