// SPDX-License-Identifier: Apache-2.0
/* Memory without a file that several mappings show: pages by their number, in chunks that appear with the first page. */
#include "core.h"

enum { CHUNK = PAGE / sizeof(u64) };

struct shared {
	u32 references;
	u64 chunks;
	void (*left)(void *owner);
	void *owner;
	u64 *chunk[];
};

struct shared *shared_new(u64 size)
{
	u64 chunks = (size / PAGE + CHUNK - 1) / CHUNK;
	struct shared *shared = kmalloc(sizeof(*shared) + chunks * sizeof(u64 *));

	if (!shared)
		return NULL;
	shared->references = 1;
	shared->chunks = chunks;
	return shared;
}

s64 shared_page(struct shared *shared, u64 index)
{
	u64 **chunk = &shared->chunk[index / CHUNK], *place;
	void *page;

	if (index / CHUNK >= shared->chunks)
		return -ENXIO;
	if (!*chunk)
		*chunk = page_alloc();
	if (!*chunk)
		return -ENOMEM;
	place = &(*chunk)[index % CHUNK];
	if (!*place) {
		page = page_alloc();
		if (!page)
			return -ENOMEM;
		*place = page_offset(page);
	}
	page_get(*place);
	return (s64)*place;
}

void shared_get(struct shared *shared)
{
	reference_get(&shared->references);
}

void shared_put(struct shared *shared)
{
	if (!reference_put(&shared->references)) {
		if (shared->left)
			shared->left(shared->owner);
		return;
	}
	for (u64 i = 0; i < shared->chunks; i++) {
		for (u64 at = 0; shared->chunk[i] && at < CHUNK; at++)
			if (shared->chunk[i][at])
				page_put(shared->chunk[i][at]);
		page_free(shared->chunk[i]);
	}
	kfree(shared);
}

u32 shared_users(const struct shared *shared)
{
	return shared->references;
}

void shared_own(struct shared *shared, void (*left)(void *owner), void *owner)
{
	shared->left = left;
	shared->owner = owner;
}

void *shared_owner(const struct shared *shared, void (*left)(void *owner))
{
	return shared->left == left ? shared->owner : NULL;
}
