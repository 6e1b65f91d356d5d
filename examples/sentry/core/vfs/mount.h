/* SPDX-License-Identifier: Apache-2.0 */
/* File systems that programs can mount. */
#ifndef SENTRY_MOUNT_H
#define SENTRY_MOUNT_H

#include "vfs.h"

/* A reference to a file system of a type; -ENODEV: there is no such type. The options may be overwritten. */
int super_by_type(const char *type, char *options, struct super **super);

/* -- calls_mount.c: mounts at a place, for the core -- */

int mount_type(const char *type, char *options, u32 flags, const struct path *point); /* the options may be overwritten */
int mount_bind(const struct path *from, const struct path *point, bool deep); /* deep: and what is mounted below it */
void mount_remove(struct mount *mount); /* and all mounts below it */

/* -- options -- */

/* Cut the first part off a text at a separator, which is overwritten; *rest is what follows. */
char *option_next(char **rest, char separator);
char *option_value(char *option, const char *name); /* behind a name that ends in "="; NULL: another one */

#endif
