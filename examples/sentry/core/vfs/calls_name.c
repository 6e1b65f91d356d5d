// SPDX-License-Identifier: Apache-2.0
/* System calls that make, move and remove names. */
#include "../id_map.h"
#include "calls.h"

int may_create(const struct path *directory)
{
	struct inode *inode = directory->dentry->inode;
	int error = mount_writable(directory->mount);

	if (error)
		return error;
	if (inode->dead)
		return -ENOENT;
	return inode_permission(inode, MAY_WRITE | MAY_EXEC);
}

/* Whether an entry may leave its directory. The entry has an inode. */
static int may_remove(const struct path *directory, struct dentry *dentry, bool is_directory)
{
	struct inode *inode = directory->dentry->inode;
	int error = mount_writable(directory->mount);

	if (!error)
		error = inode_permission(inode, MAY_WRITE | MAY_EXEC);
	if (error)
		return error;
	if (inode->mode & S_ISVTX && inode->user != caller_user() && dentry->inode->user != caller_user() &&
	    !capable_over(dentry->inode, CAP_FOWNER))
		return -EPERM;
	if (is_directory != S_ISDIR(dentry->inode->mode))
		return is_directory ? -ENOTDIR : -EISDIR;
	if (is_directory && dentry == directory->mount->root)
		return -EBUSY;
	return inode->dead ? -ENOENT : 0;
}

/*
 * What a new name is for. Others than a directory and a symbolic link have conditions that come after the lookup. For a
 * second name of a file, its rights are checked before those of the directory.
 */
enum new_kind { NEW_DIRECTORY, NEW_LINK, NEW_NAME, NEW_OTHER };

/*
 * Find the place of a new name: 0 with the directory locked and a dentry without an inode.  A name with a slash behind
 * it is for directories.
 */
static int new_place(struct walk *w, struct task *t, u64 directory, u64 name, enum new_kind kind, struct dentry **dentry)
{
	int error = walk_user(w, t, directory, name, WALK_PARENT, 0);

	if (!error)
		error = walk_new(w, kind == NEW_DIRECTORY || kind == NEW_LINK, dentry);
	if (error)
		return error;
	if (w->slash && kind != NEW_DIRECTORY)
		error = -ENOENT;
	else
		error = kind == NEW_NAME ? mount_writable(w->at.mount) : may_create(&w->at);
	if (error)
		inode_unlock(w->at.dentry->inode);
	return error;
}

static void end_place(struct walk *w, struct dentry *dentry, int error, u32 event)
{
	if (!error && event)
		notify_name(w->at.dentry, dentry, event);
	inode_unlock(w->at.dentry->inode);
}

/* -- new files -- */

static s64 make_directory(struct task *t, u64 directory, u64 name, u32 mode)
{
	struct walk w = { .flags = 0 };
	struct dentry *dentry = NULL;
	int error = new_place(&w, t, directory, name, NEW_DIRECTORY, &dentry);

	if (!error) {
		struct inode *inode = w.at.dentry->inode;

		mode = mode & 01777 & ~caller_fs()->umask;
		error = inode->operations->mkdir ? inode->operations->mkdir(inode, dentry, mode) : -EPERM;
		end_place(&w, dentry, error, IN_CREATE | IN_ISDIR);
	}
	dentry_put(dentry);
	walk_end(&w);
	return error;
}

s64 sys_mkdir(struct task *t, const u64 *args)
{
	return make_directory(t, (u64)AT_FDCWD, args[0], (u32)args[1]);
}

s64 sys_mkdirat(struct task *t, const u64 *args)
{
	return make_directory(t, args[0], args[1], (u32)args[2]);
}

static int check_node(u32 mode)
{
	switch (mode & S_IFMT) {
	case 0: case S_IFREG: case S_IFIFO: case S_IFSOCK: case S_IFCHR: case S_IFBLK: return 0;
	case S_IFDIR: return -EPERM;
	}
	return -EINVAL;
}

