// SPDX-License-Identifier: Apache-2.0
/* epoll: a set of files, of which those that may be ready are in a list. */
#include "calls.h"

enum {
	EPOLL_CTL_ADD = 1, EPOLL_CTL_DEL = 2, EPOLL_CTL_MOD = 3, MOST_DEPTH = 5, MOST_EVENTS = 0x7fffffff / 12,
};
#define EPOLLET 0x80000000u
#define EPOLLONESHOT 0x40000000u
#define EPOLLWAKEUP 0x20000000u
#define EPOLLEXCLUSIVE 0x10000000u
#define PRIVATE_BITS (EPOLLET | EPOLLONESHOT | EPOLLWAKEUP | EPOLLEXCLUSIVE)

struct epoll_event {
	u32 events, data[2]; /* without padding */
};

struct epoll {
	struct list items, ready;
	struct wait_queue queue;
	struct table table; /* of items, by file and descriptor */
	struct file *file;  /* its own; borrowed */
};

struct item {
	struct standing_poll poll;
	struct epoll *epoll;
	struct file *file; /* borrowed: the item goes when the file does */
	u32 fd;
	struct epoll_event event;
	struct list of_epoll, of_file, ready;
	struct table_entry by_file;
};

static struct slab epolls = SLAB(struct epoll);
static struct slab items = SLAB(struct item);
static const struct file_operations epoll_operations;

static void make_ready(struct item *item)
{
	if (list_empty(&item->ready))
		list_add(&item->epoll->ready, &item->ready);
	wake_all(&item->epoll->queue);
}

static void notify(struct waiter *waiter)
{
	struct item *item = waiter->data;

	if (item->event.events & ~PRIVATE_BITS)
		make_ready(item);
}

static u32 hash_of(const struct file *file, u32 fd)
{
	return hash_bytes(&file, sizeof(file), fd);
}

static struct item *find(struct epoll *epoll, const struct file *file, u32 fd)
{
	u32 hash = hash_of(file, fd);

	for (struct table_entry *at = table_first(&epoll->table, hash); at; at = at->next) {
		struct item *item = CONTAINER(at, struct item, by_file);

		if (item->file == file && item->fd == fd)
			return item;
	}
	return NULL;
}

static void remove_item(struct item *item)
{
	poll_stop(&item->poll);
	list_remove(&item->of_epoll);
	list_remove(&item->of_file);
	list_remove(&item->ready);
	table_remove(&item->epoll->table, &item->by_file);
	slab_free(&items, item);
}

void epoll_forget(struct file *file)
{
	while (!list_empty(&file->polls))
		remove_item(CONTAINER(file->polls.next, struct item, of_file));
}

/* -- the set -- */

static s64 add(struct epoll *epoll, struct file *file, u32 fd, const struct epoll_event *event)
{
	struct item *item = slab_alloc(&items);

	if (!item)
		return -ENOMEM;
	if (table_add(&epoll->table, &item->by_file, hash_of(file, fd))) {
		slab_free(&items, item);
		return -ENOMEM;
	}
	item->epoll = epoll;
	item->file = file;
	item->fd = fd;
	item->event = *event;
	list_add(&epoll->items, &item->of_epoll);
	list_add(&file->polls, &item->of_file);
	list_init(&item->ready);
	if (poll_start(&item->poll, file, notify, item) & item->event.events)
		make_ready(item);
	return 0;
}

static s64 modify(struct item *item, const struct epoll_event *event)
{
	if (item->event.events & EPOLLEXCLUSIVE)
		return -EINVAL;
	item->event = *event;
	if (file_poll(item->file, NULL) & item->event.events)
		make_ready(item);
	return 0;
}

/* How deep the sets are that a file contains, itself counted; more than the limit if it contains `wanted`. */
static u32 depth_of(const struct file *file, const struct file *wanted)
{
	struct epoll *epoll = file->data;
	u32 most = 0;

	if (file == wanted)
		return MOST_DEPTH + 1;
	if (file->operations != &epoll_operations)
		return 0;
	LIST_EACH(at, &epoll->items) {
		u32 depth = depth_of(CONTAINER(at, struct item, of_epoll)->file, wanted);

		if (depth > most)
			most = depth;
		if (most > MOST_DEPTH)
			break;
	}
	return most + 1;
}

