// SPDX-License-Identifier: Apache-2.0
/* Sleeps and alarms, and calls of the scheduler. */
#include "clock.h"

enum { TIMER_ABSTIME = 1 };

s64 time_deadline(const struct timespec *time, u64 *deadline)
{
	u64 now = monotonic_now();

	if (!timespec_valid(time))
		return -EINVAL;
	if ((u64)time->seconds > (FOREVER - now) / SECOND / 2)
		*deadline = FOREVER;
	else
		*deadline = now + (u64)time->seconds * SECOND + (u64)time->nanoseconds;
	return 0;
}

u64 realtime_deadline(u64 at)
{
	u64 now = core.ops->nanoseconds(CLOCK_IS_REALTIME);

	return at > now ? monotonic_now() + (at - now) : 0;
}

static s64 put_rest(struct task *t, u64 to, u64 deadline)
{
	u64 now = monotonic_now();
	const struct timespec time = timespec_from(deadline > now ? deadline - now : 0);

	return to ? user_write(t->mm, to, &time, sizeof(time)) : 0;
}

static s64 sleep_until(struct task *t, u64 deadline, u64 rest);

static s64 restart_sleep(struct task *t)
{
	return sleep_until(t, t->restart_args[0], t->restart_args[1]);
}

/* 0 at the deadline; the error that restarts the sleep if a signal interrupts it. */
static s64 sleep_until(struct task *t, u64 deadline, u64 rest)
{
	s64 error;

	do
		error = task_sleep(deadline);
	while (!error);
	if (error == -ETIMEDOUT)
		return 0;
	if (put_rest(t, rest, deadline))
		return -EFAULT;
	t->restart = restart_sleep;
	t->restart_args[0] = deadline;
	t->restart_args[1] = rest;
	return -ERESTART_RESTARTBLOCK;
}

s64 sys_restart_syscall(struct task *t, const u64 *args)
{
	s64 (*restart)(struct task *) = t->restart;

	(void)args;
	t->restart = NULL;
	return restart ? restart(t) : -EINTR;
}

s64 sys_nanosleep(struct task *t, const u64 *args)
{
	struct timespec time;
	u64 deadline;

	if (user_read(t->mm, &time, args[0], sizeof(time)))
		return -EFAULT;
	if (time_deadline(&time, &deadline))
		return -EINVAL;
	return sleep_until(t, deadline, args[1]);
}

s64 sys_clock_nanosleep(struct task *t, const u64 *args)
{
	u32 clock = (u32)args[0];
	struct timespec time;
	u64 deadline, at;
	s64 error;

	if (clock == CLOCK_THREAD || (clock > CLOCK_PROCESS && clock != CLOCK_BOOT && clock != CLOCK_TAI))
		return clock > CLOCK_TAI || clock == 10 ? -EINVAL : -EOPNOTSUPP;
	if (user_read(t->mm, &time, args[2], sizeof(time)))
		return -EFAULT;
	if (time_deadline(&time, &deadline))
		return -EINVAL;
	if (!((u32)args[1] & TIMER_ABSTIME))
		return sleep_until(t, deadline, args[3]);
	at = timespec_nanoseconds(&time);
	if (clock == CLOCK_REAL || clock == CLOCK_TAI)
		at = realtime_deadline(at);
	error = sleep_until(t, at, 0);
	return error == -ERESTART_RESTARTBLOCK ? -ERESTARTNOHAND : error;
}

/* -- alarms -- */

static void ring(struct timer *timer)
{
	struct process *p = CONTAINER(timer, struct process, alarm);

	signal_process(p, SIGALRM);
	if (p->alarm_interval) {
		u64 now = monotonic_now(), next = timer->deadline + p->alarm_interval;

		timer_start(timer, next > now ? next : now + p->alarm_interval);
	}
}

static u64 left(const struct process *p)
{
	u64 now = monotonic_now();

	if (!p->alarm.active)
		return 0;
	return p->alarm.deadline > now ? p->alarm.deadline - now : 1000;
}

static void set_alarm(struct process *p, u64 in, u64 interval)
{
	timer_stop(&p->alarm);
	p->alarm.expire = ring;
	p->alarm_interval = interval;
	if (in)
		timer_start(&p->alarm, monotonic_now() + in);
}

s64 sys_alarm(struct task *t, const u64 *args)
{
	u64 rest = left(t->process), seconds = (rest + SECOND / 2) / SECOND;

	set_alarm(t->process, (u32)args[0] * SECOND, 0);
	return rest && !seconds ? 1 : (s64)seconds;
}

enum { ITIMER_REAL, ITIMER_PROF = 2 };

static s64 put_timer(struct task *t, u64 to, u64 rest, u64 interval)
{
	const u64 timer[4] = { interval / SECOND, interval % SECOND / 1000, rest / SECOND, rest % SECOND / 1000 };

	return user_write(t->mm, to, timer, sizeof(timer));
}

/* Of CPU time: ITIMER_VIRTUAL and ITIMER_PROF, which are the same here. */
static u64 cpu_left(const struct process *p, u32 which)
{
	const struct cpu_timer *timer = &p->cpu_alarms[which];
	u64 now = process_cpu_time(p);

	if (!cpu_timer_runs(timer))
		return 0;
	return timer->target > now ? timer->target - now : 1000;
}

