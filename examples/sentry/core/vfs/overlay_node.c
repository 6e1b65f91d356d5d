// SPDX-License-Identifier: Apache-2.0
/* Nodes of an overlay: which files of the layers are one file, and its attributes. */
#include "overlay.h"

#include "text.h"

static struct slab nodes = SLAB(struct overlay_node);

static u32 inode_hash(const struct inode *inode)
{
	return hash_bytes(&inode, sizeof(inode), 0);
}

bool is_whiteout(const struct inode *inode)
{
	return inode && S_ISCHR(inode->mode) && !inode->device;
}

bool is_opaque(struct inode *inode)
{
	char value = 0;

	return inode->operations->getxattr && inode->operations->getxattr(inode, OVERLAY_OPAQUE, &value, 1) == 1 &&
	       value == 'y';
}

struct overlay_node *overlay_find(struct overlay *overlay, const struct inode *upper)
{
	for (struct table_entry *at = table_first(&overlay->by_upper, inode_hash(upper)); at; at = at->next) {
		struct overlay_node *node = CONTAINER(at, struct overlay_node, by_upper);

		if (node->upper->inode == upper)
			return node;
	}
	return NULL;
}

static struct overlay_node *find_lower(struct overlay *overlay, const struct inode *lower)
{
	for (struct table_entry *at = table_first(&overlay->by_lower, inode_hash(lower)); at; at = at->next) {
		struct overlay_node *node = CONTAINER(at, struct overlay_node, by_lower);

		if (node->parts[0].dentry->inode == lower)
			return node;
	}
	return NULL;
}

void overlay_found_put(struct found *found)
{
	dentry_put(found->upper);
	for (u32 i = 0; i < found->count; i++)
		dentry_put(found->parts[i].dentry);
	found->upper = NULL;
	found->count = 0;
}

/* -- attributes -- */

struct inode *overlay_real(const struct overlay_node *node)
{
	return node->upper ? node->upper->inode : node->parts[0].dentry->inode;
}

struct inode *overlay_content(const struct overlay_node *node)
{
	return node->upper && !node->data_below ? node->upper->inode : node->parts[0].dentry->inode;
}

struct path overlay_path(const struct overlay_node *node, const struct inode *real)
{
	struct overlay *overlay = overlay_of(node->inode);

	if (node->upper && real == node->upper->inode)
		return (struct path){ overlay->upper.root.mount, node->upper };
	return (struct path){ node->parts[0].layer->root.mount, node->parts[0].dentry };
}

u64 overlay_number(struct overlay *overlay, const struct inode *upper)
{
	struct overlay_node *node = overlay_find(overlay, upper);

	return node ? node->inode->number : overlay->upper.bits | upper->number;
}

/* A merged directory shows one link, as on Linux: its subdirectories are not counted. */
static u64 links_of(const struct overlay_node *node, const struct inode *real)
{
	return S_ISDIR(real->mode) && overlay_is_merged(node) ? 1 : real->links;
}

void overlay_apply(struct inode *inode)
{
	struct overlay_node *node = overlay_node_of(inode);
	const struct inode *real = overlay_real(node), *content = overlay_content(node);

	inode->mode = real->mode;
	inode->user = real->user;
	inode->group = real->group;
	inode->modified = real->modified;
	inode->changed = real->changed;
	inode->device = real->device;
	inode->block_size = real->block_size;
	inode->size = content->size;
	inode->blocks = content->blocks;
	if (!node->counted)
		inode->links = links_of(node, real);
}

int overlay_refresh(struct inode *inode)
{
	struct overlay_node *node = overlay_node_of(inode);
	int error = inode_refresh(overlay_real(node));

	if (!error)
		error = inode_refresh(overlay_content(node));
	if (!error)
		overlay_apply(inode);
	return error;
}

static void keep(struct overlay_node *node)
{
	if (!list_empty(&node->kept))
		return;
	inode_get(node->inode);
	list_add(&overlay_of(node->inode)->kept, &node->kept);
}

void overlay_count(struct inode *inode)
{
	struct overlay_node *node = overlay_node_of(inode);

	node->counted = true;
	keep(node);
}

void overlay_release(struct inode *inode)
{
	struct overlay_node *node = overlay_node_of(inode);

	if (list_empty(&node->kept))
		return;
	list_remove(&node->kept);
	inode_put(inode);
}

/* -- from the layers -- */

static void choose_operations(struct inode *inode)
{
	inode->operations = &overlay_special_operations;
	if (S_ISREG(inode->mode)) {
		inode->operations = &overlay_file_inode_operations;
		inode->file_operations = &overlay_file_operations;
	} else if (S_ISDIR(inode->mode)) {
		inode->operations = &overlay_directory_operations;
		inode->file_operations = &overlay_directory_file_operations;
	} else if (S_ISLNK(inode->mode)) {
		inode->operations = &overlay_link_operations;
	}
}

