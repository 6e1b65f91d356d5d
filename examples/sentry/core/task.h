/* SPDX-License-Identifier: Apache-2.0 */
/* Tasks (threads), processes (groups of tasks), and what they can share. */
#ifndef SENTRY_TASK_H
#define SENTRY_TASK_H

#include "abi.h"
#include "platform.h"
#include "wait_queue.h"

struct files;
struct fs_context;
struct mm;

/* What a process does with its signals; shared by its tasks, and by others with CLONE_SIGHAND. */
struct sighand {
	u32 users;
	struct sigaction actions[SIGNALS];
};

/* A process: the tasks that getpid() is the same for. */
struct process {
	s32 pid;
	struct rlimit limits[RLIMITS];
	bool ended;
	struct core_exit exit;
};

enum task_state { TASK_READY, TASK_SLEEPING, TASK_DEAD };

struct task {
	struct regs regs; /* of the program, while the task is in the core */
	void *fpu;	  /* as XSAVE has it; the platform can have a newer state */
	u64 number;	  /* of the system call that it makes */
	s32 tid;
	struct process *process;
	struct mm *mm;
	struct files *files;
	struct fs_context *fs;
	struct sighand *sighand;
	u64 blocked, pending;
	struct sigaltstack altstack;
	char name[16];

	/* sched.c */
	enum task_state state;
	bool woken, killable; /* by a waiter; only SIGKILL interrupts it */
	struct task *next_ready;
	struct timer timer; /* ends a sleep */
	void (*run)(void);
	u64 core_rsp;
	void *stack;
};

/* -- sched.c -- */

void sched_init(void);
bool sched_is_busy(void); /* others wait for their turn, for a time or for input */
/* A task that is not yet ready, with a stack; it starts in run(task). NULL: no memory. */
struct task *task_alloc(void (*run)(void));
void task_ready(struct task *t);
void task_yield(void);
_Noreturn void task_stop(void); /* the current task ends; it is freed by the next */
void sched_run(void);		/* tasks, until sched_end() */
_Noreturn void sched_end(void);

#endif
