// SPDX-License-Identifier: Apache-2.0
/* System calls for descriptors. */
#include "async.h"
#include "calls.h"
#include "pipe.h"

s64 sys_close(struct task *t, const u64 *args)
{
	struct file *file = fd_file(t, args[0]);

	return file ? file_close(t->files, fd_clear(t->files, (u32)args[0])) : -EBADF;
}

s64 sys_close_range(struct task *t, const u64 *args)
{
	enum { UNSHARE = 2, CLOEXEC = 4 };
	u32 first = (u32)args[0], last = (u32)args[1], flags = (u32)args[2];

	if (flags & ~(u32)(UNSHARE | CLOEXEC) || first > last)
		return -EINVAL;
	if (flags & UNSHARE && t->files->references > 1) {
		struct files *files = files_copy(t->files);

		if (!files)
			return -ENOMEM;
		files_put(t->files);
		t->files = files;
	}
	for (u64 i = first; i <= last && i < FDS_MOST; i++) {
		struct fd *fd = fd_at(t->files, (u32)i);

		if (!fd) {
			i |= FDS_PER_PAGE - 1;
			continue;
		}
		if (!fd->file)
			continue;
		if (flags & CLOEXEC)
			fd->close_on_exec = true;
		else
			file_close(t->files, fd_clear(t->files, (u32)i));
	}
	return 0;
}

static s64 duplicate(struct task *t, struct file *file, u32 from, bool close_on_exec)
{
	file_get(file);
	return fd_install(t, file, from, close_on_exec);
}

s64 sys_dup(struct task *t, const u64 *args)
{
	struct file *file = fd_file(t, args[0]);

	return file ? duplicate(t, file, 0, false) : -EBADF;
}

static s64 dup_to(struct task *t, struct file *file, u32 number, bool close_on_exec)
{
	s64 error;

	if (number >= fd_limit(t) || !file)
		return -EBADF;
	error = fd_replace(t, file, number, close_on_exec);
	return error ? error : number;
}

s64 sys_dup2(struct task *t, const u64 *args)
{
	struct file *file = fd_file(t, args[0]);

	if ((u32)args[0] == (u32)args[1])
		return file ? (s64)(u32)args[1] : -EBADF;
	return dup_to(t, file, (u32)args[1], false);
}

s64 sys_dup3(struct task *t, const u64 *args)
{
	if ((u32)args[2] & ~(u32)O_CLOEXEC || (u32)args[0] == (u32)args[1])
		return -EINVAL;
	return dup_to(t, fd_file(t, args[0]), (u32)args[1], (u32)args[2] != 0);
}

enum fcntl {
	F_DUPFD = 0, F_GETFD = 1, F_SETFD = 2, F_GETFL = 3, F_SETFL = 4, F_GETLK = 5, F_SETLK = 6, F_SETLKW = 7, F_SETOWN = 8,
	F_GETOWN = 9, F_SETSIG = 10, F_GETSIG = 11, F_SETOWN_EX = 15, F_GETOWN_EX = 16, F_OFD_GETLK = 36, F_OFD_SETLK = 37, F_OFD_SETLKW = 38,
	F_DUPFD_CLOEXEC = 1030, F_SETPIPE_SZ = 1031, F_GETPIPE_SZ = 1032, F_ADD_SEALS = 1033, F_GET_SEALS = 1034,
};

static s64 set_flags(struct file *file, u32 fd, u32 flags)
{
	const u32 settable = O_APPEND | O_NONBLOCK | O_DIRECT | O_NOATIME;

	if (flags & O_NOATIME && !(file->flags & O_NOATIME) && !inode_owned(file->inode))
		return -EPERM;
	if (flags & O_DIRECT && (file->fixed || !(S_ISREG(file->inode->mode) || S_ISFIFO(file->inode->mode))))
		return -EINVAL;
	if (file->operations->async) {
		s64 error = async_set(file, fd, flags & FASYNC);

		if (error)
			return error;
	}
	file->flags = (file->flags & ~settable) | (flags & settable);
	return 0;
}

