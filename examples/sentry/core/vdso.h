/* SPDX-License-Identifier: Apache-2.0 */
/* Code of the core's that programs call instead of the core. */
#ifndef SENTRY_VDSO_H
#define SENTRY_VDSO_H

#include "mm.h"

bool vdso_init(void); /* false: no memory */
u64 vdso_map(struct mm *mm); /* where a program has its ELF header; 0: nowhere */
const char *vdso_name(const struct vma *vma); /* of a mapping; NULL: it is none of these */

#endif
