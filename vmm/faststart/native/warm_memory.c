// SPDX-License-Identifier: Apache-2.0
/*
 * The memory of this process as regions of an image.  Pages that are its own, as /proc/self/pagemap has it, are to be
 * written; of all else only which file is mapped where.  What is droppable or wiped in children is left out: there glibc,
 * for one, has the key of its random numbers (getrandom in the vDSO).
 */
#include "warm_save.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
	MAX_GAP = 8,          /* pages nobody has touched that are written for the sake of fewer regions */
	STACK_SIZE = 8 << 20, /* of the main thread, where it has no limit */
};

#define PAGEMAP_THERE (UINT64_C(3) << 62) /* present or swapped */
#define PAGEMAP_FILE (UINT64_C(1) << 61)  /* a page of a file, not this process's copy of it */

static int add_region(struct save *s, uint64_t start, uint64_t end, uint32_t prot, int32_t source, uint64_t offset)
{
	if (s->header.nregions == MAX_REGIONS)
		return -E2BIG;
	s->regions[s->header.nregions++] = (struct warm_region){start, end, offset, prot, source};
	return 0;
}

/* Adds the pages of [start, end) that are this process's own. */
static int add_own_pages(struct save *s, uint64_t start, uint64_t end, uint32_t prot)
{
	uint64_t entries[512], first = 0, last = 0; /* the run so far, empty when last is 0 */
	int err = 0;

	for (uint64_t at = start; at < end && !err; at += sizeof(entries) / 8 * WARM_PAGE) {
		uint64_t count = (end - at) / WARM_PAGE;
		ssize_t n;

		if (count > sizeof(entries) / 8)
			count = sizeof(entries) / 8;
		n = pread(s->pagemap, entries, count * 8, (off_t)(at / WARM_PAGE * 8));
		if (n != (ssize_t)(count * 8))
			return -EIO;
		for (uint64_t i = 0; i < count && !err; i++) {
			uint64_t page = at + i * WARM_PAGE;

			if (!(entries[i] & PAGEMAP_THERE) || (entries[i] & PAGEMAP_FILE))
				continue;
			if (!(prot & PROT_READ))
				return -EACCES;
			if (last && page - last > MAX_GAP * WARM_PAGE) {
				err = add_region(s, first, last, prot, WARM_IMAGE, 0);
				last = 0;
			}
			if (!last)
				first = page;
			last = page + WARM_PAGE;
		}
	}
	if (!err && last)
		err = add_region(s, first, last, prot, WARM_IMAGE, 0);
	return err;
}

/* Does a line "VmFlags: rd wr mr ..." have that one? */
static bool has_flag(const char *flags, const char *name)
{
	for (const char *at = flags; (at = strstr(at, name)) != NULL; at += 2)
		if (at[-1] == ' ' && (at[2] == ' ' || !at[2]))
			return true;
	return false;
}

/* One mapping of /proc/self/smaps: its first line, and its flags. */
static int add_mapping(struct save *s, char *line, const char *flags, uint64_t *vdso)
{
	uint64_t start, end, offset;
	char r, w, x, p, *path;
	uint32_t prot;
	int at = 0, source = WARM_ANONYMOUS, err;

	if (sscanf(line, "%lx-%lx %c%c%c%c %lx %*s %*s %n", &start, &end, &r, &w, &x, &p, &offset, &at) < 7)
		return -EPROTO;
	path = line + at;
	prot = (uint32_t)((r == 'r' ? PROT_READ : 0) | (w == 'w' ? PROT_WRITE : 0) | (x == 'x' ? PROT_EXEC : 0));
	if (start <= (uint64_t)s && (uint64_t)s < end)
		return 0; /* ours */
	if (strcmp(path, "[vsyscall]") == 0)
		return 0; /* at the same address everywhere */
	if (has_flag(flags, "dp"))
		return add_region(s, start, end, prot, WARM_DROPPABLE, 0);
	if (has_flag(flags, "wf"))
		return add_region(s, start, end, prot, WARM_WIPED, 0);
	if (strncmp(path, "[vvar", 5) == 0 || strcmp(path, "[vdso]") == 0) {
		if (strcmp(path, "[vdso]") == 0)
			*vdso = start;
		return add_region(s, start, end, prot, WARM_VDSO, start);
	}
	if (p == 's' && (prot & PROT_WRITE))
		return -EBUSY;
	if (path[0] == '/') {
		source = strstr(path, " (deleted)") ? -ENOENT : warm_add_file(s, path);
		if (source < 0)
			return source;
	} else if (strcmp(path, "[stack]") == 0) {
		struct rlimit limit;
		uint64_t size = STACK_SIZE;

		if (getrlimit(RLIMIT_STACK, &limit) == 0 && limit.rlim_cur < size)
			size = limit.rlim_cur & -(uint64_t)WARM_PAGE;
		/* The kernel lets it grow; there it is as long as it may get */
		if (end - start < size && end - size >= s->regions[s->header.nregions - 1].end)
			err = add_region(s, end - size, end, prot, WARM_ANONYMOUS, 0);
		else
			err = add_region(s, start, end, prot, WARM_ANONYMOUS, 0);
		return err ? err : add_own_pages(s, start, end, prot);
	} else if (path[0] && strcmp(path, "[heap]") != 0 && strncmp(path, "[anon:", 6) != 0) {
		return -EBUSY;
	}
	err = add_region(s, start, end, prot, source, source == WARM_ANONYMOUS ? 0 : offset);
	return err ? err : add_own_pages(s, start, end, prot);
}

int warm_add_memory(struct save *s)
{
	ssize_t n = warm_read_file("/proc/self/smaps", s->maps, MAX_MAPS);
	char *mapping = NULL;
	uint64_t vdso = 0;
	int err = n < 0 ? (int)n : 0;

	s->header.brk = (uint64_t)syscall(SYS_brk, 0);
	for (char *line = s->maps, *end; !err && (end = strchr(line, '\n')) != NULL; line = end + 1) {
		*end = 0;
		/* A mapping begins with its address; what is told of it, with a name and ends with its flags */
		if (line[0] < 'A' || line[0] > 'Z')
			mapping = line;
		else if (strncmp(line, "VmFlags:", 8) == 0)
			err = mapping ? add_mapping(s, mapping, line, &vdso) : -EPROTO;
	}
	for (uint32_t i = 0; i < s->header.nregions; i++)
		if (s->regions[i].source == WARM_VDSO)
			s->regions[i].offset -= vdso; /* what lies before it has a negative one */
	return err;
}
