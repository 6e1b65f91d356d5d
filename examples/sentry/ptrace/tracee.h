/* SPDX-License-Identifier: Apache-2.0 */
/* The ptrace platform: the program's code runs in processes that are traced and can make no system call of their own. */
#ifndef SENTRY_TRACEE_H
#define SENTRY_TRACEE_H

#include <sys/types.h>

#include "host.h"

enum { STUB_SIZE = 4096, RAM_FD = 0 };
#define STUB 0x10000ull /* below all that a program may have, where no process of the host has its stack */
#define AFTER_SYSCALL (STUB + 2)
#define AFTER_TRAP (STUB + 3)

/* start.c: start the first process, with nothing in its address space but a page to work with. Ends this one on failure. */
pid_t tracee_start(int ram);

#endif
