// SPDX-License-Identifier: Apache-2.0
/*
 * What a container sees: its root, the mounts of its specification in it, and /dev.
 *
 * The root is a mount in the agent's tree, at RUN as those of all containers.  Destinations are resolved from the
 * container's root, so that a link in an image leads nowhere else; sources from the agent's.
 */
#include "container.h"

#include "../erofs/erofs.h"
#include "../fuse/fuse.h"
#include "../vfs/device.h"
#include "../vfs/mount.h"
#include "../vfs/synthetic.h"

#define RUN "/run/sentry"
#define ROOTS "/run/kata-containers/" /* where the runtime puts the layers of a root, in a directory of the container's id */
enum { OPTIONS_MOST = PAGE };

static struct path run; /* before anything is mounted there */

/* A mount of the specification, or a storage. */
struct wish {
	char *destination, *source, *type;
	struct text data; /* options for the file system, between commas */
	u32 flags;
	bool bind, deep;
};

static const struct {
	const char *name;
	u32 set, clear;
} words[] = {
	{ "ro", MS_RDONLY, 0 }, { "rw", 0, MS_RDONLY }, { "nosuid", MS_NOSUID, 0 }, { "suid", 0, MS_NOSUID },
	{ "nodev", MS_NODEV, 0 }, { "dev", 0, MS_NODEV }, { "noexec", MS_NOEXEC, 0 }, { "exec", 0, MS_NOEXEC },
	{ "noatime", MS_NOATIME, 0 }, { "atime", 0, MS_NOATIME }, { "nodiratime", MS_NODIRATIME, 0 },
	{ "diratime", 0, MS_NODIRATIME }, { "strictatime", MS_STRICTATIME, 0 }, { "relatime", 0, MS_STRICTATIME },
	{ "rro", MS_RDONLY, 0 }, { "private", 0, 0 }, { "rprivate", 0, 0 }, { "slave", 0, 0 }, { "rslave", 0, 0 },
	{ "unbindable", 0, 0 }, { "runbindable", 0, 0 }, { "defaults", 0, 0 }, { "tmpcopyup", 0, 0 },
};

/* -- names in a container's root -- */

struct place {
	struct fs_context *before;
};

static struct place enter(const struct container *container)
{
	struct place place = { core.current->fs };

	core.current->fs = container->fs;
	return place;
}

static void leave(struct place place)
{
	core.current->fs = place.before;
}

/* Find a mount point, and make what is missing: a directory, or a file. */
int point_make(const char *name, bool directory, struct path *point)
{
	char *copy = string_size(name) < PAGE ? page_alloc() : NULL;
	int error = copy ? 0 : -ENOMEM;

	if (!error && !path_lookup(name, WALK_FOLLOW, point)) {
		page_free(copy);
		return 0;
	}
	if (!error) {
		bytes_copy(copy, name, string_size(name));
		error = core_make_parents(copy);
	}
	if (!error)
		error = directory ? core_mkdir(copy, 0755) : core_mknod(copy, S_IFREG | 0644, 0);
	if (!error)
		error = path_lookup(name, WALK_FOLLOW, point);
	page_free(copy);
	return error;
}

static bool is_directory(const struct path *path)
{
	return S_ISDIR(path->dentry->inode->mode);
}

/* Add flags to the mount at a name. */
static int change_flags(const char *name, u32 flags)
{
	struct path path;
	int error = path_lookup(name, WALK_FOLLOW, &path);

	if (error)
		return error;
	path.mount->flags = (path.mount->flags | flags) & MS_KEPT;
	path_put(&path);
	return 0;
}

/* -- mounts of a specification -- */

static void wish_option(struct wish *wish, const struct reader *option)
{
	if (reader_is(option, "bind") || reader_is(option, "rbind")) {
		wish->bind = true;
		wish->deep = reader_is(option, "rbind");
		return;
	}
	for (u32 i = 0; i < ARRAY_SIZE(words); i++)
		if (reader_is(option, words[i].name)) {
			wish->flags = (wish->flags & ~words[i].clear) | words[i].set;
			return;
		}
	if (wish->data.size + reader_size(option) + 2 > OPTIONS_MOST)
		return;
	text_put(&wish->data, wish->data.size ? "," : "");
	text_bytes(&wish->data, option->at, reader_size(option));
}

static void wish_free(struct wish *wish)
{
	kfree(wish->destination);
	kfree(wish->source);
	kfree(wish->type);
	text_free(&wish->data);
}

