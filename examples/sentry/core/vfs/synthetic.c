// SPDX-License-Identifier: Apache-2.0
/* Directories that follow from the names of their files, and files whose content is written when they are read. */
#include "synthetic.h"

#include "caller.h"
#include "process_file.h"

static struct slab nodes = SLAB(struct synthetic_inode);
static const struct inode_operations directory_operations, file_inode_operations, link_operations, jump_operations;
static const struct file_operations directory_file_operations, file_operations;

struct synthetic_inode *synthetic_of(const struct inode *inode)
{
	return inode->data;
}

struct inode *synthetic_inode(struct super *super, const struct synthetic_inode *like, const struct synthetic *entry, u32 mode)
{
	struct inode *inode = inode_new(super, mode);
	struct synthetic_inode *node = inode ? slab_alloc(&nodes) : NULL;

	if (!node) {
		inode_put(inode);
		return NULL;
	}
	if (like)
		*node = *like;
	node->entry = entry;
	inode->data = node;
	inode->user = inode->group = 0;
	if (S_ISDIR(mode)) {
		inode->links = 2;
		inode->operations = &directory_operations;
		inode->file_operations = &directory_file_operations;
	} else if (S_ISLNK(mode)) {
		inode->operations = entry && entry->jump ? &jump_operations : &link_operations;
	} else {
		inode->operations = &file_inode_operations;
		inode->file_operations = &file_operations;
	}
	return inode;
}

void synthetic_free(struct inode *inode)
{
	if (inode->data)
		slab_free(&nodes, inode->data);
	inode->data = NULL;
}

static int revalidate(struct dentry *dentry)
{
	struct synthetic_inode *node = dentry->inode ? synthetic_of(dentry->inode) : NULL;

	if (!node)
		return dentry->inode != NULL;
	return (!node->valid || node->valid(dentry->inode));
}

static const struct super_operations super_operations = { .evict = synthetic_free, .revalidate = revalidate };

struct super *synthetic_new(const char *type, u64 magic, const struct synthetic *table, u32 count)
{
	struct synthetic_inode root = { .table = table, .count = count, .prefix = "" };
	struct super *super = super_new(&super_operations, type, magic);

	if (super && !super_set_root(super, synthetic_inode(super, &root, NULL, S_IFDIR | 0555)))
		return super;
	super_put(super);
	return NULL;
}

static int getattr(struct inode *inode)
{
	if (synthetic_of(inode)->pid)
		process_owner(inode);
	return 0;
}

/* -- directories -- */

/* The component of an entry's name that a directory shows, and its size; NULL: it lies elsewhere. */
static const char *component(const struct synthetic_inode *directory, const struct synthetic *entry, u64 *size)
{
	u64 skip = directory->prefix_size;
	const char *name = entry->name;

	if (string_size(name) <= skip || !bytes_equal(name, directory->prefix, skip))
		return NULL;
	name += skip;
	for (*size = 0; name[*size] && name[*size] != '/';)
		++*size;
	return name;
}

static u32 mode_of(const struct synthetic *entry)
{
	if (entry->target || entry->jump)
		return S_IFLNK | 0777;
	return S_IFREG | (entry->mode ? entry->mode : entry->store ? 0644 : 0444);
}

static struct inode *open_entry(struct inode *directory, const struct synthetic *entry, const char *name, u64 size)
{
	struct synthetic_inode node = *synthetic_of(directory);

	node.lookup = NULL;
	node.list = NULL;
	if (name[size] != '/')
		return synthetic_inode(directory->super, &node, entry, mode_of(entry));
	node.prefix = entry->name;
	node.prefix_size = (u64)(name - entry->name) + size + 1;
	process_prepare(&node);
	return synthetic_inode(directory->super, &node, NULL, S_IFDIR | 0555);
}

static int lookup(struct inode *directory, struct dentry *dentry)
{
	struct synthetic_inode *node = synthetic_of(directory);

	for (u32 i = 0; i < node->count; i++) {
		u64 size;
		const char *name = component(node, &node->table[i], &size);

		if (!name || size != dentry->name_size || !bytes_equal(name, dentry->name, size))
			continue;
		dentry->inode = open_entry(directory, &node->table[i], name, size);
		return dentry->inode ? 0 : -ENOMEM;
	}
	return node->lookup ? node->lookup(directory, dentry) : 0;
}

