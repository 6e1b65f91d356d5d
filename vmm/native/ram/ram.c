// SPDX-License-Identifier: Apache-2.0
/*
 * Saves guest RAM to a sparse file, maps such a file as RAM, and discards pages of RAM.
 *
 * Apart from ram_release(), these functions are called while no vCPU runs and no worker touches RAM. Zero pages and
 * untouched pages are not written, and remain holes in the file. The page map identifies untouched pages without
 * touching them. For RAM that is filled on demand (fill*.c), missing pages are read from the template without filling
 * them.
 */
#include "base/native.h"

#include <errno.h>
#include <linux/magic.h>
#include <linux/userfaultfd.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <unistd.h>

enum { ENTRIES = 512, RUNS = ENTRIES / 2 };

/* Documentation/admin-guide/mm/pagemap.rst; <linux/fs.h> of Linux 6.7 */
#define PAGE_IS_WRITTEN (1ULL << 1)
#define PAGE_IS_FILE (1ULL << 2)
#define PAGE_IS_PRESENT (1ULL << 3)
#define PAGE_IS_SWAPPED (1ULL << 4)

struct page_region {
	uint64_t start, end, categories;
};

struct pm_scan_arg {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};

#define PAGEMAP_SCAN _IOWR('f', 16, struct pm_scan_arg)
#ifndef UFFD_FEATURE_WP_ASYNC
#define UFFD_FEATURE_WP_ASYNC (1 << 15)
#endif
#define PAGEMAP_PRESENT (1ULL << 63)
#define PAGEMAP_SWAPPED (1ULL << 62)
#define PAGEMAP_FILE (1ULL << 61)

/* Whether the page differs from the page in `than`. */
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

/* Whether to write a page that the page map does not rule out, judging by its contents. */
static bool page_wanted(const struct ram_file *file, struct fill_extent *than, const uint8_t *page, uint64_t at)
{
	if (file->again && has_page(file->bitmap, at))
		return (!file->look || has_page(file->look, at)) && memcmp(page, (const uint8_t *)file->again + at, PAGE) != 0;
	if (file->fill && file->what == RAM_OWN && !file->than)
		return fill_differs(file->fill, page, at);
	if (file->than)
		return page_differs(file, than, page, at);
	/* A zero page that the guest wrote over a page of the template must be saved. */
	return file->what == RAM_OWN || !page_is_zero(page);
}

/* ---- runs of pages that the page map does not rule out ---- */

struct runs {
	const struct ram_file *file;
	const uint8_t *base;
	uint64_t at, end; /* the range that was not scanned yet */
	uint32_t n, i;
	struct page_region run[RUNS]; /* in addresses */
};

/* A fallback for PAGEMAP_SCAN before Linux 6.7, which reads the entry of each page. */
static int runs_read(struct runs *r)
{
	const uint64_t left = (r->end - r->at) / PAGE, n = left < ENTRIES ? left : ENTRIES;
	const uint64_t none = r->file->what == RAM_OWN ? PAGEMAP_FILE : 0, first = (uintptr_t)r->base + r->at;
	uint64_t entry[ENTRIES];
	ssize_t got = pread(r->file->pagemap, entry, n * 8, (off_t)(first / PAGE * 8));
	struct page_region *last = NULL;

	if (got < 0)
		return -errno;
	if (got != (ssize_t)(n * 8))
		return -EIO;
	for (uint64_t i = 0; i < n; i++) {
		const uint64_t page = first + i * PAGE;

		if (!(entry[i] & (PAGEMAP_PRESENT | PAGEMAP_SWAPPED)) || entry[i] & none)
			continue;
		if (!last || last->end != page) {
			/* Runs are separated by pages, so there are at most half as many runs as pages. */
			last = &r->run[r->n++];
			last->start = page;
		}
		last->end = page + PAGE;
	}
	r->at += n * PAGE;
	return 0;
}