/* By the numbers of the fields, which differ between a mount and a storage. */
static s64 wish_read(struct reader r, struct wish *wish, u32 destination, u32 source, u32 type, u32 options)
{
	struct field field;

	*wish = (struct wish){ .flags = 0 };
	while (field_next(&r, &field)) {
		char **to = field.number == destination ? &wish->destination : field.number == source ? &wish->source :
			    field.number == type ? &wish->type : NULL;

		if (to) {
			kfree(*to);
			*to = reader_text(&field.bytes);
		} else if (field.number == options) {
			wish_option(wish, &field.bytes);
		}
	}
	wish->bind = wish->bind || (wish->type && strings_equal(wish->type, "bind"));
	text_bytes(&wish->data, "", 1);
	return wish->destination && *wish->destination == '/' && !r.broken && !wish->data.failed ? 0 : -EINVAL;
}

static s64 bind_wish(const struct container *container, const struct wish *wish)
{
	struct path from, point;
	struct place place;
	s64 error = wish->source ? path_lookup(wish->source, WALK_FOLLOW, &from) : -EINVAL;

	if (error)
		return error;
	place = enter(container);
	error = point_make(wish->destination, is_directory(&from), &point);
	if (!error) {
		error = mount_bind(&from, &point, wish->deep);
		path_put(&point);
	}
	if (!error && wish->flags)
		error = change_flags(wish->destination, wish->flags);
	leave(place);
	path_put(&from);
	return error;
}

/* The file system for a type: some that the core lacks become empty directories. */
static const char *type_of(const struct wish *wish)
{
	static const char *const empty[] = { "mqueue", "ramfs" };

	for (u32 i = 0; i < ARRAY_SIZE(empty); i++)
		if (wish->type && strings_equal(wish->type, empty[i]))
			return "tmpfs";
	if (wish->type && strings_equal(wish->type, "cgroup"))
		return "cgroup2";
	return wish->type ? wish->type : "none";
}

/* A file system of that type; /proc shows the processes of the container's namespace. */
static s64 mount_new_type(const struct container *container, const struct wish *wish, char *options, const struct path *point)
{
	struct super *super;

	if (!wish->type || !strings_equal(wish->type, "proc"))
		return mount_type(type_of(wish), options, wish->flags, point);
	super = proc_new(container->spaces[SPACE_PID]->number);
	if (!super)
		return -ENOMEM;
	dentry_get(super->root);
	return mount_add(super, super->root, point, wish->flags, "proc");
}

static s64 mount_wish(const struct container *container, const struct wish *wish)
{
	const bool in_memory = wish->type && strings_equal(wish->type, "tmpfs");
	struct place place = enter(container);
	struct path point;
	char none[] = "";
	s64 error = point_make(wish->destination, true, &point);

	if (!error) {
		error = mount_new_type(container, wish, in_memory ? wish->data.data : none, &point);
		path_put(&point);
	}
	leave(place);
	return error;
}

static s64 add_mount(struct call *call, struct container *container, struct reader message)
{
	struct wish wish;
	s64 error = wish_read(message, &wish, Mount_destination, Mount_source, Mount_type, Mount_options);

	if (!error)
		error = wish.bind ? bind_wish(container, &wish) : mount_wish(container, &wish);
	if (error) {
		call_fail(call, STATUS_INTERNAL, "mount at ", wish.destination ? wish.destination : "?", ": ");
		text_put(&call->why, error_text(error));
	}
	wish_free(&wish);
	return error;
}

/* -- /dev, and paths that are hidden or read-only -- */

/* Add a device of the specification, where /dev is the container's own. */
static s64 add_device(struct reader message)
{
	struct field field;
	struct path path;
	struct attributes new = { .which = ATTR_MODE | ATTR_USER | ATTR_GROUP, .mode = 0666 };
	u64 major = 0, minor = 0;
	u32 type = S_IFCHR;
	char *name = NULL;
	s64 error;

	while (field_next(&message, &field))
		switch (field.number) {
		case LinuxDevice_Path:
			kfree(name);
			name = reader_text(&field.bytes);
			break;
		case LinuxDevice_Type: type = reader_is(&field.bytes, "p") ? S_IFIFO : S_IFCHR; break;
		case LinuxDevice_Major: major = field.value; break;
		case LinuxDevice_Minor: minor = field.value; break;
		case LinuxDevice_FileMode: new.mode = field.value & 07777; break;
		case LinuxDevice_UID: new.user = (u32)field.value; break;
		case LinuxDevice_GID: new.group = (u32)field.value; break;
		}
	error = name ? core_make_parents(name) : -EINVAL;
	if (!error)
		error = core_mknod(name, type | new.mode, type == S_IFCHR ? MAKE_DEVICE(major, minor) : 0);
	if (error == -EEXIST) /* one that every container has */
		error = 0;
	if (!error && !path_lookup(name, 0, &path)) {
		new.mode |= path.dentry->inode->mode & S_IFMT;
		error = inode_setattr(path.dentry->inode, &new);
		path_put(&path);
	}
	kfree(name);
	return error;
}

