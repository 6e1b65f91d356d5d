// SPDX-License-Identifier: Apache-2.0
/* System calls that change attributes. */
#include "../id_map.h"
#include "calls.h"

static s64 apply(const struct path *path, struct attributes *new)
{
	s64 error = mount_writable(path->mount);
	u32 which = new->which;

	if (error)
		return error;
	error = inode_change(path->dentry->inode, new);
	if (!error)
		notify_attributes(path->dentry, which);
	return error;
}

/* Find the file of a call that accepts AT_SYMLINK_NOFOLLOW and AT_EMPTY_PATH; -EINVAL for other flags. */
static int path_at(struct task *t, u64 directory, u64 name, u32 flags, struct path *path)
{
	if (flags & ~(u32)(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH))
		return -EINVAL;
	return path_user(t, directory, name, walk_flags(flags), path);
}

/* -- mode -- */

static s64 set_mode(const struct path *path, u32 mode)
{
	struct inode *inode = path->dentry->inode;
	struct attributes new = { .which = ATTR_MODE, .mode = mode & 07777 };
	s64 error = mount_writable(path->mount);

	if (error)
		return error;
	if (S_ISLNK(inode->mode))
		return -EOPNOTSUPP;
	if (!inode_owned(inode))
		return -EPERM;
	if (!caller_in_group(inode->group) && !capable_over(inode, CAP_FSETID))
		new.mode &= ~(u32)S_ISGID;
	if (inode->seals & F_SEAL_EXEC && (inode->mode ^ new.mode) & 0111)
		return -EPERM;
	return apply(path, &new);
}

static s64 mode_of_name(struct task *t, u64 directory, u64 name, u32 mode, u32 flags)
{
	struct path path;
	s64 error = path_at(t, directory, name, flags, &path);

	if (error)
		return error;
	error = set_mode(&path, mode);
	path_put(&path);
	return error;
}

s64 sys_chmod(struct task *t, const u64 *args)
{
	return mode_of_name(t, (u64)AT_FDCWD, args[0], (u32)args[1], 0);
}

s64 sys_fchmodat(struct task *t, const u64 *args)
{
	return mode_of_name(t, args[0], args[1], (u32)args[2], 0);
}

s64 sys_fchmodat2(struct task *t, const u64 *args)
{
	return mode_of_name(t, args[0], args[1], (u32)args[2], (u32)args[3]);
}

s64 sys_fchmod(struct task *t, const u64 *args)
{
	struct file *file = fd_real(t, args[0]);

	return file ? set_mode(&file->path, (u32)args[1]) : -EBADF;
}

/* -- owner -- */

static bool may_own(const struct inode *inode, const struct attributes *new)
{
	if (capable_over(inode, CAP_CHOWN))
		return true;
	if (new->which & ATTR_USER && (inode->user != caller_user() || new->user != inode->user))
		return false;
	return !(new->which & ATTR_GROUP) || (inode->user == caller_user() &&
					      (caller_in_group(new->group) || new->group == inode->group));
}

static s64 set_owner(const struct path *path, u32 user, u32 group)
{
	struct inode *inode = path->dentry->inode;
	struct attributes new = { .user = user, .group = group };
	s64 error = mount_writable(path->mount);

	if (error)
		return error;
	if ((user != NO_ID && !id_map_has(&id_maps.users, user)) || (group != NO_ID && !id_map_has(&id_maps.groups, group)))
		return -EINVAL;
	new.which = (user != ~0u ? ATTR_USER : 0) | (group != ~0u ? ATTR_GROUP : 0);
	if (!may_own(inode, &new))
		return -EPERM;
	inode_strip(inode, &new);
	return apply(path, &new);
}

static s64 owner_of_name(struct task *t, const u64 *args, u32 flags)
{
	struct path path;
	s64 error = path_at(t, args[0], args[1], flags, &path);

	if (error)
		return error;
	error = set_owner(&path, (u32)args[2], (u32)args[3]);
	path_put(&path);
	return error;
}

s64 sys_chown(struct task *t, const u64 *args)
{
	const u64 all[] = { (u64)AT_FDCWD, args[0], args[1], args[2] };

	return owner_of_name(t, all, 0);
}

