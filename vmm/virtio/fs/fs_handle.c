// SPDX-License-Identifier: Apache-2.0
/* The table of open files of the guest, by their handles. Like the id of a node, a handle is an index and a generation. */
#include "fs/fs.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { DEFAULT_FILES = 4096 };

struct fs_files {
	pthread_mutex_t lock;
	struct fs_file *file;
	uint32_t max, top, free, count;
};

static struct fs_dir *dir_new(void)
{
	struct fs_dir *d = malloc(sizeof(*d));

	if (!d)
		return NULL;
	pthread_mutex_init(&d->lock, NULL);
	d->off = 0;
	d->at = d->len = 0;
	return d;
}

static void dir_free(struct fs_dir *d)
{
	if (!d)
		return;
	pthread_mutex_destroy(&d->lock);
	free(d);
}

int fs_files_init(struct fs *fs)
{
	struct fs_files *t = calloc(1, sizeof(*t));

	if (!t)
		return -ENOMEM;
	pthread_mutex_init(&t->lock, NULL);
	fs->files = t;
	t->max = (fs->config.max_files ? fs->config.max_files : DEFAULT_FILES) + 1;
	t->file = fs_table(t->max * sizeof(*t->file));
	if (!t->file)
		return -ENOMEM;
	t->top = 1;
	return 0;
}

/* Free a file that is closed, if no request uses it. Under the lock. */
static void file_free(struct fs_files *t, struct fs_file *f)
{
	if (f->users || !f->closing)
		return;
	if (f->fd >= 0)
		close(f->fd);
	dir_free(f->dir);
	*f = (struct fs_file){ .gen = f->gen + 1, .next_free = t->free };
	t->free = (uint32_t)(f - t->file);
	t->count--;
}

void fs_files_reset(struct fs *fs)
{
	struct fs_files *t = fs->files;

	pthread_mutex_lock(&t->lock);
	for (uint32_t i = 1; i < t->top; i++) {
		struct fs_file *f = &t->file[i];

		if (f->kind == FS_FREE)
			continue;
		f->closing = true;
		file_free(t, f);
	}
	pthread_mutex_unlock(&t->lock);
}

void fs_files_free(struct fs *fs)
{
	struct fs_files *t = fs->files;

	if (!t)
		return;
	if (t->file) {
		fs_files_reset(fs);
		munmap(t->file, t->max * sizeof(*t->file));
	}
	pthread_mutex_destroy(&t->lock);
	free(t);
}

uint32_t fs_files_count(struct fs *fs)
{
	uint32_t count;

	pthread_mutex_lock(&fs->files->lock);
	count = fs->files->count;
	pthread_mutex_unlock(&fs->files->lock);
	return count;
}

int fs_file_new(struct fs *fs, enum fs_kind kind, int fd, uint64_t node, uint64_t *fh)
{
	struct fs_dir *dir = kind == FS_DIRECTORY ? dir_new() : NULL;
	struct fs_files *t = fs->files;
	struct fs_file *f;
	uint32_t index;

	if (kind == FS_DIRECTORY && !dir) {
		close(fd);
		return -ENOMEM;
	}
	pthread_mutex_lock(&t->lock);
	index = t->free;
	if (index)
		t->free = t->file[index].next_free;
	else if (t->top < t->max)
		index = t->top++;
	if (!index) {
		pthread_mutex_unlock(&t->lock);
		close(fd);
		dir_free(dir);
		return -ENFILE;
	}
	f = &t->file[index];
	*f = (struct fs_file){ .fd = fd, .gen = f->gen, .kind = (uint8_t)kind, .node = node, .dir = dir };
	*fh = (uint64_t)f->gen << 32 | index;
	t->count++;
	pthread_mutex_unlock(&t->lock);
	return 0;
}

/* Under the lock. */
static struct fs_file *file_find(struct fs_files *t, uint64_t fh, enum fs_kind kind)
{
	uint32_t index = (uint32_t)fh;
	struct fs_file *f;

	if (index == 0 || index >= t->top)
		return NULL;
	f = &t->file[index];
	if (f->gen != fh >> 32 || f->kind == FS_FREE || f->closing || (kind != FS_FREE && f->kind != kind))
		return NULL;
	return f;
}

int fs_file_error(struct fs *fs, uint64_t fh)
{
	bool gone;

	pthread_mutex_lock(&fs->files->lock);
	gone = file_find(fs->files, fh, FS_GONE);
	pthread_mutex_unlock(&fs->files->lock);
	return gone ? -ESTALE : -EBADF;
}

struct fs_file *fs_file_get(struct fs *fs, uint64_t fh, enum fs_kind kind)
{
	struct fs_file *f;

	pthread_mutex_lock(&fs->files->lock);
	f = file_find(fs->files, fh, kind);
	if (f && f->kind == FS_GONE)
		f = NULL;
	if (f)
		f->users++;
	pthread_mutex_unlock(&fs->files->lock);
	return f;
}

void fs_file_put(struct fs *fs, struct fs_file *f)
{
	pthread_mutex_lock(&fs->files->lock);
	f->users--;
	file_free(fs->files, f);
	pthread_mutex_unlock(&fs->files->lock);
}

int fs_file_close(struct fs *fs, uint64_t fh, enum fs_kind kind)
{
	struct fs_file *f;

	pthread_mutex_lock(&fs->files->lock);
	f = file_find(fs->files, fh, kind);
	if (!f)
		f = file_find(fs->files, fh, FS_GONE);
	if (f) {
		f->closing = true;
		file_free(fs->files, f);
	}
	pthread_mutex_unlock(&fs->files->lock);
	return f ? 0 : -EBADF;
}

const struct fs_file *fs_file_next(struct fs *fs, uint32_t *index)
{
	const struct fs_files *t = fs->files;

	while (++*index < t->top)
		if (t->file[*index].kind != FS_FREE && !t->file[*index].closing)
			return &t->file[*index];
	return NULL;
}

void fs_files_limits(struct fs *fs, uint32_t *top, uint32_t *gen)
{
	const struct fs_files *t = fs->files;

	*top = t->top;
	*gen = 1;
	for (uint32_t i = 1; i < t->top; i++)
		if (t->file[i].gen >= *gen)
			*gen = t->file[i].gen + 1;
}

int fs_file_restore(struct fs *fs, uint32_t index, uint32_t gen, enum fs_kind kind, int fd, uint64_t node)
{
	struct fs_files *t = fs->files;
	struct fs_dir *dir = kind == FS_DIRECTORY ? dir_new() : NULL;
	int err = 0;

	if (index >= t->max)
		err = -ENFILE;
	else if (t->file[index].kind != FS_FREE)
		err = -EINVAL;
	else if (kind == FS_DIRECTORY && !dir)
		err = -ENOMEM;
	if (err) {
		if (fd >= 0)
			close(fd);
		dir_free(dir);
		return err;
	}
	t->file[index] = (struct fs_file){ .fd = fd, .gen = gen, .kind = (uint8_t)kind, .node = node, .dir = dir };
	t->count++;
	if (index >= t->top)
		t->top = index + 1;
	return 0;
}

int fs_files_settle(struct fs *fs, uint32_t top, uint32_t gen)
{
	struct fs_files *t = fs->files;

	if (top < t->top || top > t->max)
		return top < t->top ? -EINVAL : -ENFILE;
	t->top = top;
	t->free = 0;
	for (uint32_t i = top - 1; i > 0; i--) {
		if (t->file[i].kind != FS_FREE)
			continue;
		t->file[i] = (struct fs_file){ .gen = gen, .next_free = t->free };
		t->free = i;
	}
	return 0;
}
