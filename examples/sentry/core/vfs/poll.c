// SPDX-License-Identifier: Apache-2.0
/* poll, select and their kin: wait until one of several files is ready. */
#include "../clock.h"
#include "calls.h"

enum { ALWAYS = POLLIN | POLLOUT | POLLRDNORM | POLLWRNORM, MILLISECOND = 1000000 };

void poll_wait(struct poll *poll, struct wait_queue *queue)
{
	if (poll && poll->add)
		poll->add(poll, queue);
}

u32 file_poll(struct file *file, struct poll *poll)
{
	return file->operations->poll ? file->operations->poll(file, poll) : ALWAYS;
}

/* -- polls that outlast a call -- */

static void add_standing(struct poll *poll, struct wait_queue *queue)
{
	struct standing_poll *standing = CONTAINER(poll, struct standing_poll, poll);
	struct waiter *waiter;

	if (standing->count == ARRAY_SIZE(standing->waiters))
		return;
	waiter = &standing->waiters[standing->count++];
	waiter->notify = standing->notify;
	waiter->data = standing->data;
	waiter_add(queue, waiter);
}

u32 poll_start(struct standing_poll *poll, struct file *file, void (*notify)(struct waiter *waiter), void *data)
{
	poll->poll.add = add_standing;
	poll->notify = notify;
	poll->data = data;
	return file_poll(file, &poll->poll);
}

void poll_stop(struct standing_poll *poll)
{
	for (u32 i = 0; i < poll->count; i++)
		waiter_remove(&poll->waiters[i]);
}

/* -- waiters of one call, in chunks -- */

enum { PER_CHUNK = 30 };

struct chunk {
	struct chunk *next;
	u32 used;
	struct waiter waiters[PER_CHUNK];
};

struct call {
	struct poll poll;
	struct chunk *chunks;
	bool failed;
};

static void add_waiter(struct poll *poll, struct wait_queue *queue)
{
	struct call *call = CONTAINER(poll, struct call, poll);
	struct chunk *chunk = call->chunks;

	if (!chunk || chunk->used == PER_CHUNK) {
		chunk = kmalloc(sizeof(*chunk));
		if (!chunk) {
			call->failed = true;
			return;
		}
		chunk->next = call->chunks;
		call->chunks = chunk;
	}
	waiter_add(queue, &chunk->waiters[chunk->used++]);
}

static void remove_waiters(struct call *call)
{
	while (call->chunks) {
		struct chunk *chunk = call->chunks;

		for (u32 i = 0; i < chunk->used; i++)
			waiter_remove(&chunk->waiters[i]);
		call->chunks = chunk->next;
		kfree(chunk);
	}
}

/* -- the loop -- */

/* A descriptor that a call waits for. */
struct watch {
	struct file *file; /* a reference, or NULL */
	u32 wanted, found;
};

static u64 look(struct watch *watches, u64 count, struct poll *poll)
{
	u64 ready = 0;

	for (u64 i = 0; i < count; i++) {
		if (!watches[i].file) {
			ready += watches[i].found != 0;
			continue;
		}
		watches[i].found = file_poll(watches[i].file, poll) & (watches[i].wanted | POLLERR | POLLHUP);
		ready += watches[i].found != 0;
		if (ready)
			poll = NULL;
	}
	return ready;
}

/* How many are ready, 0 at the deadline, or -errno. */
static s64 wait_for(struct watch *watches, u64 count, u64 deadline)
{
	for (;;) {
		struct call call = { .poll = { add_waiter } };
		u64 ready = look(watches, count, deadline ? &call.poll : NULL);
		s64 error = 0;

		if (!ready && call.failed)
			error = -ENOMEM;
		else if (!ready)
			error = deadline ? task_sleep(deadline) : -ETIMEDOUT;
		remove_waiters(&call);
		if (ready)
			return (s64)ready;
		if (error)
			return error == -ETIMEDOUT ? 0 : error == -ERESTARTSYS ? -EINTR : error;
	}
}

static void put_files(struct watch *watches, u64 count)
{
	for (u64 i = 0; i < count; i++)
		file_put(watches[i].file);
}

/* -- deadlines -- */

