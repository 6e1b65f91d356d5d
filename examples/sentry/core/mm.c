// SPDX-License-Identifier: Apache-2.0
/*
 * An address space: a sorted table of mappings, and page tables in the CPU's own format.
 *
 * Pages appear when they are touched.  Those of private mappings that others have too are not writable: the first write
 * gets a page of its own.  A platform with a CPU of its own loads the page tables; one without repeats each change of
 * them by map and unmap, or when the program faults at a page that is in the tables already.
 */
#include "core.h"
#include "vfs/vfs.h"

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

static u32 prot_of(u64 entry)
{
	if (!(entry & PTE_PRESENT))
		return 0;
	return PROT_READ | (entry & PTE_WRITE ? PROT_WRITE : 0) | (entry & PTE_NX ? 0 : PROT_EXEC);
}

/* The entry of a page in a mapping, which others may have too. */
static u64 pte_in(const struct vma *vma, u64 offset)
{
	bool read_only = vma->flags & VMA_SHARED ? vma->file != NULL : page_is_shared(offset);

	return pte_of(offset, read_only ? vma->prot & ~(u32)PROT_WRITE : vma->prot);
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

static u64 *entry_at(struct mm *mm, u64 page)
{
	return entry_next(mm, &page, page + PAGE);
}

/* -- mappings -- */

static void vma_get(const struct vma *vma)
{
	if (vma->file)
		file_get(vma->file);
	if (vma->shared)
		shared_get(vma->shared);
}

/* Can sleep, if it was the last mapping of a file. */
static void vma_put(const struct vma *vma)
{
	if (vma->file)
		file_put(vma->file);
	if (vma->shared)
		shared_put(vma->shared);
}

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

static void vma_insert(struct mm *mm, u32 at, struct vma vma)
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

static bool make_room(struct mm *mm, u32 count)
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

	return count <= VMAS && make_room(mm, count);
}

/* Have a mapping begin at this address, if one lies across it. There must be room for one more. */
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

/* Join those around a range that are alike. */
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
	u64 at = start, *entry;
	bool any = false;

	while ((entry = entry_next(mm, &at, end))) {
		page_put(*entry & PTE_OFFSET);
		*entry = 0;
		any = true;
	}
	if (any)
		core.ops->unmap(mm->space, start, end - start);
}

