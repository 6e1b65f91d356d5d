// SPDX-License-Identifier: Apache-2.0
/* Files in memory: directories are their dentries, the content of a file is a tree of pages. */
#include "tmpfs.h"

#include "caller.h"
#include "mount.h"
#include "text.h"

struct content {
	struct tree pages;
	char *target; /* of a link */
	struct attribute_list *attributes;
	u64 space; /* that it takes of the limit of inodes, in bytes */
};

static struct slab contents = SLAB(struct content);

static const struct inode_operations directory_operations, file_inode_operations, link_operations, special_operations;
static const struct file_operations file_operations, directory_file_operations;

static struct content *content_of(const struct inode *inode)
{
	return inode->data;
}

/* -- inodes -- */

enum { ENTRY_SIZE = 20 }; /* what a name adds to its directory's size in Linux's tmpfs; a new one has two */

/* Take a part of the space for inodes; false: it is full. */
static bool space_take(struct inode *inode, u64 size)
{
	struct tmpfs_limits *limits = inode->super->data;

	if (limits->inodes && limits->space + size > limits->inodes * INODE_SPACE)
		return false;
	limits->space += size;
	content_of(inode)->space += size;
	return true;
}

static void space_return(struct inode *inode, u64 size)
{
	struct tmpfs_limits *limits = inode->super->data;

	limits->space -= size;
	content_of(inode)->space -= size;
}

static struct inode *make(struct super *super, const struct inode *directory, u32 mode)
{
	struct inode *inode = inode_new(super, mode);

	if (!inode)
		return NULL;
	inode->data = slab_alloc(&contents);
	if (!inode->data || !space_take(inode, INODE_SPACE)) {
		inode_put(inode);
		return NULL;
	}
	if (directory)
		inode_init_owner(inode, directory, mode);
	inode->operations = &special_operations;
	if (S_ISREG(mode)) {
		inode->may_seal = true; /* as Linux reports it, but no file with a name can be sealed */
		inode->seals = F_SEAL_SEAL;
		inode->operations = &file_inode_operations;
		inode->file_operations = &file_operations;
	} else if (S_ISDIR(mode)) {
		inode->operations = &directory_operations;
		inode->file_operations = &directory_file_operations;
		inode->links = 2;
		inode->size = 2 * ENTRY_SIZE;
	} else if (S_ISLNK(mode)) {
		inode->operations = &link_operations;
	}
	return inode;
}

static void drop_page(struct inode *inode, u64 index, void *page)
{
	struct tmpfs_limits *limits = inode->super->data;

	tree_set(&content_of(inode)->pages, index, NULL);
	page_free(page);
	inode->blocks -= PAGE / 512;
	limits->used--;
}

static void drop_pages(struct inode *inode, u64 from, u64 end)
{
	void *page;

	while ((page = tree_next(&content_of(inode)->pages, &from, end)))
		drop_page(inode, from++, page);
}

static void evict(struct inode *inode)
{
	struct content *content = content_of(inode);

	if (!content)
		return;
	drop_pages(inode, 0, ~0ull);
	space_return(inode, content->space);
	attributes_free(&content->attributes);
	kfree(content->target);
	slab_free(&contents, content);
}

static int statfs(struct super *super, struct statfs *stat)
{
	struct tmpfs_limits *limits = super->data;

	stat->blocks = limits->pages;
	stat->blocks_free = stat->blocks_available = limits->pages - limits->used;
	stat->files = limits->inodes ? limits->inodes : limits->pages;
	stat->files_free = limits->space / INODE_SPACE < stat->files ? stat->files - limits->space / INODE_SPACE : 0;
	return 0;
}

static void release(struct super *super)
{
	kfree(super->data);
}

static const struct super_operations super_operations = {
	.statfs = statfs,
	.evict = evict,
	.show = tmpfs_show,
	.remount = tmpfs_remount,
	.release = release,
};

struct super *tmpfs_new(const char *type, u32 mode)
{
	struct super *super = super_new(&super_operations, type, TMPFS_MAGIC);
	struct tmpfs_limits *limits = super ? kmalloc(sizeof(*limits)) : NULL;

	if (!limits) {
		super_put(super);
		return NULL;
	}
	limits->pages = core.ram.count / 2;
	super->data = limits;
	super->pinned = true;
	if (!super_set_root(super, make(super, NULL, S_IFDIR | mode)))
		return super;
	super_put(super);
	return NULL;
}

/* -- pages -- */

