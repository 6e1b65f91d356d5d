// SPDX-License-Identifier: Apache-2.0
/* The first file system, and the archive that it is filled from (cpio in the "newc" format). */
#include "../fuse/fuse.h"
#include "../space.h"
#include "../tty/tty.h"
#include "caller.h"
#include "device.h"
#include "overlay.h"
#include "synthetic.h"
#include "tmpfs.h"
#include "walk.h"

const char *text_join(char *to, u64 size, const char *directory, const char *name)
{
	u64 used = 0;

	while (*directory && used + 2 < size)
		to[used++] = *directory++;
	to[used++] = '/';
	while (*name && used + 1 < size)
		to[used++] = *name++;
	to[used] = 0;
	return to;
}

enum kind { DIRECTORY, NODE, LINK };

static int make(const char *name, enum kind kind, u32 mode, u64 device, const char *target)
{
	struct walk w = { .flags = 0 };
	struct dentry *dentry = NULL;
	int error = walk_core(&w, name, WALK_PARENT);

	if (!error)
		error = walk_new(&w, false, &dentry);
	if (!error) {
		struct inode *directory = w.at.dentry->inode;
		const struct inode_operations *operations = directory->operations;

		error = -EPERM; /* a directory like those of /proc */
		if (kind == DIRECTORY && operations->mkdir)
			error = operations->mkdir(directory, dentry, mode);
		else if (kind == NODE && operations->create)
			error = operations->create(directory, dentry, mode, device);
		else if (kind == LINK && operations->symlink)
			error = operations->symlink(directory, dentry, target);
		inode_unlock(directory);
	}
	dentry_put(dentry);
	walk_end(&w);
	return error;
}

int core_mkdir(const char *name, u32 mode)
{
	int error = make(name, DIRECTORY, mode, 0, NULL);

	return error == -EEXIST ? 0 : error;
}

int core_mknod(const char *name, u32 mode, u64 device)
{
	return make(name, NODE, mode, device, NULL);
}

int core_symlink(const char *target, const char *name)
{
	return make(name, LINK, 0, 0, target);
}

/* Create a file, or replace the content of an existing one. */
int core_write_file(const char *name, const void *data, u64 size, u32 mode)
{
	struct attributes empty = { .which = ATTR_SIZE };
	int error = make(name, NODE, S_IFREG | mode, 0, NULL);
	struct file *file;
	struct path path;
	s64 done;

	if (error && error != -EEXIST)
		return error;
	error = path_lookup(name, WALK_FOLLOW, &path);
	if (error)
		return error;
	error = file_open(&path, O_WRONLY, &file);
	path_put(&path);
	if (error)
		return error;
	done = inode_change(file->inode, &empty);
	if (!done)
		done = file_write_core(file, data, size, 0);
	file_put(file);
	return done == (s64)size ? 0 : -ENOSPC;
}

int core_make_parents(char *name)
{
	for (u64 i = 1; name[i]; i++) {
		int error;

		if (name[i] != '/')
			continue;
		name[i] = 0;
		error = core_mkdir(name, 0755);
		name[i] = '/';
		if (error)
			return error;
	}
	return 0;
}

/* -- the archive -- */

struct header {
	u8 magic[6];
	u8 inode[8], mode[8], user[8], group[8], links[8], time[8], size[8], major[8], minor[8], device_major[8];
	u8 device_minor[8], name_size[8], check[8];
};

_Static_assert(sizeof(struct header) == 110, "as the format has it");

/* False: not eight hexadecimal digits. */
static bool number(const u8 *text, u32 *value)
{
	*value = 0;
	for (u32 i = 0; i < 8; i++) {
		u8 c = text[i] | 0x20;

		if (c >= '0' && c <= '9')
			*value = *value << 4 | (u32)(c - '0');
		else if (c >= 'a' && c <= 'f')
			*value = *value << 4 | (u32)(c - 'a' + 10);
		else
			return false;
	}
	return true;
}

struct member {
	char *name; /* absolute, in a page */
	u32 mode, user, group, time, device;
	const u8 *data;
	u64 size;
};

static int set_owner(const struct member *member)
{
	struct attributes new = { .which = ATTR_MODE | ATTR_USER | ATTR_GROUP | ATTR_ACCESSED | ATTR_MODIFIED };
	struct path path;
	int error = path_lookup(member->name, 0, &path);

	if (error)
		return error;
	new.mode = member->mode & 07777;
	new.user = member->user;
	new.group = member->group;
	new.accessed.seconds = new.modified.seconds = member->time;
	if (S_ISLNK(member->mode))
		new.which &= ~(u32)ATTR_MODE;
	inode_apply(path.dentry->inode, &new);
	path_put(&path);
	return 0;
}

