/* SPDX-License-Identifier: Apache-2.0 */
/* Platforms that are processes of the host: what they share, and what each of them provides. */
#ifndef SENTRY_HOST_H
#define SENTRY_HOST_H

#include "platform.h"

_Noreturn void fail(const char *what);

/* Of the sandbox, zeros: its descriptor, and where this process has it. They end this process on failure. */
int memory_create(const char *name, u64 size);
void *memory_map(int fd, u64 size);

/* In a new process: end it with its parent, start a session, unblock all signals, and leave restartable sequences. */
bool child_detach(void);

#define SECOND 1000000000ull

/* What a CPU that has nothing to do waits for: input, if not at_once again before it was read, and devices. */
enum { SOURCES = 6 }; /* of the console, of each device, and what reports failures of their server */
struct pollfd;
void sources_get(struct pollfd *sources, bool at_once);
bool sources_take(const struct pollfd *sources, bool at_once); /* after poll(): whether there may be input */

/* Whether SIGALRM comes regularly, to interrupt a program that others wait for. */
void slice_timer(bool on);

/* -- clock.c -- */

void clock_start(struct platform_ops *ops); /* before this process is limited */
u64 clock_nanoseconds(enum clock clock);

/* An allowed system call; with an argument, only with this value in the argument's low half. */
struct rule {
	u32 number;
	int argument; /* -1: any */
	u32 value;
};

/* Limit this process to the system calls that it needs from now on. */
void confine(void);

/* -- of a platform -- */

extern const char platform_program[]; /* its name in messages */

/*
 * Start the first process for programs, with nothing of this one in its address space. Fill in the operations of the
 * platform, and the size and the features of the FPU's state. End this process on failure.
 */
void platform_start(int ram, struct platform_ops *ops, struct core_config *config);

/* The system calls that only this platform needs; returns how many they are. */
u32 platform_rules(const struct rule **rules);

#endif
