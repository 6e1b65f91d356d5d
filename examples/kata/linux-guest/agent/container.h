/* SPDX-License-Identifier: Apache-2.0 */
/* The sandbox, its containers, their processes and streams, and the storages mounted for them. */
#ifndef AGENT_CONTAINER_H
#define AGENT_CONTAINER_H

#include "ttrpc.h"
#include "util.h"

#include "agent.pb.h"

#include <stdbool.h>
#include <sys/types.h>

/* ---- stream.c ---- */

/* The three streams of a process: pipes, or one terminal. */

struct stream {
	struct watch watch; /* fd -1: not open */
	bool watched;
	struct call *call; /* the parked call that reads or writes this stream */
	size_t done; /* bytes of a parked writer's data that are already written */
};

struct stdio {
	bool terminal;
	struct stream in, out, err;
	int listener; /* the socket on which crun sends the terminal's descriptor; -1: none */
	char *console; /* its path, NULL: none */
};

void stdio_init(struct stdio *io);
/*
 * Create the streams, and store the process's ends in `child` (-1: none). With a terminal, listen on a unix socket at
 * io->console instead, where crun sends it. 0 or -errno.
 */
int stdio_open(struct stdio *io, bool terminal, int child[CHILD_FDS]);
/* Close our copies of the process's descriptors after it has started. */
void stdio_close_child(const int child[CHILD_FDS]);
/* Receive the terminal from crun, if the process has one, and set its size (0: leave it); 0 or -errno. */
int stdio_take_terminal(struct stdio *io, unsigned int rows, unsigned int columns);
/* Close all streams; parked calls are answered. */
void stdio_deinit(struct stdio *io);

/*
 * Answer the call with at most `size` bytes, or OUT_OF_RANGE at the end of the stream. Park it while there is nothing
 * to read.
 */
void stream_read(struct stream *stream, struct call *call, size_t size);
/* Write call->data, park the call until all is written, and answer it. */
void stream_write(struct stream *stream, struct call *call);
void stream_close(struct stream *stream);
/* 0 or -errno (-ENOTTY: the process has no terminal). */
int stdio_resize(struct stdio *io, unsigned int rows, unsigned int columns);

/* ---- container.c ---- */

/*
 * The containers of the pod and their processes. crun creates them. After crun has exited, process 1 inherits them:
 * so the agent receives their exit statuses.
 */

struct container;
struct oom;

struct process {
	struct process *next;
	struct container *container;
	char *id;
	struct child child; /* its pid; 0 until crun has written it to its pid file */
	bool exited, waited;
	int status;
	struct call *waiters;
	struct stdio io;
};

enum container_state {
	CONTAINER_CREATING,
	CONTAINER_CREATED,
	CONTAINER_RUNNING, /* also after it has ended: the state of its first process tells these apart */
	CONTAINER_REMOVING,
	CONTAINER_FAILED, /* its creation failed: it is freed when nothing of it runs any more */
};

struct container {
	struct container *next;
	char *id;
	char *directory; /* the bundle, owned by the agent, with config.json */
	char *cgroup; /* its directory */
	enum container_state state;
	int jobs; /* crun jobs that are running */
	struct process *processes; /* the first is the container's init process */
	struct call *remover; /* the call that waits for its removal */
	struct timer patience; /* timeout of that call */
	bool deleted; /* crun has deleted it */
	char **mount_points; /* mount points of its storages, in the order of mounting */
	size_t mount_count;
	struct oom *oom;
};

/*
 * The container that a call names, if its state allows the call. Otherwise answers the call with an error and returns
 * NULL.
 */
struct container *container_for(struct call *call, const char *id);
/*
 * 0, -EEXIST if the container already has a process with that id, or -EINVAL. The id of an exec that has ended and
 * was waited for may be reused.
 */
int process_new(struct container *container, const char *id, struct process **process);
/*
 * The process that a call names: the container's first if the id is empty or the container's. NULL: the call was
 * answered with an error.
 */