/* A page for writing: the one that is there, or a new one of zeros. NULL: none is left. */
static u8 *page_make(struct inode *inode, u64 index)
{
	struct tmpfs_limits *limits = inode->super->data;
	struct tree *pages = &content_of(inode)->pages;
	void *page = tree_get(pages, index);

	if (page)
		return page;
	page = limits->used < limits->pages ? page_alloc() : NULL;
	if (!page)
		return NULL;
	if (tree_set(pages, index, page)) {
		page_free(page);
		return NULL;
	}
	inode->blocks += PAGE / 512;
	limits->used++;
	return page;
}

static s64 page_for_mapping(struct inode *inode, u64 index, bool write)
{
	void *page;

	if (index * PAGE >= inode->size)
		return -ENXIO;
	page = page_make(inode, index);
	if (!page)
		return -ENOSPC;
	if (write)
		inode->modified = inode->changed = time_real();
	page_get(page_offset(page));
	return (s64)page_offset(page);
}

/* -- contents -- */

static s64 read(struct file *file, struct io *to, u64 *position)
{
	struct inode *inode = file->inode;
	u64 done = 0;

	while (to->left && *position < inode->size) {
		u64 in_page = *position % PAGE, part = PAGE - in_page, moved;
		u8 *page = tree_get(&content_of(inode)->pages, *position / PAGE);

		if (part > inode->size - *position)
			part = inode->size - *position;
		if (part > to->left)
			part = to->left;
		if (page)
			page_get(page_offset(page)); /* the copy can sleep, and the file be truncated meanwhile */
		moved = page ? io_put(to, page + in_page, part) : io_zero(to, part);
		page_free(page);
		*position += moved;
		done += moved;
		if (moved < part)
			return done ? (s64)done : -EFAULT;
	}
	return (s64)done;
}

static s64 write_pages(struct inode *inode, struct io *from, u64 *position)
{
	u64 done = 0;

	while (from->left) {
		u64 in_page = *position % PAGE, part = PAGE - in_page < from->left ? PAGE - in_page : from->left, moved;
		u8 *page = page_make(inode, *position / PAGE);

		if (!page)
			return done ? (s64)done : -ENOSPC;
		moved = io_get(from, page + in_page, part);
		*position += moved;
		done += moved;
		if (*position > inode->size)
			inode->size = *position;
		if (moved < part)
			return done ? (s64)done : -EFAULT;
	}
	return (s64)done;
}

static s64 write(struct file *file, struct io *from, u64 *position)
{
	struct inode *inode = file->inode;
	struct attributes strip = { .which = 0 };
	s64 done;

	inode_lock(inode);
	if (io_flags(from, file) & O_APPEND)
		*position = inode->size;
	done = inode_may_write(inode, from, *position);
	if (!done && from->left) {
		if (!caller_capable(CAP_FSETID)) {
			inode_strip(inode, &strip);
			inode_apply(inode, &strip);
		}
		inode->modified = inode->changed = time_real();
		done = write_pages(inode, from, position);
	}
	inode_unlock(inode);
	return done;
}

static s64 seek(struct file *file, s64 offset, u32 whence)
{
	struct inode *inode = file->inode;
	struct tree *pages = &content_of(inode)->pages;
	u64 index = (u64)offset / PAGE, end = (inode->size + PAGE - 1) / PAGE;

	if (whence != SEEK_DATA && whence != SEEK_HOLE)
		return file_seek(file, offset, whence);
	if (offset < 0 || (u64)offset >= inode->size)
		return -ENXIO;
	if (whence == SEEK_DATA) {
		if (!tree_next(pages, &index, end))
			return -ENXIO;
	} else {
		while (index < end && tree_get(pages, index))
			index++;
	}
	index *= PAGE;
	if (index < (u64)offset)
		index = (u64)offset;
	return (s64)(index < inode->size ? index : inode->size);
}

static void zero_part(struct inode *inode, u64 from, u64 end)
{
	while (from < end) {
		u64 part = PAGE - from % PAGE < end - from ? PAGE - from % PAGE : end - from;
		u8 *page = tree_get(&content_of(inode)->pages, from / PAGE);

		if (page)
			bytes_zero(page + from % PAGE, part);
		from += part;
	}
}

static void punch(struct inode *inode, u64 from, u64 end)
{
	u64 first = (from + PAGE - 1) / PAGE, last = end / PAGE;

	if (first > last || from / PAGE == end / PAGE) {
		zero_part(inode, from, end);
		return;
	}
	zero_part(inode, from, first * PAGE);
	drop_pages(inode, first, last);
	zero_part(inode, last * PAGE, end);
}

static int set_size(struct inode *inode, u64 size)
{
	if (size < inode->size) {
		punch(inode, size, page_up(size));
		drop_pages(inode, (size + PAGE - 1) / PAGE, ~0ull);
	}
	inode->size = size;
	return 0;
}

