// SPDX-License-Identifier: Apache-2.0
/*
 * Guest RAM into a sparse file, and pages of RAM that lies over such a file back to zero.
 *
 * Called while no vCPU runs and no worker touches RAM.  What is not written stays a hole: pages that nobody ever
 * touched, which the page map tells without touching them, and pages of zeros.
 */
#include "base/native.h"

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096, ENTRIES = 512 };

/* Documentation/admin-guide/mm/pagemap.rst */
#define PAGEMAP_PRESENT (1ULL << 63)
#define PAGEMAP_SWAPPED (1ULL << 62)
#define PAGEMAP_FILE (1ULL << 61)

static bool page_is_zero(const uint8_t *page)
{
	const uint64_t *word = (const uint64_t *)(const void *)page;
	uint64_t any;

	/* Most pages differ early: look there before going through all of it. */
	if (word[0] | word[1] | word[64] | word[256] | word[511])
		return false;
	for (int i = 0; i < PAGE / 8; i += 8) {
		any = word[i] | word[i + 1] | word[i + 2] | word[i + 3] | word[i + 4] | word[i + 5] | word[i + 6] | word[i + 7];
		if (any)
			return false;
	}
	return true;
}

static int file_write(int fd, const uint8_t *from, uint64_t len, uint64_t offset)
{
	while (len) {
		ssize_t n = pwrite(fd, from, len, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		from += n;
		offset += (uint64_t)n;
		len -= (uint64_t)n;
	}
	return 0;
}

/* Whether the page is to be written, by its entry in the page map and its bytes. */
static bool page_wanted(const uint8_t *page, uint64_t entry, int what)
{
	switch (what) {
	case RAM_OWN:
		/* Zeros too: below them lies the file, whose bytes are others. */
		return entry & (PAGEMAP_PRESENT | PAGEMAP_SWAPPED) && !(entry & PAGEMAP_FILE);
	case RAM_TOUCHED:
		return entry & (PAGEMAP_PRESENT | PAGEMAP_SWAPPED) && !page_is_zero(page);
	default:
		return !page_is_zero(page);
	}
}

int64_t ram_save(int fd, uint64_t offset, const void *ram, uint64_t size, int pagemap, int what, uint8_t *bitmap)
{
	const uint8_t *base = ram;
	uint64_t entry[ENTRIES] = { 0 }, pages = size / PAGE, start = 0, length = 0, total = 0;
	int err;

	for (uint64_t i = 0; i < pages; i++) {
		if (what != RAM_ALL && i % ENTRIES == 0) {
			uint64_t n = pages - i < ENTRIES ? pages - i : ENTRIES;
			ssize_t got = pread(pagemap, entry, n * 8, (off_t)((uintptr_t)(base + i * PAGE) / PAGE * 8));

			if (got != (ssize_t)(n * 8))
				return got < 0 ? -errno : -EIO;
		}
		if (!page_wanted(base + i * PAGE, entry[i % ENTRIES], what))
			continue;
		if (bitmap)
			bitmap[i / 8] |= (uint8_t)(1 << i % 8);
		if (length && start + length == i) {
			length++;
			continue;
		}
		err = file_write(fd, base + start * PAGE, length * PAGE, offset + start * PAGE);
		if (err < 0)
			return err;
		total += length * PAGE;
		start = i;
		length = 1;
	}
	err = file_write(fd, base + start * PAGE, length * PAGE, offset + start * PAGE);
	return err < 0 ? err : (int64_t)(total + length * PAGE);
}

int ram_zero(void *at, uint64_t len)
{
	/* Not MADV_DONTNEED, which would bring the bytes of the file back */
	void *new = mmap(at, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);

	if (new == MAP_FAILED)
		return -errno;
	madvise(at, len, MADV_DONTFORK);
	return 0;
}
