/* SPDX-License-Identifier: Apache-2.0 */
/* Kernel parameters that a container's configuration and privileged programs can change, in /proc/sys. */
#ifndef SENTRY_SYSCTL_H
#define SENTRY_SYSCTL_H

#include "types.h"

enum sysctl {
	/* of a namespace of IPC objects */
	SYSCTL_MSGMAX, SYSCTL_MSGMNB, SYSCTL_MSGMNI,
	SYSCTL_SEMMSL, SYSCTL_SEMMNS, SYSCTL_SEMOPM, SYSCTL_SEMMNI,
	SYSCTL_SHMALL, SYSCTL_SHMMAX, SYSCTL_SHMMNI,
	SYSCTL_MQ_MSG_DEFAULT, SYSCTL_MQ_MSG_MAX, SYSCTL_MQ_MSGSIZE_DEFAULT, SYSCTL_MQ_MSGSIZE_MAX, SYSCTL_MQ_QUEUES_MAX,
	IPC_SYSCTLS,
	/* of the sandbox's network */
	SYSCTL_SOMAXCONN = IPC_SYSCTLS, SYSCTL_IP_DEFAULT_TTL, SYSCTL_IP_FORWARD,
	SYSCTL_LOCAL_PORT_FIRST, SYSCTL_LOCAL_PORT_LAST, SYSCTL_UNPRIVILEGED_PORT,
	SYSCTL_PING_GROUP_FIRST, SYSCTL_PING_GROUP_LAST,
	SYSCTL_TCP_KEEPALIVE_INTVL, SYSCTL_TCP_KEEPALIVE_PROBES, SYSCTL_TCP_KEEPALIVE_TIME,
	SYSCTLS,
};

struct ipc_tables;
struct text;

void sysctls_init(void);			     /* those of the network */
void sysctls_init_ipc(struct ipc_tables *tables); /* of a new namespace */
u64 sysctl(enum sysctl which); /* in the namespaces of the caller */
/* By its path below /proc/sys, or with dots. */
void sysctl_show(struct text *text, const char *name);
/*
 * Change those that one name has, to numbers in decimal; tables: the namespace of IPC objects.  Fewer numbers change the
 * first ones.  0; -ENOENT: there is none of this name; -EINVAL: these are no numbers, too many, or outside of the range.
 */
s64 sysctl_set(struct ipc_tables *tables, const char *name, const char *value);

#endif
