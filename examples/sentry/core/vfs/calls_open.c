// SPDX-License-Identifier: Apache-2.0
/* System calls that open files. */
#include "calls.h"

struct how {
	u64 flags, mode, resolve;
};

enum {
	O_KNOWN = O_ACCMODE | O_CREAT | O_EXCL | O_NOCTTY | O_TRUNC | O_APPEND | O_NONBLOCK | O_SYNC | FASYNC | O_DIRECT |
		  O_LARGEFILE | O_DIRECTORY | O_NOFOLLOW | O_NOATIME | O_CLOEXEC | O_PATH | O_TMPFILE,
	O_PATH_FLAGS = O_DIRECTORY | O_NOFOLLOW | O_PATH | O_CLOEXEC,
};

/* The rights that an open needs: MAY_*. */
static u32 wanted(u32 flags)
{
	static const u8 by_mode[] = { MAY_READ, MAY_WRITE, MAY_READ | MAY_WRITE, MAY_READ | MAY_WRITE };

	return by_mode[flags & O_ACCMODE] | (flags & O_TRUNC ? MAY_WRITE : 0);
}

static int may_open_kind(const struct path *path, u32 flags)
{
	u32 mode = path->dentry->inode->mode;

	if (S_ISLNK(mode))
		return -ELOOP;
	if (S_ISDIR(mode) && (wanted(flags) & MAY_WRITE || flags & O_CREAT))
		return -EISDIR;
	if ((S_ISCHR(mode) || S_ISBLK(mode)) && path->mount->flags & MS_NODEV)
		return -EACCES;
	return 0;
}

static int may_open(const struct path *path, u32 flags, bool created)
{
	struct inode *inode = path->dentry->inode;
	int error;

	if (flags & O_PATH)
		return 0;
	error = may_open_kind(path, flags);
	if (error)
		return error;
	if (wanted(flags) & MAY_WRITE && !created && (S_ISREG(inode->mode) || S_ISDIR(inode->mode)))
		error = mount_writable(path->mount);
	if (!error && !created)
		error = inode_permission(inode, wanted(flags));
	if (!error && flags & O_NOATIME && !inode_owned(inode))
		error = -EPERM;
	if (!error && flags & O_DIRECT && !S_ISREG(inode->mode))
		error = -EINVAL;
	return error;
}

static int truncate_opened(struct file *file)
{
	struct attributes new = { .which = ATTR_SIZE | ATTR_MODIFIED, .modified = time_real(), .file = file };

	if (file->inode->seals & F_SEAL_SHRINK && file->inode->size)
		return -EPERM;
	if (!caller_capable(CAP_FSETID))
		inode_strip(file->inode, &new);
	return inode_change(file->inode, &new);
}

static int open_path(const struct path *path, u32 flags, bool created, struct file **file)
{
	int error = may_open(path, flags, created);
	bool truncate;

	if (error)
		return error;
	if (flags & O_DIRECTORY && !S_ISDIR(path->dentry->inode->mode))
		return -ENOTDIR;
	error = file_open(path, flags, file);
	if (error)
		return error;
	truncate = flags & O_TRUNC && !created && S_ISREG(path->dentry->inode->mode);
	if (truncate)
		error = path->dentry->inode->programs ? -ETXTBSY : truncate_opened(*file);
	if (error) {
		file_put(*file);
		return error;
	}
	file_notify(*file, IN_OPEN);
	if (truncate)
		file_notify(*file, IN_MODIFY);
	return 0;
}

/* Make the last name of a walk as a regular file. */
static int create(struct walk *w, struct dentry *dentry, u32 mode)
{
	struct inode *directory = w->at.dentry->inode;
	int error = may_create(&w->at);

	if (error)
		return error;
	if (!directory->operations->create)
		return -EACCES;
	error = directory->operations->create(directory, dentry, S_IFREG | mode, 0);
	if (!error)
		notify_name(w->at.dentry, dentry, IN_CREATE);
	return error;
}

/* One look at the last name, with its directory locked; -EAGAIN: it was a link, and the walk goes on. */
static int open_last(struct walk *w, const struct how *how, u32 mode, bool *created)
{
	struct inode *directory = w->at.dentry->inode;
	struct dentry *dentry = NULL;
	int error;

	inode_lock(directory);
	if (how->flags & O_EXCL)
		error = walk_place(w, &dentry);
	else
		error = dentry_lookup(w->at.dentry, w->last, w->last_size, &dentry);
	if (!error && !dentry->inode) {
		error = create(w, dentry, mode);
		*created = !error;
	} else if (!error && how->flags & O_EXCL) {
		error = -EEXIST;
	}
	inode_unlock(directory);
	if (error) {
		dentry_put(dentry);
		return error;
	}
	if (S_ISLNK(dentry->inode->mode) && !(how->flags & O_NOFOLLOW)) {
		error = walk_follow(w, dentry);
		dentry_put(dentry);
		return error ? error : -EAGAIN;
	}
	mount_get(w->at.mount);
	path_replace(&w->at, (struct path){ w->at.mount, dentry });
	path_enter_mounts(&w->at);
	return 0;
}

static int open_or_create(struct walk *w, const struct how *how, u32 mode, bool *created)
{
	int error;

	do {
		if (w->kind == LAST_ROOT && w->links)
			return 0;
		if (w->kind != LAST_NAME)
			return how->flags & O_EXCL ? -EEXIST : -EISDIR;
		if (w->slash)
			return -EISDIR;
		error = inode_permission(w->at.dentry->inode, MAY_EXEC);
		if (!error && !S_ISDIR(w->at.dentry->inode->mode))
			error = -ENOTDIR;
		if (!error)
			error = open_last(w, how, mode, created);
	} while (error == -EAGAIN);
	return error;
}