static s64 make_node(struct task *t, u64 directory, u64 name, u32 mode, u64 device)
{
	struct walk w = { .flags = 0 };
	struct dentry *dentry = NULL;
	int error = check_node(mode);

	if (error)
		return error;
	error = new_place(&w, t, directory, name, NEW_OTHER, &dentry);
	if (!error) {
		struct inode *inode = w.at.dentry->inode;

		mode &= ~caller_fs()->umask | S_IFMT;
		if (!(mode & S_IFMT))
			mode |= S_IFREG;
		if ((S_ISCHR(mode) || S_ISBLK(mode)) && !capable_outside(CAP_MKNOD))
			error = -EPERM;
		else
			error = inode->operations->create ? inode->operations->create(inode, dentry, mode, device) : -EPERM;
		end_place(&w, dentry, error, IN_CREATE);
	}
	dentry_put(dentry);
	walk_end(&w);
	return error;
}

s64 sys_mknod(struct task *t, const u64 *args)
{
	return make_node(t, (u64)AT_FDCWD, args[0], (u32)args[1] & 0177777, (u32)args[2]);
}

s64 sys_mknodat(struct task *t, const u64 *args)
{
	return make_node(t, args[0], args[1], (u32)args[2] & 0177777, (u32)args[3]);
}

/* The file of a socket, by a name that has been copied. */
int name_socket(const char *name, u32 mode)
{
	struct walk w = { .flags = 0 };
	struct dentry *dentry = NULL;
	int error = walk_core(&w, name, WALK_PARENT);

	if (!error)
		error = walk_new(&w, false, &dentry);
	if (!error) {
		struct inode *inode = w.at.dentry->inode;

		error = may_create(&w.at);
		if (!error)
			error = inode->operations->create ? inode->operations->create(inode, dentry, S_IFSOCK | mode, 0) : -EPERM;
		end_place(&w, dentry, error, IN_CREATE);
	}
	dentry_put(dentry);
	walk_end(&w);
	return error;
}

static s64 make_link(struct task *t, u64 target, u64 directory, u64 name)
{
	struct walk w = { .flags = 0 };
	struct dentry *dentry = NULL;
	char *text;
	int error = name_get(target, &text);

	if (!error && !*text)
		error = -ENOENT;
	if (!error)
		error = new_place(&w, t, directory, name, NEW_LINK, &dentry);
	if (!error) {
		struct inode *inode = w.at.dentry->inode;

		error = inode->operations->symlink ? inode->operations->symlink(inode, dentry, text) : -EPERM;
		end_place(&w, dentry, error, IN_CREATE);
	}
	page_free(text);
	dentry_put(dentry);
	walk_end(&w);
	return error;
}

s64 sys_symlink(struct task *t, const u64 *args)
{
	return make_link(t, args[0], (u64)AT_FDCWD, args[1]);
}

s64 sys_symlinkat(struct task *t, const u64 *args)
{
	return make_link(t, args[0], args[1], args[2]);
}

/* As fs.protected_hardlinks of Linux: a link to a file of another user requires rights to read and write it. */
static bool may_link(struct inode *inode)
{
	if (inode_owned(inode))
		return true;
	if (!S_ISREG(inode->mode) || inode->mode & S_ISUID || (inode->mode & (S_ISGID | 010)) == (S_ISGID | 010))
		return false;
	return !inode_permission(inode, MAY_READ | MAY_WRITE);
}

/* A second name, for an inode that has been found. */
static int link_inode(struct walk *w, const struct path *old, struct dentry *dentry)
{
	struct inode *inode = old->dentry->inode, *directory = w->at.dentry->inode;
	int error;

	if (old->mount != w->at.mount)
		return -EXDEV;
	if (!may_link(inode))
		return -EPERM;
	error = may_create(&w->at);
	if (error)
		return error;
	if (S_ISDIR(inode->mode) || !directory->operations->link)
		return -EPERM;
	if (!inode->links && !inode->can_link)
		return -ENOENT;
	error = directory->operations->link(inode, directory, dentry);
	if (!error)
		inode->can_link = false;
	return error;
}