static int link_target(const struct member *member)
{
	char *target = page_alloc();
	int error;

	if (!target || member->size >= PAGE) {
		page_free(target);
		return -ENOMEM;
	}
	bytes_copy(target, member->data, member->size);
	error = core_symlink(target, member->name);
	page_free(target);
	return error;
}

static int unpack(struct member *member)
{
	int error = core_make_parents(member->name);

	if (error)
		return error;
	switch (member->mode & S_IFMT) {
	case S_IFDIR: error = core_mkdir(member->name, member->mode & 07777); break;
	case S_IFREG: error = core_write_file(member->name, member->data, member->size, member->mode & 07777); break;
	case S_IFLNK: error = link_target(member); break;
	default: error = core_mknod(member->name, member->mode, member->device);
	}
	if (error == -EEXIST)
		error = 0;
	return error ? error : set_owner(member);
}

/* Read the header at a place in the archive; where its data begins, or 0. */
static u64 parse(const u8 *archive, u64 size, u64 at, struct member *member, u32 *name_size)
{
	const struct header *header = (const struct header *)(archive + at);
	u32 length, major, minor;
	u64 data;

	if (size - at < sizeof(*header) || !bytes_equal(header->magic, "07070", 5))
		return 0;
	if (!number(header->name_size, name_size) || !number(header->size, &length) || !number(header->mode, &member->mode) ||
	    !number(header->user, &member->user) || !number(header->group, &member->group) ||
	    !number(header->time, &member->time) || !number(header->device_major, &major) ||
	    !number(header->device_minor, &minor))
		return 0;
	member->device = (u32)MAKE_DEVICE(major, minor);
	data = (at + sizeof(*header) + *name_size + 3) & -4ull;
	if (!*name_size || *name_size >= PAGE - 1 || data > size || length > size - data)
		return 0;
	member->data = archive + data;
	member->size = length;
	return data;
}

const char *archive_unpack(const u8 *archive, u64 size)
{
	static const char trailer[] = "TRAILER!!!";
	struct member member = { .name = page_alloc() };
	const char *why = member.name ? NULL : "the archive does not fit into memory";
	u64 at = 0;

	while (!why) {
		u32 name_size;
		u64 data = at < size ? parse(archive, size, at, &member, &name_size) : 0;
		const char *name = (const char *)archive + at + sizeof(struct header);

		if (!data) {
			why = "the archive of the root is damaged";
			break;
		}
		if (name_size == sizeof(trailer) && bytes_equal(name, trailer, sizeof(trailer)))
			break;
		member.name[0] = '/';
		bytes_copy(member.name + 1, name, name_size);
		member.name[name_size] = 0;
		if (unpack(&member))
			why = "the archive of the root cannot be unpacked";
		at = (data + member.size + 3) & -4ull;
	}
	page_free(member.name);
	return why;
}

/* -- the start -- */

static const struct {
	const char *name;
	u32 mode;
	const char *type; /* of a file system that is mounted there; NULL: none */
	bool needed;	  /* in a root of the host with a scratch layer, too */
} directories[] = {
	{ "/dev", 0755, "devtmpfs", true }, { "/dev/shm", 01777, "tmpfs", false }, { "/dev/pts", 0755, "devpts", false },
	{ "/proc", 0555, "proc", true },    { "/sys", 0555, "sysfs", true },       { "/tmp", 01777, NULL, true },
	{ "/run", 0755, NULL, false },	    { "/root", 0700, NULL, false },	   { "/etc", 0755, NULL, false },
};

int core_mount(struct super *super, const char *name, u32 flags, const char *source)
{
	struct path point;
	int error = super ? path_lookup(name, WALK_FOLLOW, &point) : -ENOMEM;

	if (error) {
		super_put(super);
		return error;
	}
	dentry_get(super->root);
	error = mount_add(super, super->root, &point, flags, source);
	path_put(&point);
	return error;
}

static struct super *new_super(const char *type, u32 mode)
{
	if (strings_equal(type, "proc"))
		return proc_new(SANDBOX_PIDS);
	if (strings_equal(type, "devpts"))
		return devpts_super();
	return strings_equal(type, "sysfs") ? sys_new() : tmpfs_new(type, mode);
}

