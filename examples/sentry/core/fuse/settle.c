// SPDX-License-Identifier: Apache-2.0
/*
 * Changes of files that were posted, and that the server may not have carried out yet.  Requests of files come after them.
 * Anything else by which somebody could learn of them waits: a message to the host, another task, the end of a program.
 */
#include "../vfs/fds.h"
#include "fuse.h"

void files_settle(void)
{
	struct fuse *fuse = fuse_root;

	while (core.unsettled && core.ops->watch && core.ops->watch())
		fuse_used(fuse->requests);
	if (!core.unsettled)
		return;
	fuse_begin_sleep(fuse);
	while (core.unsettled)
		sleep_on_always(&fuse->settled);
	fuse_end_sleep(fuse);
}

static bool is_file_of_server(struct task *t, u64 fd)
{
	const struct file *file = fd_file(t, fd);

	return file && file->operations == &fuse_file_operations;
}

/* The other end of a pipe or socket also shows that something was read there, or that it was closed. */
static bool is_quiet(struct task *t, const u64 *args)
{
	enum {
		READ = 0, OPEN = 2, CLOSE = 3, STAT = 4, FSTAT = 5, LSTAT = 6, LSEEK = 8, MMAP = 9, MPROTECT = 10, MUNMAP = 11,
		BRK = 12, PREAD = 17, FCHMOD = 91, FCHOWN = 93, GETDENTS = 217, OPENAT = 257, MKDIRAT = 258, NEWFSTATAT = 262,
		UTIMENSAT = 280,
	};

	switch (t->number) {
	case READ: case CLOSE: case PREAD:
		return is_file_of_server(t, args[0]);
	case OPEN: case STAT: case FSTAT: case LSTAT: case LSEEK: case MMAP: case MPROTECT: case MUNMAP: case BRK: case FCHMOD:
	case FCHOWN: case GETDENTS: case OPENAT: case MKDIRAT: case NEWFSTATAT: case UTIMENSAT:
		return true;
	}
	return false;
}

void files_settle_before(struct task *t, const u64 *args)
{
	if (!is_quiet(t, args))
		files_settle();
}
