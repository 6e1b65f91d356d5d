// SPDX-License-Identifier: Apache-2.0
/* Hash tables that grow by pages of buckets, and trees of numbered values. */
#include "table.h"

#include "core.h"
#include "slab.h"

enum { PAGE_BITS = 9, PER_PAGE = 1 << PAGE_BITS, MOST_BITS = 2 * PAGE_BITS };

static struct table_entry **bucket(const struct table *table, u32 hash)
{
	u32 index = hash & ((1u << table->bits) - 1);

	return &table->pages[index >> PAGE_BITS][index & (PER_PAGE - 1)];
}

static int table_start(struct table *table)
{
	table->pages = page_alloc();
	if (!table->pages)
		return -ENOMEM;
	table->pages[0] = page_alloc();
	if (!table->pages[0]) {
		page_free(table->pages);
		table->pages = NULL;
		return -ENOMEM;
	}
	table->bits = PAGE_BITS;
	return 0;
}

/* Twice as many buckets, if there is memory. */
static void table_grow(struct table *table)
{
	u32 pages = 1u << (table->bits - PAGE_BITS), old = 1u << table->bits;

	for (u32 i = 0; i < pages; i++) {
		table->pages[pages + i] = page_alloc();
		if (table->pages[pages + i])
			continue;
		while (i--)
			page_free(table->pages[pages + i]);
		return;
	}
	table->bits++;
	for (u32 i = 0; i < old; i++) {
		struct table_entry **from = &table->pages[i >> PAGE_BITS][i & (PER_PAGE - 1)], *entry;

		while ((entry = *from)) {
			struct table_entry **to = bucket(table, entry->hash);

			if (!(entry->hash & old)) {
				from = &entry->next;
				continue;
			}
			*from = entry->next;
			entry->next = *to;
			*to = entry;
		}
	}
}

int table_add(struct table *table, struct table_entry *entry, u32 hash)
{
	struct table_entry **place;

	if (!table->pages && table_start(table))
		return -ENOMEM;
	if (table->count > 2u << table->bits && table->bits < MOST_BITS)
		table_grow(table);
	place = bucket(table, hash);
	entry->hash = hash;
	entry->next = *place;
	*place = entry;
	table->count++;
	return 0;
}

void table_remove(struct table *table, struct table_entry *entry)
{
	struct table_entry **place = bucket(table, entry->hash);

	while (*place && *place != entry)
		place = &(*place)->next;
	if (!*place)
		return;
	*place = entry->next;
	entry->next = NULL;
	table->count--;
}

struct table_entry *table_first(const struct table *table, u32 hash)
{
	return table->pages ? *bucket(table, hash) : NULL;
}

void table_free(struct table *table)
{
	for (u32 i = 0; table->pages && i < 1u << (table->bits - PAGE_BITS); i++)
		page_free(table->pages[i]);
	page_free(table->pages);
	*table = (struct table){ .pages = NULL };
}

u32 hash_bytes(const void *data, u64 size, u64 seed)
{
	const u8 *at = data;
	u64 hash = seed ^ size * 0x9e3779b97f4a7c15ull;

	for (; size; size--)
		hash = (hash ^ *at++) * 0x100000001b3ull;
	hash = (hash ^ hash >> 32) * 0xff51afd7ed558ccdull;
	return (u32)(hash >> 32);
}

/* -- trees -- */

enum { NODE_BITS = 6, SLOTS = 1 << NODE_BITS, MOST_LEVELS = (64 + NODE_BITS - 1) / NODE_BITS };

struct tree_node {
	void *slots[SLOTS];
};

static struct slab nodes = SLAB(struct tree_node);

static bool fits(const struct tree *tree, u64 index)
{
	return tree->levels >= MOST_LEVELS || !(index >> (tree->levels * NODE_BITS));
}

void *tree_get(const struct tree *tree, u64 index)
{
	void *at = tree->root;

	if (!tree->levels || !fits(tree, index))
		return NULL;
	for (u32 level = tree->levels; at && level--;)
		at = ((struct tree_node *)at)->slots[index >> (level * NODE_BITS) & (SLOTS - 1)];
	return at;
}

static bool node_empty(const struct tree_node *node)
{
	for (u32 i = 0; i < SLOTS; i++)
		if (node->slots[i])
			return false;
	return true;
}

/* Free the nodes on the way to a number that lead to nothing. */
static void tree_trim(struct tree *tree, u64 index)
{
	while (tree->root) {
		void **place = (void **)&tree->root, **last = NULL;

		for (u32 level = tree->levels; level-- && *place;) {
			struct tree_node *node = *place;

			if (node_empty(node))
				last = place;
			place = &node->slots[index >> (level * NODE_BITS) & (SLOTS - 1)];
		}
		if (!last)
			return;
		slab_free(&nodes, *last);
		*last = NULL;
	}
	tree->levels = 0;
}

int tree_set(struct tree *tree, u64 index, void *value)
{
	void **place;

	if (!value && !tree_get(tree, index))
		return 0;
	while (!tree->levels || !fits(tree, index)) {
		struct tree_node *node = slab_alloc(&nodes);

		if (!node)
			return -ENOMEM;
		node->slots[0] = tree->root;
		tree->root = node;
		tree->levels++;
	}
	place = (void **)&tree->root;
	for (u32 level = tree->levels; level--;) {
		if (!*place)
			*place = slab_alloc(&nodes);
		if (!*place) {
			tree_trim(tree, index);
			return -ENOMEM;
		}
		place = &((struct tree_node *)*place)->slots[index >> (level * NODE_BITS) & (SLOTS - 1)];
	}
	*place = value;
	if (!value)
		tree_trim(tree, index);
	return 0;
}

void *tree_next(const struct tree *tree, u64 *index, u64 end)
{
	while (tree->levels && *index < end && fits(tree, *index)) {
		void *at = tree->root;
		u32 level = tree->levels;
		u64 next;

		while (at && level--)
			at = ((struct tree_node *)at)->slots[*index >> (level * NODE_BITS) & (SLOTS - 1)];
		if (at)
			return at;
		if (level >= MOST_LEVELS)
			level = 0;
		next = ((*index >> (level * NODE_BITS)) + 1) << (level * NODE_BITS);
		if (next <= *index)
			return NULL;
		*index = next;
	}
	return NULL;
}