/* FOREVER without a time; 0 for one that is over. */
s64 deadline_from(struct task *t, u64 from, u64 *deadline)
{
	struct timespec time;

	*deadline = FOREVER;
	if (!from)
		return 0;
	if (user_read(t->mm, &time, from, sizeof(time)))
		return -EFAULT;
	if (!timespec_valid(&time))
		return -EINVAL;
	*deadline = time_after(&time);
	return 0;
}

/* When a time from now on is over; 0 for no time. */
u64 time_after(const struct timespec *time)
{
	u64 now;

	if (!time->seconds && !time->nanoseconds)
		return 0;
	now = monotonic_now();
	if ((u64)time->seconds > (FOREVER - now) / SECOND - 2)
		return FOREVER;
	return now + (u64)time->seconds * SECOND + (u64)time->nanoseconds;
}

/* What is left until a deadline goes to where the time came from. */
static void put_rest(struct task *t, u64 to, u64 deadline, u64 unit)
{
	u64 now = deadline && deadline != FOREVER ? monotonic_now() : 0, rest = deadline > now ? deadline - now : 0;
	struct timespec time = timespec_from(rest);

	time.nanoseconds /= (s64)unit;
	if (to && deadline != FOREVER)
		(void)user_write(t->mm, to, &time, sizeof(time)); /* its error is not that of the call */
}

/* A mask of signals for the time of a call, if the program gave one. */
s64 mask_begin(struct task *t, u64 from, u64 size, u64 *old)
{
	u64 mask;

	*old = t->blocked;
	if (!from)
		return 0;
	if (size != sizeof(mask))
		return -EINVAL;
	if (user_read(t->mm, &mask, from, sizeof(mask)))
		return -EFAULT;
	t->blocked = mask & ~(1ull << (SIGKILL - 1) | 1ull << (SIGSTOP - 1));
	return 0;
}

void mask_end(struct task *t, u64 from, u64 old)
{
	if (from)
		t->blocked = old;
}

/* -- poll -- */

struct pollfd {
	s32 fd;
	s16 events, revents;
};

static s64 poll_watches(struct task *t, u64 from, u64 count, struct watch *watches)
{
	for (u64 i = 0; i < count; i++) {
		struct pollfd fd;

		if (user_read(t->mm, &fd, from + i * sizeof(fd), sizeof(fd)))
			return -EFAULT;
		watches[i] = (struct watch){ .wanted = (u16)fd.events };
		if (fd.fd < 0)
			continue;
		watches[i].file = fd_real(t, (u32)fd.fd);
		if (watches[i].file)
			file_get(watches[i].file);
		else
			watches[i].found = POLLNVAL;
	}
	return 0;
}

static s64 do_poll(struct task *t, u64 from, u64 count, u64 deadline)
{
	struct watch *watches;
	s64 result;

	if (count > t->process->limits[RLIMIT_NOFILE].current)
		return -EINVAL;
	watches = kmalloc((count ? count : 1) * sizeof(*watches));
	if (!watches)
		return -ENOMEM;
	result = poll_watches(t, from, count, watches);
	if (!result)
		result = wait_for(watches, count, deadline);
	for (u64 i = 0; result >= 0 && i < count; i++) {
		s16 found = (s16)watches[i].found;

		if (user_write(t->mm, from + i * sizeof(struct pollfd) + 6, &found, sizeof(found)))
			result = -EFAULT;
	}
	put_files(watches, count);
	kfree(watches);
	if (result >= 0 && !user_range(from, count * sizeof(struct pollfd)))
		return -EFAULT;
	return result;
}

s64 sys_poll(struct task *t, const u64 *args)
{
	s64 timeout = (s32)args[2];
	struct timespec time = { timeout / 1000, timeout % 1000 * MILLISECOND };

	return do_poll(t, args[0], (u32)args[1], timeout < 0 ? FOREVER : time_after(&time));
}

s64 sys_ppoll(struct task *t, const u64 *args)
{
	u64 deadline, old;
	s64 result = deadline_from(t, args[2], &deadline);

	if (!result)
		result = mask_begin(t, args[3], args[4], &old);
	if (result)
		return result;
	result = do_poll(t, args[0], (u32)args[1], deadline);
	mask_end(t, args[3], old);
	put_rest(t, args[2], deadline, 1);
	return result;
}

