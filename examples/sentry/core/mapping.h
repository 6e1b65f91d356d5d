/* SPDX-License-Identifier: Apache-2.0 */
/* What address spaces, faults and mappings share; other files use mm.h. */
#ifndef SENTRY_MAPPING_H
#define SENTRY_MAPPING_H

#include "core.h"

void vma_get(const struct vma *vma);
void vma_put(const struct vma *vma);
u32 vma_find(struct mm *mm, u64 address);
void vma_insert(struct mm *mm, u32 at, struct vma vma);
bool vma_reserve(struct mm *mm, u32 count); /* for so many mappings; false: no memory */

#endif
