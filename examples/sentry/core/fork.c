// SPDX-License-Identifier: Apache-2.0
/* New tasks: fork, vfork, clone and clone3. */
#include "ptrace.h"
#include "filters.h"
#include "seccomp.h"
#include "space.h"
#include "control/container.h"
#include "vfs/fds.h"
#include "vfs/pidfd.h"

enum { SIGNAL_MASK = 0xff };

struct clone {
	u64 flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup;
};

/* As a cgroup counts them: zombies included. */
bool tasks_are_full(void)
{
	u32 most = core.config->most_tasks, count = 0;

	EACH_PROCESS(p)
		count += p->zombie ? 1 : p->task_count;
	count += tracees_ended();
	return most && count >= most;
}

/* Whether a user other than root has as many tasks as RLIMIT_NPROC allows. */
static bool too_many(const struct task *t)
{
	u64 most = t->process->limits[RLIMIT_NPROC].current, count = 0;
	u32 user = t->cred.user.real;

	if (!user || most == ~0ull || capable(CAP_SYS_RESOURCE) || capable(CAP_SYS_ADMIN))
		return false;
	EACH_PROCESS(p)
		EACH_TASK(other, p)
			count += other->cred.user.real == user;
	return count >= most;
}

static s64 check(struct task *t, const struct clone *c)
{
	const u64 flags = c->flags;

	if (flags & CLONE_THREAD && !(flags & CLONE_SIGHAND))
		return -EINVAL;
	if (flags & CLONE_SIGHAND && (!(flags & CLONE_VM) || flags & CLONE_CLEAR_SIGHAND))
		return -EINVAL;
	if (flags & CLONE_PARENT && (!t->process->parent || process_is_init(t->process)))
		return -EINVAL; /* the child would have a parent outside of the namespace */
	if (flags & CLONE_NEWNS && flags & CLONE_FS)
		return -EINVAL;
	if (flags & CLONE_NAMESPACES)
		return capable(CAP_SYS_ADMIN) ? -EINVAL : -EPERM;
	if (flags & CLONE_INTO_CGROUP || (flags & CLONE_PIDFD && flags & CLONE_THREAD))
		return -EINVAL;
	if (flags & CLONE_PIDFD && flags & CLONE_PARENT_SETTID && c->pidfd == c->parent_tid)
		return -EINVAL;
	/* Can sleep: thus before the tasks are counted, and before there is a child. */
	if (flags & CLONE_PIDFD && user_writable(t->mm, c->pidfd, sizeof(s32)) < sizeof(s32))
		return -EFAULT;
	return tasks_are_full() || container_is_full(t->process->container) || too_many(t) ? -EAGAIN : 0;
}

static struct sighand *handlers_copy(struct task *from, u64 flags)
{
	struct sighand *sighand;

	if (flags & CLONE_SIGHAND) {
		reference_get(&from->sighand->references);
		return from->sighand;
	}
	sighand = sighand_copy(from->sighand);
	if (sighand && flags & CLONE_CLEAR_SIGHAND)
		signal_reset_handlers(sighand);
	return sighand;
}

static struct mm *mm_copy(struct task *from, u64 flags)
{
	if (!(flags & CLONE_VM))
		return mm_fork(from->mm);
	mm_get(from->mm);
	return from->mm;
}

static struct files *descriptors_copy(struct task *from, u64 flags)
{
	if (!(flags & CLONE_FILES))
		return files_copy(from->files);
	files_get(from->files);
	return from->files;
}

static struct fs_context *directory_copy(struct task *from, u64 flags)
{
	if (!(flags & CLONE_FS))
		return fs_copy(from->fs);
	fs_get(from->fs);
	return from->fs;
}

void task_discard(struct task *t)
{
	if (t->mm)
		mm_put(t->mm);
	files_put(t->files);
	if (t->fs)
		fs_put(t->fs);
	if (t->sighand)
		sighand_put(t->sighand);
	cred_free(&t->cred);
	seccomp_put(t->seccomp);
	filters_put(t->filters);
	kfree(t->fpu);
	task_free(t);
}