/* What was mapped is put one by one, when the table is as it will be: that can sleep. */
static int unmap_range(struct mm *mm, u64 start, u64 end)
{
	if (!has_room(mm, start, end, 0))
		return -ENOMEM;
	vma_split(mm, start);
	vma_split(mm, end);
	while (!mm_is_free(mm, start, end)) {
		u32 from = vma_find(mm, start), to = from;
		struct vma vma = mm->vmas[from];

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
		if (lies_across(mm, start) || lies_across(mm, end)) /* another thread was faster */
			return unmap_range(mm, start, end);
	}
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

/* Without the reference, which stays the caller's on errors. */
static s64 map_object(struct mm *mm, u64 address, u64 size, u32 flags, const struct vma *template)
{
	struct vma vma = *template;
	s64 at = choose_address(mm, address, size, flags);
	int error;

	if (at < 0)
		return at;
	if ((flags & MAP_TYPE) != MAP_PRIVATE && (flags & MAP_TYPE) != MAP_SHARED)
		return -EINVAL;
	do {
		error = unmap_range(mm, (u64)at, (u64)at + size);
		if (error || !has_room(mm, (u64)at, (u64)at + size, 1))
			return -ENOMEM;
	} while (!mm_is_free(mm, (u64)at, (u64)at + size));
	vma.prot &= PROT_READ | PROT_WRITE | PROT_EXEC;
	vma.start = (u64)at;
	vma.end = (u64)at + size;
	vma_insert(mm, vma_find(mm, vma.start), vma);
	vma_join(mm, vma.start, vma.end);
	return at;
}

s64 mm_map_object(struct mm *mm, u64 address, u64 size, u32 flags, const struct vma *template)
{
	s64 at = -EINVAL;

	if (size) {
		size = (size + PAGE - 1) & -(u64)PAGE;
		at = size ? map_object(mm, address, size, flags, template) : -ENOMEM;
	}
	if (at < 0)
		vma_put(template);
	return at;
}

s64 mm_map(struct mm *mm, u64 address, u64 size, u32 prot, u32 flags)
{
	struct vma template = { .prot = prot };

	if ((flags & MAP_TYPE) == MAP_SHARED && size && size <= TASK_SIZE) {
		template.flags = VMA_SHARED;
		template.shared = shared_new((size + PAGE - 1) & -(u64)PAGE);
		if (!template.shared)
			return -ENOMEM;
	}
	return mm_map_object(mm, address, size, flags, &template);
}

/* Show the program the pages of a range that are there, as their entries have them. */
static int show_range(struct mm *mm, u64 start, u64 end)
{
	u64 at = start, from = 0, offset = 0, size = 0, *entry;
	u32 prot = 0;

	while ((entry = entry_next(mm, &at, end))) {
		u64 page = *entry & PTE_OFFSET;

		if (size && (from + size != at || offset + size != page || prot_of(*entry) != prot)) {
			if (core.ops->map(mm->space, from, offset, size, prot))
				return -ENOMEM;
			size = 0;
		}
		if (!size)
			from = at, offset = page, prot = prot_of(*entry);
		size += PAGE;
		at += PAGE;
	}
	return size && core.ops->map(mm->space, from, offset, size, prot) ? -ENOMEM : 0;
}

/* The entries say one thing and what the program sees another: it cannot go on. */
static int cannot_show(struct mm *mm)
{
	mm->exhausted = true;
	return -ENOMEM;
}

s64 mm_protect(struct mm *mm, u64 address, u64 size, u32 prot)
{
	u64 end = (address + size + PAGE - 1) & -(u64)PAGE, covered = mm_covered(mm, address, end);

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
		u64 at = vma->start, *entry;

		vma->prot = prot;
		for (; (entry = entry_next(mm, &at, vma->end)); at += PAGE)
			*entry = pte_in(vma, *entry & PTE_OFFSET);
	}
	if (show_range(mm, address, covered))
		return cannot_show(mm);
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

/* -- pages -- */

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

/* Put a page there, if none is. Afterwards there can be another one, or none if the mapping is gone. */
static int page_in(struct mm *mm, u64 address)
{
	struct vma was = *mm_vma(mm, address), *vma;
	u64 *entry;
	s64 offset;

	if (entry_at(mm, address))
		return 0;
	vma_get(&was);
	offset = object_page(&was, address);
	vma = vma_again(mm, &was, address);
	entry = offset > 0 && vma ? entry_make(mm, address) : NULL;
	if (entry && !*entry)
		*entry = pte_in(vma, (u64)offset);
	else if (offset > 0)
		page_put((u64)offset);
	vma_put(&was);
	if (offset < 0)
		return (int)offset;
	return entry || !vma ? 0 : -ENOMEM;
}

/* Those of a range of one mapping, as far as there is RAM, but at least the one of this address. */
static int populate(struct mm *mm, u64 start, u64 end, u64 address)
{
	int error = page_in(mm, address);

	for (u64 at = start; !error && at < end; at += PAGE)
		if (!mm_vma(mm, at) || page_in(mm, at))
			break;
	if (error == -ENOMEM || show_range(mm, start, end))
		return cannot_show(mm);
	return error;
}

/* The page that is there becomes writable: it is the program's alone from now on, or known to be changed. */
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
		if (offset < 0 || !vma || !entry || (*entry & PTE_OFFSET) != (u64)offset)
			return offset < 0 ? (int)offset : 0;
		old = (u64)offset;
	} else if (!(vma->flags & VMA_SHARED) && page_is_shared(old)) {
		u64 new = pages_alloc(0);

		if (!new)
			return cannot_show(mm);
		bytes_copy(page_at(new), page_at(old), PAGE);
		page_put(old);
		old = new;
	}
	*entry = pte_of(old, vma->prot);
	return show_range(mm, address, address + PAGE) ? cannot_show(mm) : 0;
}

