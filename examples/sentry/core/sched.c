// SPDX-License-Identifier: Apache-2.0
/*
 * The scheduler: each task has a stack of its own in the core, and leaves its CPU when it sleeps, yields or ends.
 *
 * A CPU without a task runs its idle loop.  One CPU at a time is in the core; before it leaves, it wakes others for the
 * tasks that are ready.
 */
#include "control/container.h"
#include "core.h"
#include "virtio/virtio.h"

#define CANARY 0x5ca1ab1e0ddba11ull

asm(".text\n"
    ".globl context_switch\n"
    ".type context_switch, @function\n"
    "context_switch:\n"
    "	push %rbx\n"
    "	push %rbp\n"
    "	push %r12\n"
    "	push %r13\n"
    "	push %r14\n"
    "	push %r15\n"
    "	mov %rsp, (%rdi)\n"
    "	mov %rsi, %rsp\n"
    "	pop %r15\n"
    "	pop %r14\n"
    "	pop %r13\n"
    "	pop %r12\n"
    "	pop %rbp\n"
    "	pop %rbx\n"
    "	ret\n");

struct cpu {
	struct task *idle, *current; /* current: NULL if it is idle */
	u64 deadline;		     /* of its wait */
	u64 idle_since, idle_time;   /* since: 0: it does not wait */
	const struct task *left;     /* whose program it has left at left_at, and which has not slept since then; or NULL */
	u64 left_at;
	u32 calls; /* since the task has been entered */
	u64 bit;   /* in sets of CPUs */
} __attribute__((aligned(64)));

static struct {
	struct cpu cpus[CPUS];
	struct cpu *cpu;	   /* that is in the core */
	u64 waiting;		   /* CPUs that nobody has woken: a bit for each */
	u64 unlimited;		   /* CPUs that run a program without a slice */
	struct task *first, *last; /* that are ready */
	struct task *dead;	   /* the one that ran before has ended, and its stack is still in use */
	struct timer *timers;	   /* by their time */
	u64 turn;		   /* of the container that has run last (struct container) */
	u64 boot_rsp, left_rsp; /* left: where core_leave() was called; 0: it was not */
} sched;

void sched_init(void)
{
	bytes_zero(&sched, sizeof(sched));
	sched.cpu = sched.cpus;
	for (u32 i = 0; i < CPUS; i++)
		sched.cpus[i].bit = 1ull << i;
}

bool sched_waits(void)
{
	return sched.waiting & sched.cpu->bit;
}

bool sched_listens(void)
{
	return sched.timers || core.unsettled || core.console_input.first || core.console_happened ||
	       (virtio_is_ready_made && virtio_waits());
}

/* -- tasks -- */

static void stack_free(struct task *t)
{
#ifdef __SANITIZE_ADDRESS__
	void __asan_unpoison_memory_region(void const volatile *at, unsigned long size);

	__asan_unpoison_memory_region(t->stack, STACK_BYTES); /* frames that were never left */
#endif
	page_free(t->stack);
}

/* After each change of stacks. */
static void switched(void)
{
	struct task *dead = sched.dead;

	sched.dead = NULL;
	if (dead)
		task_free(dead);
}

void task_free(struct task *t)
{
	stack_free(t);
	kfree(t);
}

static void task_first(void)
{
	switched();
	core.current->run();
	task_stop();
}

/* -- several CPUs -- */

/* CPU time since a time by the clock, at which the task was on its CPU; ended: it is counted, and the next begins. */
static u64 time_used(const struct task *t, u64 since, u64 now, bool ended)
{
	u64 all = now > since ? now - since : 0;

	return core.ops->ran ? core.ops->ran(t->cpu, all, ended) : all;
}

void task_interrupt(struct task *t, bool stop)
{
	if (!t->entered)
		return;
	core.ops->interrupt(t->cpu, stop);
	if (!stop)
		return;
	if (t->entered)
		t->cpu_time += time_used(t, t->entered, monotonic_now(), true);
	t->entered = 0; /* its CPU is about to come back into the core */
}