static struct task *copy(struct task *from, const struct clone *c)
{
	struct task *t = task_alloc(task_run);

	if (!t)
		return NULL;
	t->fpu = fpu_new();
	t->sighand = handlers_copy(from, c->flags);
	t->files = descriptors_copy(from, c->flags);
	t->fs = directory_copy(from, c->flags);
	t->mm = mm_copy(from, c->flags);
	if (!t->fpu || !t->sighand || !t->files || !t->fs || !t->mm) {
		task_discard(t);
		return NULL;
	}
	task_flush(from);
	bytes_copy(t->fpu, from->fpu, core.config->fpu_size);
	t->regs = from->regs;
	t->regs.rax = 0;
	if (c->stack)
		t->regs.rsp = c->stack + c->stack_size;
	if (c->flags & CLONE_SETTLS)
		t->regs.fs_base = c->tls;
	t->number = NO_CALL;
	t->affinity = from->affinity;
	t->blocked = from->blocked;
	if (!(c->flags & CLONE_VM) || c->flags & CLONE_VFORK)
		t->altstack = from->altstack;
	bytes_copy(t->name, from->name, sizeof(t->name));
	cred_copy(&t->cred, &from->cred);
	t->personality = from->personality;
	t->seccomp = from->seccomp;
	seccomp_get(t->seccomp);
	priority_inherit(t, from);
	t->timer_slack = t->default_slack = from->timer_slack;
	return t;
}

/* Not before: another thread may install filters for all threads while an address space is copied. */
static void share_filters(struct task *t, const struct task *from)
{
	t->no_new_privs = from->no_new_privs;
	t->filters = from->filters;
	filters_get(t->filters);
}

/* A new process for a task, unless it is a thread of its parent's; false: no memory, or its namespace ends. */
static bool join(struct task *t, struct task *from, const struct clone *c, s32 tid)
{
	struct process *parent = c->flags & CLONE_PARENT ? from->process->parent : from->process;

	if (space_of(from->process, SPACE_PID)->pids.ended)
		return false;
	if (c->flags & CLONE_THREAD) {
		t->process = from->process;
	} else {
		t->process = process_new(parent, from->process, tid);
		if (!t->process)
			return false;
		t->process->forked_by = c->flags & CLONE_PARENT ? from->process->forked_by : from->tid;
		t->process->exit_signal = c->flags & CLONE_PARENT ? from->process->exit_signal : (s32)c->exit_signal;
	}
	share_filters(t, from);
	task_add(t, tid);
	return true;
}

/* Sleep until the child leaves the address space; false: this task is killed. */
static bool await_vfork(struct vfork *vfork)
{
	bool done;

	while (!vfork->done && !sleep_on_killable(&vfork->queue, FOREVER))
		;
	done = vfork->done;
	if (reference_put(&vfork->references))
		kfree(vfork);
	return done;
}

static void write_numbers(struct task *from, struct task *t, const struct clone *c, s32 tid, s32 fd)
{
	if (c->flags & CLONE_PIDFD)
		user_write(from->mm, c->pidfd, &fd, sizeof(fd));
	if (c->flags & CLONE_PARENT_SETTID)
		user_write(from->mm, c->parent_tid, &tid, sizeof(tid));
	if (c->flags & CLONE_CHILD_SETTID)
		user_write(t->mm, c->child_tid, &tid, sizeof(tid));
	if (c->flags & CLONE_CHILD_CLEARTID)
		t->clear_tid = c->child_tid;
}

/* The new task can end at once, while its parent stops for a tracer. */
static void start(struct task *from, struct task *t, const struct clone *c, struct vfork *vfork)
{
	u32 event = from->tracee ? tracing_clone(from, t, c->flags, c->exit_signal) : 0;
	u64 tid = (u64)t->tid;

	t->vfork = vfork;
	if (vfork)
		vfork->references = 2;
	task_start(t);
	if (event)
		tracing_event(from, event, tid);
	if (vfork && await_vfork(vfork))
		tracing_event(from, PTRACE_EVENT_VFORK_DONE, tid);
}

