// SPDX-License-Identifier: Apache-2.0
/*
 * Writes an image of this process for pyvmm-warm, see warm.h: its memory, and what the kernel was told about it.  All
 * else has to be as at the start: no descriptors but the standard ones, one thread, no blocked signals.
 */
#include "base/native.h"
#include "warm.h"

#include <asm/prctl.h>
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { SETTLED = 3 }; /* seconds; a start takes less */
enum {
	MAX_GAP = 8,          /* pages nobody has touched that are written for the sake of fewer regions */
	STACK_SIZE = 8 << 20, /* of the main thread, where it has no limit */
};

#define PAGEMAP_THERE (UINT64_C(3) << 62) /* present or swapped */
#define PAGEMAP_FILE (UINT64_C(1) << 61)  /* a page of a file, not this process's copy of it */

enum { MAX_FILES = 1024, MAX_REGIONS = 2048, MAX_SIGNALS = 64, MAX_TEXT = 256 << 10, MAX_MAPS = 2 << 20 };

/* All that is needed to write, in memory that is shared so that it is told from the process's own. */
struct image {
	struct warm_header header;
	struct warm_file files[MAX_FILES];
	struct warm_region regions[MAX_REGIONS];
	struct warm_signal signals[MAX_SIGNALS];
	char text[MAX_TEXT];
	char maps[MAX_MAPS];
	int pagemap, fd;
};

#define SKIP1 " %*s"
#define SKIP16 SKIP1 SKIP1 SKIP1 SKIP1 SKIP1 SKIP1 SKIP1 SKIP1 SKIP1 SKIP1 SKIP1 SKIP1 SKIP1 SKIP1 SKIP1 SKIP1
#define SKIP23 SKIP16 SKIP1 SKIP1 SKIP1 SKIP1 SKIP1 SKIP1 SKIP1
#define SKIP(n) SKIP##n

static struct warm_mail mail;
/* The code of functions, see vmm/faststart/warm.py. In the image as long as it has pages. */
static struct {
	void *start;
	size_t size;
} code;
/*
 * Memory of the interpreter's objects, which only threads with its lock write to for the first time.  In the image, like
 * all variables here.  Not the C library's heap and the variables of programs, to which other threads write, too.
 */
enum { MAX_OBJECTS = 64, LEAST_OBJECTS = 256 << 10 };
static struct span {
	uint64_t start, end;
} objects[MAX_OBJECTS];
static uint32_t nobjects;

/* Of the interpreter that has loaded this, which calls without its lock: all that is needed of Python.h */
extern void *PyObject_Malloc(size_t size);
extern void PyObject_Free(void *object);
extern int PyGILState_Ensure(void);
extern void PyGILState_Release(int state);

int warm_registers(struct warm_registers *r) __attribute__((returns_twice));
__asm__(".pushsection .text\n"
	".type warm_registers, @function\n"
	"warm_registers:\n\t"
	"endbr64\n\t"
	"mov %rbx, 0(%rdi)\n\t"
	"mov %rbp, 8(%rdi)\n\t"
	"mov %r12, 16(%rdi)\n\t"
	"mov %r13, 24(%rdi)\n\t"
	"mov %r14, 32(%rdi)\n\t"
	"mov %r15, 40(%rdi)\n\t"
	"lea 8(%rsp), %rax\n\t"
	"mov %rax, 48(%rdi)\n\t"
	"mov (%rsp), %rax\n\t"
	"mov %rax, 56(%rdi)\n\t"
	"xor %eax, %eax\n\t"
	"ret\n"
	".size warm_registers, . - warm_registers\n"
	".popsection\n");

/* What a file of /proc has, ended by a zero; its length, -errno. */
static ssize_t read_all(int fd, char *buffer, size_t size)
{
	size_t used = 0;
	ssize_t n = 1;

	while (n > 0 && used < size - 1) {
		n = pread(fd, buffer + used, size - 1 - used, (off_t)used);
		used += n > 0 ? (size_t)n : 0;
	}
	buffer[used] = 0;
	return n < 0 ? -EIO : n > 0 ? -E2BIG : (ssize_t)used;
}

static ssize_t read_file(const char *path, char *buffer, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return -errno;
	n = read_all(fd, buffer, size);
	close(fd);
	return n;
}

