// SPDX-License-Identifier: Apache-2.0
/* Loads a program and its interpreter: every number of the files is checked before it is used. */
#include "exec.h"
#include "vdso.h"
#include "vfs/vfs.h"

enum { EXECUTABLE = 2, SHARED = 3, X86_64 = 62, LOAD = 1, INTERPRETER = 3, HEADERS = 6, MAX_SEGMENTS = 64 };
enum { SEGMENT_EXEC = 1, SEGMENT_WRITE = 2, SEGMENT_READ = 4 };
#define PIE_BASE 0x555555554000ull

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

/* Check a segment to load; *end is where the one before it ended. */
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
		error = s[i].type == LOAD && s[i].size ? check_segment(&s[i], size, base, &end) : NULL;
		if (error)
			return error;
	}
	return end ? NULL : "no segment to load";
}

static u32 prot_of(const struct elf_segment *s)
{
	return (s->flags & SEGMENT_READ ? PROT_READ : 0) | (s->flags & SEGMENT_WRITE ? PROT_WRITE : 0) |
	       (s->flags & SEGMENT_EXEC ? PROT_EXEC : 0);
}

/*
 * Behind what the file has, a segment is zeros: the rest of a page, and pages. The page is cleared to its end, also behind
 * the segment: glibc's loader allocates its first memory there (__minimal_malloc) and expects zeros.
 */
static const char *clear_rest(struct mm *mm, u64 from, u64 to, u32 prot)
{
	u64 page = page_up(from), end = page_up(to);

	if (from < to && prot & PROT_WRITE && user_zero(mm, from, page - from))
		return "larger than the memory of the sandbox";
	if (page < end && mm_map(mm, page, end - page, prot, MAP_PRIVATE | MAP_FIXED) < 0)
		return "a segment cannot be mapped";
	return NULL;
}

/* Of an interpreter the place is reserved; of a program it must be free. */
static const char *load_segment(struct mm *mm, struct file *file, const struct elf_segment *s, u64 base, u32 fixed)
{
	u64 at = base + s->address, start = page_down(at), end = page_up(at + s->file_size);
	const struct vma vma = { .prot = prot_of(s), .offset = page_down(s->offset), .file = file };

	if (!s->file_size) {
		u64 size = page_up(at + s->size) - start;

		return mm_map(mm, start, size, vma.prot, MAP_PRIVATE | fixed) < 0 ? "a segment cannot be mapped" : NULL;
	}
	file_get(file);
	if (mm_map_object(mm, start, end - start, MAP_PRIVATE | fixed, &vma) < 0)
		return "a segment cannot be mapped";
	return clear_rest(mm, at + s->file_size, at + s->size, vma.prot);
}

struct elf {
	struct elf_header header;
	struct elf_segment segments[MAX_SEGMENTS];
	u64 base, first, end; /* of all segments, without the base */
};

static const char *read_headers(struct file *file, struct elf *elf)
{
	u64 size = file->inode->size, table;
	const char *error;

	if (file_read_core(file, &elf->header, sizeof(elf->header), 0) < 0)
		return "it cannot be read";
	error = check_header(&elf->header, size);
	if (error)
		return error;
	table = elf->header.segment_count * sizeof(*elf->segments);
	if (file_read_core(file, elf->segments, table, elf->header.segments_at) != (s64)table)
		return "it cannot be read";
	elf->base = elf->header.type == SHARED ? PIE_BASE : 0;
	return check_segments(elf->segments, elf->header.segment_count, size, elf->base);
}

static const char *load_all(struct mm *mm, struct file *file, const struct elf *elf, u32 fixed, struct image *image)
{
	const struct elf_header *header = &elf->header;

	if (header->entry >= USER_TOP - elf->base)
		return "the entry is outside of a program's addresses";
	image->entry = elf->base + header->entry;
	image->header_count = header->segment_count;
	for (u32 i = 0; i < header->segment_count; i++) {
		const struct elf_segment *s = &elf->segments[i];
		const char *error;

		if (s->type != LOAD || !s->size)
			continue;
		error = load_segment(mm, file, s, elf->base, fixed);
		if (error)
			return error;
		if (s->offset <= header->segments_at && header->segments_at - s->offset < s->file_size)
			image->headers = elf->base + s->address + (header->segments_at - s->offset);
		image->end = page_up(elf->base + s->address + s->size);
	}
	return NULL;
}

