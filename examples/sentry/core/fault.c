// SPDX-License-Identifier: Apache-2.0
/*
 * Pages appear when they are touched.  Private mappings share pages read-only: the first write copies them.
 */
#include "mapping.h"
#include "page_table.h"
#include "vfs/vfs.h"

#define FAULT_AROUND (16ull * PAGE)

static s64 file_page(struct file *file, u64 index, bool write)
{
	return file->inode->operations->page ? file->inode->operations->page(file->inode, index, write) : -ENODEV;
}

/* A page of what a mapping shows, with a reference; can sleep. */
static s64 object_page(const struct vma *vma, u64 address)
{
	u64 index = (vma->offset + (address - vma->start)) / PAGE;
	void *page;

	if (vma->file)
		return file_page(vma->file, index, false);
	if (vma->shared)
		return shared_page(vma->shared, index);
	page = page_alloc();
	return page ? (s64)page_offset(page) : -ENOMEM;
}

/* The mapping at an address, if it still shows what it did before a sleep. */
static struct vma *vma_again(struct mm *mm, const struct vma *was, u64 address)
{
	struct vma *vma = mm_vma(mm, address);

	if (!vma || vma->file != was->file || vma->shared != was->shared || (vma->flags ^ was->flags) & VMA_SHARED)
		return NULL;
	return vma->offset + (address - vma->start) == was->offset + (address - was->start) ? vma : NULL;
}

/* Put a page there, if none is. Afterwards there can be another one, or none if the mapping was removed. */
static int page_in(struct mm *mm, u64 address)
{
	struct vma was = *mm_vma(mm, address), *vma;
	u64 *entry;
	s64 offset;

	if (entry_at(mm, address))
		return 0;
	if (was.file)
		file_get(was.file);
	offset = object_page(&was, address); /* sleeps only for a file */
	vma = vma_again(mm, &was, address);
	entry = offset > 0 && vma ? entry_make(mm, address) : NULL;
	if (entry && !*entry)
		*entry = pte_in(vma, (u64)offset);
	else if (offset > 0)
		page_put((u64)offset);
	if (was.file)
		file_put(was.file);
	if (offset < 0)
		return (int)offset;
	return entry || !vma ? 0 : -ENOMEM;
}

/*
 * Page in from *at to a place that the same table of entries shows, or to the end of the mapping, and advance *at. 0 also
 * for a sleep, which leaves nothing as it was.
 */
static s64 page_in_range(struct mm *mm, u64 *at, u64 end)
{
	const struct vma *vma = mm_vma(mm, *at);
	u64 *entry = vma ? entry_make(mm, *at) : NULL;
	struct file *file = vma ? vma->file : NULL;
	const u64 switches = core.switches;
	s64 offset = entry ? 1 : -ENOMEM;

	if (entry && vma->end < end)
		end = vma->end;
	if (file)
		file_get(file);
	for (; offset > 0 && *at < end; *at += PAGE, entry++) {
		if (*entry)
			continue;
		offset = object_page(vma, *at);
		if (offset > 0 && core.switches != switches) {
			page_put((u64)offset);
			offset = 0;
		}
		if (offset <= 0)
			break;
		*entry = pte_in(vma, (u64)offset);
	}
	if (file)
		file_put(file);
	return offset < 0 ? offset : 0;
}

/* Page in a range of one mapping as far as RAM allows, but the page of this address in any case. */
static int populate(struct mm *mm, u64 start, u64 end, u64 address)
{
	enum { SLEEPS = 16 };
	int error = page_in(mm, address);
	u64 at = start;

	for (u32 tries = 0; !error && tries < SLEEPS && at < end; tries++)
		if (page_in_range(mm, &at, end))
			break;
	if (error == -ENOMEM || (!core.ops->walks && mm_show(mm, start, end)))
		return mm_cannot_show(mm);
	return error;
}

