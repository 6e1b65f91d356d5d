/* SPDX-License-Identifier: Apache-2.0 */
/* What lies above a program in its process: the stub's code, what the core writes for it, and a stack for signals. */
#ifndef SENTRY_STUB_H
#define SENTRY_STUB_H

#define STUB 0x7fffffff0000 /* above all that a program may have */
#define STUB_SIZE 0x1000
#define CONTROL (STUB + STUB_SIZE)
#define CONTROL_SIZE 0x4000
#define STACK (CONTROL + CONTROL_SIZE)
#define STACK_SIZE 0xa000
#define STUB_END (STACK + STACK_SIZE) /* the end of what Linux gives a process */

/*
 * Each process that runs in an address space has a control block and a stack of its own, in a slot: those of the first
 * one lie behind the code, those of others as far below.
 */
#define SLOT_SIZE 0x10000
#define SLOTS 64

/*
 * Descriptors of each such process: RAM, the RAM of a stopped core, which it may not write to (or RAM again), and blocks. The
 * last is open only until the filter's descriptor has been sent.
 */
#define RAM_FD 0
#define CONTROL_FD 1
#define BELOW_FD 2
#define SOCKET_FD 3

/* A system call without effect, by which the stub reports. */
#define REPORT 39

/* In struct control, which is STUB_SIZE behind the start of a slot. */
#define CONTROL_FS 160
#define CONTROL_GS 168
#define CONTROL_FPU 176
#define CONTROL_CHILD 184
#define CONTROL_FIRST 192
#define CONTROL_FEATURES 200
#define CONTROL_ALTSTACK 208
#define CONTROL_CALLS 256
#define CONTROL_STATE 0x1000
#define CALL_SIZE 56
#define CALLS 64

#define FORK_FLAGS 0x8011 /* CLONE_PARENT, SIGCHLD */
#define THREAD_FLAGS 0x8111 /* the same and CLONE_VM */

/* What the stub does after its calls, in the second byte of the answer to a report; the first is their number. */
#define THEN_REPORT 0
#define THEN_RUN 1
#define THEN_FORK 2
#define THEN_THREAD 3

#endif
