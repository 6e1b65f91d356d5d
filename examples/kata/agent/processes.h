/* SPDX-License-Identifier: Apache-2.0 */
/* Which processes a container has: those of its cgroup and of the cgroups that it has made below. */
#ifndef AGENT_PROCESSES_H
#define AGENT_PROCESSES_H

#include <sys/types.h>

/* Call `each` with every pid, as the agent's own pid namespace has it; 0, or -errno when the cgroup is not there. */
int processes_each(const char *cgroup, void (*each)(pid_t pid, void *context), void *context);

#endif
