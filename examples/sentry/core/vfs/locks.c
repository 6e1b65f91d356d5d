// SPDX-License-Identifier: Apache-2.0
/* Locks of files: of processes and of open files for ranges (fcntl), and of open files for the whole (flock). */
#include "calls.h"

enum { F_RDLCK = 0, F_WRLCK = 1, F_UNLCK = 2 };
enum { LOCK_SH = 1, LOCK_EX = 2, LOCK_NB = 4, LOCK_UN = 8, LOCK_MAND = 32 };

struct lock {
	struct lock *next;
	const void *owner; /* a table of descriptors, or an open file */
	u64 start, last;
	s32 pid; /* -1 of an open file */
	u32 pids;
	u8 type;
	bool flock;
};

/* Of an inode. */
struct lock_list {
	struct lock *first;
	struct wait_queue queue;
};

static struct slab locks = SLAB(struct lock);

static struct lock_list *list_of(struct inode *inode)
{
	if (!inode->locks)
		inode->locks = kmalloc(sizeof(*inode->locks));
	return inode->locks;
}

static bool overlap(const struct lock *a, const struct lock *b)
{
	return a->flock == b->flock && a->start <= b->last && b->start <= a->last;
}

/* Another owner's lock that excludes this one, or NULL. */
static struct lock *conflict(struct lock_list *list, const struct lock *lock)
{
	for (struct lock *at = list->first; at; at = at->next)
		if (at->owner != lock->owner && overlap(at, lock) && (at->type == F_WRLCK || lock->type == F_WRLCK))
			return at;
	return NULL;
}

static void remove_lock(struct lock **place)
{
	struct lock *lock = *place;

	*place = lock->next;
	slab_free(&locks, lock);
}

/* Take a range from an owner's locks. `spare` becomes the second part of one that is cut in two. */
static void cut(struct lock_list *list, const struct lock *range, struct lock **spare)
{
	struct lock **place = &list->first;

	while (*place) {
		struct lock *at = *place;

		if (at->owner != range->owner || !overlap(at, range)) {
			place = &at->next;
		} else if (at->start < range->start && at->last > range->last) {
			**spare = *at;
			(*spare)->start = range->last + 1;
			at->last = range->start - 1;
			at->next = *spare;
			*spare = NULL;
			return;
		} else if (at->start < range->start) {
			at->last = range->start - 1;
			place = &at->next;
		} else if (at->last > range->last) {
			at->start = range->last + 1;
			place = &at->next;
		} else {
			remove_lock(place);
		}
	}
}

/* Join an owner's lock with its neighbours of the same type. */
static void join(struct lock_list *list, struct lock *lock)
{
	struct lock **place = &list->first;

	while (*place) {
		struct lock *at = *place;
		bool alike = at != lock && at->owner == lock->owner && at->flock == lock->flock && at->type == lock->type;

		if (alike && at->last + 1 == lock->start) {
			lock->start = at->start;
			remove_lock(place);
		} else if (alike && lock->last + 1 == at->start) {
			lock->last = at->last;
			remove_lock(place);
		} else {
			place = &at->next;
		}
	}
}

/* Set or remove a lock that has no conflict: 0 or -ENOLCK. */
static s64 apply(struct lock_list *list, const struct lock *range)
{
	struct lock *new = slab_alloc(&locks), *spare = slab_alloc(&locks);

	if (!new || !spare) {
		if (new)
			slab_free(&locks, new);
		if (spare)
			slab_free(&locks, spare);
		return -ENOLCK;
	}
	cut(list, range, &spare);
	if (range->type == F_UNLCK) {
		slab_free(&locks, new);
	} else {
		*new = *range;
		new->next = list->first;
		list->first = new;
		if (!range->flock)
			join(list, new);
	}
	if (spare)
		slab_free(&locks, spare);
	wake_all(&list->queue);
	return 0;
}

static s64 set(struct file *file, const struct lock *lock, bool wait)
{
	struct lock_list *list = list_of(file->inode);

	if (!list)
		return -ENOLCK;
	while (lock->type != F_UNLCK && conflict(list, lock)) {
		s64 error = wait ? sleep_on(&list->queue, FOREVER) : -EAGAIN;

		if (error)
			return error;
	}
	return apply(list, lock);
}

