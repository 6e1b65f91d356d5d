// SPDX-License-Identifier: Apache-2.0
/* POSIX timers: they send a signal at each deadline, and count the deadlines while one is pending. */
#include "clock.h"

enum { MOST = 4096, SI_TIMER = -2, TIMER_ABSTIME = 1 };

struct posix_timer {
	struct list list; /* of the process's */
	struct process *process;
	s32 id, clock;
	struct sigevent event;
	struct timer timer; /* for clocks of real and monotonic time */
	struct cpu_timer cpu; /* for clocks of CPU time */
	u64 deadline, interval; /* in the time of its clock; deadline 0: it does not run */
	u64 missed; /* deadlines since the last signal was sent */
	s32 overrun; /* of the last signal that a task took */
};

static struct slab timers = SLAB(struct posix_timer);

static struct posix_timer *find(const struct process *p, s32 id)
{
	LIST_EACH(at, &p->posix_timers) {
		struct posix_timer *timer = CONTAINER(at, struct posix_timer, list);

		if (timer->id == id)
			return timer;
	}
	return NULL;
}

static u64 now_of(const struct posix_timer *timer)
{
	return timer->cpu.clock.process ? cpu_clock_now(&timer->cpu.clock) : monotonic_now();
}

static void run(struct posix_timer *timer)
{
	if (timer->event.notify == SIGEV_NONE)
		return;
	if (timer->cpu.clock.process)
		cpu_timer_start(&timer->cpu, timer->process, timer->deadline);
	else
		timer_start(&timer->timer, timer->deadline);
}

static void stop(struct posix_timer *timer)
{
	timer_stop(&timer->timer);
	cpu_timer_stop(&timer->cpu);
}

/* Move the deadline past now; returns how many deadlines have passed. */
static u64 forward(struct posix_timer *timer)
{
	u64 now = now_of(timer), count = 1;

	if (!timer->interval) {
		timer->deadline = 0;
		return 1;
	}
	if (now > timer->deadline)
		count += (now - timer->deadline) / timer->interval;
	timer->deadline += count * timer->interval;
	return count;
}

static void expire(struct posix_timer *timer)
{
	const struct sigevent *event = &timer->event;
	struct siginfo info = {
		.signal = event->signal, .code = SI_TIMER, .pad = timer->id + 1, .fields = { (u32)timer->id, event->value },
	};
	struct task *t = event->notify & SIGEV_THREAD_ID ? task_find(timer->process->pids, event->tid) : NULL;

	timer->missed += forward(timer);
	if (timer->deadline)
		run(timer);
	if (event->notify & SIGEV_THREAD_ID && (!t || t->process != timer->process))
		return;
	if (signal_is_queued(t ? &t->pending : &timer->process->pending, &info))
		return;
	timer->missed--;
	if (t)
		signal_send_task(t, &info);
	else
		signal_send_process(timer->process, &info);
}

static void expire_time(struct timer *timer)
{
	expire(CONTAINER(timer, struct posix_timer, timer));
}

static void expire_cpu(struct cpu_timer *timer)
{
	expire(CONTAINER(timer, struct posix_timer, cpu));
}

void posix_timer_taken(struct process *p, struct siginfo *info)
{
	struct posix_timer *timer = find(p, info->pad - 1);

	info->pad = 0;
	if (!timer)
		return;
	timer->overrun = timer->missed < 0x7fffffff ? (s32)timer->missed : 0x7fffffff;
	timer->missed = 0;
	info->fields[0] |= (u64)timer->overrun << 32;
}

void posix_timers_forget(struct task *t)
{
	LIST_EACH(at, &t->process->posix_timers) {
		struct posix_timer *timer = CONTAINER(at, struct posix_timer, list);

		if (timer->cpu.clock.task != t)
			continue;
		stop(timer);
		timer->deadline = 0;
		timer->cpu.clock.task = NULL;
	}
}

static void discard(struct posix_timer *timer)
{
	stop(timer);
	timer->process->posix_timer_count--;
	list_remove(&timer->list);
	slab_free(&timers, timer);
}

void posix_timers_free(struct process *p)
{
	while (!list_empty(&p->posix_timers))
		discard(CONTAINER(p->posix_timers.next, struct posix_timer, list));
}

/* -- system calls -- */

static s64 check_clock(struct task *t, s32 id, struct cpu_clock *clock)
{
	s64 error = clock_find(t, id, false, clock);

	if (error)
		return error;
	if (id >= CLOCK_MONOTONIC_RAW && id <= CLOCK_MONOTONIC_COARSE)
		return -EOPNOTSUPP;
	if (id == CLOCK_REAL_ALARM || id == CLOCK_BOOT_ALARM)
		return -EOPNOTSUPP; /* there is no clock that wakes the machine */
	return clock->process && clock->process != t->process ? -EINVAL : 0;
}

