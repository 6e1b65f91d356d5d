/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The containers of the pod and the processes in them. crun makes them; the agent is their parent once crun has ended,
 * since process 1 inherits them, and so it learns how they end.
 */
#ifndef AGENT_CONTAINER_H
#define AGENT_CONTAINER_H

#include "stream.h"

#include "agent.pb.h"

struct container;
struct oom;

struct process {
	struct process *next;
	struct container *container;
	char *id;
	struct child child; /* its pid, 0 until crun has said it */
	bool exited, waited;
	int status;
	struct call *waiters;
	struct stdio io;
};

enum container_state {
	CONTAINER_CREATING,
	CONTAINER_CREATED,
	CONTAINER_RUNNING, /* or ended, which its first process says */
	CONTAINER_REMOVING,
	CONTAINER_FAILED, /* in its creation: it goes when nothing runs any more */
};

struct container {
	struct container *next;
	char *id;
	char *directory; /* the agent's own, with config.json */
	char *cgroup; /* its directory */
	enum container_state state;
	int jobs; /* of crun, that run */
	struct process *processes; /* the first is the container's */
	struct call *remover; /* the call that removes it */
	struct timer patience; /* of that call */
	bool deleted; /* by crun */
	char **mount_points; /* of its storages, in the order they were mounted */
	size_t mount_count;
	struct oom *oom;
};

/* The container that a call names, in a state in which it can be used. NULL: the call was answered. */
struct container *container_for(struct call *call, const char *id);
/*
 * 0, -EEXIST where the container has a process of that id, or -EINVAL. An exec that has ended and was waited for gives
 * way: whoever reuses its id knows of its end.
 */
int process_new(struct container *container, const char *id, struct process **process);
/* The process of a call, the container's first where the id is empty or the container's. NULL: it was answered. */
struct process *process_for(struct call *call, const char *container_id, const char *id);
/* crun's pid file has its pid: from now on its end is noticed. 0 or -errno. */
int process_adopt(struct process *process, const char *pid_file);
/* Unlink and free it. */
void process_free(struct process *process);
/* Signal every process of a container; 0 or -errno. */
int container_signal(struct container *container, int signal);
/* A process has ended or a job of crun's: go on with what waits for that. */
void container_progress(struct container *container);

#endif