static int setattr(struct inode *inode, const struct attributes *new)
{
	int error = new->which & ATTR_SIZE ? set_size(inode, new->size) : 0;

	if (!error)
		inode_apply(inode, new);
	return error;
}

static s64 allocate(struct inode *inode, u64 offset, u64 end)
{
	u64 first = offset / PAGE;

	for (u64 index = first; index * PAGE < end; index++) {
		if (page_make(inode, index))
			continue;
		return -ENOSPC;
	}
	return 0;
}

static s64 fallocate(struct file *file, u32 mode, u64 offset, u64 size)
{
	enum { KEEP_SIZE = 1, PUNCH_HOLE = 2 };
	struct inode *inode = file->inode;
	s64 error = 0;

	if (mode & ~(u32)(KEEP_SIZE | PUNCH_HOLE))
		return -EOPNOTSUPP;
	inode_lock(inode);
	if (mode & PUNCH_HOLE) {
		if (inode->seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE))
			error = -EPERM;
		else
			punch(inode, offset, offset + size);
	} else {
		error = inode_may_grow(inode, offset + size); /* with KEEP_SIZE, too, as on Linux */
		if (!error && inode->seals & F_SEAL_GROW && offset + size > inode->size)
			error = -EPERM;
		if (!error)
			error = allocate(inode, offset, offset + size);
		if (!error && !(mode & KEEP_SIZE) && offset + size > inode->size)
			inode->size = offset + size;
	}
	if (!error)
		inode->modified = inode->changed = time_real();
	inode_unlock(inode);
	return error;
}

static int may_map(struct file *file, u32 prot, u32 flags)
{
	bool shared = (flags & MAP_TYPE) != MAP_PRIVATE, sealed = file->inode->seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE);

	return shared && sealed && prot & PROT_WRITE ? -EPERM : 0;
}

static const struct file_operations file_operations = {
	.read = read,
	.write = write,
	.seek = seek,
	.fsync = file_sync_nothing,
	.fallocate = fallocate,
	.mmap = may_map,
};

static const struct file_operations directory_file_operations = {
	.readdir = dentry_readdir,
	.fsync = file_sync_nothing,
	.seek = directory_seek,
};

/* -- directories -- */

static void touch(struct inode *inode)
{
	inode->modified = inode->changed = time_real();
}

static int lookup(struct inode *directory, struct dentry *dentry)
{
	(void)directory, (void)dentry;
	return 0; /* all existing names are dentries */
}

static int add(struct inode *directory, struct dentry *dentry, struct inode *inode)
{
	dentry_attach(dentry, inode);
	if (dentry_hash(dentry)) {
		dentry->inode = NULL;
		inode_put(inode);
		return -ENOSPC;
	}
	directory->size += ENTRY_SIZE;
	touch(directory);
	return 0;
}

static int create(struct inode *directory, struct dentry *dentry, u32 mode, u64 device)
{
	struct inode *inode = make(directory->super, directory, mode);

	if (!inode)
		return -ENOSPC;
	inode->device = device;
	return add(directory, dentry, inode);
}

static int mkdir(struct inode *directory, struct dentry *dentry, u32 mode)
{
	int error = create(directory, dentry, S_IFDIR | mode, 0);

	if (!error)
		directory->links++;
	return error;
}

static int symlink(struct inode *directory, struct dentry *dentry, const char *target)
{
	struct inode *inode = make(directory->super, directory, S_IFLNK | 0777);
	u64 size = string_size(target);

	if (!inode)
		return -ENOSPC;
	content_of(inode)->target = kmalloc(size + 1);
	if (!content_of(inode)->target) {
		inode_put(inode);
		return -ENOSPC;
	}
	bytes_copy(content_of(inode)->target, target, size);
	inode->size = size;
	return add(directory, dentry, inode);
}

static int link(struct inode *inode, struct inode *directory, struct dentry *dentry)
{
	int error;

	if (inode->links && !space_take(inode, INODE_SPACE))
		return -ENOSPC;
	inode_get(inode);
	error = add(directory, dentry, inode);
	if (error) {
		space_return(inode, inode->links ? INODE_SPACE : 0);
		return error;
	}
	inode->links++;
	inode->changed = directory->changed;
	return 0;
}

static int unlink(struct inode *directory, struct dentry *dentry)
{
	if (dentry->inode->links > 1 && !S_ISDIR(dentry->inode->mode))
		space_return(dentry->inode, INODE_SPACE);
	dentry->inode->links--;
	touch(directory);
	dentry->inode->changed = directory->changed;
	directory->size -= ENTRY_SIZE;
	return 0;
}

