/* SPDX-License-Identifier: Apache-2.0 */
/* Runs crun, the OCI runtime that makes containers in the guest. */
#ifndef AGENT_CRUN_H
#define AGENT_CRUN_H

#include "container.h"

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

#endif