static s64 link_name(struct task *t, const u64 *args, u32 flags)
{
	struct walk w = { .flags = 0 };
	struct dentry *dentry = NULL;
	struct path old;
	u32 walk = (flags & AT_SYMLINK_FOLLOW ? WALK_FOLLOW : 0) | (flags & AT_EMPTY_PATH ? WALK_EMPTY : 0);
	int error;

	if (flags & ~(u32)(AT_SYMLINK_FOLLOW | AT_EMPTY_PATH))
		return -EINVAL;
	error = path_user(t, args[0], args[1], walk, &old);
	if (error)
		return error;
	error = new_place(&w, t, args[2], args[3], NEW_NAME, &dentry);
	if (!error) {
		error = link_inode(&w, &old, dentry);
		end_place(&w, dentry, error, IN_CREATE);
	}
	dentry_put(dentry);
	walk_end(&w);
	path_put(&old);
	return error;
}

s64 sys_link(struct task *t, const u64 *args)
{
	const u64 both[] = { (u64)AT_FDCWD, args[0], (u64)AT_FDCWD, args[1] };

	return link_name(t, both, 0);
}

s64 sys_linkat(struct task *t, const u64 *args)
{
	return link_name(t, args, (u32)args[4]);
}

/* -- removal -- */

static int remove_found(struct walk *w, struct dentry *dentry, bool is_directory)
{
	struct inode *directory = w->at.dentry->inode, *inode = dentry->inode;
	int error = may_remove(&w->at, dentry, is_directory);

	if (error)
		return error;
	if (!(is_directory ? directory->operations->rmdir : directory->operations->unlink))
		return -EPERM;
	if (dentry->mounted)
		return -EBUSY;
	error = is_directory ? directory->operations->rmdir(directory, dentry) : directory->operations->unlink(directory, dentry);
	if (error)
		return error;
	inode->dead = is_directory;
	notify_removed(w->at.dentry, dentry);
	dentry_unhash(dentry);
	return 0;
}

static s64 remove(struct task *t, u64 directory, u64 name, bool is_directory)
{
	static const int directory_errors[] = { 0, -EINVAL, -ENOTEMPTY, -EBUSY };
	struct walk w = { .flags = 0 };
	struct dentry *dentry = NULL;
	int error = walk_user(&w, t, directory, name, WALK_PARENT, 0);

	if (!error && w.kind != LAST_NAME)
		error = is_directory ? directory_errors[w.kind] : -EISDIR;
	if (!error)
		error = mount_writable(w.at.mount); /* before the lookup, as on Linux */
	if (!error) {
		struct inode *inode = w.at.dentry->inode;

		inode_lock(inode);
		error = dentry_lookup(w.at.dentry, w.last, w.last_size, &dentry);
		if (!error && !dentry->inode)
			error = -ENOENT;
		if (!error && !is_directory && w.slash)
			error = S_ISDIR(dentry->inode->mode) ? -EISDIR : -ENOTDIR;
		if (!error)
			error = remove_found(&w, dentry, is_directory);
		inode_unlock(inode);
	}
	dentry_put(dentry);
	walk_end(&w);
	return error;
}

s64 sys_unlink(struct task *t, const u64 *args)
{
	return remove(t, (u64)AT_FDCWD, args[0], false);
}

s64 sys_rmdir(struct task *t, const u64 *args)
{
	return remove(t, (u64)AT_FDCWD, args[0], true);
}

s64 sys_unlinkat(struct task *t, const u64 *args)
{
	if ((u32)args[2] & ~(u32)AT_REMOVEDIR)
		return -EINVAL;
	return remove(t, args[0], args[1], (u32)args[2] & AT_REMOVEDIR);
}

