// SPDX-License-Identifier: Apache-2.0
/* Bytes of the image, and the content of its files. */
#include "erofs.h"

s64 erofs_page(const struct erofs *erofs, u64 index)
{
	s64 page = erofs->image->operations->page(erofs->image, index, false);

	return page == -ENXIO ? -EUCLEAN : page;
}

int erofs_copy(const struct erofs *erofs, u64 at, void *to, u64 size)
{
	if (at > erofs->image->size || size > erofs->image->size - at)
		return -EUCLEAN;
	while (size) {
		const u64 in_page = at % PAGE, part = size < PAGE - in_page ? size : PAGE - in_page;
		const s64 page = erofs_page(erofs, at / PAGE);

		if (page < 0)
			return (int)page;
		bytes_copy(to, (u8 *)page_at((u64)page) + in_page, part);
		page_put((u64)page);
		to = (u8 *)to + part;
		at += part;
		size -= part;
	}
	return 0;
}

static u64 page_count(const struct inode *inode)
{
	return inode->size / PAGE + (inode->size % PAGE != 0);
}

int erofs_part(struct inode *inode, u64 index, struct erofs_part *part)
{
	const struct erofs_node *node = erofs_node_of(inode);
	const u64 count = page_count(inode), left = inode->size - index * PAGE;
	u64 at;
	s64 page;

	if (index >= count)
		return -ENXIO;
	at = node->tail && index == count - 1 ? node->tail : node->content + index * PAGE;
	part->size = left < PAGE ? (u32)left : PAGE;
	if (at % PAGE + part->size > PAGE)
		return -EUCLEAN;
	page = erofs_page(erofs_of(inode), at / PAGE);
	if (page < 0)
		return (int)page;
	part->page = page_at((u64)page);
	part->at = (u8 *)part->page + at % PAGE;
	return 0;
}

void erofs_part_put(struct erofs_part *part)
{
	page_put(page_offset(part->page));
}

/* -- regular files -- */

/* That of the image, unless the last one is a part of a page there. */
static s64 page_for_mapping(struct inode *inode, u64 index, bool write)
{
	struct erofs_part part;
	int error = write ? -EROFS : erofs_part(inode, index, &part);
	u8 *copy;

	if (error)
		return error;
	if (part.at == part.page)
		return (s64)page_offset(part.page);
	copy = page_alloc();
	if (copy)
		bytes_copy(copy, part.at, part.size);
	erofs_part_put(&part);
	return copy ? (s64)page_offset(copy) : -ENOMEM;
}

static s64 read(struct file *file, struct io *to, u64 *position)
{
	struct inode *inode = file->inode;
	u64 done = 0;
	int error = 0;

	while (!error && to->left && *position < inode->size) {
		const u64 in_page = *position % PAGE;
		struct erofs_part part;
		u64 size, moved;

		error = erofs_part(inode, *position / PAGE, &part);
		if (error)
			break;
		size = part.size - in_page < to->left ? part.size - in_page : to->left;
		moved = io_put(to, part.at + in_page, size);
		erofs_part_put(&part);
		*position += moved;
		done += moved;
		error = moved < size ? -EFAULT : 0;
	}
	return done ? (s64)done : error;
}

static int may_map(struct file *file, u32 prot, u32 flags)
{
	(void)file, (void)prot, (void)flags;
	return 0;
}

const struct inode_operations erofs_file_inode_operations = { .page = page_for_mapping, EROFS_ATTRIBUTES };

const struct file_operations erofs_file_operations = {
	.read = read,
	.fsync = file_sync_nothing,
	.mmap = may_map,
};

/* -- links -- */

static s64 readlink(struct inode *inode, char *target, u64 size)
{
	struct erofs_part part;
	int error = erofs_part(inode, 0, &part);

	if (error)
		return error == -ENXIO ? -EUCLEAN : error;
	if (size > part.size)
		size = part.size;
	bytes_copy(target, part.at, size);
	erofs_part_put(&part);
	return (s64)size;
}

const struct inode_operations erofs_link_operations = { .readlink = readlink, EROFS_ATTRIBUTES };