static int open_tmpfile(struct walk *w, u32 flags, u32 mode, struct file **file)
{
	struct inode *directory = w->at.dentry->inode, *inode;
	struct dentry *dentry;
	int error;

	if (!S_ISDIR(directory->mode))
		return -ENOTDIR;
	error = mount_writable(w->at.mount);
	if (!error)
		error = inode_permission(directory, MAY_WRITE | MAY_EXEC);
	if (!error && !directory->operations->tmpfile)
		error = -EOPNOTSUPP;
	if (!error)
		error = directory->operations->tmpfile(directory, mode, &inode);
	if (error)
		return error;
	dentry = dentry_new(w->at.dentry, "#", 1);
	if (!dentry) {
		inode_put(inode);
		return -ENOMEM;
	}
	dentry_attach(dentry, inode);
	inode->can_link = !(flags & O_EXCL);
	mount_get(w->at.mount);
	path_replace(&w->at, (struct path){ w->at.mount, dentry });
	error = open_path(&w->at, flags & ~(u32)O_TMPFILE, true, file);
	if (!error)
		(*file)->flags |= O_TMPFILE; /* F_GETFL shows it */
	return error;
}

/* Flags that make no sense; the rest is put in order. */
static int check_how(struct how *how)
{
	if (how->flags & ~(u64)O_KNOWN || how->mode & ~07777ull)
		return -EINVAL;
	if (how->resolve & ~(u64)RESOLVE_ALL || (how->resolve & RESOLVE_BENEATH && how->resolve & RESOLVE_IN_ROOT))
		return -EINVAL;
	if (how->flags & O_PATH && how->flags & ~(u64)O_PATH_FLAGS)
		return -EINVAL;
	if ((how->flags & O_TMPFILE) == O_TMPFILE) {
		if ((how->flags & O_ACCMODE) == O_RDONLY || how->flags & O_CREAT)
			return -EINVAL;
	} else if (how->flags & (O_TMPFILE & ~O_DIRECTORY)) {
		return -EINVAL;
	}
	if (how->flags & O_CREAT && how->flags & O_DIRECTORY)
		return -EINVAL;
	if (how->mode && !(how->flags & O_CREAT) && (how->flags & O_TMPFILE) != O_TMPFILE)
		return -EINVAL;
	return 0;
}

static int open_walk(struct walk *w, struct task *t, const u64 *args, const struct how *how, struct file **file)
{
	u32 flags = (u32)how->flags, mode = (u32)how->mode & ~caller_fs()->umask & 07777, walk = WALK_FD;
	bool created = false;
	int error;

	if (flags & O_CREAT)
		walk |= WALK_PARENT;
	if (!(flags & O_NOFOLLOW) && !(flags & O_CREAT && flags & O_EXCL))
		walk |= WALK_FOLLOW;
	if (flags & O_DIRECTORY && (flags & O_TMPFILE) != O_TMPFILE)
		walk |= WALK_DIRECTORY;
	error = walk_user(w, t, args[0], args[1], walk, (u32)how->resolve);
	if (error)
		return error == -ENOTDIR && flags & O_NOFOLLOW && !(flags & O_CREAT) ? -ENOTDIR : error;
	if ((flags & O_TMPFILE) == O_TMPFILE)
		return open_tmpfile(w, flags, mode, file);
	if (flags & O_CREAT)
		error = open_or_create(w, how, mode, &created);
	return error ? error : open_path(&w->at, flags, created, file);
}

static s64 open_how(struct task *t, const u64 *args, struct how *how)
{
	struct walk w = { .flags = 0 };
	struct file *file = NULL;
	int error = check_how(how);

	if (error)
		return error;
	if (!(how->flags & O_PATH))
		how->flags |= O_LARGEFILE;
	error = open_walk(&w, t, args, how, &file);
	walk_end(&w);
	if (error)
		return error;
	return fd_install(t, file, 0, how->flags & O_CLOEXEC);
}

/* As open(), which ignores what it does not know. */
static s64 open_at(struct task *t, u64 directory, u64 name, u64 flags, u64 mode)
{
	const u64 args[] = { directory, name };
	struct how how = { .flags = flags & O_KNOWN, .mode = mode & 07777 };

	if (how.flags & O_PATH)
		how.flags &= O_PATH_FLAGS;
	if (!(how.flags & (O_CREAT | (O_TMPFILE & ~O_DIRECTORY))))
		how.mode = 0;
	return open_how(t, args, &how);
}

s64 sys_open(struct task *t, const u64 *args)
{
	return open_at(t, (u64)AT_FDCWD, args[0], (u32)args[1], (u32)args[2]);
}

s64 sys_openat(struct task *t, const u64 *args)
{
	return open_at(t, args[0], args[1], (u32)args[2], (u32)args[3]);
}

s64 sys_creat(struct task *t, const u64 *args)
{
	return open_at(t, (u64)AT_FDCWD, args[0], O_CREAT | O_WRONLY | O_TRUNC, (u32)args[1]);
}

s64 sys_openat2(struct task *t, const u64 *args)
{
	struct how how;
	u64 size = args[3];

	if (size < sizeof(how))
		return -EINVAL;
	if (size > PAGE)
		return -E2BIG;
	if (user_read(t->mm, &how, args[2], sizeof(how)))
		return -EFAULT;
	for (u64 at = sizeof(how); at < size; at++) {
		u8 byte;

		if (user_read(t->mm, &byte, args[2] + at, 1))
			return -EFAULT;
		if (byte)
			return -E2BIG;
	}
	return open_how(t, args, &how);
}
