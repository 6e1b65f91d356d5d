// SPDX-License-Identifier: Apache-2.0
/* Counters and timers that are files. */
#include "../clock.h"
#include "calls.h"

/* -- eventfd -- */

struct counter {
	u64 value;
	bool semaphore;
	struct wait_queue queue;
};

#define MOST_VALUE 0xfffffffffffffffeull

static struct slab counters = SLAB(struct counter);

static s64 counter_read(struct file *file, struct io *to, u64 *position)
{
	struct counter *counter = file->data;
	u64 value;

	(void)position;
	if (to->left < sizeof(value))
		return -EINVAL;
	while (!counter->value) {
		s64 error = io_wait(to, file, &counter->queue);

		if (error)
			return error;
	}
	value = counter->semaphore ? 1 : counter->value;
	counter->value -= value;
	wake_all(&counter->queue);
	return io_put(to, &value, sizeof(value)) == sizeof(value) ? (s64)sizeof(value) : -EFAULT;
}

static s64 counter_write(struct file *file, struct io *from, u64 *position)
{
	struct counter *counter = file->data;
	u64 value;

	(void)position;
	if (from->left != sizeof(value))
		return -EINVAL;
	if (io_get(from, &value, sizeof(value)) != sizeof(value))
		return -EFAULT;
	if (value == ~0ull)
		return -EINVAL;
	while (value > MOST_VALUE - counter->value) {
		s64 error = io_wait(from, file, &counter->queue);

		if (error)
			return error;
	}
	counter->value += value;
	wake_all(&counter->queue);
	return sizeof(value);
}

static u32 counter_poll(struct file *file, struct poll *poll)
{
	struct counter *counter = file->data;

	poll_wait(poll, &counter->queue);
	return (counter->value ? POLLIN : 0) | (counter->value < MOST_VALUE ? POLLOUT : 0);
}

static void counter_release(struct file *file)
{
	slab_free(&counters, file->data);
}

static const struct file_operations counter_operations = {
	.read = counter_read,
	.write = counter_write, .write_simple = true,
	.seek = file_stay,
	.poll = counter_poll, .nowait = true,
	.release = counter_release,
};

static s64 make_counter(struct task *t, u32 value, u32 flags)
{
	enum { SEMAPHORE = 1 };
	struct counter *counter;
	struct file *file;
	int error;

	if (flags & ~(u32)(SEMAPHORE | O_CLOEXEC | O_NONBLOCK))
		return -EINVAL;
	counter = slab_alloc(&counters);
	if (!counter)
		return -ENOMEM;
	counter->value = value;
	counter->semaphore = flags & SEMAPHORE;
	error = anonymous_file(0600, "anon_inode:[eventfd]", &counter_operations, O_RDWR | (flags & O_NONBLOCK), &file);
	if (error) {
		slab_free(&counters, counter);
		return error;
	}
	file->data = counter;
	return fd_install(t, file, 0, flags & O_CLOEXEC);
}

s64 sys_eventfd(struct task *t, const u64 *args)
{
	return make_counter(t, (u32)args[0], 0);
}

s64 sys_eventfd2(struct task *t, const u64 *args)
{
	return make_counter(t, (u32)args[0], (u32)args[1]);
}

/* -- timerfd -- */

struct clock_file {
	struct timer timer;
	u64 expirations;
	u64 interval;
	bool realtime;
	struct wait_queue queue;
};

static struct slab clock_files = SLAB(struct clock_file);

/* An expiration that is over; those after it that are over, too. */
static void expire(struct timer *timer)
{
	struct clock_file *clock = CONTAINER(timer, struct clock_file, timer);
	u64 now = monotonic_now(), more = 0;

	clock->expirations++;
	if (clock->interval) {
		more = now > timer->deadline ? (now - timer->deadline) / clock->interval : 0;
		clock->expirations += more;
		timer_start(timer, timer->deadline + (more + 1) * clock->interval);
	}
	wake_all(&clock->queue);
}

static s64 clock_read(struct file *file, struct io *to, u64 *position)
{
	struct clock_file *clock = file->data;
	u64 value;

	(void)position;
	if (to->left < sizeof(value))
		return -EINVAL;
	while (!clock->expirations) {
		s64 error = io_wait(to, file, &clock->queue);

		if (error)
			return error;
	}
	value = clock->expirations;
	clock->expirations = 0;
	return io_put(to, &value, sizeof(value)) == sizeof(value) ? (s64)sizeof(value) : -EFAULT;
}

