/* SPDX-License-Identifier: Apache-2.0 */
/* The ptrace platform: the program's code runs in a process that is traced and can make no system call of its own. */
#ifndef SENTRY_TRACEE_H
#define SENTRY_TRACEE_H

#include "platform.h"

/* Start the process, with nothing in its address space but a page to work with; its pid. Ends this one on failure. */
int tracee_start(int ram);
void tracee_run(struct regs *regs, struct event *event);
int tracee_map(u64 address, u64 ram_offset, u64 size, u32 prot);
void tracee_unmap(u64 address, u64 size);

/* Limit this process to the system calls that it needs from now on. */
void confine(int tracee);

_Noreturn void fail(const char *what);

#endif
