// SPDX-License-Identifier: Apache-2.0
/* Containers: how they are made, frozen, killed and removed, and what is counted. */
#include "container.h"

#include "../cpu_timer.h"
#include "../ptrace.h"
#include "../seccomp.h"
#include "../slab.h"
#include "../vfs/process_file.h"

static struct {
	struct list all;
	u32 count;
	struct mutex making; /* one at a time: the next root is mounted at the same place */
	struct wait_queue out_of_memory;
} containers;

void containers_init(void)
{
	bytes_zero(&containers, sizeof(containers));
	list_init(&containers.all);
}

struct container *container_find(const struct reader *id)
{
	LIST_EACH(at, &containers.all) {
		struct container *container = CONTAINER(at, struct container, containers);

		if (reader_is(id, container->id))
			return container;
	}
	return NULL;
}

struct container *container_of(struct call *call)
{
	const struct reader id = reader_part(call->request, 1);
	struct container *container = container_find(&id);

	if (!container)
		call_fail(call, STATUS_NOT_FOUND, "there is no such container", NULL, NULL);
	return container;
}

void container_put(struct container *container)
{
	if (!reference_put(&container->references))
		return;
	if (container->account)
		account_end(container->account);
	seccomp_put(container->seccomp);
	namespaces_put(container);
	kfree(container->id);
	kfree(container);
}

static struct guest_process *first_of(const struct container *container)
{
	return list_empty(&container->processes) ? NULL :
						   CONTAINER(container->processes.next, struct guest_process, processes);
}

bool container_runs(const struct container *container)
{
	const struct guest_process *first = first_of(container);

	return first && first->started && !first->ended;
}

/* -- its processes -- */

void container_join(struct container *container, struct process *p)
{
	p->container = container;
	p->account = container->account;
	p->pids = container->spaces[SPACE_PID]->number;
	reference_get(&container->references);
}

void container_leave(struct process *p)
{
	struct container *container = p->container;

	container->cpu_time += p->cpu_time;
	wake_all(&container->changed);
	container_put(container);
}

u64 container_tasks(const struct container *container)
{
	u64 count = 0;

	EACH_PROCESS(p)
		if (p->container == container)
			count += p->zombie ? 1 : p->task_count;
	return count;
}

bool container_is_full(const struct container *container)
{
	return container && container->limits.most_tasks && container_tasks(container) >= container->limits.most_tasks;
}

u64 container_cpu_time(const struct container *container)
{
	u64 time = container->cpu_time;

	EACH_PROCESS(p)
		if (p->container == container)
			time += process_cpu_time(p);
	return time;
}

bool containers_compete(void)
{
	return containers.count > 1;
}

void container_charge(struct task *t)
{
	struct container *container = t->process->container;
	const u64 weight = container->limits.weight ? container->limits.weight : USUAL_WEIGHT;

	container->turn += (t->cpu_time - t->charged) * USUAL_WEIGHT / weight;
	t->charged = t->cpu_time;
}

void container_hold(struct task *t)
{
	struct container *container = t->process->container;

	while (container->frozen && !t->process->ending) {
		wake_all(&container->stopped);
		sleep_on_killable(&container->changed, FOREVER);
		signal_deliver(t);
	}
	if (container->limits.quota)
		limits_wait(t);
}

static bool container_lives(const struct container *container)
{
	EACH_PROCESS(p)
		if (p->container == container && !p->zombie)
			return true;
	return false;
}

/* A process of another container that has adopted some of this one need not wait for any, as a container's first program. */
static struct process *abandoned(const struct container *container)
{
	EACH_PROCESS(p)
		if (p->container == container && p->zombie && p->parent->container != container && !tracee_holds(p))
			return p;
	return NULL;
}

void container_kill(struct container *container, const struct process *but)
{
	EACH_PROCESS(p)
		if (p->container == container && p != but && !p->zombie)
			process_end(p, SIGKILL);
}

void container_signal(struct container *container, int signal)
{
	const struct siginfo info = siginfo_user(signal, SI_USER);

	EACH_PROCESS(p)
		if (signal && p->container == container && !p->zombie)
			signal_send_process(p, &info);
}

void container_out_of_memory(struct process *p)
{
	if (!p->container)
		return;
	p->container->out_of_memory = true;
	p->container->killed++;
	wake_all(&containers.out_of_memory);
}