static s64 clone(struct task *from, const struct clone *c)
{
	struct vfork *vfork = c->flags & CLONE_VFORK ? kmalloc(sizeof(*vfork)) : NULL;
	s64 error = check(from, c), fd = -1;
	struct task *t = error ? NULL : copy(from, c);
	struct process_ref *ref = NULL;
	s32 tid = tid_new(space_of(from->process, SPACE_PID));

	if (t && c->flags & CLONE_PIDFD)
		fd = error = pidfd_new(from, tid, &ref);
	if (t && (error < 0 || (c->flags & CLONE_VFORK && !vfork) || !join(t, from, c, tid))) {
		if (fd >= 0)
			file_put(fd_clear(from->files, (u32)fd));
		if (ref)
			process_ref_put(ref);
		task_discard(t);
		t = NULL;
	}
	if (!t) {
		kfree(vfork);
		return error < 0 ? error : -EAGAIN;
	}
	if (ref)
		process_ref_attach(ref, t->process);
	write_numbers(from, t, c, tid, (s32)fd);
	start(from, t, c, vfork);
	return tid;
}

s64 sys_fork(struct task *t, const u64 *args)
{
	const struct clone c = { .exit_signal = SIGCHLD };

	(void)args;
	return clone(t, &c);
}

s64 sys_vfork(struct task *t, const u64 *args)
{
	const struct clone c = { .flags = CLONE_VFORK | CLONE_VM, .exit_signal = SIGCHLD };

	(void)args;
	return clone(t, &c);
}

s64 sys_clone(struct task *t, const u64 *args)
{
	const struct clone c = {
		.flags = (u32)args[0] & ~(u32)(SIGNAL_MASK | CLONE_DETACHED), .exit_signal = args[0] & SIGNAL_MASK,
		.stack = args[1], .pidfd = args[2], .parent_tid = args[2], .child_tid = args[3], .tls = args[4],
	};

	if (c.flags & CLONE_PIDFD && args[0] & CLONE_DETACHED)
		return -EINVAL;
	if (c.flags & CLONE_SETTLS && c.tls >= TASK_SIZE)
		return -EPERM;
	return clone(t, &c);
}

s64 sys_clone3(struct task *t, const u64 *args)
{
	enum { LEAST = 64 };
	const u64 known = 0x3ffffffffull & ~(u64)(SIGNAL_MASK | CLONE_DETACHED);
	struct clone c = { .flags = 0 };
	u8 rest = 0;

	if (args[1] > PAGE)
		return -E2BIG;
	if (args[1] < LEAST)
		return -EINVAL;
	for (u64 at = sizeof(c); at < args[1]; at++)
		if (user_read(t->mm, &rest, args[0] + at, 1) || rest)
			return rest ? -E2BIG : -EFAULT;
	if (user_read(t->mm, &c, args[0], args[1] < sizeof(c) ? args[1] : sizeof(c)))
		return -EFAULT;
	if (c.flags & ~known || c.exit_signal > SIGNALS || c.set_tid_size > 32 || !c.set_tid != !c.set_tid_size)
		return -EINVAL;
	if (c.flags & (CLONE_THREAD | CLONE_PARENT) && c.exit_signal)
		return -EINVAL;
	if (!c.stack != !c.stack_size || (c.stack && !user_range(c.stack, c.stack_size)))
		return -EINVAL;
	if (c.flags & CLONE_SETTLS && c.tls >= TASK_SIZE)
		return -EPERM;
	return c.set_tid_size ? -EPERM : clone(t, &c);
}

s64 sys_set_tid_address(struct task *t, const u64 *args)
{
	t->clear_tid = args[0];
	return t->tid;
}
