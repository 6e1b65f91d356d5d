// SPDX-License-Identifier: Apache-2.0
/*
 * Runs programs' code under PTRACE_SYSEMU: a system call stops the process, and the host does not carry it out.
 *
 * Each address space is a traced process of its own, in which the threads of a program take turns. A new one is a fork
 * of another, made by a call from the page that start.c has prepared, and this process is its parent.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <linux/audit.h>
#include <linux/ptrace.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tracee.h"

const char platform_program[] = "pyvmm-sentry-ptrace";
const bool platform_stops;

void platform_prepare(void)
{
}

enum { STOPPED_AT_SYSCALL = SIGTRAP | 0x80, FPU_MOST = 16384, FEATURES_AT = 464, SPACES = 4096 };
#define TASK_SIZE 0x7ffffffff000ull

struct space {
	pid_t pid;
	bool used, gone;
	void *fpu; /* whose state the process has */
	struct cpu_clocks clocks;
};

static struct space spaces[SPACES], *last; /* last: whose program has run last */
static u64 away; /* how long programs have run since ran() */
static struct space *seed; /* it runs no program: others are made from it. NULL: the first program gets the first process */
static pid_t first_pid;
static struct user_regs_struct home;   /* registers fit for a call from the stub */
static u32 fpu_size;
static volatile sig_atomic_t ticked;

static long trace(long request, const struct space *space, void *address, void *data)
{
	return syscall(SYS_ptrace, request, space->pid, address, data);
}

/* The status of a process that has stopped, or ended. A tick of the timer interrupts it if it runs a program. */
static int await(const struct space *space, bool preempt)
{
	int status;

	while (waitpid(space->pid, &status, 0) != space->pid) {
		if (errno != EINTR)
			fail("the traced process cannot be used");
		if (preempt && ticked)
			trace(PTRACE_INTERRUPT, space, NULL, NULL);
	}
	return status;
}

/* -- calls from the stub -- */

/* The result; *child: the process that it made. */
static s64 call(struct space *space, u64 number, const u64 args[6], pid_t *child)
{
	struct user_regs_struct regs = home;
	unsigned long message;
	int status;

	if (space->gone)
		return 0;
	regs.rip = STUB;
	regs.rax = number;
	regs.rdi = args[0], regs.rsi = args[1], regs.rdx = args[2], regs.r10 = args[3], regs.r8 = args[4], regs.r9 = args[5];
	if (trace(PTRACE_SETREGS, space, NULL, &regs))
		fail("the traced process cannot be used");
	do {
		if (trace(PTRACE_CONT, space, NULL, NULL))
			fail("the traced process cannot be used");
		status = await(space, false);
		if (WIFSTOPPED(status) && status >> 16 == PTRACE_EVENT_FORK && child &&
		    !trace(PTRACE_GETEVENTMSG, space, NULL, &message))
			*child = (pid_t)message;
		/* Signals from elsewhere on the host are not for the program. */
	} while (WIFSTOPPED(status) && status >> 8 != SIGTRAP);
	if (!WIFSTOPPED(status)) {
		space->gone = true;
		return 0;
	}
	if (trace(PTRACE_GETREGS, space, NULL, &regs) || regs.rip != AFTER_TRAP)
		fail("the traced process stopped somewhere else");
	return (s64)regs.rax;
}

static int map(void *space, u64 address, u64 ram_offset, u64 size, u32 prot)
{
	const u64 args[6] = { address, size, prot, MAP_SHARED | MAP_FIXED, RAM_FD, ram_offset };
	s64 at = call(space, SYS_mmap, args, NULL);

	return at < 0 && at > -4096 ? (int)at : 0;
}

static void unmap(void *space, u64 address, u64 size)
{
	const u64 args[6] = { address, size };

	if (call(space, SYS_munmap, args, NULL))
		fail("memory cannot be taken from the traced process"); /* the program must not see it when it is reused */
}

/* -- processes -- */

static void unmap_all(struct space *space)
{
	unmap(space, 0, STUB);
	unmap(space, STUB + STUB_SIZE, TASK_SIZE - STUB - STUB_SIZE);
}