static void wake_cpu(u64 *from, u32 cpu)
{
	*from &= ~(1ull << cpu);
	core.ops->interrupt(cpu, false);
}

/* Before this CPU leaves the core: wake CPUs for the tasks that are ready, or interrupt programs that have no slice. */
static void share_out(void)
{
	for (const struct task *t = sched.first; t && (sched.waiting | sched.unlimited); t = t->next_ready) {
		if (sched.waiting & t->affinity)
			wake_cpu(&sched.waiting, (u32)__builtin_ctzll(sched.waiting & t->affinity));
		else if (sched.unlimited & t->affinity)
			wake_cpu(&sched.unlimited, (u32)__builtin_ctzll(sched.unlimited & t->affinity));
	}
}

/*
 * Whether this CPU must look around after a slice.  For others' sake none must while another waits, which wakes up for the
 * first timer.
 */
static bool must_look(void)
{
	u64 first = sched.timers ? sched.timers->deadline : FOREVER;
	u32 cpu;

	if (!sched.waiting)
		return sched.first || sched_listens();
	for (u64 rest = sched.waiting; rest; rest &= rest - 1)
		if (sched.cpus[__builtin_ctzll(rest)].deadline <= first)
			return sched.first || core.unsettled;
	cpu = (u32)__builtin_ctzll(sched.waiting);
	wake_cpu(&sched.waiting, cpu);
	return sched.first || core.unsettled;
}

static void is_back(struct cpu *cpu, struct task *t)
{
	sched.cpu = cpu;
	core.current = t;
}

static void set_limited(const struct cpu *cpu, bool limited)
{
	if (limited)
		sched.unlimited &= ~cpu->bit;
	else
		sched.unlimited |= cpu->bit;
}

/* With the program of a task that this CPU runs; unless it comes back answered, the CPU is back in the core. */
static void run_program(struct task *t, bool limited, struct event *event)
{
	struct cpu *cpu = sched.cpu;

	set_limited(cpu, limited);
	t->cpu = (u32)(cpu - sched.cpus);
	core.ops->run(t->mm->space, &t->regs, t->fpu, limited, event);
	if (event->kind == EVENT_ANSWERED)
		t->entered = 0;
	else
		is_back(cpu, t);
	set_limited(sched.cpu, true);
}

static __attribute__((noinline)) void count_time(struct cpu *cpu, struct task *t)
{
	cpu->left = t;
	cpu->left_at = monotonic_now();
	if (t->entered) /* otherwise task_interrupt() has counted the time */
		t->cpu_time += time_used(t, t->entered, cpu->left_at, true);
}

/*
 * The task has left its program. Its CPU time since the first call is counted when it is entered again, or gives up its
 * CPU.
 */
static inline void has_left(struct cpu *cpu, struct task *t)
{
	if (!cpu->calls++)
		count_time(cpu, t);
	else if (!t->entered) /* task_interrupt() has counted the time */
		cpu->left_at = monotonic_now();
	t->entered = 0;
}

void task_count_time(struct task *t)
{
	struct cpu *cpu = sched.cpu;

	if (cpu->left != t)
		return;
	t->entered = cpu->left_at;
	count_time(cpu, t);
	t->entered = 0;
}

void task_enter(struct task *t, bool may_stop, struct event *event)
{
	struct cpu *cpu = sched.cpu;

	share_out();
	/* The time in the core is the task's, too, as on Linux, unless it has slept. */
	t->entered = cpu->left == t ? cpu->left_at : monotonic_now();
	cpu->left = NULL;
	cpu->calls = 0;
	run_program(t, must_look() || may_stop, event);
	if (event->kind != EVENT_ANSWERED)
		has_left(cpu, t);
	if (t->process->container)
		container_charge(t);
}

/* Between system calls of a task, where other CPUs may have to do something: before it goes on without task_enter(). */
static __attribute__((noinline)) enum next look_between(struct cpu *cpu)
{
	bool limited;

	set_limited(cpu, true);
	share_out();
	limited = must_look();
	set_limited(cpu, limited);
	cpu->current->entered = cpu->left_at;
	return limited ? NEXT_SLICE : NEXT_PROGRAM;
}