static int add_text(struct image *s, const char *text, uint32_t *at)
{
	size_t size = strlen(text) + 1;

	if (s->header.ntext + size > MAX_TEXT)
		return -E2BIG;
	memcpy(s->text + s->header.ntext, text, size);
	*at = s->header.ntext;
	s->header.ntext += (uint32_t)size;
	return 0;
}

/* The index of the file *path*, -errno. */
static int add_file(struct image *s, const char *path)
{
	struct warm_header *h = &s->header;
	struct warm_file *file = &s->files[h->nfiles];
	struct stat status;
	time_t age;
	int err;

	for (uint32_t i = 0; i < h->nfiles; i++)
		if (strcmp(s->text + s->files[i].path, path) == 0)
			return (int)i;
	if (h->nfiles == MAX_FILES)
		return -E2BIG;
	if (stat(path, &status) < 0)
		return -errno;
	/* It may have changed since it was read */
	age = time(NULL) - status.st_mtim.tv_sec;
	if (age >= 0 && age < SETTLED)
		return -EAGAIN;
	err = add_text(s, path, &file->path);
	if (err)
		return err;
	file->dev = status.st_dev;
	file->ino = status.st_ino;
	file->size = (uint64_t)status.st_size;
	file->mtime = status.st_mtim.tv_sec;
	file->mtime_ns = status.st_mtim.tv_nsec;
	return (int)h->nfiles++;
}

/* ---- memory ----------------------------------------------------------------------------------------------------- */

/*
 * The memory of this process as regions of an image.  Pages that are its own, as /proc/self/pagemap has it, are to be
 * written; of all else only which file is mapped where.  What is droppable or wiped in children is left out: there glibc,
 * for one, has the key of its random numbers (getrandom in the vDSO).
 */

static int add_region(struct image *s, uint64_t start, uint64_t end, uint32_t prot, int32_t source, uint64_t offset)
{
	if (s->header.nregions == MAX_REGIONS)
		return -E2BIG;
	s->regions[s->header.nregions++] = (struct warm_region){start, end, offset, prot, source};
	return 0;
}

/* Adds the pages of [start, end) that are this process's own; anonymous: those of zeros are what is there without. */
static int add_own_pages(struct image *s, uint64_t start, uint64_t end, uint32_t prot, bool anonymous)
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
			if (anonymous && page_is_zero((const uint8_t *)page))
				continue;
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

/* Leaves out the variables of a program or library that are zero at first: memory behind them may be in one mapping. */
static int leave_out_variables(struct dl_phdr_info *program, size_t size, void *data)
{
	struct span *span = data;

	(void)size;
	for (int i = 0; i < program->dlpi_phnum; i++) {
		const ElfW(Phdr) *part = &program->dlpi_phdr[i];
		const uint64_t start = program->dlpi_addr + part->p_vaddr, end = (start + part->p_memsz + WARM_PAGE - 1) & -(uint64_t)WARM_PAGE;

		if (part->p_type == PT_LOAD && start < span->end && end > span->start)
			span->start = end;
	}
	return 0;
}

static void note_objects(uint64_t start, uint64_t end, uint32_t prot)
{
	struct span span = {start, end};

	if (prot != (PROT_READ | PROT_WRITE))
		return;
	dl_iterate_phdr(leave_out_variables, &span);
	if (span.end > span.start && span.end - span.start >= LEAST_OBJECTS && nobjects < MAX_OBJECTS)
		objects[nobjects++] = span;
}

/* One mapping of /proc/self/smaps: its first line, and its flags. */
static int add_mapping(struct image *s, char *line, const char *flags, uint64_t *vdso)
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
		source = strstr(path, " (deleted)") ? -ENOENT : add_file(s, path);
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
		return err ? err : add_own_pages(s, start, end, prot, true);
	} else if (path[0] && strcmp(path, "[heap]") != 0 && strncmp(path, "[anon:", 6) != 0) {
		return -EBUSY;
	}
	if (!path[0])
		note_objects(start, end, prot);
	err = add_region(s, start, end, prot, source, source == WARM_ANONYMOUS ? 0 : offset);
	return err ? err : add_own_pages(s, start, end, prot, source == WARM_ANONYMOUS);
}

