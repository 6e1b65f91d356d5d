/* SPDX-License-Identifier: Apache-2.0 */
/* Files in memory, and what they are made of. */
#ifndef SENTRY_TMPFS_H
#define SENTRY_TMPFS_H

#include "vfs.h"

enum { INODE_SPACE = 1024 }; /* the same unit as in Linux's tmpfs */

struct tmpfs_limits {
	u64 pages, used; /* of contents */
	bool given;	 /* by an option */
	u64 inodes;	 /* 0: as many as there is memory for */
	u64 space;	 /* in bytes: each inode and each more name of one has INODE_SPACE, attributes have their size */
};

struct super *tmpfs_new(const char *type, u32 mode); /* NULL: no memory */
int tmpfs_options(struct super *super, char *options);
int tmpfs_remount(struct super *super, u32 flags, char *options);
void tmpfs_show(struct super *super, struct text *text);
struct inode *tmpfs_file(u32 mode); /* without a name */

/* -- xattr.c: extended attributes in memory -- */

struct attribute_list;

s64 attributes_get(struct attribute_list *list, const char *name, void *value, u64 size);
int attributes_set(struct attribute_list **list, const char *name, const void *value, u64 size, u32 flags);
s64 attributes_list(struct attribute_list *list, char *names, u64 size);
int attributes_remove(struct attribute_list **list, const char *name);
void attributes_free(struct attribute_list **list);

#endif
