/* SPDX-License-Identifier: Apache-2.0 */
/* Memory for the core's own objects, on the pages of RAM that no program sees. All of it is zero at first. */
#ifndef SENTRY_SLAB_H
#define SENTRY_SLAB_H

#include "list.h"

struct ram;


/* Objects of one type. Define one with SLAB(type). */
struct slab {
	const char *name;
	u32 size;
	u32 used; /* objects */
	struct list partial; /* pages with a free object */
	u32 empty; /* pages without a used one */
};

#define SLAB(type) { .name = #type, .size = sizeof(type) }

void slab_init(struct ram *ram);
void *slab_alloc(struct slab *slab); /* NULL: no RAM is left */
void slab_free(struct slab *slab, void *object);

/* Of any size up to a page; a page is aligned to its size. */
void *kmalloc(u64 size);
void kfree(void *memory); /* may be NULL */
void *page_alloc(void);
void page_free(void *page);
u64 page_offset(const void *page); /* in RAM, as mappings need it */
void *page_at(u64 offset);

#endif
