/* SPDX-License-Identifier: Apache-2.0 */
/* The trap platform: programs run in processes whose system calls the host's kernel reports to the core. */
#ifndef SENTRY_TRAP_H
#define SENTRY_TRAP_H

#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/types.h>

#include "host.h"
#include "stub.h"

#ifndef SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP /* Linux 6.6 */
#define SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP 1ul
#define SECCOMP_IOCTL_NOTIF_SET_FLAGS SECCOMP_IOW(4, __u64)
#endif

/* What the core writes for the stub, in the order in which the stub loads registers. Its process can only read this. */
struct control {
	u64 r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi, rip, cs, flags, rsp, ss;
	u64 fs_base, gs_base;
	u64 fpu;   /* where the state of the FPU is, in its address space */
	u64 child; /* the offset of the block for a forked process, in the memory of all blocks; or the slot of a second one */
	u64 first; /* how many calls a new process makes at first */
	u64 features; /* the parts of that state: the stub loads no others, whose bytes might not be mapped */
	stack_t altstack; /* of a second one */
	u64 pad[3];
	struct stub_call {
		u64 number, args[6];
	} calls[CALLS];
};

/* One for each process: in its slot, behind STUB_SIZE bytes. */
struct block {
	struct control control;
	u8 pad[CONTROL_STATE - sizeof(struct control)];
	u8 state[CONTROL_SIZE - CONTROL_STATE]; /* of the FPU */
	u8 stack[STACK_SIZE];			/* for signals; the program can write to it */
};

/* -- start.c -- */

struct listener {
	int fd; /* on which the host's kernel reports system calls */
	pid_t first;
};

/* Start the first process, with the first block. Ends this one on failure. */
struct listener stub_start(int ram, int shared);
bool stub_handles(int signal); /* others cannot interrupt a program */

/* -- stub.c -- */

enum { SPACES = 4096, STUBS = 4096 };

/* A process. It waits in a call unless it runs. */
struct stub {
	pid_t pid;
	bool used, gone, runs;
	bool in_call; /* of the program, otherwise in a report of the stub */
	struct seccomp_notif call; /* the last that it has made; it may have been answered */
	u64 id;			   /* of the call that waits for an answer */
	u64 call_rip;		   /* where the program continues after it */
	u64 since, stretch; /* since: it runs beside others; 0: alone. How long it does so between two calls, on average */
	struct regs *owner; /* of the registers and of the FPU's state that the process has; NULL: nobody's */
	void *fpu;
	u64 frame_fpu; /* where the stub has that state, if it reports */
	u32 slot;
	struct stub *next; /* in the same address space */
	struct cpu *cpu;   /* that runs a program in it, until the core gets to what that has stopped for; NULL: none */
	struct cpu_clocks clocks;
};

/* What a report or a call is about. */
struct report {
	int signal;
	siginfo_t info;
	u64 error; /* of a page fault */
};

/* How a process begins: what its parent does, and its first call, after which so many follow that its block has. */
struct birth {
	u32 then;
	u64 at;
	u32 count;
	u64 args[6];
};

extern struct block *blocks;
extern u32 fpu_size;

struct block *block_of(const struct stub *stub);
u64 block_offset(const struct stub *stub); /* in the memory of all blocks */
u64 slot_at(const struct stub *stub);	   /* its address */
bool is_in_stub(u64 rip);
void stubs_prepare(void);
struct stub *stub_first(pid_t pid); /* which has started; NULL: it has ended */
struct stub *stub_new(void);	    /* which stub_clone() starts; NULL: there are too many */
/* The parent was told to clone itself. false: there is no new one; the parent may be gone, too. */
bool stub_clone(struct stub *parent, struct stub *new, const struct birth *birth);
void stub_free(struct stub *stub);
void stub_kill(struct stub *stub); /* refuse its call: then it ends, and the program's code does not run again */
/* Stop a program that waits in a call, to get the registers that did not come with it. Its owner keeps the result. */
void stub_stop(struct stub *stub);
bool stub_answer_call(struct stub *stub, u64 value);
/* Answer the stub's report: it makes these calls, and then does this. */
bool stub_go_on(struct stub *stub, const struct stub_call *calls, u32 count, u32 then);
bool stub_await_idle(struct stub *stub); /* until it waits for more */
/*
 * Why the stub reports, and the program's registers; false: the program has made the report, and is ended.  All that is
 * read here lies in memory that the program can write to: it is copied once, and harms nobody but the program.
 */
bool stub_read_report(struct stub *stub, struct regs *regs, struct report *report);
void stub_save_fpu(struct stub *stub, void *fpu);
bool stubs_receive(void);   /* wait for one call, or a signal: whether it was one that stubs_signalled() handles */
bool stubs_signalled(void); /* handle signals that came; false: there was none */

/* -- space.c -- */

struct stub *space_stub(void *space, const struct regs *regs); /* a process for a program; NULL: there is none */
void space_writes(u64 address); /* a program wants to, and cannot yet */
bool space_resume(void *space, struct stub *stub, struct regs *regs, void *fpu); /* false: it is gone */
void spaces_leave(void); /* no program runs: save what it has in registers */

/* -- cpu.c -- */

extern u32 cpu_count;
void cpus_init(struct platform_ops *ops, u32 count);
void cpus_tick(void);
void cpu_stop(struct cpu *cpu); /* returns when its program does not run */

/* -- watcher.c -- */

void watcher_start(void); /* before this process is limited */
/* From now on, interrupt notify_receive() once when one of SOURCES is ready, or the time has come. */
void watcher_request(const struct pollfd *sources, u64 deadline);
bool watcher_is_done(void); /* it has: the request is over */

/* -- notify.c -- */

void notify_init(int listener);
/* Wait for a system call of any process; false: a signal came instead. */
bool notify_receive(struct seccomp_notif *call);
/* Wait for one, for a source or for a time; how many there are, or -EINTR. The last entry is for calls. */
long notify_poll(struct pollfd *sources, u32 count, u64 deadline);
bool notify_answer(u64 id, u64 value); /* false: the process is gone */
bool notify_answer_elsewhere(u64 id, u64 value); /* it goes on on any CPU that is free, rather than on this one */
bool notify_refuse(u64 id);
bool notify_approve(u64 id); /* the host's kernel carries out the call */
void notify_interrupt(pid_t pid); /* it reports SIGURG, unless the stub runs there */
/* What has come since the last call. */
struct notify_signals {
	bool tick, child;
} notify_signals(void);
bool notify_stop(void); /* the host wants to stop the core */

/* -- stub.S -- */

extern const u8 stub_code[], stub_enter[], stub_end[], after_report[], after_call[], after_fork[], after_prctl[];
extern const u8 after_child[], after_send[], after_close[], after_exit[], after_altstack[];

/* Where an instruction of the stub is in the process of a program. */
static inline u64 stub_at(const u8 *label)
{
	return STUB + (u64)(label - stub_code);
}

#endif
