/* SPDX-License-Identifier: Apache-2.0 */
/* Memory for the core's own objects, on the pages of RAM that no program sees. All of it is zero at first. */
#ifndef SENTRY_SLAB_H
#define SENTRY_SLAB_H

#include "list.h"

/* Objects of one type. Define one with SLAB(type). */
struct slab {
	u32 size;
	struct list partial; /* pages with a free object */
	u32 empty; /* pages without a used one */
	u32 epoch;
};

#define SLAB(type) { .size = sizeof(type) }

void slab_init(void);
void *slab_alloc(struct slab *slab); /* NULL: no RAM is left */
void slab_free(struct slab *slab, void *object);

/* Of any size up to 4 MiB; from a page on it is aligned to a page. */
void *kmalloc(u64 size);
/* The same with whatever was there before, for what is read only as far as it was written. */
void *buffer_alloc(u64 size);
void kfree(void *memory); /* may be NULL */

#endif
