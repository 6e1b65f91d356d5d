/* SPDX-License-Identifier: Apache-2.0 */
/* Collections of the core's objects that grow without contiguous memory. */
#ifndef SENTRY_TABLE_H
#define SENTRY_TABLE_H

#include "types.h"

/* A hash table through a member of its entries. Zeros are an empty one. */
struct table_entry {
	struct table_entry *next;
	u32 hash;
};

struct table {
	struct table_entry ***pages; /* of 512 buckets */
	u32 bits, count;
};

int table_add(struct table *table, struct table_entry *entry, u32 hash); /* 0 or -ENOMEM */
void table_remove(struct table *table, struct table_entry *entry);
struct table_entry *table_first(const struct table *table, u32 hash); /* of those that may have this hash */
void table_free(struct table *table); /* of an empty one */
u32 hash_bytes(const void *data, u64 size, u64 seed);

/* Values by number, sparse. Zeros are an empty one. */
struct tree {
	struct tree_node *root;
	u32 levels;
};

void *tree_get(const struct tree *tree, u64 index);
int tree_set(struct tree *tree, u64 index, void *value); /* 0 or -ENOMEM; NULL removes */
/* The first value from *index to below end, and its number in *index; NULL. */
void *tree_next(const struct tree *tree, u64 *index, u64 end);

#endif
