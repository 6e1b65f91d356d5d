// SPDX-License-Identifier: Apache-2.0
/* Overlays and their layers. */
#include "overlay.h"

#include "tmpfs.h"

enum { BITS_SHIFT = 56 }; /* no file system of the core has so many inodes */

static struct super *super_of(const struct layer *layer)
{
	return layer->root.dentry->super;
}

/* Give each file system its own bits in inode numbers. Those of the highest lower layer do not change. */
static void choose_bits(struct overlay *overlay)
{
	u64 next = 1;

	for (u32 i = 1; i < overlay->count; i++) {
		u32 same = 0;

		while (super_of(&overlay->lower[same]) != super_of(&overlay->lower[i]))
			same++;
		overlay->lower[i].bits = same < i ? overlay->lower[same].bits : next++ << BITS_SHIFT;
	}
	if (!overlay->writable)
		return;
	overlay->upper.bits = next << BITS_SHIFT;
	for (u32 i = 0; i < overlay->count; i++)
		if (super_of(&overlay->lower[i]) == super_of(&overlay->upper))
			overlay->upper.bits = overlay->lower[i].bits;
}

static void add_layer(struct super *super, struct layer *layer, const struct path *path)
{
	layer->root = *path;
	path_get(path);
	if (super->depth <= super_of(layer)->depth)
		super->depth = super_of(layer)->depth + 1;
}

static struct overlay *make(struct super *super, const struct overlay_options *options)
{
	struct overlay *overlay = kmalloc(sizeof(*overlay));
	u64 size = string_size(options->text) + 1;

	if (!overlay)
		return NULL;
	overlay->options = kmalloc(size);
	if (!overlay->options) {
		kfree(overlay);
		return NULL;
	}
	bytes_copy(overlay->options, options->text, size);
	list_init(&overlay->kept);
	overlay->scratch = options->scratch;
	overlay->writable = options->upper != NULL;
	if (options->upper)
		add_layer(super, &overlay->upper, options->upper);
	for (overlay->count = 0; overlay->count < options->count; overlay->count++)
		add_layer(super, &overlay->lower[overlay->count], &options->lower[overlay->count]);
	choose_bits(overlay);
	return overlay;
}

static int make_root(struct overlay *overlay)
{
	struct found found = { .upper = NULL };
	struct inode *inode;

	if (overlay->writable) {
		found.upper = overlay->upper.root.dentry;
		dentry_get(found.upper);
	}
	for (; found.count < overlay->count; found.count++) {
		found.parts[found.count] = (struct part){ &overlay->lower[found.count],
							  overlay->lower[found.count].root.dentry };
		dentry_get(found.parts[found.count].dentry);
	}
	inode = overlay_inode(overlay, &found);
	if (super_set_root(overlay->super, inode))
		return -ENOMEM;
	if (overlay->scratch) { /* the upper layer starts empty: the overlay counts all its directories */
		inode->links = overlay->lower[0].root.dentry->inode->links;
		overlay_count(inode);
	}
	return 0;
}

int overlay_new(const struct overlay_options *options, struct super **result)
{
	struct super *super = super_new(&overlay_super_operations, "overlay", OVERLAY_MAGIC);
	struct overlay *overlay = super ? make(super, options) : NULL;
	int error;

	if (!overlay) {
		super_put(super);
		return -ENOMEM;
	}
	super->data = overlay;
	super->negative = true;
	super->flags = overlay->writable ? 0 : MS_RDONLY;
	overlay->super = super;
	error = make_root(overlay);
	if (error)
		super_put(super);
	else
		*result = super;
	return error;
}

/* A detached tmpfs whose root has the attributes of `like`. */
static int scratch_layer(struct inode *like, struct path *layer)
{
	struct super *super = tmpfs_new("tmpfs", 0755);
	struct mount *mount;

	if (!super)
		return -ENOMEM;
	dentry_get(super->root);
	mount = mount_new(super, super->root, 0, "scratch");
	if (!mount)
		return -ENOMEM;
	dentry_get(super->root);
	*layer = (struct path){ mount, super->root };
	return overlay_copy_attributes(like, super->root->inode);
}

const char *overlay_cover_root(void)
{
	struct path lower = { mount_root(), mount_root()->root }, upper = { NULL, NULL };
	const struct overlay_options options = { .upper = &upper, .lower = &lower, .count = 1, .scratch = true,
						 .text = "" };
	struct super *super;

	dentry_get(lower.dentry);
	list_remove(&lower.mount->all); /* its reference is that of `lower` */
	if (scratch_layer(lower.dentry->inode, &upper) || overlay_new(&options, &super))
		return "the scratch layer cannot be made";
	path_put(&lower);
	path_put(&upper);
	dentry_get(super->root);
	return mount_add(super, super->root, NULL, 0, "overlay") ? "the sandbox has too little memory" : NULL;
}
