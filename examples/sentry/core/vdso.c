// SPDX-License-Identifier: Apache-2.0
/* linux-vdso.so.1 in each program: a page with clocks, which the platform keeps up to date, and code that reads them. */
#include "vdso.h"

#include "core.h"
#include "clock_page.h"

extern const u8 vdso_start[], vdso_end[]; /* vdso/image.S */

static struct shared *image; /* NULL: there is none */

static u64 code_size(void)
{
	return page_up((u64)(vdso_end - vdso_start));
}

/* A page of the image, which keeps it. */
static void *image_page(u64 index)
{
	s64 offset = shared_page(image, index);

	if (offset < 0)
		return NULL;
	page_put((u64)offset);
	return page_at((u64)offset);
}

bool vdso_init(void)
{
	const u64 size = (u64)(vdso_end - vdso_start);
	struct clock_page *clock;

	image = NULL;
	if (!core.ops->clock_page)
		return true;
	image = shared_new(PAGE + code_size());
	clock = image ? image_page(0) : NULL;
	if (!clock)
		return false;
	for (u64 at = 0; at < size; at += PAGE) {
		void *page = image_page(1 + at / PAGE);

		if (!page)
			return false;
		bytes_copy(page, vdso_start + at, size - at < PAGE ? size - at : PAGE);
	}
	core.ops->clock_page(clock, page_offset(clock));
	return true;
}

u64 vdso_map(struct mm *mm)
{
	const struct vma code = { .prot = PROT_READ | PROT_EXEC, .shared = image };
	const struct vma clock = { .prot = PROT_READ, .flags = VMA_MAY_NOT_WRITE, .shared = image };
	s64 at;

	if (!image)
		return 0;
	shared_get(image);
	at = mm_map_object(mm, 0, PAGE + code_size(), MAP_PRIVATE, &code);
	if (at < 0)
		return 0;
	shared_get(image);
	if (mm_map_object(mm, (u64)at, PAGE, MAP_PRIVATE | MAP_FIXED, &clock) < 0)
		return 0;
	for (u64 i = 0; i < 2; i++) /* each program reads the code when it starts, and most read clocks */
		if (mm_fault(mm, (u64)at + i * PAGE, ACCESS_READ, false))
			return 0;
	return (u64)at + PAGE;
}

const char *vdso_name(const struct vma *vma)
{
	if (!image || vma->shared != image)
		return NULL;
	return vma->offset ? "[vdso]" : "[vvar]";
}
