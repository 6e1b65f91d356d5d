// SPDX-License-Identifier: Apache-2.0
/*
 * CPUs: as many programs run at the same time.  The core has one thread, which serves the CPUs in turn: one that runs a
 * program when that has stopped, one that waits when it is ready.
 */
#define _GNU_SOURCE
#include <linux/audit.h>
#include <signal.h>

#include "below.h"
#include "trap.h"

enum state { OFF, HERE, READY, AWAY, WAITING };

struct cpu {
	enum state state;
	u64 rsp;
	struct stub *stub; /* of the program that runs */
	void *space, *fpu;
	struct regs *regs;
	struct event *event;
	bool limited; /* each tick interrupts the program */
	u64 away_since, away; /* the program runs since then, and has run so long since ran() */
	bool unmeasured;      /* at some time, nobody has looked at the clock when it began to run */
	u64 least_core;	      /* what ran() has found for the core in this interval: the clock is read at other times */
	u64 deadline; /* of its wait */
	bool input;
};

static struct cpu cpus[SLOTS] = { { .state = HERE } };
static struct cpu *here = cpus;
static bool (*host_wait)(u64 deadline);
u32 cpu_count;

/* -- what a program has stopped for -- */

static void read_call(struct stub *stub, struct regs *regs, struct event *event)
{
	const struct seccomp_data *data = &stub->call.data;

	stub->in_call = true;
	stub->call_rip = regs->rip = data->instruction_pointer;
	regs->rax = (u64)data->nr;
	regs->rdi = data->args[0], regs->rsi = data->args[1], regs->rdx = data->args[2], regs->r10 = data->args[3];
	regs->r8 = data->args[4], regs->r9 = data->args[5];
	*event = (struct event){ .kind = EVENT_SYSCALL };
}

/* Why a program has stopped; false: not through the program. */
static bool classify(const struct report *report, struct event *event)
{
	enum { WRITE = 2, FETCH = 16 };
	const siginfo_t *info = &report->info;

	if (report->signal == SIGURG) {
		*event = (struct event){ .kind = EVENT_PREEMPTED };
		return true;
	}
	if (info->si_code <= 0)
		return false; /* sent by somebody on the host */
	if (report->signal == SIGSYS) {
		*event = (struct event){ .kind = EVENT_SYSCALL, .foreign = info->si_arch != AUDIT_ARCH_X86_64 };
		return true;
	}
	*event = (struct event){ .kind = EVENT_SIGNAL, .signal = report->signal, .code = info->si_code,
				 .address = (u64)info->si_addr };
	if (report->signal == SIGSEGV && info->si_code != SI_KERNEL) {
		event->kind = EVENT_FAULT;
		event->present = info->si_code != SEGV_MAPERR;
		if (report->error & WRITE)
			space_writes(event->address);
		event->access = report->error & FETCH ? ACCESS_EXEC : report->error & WRITE ? ACCESS_WRITE : ACCESS_READ;
	}
	return true;
}

/* Handle a process that has made a call, or has ended. It runs again if the program did not cause that. */
static void take(struct cpu *cpu)
{
	struct stub *stub = cpu->stub;
	struct report report;
	bool done = false;

	*cpu->event = (struct event){ .kind = EVENT_SIGNAL, .signal = SIGKILL };
	if (!stub->gone && !is_in_stub(stub->call.data.instruction_pointer)) {
		read_call(stub, cpu->regs, cpu->event);
		done = true;
	} else if (!stub->gone && stub_read_report(stub, cpu->regs, &report)) {
		if (stub_handles(report.signal))
			done = classify(&report, cpu->event);
		else
			stub_kill(stub);
	}
	if (!done && !stub->gone && space_resume(cpu->space, stub, cpu->regs, cpu->fpu))
		return;
	stub->cpu = NULL;
	cpu->state = READY;
	if (cpu->away_since)
		cpu->away += clock_nanoseconds(CLOCK_IS_MONOTONIC) - cpu->away_since;
	cpu->unmeasured = cpu->unmeasured || !cpu->away_since;
	cpu->away_since = 0;
}

static void take_all(void)
{
	for (struct cpu *cpu = cpus; cpu < cpus + cpu_count; cpu++)
		if (cpu->state == AWAY && !cpu->stub->runs)
			take(cpu);
}

/* -- waiting -- */

void cpus_tick(void)
{
	for (struct cpu *cpu = cpus; cpu < cpus + cpu_count; cpu++)
		if (cpu->state == AWAY && cpu->limited && cpu->stub->runs)
			notify_interrupt(cpu->stub->pid);
}

static void end_wait(struct cpu *waiting, struct pollfd *sources, bool any)
{
	waiting->state = READY;
	waiting->input = any && sources_take(sources, false);
}

/* While programs run: until one of them stops, or the watcher interrupts. Any other signal is a new size of the terminal. */
static void watch_beside(struct cpu *waiting, u64 deadline)
{
	struct pollfd sources[SOURCES];

	sources_get(sources, false);
	watcher_request(sources, deadline);
	if (stubs_receive() && !watcher_is_done())
		return;
	end_wait(waiting, sources, ppoll(sources, SOURCES, &(struct timespec){ 0, 0 }, NULL) > 0);
}

/* While no program runs. */
static void wait_alone(struct cpu *waiting, u64 deadline)
{
	struct pollfd sources[SOURCES + 1];
	long count;

	sources_get(sources, false);
	count = notify_poll(sources, SOURCES + 1, deadline);
	if (count < 0 && stubs_signalled())
		return;
	if (count <= 0 || !sources[SOURCES].revents || count > 1)
		end_wait(waiting, sources, count > 0);
	if (count > 0 && sources[SOURCES].revents)
		stubs_receive();
}