s64 sys_lchown(struct task *t, const u64 *args)
{
	const u64 all[] = { (u64)AT_FDCWD, args[0], args[1], args[2] };

	return owner_of_name(t, all, AT_SYMLINK_NOFOLLOW);
}

s64 sys_fchownat(struct task *t, const u64 *args)
{
	return owner_of_name(t, args, (u32)args[4]);
}

s64 sys_fchown(struct task *t, const u64 *args)
{
	struct file *file = fd_real(t, args[0]);

	return file ? set_owner(&file->path, (u32)args[1], (u32)args[2]) : -EBADF;
}

/* -- times -- */

enum { UTIME_NOW = 0x3fffffff, UTIME_OMIT = 0x3ffffffe };

static bool time_is_valid(const struct timespec *time)
{
	return time->nanoseconds == UTIME_NOW || time->nanoseconds == UTIME_OMIT ||
	       (time->nanoseconds >= 0 && time->nanoseconds < 1000000000);
}

/* Times as utimensat has them; NULL: both are now. */
static s64 set_times(const struct path *path, const struct timespec *times)
{
	struct inode *inode = path->dentry->inode;
	struct attributes new = { .which = ATTR_ACCESSED | ATTR_MODIFIED };
	bool now = !times || (times[0].nanoseconds == UTIME_NOW && times[1].nanoseconds == UTIME_NOW);
	s64 error = mount_writable(path->mount);

	new.accessed = new.modified = time_real();
	if (error)
		return error;
	for (u32 i = 0; times && i < 2; i++) {
		if (times[i].nanoseconds == UTIME_OMIT)
			new.which &= ~(u32)(i ? ATTR_MODIFIED : ATTR_ACCESSED);
		else if (times[i].nanoseconds != UTIME_NOW)
			*(i ? &new.modified : &new.accessed) = times[i];
	}
	if (!now && !inode_owned(inode))
		return -EPERM;
	if (now && !inode_owned(inode)) {
		error = inode_permission(inode, MAY_WRITE);
		if (error)
			return error;
	}
	return apply(path, &new);
}

static s64 set_valid_times(const struct path *path, const struct timespec *times)
{
	if (times && (!time_is_valid(&times[0]) || !time_is_valid(&times[1])))
		return -EINVAL;
	return set_times(path, times);
}

/* With a descriptor and no name: the file itself. */
static s64 times_of(struct task *t, u64 directory, u64 name, const struct timespec *times, u32 flags)
{
	struct path path;
	s64 error;

	if (times && times[0].nanoseconds == UTIME_OMIT && times[1].nanoseconds == UTIME_OMIT)
		return 0;
	if (!name && (s32)directory != AT_FDCWD) {
		struct file *file = fd_real(t, directory);

		if (flags)
			return -EINVAL;
		return file ? set_valid_times(&file->path, times) : -EBADF;
	}
	error = path_at(t, directory, name, flags, &path);
	if (error)
		return error;
	error = set_valid_times(&path, times);
	path_put(&path);
	return error;
}

s64 sys_utimensat(struct task *t, const u64 *args)
{
	struct timespec times[2];

	if (args[2] && user_read(t->mm, times, args[2], sizeof(times)))
		return -EFAULT;
	return times_of(t, args[0], args[1], args[2] ? times : NULL, (u32)args[3]);
}

/* Seconds and microseconds. */
static s64 times_of_day(struct task *t, u64 directory, u64 name, u64 from)
{
	struct timespec times[2];

	if (!from)
		return times_of(t, directory, name, NULL, 0);
	if (user_read(t->mm, times, from, sizeof(times)))
		return -EFAULT;
	for (u32 i = 0; i < 2; i++) {
		if (times[i].nanoseconds < 0 || times[i].nanoseconds >= 1000000)
			return -EINVAL;
		times[i].nanoseconds *= 1000;
	}
	return times_of(t, directory, name, times, 0);
}

s64 sys_utimes(struct task *t, const u64 *args)
{
	return times_of_day(t, (u64)AT_FDCWD, args[0], args[1]);
}

s64 sys_futimesat(struct task *t, const u64 *args)
{
	return times_of_day(t, args[0], args[1], args[2]);
}

