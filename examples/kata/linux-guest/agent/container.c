// SPDX-License-Identifier: Apache-2.0
/* Containers: create, start, remove. */
#include "container.h"

#include "oci.h"
#include "ttrpc.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SECOND 1000000000ull

static struct container *all;

static struct container *container_find(const char *id)
{
	struct container *container;

	for (container = all; container; container = container->next) {
		if (!strcmp(container->id, id))
			return container;
	}
	return NULL;
}

struct container *container_for(struct call *call, const char *id)
{
	struct container *container = container_find(text_of(id));

	if (!container || container->state >= CONTAINER_REMOVING) {
		call_fail(call, STATUS_NOT_FOUND, "no container %s", text_of(id));
		return NULL;
	}
	if (container->state == CONTAINER_CREATING) {
		call_fail(call, STATUS_FAILED_PRECONDITION, "the container %s is being created", id);
		return NULL;
	}
	return container;
}

static void container_free(struct container *container)
{
	struct container **link = &all;

	while (*link != container)
		link = &(*link)->next;
	*link = container->next;
	timer_clear(&container->patience);
	oom_unwatch(container->oom);
	while (container->processes)
		process_free(container->processes);
	while (container->mount_count)
		storage_release(container->mount_points[--container->mount_count]);
	for (size_t i = 0; container->mount_points && container->mount_points[i]; i++)
		free(container->mount_points[i]);
	free(container->mount_points);
	directory_remove(container->directory);
	share_forget(container->id);
	free(container->directory);
	free(container->cgroup);
	free(container->id);
	free(container);
}

struct signalling {
	int signal, error;
};

static void signal_one(pid_t pid, void *context)
{
	struct signalling *signalling = context;

	if (kill(pid, signalling->signal) && errno != ESRCH)
		signalling->error = -errno;
}

int container_signal(struct container *container, int signal)
{
	struct signalling signalling = { .signal = signal };
	int error;

	if (signal == SIGKILL) {
		char *path = xasprintf("%s/cgroup.kill", container->cgroup);

		error = file_write(path, "1", 1);
		free(path);
		return error;
	}
	error = processes_each(container->cgroup, signal_one, &signalling);
	return error ? -ESRCH : signalling.error;
}

static void delete_done(struct crun_job *job, int status)
{
	struct container *container = job->container;

	container->deleted = true;
	if (!status || !container->remover)
		return;
	crun_fail(job, "delete", status);
	container->remover = NULL;
}

static void container_delete(struct container *container)
{
	static const char *const arguments[] = { "delete", "--force", NULL };
	int error = crun_start(container, NULL, container->remover, arguments, crun_no_fds, delete_done);

	if (!error)
		return;
	if (container->remover)
		call_fail(container->remover, STATUS_INTERNAL, "delete: %s", strerror(-error));
	container->remover = NULL;
	container->deleted = true;
	container_progress(container);
}

void container_progress(struct container *container)
{
	struct process *process;
	struct call *remover;

	if (container->jobs || container->state < CONTAINER_REMOVING)
		return;
	if (container->state == CONTAINER_REMOVING) {
		for (process = container->processes; process; process = process->next) {
			if (process->child.pid && !process->exited)
				return;
		}
		timer_clear(&container->patience);
		if (!container->deleted) {
			container_delete(container);
			return;
		}
	}
	remover = container->remover;
	container_free(container);
	if (remover)
		call_done(remover);
}

static void patience_over(struct timer *timer)
{
	struct container *container = container_of(timer, struct container, patience);
	struct call *call = container->remover;

	container->remover = NULL;
	container->state = CONTAINER_RUNNING;
	call_fail(call, STATUS_DEADLINE_EXCEEDED, "processes of the container %s do not end", container->id);
}

void rpc_remove_container(struct call *call)
{
	grpc_RemoveContainerRequest *request = call->request;
	struct container *container = container_for(call, request->container_id);

	if (!container)
		return;
	container->state = CONTAINER_REMOVING;
	container->remover = call;
	container->patience.fire = patience_over;
	if (request->timeout)
		timer_set(&container->patience, clock_now() + request->timeout * SECOND);
	container_signal(container, SIGKILL);
	container_progress(container);
}