static bool event_is_good(struct task *t, const struct sigevent *event)
{
	const struct task *to;

	switch (event->notify) {
	case SIGEV_THREAD_ID:
		to = task_find(t->process->pids, event->tid);
		if (!to || to->process != t->process)
			return false;
		return event->signal > 0 && event->signal <= SIGNALS;
	case SIGEV_SIGNAL:
	case SIGEV_THREAD:
		return event->signal > 0 && event->signal <= SIGNALS;
	}
	return event->notify == SIGEV_NONE;
}

s64 sys_timer_create(struct task *t, const u64 *args)
{
	struct process *p = t->process;
	struct sigevent event = { .signal = SIGALRM, .notify = SIGEV_SIGNAL };
	struct posix_timer *timer;
	struct cpu_clock clock;
	s64 error;
	s32 id;

	if (args[1] && user_read(t->mm, &event, args[1], sizeof(event)))
		return -EFAULT;
	error = check_clock(t, (s32)args[0], &clock);
	if (error)
		return error;
	if (p->posix_timer_count >= MOST)
		return -EAGAIN;
	if (!event_is_good(t, &event))
		return -EINVAL;
	timer = slab_alloc(&timers);
	if (!timer)
		return -EAGAIN;
	while (find(p, p->next_timer))
		p->next_timer = (p->next_timer + 1) & 0x7fffffff;
	timer->process = p;
	timer->id = p->next_timer;
	timer->clock = (s32)args[0];
	timer->event = event;
	timer->timer.expire = expire_time;
	timer->cpu.expire = expire_cpu;
	timer->cpu.clock = clock;
	if (!args[1])
		timer->event.value = (u32)timer->id;
	id = timer->id;
	p->next_timer = (id + 1) & 0x7fffffff;
	p->posix_timer_count++;
	list_add(&p->posix_timers, &timer->list);
	if (!user_write(t->mm, args[2], &id, sizeof(id)))
		return 0;
	timer = find(p, id); /* another thread may have deleted it while this one slept */
	if (timer)
		discard(timer);
	return -EFAULT;
}

static struct itimerspec state(struct posix_timer *timer)
{
	u64 now = now_of(timer), left = 0;

	if (timer->event.notify == SIGEV_NONE && timer->deadline && timer->deadline <= now)
		forward(timer);
	if (timer->deadline)
		left = timer->deadline > now ? timer->deadline - now : 1;
	return (struct itimerspec){ timespec_from(timer->interval), timespec_from(left) };
}

static void set(struct posix_timer *timer, const struct itimerspec *new, bool absolute)
{
	u64 value = timespec_nanoseconds(&new->value);
	bool real = timer->clock == CLOCK_REAL || timer->clock == CLOCK_TAI;

	stop(timer);
	timer->missed = 0;
	timer->overrun = 0;
	timer->deadline = 0;
	timer->interval = value ? timespec_nanoseconds(&new->interval) : 0;
	if (!value)
		return;
	if (!absolute)
		value += now_of(timer);
	else if (real)
		value = realtime_deadline(value);
	timer->deadline = value ? value : 1;
	run(timer);
	if (timer->cpu.clock.process)
		cpu_timers_check(timer->process);
}

s64 sys_timer_settime(struct task *t, const u64 *args)
{
	struct posix_timer *timer;
	struct itimerspec new, old;

	if (!args[2])
		return -EINVAL;
	if (user_read(t->mm, &new, args[2], sizeof(new)))
		return -EFAULT;
	if (!timespec_valid(&new.value) || !timespec_valid(&new.interval))
		return -EINVAL;
	timer = find(t->process, (s32)args[0]);
	if (!timer)
		return -EINVAL;
	old = state(timer);
	set(timer, &new, (u32)args[1] & TIMER_ABSTIME);
	return args[3] ? user_write(t->mm, args[3], &old, sizeof(old)) : 0;
}

s64 sys_timer_gettime(struct task *t, const u64 *args)
{
	struct posix_timer *timer = find(t->process, (s32)args[0]);
	struct itimerspec now;

	if (!timer)
		return -EINVAL;
	now = state(timer);
	return user_write(t->mm, args[1], &now, sizeof(now));
}

s64 sys_timer_getoverrun(struct task *t, const u64 *args)
{
	const struct posix_timer *timer = find(t->process, (s32)args[0]);

	return timer ? timer->overrun : -EINVAL;
}

s64 sys_timer_delete(struct task *t, const u64 *args)
{
	struct posix_timer *timer = find(t->process, (s32)args[0]);

	if (!timer)
		return -EINVAL;
	discard(timer);
	return 0;
}