static inline enum next next_step(struct task *t)
{
	const u32 most = 64; /* the clock is read once for so many */
	struct cpu *cpu = sched.cpu;
	bool limited;

	if (cpu->left != t || cpu->calls >= most)
		return NEXT_RETURN;
	if (sched.waiting || (sched.first && sched.unlimited & ~cpu->bit))
		return look_between(cpu);
	/* As must_look() without other CPUs that wait. */
	limited = sched.first || sched_listens();
	set_limited(cpu, limited);
	t->entered = cpu->left_at;
	return limited ? NEXT_SLICE : NEXT_PROGRAM;
}

bool task_return(struct task *t, struct event *event)
{
	enum next next = next_step(t);

	if (next == NEXT_RETURN)
		return false;
	run_program(t, next == NEXT_SLICE, event);
	has_left(sched.cpu, t);
	return true;
}

enum next core_call(u32 number)
{
	struct cpu *cpu = &sched.cpus[number];
	struct task *t = cpu->current;

	if (t->tracee)
		return NEXT_CALL;
	is_back(cpu, t);
	has_left(cpu, t);
	t->number = (u32)t->regs.rax;
	return task_answer(t) ? next_step(t) : NEXT_RETURN;
}

u64 task_cpu_time(struct task *t)
{
	const u64 since = t == sched.cpu->left ? sched.cpu->left_at : t->entered;
	const u64 now = t->cpu_time + (since ? time_used(t, since, monotonic_now(), false) : 0);

	/* What is counted at the end of an interval can be less than what was estimated within it. */
	if (now > t->cpu_time_shown)
		t->cpu_time_shown = now;
	return t->cpu_time_shown;
}

u64 call_began(void)
{
	return sched.cpu->left_at;
}

u32 cpu_number(void)
{
	return (u32)(sched.cpu - sched.cpus);
}

u64 cpu_idle_time(u32 number)
{
	const struct cpu *cpu = &sched.cpus[number];

	return cpu->idle_time + (cpu->idle_since ? monotonic_now() - cpu->idle_since : 0);
}

/* A task whose stack begins with a function. */
static struct task *alloc_at(void (*first)(void))
{
	struct task *t = kmalloc(sizeof(*t));
	u64 offset = t ? pages_alloc(STACK_ORDER) : 0, *top;

	if (!offset) {
		kfree(t);
		return NULL;
	}
	list_init(&t->tracees);
	t->affinity = ~0ull >> (CPUS - core.cpus);
	t->stack = page_at(offset);
	if (core.ops->expose) /* the host's kernel writes results of calls there, and frames of signals */
		core.ops->expose(offset, STACK_BYTES);
	*(u64 *)t->stack = CANARY;
	top = (u64 *)((u8 *)t->stack + STACK_BYTES);
	top[-2] = (u64)first; /* to which context_switch returns, with the stack as after a call */
	for (int i = 3; i < 9; i++)
		top[-i] = 0;
	t->core_rsp = (u64)(top - 8);
	return t;
}

struct task *task_alloc(void (*run)(void))
{
	struct task *t = alloc_at(task_first);

	if (t)
		t->run = run;
	return t;
}

void task_start(struct task *t)
{
	t->state = TASK_SLEEPING;
	task_ready(t);
}

void task_ready(struct task *t)
{
	if (t->state == TASK_RUNNING)
		task_interrupt(t, false);
	if (t->state != TASK_SLEEPING)
		return;
	if (t->process && t->process->container && t->process->container->turn < sched.turn)
		t->process->container->turn = sched.turn; /* what it did not use while it slept is lost */
	t->state = TASK_READY;
	t->next_ready = NULL;
	*(sched.first ? &sched.last->next_ready : &sched.first) = t;
	sched.last = t;
}

void task_wake(struct task *t)
{
	t->woken = true;
	task_ready(t);
}

/* -- time -- */

u64 monotonic_now(void)
{
	return core.ops->nanoseconds(CLOCK_IS_MONOTONIC);
}