s64 sys_utime(struct task *t, const u64 *args)
{
	struct timespec times[2] = { { 0, 0 } };
	s64 seconds[2];

	if (!args[1])
		return times_of(t, (u64)AT_FDCWD, args[0], NULL, 0);
	if (user_read(t->mm, seconds, args[1], sizeof(seconds)))
		return -EFAULT;
	times[0].seconds = seconds[0];
	times[1].seconds = seconds[1];
	return times_of(t, (u64)AT_FDCWD, args[0], times, 0);
}

/* -- size -- */

s64 inode_may_grow(const struct inode *inode, u64 size)
{
	if (size <= inode->size || size <= core.current->process->limits[RLIMIT_FSIZE].current)
		return 0;
	signal_raise(core.current, SIGXFSZ);
	return -EFBIG;
}

static s64 set_size(const struct path *path, u64 size, struct file *file)
{
	struct inode *inode = path->dentry->inode;
	struct attributes new = { .which = ATTR_SIZE | ATTR_MODIFIED, .size = size, .file = file };
	s64 error = inode_may_grow(inode, size);

	if (error)
		return error;
	if ((size < inode->size && inode->seals & F_SEAL_SHRINK) || (size > inode->size && inode->seals & F_SEAL_GROW))
		return -EPERM;
	new.modified = time_real();
	if (!caller_capable(CAP_FSETID))
		inode_strip(inode, &new);
	return apply(path, &new);
}

s64 sys_truncate(struct task *t, const u64 *args)
{
	struct inode *inode;
	struct path path;
	s64 error;

	if ((s64)args[1] < 0)
		return -EINVAL;
	error = path_user(t, (u64)AT_FDCWD, args[0], WALK_FOLLOW, &path);
	if (error)
		return error;
	inode = path.dentry->inode;
	if (S_ISDIR(inode->mode))
		error = -EISDIR;
	else if (!S_ISREG(inode->mode))
		error = -EINVAL;
	if (!error)
		error = mount_writable(path.mount);
	if (!error)
		error = inode_permission(inode, MAY_WRITE);
	if (!error && inode->programs)
		error = -ETXTBSY;
	if (!error)
		error = set_size(&path, args[1], NULL);
	path_put(&path);
	return error;
}

s64 sys_ftruncate(struct task *t, const u64 *args)
{
	struct file *file = fd_real(t, args[0]);

	if ((s64)args[1] < 0)
		return -EINVAL;
	if (!file)
		return -EBADF;
	if (!S_ISREG(file->inode->mode) || !file->writable)
		return -EINVAL;
	return set_size(&file->path, args[1], file);
}

enum { KEEP_SIZE = 1 };

static bool is_fallocate_mode(u32 mode)
{
	enum { PUNCH_HOLE = 2, COLLAPSE = 8, ZERO = 0x10, INSERT = 0x20, UNSHARE = 0x40 };

	switch (mode & ~(u32)KEEP_SIZE) {
	case 0: case ZERO: case UNSHARE: return true;
	case PUNCH_HOLE: return mode & KEEP_SIZE;
	case COLLAPSE: case INSERT: return !(mode & KEEP_SIZE);
	}
	return false;
}

s64 sys_fallocate(struct task *t, const u64 *args)
{
	struct file *file = fd_real(t, args[0]);
	u32 mode = (u32)args[1];
	s64 error;

	if (!file)
		return -EBADF;
	if ((s64)args[2] < 0 || (s64)args[3] <= 0)
		return -EINVAL;
	if (!is_fallocate_mode(mode))
		return -EOPNOTSUPP;
	if (!file->writable)
		return -EBADF;
	if (S_ISFIFO(file->inode->mode))
		return -ESPIPE;
	if (S_ISDIR(file->inode->mode))
		return -EISDIR;
	if (!S_ISREG(file->inode->mode))
		return -ENODEV;
	if (args[2] + args[3] > MOST_OFFSET)
		return -EFBIG;
	if (!file->operations->fallocate)
		return -EOPNOTSUPP;
	error = file->operations->fallocate(file, mode, args[2], args[3]);
	if (!error && mode & ~(u32)KEEP_SIZE)
		mm_replace(file->inode);
	return error;
}
