// SPDX-License-Identifier: Apache-2.0
/* Maps files into RAM, and collapses RAM into huge pages, for templates and for machines that boot. */
#include "base/native.h"

#include <errno.h>
#include <sys/mman.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1 */
#endif

enum { HUGE = 2 << 20 };

int ram_map(void *at, uint64_t len, uint32_t backing, int fd, uint64_t offset)
{
	const int flags = (backing == RAM_SHARED ? MAP_SHARED : MAP_PRIVATE) | MAP_NORESERVE | MAP_FIXED;

	if (mmap(at, len, PROT_READ | PROT_WRITE, flags, fd, (off_t)offset) == MAP_FAILED)
		return -errno;
	madvise(at, len, MADV_DONTFORK);
	madvise(at, len, MADV_DONTDUMP);
	return 0;
}

int ram_huge(void *at, uint64_t len)
{
	/*
	 * With this advice, some host policies allocate a huge page on first touch, and all others at least allow
	 * MADV_COLLAPSE.
	 */
	if (madvise(at, len, MADV_HUGEPAGE) < 0)
		return -errno;
	for (uint64_t done = 0; done < len; done += HUGE) {
		uint8_t *piece = (uint8_t *)at + done;

		/*
		 * Touch it first: a range without pages cannot be collapsed. The atomic OR does not change what others
		 * may have written.
		 */
		(void)__atomic_fetch_or(piece, 0, __ATOMIC_RELAXED);
		if (madvise(piece, HUGE, MADV_COLLAPSE) < 0)
			return -errno;
	}
	return 0;
}