static void ring_cpu(struct cpu_timer *timer)
{
	struct process *p = timer->clock.process;
	u32 which = (u32)(timer - p->cpu_alarms);

	signal_process(p, which ? SIGPROF : SIGVTALRM);
	if (p->cpu_alarm_intervals[which])
		cpu_timer_start(timer, p, process_cpu_time(p) + p->cpu_alarm_intervals[which]);
}

static void set_cpu_timer(struct process *p, u32 which, u64 in, u64 interval)
{
	struct cpu_timer *timer = &p->cpu_alarms[which];

	cpu_timer_stop(timer);
	timer->expire = ring_cpu;
	timer->clock.process = p;
	p->cpu_alarm_intervals[which] = interval;
	if (in)
		cpu_timer_start(timer, p, process_cpu_time(p) + in);
}

static s64 get_timer(const struct process *p, u32 which, u64 *rest, u64 *interval)
{
	if (which > ITIMER_PROF)
		return -EINVAL;
	*rest = which == ITIMER_REAL ? left(p) : cpu_left(p, which - 1);
	*interval = which == ITIMER_REAL ? p->alarm_interval : p->cpu_alarm_intervals[which - 1];
	return 0;
}

s64 sys_getitimer(struct task *t, const u64 *args)
{
	u64 rest, interval;

	if (get_timer(t->process, (u32)args[0], &rest, &interval))
		return -EINVAL;
	return put_timer(t, args[1], rest, interval);
}

s64 sys_setitimer(struct task *t, const u64 *args)
{
	enum { MOST = 1000000000 };
	struct process *p = t->process;
	u64 new[4] = { 0 }, in, every, rest, interval;
	u32 which = (u32)args[0];

	if (args[1] && user_read(t->mm, new, args[1], sizeof(new)))
		return -EFAULT;
	for (u32 i = 0; i < 4; i += 2) {
		if ((s64)new[i] < 0 || new[i + 1] >= 1000000)
			return -EINVAL;
		new[i] = new[i] < MOST ? new[i] : MOST;
	}
	if (get_timer(p, which, &rest, &interval))
		return -EINVAL;
	every = new[0] * SECOND + new[1] * 1000;
	in = new[2] * SECOND + new[3] * 1000;
	if (which == ITIMER_REAL)
		set_alarm(p, in, every);
	else
		set_cpu_timer(p, which - 1, in, every);
	return args[2] ? put_timer(t, args[2], rest, interval) : 0;
}

s64 sys_times(struct task *t, const u64 *args)
{
	enum { TICK = 10000000 };
	u64 own = process_cpu_time(t->process);
	const u64 times[4] = { own / TICK, 0, t->process->child_cpu_time / TICK, 0 };
	if (args[0] && user_write(t->mm, args[0], times, sizeof(times)))
		return -EFAULT;
	return (s64)(monotonic_now() / TICK);
}

/* -- the scheduler: equal tasks -- */

s64 sys_sched_yield(struct task *t, const u64 *args)
{
	(void)t, (void)args;
	task_yield();
	return 0;
}

s64 sys_sched_getaffinity(struct task *t, const u64 *args)
{
	const struct task *of = task_named(t, (s32)args[0]);

	if ((u32)args[1] < sizeof(of->affinity) || args[1] % sizeof(of->affinity))
		return -EINVAL;
	if (!of)
		return -ESRCH;
	return user_write(t->mm, args[2], &of->affinity, sizeof(of->affinity)) ? -EFAULT : (s64)sizeof(of->affinity);
}

s64 sys_sched_setaffinity(struct task *t, const u64 *args)
{
	u64 mask = 0, size = (u32)args[1] < sizeof(mask) ? (u32)args[1] : sizeof(mask);
	struct task *of;

	if (user_read(t->mm, &mask, args[2], size))
		return -EFAULT;
	of = task_named(t, (s32)args[0]);
	if (!of)
		return -ESRCH;
	if (!same_owner(t, of) && !capable(CAP_SYS_NICE))
		return -EPERM;
	mask &= ~0ull >> (CPUS - core.cpus);
	if (!mask)
		return -EINVAL;
	of->affinity = mask;
	task_interrupt(of, false);
	if (of == t && !(mask >> cpu_number() & 1))
		task_yield();
	return 0;
}

s64 sys_getcpu(struct task *t, const u64 *args)
{
	const u32 cpu = cpu_number(), zero = 0;

	if (args[0] && user_write(t->mm, args[0], &cpu, sizeof(cpu)))
		return -EFAULT;
	return args[1] ? user_write(t->mm, args[1], &zero, sizeof(zero)) : 0;
}

s64 sys_membarrier(struct task *t, const u64 *args)
{
	enum { QUERY, GLOBAL = 1, GLOBAL_EXPEDITED = 2, REGISTER_GLOBAL = 4, PRIVATE = 8, REGISTER_PRIVATE = 16 };
	const u32 known = GLOBAL | GLOBAL_EXPEDITED | REGISTER_GLOBAL | PRIVATE | REGISTER_PRIVATE;
	u32 command = (u32)args[0];

	if ((u32)args[1] || (command != QUERY && (!(command & known) || command & (command - 1))))
		return -EINVAL;
	if (command == REGISTER_PRIVATE)
		t->mm->has_barriers = true;
	if (command == PRIVATE && !t->mm->has_barriers)
		return -EPERM;
	if (command & (GLOBAL | GLOBAL_EXPEDITED | PRIVATE)) /* to stop a program is a barrier for it */
		EACH_PROCESS(p)
			EACH_TASK(other, p)
				task_interrupt(other, true);
	return command == QUERY ? known : 0;
}
