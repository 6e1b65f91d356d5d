// SPDX-License-Identifier: Apache-2.0
/* Mounts: which file system is seen where. */
#include "caller.h"

static struct slab mounts = SLAB(struct mount);

struct list *mount_list(void)
{
	return &vfs.mounts;
}

struct mount *mount_root(void)
{
	return list_empty(&vfs.mounts) ? NULL : CONTAINER(vfs.mounts.next, struct mount, all);
}

void mount_get(struct mount *mount)
{
	reference_get(&mount->references);
}

void mount_put(struct mount *mount)
{
	if (mount)
		mount->expires = false;
	if (!mount || !reference_put(&mount->references))
		return;
	dentry_put(mount->root);
	super_put(mount->super);
	kfree(mount->source);
	slab_free(&mounts, mount);
}

void path_get(const struct path *path)
{
	mount_get(path->mount);
	dentry_get(path->dentry);
}

void path_put(struct path *path)
{
	if (path->dentry)
		dentry_put(path->dentry);
	mount_put(path->mount);
	*path = (struct path){ NULL, NULL };
}

/* Put this in the place of a path, whose references go. It takes those of the new one. */
void path_replace(struct path *path, struct path with)
{
	path_put(path);
	*path = with;
}

struct mount *mount_new(struct super *super, struct dentry *root, u32 flags, const char *source)
{
	struct mount *mount = slab_alloc(&mounts);
	u64 size = string_size(source);

	if (mount)
		mount->source = kmalloc(size + 1);
	if (!mount || !mount->source) {
		if (mount)
			slab_free(&mounts, mount);
		dentry_put(root);
		super_put(super);
		return NULL;
	}
	list_init(&mount->all);
	bytes_copy(mount->source, source, size);
	mount->references = 1;
	mount->flags = flags;
	mount->super = super;
	mount->root = root;
	mount->id = ++vfs.last_mount;
	return mount;
}

struct mount *mount_copy(const struct mount *mount, struct dentry *root)
{
	reference_get(&mount->super->references);
	dentry_get(root);
	return mount_new(mount->super, root, mount->flags, mount->source);
}

void mount_attach(struct mount *mount, const struct path *point)
{
	path_get(point);
	mount->parent = point->mount;
	mount->point = point->dentry;
	mount->point->mounted = true;
	list_add(&vfs.mounts, &mount->all);
}

static bool is_mounted_on(const struct dentry *dentry)
{
	LIST_EACH(at, &vfs.mounts)
		if (CONTAINER(at, struct mount, all)->point == dentry)
			return true;
	return false;
}

struct path mount_detach(struct mount *mount)
{
	struct path point = { mount->parent, mount->point };

	list_remove(&mount->all);
	mount->parent = NULL;
	mount->point = NULL;
	if (point.dentry)
		point.dentry->mounted = is_mounted_on(point.dentry);
	return point;
}

int mount_add(struct super *super, struct dentry *root, const struct path *point, u32 flags, const char *source)
{
	struct mount *mount = mount_new(super, root, flags, source);

	if (!mount)
		return -ENOMEM;
	if (point)
		mount_attach(mount, point);
	else
		list_add(&vfs.mounts, &mount->all);
	return 0;
}

struct mount *mount_after(u32 id)
{
	struct mount *found = NULL;

	LIST_EACH(at, &vfs.mounts) {
		struct mount *mount = CONTAINER(at, struct mount, all);

		if (mount->id > id && (!found || mount->id < found->id))
			found = mount;
	}
	if (found)
		mount_get(found);
	return found;
}

/* Whether the place of a mount, or the mount itself, is a path or lies below it. */
bool mount_is_below(const struct mount *mount, const struct path *above)
{
	for (; mount != above->mount; mount = mount->parent)
		if (!mount->parent)
			return false;
		else if (mount->parent == above->mount)
			return dentry_above(above->dentry, mount->point);
	return above->dentry == mount->root;
}

/* What is mounted on a place last; borrowed. */
static struct mount *mount_on(const struct path *path)
{
	for (struct list *at = vfs.mounts.previous; at != &vfs.mounts; at = at->previous) {
		struct mount *mount = CONTAINER(at, struct mount, all);

		if (mount->parent == path->mount && mount->point == path->dentry)
			return mount;
	}
	return NULL;
}

void path_enter_mounts(struct path *path)
{
	while (path->dentry->mounted) {
		struct mount *mount = mount_on(path);

		if (!mount)
			return;
		mount_get(mount);
		dentry_get(mount->root);
		path_replace(path, (struct path){ mount, mount->root });
	}
}

int mount_writable(const struct mount *mount)
{
	return (mount->flags | mount->super->flags) & MS_RDONLY ? -EROFS : 0;
}
