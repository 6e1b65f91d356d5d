// SPDX-License-Identifier: Apache-2.0
/* Contents of files in an overlay: an open file uses an open file of the layer that has the content. */
#include "overlay.h"

struct file *overlay_open_real(struct overlay_node *node, const struct inode *real, u32 flags, int *error)
{
	struct path path = overlay_path(node, real);
	struct file *file = NULL;

	path_get(&path);
	*error = file_open(&path, flags, &file);
	path_put(&path);
	if (*error)
		return NULL;
	file->flags |= O_PATH; /* watches of the layer get no events of the overlay */
	return file;
}

/* -- open files -- */

static int open(struct inode *inode, struct file *file)
{
	return file->writable ? overlay_copy_up(inode) : 0;
}

/* An open file of the layer that has the content now: a reference, or NULL and an error. */
static struct file *real_file(struct file *file, s64 *error)
{
	struct overlay_node *node = overlay_node_of(file->inode);
	struct inode *content = overlay_content(node);
	bool upper = node->upper && content == node->upper->inode;
	struct file *real = file->data, *old;
	int failed = 0;

	if (!real || real->inode != content) {
		real = overlay_open_real(node, content, upper ? file->flags : O_RDONLY | O_LARGEFILE, &failed);
		*error = failed;
		if (!real)
			return NULL;
		old = file->data; /* which another task may have opened meanwhile, and may still use */
		file->data = real;
		file_put(old);
	}
	if (upper)
		real->flags = file->flags | O_PATH;
	file_get(real);
	return real;
}

static void release(struct file *file)
{
	file_put(file->data);
}

static s64 read(struct file *file, struct io *to, u64 *position)
{
	s64 done = 0;
	struct file *real = real_file(file, &done);

	if (!real)
		return done;
	done = real->operations->read ? real->operations->read(real, to, position) : -EINVAL;
	file_put(real);
	return done;
}

/* Copy the content to the upper layer: an open file there, or NULL and an error. */
static struct file *file_to_change(struct file *file, s64 *error)
{
	*error = overlay_copy_content(file->inode, ~0ull);
	return *error ? NULL : real_file(file, error);
}

static s64 write(struct file *file, struct io *from, u64 *position)
{
	s64 done;
	struct file *real = file_to_change(file, &done);

	if (!real)
		return done;
	done = real->operations->write(real, from, position);
	file_put(real);
	overlay_apply(file->inode);
	return done;
}

static s64 fallocate(struct file *file, u32 mode, u64 offset, u64 size)
{
	s64 error;
	struct file *real = file_to_change(file, &error);

	if (!real)
		return error;
	error = real->operations->fallocate(real, mode, offset, size);
	file_put(real);
	overlay_apply(file->inode);
	return error;
}

static s64 seek(struct file *file, s64 offset, u32 whence)
{
	struct file *real;
	s64 at = 0;

	if (whence != SEEK_DATA && whence != SEEK_HOLE)
		return file_seek(file, offset, whence);
	real = real_file(file, &at);
	if (!real)
		return at;
	at = real->operations->seek ? real->operations->seek(real, offset, whence) : file_seek(file, offset, whence);
	file_put(real);
	return at;
}

static int may_map(struct file *file, u32 prot, u32 flags)
{
	(void)prot, (void)flags;
	return overlay_content(overlay_node_of(file->inode))->operations->page ? 0 : -ENODEV;
}

/* Reading a page of the lower file sleeps: if the content was copied meanwhile, the page is no longer the file's. */
static s64 page(struct inode *inode, u64 index, bool write)
{
	const struct overlay_node *node = overlay_node_of(inode);
	int error = write ? overlay_copy_content(inode, ~0ull) : 0;
	struct inode *content = overlay_content(node);
	s64 offset = error ? error : content->operations->page(content, index, write);

	while (!error && content != overlay_content(node)) {
		if (offset > 0)
			page_put((u64)offset);
		content = overlay_content(node);
		offset = content->operations->page(content, index, write);
	}
	if (write && offset > 0)
		overlay_apply(inode);
	return offset;
}

static s64 readlink(struct inode *inode, char *target, u64 size)
{
	struct inode *real = overlay_real(overlay_node_of(inode));

	return real->operations->readlink(real, target, size);
}

const struct file_operations overlay_file_operations = {
	.read = read,
	.write = write,
	.seek = seek,
	.fsync = file_sync_nothing, /* the upper layer is in memory, and the lower ones do not change */
	.fallocate = fallocate,
	.mmap = may_map,
	.release = release,
};

const struct inode_operations overlay_file_inode_operations = {
	.open = open,
	.page = page,
	OVERLAY_ATTRIBUTES,
};

const struct inode_operations overlay_link_operations = {
	.readlink = readlink,
	OVERLAY_ATTRIBUTES,
};

const struct inode_operations overlay_special_operations = {
	OVERLAY_ATTRIBUTES,
};
