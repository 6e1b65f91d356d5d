// SPDX-License-Identifier: Apache-2.0
/* Copies of lower files in the upper layer. */
#include "overlay.h"

#include "walk.h"

int layer_lookup(struct dentry *directory, const char *name, u64 size, struct dentry **result)
{
	int error;

	inode_lock(directory->inode);
	error = dentry_lookup(directory, name, size, result);
	inode_unlock(directory->inode);
	return error;
}

/* -- attributes -- */

static int copy_attribute(struct inode *from, struct inode *to, const char *name)
{
	s64 size = from->operations->getxattr(from, name, NULL, 0);
	void *value = size >= 0 ? kmalloc(size ? (u64)size : 1) : NULL;

	if (size >= 0 && !value)
		return -ENOMEM;
	if (size > 0)
		size = from->operations->getxattr(from, name, value, (u64)size);
	if (size >= 0)
		size = to->operations->setxattr(to, name, value, (u64)size, 0);
	kfree(value);
	return size == -EOPNOTSUPP || size == -ENODATA ? 0 : (int)size;
}

/* Copy extended attributes, except the layer's own. */
static int copy_attributes(struct inode *from, struct inode *to)
{
	char *names;
	s64 size;
	int error = 0;

	if (!from->operations->listxattr)
		return 0;
	size = from->operations->listxattr(from, NULL, 0);
	if (size <= 0)
		return size == -EOPNOTSUPP ? 0 : (int)size;
	names = kmalloc((u64)size);
	if (!names)
		return -ENOMEM;
	size = from->operations->listxattr(from, names, (u64)size);
	for (char *name = names; !error && name < names + size; name += string_size(name) + 1)
		if (!overlay_is_private(name))
			error = copy_attribute(from, to, name);
	kfree(names);
	return size < 0 ? (int)size : error;
}

int overlay_copy_attributes(struct inode *from, struct inode *to)
{
	const struct attributes new = {
		.which = ATTR_MODE | ATTR_USER | ATTR_GROUP | ATTR_ACCESSED | ATTR_MODIFIED | ATTR_CHANGED,
		.mode = from->mode & 07777, .user = from->user, .group = from->group,
		.accessed = from->accessed, .modified = from->modified, .changed = from->changed,
	};
	int error = copy_attributes(from, to);

	inode_apply(to, &new);
	to->born = from->born;
	return error;
}

/* -- the file -- */

/* Make a file of the same kind in a directory of the upper layer, which is locked. */
static int make_like(struct inode *from, struct inode *directory, struct dentry *dentry)
{
	const struct inode_operations *operations = directory->operations;
	char *target;
	s64 size;
	int error;

	if (S_ISDIR(from->mode))
		return operations->mkdir(directory, dentry, from->mode & 07777);
	if (!S_ISLNK(from->mode))
		return operations->create(directory, dentry, from->mode, from->device);
	target = page_alloc();
	if (!target)
		return -ENOMEM;
	size = from->operations->readlink(from, target, PAGE - 1);
	error = size > 0 ? operations->symlink(directory, dentry, target) : size ? (int)size : -EIO;
	page_free(target);
	return error;
}

void layer_remove(struct inode *directory, struct dentry *dentry)
{
	dentry->inode->dead = S_ISDIR(dentry->inode->mode);
	if (dentry->inode->dead)
		directory->operations->rmdir(directory, dentry);
	else
		directory->operations->unlink(directory, dentry);
	dentry_unhash(dentry);
}

/* Copy a file and its attributes to a name in a directory, or to none (NULL). The directory keeps its times. */
static int copy_to(struct inode *from, struct dentry *directory, const struct dentry *name, struct dentry **result)
{
	struct inode *above = directory->inode;
	struct timespec modified, changed;
	struct dentry *dentry = NULL;
	int error;

	inode_lock(above);
	modified = above->modified, changed = above->changed;
	if (name && above->dead)
		error = -EEXIST; /* the directory was removed with the name */
	else if (name)
		error = dentry_lookup(directory, name->name, name->name_size, &dentry);
	else
		error = (dentry = dentry_new(directory, "#", 1)) ? 0 : -ENOMEM;
	if (!error)
		error = dentry->inode ? -EEXIST : make_like(from, above, dentry);
	if (!error && !name)
		layer_remove(above, dentry);
	if (!error) {
		error = overlay_copy_attributes(from, dentry->inode);
		if (error && name)
			layer_remove(above, dentry);
	}
	above->modified = modified, above->changed = changed;
	inode_unlock(above);
	if (error)
		dentry_put(dentry);
	else
		*result = dentry;
	return error;
}

/* Copy one file. The directory above has an upper part, or the file has no known name. */
static int copy_node(struct overlay_node *node)
{
	struct overlay *overlay = overlay_of(node->inode);
	struct inode *from = node->parts[0].dentry->inode, *inode = node->inode;
	struct dentry *alias = node->alias && node->alias->hashed ? node->alias : NULL, *upper;
	int error;

	if (alias)
		dentry_get(alias);
	error = overlay_refresh(inode);
	if (!error && alias)
		error = copy_to(from, overlay_node_of(alias->parent->inode)->upper, alias, &upper);
	if (!error ? !alias : error == -EEXIST) /* it has been removed meanwhile */
		error = copy_to(from, overlay->upper.root.dentry, NULL, &upper);
	if (!error)
		error = overlay_set_upper(node, upper);
	dentry_put(alias);
	if (error)
		return error;
	node->data_below = S_ISREG(from->mode) && from->size;
	overlay_count(inode);
	overlay_apply(inode);
	return 0;
}

