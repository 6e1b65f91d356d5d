// SPDX-License-Identifier: Apache-2.0
/* System calls for extended attributes. */
#include "calls.h"

/* Copy a name: 0 or -errno. */
static s64 get_name(struct task *t, char *name, u64 from)
{
	s64 size = user_string(t->mm, name, from, XATTR_NAME_MAX + 1);

	if (size == -EFAULT)
		return -EFAULT;
	return size <= 0 ? -ERANGE : 0;
}

static bool starts_with(const char *text, const char *start)
{
	while (*start && *text == *start)
		text++, start++;
	return !*start;
}

/* Whether the caller may use a name on a file. */
static s64 check_name(const struct inode *inode, const char *name, bool write)
{
	const char *rest = name;

	while (*rest && *rest != '.')
		rest++;
	if (starts_with(name, "user.")) {
		if (!S_ISREG(inode->mode) && !S_ISDIR(inode->mode))
			return write ? -EPERM : -ENODATA;
		if (write && S_ISDIR(inode->mode) && inode->mode & S_ISVTX && !inode_owned(inode))
			return -EPERM;
	} else if (starts_with(name, "trusted.")) {
		if (!caller_capable(CAP_SYS_ADMIN))
			return write ? -EPERM : -ENODATA;
	} else if (starts_with(name, "security.")) {
		return write && !caller_capable(CAP_SYS_ADMIN) ? -EPERM : 0;
	} else {
		return -EOPNOTSUPP;
	}
	if (!rest[1])
		return -EINVAL;
	return starts_with(name, "user.") ? inode_permission((struct inode *)inode, write ? MAY_WRITE : MAY_READ) : 0;
}

struct request {
	char name[XATTR_NAME_MAX + 1];
	u64 value, size;
	u32 flags;
};

static s64 set(struct task *t, const struct path *path, const struct request *r)
{
	struct inode *inode = path->dentry->inode;
	s64 error = mount_writable(path->mount);
	void *value;

	if (error)
		return error;
	value = kmalloc(r->size ? r->size : 1);
	if (!value)
		return -ENOMEM;
	error = user_read(t->mm, value, r->value, r->size) ? -EFAULT : check_name(inode, r->name, true);
	if (!error && !(inode->operations && inode->operations->setxattr))
		error = -EOPNOTSUPP;
	if (!error) {
		inode_lock(inode);
		error = inode->operations->setxattr(inode, r->name, value, r->size, r->flags);
		inode_unlock(inode);
	}
	kfree(value);
	if (!error)
		notify_attributes(path->dentry, 0);
	return error;
}

static s64 get(struct task *t, const struct path *path, const struct request *r)
{
	struct inode *inode = path->dentry->inode;
	u64 room = r->size < XATTR_SIZE_MAX ? r->size : XATTR_SIZE_MAX;
	s64 size = check_name(inode, r->name, false);
	void *value;

	if (!size && !(inode->operations && inode->operations->getxattr))
		size = -EOPNOTSUPP;
	if (size)
		return size;
	value = kmalloc(room ? room : 1);
	if (!value)
		return -ENOMEM;
	size = inode->operations->getxattr(inode, r->name, value, room);
	if (size > 0 && room && user_write(t->mm, r->value, value, (u64)size))
		size = -EFAULT;
	kfree(value);
	return size;
}

static s64 list(struct task *t, const struct path *path, const struct request *r)
{
	struct inode *inode = path->dentry->inode;
	u64 room = r->size < XATTR_SIZE_MAX ? r->size : XATTR_SIZE_MAX;
	char *names;
	s64 size;

	if (!(inode->operations && inode->operations->listxattr))
		return 0;
	names = kmalloc(room ? room : 1);
	if (!names)
		return -ENOMEM;
	size = inode->operations->listxattr(inode, names, room);
	if (size > 0 && room && user_write(t->mm, r->value, names, (u64)size))
		size = -EFAULT;
	kfree(names);
	return size;
}

static s64 remove(struct task *t, const struct path *path, const struct request *r)
{
	struct inode *inode = path->dentry->inode;
	s64 error = mount_writable(path->mount);

	(void)t;
	if (!error)
		error = check_name(inode, r->name, true);
	if (!error && !(inode->operations && inode->operations->removexattr))
		error = -EOPNOTSUPP;
	if (error)
		return error;
	inode_lock(inode);
	error = inode->operations->removexattr(inode, r->name);
	inode_unlock(inode);
	if (!error)
		notify_attributes(path->dentry, 0);
	return error;
}

typedef s64 (*operation)(struct task *t, const struct path *path, const struct request *r);

/* The name of an attribute, unless there is none in the call, and the operation on it. */
static s64 on_path(struct task *t, const struct path *path, const u64 *args, bool named, operation do_it)
{
	struct request r;
	s64 error;

	r.value = args[named ? 2 : 1];
	r.size = args[named ? 3 : 2];
	r.flags = (u32)args[4];
	if (do_it == set && r.flags & ~(u32)(XATTR_CREATE | XATTR_REPLACE))
		return -EINVAL;
	error = named ? get_name(t, r.name, args[1]) : 0;
	if (error)
		return error;
	if (do_it == set && r.size > XATTR_SIZE_MAX)
		return -E2BIG;
	return do_it(t, path, &r);
}

static s64 by_name(struct task *t, const u64 *args, u32 walk, bool named, operation do_it)
{
	struct path path;
	s64 result = path_user(t, (u64)AT_FDCWD, args[0], walk, &path);

	if (result)
		return result;
	result = on_path(t, &path, args, named, do_it);
	path_put(&path);
	return result;
}

static s64 by_fd(struct task *t, const u64 *args, bool named, operation do_it)
{
	struct file *file = fd_real(t, args[0]);

	return file ? on_path(t, &file->path, args, named, do_it) : -EBADF;
}

s64 sys_setxattr(struct task *t, const u64 *args)
{
	return by_name(t, args, WALK_FOLLOW, true, set);
}

s64 sys_lsetxattr(struct task *t, const u64 *args)
{
	return by_name(t, args, 0, true, set);
}

s64 sys_fsetxattr(struct task *t, const u64 *args)
{
	return by_fd(t, args, true, set);
}

s64 sys_getxattr(struct task *t, const u64 *args)
{
	return by_name(t, args, WALK_FOLLOW, true, get);
}

s64 sys_lgetxattr(struct task *t, const u64 *args)
{
	return by_name(t, args, 0, true, get);
}

s64 sys_fgetxattr(struct task *t, const u64 *args)
{
	return by_fd(t, args, true, get);
}

s64 sys_listxattr(struct task *t, const u64 *args)
{
	return by_name(t, args, WALK_FOLLOW, false, list);
}

s64 sys_llistxattr(struct task *t, const u64 *args)
{
	return by_name(t, args, 0, false, list);
}

s64 sys_flistxattr(struct task *t, const u64 *args)
{
	return by_fd(t, args, false, list);
}

s64 sys_removexattr(struct task *t, const u64 *args)
{
	return by_name(t, args, WALK_FOLLOW, true, remove);
}

s64 sys_lremovexattr(struct task *t, const u64 *args)
{
	return by_name(t, args, 0, true, remove);
}

s64 sys_fremovexattr(struct task *t, const u64 *args)
{
	return by_fd(t, args, true, remove);
}
