// SPDX-License-Identifier: Apache-2.0
/* File systems that programs can mount, by their types and options. */
#include "mount.h"

#include "../space.h"
#include "../tty/tty.h"
#include "overlay.h"
#include "synthetic.h"
#include "tmpfs.h"

char *option_next(char **rest, char separator)
{
	char *option = *rest;

	while (**rest && **rest != separator)
		++*rest;
	if (**rest)
		*(*rest)++ = 0;
	return option;
}

char *option_value(char *option, const char *name)
{
	while (*name && *option == *name)
		option++, name++;
	return *name ? NULL : option;
}

static int new_tmpfs(char *options, struct super **super)
{
	int error;

	*super = tmpfs_new("tmpfs", 01777);
	if (!*super)
		return -ENOMEM;
	error = tmpfs_options(*super, options);
	if (error)
		super_put(*super);
	return error;
}

/* -- overlay -- */

struct names {
	char *upper, *work, *lower;
};

/* Options that select the only behaviour of an overlay here, or have no effect. */
static bool is_accepted(const char *option)
{
	static const char *const all[] = {
		"index=on", "index=off", "redirect_dir=off", "redirect_dir=nofollow", "redirect_dir=follow", "metacopy=off",
		"xino=on", "xino=off", "xino=auto", "uuid=on", "uuid=off", "uuid=null", "uuid=auto", "volatile",
	};

	for (u32 i = 0; i < ARRAY_SIZE(all); i++)
		if (strings_equal(all[i], option))
			return true;
	return false;
}

static int split_options(char *options, struct names *names)
{
	while (*options) {
		char *option = option_next(&options, ','), *value;

		if ((value = option_value(option, "upperdir=")))
			names->upper = value;
		else if ((value = option_value(option, "workdir=")))
			names->work = value;
		else if ((value = option_value(option, "lowerdir=")))
			names->lower = value;
		else if (*option && !is_accepted(option))
			return -EINVAL;
	}
	return 0;
}

/* Open a directory in a mount of its own: that of the name can be unmounted. *path is zeros at first. */
static int open_layer(const char *name, struct path *path)
{
	struct path found;
	int error = path_lookup(name, WALK_FOLLOW, &found);

	if (error)
		return error;
	if (!S_ISDIR(found.dentry->inode->mode))
		error = -ENOTDIR;
	else if (found.dentry->super->operations->revalidate && !found.dentry->super->operations->sync)
		/* Its files appear and disappear by themselves. In a directory of the host, they may not: as on Linux. */
		error = -EINVAL;
	else if (found.dentry->super->depth == OVERLAY_DEPTH)
		error = -EINVAL;
	if (!error) {
		path->mount = mount_copy(found.mount, found.dentry);
		error = path->mount ? 0 : -ENOMEM;
	}
	if (!error) {
		path->dentry = found.dentry;
		dentry_get(path->dentry);
	}
	path_put(&found);
	return error;
}

struct layers {
	struct path lower[OVERLAY_LOWERS], upper, work;
	u32 count;
};

static int open_lower(char *names, struct layers *layers)
{
	int error = 0;

	while (!error && *names) {
		const char *name = option_next(&names, ':');

		if (!*name || layers->count == OVERLAY_LOWERS)
			return -EINVAL;
		error = open_layer(name, &layers->lower[layers->count]);
		layers->count += !error;
	}
	return error;
}

/* Open upperdir and workdir: both in one tmpfs, and neither inside the other. */
static int open_upper(const struct names *names, struct layers *layers)
{
	int error = open_layer(names->upper, &layers->upper);

	if (!error)
		error = mount_writable(layers->upper.mount);
	if (!error)
		error = open_layer(names->work, &layers->work);
	if (error)
		return error;
	if (!layers->upper.dentry->super->pinned || layers->upper.dentry->super != layers->work.dentry->super ||
	    dentry_above(layers->upper.dentry, layers->work.dentry) || dentry_above(layers->work.dentry, layers->upper.dentry))
		return -EINVAL;
	return 0;
}

static int open_all(struct names *names, struct layers *layers)
{
	int error;

	if (!names->lower || (names->upper && !names->work))
		return -EINVAL;
	error = names->upper ? open_upper(names, layers) : 0;
	if (!error)
		error = open_lower(names->lower, layers);
	return !error && !names->upper && layers->count < 2 ? -EINVAL : error;
}

static int new_overlay(char *options, struct super **super)
{
	struct names names = { .lower = NULL };
	struct layers *layers = kmalloc(sizeof(*layers));
	struct overlay_options all = { .scratch = false };
	char *text = page_alloc();
	int error = layers && text ? 0 : -ENOMEM;

	if (!error) {
		bytes_copy(text, options, string_size(options) + 1);
		error = split_options(options, &names);
	}
	if (!error)
		error = open_all(&names, layers);
	if (!error) {
		all.upper = names.upper ? &layers->upper : NULL;
		all.lower = layers->lower;
		all.count = layers->count;
		all.text = text;
		error = overlay_new(&all, super);
	}
	if (layers) {
		path_put(&layers->upper);
		path_put(&layers->work);
		while (layers->count)
			path_put(&layers->lower[--layers->count]);
	}
	kfree(layers);
	page_free(text);
	return error;
}

/* -- all types -- */

static struct super *mounted(const char *type)
{
	LIST_EACH(at, mount_list()) {
		struct super *super = CONTAINER(at, struct mount, all)->super;

		if (!strings_equal(super->type, type))
			continue;
		reference_get(&super->references);
		return super;
	}
	return NULL;
}

int super_by_type(const char *type, char *options, struct super **super)
{
	if (strings_equal(type, "tmpfs"))
		return new_tmpfs(options, super);
	if (strings_equal(type, "overlay"))
		return new_overlay(options, super);
	if (strings_equal(type, "proc"))
		*super = proc_new(core.current ? core.current->process->pids : SANDBOX_PIDS);
	else if (strings_equal(type, "sysfs"))
		*super = sys_new();
	else if (strings_equal(type, "cgroup2"))
		*super = cgroup_new();
	else if (strings_equal(type, "devpts"))
		*super = devpts_super();
	else if (!strings_equal(type, "devtmpfs") || !(*super = mounted(type)))
		return -ENODEV;
	return *super ? 0 : -ENOMEM;
}
