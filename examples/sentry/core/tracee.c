// SPDX-License-Identifier: Apache-2.0
/* The life of tracees: how tracing begins, what the tracer's or the tracee's end does, and what the tracer learns. */
#include "ptrace.h"

static u32 ended_count; /* tracees whose tasks have ended */

/* -- the beginning -- */

s64 tracee_attach(struct task *tracer, struct task *t, bool seized, u32 options)
{
	struct tracee *e = kmalloc(sizeof(*e));

	if (!e)
		return -ENOMEM;
	e->tracer = tracer;
	e->task = t;
	e->tid = t->tid;
	e->pid = t->process->pid;
	e->seized = seized;
	e->options = options;
	e->capable = cred_capable(&core.current->cred, CAP_SYS_PTRACE);
	list_add(&tracer->tracees, &e->siblings);
	t->tracee = e;
	if (t->process->stopped && t != core.current) {
		e->trap = true;
		wake_all(&t->process->continued); /* from a stop of its group to one for the tracer */
	}
	return 0;
}

/* -- the end -- */

static void tracee_free(struct tracee *e)
{
	list_remove(&e->siblings);
	if (!e->task)
		ended_count--;
	if (e->process)
		e->process->leader = NULL;
	kfree(e);
}

void tracee_resume(struct tracee *e, enum resume how, s32 signal)
{
	e->resume = how;
	e->stopped = e->listening = e->is_new = false;
	e->info = NULL;
	e->task->resume_signal = signal;
	wake_all(&e->task->resumed);
}

void tracee_trap_again(struct tracee *e)
{
	e->trap = true;
	tracee_resume(e, e->resume, 0);
}

void tracee_detach(struct tracee *e, s32 signal)
{
	struct task *t = e->task;

	if (e->stopped)
		tracee_resume(e, RESUME_FREE, signal);
	t->tracee = NULL;
	tracee_free(e);
	if (t->process->stopped)
		task_ready(t); /* it stops with its group */
}

void tracee_forget(struct tracee *e)
{
	struct process *p = e->process, *tracer = e->tracer->process;
	bool is_reparented = p && p->parent != tracer;

	tracee_free(e);
	wake_all(&tracer->child_changed); /* a task of it may wait for nothing any more */
	if (p && p->zombie && is_reparented)
		process_show_end(p);
}

/* The signal of a stop that nobody has waited for takes effect. */
static s32 left_signal(const struct tracee *e)
{
	return e->stopped && e->is_new && e->why == CLD_TRAPPED && e->code <= SIGNALS ? e->code : 0;
}

void tracees_leave(struct task *tracer)
{
	while (!list_empty(&tracer->tracees)) {
		struct tracee *e = CONTAINER(tracer->tracees.next, struct tracee, siblings);
		struct task *t = e->task;
		bool kill = e->options & PTRACE_O_EXITKILL;

		if (!t) {
			tracee_forget(e);
			continue;
		}
		tracee_detach(e, left_signal(e));
		if (kill)
			signal_process(t->process, SIGKILL);
	}
}

/* -- what the tracer learns -- */

void tracee_notify(const struct tracee *e, s32 code, s32 status)
{
	enum { SA_NOCLDSTOP = 1 };
	const struct sigaction *action = &e->tracer->sighand->actions[SIGCHLD - 1];
	const struct siginfo info = {
		.signal = SIGCHLD, .code = code, .fields = { (u32)e->tid | (u64)e->user << 32, (u32)status },
	};
	bool is_end = code == CLD_EXITED || code == CLD_KILLED;

	if (is_end || !(action->flags & SA_NOCLDSTOP))
		signal_send_process(e->tracer->process, &info);
	wake_all(&e->tracer->process->child_changed);
}

struct siginfo tracee_end_info(const struct tracee *e)
{
	bool killed = e->status & 0x7f;

	return (struct siginfo){
		.signal = SIGCHLD, .code = killed ? CLD_KILLED : CLD_EXITED,
		.fields = { (u32)e->tid | (u64)e->user << 32, (u32)(killed ? e->status & 0x7f : e->status >> 8 & 0xff) },
	};
}

static void notify_end(const struct tracee *e)
{
	const struct siginfo info = tracee_end_info(e);

	tracee_notify(e, info.code, (s32)info.fields[1]);
}

/* A leader's end is that of its process, which others of its tasks may delay. */
void tracee_end(struct task *t)
{
	struct tracee *e = t->tracee;

	t->tracee = NULL;
	e->task = NULL;
	ended_count++;
	e->stopped = e->listening = e->is_new = false;
	e->user = t->cred.user.real;
	e->group = t->process->group;
	if (t->process->ending)
		e->status = t->process->status;
	if (t->tid == t->process->pid) {
		e->process = t->process;
		t->process->leader = e;
	} else {
		notify_end(e);
	}
}

bool tracee_holds(struct process *p)
{
	struct tracee *e = p->leader;

	if (!e)
		return false;
	if (e->tracer->process == p->parent) {
		tracee_free(e);
		return false;
	}
	e->status = p->status;
	notify_end(e);
	return true;
}

u32 tracees_ended(void)
{
	return ended_count;
}

void tracees_killed(struct process *p)
{
	EACH_TASK(t, p)
		if (t->tracee && t->tracee->in_exit && t->tracee->stopped)
			tracee_resume(t->tracee, RESUME_FREE, 0);
}

bool tracees_have(u32 pids, s32 tid)
{
	if (!ended_count)
		return false;
	EACH_PROCESS(p)
		EACH_TASK(t, p)
			LIST_EACH(at, &t->tracees)
				if (p->pids == pids && CONTAINER(at, struct tracee, siblings)->tid == tid)
					return true;
	return false;
}
