// SPDX-License-Identifier: Apache-2.0
/*
 * An address space: a sorted table of mappings, and page tables in the CPU's own format.
 *
 * All memory is anonymous and appears when it is touched.  A platform with a CPU of its own loads the page tables; one
 * without repeats each change of them by map and unmap.
 */
#include "core.h"

#define PTE_PRESENT 1ull
#define PTE_WRITE 2ull
#define PTE_USER 4ull
#define PTE_OWNED (1ull << 9) /* for software: there is a page, even if the CPU may not use it (PROT_NONE) */
#define PTE_NX (1ull << 63)
#define PTE_OFFSET 0x000ffffffffff000ull
#define FAULT_AROUND (16ull * PAGE)

static u64 *table_at(u64 offset)
{
	return page_at(offset);
}

static u64 pte_of(u64 offset, u32 prot)
{
	u64 entry = offset | PTE_OWNED;

	if (prot & (PROT_READ | PROT_WRITE | PROT_EXEC))
		entry |= PTE_PRESENT | PTE_USER;
	if (prot & PROT_WRITE)
		entry |= PTE_WRITE;
	return prot & PROT_EXEC ? entry : entry | PTE_NX;
}

/* The entry of a page, with tables on the way to it; NULL: no RAM is left. */
static u64 *entry_make(struct mm *mm, u64 address)
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

/* The entry of the next page that is there, from *address to below end, and where it is; NULL: there is none. */
static u64 *entry_next(struct mm *mm, u64 *address, u64 end)
{
	while (*address < end) {
		u64 table = mm->root;
		int shift = 39;

		for (;; shift -= 9) {
			u64 *entry = &table_at(table)[*address >> shift & 511];

			if (!*entry)
				break;
			if (shift == 12)
				return entry;
			table = *entry & PTE_OFFSET;
		}
		*address = ((*address >> shift) + 1) << shift;
	}
	return NULL;
}

int mm_init(struct mm *mm)
{
	void *root = page_alloc();

	if (!root)
		return -ENOMEM;
	mm->root = page_offset(root);
	mm->map_top = USER_TOP;
	if (core.ops->use_tables)
		core.ops->use_tables(mm->root);
	return 0;
}

/* -- mappings -- */

