// SPDX-License-Identifier: Apache-2.0
/* Namespaces as /proc shows them: the sandbox's own, as those of Linux's first process, and those of containers. */
#include "../control/container.h"
#include "../cred.h"
#include "caller.h"
#include "process_file.h"

enum { NSFS_MAGIC = 0x6e736673 };

static const struct {
	const char *file, *kind;
	u32 number; /* that of Linux's first process */
	enum space_kind space; /* SPACES: all processes are in one */
} namespaces[] = {
	{ "ns/cgroup", "cgroup", 0xeffffffb, SPACES },
	{ "ns/ipc", "ipc", 0xefffffff, SPACE_IPC },
	{ "ns/mnt", "mnt", 0xf0000001, SPACES },
	{ "ns/net", "net", 0xf0000000, SPACES },
	{ "ns/pid", "pid", 0xeffffffc, SPACE_PID },
	{ "ns/pid_for_children", "pid", 0xeffffffc, SPACE_PID },
	{ "ns/time", "time", 0xeffffffa, SPACES },
	{ "ns/time_for_children", "time", 0xeffffffa, SPACES },
	{ "ns/user", "user", 0xeffffffd, SPACES },
	{ "ns/uts", "uts", 0xeffffffe, SPACE_UTS },
};

static const struct super_operations super_operations;

static int open(struct inode *inode, struct file *file)
{
	(void)inode;
	file->stream = file->odd = true;
	return file->writable ? -EPERM : 0;
}

static int setattr(struct inode *inode, const struct attributes *new)
{
	(void)inode;
	return new->which & ~(u32)ATTR_CHANGED ? -EPERM : 0;
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

static u32 number_in(const struct process *p, u32 index)
{
	const u32 first_of_containers = 0xf0001000u;
	const struct space *space = namespaces[index].space == SPACES ? NULL : space_of(p, namespaces[index].space);

	return space && space->number ? first_of_containers + space->number : namespaces[index].number;
}

int jump_namespace(struct inode *inode, struct path *path)
{
	const struct synthetic_inode *node = synthetic_of(inode);
	const struct task *t = process_task(node);

	if (!t)
		return -ENOENT;
	if (!may_inspect(core.current, t, true))
		return -EACCES;
	for (u32 i = 0; i < ARRAY_SIZE(namespaces); i++) {
		if (strings_equal(namespaces[i].file, node->entry->name)) {
			struct inode *made = make(number_in(t->process, i));

			return made ? anonymous_from(made, namespaces[i].kind, path) : -ENOMEM;
		}
	}
	return -ENOENT;
}
