// SPDX-License-Identifier: Apache-2.0
/* Descriptors of a process, and the directory that its names start from. */
#include "fds.h"

#include "caller.h"
#include "../tty/tty.h"
#include "device.h"

static struct slab tables = SLAB(struct files);
static struct slab contexts = SLAB(struct fs_context);

/* Put a file, with its reference, at a number: 0 or -ENOMEM. */
static int fd_set(struct files *files, u32 number, struct file *file)
{
	if (!files->pages[number / FDS_PER_PAGE])
		files->pages[number / FDS_PER_PAGE] = page_alloc();
	if (!files->pages[number / FDS_PER_PAGE])
		return -ENOMEM;
	*fd_at(files, number) = (struct fd){ .file = file };
	return 0;
}

struct files *files_new(void)
{
	struct files *files = slab_alloc(&tables);

	if (files)
		files->references = 1;
	return files;
}

/* A stream of the console; those that are a terminal are one open file. */
static struct file *stream(struct file *terminal, u32 number)
{
	if (!console_is_terminal(number))
		return console_stream(number);
	if (terminal)
		file_get(terminal);
	return terminal;
}

struct files *files_with_console(void)
{
	struct files *files = files_new();
	struct file *terminal = console_tty() ? console_tty_open() : NULL;

	for (u32 i = 0; files && i < 3; i++) {
		struct file *file = stream(terminal, i);

		if (!file || fd_set(files, i, file)) {
			files_put(files);
			files = NULL;
		}
	}
	file_put(terminal);
	return files;
}

struct files *files_copy(struct files *from)
{
	struct files *files = files_new();

	for (u32 i = 0; files && i < FD_PAGES; i++) {
		if (!from->pages[i])
			continue;
		files->pages[i] = page_alloc();
		if (!files->pages[i]) {
			files_put(files);
			return NULL;
		}
		bytes_copy(files->pages[i], from->pages[i], PAGE);
		for (u32 j = 0; j < FDS_PER_PAGE; j++)
			if (files->pages[i][j].file)
				file_get(files->pages[i][j].file);
	}
	if (files)
		files->lowest = from->lowest;
	return files;
}

void files_get(struct files *files)
{
	reference_get(&files->references);
}

/* What close() does with a file, beside its descriptor. */
int file_close(struct files *files, struct file *file)
{
	int error;

	locks_release(file->inode, files);
	error = file->operations->flush ? file->operations->flush(file) : 0;

	file_put(file);
	return error;
}

static void close_some(struct files *files, bool all)
{
	for (u32 i = 0; i < FD_PAGES; i++) {
		for (u32 j = 0; files->pages[i] && j < FDS_PER_PAGE; j++) {
			struct fd *fd = &files->pages[i][j];

			if (!fd->file || (!all && !fd->close_on_exec))
				continue;
			file_close(files, fd_clear(files, i * FDS_PER_PAGE + j));
		}
	}
}

void files_put(struct files *files)
{
	if (!files || !reference_put(&files->references))
		return;
	close_some(files, true);
	for (u32 i = 0; i < FD_PAGES; i++)
		page_free(files->pages[i]);
	slab_free(&tables, files);
}

int files_unshare(struct task *t)
{
	struct files *old = t->files, *own;

	if (old->references == 1)
		return 0;
	own = files_copy(old);
	if (!own)
		return -ENOMEM;
	t->files = own;
	files_put(old); /* can sleep: by then no other task may find it here */
	return 0;
}

void files_close_on_exec(struct files *files)
{
	close_some(files, false);
}

struct fd *fd_at(struct files *files, u32 number)
{
	if (number >= FDS_MOST || !files->pages[number / FDS_PER_PAGE])
		return NULL;
	return &files->pages[number / FDS_PER_PAGE][number % FDS_PER_PAGE];
}

struct file *fd_file(struct task *t, u64 number)
{
	struct fd *fd = fd_at(t->files, (u32)number); /* as Linux, which takes an unsigned int */

	return fd ? fd->file : NULL;
}

struct file *fd_clear(struct files *files, u32 number)
{
	struct fd *fd = fd_at(files, number);
	struct file *file = fd->file;

	*fd = (struct fd){ .file = NULL };
	if (number < files->lowest)
		files->lowest = number;
	return file;
}