static bool allows(u32 prot, enum access access)
{
	static const u32 wanted[] = { 7, 7, PROT_WRITE, PROT_EXEC };

	return prot & wanted[access];
}

int mm_fault(struct mm *mm, u64 address, enum access access, bool present)
{
	u64 page = address & -(u64)PAGE, start = address & -FAULT_AROUND, end = start + FAULT_AROUND;
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
	if (present)
		return -EFAULT;
	return show_range(mm, start, end) ? cannot_show(mm) : 0; /* it is there, but the program does not see it yet */
}

void *mm_page(struct mm *mm, u64 address, bool write)
{
	for (u32 tries = 0; tries < 100; tries++) { /* another thread can unmap it meanwhile */
		struct vma *vma = mm_vma(mm, address);
		u64 *entry;

		if (!vma || !(vma->prot & (write ? PROT_WRITE : PROT_READ | PROT_WRITE | PROT_EXEC)))
			return NULL;
		entry = entry_at(mm, address & -(u64)PAGE);
		if (entry && (!write || *entry & PTE_WRITE))
			return (u8 *)page_at(*entry & PTE_OFFSET) + address % PAGE;
		if (mm_fault(mm, address, write ? ACCESS_WRITE : ACCESS_READ, false))
			return NULL;
	}
	return NULL;
}

int mm_fill(struct mm *mm, u64 address, const void *from, u64 size)
{
	const u8 *data = from;

	while (size) {
		u64 at = address & -(u64)PAGE, *entry;
		u64 part = PAGE - address % PAGE < size ? PAGE - address % PAGE : size;

		if (!mm_vma(mm, at))
			return -EFAULT;
		if (page_in(mm, at))
			return -ENOMEM;
		entry = entry_at(mm, at);
		if (!entry || page_is_shared(*entry & PTE_OFFSET))
			return -EFAULT;
		bytes_copy((u8 *)page_at(*entry & PTE_OFFSET) + address % PAGE, data, part);
		address += part, data += part, size -= part;
	}
	return 0;
}

/* -- whole address spaces -- */

static struct mm *mm_alloc(void)
{
	struct mm *mm = kmalloc(sizeof(*mm));
	void *root = mm ? page_alloc() : NULL;

