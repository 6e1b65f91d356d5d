/* SPDX-License-Identifier: Apache-2.0 */
/* The Sentry's core loads a static Linux program and answers its system calls. It uses no libc and no host header. */
#ifndef SENTRY_CORE_H
#define SENTRY_CORE_H

#include "abi.h"
#include "platform.h"
#include "list.h"
#include "mm.h"
#include "ram.h"
#include "slab.h"
#include "task.h"
#include "wait_queue.h"

/* -- user.c: memory of the program -- */

/* As Linux's access_ok: no wrap, nothing behind the last address. */
static inline bool user_range(u64 address, u64 size)
{
	return address + size >= address && address + size <= TASK_SIZE;
}

int user_read(struct mm *mm, void *to, u64 from, u64 size);
int user_write(struct mm *mm, u64 to, const void *from, u64 size);
u64 user_copy_traced(struct mm *mm, u64 address, void *mine, u64 size, bool write); /* how many bytes */
int user_zero(struct mm *mm, u64 to, u64 size);
u64 user_writable(struct mm *mm, u64 address, u64 size); /* how many bytes from there can be written */
s64 user_string(struct mm *mm, char *to, u64 from, u64 size);

/* -- fpu.c -- */

void *fpu_new(void); /* NULL: no memory */
void fpu_reset(void *fpu);

/* -- core.c -- */

enum { PID = 1, SYSCALLS = 512, CPUS = 64 };

/* Who watches a system call: bits of core.watched. */
enum { WATCH_STRACE = 1, WATCH_DECIDE = 2, WATCH_TRACE = 4 };

/* What there is once. */
struct core {
	const struct core_config *config;
	const struct platform_ops *ops;
	struct ram ram;
	struct task *current;		 /* of the CPU that is in the core; NULL: it has none */
	u32 cpus;			 /* how many there are */
	struct wait_queue executed; /* for the end of any exec */
	struct wait_queue console_input; /* woken when the console may have some */
	void (*console_happened)(bool input); /* the terminal may have input, or another size; NULL */
	struct core_exit exit;		 /* of the sandbox */
	u8 watched[SYSCALLS];		 /* by number: WATCH_*; the last one is for all that have no row */
	u64 switches;			 /* how often a CPU in the core has gone from one task to another, or to none */
	u32 unsettled;			 /* changes of files that the server may not have carried out yet (fuse.h) */
	u64 unknown[SYSCALLS];		 /* how often each missing system call was made */
};

extern struct core core;

static inline void *page_at(u64 offset)
{
	return core.ram.base + offset;
}

static inline u64 page_offset(const void *page)
{
	return (u64)((const u8 *)page - core.ram.base);
}

/* Complete the registers and the state of the FPU of a task that is in the core for a system call. */
static inline void task_flush(struct task *t)
{
	core.ops->flush(t->mm->space, &t->regs, t->fpu);
}

/* -- fuse/settle.c -- */

void files_push(void);		 /* begin changes of files that wait for others */
void files_settle(void);		 /* wait until core.unsettled is 0 */
/* The same before a system call by which others could learn of a change. */
void files_settle_before(struct task *t, const u64 *args);

/* -- time.c -- */

s64 time_deadline(const struct timespec *time, u64 *deadline); /* of so long from now on: 0 or -EINVAL */
u64 realtime_deadline(u64 at); /* when the real time will be that, as it is set now */

/* -- strace.c -- */

void log_text(const char *text);

/* -- the table, generated from pyvmm_sentry/syscalls.py -- */

struct trace_argument {
	u8 kind, detail; /* see strace.h */
};

struct syscall {
	const char *name;
	s64 (*call)(struct task *t, const u64 *args); /* NULL: not there */
	u8 count, result;
	struct trace_argument arguments[6];
};

extern const struct syscall syscalls[SYSCALLS];

#endif