static void *space_new(u64 tables, void *from, bool copy)
{
	const u64 args[6] = { CLONE_PARENT | SIGCHLD };
	struct space *space = spaces;
	pid_t pid = 0;

	(void)tables;
	while (space->used)
		if (++space == spaces + SPACES)
			return NULL;
	if (!from)
		from = seed;
	if (!from)
		pid = first_pid;
	else if (call(from, SYS_clone, args, &pid) < 0 || !pid)
		return NULL;
	*space = (struct space){ .pid = pid, .used = true };
	cpu_clocks_read(&space->clocks, pid);
	if (from && !WIFSTOPPED(await(space, false)))
		space->gone = true;
	if (!copy)
		unmap_all(space);
	return space;
}

static void space_free(void *which)
{
	const u64 none[6] = { 0 };
	struct space *space = which;

	call(space, SYS_exit_group, none, NULL);
	space->used = false;
}

/* -- the FPU -- */

static void fpu_save(struct space *space, void *fpu)
{
	struct iovec vector = { fpu, fpu_size };

	if (space->fpu != fpu)
		return;
	space->fpu = NULL;
	if (!space->gone && trace(PTRACE_GETREGSET, space, (void *)NT_X86_XSTATE, &vector))
		fail("the state of the FPU cannot be read");
}

static void flush(void *space, struct regs *regs, void *fpu)
{
	(void)regs; /* which run has completed */
	fpu_save(space, fpu);
}

static void load_fpu(struct space *space, void *fpu)
{
	struct iovec vector = { fpu, fpu_size };

	if (space->fpu == fpu)
		return;
	if (space->fpu)
		fpu_save(space, space->fpu);
	/* Fails for a state that the CPU does not load, which only the program can have made. */
	trace(PTRACE_SETREGSET, space, (void *)NT_X86_XSTATE, &vector);
	space->fpu = fpu;
}

/* -- the program -- */

static void put_regs(struct user_regs_struct *to, const struct regs *r)
{
	*to = home;
	to->r15 = r->r15, to->r14 = r->r14, to->r13 = r->r13, to->r12 = r->r12;
	to->r11 = r->r11, to->r10 = r->r10, to->r9 = r->r9, to->r8 = r->r8;
	to->rax = r->rax, to->rbx = r->rbx, to->rcx = r->rcx, to->rdx = r->rdx;
	to->rsi = r->rsi, to->rdi = r->rdi, to->rbp = r->rbp, to->rsp = r->rsp;
	to->rip = r->rip, to->fs_base = r->fs_base, to->gs_base = r->gs_base;
	to->eflags = r->flags; /* of which the host takes what a program may change */
	to->orig_rax = ~0ull; /* nothing to restart */
}

static void get_regs(struct regs *r, const struct user_regs_struct *from)
{
	*r = (struct regs){
		.r15 = from->r15, .r14 = from->r14, .r13 = from->r13, .r12 = from->r12,
		.r11 = from->r11, .r10 = from->r10, .r9 = from->r9, .r8 = from->r8,
		.rax = from->rax, .rbx = from->rbx, .rcx = from->rcx, .rdx = from->rdx,
		.rsi = from->rsi, .rdi = from->rdi, .rbp = from->rbp, .rsp = from->rsp,
		.rip = from->rip, .flags = from->eflags, .fs_base = from->fs_base, .gs_base = from->gs_base,
	};
}

/* Why a process has stopped; false: not through the program. */
static bool classify(const struct space *space, int status, struct event *event)
{
	struct ptrace_syscall_info info;
	int stop = WSTOPSIG(status);
	siginfo_t signal;

	if (status >> 16) {
		*event = (struct event){ .kind = EVENT_PREEMPTED };
		return true;
	}
	if (stop == STOPPED_AT_SYSCALL) {
		if (trace(PTRACE_GET_SYSCALL_INFO, space, (void *)sizeof(info), &info) <= 0)
			fail("a system call cannot be read");
		*event = (struct event){ .kind = EVENT_SYSCALL, .foreign = info.arch != AUDIT_ARCH_X86_64 };
		return true;
	}
	if (trace(PTRACE_GETSIGINFO, space, NULL, &signal) || signal.si_code <= 0)
		return false; /* sent by somebody on the host */
	*event = (struct event){ .kind = EVENT_SIGNAL, .signal = stop, .code = signal.si_code, .address = (u64)signal.si_addr };
	if (stop == SIGSEGV && signal.si_code != SI_KERNEL) {
		event->kind = EVENT_FAULT;
		event->present = signal.si_code != SEGV_MAPERR;
	}
	return true;
}

