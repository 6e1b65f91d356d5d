/* SPDX-License-Identifier: Apache-2.0 */
/* Platforms that are processes of the host: what they share, and what each of them provides. */
#ifndef SENTRY_HOST_H
#define SENTRY_HOST_H

#include <sys/types.h>

#include "platform.h"

_Noreturn void fail(const char *what);

/* Of the sandbox, zeros: its descriptor, and where this process has it. They end this process on failure. */
int memory_create(const char *name, u64 size);
void *memory_map(int fd, u64 size);
void *memory_reserve(u64 size); /* addresses: each process gets the same */
void *memory_private(u64 size); /* zeros, of this process alone; at the same addresses in each */
void memory_map_at(void *at, int fd, u64 size); /* at reserved ones */

/* In a new process: end it with its parent, start a session, unblock all signals, and leave restartable sequences. */
bool child_detach(void);
/* The host's kernel no longer writes to libc's area for restartable sequences, at each return after a switch. */
bool leave_rseq(void);

extern bool may_be_stopped; /* this core, by SIGUSR1 */
extern int points_fd; /* where it reports what its program has reached; -1 */

/* Of a variable: each process has its own, also if it continues a stopped core (image.h). */
#define PROCESS_LOCAL __attribute__((section("process_local")))

#define SECOND 1000000000ull

/* What a CPU that has nothing to do waits for: input, if not at_once again before it was read, and devices. */
enum { SOURCES = 6 }; /* of the console, of each device, and what reports failures of their server */
struct pollfd;
void sources_get(struct pollfd *sources, bool at_once);
bool answer_comes(void); /* at the device with files, within moments */
bool sources_take(const struct pollfd *sources, bool at_once); /* after poll(): whether there may be input */

/* Whether SIGALRM comes regularly, to interrupt a program that others wait for. */
void slice_timer(bool on);

/* -- clock.c -- */

void clock_start(struct platform_ops *ops); /* before this process is limited */
u64 clock_nanoseconds(enum clock clock);
void clock_stop(void);
void clock_continue(void); /* the monotonic clock shows what it did when it was stopped */

/* -- cpu_time.c -- */

/* CPU time of a process for programs and of the core's thread, as read last. */
struct cpu_clocks {
	u64 own, core;
	u64 uncounted; /* by the clock, since then */
};

void cpu_clocks_read(struct cpu_clocks *clocks, pid_t pid); /* when the process is made */
/*
 * CPU time of a task whose program runs in that process, of so many nanoseconds by the clock.  core: in so many of them it was
 * in the core; ~0: not known. ended: what follows is counted from now on.
 */
u64 cpu_time_used(struct cpu_clocks *clocks, pid_t pid, u64 nanoseconds, u64 core, bool ended);

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

extern const bool platform_stops; /* a core can be stopped, to be continued by other processes */
void platform_prepare(void); /* before platform_start(): memory that such processes have at the same address */

/*
 * Start the first process for programs, with nothing of this one in its address space. Fill in the operations of the
 * platform, and the size and the features of the FPU's state. End this process on failure.
 */
void platform_start(int ram, struct platform_ops *ops, struct core_config *config);

/* The system calls that only this platform needs; returns how many they are. */
u32 platform_rules(const struct rule **rules);

#endif
