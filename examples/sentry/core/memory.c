// SPDX-License-Identifier: Apache-2.0
/* System calls for memory. */
#include "core.h"
#include "vfs/vfs.h"

static u64 page_up(u64 size)
{
	return (size + PAGE - 1) & -(u64)PAGE;
}

/* What is wrong with an address or size, before anything else is; 0: nothing. */
static s64 check_place(struct mm *mm, u64 address, u64 size, u32 flags)
{
	if (!size)
		return -EINVAL;
	size = page_up(size);
	if (!size || size > TASK_SIZE)
		return -ENOMEM;
	if (!(flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)))
		return 0;
	if (address > TASK_SIZE - size)
		return -ENOMEM;
	if (address % PAGE)
		return -EINVAL;
	if (address < USER_MIN)
		return -EPERM;
	return flags & MAP_FIXED_NOREPLACE && !mm_is_free(mm, address, address + size) ? -EEXIST : 0;
}

static s64 map_file(struct task *t, const u64 *args)
{
	enum { SHARED_VALIDATE = 3, KNOWN = 0x407f9ff };
	u32 flags = (u32)args[3], type = flags & MAP_TYPE;
	struct vma vma = { .prot = (u32)args[2], .offset = args[5], .file = fd_file(t, args[4]) };
	bool shared = type == MAP_SHARED || type == SHARED_VALIDATE;
	s64 error;

	if (!vma.file || vma.file->flags & O_PATH)
		return -EBADF;
	error = check_place(t->mm, args[0], args[1], flags);
	if (error)
		return error;
	if (vma.offset + page_up(args[1]) <= vma.offset)
		return -EOVERFLOW;
	if (S_ISREG(vma.file->inode->mode) && (s64)(vma.offset + args[1]) < 0)
		return -EOVERFLOW;
	if (type == SHARED_VALIDATE && flags & ~(u32)KNOWN)
		return -EOPNOTSUPP;
	if (!vma.file->readable || (shared && vma.prot & PROT_WRITE && !vma.file->writable))
		return -EACCES;
	if (!vma.file->operations->mmap)
		return -ENODEV;
	if (shared)
		vma.flags = VMA_SHARED | (vma.file->writable ? 0 : VMA_MAY_NOT_WRITE);
	error = vma.file->operations->mmap(vma.file, vma.prot, flags);
	if (error)
		return error;
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
	return mm_map(t->mm, args[0], args[1], (u32)args[2], flags);
}

s64 sys_munmap(struct task *t, const u64 *args)
{
	return mm_unmap(t->mm, args[0], args[1]);
}

s64 sys_mprotect(struct task *t, const u64 *args)
{
	const u64 grows = PROT_GROWSDOWN | PROT_GROWSUP;
	u64 start = args[0], size = (args[1] + PAGE - 1) & -(u64)PAGE, prot = args[2] & ~grows;

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

s64 sys_madvise(struct task *t, const u64 *args)
{
	enum { LAST_ADVICE = 4, DONTNEED = 4, HUGEPAGE = 14, NOHUGEPAGE = 15, DONTDUMP = 16, DODUMP = 17 };
	u64 start = args[0], size = (args[1] + PAGE - 1) & -(u64)PAGE, covered;
	s32 advice = (s32)args[2];

	if (advice < 0 || (advice > LAST_ADVICE && (advice < HUGEPAGE || advice > DODUMP)))
		return -EINVAL;
	if (start % PAGE || (args[1] && !size) || start + size < start)
		return -EINVAL;
	if (!size)
		return 0;
	covered = mm_covered(t->mm, start, start + size);
	if (advice == DONTNEED)
		mm_discard(t->mm, start, covered);
	return covered < start + size ? -ENOMEM : 0;
}

s64 sys_brk(struct task *t, const u64 *args)
{
	struct mm *mm = t->mm;
	u64 old = (mm->brk + PAGE - 1) & -(u64)PAGE, new = (args[0] + PAGE - 1) & -(u64)PAGE;

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
