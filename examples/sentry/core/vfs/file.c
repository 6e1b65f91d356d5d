// SPDX-License-Identifier: Apache-2.0
/* Open files. */
#include "async.h"
#include "calls.h"
#include "pipe.h"

static struct slab files = SLAB(struct file);

struct file *file_new(const struct path *path, const struct file_operations *operations, u32 flags)
{
	struct file *file = slab_alloc(&files);

	if (!file)
		return NULL;
	file->references = 1;
	file->flags = flags & ~(u32)(O_CREAT | O_EXCL | O_NOCTTY | O_TRUNC | O_CLOEXEC);
	file->readable = (flags & O_ACCMODE) == O_RDONLY || (flags & O_ACCMODE) == O_RDWR;
	file->writable = (flags & O_ACCMODE) == O_WRONLY || (flags & O_ACCMODE) == O_RDWR;
	file->operations = operations;
	file->path = *path;
	path_get(path);
	file->inode = path->dentry->inode;
	list_init(&file->polls);
	return file;
}

static const struct file_operations no_operations;

void file_count_writer(struct file *file, s32 change)
{
	u32 mode = file->inode->mode;

	file->writes = change > 0;
	file->inode->writers += (u32)change;
	if (!S_ISREG(mode))
		return;
	file->inode->super->writers += (u32)change;
	file->path.mount->writers += (u32)change;
}

static int choose_operations(struct file *file)
{
	struct inode *inode = file->inode;

	if (file->flags & O_PATH) {
		file->operations = &no_operations;
		file->readable = file->writable = false;
		return 0;
	}
	if (file->writable && S_ISREG(inode->mode) && inode->programs)
		return -ETXTBSY;
	if (file->writable)
		file_count_writer(file, 1);
	if (inode->operations->open)
		return inode->operations->open(inode, file);
	if (S_ISSOCK(inode->mode))
		return -ENXIO;
	if (S_ISCHR(inode->mode) || S_ISBLK(inode->mode))
		return device_open(file);
	if (S_ISFIFO(inode->mode))
		return fifo_open(file);
	return 0;
}

int file_open(const struct path *path, u32 flags, struct file **result)
{
	struct file *file = file_new(path, path->dentry->inode->file_operations, flags);
	int error;

	if (!file)
		return -ENOMEM;
	file->flags |= flags & O_NOCTTY;
	error = choose_operations(file);
	file->flags &= ~(u32)O_NOCTTY;
	if (error || !file->operations)
		file->operations = &no_operations;
	if (error) {
		file->flags |= O_PATH; /* no close event: it never was open */
		file_put(file);
		return error;
	}
	*result = file;
	return 0;
}

void file_get(struct file *file)
{
	reference_get(&file->references);
}

void file_put(struct file *file)
{
	if (!file || !reference_put(&file->references))
		return;
	epoll_forget(file);
	async_stop(file);
	if (!file->stream)
		file_notify(file, file->writable ? IN_CLOSE_WRITE : IN_CLOSE_NOWRITE);
	locks_release(file->inode, file);
	if (file->operations->release)
		file->operations->release(file);
	if (file->writes)
		file_count_writer(file, -1);
	if (file->runs)
		file->inode->programs--;
	path_put(&file->path);
	slab_free(&files, file);
}

int file_sync_nothing(struct file *file, bool data_only)
{
	(void)file, (void)data_only;
	return 0;
}

s64 file_read_core(struct file *file, void *to, u64 size, u64 position)
{
	struct iovec vector;
	struct io io = io_core(&vector, to, size);

	return file->operations->read ? file->operations->read(file, &io, &position) : -EINVAL;
}

s64 file_write_core(struct file *file, const void *from, u64 size, u64 position)
{
	struct iovec vector;
	struct io io = io_core(&vector, (void *)from, size);

	return file->operations->write ? file->operations->write(file, &io, &position) : -EINVAL;
}

s64 io_wait(const struct io *io, const struct file *file, struct wait_queue *queue)
{
	return io_flags(io, file) & O_NONBLOCK ? -EAGAIN : sleep_on(queue, FOREVER);
}