void timer_stop(struct timer *timer)
{
	if (!timer->active)
		return;
	*(timer->before ? &timer->before->next : &sched.timers) = timer->next;
	if (timer->next)
		timer->next->before = timer->before;
	timer->active = false;
}

void timer_start(struct timer *timer, u64 deadline)
{
	struct timer *before = NULL, *next;

	timer_stop(timer);
	if (deadline == FOREVER)
		return;
	for (next = sched.timers; next && next->deadline <= deadline; next = next->next)
		before = next;
	timer->deadline = deadline;
	timer->before = before;
	timer->next = next;
	*(before ? &before->next : &sched.timers) = timer;
	if (next)
		next->before = timer;
	timer->active = true;
}

static void expire_timers(void)
{
	u64 now = sched.timers ? monotonic_now() : 0;

	while (sched.timers && sched.timers->deadline <= now) {
		struct timer *timer = sched.timers;

		timer_stop(timer);
		timer->expire(timer);
	}
}

/* -- the switch -- */

static void look_around(u64 deadline)
{
	struct cpu *cpu = sched.cpu;
	bool input;

	if (deadline) {
		share_out();
		sched.waiting |= cpu->bit;
		cpu->deadline = deadline;
		cpu->idle_since = monotonic_now();
	}
	files_push();
	input = core.ops->wait(deadline);
	if (deadline) {
		sched.cpu = cpu;
		core.current = NULL;
		sched.waiting &= ~cpu->bit;
		cpu->idle_time += monotonic_now() - cpu->idle_since;
		cpu->idle_since = 0;
	}
	if (input)
		wake_all(&core.console_input);
	if (core.console_happened)
		core.console_happened(input);
	virtio_poll();
	expire_timers();
}

/* Those of the core's own come first. */
static u64 turn_of(const struct task *t)
{
	return t->process->container ? t->process->container->turn : 0;
}

/* The next task for this CPU; NULL: none is ready.  Of several containers, that which has had least for its weight. */
static struct task *take_ready(void)
{
	const bool several = containers_compete();
	struct task *before = NULL, *t = NULL, *last = NULL;

	for (struct task *at = sched.first; at && (several || !t); last = at, at = at->next_ready) {
		if (!(at->affinity & sched.cpu->bit) || (t && turn_of(at) >= turn_of(t)))
			continue;
		t = at;
		before = last;
	}
	if (!t)
		return NULL;
	if (turn_of(t) > sched.turn)
		sched.turn = turn_of(t);
	*(before ? &before->next_ready : &sched.first) = t->next_ready;
	if (sched.last == t)
		sched.last = before;
	t->state = TASK_RUNNING;
	return t;
}

/* Run the next task that is ready, which can be the current one, or the idle loop. false: it was that already. */
static bool schedule(void)
{
	struct cpu *cpu = sched.cpu;
	struct task *before = cpu->current ? cpu->current : cpu->idle, *next;

	expire_timers();
	next = take_ready();
	if (next == cpu->current)
		return next;
	if (cpu->current)
		task_count_time(cpu->current);
	if (*(u64 *)before->stack != CANARY)
		core.ops->fatal("the stack of a task in the core has overflowed");
	if (cpu->current && core.cpus > 1 && core.ops->leave_cpu)
		core.ops->leave_cpu(before->fpu);
	cpu->current = core.current = next;
	cpu->left = NULL;
	set_limited(cpu, true);
	core.switches++;
	context_switch(&before->core_rsp, next ? next->core_rsp : cpu->idle->core_rsp);
	switched();
	return true;
}

/* Of a CPU that has no task. */
static void idle(void)
{
	sched.cpu = &sched.cpus[core.ops->cpu ? core.ops->cpu() : 0];
	core.current = NULL;
	for (;;) {
		virtio_poll(); /* a read of the console may have taken the interrupt */
		if (!schedule())
			look_around(sched.timers ? sched.timers->deadline : FOREVER);
	}
}

void task_yield(void)
{
	core.current->state = TASK_SLEEPING;
	task_ready(core.current);
	look_around(0);
	schedule();
}