static u32 clock_poll(struct file *file, struct poll *poll)
{
	struct clock_file *clock = file->data;

	poll_wait(poll, &clock->queue);
	return clock->expirations ? POLLIN : 0;
}

static void clock_release(struct file *file)
{
	struct clock_file *clock = file->data;

	timer_stop(&clock->timer);
	slab_free(&clock_files, clock);
}

static const struct file_operations clock_operations = {
	.read = clock_read,
	.seek = file_stay,
	.poll = clock_poll, .nowait = true,
	.release = clock_release,
};

s64 sys_timerfd_create(struct task *t, const u64 *args)
{
	enum { REALTIME = 0, MONOTONIC = 1, BOOTTIME = 7, REALTIME_ALARM = 8, BOOTTIME_ALARM = 9 };
	u32 clock = (u32)args[0], flags = (u32)args[1];
	struct clock_file *data;
	struct file *file;
	int error;

	if (flags & ~(u32)(O_CLOEXEC | O_NONBLOCK))
		return -EINVAL;
	if (clock != REALTIME && clock != MONOTONIC && (clock < BOOTTIME || clock > BOOTTIME_ALARM))
		return -EINVAL;
	if (clock >= REALTIME_ALARM && !caller_capable(CAP_WAKE_ALARM))
		return -EPERM;
	data = slab_alloc(&clock_files);
	if (!data)
		return -ENOMEM;
	data->realtime = clock == REALTIME || clock == REALTIME_ALARM;
	data->timer.expire = expire;
	error = anonymous_file(0600, "anon_inode:[timerfd]", &clock_operations, O_RDWR | (flags & O_NONBLOCK), &file);
	if (error) {
		slab_free(&clock_files, data);
		return error;
	}
	file->data = data;
	return fd_install(t, file, 0, flags & O_CLOEXEC);
}

/* What is left, and how often it repeats. */
static struct itimerspec clock_state(const struct clock_file *clock)
{
	u64 now = monotonic_now(), left = 0;

	if (clock->timer.active)
		left = clock->timer.deadline > now ? clock->timer.deadline - now : 1;
	return (struct itimerspec){ timespec_from(clock->interval), timespec_from(left) };
}

static struct clock_file *clock_of(struct task *t, u64 number, s64 *error)
{
	struct file *file = fd_real(t, number);

	*error = file ? -EINVAL : -EBADF;
	return file && file->operations == &clock_operations ? file->data : NULL;
}

static void clock_set(struct clock_file *clock, const struct itimerspec *new, bool absolute)
{
	u64 value = timespec_nanoseconds(&new->value), now = monotonic_now();

	timer_stop(&clock->timer);
	clock->expirations = 0;
	clock->interval = timespec_nanoseconds(&new->interval);
	if (!value)
		return;
	if (absolute && clock->realtime) {
		u64 real = core.ops->nanoseconds(CLOCK_IS_REALTIME);

		value = value > real ? now + (value - real) : now;
	} else if (!absolute) {
		value += now;
	}
	timer_start(&clock->timer, value);
}

s64 sys_timerfd_settime(struct task *t, const u64 *args)
{
	enum { ABSOLUTE = 1, CANCEL_ON_SET = 2 };
	struct itimerspec new, old;
	struct clock_file *clock;
	s64 error;

	if (user_read(t->mm, &new, args[2], sizeof(new)))
		return -EFAULT;
	if ((u32)args[1] & ~(u32)(ABSOLUTE | CANCEL_ON_SET) || !timespec_valid(&new.value) || !timespec_valid(&new.interval))
		return -EINVAL;
	clock = clock_of(t, args[0], &error);
	if (!clock)
		return error;
	old = clock_state(clock);
	clock_set(clock, &new, (u32)args[1] & ABSOLUTE);
	return args[3] ? user_write(t->mm, args[3], &old, sizeof(old)) : 0;
}

s64 sys_timerfd_gettime(struct task *t, const u64 *args)
{
	struct itimerspec now;
	s64 error;
	struct clock_file *clock = clock_of(t, args[0], &error);

	if (!clock)
		return error;
	now = clock_state(clock);
	return user_write(t->mm, args[1], &now, sizeof(now));
}
