// SPDX-License-Identifier: Apache-2.0
/* System calls that show attributes. */
#include "../id_map.h"
#include "calls.h"

static int put_stat(struct task *t, const struct path *path, u64 to)
{
	struct inode *inode = path->dentry->inode;
	int error = inode_refresh(inode);
	struct stat stat = {
		.device = inode->super->device, .inode = inode->number, .links = inode->links, .mode = inode->mode,
		.user = id_shown(inode->user), .group = id_shown(inode->group), .special = inode->device, .size = (s64)inode->size,
		.block_size = inode->block_size, .blocks = (s64)inode->blocks, .accessed = inode->accessed,
		.modified = inode->modified, .changed = inode->changed,
	};

	return error ? error : user_write(t->mm, to, &stat, sizeof(stat));
}

u32 walk_flags(u32 flags)
{
	return (flags & AT_SYMLINK_NOFOLLOW ? 0 : WALK_FOLLOW) | (flags & AT_EMPTY_PATH ? WALK_EMPTY : 0);
}

/* The file to show; with AT_EMPTY_PATH and a NULL name that of the descriptor, or the working directory. */
static int path_to_show(struct task *t, u64 directory, u64 name, u32 flags, struct path *path)
{
	struct file *file;

	if (flags & ~(u32)(AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH | AT_STATX_SYNC))
		return -EINVAL;
	if (!(flags & AT_EMPTY_PATH) || name)
		return path_user(t, directory, name, walk_flags(flags), path);
	file = (s32)directory == AT_FDCWD ? NULL : fd_file(t, directory);
	if ((s32)directory != AT_FDCWD && !file)
		return -EBADF;
	*path = file ? file->path : caller_fs()->cwd;
	path_get(path);
	return 0;
}

static s64 show_stat(struct task *t, u64 directory, u64 name, u64 to, u32 flags)
{
	struct path path;
	s64 error = path_to_show(t, directory, name, flags, &path);

	if (error)
		return error;
	error = put_stat(t, &path, to);
	path_put(&path);
	return error;
}

s64 sys_stat(struct task *t, const u64 *args)
{
	return show_stat(t, (u64)AT_FDCWD, args[0], args[1], 0);
}

s64 sys_lstat(struct task *t, const u64 *args)
{
	return show_stat(t, (u64)AT_FDCWD, args[0], args[1], AT_SYMLINK_NOFOLLOW);
}

s64 sys_fstat(struct task *t, const u64 *args)
{
	struct file *file = fd_file(t, args[0]);

	return file ? put_stat(t, &file->path, args[1]) : -EBADF;
}

s64 sys_newfstatat(struct task *t, const u64 *args)
{
	return show_stat(t, args[0], args[1], args[2], (u32)args[3]);
}

struct statx_time {
	s64 seconds;
	u32 nanoseconds;
	s32 reserved;
};

struct statx {
	u32 mask, block_size;
	u64 attributes;
	u32 links, user, group;
	u16 mode, pad;
	u64 inode, size, blocks, attributes_mask;
	struct statx_time accessed, born, changed, modified;
	u32 special_major, special_minor, device_major, device_minor;
	u64 mount;
	u32 direct_memory, direct_offset;
	u64 spare[12];
};

_Static_assert(sizeof(struct statx) == 256, "as the kernel has it");

static struct statx_time statx_time(struct timespec time)
{
	return (struct statx_time){ time.seconds, (u32)time.nanoseconds, 0 };
}

static u32 major(u64 device)
{
	return (u32)(device >> 8 & 0xfff);
}

static u32 minor(u64 device)
{
	return (u32)((device & 0xff) | (device >> 12 & 0xfff00));
}

