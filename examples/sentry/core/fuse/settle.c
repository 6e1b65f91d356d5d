// SPDX-License-Identifier: Apache-2.0
/*
 * Changes of files that were posted, and that the server may not have carried out yet.  Requests of files come after them.
 * Anything else by which somebody could learn of them waits: a message to the host, another task, the end of a program.
 */
#include "../vfs/fds.h"
#include "fuse.h"

void files_push(void)
{
	if (core.unsettled)
		fuse_push(fuse_root);
}

void files_settle(void)
{
	struct fuse *fuse = fuse_root;

	files_push();
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

/*
 * Whether nobody outside learns of the call, except by the server's files.  The other end of a pipe or socket also shows that
 * something was read there, or that it was closed.
 */
static bool is_quiet(struct task *t, const u64 *args)
{
	enum {
		READ = 0, WRITE = 1, OPEN = 2, CLOSE = 3, STAT = 4, FSTAT = 5, LSTAT = 6, LSEEK = 8, MMAP = 9, MPROTECT = 10,
		MUNMAP = 11, BRK = 12, PREAD = 17, PWRITE = 18, SENDFILE = 40, MKDIR = 83, RMDIR = 84, UNLINK = 87, CHMOD = 90,
		FCHMOD = 91, CHOWN = 92, FCHOWN = 93, LCHOWN = 94, GETDENTS = 217, OPENAT = 257, MKDIRAT = 258, FCHOWNAT = 260,
		NEWFSTATAT = 262, UNLINKAT = 263, FCHMODAT = 268, UTIMENSAT = 280,
	};

	switch (t->number) {
	case READ: case WRITE: case CLOSE: case PREAD: case PWRITE:
		return is_file_of_server(t, args[0]);
	case SENDFILE:
		return is_file_of_server(t, args[0]) && is_file_of_server(t, args[1]);
	case OPEN: case STAT: case FSTAT: case LSTAT: case LSEEK: case MMAP: case MPROTECT: case MUNMAP: case BRK: case MKDIR:
	case RMDIR: case UNLINK: case CHMOD: case FCHMOD: case CHOWN: case FCHOWN: case LCHOWN: case GETDENTS: case OPENAT:
	case MKDIRAT: case FCHOWNAT: case NEWFSTATAT: case UNLINKAT: case FCHMODAT: case UTIMENSAT:
		return true;
	}
	return false;
}

void files_settle_before(struct task *t, const u64 *args)
{
	if (!is_quiet(t, args))
		files_settle();
}