static int mount_storages(struct container *container, const grpc_CreateContainerRequest *request, char what[256])
{
	container->mount_points = xzalloc((request->storages_count + 1) * sizeof(char *));
	for (size_t i = 0; i < request->storages_count; i++) {
		int error = storage_mount(&request->storages[i], what);

		if (error)
			return error;
		container->mount_points[container->mount_count++] = xstrdup(request->storages[i].mount_point);
	}
	return 0;
}

/*
 * A namespace path of "container:ID" means the namespace of that container's first process. No other path is
 * accepted.
 */
static int namespaces_resolve(grpc_Linux *spec, char what[256])
{
	static const char join[] = "container:";

	for (size_t i = 0; i < spec->Namespaces_count; i++) {
		grpc_LinuxNamespace *namespace = &spec->Namespaces[i];
		const char *path = text_of(namespace->Path), *type = text_of(namespace->Type);
		struct container *container;

		if (!path[0] || !strcmp(type, "network"))
			continue;
		container = strncmp(path, join, sizeof(join) - 1) ? NULL : container_find(path + sizeof(join) - 1);
		if (!container || !container->processes || !container->processes->child.pid ||
		    container->processes->exited) {
			snprintf(what, 256, "the %.16s namespace of %.200s", type, path);
			return -ESRCH;
		}
		free(namespace->Path);
		namespace->Path = xasprintf("/proc/%d/ns/%s", container->processes->child.pid, type);
	}
	return 0;
}

static pid_t first_process_of(const char *id)
{
	struct container *container = container_find(id);
	const struct process *process = container ? container->processes : NULL;

	return process && !process->exited ? process->child.pid : 0;
}

static int config_of_text(struct json *json, const grpc_CreateContainerRequest *request, char what[256])
{
	const struct config_source source = {
		.text = request->config,
		.mark = text_of(request->mark),
		.find = first_process_of,
		.pid_namespace = sandbox_pid_namespace(),
		.disk = disk_number,
	};

	return config_fill(json, &source, what);
}

static int config_of_message(struct json *json, grpc_CreateContainerRequest *request, const char *cgroup, char what[256])
{
	const struct oci_place place = {
		.cgroup = cgroup,
		.hostname = sandbox_hostname(),
		.pid_namespace = request->sandbox_pidns ? sandbox_pid_namespace() : NULL,
	};
	int error = devices_resolve(request, what);
	const char *wrong;

	if (!error)
		error = namespaces_resolve(&request->OCI.Linux, what);
	if (error)
		return error;
	wrong = oci_write_config(json, &request->OCI, &place);
	if (wrong)
		snprintf(what, 256, "%s", wrong);
	return wrong ? -EINVAL : 0;
}

static int write_config(struct container *container, grpc_CreateContainerRequest *request, char what[256])
{
	char *path = xasprintf("%s/config.json", container->directory), *cgroup = xasprintf("/%s", container->id);
	struct json json = { 0 };
	int error = sysctls_apply(&request->OCI.Linux, what);

	if (!error && text_of(request->config)[0])
		error = config_of_text(&json, request, what);
	else if (!error)
		error = config_of_message(&json, request, cgroup, what);
	if (!error)
		error = file_create(path, json.text, json.used, 0600);
	free(json.text);
	free(cgroup);
	free(path);
	return error;
}

