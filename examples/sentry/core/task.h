/* SPDX-License-Identifier: Apache-2.0 */
/* Tasks (threads), processes (groups of tasks), and what they can share. */
#ifndef SENTRY_TASK_H
#define SENTRY_TASK_H

#include "abi.h"
#include "cpu_timer.h"
#include "cred.h"
#include "list.h"
#include "platform.h"
#include "wait_queue.h"

struct container;
struct files;
struct filter;
struct guest_process;
struct held;
struct fs_context;
struct mm;
struct process_ref;
struct rights;
struct space;
struct seccomp;
struct tracee;
struct tty;

/* What a process does with its signals; shared by its tasks, and by others with CLONE_SIGHAND. */
struct sighand {
	u32 references;
	struct sigaction actions[SIGNALS];
};

/* The start of Linux's siginfo; the rest is zeros. What the fields mean depends on the signal. */
struct siginfo {
	s32 signal, error, code;
	s32 pad; /* while it is queued: its timer's number plus one; 0: no timer sent it */
	u64 fields[4];
};

struct queued_signal {
	struct queued_signal *next;
	struct siginfo info;
};

struct pending {
	u64 set;
	struct queued_signal *first, *last;
};

/* A process: tasks with the same getpid(). It stays as a zombie until its parent has its status. */
struct process {
	u32 pids; /* the namespace in which these numbers are, of which one more has the same only in another (space.h) */
	s32 pid, group, session;
	struct tty *terminal; /* the controlling one; NULL */
	s32 old_foreground;   /* of a leader: the group that was in the foreground when it lost its terminal; 0 */
	struct process *parent; /* NULL: of the first */
	struct list all, children, siblings, tasks;
	u32 task_count;
	bool ending; /* all its tasks are to end */
	struct task *alone; /* all but this one are to end, as it starts another program */
	bool zombie;
	s32 status; /* for wait: of the end or of the stop */
	s32 exit_signal; /* which the parent gets */
	bool stopped, stop_is_new, continue_is_new; /* new: wait has not reported it */
	bool has_executed;
	u32 executing; /* tasks that have begun an exec: until its end, nobody attaches to the process */
	bool faulted; /* a fault ends it, although it is process 1 of a namespace */
	bool subreaper; /* adopts the orphans among its descendants */
	struct cred last_cred; /* of a zombie, without groups */
	struct pending pending; /* signals for any of its tasks */
	struct wait_queue child_changed, continued;
	struct rlimit limits[RLIMITS];
	struct timer alarm;
	u64 alarm_interval;
	struct cpu_timer cpu_alarms[2]; /* ITIMER_VIRTUAL, ITIMER_PROF */
	u64 cpu_alarm_intervals[2];
	struct list cpu_timers; /* that run */
	struct tracee *leader; /* of its leader, which has ended: a tracer has not waited for that; NULL */
	s32 forked_by; /* the task of the parent */
	struct process_ref *ref; /* of its descriptors; NULL: there are none */
	struct list posix_timers;
	struct list semaphore_undos;
	struct guest_process *guest; /* which the host knows it as (control/); NULL */
	struct container *container; /* to which it belongs, with its descendants; NULL */
	u8 account;		     /* of its pages (ram.h) */
	s32 oom_adjustment;	     /* without effect */
	s32 next_timer;
	u32 posix_timer_count;
	u64 cpu_time, child_cpu_time, started;
};

/* Of a parent that waits for its child to leave its memory (vfork). */
struct vfork {
	u32 references;
	bool done;
	struct wait_queue queue;
};

enum task_state { TASK_NEW, TASK_READY, TASK_RUNNING, TASK_SLEEPING, TASK_DEAD }; /* new: nothing wakes it yet */

struct task {
	struct regs regs; /* of the program, while the task is in the core */
	void *fpu;	  /* as XSAVE has it; the platform can have a newer state */
	u64 number;	  /* of the system call that it makes; NO_CALL: it is in the core for something else */
	s32 tid;
	struct list by_tid, siblings;
	struct process *process;
	struct mm *mm;
	struct files *files;
	struct fs_context *fs;
	struct sighand *sighand;
	struct pending pending;
	u64 blocked, saved_blocked, awaited; /* the last: by sigtimedwait() */
	bool restore_blocked; /* to what is saved, when no handler does */
	bool exiting;	      /* nothing interrupts its sleeps */
	struct sigaltstack altstack;
	struct {
		u64 number, error, address;
	} trap; /* of the last exception, for signal frames */
	s64 (*restart)(struct task *t); /* of a system call that cannot be made again with the same arguments */
	u64 restart_args[6];
	struct held *held; /* copies with which it makes the call (hooks/); NULL: it uses the program's memory */
	u64 clear_tid, robust_list;
	struct tracee *tracee; /* how it is traced; NULL: it is not (ptrace.h) */
	struct list tracees;   /* that it traces */
	struct wait_queue resumed; /* woken when its tracer continues it */
	s32 resume_signal;
	bool may_stop_group; /* no SIGCONT came since it took the signal that it acts on */
	struct vfork *vfork;
	u64 charged; /* of its CPU time: to its container */
	u64 cpu_time_shown; /* the most that was reported */
	u64 cpu_time, slice_start, tick_start, counted; /* the others: that of its last turn, of its
							* last tick, and when it counted for its container's quota */
	struct cred cred;
	bool no_new_privs;
	bool executes;
	bool gains_rights; /* by an exec that has begun: who may not inspect the result must not trace the task */
	struct seccomp *seccomp; /* a reference; NULL: all system calls are allowed */
	struct filter *filters; /* its own (filters.h), and a reference; NULL: it has installed none */
	s32 death_signal; /* which it gets when its parent ends; 0: none */
	struct rights **closing; /* those that this task frees (net/socket.c); NULL: it frees none */
	u32 personality;
	u64 timer_slack, default_slack;
	s32 nice;
	u16 io_priority;
	u8 policy, priority; /* SCHED_* */
	bool reset_on_fork;
	char name[16];

