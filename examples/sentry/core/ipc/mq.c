// SPDX-License-Identifier: Apache-2.0
/* POSIX message queues: files whose messages have priorities. */
#include "../clock.h"
#include "../vfs/calls.h"
#include "ipc.h"

enum { PRIORITIES = 32768, MOST_MESSAGES = 65536, MOST_SIZE = 16 << 20 };
enum { SI_MESGQ = -3 };

struct message {
	struct list list;
	u32 priority;
	u64 size;
	u8 data[];
};

struct mq_attributes {
	s64 flags, most, size, count, reserved[4];
};

_Static_assert(sizeof(struct mq_attributes) == 64, "as the kernel has it");

struct queue {
	struct list list;    /* of all */
	const struct ipc_tables *owner; /* the namespace of its name; NULL: it has none any longer */
	u32 references;	     /* by the name and by open files */
	struct inode *inode; /* with the owner and the mode */
	char name[NAME_MAX + 1];
	struct list messages; /* the highest priority first */
	s64 most, size, count;
	struct process *notified; /* who gets a signal; NULL: nobody */
	struct sigevent event;
	struct wait_queue readable, writable;
	u32 readers; /* that sleep */
};

static struct list queues;

void queues_init(void)
{
	list_init(&queues);
}

static void queue_put(struct queue *queue)
{
	if (!reference_put(&queue->references))
		return;
	while (!list_empty(&queue->messages)) {
		struct message *message = CONTAINER(queue->messages.next, struct message, list);

		list_remove(&message->list);
		kfree(message);
	}
	list_remove(&queue->list);
	inode_put(queue->inode);
	kfree(queue);
}

static struct queue *find(const char *name)
{
	LIST_EACH(at, &queues) {
		struct queue *queue = CONTAINER(at, struct queue, list);

		if (queue->owner == ipc_own() && strings_equal(queue->name, name))
			return queue;
	}
	return NULL;
}

/* Their names go; files that programs have open keep them. */
void mq_forget(const struct ipc_tables *tables)
{
	LIST_EACH_SAFE(at, next, &queues) {
		struct queue *queue = CONTAINER(at, struct queue, list);

		if (queue->owner != tables)
			continue;
		queue->owner = NULL;
		queue_put(queue);
	}
}

/* A name is valid if a file may have it; the caller frees the page. */
static s64 get_name(u64 from, char **name)
{
	s64 error = name_get(from, name);

	if (error)
		return error;
	if (!**name)
		error = -ENOENT;
	else if (strings_equal(*name, ".") || strings_equal(*name, ".."))
		error = -EACCES;
	else if (string_size(*name) > NAME_MAX)
		error = -ENAMETOOLONG;
	for (const char *at = *name; !error && *at; at++)
		error = *at == '/' ? -EACCES : 0;
	if (!error)
		return 0;
	page_free(*name);
	*name = NULL;
	return error;
}

/* -- files -- */

static u32 mq_poll(struct file *file, struct poll *poll)
{
	struct queue *queue = file->data;

	poll_wait(poll, &queue->readable);
	poll_wait(poll, &queue->writable);
	return (queue->count ? POLLIN | POLLRDNORM : 0) | (queue->count < queue->most ? POLLOUT | POLLWRNORM : 0);
}

static int mq_flush(struct file *file)
{
	struct queue *queue = file->data;

	if (queue->notified == core.current->process)
		queue->notified = NULL;
	return 0;
}

static void mq_release(struct file *file)
{
	queue_put(file->data);
}

static const struct file_operations mq_operations = { .poll = mq_poll, .flush = mq_flush, .release = mq_release };

static s64 install(struct task *t, struct queue *queue, u32 flags)
{
	struct path path;
	struct file *file;
	int error;

	inode_get(queue->inode);
	error = anonymous_from(queue->inode, "mqueue", &path);
	if (error)
		return error;
	file = file_new(&path, &mq_operations, flags & (O_ACCMODE | O_NONBLOCK));
	path_put(&path);
	if (!file)
		return -ENOMEM;
	file->data = queue;
	reference_get(&queue->references);
	return fd_install(t, file, 0, true);
}

static s64 check_attributes(const struct mq_attributes *a)
{
	if (a->most <= 0 || a->size <= 0)
		return -EINVAL;
	if (capable(CAP_SYS_RESOURCE))
		return a->most > MOST_MESSAGES || a->size > MOST_SIZE ? -EINVAL : 0;
	return (u64)a->most > sysctl(SYSCTL_MQ_MSG_MAX) || (u64)a->size > sysctl(SYSCTL_MQ_MSGSIZE_MAX) ? -EINVAL : 0;
}

