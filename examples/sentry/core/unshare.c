// SPDX-License-Identifier: Apache-2.0
/* unshare and setns: programs make and enter no namespaces. */
#include "core.h"
#include "vfs/vfs.h"

s64 sys_unshare(struct task *t, const u64 *args)
{
	const u32 namespaces = CLONE_NAMESPACES | CLONE_NEWTIME;
	const u32 known = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | namespaces;
	u32 flags = (u32)args[0];
	s64 error = 0;

	if (flags & ~known)
		return -EINVAL;
	if (flags & (CLONE_VM | CLONE_SIGHAND | CLONE_THREAD) && t->process->task_count > 1)
		return -EINVAL;
	if (flags & namespaces)
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
