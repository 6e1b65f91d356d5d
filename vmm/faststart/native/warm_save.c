// SPDX-License-Identifier: Apache-2.0
/*
 * Writes an image of this process for pyvmm-warm, see warm.h: its memory, and what the kernel was told about it.  All
 * else has to be as at the start: no descriptors but the standard ones, one thread, no blocked signals.
 */
#include "warm_save.h"

#include <asm/prctl.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
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

#define SKIP1 " %*s"
#define SKIP16 SKIP1 SKIP1 SKIP1 SKIP1 SKIP1 SKIP1 SKIP1 SKIP1 SKIP1 SKIP1 SKIP1 SKIP1 SKIP1 SKIP1 SKIP1 SKIP1
#define SKIP23 SKIP16 SKIP1 SKIP1 SKIP1 SKIP1 SKIP1 SKIP1 SKIP1
#define SKIP(n) SKIP##n

static struct warm_mail mail;

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

ssize_t warm_read_file(const char *path, char *buffer, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t used = 0;
	ssize_t n = 1;

	if (fd < 0)
		return -errno;
	while (n > 0 && used < size - 1) {
		n = read(fd, buffer + used, size - 1 - used);
		used += n > 0 ? (size_t)n : 0;
	}
	close(fd);
	buffer[used] = 0;
	return n < 0 ? -EIO : n > 0 ? -E2BIG : (ssize_t)used;
}

static int add_text(struct save *s, const char *text, uint32_t *at)
{
	size_t size = strlen(text) + 1;

	if (s->header.ntext + size > MAX_TEXT)
		return -E2BIG;
	memcpy(s->text + s->header.ntext, text, size);
	*at = s->header.ntext;
	s->header.ntext += (uint32_t)size;
	return 0;
}

int warm_add_file(struct save *s, const char *path)
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
static int note_locale(struct save *s)
{
	static const char *const names[WARM_LOCALES] = {"LC_ALL=", "LC_CTYPE=", "LANG="};
	ssize_t n = warm_read_file("/proc/self/environ", s->maps, MAX_MAPS);
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

static int note_process(struct save *s)
{
	struct warm_header *h = &s->header;
	uint64_t size = 0;
	char *at = s->maps;
	long fs_base = 0;

	/* proc_pid_stat(5): fields 26 to 28 and 45 to 47; the second ends with the last ')' */
	if (warm_read_file("/proc/self/stat", s->maps, MAX_MAPS) > 0)
		at = strrchr(s->maps, ')');
	if (!at || sscanf(at + 1, SKIP(23) " %lu %lu %lu" SKIP(16) " %lu %lu %lu", &h->start_code, &h->end_code,
			  &h->start_stack, &h->start_data, &h->end_data, &h->start_brk) != 6)
		return -EPROTO;
	if (warm_read_file("/proc/sys/kernel/random/boot_id", s->maps, MAX_MAPS) < WARM_BOOT_ID ||
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

/* From glibc 2.35 on; musl registers none. */
extern const ptrdiff_t __rseq_offset __attribute__((weak));
extern const unsigned int __rseq_size __attribute__((weak));

static void note_rseq(struct warm_header *h)
{
	if (!&__rseq_size || !__rseq_size)
		return;
	h->rseq = h->fs_base + (uint64_t)__rseq_offset;
	/* What is registered is at least as long as the first version of the structure */
	h->rseq_size = __rseq_size < 32 ? 32 : __rseq_size;
}

static void note_signals(struct save *s)
{
	for (int number = 1; number < NSIG; number++) {
		struct warm_signal signal = {.number = (uint64_t)number};

		if (syscall(SYS_rt_sigaction, number, NULL, &signal.handler, 8) < 0 || !signal.handler)
			continue;
		s->signals[s->header.nsignals++] = signal;
	}
}

/* ---- the file --------------------------------------------------------------------------------------------------- */

static int put(int fd, const void *data, size_t size, uint64_t *at)
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

static int write_image(struct save *s)
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
			err = put(s->fd, (void *)s->regions[i].start, s->regions[i].end - s->regions[i].start, &at);
		}
	h->size = at;
	at = 0;
	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]) && !err; i++)
		err = put(s->fd, parts[i].data, parts[i].size, &at);
	return err;
}

static int save(struct save *s, const char *sources)
{
	int err = note_process(s);

	if (!err)
		err = note_locale(s);
	note_rseq(&s->header);
	/* The interpreter and the script are first */
	for (; !err && *sources; sources += strlen(sources) + 1) {
		int file = warm_add_file(s, sources);

		err = file < 0 ? file : 0;
	}
	note_signals(s);
	if (!err)
		err = warm_add_memory(s);
	return err ? err : write_image(s);
}

int warm_save(int fd, const char *sources)
{
	struct save *s;
	int err = check_process(fd);

	if (err)
		return err;
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
		err = save(s, sources);
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
