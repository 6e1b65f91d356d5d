// SPDX-License-Identifier: Apache-2.0
/* Namespaces as /proc shows them: one of each kind, which contains all processes. */
#include "../cred.h"
#include "caller.h"
#include "process_file.h"

enum { NSFS_MAGIC = 0x6e736673 };

static const struct {
	const char *file, *kind;
	u32 number; /* that of Linux's first process */
} namespaces[] = {
	{ "ns/cgroup", "cgroup", 0xeffffffb }, { "ns/ipc", "ipc", 0xefffffff }, { "ns/mnt", "mnt", 0xf0000001 },
	{ "ns/net", "net", 0xf0000000 }, { "ns/pid", "pid", 0xeffffffc }, { "ns/pid_for_children", "pid", 0xeffffffc },
	{ "ns/time", "time", 0xeffffffa }, { "ns/time_for_children", "time", 0xeffffffa },
	{ "ns/user", "user", 0xeffffffd }, { "ns/uts", "uts", 0xeffffffe },
};

static const struct super_operations super_operations;

static int open(struct inode *inode, struct file *file)
{
	(void)inode;
	file->stream = true;
	return file->writable ? -EPERM : 0;
}

static int setattr(struct inode *inode, const struct attributes *new)
{
	(void)inode, (void)new;
	return -EPERM;
}

static const struct inode_operations inode_operations = { .open = open, .setattr = setattr };
static const struct file_operations file_operations;

static struct inode *make(u32 number)
{
	struct inode *inode;

	if (!vfs.namespaces)
		vfs.namespaces = super_new(&super_operations, "nsfs", NSFS_MAGIC);
	inode = vfs.namespaces ? inode_new(vfs.namespaces, S_IFREG | 0444) : NULL;
	if (!inode)
		return NULL;
	inode->number = number;
	inode->user = inode->group = 0;
	inode->operations = &inode_operations;
	inode->file_operations = &file_operations;
	return inode;
}

int jump_namespace(struct inode *inode, struct path *path)
{
	const struct synthetic_inode *node = synthetic_of(inode);
	const struct task *t = process_task(node->pid);

	if (!t)
		return -ENOENT;
	if (!may_inspect(core.current, t, true))
		return -EACCES;
	for (u32 i = 0; i < ARRAY_SIZE(namespaces); i++) {
		if (strings_equal(namespaces[i].file, node->entry->name)) {
			struct inode *made = make(namespaces[i].number);

			return made ? anonymous_from(made, namespaces[i].kind, path) : -ENOMEM;
		}
	}
	return -ENOENT;
}
