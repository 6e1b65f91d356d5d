// SPDX-License-Identifier: Apache-2.0
#include "container.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LAST_WORDS 700

const int crun_no_fds[CHILD_FDS] = CHILD_NO_FDS;

static void job_free(struct crun_job *job)
{
	unlink(job->log);
	free(job->log);
	free(job);
}

static void job_exited(struct child *child, int status)
{
	struct crun_job *job = container_of(child, struct crun_job, child);
	struct container *container = job->container;

	job->done(job, status);
	orphans_release();
	job_free(job);
	container->jobs--;
	container_progress(container);
}

int crun_start(struct container *container, struct process *process, struct call *call,
	       const char *const arguments[], const int fds[CHILD_FDS], void (*done)(struct crun_job *job, int status))
{
	static unsigned int number;
	const char *argv[CRUN_ARGUMENTS + 8] = { CRUN, "--root=" AGENT_DIR "/crun", "--cgroup-manager=cgroupfs" };
	struct crun_job *job = xzalloc(sizeof(*job));
	char *log_option;
	size_t count = 3;
	int error;

	job->container = container;
	job->process = process;
	job->call = call;
	job->done = done;
	job->child.exited = job_exited;
	job->log = xasprintf("%s/log.%u", container->directory, number++);
	log_option = xasprintf("--log=%s", job->log);
	argv[count++] = log_option;
	for (size_t i = 0; arguments[i] && i < CRUN_ARGUMENTS; i++)
		argv[count++] = arguments[i];
	argv[count++] = container->id;
	orphans_hold();
	container->jobs++;
	error = child_start(&job->child, argv, fds);
	free(log_option);
	if (error) {
		container->jobs--;
		orphans_release();
		job_free(job);
	}
	return error;
}

void crun_fail(struct crun_job *job, const char *what, int status)
{
	char text[LAST_WORDS];
	ssize_t length = file_read(job->log, text, sizeof(text));

	if (length < 0)
		length = 0;
	while (length > 0 && text[length - 1] == '\n')
		length--;
	text[length] = '\0';
	call_fail(job->call, STATUS_INTERNAL, "%s: crun ended with status %d%s%s", what, status, length ? ": " : "", text);
}