static s64 add_devices(struct reader linux_part)
{
	struct field field;
	s64 error = 0;

	while (!error && field_next(&linux_part, &field))
		if (field.number == Linux_Devices)
			error = add_device(field.bytes);
	return error;
}

/* In a file system in memory alone: a root of the host has the devices of its image, or none. */
static s64 fill_dev(struct reader linux_part)
{
	struct path path;
	bool own;

	if (path_lookup("/dev", WALK_FOLLOW, &path))
		return 0;
	own = path.dentry->super->pinned;
	if (own)
		devices_make("/dev");
	path_put(&path);
	return own ? add_devices(linux_part) : 0;
}

static s64 hide(const char *name)
{
	struct path point, null;
	char none[] = "";
	s64 error;

	if (path_lookup(name, WALK_FOLLOW, &point))
		return 0;
	if (is_directory(&point)) {
		error = mount_type("tmpfs", none, MS_RDONLY, &point);
	} else {
		error = path_lookup("/dev/null", WALK_FOLLOW, &null);
		if (!error) {
			error = mount_bind(&null, &point, false);
			path_put(&null);
		}
	}
	path_put(&point);
	return error;
}

static s64 protect(const char *name)
{
	struct path path;
	s64 error;

	if (path_lookup(name, WALK_FOLLOW, &path))
		return 0;
	error = mount_bind(&path, &path, true);
	path_put(&path);
	return error ? error : change_flags(name, MS_RDONLY);
}

static s64 restrict_paths(struct reader linux_part)
{
	struct field field;
	s64 error = 0;

	while (!error && field_next(&linux_part, &field)) {
		bool hidden = field.number == Linux_MaskedPaths;
		char *name = hidden || field.number == Linux_ReadonlyPaths ? reader_text(&field.bytes) : NULL;

		if (name)
			error = hidden ? hide(name) : protect(name);
		kfree(name);
	}
	return error;
}

/* -- the root -- */

int roots_init(void)
{
	int error = core_mkdir(RUN, 0700);

	return error ? error : path_lookup(RUN, 0, &run);
}

/* Mount the root in the agent's tree. */
static s64 mount_root_of(struct container *container, const char *source)
{
	struct path from, point;
	s64 error = path_lookup(source, WALK_FOLLOW | WALK_DIRECTORY, &from);

	if (error)
		return error;
	error = mount_bind(&from, &run, true);
	path_put(&from);
	if (error)
		return error;
	container->fs = fs_copy(core.current->fs);
	if (!container->fs)
		return -ENOMEM;
	error = path_lookup(RUN, 0, &point); /* the last mount there: one container is made at a time */
	if (error)
		return error;
	container->root = point.mount;
	mount_get(container->root);
	path_get(&point);
	path_replace(&container->fs->root, point);
	path_replace(&container->fs->cwd, point);
	return 0;
}

static s64 find_root(struct call *call, struct container *container, struct reader message, bool *read_only)
{
	struct field field;
	char *source = NULL;
	s64 error;

	while (field_next(&message, &field)) {
		if (field.number == Root_Readonly) {
			*read_only = field.value;
		} else if (field.number == Root_Path) {
			kfree(source);
			source = reader_text(&field.bytes);
		}
	}
	error = source ? mount_root_of(container, source) : -EINVAL;
	if (error) {
		call_fail(call, STATUS_INTERNAL, "the root ", source ? source : "?", ": ");
		text_put(&call->why, error_text(error));
	}
	kfree(source);
	return error;
}

s64 root_make(struct call *call, struct container *container, struct reader spec)
{
	struct reader r, root = reader_part(spec, Spec_Root);
	bool read_only = false;
	struct field field;
	struct place place;
	s64 error;

	error = find_root(call, container, root, &read_only);
	for (r = spec; !error && field_next(&r, &field);)
		if (field.number == Spec_Mounts)
			error = add_mount(call, container, field.bytes);
	if (error)
		return error;
	place = enter(container);
	error = fill_dev(reader_part(spec, Spec_Linux));
	if (!error)
		error = restrict_paths(reader_part(spec, Spec_Linux));
	leave(place);
	if (read_only)
		container->root->flags |= MS_RDONLY;
	return error;
}

