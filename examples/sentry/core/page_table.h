/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SENTRY_PAGE_TABLE_H
#define SENTRY_PAGE_TABLE_H

#include "core.h"

#define PTE_PRESENT 1ull
#define PTE_WRITE 2ull
#define PTE_NX (1ull << 63)
#define PTE_OFFSET 0x000ffffffffff000ull

u64 pte_of(u64 offset, u32 prot);
u64 pte_in(const struct vma *vma, u64 offset);
u64 *entry_make(struct mm *mm, u64 address);
u64 *entry_next(struct mm *mm, u64 *address, u64 end);
int mm_show(struct mm *mm, u64 start, u64 end); /* 0 or -ENOMEM */
void mm_hide(struct mm *mm, u64 start, u64 end); /* from tasks on other CPUs: its entries allow less than before */
int mm_cannot_show(struct mm *mm); /* -ENOMEM */
void tables_free(u64 table, int level);

/* The entry of a page; NULL: no page is there. */
static inline u64 *entry_at(const struct mm *mm, u64 address)
{
	u64 table = mm->root, *entry;

#pragma GCC unroll 3
	for (int shift = 39; shift > 12; shift -= 9) {
		table = ((u64 *)page_at(table))[address >> shift & 511] & PTE_OFFSET;
		if (!table)
			return NULL;
	}
	entry = &((u64 *)page_at(table))[address >> 12 & 511];
	return *entry ? entry : NULL;
}

/* As entry_next() from behind an entry that was found at *address. */
static inline u64 *entry_after(struct mm *mm, u64 *entry, u64 *address, u64 end)
{
	*address += PAGE;
	if (*address < end && *address >> 12 & 511 && entry[1])
		return entry + 1;
	return entry_next(mm, address, end);
}

#endif
