// SPDX-License-Identifier: Apache-2.0
/* unshare and setns: there is one namespace of each kind. */
#include "core.h"
#include "vfs/vfs.h"

enum {
	CLONE_VM = 0x100, CLONE_FS = 0x200, CLONE_FILES = 0x400, CLONE_SIGHAND = 0x800, CLONE_THREAD = 0x10000,
	CLONE_SYSVSEM = 0x40000, CLONE_NAMESPACES = 0x7e020080,
};

s64 sys_unshare(struct task *t, const u64 *args)
{
	const u32 known = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_NAMESPACES;
	u32 flags = (u32)args[0];
	s64 error = 0;

	if (flags & ~known)
		return -EINVAL;
	if (flags & (CLONE_VM | CLONE_SIGHAND | CLONE_THREAD) && t->process->task_count > 1)
		return -EINVAL;
	if (flags & CLONE_NAMESPACES)
		return -EPERM;
	if (flags & CLONE_FS)
		error = fs_unshare(t);
	if (!error && flags & CLONE_FILES)
		error = files_unshare(t);
	return error;
}

s64 sys_setns(struct task *t, const u64 *args)
{
	return fd_file(t, args[0]) ? -EINVAL : -EBADF;
}
