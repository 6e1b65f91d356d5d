/* SPDX-License-Identifier: Apache-2.0 */
/* The ptrace platform: the program's code runs in processes that are traced and can make no system call of their own. */
#ifndef SENTRY_TRACEE_H
#define SENTRY_TRACEE_H

#include <sys/types.h>

#include "platform.h"

enum { STUB_SIZE = 4096, RAM_FD = 0 };
#define STUB 0x10000ull /* below all that a program may have, where no process of the host has its stack */
#define AFTER_SYSCALL (STUB + 2)
#define AFTER_TRAP (STUB + 3)

/* start.c: start the first process, with nothing in its address space but a page to work with. Ends this one on failure. */
pid_t tracee_start(int ram);

/* tracee.c */
void tracee_init(pid_t first, u32 *fpu_size, u64 *fpu_features);
void *tracee_new(u64 tables, void *from, bool copy);
void tracee_free(void *space);
void tracee_run(void *space, struct regs *regs, void *fpu, bool preempt, struct event *event);
void tracee_fpu_flush(void *space, void *fpu);
int tracee_map(void *space, u64 address, u64 ram_offset, u64 size, u32 prot);
void tracee_unmap(void *space, u64 address, u64 size);

/* Limit this process to the system calls that it needs from now on. */
void confine(void);

_Noreturn void fail(const char *what);

#endif
