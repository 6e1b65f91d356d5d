// SPDX-License-Identifier: Apache-2.0
/* The scheduler: one task runs at a time, each on a stack of its own, until it sleeps, yields or ends. */
#include "core.h"
#include "virtio/virtio.h"

enum { STACK_ORDER = 4, STACK_BYTES = PAGE << STACK_ORDER };
#define CANARY 0x5ca1ab1e0ddba11ull

/* Saves what a function of C keeps for its caller, changes stacks, and goes on where that stack was left. */
void context_switch(u64 *save_rsp, u64 load_rsp);
asm(".text\n"
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

static struct {
	struct task *first, *last; /* that are ready */
	struct task *dead;	   /* the one that ran before has ended, and its stack is still in use */
	struct timer *timers;	   /* by their time */
	u64 boot_rsp;
} sched;

void sched_init(void)
{
	bytes_zero(&sched, sizeof(sched));
}

bool sched_is_busy(void)
{
	return sched.first || sched.timers || core.console_input.first || core.console_happened;
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

struct task *task_alloc(void (*run)(void))
{
	struct task *t = kmalloc(sizeof(*t));
	u64 offset = t ? pages_alloc(STACK_ORDER) : 0, *top;

	if (!offset) {
		kfree(t);
		return NULL;
	}
	t->stack = page_at(offset);
	*(u64 *)t->stack = CANARY;
	t->run = run;
	top = (u64 *)((u8 *)t->stack + STACK_BYTES);
	top[-2] = (u64)task_first; /* to which context_switch returns, with the stack as after a call */
	for (int i = 3; i < 9; i++)
		top[-i] = 0;
	t->core_rsp = (u64)(top - 8);
	return t;
}

void task_start(struct task *t)
{
	t->state = TASK_SLEEPING;
	task_ready(t);
}

void task_ready(struct task *t)
{
	if (t->state != TASK_SLEEPING)
		return;
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
	bool input = core.ops->wait(deadline);

	if (input)
		wake_all(&core.console_input);
	if (core.console_happened)
		core.console_happened(input);
	virtio_poll();
	expire_timers();
}

/* Run the next task that is ready, which can be the current one. */
static void schedule(void)
{
	struct task *before = core.current, *next;

	expire_timers();
	while (!sched.first) {
		virtio_poll(); /* a read of the console may have taken the interrupt */
		if (!sched.first)
			look_around(sched.timers ? sched.timers->deadline : FOREVER);
	}
	next = sched.first;
	sched.first = next->next_ready;
	if (next == before)
		return;
	if (before && *(u64 *)before->stack != CANARY)
		core.ops->fatal("the stack of a task in the core has overflowed");
	core.current = next;
	context_switch(before ? &before->core_rsp : &sched.boot_rsp, next->core_rsp);
	switched();
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
	schedule();
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
