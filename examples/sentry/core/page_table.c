// SPDX-License-Identifier: Apache-2.0
/*
 * Page tables in the CPU's own format.  A platform with a CPU of its own loads them.  One without repeats each change by
 * map and unmap, or when the program faults at a page that the tables have already.
 */
#include "page_table.h"

#define PTE_USER 4ull
#define PTE_OWNED (1ull << 9) /* for software: there is a page, even if the CPU may not use it (PROT_NONE) */

static u64 *table_at(u64 offset)
{
	return page_at(offset);
}

u64 pte_of(u64 offset, u32 prot)
{
	u64 entry = offset | PTE_OWNED;

	if (prot & (PROT_READ | PROT_WRITE | PROT_EXEC))
		entry |= PTE_PRESENT | PTE_USER;
	if (prot & PROT_WRITE)
		entry |= PTE_WRITE;
	return prot & PROT_EXEC ? entry : entry | PTE_NX;
}

static u32 prot_of(u64 entry)
{
	if (!(entry & PTE_PRESENT))
		return 0;
	return PROT_READ | (entry & PTE_WRITE ? PROT_WRITE : 0) | (entry & PTE_NX ? 0 : PROT_EXEC);
}

/* The entry for a page of a mapping: read-only if the first write must fault. */
u64 pte_in(const struct vma *vma, u64 offset)
{
	bool read_only = vma->flags & VMA_SHARED ? vma->file != NULL : page_is_shared(offset);

	return pte_of(offset, read_only ? vma->prot & ~(u32)PROT_WRITE : vma->prot);
}

/* The entry of a page, with tables on the way to it; NULL: no RAM is left. */
u64 *entry_make(struct mm *mm, u64 address)
{
	u64 table = mm->root;

	for (int shift = 39; shift > 12; shift -= 9) {
		u64 *entry = &table_at(table)[address >> shift & 511];

		if (!*entry) {
			void *page = page_alloc();

			if (!page)
				return NULL;
			*entry = page_offset(page) | PTE_PRESENT | PTE_WRITE | PTE_USER;
		}
		table = *entry & PTE_OFFSET;
	}
	return &table_at(table)[address >> 12 & 511];
}

/* The table with the entry of an address; NULL: there is none, and shift is that of the entry where it is missing. */
static u64 *leaf_of(struct mm *mm, u64 address, int *shift)
{
	u64 table = mm->root;

	for (*shift = 39; *shift > 12; *shift -= 9) {
		table = table_at(table)[address >> *shift & 511] & PTE_OFFSET;
		if (!table)
			return NULL;
	}
	return table_at(table);
}

/* The entry of the next page that is there, from *address to below end, and where it is; NULL: there is none. */
u64 *entry_next(struct mm *mm, u64 *address, u64 end)
{
	while (*address < end) {
		int shift;
		u64 *leaf = leaf_of(mm, *address, &shift);

		for (u64 i = *address >> 12 & 511; leaf && i < 512 && *address < end; i++, *address += PAGE)
			if (leaf[i])
				return &leaf[i];
		if (!leaf)
			*address = ((*address >> shift) + 1) << shift;
	}
	return NULL;
}

u64 mm_resident(struct mm *mm, u64 start, u64 end, u8 *pages)
{
	u64 count = 0;

	for (u64 at = start; entry_next(mm, &at, end); at += PAGE, count++)
		if (pages)
			pages[(at - start) / PAGE] = 1;
	return count;
}

void mm_discard(struct mm *mm, u64 start, u64 end)
{
	u64 at = start;
	bool any = false;

	for (u64 *entry = entry_next(mm, &at, end); entry; entry = entry_after(mm, entry, &at, end)) {
		page_put(*entry & PTE_OFFSET);
		*entry = 0;
		any = true;
	}
	if (any)
		core.ops->unmap(mm->space, start, end - start);
}

/* Show the program the present pages of a range, as their entries map them. */
int mm_show(struct mm *mm, u64 start, u64 end)
{
	u64 at = start, from = 0, offset = 0, size = 0;
	u32 prot = 0;

	for (u64 *entry = entry_next(mm, &at, end); entry; entry = entry_after(mm, entry, &at, end)) {
		u64 page = *entry & PTE_OFFSET;

		if (size && (from + size != at || offset + size != page || prot_of(*entry) != prot)) {
			if (core.ops->map(mm->space, from, offset, size, prot))
				return -ENOMEM;
			size = 0;
		}
		if (!size)
			from = at, offset = page, prot = prot_of(*entry);
		size += PAGE;
	}
	return size && core.ops->map(mm->space, from, offset, size, prot) ? -ENOMEM : 0;
}

static void hide_pages(struct mm *mm, bool (*which)(u64 offset))
{
	u64 at = 0;

	for (u64 *entry = entry_next(mm, &at, TASK_SIZE); entry; entry = entry_after(mm, entry, &at, TASK_SIZE))
		if (which(*entry & PTE_OFFSET))
			core.ops->unmap(mm->space, at, PAGE);
}

void core_hide(bool (*which)(u64 offset))
{
	EACH_PROCESS(p) {
		const struct mm *before = NULL;

		EACH_TASK(t, p) {
			if (t->mm && t->mm != before)
				hide_pages(t->mm, which);
			before = t->mm;
		}
	}
}

void mm_hide(struct mm *mm, u64 start, u64 end)
{
	if (core.cpus > 1 && mm->references > 1)
		core.ops->unmap(mm->space, start, end - start);
}

/* The program does not see what its entries map: it must end. */
int mm_cannot_show(struct mm *mm)
{
	mm->exhausted = true;
	return -ENOMEM;
}

void tables_free(u64 table, int level)
{
	for (u32 i = 0; level && i < (level == 3 ? 256 : 512); i++)
		if (table_at(table)[i])
			tables_free(table_at(table)[i] & PTE_OFFSET, level - 1);
	page_put(table);
}
