// SPDX-License-Identifier: Apache-2.0
/* Character devices: null, zero, full, random, terminals, and one by which a program tells the host that it is ready. */
#include "device.h"

#include "../tty/tty.h"

#define POINT_DEVICE MAKE_DEVICE(60, 0) /* a number for local use */

static s64 read_nothing(struct file *file, struct io *to, u64 *position)
{
	(void)file, (void)to, (void)position;
	return 0;
}

static s64 write_all(struct file *file, struct io *from, u64 *position)
{
	u64 size = from->left;

	(void)file, (void)position;
	from->left = 0;
	return (s64)size;
}

static s64 write_full(struct file *file, struct io *from, u64 *position)
{
	(void)file, (void)from, (void)position;
	return -ENOSPC;
}

static s64 read_zeros(struct file *file, struct io *to, u64 *position)
{
	const u64 size = to->left, done = io_zero(to, size);

	(void)file, (void)position;
	return done || !size ? (s64)done : -EFAULT;
}

static s64 read_random(struct file *file, struct io *to, u64 *position)
{
	u8 bytes[256];
	u64 done = 0;

	(void)file, (void)position;
	while (to->left) {
		u64 part = to->left < sizeof(bytes) ? to->left : sizeof(bytes), moved;

		core.ops->random(bytes, part);
		moved = io_put(to, bytes, part);
		done += moved;
		if (moved < part)
			return done ? (s64)done : -EFAULT;
	}
	return (s64)done;
}

static s64 write_random(struct file *file, struct io *from, u64 *position)
{
	u8 byte;
	u64 size = from->left;

	(void)file, (void)position;
	while (from->left)
		if (!io_get(from, &byte, 1))
			return from->left < size ? (s64)(size - from->left) : -EFAULT;
	return (s64)size;
}

static s64 write_point(struct file *file, struct io *from, u64 *position)
{
	core.ops->point(POINT_CALL, 0);
	return write_all(file, from, position);
}

static int may_map(struct file *file, u32 prot, u32 flags)
{
	(void)file, (void)prot, (void)flags;
	return 0;
}

static const struct file_operations null_operations = {
	.read = read_nothing, .write = write_all, .seek = file_stay, .nowait = true, .read_simple = true,
};
static const struct file_operations zero_operations = {
	.read = read_zeros, .write = write_all, .seek = file_stay, .nowait = true, .mmap = may_map,
};
static const struct file_operations point_operations = { .read = read_nothing, .write = write_point, .seek = file_stay };
static const struct file_operations full_operations = { .read = read_zeros, .write = write_full, .seek = file_stay };
static const struct file_operations random_operations = {
	.read = read_random, .write = write_random, .seek = file_stay, .nowait = true,
};

static bool has_points(void)
{
	return core.ops->point && !core.config->control;
}

int device_open(struct file *file)
{
	switch (S_ISCHR(file->inode->mode) ? file->inode->device : 0) {
	case MAKE_DEVICE(1, 3): file->operations = &null_operations; return 0;
	case MAKE_DEVICE(1, 5): file->operations = &zero_operations; return 0;
	case MAKE_DEVICE(1, 7): file->operations = &full_operations; return 0;
	case MAKE_DEVICE(1, 8):
	case MAKE_DEVICE(1, 9): file->operations = &random_operations; return 0;
	case POINT_DEVICE:
		file->operations = &point_operations;
		return has_points() ? 0 : -ENXIO;
	case MAKE_DEVICE(5, 0):
		if (tty_of_caller())
			return tty_open(file, tty_of_caller(), false);
		return console_tty() ? -ENXIO : console_open(file);
	case MAKE_DEVICE(5, 1): return console_tty() ? tty_open(file, console_tty(), true) : console_open(file);
	case MAKE_DEVICE(5, 2): return ptmx_open(file);
	}
	if (S_ISCHR(file->inode->mode) && file->inode->device >> 8 == PTS_MAJOR)
		return -EIO; /* of a file system that is not devpts */
	return -ENXIO;
}

static const struct {
	const char *name;
	u32 mode;
	u64 device;
} nodes[] = {
	{ "null", 0666, MAKE_DEVICE(1, 3) },	{ "zero", 0666, MAKE_DEVICE(1, 5) },   { "full", 0666, MAKE_DEVICE(1, 7) },
	{ "random", 0666, MAKE_DEVICE(1, 8) },	{ "urandom", 0666, MAKE_DEVICE(1, 9) }, { "tty", 0666, MAKE_DEVICE(5, 0) },
	{ "console", 0600, MAKE_DEVICE(5, 1) }, { "pyvmm", 0666, POINT_DEVICE },
};

static const char *const links[][2] = {
	{ "fd", "/proc/self/fd" }, { "stdin", "/proc/self/fd/0" }, { "stdout", "/proc/self/fd/1" },
	{ "stderr", "/proc/self/fd/2" }, { "ptmx", "pts/ptmx" },
};

/* Fill a directory of the core's with what /dev has. */
int devices_make(const char *directory)
{
	char name[64];

	for (u32 i = 0; i < ARRAY_SIZE(nodes); i++) {
		int error;

		if (nodes[i].device == POINT_DEVICE && !has_points())
			continue;
		error = core_mknod(text_join(name, sizeof(name), directory, nodes[i].name), S_IFCHR | nodes[i].mode,
				   nodes[i].device);
		if (error)
			return error;
	}
	for (u32 i = 0; i < ARRAY_SIZE(links); i++) {
		int error = core_symlink(links[i][1], text_join(name, sizeof(name), directory, links[i][0]));

		if (error)
			return error;
	}
	return 0;
}
