// SPDX-License-Identifier: Apache-2.0
/*
 * Saves guest RAM to a sparse file, maps such a file as RAM, and discards pages of RAM.
 *
 * These functions are called while no vCPU runs and no worker touches RAM.  Pages of zeros, and pages that were never
 * touched, are not written and stay holes of the file; the page map tells the latter without touching them.  Of RAM that is
 * filled on demand (fill.c), pages that are missing are read from the template, and are not filled.
 */
#include "base/native.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { ENTRIES = 512, HUGE = 2 << 20 };

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1 */
#endif

/* Documentation/admin-guide/mm/pagemap.rst */
#define PAGEMAP_PRESENT (1ULL << 63)
#define PAGEMAP_SWAPPED (1ULL << 62)
#define PAGEMAP_FILE (1ULL << 61)

static bool page_is_zero(const uint8_t *page)
{
	const uint64_t *word = (const uint64_t *)(const void *)page;
	uint64_t any;

	/* Most pages have a word that is not zero at one of these places: test them before reading the whole page. */
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

/* Whether the page differs from that of `than`. */
static bool page_differs(const struct ram_file *file, struct fill_extent *than, const uint8_t *page, uint64_t at)
{
	if (at >= than->hole) {
		off_t data = lseek(file->than_fd, (off_t)at, SEEK_DATA);
		off_t hole = data < 0 ? -1 : lseek(file->than_fd, data, SEEK_HOLE);

		than->data = data < 0 ? UINT64_MAX : (uint64_t)data & ~(uint64_t)(PAGE - 1);
		than->hole = hole < 0 ? UINT64_MAX : (uint64_t)hole;
	}
	return at < than->data ? !page_is_zero(page) : memcmp(page, (const uint8_t *)file->than + at, PAGE) != 0;
}

/* Whether to write the page, by its entry in the page map and its bytes. */
static bool page_wanted(const struct ram_file *file, struct fill_extent *than, const uint8_t *page, uint64_t entry,
			uint64_t at)
{
	if (file->again && has_page(file->bitmap, at))
		return memcmp(page, (const uint8_t *)file->again + at, PAGE) != 0;
	if (file->fill && file->what == RAM_OWN && !file->than)
		return fill_differs(file->fill, page, at);
	if (file->fill)
		return file->than ? page_differs(file, than, page, at) : !page_is_zero(page);
	if (file->what != RAM_ALL && !(entry & (PAGEMAP_PRESENT | PAGEMAP_SWAPPED)))
		return false;
	if (file->what == RAM_OWN && entry & PAGEMAP_FILE)
		return false;
	if (file->than)
		return page_differs(file, than, page, at);
	/* A page of zeros that the guest wrote over a page of the template must be written. */
	return file->what == RAM_OWN || !page_is_zero(page);
}

static int entries_read(const struct ram_file *file, const uint8_t *page, uint64_t left, uint64_t *entry)
{
	const uint64_t n = left < ENTRIES ? left : ENTRIES;
	ssize_t got;

	if (file->what == RAM_ALL || file->fill)
		return 0;
	got = pread(file->pagemap, entry, n * 8, (off_t)((uintptr_t)page / PAGE * 8));
	if (got < 0)
		return -errno;
	return got == (ssize_t)(n * 8) ? 0 : -EIO;
}

static int64_t pages_save(const struct ram_file *file, const uint8_t *base, uint64_t begin, uint64_t size)
{
	uint64_t entry[ENTRIES] = { 0 }, start = begin, end = begin, total = 0;
	struct fill_extent extent = { 0 }, than = { 0 };
	const uint8_t *first = base + begin; /* the address of the bytes of offset `start` */
	int err = 0;

	for (uint64_t at = begin; at < begin + size; at += PAGE) {
		const uint64_t i = (at - begin) / PAGE;
		const uint8_t *page = base + at;
		bool own = true;

		if (i % ENTRIES == 0)
			err = entries_read(file, base + at, (begin + size - at) / PAGE, entry);
		if (err < 0)
			return err;
		if (file->fill)
			page = fill_look(file->fill, &extent, at, &own);
		if (!own && file->what == RAM_OWN)
			continue;
		if (!page_wanted(file, &than, page, entry[i % ENTRIES], at))
			continue;
		if (file->bitmap)
			file->bitmap[at / PAGE / 8] |= (uint8_t)(1 << at / PAGE % 8);
		if (at != end || page != first + (end - start)) {
			err = file_write(file->fd, first, end - start, start);
			if (err < 0)
				return err;
			start = at;
			first = page;
		}
		end = at + PAGE;
		total += PAGE;
	}
	err = file_write(file->fd, first, end - start, start);
	return err < 0 ? err : (int64_t)total;
}

int64_t ram_save(const struct ram_file *file, const void *ram, uint64_t begin, uint64_t size)
{
	int64_t result;

	if (!file->fill)
		return pages_save(file, ram, begin, size);
	fill_hold(file->fill);
	result = pages_save(file, ram, begin, size);
	fill_release(file->fill);
	return result;
}

int ram_load(void *ram, uint64_t size, int fd, const uint8_t *bits)
{
	uint64_t at, end = 0;

	while (mem_run(bits, size, &at, &end))
		while (at < end) {
			ssize_t n = pread(fd, (uint8_t *)ram + at, end - at, (off_t)at);

			if (n < 0 && errno == EINTR)
				continue;
			if (n <= 0)
				return n < 0 ? -errno : -EIO;
			at += (uint64_t)n;
		}
	return 0;
}

int ram_zero(void *at, uint64_t len)
{
	/* Not MADV_DONTNEED: the next access would read the bytes of the mapped file again */
	void *new = mmap(at, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);

	if (new == MAP_FAILED)
		return -errno;
	madvise(at, len, MADV_DONTFORK);
	return 0;
}

int ram_lay(void *at, uint64_t len, int fd, uint64_t offset)
{
	void *new = mmap(at, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE | MAP_FIXED, fd, (off_t)offset);

	if (new == MAP_FAILED)
		return -errno;
	madvise(at, len, MADV_DONTFORK);
	madvise(at, len, MADV_DONTDUMP);
	return 0;
}

int ram_show(void *at, uint64_t len, int fd)
{
	void *new = mmap(at, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE | MAP_FIXED, fd, 0);

	if (new == MAP_FAILED)
		return -errno;
	madvise(at, len, MADV_DONTFORK);
	madvise(at, len, MADV_DONTDUMP);
	return 0;
}

int ram_huge(void *at, uint64_t len)
{
	/* With this in force for the mapping, some policies have a huge page come when it is touched, and all others one be made. */
	if (madvise(at, len, MADV_HUGEPAGE) < 0)
		return -errno;
	for (uint64_t done = 0; done < len; done += HUGE) {
		uint8_t *piece = (uint8_t *)at + done;

		/* One that has no page is none that could be collapsed. Nobody else has it yet, or it stays what it is. */
		(void)__atomic_fetch_or(piece, 0, __ATOMIC_RELAXED);
		if (madvise(piece, HUGE, MADV_COLLAPSE) < 0)
			return -errno;
	}
	return 0;
}
