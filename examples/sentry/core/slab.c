// SPDX-License-Identifier: Apache-2.0
/*
 * Objects of the core: each type has pages of its own.  A page begins with its header, so that an object leads to it.
 * Freed objects are overwritten; a free that does not fit its page stops the core.
 */
#include "slab.h"

#include "core.h"

#define SLAB_MAGIC 0x736c616273656e74ull
#define POISON 0x6b
#define LAST 0xffff

struct slab_page {
	u64 magic;
	struct slab *slab;
	struct list partial;
	u16 free, used, fresh, pad; /* the first free object; how many are used; the first that never was */
	u64 pad2;
};

_Static_assert(sizeof(struct slab_page) % 16 == 0, "objects are aligned");

static u32 epoch; /* slabs of another epoch hold pages of an earlier sandbox, which are void */

enum { SIZES = 9 };
static struct slab sizes[SIZES] = {
	{ .size = 16 },	 { .size = 32 },  { .size = 64 },   { .size = 128 },  { .size = 256 },
	{ .size = 496 }, { .size = 800 }, { .size = 1344 }, { .size = 2016 },
};

void slab_init(void)
{
	epoch++;
}

static u32 stride(const struct slab *slab)
{
	return (slab->size + 15) & ~15u;
}

static u8 *object_at(struct slab_page *page, u32 index)
{
	return (u8 *)(page + 1) + index * stride(page->slab);
}

static u32 objects_per_page(const struct slab *slab)
{
	return (PAGE - (u32)sizeof(struct slab_page)) / stride(slab);
}

static struct slab_page *page_new(struct slab *slab)
{
	struct slab_page *page = page_alloc();

	if (!page)
		return NULL;
	page->magic = SLAB_MAGIC;
	page->slab = slab;
	page->free = LAST;
	list_add(&slab->partial, &page->partial);
	slab->empty++;
	return page;
}

void *slab_alloc(struct slab *slab)
{
	struct slab_page *page;
	u8 *object;

	if (slab->epoch != epoch) {
		list_init(&slab->partial);
		slab->empty = 0;
		slab->epoch = epoch;
	}
	page = list_empty(&slab->partial) ? page_new(slab) : CONTAINER(slab->partial.next, struct slab_page, partial);
	if (!page)
		return NULL;
	if (page->free != LAST) {
		object = object_at(page, page->free);
		page->free = *(u16 *)object;
	} else {
		object = object_at(page, page->fresh++);
	}
	slab->empty -= !page->used;
	page->used++;
	if (page->free == LAST && page->fresh == objects_per_page(slab))
		list_remove(&page->partial);
	bytes_zero(object, slab->size);
	return object;
}

void slab_free(struct slab *slab, void *object)
{
	struct slab_page *page = (struct slab_page *)page_down((u64)object);
	u64 at = (u64)object - (u64)(page + 1), index = at / stride(slab);

	if (page->magic != SLAB_MAGIC || page->slab != slab || at % stride(slab) || index >= page->fresh || !page->used)
		__builtin_trap(); /* memory of the core is no longer what it should be */
	bytes_fill(object, POISON, slab->size);
	*(u16 *)object = page->free;
	page->free = (u16)index;
	page->used--;
	if (list_empty(&page->partial))
		list_add(slab->partial.next, &page->partial);
	if (page->used)
		return;
	if (++slab->empty > 1) {
		slab->empty--;
		list_remove(&page->partial);
		page->magic = 0;
		page_free(page);
	}
}

static u64 pages_for(u64 size, u32 *order)
{
	*order = 0;
	while (*order < ORDERS && size > (u64)PAGE << *order)
		++*order;
	return *order < ORDERS ? pages_alloc(*order) : 0;
}

static void *pages_zeroed(u64 size)
{
	u32 order;
	u64 offset = pages_for(size, &order);

	if (!offset)
		return NULL;
	for (u64 at = offset; at < offset + ((u64)PAGE << order); at += PAGE)
		page_clear(at);
	return page_at(offset);
}

void *kmalloc(u64 size)
{
	for (u32 i = 0; i < SIZES; i++)
		if (size <= sizes[i].size)
			return slab_alloc(&sizes[i]);
	return pages_zeroed(size);
}

void *buffer_alloc(u64 size)
{
	u64 offset;
	u32 order;

	if (size <= sizes[SIZES - 1].size)
		return kmalloc(size);
	offset = pages_for(size, &order);
	return offset ? page_at(offset) : NULL;
}

void kfree(void *memory)
{
	struct slab_page *page = (struct slab_page *)page_down((u64)memory);

	if (!memory)
		return;
	if ((void *)page == memory)
		page_free(memory);
	else
		slab_free(page->slab, memory);
}