/* -- rename -- */

struct rename {
	struct walk from, to;
	struct dentry *old, *new;
	u32 flags;
};

static int may_rename(struct rename *r)
{
	bool exchange = r->flags & RENAME_EXCHANGE, is_directory = S_ISDIR(r->old->inode->mode);
	int error = may_remove(&r->from.at, r->old, is_directory);

	if (error)
		return error;
	if (!r->new->inode)
		error = may_create(&r->to.at);
	else
		error = may_remove(&r->to.at, r->new, exchange ? S_ISDIR(r->new->inode->mode) : is_directory);
	if (error)
		return error;
	if (!r->from.at.dentry->inode->operations->rename)
		return -EPERM;
	if (r->from.at.dentry == r->to.at.dentry)
		return 0;
	if (is_directory)
		error = inode_permission(r->old->inode, MAY_WRITE);
	if (!error && exchange && S_ISDIR(r->new->inode->mode))
		error = inode_permission(r->new->inode, MAY_WRITE);
	return error;
}

static int check_rename(struct rename *r)
{
	bool exchange = r->flags & RENAME_EXCHANGE;

	if (!r->old->inode || (!r->new->inode && r->to.at.dentry->inode->dead))
		return -ENOENT;
	if (r->flags & RENAME_NOREPLACE && r->new->inode)
		return -EEXIST;
	if (exchange && !r->new->inode)
		return -ENOENT;
	if (exchange && !S_ISDIR(r->new->inode->mode) && r->to.slash)
		return -ENOTDIR;
	if (!S_ISDIR(r->old->inode->mode) && (r->from.slash || (!exchange && r->to.slash)))
		return -ENOTDIR;
	if (dentry_above(r->old, r->to.at.dentry))
		return -EINVAL;
	if (dentry_above(r->new, r->from.at.dentry) && r->new->inode)
		return exchange ? -EINVAL : -ENOTEMPTY;
	return 0;
}

static int rename_found(struct rename *r)
{
	struct inode *from = r->from.at.dentry->inode, *to = r->to.at.dentry->inode, *replaced = r->new->inode;
	int error = check_rename(r);

	if (error)
		return error;
	if (r->old->inode == replaced)
		return 0;
	error = may_rename(r);
	if (error)
		return error;
	if (r->old->mounted || r->new->mounted)
		return -EBUSY;
	error = from->operations->rename(from, r->old, to, r->new, r->flags);
	if (error)
		return error;
	if (replaced && S_ISDIR(replaced->mode) && !(r->flags & RENAME_EXCHANGE))
		replaced->dead = true;
	notify_renamed(r->from.at.dentry, r->old, r->to.at.dentry, r->new, r->flags);
	if (r->flags & RENAME_EXCHANGE)
		dentry_exchange(r->old, r->new);
	else
		dentry_move(r->old, r->new);
	return 0;
}

static int rename_walk(struct rename *r, struct task *t, const u64 *args)
{
	struct inode *from, *to;
	int error = walk_user(&r->from, t, args[0], args[1], WALK_PARENT, 0);

	if (!error)
		error = walk_user(&r->to, t, args[2], args[3], WALK_PARENT, 0);
	if (error)
		return error;
	if (r->from.at.mount != r->to.at.mount)
		return -EXDEV;
	if (r->from.kind != LAST_NAME)
		return -EBUSY;
	if (r->to.kind != LAST_NAME)
		return r->flags & RENAME_NOREPLACE ? -EEXIST : -EBUSY;
	error = mount_writable(r->from.at.mount);
	if (error)
		return error;
	from = r->from.at.dentry->inode;
	to = r->to.at.dentry->inode;
	mutex_lock_two(&from->mutex, &to->mutex);
	error = dentry_lookup(r->from.at.dentry, r->from.last, r->from.last_size, &r->old);
	if (!error && !r->old->inode)
		error = -ENOENT;
	if (!error)
		error = dentry_lookup(r->to.at.dentry, r->to.last, r->to.last_size, &r->new);
	if (!error)
		error = rename_found(r);
	mutex_unlock_two(&from->mutex, &to->mutex);
	return error;
}