struct process *process_for(struct call *call, const char *container_id, const char *id);
/* Read its pid from crun's pid file, and watch for its exit from now on. 0 or -errno. */
int process_adopt(struct process *process, const char *pid_file);
/* Unlink and free it. */
void process_free(struct process *process);
/* Signal every process of a container; 0 or -errno. */
int container_signal(struct container *container, int signal);
/* A process or a crun job has ended: continue the calls that wait for it. */
void container_progress(struct container *container);

/* ---- crun.c ---- */

/* Runs crun, the OCI runtime that creates containers in the guest. */

/* One crun job for a container. It may be freed when `done` returns. */
struct crun_job {
	struct child child;
	struct container *container;
	struct process *process; /* NULL: not for one process */
	struct call *call;
	void (*done)(struct crun_job *job, int status); /* a shell's exit status */
	char *log; /* where crun writes its errors */
};

#define CRUN_ARGUMENTS 12

/*
 * Run `crun ARGUMENT... ID` (the list ends with NULL) with these descriptors, see child_start(). 0, and `done` is called
 * when crun has exited; or -errno.
 */
int crun_start(struct container *container, struct process *process, struct call *call,
	       const char *const arguments[], const int fds[CHILD_FDS], void (*done)(struct crun_job *job, int status));
/* Answer the job's call with the error that crun printed. */
void crun_fail(struct crun_job *job, const char *what, int status);

extern const int crun_no_fds[CHILD_FDS];

/* ---- cgroup.c ---- */

/* The processes of a container: those of its cgroup and of all cgroups below. */

/* Call `each` with every pid, as seen in the agent's pid namespace. 0, or -errno if the cgroup does not exist. */
int processes_each(const char *cgroup, void (*each)(pid_t pid, void *context), void *context);

/* ---- listing.c ---- */

/* The files in /proc of a container's processes, for host tools that inspect its pid. */

/*
 * Answer the call with files of /proc: uptime and stat, then PID/status, PID/stat and PID/cmdline of every process in the
 * container's pid namespace and in those below it. PID and all numbers in the files are those of the agent's own namespace.
 * Each file is a line "NAME LENGTH\n" and LENGTH bytes of content; before the files there is a line "first PID\n" with the
 * container's first process, and "end\n" is the last. 1 MiB at most: the processes that do not fit are missing.
 */
void listing_send(struct call *call, struct container *container);

/* ---- oom.c ---- */

/* Detects that the kernel killed a process of a container at the container's memory limit. */

struct oom;

/* Watch the cgroup directory of the container `id`; NULL if that is not possible. */
struct oom *oom_watch(const char *cgroup, const char *id);
/* Check now: a process has just ended. */
void oom_check(struct oom *oom);
/* NULL is accepted. */
void oom_unwatch(struct oom *oom);

/* ---- storage.c ---- */

/* Storages: file systems that the machine mounts for its containers, outside of their mount namespaces. */

/* The values of a Storage's `driver`. */
extern const char *const storage_drivers[];
extern const size_t storage_driver_count;

/*
 * Mount it, or count one more user if its mount point is already mounted. 0, or -errno with the failed step in
 * `what`.
 */
int storage_mount(const grpc_Storage *storage, char what[256]);
/* Drop one user; the last one unmounts it. */
void storage_release(const char *mount_point);
void storage_release_all(void);
/*
 * The host removes the directory of a deleted container from the share. The kernel keeps the dentries of that
 * directory, with each mount below, until the next lookup. share_sweep() looks up the directories of deleted
 * containers.
 */
void share_forget(const char *id);
void share_sweep(void);
/* The number of the disk with that serial number; 0 or -errno. */
int disk_number(const char *serial, dev_t *number);

/* ---- sandbox.c ---- */

/* The sandbox: the state that the containers of a pod share. */

/* Whether CreateSandbox was called. */
bool sandbox_is_there(void);
/* Its host name; "" if it has none. */
const char *sandbox_hostname(void);
/* The path of the shared pid namespace; NULL if containers do not share one. */
const char *sandbox_pid_namespace(void);

#endif
