// SPDX-License-Identifier: Apache-2.0
/* Message queues of System V. */
#include "ipc.h"

enum { MSG_STAT = 11, MSG_INFO, MSG_STAT_ANY };
enum { MSG_NOERROR = 010000, MSG_EXCEPT = 020000, MSG_COPY = 040000 };

struct message {
	struct list list;
	s64 type;
	u64 size;
	u8 data[];
};

struct queue {
	struct ipc_object ipc;
	u32 references;
	bool gone;
	struct list messages;
	u64 bytes, count, room;
	s64 sent, received, changed;
	s32 sender, receiver;
	struct wait_queue readable, writable;
};

static struct slab queues = SLAB(struct queue);

static struct queue *queue_of(struct ipc_object *object)
{
	return object ? CONTAINER(object, struct queue, ipc) : NULL;
}

static void queue_put(struct queue *queue)
{
	if (reference_put(&queue->references))
		slab_free(&queues, queue);
}

static s64 create(u32 key, u32 flags)
{
	struct queue *queue = slab_alloc(&queues);
	s64 id = queue ? ipc_add(&ipc_own()->msg, &queue->ipc, key, flags, sysctl(SYSCTL_MSGMNI)) : -ENOMEM;

	if (id < 0) {
		if (queue)
			slab_free(&queues, queue);
		return id;
	}
	queue->references = 1;
	queue->room = sysctl(SYSCTL_MSGMNB);
	queue->changed = ipc_seconds();
	list_init(&queue->messages);
	return id;
}

s64 sys_msgget(struct task *t, const u64 *args)
{
	u32 flags = (u32)args[1];
	struct ipc_object *found;
	s64 id = ipc_get(&ipc_own()->msg, (u32)args[0], flags, &found);

	(void)t;
	if (id < 0)
		return id;
	if (!found)
		return create((u32)args[0], flags);
	return ipc_allowed(found, flags) ? id : -EACCES;
}

static void destroy(struct queue *queue)
{
	ipc_remove(&queue->ipc);
	queue->gone = true;
	while (!list_empty(&queue->messages)) {
		struct message *message = CONTAINER(queue->messages.next, struct message, list);

		list_remove(&message->list);
		kfree(message);
	}
	wake_all(&queue->readable);
	wake_all(&queue->writable);
	queue_put(queue);
}

void msg_forget(struct ipc_table *table)
{
	struct queue *queue;
	u32 i = 0;

	while ((queue = queue_of(ipc_next(table, &i))))
		destroy(queue);
}

void msg_show(struct text *text)
{
	const struct queue *q;
	u32 i = 0;

	text_put(text, "       key      msqid perms      cbytes       qnum lspid lrpid   uid   gid  cuid  cgid      stime"
		       "      rtime      ctime\n");
	while ((q = queue_of(ipc_next(&ipc_own()->msg, &i)))) {
		const s64 values[] = { (s64)q->bytes, (s64)q->count, q->sender, q->receiver, OWNERS, q->sent, q->received,
				       q->changed };

		ipc_show(text, &q->ipc, values, ARRAY_SIZE(values));
	}
}

/* -- messages -- */

static s64 wait(struct queue *queue, struct wait_queue *where)
{
	s64 error;

	reference_get(&queue->references);
	error = sleep_on(where, FOREVER);
	if (queue->gone)
		error = -EIDRM;
	queue_put(queue);
	return error == -ERESTARTSYS ? -ERESTARTNOHAND : error;
}

static s64 send(struct task *t, s32 id, struct message *message, u32 flags)
{
	struct queue *queue = queue_of(ipc_find(&ipc_own()->msg, id));

	if (!queue)
		return -EINVAL;
	for (;;) {
		s64 error;

		if (!ipc_allowed(&queue->ipc, MAY_WRITE_ALL))
			return -EACCES;
		if (queue->bytes + message->size <= queue->room && queue->count < queue->room)
			break;
		if (flags & IPC_NOWAIT)
			return -EAGAIN;
		error = wait(queue, &queue->writable);
		if (error)
			return error;
	}
	list_add(&queue->messages, &message->list);
	queue->bytes += message->size;
	queue->count++;
	queue->sent = ipc_seconds();
	queue->sender = t->process->pid;
	wake_all(&queue->readable);
	return 0;
}

s64 sys_msgsnd(struct task *t, const u64 *args)
{
	u64 size = args[2];
	struct message *message;
	s64 type, error;

	if (user_read(t->mm, &type, args[1], sizeof(type)))
		return -EFAULT;
	if (size > sysctl(SYSCTL_MSGMAX) || (s32)args[0] < 0 || type < 1)
		return -EINVAL;
	message = kmalloc(sizeof(*message) + size);
	if (!message)
		return -ENOMEM;
	message->type = type;
	message->size = size;
	if (user_read(t->mm, message->data, args[1] + sizeof(type), size))
		error = -EFAULT;
	else
		error = send(t, (s32)args[0], message, (u32)args[3]);
	if (error)
		kfree(message);
	return error;
}

/* The first message of a type (0: any), or not of it; for -n, of the lowest type up to n. NULL: there is none. */
static struct message *choose(const struct queue *queue, s64 type, bool except)
{
	struct message *best = NULL;

	LIST_EACH(at, &queue->messages) {
		struct message *message = CONTAINER(at, struct message, list);

		if (type >= 0) {
			if (!type || (message->type == type) != except)
				return message;
		} else if (message->type <= (type == -0x7fffffffffffffffll - 1 ? 0x7fffffffffffffffll : -type) &&
			   (!best || message->type < best->type)) {
			best = message;
		}
	}
	return best;
}

