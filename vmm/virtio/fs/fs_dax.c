// SPDX-License-Identifier: Apache-2.0
/* SETUPMAPPING and REMOVEMAPPING: files in the DAX window (virtio 1.2, 5.11.6.4). */
#include "fs/fs.h"

#include "fs/dax/dax.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

_Static_assert(1 << FS_DAX_SHIFT == DAX_SLOT, "the alignment that the guest is told");

enum { MAPPING_FLAGS = FUSE_SETUPMAPPING_FLAG_WRITE | FUSE_SETUPMAPPING_FLAG_READ };

/* A descriptor of the file. Linux sends a node and no file handle, since a mapping lasts longer than an open file. */
static int mapping_fd(struct fs_req *r, const struct fuse_setupmapping_in *in, bool writable)
{
	struct fs_ref ref;
	struct fs_file *f;
	int fd, err;

	if (in->fh != UINT64_MAX) {
		f = fs_file_get(r->fs, in->fh, FS_REGULAR);
		if (!f)
			return fs_file_error(r->fs, in->fh);
		fd = fcntl(f->fd, F_DUPFD_CLOEXEC, 3);
		err = -errno;
		/* mmap() requires O_RDWR for a writable mapping; and it fails if the file is not open for reading. */
		if (fd >= 0 && writable && (fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDWR) {
			close(fd);
			fd = -1;
			err = -EACCES;
		}
		fs_file_put(r->fs, f);
		return fd < 0 ? err : fd;
	}
	err = fs_node_get(r->fs, r->in.nodeid, &ref);
	if (err)
		return err;
	if (fs_node_closed(r->fs, &ref))
		fd = -EACCES;
	else if (S_ISREG(ref.type))
		fd = fs_reopen(r->fs, ref.fd, (writable ? O_RDWR : O_RDONLY) | O_NONBLOCK | O_NOCTTY);
	else
		fd = S_ISDIR(ref.type) ? -EISDIR : -ENXIO;
	fs_node_put(r->fs, &ref);
	return fd;
}

int fs_op_setupmapping(struct fs_req *r)
{
	const struct fuse_setupmapping_in *in = r->arg;
	const bool writable = in->flags & FUSE_SETUPMAPPING_FLAG_WRITE;
	int fd, err;

	if (!r->fs->config.dax)
		return -ENOSYS;
	if (in->flags & ~(uint64_t)MAPPING_FLAGS)
		return -EINVAL;
	if (writable && r->fs->config.flags & FS_RO)
		return -EROFS;
	fd = mapping_fd(r, in, writable);
	if (fd < 0)
		return fd;
	err = dax_map(r->fs->config.dax, in->moffset, in->len, fd, in->foffset, writable);
	close(fd);
	return err;
}

int fs_op_removemapping(struct fs_req *r)
{
	const struct fuse_removemapping_in *in = r->arg;
	const uint8_t *at = (const uint8_t *)r->arg + sizeof(*in);
	struct fuse_removemapping_one one;
	int err;

	if (!r->fs->config.dax)
		return -ENOSYS;
	if (in->count > (r->arg_len - sizeof(*in)) / sizeof(one))
		return -EINVAL;
	for (uint32_t i = 0; i < in->count; i++, at += sizeof(one)) {
		memcpy(&one, at, sizeof(one));
		err = dax_unmap(r->fs->config.dax, one.moffset, one.len);
		if (err)
			return err;
	}
	return 0;
}