/* The first that ends behind an address. */
static u32 vma_find(struct mm *mm, u64 address)
{
	u32 low = 0, high = mm->count;

	while (low < high) {
		u32 middle = (low + high) / 2;

		if (mm->vmas[middle].end > address)
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

static struct vma *vma_at(struct mm *mm, u64 address)
{
	u32 i = vma_find(mm, address);

	return i < mm->count && mm->vmas[i].start <= address ? &mm->vmas[i] : NULL;
}

static void vma_remove(struct mm *mm, u32 from, u32 to)
{
	for (u32 i = to; i < mm->count; i++)
		mm->vmas[from + i - to] = mm->vmas[i];
	mm->count -= to - from;
}

static void vma_insert(struct mm *mm, u32 at, struct vma vma)
{
	for (u32 i = mm->count++; i > at; i--)
		mm->vmas[i] = mm->vmas[i - 1];
	mm->vmas[at] = vma;
}

static bool lies_across(struct mm *mm, u64 address)
{
	struct vma *vma = vma_at(mm, address);

	return vma && vma->start < address;
}

/* Whether there is room for the parts of mappings that lie across the ends of a range, and for so many more. */
static bool has_room(struct mm *mm, u64 start, u64 end, u32 more)
{
	return mm->count + lies_across(mm, start) + lies_across(mm, end) + more <= VMAS;
}

/* Have a mapping begin at this address, if one lies across it. There must be room for one more. */
static void vma_split(struct mm *mm, u64 address)
{
	u32 i = vma_find(mm, address);

	if (i == mm->count || mm->vmas[i].start >= address)
		return;
	vma_insert(mm, i, mm->vmas[i]);
	mm->vmas[i].end = mm->vmas[i + 1].start = address;
}

/* Join those around a range that are alike. */
static void vma_join(struct mm *mm, u64 start, u64 end)
{
	u32 i = vma_find(mm, start ? start - 1 : 0);

	while (i + 1 < mm->count && mm->vmas[i].end <= end) {
		struct vma *this = &mm->vmas[i], *next = this + 1;

		if (this->end == next->start && this->prot == next->prot) {
			this->end = next->end;
			vma_remove(mm, i + 1, i + 2);
		} else {
			i++;
		}
	}
}

bool mm_is_free(struct mm *mm, u64 start, u64 end)
{
	u32 i = vma_find(mm, start);

	return i == mm->count || mm->vmas[i].start >= end;
}

u64 mm_covered(struct mm *mm, u64 address, u64 end)
{
	for (u32 i = vma_find(mm, address); i < mm->count && mm->vmas[i].start <= address && address < end; i++)
		address = mm->vmas[i].end;
	return address < end ? address : end;
}

/* Free the pages of a range. None is used again before the program no longer sees them. */
void mm_discard(struct mm *mm, u64 start, u64 end)
{
	u64 at = start, *entry;
	bool any = false;

	while ((entry = entry_next(mm, &at, end))) {
		page_put(*entry & PTE_OFFSET);
		*entry = 0;
		any = true;
	}
	if (any)
		core.ops->unmap(start, end - start);
}

static int unmap_range(struct mm *mm, u64 start, u64 end)
{
	u32 from;

	if (!has_room(mm, start, end, 0))
		return -ENOMEM;
	vma_split(mm, start);
	vma_split(mm, end);
	from = vma_find(mm, start);
	vma_remove(mm, from, vma_find(mm, end - 1) + (vma_at(mm, end - 1) != NULL));
	mm_discard(mm, start, end);
	return 0;
}

s64 mm_unmap(struct mm *mm, u64 address, u64 size)
{
	if (address % PAGE || address > TASK_SIZE || size > TASK_SIZE - address || !size)
		return -EINVAL;
	size = (size + PAGE - 1) & -(u64)PAGE;
	if (address >= USER_TOP)
		return 0;
	if (size > USER_TOP - address)
		size = USER_TOP - address;
	return unmap_range(mm, address, address + size);
}

/* The highest free range of that size; 0: there is none. */
static u64 find_gap(struct mm *mm, u64 size)
{
	u64 end = mm->map_top;

	for (u32 i = vma_find(mm, mm->map_top); i-- > 0; end = mm->vmas[i].start)
		if (mm->vmas[i].end <= end && end - mm->vmas[i].end >= size)
			return end - size;
	return end >= USER_MIN && end - USER_MIN >= size ? end - size : 0;
}

/* Where a mapping goes, or -errno. The size is a multiple of a page. */
static s64 choose_address(struct mm *mm, u64 address, u64 size, u32 flags)
{
	if (size > TASK_SIZE)
		return -ENOMEM;
	if (flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)) {
		if (address > TASK_SIZE - size)
			return -ENOMEM;
		if (address % PAGE)
			return -EINVAL;
		if (address < USER_MIN)
			return -EPERM;
		if (address + size > USER_TOP)
			return -ENOMEM;
		if (flags & MAP_FIXED_NOREPLACE && !mm_is_free(mm, address, address + size))
			return -EEXIST;
		return (s64)address;
	}
	address &= -(u64)PAGE;
	if (address >= USER_MIN && size <= USER_TOP && address <= USER_TOP - size && mm_is_free(mm, address, address + size))
		return (s64)address;
	address = find_gap(mm, size);
	return address ? (s64)address : -ENOMEM;
}

s64 mm_map(struct mm *mm, u64 address, u64 size, u32 prot, u32 flags)
{
	s64 at;
	int error;

	if (!size)
		return -EINVAL;
	size = (size + PAGE - 1) & -(u64)PAGE;
	if (!size)
		return -ENOMEM;
	at = choose_address(mm, address, size, flags);
	if (at < 0)
		return at;
	if ((flags & MAP_TYPE) != MAP_PRIVATE && (flags & MAP_TYPE) != MAP_SHARED)
		return -EINVAL;
	if (!has_room(mm, (u64)at, (u64)at + size, 1))
		return -ENOMEM;
	error = unmap_range(mm, (u64)at, (u64)at + size);
	if (error)
		return error;
	prot &= PROT_READ | PROT_WRITE | PROT_EXEC;
	vma_insert(mm, vma_find(mm, (u64)at), (struct vma){ (u64)at, (u64)at + size, prot });
	vma_join(mm, (u64)at, (u64)at + size);
	return at;
}

/* Show the program the pages of a range that are there, with the protection that their entries have by now. */
static int show_range(struct mm *mm, u64 start, u64 end, u32 prot)
{
	u64 at = start, from = 0, offset = 0, size = 0;
	u64 *entry;

	while ((entry = entry_next(mm, &at, end))) {
		u64 page = *entry & PTE_OFFSET;

		if (size && (from + size != at || offset + size != page)) {
			if (core.ops->map(from, offset, size, prot))
				return -ENOMEM;
			size = 0;
		}
		if (!size)
			from = at, offset = page;
		size += PAGE;
		at += PAGE;
	}
	return size && core.ops->map(from, offset, size, prot) ? -ENOMEM : 0;
}

s64 mm_protect(struct mm *mm, u64 address, u64 size, u32 prot)
{
	u64 end = (address + size + PAGE - 1) & -(u64)PAGE, covered, at = address;
	u64 *entry;

	covered = mm_covered(mm, address, end);
	if (covered == address || !has_room(mm, address, covered, 0))
		return -ENOMEM;
	vma_split(mm, address);
	vma_split(mm, covered);
	for (u32 i = vma_find(mm, address); i < mm->count && mm->vmas[i].start < covered; i++)
		mm->vmas[i].prot = prot;
	for (; (entry = entry_next(mm, &at, covered)); at += PAGE)
		*entry = pte_of(*entry & PTE_OFFSET, prot);
	if (show_range(mm, address, covered, prot)) {
		mm->exhausted = true; /* the entries say one thing and what the program sees another */
		return -ENOMEM;
	}
	vma_join(mm, address, covered);
	return covered < end ? -ENOMEM : 0;
}

/* -- pages -- */

int mm_populate(struct mm *mm, u64 start, u64 end)
{
	u32 prot = vma_at(mm, start)->prot;
	u64 at;

	for (at = start; at < end; at += PAGE) {
		u64 *entry = entry_make(mm, at);
		void *page;

		if (entry && *entry)
			continue;
		page = entry ? page_alloc() : NULL;
		if (!page)
			break;
		*entry = pte_of(page_offset(page), prot);
	}
	if (at == start || show_range(mm, start, at, prot)) {
		mm->exhausted = true;
		return -ENOMEM;
	}
	return at < end ? -ENOMEM : 0;
}

/* A page that may be used and is not there yet appears, with some of its neighbours. */
int mm_fault(struct mm *mm, u64 address)
{
	u64 page = address & -(u64)PAGE, start = address & -FAULT_AROUND, end = start + FAULT_AROUND, at = page;
	struct vma *vma = vma_at(mm, address);

	if (!vma || !vma->prot || entry_next(mm, &at, page + PAGE))
		return -EFAULT;
	if (start < vma->start)
		start = vma->start;
	if (end > vma->end)
		end = vma->end;
	if (mm_populate(mm, start, end) == 0)
		return 0;
	at = page; /* RAM ends: of the neighbours, or of the page itself */
	mm->exhausted = mm->exhausted || !entry_next(mm, &at, page + PAGE);
	return mm->exhausted ? -ENOMEM : 0;
}

void *mm_page(struct mm *mm, u64 address, bool write)
{
	u64 page = address & -(u64)PAGE, at = page, *entry;
	struct vma *vma = vma_at(mm, address);

	if (!vma || !(vma->prot & (write ? PROT_WRITE : PROT_READ | PROT_WRITE | PROT_EXEC)))
		return NULL;
	entry = entry_next(mm, &at, page + PAGE);
	if (!entry) {
		if (mm_fault(mm, address))
			return NULL;
		at = page;
		entry = entry_next(mm, &at, page + PAGE);
	}
	return entry ? (u8 *)page_at(*entry & PTE_OFFSET) + address % PAGE : NULL;
}

int mm_fill(struct mm *mm, u64 address, const void *from, u64 size)
{
	const u8 *data = from;

	while (size) {
		u64 at = address & -(u64)PAGE, *entry = entry_next(mm, &at, at + PAGE);
		u64 part = PAGE - address % PAGE < size ? PAGE - address % PAGE : size;

		if (!entry)
			return -EFAULT;
		bytes_copy((u8 *)page_at(*entry & PTE_OFFSET) + address % PAGE, data, part);
		address += part, data += part, size -= part;
	}
	return 0;
}
