/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Namespaces of containers: numbers of processes, IPC objects, names of the system.  They are not nested: a process is in
 * that of its container, or in the sandbox's own.  Programs make none.
 *
 * Numbers of tasks, processes, groups and sessions mean something only together with the number of the namespace.
 */
#ifndef SENTRY_SPACE_H
#define SENTRY_SPACE_H

#include "abi.h"
#include "ipc/table.h"

struct process;

enum space_kind { SPACE_PID, SPACE_IPC, SPACE_UTS, SPACES };
enum { SANDBOX_PIDS = 0 }; /* the number of the sandbox's own namespace of processes */

struct space {
	u32 references; /* of containers; the sandbox's own is never freed */
	u32 number;	/* that no other namespace has had */
	enum space_kind kind;
	struct {
		s32 last;
		bool ended; /* as process 1 has: there are no new processes */
	} pids;
	struct ipc_tables ipc;
	struct utsname names;
};

void spaces_init(void);
struct space *space_new(enum space_kind kind); /* NULL: no memory */
struct space *space_get(struct space *space);
void space_put(struct space *space);
struct space *space_of(const struct process *p, enum space_kind kind);
struct space *space_of_sandbox(enum space_kind kind);

/* Whether it is process 1 of a container's namespace, which its orphans go to, and which signals do not end. */
bool process_is_init(const struct process *p);
/* At its end: that of all other processes of its namespace. */
void space_end(struct process *init);

#endif