static void run(void *which, struct regs *regs, void *fpu, bool preempt, struct event *event)
{
	struct user_regs_struct latest;
	u64 start;
	struct space *space = which;
	int status;

	put_regs(&latest, regs);
	*event = (struct event){ .kind = EVENT_SIGNAL, .signal = SIGSEGV, .code = SI_KERNEL };
	/* Fails if a register has a value that only the program's own instructions can set, such as a base in the kernel. */
	if (!space->gone && trace(PTRACE_SETREGS, space, NULL, &latest))
		return;
	load_fpu(space, fpu);
	last = space;
	ticked = 0;
	slice_timer(preempt);
	start = clock_nanoseconds(CLOCK_IS_MONOTONIC);
	do {
		space->gone = space->gone || trace(PTRACE_SYSEMU, space, NULL, NULL);
		status = space->gone ? 0 : await(space, preempt);
		space->gone = space->gone || !WIFSTOPPED(status);
		if (space->gone) {
			*event = (struct event){ .kind = EVENT_SIGNAL, .signal = SIGKILL };
			return;
		}
	} while (!classify(space, status, event));
	away += clock_nanoseconds(CLOCK_IS_MONOTONIC) - start;
	if (trace(PTRACE_GETREGS, space, NULL, &latest))
		fail("registers cannot be read");
	get_regs(regs, &latest);
	if (event->kind == EVENT_SYSCALL)
		regs->rax = latest.orig_rax; /* Linux has replaced RAX by -ENOSYS */
}

static u64 ran(u32 cpu, u64 nanoseconds, bool ended)
{
	const u64 core = nanoseconds > away ? nanoseconds - away : 0;

	(void)cpu;
	away = ended ? 0 : away;
	return last && last->used ? cpu_time_used(&last->clocks, last->pid, nanoseconds, core, ended) : nanoseconds;
}

/* -- start -- */

static void on_tick(int signal)
{
	(void)signal;
	ticked = 1;
}

void platform_start(int ram, struct platform_ops *ops, struct core_config *config)
{
	static u8 state[FPU_MOST];
	const struct space space = { .pid = tracee_start(ram) };
	struct iovec vector = { state, sizeof(state) };
	struct sigaction action = { .sa_handler = on_tick };

	if (trace(PTRACE_GETREGS, &space, NULL, &home) || trace(PTRACE_GETREGSET, &space, (void *)NT_X86_XSTATE, &vector))
		fail("the new process cannot be traced");
	home.orig_rax = ~0ull;
	home.eflags = 0x202;
	home.fs_base = home.gs_base = 0;
	config->cpus = 1;
	config->fpu_size = fpu_size = (u32)vector.iov_len;
	memcpy(&config->fpu_features, state + FEATURES_AT, sizeof(config->fpu_features));
	sigaction(SIGALRM, &action, NULL); /* it interrupts system calls */
	first_pid = space.pid;
	if (config->control) {
		spaces[0] = (struct space){ .pid = first_pid, .used = true };
		cpu_clocks_read(&spaces[0].clocks, first_pid);
		seed = spaces;
	}
	ops->space_new = space_new, ops->space_free = space_free, ops->run = run, ops->flush = flush;
	ops->map = map, ops->unmap = unmap, ops->ran = ran;
}

u32 platform_rules(const struct rule **rules)
{
	/* None of these reaches a process that was not traced before. */
	static const struct rule own[] = {
		{ SYS_ptrace, 0, PTRACE_SETREGS }, { SYS_ptrace, 0, PTRACE_GETREGS }, { SYS_ptrace, 0, PTRACE_CONT },
		{ SYS_ptrace, 0, PTRACE_SYSEMU }, { SYS_ptrace, 0, PTRACE_GETSIGINFO }, { SYS_ptrace, 0, PTRACE_INTERRUPT },
		{ SYS_ptrace, 0, PTRACE_GET_SYSCALL_INFO }, { SYS_ptrace, 0, PTRACE_GETEVENTMSG },
		{ SYS_ptrace, 0, PTRACE_GETREGSET }, { SYS_ptrace, 0, PTRACE_SETREGSET }, { SYS_wait4, -1, 0 },
	};

	*rules = own;
	return ARRAY_SIZE(own);
}
