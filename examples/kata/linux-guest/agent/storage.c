// SPDX-License-Identifier: Apache-2.0
#include "container.h"

#include "relay.h"

#include <dirent.h>
#include <errno.h>
#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

/* The most bytes of options that mount(2) accepts. */
#define MOUNT_DATA 4096
/* Kata's overlay option: a directory to create first, for the upper layer. */
#define CREATE_DIRECTORY "io.katacontainers.volume.overlayfs.create_directory="

/* Of pyvmm itself: a unix socket that is relayed to a vsock port of the host. */
#define SOCKET_DRIVER "unix-socket"

struct mounted {
	struct mounted *next;
	char *mount_point;
	char *serial; /* serial number of the disk, if it was found by that */
	struct relay_listener *socket; /* the relay to a vsock port of the host; NULL for other storages */
	unsigned int users;
	bool is_mount; /* false: only a directory or a disk */
};

static struct mounted *mounts; /* the last mounted one is first */
static gid_t group;

const char *const storage_drivers[] = {
	"virtio-fs", "ephemeral", "local", "blk", "mmioblk", "pmem", "nvdimm", "bind", "overlayfs", SOCKET_DRIVER,
};
const size_t storage_driver_count = ARRAY_SIZE(storage_drivers);

static const struct {
	const char *name;
	unsigned long set, clear;
} flags_of[] = {
	{ "defaults", 0, 0 },
	{ "ro", MS_RDONLY, 0 },
	{ "rw", 0, MS_RDONLY },
	{ "nosuid", MS_NOSUID, 0 },
	{ "suid", 0, MS_NOSUID },
	{ "nodev", MS_NODEV, 0 },
	{ "dev", 0, MS_NODEV },
	{ "noexec", MS_NOEXEC, 0 },
	{ "exec", 0, MS_NOEXEC },
	{ "sync", MS_SYNCHRONOUS, 0 },
	{ "async", 0, MS_SYNCHRONOUS },
	{ "dirsync", MS_DIRSYNC, 0 },
	{ "noatime", MS_NOATIME, 0 },
	{ "atime", 0, MS_NOATIME },
	{ "nodiratime", MS_NODIRATIME, 0 },
	{ "diratime", 0, MS_NODIRATIME },
	{ "relatime", MS_RELATIME, 0 },
	{ "norelatime", 0, MS_RELATIME },
	{ "strictatime", MS_STRICTATIME, 0 },
	{ "bind", MS_BIND, 0 },
	{ "rbind", MS_BIND | MS_REC, 0 },
};

/* Split options of mount(8) into flags and options of the file system. 0 or -errno. */
static int options_parse(char *const *options, size_t count, unsigned long *flags, char data[MOUNT_DATA])
{
	size_t used = 0, i, k;

	data[0] = '\0';
	for (i = 0; i < count; i++) {
		const char *option = text_of(options[i]);

		for (k = 0; k < ARRAY_SIZE(flags_of) && strcmp(option, flags_of[k].name); k++)
			;
		if (k < ARRAY_SIZE(flags_of)) {
			*flags = (*flags & ~flags_of[k].clear) | flags_of[k].set;
			continue;
		}
		if (used + strlen(option) + 2 > MOUNT_DATA)
			return -EINVAL;
		used += sprintf(data + used, "%s%s", used ? "," : "", option);
	}
	return 0;
}

/* The name of the disk with that serial number; 0 or -errno. */
static int disk_look(const char *serial, char name[NAME_MAX + 1])
{
	DIR *directory = opendir("/sys/block");
	struct dirent *entry;
	int error = -ENODEV;

	if (!directory)
		return -errno;
	while (error && (entry = readdir(directory))) {
		char path[PATH_MAX], found[64];

		snprintf(path, sizeof(path), "/sys/block/%s/serial", entry->d_name);
		if (file_read(path, found, sizeof(found)) < 0)
			continue;
		found[strcspn(found, "\n")] = '\0';
		if (!strcmp(found, serial)) {
			strcpy(name, entry->d_name);
			error = 0;
		}
	}
	closedir(directory);
	return error;
}

/* The same, after a rescan of the PCI bus: this kernel has no hot-plug interrupt for new devices. */
static int disk_find(const char *serial, char name[NAME_MAX + 1])
{
	int error = disk_look(serial, name);

	if (error != -ENODEV || file_write("/sys/bus/pci/rescan", "1", 1))
		return error;
	return disk_look(serial, name);
}

int disk_number(const char *serial, dev_t *number)
{
	char name[NAME_MAX + 1], path[PATH_MAX];
	struct stat status;
	int error = disk_find(serial, name);

	if (error)
		return error;
	snprintf(path, sizeof(path), "/dev/%s", name);
	if (stat(path, &status))
		return -errno;
	*number = status.st_rdev;
	return 0;
}

