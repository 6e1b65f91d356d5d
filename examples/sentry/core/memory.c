// SPDX-License-Identifier: Apache-2.0
/* System calls for memory. */
#include "core.h"
#include "vfs/calls.h"

static bool may_write(const struct file *file)
{
	return file->writable && !(file->inode->seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE));
}

static s64 map_file(struct task *t, const u64 *args)
{
	enum { SHARED_VALIDATE = 3, KNOWN = 0x7c07f9ff };
	u32 flags = (u32)args[3], type = flags & MAP_TYPE;
	struct vma vma = { .prot = (u32)args[2], .offset = args[5], .file = fd_file(t, args[4]) };
	bool shared = type == MAP_SHARED || type == SHARED_VALIDATE;
	s64 error;

	if (!vma.file || vma.file->flags & O_PATH)
		return -EBADF;
	error = mm_check_place(t->mm, args[0], args[1], flags);
	if (error)
		return error;
	if (vma.offset + page_up(args[1]) <= vma.offset)
		return -EOVERFLOW;
	if (S_ISREG(vma.file->inode->mode) && (s64)(vma.offset + args[1]) < 0)
		return -EOVERFLOW;
	if (type == SHARED_VALIDATE && flags & ~(u32)KNOWN)
		return -EOPNOTSUPP;
	if (!shared && type != MAP_PRIVATE)
		return -EINVAL;
	if (!vma.file->readable || (shared && vma.prot & PROT_WRITE && !vma.file->writable))
		return -EACCES;
	if (!vma.file->operations->mmap)
		return -ENODEV;
	if (flags & MAP_GROWSDOWN)
		return -EINVAL;
	if (shared)
		vma.flags = VMA_SHARED | (may_write(vma.file) ? 0 : VMA_MAY_NOT_WRITE);
	error = vma.file->operations->mmap(vma.file, vma.prot, flags);
	if (error)
		return error;
	if (!vma.file->inode->operations->page) /* /dev/zero */
		return mm_map(t->mm, args[0], args[1], vma.prot, flags);
	file_accessed(vma.file);
	file_get(vma.file);
	return mm_map_object(t->mm, args[0], args[1], shared ? (flags & ~(u32)MAP_TYPE) | MAP_SHARED : flags, &vma);
}

s64 sys_mmap(struct task *t, const u64 *args)
{
	u32 flags = (u32)args[3];

	if (args[5] % PAGE)
		return -EINVAL;
	if (!(flags & MAP_ANONYMOUS))
		return map_file(t, args);
	if ((flags & MAP_TYPE) == MAP_SHARED && flags & MAP_GROWSDOWN) {
		const s64 error = mm_check_place(t->mm, args[0], args[1], flags);

		return error ? error : -EINVAL;
	}
	return mm_map(t->mm, args[0], args[1], (u32)args[2], flags);
}

s64 sys_munmap(struct task *t, const u64 *args)
{
	return mm_unmap(t->mm, args[0], args[1]);
}

s64 sys_mprotect(struct task *t, const u64 *args)
{
	const u64 grows = PROT_GROWSDOWN | PROT_GROWSUP;
	u64 start = args[0], size = page_up(args[1]), prot = args[2] & ~grows;

	if ((args[2] & grows) == grows || start % PAGE)
		return -EINVAL;
	if (!args[1])
		return 0;
	if (start + size <= start)
		return -ENOMEM;
	if (prot & ~(u64)(PROT_READ | PROT_WRITE | PROT_EXEC | PROT_SEM))
		return -EINVAL;
	if (args[2] & grows) /* no mapping here does */
		return mm_is_free(t->mm, start, start + size) ? -ENOMEM : -EINVAL;
	if (start + size > USER_TOP)
		return -ENOMEM;
	return mm_protect(t->mm, start, size, (u32)prot & ~(u32)PROT_SEM);
}

/* There are no keys: -1 stands for none. */
s64 sys_pkey_mprotect(struct task *t, const u64 *args)
{
	const u64 grows = PROT_GROWSDOWN | PROT_GROWSUP;
	bool is_range = args[1] && !(args[0] % PAGE) && (args[2] & grows) != grows && args[0] + page_up(args[1]) > args[0];

	return is_range && (s32)args[3] != -1 ? -EINVAL : sys_mprotect(t, args);
}

s64 sys_pkey_alloc(struct task *t, const u64 *args)
{
	(void)t;
	return args[0] || args[1] & ~3ull ? -EINVAL : -ENOSPC;
}

