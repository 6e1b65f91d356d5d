// SPDX-License-Identifier: Apache-2.0
/*
 * Opens files by names, file handles and other descriptors; no other file of the server does.
 *
 * A name of the guest is one component of a path (fs_op.c has checked that). It is resolved relative to the descriptor of a
 * directory of the share, and no symbolic link is followed. So no request leaves the share, whatever is renamed meanwhile.
 */
#include "fs/fs.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sysmacros.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#ifndef AT_HANDLE_FID
#define AT_HANDLE_FID 0x200
#endif
#ifndef FUSE_SUPER_MAGIC
#define FUSE_SUPER_MAGIC 0x65735546
#endif
#ifndef CONFIGFS_MAGIC
#define CONFIGFS_MAGIC 0x62656570
#endif

/*
 * File systems that are interfaces of the host's kernel: a write there may run a program as root. And if the server is a
 * thread of the VMM, /proc/self/mem is the memory of the VMM.
 */
static const uint32_t kernel_fs[] = {
	PROC_SUPER_MAGIC, SYSFS_MAGIC,	    DEBUGFS_MAGIC,  TRACEFS_MAGIC, SECURITYFS_MAGIC,  CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC,
	BPF_FS_MAGIC,	  BINFMTFS_MAGIC,   CONFIGFS_MAGIC, SELINUX_MAGIC, SMACK_MAGIC,	      PSTOREFS_MAGIC,	  EFIVARFS_MAGIC,
};

_Static_assert(sizeof(((struct fs_file_handle *)0)->bytes) == MAX_HANDLE_SZ, "a handle fits");

struct fs_fd_name fs_fd_name(int fd)
{
	struct fs_fd_name name;
	char *at = name.text + sizeof(name.text) - 1;
	uint32_t n = (uint32_t)fd;

	*at = 0;
	do
		*--at = (char)('0' + n % 10);
	while (n /= 10);
	memmove(name.text, at, (size_t)(name.text + sizeof(name.text) - at));
	return name;
}

int fs_open_beneath(int dir, const char *name, uint64_t flags)
{
	struct open_how how = {
		.flags = flags | O_CLOEXEC | O_NOFOLLOW,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS,
	};
	long fd;

	do
		fd = syscall(SYS_openat2, dir, name, &how, sizeof(how));
	while (fd < 0 && (errno == EAGAIN || errno == EINTR)); /* EAGAIN: there was a concurrent rename */
	return fd < 0 ? -errno : (int)fd;
}

int fs_reopen(const struct fs *fs, int fd, int flags)
{
	int new = openat(fs->proc_fd, fs_fd_name(fd).text, flags | O_CLOEXEC);

	return new < 0 ? -errno : new;
}

int fs_statx(int fd, const char *name, struct statx *st)
{
	int flags = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | (*name ? 0 : AT_EMPTY_PATH);

	return statx(fd, name, flags, FS_STATX_MASK, st) < 0 ? -errno : 0;
}

void *fs_table(uint64_t size)
{
	void *table = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (table == MAP_FAILED)
		return NULL;
	madvise(table, size, MADV_NOHUGEPAGE); /* its first entry would take 2 MiB */
	return table;
}

int fs_handle_at(int fd, const char *name, int flags, struct fs_file_handle *h)
{
	union {
		struct file_handle fh;
		uint8_t room[sizeof(struct file_handle) + MAX_HANDLE_SZ];
	} u;
	int mnt;

	u.fh.handle_bytes = MAX_HANDLE_SZ;
	if (name_to_handle_at(fd, name, &u.fh, &mnt, flags | (*name ? 0 : AT_EMPTY_PATH)) < 0)
		return -errno;
	h->len = u.fh.handle_bytes;
	h->type = u.fh.handle_type;
	memcpy(h->bytes, u.room + offsetof(struct file_handle, f_handle), h->len);
	return 0;
}

int fs_handle_open(int mount_fd, const struct fs_file_handle *h, int flags)
{
	union {
		struct file_handle fh;
		uint8_t room[sizeof(struct file_handle) + MAX_HANDLE_SZ];
	} u;
	int fd;

	u.fh.handle_bytes = h->len;
	u.fh.handle_type = h->type;
	memcpy(u.room + offsetof(struct file_handle, f_handle), h->bytes, h->len);
	fd = open_by_handle_at(mount_fd, &u.fh, flags | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

/* The flags of name_to_handle_at() that return a mark for fd; -1: none do. A file handle is a mark; since Linux 6.6, file
 * systems without file handles can have one, too. */
static int domain_mark(const struct fs *fs, int fd, const struct statfs *sfs)
{
	struct fs_file_handle h;

	/* Handles of FUSE are valid only until its server is told to forget the node. */
	if (fs->config.flags & FS_NO_MARKS || sfs->f_type == FUSE_SUPER_MAGIC)
		return -1;
	if (!fs_handle_at(fd, "", 0, &h))
		return 0;
	return fs_handle_at(fd, "", AT_HANDLE_FID, &h) ? -1 : AT_HANDLE_FID;
}

/*
 * Find out by which marks files of this domain are compared, and whether they can be opened by handle: that requires
 * CAP_DAC_READ_SEARCH, and support of the file system. On overlayfs it is an option that is rarely set.
 */
int fs_domain_init(const struct fs *fs, struct fs_domain *d, int fd, const struct statx *st)
{
	struct fs_file_handle h;
	struct statfs sfs;
	int test;

	*d = (struct fs_domain){
		.mnt_id = st->stx_mnt_id,
		.major = st->stx_dev_major,
		.minor = st->stx_dev_minor,
		.mount_fd = -1,
		.mark = -1,
	};
	if (fstatfs(fd, &sfs) < 0)
		return -errno;
	for (size_t i = 0; i < sizeof(kernel_fs) / sizeof(*kernel_fs); i++)
		d->closed |= (uint32_t)sfs.f_type == kernel_fs[i];
	d->renumbers = sfs.f_type == OVERLAYFS_SUPER_MAGIC || sfs.f_type == FUSE_SUPER_MAGIC;
	d->mark = domain_mark(fs, fd, &sfs);
	if (!(fs->config.flags & FS_HANDLES) || fs->config.flags & FS_NO_MARKS || !S_ISDIR(st->stx_mode) || d->renumbers || d->mark)
		return 0;
	if (fs_handle_at(fd, "", 0, &h))
		return 0;
	/* open_by_handle_at() takes no O_PATH descriptor. */
	d->mount_fd = fs_reopen(fs, fd, O_RDONLY | O_DIRECTORY);
	if (d->mount_fd < 0)
		return 0;
	test = fs_handle_open(d->mount_fd, &h, O_PATH);
	if (test >= 0) {
		close(test);
		return 0;
	}
	close(d->mount_fd);
	d->mount_fd = -1;
	return 0;
}