/* Remove a disk from the kernel, so that the host can unplug it. Without PCI it stays. */
static void disk_remove(const char *serial)
{
	char path[PATH_MAX], name[NAME_MAX + 1];

	if (disk_look(serial, name))
		return;
	snprintf(path, sizeof(path), "/sys/block/%s/device/../remove", name);
	file_write(path, "1", 1);
}

static const char *serial_of(const grpc_Storage *storage)
{
	if (strcmp(storage->driver, "blk"))
		return NULL;
	for (size_t i = 0; i < storage->driver_options_count; i++) {
		if (!strncmp(text_of(storage->driver_options[i]), "serial=", 7))
			return storage->driver_options[i] + 7;
	}
	return NULL;
}

static int find_source(const grpc_Storage *storage, char source[PATH_MAX])
{
	const char *named = text_of(storage->source), *serial = serial_of(storage);
	char name[NAME_MAX + 1];

	if (serial) {
		int error = disk_find(serial, name);

		if (!error)
			snprintf(source, PATH_MAX, "/dev/%s", name);
		return error;
	}
	if (strlen(named) >= PATH_MAX)
		return -ENAMETOOLONG;
	strcpy(source, named);
	return 0;
}

static int make_directories(const grpc_Storage *storage)
{
	for (size_t i = 0; i < storage->driver_options_count; i++) {
		const char *option = text_of(storage->driver_options[i]);
		int error;

		if (strncmp(option, CREATE_DIRECTORY, strlen(CREATE_DIRECTORY)))
			continue;
		option += strlen(CREATE_DIRECTORY);
		error = path_is_valid(option) ? directory_make(option, 0755) : -EINVAL;
		if (error)
			return error;
	}
	return 0;
}

static int give_to_group(const char *path, const struct stat *status, int type, struct FTW *where)
{
	(void)where;
	if (type == FTW_SL)
		return lchown(path, -1, group);
	if (chown(path, -1, group))
		return -1;
	return chmod(path, (status->st_mode & 07777) | (S_ISDIR(status->st_mode) ? 02770 : 0660));
}

/* Kubernetes' fsGroup: the volume belongs to the group, and new files inherit it (set-group-ID). */
static int apply_group(const char *path, const grpc_FSGroup *wanted)
{
	struct stat status;

	if (stat(path, &status))
		return -errno;
	if (wanted->group_change_policy == types_FSGroupChangePolicy_OnRootMismatch &&
	    status.st_gid == wanted->group_id && status.st_mode & S_ISGID)
		return 0;
	group = wanted->group_id;
	return nftw(path, give_to_group, 32, FTW_PHYS | FTW_MOUNT) ? -errno : 0;
}

static const char *type_of(const grpc_Storage *storage)
{
	if (text_of(storage->fstype)[0])
		return storage->fstype;
	if (!strcmp(storage->driver, "virtio-fs"))
		return "virtiofs";
	if (!strcmp(storage->driver, "ephemeral"))
		return "tmpfs";
	return !strcmp(storage->driver, "overlayfs") ? "overlay" : "ext4";
}

static int mount_it(const grpc_Storage *storage, char what[256])
{
	char source[PATH_MAX], data[MOUNT_DATA];
	unsigned long flags = 0, later;
	bool bind;
	int error;

	error = find_source(storage, source);
	if (error) {
		snprintf(what, 256, "no such disk");
		return error;
	}
	error = options_parse(storage->options, storage->options_count, &flags, data);
	if (error) {
		snprintf(what, 256, "its options are too long");
		return error;
	}
	error = make_directories(storage);
	if (error) {
		snprintf(what, 256, "make the directories of an overlay");
		return error;
	}
	bind = !strcmp(storage->driver, "bind") || flags & MS_BIND;
	if (bind)
		flags |= MS_BIND;
	if (mount(source, storage->mount_point, bind ? NULL : type_of(storage), flags, bind ? NULL : data)) {
		error = -errno;
		snprintf(what, 256, "mount %.128s of type %.32s", source, bind ? "bind" : type_of(storage));
		return error;
	}
	/* mount(2) applies the flags of a bind mount only in a second call. */
	later = flags & ~(unsigned long)(MS_BIND | MS_REC);
	if (bind && later && mount(NULL, storage->mount_point, NULL, MS_REMOUNT | MS_BIND | later, NULL)) {
		error = -errno;
		umount2(storage->mount_point, MNT_DETACH);
		snprintf(what, 256, "set the flags of the bind mount");
		return error;
	}
	return 0;
}

/* Parse the number after "name=" in the options, in decimal, octal or hexadecimal; 0 or -errno. */
static int option_number(const grpc_Storage *storage, const char *name, unsigned long most, unsigned long *number)
{
	for (size_t i = 0; i < storage->driver_options_count; i++) {
		const char *option = text_of(storage->driver_options[i]);
		size_t length = strlen(name);
		char *end;

		if (strncmp(option, name, length) || option[length] != '=')
			continue;
		*number = strtoul(option + length + 1, &end, 0);
		return *end || end == option + length + 1 || *number > most ? -EINVAL : 0;
	}
	return -EINVAL;
}

