/* SPDX-License-Identifier: Apache-2.0 */
/* The IPC objects of a namespace. */
#ifndef SENTRY_IPC_TABLE_H
#define SENTRY_IPC_TABLE_H

#include "../sysctl.h"

struct ipc_object;

/* Objects by their index, which is the lower part of their number. */
struct ipc_table {
	struct ipc_object **slots; /* NULL until the first object */
	u32 count, last, sequence;
};

struct ipc_tables {
	struct ipc_table shm, sem, msg;
	u32 mq_count; /* POSIX message queues that have a name */
	u32 semaphores; /* in all sets */
	u64 sysctls[IPC_SYSCTLS];
};

void ipc_free(struct ipc_tables *tables); /* with all objects: no process uses them */

#endif
