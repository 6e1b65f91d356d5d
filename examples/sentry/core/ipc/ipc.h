/* SPDX-License-Identifier: Apache-2.0 */
/* What shared memory, semaphores and message queues of System V have in common: keys, numbers and permissions. */
#ifndef SENTRY_IPC_H
#define SENTRY_IPC_H

#include "../core.h"
#include "../space.h"
#include "../vfs/text.h"

enum { IPC_CREAT = 01000, IPC_EXCL = 02000, IPC_NOWAIT = 04000 };
enum { IPC_RMID, IPC_SET, IPC_STAT, IPC_INFO };
enum { MAY_READ_ALL = 0444, MAY_WRITE_ALL = 0222, IPC_MOST = 4096 };

struct ipc_object {
	struct ipc_table *table;
	s32 id;
	u32 key, user, group, creator, creator_group, mode;
};

/* As Linux has it. */
struct ipc_perm {
	u32 key, user, group, creator, creator_group, mode;
	u16 sequence, pad;
	u32 pad2;
	u64 unused[2];
};

_Static_assert(sizeof(struct ipc_perm) == 48, "as the kernel has it");

s64 ipc_add(struct ipc_table *table, struct ipc_object *object, u32 key, u32 mode, u64 most); /* its number, or -errno */
void ipc_remove(struct ipc_object *object);
struct ipc_object *ipc_find(const struct ipc_table *table, s32 id); /* NULL */
struct ipc_object *ipc_next(const struct ipc_table *table, u32 *index); /* from an index on, which it increases; NULL */
s32 ipc_highest(const struct ipc_table *table); /* index of the last; 0: there is none */
/*
 * Find the object of a get call by its key: its number; 0 with *found NULL if the call must make one; or -errno.  The
 * caller checks the object, and then calls ipc_allowed.
 */
s64 ipc_get(const struct ipc_table *table, u32 key, u32 flags, struct ipc_object **found);
bool ipc_allowed(const struct ipc_object *object, u32 wanted); /* the permissions that the bits of any class need */
bool ipc_owned(const struct ipc_object *object);		/* by the caller, or it has CAP_SYS_ADMIN */
s64 ipc_set(struct ipc_object *object, const struct ipc_perm *new);
struct ipc_perm ipc_perm_of(const struct ipc_object *object);
s64 ipc_seconds(void); /* of the real time */

/* A line of /proc/sysvipc: key, number, mode, then values of which one is -1 at the place of the four owners. */
enum { OWNERS = -1 };
void ipc_show(struct text *text, const struct ipc_object *object, const s64 *values, u32 count);
/* All lines, of the caller's namespace. */
void shm_show(struct text *text);
void sem_show(struct text *text);
void msg_show(struct text *text);

/* The object of a STAT command: by number, or by index for commands that list all. id is not negative. */
struct ipc_object *ipc_of_stat(const struct ipc_table *table, s32 id, bool by_index);

struct ipc_tables *ipc_own(void); /* the caller's */
/* Remove all objects of a namespace that ends. */
void shm_forget(struct ipc_table *table);
void sem_forget(struct ipc_table *table);
void msg_forget(struct ipc_table *table);
void mq_forget(const struct ipc_tables *tables);

void ipc_init(void); /* there are no objects yet */
void queues_init(void);
void ipc_exit(struct process *p);
void mq_exit(struct process *p);

#endif
