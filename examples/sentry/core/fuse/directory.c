// SPDX-License-Identifier: Apache-2.0
/* Directories: names, and what makes, moves and removes them. What they contain is read in listing.c. */
#include "fuse.h"

enum { SECOND = 1000000000 };

/* A file has other attributes than before. */
static void touched(struct inode *inode)
{
	fuse_node_of(inode)->stale = true;
}

/*
 * An entry was added or removed.  Each step of a walk checks the directory's rights, so its attributes are requested
 * again only a second later.
 */
static void changed(struct inode *directory)
{
	struct fuse_node *node = fuse_node_of(directory);

	node->changes++;
	fuse_forget_entries(directory);
	directory->modified = directory->changed = time_real();
	if (!node->stale_at)
		node->stale_at = monotonic_now() + SECOND;
}

/* A directory has another parent: its entry `..` is another one. */
static void moved(struct inode *directory)
{
	fuse_node_of(directory)->changes++;
	fuse_forget_entries(directory);
}

/* A request that makes a file, and its inode. */
static int make(struct inode *directory, struct fuse_call *call, struct inode **inode)
{
	struct fuse_entry entry;
	s64 size;

	call->node = fuse_node_of(directory)->id;
	call->answer = &entry;
	call->answer_size = sizeof(entry);
	size = fuse_call(fuse_of(directory), call);
	if (size < 0)
		return (int)size;
	if (size != sizeof(entry) || !entry.node)
		return -EIO;
	*inode = fuse_inode(fuse_of(directory), &entry);
	return *inode ? 0 : -ENOMEM;
}

static int add(struct inode *directory, struct dentry *dentry, struct inode *inode)
{
	changed(directory);
	dentry_attach(dentry, inode);
	return dentry_hash(dentry);
}

static int make_name(struct inode *directory, struct dentry *dentry, struct fuse_call *call)
{
	struct inode *inode;
	int error;

	fuse_forget_entries(directory); /* whatever the answer is, the server may have made the file */
	error = make(directory, call, &inode);
	return error ? error : add(directory, dentry, inode);
}

/* -- the operations -- */

static int lookup(struct inode *directory, struct dentry *dentry)
{
	struct fuse_call call = { .opcode = FUSE_LOOKUP, .names = { dentry->name } };
	struct inode *inode;
	int error = make(directory, &call, &inode);

	if (error)
		return error == -ENOENT ? 0 : error;
	dentry_attach(dentry, inode);
	return 0;
}

/* Whether a name still leads to the same file. Where something is mounted, it does. */
int fuse_revalidate(struct dentry *dentry)
{
	struct fuse_call call = { .opcode = FUSE_LOOKUP, .names = { dentry->name } };
	struct inode *inode;
	int error;

	if (!dentry->inode || dentry->mounted || !dentry->parent)
		return dentry->inode != NULL;
	if (!fuse_may_differ(dentry->inode))
		return 1;
	error = make(dentry->parent->inode, &call, &inode);
	if (error)
		return error == -ENOENT || error == -ESTALE ? 0 : error;
	inode_put(inode);
	return inode == dentry->inode;
}

/* Create a regular file and keep it open for writing, as most creators write it next. */
static int create_file(struct inode *directory, u32 opcode, const char *name, u32 mode, struct inode **inode)
{
	const u32 flags = O_WRONLY | O_LARGEFILE | (opcode == FUSE_CREATE ? O_CREAT | O_EXCL : 0);
	const struct fuse_create_in in = { .flags = flags, .mode = S_IFREG | mode };
	struct fuse_create_out out;
	const struct fuse_call call = { .opcode = opcode, .node = fuse_node_of(directory)->id, .arguments = &in,
					.arguments_size = sizeof(in), .names = { name }, .answer = &out,
					.answer_size = sizeof(out) };
	struct fuse_handle handle;
	s64 size;

	fuse_forget_entries(directory);
	size = fuse_call(fuse_of(directory), &call);
	if (size < 0)
		return (int)size;
	if (size != sizeof(out) || !out.entry.node)
		return -EIO;
	handle = (struct fuse_handle){ true, out.open.fh, 0 };
	*inode = fuse_inode(fuse_of(directory), &out.entry);
	if (!*inode)
		return -ENOMEM; /* the server has one open file more until the end */
	if (fuse_node_of(*inode)->writer.open)
		fuse_close_handle(*inode, &handle, FUSE_RELEASE);
	else
		fuse_node_of(*inode)->writer = handle, fuse_node_of(*inode)->made = true;
	return 0;
}