	/* sched.c */
	enum task_state state;
	u32 cpu;      /* where it runs, or ran last */
	u64 affinity; /* a bit for each CPU where it may run */
	u64 entered;  /* since when its program runs; 0: it does not */
	bool woken; /* by a waiter */
	struct task *next_ready;
	struct timer timer; /* ends a sleep */
	void (*run)(void);
	void *data; /* for run() of a task of the core's own */
	u64 core_rsp;
	void *stack;
};

#define NO_CALL (~0ull)
enum { STACK_ORDER = 4, STACK_BYTES = PAGE << STACK_ORDER }; /* of a task in the core */
enum { TIMER_SLACK = 50000 }; /* of a first task */

/* -- identity.c -- */

s32 parent_pid(const struct process *p); /* 0: it is in another namespace */

/* -- sched.c -- */

void sched_init(void);
/* A task with a stack, which task_start() starts in run(). NULL: no memory. */
struct task *task_alloc(void (*run)(void));
void task_start(struct task *t);
void task_ready(struct task *t); /* ends a sleep, whatever it waits for */
void task_wake(struct task *t);	 /* as a waiter that is woken */
void task_yield(void);
/* Run the program of the current task up to the next event; may_stop: at the latest after a slice. */
void task_enter(struct task *t, bool may_stop, struct event *event);
/* The same after a system call; false: the task has slept, or has made many, and must call task_enter(). */
bool task_return(struct task *t, struct event *event);
/* Answer the system call of a task, which has its number; whether nothing but the result is between it and its program. */
bool task_answer(struct task *t);
void task_interrupt(struct task *t, bool stop); /* its program, if that runs on another CPU; see platform.h */
u64 task_cpu_time(struct task *t); /* never less than before */
void task_count_time(struct task *t); /* of the current task, up to now */
u64 cpu_idle_time(u32 cpu);
u64 call_began(void); /* the monotonic clock when this CPU left the program that it has run last */
u32 cpu_number(void); /* of the CPU that is in the core */
void task_free(struct task *t);	 /* one that never ran */
_Noreturn void task_stop(void); /* the current task ends; it is freed by the next */
void sched_run(void);		/* tasks, until sched_end() */
void sched_continue(void);	/* after core_leave() */
_Noreturn void sched_end(void);

/* -- task.c -- */

void tasks_init(void);
s32 tid_new(struct space *pids); /* one that no task, process, group or session has in a namespace */
void task_add(struct task *t, s32 tid); /* to those that are found, and to its process */
void task_remove(struct task *t);
struct task *task_find(u32 pids, s32 tid); /* NULL */
struct task *task_named(struct task *t, s32 tid); /* by an argument of t's system call: 0 is t itself; NULL */
struct process *process_find(u32 pids, s32 pid); /* also a zombie; NULL */
bool process_in_group(const struct process *p, u32 pids, s32 group);
bool same_session(const struct process *a, const struct process *b);
/* like: inherit its group, session and limits; NULL for the first process. Returns NULL without memory. */
struct process *process_new(struct process *parent, const struct process *like, s32 pid);
void process_free(struct process *p);
void process_adopt(struct process *parent, struct process *child);
struct list *all_processes(void);
#define EACH_PROCESS(p) \
	for (struct process *p = CONTAINER(all_processes()->next, struct process, all); &p->all != all_processes(); \
	     p = CONTAINER(p->all.next, struct process, all))
#define EACH_TASK(t, process) \
	for (struct task *t = CONTAINER((process)->tasks.next, struct task, siblings); &t->siblings != &(process)->tasks; \
	     t = CONTAINER(t->siblings.next, struct task, siblings))

/* -- fork.c -- */

void task_discard(struct task *t); /* one that never ran, with the parts that it got */
bool tasks_are_full(void); /* there are as many as the sandbox may have */

/* -- core.c -- */

void limits_init(struct process *p); /* its resource limits */
void task_run(void); /* a task's life in the core */