static int make_directories(void)
{
	for (u32 i = 0; i < ARRAY_SIZE(directories); i++) {
		int error = core_mkdir(directories[i].name, directories[i].mode);

		if (!error && directories[i].type)
			error = core_mount(new_super(directories[i].type, directories[i].mode), directories[i].name, 0,
					   directories[i].type);
		if (error)
			return error;
	}
	return 0;
}

/* Copy a host path into a page and make its parent directories; NULL on an error. */
static char *name_from_host(const char *path)
{
	u64 size = string_size(path) + 1;
	char *name = size < PAGE && path[0] == '/' ? page_alloc() : NULL;

	if (!name)
		return NULL;
	bytes_copy(name, path, size);
	if (!core_make_parents(name))
		return name;
	page_free(name);
	return NULL;
}

/* Write the first program to its real path on the host, and link the path by which it was named to it. */
static int put_program(const struct core_config *config)
{
	char *name = name_from_host(config->real_path);
	int error = name ? core_write_file(name, config->program, config->program_size, 0755) : -ENOMEM;

	page_free(name);
	name = error ? NULL : name_from_host(config->path);
	if (name)
		core_symlink(config->real_path, name); /* it may be there: the same name, or another link */
	page_free(name);
	return error;
}

static const char *root_in_memory(void)
{
	struct super *super = tmpfs_new("rootfs", 0755);

	if (!super)
		return "the sandbox has too little memory";
	dentry_get(super->root);
	return mount_add(super, super->root, NULL, 0, "rootfs") ? "the sandbox has too little memory" : NULL;
}

/* Put a scratch layer above the root: changes stay in memory, and every mount point can be made. */
static const char *cover_root(void)
{
	const char *why = overlay_cover_root();

	if (why)
		return why;
	fs_put(vfs.fs);
	vfs.fs = fs_new();
	return vfs.fs ? NULL : "the sandbox has too little memory";
}

/* Mount /dev, /proc and /sys on a root from the host, as far as it has these directories. */
static const char *dress_root(void)
{
	bool has_dev = !core_mount(tmpfs_new("devtmpfs", 0755), "/dev", 0, "devtmpfs");

	core_mount(proc_new(SANDBOX_PIDS), "/proc", 0, "proc");
	core_mount(sys_new(), "/sys", 0, "sysfs");
	if (has_dev && (devices_make("/dev") || core_mkdir("/dev/pts", 0755) ||
			core_mount(devpts_super(), "/dev/pts", 0, "devpts") || core_mkdir("/dev/shm", 01777) ||
			core_mount(tmpfs_new("tmpfs", 01777), "/dev/shm", 0, "tmpfs")))
		return "the devices of the root cannot be made";
	return NULL;
}

static bool lies_in_tmp(const char *name)
{
	return name && string_size(name) >= 4 && bytes_equal(name, "/tmp", 4) && (!name[4] || name[4] == '/');
}

/* A directory of the host as the root. The host's /tmp is hidden, unless the program or its current directory is there. */
static const char *root_of_host(const struct core_config *config)
{
	const bool hides_tmp = config->scratch && !lies_in_tmp(config->path) && !lies_in_tmp(config->directory);
	const char *why = config->scratch ? cover_root() : NULL;

	if (why)
		return why;
	for (u32 i = 0; config->scratch && i < ARRAY_SIZE(directories); i++)
		if (directories[i].needed)
			core_mkdir(directories[i].name, directories[i].mode);
	why = dress_root();
	if (!why && hides_tmp && core_mount(tmpfs_new("tmpfs", 01777), "/tmp", 0, "tmpfs"))
		why = "/tmp cannot be mounted";
	return why;
}

static const char *fill_root(const struct core_config *config)
{
	const char *why = config->root ? archive_unpack(config->root, config->root_size) : NULL;

	if (!why && config->scratch)
		why = cover_root();
	if (!why && make_directories())
		why = "the root cannot be filled";
	if (!why && devices_make("/dev"))
		why = "the devices of the root cannot be made";
	if (!why && config->program && put_program(config))
		why = "the program does not fit into the root";
	return why;
}

const char *root_init(const struct core_config *config)
{
	const bool of_host = fuse_root && !config->control;
	const char *why;

	bytes_zero(&vfs, sizeof(vfs));
	list_init(&vfs.unused);
	list_init(&vfs.mounts);
	vfs.last_mount = 20;
	why = of_host ? fuse_mount_root() : root_in_memory();
	if (why)
		return why;
	vfs.fs = fs_new();
	if (!vfs.fs)
		return "the sandbox has too little memory";
	return of_host ? root_of_host(config) : fill_root(config);
}