static s64 rename_name(struct task *t, const u64 *args, u32 flags)
{
	struct rename *r;
	int error;

	if (flags & ~(u32)(RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT) ||
	    (flags & (RENAME_NOREPLACE | RENAME_WHITEOUT) && flags & RENAME_EXCHANGE))
		return -EINVAL;
	if (flags & RENAME_WHITEOUT)
		return -EINVAL;
	r = kmalloc(sizeof(*r));
	if (!r)
		return -ENOMEM;
	r->flags = flags;
	error = rename_walk(r, t, args);
	dentry_put(r->old);
	dentry_put(r->new);
	walk_end(&r->from);
	walk_end(&r->to);
	kfree(r);
	return error;
}

s64 sys_rename(struct task *t, const u64 *args)
{
	const u64 both[] = { (u64)AT_FDCWD, args[0], (u64)AT_FDCWD, args[1] };

	return rename_name(t, both, 0);
}

s64 sys_renameat(struct task *t, const u64 *args)
{
	return rename_name(t, args, 0);
}

s64 sys_renameat2(struct task *t, const u64 *args)
{
	return rename_name(t, args, (u32)args[4]);
}

/* -- directories of the process -- */

static s64 change(struct path *place, const struct path *to, bool root)
{
	struct inode *inode = to->dentry->inode;
	s64 error;

	if (!S_ISDIR(inode->mode))
		return -ENOTDIR;
	error = inode_permission(inode, MAY_EXEC);
	if (!error && root && !caller_capable(CAP_SYS_CHROOT))
		error = -EPERM;
	if (error)
		return error;
	path_get(to);
	path_replace(place, *to);
	return 0;
}

static s64 change_to(struct task *t, u64 name, bool root)
{
	struct path path;
	s64 error = path_user(t, (u64)AT_FDCWD, name, WALK_FOLLOW | WALK_DIRECTORY, &path);

	if (error)
		return error;
	error = change(root ? &t->fs->root : &t->fs->cwd, &path, root);
	path_put(&path);
	return error;
}

s64 sys_chdir(struct task *t, const u64 *args)
{
	return change_to(t, args[0], false);
}

s64 sys_chroot(struct task *t, const u64 *args)
{
	return change_to(t, args[0], true);
}

s64 sys_fchdir(struct task *t, const u64 *args)
{
	struct file *file = fd_file(t, args[0]);

	return file ? change(&t->fs->cwd, &file->path, false) : -EBADF;
}

s64 sys_umask(struct task *t, const u64 *args)
{
	u32 old = t->fs->umask;

	t->fs->umask = args[0] & 0777;
	return old;
}

static s64 put_cwd(struct task *t, char *page, u64 to, u64 size)
{
	static const char unreachable[] = "(unreachable)";
	bool reachable;
	s64 at;
	u64 length;

	if (t->fs->cwd.dentry->inode->dead)
		return -ENOENT;
	at = path_name(&t->fs->cwd, &t->fs->root, page, PAGE, &reachable);
	if (at < 0)
		return -ENAMETOOLONG;
	if (!reachable && (u64)at >= sizeof(unreachable)) {
		at -= (s64)sizeof(unreachable) - 1;
		bytes_copy(page + at, unreachable, sizeof(unreachable) - 1);
	}
	length = PAGE - (u64)at;
	if (length > size)
		return -ERANGE;
	return user_write(t->mm, to, page + at, length) ? -EFAULT : (s64)length;
}

s64 sys_getcwd(struct task *t, const u64 *args)
{
	char *page = page_alloc();
	s64 size = page ? put_cwd(t, page, args[0], args[1]) : -ENOMEM;

	page_free(page);
	return size;
}
