// SPDX-License-Identifier: Apache-2.0
/* Address spaces as a whole: a table of mappings, and page tables. */
#include "mapping.h"
#include "page_table.h"
#include "vfs/vfs.h"

/* All address spaces: also incomplete ones, and those that only a task which inspects them holds. */
static struct list all;

void mm_init(void)
{
	list_init(&all);
}

static struct mm *mm_alloc(void)
{
	struct mm *mm = kmalloc(sizeof(*mm));
	void *root = mm ? page_alloc() : NULL;

	if (!root) {
		kfree(mm);
		return NULL;
	}
	*mm = (struct mm){ .references = 1, .root = page_offset(root), .map_top = USER_TOP };
	list_add(&all, &mm->all);
	return mm;
}

struct mm *mm_new(struct mm *like)
{
	struct mm *mm = mm_alloc();

	if (mm)
		mm->space = core.ops->space_new(mm->root, like ? like->space : NULL, false);
	if (mm && !mm->space) {
		mm_put(mm);
		return NULL;
	}
	return mm;
}

void mm_get(struct mm *mm)
{
	reference_get(&mm->references);
}

void mm_watch(struct mm *mm)
{
	mm->watchers++;
}

void mm_forget(struct mm *mm)
{
	if (!--mm->watchers && !mm->references)
		kfree(mm);
}

void mm_put(struct mm *mm)
{
	if (!reference_put(&mm->references))
		return;
	mm_watch(mm);
	list_remove(&mm->all); /* what follows can sleep */
	if (mm->space)
		core.ops->space_free(mm->space);
	for (u32 i = 0; i < mm->count; i++) {
		const u64 end = mm->vmas[i].end;
		u64 at = mm->vmas[i].start;

		for (u64 *entry = entry_next(mm, &at, end); entry; entry = entry_after(mm, entry, &at, end))
			page_put(*entry & PTE_OFFSET);
		vma_put(&mm->vmas[i]);
	}
	if (mm->program)
		file_put(mm->program);
	tables_free(mm->root, 3);
	kfree(mm->vmas);
	mm_forget(mm);
}

/* Share a mapping's pages with a child. Private ones become read-only in both: the first write copies them. */
static bool fork_pages(struct mm *mm, struct mm *child, const struct vma *vma)
{
	bool changed = false;
	u64 at = vma->start, *entry, *copy;

	for (entry = entry_next(mm, &at, vma->end); entry; entry = entry_after(mm, entry, &at, vma->end)) {
		copy = entry_make(child, at);
		if (!copy)
			break;
		page_get(*entry & PTE_OFFSET);
		if (!(vma->flags & VMA_SHARED) && *entry & PTE_WRITE) {
			*entry &= ~PTE_WRITE;
			changed = true;
		}
		*copy = *entry;
	}
	if (changed) {
		mm_hide(mm, vma->start, vma->end);
		if (mm_show(mm, vma->start, vma->end))
			mm_cannot_show(mm);
	}
	return !entry;
}

struct mm *mm_fork(struct mm *mm)
{
	struct mm *child = mm_alloc();

	if (!child || !vma_reserve(child, mm->count)) {
		if (child)
			mm_put(child);
		return NULL;
	}
	child->secret = mm->secret;
	child->has_barriers = mm->has_barriers;
	child->no_huge_pages = mm->no_huge_pages;
	child->heap = mm->heap, child->brk = mm->brk, child->map_top = mm->map_top;
	child->arguments = mm->arguments, child->environment = mm->environment;
	child->vector = mm->vector;
	child->program = mm->program;
	if (child->program)
		file_get(child->program);
	for (u32 i = 0; i < mm->count; i++) {
		struct vma *vma = &mm->vmas[i];

		if (vma->flags & VMA_NO_FORK)
			continue;
		vma_get(vma);
		vma_insert(child, child->count, *vma);
		child->vmas[child->count - 1].flags &= ~(u32)VMA_LOCKED;
		if (!(vma->flags & VMA_WIPE_ON_FORK) && !fork_pages(mm, child, vma))
			goto failed;
	}
	child->space = core.ops->space_new(child->root, mm->space, true);
	if (!child->space)
		goto failed;
	for (u32 i = 0; i < mm->count; i++)
		if (mm->vmas[i].flags & (VMA_NO_FORK | VMA_WIPE_ON_FORK))
			core.ops->unmap(child->space, mm->vmas[i].start, mm->vmas[i].end - mm->vmas[i].start);
	return child;
failed:
	mm_put(child);
	return NULL;
}

static void cut_off(struct mm *mm, struct inode *inode, u64 size, u32 kinds)
{
	for (u32 i = 0; i < mm->count; i++) {
		const struct vma *vma = &mm->vmas[i];
		u64 from = vma->start;

		if (!vma->file || vma->file->inode != inode || (vma->flags & kinds) != kinds)
			continue;
		if (size > vma->offset)
			from += page_up(size - vma->offset);
		if (from < vma->end)
			mm_discard(mm, from, vma->end);
	}
}

void mm_truncate(struct inode *inode, u64 size)
{
	LIST_EACH(at, &all)
		cut_off(CONTAINER(at, struct mm, all), inode, size, 0);
}

bool mm_may_write(const struct inode *inode)
{
	LIST_EACH(at, &all) {
		const struct mm *mm = CONTAINER(at, struct mm, all);

		for (u32 i = 0; i < mm->count; i++)
			if (mm->vmas[i].file && mm->vmas[i].file->inode == inode &&
			    (mm->vmas[i].flags & (VMA_SHARED | VMA_MAY_NOT_WRITE)) == VMA_SHARED)
				return true;
	}
	return false;
}

void mm_replace(struct inode *inode)
{
	LIST_EACH(at, &all)
		cut_off(CONTAINER(at, struct mm, all), inode, 0, VMA_SHARED);
}