s64 get_oom_event(struct call *call)
{
	for (;;) {
		s64 error;

		LIST_EACH(at, &containers.all) {
			struct container *container = CONTAINER(at, struct container, containers);

			if (!container->out_of_memory)
				continue;
			container->out_of_memory = false;
			put_field_text(&call->answer, OOMEvent_container_id, container->id);
			return 0;
		}
		error = call_sleep(call, &containers.out_of_memory);
		if (error)
			return error;
	}
}

/* -- its life -- */

/* A second call does nothing: a container may be removed while its creation fails. */
static void forget(struct container *container)
{
	if (container->removed)
		return;
	container->removed = true;
	list_remove(&container->containers);
	containers.count--;
	while (first_of(container))
		guest_process_forget(first_of(container));
	root_remove(container);
	container_put(container);
}

static s64 add_hostname(struct container *container, struct reader spec)
{
	struct field field;

	while (field_next(&spec, &field))
		if (field.number == Spec_Hostname && field.bytes.at < field.bytes.end) {
			char *name = reader_text(&field.bytes);

			if (!name)
				return -EINVAL;
			system_set_hostname(container->spaces[SPACE_UTS], name);
			kfree(name);
		}
	return 0;
}

/* A missing program is reported before the container's start, as other runtimes do. */
static s64 find_program(struct call *call, const struct container *container, const struct program *program)
{
	struct fs_context *before = core.current->fs;
	s64 error;

	core.current->fs = container->fs;
	error = program_find(program);
	core.current->fs = before;
	if (error == -ENOENT)
		call_fail(call, STATUS_NOT_FOUND, "executable file `", program->arguments.texts,
			  "` not found in $PATH: No such file or directory");
	return error == -ENOENT ? error : 0;
}

/* Make what belongs to a container in the table: its root, and a process that waits. */
static s64 make_parts(struct call *call, struct container *container, const struct reader *id, struct reader spec)
{
	const struct reader resources = reader_part(reader_part(spec, Spec_Linux), Linux_Resources);
	struct guest_process *guest;
	struct program program;
	struct reader r = call->request;
	struct field field;
	s64 error = limits_set(container, resources);

	if (error)
		return call_fail(call, STATUS_INVALID_ARGUMENT, "linux.resources: invalid limits", NULL, NULL) - EINVAL;
	error = user_namespace_read(call, spec);
	if (!error)
		error = namespaces_read(call, container, spec);
	if (!error)
		error = parameters_read(call, container, spec);
	if (error)
		return error;
	error = filter_read(reader_part(reader_part(spec, Spec_Linux), Linux_Seccomp), &container->seccomp);
	if (error)
		return call_fail(call, STATUS_INVALID_ARGUMENT, "linux.seccomp: ", error_text(error), NULL) + error;
	while (!error && field_next(&r, &field))
		if (field.number == CreateContainerRequest_storages)
			error = mount_storage(call, field.bytes);
	if (!error)
		error = root_make(call, container, spec);
	if (!error)
		error = add_hostname(container, spec);
	if (!error)
		error = program_read(call, reader_part(spec, Spec_Process), &program);
	if (error)
		return error;
	error = find_program(call, container, &program);
	if (error) {
		program_free(&program);
		return error;
	}
	guest = guest_process_new(container, id, &program, &error);
	if (guest)
		guest_process_put(guest);
	return guest ? 0 : error;
}

static s64 make(struct call *call, const struct reader *id, struct reader spec)
{
	struct container *container;
	s64 error;

	if (!reader_size(id) || reader_size(id) > ID_MOST)
		return call_fail(call, STATUS_INVALID_ARGUMENT, "the id of a container has 1 to 255 bytes", NULL, NULL);
	if (container_find(id))
		return call_fail(call, STATUS_ALREADY_EXISTS, "there is such a container", NULL, NULL);
	if (containers.count >= CONTAINERS_MOST)
		return call_fail(call, STATUS_RESOURCE_EXHAUSTED, "there are 64 containers", NULL, NULL);
	container = kmalloc(sizeof(*container));
	if (!container)
		return -ENOMEM;
	container->references = 1;
	container->id = reader_text(id);
	container->account = account_new();
	namespaces_init(container);
	list_init(&container->processes);
	list_add(&containers.all, &container->containers);
	containers.count++;
	error = container->id ? make_parts(call, container, id, spec) : -EINVAL;
	if (error)
		forget(container);
	return error;
}

