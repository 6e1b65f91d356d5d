/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A file system of layers: changes go to the upper one, and the lower ones do not change.
 *
 * A node stands for a file.  Its number stays the same when the file is copied to the upper layer, and all names of a
 * lower file lead to one node.  So hard links survive the copy, and an open file shows the new content.  Nodes of
 * changed lower files stay until the file is removed, as only they connect both layers.
 *
 * The upper layer is a tmpfs.  A name that is removed from a lower directory leaves a whiteout there, as on Linux: a
 * character device 0:0.  A directory that hides one below has the attribute trusted.overlay.opaque.
 */
#ifndef SENTRY_OVERLAY_H
#define SENTRY_OVERLAY_H

#include "caller.h"

enum { OVERLAY_LOWERS = 16, OVERLAY_DEPTH = 2 }; /* calls nest as deep on one stack */
#define OVERLAY_MAGIC 0x794c7630

struct layer {
	struct path root;
	u64 bits; /* added to its inode numbers, different for each file system */
};

struct overlay {
	struct super *super;
	bool writable; /* there is an upper layer */
	bool scratch;  /* no one mounts the upper layer again: its files may lack content */
	struct layer upper, lower[OVERLAY_LOWERS];
	u32 count;
	char *options; /* as /proc/mounts shows them */
	struct table by_upper, by_lower; /* nodes by the inodes of the layers */
	struct list kept;
	struct mutex mutex; /* held while files are copied to the upper layer */
};

/* A file in a lower layer. */
struct part {
	struct layer *layer;
	struct dentry *dentry; /* a reference */
};

struct overlay_node {
	struct table_entry by_upper, by_lower; /* in these tables if there is such a file */
	struct inode *inode;
	struct dentry *upper; /* a reference; NULL: the lower file is unchanged */
	struct part *parts;   /* of a directory several; otherwise one, or none */
	u32 count;
	struct dentry *alias; /* one of its names, without a reference; NULL: unknown */
	struct list kept;     /* in overlay->kept, which holds a reference */
	bool counted;	      /* inode->links is counted here, as the layers cannot */
	bool data_below;      /* the upper file has only the attributes */
	struct mutex data;    /* held while the content is copied */
};

/* The files of a name in the layers: references. */
struct found {
	struct dentry *upper;
	struct part parts[OVERLAY_LOWERS];
	u32 count;
};

/* -- overlay.c -- */

struct overlay_options {
	const struct path *upper; /* NULL: read-only */
	const struct path *lower; /* the highest first */
	u32 count;
	bool scratch;
	const char *text;
};

int overlay_new(const struct overlay_options *options, struct super **super);
/* Put a scratch layer above the root: NULL, or why there is none. */
const char *overlay_cover_root(void);

/* -- overlay_node.c -- */

extern const struct super_operations overlay_super_operations;

static inline struct overlay *overlay_of(const struct inode *inode)
{
	return (struct overlay *)inode->super->data;
}

static inline struct overlay_node *overlay_node_of(const struct inode *inode)
{
	return (struct overlay_node *)inode->data;
}

struct inode *overlay_real(const struct overlay_node *node); /* the inode with the attributes; borrowed */
struct inode *overlay_content(const struct overlay_node *node); /* the inode with the content; borrowed */
struct path overlay_path(const struct overlay_node *node, const struct inode *real); /* in its layer; borrowed */
struct overlay_node *overlay_find(struct overlay *overlay, const struct inode *upper); /* NULL: there is none */
/* The inode for what was found, with a reference. It takes the references of `found`. NULL: no memory. */
struct inode *overlay_inode(struct overlay *overlay, struct found *found);
void overlay_found_put(struct found *found);
int overlay_set_upper(struct overlay_node *node, struct dentry *upper); /* takes the reference; 0 or -ENOMEM */
u64 overlay_number(struct overlay *overlay, const struct inode *upper); /* of an inode in the upper layer */
void overlay_apply(struct inode *inode); /* copy the cached attributes of the layers */
int overlay_refresh(struct inode *inode); /* the same, after a refresh of the layers */
void overlay_count(struct inode *inode); /* from now on its links are counted here */
void overlay_release(struct inode *inode); /* put the reference of overlay->kept: no name is left */
bool is_whiteout(const struct inode *inode);
bool is_opaque(struct inode *inode);

static inline bool overlay_is_merged(const struct overlay_node *node)
{
	return node->count + (node->upper != NULL) > 1;
}

/* -- overlay_copy.c -- */

int overlay_copy_up(struct inode *inode);
int overlay_copy_content(struct inode *inode, u64 size); /* so much of it, and the attributes */
int overlay_copy_attributes(struct inode *from, struct inode *to);
/* A name in a directory of a layer: a reference. */
int layer_lookup(struct dentry *directory, const char *name, u64 size, struct dentry **result);
/* Remove a name from a directory of the upper layer, which is locked. A directory must be empty. */
void layer_remove(struct inode *directory, struct dentry *dentry);

/* -- overlay_attr.c -- */

int overlay_setattr(struct inode *inode, const struct attributes *new);
s64 overlay_getxattr(struct inode *inode, const char *name, void *value, u64 size);
int overlay_setxattr(struct inode *inode, const char *name, const void *value, u64 size, u32 flags);
s64 overlay_listxattr(struct inode *inode, char *names, u64 size);
int overlay_removexattr(struct inode *inode, const char *name);
bool overlay_is_private(const char *name); /* an attribute that belongs to the layers */
#define OVERLAY_OPAQUE "trusted.overlay.opaque"
#define OVERLAY_ATTRIBUTES .getattr = overlay_refresh, .setattr = overlay_setattr, .getxattr = overlay_getxattr, \
			   .setxattr = overlay_setxattr, .listxattr = overlay_listxattr, \
			   .removexattr = overlay_removexattr

/* -- overlay_name.c, overlay_file.c, overlay_list.c -- */

extern const struct inode_operations overlay_directory_operations, overlay_file_inode_operations;
extern const struct inode_operations overlay_link_operations, overlay_special_operations;
extern const struct file_operations overlay_file_operations, overlay_directory_file_operations;

int overlay_open_directory(struct inode *inode, struct file *file);
int overlay_is_empty(struct dentry *dentry); /* 0, -ENOTEMPTY or another error */
/* An open file of a layer, or NULL and an error. */
struct file *overlay_open_real(struct overlay_node *node, const struct inode *real, u32 flags, int *error);

#endif
