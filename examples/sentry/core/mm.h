/* SPDX-License-Identifier: Apache-2.0 */
/* Address spaces: mappings, pages that appear when they are touched, and pages that several have. */
#ifndef SENTRY_MM_H
#define SENTRY_MM_H

#include "abi.h"
#include "list.h"
#include "platform.h"

/* Programs have the addresses from the first to below the second; a platform has the page before, and what is behind. */
#define USER_MIN 0x11000ull
#define USER_TOP 0x7fffffc00000ull
/* What Linux compares an address with before it touches anything. */
#define TASK_SIZE 0x7ffffffff000ull
#define STACK_SIZE (8ull << 20)

struct file;
struct shared;

enum { VMA_SHARED = 1, VMA_NO_FORK = 2, VMA_WIPE_ON_FORK = 4, VMA_MAY_NOT_WRITE = 8, VMA_LOCKED = 16 };

/* A mapping: of a file, of memory that processes share, or of its own. */
struct vma {
	u64 start, end;
	u32 prot, flags;
	u64 offset;	       /* of its start, in what it shows */
	struct file *file;     /* a reference */
	struct shared *shared; /* the same */
};

enum { VMAS = 16384 };

struct mm {
	struct list all;
	u32 references;
	u32 watchers; /* files of /proc/PID/mem: they keep the structure, not the memory */
	void *space; /* the platform's */
	u64 root;    /* page tables in the CPU's format, by offset in RAM */
	u64 heap, brk;
	u64 map_top;
	bool secret; /* others may not inspect it (PR_SET_DUMPABLE) */
	bool has_barriers; /* membarrier() may interrupt its tasks */
	bool no_huge_pages; /* without effect */
	bool exhausted; /* out of RAM: the program ends */
	struct file *program; /* a reference; NULL: none is loaded */
	struct {
		u64 start, end;
	} arguments, environment, vector; /* where the program's first stack has them */
	u32 count, room;
	struct vma *vmas; /* sorted, never overlapping */
};

void mm_init(void); /* there is none yet */
struct mm *mm_new(struct mm *like); /* an empty one; like: any other, or NULL for the first; NULL: no memory */
struct mm *mm_fork(struct mm *mm);  /* with the same content; NULL: no memory */
void mm_get(struct mm *mm);
void mm_put(struct mm *mm);
void mm_watch(struct mm *mm);
void mm_forget(struct mm *mm); /* after mm_watch */

/* Check a mapping's address and size: 0 or -errno; flags are those of mmap. */
s64 mm_check_place(struct mm *mm, u64 address, u64 size, u32 flags);
/* Takes over the reference to what the template maps. */
s64 mm_map_object(struct mm *mm, u64 address, u64 size, u32 flags, const struct vma *template);
s64 mm_map(struct mm *mm, u64 address, u64 size, u32 prot, u32 flags);
s64 mm_unmap(struct mm *mm, u64 address, u64 size);
s64 mm_protect(struct mm *mm, u64 address, u64 size, u32 prot);
s64 mm_remap(struct mm *mm, u64 old, u64 old_size, u64 size, u32 flags, u64 to);
s64 mm_mark(struct mm *mm, u64 start, u64 end, u32 set, u32 clear); /* VMA_* */
void mm_discard(struct mm *mm, u64 start, u64 end);  /* the pages' content, not the mapping */
u64 mm_covered(struct mm *mm, u64 address, u64 end); /* up to where there are mappings without a gap */
bool mm_is_free(struct mm *mm, u64 start, u64 end);
struct vma *mm_vma(struct mm *mm, u64 address); /* valid until the next change or sleep; NULL */
u64 mm_resident(struct mm *mm, u64 start, u64 end, u8 *pages); /* how many there are; pages: 1 for each, or NULL */
/* Make a page present for an access; 0, -EFAULT, -ENXIO behind the end of a file, -ENOMEM. Can sleep. */
int mm_fault(struct mm *mm, u64 address, enum access access, bool present);
void *mm_page(struct mm *mm, u64 address, bool write); /* NULL: the program may not do so; valid until the next sleep */
void *mm_page_traced(struct mm *mm, u64 address, bool write); /* the same for a tracer, to which less is forbidden */

struct inode;

/* Unmap what lies behind the new end of a file, private copies included. */
void mm_truncate(struct inode *inode, u64 size);
bool mm_may_write(const struct inode *inode); /* by a shared mapping */

/* Unmap all that shared mappings show of a file: its content is in other pages. */
void mm_replace(struct inode *inode);

/* Pages that mappings share, without a file. */
struct shared *shared_new(u64 size); /* NULL: no memory */
s64 shared_page(struct shared *shared, u64 index); /* the offset in RAM, with a reference for the caller */
void shared_get(struct shared *shared);
void shared_put(struct shared *shared);
u32 shared_users(const struct shared *shared); /* how many references there are */
/* Call left(owner) whenever a mapping drops its reference. The owner drops its own reference last. */
void shared_own(struct shared *shared, void (*left)(void *owner), void *owner);
void *shared_owner(const struct shared *shared, void (*left)(void *owner)); /* NULL: another one, or none */

#endif