/* Until a program stops, or one of the CPUs without one has something to do. */
static void wait_for_any(void)
{
	struct cpu *waiting = NULL;
	u64 deadline = ~0ull;
	bool away = false, limited = false;

	for (struct cpu *cpu = cpus + cpu_count; cpu-- > cpus;) {
		if (cpu->state == WAITING && cpu->deadline <= deadline) {
			waiting = cpu; /* the one with the first deadline: it keeps that until it is ready */
			deadline = cpu->deadline;
		}
		away = away || cpu->state == AWAY;
		limited = limited || (cpu->state == AWAY && cpu->limited);
	}
	slice_timer(limited);
	if (!waiting || (away && deadline == ~0ull && !sched_listens()))
		stubs_receive();
	else if (away)
		watch_beside(waiting, deadline);
	else
		wait_alone(waiting, deadline);
}

/*
 * The host may stop the core here.  What follows happens in another process, in which no program runs yet.  There, pages
 * appear when programs touch them.
 */
static void stop(void)
{
	for (struct cpu *cpu = cpus; cpu < cpus + cpu_count; cpu++)
		if (cpu->state == AWAY)
			cpu_stop(cpu);
	spaces_leave();
	slice_timer(false);
	core_leave();
}

/* Leave this CPU until it is ready. */
static void leave(struct cpu *cpu)
{
	for (;;) {
		struct cpu *next = cpu;

		take_all();
		if (notify_stop() && core_rests())
			stop();
		do
			next = next + 1 < cpus + cpu_count ? next + 1 : cpus;
		while (next != cpu && next->state != READY);
		if (next->state == READY) {
			here = next;
			next->state = HERE;
			if (next != cpu)
				context_switch(&cpu->rsp, next->rsp);
			return;
		}
		wait_for_any();
	}
}

/* -- what the core needs -- */

static void run(void *space, struct regs *regs, void *fpu, bool limited, struct event *event)
{
	struct cpu *cpu = here;

	*event = (struct event){ .kind = EVENT_SIGNAL, .signal = SIGKILL };
	if (below_has_moved())
		below_settle();
	stubs_signalled(); /* a tick that came before is not for this program */
	cpu->stub = space_stub(space, regs);
	if (!cpu->stub || !space_resume(space, cpu->stub, regs, fpu))
		return;
	cpu->space = space, cpu->regs = regs, cpu->fpu = fpu, cpu->event = event, cpu->limited = limited;
	cpu->stub->cpu = cpu;
	cpu->away_since = limited ? clock_nanoseconds(CLOCK_IS_MONOTONIC) : 0;
	cpu->state = AWAY;
	leave(cpu);
}

static bool wait_until(u64 deadline)
{
	struct cpu *cpu = here;

	if (!deadline)
		return host_wait(0);
	cpu->state = WAITING;
	cpu->deadline = deadline;
	cpu->input = false;
	leave(cpu);
	return cpu->input;
}

/* The stub forgets an interruption that comes at the wrong moment: the next tick repeats it. */
static void request_stop(struct cpu *cpu)
{
	cpu->limited = true;
	if (cpu->stub->runs)
		notify_interrupt(cpu->stub->pid);
}

void cpu_stop(struct cpu *cpu)
{
	request_stop(cpu);
	slice_timer(true);
	while (cpu->state == AWAY) {
		if (cpu->stub->runs)
			stubs_receive();
		else
			take(cpu);
	}
}

static void interrupt(u32 number, bool stop)
{
	struct cpu *cpu = &cpus[number];

	if (cpu->state == WAITING)
		cpu->state = READY;
	else if (cpu->state == AWAY && stop)
		cpu_stop(cpu);
	else if (cpu->state == AWAY)
		request_stop(cpu);
}

/* While no program runs: it may need the CPU that the server of files needs, too. */
static bool watch(void)
{
	for (const struct cpu *cpu = cpus; cpu < cpus + cpu_count; cpu++)
		if (cpu->state == AWAY && cpu->stub->runs)
			return false;
	return answer_comes();
}

static u64 ran(u32 number, u64 nanoseconds, bool ended)
{
	struct cpu *cpu = &cpus[number];
	struct stub *stub = cpu->stub;
	const bool runs = cpu->state == AWAY;
	u64 away = cpu->away, core = ~0ull;

	if (!stub || !stub->used || stub->gone)
		return nanoseconds;
	if (runs && cpu->away_since)
		away += clock_nanoseconds(CLOCK_IS_MONOTONIC) - cpu->away_since;
	if (!cpu->unmeasured && (!runs || cpu->away_since))
		core = nanoseconds > away + cpu->least_core ? nanoseconds - away : cpu->least_core;
	cpu->least_core = ended || core == ~0ull ? 0 : core;
	if (ended)
		cpu->away = 0, cpu->unmeasured = false;
	return cpu_time_used(&stub->clocks, stub->pid, nanoseconds, core, ended);
}

static u32 number_here(void)
{
	return (u32)(here - cpus);
}

static void start(u32 number, u64 rsp)
{
	cpus[number].rsp = rsp;
	cpus[number].state = READY;
}

void cpus_init(struct platform_ops *ops, u32 count)
{
	cpu_count = count;
	host_wait = ops->wait;
	ops->run = run, ops->wait = wait_until, ops->watch = watch, ops->ran = ran;
	ops->cpu = number_here, ops->cpu_start = start, ops->interrupt = interrupt;
}
