/* SPDX-License-Identifier: Apache-2.0 */
/* Notices when the kernel ends a process of a container because the container has no memory left. */
#ifndef AGENT_OOM_H
#define AGENT_OOM_H

struct oom;

/* Watch the cgroup (a directory) of the container `id`; NULL where that is not possible. */
struct oom *oom_watch(const char *cgroup, const char *id);
/* Look now: a process has just ended. */
void oom_check(struct oom *oom);
/* NULL is nothing to end. */
void oom_unwatch(struct oom *oom);

#endif
