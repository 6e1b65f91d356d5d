// SPDX-License-Identifier: Apache-2.0
/* FUSE_INIT and FUSE_DESTROY: the beginning of a mount, which negotiates features, and its end. */
#include "fs/fs.h"

#include <errno.h>
#include <string.h>

/* The oldest minor version of virtio-fs in Linux; requests have had their present form since. */
enum { MINOR_MIN = 31 };
enum { MAX_BACKGROUND = 64, CONGESTION = 48, MAX_READAHEAD = 1 << 20 };
enum { MAX_PAGES = 256 };

/* The features that every share offers. */
static const uint64_t always = FUSE_ASYNC_READ | FUSE_ATOMIC_O_TRUNC | FUSE_BIG_WRITES | FUSE_DONT_MASK |
			       FUSE_DO_READDIRPLUS | FUSE_READDIRPLUS_AUTO | FUSE_ASYNC_DIO |
			       FUSE_PARALLEL_DIROPS | FUSE_HANDLE_KILLPRIV_V2 | FUSE_MAX_PAGES | FUSE_CACHE_SYMLINKS |
			       FUSE_SUBMOUNTS | FUSE_SETXATTR_EXT | FUSE_INIT_EXT | FUSE_CREATE_SUPP_GROUP |
			       FS_READ_BY_NODE | FS_WRITE_ATTR;

static uint64_t fs_wanted(const struct fs *fs)
{
	uint64_t wanted = always;

	if (!(fs->config.flags & FS_NO_LOCKS))
		wanted |= FUSE_POSIX_LOCKS | FUSE_FLOCK_LOCKS;
	if (fs->config.flags & FS_ACL)
		wanted |= FUSE_POSIX_ACL;
	if (fs->config.dax)
		wanted |= FUSE_MAP_ALIGNMENT;
	if (fs->config.flags & FS_WRITEBACK && fs->config.cache != FS_CACHE_NONE)
		wanted |= FUSE_WRITEBACK_CACHE;
	if (fs->config.cache == FS_CACHE_NONE)
		wanted |= FUSE_DIRECT_IO_ALLOW_MMAP;
	if (fs->config.cache == FS_CACHE_AUTO)
		wanted |= FUSE_AUTO_INVAL_DATA;
	return wanted;
}

bool fs_features_are_offered(const struct fs *fs, uint64_t features)
{
	return !(features & ~fs_wanted(fs)) && (!features || features & FUSE_BIG_WRITES);
}

void fs_reset(struct fs *fs)
{
	__atomic_store_n(&fs->features, 0, __ATOMIC_RELEASE);
	fs_locks_reset(fs);
	fs_files_reset(fs);
	fs_nodes_reset(fs);
}

int fs_op_init(struct fs_req *r)
{
	struct fs *fs = r->fs;
	struct fuse_init_in in = { 0 };
	struct fuse_init_out out = { .major = FUSE_KERNEL_VERSION, .minor = FUSE_KERNEL_MINOR_VERSION };
	uint64_t features;

	memcpy(&in, r->arg, r->arg_len < sizeof(in) ? r->arg_len : sizeof(in));
	/* A guest with a newer major version gets ours, and sends FUSE_INIT again (linux/fuse.h). */
	if (in.major > FUSE_KERNEL_VERSION)
		return fs_reply(r, &out, sizeof(out));
	if (in.major < FUSE_KERNEL_VERSION || in.minor < MINOR_MIN)
		return -EPROTO;
	features = in.flags;
	if (in.flags & FUSE_INIT_EXT)
		features |= (uint64_t)in.flags2 << 32;
	features &= fs_wanted(fs);
	out.minor = in.minor < FUSE_KERNEL_MINOR_VERSION ? in.minor : FUSE_KERNEL_MINOR_VERSION;
	out.flags = (uint32_t)features;
	out.flags2 = (uint32_t)(features >> 32);
	out.max_readahead = in.max_readahead < MAX_READAHEAD ? in.max_readahead : MAX_READAHEAD;
	out.max_background = MAX_BACKGROUND;
	out.congestion_threshold = CONGESTION;
	out.max_pages = MAX_PAGES;
	out.max_write = MAX_PAGES * PAGE;
	out.time_gran = 1;
	out.map_alignment = features & FUSE_MAP_ALIGNMENT ? FS_DAX_SHIFT : 0;
	/* A guest that mounts the share again does not know the nodes and files of the previous mount. */
	fs_reset(fs);
	/* BIG_WRITES is always set, so that features are not 0. */
	__atomic_store_n(&fs->features, features | FUSE_BIG_WRITES, __ATOMIC_RELEASE);
	return fs_reply(r, &out, sizeof(out));
}

/* The guest has unmounted it. */
int fs_op_destroy(struct fs_req *r)
{
	fs_reset(r->fs);
	return 0;
}