s64 create_container(struct call *call)
{
	struct field field;
	const struct reader id = reader_part(call->request, CreateContainerRequest_container_id);
	const struct reader config = reader_part(call->request, CreateContainerRequest_config);
	s64 error;

	if (reader_size(&config))
		return call_fail(call, STATUS_INVALID_ARGUMENT, "the Sentry reads no config.json: send a message", NULL, NULL);
	for (struct reader r = call->request; field_next(&r, &field);)
		if (field.number == CreateContainerRequest_storages && policy_refuses(call, "StorageRequest", true))
			return 0;
	mutex_lock(&containers.making);
	error = make(call, &id, reader_part(call->request, CreateContainerRequest_OCI));
	mutex_unlock(&containers.making);
	return error;
}

s64 start_container(struct call *call)
{
	struct container *container = container_of(call);
	struct guest_process *first = container ? first_of(container) : NULL;
	s64 error;

	if (!container)
		return 0;
	if (!first)
		return -ESRCH;
	first->references++;
	error = guest_process_start(call, first);
	guest_process_put(first);
	return error;
}

s64 remove_container(struct call *call)
{
	struct container *container = container_of(call);
	s64 error = 0;

	if (!container)
		return 0;
	reference_get(&container->references);
	mutex_lock(&containers.making); /* it may be in the making */
	mutex_unlock(&containers.making);
	container->frozen = false;
	while (container_lives(container) && !error) {
		container_kill(container, NULL);
		error = call_sleep(call, &container->changed);
	}
	if (!error) {
		mutex_lock(&containers.making);
		for (struct process *p; (p = abandoned(container));)
			process_reap(p);
		forget(container);
		mutex_unlock(&containers.making);
	}
	container_put(container);
	return error;
}

static void set_frozen(struct container *container, bool frozen)
{
	container->frozen = frozen;
	EACH_PROCESS(p)
		if (frozen && p->container == container)
			EACH_TASK(t, p)
				task_interrupt(t, true);
	wake_all(&container->changed);
}

/* No task runs, and none waits for a reply of the file server. */
static bool is_stopped(const struct container *container)
{
	if (container->requests)
		return false;
	EACH_PROCESS(p)
		if (p->container == container)
			EACH_TASK(t, p)
				if (t->state == TASK_READY || t->state == TASK_RUNNING)
					return false;
	return true;
}

/*
 * The host copies the files of a frozen container, so no request may be in flight.  Tasks that fall asleep elsewhere wake
 * nobody: check each millisecond, too.
 */
static s64 await_stop(struct call *call, struct container *container)
{
	const u64 most = 10000000000, step = 1000000, end = monotonic_now() + most;

	while (container->frozen && !is_stopped(container)) {
		if (monotonic_now() >= end) {
			set_frozen(container, false);
			return call_fail(call, STATUS_DEADLINE_EXCEEDED, "a process does not stop", NULL, NULL);
		}
		sleep_on_killable(&container->stopped, monotonic_now() + step);
	}
	return 0;
}

/* The running container that a request names; NULL: the call has failed, with *error. */
static struct container *running(struct call *call, s64 *error)
{
	struct container *container = container_of(call);

	*error = 0;
	if (container && !container_runs(container)) {
		*error = call_fail(call, STATUS_FAILED_PRECONDITION, "the container does not run", NULL, NULL);
		return NULL;
	}
	return container;
}

s64 freeze_container(struct call *call)
{
	s64 error;
	struct container *container = running(call, &error);

	if (!container)
		return error;
	reference_get(&container->references);
	set_frozen(container, true);
	error = await_stop(call, container);
	container_put(container);
	return error;
}

s64 thaw_container(struct call *call)
{
	s64 error;
	struct container *container = running(call, &error);

	if (container)
		set_frozen(container, false);
	return error;
}

/* -- what is counted -- */

s64 list_processes(struct call *call)
{
	const struct reader format = reader_part(call->request, ListProcessesRequest_format);
	struct container *container = container_of(call);
	struct text list = { .data = NULL };

	if (!container)
		return 0;
	if (reader_is(&format, "files") || reader_is(&format, "stacks")) {
		(reader_is(&format, "files") ? listing_put : stacks_put)(&list, container);
		put_field_message(&call->answer, ListProcessesResponse_process_list, &list);
		return 0;
	}
	EACH_PROCESS(p) {
		if (p->container != container || p->zombie)
			continue;
		text_put(&list, list.size ? "," : "[");
		text_number(&list, (u64)p->pid);
	}
	text_put(&list, list.size ? "]" : "[]");
	put_field_message(&call->answer, ListProcessesResponse_process_list, &list);
	return 0;
}