static void create_done(struct crun_job *job, int status)
{
	struct container *container = job->container;
	struct process *process = container->processes;
	const grpc_Box *size = &((grpc_CreateContainerRequest *)job->call->request)->OCI.Process.ConsoleSize;
	char *pid_file = xasprintf("%s/pid", container->directory);
	int error = 0;

	if (!status) {
		error = stdio_take_terminal(&process->io, size->Height, size->Width);
		if (!error)
			error = process_adopt(process, pid_file);
	}
	free(pid_file);
	if (status) {
		container->state = CONTAINER_FAILED;
		crun_fail(job, "create", status);
	} else if (error) {
		/* crun created the container, so crun deletes it. */
		container->state = CONTAINER_REMOVING;
		container_signal(container, SIGKILL);
		call_fail(job->call, STATUS_INTERNAL, "create: %s", strerror(-error));
	} else {
		container->state = CONTAINER_CREATED;
		container->oom = oom_watch(container->cgroup, container->id);
		call_done(job->call);
	}
}

static int container_create(struct container *container, struct call *call, char what[256])
{
	grpc_CreateContainerRequest *request = call->request;
	const char *first = text_of(request->exec_id)[0] ? request->exec_id : container->id;
	char *bundle_option = xasprintf("--bundle=%s", container->directory);
	char *pid_option = xasprintf("--pid-file=%s/pid", container->directory);
	char *console_option = NULL;
	int error, fds[CHILD_FDS] = CHILD_NO_FDS;
	struct process *process;

	error = process_new(container, first, &process);
	if (!error)
		error = directory_make(container->directory, 0700);
	if (!error)
		error = mount_storages(container, request, what);
	if (!error)
		error = write_config(container, request, what);
	if (!error)
		error = stdio_open(&process->io, request->OCI.Process.Terminal, fds);
	if (!error) {
		if (process->io.console)
			console_option = xasprintf("--console-socket=%s", process->io.console);
		const char *const arguments[] = { "create", bundle_option, pid_option, console_option, NULL };

		error = crun_start(container, process, call, arguments, fds, create_done);
	}
	stdio_close_child(fds);
	free(bundle_option);
	free(pid_option);
	free(console_option);
	return error;
}

void rpc_create_container(struct call *call)
{
	grpc_CreateContainerRequest *request = call->request;
	const char *refuser = request->storages_count ? sandbox_refuses("StorageRequest", true) : NULL;
	struct container *container;
	char what[256] = "";
	int error;

	if (!sandbox_is_there()) {
		call_fail(call, STATUS_FAILED_PRECONDITION, "CreateSandbox comes first");
		return;
	}
	if (refuser) {
		call_refuse(call, "StorageRequest", refuser);
		return;
	}
	if (!id_is_valid(request->container_id)) {
		call_fail(call, STATUS_INVALID_ARGUMENT, "bad container_id");
		return;
	}
	if (container_find(request->container_id)) {
		call_fail(call, STATUS_ALREADY_EXISTS, "the container %s exists", request->container_id);
		return;
	}
	share_sweep();
	container = xzalloc(sizeof(*container));
	container->id = xstrdup(request->container_id);
	container->directory = xasprintf(AGENT_DIR "/containers/%s", container->id);
	container->cgroup = xasprintf(CGROUP_DIR "/%s", container->id);
	container->next = all;
	all = container;
	error = container_create(container, call, what);
	if (error) {
		container_free(container);
		call_fail(call, status_of(error), "create: %s%s%s", what, what[0] ? ": " : "", strerror(-error));
	}
}

static void start_done(struct crun_job *job, int status)
{
	if (status) {
		crun_fail(job, "start", status);
		return;
	}
	if (job->container->state == CONTAINER_CREATED) /* or another call already removes it */
		job->container->state = CONTAINER_RUNNING;
	call_done(job->call);
}

void rpc_start_container(struct call *call)
{
	static const char *const arguments[] = { "start", NULL };
	grpc_StartContainerRequest *request = call->request;
	struct container *container = container_for(call, request->container_id);
	int error;

	if (!container)
		return;
	if (container->state != CONTAINER_CREATED || container->jobs) {
		call_fail(call, STATUS_FAILED_PRECONDITION, "the container %s was started", container->id);
		return;
	}
	error = crun_start(container, NULL, call, arguments, crun_no_fds, start_done);
	if (error)
		call_fail(call, status_of(error), "start: %s", strerror(-error));
}
