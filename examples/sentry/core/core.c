// SPDX-License-Identifier: Apache-2.0
/* Starts the program, and answers what it stops for until it ends. */
#include "core.h"
#include "exec.h"
#include "ptrace.h"
#include "seccomp.h"
#include "strace.h"
#include "control/container.h"
#include "filters.h"
#include "hooks/hooks.h"
#include "vfs/device.h"
#include "vfs/fds.h"
#include "fuse/fuse.h"
#include "ipc/ipc.h"
#include "net/start.h"
#include "tty/tty.h"
#include "vdso.h"
#include "virtio/virtio.h"

struct core core;

void limits_init(struct process *p)
{
	enum { LOCKED_MOST = 8 << 20, QUEUES_MOST = 819200 };

	for (u32 i = 0; i < RLIMITS; i++)
		p->limits[i] = (struct rlimit){ ~0ull, ~0ull };
	p->limits[RLIMIT_STACK].current = STACK_SIZE;
	p->limits[RLIMIT_CORE].current = 0;
	p->limits[RLIMIT_MEMLOCK] = (struct rlimit){ LOCKED_MOST, LOCKED_MOST };
	p->limits[RLIMIT_MSGQUEUE] = (struct rlimit){ QUEUES_MOST, QUEUES_MOST };
	p->limits[RLIMIT_NICE] = p->limits[RLIMIT_RTPRIO] = (struct rlimit){ 0, 0 };
	p->limits[RLIMIT_NOFILE] = (struct rlimit){ 1024, FDS_MOST };
}

/* Take a reference to each file that an argument names by descriptor; returns how many. */
static u32 hold_files(struct task *t, const struct syscall *call, const u64 *args, struct file **held)
{
	u32 count = 0;

	for (u32 i = 0; i < call->count; i++) {
		u8 kind = call->arguments[i].kind;

		held[count] = kind == T_FD || kind == T_DIRFD ? fd_file(t, args[i]) : NULL;
		if (held[count])
			file_get(held[count++]);
	}
	return count;
}

/* While the call sleeps, another task that shares the table can close the descriptors. */
static __attribute__((noinline)) s64 call_holding(struct task *t, const struct syscall *call, const u64 *args)
{
	struct file *held[6];
	u32 count = hold_files(t, call, args, held);
	const s64 result = call->call(t, args);

	while (count)
		file_put(held[--count]);
	return result;
}

/* SYSCALLS - 1 for all that have no row. */
static u32 row_of(const struct task *t)
{
	return t->number < SYSCALLS ? (u32)t->number : SYSCALLS - 1;
}

static s64 no_call(const struct task *t)
{
	core.unknown[row_of(t)]++;
	return -ENOSYS;
}

static inline s64 call_handler(struct task *t, const u64 *args)
{
	const struct syscall *call = &syscalls[row_of(t)];

	if (!call->call)
		return no_call(t);
	if (core.unsettled)
		files_settle_before(t, args);
	return t->files->references > 1 ? call_holding(t, call, args) : call->call(t, args);
}

static __attribute__((noinline)) s64 dispatch_filtered(struct task *t, const u64 *args)
{
	s64 result;

	return seccomp_allows(t, args, &result) ? call_handler(t, args) : result;
}

static inline s64 dispatch(struct task *t, const u64 *args)
{
	return t->seccomp ? dispatch_filtered(t, args) : call_handler(t, args);
}

static __attribute__((noinline)) s64 dispatch_watched(struct task *t, const u64 *registers, u8 watched)
{
	u64 args[6]; /* the call may change the registers */
	struct trace trace;
	s64 result;

	bytes_copy(args, registers, sizeof(args));
	if (watched & WATCH_STRACE)
		strace_enter(t, &trace, args);
	result = watched == WATCH_STRACE ? dispatch(t, args) : hooks_call(t, args, watched, dispatch);
	if (watched & WATCH_STRACE)
		strace_leave(t, &trace, result);
	return result;
}

