// SPDX-License-Identifier: Apache-2.0
/* mount, umount2 and pivot_root. There is one list of mounts, and no propagation. */
#include "calls.h"
#include "mount.h"

enum { MOUNTS_MOST = 1000, MAGIC = (int)0xc0ed0000 };
enum { PROPAGATION = MS_SHARED | MS_PRIVATE | MS_SLAVE | MS_UNBINDABLE };
enum { MNT_FORCE = 1, MNT_DETACH = 2, MNT_EXPIRE = 4, UMOUNT_NOFOLLOW = 8 };

struct request {
	char *source, *type, *options; /* pages, or NULL */
	u32 flags;
};

static bool is_root(const struct path *path)
{
	return path->dentry == path->mount->root;
}

/* Whether a mount is part of the tree. A process can still use one that was removed. */
static bool is_shown(const struct mount *mount)
{
	while (mount->parent)
		mount = mount->parent;
	return mount == mount_root();
}

static u32 mount_count(void)
{
	u32 count = 0;

	LIST_EACH(at, mount_list())
		count++;
	return count;
}

/* Attach a directory to a directory, or a file to a file; takes the reference to the mount. */
static int attach(struct mount *mount, const struct path *point)
{
	int error = 0;

	if (point->dentry->inode->dead || (!point->dentry->hashed && point->dentry->parent != point->dentry))
		error = -ENOENT;
	else if (S_ISDIR(mount->root->inode->mode) != S_ISDIR(point->dentry->inode->mode))
		error = -ENOTDIR;
	else if (!is_shown(point->mount))
		error = -EINVAL;
	else if (mount_count() >= MOUNTS_MOST)
		error = -ENOSPC;
	if (error)
		mount_put(mount);
	else
		mount_attach(mount, point);
	return error;
}

static struct mount *child_of(const struct mount *mount)
{
	LIST_EACH(at, mount_list())
		if (CONTAINER(at, struct mount, all)->parent == mount)
			return CONTAINER(at, struct mount, all);
	return NULL;
}

/*
 * Those in use stay until the last use ends.  Each removal can sleep: another task can remove the mount itself in the
 * meantime.
 */
void mount_remove(struct mount *mount)
{
	struct mount *at, *child;
	struct path place;

	mount_get(mount);
	while (!list_empty(&mount->all)) {
		for (at = mount; (child = child_of(at));)
			at = child;
		place = mount_detach(at);
		mount_put(at);
		path_put(&place);
	}
	mount_put(mount);
}

/* -- new file systems -- */

static int mount_new_super(const struct request *r, const struct path *point)
{
	struct super *super = NULL;
	struct mount *mount;
	char none[] = "";
	int error;

	if (!r->type)
		return -EINVAL;
	error = super_by_type(r->type, r->options ? r->options : none, &super);
	if (error)
		return error;
	if (is_root(point) && point->mount->super == super) {
		super_put(super);
		return -EBUSY;
	}
	dentry_get(super->root);
	mount = mount_new(super, super->root, r->flags & MS_KEPT, r->source && *r->source ? r->source : "none");
	return mount ? attach(mount, point) : -ENOMEM;
}

int mount_type(const char *type, char *options, u32 flags, const struct path *point)
{
	const struct request r = { .source = (char *)type, .type = (char *)type, .options = options, .flags = flags };

	return mount_new_super(&r, point);
}

/* -- bind and move -- */

struct pair {
	struct mount *from, *to;
};

static struct mount *copy_of(const struct pair *pairs, u32 count, const struct mount *from)
{
	for (u32 i = 0; i < count; i++)
		if (pairs[i].from == from)
			return pairs[i].to;
	return NULL;
}

/* Copy the mounts below a path to the same places below its copy. */
static int copy_below(const struct path *from, struct mount *to)
{
	struct pair *pairs = kmalloc(MOUNTS_MOST * sizeof(*pairs));
	u32 count = 0, last = vfs.last_mount;
	bool some = true;
	int error = 0;

	if (!pairs)
		return -ENOMEM;
	pairs[count++] = (struct pair){ from->mount, to };
	while (some && !error) {
		some = false;
		LIST_EACH(at, mount_list()) {
			struct mount *mount = CONTAINER(at, struct mount, all), *new;
			struct mount *parent = copy_of(pairs, count, mount->parent);

			if (!parent || mount == to || mount->id > last || copy_of(pairs, count, mount) || !mount_is_below(mount, from))
				continue;
			new = count < MOUNTS_MOST ? mount_copy(mount, mount->root) : NULL;
			error = new ? attach(new, &(struct path){ parent, mount->point }) : -ENOMEM;
			if (error)
				break;
			pairs[count++] = (struct pair){ mount, new };
			some = true;
		}
	}
	kfree(pairs);
	return error;
}