/* How many levels of sets contain a set, including itself. */
static u32 height_of(const struct file *file)
{
	u32 most = 0;

	LIST_EACH(at, &file->polls) {
		u32 height = height_of(CONTAINER(at, struct item, of_file)->epoll->file);

		if (height > most)
			most = height;
	}
	return most + 1;
}

static s64 check_exclusive(u32 operation, const struct file *file, u32 events)
{
	const u32 allowed = POLLIN | POLLOUT | POLLERR | POLLHUP | EPOLLWAKEUP | EPOLLET | EPOLLEXCLUSIVE;

	if (!(events & EPOLLEXCLUSIVE) || operation == EPOLL_CTL_DEL)
		return 0;
	if (operation == EPOLL_CTL_MOD || file->operations == &epoll_operations || events & ~allowed)
		return -EINVAL;
	return 0;
}

static s64 control(struct epoll *epoll, u32 operation, struct file *file, u32 fd, struct epoll_event *event)
{
	struct item *item = find(epoll, file, fd);

	event->events |= POLLERR | POLLHUP;
	switch (operation) {
	case EPOLL_CTL_ADD:
		if (file->operations == &epoll_operations && depth_of(file, epoll->file) + height_of(epoll->file) > MOST_DEPTH)
			return -ELOOP;
		return item ? -EEXIST : add(epoll, file, fd, event);
	case EPOLL_CTL_MOD:
		return item ? modify(item, event) : -ENOENT;
	case EPOLL_CTL_DEL:
		if (!item)
			return -ENOENT;
		remove_item(item);
		return 0;
	}
	return -EINVAL;
}

s64 sys_epoll_ctl(struct task *t, const u64 *args)
{
	struct file *set = fd_real(t, args[0]), *file = fd_real(t, args[2]);
	struct epoll_event event = { .events = 0 };
	u32 operation = (u32)args[1];
	s64 error;

	if (operation != EPOLL_CTL_DEL && user_read(t->mm, &event, args[3], sizeof(event)))
		return -EFAULT;
	if (!set || !file)
		return -EBADF;
	if (!file->operations->poll)
		return -EPERM;
	if (set == file || set->operations != &epoll_operations)
		return -EINVAL;
	error = check_exclusive(operation, file, event.events);
	return error ? error : control(set->data, operation, file, (u32)args[2], &event);
}

/* -- waiting -- */

static u32 events_of(const struct item *item)
{
	return file_poll(item->file, NULL) & item->event.events & ~PRIVATE_BITS;
}

/* The first item of the ready list that has events, or NULL; those before it leave the list. */
static struct item *first_ready(struct epoll *epoll)
{
	LIST_EACH_SAFE(at, after, &epoll->ready) {
		struct item *item = CONTAINER(at, struct item, ready);

		if (events_of(item))
			return item;
		list_remove(at);
	}
	return NULL;
}

/* Write events of ready items: how many, or -EFAULT if there are some and none could be written. */
static s64 collect(struct task *t, struct epoll *epoll, u64 to, u64 most)
{
	struct list again;
	u64 count = 0;
	bool fault = false;

	list_init(&again);
	while (count < most && first_ready(epoll)) {
		struct item *item;
		struct epoll_event event;

		/* Makes the page present, which can sleep: another task can free the item meanwhile. */
		fault = user_writable(t->mm, to, sizeof(event)) < sizeof(event);
		item = first_ready(epoll);
		if (fault || !item)
			break;
		event = item->event;
		event.events = events_of(item);
		list_remove(&item->ready);
		if (item->event.events & EPOLLONESHOT)
			item->event.events &= PRIVATE_BITS;
		else if (!(item->event.events & EPOLLET))
			list_add(&again, &item->ready);
		(void)user_write(t->mm, to, &event, sizeof(event)); /* it was possible a moment ago */
		to += sizeof(event);
		count++;
	}
	while (!list_empty(&again)) {
		struct list *entry = again.next;

		list_remove(entry);
		list_add(&epoll->ready, entry);
	}
	return count ? (s64)count : fault ? -EFAULT : 0;
}