static inline void make_call(struct task *t)
{
	const u64 *args = &t->regs.rdi; /* and those behind it */
	u8 watched = core.watched[row_of(t)];

	t->regs.rax = (u64)(watched ? dispatch_watched(t, args, watched) : dispatch(t, args));
}

/* Whether nothing observes or checks the call, and no other task can close its files. */
static inline bool is_plain(const struct task *t)
{
	/* One branch for all of them. */
	return !((u64)t->tracee | (u64)t->filters | (u64)t->seccomp | core.unsettled) && t->number < SYSCALLS &&
	       !core.watched[t->number] && t->files->references == 1 && syscalls[t->number].call;
}

static __attribute__((noinline)) void answer_supervised(struct task *t)
{
	if ((!t->tracee || tracing_call(t)) && (!t->filters || filters_allow(t)))
		make_call(t);
	tracing_call_done(t);
}

static void fault(struct task *t, const struct event *event)
{
	enum { PAGE_FAULT = 14, MAPERR = 1, ACCERR = 2, ADRERR = 2, USER = 4 };
	int error = mm_fault(t->mm, event->address, event->access, event->present);

	if (!error || error == -ENOMEM)
		return;
	t->trap.number = PAGE_FAULT;
	t->trap.error = USER | event->present | (event->access == ACCESS_WRITE) << 1 | (event->access == ACCESS_EXEC) << 4;
	t->trap.address = event->address;
	if (error == -EFAULT)
		signal_force(t, SIGSEGV, mm_vma(t->mm, event->address) ? ACCERR : MAPERR, event->address);
	else
		signal_force(t, SIGBUS, ADRERR, event->address);
}

static void exception(struct task *t, const struct event *event)
{
	enum { BREAKPOINT = 3 };
	/* The code of each signal, if the platform reports none. */
	static const u8 codes[] = { [SIGILL] = 2, [SIGFPE] = 1, [SIGBUS] = 1, [SIGSEGV] = SI_KERNEL, [SIGTRAP] = SI_KERNEL };
	static const u8 numbers[] = { [SIGILL] = 6, [SIGBUS] = 17, [SIGSEGV] = 13, [SIGTRAP] = BREAKPOINT };
	int code = event->code ? event->code : event->signal < (int)ARRAY_SIZE(codes) ? codes[event->signal] : SI_KERNEL;
	bool is_at_code = event->signal == SIGILL || event->signal == SIGFPE;

	t->trap.number = event->signal < (int)ARRAY_SIZE(numbers) ? numbers[event->signal] : 0;
	t->trap.error = t->trap.address = 0;
	signal_force(t, event->signal, code, is_at_code ? t->regs.rip : code == SI_KERNEL ? 0 : event->address);
}

/* As on Linux, such a timer expires at a tick: one of a microsecond leaves the program time between its handlers. */
static bool is_cpu_tick(struct task *t)
{
	const u64 tick = 1000000;

	if (t->cpu_time - t->tick_start < tick)
		return false;
	t->tick_start = t->cpu_time;
	return true;
}

static bool has_cpu_timers(const struct task *t)
{
	return !list_empty(&t->process->cpu_timers);
}

/* A program that makes one system call after the other may never run when the platform's tick comes. */
static bool is_slice_used(struct task *t)
{
	const u64 slice = 5000000;

	if (t->cpu_time - t->slice_start < slice)
		return false;
	t->slice_start = t->cpu_time;
	return true;
}

static bool has_quota(const struct task *t)
{
	return t->process->container && t->process->container->limits.quota;
}

/* Nothing but the result of its call is between the task and its program. */
static inline bool is_undisturbed(const struct task *t)
{
	const struct container *container = t->process->container;

	return signals_rest(t) && !has_cpu_timers(t) && !t->mm->exhausted &&
	       !(container && (container->frozen || container->limits.quota));
}

bool task_answer(struct task *t)
{
	if (is_plain(t))
		t->regs.rax = (u64)syscalls[t->number].call(t, &t->regs.rdi);
	else
		answer_supervised(t);
	return is_undisturbed(t);
}