/* Move the lower files of `found` to the node: 0 or -ENOMEM. */
static int set_parts(struct overlay_node *node, struct found *found)
{
	u64 size = found->count * sizeof(*node->parts);

	if (!size)
		return 0;
	node->parts = kmalloc(size);
	if (!node->parts || table_add(&overlay_of(node->inode)->by_lower, &node->by_lower,
				      inode_hash(found->parts[0].dentry->inode)))
		return -ENOMEM;
	bytes_copy(node->parts, found->parts, size);
	node->count = found->count;
	found->count = 0;
	return 0;
}

int overlay_set_upper(struct overlay_node *node, struct dentry *upper)
{
	int error = table_add(&overlay_of(node->inode)->by_upper, &node->by_upper, inode_hash(upper->inode));

	if (error)
		dentry_put(upper);
	else
		node->upper = upper;
	return error;
}

static struct inode *make(struct overlay *overlay, struct found *found)
{
	struct inode *first = found->upper ? found->upper->inode : found->parts[0].dentry->inode;
	struct overlay_node *node = slab_alloc(&nodes);
	struct inode *inode = node ? inode_new(overlay->super, first->mode) : NULL;
	struct dentry *upper = found->upper;
	int error;

	if (!inode) {
		if (node)
			slab_free(&nodes, node);
		return NULL;
	}
	list_init(&node->kept);
	node->inode = inode;
	inode->data = node;
	inode->number = found->count ? found->parts[0].layer->bits | found->parts[0].dentry->inode->number
				     : overlay->upper.bits | first->number;
	error = set_parts(node, found);
	if (!error && upper) {
		found->upper = NULL;
		error = overlay_set_upper(node, upper);
	}
	if (error) {
		inode_put(inode);
		return NULL;
	}
	overlay_apply(inode);
	inode->accessed = first->accessed;
	inode->born = first->born;
	choose_operations(inode);
	return inode;
}

struct inode *overlay_inode(struct overlay *overlay, struct found *found)
{
	struct overlay_node *node = NULL;
	struct inode *inode;

	if (found->upper)
		node = overlay_find(overlay, found->upper->inode);
	else
		node = find_lower(overlay, found->parts[0].dentry->inode);
	inode = node ? node->inode : NULL;
	if (inode)
		inode_get(inode);
	else
		inode = make(overlay, found);
	overlay_found_put(found);
	return inode;
}

/* -- the end -- */

static void evict(struct inode *inode)
{
	struct overlay_node *node = overlay_node_of(inode);
	struct overlay *overlay = overlay_of(inode);

	if (!node)
		return;
	if (node->upper) /* first: what follows may sleep */
		table_remove(&overlay->by_upper, &node->by_upper);
	if (node->count)
		table_remove(&overlay->by_lower, &node->by_lower);
	dentry_put(node->upper);
	for (u32 i = 0; i < node->count; i++)
		dentry_put(node->parts[i].dentry);
	kfree(node->parts);
	slab_free(&nodes, node);
}

static void forget_name(struct dentry *dentry)
{
	struct overlay_node *node = dentry->inode ? overlay_node_of(dentry->inode) : NULL;

	if (node && node->alias == dentry)
		node->alias = NULL;
}

static int statfs(struct super *super, struct statfs *stat)
{
	struct overlay *overlay = super->data;
	struct layer *layer = overlay->writable ? &overlay->upper : &overlay->lower[0];
	struct super *real = layer->root.dentry->super;

	return real->operations->statfs ? real->operations->statfs(real, stat) : 0;
}

static void release(struct super *super)
{
	struct overlay *overlay = super->data;

	if (!overlay)
		return;
	while (!list_empty(&overlay->kept))
		overlay_release(CONTAINER(overlay->kept.next, struct overlay_node, kept)->inode);
	path_put(&overlay->upper.root);
	for (u32 i = 0; i < overlay->count; i++)
		path_put(&overlay->lower[i].root);
	table_free(&overlay->by_upper);
	table_free(&overlay->by_lower);
	kfree(overlay->options);
	kfree(overlay);
}

static void show(struct super *super, struct text *text)
{
	const struct overlay *overlay = super->data;

	if (*overlay->options) {
		text_put(text, ",");
		text_put(text, overlay->options);
	}
}

/* Options cannot change. */
static int remount(struct super *super, u32 flags, char *options)
{
	const struct overlay *overlay = super->data;

	(void)options;
	return overlay->writable || flags & MS_RDONLY ? 0 : -EROFS;
}

const struct super_operations overlay_super_operations = {
	.show = show,
	.remount = remount,
	.statfs = statfs,
	.evict = evict,
	.forget = forget_name,
	.release = release,
};