/* -- select -- */

enum {
	SELECT_IN = POLLRDNORM | POLLRDBAND | POLLIN | POLLHUP | POLLERR,
	SELECT_OUT = POLLWRBAND | POLLWRNORM | POLLOUT | POLLERR,
	SELECT_EXCEPT = POLLPRI,
};
static const u32 set_events[3] = { SELECT_IN, SELECT_OUT, SELECT_EXCEPT };

struct select {
	u64 addresses[3];
	u64 *sets[3]; /* what is wanted, then what is ready */
	u64 words, count;
	struct watch *watches; /* one for each descriptor below count */
};

static s64 read_sets(struct task *t, struct select *s)
{
	for (u32 i = 0; i < 3; i++) {
		s->sets[i] = kmalloc(s->words * 8 + 8);
		if (!s->sets[i])
			return -ENOMEM;
		if (s->addresses[i] && user_read(t->mm, s->sets[i], s->addresses[i], s->words * 8))
			return -EFAULT;
	}
	for (u64 fd = 0; fd < s->count; fd++) {
		u32 wanted = 0;

		for (u32 i = 0; i < 3; i++)
			if (s->sets[i][fd / 64] >> fd % 64 & 1)
				wanted |= set_events[i];
		if (!wanted)
			continue;
		s->watches[fd].wanted = wanted;
		s->watches[fd].file = fd_real(t, fd);
		if (!s->watches[fd].file)
			return -EBADF;
		file_get(s->watches[fd].file);
	}
	return 0;
}

static s64 write_sets(struct task *t, struct select *s)
{
	s64 ready = 0;

	for (u32 i = 0; i < 3; i++) {
		for (u64 fd = 0; fd < s->words * 64; fd++) {
			u64 bit = 1ull << fd % 64, *word = &s->sets[i][fd / 64];

			if (!(*word & bit))
				continue;
			if (fd < s->count && s->watches[fd].found & set_events[i])
				ready++;
			else
				*word &= ~bit;
		}
		if (s->addresses[i] && user_write(t->mm, s->addresses[i], s->sets[i], s->words * 8))
			return -EFAULT;
	}
	return ready;
}

static s64 do_select(struct task *t, const u64 *args, u64 deadline)
{
	struct select s = { .addresses = { args[1], args[2], args[3] } };
	s64 result;

	if ((s32)args[0] < 0)
		return -EINVAL;
	s.count = (u32)args[0] < FDS_MOST ? (u32)args[0] : FDS_MOST;
	s.words = (s.count + 63) / 64;
	s.watches = kmalloc((s.count + 1) * sizeof(*s.watches));
	result = s.watches ? read_sets(t, &s) : -ENOMEM;
	if (!result)
		result = wait_for(s.watches, s.count, deadline);
	if (result >= 0)
		result = write_sets(t, &s);
	for (u32 i = 0; i < 3; i++)
		kfree(s.sets[i]);
	if (s.watches)
		put_files(s.watches, s.count);
	kfree(s.watches);
	return result;
}

s64 sys_select(struct task *t, const u64 *args)
{
	u64 deadline = FOREVER;
	s64 time[2], result;

	if (args[4]) {
		struct timespec after;

		if (user_read(t->mm, time, args[4], sizeof(time)))
			return -EFAULT;
		if (time[0] < 0 || time[1] < 0)
			return -EINVAL;
		after = (struct timespec){ time[0] + time[1] / 1000000, time[1] % 1000000 * 1000 };
		deadline = time_after(&after);
	}
	result = do_select(t, args, deadline);
	put_rest(t, args[4], deadline, 1000);
	return result;
}

s64 sys_pselect6(struct task *t, const u64 *args)
{
	u64 deadline, old, mask[2] = { 0, 0 };
	s64 result;

	if (args[5] && user_read(t->mm, mask, args[5], sizeof(mask)))
		return -EFAULT;
	result = deadline_from(t, args[4], &deadline);
	if (!result)
		result = mask_begin(t, mask[0], mask[1], &old);
	if (result)
		return result;
	result = do_select(t, args, deadline);
	mask_end(t, mask[0], old);
	put_rest(t, args[4], deadline, 1);
	return result;
}
