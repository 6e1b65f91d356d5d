/* SPDX-License-Identifier: Apache-2.0 */
/* Tasks that other tasks trace. */
#ifndef SENTRY_PTRACE_H
#define SENTRY_PTRACE_H

#include "core.h"

enum {
	PTRACE_O_TRACESYSGOOD = 1, PTRACE_O_TRACEFORK = 2, PTRACE_O_TRACEVFORK = 4, PTRACE_O_TRACECLONE = 8,
	PTRACE_O_TRACEEXEC = 16, PTRACE_O_TRACEVFORKDONE = 32, PTRACE_O_TRACEEXIT = 64, PTRACE_O_TRACESECCOMP = 128,
	PTRACE_O_EXITKILL = 1 << 20,
	PTRACE_O_ALL = 0xff | PTRACE_O_EXITKILL,
};
enum {
	PTRACE_EVENT_FORK = 1, PTRACE_EVENT_VFORK, PTRACE_EVENT_CLONE, PTRACE_EVENT_EXEC, PTRACE_EVENT_VFORK_DONE,
	PTRACE_EVENT_EXIT, PTRACE_EVENT_SECCOMP, PTRACE_EVENT_STOP = 128,
};
/* What GETEVENTMSG returns at a system call. */
enum { AT_ENTRY = 1, AT_EXIT = 2, AT_FILTER = 3 }; /* the last: only of GET_SYSCALL_INFO */

/* How a tracee continues: up to its next system call, which it makes or not, or by one instruction. */
enum resume { RESUME_FREE, RESUME_CALL, RESUME_EMULATE, RESUME_STEP, RESUME_STEP_EMULATE };

/*
 * From PTRACE_ATTACH or the like up to PTRACE_DETACH, or until its end was waited for.  The tracer's list owns it.  A
 * tracee that sleeps must not use it afterwards without a look at its task's `tracee` again: the tracer may have ended.
 */
struct tracee {
	struct list siblings; /* of the tracer's */
	struct task *tracer;
	struct task *task;	 /* NULL: it has ended, and nobody has waited for that */
	struct process *process; /* of a leader that has ended; otherwise NULL */
	s32 tid, pid, group;
	u32 user;
	u32 options; /* PTRACE_O_* */
	bool seized;
	bool capable; /* who began this may inspect all: an exec may gain rights */
	enum resume resume;
	/* What it stops for before it returns to its program: INTERRUPT or an attachment, news for LISTEN, a group stop. */
	bool trap, news, group_stop;
	/* The stop. */
	bool stopped, listening;
	bool in_exit;		/* it ends after this stop */
	bool is_new;		/* wait has not reported it */
	s32 code, why;		/* the high byte of the status and what is above; CLD_* */
	struct siginfo *info;	/* in the stack of the tracee; NULL: there is none */
	u64 message;
	s32 status; /* of its end */
	struct breakpoints breakpoints; /* as the tracer has set them: they end with the tracing */
	u64 hits;			/* the bits of DR6 */
};

/* -- tracee.c: the life of tracees -- */

/* Called by the tracer, or by a task that wants to be traced: 0 or -errno. */
s64 tracee_attach(struct task *tracer, struct task *t, bool seized, u32 options);
void tracee_detach(struct tracee *e, s32 signal); /* frees it; the task continues with this signal */
void tracee_resume(struct tracee *e, enum resume how, s32 signal);
void tracee_trap_again(struct tracee *e); /* it reports another stop instead of this one, and of LISTEN */
void tracee_forget(struct tracee *e);	 /* of a task that has ended */
void tracees_leave(struct task *tracer); /* it ends */
void tracee_end(struct task *t); /* when it is in no list of tasks any more */
/* A process has ended, and its tracer must wait for it before its parent does; the tracer was told. */
bool tracee_holds(struct process *p);
bool tracees_have(u32 pids, s32 tid);  /* a task that has ended */
u32 tracees_ended(void);     /* how many tasks have ended that their tracers have not waited for */
void tracees_killed(struct process *p); /* no task waits for its tracer any longer */
void tracee_notify(const struct tracee *e, s32 code, s32 status); /* SIGCHLD for the tracer; CLD_* */
struct siginfo tracee_end_info(const struct tracee *e);

/* -- tracing.c: stops; of the current task, and only if it has a tracee -- */

bool tracing_pending(const struct task *t); /* it must stop before it returns to the program, and stop sleeping */
void tracing_trap(struct task *t);	    /* for what is pending */
bool tracing_signal(struct task *t, struct siginfo *info); /* a signal that is taken; false: there is none any more */
void tracing_handler(struct task *t);	    /* a handler begins */
bool tracing_call(struct task *t);	    /* before a system call; false: it is not to be made */
void tracing_call_done(struct task *t);
void tracing_enter(struct task *t, bool may_stop, struct event *event); /* as task_enter */
void tracing_exec(struct task *t, s32 tid); /* tid: which it had before */
void tracing_exit(struct task *t);	    /* it is about to end */
void tracing_event(struct task *t, u32 event, u64 message); /* if the tracer wants it */
/* The event for a new task of the current one, or 0; the child has been attached to the tracer, too. */
u32 tracing_clone(struct task *t, struct task *child, u64 flags, u64 exit_signal);

/* -- breakpoints.c: breakpoints of the CPU -- */

enum { HIT_STEP = 0x4000 }; /* of DR6: one instruction was executed */

s64 breakpoints_get(const struct tracee *e, u32 index, u64 *value); /* a debug register: 0 or -errno */
s64 breakpoints_set(struct tracee *e, u32 index, u64 value);
void breakpoints_enter(struct task *t, bool may_stop, struct event *event); /* as task_enter */

/* -- registers.c: the state of a task that has stopped; 0 or -errno -- */

enum { NT_PRSTATUS = 1, NT_PRFPREG = 2, NT_X86_XSTATE = 0x202 };

s64 registers_get(struct task *t, u64 at, u64 *value); /* by the place in Linux's struct user */
s64 registers_set(struct task *t, u64 at, u64 value);
s64 registers_set_base(struct task *t, u64 code, u64 value); /* as arch_prctl */
u64 registers_size(u32 type); /* of NT_*; 0: there is no such part */
void registers_get_part(struct task *t, u32 type, u8 *to, u64 size); /* the first bytes */
s64 registers_set_part(struct task *t, u32 type, const u8 *from, u64 size);

#endif