static int put_statx(struct task *t, const struct path *path, u64 to)
{
	enum { BASIC = 0x7ff, BTIME = 0x800, MOUNT = 0x1000, MOUNT_ROOT = 0x2000 };
	struct inode *inode = path->dentry->inode;
	int error = inode_refresh(inode);
	struct statx stat = {
		.mask = BASIC | BTIME | MOUNT, .block_size = inode->block_size, .links = inode->links, .user = id_shown(inode->user),
		.group = id_shown(inode->group), .mode = (u16)inode->mode, .inode = inode->number, .size = inode->size,
		.blocks = inode->blocks, .attributes_mask = MOUNT_ROOT, .accessed = statx_time(inode->accessed),
		.born = statx_time(inode->born), .changed = statx_time(inode->changed),
		.modified = statx_time(inode->modified), .special_major = major(inode->device),
		.special_minor = minor(inode->device), .device_major = major(inode->super->device),
		.device_minor = minor(inode->super->device), .mount = path->mount->id,
	};

	if (path->dentry == path->mount->root)
		stat.attributes |= MOUNT_ROOT;
	return error ? error : user_write(t->mm, to, &stat, sizeof(stat));
}

s64 sys_statx(struct task *t, const u64 *args)
{
	u32 flags = (u32)args[2];
	struct path path;
	s64 error;

	if ((u32)args[3] & 0x80000000u || (flags & AT_STATX_SYNC) == AT_STATX_SYNC)
		return -EINVAL;
	error = path_to_show(t, args[0], args[1], flags, &path);
	if (error)
		return error;
	error = put_statx(t, &path, args[4]);
	path_put(&path);
	return error;
}

/* -- access -- */

static s64 check_access(struct task *t, u64 directory, u64 name, u32 mode, u32 flags)
{
	struct inode *inode;
	struct path path;
	s64 error;

	error = path_user(t, directory, name, walk_flags(flags), &path);
	if (error)
		return error;
	inode = path.dentry->inode;
	if (mode & MAY_EXEC && S_ISREG(inode->mode) && path.mount->flags & MS_NOEXEC)
		error = -EACCES;
	if (!error)
		error = inode_permission(inode, mode);
	if (!error && mode & MAY_WRITE && (S_ISREG(inode->mode) || S_ISDIR(inode->mode) || S_ISLNK(inode->mode)))
		error = mount_writable(path.mount);
	path_put(&path);
	return error;
}

static s64 access(struct task *t, u64 directory, u64 name, u32 mode, u32 flags)
{
	const struct cred saved = t->cred;
	s64 error;

	if (mode & ~7u || flags & ~(u32)(AT_EACCESS | AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH))
		return -EINVAL;
	if (!(flags & AT_EACCESS))
		cred_use_real(&t->cred);
	error = check_access(t, directory, name, mode, flags);
	t->cred = saved;
	return error;
}

s64 sys_access(struct task *t, const u64 *args)
{
	return access(t, (u64)AT_FDCWD, args[0], (u32)args[1], 0);
}

s64 sys_faccessat(struct task *t, const u64 *args)
{
	return access(t, args[0], args[1], (u32)args[2], 0);
}

s64 sys_faccessat2(struct task *t, const u64 *args)
{
	return access(t, args[0], args[1], (u32)args[2], (u32)args[3]);
}

/* -- links and file systems -- */

static s64 read_link(struct task *t, u64 directory, u64 name, u64 to, s32 size)
{
	struct inode *inode;
	struct path path;
	char *target, first;
	s64 used;

	if (size <= 0)
		return -EINVAL;
	used = path_user(t, directory, name, WALK_EMPTY, &path);
	if (used)
		return used;
	inode = path.dentry->inode;
	target = page_buffer();
	used = target ? user_read(t->mm, &first, name, 1) || first ? -EINVAL : -ENOENT : -ENOMEM;
	if (target && S_ISLNK(inode->mode) && inode->operations->readlink)
		used = inode->operations->readlink(inode, target, size < PAGE ? (u64)size : PAGE);
	if (used > 0 && user_write(t->mm, to, target, (u64)used))
		used = -EFAULT;
	page_free(target);
	path_put(&path);
	return used;
}

s64 sys_readlink(struct task *t, const u64 *args)
{
	return read_link(t, (u64)AT_FDCWD, args[0], args[1], (s32)args[2]);
}

s64 sys_readlinkat(struct task *t, const u64 *args)
{
	return read_link(t, args[0], args[1], args[2], (s32)args[3]);
}