/* -- the interpreter -- */

static const char *open_interpreter(struct file *file, const struct elf_segment *s, struct file **interpreter, int *error)
{
	char *name = page_buffer();
	struct path path;

	*error = -ENOEXEC;
	if (!name || s->file_size < 2 || s->file_size > PAGE ||
	    file_read_core(file, name, s->file_size, s->offset) != (s64)s->file_size || name[s->file_size - 1]) {
		page_free(name);
		return "the name of the interpreter is bad";
	}
	*error = path_lookup(name, WALK_FOLLOW, &path);
	page_free(name);
	if (*error)
		return "a dynamic program, whose interpreter is not there";
	*error = S_ISREG(path.dentry->inode->mode) ? inode_permission(path.dentry->inode, MAY_EXEC) : -EACCES;
	if (!*error)
		*error = file_open(&path, O_RDONLY, interpreter);
	path_put(&path);
	return *error ? "the interpreter cannot be opened" : NULL;
}

/* Load it as a whole, where there is room. */
static const char *load_interpreter(struct mm *mm, struct file *file, struct elf *elf, struct image *image)
{
	const char *error = read_headers(file, elf);
	struct image own = { 0 };
	u64 first = ~0ull, end = 0;
	s64 at;

	if (error)
		return error;
	if (elf->header.type != SHARED)
		return "an interpreter at a fixed address";
	for (u32 i = 0; i < elf->header.segment_count; i++) {
		const struct elf_segment *s = &elf->segments[i];

		if (s->type != LOAD || !s->size)
			continue;
		if (s->address < first)
			first = page_down(s->address);
		end = page_up(s->address + s->size);
	}
	at = mm_map(mm, 0, end - first, 0, MAP_PRIVATE);
	if (at < 0)
		return "there is no room for the interpreter";
	elf->base = image->base = (u64)at - first;
	error = load_all(mm, file, elf, MAP_FIXED, &own);
	image->start = own.entry;
	return error;
}

static const char *load_both(struct mm *mm, struct file *file, struct elf *elf, struct image *image, int *error)
{
	struct file *interpreter = NULL;
	const char *why = read_headers(file, elf);

	for (u32 i = 0; !why && !interpreter && i < elf->header.segment_count; i++)
		if (elf->segments[i].type == INTERPRETER)
			why = open_interpreter(file, &elf->segments[i], &interpreter, error);
	if (!why) {
		*error = -ENOEXEC;
		why = load_all(mm, file, elf, MAP_FIXED_NOREPLACE, image);
		image->start = image->entry;
	}
	mm->map_top = USER_TOP - STACK_SIZE - (1 << 20);
	if (!why && interpreter)
		*error = interpreter->inode->size < sizeof(elf->header) ? -EIO : -ELIBBAD;
	if (!why && interpreter)
		why = load_interpreter(mm, interpreter, elf, image);
	if (interpreter)
		file_put(interpreter);
	return why;
}

const char *elf_load(struct mm *mm, struct file *file, struct image *image, int *error)
{
	struct elf *elf = kmalloc(sizeof(*elf));
	const char *why;

	*image = (struct image){ 0 };
	*error = elf ? -ENOEXEC : -ENOMEM;
	if (!elf)
		return "the sandbox has too little memory";
	why = load_both(mm, file, elf, image, error);
	kfree(elf);
	mm->heap = mm->brk = image->end;
	mm->program = file;
	file_get(file);
	if (!file->runs) {
		file->runs = true;
		file->inode->programs++;
	}
	image->vdso = why ? 0 : vdso_map(mm);
	return why;
}
