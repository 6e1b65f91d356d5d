// SPDX-License-Identifier: Apache-2.0
/*
 * Changes of files that were posted, and that the server may not have carried out yet.  Requests of files come after them.
 * Anything else by which somebody could learn of them waits: a message to the host, another task, the end of a program.
 */
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

void files_settle_before(u64 number)
{
	enum {
		READ = 0, OPEN = 2, CLOSE = 3, STAT = 4, FSTAT = 5, LSTAT = 6, LSEEK = 8, MMAP = 9, MPROTECT = 10, MUNMAP = 11,
		BRK = 12, PREAD = 17, FCHMOD = 91, FCHOWN = 93, GETDENTS = 217, OPENAT = 257, MKDIRAT = 258, NEWFSTATAT = 262,
		UTIMENSAT = 280,
	};

	switch (number) {
	case READ: case OPEN: case CLOSE: case STAT: case FSTAT: case LSTAT: case LSEEK: case MMAP: case MPROTECT: case MUNMAP:
	case BRK: case PREAD: case FCHMOD: case FCHOWN: case GETDENTS: case OPENAT: case MKDIRAT: case NEWFSTATAT:
	case UTIMENSAT:
		return;
	}
	files_settle();
}
