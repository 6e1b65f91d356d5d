// SPDX-License-Identifier: Apache-2.0
/* Directories: blocks of entries in the order of their names. */
#include "erofs.h"

enum { SLOTS = 512 }; /* cookies for the entries of a block, which are fewer */

struct name {
	const char *at;
	u32 size;
};

/* How many entries a block has; -EUCLEAN. */
static s64 entry_count(const struct erofs_part *block)
{
	const struct erofs_entry *first = (const void *)block->at;

	if (block->size < sizeof(*first) || !first->name_at || first->name_at % sizeof(*first) || first->name_at > block->size)
		return -EUCLEAN;
	return first->name_at / (s64)sizeof(*first);
}

/* One entry, with its name; -EUCLEAN. */
static int entry_at(const struct erofs_part *block, u32 count, u32 index, struct erofs_entry *entry, struct name *name)
{
	const struct erofs_entry *all = (const void *)block->at;
	const u32 end = index + 1 < count ? all[index + 1].name_at : block->size;

	*entry = all[index];
	if (entry->name_at < count * sizeof(*all) || entry->name_at >= end || end > block->size)
		return -EUCLEAN;
	name->at = (const char *)block->at + entry->name_at;
	name->size = end - entry->name_at;
	if (index + 1 == count) /* zeros follow the last one */
		for (u32 i = 0; i < end - entry->name_at; i++)
			if (!name->at[i]) {
				name->size = i;
				break;
			}
	return name->size && name->size <= NAME_MAX ? 0 : -EUCLEAN;
}

static s32 compare(const struct name *a, const struct name *b)
{
	for (u32 i = 0; i < a->size && i < b->size; i++)
		if (a->at[i] != b->at[i])
			return (u8)a->at[i] - (u8)b->at[i];
	return (s32)a->size - (s32)b->size;
}

/* The number of a name's inode in a block: 0 and *number, -ENOENT, or another error. */
static int find_in_block(const struct erofs_part *block, const struct name *wanted, u64 *number)
{
	const s64 count = entry_count(block);
	s64 low = 0, high = count;

	if (count < 0)
		return (int)count;
	while (low < high) {
		const s64 middle = (low + high) / 2;
		struct erofs_entry entry;
		struct name name;
		int error = entry_at(block, (u32)count, (u32)middle, &entry, &name);
		s32 order = error ? 0 : compare(wanted, &name);

		if (error)
			return error;
		if (!order) {
			*number = entry.inode;
			return 0;
		}
		if (order < 0)
			high = middle;
		else
			low = middle + 1;
	}
	return -ENOENT;
}

/* Whether a name comes before all of a block. */
static int comes_before(const struct erofs_part *block, const struct name *wanted, bool *before)
{
	const s64 count = entry_count(block);
	struct erofs_entry entry;
	struct name name;
	int error = count < 0 ? (int)count : entry_at(block, (u32)count, 0, &entry, &name);

	*before = !error && compare(wanted, &name) < 0;
	return error;
}

/* The same in all blocks of a directory. */
static int find(struct inode *directory, const struct name *wanted, u64 *number)
{
	u64 low = 0, high = (directory->size + PAGE - 1) / PAGE;

	while (low < high) {
		const u64 middle = (low + high) / 2;
		struct erofs_part block;
		bool before;
		int error = erofs_part(directory, middle, &block);

		if (error)
			return error;
		error = comes_before(&block, wanted, &before);
		if (!error && !before)
			error = find_in_block(&block, wanted, number);
		erofs_part_put(&block);
		if (!before && error != -ENOENT)
			return error;
		if (before)
			high = middle;
		else
			low = middle + 1;
	}
	return -ENOENT;
}

static int lookup(struct inode *directory, struct dentry *dentry)
{
	const struct name wanted = { dentry->name, dentry->name_size };
	struct inode *inode;
	u64 number;
	int error = find(directory, &wanted, &number);

	if (error)
		return error == -ENOENT ? 0 : error;
	inode = erofs_inode(erofs_of(directory), number, &error);
	if (!inode)
		return error;
	dentry_attach(dentry, inode);
	return 0;
}

/* -- what it contains -- */

static bool is_dots(const struct name *name)
{
	return name->at[0] == '.' && (name->size == 1 || (name->size == 2 && name->at[1] == '.'));
}

/* As fs/erofs/dir.c reports them, by the same numbers as in other file systems. */
static u32 type_of(u8 type)
{
	static const u8 types[] = { 0, S_IFREG >> 12, S_IFDIR >> 12, S_IFCHR >> 12, S_IFBLK >> 12, S_IFIFO >> 12, S_IFSOCK >> 12,
				    S_IFLNK >> 12 };

	return type < ARRAY_SIZE(types) ? types[type] : 0;
}

/* The entries of a block from one on: 1 if there was room for all of them. */
static int put_block(struct file *file, struct entries *entries, const struct erofs_part *block, u64 first)
{
	const s64 count = entry_count(block);

	if (count < 0)
		return (int)count;
	for (u64 i = (first - 2) % SLOTS; i < (u64)count; i++) {
		struct erofs_entry entry;
		struct name name;
		const u64 next = first - (first - 2) % SLOTS + i + 1;
		int error = entry_at(block, (u32)count, (u32)i, &entry, &name);

		if (error)
			return error;
		if (!is_dots(&name) && !entries_put(entries, name.at, name.size, entry.inode, type_of(entry.type), next))
			return 0;
		file->position = next;
	}
	return 1;
}

static int readdir(struct file *file, struct entries *entries)
{
	int result = 1;

	if (!entries_put_dots(file, entries))
		return 0;
	while (result == 1) {
		const u64 block_index = (file->position - 2) / SLOTS;
		struct erofs_part block;

		result = erofs_part(file->inode, block_index, &block);
		if (result)
			return result == -ENXIO ? 0 : result;
		result = put_block(file, entries, &block, file->position);
		erofs_part_put(&block);
		if (result == 1)
			file->position = 2 + (block_index + 1) * SLOTS;
	}
	return result;
}

const struct inode_operations erofs_directory_operations = { .lookup = lookup, EROFS_ATTRIBUTES };

const struct file_operations erofs_directory_file_operations = {
	.readdir = readdir,
	.seek = directory_seek,
	.fsync = file_sync_nothing,
};