s64 sys_pkey_free(struct task *t, const u64 *args)
{
	(void)t, (void)args;
	return -EINVAL;
}

/* A range as most calls have it: whole pages, without a wrap. *end is behind it; 0 or -EINVAL. */
static s64 get_range(u64 start, u64 size, u64 *end)
{
	u64 whole = page_up(size);

	*end = start + whole;
	return start % PAGE || (size && !whole) || *end < start ? -EINVAL : 0;
}

/* prot: what a mapping must allow, or one of them. */
static s64 populate(struct mm *mm, u64 start, u64 end, u32 prot)
{
	for (u64 at = start; at < end; at += PAGE) {
		const struct vma *vma = mm_vma(mm, at);

		if (!vma)
			return -ENOMEM;
		if (!(vma->prot & prot))
			return -EINVAL;
		if (!mm_page(mm, at, prot == PROT_WRITE))
			return -EFAULT;
	}
	return 0;
}

s64 sys_madvise(struct task *t, const u64 *args)
{
	enum {
		DONTNEED = 4, FREE = 8, DONTFORK = 10, DOFORK = 11, MERGEABLE = 12, DODUMP = 17, WIPEONFORK = 18,
		KEEPONFORK = 19, COLD = 20, PAGEOUT = 21, POPULATE_READ = 22, POPULATE_WRITE = 23,
	};
	u64 start = args[0], end, covered;
	s32 advice = (s32)args[2];
	s64 error = 0;

	if (advice < 0 || advice > POPULATE_WRITE || (advice > DONTNEED && advice < FREE) || advice == 9)
		return -EINVAL;
	if (get_range(start, args[1], &end))
		return -EINVAL;
	if (start == end)
		return 0;
	covered = mm_covered(t->mm, start, end);
	switch (advice) {
	case DONTNEED:
		for (u64 at = start; at < covered; at = mm_vma(t->mm, at)->end)
			if (mm_vma(t->mm, at)->flags & VMA_LOCKED)
				return -EINVAL;
		mm_discard(t->mm, start, covered);
		break;
	case FREE:
	case WIPEONFORK:
		for (u64 at = start; at < covered; at = mm_vma(t->mm, at)->end)
			if (mm_vma(t->mm, at)->file || mm_vma(t->mm, at)->flags & VMA_SHARED)
				return -EINVAL;
		error = advice == FREE ? 0 : mm_mark(t->mm, start, covered, VMA_WIPE_ON_FORK, 0);
		break;
	case DONTFORK: error = mm_mark(t->mm, start, covered, VMA_NO_FORK, 0); break;
	case DOFORK: error = mm_mark(t->mm, start, covered, 0, VMA_NO_FORK); break;
	case KEEPONFORK: error = mm_mark(t->mm, start, covered, 0, VMA_WIPE_ON_FORK); break;
	case POPULATE_READ:
	case POPULATE_WRITE:
		error = populate(t->mm, start, covered, advice == POPULATE_WRITE ? PROT_WRITE : PROT_READ);
		break;
	}
	return error ? error : covered < end ? -ENOMEM : 0;
}

s64 sys_mremap(struct task *t, const u64 *args)
{
	u64 old = args[0], old_size = page_up(args[1]), size = page_up(args[2]);
	u32 flags = (u32)args[3];
	u64 to = args[4];

	if (flags & ~(u32)(MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP))
		return -EINVAL;
	if (flags & (MREMAP_FIXED | MREMAP_DONTUNMAP) && !(flags & MREMAP_MAYMOVE))
		return -EINVAL;
	if (flags & MREMAP_DONTUNMAP && old_size != size)
		return -EINVAL;
	if (old % PAGE || !size)
		return -EINVAL;
	if (flags & MREMAP_FIXED) {
		if (to % PAGE || size > TASK_SIZE || to > TASK_SIZE - size)
			return -EINVAL;
		if (to < old + old_size && old < to + size)
			return -EINVAL;
	}
	return mm_remap(t->mm, old, old_size, size, flags, to);
}