/* Adds all that is mapped; 0 or -errno. */
static int add_memory(struct image *s)
{
	ssize_t n = read_file("/proc/self/smaps", s->maps, MAX_MAPS);
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

/* ---- is all else as it was at the start? --------------------------------------------------------------------- */

static int check_process(int image)
{
	struct stat tasks;
	DIR *folder;
	struct dirent *entry;
	sigset_t blocked;
	int err = 0;

	/* A folder has a link in itself, one in its parent, and one in each of its folders */
	if (stat("/proc/self/task", &tasks) < 0 || tasks.st_nlink != 3)
		return -EBUSY;
	if (sigprocmask(SIG_BLOCK, NULL, &blocked) < 0 || !sigisemptyset(&blocked))
		return -EBUSY;
	folder = opendir("/proc/self/fd");
	if (!folder)
		return -errno;
	while (!err && (entry = readdir(folder)) != NULL) {
		int fd = atoi(entry->d_name);

		/* Those that came from the parent are not closed by execve(2), what was opened since is */
		if (entry->d_name[0] != '.' && fd > 2 && fd != image && fd != dirfd(folder) && fcntl(fd, F_GETFD) != 0)
			err = -EBUSY;
	}
	closedir(folder);
	return err;
}

/* The locale as the environment gave it: Python changes LC_CTYPE where it gave none. */
static int note_locale(struct image *s)
{
	static const char *const names[WARM_LOCALES] = {"LC_ALL=", "LC_CTYPE=", "LANG="};
	ssize_t n = read_file("/proc/self/environ", s->maps, MAX_MAPS);
	int err = n < 0 ? (int)n : 0;

	for (int i = 0; i < WARM_LOCALES && !err; i++) {
		const char *value = "";

		for (const char *at = s->maps; at < s->maps + n; at += strlen(at) + 1)
			if (!*value && strncmp(at, names[i], strlen(names[i])) == 0)
				value = at + strlen(names[i]);
		err = add_text(s, value, &s->header.locale[i]);
	}
	return err;
}

static int note_process(struct image *s)
{
	struct warm_header *h = &s->header;
	uint64_t size = 0;
	char *at = s->maps;
	long fs_base = 0;

	/* proc_pid_stat(5): fields 26 to 28 and 45 to 47; the second ends with the last ')' */
	if (read_file("/proc/self/stat", s->maps, MAX_MAPS) > 0)
		at = strrchr(s->maps, ')');
	if (!at || sscanf(at + 1, SKIP(23) " %lu %lu %lu" SKIP(16) " %lu %lu %lu", &h->start_code, &h->end_code,
			  &h->start_stack, &h->start_data, &h->end_data, &h->start_brk) != 6)
		return -EPROTO;
	if (read_file("/proc/sys/kernel/random/boot_id", s->maps, MAX_MAPS) < WARM_BOOT_ID ||
	    syscall(SYS_arch_prctl, ARCH_GET_FS, &fs_base) < 0 ||
	    syscall(SYS_get_robust_list, 0, &h->robust_list, &size) < 0)
		return -ENOSYS;
	memcpy(h->boot_id, s->maps, WARM_BOOT_ID);
	h->fs_base = (uint64_t)fs_base;
	h->robust_size = size;
	/* Where glibc has the thread's id, and the kernel clears it at the end; other C libraries name another place */
	if (prctl(PR_GET_TID_ADDRESS, &h->tid, 0, 0, 0) < 0 || !h->tid || *(int *)h->tid != (int)syscall(SYS_gettid))
		return -ENOSYS;
	h->made = time(NULL);
	h->mail = (uint64_t)&mail;
	return 0;
}

/* From glibc 2.35 on; musl registers none. Looked up at run time: a reference makes the extension need that version. */
static void note_rseq(struct warm_header *h)
{
	const ptrdiff_t *offset = dlsym(RTLD_DEFAULT, "__rseq_offset");
	const unsigned int *size = dlsym(RTLD_DEFAULT, "__rseq_size");

	if (!offset || !size || !*size)
		return;
	h->rseq = h->fs_base + (uint64_t)*offset;
	/* What is registered is at least as long as the first version of the structure */
	h->rseq_size = *size < 32 ? 32 : *size;
}

static void note_signals(struct image *s)
{
	for (int number = 1; number < NSIG; number++) {
		struct warm_signal signal = {.number = (uint64_t)number};

		if (syscall(SYS_rt_sigaction, number, NULL, &signal.handler, 8) < 0 || !signal.handler)
			continue;
		s->signals[s->header.nsignals++] = signal;
	}
}

/* ---- the file --------------------------------------------------------------------------------------------------- */

static int image_put(int fd, const void *data, size_t size, uint64_t *at)
{
	const char *bytes = data;

	while (size > 0) {
		ssize_t n = pwrite(fd, bytes, size, (off_t)*at);

		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		bytes += n;
		size -= (size_t)n;
		*at += (uint64_t)n;
	}
	return 0;
}

/* Pages of zeros are left out: what the file does not have takes no memory until it is used. */
static int image_put_region(int fd, const struct warm_region *r, uint64_t *at)
{
	int err = 0;

	for (uint64_t page = r->start, end; page < r->end && !err; page = end) {
		const bool zero = page_is_zero((const uint8_t *)page);

		for (end = page + WARM_PAGE; end < r->end && page_is_zero((const uint8_t *)end) == zero; end += WARM_PAGE)
			;
		if (zero)
			*at += end - page;
		else
			err = image_put(fd, (void *)page, end - page, at);
	}
	return err;
}

static int write_image(struct image *s)
{
	struct warm_header *h = &s->header;
	const struct {
		const void *data;
		size_t size;
	} parts[] = {
		{h, sizeof(*h)},
		{s->files, h->nfiles * sizeof(s->files[0])},
		{s->regions, h->nregions * sizeof(s->regions[0])},
		{s->signals, h->nsignals * sizeof(s->signals[0])},
		{s->text, s->header.ntext},
	};
	uint64_t at = 0;
	int err = 0;

	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
		at += parts[i].size;
	if (at > WARM_MAX_TABLE)
		return -E2BIG;
	h->magic = WARM_MAGIC;
	at = h->data = (at + WARM_PAGE - 1) & -(uint64_t)WARM_PAGE;
	for (uint32_t i = 0; i < h->nregions && !err; i++)
		if (s->regions[i].source == WARM_IMAGE) {
			s->regions[i].offset = at;
			err = image_put_region(s->fd, &s->regions[i], &at);
		}
	h->size = at;
	if (!err && ftruncate(s->fd, (off_t)at) < 0)
		err = -errno;
	at = 0;
	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]) && !err; i++)
		err = image_put(s->fd, parts[i].data, parts[i].size, &at);
	return err;
}