static int runs_scan(struct runs *r)
{
	struct pm_scan_arg scan = {
		.size = sizeof(scan),
		.start = (uintptr_t)r->base + r->at,
		.end = (uintptr_t)r->base + r->end,
		.vec = (uintptr_t)r->run,
		.vec_len = RUNS,
		.category_anyof_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
	};
	int n;

	if (r->file->what == RAM_OWN)
		scan.category_mask = scan.category_inverted = PAGE_IS_FILE;
	n = ioctl(r->file->pagemap, PAGEMAP_SCAN, &scan);
	if (n < 0)
		return -errno;
	r->n = (uint32_t)n;
	r->at = scan.walk_end - (uintptr_t)r->base;
	return 0;
}

/* The next run, in offsets; 0: none. */
static int runs_next(struct runs *r, uint64_t *start, uint64_t *end)
{
	while (r->i == r->n) {
		int err;

		if (r->at >= r->end)
			return 0;
		r->i = r->n = 0;
		if (r->file->what == RAM_ALL || r->file->fill) {
			*start = r->at;
			*end = r->at = r->end;
			return 1;
		}
		err = runs_scan(r);
		if (err == -ENOTTY || err == -EINVAL)
			err = runs_read(r);
		if (err < 0)
			return err;
	}
	*start = r->run[r->i].start - (uintptr_t)r->base;
	*end = r->run[r->i++].end - (uintptr_t)r->base;
	return 1;
}

/* ---- writing ---- */

struct saving {
	const struct ram_file *file;
	const uint8_t *base;
	struct fill_extent extent, than;
	uint64_t start, end, total;
	const uint8_t *first; /* the address of the bytes at `start` */
};

static int save_page(struct saving *s, uint64_t at)
{
	const struct ram_file *file = s->file;
	const uint8_t *page = s->base + at;
	bool own = true;

	if (file->fill)
		page = fill_look(file->fill, &s->extent, at, &own);
	if ((!own && file->what == RAM_OWN) || !page_wanted(file, &s->than, page, at))
		return 0;
	if (file->bitmap)
		file->bitmap[at / PAGE / 8] |= (uint8_t)(1 << at / PAGE % 8);
	if (at != s->end || page != s->first + (s->end - s->start)) {
		int err = file_write(file->fd, s->first, s->end - s->start, s->start);

		if (err < 0)
			return err;
		s->start = at;
		s->first = page;
	}
	s->end = at + PAGE;
	s->total += PAGE;
	return 0;
}

static int save_range(struct saving *s, uint64_t start, uint64_t end)
{
	int err = 0;

	for (; !err && start < end; start += PAGE)
		err = save_page(s, start);
	return err;
}

/* Pages saved earlier are compared even if they are missing now: the guest may have returned them to the host. */
static int save_again(struct saving *s, uint64_t from, uint64_t to)
{
	uint64_t start, end = from;
	int err = 0;

	while (!err && mem_run(s->file->bitmap, to, &start, &end))
		err = save_range(s, start, end);
	return err;
}

static int64_t pages_save(const struct ram_file *file, const uint8_t *base, uint64_t begin, uint64_t size)
{
	struct runs runs = { .file = file, .base = base, .at = begin, .end = begin + size };
	struct saving s = { .file = file, .base = base, .start = begin, .end = begin, .first = base + begin };
	uint64_t at = begin, start, end;
	int got = 0, err = 0;

	while (!err && (got = runs_next(&runs, &start, &end)) > 0) {
		if (file->again)
			err = save_again(&s, at, start);
		if (!err)
			err = save_range(&s, start, end);
		at = end;
	}
	if (!err && got < 0)
		err = got;
	if (!err && file->again)
		err = save_again(&s, at, begin + size);
	if (!err)
		err = file_write(file->fd, s.first, s.end - s.start, s.start);
	return err < 0 ? err : (int64_t)s.total;
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

/* ---- tracking of written pages -------------------------------------------------------------------------------- */

/* Open a userfaultfd that records writes without blocking the writer. */
static int watch_open(void)
{
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_WP_ASYNC };
	const int device = fill_device(), fd = fill_uffd(device);
	int err = 0;

	if (device >= 0)
		close(device);
	if (fd >= 0 && ioctl(fd, UFFDIO_API, &api) < 0)
		err = -errno;
	if (err)
		close(fd);
	return err ? err : fd;
}

