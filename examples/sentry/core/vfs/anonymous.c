// SPDX-License-Identifier: Apache-2.0
/* Files without a name in any directory: pipes, streams of the console and the like. */
#include "caller.h"

static const struct super_operations super_operations;
static const struct inode_operations inode_operations;

static int start(void)
{
	vfs.anonymous = super_new(&super_operations, "anon_inodefs", 0x09041934);
	if (!vfs.anonymous)
		return -ENOMEM;
	vfs.anonymous_mount = (struct mount){ .references = REFERENCES_SATURATED, .super = vfs.anonymous };
	return 0;
}

/* A path to a file without a place, whose name is shown in /proc. */
int anonymous_from(struct inode *inode, const char *name, struct path *path)
{
	struct dentry *dentry = !vfs.anonymous && start() ? NULL : dentry_new_root(vfs.anonymous, inode);

	if (!dentry) {
		inode_put(inode);
		return -ENOMEM;
	}
	dentry->label = name;
	*path = (struct path){ &vfs.anonymous_mount, dentry };
	return 0;
}

int anonymous_path(u32 mode, const char *name, struct path *path)
{
	struct inode *inode = !vfs.anonymous && start() ? NULL : inode_new(vfs.anonymous, mode);

	if (!inode)
		return -ENOMEM;
	inode->operations = &inode_operations;
	return anonymous_from(inode, name, path);
}

/* An open file of that kind; the inode's mode is for fstat. */
int anonymous_file(u32 mode, const char *name, const struct file_operations *operations, u32 flags, struct file **file)
{
	struct path path;
	int error = anonymous_path(mode, name, &path);

	if (error)
		return error;
	*file = file_new(&path, operations, flags);
	path_put(&path);
	if (!*file)
		return -ENOMEM;
	(*file)->fixed = true;
	return 0;
}

/* The position of a file that has none does not change. */
s64 file_stay(struct file *file, s64 offset, u32 whence)
{
	(void)file, (void)offset, (void)whence;
	return 0;
}
