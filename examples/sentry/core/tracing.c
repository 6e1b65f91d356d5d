// SPDX-License-Identifier: Apache-2.0
/* Where a task stops for its tracer. */
#include "ptrace.h"

enum { CALL_BIT = 0x80, TRAP_TRACE = 2, TRAP_BRKPT = 1, SINGLE_STEP = 0x100 };

/* -- the stop -- */

/* Wait for the tracer. Another SIGKILL ends this, but not the one that the task may be ending for. */
static void await_tracer(struct task *t)
{
	struct tracee *e = t->tracee;

	if (e->in_exit) {
		while (t->tracee == e && e->stopped)
			sleep_on_always(&t->resumed);
		return;
	}
	while (t->tracee == e && e->stopped)
		if (sleep_on_killable(&t->resumed, FOREVER) && t->tracee == e)
			e->stopped = e->listening = e->is_new = false;
	if (t->tracee == e)
		e->info = NULL;
}

/* Stop, and return the signal that the tracer continues the task with, or 0. */
static s32 stop(struct task *t, s32 code, s32 why, struct siginfo *info, u64 message)
{
	struct tracee *e = t->tracee;

	if (!e || (task_must_end(t) && !e->in_exit))
		return 0;
	task_flush(t);
	e->trap = false;
	if (code >> 8 == PTRACE_EVENT_STOP)
		e->news = false;
	if (why == CLD_STOPPED)
		e->group_stop = false;
	e->stopped = e->is_new = true;
	e->listening = false;
	e->code = code;
	e->why = why;
	e->info = info;
	e->message = message;
	e->user = t->cred.user.real;
	t->resume_signal = 0;
	tracee_notify(e, why, code & 0x7f);
	await_tracer(t);
	return t->resume_signal;
}

/* A stop for something other than a signal; as Linux's ptrace_notify. */
static s32 stop_for(struct task *t, s32 signal, s32 code, s32 why, u64 message)
{
	struct siginfo info = siginfo_user(signal, code);

	return stop(t, code, why, &info, message);
}

static void step_done(struct task *t, s32 code)
{
	t->tracee->resume = RESUME_FREE;
	signal_force(t, SIGTRAP, code, t->regs.rip);
}

static bool is_stepping(const struct tracee *e)
{
	return e->resume == RESUME_STEP || e->resume == RESUME_STEP_EMULATE;
}

/* -- pending stops -- */

bool tracing_pending(const struct task *t)
{
	const struct tracee *e = t->tracee;

	return e && (e->trap || e->news || e->group_stop);
}

void tracing_trap(struct task *t)
{
	const struct process *p = t->process;
	struct tracee *e = t->tracee;
	s32 signal = p->stopped ? p->status >> 8 & 0x7f : SIGTRAP;
	s32 why = e->group_stop || p->stopped ? CLD_STOPPED : CLD_TRAPPED;
	bool is_needed = e->seized || p->stopped;

	e->trap = e->group_stop = false;
	if (e->seized)
		stop_for(t, signal, signal | PTRACE_EVENT_STOP << 8, why, 0);
	else if (is_needed)
		stop(t, signal, CLD_STOPPED, NULL, 0);
}

/* -- signals -- */

bool tracing_signal(struct task *t, struct siginfo *info)
{
	s32 signal;

	if (info->signal == SIGKILL)
		return true;
	signal = stop(t, info->signal, CLD_TRAPPED, info, 0);
	if (!signal)
		return false;
	if (signal != info->signal) {
		*info = (struct siginfo){ .signal = signal };
		if (t->tracee) {
			const struct task *tracer = t->tracee->tracer;

			info->fields[0] = (u32)tracer->process->pid | (u64)tracer->cred.user.real << 32;
		}
	}
	if (!(t->blocked & SIGNAL_BIT(signal)))
		return true;
	signal_send_task(t, info);
	return false;
}

void tracing_handler(struct task *t)
{
	if (is_stepping(t->tracee)) {
		t->tracee->resume = RESUME_FREE;
		stop_for(t, SIGTRAP, SIGTRAP, CLD_TRAPPED, 0);
	}
}

/* -- system calls -- */

