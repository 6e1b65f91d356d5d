// SPDX-License-Identifier: Apache-2.0
/* Processes: exec, signal, wait, stdio. */
#include "container.h"
#include "oci.h"
#include "ttrpc.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The number of reaped processes whose status is kept for a second wait. */
#define ENDED_MAX 64

static void waiters_answer(struct process *process)
{
	grpc_WaitProcessResponse answer = { .status = process->status };
	struct call *call;

	while ((call = process->waiters)) {
		process->waiters = call->parked_next;
		call->cancel = NULL;
		process->waited = true;
		call_reply(call, grpc_WaitProcessResponse_fields, &answer);
	}
}

static void process_exited(struct child *child, int status)
{
	struct process *process = container_of(child, struct process, child);

	process->exited = true;
	process->status = status;
	oom_check(process->container->oom);
	waiters_answer(process);
	container_progress(process->container);
}

static struct process *process_find(struct container *container, const char *id)
{
	struct process *process = container->processes;

	while (process && strcmp(process->id, id))
		process = process->next;
	return process;
}

int process_new(struct container *container, const char *id, struct process **process)
{
	struct process **link = &container->processes;
	struct process *made, *same;

	if (!id_is_valid(id))
		return -EINVAL;
	same = process_find(container, id);
	if (same && (same == container->processes || !same->exited || !same->waited))
		return -EEXIST;
	if (same)
		process_free(same);
	while (*link)
		link = &(*link)->next;
	made = xzalloc(sizeof(*made));
	made->container = container;
	made->id = xstrdup(id);
	made->child.exited = process_exited;
	stdio_init(&made->io);
	*link = *process = made;
	return 0;
}

void process_free(struct process *process)
{
	struct process **link = &process->container->processes;
	struct call *call;

	while (*link != process)
		link = &(*link)->next;
	*link = process->next;
	if (process->child.pid && !process->exited)
		child_forget(&process->child);
	while ((call = process->waiters)) {
		process->waiters = call->parked_next;
		call->cancel = NULL;
		call_fail(call, STATUS_NOT_FOUND, "the process %s is gone", process->id);
	}
	stdio_deinit(&process->io);
	free(process->id);
	free(process);
}

int process_adopt(struct process *process, const char *pid_file)
{
	uint64_t pid;
	int error = file_read_number(pid_file, &pid);

	unlink(pid_file);
	if (error)
		return error;
	if (pid < 2 || pid > INT32_MAX)
		return -EINVAL;
	child_adopt(&process->child, pid);
	return 0;
}

struct process *process_for(struct call *call, const char *container_id, const char *id)
{
	struct container *container = container_for(call, container_id);
	struct process *process;

	if (!container)
		return NULL;
	if (!text_of(id)[0] || !strcmp(id, container->id))
		return container->processes;
	process = process_find(container, id);
	if (!process)
		call_fail(call, STATUS_NOT_FOUND, "no process %s in the container %s", id, container_id);
	return process;
}

static void forget_ended(struct container *container)
{
	struct process *process, *next;
	unsigned int ended = 0;

	for (process = container->processes->next; process; process = process->next)
		ended += process->exited && process->waited;
	/* The oldest is first. */
	for (process = container->processes->next; process && ended > ENDED_MAX; process = next) {
		next = process->next;
		if (process->exited && process->waited) {
			process_free(process);
			ended--;
		}
	}
}

static void exec_done(struct crun_job *job, int status)
{
	char *pid_file = xasprintf("%s/exec.%s.pid", job->container->directory, job->process->id);
	char *spec = xasprintf("%s/exec.%s.json", job->container->directory, job->process->id);
	const grpc_Box *size = &((grpc_ExecProcessRequest *)job->call->request)->process.ConsoleSize;
	int error;

	unlink(spec);
	if (status) {
		crun_fail(job, "exec", status);
		process_free(job->process);
	} else if ((error = stdio_take_terminal(&job->process->io, size->Height, size->Width)) ||
		   (error = process_adopt(job->process, pid_file))) {
		call_fail(job->call, STATUS_INTERNAL, "exec: %s", strerror(-error));
		process_free(job->process);
	} else {
		call_done(job->call);
	}
	unlink(pid_file);
	free(pid_file);
	free(spec);
}

/* Open the file that the host shares with the process, if there is one, as the last of its descriptors; 0 or -errno. */
static int window_open(const char *path, int fds[CHILD_FDS])
{
	if (!text_of(path)[0])
		return 0;
	if (!path_is_valid(path))
		return -EINVAL;
	/* What the host writes there must not be read from this kernel's page cache. */
	fds[CHILD_FDS - 1] = open(path, O_RDWR | O_DIRECT | O_NOFOLLOW | O_CLOEXEC);
	return fds[CHILD_FDS - 1] < 0 ? -errno : 0;
}

