// SPDX-License-Identifier: Apache-2.0
/* Layers: the stacked files that RAM is filled from. The topmost layer with a page provides it. */
#include "ram/fill_struct.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* The number of bits that are tested together. */
enum { WORD_PAGES = 64 };

const uint8_t fill_zero_page[PAGE] __attribute__((aligned(PAGE)));

static int layer_add(struct fill *f, int fd, const uint8_t *bits)
{
	struct layer *more = realloc(f->layer, (f->layers + 1) * sizeof(*more)), *l;
	void *bytes;

	if (!more)
		return -ENOMEM;
	f->layer = more;
	l = &more[f->layers];
	l->bits = calloc(1, bitmap_size(f));
	if (!l->bits)
		return -ENOMEM;
	/* Map privately: a shared mapping would prevent sealing a memfd. */
	bytes = mmap(NULL, f->size, PROT_READ, MAP_PRIVATE | MAP_NORESERVE, fd, 0);
	if (bytes == MAP_FAILED) {
		int err = -errno;

		free(l->bits);
		return err;
	}
	madvise(bytes, f->size, MADV_DONTDUMP);
	madvise(bytes, f->size, MADV_DONTFORK);
	l->bytes = bytes;
	if (bits)
		memcpy(l->bits, bits, bitmap_size(f));
	f->layers++;
	return 0;
}

int fill_layer(struct fill *f, int fd, const uint8_t *bits)
{
	int err;

	pthread_mutex_lock(&f->lock);
	err = layer_add(f, fd, bits);
	pthread_mutex_unlock(&f->lock);
	return err;
}

void fill_layer_free(struct fill *f, struct layer *l)
{
	munmap((void *)(uintptr_t)l->bytes, f->size);
	free(l->bits);
}

void fill_layer_drop(struct fill *f)
{
	pthread_mutex_lock(&f->lock);
	fill_layer_free(f, &f->layer[--f->layers]);
	pthread_mutex_unlock(&f->lock);
}

int fill_merge(struct fill *f, uint32_t n, int fd, const uint8_t *bits)
{
	int err;

	pthread_mutex_lock(&f->lock);
	err = n && n <= f->layers ? layer_add(f, fd, bits) : -EINVAL;
	if (!err) {
		const struct layer one = f->layer[--f->layers];

		for (uint32_t i = 0; i < n; i++)
			fill_layer_free(f, &f->layer[i]);
		f->layers -= n;
		memmove(&f->layer[1], &f->layer[n], f->layers * sizeof(one));
		f->layer[0] = one;
		f->layers++;
	}
	pthread_mutex_unlock(&f->lock);
	return err;
}

int fill_data(struct fill *f, int fd, uint64_t start, uint64_t end)
{
	uint64_t at = start;

	while (at < end) {
		off_t data = lseek(fd, (off_t)at, SEEK_DATA), hole;

		if (data < 0)
			return errno == ENXIO ? 0 : -errno;
		hole = lseek(fd, data, SEEK_HOLE);
		if (hole < 0)
			return -errno;
		at = (uint64_t)hole < end ? (uint64_t)hole : end;
		/* Round to whole pages: a file system may have smaller blocks. */
		at = (at + PAGE - 1) & ~(uint64_t)(PAGE - 1);
		if ((uint64_t)data < end)
			set_bits(f->layer[f->layers - 1].bits, (uint64_t)data & ~(uint64_t)(PAGE - 1), at);
	}
	return 0;
}

void fill_layer_bits(const struct fill *f, uint32_t index, uint8_t *bits)
{
	if (index < f->layers)
		memcpy(bits, f->layer[index].bits, bitmap_size(f));
}

static bool has_data(const struct fill *f, uint64_t start, uint64_t end)
{
	/* start is a multiple of PIECE, so its bits begin at a word. */
	const uint64_t words = (end - start) / PAGE / WORD_PAGES;

	for (uint32_t i = 0; i < f->layers; i++) {
		const uint8_t *bits = f->layer[i].bits;
		uint64_t any = 0;

		for (uint64_t n = 0; n < words; n++) {
			uint64_t word;

			memcpy(&word, bits + start / PAGE / 8 + n * sizeof(word), sizeof(word));
			any |= word;
		}
		for (uint64_t at = start + words * WORD_PAGES * PAGE; at < end && !any; at += PAGE)
			any = has_page(bits, at);
		if (any)
			return true;
	}
	return false;
}

/* Divide RAM into pieces of at least `size` bytes. False: too many pieces. */
static bool cut_pieces(struct fill *f, uint64_t size)
{
	f->pieces = 0;
	for (uint64_t start = 0; start < f->size; start += size) {
		const uint64_t end = f->size - start > size ? start + size : f->size;
		struct piece *last = f->pieces ? &f->piece[f->pieces - 1] : NULL;

		if (!has_data(f, start, end))
			continue;
		if (last && last->end == start) {
			last->end = end;
			continue;
		}
		if (f->pieces == PIECES)
			return false;
		f->piece[f->pieces++] = (struct piece){ start, end };
	}
	return true;
}

void fill_cut(struct fill *f)
{
	uint64_t size = PIECE;

	while (!cut_pieces(f, size))
		size *= 2;
}