static int rmdir(struct inode *directory, struct dentry *dentry)
{
	if (!list_empty(&dentry->children))
		return -ENOTEMPTY;
	dentry->inode->links--;
	directory->links--;
	return unlink(directory, dentry);
}

static void exchange(struct inode *old_directory, struct dentry *from, struct inode *directory, struct dentry *to)
{
	bool from_is = S_ISDIR(from->inode->mode), to_is = S_ISDIR(to->inode->mode);

	if (old_directory == directory || from_is == to_is)
		return;
	(from_is ? old_directory : directory)->links--;
	(from_is ? directory : old_directory)->links++;
}

static int rename(struct inode *old_directory, struct dentry *from, struct inode *directory, struct dentry *to, u32 flags)
{
	bool is_directory = S_ISDIR(from->inode->mode);
	int error = 0;

	if (flags & RENAME_EXCHANGE) {
		exchange(old_directory, from, directory, to);
		to->inode->changed = time_real();
	} else {
		if (to->inode)
			error = is_directory ? rmdir(directory, to) : unlink(directory, to);
		if (error)
			return error;
		old_directory->size -= ENTRY_SIZE;
		directory->size += ENTRY_SIZE;
		if (is_directory) {
			old_directory->links--;
			directory->links++;
		}
	}
	touch(old_directory);
	touch(directory);
	from->inode->changed = directory->changed;
	return 0;
}

static int tmpfile(struct inode *directory, u32 mode, struct inode **result)
{
	*result = make(directory->super, directory, S_IFREG | mode);
	if (!*result)
		return -ENOSPC;
	(*result)->links = 0;
	return 0;
}

static s64 readlink(struct inode *inode, char *target, u64 size)
{
	u64 used = inode->size < size ? inode->size : size;

	bytes_copy(target, content_of(inode)->target, used);
	return (s64)used;
}

/* -- extended attributes -- */

static s64 getxattr(struct inode *inode, const char *name, void *value, u64 size)
{
	return attributes_get(content_of(inode)->attributes, name, value, size);
}

static u64 attribute_space(const char *name, s64 size)
{
	enum { LINUX_NODE = 40 };

	return size < 0 ? 0 : LINUX_NODE + string_size(name) + 1 + (u64)size;
}

static int setxattr(struct inode *inode, const char *name, const void *value, u64 size, u32 flags)
{
	struct content *content = content_of(inode);
	u64 old = attribute_space(name, attributes_get(content->attributes, name, NULL, 0));
	u64 new = attribute_space(name, (s64)size);
	int error = space_take(inode, new) ? 0 : -ENOSPC;

	if (error)
		return error;
	error = attributes_set(&content->attributes, name, value, size, flags);
	space_return(inode, error ? new : old);
	if (!error)
		inode->changed = time_real();
	return error;
}

static s64 listxattr(struct inode *inode, char *names, u64 size)
{
	return attributes_list(content_of(inode)->attributes, names, size);
}

static int removexattr(struct inode *inode, const char *name)
{
	struct content *content = content_of(inode);
	u64 old = attribute_space(name, attributes_get(content->attributes, name, NULL, 0));
	int error = attributes_remove(&content->attributes, name);

	if (error)
		return error;
	space_return(inode, old);
	inode->changed = time_real();
	return 0;
}

#define ATTRIBUTE_OPERATIONS .getxattr = getxattr, .setxattr = setxattr, .listxattr = listxattr, .removexattr = removexattr

static const struct inode_operations directory_operations = {
	.lookup = lookup,
	.create = create,
	.mkdir = mkdir,
	.symlink = symlink,
	.link = link,
	.unlink = unlink,
	.rmdir = rmdir,
	.rename = rename,
	.tmpfile = tmpfile,
	ATTRIBUTE_OPERATIONS,
};

static const struct inode_operations file_inode_operations = {
	.setattr = setattr,
	.page = page_for_mapping,
	ATTRIBUTE_OPERATIONS,
};

static const struct inode_operations link_operations = {
	.readlink = readlink,
	ATTRIBUTE_OPERATIONS,
};

static const struct inode_operations special_operations = {
	ATTRIBUTE_OPERATIONS,
};

/* A regular file without a name, for memfd_create. */
struct inode *tmpfs_file(u32 mode)
{
	struct inode *inode;

	if (!vfs.memory)
		vfs.memory = tmpfs_new("tmpfs", 0700);
	inode = vfs.memory ? make(vfs.memory, NULL, S_IFREG | mode) : NULL;
	if (inode)
		inode->links = 0;
	return inode;
}