static s64 add_seals(struct file *file, u32 seals)
{
	struct inode *inode = file->inode;

	if (!file->writable)
		return -EPERM;
	if (!inode->may_seal || seals & ~63u)
		return -EINVAL;
	if (inode->seals & F_SEAL_SEAL)
		return -EPERM;
	if (seals & F_SEAL_WRITE && !(inode->seals & F_SEAL_WRITE) && mm_may_write(inode))
		return -EBUSY;
	if (seals & F_SEAL_EXEC && inode->mode & 0111)
		seals |= F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_FUTURE_WRITE;
	inode->seals |= seals;
	return 0;
}

/* What a descriptor of a path only does not have. */
static s64 fcntl_file(struct file *file, u32 fd, u32 command, u64 argument)
{
	switch (command) {
	case F_SETFL: return set_flags(file, fd, (u32)argument);
	case F_SETOWN: return owner_set(file, (s32)argument);
	case F_GETOWN: return owner_get(file);
	case F_SETOWN_EX: return owner_set_ex(file, argument);
	case F_GETOWN_EX: return owner_get_ex(file, argument);
	case F_SETSIG:
		if (argument > SIGNALS)
			return -EINVAL;
		file->signal = (s32)argument;
		return 0;
	case F_GETSIG: return file->signal;
	case F_GETPIPE_SZ: return file_pipe(file) ? (s64)file_pipe(file)->size * PAGE : -EBADF;
	case F_SETPIPE_SZ: return file_pipe(file) ? pipe_resize(file_pipe(file), (u32)argument) : -EBADF;
	case F_GET_SEALS: return file->inode->may_seal ? (s64)file->inode->seals : -EINVAL;
	case F_ADD_SEALS: return add_seals(file, (u32)argument);
	case F_GETLK:
	case F_OFD_GETLK: return lock_test(file, argument, command == F_OFD_GETLK);
	case F_SETLK:
	case F_SETLKW:
	case F_OFD_SETLK:
	case F_OFD_SETLKW: return lock_set(file, argument, command >= F_OFD_SETLK, command == F_SETLKW || command == F_OFD_SETLKW);
	}
	return -EINVAL;
}

s64 sys_fcntl(struct task *t, const u64 *args)
{
	struct file *file = fd_file(t, args[0]);
	u32 command = (u32)args[1];

	if (!file)
		return -EBADF;
	switch (command) {
	case F_DUPFD:
	case F_DUPFD_CLOEXEC:
		return args[2] < fd_limit(t) ? duplicate(t, file, (u32)args[2], command == F_DUPFD_CLOEXEC) : -EINVAL;
	case F_GETFD:
		return fd_at(t->files, (u32)args[0])->close_on_exec;
	case F_SETFD:
		fd_at(t->files, (u32)args[0])->close_on_exec = args[2] & 1;
		return 0;
	case F_GETFL:
		return file->flags;
	}
	return file->flags & O_PATH ? -EBADF : fcntl_file(file, (u32)args[0], command, args[2]);
}

s64 sys_ioctl(struct task *t, const u64 *args)
{
	enum { FIONREAD = 0x541b, FIONBIO = 0x5421, FIOASYNC = 0x5452, FIOCLEX = 0x5451, FIONCLEX = 0x5450 };
	struct file *file = fd_file(t, args[0]);
	s32 value;

	if (!file || file->flags & O_PATH)
		return -EBADF;
	switch ((u32)args[1]) {
	case FIOCLEX:
	case FIONCLEX:
		fd_at(t->files, (u32)args[0])->close_on_exec = (u32)args[1] == FIOCLEX;
		return 0;
	case FIONBIO:
		if (user_read(t->mm, &value, args[2], sizeof(value)))
			return -EFAULT;
		file->flags = value ? file->flags | O_NONBLOCK : file->flags & ~(u32)O_NONBLOCK;
		return 0;
	case FIOASYNC:
		return user_read(t->mm, &value, args[2], sizeof(value)) ? -EFAULT : async_set(file, (u32)args[0], value);
	case FIONREAD:
		if (!S_ISREG(file->inode->mode))
			break;
		value = (s32)(file->inode->size - file->position);
		return user_write(t->mm, args[2], &value, sizeof(value));
	}
	return file->operations->ioctl ? file->operations->ioctl(file, (u32)args[1], args[2]) : -ENOTTY;
}
