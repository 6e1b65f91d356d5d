// SPDX-License-Identifier: Apache-2.0
/* System calls that write back and advise, and memfds. */
#include "calls.h"
#include "tmpfs.h"

static s64 sync_file(struct task *t, u64 number, bool data_only)
{
	struct file *file = fd_real(t, number);

	if (!file)
		return -EBADF;
	return file->operations->fsync ? file->operations->fsync(file, data_only) : -EINVAL;
}

s64 sys_fsync(struct task *t, const u64 *args)
{
	return sync_file(t, args[0], false);
}

s64 sys_fdatasync(struct task *t, const u64 *args)
{
	return sync_file(t, args[0], true);
}

s64 sys_sync(struct task *t, const u64 *args)
{
	struct mount *mount;

	(void)t, (void)args;
	for (u32 id = 0; (mount = mount_after(id)); mount_put(mount)) { /* the list can change meanwhile */
		id = mount->id;
		if (mount->super->operations->sync)
			mount->super->operations->sync(mount->super);
	}
	return 0;
}

s64 sys_syncfs(struct task *t, const u64 *args)
{
	struct file *file = fd_real(t, args[0]);

	if (!file)
		return -EBADF;
	return file->inode->super->operations->sync ? file->inode->super->operations->sync(file->inode->super) : 0;
}

s64 sys_sync_file_range(struct task *t, const u64 *args)
{
	struct file *file = fd_real(t, args[0]);
	u32 mode = file ? file->inode->mode : 0;

	if (!file)
		return -EBADF;
	if ((u32)args[3] & ~7u || (s64)args[1] < 0 || (s64)args[2] < 0 || args[1] + args[2] > MOST_OFFSET)
		return -EINVAL;
	return S_ISREG(mode) || S_ISBLK(mode) || S_ISDIR(mode) ? 0 : -ESPIPE;
}

s64 sys_fadvise64(struct task *t, const u64 *args)
{
	struct file *file = fd_real(t, args[0]);

	if (!file)
		return -EBADF;
	if (S_ISFIFO(file->inode->mode))
		return -ESPIPE;
	return (s64)args[2] < 0 || (u32)args[3] > 5 ? -EINVAL : 0;
}

s64 sys_readahead(struct task *t, const u64 *args)
{
	struct file *file = fd_real(t, args[0]);

	if (!file || !file->readable)
		return -EBADF;
	return S_ISREG(file->inode->mode) && (s64)args[2] >= 0 ? 0 : -EINVAL;
}

/* -- memfd -- */

s64 sys_memfd_create(struct task *t, const u64 *args)
{
	enum { CLOEXEC = 1, ALLOW_SEALING = 2, NOEXEC_SEAL = 8, EXEC = 16, NAME_MOST = 249 };
	u32 flags = (u32)args[1];
	struct inode *inode;
	struct file *file;
	struct path path;
	char name[NAME_MOST + 1];
	s64 size;

	if (flags & ~(u32)(CLOEXEC | ALLOW_SEALING | NOEXEC_SEAL | EXEC) || (flags & NOEXEC_SEAL && flags & EXEC))
		return -EINVAL;
	size = user_string(t->mm, name, args[0], sizeof(name));
	if (size < 0)
		return size == -EFAULT ? -EFAULT : -EINVAL;
	inode = tmpfs_file(flags & NOEXEC_SEAL ? 0666 : 0777);
	if (!inode)
		return -ENOMEM;
	inode->may_seal = true;
	inode->seals = flags & NOEXEC_SEAL ? F_SEAL_EXEC : flags & ALLOW_SEALING ? 0 : F_SEAL_SEAL;
	size = anonymous_from(inode, "/memfd:", &path);
	if (size)
		return size;
	size = dentry_rename(path.dentry, name);
	if (!size)
		size = file_open(&path, O_RDWR | O_LARGEFILE, &file);
	if (!size)
		file_count_writer(file, -1); /* Linux starts it as a program nevertheless */
	path_put(&path);
	return size ? size : fd_install(t, file, 0, flags & CLOEXEC);
}