static int image_save(struct image *s, const char *sources)
{
	int err = note_process(s);

	if (!err)
		err = note_locale(s);
	note_rseq(&s->header);
	/* The interpreter and the script are first */
	for (; !err && *sources; sources += strlen(sources) + 1) {
		int file = add_file(s, sources);

		err = file < 0 ? file : 0;
	}
	note_signals(s);
	if (!err)
		err = add_memory(s);
	return err ? err : write_image(s);
}

/*
 * Memory that is free between what is used is where the next objects would be made, each on another page, which would have
 * to be copied for it: nobody is to get it. What is free in large pieces is left.
 */
static void fill_heap(void)
{
	enum { LARGE = 4 * WARM_PAGE, PIECES = 1024, ALIGNMENT = 16 };
	const char *top = (char *)sbrk(0) - mallinfo2().keepcost;
	char *large[PIECES], *p;
	size_t n = 0;

	while (n < PIECES && (p = malloc(LARGE)) && p < top)
		large[n++] = p;
	if (n < PIECES)
		free(p);
	for (size_t size = LARGE - ALIGNMENT; size >= ALIGNMENT; size -= ALIGNMENT) {
		while ((p = malloc(size)) && p < top)
			;
		free(p);
	}
	while (n > 0)
		free(large[--n]);
}

void warm_fill_pools(size_t size, size_t blocks)
{
	int state = PyGILState_Ensure();

	while (blocks-- > 0 && PyObject_Malloc(size))
		;
	PyGILState_Release(state);
}

void warm_free(void *object)
{
	int state = PyGILState_Ensure();

	PyObject_Free(object);
	PyGILState_Release(state);
}