int ram_watch(void *ram, uint64_t size, const uint8_t *bits)
{
	struct uffdio_register all = { .range = { (uintptr_t)ram, size }, .mode = UFFDIO_REGISTER_MODE_WP };
	const int fd = watch_open();
	uint64_t start, end = 0;
	int err = 0;

	if (fd < 0)
		return fd;
	if (ioctl(fd, UFFDIO_REGISTER, &all) < 0)
		err = -errno;
	while (!err && mem_run(bits, size, &start, &end)) {
		struct uffdio_writeprotect run = {
			.range = { (uintptr_t)ram + start, end - start }, .mode = UFFDIO_WRITEPROTECT_MODE_WP,
		};

		if (ioctl(fd, UFFDIO_WRITEPROTECT, &run) < 0)
			err = -errno;
	}
	if (err)
		close(fd);
	return err ? err : fd;
}

int file_is_cached(int fd)
{
	struct statfs fs;

	/* Other file systems, such as FUSE and 9P, may transfer a read directly into the reader's pages. */
	if (fstatfs(fd, &fs) < 0)
		return 0;
	return fs.f_type == EXT4_SUPER_MAGIC || fs.f_type == XFS_SUPER_MAGIC || fs.f_type == BTRFS_SUPER_MAGIC ||
	       fs.f_type == TMPFS_MAGIC;
}

static void clear_pages(uint8_t *bits, uint64_t start, uint64_t end)
{
	for (uint64_t at = start; at < end; at += PAGE)
		bits[at / PAGE / 8] &= (uint8_t) ~(1 << at / PAGE % 8);
}

int ram_changed(const void *ram, uint64_t size, int pagemap, uint8_t *bits)
{
	struct page_region run[RUNS];
	/* Find pages that are present and not written. A page that was returned to the host is not present. */
	struct pm_scan_arg scan = {
		.size = sizeof(scan), .start = (uintptr_t)ram, .end = (uintptr_t)ram + size, .vec = (uintptr_t)run, .vec_len = RUNS,
		.category_mask = PAGE_IS_PRESENT | PAGE_IS_WRITTEN, .category_inverted = PAGE_IS_WRITTEN,
	};

	while (scan.start < scan.end) {
		const int n = ioctl(pagemap, PAGEMAP_SCAN, &scan);

		if (n < 0)
			return -errno;
		for (int i = 0; i < n; i++)
			clear_pages(bits, run[i].start - (uintptr_t)ram, run[i].end - (uintptr_t)ram);
		scan.start = scan.walk_end;
	}
	return 0;
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
	/* Not MADV_DONTNEED: the next access would read the mapped file's bytes again. */
	void *new = mmap(at, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);

	if (new == MAP_FAILED)
		return -errno;
	madvise(at, len, MADV_DONTFORK);
	return 0;
}

int ram_release(void *at, uint64_t len, uint32_t backing, struct fill *fill)
{
	int err;

	if (backing == RAM_OVER_FILE) {
		err = ram_zero(at, len);
		/*
		 * The process has too many mappings. The guest may rely on zeros, so write them; the host does not get
		 * the pages back.
		 */
		if (err < 0)
			memset(at, 0, len);
		return err;
	}
	err = fill ? fill_forget(fill, at, len) : 0;
	if (err < 0)
		return err;
	err = madvise(at, len, backing == RAM_SHARED ? MADV_REMOVE : MADV_DONTNEED);
	return err < 0 ? -errno : 0;
}

int ram_unmap(void *at, uint64_t len)
{
	return madvise(at, len, MADV_DONTNEED) < 0 ? -errno : 0;
}
