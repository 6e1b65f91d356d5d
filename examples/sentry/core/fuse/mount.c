// SPDX-License-Identifier: Apache-2.0
/* The file system as a whole. */
#include "fuse.h"

enum { FUSE_MAGIC = 0x65735546, REQUESTS = 1 };

struct fuse *fuse_root;

static int statfs(struct super *super, struct statfs *stat)
{
	struct fuse_statfs_out out;
	const struct fuse_call call = { .opcode = FUSE_STATFS, .node = FUSE_ROOT, .answer = &out,
					.answer_size = sizeof(out) };
	s64 size = fuse_call(super->data, &call);

	if (size < 0)
		return (int)size;
	if (size != sizeof(out))
		return -EIO;
	stat->blocks = out.blocks;
	stat->blocks_free = out.free;
	stat->blocks_available = out.available;
	stat->files = out.files;
	stat->files_free = out.files_free;
	stat->block_size = out.block_size;
	stat->fragment_size = out.fragment_size;
	stat->name_max = out.name_max;
	return 0;
}

/* The next file that a sync must flush, with a reference; NULL: there is none. */
static struct inode *next_to_flush(struct fuse *fuse, u64 sync)
{
	LIST_EACH(at, &fuse->recent) {
		struct fuse_node *node = CONTAINER(at, struct fuse_node, recent);
		u64 index = 0;

		if (node->synced >= sync || !tree_next(&node->dirty, &index, ~0ull))
			continue;
		if (!node->inode->references)
			continue; /* its eviction flushes it */
		node->synced = sync;
		inode_get(node->inode);
		return node->inode;
	}
	return NULL;
}

/* Each flush sleeps, and the list of files changes meanwhile. */
static int sync(struct super *super)
{
	struct fuse *fuse = super->data;
	u64 number = ++fuse->syncs;
	struct inode *inode;
	int result = 0;

	while ((inode = next_to_flush(fuse, number))) {
		int error = fuse_flush(inode);

		inode_put(inode);
		result = result ? result : error;
	}
	return result;
}

static const struct super_operations operations = {
	.statfs = statfs,
	.sync = sync,
	.evict = fuse_evict,
};

static const struct super_operations shared_operations = {
	.statfs = statfs,
	.sync = sync,
	.evict = fuse_evict,
	.revalidate = fuse_revalidate,
};

static struct inode *root_inode(struct fuse *fuse)
{
	const struct fuse_getattr_in in = { 0 };
	struct fuse_attr_out out;
	const struct fuse_call call = { .opcode = FUSE_GETATTR, .node = FUSE_ROOT, .arguments = &in,
					.arguments_size = sizeof(in), .answer = &out, .answer_size = sizeof(out) };
	struct fuse_entry entry = { .node = FUSE_ROOT };

	if (fuse_call(fuse, &call) != sizeof(out) || !S_ISDIR(out.attr.mode))
		return NULL;
	entry.attr = out.attr;
	return fuse_inode(fuse, &entry);
}

/* Connect to the server: NULL, or why not. */
static const char *start(struct fuse *fuse)
{
	struct super *super;

	fuse->shared = core.config->control;
	super = super_new(fuse->shared ? &shared_operations : &operations, "virtiofs", FUSE_MAGIC);
	if (!super)
		return "the sandbox has too little memory";
	list_init(&fuse->recent);
	list_init(&fuse->listings);
	fuse->most_pages = core.ram.count / 2;
	fuse->most_listing_bytes = core.ram.count * PAGE / 32;
	core.ram.reclaim = fuse_reclaim;
	fuse->super = super;
	super->data = fuse;
	super->negative = !fuse->shared;
	super->refuses = true;
	if (fuse_init(fuse))
		return "the server of the root does not answer as it should";
	return super_set_root(super, root_inode(fuse)) ? "the directory for the root cannot be read" : NULL;
}

const char *fuse_mount_root(void)
{
	struct super *super;
	const char *why = start(fuse_root);

	if (why)
		return why;
	super = fuse_root->super;
	dentry_get(super->root);
	return mount_add(super, super->root, NULL, 0, fuse_root->tag) ? "the sandbox has too little memory" : NULL;
}

void fuse_refresh(void)
{
	if (fuse_root)
		fuse_root->refreshed = monotonic_now();
}

struct super *fuse_super(void)
{
	if (!fuse_root || (!fuse_root->super && start(fuse_root)) || !fuse_root->super->root)
		return NULL;
	reference_get(&fuse_root->super->references);
	return fuse_root->super;
}