uint64_t warm_code_area(size_t size)
{
	void *start = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (start == MAP_FAILED)
		return 0;
	code.start = start;
	code.size = size;
	return (uint64_t)start;
}

void warm_forget_code(void)
{
	int state;

	if (!code.size || !warm_arguments())
		return;
	/* Nobody runs code that has this. */
	state = PyGILState_Ensure();
	madvise(code.start, code.size, MADV_DONTNEED);
	PyGILState_Release(state);
}

/* Unmaps the pages of [start, end) that are the image's still. */
static void unmap_unchanged(int pagemap, uint64_t start, uint64_t end)
{
	uint64_t entries[512];

	for (uint64_t at = start; at < end; at += sizeof(entries) / 8 * WARM_PAGE) {
		uint64_t count = (end - at) / WARM_PAGE;

		if (count > sizeof(entries) / 8)
			count = sizeof(entries) / 8;
		if (pread(pagemap, entries, count * 8, (off_t)(at / WARM_PAGE * 8)) != (ssize_t)(count * 8))
			return;
		for (uint64_t i = 0, first; i < count; i++) {
			for (first = i; i < count && (entries[i] & PAGEMAP_THERE) && (entries[i] & PAGEMAP_FILE); i++)
				;
			if (i > first)
				madvise((void *)(at + first * WARM_PAGE), (i - first) * WARM_PAGE, MADV_DONTNEED);
		}
	}
}

/* The same of one line of /proc/self/maps, if an image is mapped there: the addresses may be used for other memory now. */
static void unmap_objects(const char *line, int pagemap)
{
	uint64_t start, end;
	char w, p, *path;

	if (sscanf(line, "%lx-%lx r%c-%c", &start, &end, &w, &p) != 4 || w != 'w' || p != 'p')
		return;
	path = strstr(line, WARM_NAME);
	if (!path || !strstr(path, " (deleted)"))
		return;
	for (uint32_t i = 0; i < nobjects; i++) {
		const uint64_t first = start > objects[i].start ? start : objects[i].start;
		const uint64_t last = end < objects[i].end ? end : objects[i].end;

		if (first < last)
			unmap_unchanged(pagemap, first, last);
	}
}

static void unmap_all_objects(int maps, int pagemap)
{
	char *text = code.size && warm_arguments() ? malloc(MAX_MAPS) : NULL;
	int state;

	if (!text)
		return; /* without an area for code, the interpreter may have no lock */
	/* No object gets its first change meanwhile, and no thread frees one. */
	state = PyGILState_Ensure();
	if (read_all(maps, text, MAX_MAPS) >= 0)
		for (char *line = text, *end; (end = strchr(line, '\n')) != NULL; line = end + 1) {
			*end = 0;
			unmap_objects(line, pagemap);
		}
	PyGILState_Release(state);
	free(text);
}

void warm_unmap_and_wait(const uint64_t *ranges, uint32_t count, int maps, int pagemap, int fd, int timeout)
{
	struct pollfd readable = { .fd = fd, .events = POLLIN };
	int quiet = 2000, now;

	do {
		unmap_all_objects(maps, pagemap);
		for (uint32_t i = 0; i < count; i++)
			madvise((void *)(uintptr_t)ranges[2 * i], ranges[2 * i + 1], MADV_DONTNEED);
		now = timeout < 0 || timeout > quiet ? quiet : timeout;
		if (timeout > 0)
			timeout -= now;
		quiet = quiet < 30000 ? 2 * quiet : 60000;
	} while (!poll(&readable, 1, now) && timeout);
}

int warm_save(int fd, const char *sources)
{
	struct image *s;
	int err = check_process(fd);

	if (err)
		return err;
	malloc_trim(0);
	fill_heap();
	s = mmap(NULL, sizeof(*s), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (s == MAP_FAILED)
		return -errno;
	s->fd = fd;
	s->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (s->pagemap < 0)
		err = -errno;
	else if (warm_registers(&s->header.registers)) {
		environ = mail.envp;
		return 1; /* in another process: s is not there */
	} else
		err = image_save(s, sources);
	if (s->pagemap >= 0)
		close(s->pagemap);
	munmap(s, sizeof(*s));
	return err;
}

char **warm_arguments(void)
{
	return mail.argv;
}

char **warm_environment(void)
{
	return mail.envp;
}
