// SPDX-License-Identifier: Apache-2.0
/* The mappings of an address space: a sorted table. */
#include "mapping.h"

#include "page_table.h"
#include "vfs/vfs.h"

void vma_get(const struct vma *vma)
{
	if (vma->file)
		file_get(vma->file);
	if (vma->shared)
		shared_get(vma->shared);
}

/* Can sleep, if it was the last mapping of a file. */
void vma_put(const struct vma *vma)
{
	if (vma->file)
		file_put(vma->file);
	if (vma->shared)
		shared_put(vma->shared);
}

/* The first that ends behind an address. */
u32 vma_find(struct mm *mm, u64 address)
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

struct vma *mm_vma(struct mm *mm, u64 address)
{
	u32 i = vma_find(mm, address);

	return i < mm->count && mm->vmas[i].start <= address ? &mm->vmas[i] : NULL;
}

static void vma_remove(struct mm *mm, u32 at, u32 count)
{
	for (u32 i = at + count; i < mm->count; i++)
		mm->vmas[i - count] = mm->vmas[i];
	mm->count -= count;
}

void vma_insert(struct mm *mm, u32 at, struct vma vma)
{
	for (u32 i = mm->count++; i > at; i--)
		mm->vmas[i] = mm->vmas[i - 1];
	mm->vmas[at] = vma;
}

static bool lies_across(struct mm *mm, u64 address)
{
	struct vma *vma = mm_vma(mm, address);

	return vma && vma->start < address;
}

bool vma_reserve(struct mm *mm, u32 count)
{
	u32 room = mm->room ? mm->room : 32;
	struct vma *vmas;

	while (room < count)
		room *= 2;
	if (room <= mm->room)
		return true;
	vmas = kmalloc(room * sizeof(*vmas));
	if (!vmas)
		return false;
	if (mm->count)
		bytes_copy(vmas, mm->vmas, mm->count * sizeof(*vmas));
	kfree(mm->vmas);
	mm->vmas = vmas;
	mm->room = room;
	return true;
}

/* Whether there is room for the parts of mappings that lie across the ends of a range, and for so many more. */
static bool has_room(struct mm *mm, u64 start, u64 end, u32 more)
{
	u32 count = mm->count + lies_across(mm, start) + lies_across(mm, end) + more;

	return count <= VMAS && vma_reserve(mm, count);
}

/* Split the mapping that lies across an address, if one does. There must be room for one more. */
static void vma_split(struct mm *mm, u64 address)
{
	u32 i = vma_find(mm, address);

	if (i == mm->count || mm->vmas[i].start >= address)
		return;
	vma_get(&mm->vmas[i]);
	vma_insert(mm, i, mm->vmas[i]);
	mm->vmas[i].end = mm->vmas[i + 1].start = address;
	mm->vmas[i + 1].offset += address - mm->vmas[i].start;
}

static bool vmas_fit(const struct vma *a, const struct vma *b)
{
	if (a->end != b->start || a->prot != b->prot || a->flags != b->flags || a->file != b->file || a->shared != b->shared)
		return false;
	return !(a->file || a->shared) || a->offset + (a->end - a->start) == b->offset;
}