static void stop_at_call(struct task *t, u64 message)
{
	s32 bit = t->tracee->options & PTRACE_O_TRACESYSGOOD ? CALL_BIT : 0;
	const struct siginfo info = { .signal = stop_for(t, SIGTRAP, SIGTRAP | bit, CLD_TRAPPED, message), .code = SI_KERNEL };

	if (info.signal && !task_must_end(t))
		signal_send_task(t, &info);
}

bool tracing_call(struct task *t)
{
	enum resume how = t->tracee->resume;

	if (how == RESUME_CALL || how == RESUME_EMULATE || how == RESUME_STEP_EMULATE) {
		task_flush(t);
		t->regs.rax = (u64)-ENOSYS;
		stop_at_call(t, AT_ENTRY);
	}
	return (how == RESUME_FREE || how == RESUME_CALL || how == RESUME_STEP) && t->number != NO_CALL && !task_must_end(t);
}

void tracing_call_done(struct task *t)
{
	struct tracee *e = t->tracee;

	if (!e || task_must_end(t))
		return;
	if (is_stepping(e)) {
		task_flush(t);
		step_done(t, TRAP_BRKPT);
	} else if (e->resume == RESUME_CALL) {
		stop_at_call(t, AT_EXIT);
	}
}

/* -- one instruction -- */

/* The CPU's flag for single steps is the program's own, unless the tracer wants one. */
void tracing_enter(struct task *t, bool may_stop, struct event *event)
{
	bool steps = is_stepping(t->tracee) && !(t->regs.flags & SINGLE_STEP);

	if (tracing_pending(t)) { /* since the task has looked for signals */
		*event = (struct event){ .kind = EVENT_PREEMPTED };
		return;
	}
	if (steps) {
		task_flush(t);
		t->regs.flags |= SINGLE_STEP;
	}
	breakpoints_enter(t, may_stop, event);
	if (!steps)
		return;
	task_flush(t);
	t->regs.flags &= ~(u64)SINGLE_STEP;
	if (event->kind != EVENT_SIGNAL || event->signal != SIGTRAP || event->code != TRAP_TRACE)
		return;
	if (t->tracee && is_stepping(t->tracee))
		t->tracee->resume = RESUME_FREE;
	else
		event->kind = EVENT_PREEMPTED; /* nobody waits for it any more */
}

/* -- events -- */

void tracing_event(struct task *t, u32 event, u64 message)
{
	struct tracee *e = t->tracee;

	if (e && e->options & 1u << event)
		stop_for(t, SIGTRAP, SIGTRAP | (s32)event << 8, CLD_TRAPPED, message);
}

u32 tracing_clone(struct task *t, struct task *child, u64 flags, u64 exit_signal)
{
	const struct siginfo stop_first = { .signal = SIGSTOP };
	struct tracee *e = t->tracee, *own;
	u32 event = flags & CLONE_VFORK ? PTRACE_EVENT_VFORK : exit_signal == SIGCHLD ? PTRACE_EVENT_FORK : PTRACE_EVENT_CLONE;

	if (flags & CLONE_UNTRACED || !(e->options & 1u << event))
		event = 0;
	if (!event && !(flags & CLONE_PTRACE))
		return 0;
	if (tracee_attach(e->tracer, child, e->seized, e->options))
		return 0;
	own = child->tracee;
	own->capable = e->capable;
	own->trap = e->seized;
	if (!e->seized)
		signal_send_task(child, &stop_first);
	return event;
}

void tracing_exec(struct task *t, s32 tid)
{
	struct tracee *e = t->tracee;

	e->tid = t->tid;
	e->breakpoints = (struct breakpoints){ .control = 0 }; /* at addresses of the former program */
	e->hits = 0;
	if (e->options & PTRACE_O_TRACEEXEC)
		tracing_event(t, PTRACE_EVENT_EXEC, (u64)tid);
	else if (!e->seized)
		signal_raise(t, SIGTRAP);
}

/* SIGKILL does not wait for a tracer. */
void tracing_exit(struct task *t)
{
	struct tracee *e = t->tracee;

	if (!(e->options & PTRACE_O_TRACEEXIT) || !t->mm || (t->process->ending && t->process->status == SIGKILL))
		return;
	e->in_exit = true;
	tracing_event(t, PTRACE_EVENT_EXIT, (u64)(t->process->ending ? t->process->status : e->status));
}
