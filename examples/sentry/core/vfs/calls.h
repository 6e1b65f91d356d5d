/* SPDX-License-Identifier: Apache-2.0 */
/* What the file system calls have in common. */
#ifndef SENTRY_CALLS_H
#define SENTRY_CALLS_H

#include "caller.h"
#include "device.h"
#include "fds.h"
#include "walk.h"

#define MOST_OFFSET 0x7fffffffffffffffull

enum { VECTORS_FEW = 8, VECTORS_PER_PAGE = PAGE / sizeof(struct iovec) - 1 };

/* Vectors of the program's, copied. */
struct vectors {
	struct iovec few[VECTORS_FEW];
	struct iovec *first;
	struct iovec *pages[(IOV_MAX + VECTORS_PER_PAGE - 1) / VECTORS_PER_PAGE];
};

s64 vectors_get(struct task *t, struct vectors *vectors, u64 from, u64 count);
void vectors_free(struct vectors *vectors);
s64 file_transfer(struct file *file, struct io *io, u64 *position, bool write);
void file_accessed(struct file *file);

int may_create(const struct path *directory);
int name_socket(const char *name, u32 mode);

u32 walk_flags(u32 flags); /* WALK_* of AT_* */

/* -- poll.c: times and masks of calls that wait -- */

s64 deadline_from(struct task *t, u64 from, u64 *deadline);
u64 time_after(const struct timespec *time);
s64 mask_begin(struct task *t, u64 from, u64 size, u64 *old);
void mask_end(struct task *t, u64 from, u64 old);

/* -- locks.c -- */

s64 lock_test(struct file *file, u64 argument, bool of_file);
s64 lock_set(struct file *file, u64 argument, bool of_file, bool wait);

/* -- notify.c: what happens to files -- */

enum {
	IN_ACCESS = 1, IN_MODIFY = 2, IN_ATTRIB = 4, IN_CLOSE_WRITE = 8, IN_CLOSE_NOWRITE = 16, IN_OPEN = 32,
	IN_MOVED_FROM = 64, IN_MOVED_TO = 128, IN_CREATE = 256, IN_DELETE = 512, IN_DELETE_SELF = 1024, IN_MOVE_SELF = 2048,
	IN_ISDIR = 0x40000000,
};

void file_notify(struct file *file, u32 event);
void notify_name(struct dentry *directory, struct dentry *dentry, u32 event);
void notify_removed(struct dentry *directory, struct dentry *dentry);
void notify_renamed(struct dentry *from, struct dentry *old, struct dentry *to, struct dentry *new, u32 flags);
void notify_gone(struct inode *inode);
void notify_unmounted(struct super *super); /* it is used no longer */
void notify_attributes(struct dentry *dentry, u32 which); /* ATTR_*; 0: extended ones */

/* A file that is not only a path. */
static inline struct file *fd_real(struct task *t, u64 number)
{
	struct file *file = fd_file(t, number);

	return file && file->flags & O_PATH ? NULL : file;
}

static inline bool time_before(const struct timespec *a, const struct timespec *b)
{
	return a->seconds < b->seconds || (a->seconds == b->seconds && a->nanoseconds <= b->nanoseconds);
}

#endif
