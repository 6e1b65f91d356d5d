/* SPDX-License-Identifier: Apache-2.0 */
/* Devices, the console, and the first file system. */
#ifndef SENTRY_DEVICE_H
#define SENTRY_DEVICE_H

#include "../platform.h"
#include "vfs.h"

int devices_make(const char *directory);
int console_open(struct file *file);
struct file *console_stream(u32 stream); /* 0, 1, 2 as the platform has them */

/* -- root.c -- */

/* Mount the root with /dev, /tmp and the like, and unpack an archive into it: NULL, or why not. */
const char *root_init(const struct core_config *config);
const char *text_join(char *to, u64 size, const char *directory, const char *name); /* with a slash between; cut */
int core_mkdir(const char *name, u32 mode); /* 0 if it is there already */
int core_make_parents(char *name); /* the directories on the way to a name, which is the same afterwards */
int core_mknod(const char *name, u32 mode, u64 device);
int core_symlink(const char *target, const char *name);
int core_mount(struct super *super, const char *name, u32 flags, const char *source); /* takes the file system */
int core_write_file(const char *name, const void *data, u64 size, u32 mode);

#endif