/* Start crun for a new process, from its description as JSON; 0 or -errno. */
static int exec_start(struct container *container, struct process *process, struct call *call, const struct json *json)
{
	grpc_ExecProcessRequest *request = call->request;
	char *spec_option = xasprintf("--process=%s/exec.%s.json", container->directory, process->id);
	char *pid_option = xasprintf("--pid-file=%s/exec.%s.pid", container->directory, process->id);
	char *console_option = NULL;
	int error, fds[CHILD_FDS] = CHILD_NO_FDS;

	error = file_create(strchr(spec_option, '=') + 1, json->text, json->used, 0600);
	if (!error)
		error = window_open(request->window, fds);
	if (!error)
		error = stdio_open(&process->io, request->process.Terminal, fds);
	if (!error) {
		const char *arguments[] = { "exec", "--detach", spec_option, pid_option, NULL, NULL, NULL };
		size_t count = 4;

		if (process->io.console)
			arguments[count++] = console_option = xasprintf("--console-socket=%s", process->io.console);
		if (fds[CHILD_FDS - 1] >= 0)
			arguments[count++] = "--preserve-fds=1";
		error = crun_start(container, process, call, arguments, fds, exec_done);
	}
	stdio_close_child(fds);
	free(spec_option);
	free(pid_option);
	free(console_option);
	return error;
}

void rpc_exec_process(struct call *call)
{
	grpc_ExecProcessRequest *request = call->request;
	struct container *container = container_for(call, request->container_id);
	struct json json = { 0 };
	struct process *process;
	const char *wrong = NULL;
	int error;

	if (!container)
		return;
	if (container->state != CONTAINER_RUNNING || container->processes->exited) {
		call_fail(call, STATUS_FAILED_PRECONDITION, "the container %s does not run", container->id);
		return;
	}
	if (text_of(request->config)[0])
		json_raw(&json, request->config, strlen(request->config));
	else
		wrong = oci_write_process(&json, &request->process);
	if (wrong) {
		free(json.text);
		call_fail(call, STATUS_INVALID_ARGUMENT, "exec: %s", wrong);
		return;
	}
	forget_ended(container);
	error = process_new(container, request->exec_id, &process);
	if (error) {
		free(json.text);
		call_fail(call, status_of(error), "exec_id %s: %s", text_of(request->exec_id), strerror(-error));
		return;
	}
	error = exec_start(container, process, call, &json);
	free(json.text);
	if (error) {
		process_free(process);
		call_fail(call, status_of(error), "exec: %s", strerror(-error));
	}
}

void rpc_signal_process(struct call *call)
{
	grpc_SignalProcessRequest *request = call->request;
	struct process *process = process_for(call, request->container_id, request->exec_id);
	int error = 0;

	if (!process)
		return;
	if (request->signal > (uint32_t)SIGRTMAX) {
		call_fail(call, STATUS_INVALID_ARGUMENT, "no signal %u", request->signal);
		return;
	}
	if (!text_of(request->exec_id)[0])
		error = container_signal(process->container, request->signal);
	else if (process->exited || !process->child.pid)
		error = -ESRCH;
	else if (kill(process->child.pid, request->signal))
		error = -errno;
	if (error)
		call_fail(call, status_of(error), "signal %u: %s", request->signal, strerror(-error));
	else
		call_done(call);
}

static void wait_cancel(struct call *call)
{
	struct process *process = call->owner;
	struct call **link = &process->waiters;

	while (*link != call)
		link = &(*link)->parked_next;
	*link = call->parked_next;
}

void rpc_wait_process(struct call *call)
{
	grpc_WaitProcessRequest *request = call->request;
	struct process *process = process_for(call, request->container_id, request->exec_id);

	if (!process)
		return;
	call->owner = process;
	call->cancel = wait_cancel;
	call->parked_next = process->waiters;
	process->waiters = call;
	if (process->exited)
		waiters_answer(process);
}

void rpc_write_stdin(struct call *call)
{
	grpc_WriteStreamRequest *request = call->request;
	struct process *process = process_for(call, request->container_id, request->exec_id);

	if (process)
		stream_write(&process->io.in, call);
}

void rpc_read_stdout(struct call *call)
{
	grpc_ReadStreamRequest *request = call->request;
	struct process *process = process_for(call, request->container_id, request->exec_id);

	if (process)
		stream_read(&process->io.out, call, request->len);
}

void rpc_read_stderr(struct call *call)
{
	grpc_ReadStreamRequest *request = call->request;
	struct process *process = process_for(call, request->container_id, request->exec_id);

	if (process)
		stream_read(&process->io.err, call, request->len);
}

void rpc_close_stdin(struct call *call)
{
	grpc_CloseStdinRequest *request = call->request;
	struct process *process = process_for(call, request->container_id, request->exec_id);

	if (!process)
		return;
	stream_close(&process->io.in);
	call_done(call);
}

void rpc_resize_tty(struct call *call)
{
	grpc_TtyWinResizeRequest *request = call->request;
	struct process *process = process_for(call, request->container_id, request->exec_id);
	int error;

	if (!process)
		return;
	error = stdio_resize(&process->io, request->row, request->column);
	if (error)
		call_fail(call, STATUS_FAILED_PRECONDITION, "%s: %s", process->id, strerror(-error));
	else
		call_done(call);
}
