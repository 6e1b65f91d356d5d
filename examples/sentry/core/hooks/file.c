// SPDX-License-Identifier: Apache-2.0
/* A file whose content the host sends when a program opens it. It is a file system of its own, mounted at its path. */
#include "record.h"

#include "../control/container.h"
#include "../vfs/caller.h"

static int open(struct inode *inode, struct file *file)
{
	struct text *text = kmalloc(sizeof(*text));
	s64 error = text ? hooks_content((u64)inode->data, text) : -ENOMEM;

	if (error) {
		kfree(text);
		return (int)error;
	}
	file->data = text;
	return 0;
}

static void release(struct file *file)
{
	if (file->data)
		text_free(file->data);
	kfree(file->data);
}

static s64 read(struct file *file, struct io *to, u64 *position)
{
	const struct text *text = file->data;
	u64 left = *position < text->size ? text->size - *position : 0, moved;

	if (!left)
		return 0;
	moved = io_put(to, text->data + *position, left < to->left ? left : to->left);
	*position += moved;
	return moved || !to->left ? (s64)moved : -EFAULT;
}

static const struct super_operations super_operations;
static const struct inode_operations inode_operations = { .open = open };
static const struct file_operations file_operations = { .read = read, .release = release };

s64 hosted_file(u64 number, const char *path)
{
	struct super *super = super_new(&super_operations, "pyvmm", 0x70766d6d);
	struct inode *inode = super ? inode_new(super, S_IFREG | 0444) : NULL;
	struct path point;
	s64 error = inode ? 0 : -ENOMEM;

	if (inode) {
		inode->data = (void *)number;
		inode->operations = &inode_operations;
		inode->file_operations = &file_operations;
		error = super_set_root(super, inode);
	}
	if (!error)
		error = point_make(path, false, &point);
	if (error) {
		super_put(super);
		return error;
	}
	if (S_ISREG(point.dentry->inode->mode)) {
		dentry_get(super->root);
		error = mount_add(super, super->root, &point, MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, "host");
	} else {
		super_put(super);
		error = -EEXIST;
	}
	path_put(&point);
	return error;
}