/* Whether an earlier entry of the table has the same component. */
static bool seen(const struct synthetic_inode *node, u32 index, const char *name, u64 size)
{
	for (u32 i = 0; i < index; i++) {
		u64 other_size;
		const char *other = component(node, &node->table[i], &other_size);

		if (other && other_size == size && bytes_equal(other, name, size))
			return true;
	}
	return false;
}

static int readdir(struct file *file, struct entries *entries)
{
	struct synthetic_inode *node = synthetic_of(file->inode);

	if (!entries_put_dots(file, entries))
		return 0;
	while (file->position < node->count + 2ull) {
		u32 index = (u32)file->position - 2;
		u64 size;
		const char *name = component(node, &node->table[index], &size);
		u32 type = name && name[size] == '/' ? DT_DIR : entry_type(mode_of(&node->table[index]));

		if (name && !seen(node, index, name, size) &&
		    !entries_put(entries, name, size, 1000 + index, type, file->position + 1))
			return 0;
		file->position++;
	}
	if (node->list)
		node->list(file, entries);
	return 0;
}

static const struct inode_operations directory_operations = { .lookup = lookup, .getattr = getattr };
static const struct file_operations directory_file_operations = { .readdir = readdir, .seek = directory_seek };

/* -- files -- */

static void write_content(struct text *text, struct synthetic_inode *node)
{
	text->size = 0;
	if (node->entry->write)
		node->entry->write(text, node);
	else if (node->entry->fixed)
		text_put(text, node->entry->fixed);
}

static int open(struct inode *inode, struct file *file)
{
	if (synthetic_of(inode)->entry->open)
		return synthetic_of(inode)->entry->open(inode, file);
	file->data = kmalloc(sizeof(struct text));
	return file->data ? 0 : -ENOMEM;
}

static void release(struct file *file)
{
	if (file->data)
		text_free(file->data);
	kfree(file->data);
}

static s64 read_locked(struct file *file, struct io *to, u64 *position)
{
	struct synthetic_inode *node = synthetic_of(file->inode);
	struct text *text = file->data;
	u64 moved;

	if (node->valid && !node->valid(file->inode))
		return -ESRCH;
	if (!*position)
		write_content(text, node);
	if (text->failed)
		return -ENOMEM;
	if (*position >= text->size)
		return 0;
	moved = io_put(to, text->data + *position, text->size - *position < to->left ? text->size - *position : to->left);
	*position += moved;
	return moved || !to->left ? (s64)moved : -EFAULT;
}

/* The copy can sleep, and a read from the start replaces the text. */
static s64 read(struct file *file, struct io *to, u64 *position)
{
	s64 result;

	inode_lock(file->inode);
	result = read_locked(file, to, position);
	inode_unlock(file->inode);
	return result;
}

static s64 write(struct file *file, struct io *from, u64 *position)
{
	struct synthetic_inode *node = synthetic_of(file->inode);
	u64 size = from->left < PAGE - 1 ? from->left : PAGE - 1;
	char *data;
	s64 result = -EFAULT;

	if (!node->entry->store)
		return -EIO;
	if (!size)
		return 0;
	data = kmalloc(PAGE);
	if (!data)
		return -ENOMEM;
	if (io_get(from, data, size) == size)
		result = node->valid && !node->valid(file->inode) ? -ESRCH : node->entry->store(node, data, size);
	kfree(data);
	if (result > 0)
		*position += (u64)result;
	return result;
}

static const struct inode_operations file_inode_operations = { .open = open, .getattr = getattr };
static const struct file_operations file_operations = { .read = read, .write = write, .release = release };

/* -- links -- */

static s64 readlink(struct inode *inode, char *target, u64 size)
{
	struct synthetic_inode *node = synthetic_of(inode);
	u64 length = string_size(node->entry->target);

	if (length > size)
		length = size;
	bytes_copy(target, node->entry->target, length);
	return (s64)length;
}

/* The target of a link to an object: its path, or its kind. */
static s64 read_jump(struct inode *inode, char *target, u64 size)
{
	struct path path;
	s64 result = synthetic_of(inode)->entry->jump(inode, &path);

	if (result)
		return result;
	result = path_show(&path, target, size);
	path_put(&path);
	return result;
}

static int jump(struct inode *inode, struct path *path)
{
	return synthetic_of(inode)->entry->jump(inode, path);
}

static const struct inode_operations link_operations = { .readlink = readlink, .getattr = getattr };
static const struct inode_operations jump_operations = { .readlink = read_jump, .jump = jump, .getattr = getattr };
