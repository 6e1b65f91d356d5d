// SPDX-License-Identifier: Apache-2.0
/* Walks along a name, through links and mounts. */
#include "walk.h"

#include "calls.h"
#include "caller.h"
#include "fds.h"

int name_get(u64 from, char **page)
{
	s64 size;

	*page = page_buffer();
	if (!*page)
		return -ENOMEM;
	size = user_string(core.current->mm, *page, from, PATH_MAX);
	if (size >= 0)
		return 0;
	page_free(*page);
	*page = NULL;
	return (int)size;
}

static int lookup_new(struct dentry *directory, const char *name, u64 size, struct dentry **result)
{
	struct dentry *dentry = dentry_new(directory, name, size);
	int error;

	if (!dentry)
		return -ENOMEM;
	error = directory->inode->operations->lookup(directory->inode, dentry);
	if (!error && !dentry->hashed && (dentry->inode || directory->super->negative))
		error = dentry_hash(dentry);
	if (error) {
		dentry_put(dentry);
		return error;
	}
	*result = dentry;
	return 0;
}

/* Linux looks whether the directory is there before the file system checks the name. */
static int too_long(struct dentry *directory)
{
	return directory->inode->dead ? -ENOENT : -ENAMETOOLONG;
}

int dentry_lookup(struct dentry *directory, const char *name, u64 size, struct dentry **result)
{
	const struct super_operations *super = directory->super->operations;
	struct dentry *dentry;

	if (size > NAME_MAX)
		return too_long(directory);
	dentry = dentry_find(directory, name, size);
	if (dentry && super->revalidate) {
		int valid = super->revalidate(dentry);

		if (valid <= 0) {
			dentry_unhash(dentry);
			dentry_put(dentry);
			if (valid < 0)
				return valid;
			dentry = NULL;
		}
	}
	if (dentry) {
		*result = dentry;
		return 0;
	}
	if (!directory->inode->operations->lookup)
		return -ENOTDIR;
	return lookup_new(directory, name, size, result);
}

/* The same for a walk: the directory is locked while it is asked, and a name that is not there is an error. */
static int lookup(struct dentry *directory, const char *name, u64 size, struct dentry **result)
{
	struct dentry *dentry = NULL;
	int error = 0;

	if (!directory->super->operations->revalidate)
		dentry = dentry_find(directory, name, size);
	if (!dentry && directory->super->pinned)
		return size > NAME_MAX ? too_long(directory) : -ENOENT;
	if (!dentry) {
		inode_lock(directory->inode);
		error = dentry_lookup(directory, name, size, &dentry);
		inode_unlock(directory->inode);
	}
	if (error)
		return error;
	if (!dentry->inode) {
		dentry_put(dentry);
		return -ENOENT;
	}
	*result = dentry;
	return 0;
}

/* -- links -- */

static int to_root(struct walk *w)
{
	if (w->resolve & RESOLVE_BENEATH)
		return -EXDEV;
	if (w->resolve & RESOLVE_NO_XDEV && w->at.mount != w->root.mount)
		return -EXDEV;
	path_get(&w->root);
	path_replace(&w->at, w->root);
	return 0;
}

static int read_target(struct walk *w, struct inode *inode, char **page)
{
	s64 size;

	if (w->links++ >= MAX_LINKS || w->resolve & RESOLVE_NO_SYMLINKS)
		return -ELOOP;
	*page = page_buffer();
	if (!*page)
		return -ENOMEM;
	size = inode->operations->readlink ? inode->operations->readlink(inode, *page, PAGE - 1) : -EINVAL;
	if (size > 0) {
		(*page)[size] = 0;
		w->kept[w->pages++] = *page;
		return 0;
	}
	page_free(*page);
	return size ? (int)size : -ENOENT;
}

static int jump(struct walk *w, struct inode *inode)
{
	struct path target;
	int error;

	if (w->links++ >= MAX_LINKS || w->resolve & (RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS))
		return -ELOOP;
	if (w->resolve & (RESOLVE_BENEATH | RESOLVE_IN_ROOT))
		return -EXDEV;
	error = inode->operations->jump(inode, &target);
	if (error)
		return error;
	if (w->resolve & RESOLVE_NO_XDEV && target.mount != w->at.mount) {
		path_put(&target);
		return -EXDEV;
	}
	path_replace(&w->at, target);
	return 0;
}