static s64 put_statfs(struct task *t, const struct path *path, u64 to)
{
	enum { ST_RDONLY = 1, ST_NOSUID = 2, ST_NODEV = 4, ST_NOEXEC = 8, ST_VALID = 0x20, ST_RELATIME = 0x1000 };
	struct super *super = path->dentry->inode->super;
	struct statfs stat = {
		.type = (s64)super->magic, .block_size = PAGE, .name_max = NAME_MAX, .fragment_size = PAGE,
		.id = { (s32)super->device }, .flags = ST_VALID | ST_RELATIME | ((path->mount->flags | super->flags) & 15),
	};
	int error = super->operations->statfs ? super->operations->statfs(super, &stat) : 0;

	return error ? error : user_write(t->mm, to, &stat, sizeof(stat));
}

s64 sys_statfs(struct task *t, const u64 *args)
{
	struct path path;
	s64 error = path_user(t, (u64)AT_FDCWD, args[0], WALK_FOLLOW, &path);

	if (error)
		return error;
	error = put_statfs(t, &path, args[1]);
	path_put(&path);
	return error;
}

s64 sys_fstatfs(struct task *t, const u64 *args)
{
	struct file *file = fd_file(t, args[0]);

	return file ? put_statfs(t, &file->path, args[1]) : -EBADF;
}

/* -- entries of directories -- */

struct directory_entry {
	u64 inode;
	s64 offset;
	u16 size;
	u8 rest[]; /* getdents64: the type, the name; getdents: the name, and the type as the last byte */
};

enum { ENTRY_HEAD = 18, ENTRY_MOST = (ENTRY_HEAD + 1 + NAME_MAX + 1 + 7) & -8 };

static bool put_record(struct entries *entries, const char *name, u64 size, u64 inode, u32 type, u64 cookie, bool old)
{
	u64 whole = (ENTRY_HEAD + 1 + size + 1 + 7) & -8ull;
	u8 bytes[ENTRY_MOST] = { 0 };
	struct directory_entry *entry = (struct directory_entry *)bytes;

	if (whole > entries->size - entries->used) {
		entries->error = entries->used ? 0 : -EINVAL;
		return false;
	}
	entry->inode = inode;
	entry->offset = (s64)cookie;
	entry->size = (u16)whole;
	bytes_copy(entry->rest + !old, name, size);
	bytes[old ? whole - 1 : ENTRY_HEAD] = (u8)type;
	if (user_write(entries->task->mm, entries->to + entries->used, bytes, whole)) {
		entries->error = -EFAULT;
		return false;
	}
	entries->used += whole;
	return true;
}

static bool put_entry(struct entries *entries, const char *name, u64 size, u64 inode, u32 type, u64 cookie)
{
	return put_record(entries, name, size, inode, type, cookie, false);
}

static bool put_old_entry(struct entries *entries, const char *name, u64 size, u64 inode, u32 type, u64 cookie)
{
	return put_record(entries, name, size, inode, type, cookie, true);
}

static s64 read_directory(struct file *file, struct entries entries)
{
	int error = -ENOENT;

	if (!file)
		return -EBADF;
	if (!file->operations->readdir)
		return -ENOTDIR;
	inode_lock(file->inode);
	if (!file->inode->dead) {
		error = file->operations->readdir(file, &entries);
		file_accessed(file);
		file_notify(file, IN_ACCESS);
	}
	inode_unlock(file->inode);
	if (error && !entries.used)
		return error;
	return entries.used ? (s64)entries.used : entries.error;
}

s64 sys_getdents64(struct task *t, const u64 *args)
{
	const struct entries entries = { .task = t, .to = args[1], .size = (u32)args[2], .put = put_entry };

	return read_directory(fd_real(t, args[0]), entries);
}

s64 sys_getdents(struct task *t, const u64 *args)
{
	const struct entries entries = { .task = t, .to = args[1], .size = (u32)args[2], .put = put_old_entry };

	return read_directory(fd_real(t, args[0]), entries);
}