/* The highest directory above a file that has no upper part, or the file itself. */
static struct overlay_node *first_to_copy(struct overlay_node *node)
{
	struct overlay_node *above;

	while (node->alias && node->alias->hashed) {
		above = overlay_node_of(node->alias->parent->inode);
		if (above->upper)
			break;
		node = above;
	}
	return node;
}

static int copy_attributes_up(struct overlay_node *node)
{
	struct overlay *overlay = overlay_of(node->inode);
	int error = overlay->writable ? 0 : -EROFS;

	mutex_lock(&overlay->mutex);
	while (!error && !node->upper)
		error = copy_node(first_to_copy(node));
	mutex_unlock(&overlay->mutex);
	return error;
}

int overlay_copy_up(struct inode *inode)
{
	struct overlay_node *node = overlay_node_of(inode);

	if (!overlay_of(inode)->scratch)
		return overlay_copy_content(inode, ~0ull);
	return node->upper ? 0 : copy_attributes_up(node);
}

/* -- the content -- */

static bool is_zero(const u64 *page)
{
	for (u32 i = 0; i < PAGE / sizeof(*page); i++)
		if (page[i])
			return false;
	return true;
}

static int copy_page(struct inode *from, struct inode *to, u64 index)
{
	s64 source = from->operations->page(from, index, false), target;

	if (source < 0)
		return (int)source;
	target = is_zero(page_at((u64)source)) ? 0 : to->operations->page(to, index, true);
	if (target > 0) {
		bytes_copy(page_at((u64)target), page_at((u64)source), PAGE);
		page_put((u64)target);
	}
	page_put((u64)source);
	return target < 0 ? (int)target : 0;
}

/* The next range of a file that has content; false: there is none. Pages that are zero need not be found. */
static bool next_range(struct file *file, u64 *start, u64 *end, u64 size)
{
	s64 (*seek)(struct file *, s64, u32) = file->operations->seek;
	s64 data, hole;

	*end = size;
	if (!seek || file->inode->blocks * 512 >= file->inode->size)
		return true;
	data = seek(file, (s64)*start, SEEK_DATA);
	if (data < 0)
		return data != -ENXIO;
	hole = seek(file, data, SEEK_HOLE);
	*start = (u64)data;
	if (hole > data && (u64)hole < size)
		*end = (u64)hole;
	return *start < size;
}

static int copy_pages(struct file *file, struct inode *to, u64 size)
{
	u64 at = 0, end = 0;
	int error = 0;

	while (!error && at < size && next_range(file, &at, &end, size)) {
		for (at = page_down(at); !error && at < end; at += PAGE) {
			if (core.current && signal_interrupts(core.current, true))
				error = -EINTR;
			else
				error = copy_page(file->inode, to, at / PAGE);
		}
	}
	return error;
}

/* Undo a copy: an incomplete file in the upper layer would hide the lower file from the next mount. */
static void forget_copy(struct overlay_node *node)
{
	struct dentry *upper = node->upper, *above = upper->parent;

	dentry_get(above);
	inode_lock(above->inode);
	if (upper->hashed && upper->parent == above)
		layer_remove(above->inode, upper);
	inode_unlock(above->inode);
	dentry_put(above);
	table_remove(&overlay_of(node->inode)->by_upper, &node->by_upper);
	node->data_below = false;
	node->upper = NULL;
	dentry_put(upper);
	overlay_apply(node->inode);
}

static int copy_content(struct overlay_node *node, u64 size)
{
	struct inode *from = overlay_content(node), *to = node->upper->inode;
	struct attributes new = { .which = ATTR_SIZE, .size = size < from->size ? size : from->size };
	const struct timespec modified = to->modified, changed = to->changed;
	struct file *file;
	int error = 0;

	if (new.size) {
		file = overlay_open_real(node, from, O_RDONLY, &error);
		if (!file)
			return error;
		error = inode_setattr(to, &new);
		if (!error)
			error = copy_pages(file, to, new.size);
		to->modified = modified, to->changed = changed;
		file_put(file);
	}
	if (error) {
		new.size = 0;
		inode_setattr(to, &new);
		if (!overlay_of(node->inode)->scratch)
			forget_copy(node);
		return error;
	}
	node->data_below = false;
	overlay_apply(node->inode);
	mm_replace(node->inode);
	return 0;
}

int overlay_copy_content(struct inode *inode, u64 size)
{
	struct overlay_node *node = overlay_node_of(inode);
	int error = 0;

	if (node->upper && !node->data_below)
		return 0;
	mutex_lock(&node->data);
	if (!node->upper)
		error = copy_attributes_up(node);
	if (!error && node->data_below)
		error = copy_content(node, size);
	mutex_unlock(&node->data);
	return error;
}
