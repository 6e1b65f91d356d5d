/* SPDX-License-Identifier: Apache-2.0 */
/* The sandbox, its containers, the processes in them and their streams, and what is mounted for them. */
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
	struct watch watch; /* fd -1: there is none */
	bool watched;
	struct call *call; /* the reader or writer that is parked here */
	size_t done; /* bytes of its data that a writer has written */
};

struct stdio {
	bool terminal;
	struct stream in, out, err;
	int listener; /* a socket by which crun hands over the terminal, -1: none */
	char *console; /* its path, NULL: none */
};

void stdio_init(struct stdio *io);
/*
 * Make the streams, and in `child` the descriptors that the process gets (-1: none). With a terminal, listen for it on
 * a unix socket at io->console instead. 0 or -errno.
 */
int stdio_open(struct stdio *io, bool terminal, int child[3]);
/* Close what the process got: it has it. */
void stdio_close_child(const int child[3]);
/* Take the terminal that crun has sent, if one was asked for, and give it a size (0: leave it); 0 or -errno. */
int stdio_take_terminal(struct stdio *io, unsigned int rows, unsigned int columns);
/* Close all; a parked call is answered. */
void stdio_deinit(struct stdio *io);

/* Answer the call with what can be read, at most `size` bytes, or OUT_OF_RANGE at the end; park it until then. */
void stream_read(struct stream *stream, struct call *call, size_t size);
/* Write call->data, park the call until all is written, and answer it. */
void stream_write(struct stream *stream, struct call *call);
void stream_close(struct stream *stream);
/* 0 or -errno (-ENOTTY: there is no terminal). */
int stdio_resize(struct stdio *io, unsigned int rows, unsigned int columns);

/* ---- container.c ---- */

/*
 * The containers of the pod and the processes in them. crun makes them; the agent is their parent once crun has ended,
 * since process 1 inherits them, and so it learns how they end.
 */

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

/* ---- crun.c ---- */

/* Runs crun, the OCI runtime that makes containers in the guest. */

/* One run of crun for a container. Free when `done` returns. */
struct crun_job {
	struct child child;
	struct container *container;
	struct process *process; /* NULL: none in particular */
	struct call *call;
	void (*done)(struct crun_job *job, int status); /* a shell's exit status */
	char *log; /* where crun writes its errors */
};

#define CRUN_ARGUMENTS 12

/*
 * Run `crun ARGUMENT... ID` (the list ends with NULL) with these three descriptors as stdio; 0 or -errno, and `done`
 * comes later, when it is 0.
 */
int crun_start(struct container *container, struct process *process, struct call *call,
	       const char *const arguments[], const int stdio[3], void (*done)(struct crun_job *job, int status));
/* Answer the job's call with what crun says went wrong. */
void crun_fail(struct crun_job *job, const char *what, int status);

extern const int crun_no_stdio[3];

/* ---- cgroup.c ---- */

/* Which processes a container has: those of its cgroup and of the cgroups that it has made below. */

/* Call `each` with every pid, as the agent's own pid namespace has it; 0, or -errno when the cgroup is not there. */
int processes_each(const char *cgroup, void (*each)(pid_t pid, void *context), void *context);

/* ---- listing.c ---- */

/* What /proc says of a container's processes, for tools of the host that look at its pid. */

/*
 * Answer the call with files of /proc: uptime and stat, then PID/status, PID/stat and PID/cmdline of every process in the
 * container's pid namespace and in those below it. PID and all numbers in the files are those of the agent's own namespace.
 * Each file is a line "NAME LENGTH\n" and LENGTH bytes of content; before the files there is a line "first PID\n" with the
 * container's first process, and "end\n" is the last. 1 MiB at most: the processes that do not fit are missing.
 */
void listing_send(struct call *call, struct container *container);

/* ---- oom.c ---- */

/* Notices when the kernel ends a process of a container because the container has no memory left. */

struct oom;

/* Watch the cgroup (a directory) of the container `id`; NULL where that is not possible. */
struct oom *oom_watch(const char *cgroup, const char *id);
/* Look now: a process has just ended. */
void oom_check(struct oom *oom);
/* NULL is nothing to end. */
void oom_unwatch(struct oom *oom);

/* ---- storage.c ---- */

/* Storages: what is mounted in the machine for its containers, outside of them. */

/* What a Storage's `driver` may be. */
extern const char *const storage_drivers[];
extern const size_t storage_driver_count;

/*
 * Mount it, or count one more user where its mount point is mounted already. 0 or -errno; -errno with what it could not
 * do in `what`.
 */
int storage_mount(const grpc_Storage *storage, char what[256]);
/* One user less; the last one unmounts it. */
void storage_release(const char *mount_point);
void storage_release_all(void);
/*
 * The container is gone: the host removes its directory from the share. The kernel keeps what it knows of that, with each mount
 * of the host's below it, until somebody looks. share_sweep() looks, at the directories that were there the last time.
 */
void share_forget(const char *id);
void share_sweep(void);
/* The number of the disk with that serial number; 0 or -errno. */
int disk_number(const char *serial, dev_t *number);

/* ---- sandbox.c ---- */

/* The sandbox: what the containers of the pod share. */

/* Whether CreateSandbox was called. */
bool sandbox_is_there(void);
/* Its host name, "" without one. */
const char *sandbox_hostname(void);
/* The path of the pid namespace that containers may share; NULL: there is none. */
const char *sandbox_pid_namespace(void);

#endif