/* -- exit.c -- */

_Noreturn void task_exit(struct task *t);
void process_end(struct process *p, s32 status); /* all its tasks end; the first status counts */
void process_notify_parent(struct process *p, s32 code, s32 status); /* of a stop or continuation: CLD_* */
struct siginfo child_info(struct process *p, s32 code, s32 status); /* what its parent gets with SIGCHLD: CLD_* */
struct siginfo exit_info(struct process *p);
void process_show_end(struct process *p); /* a zombie, to its parent */
void process_reap(struct process *p); /* a zombie, for which its parent has waited */
void release_mm(struct task *t); /* the task leaves its address space */
/* Whether no process of a group, except one or NULL, has a parent in another group of the session. */
bool group_is_orphaned(u32 pids, s32 group, const struct process *without);

/* -- signal.c -- */

enum { SI_USER = 0, SI_KERNEL = 128, SI_TKILL = -6 };
enum { CLD_EXITED = 1, CLD_KILLED, CLD_DUMPED, CLD_TRAPPED, CLD_STOPPED, CLD_CONTINUED };
#define SIGNAL_BIT(signal) (1ull << ((signal) - 1))
#define UNBLOCKABLE (SIGNAL_BIT(SIGKILL) | SIGNAL_BIT(SIGSTOP))

/* Of the core, to a task or a process. */
void signal_raise(struct task *t, int signal);
void signal_process(struct process *p, int signal);
void signal_send_task(struct task *t, const struct siginfo *info);
void signal_send_process(struct process *p, const struct siginfo *info);
/* To all processes of a group; whether there is one. */
bool signal_group(u32 pids, s32 group, int signal);
void signal_force(struct task *t, int signal, int code, u64 address); /* cannot be blocked or ignored */
void signal_force_seccomp(struct task *t, u16 data); /* SIGSYS for the system call that it makes */
bool signal_interrupts(struct task *t, bool killable); /* a sleep, of which only SIGKILL ends one that is killable */
bool signal_is_ignored(struct task *t, int signal);
struct siginfo siginfo_user(int signal, int code); /* sent by the current task */
bool task_must_end(const struct task *t); /* its process ends, or another of its tasks starts a program */
/* Before the task returns to the program: handlers, stops, ends, and system calls that are made again. */
void signal_deliver(struct task *t);
static inline u64 signals_deliverable(const struct task *t)
{
	return (t->pending.set | t->process->pending.set) & ~t->blocked;
}

/* Whether its system call was interrupted and is perhaps made again. */
static inline bool call_restarts(const struct task *t)
{
	const s64 result = (s64)t->regs.rax;

	return result >= -ERESTART_RESTARTBLOCK && result <= -ERESTARTSYS && t->number != NO_CALL;
}

/* Whether signal_deliver() has nothing to do; may be false without a reason. */
static inline bool signals_rest(const struct task *t)
{
	const struct process *p = t->process;

	/* One branch for all of them. */
	return !(signals_deliverable(t) | (u64)p->alone | (u64)t->tracee | p->stopped | p->ending | t->restore_blocked) &&
	       !call_restarts(t);
}

void signals_flush(struct pending *pending, u64 set); /* forget those */
struct sighand *sighand_copy(const struct sighand *from); /* NULL: no memory */
void sighand_put(struct sighand *sighand);
void signal_reset_handlers(struct sighand *sighand); /* what is ignored stays ignored */
/* Take a signal of a set that is pending: its number or 0. */
int signal_take(struct task *t, u64 set, struct siginfo *info);
bool signal_is_queued(const struct pending *pending, const struct siginfo *info); /* of the same timer */
extern struct wait_queue signal_arrived; /* woken for each signal that is sent */

/* -- signal_calls.c -- */

/* Send a task's signal to a process; pid 0: to a group; both 0: to all other processes. Checks the task's rights. */
s64 signal_some(struct task *t, s32 pid, s32 group, const struct siginfo *info);

/* -- posix_timer.c -- */

void posix_timer_taken(struct process *p, struct siginfo *info); /* a task takes its signal */
void posix_timers_forget(struct task *t); /* stop those of a task's clock: it ends */
void posix_timers_free(struct process *p);

/* -- priority.c -- */

void priority_inherit(struct task *t, const struct task *from); /* t is a new task of from's */

/* -- frame.c -- */

int frame_push(struct task *t, const struct sigaction *action, const struct siginfo *info, u64 blocked); /* 0, -EFAULT */
int frame_pop(struct task *t, u64 *blocked);
bool is_on_altstack(const struct task *t);

/* -- tty/session.c -- */

void process_leave_terminal(struct process *p);
void process_share_terminal(struct process *p, const struct process *like);
void session_exit(struct process *p); /* at its end: a leader's session loses the terminal */

/* -- futex.c -- */

void futex_init(void);
void futex_wake_address(struct task *t, u64 address); /* one that waits there, in the task's address space */
void futex_exit(struct task *t); /* of robust locks that it holds */

#endif
