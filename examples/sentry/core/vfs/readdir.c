// SPDX-License-Identifier: Apache-2.0
/* Entries of directories. */
#include "caller.h"

u32 entry_type(u32 mode)
{
	return (mode & S_IFMT) >> 12;
}

bool entries_put(struct entries *entries, const char *name, u64 size, u64 inode, u32 type, u64 cookie)
{
	return entries->put(entries, name, size, inode, type, cookie);
}

/* `.` and `..`, which come first and have the cookies 1 and 2 behind them. */
bool entries_put_dots(struct file *file, struct entries *entries)
{
	const struct dentry *dentry = file->path.dentry;

	if (!file->position) {
		if (!entries_put(entries, ".", 1, dentry->inode->number, DT_DIR, 1))
			return false;
		file->position = 1;
	}
	if (file->position == 1) {
		if (!entries_put(entries, "..", 2, dentry->parent->inode->number, DT_DIR, 2))
			return false;
		file->position = 2;
	}
	return true;
}

/* The first entry with a cookie that is not below a position. */
static struct list *entry_from(struct file *file)
{
	struct dentry *directory = file->path.dentry;
	struct list *at = directory->children.next;

	if (file->hint && file->hint_version == directory->version && file->hint->cookie <= file->position)
		at = &file->hint->siblings;
	while (at != &directory->children && CONTAINER(at, struct dentry, siblings)->cookie < file->position)
		at = at->next;
	return at;
}

/* Whoever has reached the end sees entries that come later after a seek only, as in Linux's tmpfs. */
int dentry_readdir(struct file *file, struct entries *entries)
{
	const u64 end = 0x7fffffff;
	struct dentry *directory = file->path.dentry;
	struct list *at;

	if (file->position == end || !entries_put_dots(file, entries))
		return 0;
	for (at = entry_from(file); at != &directory->children; at = at->next) {
		struct dentry *entry = CONTAINER(at, struct dentry, siblings);

		if (!entry->inode)
			continue;
		if (!entries_put(entries, entry->name, entry->name_size, entry->inode->number,
				 entry_type(entry->inode->mode), entry->cookie + 1))
			break;
		file->position = entry->cookie + 1;
		file->hint = entry;
		file->hint_version = directory->version;
	}
	if (at == &directory->children)
		file->position = end;
	return 0;
}

s64 directory_seek(struct file *file, s64 offset, u32 whence)
{
	if (whence == SEEK_CUR)
		offset += (s64)file->position;
	else if (whence != SEEK_SET)
		return -EINVAL;
	return offset < 0 ? -EINVAL : offset;
}
