// SPDX-License-Identifier: Apache-2.0
/* The image as a whole, and its inodes. */
#include "erofs.h"

static struct slab nodes = SLAB(struct erofs_node);

static const struct inode_operations special_operations = { EROFS_ATTRIBUTES };

static u32 number_hash(u64 number)
{
	return hash_bytes(&number, sizeof(number), 0);
}

static struct inode *find(const struct erofs *erofs, u64 number)
{
	for (struct table_entry *at = table_first(&erofs->nodes, number_hash(number)); at; at = at->next) {
		struct inode *inode = CONTAINER(at, struct erofs_node, by_number)->inode;

		if (inode->number == number) {
			inode_get(inode);
			return inode;
		}
	}
	return NULL;
}

/* A record of either kind as an extended one; its size, or an error. */
static s64 read_record(const struct erofs *erofs, u64 at, struct erofs_extended *record)
{
	struct erofs_compact compact;
	int error = erofs_copy(erofs, at, &compact, sizeof(compact));

	if (error)
		return error;
	if (compact.format & EROFS_EXTENDED) {
		error = erofs_copy(erofs, at, record, sizeof(*record));
		return error ? error : (s64)sizeof(*record);
	}
	*record = (struct erofs_extended){
		.format = compact.format, .attributes = compact.attributes, .mode = compact.mode, .size = compact.size,
		.start = compact.start, .number = compact.number, .user = compact.user, .group = compact.group,
		.modified = (u64)erofs->built.seconds, .modified_ns = (u32)erofs->built.nanoseconds, .links = compact.links,
	};
	return sizeof(compact);
}

static u32 attributes_size(const struct erofs_extended *record)
{
	return record->attributes ? (u32)sizeof(struct erofs_attributes) + 4 * (record->attributes - 1u) : 0;
}

/* As new_decode_dev() of Linux has it. */
static u64 device_of(u32 number)
{
	return MAKE_DEVICE((number & 0xfff00) >> 8, (number & 0xff) | (number >> 12 & 0xfff00));
}

static int apply(struct inode *inode, const struct erofs_extended *record)
{
	const u32 layout = record->format >> 1 & 7, type = record->mode & S_IFMT;
	const bool content = S_ISREG(type) || S_ISDIR(type) || S_ISLNK(type);
	struct erofs_node *node = erofs_node_of(inode);

	if (content && layout != EROFS_PLAIN && layout != EROFS_INLINE)
		return layout > EROFS_CHUNKS ? -EUCLEAN : -EOPNOTSUPP;
	if (record->size > erofs_of(inode)->image->size || record->modified_ns >= 1000000000)
		return -EUCLEAN;
	inode->links = record->links;
	inode->user = record->user;
	inode->group = record->group;
	inode->size = content ? record->size : 0;
	inode->blocks = (inode->size + PAGE - 1) / PAGE * (PAGE / 512);
	inode->accessed = inode->changed = inode->born = (struct timespec){ (s64)record->modified, record->modified_ns };
	inode->modified = inode->changed;
	inode->device = S_ISCHR(type) || S_ISBLK(type) ? device_of(record->start) : 0;
	node->attributes_size = attributes_size(record);
	node->content = (u64)record->start << EROFS_BLOCK_BITS;
	node->tail = content && layout == EROFS_INLINE ? node->behind + node->attributes_size : 0;
	return 0;
}

static int choose_operations(struct inode *inode)
{
	switch (inode->mode & S_IFMT) {
	case S_IFREG:
		inode->operations = &erofs_file_inode_operations;
		inode->file_operations = &erofs_file_operations;
		return 0;
	case S_IFDIR:
		inode->operations = &erofs_directory_operations;
		inode->file_operations = &erofs_directory_file_operations;
		return 0;
	case S_IFLNK: inode->operations = &erofs_link_operations; return 0;
	case S_IFCHR:
	case S_IFBLK:
	case S_IFIFO:
	case S_IFSOCK: inode->operations = &special_operations; return 0;
	}
	return -EUCLEAN;
}