	if (!root) {
		kfree(mm);
		return NULL;
	}
	*mm = (struct mm){ .references = 1, .root = page_offset(root), .map_top = USER_TOP };
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

static void free_tables(u64 table, int level)
{
	for (u32 i = 0; level && i < (level == 3 ? 256 : 512); i++)
		if (table_at(table)[i])
			free_tables(table_at(table)[i] & PTE_OFFSET, level - 1);
	page_put(table);
}

void mm_put(struct mm *mm)
{
	if (!reference_put(&mm->references))
		return;
	if (mm->space)
		core.ops->space_free(mm->space);
	for (u32 i = 0; i < mm->count; i++) {
		u64 at = mm->vmas[i].start, *entry;

		for (; (entry = entry_next(mm, &at, mm->vmas[i].end)); at += PAGE)
			page_put(*entry & PTE_OFFSET);
		vma_put(&mm->vmas[i]);
	}
	free_tables(mm->root, 3);
	kfree(mm->vmas);
	kfree(mm);
}

/* Give a child the pages of a mapping; what is private may not be written by either without a copy. */
static bool fork_pages(struct mm *mm, struct mm *child, const struct vma *vma)
{
	bool changed = false;
	u64 at = vma->start, *entry, *copy;

	for (; (entry = entry_next(mm, &at, vma->end)); at += PAGE) {
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
	if (changed && show_range(mm, vma->start, vma->end))
		cannot_show(mm);
	return !entry;
}

struct mm *mm_fork(struct mm *mm)
{
	struct mm *child = mm_alloc();

	if (!child || !make_room(child, mm->count)) {
		if (child)
			mm_put(child);
		return NULL;
	}
	child->heap = mm->heap, child->brk = mm->brk, child->map_top = mm->map_top;
	for (u32 i = 0; i < mm->count; i++) {
		struct vma *vma = &mm->vmas[i];

		if (vma->flags & VMA_NO_FORK)
			continue;
		vma_get(vma);
		vma_insert(child, child->count, *vma);
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

static void cut_off(struct mm *mm, struct inode *inode, u64 size)
{
	for (u32 i = 0; i < mm->count; i++) {
		const struct vma *vma = &mm->vmas[i];
		u64 from = vma->start;

		if (!vma->file || vma->file->inode != inode)
			continue;
		if (size > vma->offset)
			from += (size - vma->offset + PAGE - 1) & -(u64)PAGE;
		if (from < vma->end)
			mm_discard(mm, from, vma->end);
	}
}

void mm_truncate(struct inode *inode, u64 size)
{
	EACH_PROCESS(p)
		EACH_TASK(t, p)
			if (t->mm)
				cut_off(t->mm, inode, size);
}

/* -- mremap -- */

static void move_pages(struct mm *mm, u64 from, u64 to, u64 size)
{
	u64 at = from, *entry, *place;

	for (; (entry = entry_next(mm, &at, from + size)); at += PAGE) {
		place = entry_make(mm, to + (at - from));
		if (place)
			*place = *entry;
		else
			page_put(*entry & PTE_OFFSET), mm->exhausted = true;
		*entry = 0;
	}
	core.ops->unmap(mm->space, from, size);
}

enum { MREMAP_MAYMOVE = 1, MREMAP_FIXED = 2, MREMAP_DONTUNMAP = 4 };

static s64 remap_elsewhere(struct mm *mm, u64 old, u64 old_size, u64 size, u32 flags, u64 to)
{
	struct vma vma = *mm_vma(mm, old);
	u32 type = vma.flags & VMA_SHARED ? MAP_SHARED : MAP_PRIVATE;
	s64 at;

	vma.offset += old - vma.start;
	vma_get(&vma);
	at = mm_map_object(mm, flags & MREMAP_FIXED ? to : 0, size, type | (flags & MREMAP_FIXED ? MAP_FIXED : 0), &vma);
	if (at < 0 || !old_size)
		return at;
	move_pages(mm, old, (u64)at, old_size < size ? old_size : size);
	if (!(flags & MREMAP_DONTUNMAP))
		unmap_range(mm, old, old + old_size);
	return at;
}

s64 mm_remap(struct mm *mm, u64 old, u64 old_size, u64 size, u32 flags, u64 to)
{
	struct vma *vma = mm_vma(mm, old);

	if (!vma)
		return -EFAULT;
	if (!old_size && !(vma->flags & VMA_SHARED))
		return -EINVAL;
	if (vma->end - old < old_size)
		return -EFAULT;
	if (!(flags & (MREMAP_FIXED | MREMAP_DONTUNMAP))) {
		if (size < old_size)
			return unmap_range(mm, old + size, old + old_size) ? -ENOMEM : (s64)old;
		if (size == old_size)
			return (s64)old;
		if (old_size && vma->end == old + old_size && size <= USER_TOP - old && mm_is_free(mm, vma->end, old + size)) {
			vma->end = old + size;
			vma_join(mm, vma->start, vma->end);
			return (s64)old;
		}
	}
	if (!(flags & MREMAP_MAYMOVE))
		return -ENOMEM;
	if (size < old_size && unmap_range(mm, old + size, old + old_size))
		return -ENOMEM;
	return remap_elsewhere(mm, old, size < old_size ? size : old_size, size, flags, to);
}
