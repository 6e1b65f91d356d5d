// SPDX-License-Identifier: Apache-2.0
/* Shared memory of System V: segments that processes attach to. */
#include "ipc.h"

enum { SHM_RDONLY = 010000, SHM_RND = 020000, SHM_REMAP = 040000, SHM_EXEC = 0100000, SHM_HUGE = 04000 };
enum { SHM_DEST = 01000, SHM_LOCKED = 02000, SHM_LOCK = 11, SHM_UNLOCK, SHM_STAT, SHM_INFO, SHM_STAT_ANY };
#define MOST_BYTES (1ull << 40)

struct segment {
	struct ipc_object ipc;
	struct shared *shared; /* a reference */
	u64 size;
	s64 attached, detached, changed; /* times */
	s32 creator, last;		 /* processes */
};

static struct slab segments = SLAB(struct segment);

static struct segment *segment_of(struct ipc_object *object)
{
	return object ? CONTAINER(object, struct segment, ipc) : NULL;
}

static u64 pages_of_all(void)
{
	const struct segment *segment;
	u64 pages = 0;
	u32 i = 0;

	while ((segment = segment_of(ipc_next(&ipc_own()->shm, &i))))
		pages += page_up(segment->size) / PAGE;
	return pages;
}

static void destroy(struct segment *segment)
{
	struct shared *shared = segment->shared;

	ipc_remove(&segment->ipc);
	slab_free(&segments, segment);
	shared_own(shared, NULL, NULL);
	shared_put(shared);
}

void shm_forget(struct ipc_table *table)
{
	struct segment *segment;
	u32 i = 0;

	while ((segment = segment_of(ipc_next(table, &i))))
		destroy(segment);
}

void shm_show(struct text *text)
{
	const struct segment *s;
	u32 i = 0;

	text_put(text, "       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      atime"
		       "      dtime      ctime                   rss                  swap\n");
	while ((s = segment_of(ipc_next(&ipc_own()->shm, &i)))) {
		const s64 values[] = { (s64)s->size, s->creator, s->last, (s64)shared_users(s->shared) - 1, OWNERS, s->attached,
				       s->detached, s->changed, (s64)page_up(s->size), 0 };

		ipc_show(text, &s->ipc, values, ARRAY_SIZE(values));
	}
}

/* A mapping of the segment has ended. */
static void left(void *owner)
{
	struct segment *segment = owner;

	segment->detached = ipc_seconds();
	segment->last = core.current->process->pid;
	if (segment->ipc.mode & SHM_DEST && shared_users(segment->shared) == 1)
		destroy(segment);
}

static s64 create(u32 key, u64 size, u32 flags)
{
	struct segment *segment;
	s64 id;

	if (!size || size > MOST_BYTES || size > sysctl(SYSCTL_SHMMAX) || flags & SHM_HUGE)
		return -EINVAL;
	if (pages_of_all() + page_up(size) / PAGE > sysctl(SYSCTL_SHMALL))
		return -ENOSPC;
	segment = slab_alloc(&segments);
	if (!segment)
		return -ENOMEM;
	segment->shared = shared_new(page_up(size));
	id = segment->shared ? ipc_add(&ipc_own()->shm, &segment->ipc, key, flags, sysctl(SYSCTL_SHMMNI)) : -ENOMEM;
	if (id < 0) {
		if (segment->shared)
			shared_put(segment->shared);
		slab_free(&segments, segment);
		return id;
	}
	shared_own(segment->shared, left, segment);
	segment->size = size;
	segment->changed = ipc_seconds();
	segment->creator = core.current->process->pid;
	return id;
}

s64 sys_shmget(struct task *t, const u64 *args)
{
	u32 flags = (u32)args[2];
	struct ipc_object *found;
	s64 id = ipc_get(&ipc_own()->shm, (u32)args[0], flags, &found);

	(void)t;
	if (id < 0)
		return id;
	if (!found)
		return create((u32)args[0], args[1], flags);
	if (args[1] > segment_of(found)->size)
		return -EINVAL;
	return ipc_allowed(found, flags) ? id : -EACCES;
}

/* -- mappings -- */

static s64 check_place(u64 *address, u32 flags)
{
	if (!*address)
		return flags & SHM_REMAP ? -EINVAL : 0;
	if (*address % PAGE) {
		if (!(flags & SHM_RND))
			return -EINVAL;
		*address = page_down(*address);
		if (!*address && flags & SHM_REMAP)
			return -EINVAL;
	}
	return 0;
}

s64 sys_shmat(struct task *t, const u64 *args)
{
	u64 address = args[1];
	u32 flags = (u32)args[2], wanted = MAY_READ_ALL | (flags & SHM_RDONLY ? 0 : MAY_WRITE_ALL) | (flags & SHM_EXEC ? 0111 : 0);
	struct segment *segment;
	struct vma vma = { .flags = VMA_SHARED | (flags & SHM_RDONLY ? VMA_MAY_NOT_WRITE : 0) };

	if (check_place(&address, flags))
		return -EINVAL;
	segment = segment_of(ipc_find(&ipc_own()->shm, (s32)args[0]));
	if (!segment)
		return -EINVAL;
	if (!ipc_allowed(&segment->ipc, wanted))
		return -EACCES;
	if (address && !(flags & SHM_REMAP) &&
	    (address + segment->size < address || !mm_is_free(t->mm, address, address + page_up(segment->size))))
		return -EINVAL;
	vma.prot = PROT_READ | (flags & SHM_RDONLY ? 0 : PROT_WRITE) | (flags & SHM_EXEC ? PROT_EXEC : 0);
	vma.shared = segment->shared;
	shared_get(vma.shared);
	segment->attached = ipc_seconds();
	segment->last = t->process->pid;
	return mm_map_object(t->mm, address, segment->size, MAP_SHARED | (address ? MAP_FIXED : 0), &vma);
}

