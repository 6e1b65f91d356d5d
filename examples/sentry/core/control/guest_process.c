// SPDX-License-Identifier: Apache-2.0
/* Processes that the host starts: how each waits, opens its streams, and executes its program. */
#include "container.h"

#include "../fuse/fuse.h"
#include "../seccomp.h"
#include "../slab.h"

enum { ENDED_MOST = 64 };

/* -- the process itself, before its program -- */

static void await_start(struct task *t, struct guest_process *guest)
{
	while (!guest->may_start)
		if (sleep_on(&guest->changed, FOREVER))
			signal_deliver(t); /* does not return if the process is to end */
}

static s64 enter_directory(struct task *t, const char *name)
{
	struct path path;
	s64 error = point_make(name, true, &path);

	if (!error && !S_ISDIR(path.dentry->inode->mode)) {
		path_put(&path);
		error = -ENOTDIR;
	}
	if (!error)
		path_replace(&t->fs->cwd, path);
	return error;
}

/* The value of PATH in the environment. */
static const char *search_path(const struct arguments *a)
{
	const char *at = a->texts;

	for (u64 i = 0; i < a->argc + a->envc; i++, at += string_size(at) + 1)
		if (i >= a->argc && bytes_equal(at, "PATH=", 5))
			return at + 5;
	return "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
}

static bool has_slash(const char *name)
{
	while (*name && *name != '/')
		name++;
	return *name;
}

static s64 find(const char *name)
{
	struct path path;
	s64 error = path_lookup(name, WALK_FOLLOW, &path);

	if (!error)
		path_put(&path);
	return error;
}

/* Try a program of the search path, or by its own path: execute it, or only find it (t is NULL). */
static s64 try_all(struct task *t, struct arguments *a)
{
	const char *at = search_path(a);
	char *name = page_alloc();
	s64 error = -ENOENT;

	if (!name)
		return -ENOMEM;
	if (has_slash(a->texts))
		error = t ? exec_named(t, a->texts, a) : *a->texts == '/' ? find(a->texts) : 0;
	while (!has_slash(a->texts) && (error == -ENOENT || error == -ENOTDIR || error == -EACCES) && *at) {
		u64 size = 0;
		s64 now;

		while (at[size] && at[size] != ':')
			size++;
		if (size && size + string_size(a->texts) + 2 <= PAGE) {
			bytes_copy(name, at, size);
			name[size] = '/';
			bytes_copy(name + size + 1, a->texts, string_size(a->texts) + 1);
			now = t ? exec_named(t, name, a) : find(name);
			error = error == -EACCES && now == -ENOENT ? error : now;
		}
		at += size + (at[size] == ':');
	}
	page_free(name);
	return error;
}

s64 program_find(const struct program *program)
{
	struct arguments arguments = program->arguments;

	return try_all(NULL, &arguments);
}

static s64 begin(struct task *t, struct guest_process *guest)
{
	struct program *program = &guest->program;
	s64 error = program->terminal ? streams_open_terminal(guest, t) : 0;

	if (!error)
		error = enter_directory(t, program->directory ? program->directory : "/");
	if (error)
		return error;
	cred_free(&t->cred);
	cred_copy(&t->cred, &program->cred);
	t->no_new_privs = program->no_new_privs;
	t->fs->umask = program->umask;
	t->seccomp = guest->container->seccomp;
	seccomp_get(t->seccomp);
	t->process->oom_adjustment = program->oom_adjustment;
	for (u32 i = 0; i < RLIMITS; i++)
		if (program->limited & 1u << i)
			t->process->limits[i] = program->limits[i];
	if (guest->container->limits.cpus)
		t->affinity = guest->container->limits.cpus;
	return try_all(t, &program->arguments);
}

static void run(void)
{
	struct task *t = core.current;
	struct guest_process *guest = t->data;

	await_start(t, guest);
	guest->error = begin(t, guest);
	program_free(&guest->program);
	guest->started = true;
	wake_all(&guest->changed);
	if (guest->error) {
		process_end(t->process, 127 << 8);
		task_exit(t);
	}
	task_run();
}

/* -- its start -- */

