// SPDX-License-Identifier: Apache-2.0
/* Clocks: the calls that read them, and timers of CPU time, which the end of each run of a task checks. */
#include "clock.h"

/* -- CPU time -- */

u64 process_cpu_time(const struct process *p)
{
	u64 time = p->cpu_time;

	EACH_TASK(t, p)
		time += task_cpu_time(t);
	return time;
}

u64 cpu_clock_now(const struct cpu_clock *clock)
{
	return clock->task ? task_cpu_time(clock->task) : process_cpu_time(clock->process);
}

/* The clock of another process or task: its inverted number above three bits. */
static s64 find_other(struct task *t, s32 id, bool read, struct cpu_clock *clock)
{
	enum { KIND = 3, OF_TASK = 4, SHIFT = 3 };
	s32 number = ~(id >> SHIFT);
	struct task *of = task_named(t, number);

	if ((id & KIND) == KIND)
		return -EINVAL;
	if (id & OF_TASK) {
		if (!of || of->process != t->process)
			return -EINVAL;
		clock->task = of;
		clock->process = t->process;
		return 0;
	}
	clock->process = number ? process_find(t->process->pids, number) : t->process;
	if (!clock->process && read && number == t->tid)
		clock->process = t->process;
	return clock->process ? 0 : -EINVAL;
}

s64 clock_find(struct task *t, s32 id, bool read, struct cpu_clock *clock)
{
	*clock = (struct cpu_clock){ NULL, NULL };
	if (id < 0)
		return find_other(t, id, read, clock);
	if (id > CLOCK_TAI || id == CLOCK_BOOT_ALARM + 1)
		return -EINVAL;
	if (id == CLOCK_REAL_ALARM || id == CLOCK_BOOT_ALARM)
		return read ? -EINVAL : 0; /* nothing can wake the machine */
	if (id == CLOCK_PROCESS || id == CLOCK_THREAD)
		clock->process = t->process;
	if (id == CLOCK_THREAD)
		clock->task = t;
	return 0;
}

void cpu_timer_stop(struct cpu_timer *timer)
{
	if (timer->list.next)
		list_remove(&timer->list);
}

void cpu_timer_start(struct cpu_timer *timer, struct process *owner, u64 target)
{
	cpu_timer_stop(timer);
	timer->target = target;
	list_add(&owner->cpu_timers, &timer->list);
}

void cpu_timers_check(struct process *p)
{
	LIST_EACH_SAFE(at, after, &p->cpu_timers) {
		struct cpu_timer *timer = CONTAINER(at, struct cpu_timer, list);

		if (cpu_clock_now(&timer->clock) < timer->target)
			continue;
		list_remove(&timer->list);
		timer->expire(timer);
	}
}

bool cpu_timer_runs(const struct cpu_timer *timer)
{
	return timer->list.next && !list_empty(&timer->list);
}

/* -- reading -- */

static u64 now_of(s32 id, const struct cpu_clock *clock)
{
	if (clock->process)
		return cpu_clock_now(clock);
	if (id == CLOCK_REAL || id == CLOCK_REAL_COARSE || id == CLOCK_TAI)
		return core.ops->nanoseconds(CLOCK_IS_REALTIME);
	return monotonic_now();
}

s64 sys_clock_gettime(struct task *t, const u64 *args)
{
	struct cpu_clock clock;
	struct timespec time;
	s64 error = clock_find(t, (s32)args[0], true, &clock);

	if (error)
		return error;
	time = timespec_from(now_of((s32)args[0], &clock));
	return user_write(t->mm, args[1], &time, sizeof(time));
}

s64 sys_clock_getres(struct task *t, const u64 *args)
{
	enum { TICK = 4000000, KIND = 3, OF_SCHEDULER = 2 };
	s32 id = (s32)args[0];
	struct cpu_clock clock;
	struct timespec time = { 0, 1 };
	s64 error = clock_find(t, id, id >= 0, &clock);

	if (error)
		return error;
	if (id == CLOCK_REAL_COARSE || id == CLOCK_MONOTONIC_COARSE || (id < 0 && (id & KIND) != OF_SCHEDULER))
		time.nanoseconds = TICK;
	return args[1] ? user_write(t->mm, args[1], &time, sizeof(time)) : 0;
}

/* The sandbox has the host's time, which no program may set. */
s64 sys_clock_settime(struct task *t, const u64 *args)
{
	s32 id = (s32)args[0];
	struct cpu_clock clock;
	struct timespec time;

	if (id > CLOCK_REAL)
		return -EINVAL;
	if (user_read(t->mm, &time, args[1], sizeof(time)))
		return -EFAULT;
	if (clock_find(t, id, false, &clock) || (id == CLOCK_REAL && !timespec_valid(&time)))
		return -EINVAL;
	return -EPERM;
}

s64 sys_gettimeofday(struct task *t, const u64 *args)
{
	struct timespec time = timespec_from(core.ops->nanoseconds(CLOCK_IS_REALTIME));
	s32 zone[2] = { 0, 0 };

	time.nanoseconds /= 1000;
	if (args[0] && user_write(t->mm, args[0], &time, sizeof(time)))
		return -EFAULT;
	return args[1] ? user_write(t->mm, args[1], zone, sizeof(zone)) : 0;
}

s64 sys_time(struct task *t, const u64 *args)
{
	s64 seconds = (s64)(core.ops->nanoseconds(CLOCK_IS_REALTIME) / SECOND);

	return args[0] && user_write(t->mm, args[0], &seconds, sizeof(seconds)) ? -EFAULT : seconds;
}