/* Answer system calls for as long as the task is undisturbed; whether the event has been answered. */
static bool answer_calls(struct task *t, struct event *event)
{
	while (event->kind == EVENT_SYSCALL) {
		t->number = event->foreign ? SYSCALLS - 1 : (u32)t->regs.rax;
		if (!task_answer(t) || !task_return(t, event))
			return true;
	}
	return event->kind == EVENT_ANSWERED;
}

void task_run(void)
{
	struct task *t = core.current;
	struct event event;

	for (;;) {
		signal_deliver(t);
		if (t->process->container)
			container_hold(t);
		if (t->tracee)
			tracing_enter(t, has_cpu_timers(t) || has_quota(t), &event);
		else
			task_enter(t, has_cpu_timers(t) || has_quota(t), &event);
		if (has_cpu_timers(t) && is_cpu_tick(t))
			cpu_timers_check(t->process);
		if (!answer_calls(t, &event)) {
			t->number = NO_CALL;
			if (event.kind == EVENT_SIGNAL)
				exception(t, &event);
			else if (event.kind != EVENT_PREEMPTED)
				fault(t, &event);
		}
		if (is_slice_used(t) || event.kind == EVENT_PREEMPTED)
			task_yield();
		if (t->mm->exhausted) {
			log_text("out of memory: the program is killed\n");
			container_out_of_memory(t->process);
			process_end(t->process, SIGKILL);
		}
	}
}

static struct task *first_task(void)
{
	struct task *t = task_alloc(core.config->hooks ? hooks_run : task_run);
	s32 pid = tid_new(space_of_sandbox(SPACE_PID));

	if (!t)
		return NULL;
	if (!console_start_terminal())
		return NULL;
	t->process = process_new(NULL, NULL, pid);
	t->mm = mm_new(NULL);
	t->fpu = fpu_new();
	t->files = files_with_console();
	t->fs = fs_new();
	t->sighand = kmalloc(sizeof(*t->sighand));
	if (!t->process || !t->mm || !t->files || !t->fs || !t->sighand || !t->fpu)
		return NULL;
	t->number = NO_CALL;
	t->timer_slack = t->default_slack = TIMER_SLACK;
	cred_init(&t->cred, core.config->user, core.config->group);
	t->sighand->references = 1;
	limits_init(t->process);
	task_add(t, pid);
	console_adopt(t->process);
	return t;
}

const char *core_start(const struct core_config *config)
{
	struct task *t;
	const char *error;

	bytes_zero(&core, sizeof(core));
	core.config = config;
	core.ops = config->ops;
	core.cpus = !config->cpus ? 1 : config->cpus < CPUS ? config->cpus : CPUS;
	sched_init();
	release_init();
	slab_init();
	tasks_init();
	spaces_init();
	mm_init();
	futex_init();
	ipc_init();
	if (ram_init(config) || !vdso_init())
		return "the sandbox has too little memory";
	virtio_init(config);
	error = config->hooks ? hooks_listen() : NULL;
	if (error)
		return error;
	ttys_init();
	net_init();
	inet_init();
	interfaces_init();
	net_settle();
	if (!config->program && !config->root && !fuse_root && !config->control)
		return "there is neither a program (initrd) nor a directory for the root (a share with the tag share or rootfs)";
	for (u32 i = 0; config->strace && i < SYSCALLS; i++)
		core.watched[i] = WATCH_STRACE;
	error = root_init(config);
	if (!error && config->hooks)
		error = hooks_start();
	if (error || config->control)
		return error ? error : control_start();
	t = first_task();
	if (!t)
		return "the sandbox has too little memory";
	error = exec_first(t);
	if (error)
		return error;
	task_start(t);
	return NULL;
}

void core_moved(void)
{
	vsock_move();
}

struct core_exit core_continue(void)
{
	sched_continue();
	return core.exit;
}

struct core_exit core_run(void)
{
	sched_run();
	if (core.config->strace)
		strace_unknown();
	return core.exit;
}
