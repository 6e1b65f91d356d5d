/* SPDX-License-Identifier: Apache-2.0 */
/* The caller of a file system call: its user, rights and directories. */
#ifndef SENTRY_CALLER_H
#define SENTRY_CALLER_H

#include "../core.h"
#include "../slab.h"
#include "vfs.h"

/* The user, group and rights that count for files. */

static inline u32 caller_user(void)
{
	return core.current ? core.current->cred.user.fs : core.config->user;
}

static inline u32 caller_group(void)
{
	return core.current ? core.current->cred.group.fs : core.config->group;
}

static inline bool caller_in_group(u32 group)
{
	return core.current ? cred_in_group(&core.current->cred, group, caller_group()) : group == caller_group();
}

static inline bool caller_capable(u32 capability)
{
	return capable(capability);
}

/* Global state of the file systems. */
struct vfs {
	struct table names; /* of dentries */
	struct list unused; /* dentries without references, those used last at the end */
	u32 unused_count;
	struct list mounts;
	u32 last_mount;
	u64 devices;		   /* how many numbers file systems have */
	struct super *anonymous;   /* of files without a name */
	struct super *memory;	   /* of memfd_create */
	struct super *sys;
	struct super *namespaces;
	struct mount anonymous_mount;
	struct list bound; /* sockets with a name */
	struct list sockets; /* ends of all of AF_UNIX */
	u64 watches; /* of inotify */
	u32 last_cookie;
	u64 started;
	u8 boot_id[16];
	struct path streams[3];
	struct fs_context *fs; /* before there are tasks */
};

extern struct vfs vfs;

static inline struct fs_context *caller_fs(void)
{
	return core.current && core.current->fs ? core.current->fs : vfs.fs;
}

#endif
