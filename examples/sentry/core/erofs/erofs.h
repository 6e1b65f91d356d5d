/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An image of EROFS in a file of the host, as a read-only file system: the root of a container, which the host does not
 * unpack.
 *
 * The pages of its files are those that the cache has of the image.  Nobody has checked the image: what it says is checked
 * here, and leads to -EUCLEAN.  Images are not compressed, so that they can be mapped.
 */
#ifndef SENTRY_EROFS_H
#define SENTRY_EROFS_H

#include "../vfs/caller.h"
#include "format.h"

struct erofs {
	struct super *super;
	struct inode *image; /* a reference */
	struct table nodes; /* by their number */
	u64 metadata, attributes; /* where they lie, in bytes */
	struct timespec built;
};

struct erofs_node {
	struct table_entry by_number;
	struct inode *inode;
	u64 behind; /* where the record in the image ends: there are the attributes */
	u32 attributes_size;
	u64 content, tail; /* where they lie; tail: of the last page, 0 where it lies with the others */
};

/* A part of the content that lies in a page of the image, of which it has a reference. */
struct erofs_part {
	void *page;
	const u8 *at;
	u32 size;
};

/* A file system, whose image is a regular file: 0, -EINVAL, -EOPNOTSUPP, -EUCLEAN or an error of reading. */
int erofs_new(struct inode *image, struct super **super);

static inline struct erofs *erofs_of(const struct inode *inode)
{
	return inode->super->data;
}

static inline struct erofs_node *erofs_node_of(const struct inode *inode)
{
	return inode->data;
}

/* -- content.c -- */

/* A page of the image, as inode_operations.page returns it. */
s64 erofs_page(const struct erofs *erofs, u64 index);
int erofs_copy(const struct erofs *erofs, u64 at, void *to, u64 size);
/* A page of the content, as far as it goes; put it. */
int erofs_part(struct inode *inode, u64 index, struct erofs_part *part);
void erofs_part_put(struct erofs_part *part);

extern const struct inode_operations erofs_file_inode_operations, erofs_link_operations;
extern const struct file_operations erofs_file_operations;

/* -- node.c -- */

struct inode *erofs_inode(struct erofs *erofs, u64 number, int *error); /* with a reference; NULL and an error */

/* -- directory.c, attribute.c -- */

extern const struct inode_operations erofs_directory_operations;
extern const struct file_operations erofs_directory_file_operations;

s64 erofs_getxattr(struct inode *inode, const char *name, void *value, u64 size);
s64 erofs_listxattr(struct inode *inode, char *names, u64 size);
#define EROFS_ATTRIBUTES .getxattr = erofs_getxattr, .listxattr = erofs_listxattr

#endif