static void unmount(const char *name)
{
	struct mount *mount;
	struct path path;

	if (path_lookup(name, WALK_FOLLOW, &path))
		return;
	mount = path.dentry == path.mount->root && path.mount->parent ? path.mount : NULL;
	if (mount)
		mount_get(mount);
	path_put(&path);
	if (!mount)
		return;
	mount_remove(mount);
	mount_put(mount);
}

/* Unmount what its root is made of: the upper layer returns its memory. */
static void remove_layers(const struct container *container)
{
	static const char *const names[] = { "/rootfs", "/layer", "/disk" };

	for (u32 i = 0; i < ARRAY_SIZE(names); i++) {
		struct text name = { .size = 0 };

		text_put(&name, ROOTS);
		text_put(&name, container->id);
		text_put(&name, names[i]);
		text_bytes(&name, "", 1);
		if (!name.failed)
			unmount(name.data);
		text_free(&name);
	}
}

void root_remove(struct container *container)
{
	struct mount *root = container->root;

	container->root = NULL;
	if (container->fs)
		fs_put(container->fs);
	container->fs = NULL;
	if (root) {
		mount_remove(root);
		mount_put(root);
	}
	remove_layers(container);
	if (fuse_root && fuse_root->super)
		dentry_forget(fuse_root->super); /* the host may use the names again, for other files */
}

/* -- storages: in the agent's tree, for all containers -- */

/* Show the files of an image, which is a file of the host. */
static s64 mount_image(const struct wish *wish, const struct path *point)
{
	struct super *super;
	struct path image;
	s64 error = wish->source ? path_lookup(wish->source, WALK_FOLLOW, &image) : -EINVAL;

	if (error)
		return error;
	error = erofs_new(image.dentry->inode, &super);
	path_put(&image);
	if (error)
		return error;
	dentry_get(super->root);
	return mount_add(super, super->root, point, wish->flags, "image");
}

static s64 make_directory(char *name)
{
	s64 error = core_make_parents(name);

	return error ? error : core_mkdir(name, 0755);
}

/* An overlay, whose directories for changes are made first. */
static s64 mount_layers(const struct wish *wish, const struct path *point)
{
	char *options = kmalloc(wish->data.size), *rest = options, *value;
	s64 error = options ? 0 : -ENOMEM;

	if (options)
		bytes_copy(options, wish->data.data, wish->data.size);
	while (!error && *rest) {
		char *option = option_next(&rest, ',');

		if ((value = option_value(option, "upperdir=")) || (value = option_value(option, "workdir=")))
			error = make_directory(value);
	}
	kfree(options);
	return error ? error : mount_type("overlay", wish->data.data, wish->flags, point);
}

static s64 mount_wanted(const struct wish *wish, const struct path *point)
{
	struct super *super;

	if (strings_equal(wish->type, "erofs"))
		return mount_image(wish, point);
	if (strings_equal(wish->type, "overlayfs"))
		return mount_layers(wish, point);
	if (strings_equal(wish->type, "ephemeral") || strings_equal(wish->type, "local"))
		return mount_type("tmpfs", wish->data.data, wish->flags, point);
	if (!strings_equal(wish->type, "virtio-fs"))
		return -ENODEV;
	super = fuse_super();
	if (!super)
		return -ENODEV;
	dentry_get(super->root);
	return mount_add(super, super->root, point, wish->flags, "share");
}

/* The type is the storage's driver. */
s64 mount_storage(struct call *call, struct reader message)
{
	struct wish wish;
	struct path point;
	s64 error = wish_read(message, &wish, Storage_mount_point, Storage_source, Storage_driver, Storage_options);

	if (!error && !wish.type)
		error = -EINVAL;
	if (!error)
		error = point_make(wish.destination, true, &point);
	if (!error) {
		if (point.dentry != point.mount->root) /* otherwise another container has mounted it */
			error = mount_wanted(&wish, &point);
		path_put(&point);
	}
	if (error) {
		call_fail(call, STATUS_INTERNAL, "the storage ", wish.type ? wish.type : "?", ": ");
		text_put(&call->why, error_text(error));
	}
	wish_free(&wish);
	return error;
}
