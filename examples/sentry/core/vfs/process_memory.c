// SPDX-License-Identifier: Apache-2.0
/* process_vm_readv and process_vm_writev, /proc/PID/mem, and kcmp, which compares what processes share. */
#include "calls.h"
#include "process_file.h"

/* Copy between two address spaces: how many bytes, or -EFAULT for none. */
static s64 copy(struct io *from, struct io *to)
{
	u8 *page = page_alloc();
	u64 done = 0;

	if (!page)
		return -ENOMEM;
	while (from->left && to->left) {
		u64 part = from->left < to->left ? from->left : to->left, put;

		if (part > PAGE)
			part = PAGE;
		put = io_put(to, page, io_get(from, page, part));
		done += put;
		if (put < part)
			break;
	}
	page_free(page);
	return done ? (s64)done : -EFAULT;
}

static s64 copy_with(struct task *t, s32 pid, struct io *local, struct io *remote, bool write)
{
	struct task *of = task_find(t->process->pids, pid);
	struct mm *mm = of ? of->mm : NULL;
	s64 result;

	if (!mm)
		return -ESRCH;
	if (!may_inspect(t, of, false))
		return -EPERM;
	mm_get(mm);
	remote->mm = mm;
	if (!remote->left)
		result = 0;
	else
		result = write ? copy(local, remote) : copy(remote, local);
	mm_put(mm);
	return result;
}

static s64 transfer(struct task *t, const u64 *args, bool write)
{
	struct vectors mine = { .first = NULL }, other = { .first = NULL };
	s64 size, result;

	if (args[5])
		return -EINVAL;
	size = vectors_get(t, &mine, args[1], args[2]);
	result = size;
	if (size > 0) {
		struct io local = { .mm = t->mm, .vectors = mine.first, .left = (u64)size };

		result = vectors_get(t, &other, args[3], args[4]);
		if (result >= 0) {
			struct io remote = { .vectors = other.first, .left = (u64)result };

			result = copy_with(t, (s32)args[0], &local, &remote, write);
		}
	}
	vectors_free(&mine);
	vectors_free(&other);
	return result;
}

s64 sys_process_vm_readv(struct task *t, const u64 *args)
{
	return transfer(t, args, false);
}

s64 sys_process_vm_writev(struct task *t, const u64 *args)
{
	return transfer(t, args, true);
}

/* -- /proc/PID/mem -- */

static s64 copy_memory(struct mm *mm, struct io *io, u64 *position, bool write)
{
	u8 *page = page_alloc();
	bool good = true;
	u64 done = 0;

	if (!page)
		return -ENOMEM;
	while (io->left && good) {
		u64 rest = PAGE - *position % PAGE, part = io->left < rest ? io->left : rest, moved;

		if (write && io_get(io, page, part) < part) {
			page_free(page);
			return done ? (s64)done : -EFAULT;
		}
		moved = user_copy_traced(mm, *position, page, part, write);
		if (!write && moved)
			moved = io_put(io, page, moved);
		*position += moved;
		done += moved;
		good = moved == part;
	}
	page_free(page);
	return done || good ? (s64)done : -EIO;
}

static s64 copy_file(struct file *file, struct io *io, u64 *position, bool write)
{
	struct mm *mm = file->data;
	s64 result;

	if (!mm->references)
		return 0; /* no program uses it any more */
	mm_get(mm);
	result = copy_memory(mm, io, position, write);
	mm_put(mm);
	return result;
}

static s64 read_memory(struct file *file, struct io *to, u64 *position)
{
	return copy_file(file, to, position, false);
}

static s64 write_memory(struct file *file, struct io *from, u64 *position)
{
	return copy_file(file, from, position, true);
}

static s64 seek_memory(struct file *file, s64 offset, u32 whence)
{
	if (whence > 1)
		return -EINVAL;
	file->position = (u64)offset + (whence ? file->position : 0);
	return (s64)file->position;
}

static void release_memory(struct file *file)
{
	if (file->data)
		mm_forget(file->data);
}

static const struct file_operations memory_operations = {
	.read = read_memory, .write = write_memory, .seek = seek_memory, .release = release_memory,
};

int open_process_memory(struct inode *inode, struct file *file)
{
	struct task *t = process_task(synthetic_of(inode));

	if (!t || !t->mm)
		return -ESRCH;
	if (!may_inspect(core.current, t, true) || t->process->container != core.current->process->container)
		return -EACCES;
	file->operations = &memory_operations;
	mm_watch(t->mm);
	file->data = t->mm;
	return 0;
}

/* -- kcmp -- */

/* 0: the same; 1 or 2: less or more, in an order that shows no address. */
static s64 order(const void *a, const void *b)
{
	u64 x = (u64)a * 0x9e3779b97f4a7c15ull, y = (u64)b * 0x9e3779b97f4a7c15ull;

	return a == b ? 0 : x < y ? 1 : 2;
}

s64 sys_kcmp(struct task *t, const u64 *args)
{
	enum { KCMP_FILE, KCMP_VM, KCMP_FILES, KCMP_FS, KCMP_SIGHAND, KCMP_IO, KCMP_SYSVSEM };
	struct task *a = task_find(t->process->pids, (s32)args[0]), *b = task_find(t->process->pids, (s32)args[1]);
	struct file *first, *second;

	if (!a || !b || !a->files || !b->files)
		return -ESRCH;
	if (!may_inspect(t, a, false) || !may_inspect(t, b, false))
		return -EPERM;
	switch ((u32)args[2]) {
	case KCMP_FILE:
		first = fd_file(a, args[3]);
		second = fd_file(b, args[4]);
		return first && second ? order(first, second) : -EBADF;
	case KCMP_VM: return order(a->mm, b->mm);
	case KCMP_FILES: return order(a->files, b->files);
	case KCMP_FS: return order(a->fs, b->fs);
	case KCMP_SIGHAND: return order(a->sighand, b->sighand);
	case KCMP_IO: return 0; /* no process has an I/O context of its own */
	case KCMP_SYSVSEM:
		if (list_empty(&a->process->semaphore_undos) && list_empty(&b->process->semaphore_undos))
			return 0;
		return order(a->process, b->process);
	}
	return -EINVAL;
}