/* Join the mappings around a range that fit. */
static void vma_join(struct mm *mm, u64 start, u64 end)
{
	u32 i = vma_find(mm, start ? start - 1 : 0);

	while (i + 1 < mm->count && mm->vmas[i].end <= end) {
		struct vma *this = &mm->vmas[i], next = this[1];

		if (vmas_fit(this, &next)) {
			this->end = next.end;
			vma_remove(mm, i + 1, 1);
			vma_put(&next); /* not the last */
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

/* Put each file after its mapping has left the table: that can sleep. */
static int unmap_range(struct mm *mm, u64 start, u64 end)
{
	while (!mm_is_free(mm, start, end)) { /* again after a sleep, in which another thread can map something there */
		struct vma vma;
		u32 from, to;

		if (!has_room(mm, start, end, 0))
			return -ENOMEM;
		vma_split(mm, start);
		vma_split(mm, end);
		from = to = vma_find(mm, start);
		vma = mm->vmas[from];
		for (; to < mm->count && mm->vmas[to].start < end && !mm->vmas[to].file; to++)
			if (mm->vmas[to].shared)
				shared_put(mm->vmas[to].shared);
		if (to > from) {
			vma.end = mm->vmas[to - 1].end;
			vma.shared = NULL;
		}
		vma_remove(mm, from, to > from ? to - from : 1);
		mm_discard(mm, vma.start, vma.end);
		vma_put(&vma);
	}
	return 0;
}

s64 mm_unmap(struct mm *mm, u64 address, u64 size)
{
	if (address % PAGE || address > TASK_SIZE || size > TASK_SIZE - address || !size)
		return -EINVAL;
	size = page_up(size);
	if (address >= USER_TOP)
		return 0;
	if (size > USER_TOP - address)
		size = USER_TOP - address;
	return unmap_range(mm, address, address + size);
}

/* The highest free range of that size; 0: there is none. */
static u64 find_gap(struct mm *mm, u64 size)
{
	u32 i = vma_find(mm, mm->map_top);
	u64 end = i < mm->count && mm->vmas[i].start < mm->map_top ? mm->vmas[i].start : mm->map_top;

	for (; i-- > 0; end = mm->vmas[i].start)
		if (mm->vmas[i].end <= end && end - mm->vmas[i].end >= size)
			return end - size;
	return end >= USER_MIN && end - USER_MIN >= size ? end - size : 0;
}

s64 mm_check_place(struct mm *mm, u64 address, u64 size, u32 flags)
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
	if (address + size > USER_TOP)
		return -ENOMEM;
	return flags & MAP_FIXED_NOREPLACE && !mm_is_free(mm, address, address + size) ? -EEXIST : 0;
}

/* Where a mapping goes, or -errno. The size is a multiple of a page. */
static s64 choose_address(struct mm *mm, u64 address, u64 size, u32 flags)
{
	if (flags & (MAP_FIXED | MAP_FIXED_NOREPLACE))
		return (s64)address;
	address = page_down(address);
	if (address >= USER_MIN && size <= USER_TOP && address <= USER_TOP - size && mm_is_free(mm, address, address + size))
		return (s64)address;
	address = find_gap(mm, size);
	return address ? (s64)address : -ENOMEM;
}

/* Whether RLIMIT_AS allows so many bytes more. What a range shows now does not count. */
static bool may_grow(const struct mm *mm, u64 size, u64 start, u64 end)
{
	u64 most = core.current ? core.current->process->limits[RLIMIT_AS].current : ~0ull;

	if (most == ~0ull)
		return true;
	for (u32 i = 0; i < mm->count; i++) {
		const struct vma *vma = &mm->vmas[i];
		u64 from = vma->start > start ? vma->start : start, to = vma->end < end ? vma->end : end;

		size += vma->end - vma->start - (to > from ? to - from : 0);
	}
	return size <= page_down(most);
}

/* `freed`: bytes that the caller will unmap. On errors, it keeps the reference. */
static s64 map_object(struct mm *mm, u64 address, u64 size, u32 flags, const struct vma *template, u64 freed)
{
	struct vma vma = *template;
	s64 at = mm_check_place(mm, address, size, flags);
	int error;

	size = page_up(size);
	if (!at)
		at = choose_address(mm, address, size, flags);
	if (at < 0)
		return at;
	if ((flags & MAP_TYPE) != MAP_PRIVATE && (flags & MAP_TYPE) != MAP_SHARED)
		return -EINVAL;
	if (!may_grow(mm, size > freed ? size - freed : 0, (u64)at, (u64)at + size))
		return -ENOMEM;
	do {
		error = unmap_range(mm, (u64)at, (u64)at + size);
		if (error || !has_room(mm, (u64)at, (u64)at + size, 1))
			return -ENOMEM;
	} while (!mm_is_free(mm, (u64)at, (u64)at + size));
	vma.prot &= PROT_READ | PROT_WRITE | PROT_EXEC;
	vma.flags |= flags & MAP_LOCKED ? VMA_LOCKED : 0;
	vma.start = (u64)at;
	vma.end = (u64)at + size;
	vma_insert(mm, vma_find(mm, vma.start), vma);
	vma_join(mm, vma.start, vma.end);
	return at;
}

s64 mm_map_object(struct mm *mm, u64 address, u64 size, u32 flags, const struct vma *template)
{
	s64 at = map_object(mm, address, size, flags, template, 0);

	if (at < 0)
		vma_put(template);
	return at;
}

s64 mm_map(struct mm *mm, u64 address, u64 size, u32 prot, u32 flags)
{
	struct vma template = { .prot = prot };

	if ((flags & MAP_TYPE) == MAP_SHARED && size && size <= TASK_SIZE) {
		template.flags = VMA_SHARED;
		template.shared = shared_new(page_up(size));
		if (!template.shared)
			return -ENOMEM;
	}
	return mm_map_object(mm, address, size, flags, &template);
}

s64 mm_protect(struct mm *mm, u64 address, u64 size, u32 prot)
{
	u64 end = address + size, covered = mm_covered(mm, address, end);
	bool less = false;

	for (u32 i = vma_find(mm, address); i < mm->count && mm->vmas[i].start < covered; i++) {
		if (prot & PROT_WRITE && mm->vmas[i].flags & VMA_MAY_NOT_WRITE) {
			if (mm->vmas[i].start <= address)
				return -EACCES;
			end = ~0ull; /* an error, but those before are changed */
			covered = mm->vmas[i].start;
		}
	}
	if (covered == address || !has_room(mm, address, covered, 0))
		return -ENOMEM;
	vma_split(mm, address);
	vma_split(mm, covered);
	for (u32 i = vma_find(mm, address); i < mm->count && mm->vmas[i].start < covered; i++) {
		struct vma *vma = &mm->vmas[i];
		u64 at = vma->start, *entry, new;

		vma->prot = prot;
		for (; (entry = entry_next(mm, &at, vma->end)); at += PAGE) {
			new = pte_in(vma, *entry & PTE_OFFSET);
			less = less || (*entry & ~new) & (PTE_PRESENT | PTE_WRITE) || (new & ~*entry) & PTE_NX;
			*entry = new;
		}
	}
	if (less)
		mm_hide(mm, address, covered);
	if (mm_show(mm, address, covered))
		return mm_cannot_show(mm);
	vma_join(mm, address, covered);
	return covered == end ? 0 : end == ~0ull ? -EACCES : -ENOMEM;
}

s64 mm_mark(struct mm *mm, u64 start, u64 end, u32 set, u32 clear)
{
	if (!has_room(mm, start, end, 0))
		return -EAGAIN;
	vma_split(mm, start);
	vma_split(mm, end);
	for (u32 i = vma_find(mm, start); i < mm->count && mm->vmas[i].start < end; i++)
		mm->vmas[i].flags = (mm->vmas[i].flags & ~clear) | set;
	vma_join(mm, start, end);
	return 0;
}

/* -- mremap -- */

static void move_pages(struct mm *mm, u64 from, u64 to, u64 size)
{
	u64 at = from, *entry, *place;

	for (; (entry = entry_next(mm, &at, from + size)); at += PAGE) {
		place = entry_make(mm, to + (at - from));
		if (place) {
			*place = *entry;
		} else {
			mm_hide(mm, at, at + PAGE); /* the page can become a table for those that follow */
			page_put(*entry & PTE_OFFSET);
			mm->exhausted = true;
		}
		*entry = 0;
	}
	core.ops->unmap(mm->space, from, size);
}

/* old_size is at most size. */
static s64 remap_elsewhere(struct mm *mm, u64 old, u64 old_size, u64 size, u32 flags, u64 to)
{
	struct vma *there = mm_vma(mm, old), vma;
	u32 type;
	s64 at;

	if (!there || there->end - old < old_size) /* another thread has unmapped it meanwhile */
		return -EFAULT;
	vma = *there;
	type = vma.flags & VMA_SHARED ? MAP_SHARED : MAP_PRIVATE;
	vma.offset += old - vma.start;
	vma_get(&vma);
	type |= flags & MREMAP_FIXED ? MAP_FIXED : 0;
	at = map_object(mm, flags & MREMAP_FIXED ? to : 0, size, type, &vma, flags & MREMAP_DONTUNMAP ? 0 : old_size);
	if (at < 0)
		vma_put(&vma);
	if (at < 0 || !old_size)
		return at;
	move_pages(mm, old, (u64)at, old_size);
	if (!(flags & MREMAP_DONTUNMAP))
		unmap_range(mm, old, old + old_size);
	return at;
}

s64 mm_remap(struct mm *mm, u64 old, u64 old_size, u64 size, u32 flags, u64 to)
{
	struct vma *vma = mm_vma(mm, old);
	const bool stays = !(flags & (MREMAP_FIXED | MREMAP_DONTUNMAP));
	s64 error;

	if (!vma)
		return -EFAULT;
	if (!old_size && !(vma->flags & VMA_SHARED))
		return -EINVAL;
	/* What lies behind a smaller one is unmapped; what stays where it is can be several mappings. */
	if (!(stays && size <= old_size) && vma->end - old < (old_size < size ? old_size : size))
		return -EFAULT;
	if (size < old_size) {
		error = mm_unmap(mm, old + size, old_size - size);
		if (error)
			return error;
		old_size = size;
	}
	if (stays) {
		if (size == old_size)
			return (s64)old;
		if (!may_grow(mm, size - old_size, 0, 0))
			return -ENOMEM;
		if (old_size && vma->end == old + old_size && size <= USER_TOP - old && mm_is_free(mm, vma->end, old + size)) {
			vma->end = old + size;
			vma_join(mm, vma->start, vma->end);
			return (s64)old;
		}
	}
	if (!(flags & MREMAP_MAYMOVE))
		return -ENOMEM;
	return remap_elsewhere(mm, old, old_size, size, flags, to);
}
