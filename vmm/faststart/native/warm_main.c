// SPDX-License-Identifier: Apache-2.0
/*
 * pyvmm-warm PYTHON SCRIPT [ARGUMENT]...: what `PYTHON -IS SCRIPT ARGUMENT...` does, from where a process of that kind had
 * imported all its modules, when there is an image of one that fits.  It takes the image away, and has the next one made in
 * the background.  Where there is none, or anything is not as it was or unusual, it executes just that.
 *
 * No C library: its start-up would cost more than all of this, and the one in the image must be the only one.  So nobody
 * relocates what is here either: no tables of pointers.
 */
#define _GNU_SOURCE
#include "warm.h"

#include "warm_call.h"

#include <asm/prctl.h>
#include <fcntl.h>
#include <linux/auxvec.h>
#include <linux/prctl.h>
#include <sched.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static const char locale_names[WARM_LOCALES][10] = {"LC_ALL=", "LC_CTYPE=", "LANG="};

enum { PATH_SIZE = 4096, LAST_OLD_SIGNAL = 31, RSEQ_SIGNATURE = 0x53053053, LOCK_FD = 3, LOWEST_NICE = 19 };
enum { DELAY_NS = 100 * 1000 * 1000 }; /* as long as a boot takes */
enum { HURRY_S = 5 }; /* so long an image is made only when nothing else wants the CPU */
#define LATER "-later" /* as the first argument: see wait_and_make() */
#define PROMOTE "-promote" /* the same: see promote_parent() */
#ifndef MAP_DROPPABLE /* Linux 6.11 */
#define MAP_DROPPABLE 0x08
#endif

/* ---- may we? -------------------------------------------------------------------------------------------------- */

/* Whether memory of another process can be what this one would have: nothing here changes how libraries start. */
static bool is_usual(char **envp, const uint64_t *auxv)
{
	uint64_t action[4];

	for (; auxv[0] != AT_NULL; auxv += 2)
		if (auxv[0] == AT_SECURE && auxv[1])
			return false;
	for (; *envp; envp++)
		if (text_after(*envp, "LD_") || text_after(*envp, "GLIBC_TUNABLES=") || text_after(*envp, "MALLOC_") ||
		    text_same(*envp, WARM_OFF))
			return false;
	/* Python leaves alone what its parent ignores, but for these two, which it always ignores */
	for (int number = 1; number <= LAST_OLD_SIGNAL; number++)
		if (number != SIGPIPE && number != SIGXFSZ &&
		    (CALL4(SYS_rt_sigaction, number, 0, action, 8) || action[0]))
			return false;
	return !CALL4(SYS_rt_sigprocmask, 0, 0, action, 8) && !action[0];
}

static const char *name_of(const char *path)
{
	const char *name = path;

	for (; *path; path++)
		if (*path == '/')
			name = path + 1;
	return name;
}

/* Which of a script's images: restores import what boots do not, and so do containers on the Sentry. */
static const char *kind_of(char **words)
{
	if (words[0] && text_same(words[0], "restore"))
		return "-restore-";
	for (; words[0]; words++)
		if (text_same(words[0], "--isolation=sentry") ||
		    (text_same(words[0], "--isolation") && words[1] && text_same(words[1], "sentry")))
			return "-sentry-";
	return "-";
}

/* Where the image is: in the user's cache, named after the script, its arguments' kind and where this program is. */
static bool image_path(char **envp, const char *script, char **words, char path[PATH_SIZE])
{
	static const char digits[16] = "0123456789abcdef";
	char self[PATH_SIZE], *cache = environment_value(envp, "XDG_CACHE_HOME="), *home = environment_value(envp, "HOME=");
	const char *parts[5] = {cache, "/pyvmm/warm-", name_of(script), kind_of(words), NULL};
	long n = CALL3(SYS_readlink, "/proc/self/exe", self, sizeof(self));
	uint64_t hash = UINT64_C(0xcbf29ce484222325); /* FNV-1a */
	size_t used = 0;

	if (!cache || cache[0] != '/') {
		parts[0] = home;
		parts[1] = "/.cache/pyvmm/warm-";
	}
	if (n <= 0 || !parts[0] || parts[0][0] != '/' || text_length(parts[0]) + text_length(parts[2]) > PATH_SIZE - 80)
		return false;
	for (long i = 0; i < n; i++)
		hash = (hash ^ (uint8_t)self[i]) * UINT64_C(0x100000001b3);
	for (int part = 0; parts[part]; part++)
		for (const char *c = parts[part]; *c; c++)
			path[used++] = *c;
	for (int shift = 60; shift >= 0; shift -= 4)
		path[used++] = digits[hash >> shift & 15];
	path[used] = 0;
	return true;
}