static s64 create(struct task *t, const char *name, u32 mode, const struct mq_attributes *a, struct queue **result)
{
	struct queue *queue;
	struct path path;
	s64 error = check_attributes(a);

	if (error)
		return error;
	if (ipc_own()->mq_count >= sysctl(SYSCTL_MQ_QUEUES_MAX) && !capable(CAP_SYS_RESOURCE))
		return -ENOSPC;
	if ((u64)a->most * ((u64)a->size + sizeof(struct message)) > t->process->limits[RLIMIT_MSGQUEUE].current)
		return -EMFILE;
	queue = kmalloc(sizeof(*queue));
	if (!queue)
		return -ENOMEM;
	error = anonymous_path(S_IFREG | (mode & ~caller_fs()->umask & 07777), "mqueue", &path);
	if (error) {
		kfree(queue);
		return error;
	}
	queue->inode = path.dentry->inode;
	inode_get(queue->inode);
	path_put(&path);
	queue->references = 1;
	queue->most = a->most;
	queue->size = a->size;
	list_init(&queue->messages);
	bytes_copy(queue->name, name, string_size(name) + 1);
	list_add(&queues, &queue->list);
	queue->owner = ipc_own();
	ipc_own()->mq_count++;
	*result = queue;
	return 0;
}

static s64 open_queue(struct task *t, const char *name, u32 flags, u32 mode, const struct mq_attributes *a)
{
	static const u8 wanted[] = { MAY_READ, MAY_WRITE, MAY_READ | MAY_WRITE };
	struct queue *queue = find(name);
	s64 error = fd_room(t);

	if (error)
		return error;
	if (!queue && !(flags & O_CREAT))
		return -ENOENT;
	if (queue && flags & O_CREAT && flags & O_EXCL)
		return -EEXIST;
	if (queue && (flags & O_ACCMODE) == O_ACCMODE)
		return -EINVAL;
	if (queue)
		error = inode_permission(queue->inode, wanted[flags & O_ACCMODE]);
	else
		error = create(t, name, mode, a, &queue);
	return error ? error : install(t, queue, flags);
}

static s64 least(u64 a, u64 b)
{
	return (s64)(a < b ? a : b);
}

s64 sys_mq_open(struct task *t, const u64 *args)
{
	struct mq_attributes attributes = {
		.most = least(sysctl(SYSCTL_MQ_MSG_DEFAULT), sysctl(SYSCTL_MQ_MSG_MAX)),
		.size = least(sysctl(SYSCTL_MQ_MSGSIZE_DEFAULT), sysctl(SYSCTL_MQ_MSGSIZE_MAX)),
	};
	char *name;
	s64 result;

	if (args[3] && user_read(t->mm, &attributes, args[3], sizeof(attributes)))
		return -EFAULT;
	result = get_name(args[0], &name);
	if (result)
		return result;
	result = open_queue(t, name, (u32)args[1], (u32)args[2], &attributes);
	page_free(name);
	return result;
}

s64 sys_mq_unlink(struct task *t, const u64 *args)
{
	struct queue *queue;
	char *name;
	s64 error = get_name(args[0], &name);

	(void)t;
	if (error)
		return error;
	queue = find(name);
	page_free(name);
	if (!queue)
		return -ENOENT;
	if (queue->inode->user != caller_user() && !capable(CAP_FOWNER))
		return -EPERM;
	queue->owner = NULL;
	ipc_own()->mq_count--;
	queue_put(queue);
	return 0;
}

/* The queue of a descriptor, which is open for reading or writing if the caller needs that; NULL: -EBADF. */
static struct queue *queue_of(struct task *t, u64 fd, bool read, bool write, struct file **file)
{
	*file = fd_real(t, fd);
	if (!*file || (*file)->operations != &mq_operations || (read && !(*file)->readable) || (write && !(*file)->writable))
		return NULL;
	return (*file)->data;
}

/* -- messages -- */

static s64 get_deadline(struct task *t, u64 from, u64 *deadline)
{
	struct timespec time;

	*deadline = FOREVER;
	if (!from)
		return 0;
	if (user_read(t->mm, &time, from, sizeof(time)))
		return -EFAULT;
	if (!timespec_valid(&time))
		return -EINVAL;
	*deadline = realtime_deadline(timespec_nanoseconds(&time));
	return 0;
}

static void notify(struct queue *queue)
{
	struct process *p = queue->notified;
	const struct cred *cred = &core.current->cred;
	struct siginfo info = {
		.signal = queue->event.signal, .code = SI_MESGQ,
		.fields = { (u32)core.current->process->pid | (u64)cred->user.real << 32, queue->event.value },
	};

	if (!p || queue->count || queue->readers)
		return;
	queue->notified = NULL;
	if (queue->event.notify == SIGEV_SIGNAL && info.signal)
		signal_send_process(p, &info);
}