/* An owner is gone. */
static void release(struct inode *inode, const void *owner)
{
	struct lock_list *list = inode->locks;
	struct lock **place = list ? &list->first : NULL;
	bool some = false;

	while (place && *place) {
		if ((*place)->owner == owner) {
			remove_lock(place);
			some = true;
		} else {
			place = &(*place)->next;
		}
	}
	if (some)
		wake_all(&list->queue);
}

void locks_release(struct inode *inode, const void *owner)
{
	if (inode->locks)
		release(inode, owner);
}

void locks_free(struct inode *inode)
{
	kfree(inode->locks);
	inode->locks = NULL;
}

/* -- fcntl -- */

struct flock {
	s16 type, whence;
	s32 pad;
	s64 start, length;
	s32 pid, pad2;
};

static s64 get_range(struct file *file, const struct flock *from, struct lock *lock)
{
	s64 start = from->start, last;

	switch (from->whence) {
	case SEEK_SET: break;
	case SEEK_CUR: start += (s64)file->position; break;
	case SEEK_END: start += (s64)file->inode->size; break;
	default: return -EINVAL;
	}
	if (from->start > 0 && start < from->start)
		return -EOVERFLOW;
	if (start < 0)
		return -EINVAL;
	last = (s64)MOST_OFFSET;
	if (from->length > 0) {
		if ((u64)start + (u64)from->length - 1 > MOST_OFFSET)
			return -EOVERFLOW;
		last = start + from->length - 1;
	} else if (from->length < 0) {
		last = start - 1;
		start += from->length;
		if (start < 0)
			return -EINVAL;
	}
	lock->start = (u64)start;
	lock->last = (u64)last;
	return 0;
}

static s64 get_lock(struct file *file, u64 from, bool of_file, struct flock *flock, struct lock *lock)
{
	struct task *t = core.current;
	s64 error;

	if (user_read(t->mm, flock, from, sizeof(*flock)))
		return -EFAULT;
	*lock = (struct lock){ .owner = of_file ? (void *)file : (void *)t->files, .pid = of_file ? -1 : t->process->pid,
			       .pids = t->process->pids };
	error = get_range(file, flock, lock);
	if (error)
		return error;
	if (flock->type < F_RDLCK || flock->type > F_UNLCK || (of_file && flock->pid))
		return -EINVAL;
	lock->type = (u8)flock->type;
	return 0;
}

s64 lock_test(struct file *file, u64 argument, bool of_file)
{
	struct flock flock;
	struct lock lock, *other;
	s64 error = get_lock(file, argument, of_file, &flock, &lock);

	if (!error && lock.type == F_UNLCK && !of_file)
		error = -EINVAL;
	if (error)
		return error;
	other = file->inode->locks ? conflict(file->inode->locks, &lock) : NULL;
	if (!other) {
		flock.type = F_UNLCK;
	} else {
		flock.type = other->type;
		flock.whence = SEEK_SET;
		flock.start = (s64)other->start;
		flock.length = other->last == MOST_OFFSET ? 0 : (s64)(other->last - other->start + 1);
		flock.pid = other->pid < 0 || other->pids == core.current->process->pids ? other->pid : 0;
	}
	return user_write(core.current->mm, argument, &flock, sizeof(flock));
}

s64 lock_set(struct file *file, u64 argument, bool of_file, bool wait)
{
	struct flock flock;
	struct lock lock;
	s64 error = get_lock(file, argument, of_file, &flock, &lock);

	if (error)
		return error;
	if ((lock.type == F_RDLCK && !file->readable) || (lock.type == F_WRLCK && !file->writable))
		return -EBADF;
	return set(file, &lock, wait);
}

/* -- flock -- */

s64 sys_flock(struct task *t, const u64 *args)
{
	struct file *file = fd_real(t, args[0]);
	struct lock lock = { .owner = file, .last = MOST_OFFSET, .pid = -1, .flock = true };
	u32 operation = (u32)args[1];

	if (operation & LOCK_MAND)
		return 0;
	switch (operation & ~(u32)LOCK_NB) {
	case LOCK_SH: lock.type = F_RDLCK; break;
	case LOCK_EX: lock.type = F_WRLCK; break;
	case LOCK_UN: lock.type = F_UNLCK; break;
	default: return -EINVAL;
	}
	if (!file || (lock.type != F_UNLCK && !file->readable && !file->writable))
		return -EBADF;
	return set(file, &lock, !(operation & LOCK_NB));
}