/* A mapping of a segment that was attached at an address; NULL: there is none. */
static struct vma *find_attached(struct mm *mm, u64 address)
{
	for (u32 i = 0; i < mm->count; i++) {
		struct vma *vma = &mm->vmas[i];

		if (vma->start >= address && vma->shared && shared_owner(vma->shared, left) && vma->start - vma->offset == address)
			return vma;
	}
	return NULL;
}

s64 sys_shmdt(struct task *t, const u64 *args)
{
	struct vma *vma = args[0] % PAGE ? NULL : find_attached(t->mm, args[0]);
	const struct shared *shared = vma ? vma->shared : NULL;

	if (!vma)
		return -EINVAL;
	for (; vma && vma->shared == shared; vma = find_attached(t->mm, args[0])) {
		s64 error = mm_unmap(t->mm, vma->start, vma->end - vma->start);

		if (error)
			return error;
	}
	return 0;
}

/* -- shmctl -- */

struct shmid_ds {
	struct ipc_perm perm;
	u64 size;
	s64 attached, detached, changed;
	s32 creator, last;
	u64 users, unused[2];
};

_Static_assert(sizeof(struct shmid_ds) == 112, "as the kernel has it");

static s64 put_info(struct task *t, u64 to, bool usage)
{
	const u64 limits[9] = { sysctl(SYSCTL_SHMMAX), 1, sysctl(SYSCTL_SHMMNI), sysctl(SYSCTL_SHMMNI), sysctl(SYSCTL_SHMALL) };
	const u64 pages = pages_of_all(), used[6] = { ipc_own()->shm.count, pages, pages };

	if (usage ? user_write(t->mm, to, used, sizeof(used)) : user_write(t->mm, to, limits, sizeof(limits)))
		return -EFAULT;
	return ipc_highest(&ipc_own()->shm);
}

static s64 put_state(struct task *t, const struct segment *segment, u64 to, bool by_index)
{
	const struct shmid_ds state = {
		.perm = ipc_perm_of(&segment->ipc), .size = segment->size, .attached = segment->attached,
		.detached = segment->detached, .changed = segment->changed, .creator = segment->creator, .last = segment->last,
		.users = shared_users(segment->shared) - 1,
	};
	s64 id = segment->ipc.id;

	if (user_write(t->mm, to, &state, sizeof(state)))
		return -EFAULT;
	return by_index ? id : 0;
}

static s64 remove(struct segment *segment)
{
	if (shared_users(segment->shared) == 1) {
		destroy(segment);
	} else {
		segment->ipc.mode |= SHM_DEST;
		segment->ipc.key = 0;
	}
	return 0;
}

static s64 change(struct task *t, s32 id, u32 command, u64 from)
{
	struct shmid_ds new = { .size = 0 };
	struct segment *segment;
	s64 error;

	if (command == IPC_SET && user_read(t->mm, &new, from, sizeof(new)))
		return -EFAULT;
	segment = segment_of(ipc_find(&ipc_own()->shm, id)); /* after the read, which can sleep */
	if (!segment)
		return -EINVAL;
	if (!ipc_owned(&segment->ipc))
		return -EPERM;
	if (command == IPC_RMID)
		return remove(segment);
	error = ipc_set(&segment->ipc, &new.perm);
	if (!error)
		segment->changed = ipc_seconds();
	return error;
}

s64 sys_shmctl(struct task *t, const u64 *args)
{
	s32 id = (s32)args[0];
	u32 command = (u32)args[1];
	bool by_index = command == SHM_STAT || command == SHM_STAT_ANY;
	struct segment *segment = segment_of(ipc_of_stat(&ipc_own()->shm, id, by_index));

	if (id < 0)
		return -EINVAL;
	switch (command) {
	case IPC_INFO:
	case SHM_INFO:
		return put_info(t, args[2], command == SHM_INFO);
	case IPC_STAT:
	case SHM_STAT:
	case SHM_STAT_ANY:
		if (!segment)
			return -EINVAL;
		if (command != SHM_STAT_ANY && !ipc_allowed(&segment->ipc, MAY_READ_ALL))
			return -EACCES;
		return put_state(t, segment, args[2], by_index);
	case IPC_SET:
	case IPC_RMID:
		return change(t, id, command, args[2]);
	case SHM_LOCK:
	case SHM_UNLOCK:
		if (!segment)
			return -EINVAL;
		if (!ipc_owned(&segment->ipc))
			return -EPERM;
		segment->ipc.mode &= ~(u32)SHM_LOCKED;
		segment->ipc.mode |= command == SHM_LOCK ? SHM_LOCKED : 0;
		return 0;
	}
	return -EINVAL;
}