/* *path* and what follows it in the name of a file beside it. */
static void path_beside(const char *path, const char *suffix, char found[PATH_SIZE])
{
	size_t n = 0;

	while (*path)
		found[n++] = *path++;
	while (*suffix)
		found[n++] = *suffix++;
	found[n] = 0;
}

/* Whether there is a folder for an image at *path*, made with the one above it when they are not there. */
static bool has_folder(char *path)
{
	char *name = (char *)name_of(path) - 1, *above = name - 1;
	bool good;

	while (*above != '/')
		above--;
	*above = 0;
	CALL3(SYS_mkdir, path, 0700, 0);
	*above = '/';
	*name = 0;
	CALL3(SYS_mkdir, path, 0700, 0);
	good = !CALL3(SYS_access, path, W_OK | X_OK, 0);
	*name = '/';
	return good;
}

static bool same_boot(const struct warm_header *image)
{
	char id[WARM_BOOT_ID];
	long fd = CALL3(SYS_open, "/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC, 0), n = 0;
	int i = 0;

	if (fd >= 0) {
		n = CALL3(SYS_read, fd, id, sizeof(id));
		CALL3(SYS_close, fd, 0, 0);
	}
	while (n == WARM_BOOT_ID && i < WARM_BOOT_ID && id[i] == image->boot_id[i])
		i++;
	return i == WARM_BOOT_ID;
}

static bool file_unchanged(const struct warm_file *file, const struct stat *now)
{
	return now->st_dev == file->dev && now->st_ino == file->ino && (uint64_t)now->st_size == file->size &&
	       now->st_mtim.tv_sec == file->mtime && now->st_mtim.tv_nsec == file->mtime_ns;
}

struct tables {
	const struct warm_header *header;
	const struct warm_file *files;
	const struct warm_region *regions;
	const struct warm_signal *signals;
	const char *text;
};

/* Maps the header and the tables of the image *fd*; false when it is not one for here and now. */
static bool read_image(long fd, const struct stat *status, int64_t now, char **envp, struct tables *t)
{
	const struct warm_header *header;

	/* Whoever can write it decides what is run */
	if (!S_ISREG(status->st_mode) || (status->st_mode & 077) ||
	    status->st_uid != system_call(SYS_geteuid, 0, 0, 0, 0, 0, 0) || (size_t)status->st_size < sizeof(*header))
		return false;
	header = (void *)pages_map(0, WARM_MAX_TABLE, PROT_READ, MAP_PRIVATE, (int)fd, 0);
	if ((unsigned long)header > -4096UL || header->magic != WARM_MAGIC || header->size != (uint64_t)status->st_size ||
	    header->data > WARM_MAX_TABLE || header->data > header->size || now < header->made ||
	    now - header->made > WARM_MAX_AGE || !same_boot(header))
		return false;
	t->header = header;
	t->files = (const void *)(header + 1);
	t->regions = (const void *)(t->files + header->nfiles);
	t->signals = (const void *)(t->regions + header->nregions);
	t->text = (const void *)(t->signals + header->nsignals);
	for (int i = 0; i < WARM_LOCALES; i++) {
		const char *value = environment_value(envp, locale_names[i]);

		if (!text_same(value ? value : "", t->text + header->locale[i]))
			return false;
	}
	return true;
}

/* They are sorted, but for the first two: those of one folder are looked up in it. */
static bool files_unchanged(const struct tables *t, char **argv)
{
	const char *folder = "";
	long fd = AT_FDCWD;
	bool good = true;

	for (uint32_t i = 0; i < t->header->nfiles && good; i++) {
		const char *path = i == WARM_PYTHON ? argv[1] : i == WARM_SCRIPT ? argv[2] : t->text + t->files[i].path;
		const char *name = name_of(path);
		struct stat now;

		if (i <= WARM_SCRIPT) {
			name = path;
		} else if (!text_same_start(folder, path, (size_t)(name - path))) {
			char parent[PATH_SIZE];
			size_t n = 0;

			for (; path + n < name && n < sizeof(parent) - 1; n++)
				parent[n] = path[n];
			parent[n] = 0;
			CALL3(SYS_close, fd, 0, 0);
			fd = CALL3(SYS_open, parent, O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
			folder = path;
		}
		good = !CALL4(SYS_newfstatat, fd, name, &now, 0) && file_unchanged(&t->files[i], &now);
	}
	CALL3(SYS_close, fd, 0, 0);
	return good;
}

/* ---- becoming it ---------------------------------------------------------------------------------------------- */

/* All regions at their addresses.  What is there already is ours and in the way: then it cannot be. */
static bool map_regions(const struct tables *t, long image, uint64_t vdso)
{
	uint64_t done = 0;
	int32_t opened = WARM_ANONYMOUS;
	long file = -1;

	for (uint32_t i = 0; i < t->header->nregions; i++) {
		const struct warm_region *r = &t->regions[i];
		uint64_t size = r->end - r->start;
		/* One that lies over another is sorted behind it */
		int flags = MAP_PRIVATE | (r->start < done ? MAP_FIXED : MAP_FIXED_NOREPLACE);
		long fd = -1;

		if (r->source == WARM_DROPPABLE) {
			flags = MAP_DROPPABLE | MAP_ANONYMOUS | (flags & ~MAP_PRIVATE);
		} else if (r->source == WARM_ANONYMOUS || r->source == WARM_VDSO || r->source == WARM_WIPED) {
			flags |= MAP_ANONYMOUS | MAP_NORESERVE;
		} else if (r->source == WARM_IMAGE) {
			fd = image;
		} else {
			if (opened != r->source) {
				CALL3(SYS_close, file, 0, 0);
				file = CALL3(SYS_open, t->text + t->files[r->source].path, O_RDONLY | O_CLOEXEC, 0);
				opened = r->source;
			}
			fd = file;
		}
		if (pages_map(r->start, size, (int)r->prot, flags, (int)fd, r->source == WARM_VDSO ? 0 : r->offset) !=
		    (long)r->start)
			return false;
		if (r->source == WARM_WIPED && CALL3(SYS_madvise, r->start, size, MADV_WIPEONFORK))
			return false;
		/* The kernel has put the vDSO elsewhere in this process */
		if (r->source == WARM_VDSO &&
		    system_call(SYS_mremap, (long)(vdso + r->offset), (long)size, (long)size, MREMAP_MAYMOVE | MREMAP_FIXED,
			 (long)r->start, 0) != (long)r->start)
			return false;
		if (r->end > done)
			done = r->end;
	}
	CALL3(SYS_close, file, 0, 0);
	return true;
}

static bool tell_kernel(const struct tables *t, char **argv, char **envp)
{
	const struct warm_header *h = t->header;
	char **last = argv;
	struct prctl_mm_map mm = {
		.start_code = h->start_code,
		.end_code = h->end_code,
		.start_data = h->start_data,
		.end_data = h->end_data,
		.start_brk = h->start_brk,
		.brk = h->brk,
		.start_stack = h->start_stack,
		.arg_start = (uint64_t)argv[0],
		.exe_fd = (uint32_t)-1,
	};

	while (last[1])
		last++;
	mm.arg_end = mm.env_start = mm.env_end = (uint64_t)(*last + text_length(*last) + 1);
	for (; *envp; envp++)
		mm.env_end = (uint64_t)(*envp + text_length(*envp) + 1);
	/* malloc goes on where the heap ends */
	if (system_call(SYS_prctl, PR_SET_MM, PR_SET_MM_MAP, (long)&mm, sizeof(mm), 0, 0))
		return false;
	*(int *)h->tid = (int)CALL3(SYS_set_tid_address, h->tid, 0, 0);
	CALL3(SYS_prctl, PR_SET_NAME, name_of(argv[0]), 0);
	CALL3(SYS_set_robust_list, h->robust_list, h->robust_size, 0);
	if (h->rseq && CALL4(SYS_rseq, h->rseq, h->rseq_size, 0, RSEQ_SIGNATURE))
		return false;
	if (CALL3(SYS_arch_prctl, ARCH_SET_FS, h->fs_base, 0))
		return false;
	for (uint32_t i = 0; i < h->nsignals; i++)
		CALL4(SYS_rt_sigaction, t->signals[i].number, &t->signals[i].handler, 0, 8);
	return true;
}

_Noreturn static void wake(const struct warm_registers *r)
{
	__asm__ volatile("mov 0(%0), %%rbx\n\t"
			 "mov 8(%0), %%rbp\n\t"
			 "mov 16(%0), %%r12\n\t"
			 "mov 24(%0), %%r13\n\t"
			 "mov 32(%0), %%r14\n\t"
			 "mov 40(%0), %%r15\n\t"
			 "mov 48(%0), %%rsp\n\t"
			 "mov $1, %%eax\n\t"
			 "jmp *56(%0)"
			 :
			 : "D"(r)
			 : "memory");
	__builtin_unreachable();
}

/*
 * Take the image, so that nobody else can: give it a name of this process's own, open it, remove the name. A descriptor, or
 * below 0.
 */
static long take_image(const char *path)
{
	char suffix[24] = ".", mine[PATH_SIZE];
	long pid = CALL3(SYS_getpid, 0, 0, 0), fd;
	size_t digits = 1;

	for (long rest = pid; rest; rest /= 10)
		digits++;
	suffix[digits] = 0;
	for (; pid; pid /= 10)
		suffix[--digits] = (char)('0' + pid % 10);
	path_beside(path, suffix, mine);
	if (CALL3(SYS_rename, path, mine, 0))
		return -1;
	fd = CALL3(SYS_open, mine, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0);
	if (CALL3(SYS_unlink, mine, 0, 0))
		CALL3(SYS_rmdir, mine, 0, 0); /* of whatever kind it is */
	return fd;
}

/* Become what the image *fd* has. Returns when that cannot be. */
static void try_image(long fd, char **argv, char **envp, const uint64_t *auxv)
{
	struct tables t;
	struct stat status;
	struct timespec now;
	uint64_t vdso = 0;

	if (CALL3(SYS_fstat, fd, &status, 0) || CALL3(SYS_clock_gettime, CLOCK_REALTIME, &now, 0) ||
	    !read_image(fd, &status, now.tv_sec, envp, &t) || !files_unchanged(&t, argv))
		return;
	for (; auxv[0] != AT_NULL; auxv += 2)
		if (auxv[0] == AT_SYSINFO_EHDR)
			vdso = auxv[1];
	if (map_regions(&t, fd, vdso) && tell_kernel(&t, argv + 2, envp)) {
		struct warm_mail *mail = (struct warm_mail *)t.header->mail;

		CALL3(SYS_close, fd, 0, 0);
		mail->argv = argv + 2;
		mail->envp = envp;
		wake(&t.header->registers);
	}
}

/* Whether to make one: none has turned out to be impossible here within a day. */
static bool is_possible(const char *path)
{
	char none[PATH_SIZE];
	struct stat status;
	struct timespec now;

	path_beside(path, WARM_NONE, none);
	return CALL4(SYS_newfstatat, AT_FDCWD, none, &status, AT_SYMLINK_NOFOLLOW) ||
	       CALL3(SYS_clock_gettime, CLOCK_REALTIME, &now, 0) || now.tv_sec - status.st_mtim.tv_sec >= WARM_MAX_AGE;
}

static void set_autogroup(const char *path, const char *nice, long size)
{
	long fd = CALL3(SYS_open, path, O_WRONLY | O_CLOEXEC, 0);

	if (fd < 0)
		return;
	CALL3(SYS_write, fd, nice, size);
	CALL3(SYS_close, fd, 0, 0);
}

/* What the child of a process that makes an image runs: see to it that this comes to its end on a host that is never idle. */
_Noreturn static void promote_parent(void)
{
	struct sched_param none = {0};
	struct timespec delay = {.tv_sec = HURRY_S};
	long maker = CALL3(SYS_getppid, 0, 0, 0);

	/* In its session; who is somebody else's child by now is in that, too, but its parent is not */
	if (CALL3(SYS_getsid, 0, 0, 0) == maker)
		CALL3(SYS_nanosleep, &delay, 0, 0);
	if (CALL3(SYS_getsid, 0, 0, 0) == maker && CALL3(SYS_getppid, 0, 0, 0) == maker) {
		CALL3(SYS_sched_setscheduler, maker, SCHED_OTHER, &none);
		CALL3(SYS_setpriority, PRIO_PROCESS, maker, 0);
		set_autogroup("/proc/self/autogroup", "0", 1); /* their session's */
	}
	CALL3(SYS_exit_group, 0, 0, 0);
	__builtin_unreachable();
}

/* In that child, which has nothing of the start: no environment, no folder, no descriptor. It ends with its parent. */
_Noreturn static void promote_later(void)
{
	char *words[] = {"pyvmm-warm", PROMOTE, NULL};

	CALL3(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0);
	CALL3(SYS_chdir, "/", 0, 0);
	CALL3(SYS_close_range, 0, ~0u, 0);
	CALL3(SYS_execve, "/proc/self/exe", words, words + 2);
	CALL3(SYS_exit_group, 127, 0, 0);
	__builtin_unreachable();
}

/*
 * Leave the CPUs to others. Without CAP_SYS_NICE no process leaves SCHED_IDLE again: there it is only as nice as can be, which
 * is a little of a CPU.
 */
static void become_idle(void)
{
	struct sched_param none = {0};
	long child;

	/*
	 * Where the scheduler groups processes by sessions (CONFIG_SCHED_AUTOGROUP) this one would have as much of a CPU as
	 * any other, however idle its processes are: the group is to be nice, too (sched(7)).
	 */
	set_autogroup("/proc/self/autogroup", "19", 2);
	CALL3(SYS_setpriority, PRIO_PROCESS, 0, LOWEST_NICE);
	if (CALL3(SYS_setpriority, PRIO_PROCESS, 0, LOWEST_NICE - 1))
		return;
	CALL3(SYS_setpriority, PRIO_PROCESS, 0, LOWEST_NICE);
	child = CALL3(SYS_fork, 0, 0, 0);
	if (!child)
		promote_later();
	if (child > 0)
		CALL3(SYS_sched_setscheduler, 0, SCHED_IDLE, &none);
}

/*
 * In a child of a child, which nobody waits for: have Python make an image, at first only when nothing else wants the CPU. It has nothing
 * of this process: no arguments, no environment but the locale, no folder, no terminal, no descriptor but the lock.
 *
 * Later: even a process that is idle gets the CPU for a few slices at its beginning, and they would come out of the boot of
 * the guest that has just taken the last image.
 */
_Noreturn static void be_maker(char *option, long lock, bool later, char **argv, char **envp)
{
	char *words[] = {argv[1], option, argv[2], NULL}, *environment[WARM_LOCALES + 1];
	/* This program once more, which has the environment no longer */
	char *waiting[] = {(char *)name_of(argv[0]), LATER, words[0], words[1], words[2], NULL};
	long fd;
	int n = 0;

	for (int i = 0; i < WARM_LOCALES; i++)
		for (char **each = envp; *each; each++)
			if (text_after(*each, locale_names[i])) {
				environment[n++] = *each;
				break;
			}
	environment[n] = NULL;
	CALL3(SYS_setsid, 0, 0, 0);
	become_idle();
	if (words[0][0] == '/' && words[2][0] == '/')
		CALL3(SYS_chdir, "/", 0, 0);
	if (lock != LOCK_FD)
		CALL3(SYS_dup2, lock, LOCK_FD, 0);
	CALL3(SYS_close_range, LOCK_FD + 1, ~0u, 0);
	fd = CALL3(SYS_open, "/dev/null", O_RDWR, 0);
	for (int stream = 0; stream < 3; stream++)
		CALL3(SYS_dup2, fd, stream, 0);
	if (fd > LOCK_FD)
		CALL3(SYS_close, fd, 0, 0);
	if (later)
		CALL3(SYS_execve, "/proc/self/exe", waiting, environment);
	CALL3(SYS_execve, words[0], words, environment);
	CALL3(SYS_exit_group, 127, 0, 0);
	__builtin_unreachable();
}

/* Unless another process makes one, or has just made it. */
static void make_image(char *option, const char *path, bool later, char **argv, char **envp)
{
	char lock[PATH_SIZE];
	long status, pid, fd;

	path_beside(path, WARM_LOCK, lock);
	fd = CALL3(SYS_open, lock, O_RDWR | O_CREAT | O_NOFOLLOW, 0600);
	if (fd < 0)
		return;
	if (CALL3(SYS_flock, fd, LOCK_EX | LOCK_NB, 0) || !CALL3(SYS_access, path, F_OK, 0)) {
		CALL3(SYS_close, fd, 0, 0);
		return;
	}
	pid = CALL3(SYS_fork, 0, 0, 0);
	if (!pid && CALL3(SYS_fork, 0, 0, 0))
		CALL3(SYS_exit_group, 0, 0, 0);
	if (!pid)
		be_maker(option, fd, later, argv, envp);
	CALL3(SYS_close, fd, 0, 0); /* the child has it now */
	if (pid > 0)
		CALL4(SYS_wait4, pid, &status, 0, 0);
}

/* Be what be_maker() has started for later. */
_Noreturn static void wait_and_make(char **words, char **envp)
{
	struct timespec delay = {.tv_nsec = DELAY_NS};

	CALL3(SYS_nanosleep, &delay, 0, 0);
	CALL3(SYS_execve, words[0], words, envp);
	CALL3(SYS_exit_group, 127, 0, 0);
	__builtin_unreachable();
}

/* Called with the stack pointer that the process began with. */
__attribute__((used)) _Noreturn static void begin(uint64_t *stack)
{
	int argc = (int)stack[0];
	char **argv = (char **)(stack + 1), **envp = argv + argc + 1;
	char option[sizeof(WARM_OPTION) + PATH_SIZE] = WARM_OPTION;
	char *path = option + sizeof(WARM_OPTION) - 1;
	uint64_t *auxv = (uint64_t *)envp;

	if (argc == 2 && text_same(argv[1], PROMOTE))
		promote_parent();
	if (argc < 3)
		CALL3(SYS_exit_group, 2, 0, 0);
	if (argc == 5 && text_same(argv[1], LATER))
		wait_and_make(argv + 2, envp);
	while (*auxv++)
		;
	if (is_usual(envp, auxv) && image_path(envp, argv[2], argv + 3, path) && is_possible(path)) {
		long fd = take_image(path);

		if (fd >= 0 || has_folder(path))
			make_image(option, path, fd >= 0, argv, envp);
		if (fd >= 0)
			try_image(fd, argv, envp, auxv);
	}
	option[sizeof("-IS") - 1] = 0;
	argv[0] = argv[1];
	argv[1] = option;
	CALL3(SYS_execve, argv[0], argv, envp);
	CALL3(SYS_exit_group, 127, 0, 0);
	__builtin_unreachable();
}

__asm__(".globl _start\n"
	"_start:\n\t"
	"xor %ebp, %ebp\n\t"
	"mov %rsp, %rdi\n\t"
	"and $-16, %rsp\n\t"
	"call begin\n");