static void insert(struct queue *queue, struct message *message)
{
	struct list *place = queue->messages.next;

	notify(queue);
	while (place != &queue->messages && CONTAINER(place, struct message, list)->priority >= message->priority)
		place = place->next;
	list_add(place, &message->list);
	queue->count++;
	wake_all(&queue->readable);
}

static s64 wait(const struct file *file, struct wait_queue *where, u64 deadline)
{
	return file->flags & O_NONBLOCK ? -EAGAIN : sleep_on(where, deadline);
}

s64 sys_mq_timedsend(struct task *t, const u64 *args)
{
	u64 deadline, size = args[2];
	struct message *message;
	struct queue *queue;
	struct file *file;
	s64 error = get_deadline(t, args[4], &deadline);

	if (error)
		return error;
	if ((u32)args[3] >= PRIORITIES)
		return -EINVAL;
	queue = queue_of(t, args[0], false, true, &file);
	if (!queue)
		return -EBADF;
	if (size > (u64)queue->size)
		return -EMSGSIZE;
	message = size + sizeof(*message) > 4 << 20 ? NULL : kmalloc(sizeof(*message) + size);
	if (!message)
		return -ENOMEM;
	message->size = size;
	message->priority = (u32)args[3];
	if (user_read(t->mm, message->data, args[1], size))
		error = -EFAULT;
	while (!error && queue->count >= queue->most)
		error = wait(file, &queue->writable, deadline);
	if (error)
		kfree(message);
	else
		insert(queue, message);
	return error;
}

static s64 take(struct task *t, struct queue *queue, u64 to, u64 priority)
{
	struct message *message = CONTAINER(queue->messages.next, struct message, list);
	s64 result = (s64)message->size;

	list_remove(&message->list);
	queue->count--;
	wake_all(&queue->writable);
	if ((priority && user_write(t->mm, priority, &message->priority, sizeof(u32))) ||
	    user_write(t->mm, to, message->data, message->size))
		result = -EFAULT;
	kfree(message);
	return result;
}

s64 sys_mq_timedreceive(struct task *t, const u64 *args)
{
	struct queue *queue;
	struct file *file;
	u64 deadline;
	s64 result = get_deadline(t, args[4], &deadline);

	if (result)
		return result;
	queue = queue_of(t, args[0], true, false, &file);
	if (!queue)
		return -EBADF;
	if (args[2] < (u64)queue->size)
		return -EMSGSIZE;
	while (!result && !queue->count) {
		queue->readers++;
		result = wait(file, &queue->readable, deadline);
		queue->readers--;
	}
	return result ? result : take(t, queue, args[1], args[3]);
}

s64 sys_mq_notify(struct task *t, const u64 *args)
{
	struct sigevent event;
	struct queue *queue;
	struct file *file;

	if (args[1] && user_read(t->mm, &event, args[1], sizeof(event)))
		return -EFAULT;
	if (args[1] && event.notify != SIGEV_NONE &&
	    (event.notify != SIGEV_SIGNAL || event.signal < 0 || event.signal > SIGNALS))
		return -EINVAL;
	queue = queue_of(t, args[0], false, false, &file);
	if (!queue)
		return -EBADF;
	if (!args[1]) {
		if (queue->notified == t->process)
			queue->notified = NULL;
		return 0;
	}
	if (queue->notified)
		return -EBUSY;
	queue->notified = t->process;
	queue->event = event;
	return 0;
}

s64 sys_mq_getsetattr(struct task *t, const u64 *args)
{
	struct mq_attributes new, old;
	struct queue *queue;
	struct file *file;

	if (args[1] && user_read(t->mm, &new, args[1], sizeof(new)))
		return -EFAULT;
	if (args[1] && new.flags & ~(s64)O_NONBLOCK)
		return -EINVAL;
	queue = queue_of(t, args[0], false, false, &file);
	if (!queue)
		return -EBADF;
	old = (struct mq_attributes){ file->flags & O_NONBLOCK, queue->most, queue->size, queue->count, { 0 } };
	if (args[1])
		file->flags = (file->flags & ~(u32)O_NONBLOCK) | (u32)new.flags;
	return args[2] && user_write(t->mm, args[2], &old, sizeof(old)) ? -EFAULT : 0;
}

void mq_exit(struct process *p)
{
	LIST_EACH(at, &queues)
		if (CONTAINER(at, struct queue, list)->notified == p)
			CONTAINER(at, struct queue, list)->notified = NULL;
}
