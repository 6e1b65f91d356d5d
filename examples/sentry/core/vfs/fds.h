/* SPDX-License-Identifier: Apache-2.0 */
/* The table of a process's descriptors. */
#ifndef SENTRY_FDS_H
#define SENTRY_FDS_H

#include "vfs.h"

struct fd {
	struct file *file; /* NULL: free */
	bool close_on_exec;
};

enum { FDS_PER_PAGE = PAGE / sizeof(struct fd), FD_PAGES = 256, FDS_MOST = FD_PAGES * FDS_PER_PAGE };

struct files {
	u32 references;
	u32 lowest; /* no descriptor below is free */
	struct fd *pages[FD_PAGES];
};

struct fd *fd_at(struct files *files, u32 number); /* NULL: it cannot be open */
struct file *fd_clear(struct files *files, u32 number); /* its reference is the caller's */
u32 fd_limit(struct task *t);
/* Install both ends of something and write their numbers; takes the references. */
s64 fd_install_two(struct task *t, struct file **files, u64 to, bool close_on_exec);
int fd_promise_two(struct task *t, u64 to); /* write the next two numbers; 0, -EMFILE, -ENOMEM, -EFAULT */
int fd_room(struct task *t); /* 0 if there is a free descriptor, or -EMFILE, -ENOMEM */
int fd_replace(struct task *t, struct file *file, u32 number, bool close_on_exec); /* takes its own reference */
int file_close(struct files *files, struct file *file);

#endif
