/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Internals of RAM that is filled on demand, for fill*.c. Callers hold the lock, or are the only user of the object;
 * only fill_uffd_register() needs neither.
 */
#ifndef VMM_NATIVE_FILL_STRUCT_H
#define VMM_NATIVE_FILL_STRUCT_H

#include "base/native.h" /* first, since it defines _GNU_SOURCE */

#include <linux/userfaultfd.h>
#include <pthread.h>

/*
 * RAM is divided into pieces of PIECE bytes or more. Pieces with data in the template are registered with userfaultfd;
 * in the others the kernel fills pages with zeros.
 */
enum { PIECE = 2 << 20, PIECES = 32, CLIENTS = 64 };
/* epoll data: our own userfaultfd; SOURCE_CLIENT + i: that of client i. */
enum { SOURCE_STOP, SOURCE_OWN, SOURCE_CLIENT };

struct layer {
	const uint8_t *bytes;
	uint8_t *bits; /* the pages in this layer */
};

struct piece {
	uint64_t start, end;
};

/* Another process that maps RAM. */
struct client {
	int uffd; /* -1: none */
	uint64_t base;
};

struct fill {
	uint8_t *ram;
	uint64_t size;
	int memfd, uffd, stop_fd, epoll_fd;
	uint64_t around;
	struct layer *layer;
	uint32_t layers, pieces, laid_ranges;
	struct piece piece[PIECES];
	/* Where the only layer's file is mapped over RAM: ascending, not overlapping. */
	struct piece laid[FILL_LAID];
	bool running;
	pthread_t thread;
	/* Protects the fields below, and is held while pages are copied. */
	pthread_mutex_t lock;
	uint8_t *done;
	struct client client[CLIENTS];
	struct fill_first *first; /* NULL, or where faults are recorded */
	uint64_t faults, filled;
};

static inline void set_bits(uint8_t *bits, uint64_t start, uint64_t end)
{
	for (uint64_t at = start; at < end; at += PAGE) {
		if (at / PAGE % 8 == 0 && end - at >= 8 * PAGE) {
			bits[at / PAGE / 8] = 0xff;
			at += 7 * PAGE;
		} else {
			bits[at / PAGE / 8] |= (uint8_t)(1 << at / PAGE % 8);
		}
	}
}

static inline size_t bitmap_size(const struct fill *f)
{
	return (f->size / PAGE + 7) / 8;
}

/* The template's page; NULL: it has none, so the page is zero. */
static inline const uint8_t *template_page(const struct fill *f, uint64_t at)
{
	for (uint32_t i = f->layers; i-- > 0;)
		if (has_page(f->layer[i].bits, at))
			return f->layer[i].bytes + at;
	return NULL;
}

/* Whether the template's file is mapped over RAM at this offset. Lowers *end to where that changes. */
static inline bool is_laid(const struct fill *f, uint64_t at, uint64_t *end)
{
	for (uint32_t i = 0; i < f->laid_ranges; i++) {
		const struct piece *laid = &f->laid[i];
		const bool inside = at >= laid->start && at < laid->end;
		const uint64_t edge = at < laid->start ? laid->start : laid->end;

		if (edge > at && edge < *end)
			*end = edge;
		if (inside)
			return true;
	}
	return false;
}

static inline bool is_laid_page(const struct fill *f, uint64_t at)
{
	uint64_t end = at + PAGE;

	return is_laid(f, at, &end);
}

extern const uint8_t fill_zero_page[PAGE];

/* ---- fill_uffd.c ---- */

/* Negotiate the interface of a new userfaultfd. 0 or -errno; -EINVAL: it was used before. */
int fill_uffd_begin(int uffd);
/*
 * Receive the page faults of RAM, mapped at base in the process that owns the userfaultfd. May wait for that process.
 */
int fill_uffd_register(const struct fill *f, int uffd, uint64_t base);
void fill_uffd_unregister(const struct fill *f, int uffd, uint64_t base);

/* ---- fill_layers.c ---- */

void fill_layer_free(struct fill *f, struct layer *l);
/* Divide RAM into pieces according to the layers. */
void fill_cut(struct fill *f);

/* ---- fill_pages.c ---- */

/* Fill missing pages with the bytes at `from`; NULL: with zeros. 0 or -errno. */
int fill_put(struct fill *f, uint64_t start, uint64_t end, const uint8_t *from);
/*
 * Fill the pages between two offsets that the template has and that are not done. Returns the bytes filled, or -errno.
 */
int64_t fill_missing(struct fill *f, uint64_t start, uint64_t end);
/* Another process touches, at `page`, a page that is laid here: copy the guest's current page there. 0 or -errno. */
int fill_put_laid(const struct fill *f, int uffd, uint64_t page, uint64_t at);

/* ---- fill_faults.c ---- */

/* Add a descriptor that the thread waits for, with one of SOURCE_* as its number. */
int fill_watch(struct fill *f, int fd, uint64_t source_number);

/* ---- fill_clients.c ---- */

void fill_client_close(struct fill *f, struct client *c);

#endif