/* Continue with the target of a link; what follows it comes later. */
static int follow(struct walk *w, struct inode *inode, const char **name)
{
	const char *rest = *name;
	char *page;
	int error;

	if (inode->operations->jump)
		return jump(w, inode);
	error = read_target(w, inode, &page);
	if (error)
		return error;
	if (*rest)
		w->outer[w->depth++] = rest;
	*name = page;
	return *page == '/' ? to_root(w) : 0;
}

/* -- steps -- */

static int step_up(struct walk *w)
{
	struct path up;

	for (;;) {
		if (w->at.dentry == w->root.dentry && w->at.mount == w->root.mount)
			return w->resolve & RESOLVE_BENEATH ? -EXDEV : 0;
		if (w->at.dentry != w->at.mount->root)
			break;
		if (!w->at.mount->parent)
			return 0;
		if (w->resolve & RESOLVE_NO_XDEV)
			return -EXDEV;
		up = (struct path){ w->at.mount->parent, w->at.mount->point };
		path_get(&up);
		path_replace(&w->at, up);
	}
	up = (struct path){ w->at.mount, w->at.dentry->parent };
	path_get(&up);
	path_replace(&w->at, up);
	path_enter_mounts(&w->at);
	return 0;
}

static int enter(struct walk *w, struct dentry *child)
{
	struct mount *mount = w->at.mount;

	mount_get(mount);
	path_replace(&w->at, (struct path){ mount, child });
	if (!child->mounted)
		return 0;
	if (w->resolve & RESOLVE_NO_XDEV)
		return -EXDEV;
	path_enter_mounts(&w->at);
	return 0;
}

/* One component; *name is what follows it. */
static int step(struct walk *w, const char *component, u64 size, const char **name, bool last)
{
	struct dentry *child;
	int error;

	if (size == 1 && component[0] == '.')
		return 0;
	if (size == 2 && component[0] == '.' && component[1] == '.')
		return step_up(w);
	error = lookup(w->at.dentry, component, size, &child);
	if (error)
		return error;
	if (S_ISLNK(child->inode->mode) && (!last || w->flags & WALK_FOLLOW)) {
		error = follow(w, child->inode, name);
		dentry_put(child);
		return error;
	}
	return enter(w, child);
}

static int may_look_up(struct walk *w)
{
	struct inode *inode = w->at.dentry->inode;

	if (!S_ISDIR(inode->mode))
		return -ENOTDIR;
	return inode_permission(inode, MAY_EXEC);
}

static void note_last(struct walk *w, const char *component, u64 size)
{
	w->last = component;
	w->last_size = size;
	w->slash = component[size] == '/';
	w->kind = LAST_NAME;
	if (size == 1 && component[0] == '.')
		w->kind = LAST_DOT;
	else if (size == 2 && component[0] == '.' && component[1] == '.')
		w->kind = LAST_DOTDOT;
}

static int run(struct walk *w, const char *name)
{
	int error;

	w->kind = LAST_ROOT;
	for (;;) {
		const char *component;
		u64 size = 0;

		while (*name == '/')
			name++;
		if (!*name && w->depth) {
			name = w->outer[--w->depth];
			continue;
		}
		if (!*name)
			break;
		error = may_look_up(w);
		if (error)
			return error;
		component = name;
		while (component[size] && component[size] != '/')
			size++;
		for (name += size; *name == '/';)
			name++;
		if (!*name && !w->depth && w->flags & WALK_PARENT) {
			note_last(w, component, size);
			return 0;
		}
		if (!*name && !w->depth && component[size] == '/')
			w->flags |= WALK_DIRECTORY | WALK_FOLLOW; /* so does the last name of the link's target */
		error = step(w, component, size, &name, !*name && !w->depth);
		if (error)
			return error;
	}
	if (w->flags & WALK_DIRECTORY && !S_ISDIR(w->at.dentry->inode->mode))
		return -ENOTDIR;
	return 0;
}

/* -- starts and ends -- */

