/* SPDX-License-Identifier: Apache-2.0 */
/* The trap platform: programs run in processes whose system calls the host's kernel reports to the core. */
#ifndef SENTRY_TRAP_H
#define SENTRY_TRAP_H

#include <linux/seccomp.h>
#include <stdbool.h>
#include <sys/types.h>

#include "host.h"
#include "stub.h"

/* What the core writes for the stub, in the order in which the stub loads registers. Its process can only read this. */
struct control {
	u64 r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi, rip, cs, flags, rsp, ss;
	u64 fs_base, gs_base;
	u64 fpu;   /* where the state of the FPU is, in its address space */
	u64 child; /* the offset of the block for a forked process, in the memory of all blocks */
	u64 first; /* how many calls a new process makes at first */
	u64 features; /* the parts of that state: the stub loads no others, whose bytes might not be mapped */
	u64 pad[6];
	struct stub_call {
		u64 number, args[6];
	} calls[CALLS];
};

/* One for each process. */
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
struct listener stub_start(int ram, int blocks);
bool stub_handles(int signal); /* others cannot interrupt a program */

/* -- notify.c -- */

void notify_init(int listener);
/* Wait for a system call of any process; false: a signal of notify_signals() came instead. */
bool notify_receive(struct seccomp_notif *call);
bool notify_answer(u64 id, u64 value); /* false: the process is gone */
bool notify_refuse(u64 id);
bool notify_approve(u64 id); /* the host's kernel carries out the call */
void notify_interrupt(pid_t pid); /* it reports SIGURG, unless the stub runs there */
/* What has come since the last call. */
struct notify_signals {
	bool tick, child;
} notify_signals(void);

/* -- stub.S -- */

extern const u8 stub_code[], stub_enter[], stub_end[], after_report[], after_call[], after_fork[], after_prctl[];
extern const u8 after_child[], after_send[], after_close[], after_exit[];

/* Where an instruction of the stub is in the process of a program. */
static inline u64 stub_at(const u8 *label)
{
	return STUB + (u64)(label - stub_code);
}

#endif
