/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Containers, and their processes that have an id: the first one, and those that the host adds by ExecProcess.
 *
 * Descendants belong to the container, too. All end with its first process.
 */
#ifndef SENTRY_CONTAINER_H
#define SENTRY_CONTAINER_H

#include "../exec.h"
#include "../space.h"
#include "../vfs/vfs.h"
#include "control.h"

enum { ID_MOST = 255, CONTAINERS_MOST = 64, PROCESSES_MOST = 256 };
enum { USUAL_WEIGHT = 100 };

/* What a process starts with, from the specification's `process`. */
struct program {
	struct arguments arguments;
	char *directory; /* NULL: the root */
	struct cred cred;
	bool terminal, no_new_privs;
	u32 umask;
	s32 oom_adjustment;
	struct winsize size; /* of the terminal; zeros: none is given */
	struct rlimit limits[RLIMITS];
	u32 limited; /* bits of those that are given */
};

/* Closed streams are NULL. A terminal's input and output are one file, its master. */
struct guest_process {
	struct list processes; /* of its container */
	u32 references;	       /* of its container, of each call that uses it, and of the process itself */
	struct container *container;
	char *id;
	struct program program;
	bool terminal;
	struct file *input, *output, *errors;
	struct process *process; /* NULL: it has ended */
	bool may_start; /* its program; until then it waits */
	bool started;	/* or it could not be started */
	s64 error;	/* why */
	bool ended;
	s32 status; /* as wait() has it */
	struct wait_queue changed;
};

/* Of a container, as cgroup v2 has them; 0: none. */
struct limits {
	u64 memory, high, low, swap; /* bytes, of which the first has an effect */
	bool no_swap;		     /* the limit of swap is 0 */
	u64 most_tasks;
	u64 quota, period; /* ns of CPU time */
	u64 weight;	   /* of 1 to 10,000; 0: USUAL_WEIGHT */
	u64 cpus;	   /* a bit for each CPU */
};

struct container {
	struct list containers;
	u32 references; /* of the table, and of each process */
	char *id;
	struct mount *root; /* in the agent's tree: what is below it goes with the container */
	struct fs_context *fs; /* at the container's root */
	struct space *spaces[SPACES]; /* a reference to each */
	struct seccomp *seccomp; /* of each process; NULL: all system calls are allowed */
	struct list processes;
	struct limits limits;
	u8 account; /* of its memory (ram.h) */
	struct {
		u64 start, used;		     /* of the period that runs: since when, and CPU time of its tasks */
		u64 periods, throttled, throttled_time; /* in all; ns */
	} quota;
	u64 killed; /* processes, since there was no memory */
	u32 guest_count; /* processes with an id */
	bool frozen, removed;
	u32 requests; /* in flight to the file server, of its tasks */
	bool out_of_memory; /* and not yet reported to the host */
	u64 turn; /* its CPU time by its weight, at least that of whoever ran last: the least is next */
	u64 cpu_time;	    /* of processes that have ended */
	struct wait_queue changed;
	struct wait_queue stopped; /* woken when a task of a frozen container stops */
};

/* -- for the core -- */

void container_join(struct container *container, struct process *p);
void container_leave(struct process *p);
bool container_is_full(const struct container *container); /* it has as many tasks as it may; NULL: false */
void container_hold(struct task *t); /* sleep while the container is frozen, or has used its CPU time */
bool containers_compete(void); /* whether there are several */
void container_charge(struct task *t); /* it has run */
void container_out_of_memory(struct process *p); /* one of its processes was killed for that */
void guest_process_ended(struct process *p);

/* -- container.c -- */

struct container *container_find(const struct reader *id); /* borrowed; NULL */
void container_put(struct container *container);
void container_kill(struct container *container, const struct process *but); /* all its processes; but: or NULL */
void container_signal(struct container *container, int signal);
u64 container_tasks(const struct container *container);
u64 container_cpu_time(const struct container *container);
bool container_runs(const struct container *container);
void containers_init(void);
s64 create_container(struct call *call);
s64 start_container(struct call *call);
s64 remove_container(struct call *call);
s64 freeze_container(struct call *call);
s64 thaw_container(struct call *call);
s64 list_processes(struct call *call);
s64 get_oom_event(struct call *call);

/* -- resources.c -- */

struct container *container_of(struct call *call); /* that of field 1 of a request; NULL: the call fails */
/* Change the limits that a LinuxResources names: 0 or -EINVAL. */
s64 limits_set(struct container *container, struct reader resources);
void limits_wait(struct task *t); /* sleep until its container may use a CPU again */
s64 update_container(struct call *call);
s64 stats_container(struct call *call);

/* -- program.c -- */

/* Read a `process`: 0 or -errno, with the call failed where there is more to say. */
s64 program_read(struct call *call, struct reader message, struct program *program);
void program_free(struct program *program);
/* Find a program of the search path, or by its own path: 0 or -errno. */
s64 program_find(const struct program *program);

/* -- filter.c -- */

s64 filter_read(struct reader message, struct seccomp **filter); /* nothing: NULL. 0 or -errno */

/* -- namespaces.c -- */

void namespaces_init(struct container *container); /* the sandbox's own */
void namespaces_put(struct container *container);
s64 namespaces_read(struct call *call, struct container *container, struct reader spec);
s64 user_namespace_read(struct call *call, struct reader spec); /* user_namespace.c */
s64 parameters_read(struct call *call, struct container *container, struct reader spec); /* linux.sysctl, in these */

/* -- network.c -- */

s64 update_interface(struct call *call);
s64 update_routes(struct call *call);
s64 add_neighbors(struct call *call);

/* -- listing.c -- */

void listing_put(struct text *list, const struct container *container); /* files of /proc of its processes */

/* -- stacks.c -- */

void stacks_put(struct text *list, const struct container *container);

/* -- root.c -- */

int roots_init(void);
int point_make(const char *name, bool directory, struct path *point);
s64 root_make(struct call *call, struct container *container, struct reader spec);
void root_remove(struct container *container);
s64 mount_storage(struct call *call, struct reader message);

/* -- guest_process.c -- */

/* A process that waits for may_start, with a reference for the caller; NULL: *error is why. Takes the program. */
struct guest_process *guest_process_new(struct container *container, const struct reader *id, struct program *program,
					s64 *error);
void guest_process_put(struct guest_process *guest);
/* Remove it from its container.  A second call does nothing. */
void guest_process_forget(struct guest_process *guest);
/* Start its program, and wait until it runs: 0, or the call fails. */
s64 guest_process_start(struct call *call, struct guest_process *guest);
/* That of fields 1 and 2 of a request, with a reference; NULL: the call fails. */
struct guest_process *guest_process_of(struct call *call);
s64 exec_process(struct call *call);
s64 signal_process_call(struct call *call);
s64 wait_process(struct call *call);

/* -- stream.c -- */

int streams_make(struct guest_process *guest, struct task *t);
int streams_open_terminal(struct guest_process *guest, struct task *t); /* by the process itself */
void streams_close(struct guest_process *guest);
s64 write_stdin(struct call *call);
s64 read_stdout(struct call *call);
s64 read_stderr(struct call *call);
s64 close_stdin(struct call *call);
s64 resize_terminal(struct call *call);

#endif