/* A process of its own session, with the streams as its descriptors. */
static s64 make_process(struct guest_process *guest)
{
	struct task *t = tasks_are_full() ? NULL : task_alloc(run);
	struct space *pids = guest->container->spaces[SPACE_PID];
	s32 pid = tid_new(pids);
	int error = -ENOMEM;

	if (!t)
		return -EAGAIN;
	if (pids->pids.ended) {
		task_discard(t);
		return -ESRCH;
	}
	t->data = guest;
	t->number = NO_CALL;
	t->timer_slack = t->default_slack = TIMER_SLACK;
	t->files = files_new();
	t->fs = fs_copy(guest->container->fs);
	t->sighand = kmalloc(sizeof(*t->sighand));
	t->fpu = fpu_new();
	cred_init(&t->cred, 0, 0);
	if (t->files && t->fs && t->sighand && t->fpu) {
		t->sighand->references = 1;
		t->process = process_new(control_process(), NULL, pid);
	}
	if (t->process) {
		t->process->pids = pids->number;
		limits_init(t->process);
		task_add(t, pid);
		error = streams_make(guest, t);
	}
	if (error) {
		if (t->process) {
			task_remove(t);
			process_free(t->process);
		}
		task_discard(t);
		return error;
	}
	guest->terminal = guest->program.terminal;
	guest->process = t->process;
	t->process->guest = guest;
	t->process->exit_signal = SIGCHLD;
	t->process->subreaper = pids->number == SANDBOX_PIDS; /* orphans stay in the container */
	container_join(guest->container, t->process);
	guest->references++;
	task_start(t);
	return 0;
}

/* A process that has ended gives its id back, but for the first one: the host forgets those of execs without a call. */
static bool is_known(const struct container *container, const struct reader *id)
{
	LIST_EACH_SAFE(at, next, &container->processes) {
		struct guest_process *guest = CONTAINER(at, struct guest_process, processes);

		if (!reader_is(id, guest->id))
			continue;
		if (!guest->ended || at == container->processes.next)
			return true;
		guest_process_forget(guest);
	}
	return false;
}

/* Forget processes that have ended, the oldest first, if there are many, or no other has room. */
static void forget_ended(struct container *container)
{
	u32 ended = 0, most = ENDED_MOST;

	LIST_EACH(at, &container->processes)
		ended += CONTAINER(at, struct guest_process, processes)->ended;
	if (container->guest_count >= PROCESSES_MOST && ended && ended <= most)
		most = ended - 1;
	LIST_EACH_SAFE(at, next, &container->processes) {
		struct guest_process *guest = CONTAINER(at, struct guest_process, processes);

		if (ended <= most)
			return;
		if (!guest->ended || at == container->processes.next) /* the first process stays */
			continue;
		ended--;
		guest_process_forget(guest);
	}
}

void guest_process_forget(struct guest_process *guest)
{
	if (list_empty(&guest->processes))
		return;
	list_remove(&guest->processes);
	guest->container->guest_count--;
	guest_process_put(guest);
}

struct guest_process *guest_process_new(struct container *container, const struct reader *id, struct program *program,
					s64 *error)
{
	struct guest_process *guest = NULL;

	*error = -EINVAL;
	forget_ended(container);
	if (!reader_size(id) || reader_size(id) > ID_MOST)
		goto failed;
	*error = is_known(container, id) ? -EEXIST : container->guest_count >= PROCESSES_MOST ? -EAGAIN : -ENOMEM;
	guest = *error == -ENOMEM ? kmalloc(sizeof(*guest)) : NULL;
	if (!guest)
		goto failed;
	guest->id = reader_text(id);
	guest->container = container;
	guest->references = 1;
	list_init(&guest->processes);
	reference_get(&container->references);
	guest->program = *program;
	*program = (struct program){ .limited = 0 };
	*error = guest->id ? make_process(guest) : -ENOMEM;
	if (*error) {
		guest_process_put(guest);
		return NULL;
	}
	list_add(&container->processes, &guest->processes);
	container->guest_count++;
	guest->references++;
	return guest;
failed:
	program_free(program);
	return NULL;
}

void guest_process_put(struct guest_process *guest)
{
	struct container *container = guest->container;

	if (!reference_put(&guest->references))
		return;
	streams_close(guest);
	program_free(&guest->program);
	kfree(guest->id);
	kfree(guest);
	container_put(container);
}

