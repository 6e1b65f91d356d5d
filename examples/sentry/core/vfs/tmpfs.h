/* SPDX-License-Identifier: Apache-2.0 */
/* Files in memory, and what they are made of. */
#ifndef SENTRY_TMPFS_H
#define SENTRY_TMPFS_H

#include "vfs.h"

struct super *tmpfs_new(const char *type, u32 mode); /* NULL: no memory */
int tmpfs_options(struct super *super, char *options);
struct inode *tmpfs_file(u32 mode); /* without a name */

/* -- xattr.c: extended attributes in memory -- */

struct attribute_list;

s64 attributes_get(struct attribute_list *list, const char *name, void *value, u64 size);
int attributes_set(struct attribute_list **list, const char *name, const void *value, u64 size, u32 flags);
s64 attributes_list(struct attribute_list *list, char *names, u64 size);
int attributes_remove(struct attribute_list **list, const char *name);
void attributes_free(struct attribute_list **list);

#endif