static int start_at(struct walk *w, struct task *t, u64 directory, const char *name)
{
	struct file *file;

	if (name[0] == '/' && !(w->resolve & (RESOLVE_BENEATH | RESOLVE_IN_ROOT))) {
		path_get(&w->root);
		w->at = w->root;
		return 0;
	}
	if (name[0] == '/' && w->resolve & RESOLVE_BENEATH)
		return -EXDEV;
	if ((s32)directory == AT_FDCWD) {
		w->at = caller_fs()->cwd;
		path_get(&w->at);
	} else {
		file = fd_file(t, directory);
		if (!file)
			return -EBADF;
		if (*name && !S_ISDIR(file->inode->mode))
			return -ENOTDIR;
		w->at = file->path;
		path_get(&w->at);
	}
	if (w->resolve & (RESOLVE_BENEATH | RESOLVE_IN_ROOT)) {
		path_get(&w->at);
		path_replace(&w->root, w->at);
	}
	return 0;
}

static int walk_name(struct walk *w, struct task *t, u64 directory, const char *name)
{
	int error;

	w->root = caller_fs()->root;
	path_get(&w->root);
	if (!*name && !(w->flags & WALK_EMPTY))
		return -ENOENT;
	error = start_at(w, t, directory, name);
	if (error || !*name)
		return error;
	return run(w, name);
}

int walk_user(struct walk *w, struct task *t, u64 directory, u64 name, u32 flags, u32 resolve)
{
	int error = name_get(name, &w->page);

	w->flags = flags;
	w->resolve = resolve;
	if (!error && flags & WALK_FD && *w->page)
		error = fd_room(t);
	return error ? error : walk_name(w, t, directory, w->page);
}

int walk_core(struct walk *w, const char *name, u32 flags)
{
	w->flags = flags;
	return walk_name(w, core.current, (u64)AT_FDCWD, name);
}

int walk_follow(struct walk *w, struct dentry *link)
{
	const char *name = "";
	int error = follow(w, link->inode, &name);

	if (error)
		return error;
	if (!*name) { /* it led to an object */
		w->kind = LAST_ROOT;
		return 0;
	}
	return run(w, name);
}

/* Where the file system itself refuses a name that exists, a name that is not known needs no request. */
int walk_place(struct walk *w, struct dentry **dentry)
{
	struct dentry *directory = w->at.dentry, *known;

	if (!directory->super->refuses || w->slash || w->last_size > NAME_MAX || may_create(&w->at))
		return dentry_lookup(directory, w->last, w->last_size, dentry);
	known = dentry_find(directory, w->last, w->last_size);
	if (known) {
		dentry_put(known);
		return dentry_lookup(directory, w->last, w->last_size, dentry);
	}
	*dentry = dentry_new(directory, w->last, w->last_size);
	return *dentry ? 0 : -ENOMEM;
}

int walk_new(struct walk *w, bool next, struct dentry **dentry)
{
	int error;

	if (w->kind != LAST_NAME)
		return -EEXIST;
	inode_lock(w->at.dentry->inode);
	if (next)
		error = walk_place(w, dentry);
	else
		error = dentry_lookup(w->at.dentry, w->last, w->last_size, dentry);
	if (!error && (*dentry)->inode)
		error = -EEXIST;
	if (error)
		inode_unlock(w->at.dentry->inode);
	return error;
}

void walk_end(struct walk *w)
{
	path_put(&w->at);
	path_put(&w->root);
	page_free(w->page);
	while (w->pages)
		page_free(w->kept[--w->pages]);
}

/* The walk's path becomes the caller's. */
static void take_path(struct walk *w, int error, struct path *path)
{
	if (!error) {
		*path = w->at;
		w->at = (struct path){ NULL, NULL };
	}
	walk_end(w);
}

int path_user(struct task *t, u64 directory, u64 name, u32 flags, struct path *path)
{
	struct walk w = { .flags = 0 };
	int error = walk_user(&w, t, directory, name, flags, 0);

	take_path(&w, error, path);
	return error;
}

int path_lookup(const char *name, u32 flags, struct path *path)
{
	struct walk w = { .flags = 0 };
	int error = walk_core(&w, name, flags);

	take_path(&w, error, path);
	return error;
}