void guest_process_ended(struct process *p)
{
	struct guest_process *guest = p->guest;
	struct container *container = guest->container;
	bool first = container->processes.next == &guest->processes;

	p->guest = NULL;
	guest->process = NULL;
	guest->ended = true;
	guest->status = p->status;
	wake_all(&guest->changed);
	if (first)
		container_kill(container, p);
	guest_process_put(guest);
}

s64 guest_process_start(struct call *call, struct guest_process *guest)
{
	const char *name = guest->program.arguments.texts ? guest->program.arguments.texts : "";
	struct text subject = { .data = NULL };
	s64 error = 0;

	if (guest->may_start || guest->ended)
		return call_fail(call, STATUS_FAILED_PRECONDITION, guest->ended ? "it has ended" : "it was started before", NULL,
				 NULL);
	text_bytes(&subject, name, string_size(name) + 1);
	fuse_refresh();
	guest->may_start = true;
	wake_all(&guest->changed);
	while (!guest->started && !guest->ended && !error)
		error = call_sleep(call, &guest->changed);
	if (!error && guest->error) {
		call_fail(call, STATUS_INTERNAL, "exec ", subject.failed ? "?" : subject.data, ": ");
		text_put(&call->why, error_text(guest->error));
	}
	text_free(&subject);
	return error;
}

/* -- calls -- */

struct guest_process *guest_process_of(struct call *call)
{
	const struct reader id = reader_part(call->request, 1);
	struct reader process = reader_part(call->request, 2);
	struct container *container = container_find(&id);

	if (container && !reader_size(&process))
		process = id;
	if (container)
		LIST_EACH(at, &container->processes) {
			struct guest_process *guest = CONTAINER(at, struct guest_process, processes);

			if (!reader_is(&process, guest->id))
				continue;
			guest->references++;
			return guest;
		}
	call_fail(call, STATUS_NOT_FOUND, container ? "there is no such process" : "there is no such container", NULL, NULL);
	return NULL;
}

s64 exec_process(struct call *call)
{
	const struct reader container_id = reader_part(call->request, ExecProcessRequest_container_id);
	const struct reader id = reader_part(call->request, ExecProcessRequest_exec_id);
	struct container *container = container_find(&container_id);
	struct guest_process *guest;
	struct program program;
	s64 error;

	if (!container)
		return call_fail(call, STATUS_NOT_FOUND, "there is no such container", NULL, NULL);
	if (!container_runs(container))
		return call_fail(call, STATUS_FAILED_PRECONDITION, "the container does not run", NULL, NULL);
	error = program_read(call, reader_part(call->request, ExecProcessRequest_process), &program);
	if (error)
		return error;
	guest = guest_process_new(container, &id, &program, &error);
	if (!guest)
		return error;
	error = guest_process_start(call, guest);
	if (call->status != STATUS_OK)
		guest_process_forget(guest);
	guest_process_put(guest);
	return error;
}

s64 wait_process(struct call *call)
{
	struct guest_process *guest = guest_process_of(call);
	s64 error = 0;

	if (!guest)
		return 0;
	while (!guest->ended && !error)
		error = call_sleep(call, &guest->changed);
	if (!error) {
		s32 signal = guest->status & 0x7f;

		files_settle(); /* what it has done to files is there when the host learns of its end */

		put_field_number(&call->answer, WaitProcessResponse_status, (u64)(signal ? 128 + signal : guest->status >> 8 & 0xff));
	}
	guest_process_put(guest);
	return error;
}

s64 signal_process_call(struct call *call)
{
	const struct reader process = reader_part(call->request, SignalProcessRequest_exec_id);
	struct reader r = call->request;
	struct guest_process *guest = guest_process_of(call);
	struct field field;
	u64 number = 0;
	s64 error = 0;

	if (!guest)
		return 0;
	while (field_next(&r, &field))
		if (field.number == SignalProcessRequest_signal)
			number = field.value;
	if (number > SIGNALS)
		error = -EINVAL;
	else if (!reader_size(&process))
		container_signal(guest->container, (int)number);
	else if (!guest->process)
		error = -ESRCH;
	else if (number) {
		const struct siginfo info = siginfo_user((int)number, SI_USER);

		signal_send_process(guest->process, &info);
	}
	guest_process_put(guest);
	return error;
}