s64 sys_msync(struct task *t, const u64 *args)
{
	enum { ASYNC = 1, INVALIDATE = 2, SYNC = 4 };
	u32 flags = (u32)args[2];
	u64 end;

	if (flags & ~(u32)(ASYNC | INVALIDATE | SYNC) || (flags & (ASYNC | SYNC)) == (ASYNC | SYNC))
		return -EINVAL;
	if (args[0] % PAGE)
		return -EINVAL;
	end = args[0] + page_up(args[1]); /* a size that wraps is none */
	if (end < args[0])
		return -ENOMEM;
	for (u64 at = args[0]; flags & (SYNC | INVALIDATE) && at < end && mm_vma(t->mm, at);) {
		struct vma *vma = mm_vma(t->mm, at);
		struct file *file = vma->flags & VMA_SHARED ? vma->file : NULL;

		if (flags & INVALIDATE && vma->flags & VMA_LOCKED)
			return -EBUSY;
		at = vma->end;
		if (file && flags & SYNC && file->operations->fsync) {
			s64 error;

			file_get(file);
			error = file->operations->fsync(file, false);
			file_put(file);
			if (error)
				return error;
		}
	}
	return mm_covered(t->mm, args[0], end) < end ? -ENOMEM : 0;
}

s64 sys_mincore(struct task *t, const u64 *args)
{
	u64 start = args[0], end;
	u8 *pages;

	if (start % PAGE)
		return -EINVAL;
	if (get_range(start, args[1], &end) || end > TASK_SIZE)
		return -ENOMEM;
	if (!user_range(args[2], (end - start) / PAGE))
		return -EFAULT;
	pages = page_alloc();
	if (!pages)
		return -EAGAIN;
	for (u64 at = start, part; at < end; at += part) {
		s64 error = 0;

		part = end - at < (u64)PAGE * PAGE ? end - at : (u64)PAGE * PAGE;
		bytes_zero(pages, PAGE);
		if (mm_covered(t->mm, at, at + part) < at + part)
			error = -ENOMEM;
		else
			mm_resident(t->mm, at, at + part, pages);
		if (!error)
			error = user_write(t->mm, args[2] + (at - start) / PAGE, pages, part / PAGE);
		if (error) {
			page_free(pages);
			return error;
		}
	}
	page_free(pages);
	return 0;
}

/* -- no page leaves memory: all are locked -- */

static s64 lock(struct task *t, u64 address, u64 size, u32 set)
{
	u64 start = page_down(address), end = page_up(address + size), covered;
	s64 error;

	if (end < start)
		return -EINVAL;
	covered = mm_covered(t->mm, start, end);
	error = mm_mark(t->mm, start, covered, set, VMA_LOCKED);
	return error ? error : covered < end ? -ENOMEM : 0;
}

s64 sys_mlock(struct task *t, const u64 *args)
{
	u64 start = page_down(args[0]), end = page_up(args[0] + args[1]);
	s64 error = lock(t, args[0], args[1], VMA_LOCKED);

	return error ? error : populate(t->mm, start, end, PROT_READ | PROT_WRITE | PROT_EXEC) ? -ENOMEM : 0;
}

s64 sys_mlock2(struct task *t, const u64 *args)
{
	enum { ONFAULT = 1 };

	if ((u32)args[2] & ~(u32)ONFAULT)
		return -EINVAL;
	return (u32)args[2] ? lock(t, args[0], args[1], VMA_LOCKED) : sys_mlock(t, args);
}

s64 sys_munlock(struct task *t, const u64 *args)
{
	return lock(t, args[0], args[1], 0);
}

s64 sys_mlockall(struct task *t, const u64 *args)
{
	enum { CURRENT = 1, FUTURE = 2, ONFAULT = 4 };
	u32 flags = (u32)args[0];

	if (!flags || flags & ~(u32)(CURRENT | FUTURE | ONFAULT) || flags == ONFAULT)
		return -EINVAL;
	return flags & CURRENT ? mm_mark(t->mm, 0, USER_TOP, VMA_LOCKED, 0) : 0;
}

s64 sys_munlockall(struct task *t, const u64 *args)
{
	(void)args;
	return mm_mark(t->mm, 0, USER_TOP, 0, VMA_LOCKED);
}

s64 sys_brk(struct task *t, const u64 *args)
{
	struct mm *mm = t->mm;
	u64 old = page_up(mm->brk), new = page_up(args[0]);

	if (args[0] < mm->heap || args[0] > mm->map_top)
		return (s64)mm->brk;
	if (new > old && (!mm_is_free(mm, old, new + PAGE) ||
			  mm_map(mm, old, new - old, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED_NOREPLACE) < 0))
		return (s64)mm->brk;
	if (new < old && mm_unmap(mm, new, old - new))
		return (s64)mm->brk;
	mm->brk = args[0];
	return (s64)mm->brk;
}