_Noreturn void task_stop(void)
{
	core.current->state = TASK_DEAD;
	sched.dead = core.current;
	schedule();
	__builtin_unreachable();
}

void sched_run(void)
{
	for (u32 i = 0; i < core.cpus; i++) {
		struct task *t = alloc_at(idle);

		if (!t)
			core.ops->fatal("the sandbox has too little memory");
		sched.cpus[i].idle = t;
		if (i)
			core.ops->cpu_start(i, t->core_rsp);
	}
	context_switch(&sched.boot_rsp, sched.cpus->idle->core_rsp);
}

void core_leave(void)
{
	context_switch(&sched.left_rsp, sched.boot_rsp);
}

bool core_has_left(void)
{
	return sched.left_rsp;
}

void sched_continue(void)
{
	u64 rsp = sched.left_rsp;

	sched.left_rsp = 0;
	context_switch(&sched.boot_rsp, rsp);
}

_Noreturn void sched_end(void)
{
	u64 unused;

	context_switch(&unused, sched.boot_rsp);
	__builtin_unreachable();
}

/* -- sleep and wake -- */

static void wake_at_time(struct timer *timer)
{
	task_ready(CONTAINER(timer, struct task, timer));
}

enum sleep { INTERRUPTIBLE, KILLABLE, ALWAYS }; /* by any signal, by SIGKILL, by none */

/* Others may make the task ready for less than it waits for, such as a signal that another thread takes. */
static s64 sleep_until(u64 deadline, enum sleep how)
{
	struct task *t = core.current;

	while (!t->woken) {
		if (how != ALWAYS && signal_interrupts(t, how == KILLABLE))
			return -ERESTARTSYS;
		if (deadline != FOREVER && deadline <= monotonic_now())
			return -ETIMEDOUT;
		t->state = TASK_SLEEPING;
		t->timer.expire = wake_at_time;
		timer_start(&t->timer, deadline);
		schedule();
		timer_stop(&t->timer);
	}
	t->woken = false;
	return 0;
}

s64 task_sleep(u64 deadline)
{
	return sleep_until(deadline, INTERRUPTIBLE);
}

static s64 sleep_alone(struct wait_queue *queue, u64 deadline, enum sleep how)
{
	struct waiter waiter = { .alone = true };
	s64 result;

	waiter_add(queue, &waiter);
	result = sleep_until(deadline, how);
	waiter_remove(&waiter);
	return result;
}

s64 sleep_on(struct wait_queue *queue, u64 deadline)
{
	return sleep_alone(queue, deadline, INTERRUPTIBLE);
}

s64 sleep_on_killable(struct wait_queue *queue, u64 deadline)
{
	return sleep_alone(queue, deadline, KILLABLE);
}

void sleep_on_always(struct wait_queue *queue)
{
	sleep_alone(queue, FOREVER, ALWAYS);
}

void waiter_add(struct wait_queue *queue, struct waiter *w)
{
	w->queue = queue;
	w->task = core.current;
	w->task->woken = false;
	w->next = NULL;
	w->before = queue->last;
	*(w->before ? &w->before->next : &queue->first) = w;
	queue->last = w;
}

void waiter_remove(struct waiter *w)
{
	if (!w->queue)
		return;
	*(w->before ? &w->before->next : &w->queue->first) = w->next;
	*(w->next ? &w->next->before : &w->queue->last) = w->before;
	w->queue = NULL;
}

static void wake(struct wait_queue *queue, u32 most)
{
	for (struct waiter *w = queue->first, *next; w; w = next) {
		next = w->next;
		if (w->notify) {
			w->notify(w);
			continue;
		}
		if (w->alone && !most)
			continue;
		most -= w->alone;
		waiter_remove(w);
		task_wake(w->task);
	}
}

void wait_queue_end(struct wait_queue *queue)
{
	wake_all(queue);
	while (queue->first)
		waiter_remove(queue->first);
}

void wake_one(struct wait_queue *queue)
{
	wake(queue, 1);
}

void wake_all(struct wait_queue *queue)
{
	wake(queue, ~0u);
}