static s64 receive(struct task *t, const u64 *args, u32 flags, struct message **found)
{
	struct queue *queue = queue_of(ipc_find(&ipc_own()->msg, (s32)args[0]));

	if (!queue)
		return -EINVAL;
	for (;;) {
		s64 error;

		if (!ipc_allowed(&queue->ipc, MAY_READ_ALL))
			return -EACCES;
		*found = choose(queue, (s64)args[3], flags & MSG_EXCEPT);
		if (*found && (*found)->size > args[2] && !(flags & MSG_NOERROR))
			return -E2BIG;
		if (*found)
			break;
		if (flags & IPC_NOWAIT)
			return -ENOMSG;
		error = wait(queue, &queue->readable);
		if (error)
			return error;
	}
	list_remove(&(*found)->list);
	queue->bytes -= (*found)->size;
	queue->count--;
	queue->received = ipc_seconds();
	queue->receiver = t->process->pid;
	wake_all(&queue->writable);
	return 0;
}

s64 sys_msgrcv(struct task *t, const u64 *args)
{
	u32 flags = (u32)args[4];
	struct message *message;
	s64 result;

	if ((s32)args[0] < 0 || (s64)args[2] < 0)
		return -EINVAL;
	if (flags & MSG_COPY)
		return flags & MSG_EXCEPT || !(flags & IPC_NOWAIT) ? -EINVAL : -ENOSYS;
	result = receive(t, args, flags, &message);
	if (result)
		return result;
	result = (s64)(message->size < args[2] ? message->size : args[2]);
	if (user_write(t->mm, args[1], &message->type, sizeof(message->type)) ||
	    user_write(t->mm, args[1] + sizeof(message->type), message->data, (u64)result))
		result = -EFAULT;
	kfree(message);
	return result;
}

/* -- msgctl -- */

struct msqid_ds {
	struct ipc_perm perm;
	s64 sent, received, changed;
	u64 bytes, count, room;
	s32 sender, receiver;
	u64 unused[2];
};

_Static_assert(sizeof(struct msqid_ds) == 120, "as the kernel has it");

static s64 put_info(struct task *t, u64 to, bool usage)
{
	const s32 most = (s32)sysctl(SYSCTL_MSGMNI), largest = (s32)sysctl(SYSCTL_MSGMAX), room = (s32)sysctl(SYSCTL_MSGMNB);
	s32 info[8] = { (s32)((s64)most * room / 1024), room, largest, room, most, 16, room, 0xffff };

	if (usage) {
		const struct queue *queue;
		u64 bytes = 0, count = 0;
		u32 i = 0;

		while ((queue = queue_of(ipc_next(&ipc_own()->msg, &i)))) {
			bytes += queue->bytes;
			count += queue->count;
		}
		info[0] = (s32)ipc_own()->msg.count;
		info[1] = (s32)count;
		info[6] = (s32)bytes;
	}
	return user_write(t->mm, to, info, sizeof(info)) ? -EFAULT : ipc_highest(&ipc_own()->msg);
}

static s64 put_state(struct task *t, const struct queue *queue, u64 to, bool by_index)
{
	const struct msqid_ds state = {
		.perm = ipc_perm_of(&queue->ipc), .sent = queue->sent, .received = queue->received, .changed = queue->changed,
		.bytes = queue->bytes, .count = queue->count, .room = queue->room, .sender = queue->sender,
		.receiver = queue->receiver,
	};
	s64 id = queue->ipc.id;

	if (user_write(t->mm, to, &state, sizeof(state)))
		return -EFAULT;
	return by_index ? id : 0;
}

static s64 change(struct task *t, s32 id, u32 command, u64 from)
{
	struct msqid_ds new = { .bytes = 0 };
	struct queue *queue;
	s64 error;

	if (command == IPC_SET && user_read(t->mm, &new, from, sizeof(new)))
		return -EFAULT;
	queue = queue_of(ipc_find(&ipc_own()->msg, id)); /* after the read, which can sleep */
	if (!queue)
		return -EINVAL;
	if (!ipc_owned(&queue->ipc))
		return -EPERM;
	if (command == IPC_RMID) {
		destroy(queue);
		return 0;
	}
	if (new.room > sysctl(SYSCTL_MSGMNB) && !capable(CAP_SYS_RESOURCE))
		return -EPERM;
	error = ipc_set(&queue->ipc, &new.perm);
	if (error)
		return error;
	queue->room = new.room;
	queue->changed = ipc_seconds();
	wake_all(&queue->writable);
	wake_all(&queue->readable);
	return 0;
}

s64 sys_msgctl(struct task *t, const u64 *args)
{
	s32 id = (s32)args[0];
	u32 command = (u32)args[1];
	bool by_index = command == MSG_STAT || command == MSG_STAT_ANY;
	struct queue *queue = queue_of(ipc_of_stat(&ipc_own()->msg, id, by_index));

	if (id < 0)
		return -EINVAL;
	switch (command) {
	case IPC_INFO:
	case MSG_INFO:
		return put_info(t, args[2], command == MSG_INFO);
	case IPC_STAT:
	case MSG_STAT:
	case MSG_STAT_ANY:
		if (!queue)
			return -EINVAL;
		if (command != MSG_STAT_ANY && !ipc_allowed(&queue->ipc, MAY_READ_ALL))
			return -EACCES;
		return put_state(t, queue, args[2], by_index);
	case IPC_SET:
	case IPC_RMID:
		return change(t, id, command, args[2]);
	}
	return -EINVAL;
}