/* Make a present page writable: report the change to a shared file, or copy a private page that others share. */
static int make_writable(struct mm *mm, u64 address)
{
	struct vma *vma = mm_vma(mm, address);
	u64 *entry = entry_at(mm, address), old = *entry & PTE_OFFSET;

	if (vma->flags & VMA_SHARED && vma->file) {
		struct vma was = *vma;
		s64 offset;

		vma_get(&was);
		offset = file_page(was.file, (was.offset + (address - was.start)) / PAGE, true);
		vma = vma_again(mm, &was, address);
		entry = entry_at(mm, address);
		if (offset > 0)
			page_put((u64)offset);
		vma_put(&was);
		if (offset < 0 || !vma || !entry)
			return offset < 0 ? (int)offset : 0;
		old = (u64)offset;
		if ((*entry & PTE_OFFSET) != old) { /* the file has another page there by now */
			mm_discard(mm, address, address + PAGE);
			return 0;
		}
	} else if (!(vma->flags & VMA_SHARED) && page_is_shared(old)) {
		u64 new = pages_alloc(0);

		if (!new)
			return mm_cannot_show(mm);
		bytes_copy(page_at(new), page_at(old), PAGE);
		mm_hide(mm, address, address + PAGE); /* the old one can soon be used for something else */
		page_put(old);
		old = new;
	}
	*entry = pte_of(old, vma->prot);
	return mm_show(mm, address, address + PAGE) ? mm_cannot_show(mm) : 0;
}

static bool allows(u32 prot, enum access access)
{
	static const u32 wanted[] = { 7, 7, PROT_WRITE, PROT_EXEC };

	return prot & wanted[access];
}

/* Whether another task has made that access possible after the fault. */
static bool permits(u64 entry, enum access access)
{
	if (access == ACCESS_WRITE)
		return entry & PTE_WRITE;
	return access != ACCESS_ANY && entry & PTE_PRESENT && !(access == ACCESS_EXEC && entry & PTE_NX);
}

int mm_fault(struct mm *mm, u64 address, enum access access, bool present)
{
	u64 page = page_down(address), start = address & -FAULT_AROUND, end = start + FAULT_AROUND;
	struct vma *vma = mm_vma(mm, address);
	u64 *entry;

	if (!vma || !allows(vma->prot, access))
		return -EFAULT;
	if (start < vma->start)
		start = vma->start;
	if (end > vma->end)
		end = vma->end;
	entry = entry_at(mm, page);
	if (!entry)
		return populate(mm, start, end, page);
	if (!(*entry & PTE_WRITE) && vma->prot & PROT_WRITE && (access == ACCESS_WRITE || (access == ACCESS_ANY && present)))
		return make_writable(mm, page);
	if (present && !permits(*entry, access))
		return -EFAULT;
	return mm_show(mm, start, end) ? mm_cannot_show(mm) : 0; /* it is there, but the program does not see it yet */
}

static __attribute__((noinline)) void *find_page(struct mm *mm, u64 address, bool write)
{
	for (u32 tries = 0; tries < 100; tries++) { /* another thread can unmap it meanwhile */
		struct vma *vma = mm_vma(mm, address);
		u64 *entry;

		if (!vma || !(vma->prot & (write ? PROT_WRITE : PROT_READ | PROT_WRITE | PROT_EXEC)))
			return NULL;
		entry = entry_at(mm, address);
		if (entry && (!write || *entry & PTE_WRITE))
			return (u8 *)page_at(*entry & PTE_OFFSET) + address % PAGE;
		if (mm_fault(mm, address, write ? ACCESS_WRITE : ACCESS_READ, false))
			return NULL;
	}
	return NULL;
}

void *mm_page(struct mm *mm, u64 address, bool write)
{
	const u64 *shown = address < TASK_SIZE ? entry_at(mm, address) : NULL; /* behind it is the core's */

	/* The program could do it itself, so the mapping allows it. */
	if (shown && *shown & PTE_PRESENT && (!write || *shown & PTE_WRITE))
		return (u8 *)page_at(*shown & PTE_OFFSET) + address % PAGE;
	return find_page(mm, address, write);
}

void *mm_page_traced(struct mm *mm, u64 address, bool write)
{
	u64 page = page_down(address);

	for (u32 tries = 0; tries < 100; tries++) {
		const struct vma *vma = mm_vma(mm, address);
		u64 *entry;

		if (!vma || vma->prot & (write ? PROT_WRITE : PROT_READ | PROT_WRITE | PROT_EXEC))
			return mm_page(mm, address, write);
		if (write && vma->flags & VMA_SHARED)
			return NULL;
		entry = entry_at(mm, page);
		if (!entry && page_in(mm, page))
			return NULL;
		if (!entry) /* the task slept: another one may have mapped something else there */
			continue;
		if (!write || !page_is_shared(*entry & PTE_OFFSET))
			return (u8 *)page_at(*entry & PTE_OFFSET) + address % PAGE;
		if (make_writable(mm, page)) /* but its entry stays read-only, as the mapping is */
			return NULL;
	}
	return NULL;
}