u32 fd_limit(struct task *t)
{
	u64 limit = t->process->limits[RLIMIT_NOFILE].current;

	return limit < FDS_MOST ? (u32)limit : FDS_MOST;
}

/* The place of the lowest free descriptor from one on, or -errno. */
static s64 fd_place(struct files *files, u32 from, u32 limit)
{
	for (u32 i = from < files->lowest ? files->lowest : from; i < limit; i++) {
		struct fd *fd = fd_at(files, i);

		if (fd && fd->file)
			continue;
		if (!fd)
			files->pages[i / FDS_PER_PAGE] = page_alloc();
		return files->pages[i / FDS_PER_PAGE] ? (s64)i : -ENOMEM;
	}
	return -EMFILE;
}

s64 fd_install(struct task *t, struct file *file, u32 from, bool close_on_exec)
{
	s64 number = fd_place(t->files, from, fd_limit(t));

	if (number < 0) {
		file_put(file);
		return number;
	}
	*fd_at(t->files, (u32)number) = (struct fd){ file, close_on_exec };
	if (from <= t->files->lowest)
		t->files->lowest = (u32)number + 1;
	return number;
}

s64 fd_install_two(struct task *t, struct file **files, u64 to, bool close_on_exec)
{
	s32 numbers[2];

	numbers[0] = (s32)fd_install(t, files[0], 0, close_on_exec);
	if (numbers[0] < 0) {
		file_put(files[1]);
		return numbers[0];
	}
	numbers[1] = (s32)fd_install(t, files[1], 0, close_on_exec);
	if (numbers[1] < 0) {
		file_put(fd_clear(t->files, (u32)numbers[0]));
		return numbers[1];
	}
	if (!user_write(t->mm, to, numbers, sizeof(numbers)))
		return 0;
	file_put(fd_clear(t->files, (u32)numbers[0]));
	file_put(fd_clear(t->files, (u32)numbers[1]));
	return -EFAULT;
}

int fd_promise_two(struct task *t, u64 to)
{
	u32 from = 0;

	for (u32 i = 0; i < 2; i++) {
		s64 number = fd_place(t->files, from, fd_limit(t));
		s32 written = (s32)number;

		if (number < 0)
			return (int)number;
		if (user_write(t->mm, to + i * sizeof(written), &written, sizeof(written)))
			return -EFAULT;
		from = (u32)number + 1;
	}
	return 0;
}

int fd_room(struct task *t)
{
	s64 number = fd_place(t->files, 0, fd_limit(t));

	return number < 0 ? (int)number : 0;
}

int fd_replace(struct task *t, struct file *file, u32 number, bool close_on_exec)
{
	struct fd *fd = fd_at(t->files, number);
	struct file *old = fd ? fd->file : NULL;

	file_get(file);
	if (fd_set(t->files, number, file)) {
		file_put(file);
		return -ENOMEM;
	}
	fd_at(t->files, number)->close_on_exec = close_on_exec;
	if (old)
		file_close(t->files, old);
	return 0;
}

/* -- root, directory, mask -- */

struct fs_context *fs_new(void)
{
	struct fs_context *fs = slab_alloc(&contexts);
	struct mount *mount = mount_root();

	if (!fs)
		return NULL;
	fs->references = 1;
	fs->umask = 022;
	fs->root = fs->cwd = (struct path){ mount, mount->root };
	path_get(&fs->root);
	path_get(&fs->cwd);
	return fs;
}

struct fs_context *fs_copy(struct fs_context *from)
{
	struct fs_context *fs = slab_alloc(&contexts);

	if (!fs)
		return NULL;
	*fs = *from;
	fs->references = 1;
	path_get(&fs->root);
	path_get(&fs->cwd);
	return fs;
}

int fs_unshare(struct task *t)
{
	struct fs_context *old = t->fs, *own;

	if (old->references == 1)
		return 0;
	own = fs_copy(old);
	if (!own)
		return -ENOMEM;
	t->fs = own;
	fs_put(old);
	return 0;
}

void fs_get(struct fs_context *fs)
{
	reference_get(&fs->references);
}

void fs_put(struct fs_context *fs)
{
	if (!fs || !reference_put(&fs->references))
		return;
	path_put(&fs->root);
	path_put(&fs->cwd);
	slab_free(&contexts, fs);
}
