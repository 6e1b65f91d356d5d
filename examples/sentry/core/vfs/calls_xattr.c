// SPDX-License-Identifier: Apache-2.0
/* System calls for extended attributes. */
#include "../id_map.h"
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
static s64 check_name(struct inode *inode, const char *name, bool write)
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
		if (!capable_outside(CAP_SYS_ADMIN))
			return write ? -EPERM : -ENODATA;
	} else if (starts_with(name, "security.")) {
		return write && !caller_capable(CAP_SYS_ADMIN) ? -EPERM : 0;
	} else {
		s64 error = starts_with(name, "system.") ? 0 : inode_permission(inode, write ? MAY_WRITE : MAY_READ);

		return error ? error : -EOPNOTSUPP;
	}
	if (!rest[1])
		return -EINVAL;
	return starts_with(name, "user.") ? inode_permission(inode, write ? MAY_WRITE : MAY_READ) : 0;
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
	if (!error && !inode->operations->setxattr)
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

/* Remove the names that only the superuser may see: the size of the others. */
static u64 without_trusted(char *names, u64 size)
{
	u64 kept = 0;

	for (u64 at = 0, length; at < size; at += length) {
		length = string_size(names + at) + 1;
		if (starts_with(names + at, "trusted."))
			continue;
		for (u64 i = 0; i < length; i++)
			names[kept + i] = names[at + i];
		kept += length;
	}
	return kept;
}

/* Pass the value of an attribute, or all names, to the program; a size of 0 requests the size only. */
static s64 fetch(struct task *t, struct inode *inode, const struct request *r, bool names)
{
	const struct inode_operations *operations = inode->operations;
	bool hides = names && !capable_outside(CAP_SYS_ADMIN);
	u64 room = r->size < XATTR_SIZE_MAX ? r->size : XATTR_SIZE_MAX;
	u64 most = hides ? XATTR_SIZE_MAX : room; /* names that are hidden need no room of the program's */
	void *data = kmalloc(most ? most : 1);
	s64 size;

	if (!data)
		return -ENOMEM;
	size = names ? operations->listxattr(inode, data, most) : operations->getxattr(inode, r->name, data, most);
	if (size > 0 && hides)
		size = (s64)without_trusted(data, (u64)size);
	if (size > 0 && room && (u64)size > room)
		size = -ERANGE;
	if (size > 0 && room && user_write(t->mm, r->value, data, (u64)size))
		size = -EFAULT;
	kfree(data);
	return size;
}

static s64 get(struct task *t, const struct path *path, const struct request *r)
{
	struct inode *inode = path->dentry->inode;
	s64 error = check_name(inode, r->name, false);

	if (error)
		return error;
	return inode->operations->getxattr ? fetch(t, inode, r, false) : -EOPNOTSUPP;
}

static s64 list(struct task *t, const struct path *path, const struct request *r)
{
	struct inode *inode = path->dentry->inode;

	return inode->operations->listxattr ? fetch(t, inode, r, true) : 0;
}

static s64 remove(struct task *t, const struct path *path, const struct request *r)
{
	struct inode *inode = path->dentry->inode;
	s64 error = mount_writable(path->mount);

	(void)t;
	if (!error)
		error = check_name(inode, r->name, true);
	if (!error && !inode->operations->removexattr)
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

/* Read the arguments behind the file, of which list has no name, and do the operation. */
static s64 on_path(struct task *t, const struct path *path, const u64 *args, operation do_it)
{
	bool named = do_it != list;
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

static s64 by_name(struct task *t, const u64 *args, u32 walk, operation do_it)
{
	struct path path;
	s64 result = path_user(t, (u64)AT_FDCWD, args[0], walk, &path);

	if (result)
		return result;
	result = on_path(t, &path, args, do_it);
	path_put(&path);
	return result;
}

static s64 by_fd(struct task *t, const u64 *args, operation do_it)
{
	struct file *file = fd_real(t, args[0]);

	return file ? on_path(t, &file->path, args, do_it) : -EBADF;
}

s64 sys_setxattr(struct task *t, const u64 *args)
{
	return by_name(t, args, WALK_FOLLOW, set);
}

s64 sys_lsetxattr(struct task *t, const u64 *args)
{
	return by_name(t, args, 0, set);
}

s64 sys_fsetxattr(struct task *t, const u64 *args)
{
	return by_fd(t, args, set);
}

s64 sys_getxattr(struct task *t, const u64 *args)
{
	return by_name(t, args, WALK_FOLLOW, get);
}

s64 sys_lgetxattr(struct task *t, const u64 *args)
{
	return by_name(t, args, 0, get);
}

s64 sys_fgetxattr(struct task *t, const u64 *args)
{
	return by_fd(t, args, get);
}

s64 sys_listxattr(struct task *t, const u64 *args)
{
	return by_name(t, args, WALK_FOLLOW, list);
}

s64 sys_llistxattr(struct task *t, const u64 *args)
{
	return by_name(t, args, 0, list);
}

s64 sys_flistxattr(struct task *t, const u64 *args)
{
	return by_fd(t, args, list);
}

s64 sys_removexattr(struct task *t, const u64 *args)
{
	return by_name(t, args, WALK_FOLLOW, remove);
}

s64 sys_lremovexattr(struct task *t, const u64 *args)
{
	return by_name(t, args, 0, remove);
}

s64 sys_fremovexattr(struct task *t, const u64 *args)
{
	return by_fd(t, args, remove);
}