static int socket_make(const grpc_Storage *storage, struct mounted *one, char what[256])
{
	unsigned long port, mode, uid, gid;
	struct socket_place place;
	int error = option_number(storage, "port", UINT32_MAX - 1, &port);

	if (!error)
		error = option_number(storage, "mode", 0777, &mode);
	if (!error)
		error = option_number(storage, "uid", UINT32_MAX - 1, &uid);
	if (!error)
		error = option_number(storage, "gid", UINT32_MAX - 1, &gid);
	if (error) {
		snprintf(what, 256, "a socket has port, mode, uid and gid");
		return error;
	}
	place = (struct socket_place){
		.path = storage->mount_point, .port = port, .mode = mode, .uid = uid, .gid = gid,
	};
	error = socket_serve(&place, &one->socket);
	if (error)
		snprintf(what, 256, "listen at the socket");
	return error;
}

/* Nothing is mounted: config.json contains its device number. */
static int device_find(const grpc_Storage *storage, char what[256])
{
	char source[PATH_MAX];
	int error = find_source(storage, source);

	if (error)
		snprintf(what, 256, "no such disk");
	return error;
}

int storage_mount(const grpc_Storage *storage, char what[256])
{
	bool only_directory, is_socket, is_device;
	struct mounted *one;
	size_t i;
	int error;

	for (i = 0; i < storage_driver_count && strcmp(text_of(storage->driver), storage_drivers[i]); i++)
		;
	if (i == storage_driver_count) {
		snprintf(what, 256, "no driver \"%.64s\"", text_of(storage->driver));
		return -EINVAL;
	}
	if (!path_is_valid(storage->mount_point)) {
		snprintf(what, 256, "mount_point is no absolute path");
		return -EINVAL;
	}
	for (one = mounts; one; one = one->next) {
		if (!strcmp(one->mount_point, storage->mount_point)) {
			one->users++;
			return 0;
		}
	}
	is_socket = !strcmp(storage->driver, SOCKET_DRIVER);
	/* A disk that the container uses as a block device, and that is removed with it. */
	is_device = serial_of(storage) && !*text_of(storage->fstype);
	error = is_socket || is_device ? 0 : directory_make(storage->mount_point, 0755);
	if (error) {
		snprintf(what, 256, "make the mount point");
		return error;
	}
	only_directory = !strcmp(storage->driver, "local");
	one = xzalloc(sizeof(*one));
	if (is_socket)
		error = socket_make(storage, one, what);
	else if (is_device)
		error = device_find(storage, what);
	else if (!only_directory)
		error = mount_it(storage, what);
	else if (chmod(storage->mount_point, 0777)) /* an emptyDir is writable by all users */
		error = -errno;
	if (error) {
		free(one);
		return error;
	}
	one->mount_point = xstrdup(storage->mount_point);
	one->serial = serial_of(storage) ? xstrdup(serial_of(storage)) : NULL;
	one->users = 1;
	one->is_mount = !only_directory && !is_socket && !is_device;
	one->next = mounts;
	mounts = one;
	if (storage->has_fs_group) {
		error = apply_group(storage->mount_point, &storage->fs_group);
		if (error) {
			snprintf(what, 256, "give it to the group %u", storage->fs_group.group_id);
			storage_release(storage->mount_point);
		}
	}
	return error;
}

void storage_release(const char *mount_point)
{
	struct mounted **link = &mounts, *one;

	while (*link && strcmp((*link)->mount_point, mount_point))
		link = &(*link)->next;
	one = *link;
	if (!one || --one->users)
		return;
	if (one->socket)
		socket_end(one->socket);
	else if (one->is_mount && umount2(mount_point, 0))
		umount2(mount_point, MNT_DETACH);
	else if (one->serial)
		disk_remove(one->serial);
	*link = one->next;
	free(one->serial);
	free(one->mount_point);
	free(one);
}

void storage_release_all(void)
{
	while (mounts) {
		mounts->users = 1;
		storage_release(mounts->mount_point);
	}
}

struct left {
	struct left *next;
	char *path;
};

static struct left *left; /* directories of deleted containers */

void share_forget(const char *id)
{
	struct left *one = xzalloc(sizeof(*one));

	one->path = xasprintf(SHARE_DIR "/%s", id);
	one->next = left;
	left = one;
}

void share_sweep(void)
{
	struct left **link = &left, *one;
	struct stat status;

	while ((one = *link)) {
		/* Dentries are valid for a second, so the lookup may still succeed. */
		if (!lstat(one->path, &status)) {
			link = &one->next;
			continue;
		}
		*link = one->next;
		free(one->path);
		free(one);
	}
}