static int find_source(const struct request *r, struct path *path)
{
	return r->source && *r->source ? path_lookup(r->source, WALK_FOLLOW, path) : -EINVAL;
}

int mount_bind(const struct path *from, const struct path *point, bool deep)
{
	struct mount *mount;
	int error;

	if (!is_shown(from->mount))
		return -EINVAL; /* removed, or of files without a name */
	mount = mount_copy(from->mount, from->dentry);
	error = mount ? attach(mount, point) : -ENOMEM;
	if (!error && deep) {
		error = copy_below(from, mount);
		if (error)
			mount_remove(mount);
	}
	return error;
}

static int bind(const struct request *r, const struct path *point)
{
	struct path from;
	int error = find_source(r, &from);

	if (error)
		return error;
	error = mount_bind(&from, point, r->flags & MS_REC);
	path_put(&from);
	return error;
}

static int move(const struct request *r, const struct path *point)
{
	struct path from, place;
	int error = find_source(r, &from);

	if (error)
		return error;
	if (!is_root(&from) || !from.mount->parent || !is_shown(from.mount) || !is_shown(point->mount) ||
	    S_ISDIR(from.dentry->inode->mode) != S_ISDIR(point->dentry->inode->mode))
		error = -EINVAL;
	for (struct mount *at = point->mount; !error && at; at = at->parent)
		if (at == from.mount)
			error = -ELOOP;
	if (!error) {
		place = mount_detach(from.mount);
		mount_attach(from.mount, point);
		path_put(&place);
	}
	path_put(&from);
	return error;
}

/* -- remount and propagation -- */

static int change_flags(const struct request *r, const struct path *path)
{
	struct super *super = path->mount->super;
	char none[] = "";
	int error = 0;

	if (!is_root(path))
		return -EINVAL;
	if (r->flags & MS_RDONLY && (r->flags & MS_BIND ? path->mount->writers : super->writers))
		return -EBUSY;
	if (!(r->flags & MS_BIND)) {
		if (super->operations->remount)
			error = super->operations->remount(super, r->flags, r->options ? r->options : none);
		if (!error)
			super->flags = r->flags & MS_RDONLY;
	}
	if (!error)
		path->mount->flags = r->flags & MS_KEPT;
	return error;
}

/* Each mount is private: other kinds are accepted without effect. */
static int change_propagation(u32 flags, const struct path *path)
{
	u32 kind = flags & PROPAGATION;

	if (flags & ~(u32)(PROPAGATION | MS_REC | MS_SILENT) || kind & (kind - 1))
		return -EINVAL;
	return is_root(path) ? 0 : -EINVAL;
}

static int mount_at(const struct request *r, const struct path *path)
{
	if (!caller_capable(CAP_SYS_ADMIN))
		return -EPERM;
	if (r->flags & MS_REMOUNT)
		return change_flags(r, path);
	if (r->flags & MS_BIND)
		return bind(r, path);
	if (r->flags & PROPAGATION)
		return change_propagation(r->flags, path);
	return r->flags & MS_MOVE ? move(r, path) : mount_new_super(r, path);
}

/* Copy a string of the program into a page; NULL stays for none. */
static s64 get_text(u64 from, char **text)
{
	int error = from ? name_get(from, text) : 0;

	return error == -ENAMETOOLONG ? -EINVAL : error;
}

/* The same for options: at most a page, up to the first byte that cannot be read. */
static s64 get_options(struct task *t, u64 from, char **options)
{
	const struct iovec vector = { from, PAGE - 1 };
	struct io io = { .mm = t->mm, .vectors = &vector, .left = vector.size };

	if (!from)
		return 0;
	*options = page_alloc();
	if (!*options)
		return -ENOMEM;
	return io_get(&io, *options, io.left) ? 0 : -EFAULT;
}