static int make(struct erofs *erofs, u64 number, u64 behind, const struct erofs_extended *record, struct inode *inode)
{
	struct erofs_node *node = slab_alloc(&nodes);
	int error;

	if (!node)
		return -ENOMEM;
	node->inode = inode;
	node->behind = behind;
	inode->number = number;
	inode->data = node;
	error = apply(inode, record);
	if (!error)
		error = choose_operations(inode);
	if (!error)
		error = table_add(&erofs->nodes, &node->by_number, number_hash(number));
	if (error) { /* evict() finds only what is in the table */
		inode->data = NULL;
		slab_free(&nodes, node);
	}
	return error;
}

struct inode *erofs_inode(struct erofs *erofs, u64 number, int *error)
{
	const u64 at = erofs->metadata + number * EROFS_SLOT;
	struct inode *inode = find(erofs, number);
	struct erofs_extended record;
	s64 size;

	*error = 0;
	if (inode)
		return inode;
	size = number > erofs->image->size / EROFS_SLOT ? -EUCLEAN : read_record(erofs, at, &record);
	inode = size < 0 ? NULL : find(erofs, number); /* reading sleeps */
	if (inode)
		return inode;
	inode = size < 0 ? NULL : inode_new(erofs->super, record.mode);
	*error = inode ? make(erofs, number, at + (u64)size, &record, inode) : size < 0 ? (int)size : -ENOMEM;
	if (!*error)
		return inode;
	inode_put(inode);
	return NULL;
}

static void evict(struct inode *inode)
{
	struct erofs_node *node = erofs_node_of(inode);

	if (!node)
		return;
	table_remove(&erofs_of(inode)->nodes, &node->by_number);
	slab_free(&nodes, node);
}

/* -- the image -- */

static int statfs(struct super *super, struct statfs *stat)
{
	const struct erofs *erofs = super->data;

	stat->blocks = erofs->image->size / PAGE;
	return 0;
}

static void release(struct super *super)
{
	struct erofs *erofs = super->data;

	table_free(&erofs->nodes);
	inode_put(erofs->image);
	kfree(erofs);
}

static const struct super_operations super_operations = { .statfs = statfs, .evict = evict, .release = release };

static int read_super(struct erofs *erofs, u64 *root)
{
	struct erofs_super super;
	int error = erofs_copy(erofs, EROFS_SUPER_AT, &super, sizeof(super));

	if (error)
		return error;
	if (super.magic != EROFS_MAGIC)
		return -EINVAL;
	if (super.block_bits != EROFS_BLOCK_BITS || super.directory_bits || super.compression || super.incompatible)
		return -EOPNOTSUPP;
	if (super.built_ns >= 1000000000)
		return -EUCLEAN;
	erofs->metadata = (u64)super.metadata << EROFS_BLOCK_BITS;
	erofs->attributes = (u64)super.attributes << EROFS_BLOCK_BITS;
	erofs->built = (struct timespec){ (s64)super.built, super.built_ns };
	*root = super.root;
	return 0;
}

int erofs_new(struct inode *image, struct super **super)
{
	struct erofs *erofs = S_ISREG(image->mode) && image->operations->page ? kmalloc(sizeof(*erofs)) : NULL;
	struct inode *root;
	u64 number;
	int error;

	if (!erofs)
		return S_ISREG(image->mode) ? -ENOMEM : -EINVAL;
	erofs->image = image;
	error = read_super(erofs, &number);
	erofs->super = *super = error ? NULL : super_new(&super_operations, "erofs", EROFS_MAGIC);
	if (!*super) {
		kfree(erofs);
		return error ? error : -ENOMEM;
	}
	inode_get(image);
	(*super)->data = erofs;
	(*super)->flags = MS_RDONLY;
	(*super)->negative = true;
	root = erofs_inode(erofs, number, &error);
	if (root && !S_ISDIR(root->mode)) {
		inode_put(root);
		error = -EUCLEAN;
	} else if (root) {
		error = super_set_root(*super, root);
	}
	if (error)
		super_put(*super);
	return error;
}
