// SPDX-License-Identifier: Apache-2.0
/* Guest RAM: the one function that turns a guest address into a pointer. */
#include "base/native.h"

#include <sys/mman.h>

void *mem_ptr(const struct mem *mem, uint64_t gpa, uint64_t len)
{
	for (uint32_t i = 0; i < mem->nregions; i++) {
		const struct mem_region *r = &mem->region[i];

		/* Written so that no sum can wrap: gpa and len are the guest's. */
		if (gpa < r->gpa || gpa - r->gpa >= r->size)
			continue;
		if (len > r->size - (gpa - r->gpa))
			return NULL;
		return (void *)(uintptr_t)(r->hva + (gpa - r->gpa));
	}
	return NULL;
}

void memory_unmap_pages(uint64_t address, uint64_t size)
{
	madvise((void *)(uintptr_t)address, size, MADV_DONTNEED);
}