static int create(struct inode *directory, struct dentry *dentry, u32 mode, u64 device)
{
	const struct fuse_mknod_in in = { .mode = mode, .device = (u32)device };
	struct fuse_call call = { .opcode = FUSE_MKNOD, .arguments = &in, .arguments_size = sizeof(in),
				  .names = { dentry->name } };
	struct inode *inode;
	int error;

	if (!S_ISREG(mode))
		return make_name(directory, dentry, &call);
	/* The name did not exist a moment ago, and nobody else makes one. */
	error = create_file(directory, FUSE_CREATE, dentry->name, mode & 07777, &inode);
	return error ? error : add(directory, dentry, inode);
}

static int tmpfile(struct inode *directory, u32 mode, struct inode **inode)
{
	int error = create_file(directory, FUSE_TMPFILE, NULL, mode & 07777, inode);

	return error == -ENOSYS ? -EOPNOTSUPP : error;
}

static int mkdir(struct inode *directory, struct dentry *dentry, u32 mode)
{
	const struct fuse_mkdir_in in = { .mode = mode };
	struct fuse_call call = { .opcode = FUSE_MKDIR, .arguments = &in, .arguments_size = sizeof(in),
				  .names = { dentry->name } };

	int error = make_name(directory, dentry, &call);

	if (!error)
		directory->links++;
	return error;
}

static int symlink(struct inode *directory, struct dentry *dentry, const char *target)
{
	struct fuse_call call = { .opcode = FUSE_SYMLINK, .names = { dentry->name, target } };

	return make_name(directory, dentry, &call);
}

static int link(struct inode *inode, struct inode *directory, struct dentry *dentry)
{
	const struct fuse_link_in in = { .node = fuse_node_of(inode)->id };
	struct fuse_call call = { .opcode = FUSE_LINK, .arguments = &in, .arguments_size = sizeof(in),
				  .names = { dentry->name } };

	fuse_node_of(inode)->stale = true;
	return make_name(directory, dentry, &call);
}

static int remove_name(struct inode *directory, struct dentry *dentry, u32 opcode)
{
	const struct fuse_call call = { .opcode = opcode, .node = fuse_node_of(directory)->id, .names = { dentry->name } };
	s64 error;

	fuse_forget_entries(directory);
	error = fuse_call(fuse_of(directory), &call);
	if (error)
		return (int)error;
	changed(directory);
	touched(dentry->inode);
	return 0;
}

static int unlink(struct inode *directory, struct dentry *dentry)
{
	return remove_name(directory, dentry, FUSE_UNLINK);
}

static int rmdir(struct inode *directory, struct dentry *dentry)
{
	int error = remove_name(directory, dentry, FUSE_RMDIR);

	if (!error && directory->links > 2)
		directory->links--;
	return error;
}

static int rename(struct inode *old_directory, struct dentry *from, struct inode *directory, struct dentry *to, u32 flags)
{
	const struct fuse_rename2_in in = { .directory = fuse_node_of(directory)->id, .flags = flags };
	const struct fuse_call call = { .opcode = FUSE_RENAME2, .node = fuse_node_of(old_directory)->id, .arguments = &in,
					.arguments_size = sizeof(in), .names = { from->name, to->name } };
	s64 error;

	fuse_forget_entries(old_directory);
	fuse_forget_entries(directory);
	error = fuse_call(fuse_of(directory), &call);
	if (error)
		return (int)error;
	changed(old_directory);
	changed(directory);
	if (S_ISDIR(from->inode->mode)) { /* and with it the counts of links */
		touched(old_directory), touched(directory);
		moved(from->inode);
	}
	touched(from->inode);
	if (to->inode)
		touched(to->inode);
	if (to->inode && S_ISDIR(to->inode->mode)) /* which changes places with the other, or is gone */
		moved(to->inode);
	return 0;
}

static s64 readlink(struct inode *inode, char *target, u64 size)
{
	struct fuse_node *node = fuse_node_of(inode);
	const struct fuse_call call = { .opcode = FUSE_READLINK, .node = node->id, .answer = target,
					.answer_size = size < PAGE ? (u32)size : PAGE };
	s64 result;

	if (!node->target) {
		result = fuse_call(fuse_of(inode), &call);
		if (result <= 0)
			return result ? result : -EIO;
		node->target = kmalloc((u64)result + 1);
		if (node->target)
			bytes_copy(node->target, target, (u64)result);
		return result;
	}
	result = (s64)string_size(node->target);
	if ((u64)result > size)
		result = (s64)size;
	bytes_copy(target, node->target, (u64)result);
	return result;
}

const struct inode_operations fuse_directory_operations = {
	.lookup = lookup,
	.create = create,
	.mkdir = mkdir,
	.symlink = symlink,
	.link = link,
	.unlink = unlink,
	.rmdir = rmdir,
	.rename = rename,
	.tmpfile = tmpfile,
	.open = fuse_open_directory,
	FUSE_ATTRIBUTES,
};

const struct inode_operations fuse_link_operations = {
	.readlink = readlink,
	FUSE_ATTRIBUTES,
};