s64 sys_mount(struct task *t, const u64 *args)
{
	struct request r = { .flags = (u32)args[3] };
	struct path path;
	s64 error = get_text(args[2], &r.type);

	if ((r.flags & 0xffff0000u) == (u32)MAGIC)
		r.flags &= 0xffff;
	if (!error)
		error = get_text(args[0], &r.source);
	if (!error)
		error = get_options(t, args[4], &r.options);
	if (!error)
		error = path_user(t, (u64)AT_FDCWD, args[1], WALK_FOLLOW, &path);
	if (!error) {
		error = mount_at(&r, &path);
		path_put(&path);
	}
	page_free(r.type);
	page_free(r.source);
	page_free(r.options);
	return error;
}

/* -- removal -- */

/* The caller and the list hold a reference each. */
static int unmount(struct mount *mount, u32 flags)
{
	if (flags & MNT_EXPIRE) {
		if (mount == caller_fs()->root.mount || flags & (MNT_FORCE | MNT_DETACH))
			return -EINVAL;
		if (mount->references > 2)
			return -EBUSY;
		if (!mount->expires)
			return -EAGAIN;
	}
	if (mount == mount_root() || (!(flags & MNT_DETACH) && mount->references > 2))
		return -EBUSY;
	mount_remove(mount);
	return 0;
}

s64 sys_umount2(struct task *t, const u64 *args)
{
	u32 flags = (u32)args[1];
	struct mount *expires;
	struct path path;
	s64 error;

	if (flags & ~(u32)(MNT_FORCE | MNT_DETACH | MNT_EXPIRE | UMOUNT_NOFOLLOW))
		return -EINVAL;
	error = path_user(t, (u64)AT_FDCWD, args[0], flags & UMOUNT_NOFOLLOW ? 0 : WALK_FOLLOW, &path);
	if (error)
		return error;
	if (!caller_capable(CAP_SYS_ADMIN))
		error = -EPERM;
	else
		error = is_root(&path) && is_shown(path.mount) ? unmount(path.mount, flags) : -EINVAL;
	expires = error == -EAGAIN || (error && path.mount->expires) ? path.mount : NULL;
	path_put(&path);
	if (expires) /* unless it is used before the next call */
		expires->expires = true;
	return error;
}

/* -- another root -- */

static void change_place(struct path *place, const struct path *from, const struct path *to)
{
	if (place->dentry != from->dentry || place->mount != from->mount)
		return;
	path_get(to);
	path_replace(place, *to);
}

static void change_places(const struct path *from, const struct path *to)
{
	EACH_PROCESS(p)
		EACH_TASK(task, p)
			if (task->fs) {
				change_place(&task->fs->root, from, to);
				change_place(&task->fs->cwd, from, to);
			}
}

static int check_pivot(const struct path *new, const struct path *old, const struct path *root)
{
	if (new->dentry->inode->dead)
		return -ENOENT;
	if (new->mount == root->mount || old->mount == root->mount)
		return -EBUSY;
	if (!is_root(root) || !is_root(new) || !new->mount->parent || !is_shown(new->mount))
		return -EINVAL;
	for (struct mount *at = old->mount; at != new->mount; at = at->parent)
		if (!at->parent)
			return -EINVAL;
	return mount_is_below(new->mount, root) ? 0 : -EINVAL;
}

static int pivot(const struct path *new, const struct path *old)
{
	struct path root = caller_fs()->root, above, place;
	int error = check_pivot(new, old, &root);

	if (error)
		return error;
	path_get(&root);
	place = mount_detach(new->mount);
	above = mount_detach(root.mount);
	if (above.mount)
		mount_attach(new->mount, &above);
	else
		list_add(mount_list()->next, &new->mount->all);
	mount_attach(root.mount, old);
	change_places(&root, new);
	path_put(&place);
	path_put(&above);
	path_put(&root);
	return 0;
}

s64 sys_pivot_root(struct task *t, const u64 *args)
{
	struct path new, old;
	s64 error = caller_capable(CAP_SYS_ADMIN) ? 0 : -EPERM;

	if (!error)
		error = path_user(t, (u64)AT_FDCWD, args[0], WALK_FOLLOW | WALK_DIRECTORY, &new);
	if (error)
		return error;
	error = path_user(t, (u64)AT_FDCWD, args[1], WALK_FOLLOW | WALK_DIRECTORY, &old);
	if (!error) {
		error = pivot(&new, &old);
		path_put(&old);
	}
	path_put(&new);
	return error;
}
