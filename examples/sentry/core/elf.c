// SPDX-License-Identifier: Apache-2.0
/* Loads a static program: every number of the file is checked before it is used. */
#include "core.h"

enum { EXECUTABLE = 2, SHARED = 3, X86_64 = 62, LOAD = 1, INTERPRETER = 3, HEADERS = 6, MAX_SEGMENTS = 64 };
enum { SEGMENT_EXEC = 1, SEGMENT_WRITE = 2, SEGMENT_READ = 4 };
#define PIE_BASE 0x555555554000ull

static u64 page_down(u64 address)
{
	return address & -(u64)PAGE;
}

static u64 page_up(u64 address)
{
	return page_down(address + PAGE - 1);
}

static const char *check_header(const struct elf_header *header, u64 size)
{
	static const u8 magic[] = { 0x7f, 'E', 'L', 'F' };
	u64 table;

	for (u32 i = 0; i < sizeof(magic); i++)
		if (size < sizeof(*header) || header->magic[i] != magic[i])
			return "not an ELF program";
	if (header->class != 2 || header->order != 1 || header->machine != X86_64)
		return "not a program for x86-64";
	if (header->type != EXECUTABLE && header->type != SHARED)
		return "an ELF file, but not a program";
	if (header->segment_size != sizeof(struct elf_segment) || !header->segment_count ||
	    header->segment_count > MAX_SEGMENTS)
		return "a bad table of segments";
	table = header->segment_count * sizeof(struct elf_segment);
	if (header->segments_at > size || table > size - header->segments_at)
		return "truncated: the table of segments is behind its end";
	return NULL;
}

/* One that is loaded; *end is where the one before it ended. */
static const char *check_segment(const struct elf_segment *s, u64 size, u64 base, u64 *end)
{
	if (s->offset > size || s->file_size > size - s->offset)
		return "truncated: a segment is behind its end";
	if (s->file_size > s->size)
		return "a segment is larger in the file than in memory";
	if (s->address >= USER_TOP - base || s->size > USER_TOP - base - s->address || base + s->address < USER_MIN)
		return "a segment is outside of a program's addresses";
	if ((s->address - s->offset) % PAGE)
		return "a segment is not aligned";
	if (page_down(base + s->address) < *end)
		return "segments overlap, or are not sorted";
	*end = page_up(base + s->address + s->size);
	return NULL;
}

static const char *check_segments(const struct elf_segment *s, u32 count, u64 size, u64 base)
{
	const char *error;
	u64 end = 0;

	for (u32 i = 0; i < count; i++) {
		if (s[i].type == INTERPRETER)
			return "a dynamic program: only static ones run";
		error = s[i].type == LOAD && s[i].size ? check_segment(&s[i], size, base, &end) : NULL;
		if (error)
			return error;
	}
	return end ? NULL : "no segment to load";
}

static const char *load_segment(struct mm *mm, const u8 *file, const struct elf_segment *s, u64 base)
{
	u64 at = base + s->address, start = page_down(at), end = page_up(at + s->size);
	u32 prot = (s->flags & SEGMENT_READ ? PROT_READ : 0) | (s->flags & SEGMENT_WRITE ? PROT_WRITE : 0) |
		   (s->flags & SEGMENT_EXEC ? PROT_EXEC : 0);

	if (mm_map(mm, start, end - start, prot, MAP_PRIVATE | MAP_FIXED_NOREPLACE) < 0)
		return "a segment cannot be mapped";
	/* What Linux maps of the file around the segment, in its first and last page, is zeros here. */
	return mm_fill(mm, at, file + s->offset, s->file_size) ? "larger than the memory of the sandbox" : NULL;
}

const char *elf_load(struct mm *mm, const u8 *file, u64 size, struct image *image)
{
	struct elf_segment segments[MAX_SEGMENTS];
	struct elf_header header;
	const char *error;
	u64 base;

	bytes_zero(&header, sizeof(header));
	bytes_copy(&header, file, size < sizeof(header) ? size : sizeof(header));
	error = check_header(&header, size);
	if (error)
		return error;
	bytes_copy(segments, file + header.segments_at, header.segment_count * sizeof(*segments));
	base = header.type == SHARED ? PIE_BASE : 0;
	error = check_segments(segments, header.segment_count, size, base);
	if (error)
		return error;
	if (header.entry >= USER_TOP - base)
		return "the entry is outside of a program's addresses";
	*image = (struct image){ .entry = base + header.entry, .header_count = header.segment_count };
	for (u32 i = 0; i < header.segment_count; i++) {
		const struct elf_segment *s = &segments[i];

		if (s->type != LOAD || !s->size)
			continue;
		error = load_segment(mm, file, s, base);
		if (error)
			return error;
		if (s->offset <= header.segments_at && header.segments_at - s->offset < s->file_size)
			image->headers = base + s->address + (header.segments_at - s->offset);
		image->end = page_up(base + s->address + s->size);
	}
	return NULL;
}