static s64 wait_for_events(struct task *t, struct epoll *epoll, u64 to, u64 most, u64 deadline)
{
	for (;;) {
		s64 result = collect(t, epoll, to, most);

		if (result || !deadline)
			return result;
		result = sleep_on(&epoll->queue, deadline);
		if (result == -ETIMEDOUT)
			return collect(t, epoll, to, most);
		if (result)
			return -EINTR;
	}
}

static s64 do_wait(struct task *t, const u64 *args, u64 deadline)
{
	struct file *file = fd_real(t, args[0]);
	s32 most = (s32)args[2];

	if (most <= 0 || most > MOST_EVENTS)
		return -EINVAL;
	if (!user_range(args[1], (u64)most * sizeof(struct epoll_event)))
		return -EFAULT;
	if (!file)
		return -EBADF;
	if (file->operations != &epoll_operations)
		return -EINVAL;
	return wait_for_events(t, file->data, args[1], (u64)most, deadline);
}

static u64 deadline_of(s64 milliseconds)
{
	struct timespec time = { milliseconds / 1000, milliseconds % 1000 * 1000000 };

	return milliseconds < 0 ? FOREVER : time_after(&time);
}

s64 sys_epoll_wait(struct task *t, const u64 *args)
{
	return do_wait(t, args, deadline_of((s32)args[3]));
}

static s64 wait_masked(struct task *t, const u64 *args, u64 deadline)
{
	u64 old;
	s64 result = mask_begin(t, args[4], args[5], &old);

	if (result)
		return result;
	result = do_wait(t, args, deadline);
	mask_end(t, args[4], old);
	return result;
}

s64 sys_epoll_pwait(struct task *t, const u64 *args)
{
	return wait_masked(t, args, deadline_of((s32)args[3]));
}

s64 sys_epoll_pwait2(struct task *t, const u64 *args)
{
	u64 deadline;
	s64 error = deadline_from(t, args[3], &deadline);

	return error ? error : wait_masked(t, args, deadline);
}

/* -- the file -- */

static u32 poll(struct file *file, struct poll *poll)
{
	struct epoll *epoll = file->data;

	poll_wait(poll, &epoll->queue);
	return first_ready(epoll) ? POLLIN | POLLRDNORM : 0;
}

static void release(struct file *file)
{
	struct epoll *epoll = file->data;

	while (!list_empty(&epoll->items))
		remove_item(CONTAINER(epoll->items.next, struct item, of_epoll));
	table_free(&epoll->table);
	slab_free(&epolls, epoll);
}

/* Linux has some of its own, for busy polling. */
static s64 ioctl(struct file *file, u32 command, u64 argument)
{
	(void)file, (void)command, (void)argument;
	return -EINVAL;
}

static const struct file_operations epoll_operations = {
	.seek = file_stay, .poll = poll, .ioctl = ioctl, .release = release,
};

static s64 make(struct task *t, u32 flags)
{
	struct epoll *epoll;
	struct file *file;
	int error;

	if (flags & ~(u32)O_CLOEXEC)
		return -EINVAL;
	epoll = slab_alloc(&epolls);
	if (!epoll)
		return -ENOMEM;
	list_init(&epoll->items);
	list_init(&epoll->ready);
	error = anonymous_file(0600, "anon_inode:[eventpoll]", &epoll_operations, O_RDWR, &file);
	if (error) {
		slab_free(&epolls, epoll);
		return error;
	}
	file->data = epoll;
	epoll->file = file;
	return fd_install(t, file, 0, flags & O_CLOEXEC);
}

s64 sys_epoll_create(struct task *t, const u64 *args)
{
	return (s32)args[0] <= 0 ? -EINVAL : make(t, 0);
}

s64 sys_epoll_create1(struct task *t, const u64 *args)
{
	return make(t, (u32)args[0]);
}
