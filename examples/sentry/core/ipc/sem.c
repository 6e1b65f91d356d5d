// SPDX-License-Identifier: Apache-2.0
/* Semaphores of System V: sets of numbers that change all at once, or not at all. */
#include "ipc.h"

enum { MOST_VALUE = 32767, SEM_UNDO = 0x1000 };
enum { GETPID = 11, GETVAL, GETALL, GETNCNT, GETZCNT, SETVAL, SETALL, SEM_STAT, SEM_INFO, SEM_STAT_ANY };

struct semaphore {
	s32 value, last; /* the process that changed it last */
};

struct set {
	struct ipc_object ipc;
	u32 count, references; /* by the table and by tasks that use it */
	bool gone;
	s64 operated, changed;
	struct list undos, waiting;
	struct wait_queue queue;
	struct semaphore *semaphores;
};

/* Changes that the end of a process reverts. */
struct undo {
	struct list of_process, of_set;
	struct set *set;
	s16 change[];
};

struct operation {
	u16 number;
	s16 change;
	s16 flags;
};

/* A task that sleeps for one of its operations. */
struct sleeper {
	struct list list;
	u16 number;
	bool for_zero;
};

static struct set *set_of(struct ipc_object *object)
{
	return object ? CONTAINER(object, struct set, ipc) : NULL;
}

static void set_put(struct set *set)
{
	if (!reference_put(&set->references))
		return;
	kfree(set->semaphores);
	kfree(set);
}

/* -- sets -- */

static s64 create(u32 key, s32 count, u32 flags)
{
	struct set *set;
	s64 id;

	if (!count)
		return -EINVAL;
	if (ipc_own()->semaphores + (u64)count > sysctl(SYSCTL_SEMMNS))
		return -ENOSPC;
	set = kmalloc(sizeof(*set));
	if (!set)
		return -ENOMEM;
	set->semaphores = kmalloc((u64)count * sizeof(struct semaphore));
	id = set->semaphores ? ipc_add(&ipc_own()->sem, &set->ipc, key, flags, sysctl(SYSCTL_SEMMNI)) : -ENOMEM;
	if (id < 0) {
		kfree(set->semaphores);
		kfree(set);
		return id;
	}
	set->count = (u32)count;
	set->references = 1;
	set->changed = ipc_seconds();
	list_init(&set->undos);
	list_init(&set->waiting);
	ipc_own()->semaphores += set->count;
	return id;
}

s64 sys_semget(struct task *t, const u64 *args)
{
	s32 count = (s32)args[1];
	u32 flags = (u32)args[2];
	struct ipc_object *found;
	s64 id;

	(void)t;
	if (count < 0 || (u64)count > sysctl(SYSCTL_SEMMSL))
		return -EINVAL;
	id = ipc_get(&ipc_own()->sem, (u32)args[0], flags, &found);
	if (id < 0)
		return id;
	if (!found)
		return create((u32)args[0], count, flags);
	if ((u32)count > set_of(found)->count)
		return -EINVAL;
	return ipc_allowed(found, flags) ? id : -EACCES;
}

static void undo_free(struct undo *undo)
{
	list_remove(&undo->of_process);
	list_remove(&undo->of_set);
	kfree(undo);
}

static void destroy(struct set *set)
{
	ipc_remove(&set->ipc);
	CONTAINER(set->ipc.table, struct ipc_tables, sem)->semaphores -= set->count;
	set->gone = true;
	while (!list_empty(&set->undos))
		undo_free(CONTAINER(set->undos.next, struct undo, of_set));
	wake_all(&set->queue);
	set_put(set);
}

void sem_forget(struct ipc_table *table)
{
	struct set *set;
	u32 i = 0;

	while ((set = set_of(ipc_next(table, &i))))
		destroy(set);
}

void sem_show(struct text *text)
{
	const struct set *set;
	u32 i = 0;

	text_put(text, "       key      semid perms      nsems   uid   gid  cuid  cgid      otime      ctime\n");
	while ((set = set_of(ipc_next(&ipc_own()->sem, &i)))) {
		const s64 values[] = { set->count, OWNERS, set->operated, set->changed };

		ipc_show(text, &set->ipc, values, ARRAY_SIZE(values));
	}
}

/* -- operations -- */

static struct undo *undo_of(struct process *p, struct set *set)
{
	struct undo *undo;

	LIST_EACH(at, &p->semaphore_undos) {
		undo = CONTAINER(at, struct undo, of_process);
		if (undo->set == set)
			return undo;
	}
	undo = kmalloc(sizeof(*undo) + set->count * sizeof(s16));
	if (!undo)
		return NULL;
	undo->set = set;
	list_add(&set->undos, &undo->of_set);
	list_add(&p->semaphore_undos, &undo->of_process);
	return undo;
}

/* Revert the first operations. */
static void revert(struct set *set, const struct operation *operations, u32 count, struct undo *undo)
{
	while (count--) {
		const struct operation *o = &operations[count];

		set->semaphores[o->number].value -= o->change;
		if (o->flags & SEM_UNDO)
			undo->change[o->number] = (s16)(undo->change[o->number] + o->change);
	}
}

/* Do all operations: 0; -errno; or 1 with the operation that must wait. */
static s64 try(struct set *set, const struct operation *operations, u32 count, struct undo *undo, const struct operation **waits)
{
	for (u32 i = 0; i < count; i++) {
		const struct operation *o = &operations[i];
		struct semaphore *semaphore = &set->semaphores[o->number];
		s32 back = o->flags & SEM_UNDO ? undo->change[o->number] - o->change : 0;
		s64 result = 0;

		if ((!o->change && semaphore->value) || semaphore->value + o->change < 0) {
			*waits = o;
			result = o->flags & IPC_NOWAIT ? -EAGAIN : 1;
		} else if (semaphore->value + o->change > MOST_VALUE || back < -MOST_VALUE - 1 || back > MOST_VALUE) {
			result = -ERANGE;
		}
		if (result) {
			revert(set, operations, i, undo);
			return result;
		}
		semaphore->value += o->change;
		if (o->flags & SEM_UNDO)
			undo->change[o->number] = (s16)back;
	}
	return 0;
}

static s64 operate(struct task *t, struct set *set, const struct operation *operations, u32 count, struct undo *undo, u64 deadline)
{
	for (;;) {
		const struct operation *waits = NULL;
		s64 result = try(set, operations, count, undo, &waits);
		struct sleeper sleeper;

		if (!result) {
			for (u32 i = 0; i < count; i++)
				set->semaphores[operations[i].number].last = t->process->pid;
			set->operated = ipc_seconds();
			wake_all(&set->queue);
		}
		if (result <= 0)
			return result;
		sleeper = (struct sleeper){ .number = waits->number, .for_zero = !waits->change };
		list_add(&set->waiting, &sleeper.list);
		result = sleep_on(&set->queue, deadline);
		list_remove(&sleeper.list);
		if (set->gone)
			return -EIDRM;
		if (result)
			return result == -ETIMEDOUT ? -EAGAIN : -EINTR;
	}
}

static s64 find_and_operate(struct task *t, s32 id, const struct operation *operations, u32 count, u64 deadline)
{
	struct set *set = set_of(ipc_find(&ipc_own()->sem, id));
	struct undo *undo = NULL;
	bool changes = false, undoes = false;
	s64 result;

	if (!set)
		return -EINVAL;
	for (u32 i = 0; i < count; i++) {
		if (operations[i].number >= set->count)
			return -EFBIG;
		changes = changes || operations[i].change;
		undoes = undoes || operations[i].flags & SEM_UNDO;
	}
	if (!ipc_allowed(&set->ipc, changes ? MAY_WRITE_ALL : MAY_READ_ALL))
		return -EACCES;
	if (undoes) {
		undo = undo_of(t->process, set);
		if (!undo)
			return -ENOMEM;
	}
	reference_get(&set->references);
	result = operate(t, set, operations, count, undo, deadline);
	set_put(set);
	return result;
}

static s64 get_and_operate(struct task *t, const u64 *args, u64 deadline)
{
	u32 count = (u32)args[2];
	struct operation *operations;
	s64 result;

	if (count > sysctl(SYSCTL_SEMOPM))
		return -E2BIG;
	if (!count)
		return -EINVAL;
	operations = kmalloc(count * sizeof(*operations));
	if (!operations)
		return -ENOMEM;
	if (user_read(t->mm, operations, args[1], count * sizeof(*operations)))
		result = -EFAULT;
	else
		result = find_and_operate(t, (s32)args[0], operations, count, deadline);
	kfree(operations);
	return result;
}

s64 sys_semop(struct task *t, const u64 *args)
{
	return get_and_operate(t, args, FOREVER);
}

s64 sys_semtimedop(struct task *t, const u64 *args)
{
	u64 deadline = FOREVER;
	struct timespec time;

	if (args[3] && user_read(t->mm, &time, args[3], sizeof(time)))
		return -EFAULT;
	if (args[3] && time_deadline(&time, &deadline))
		return -EINVAL;
	return get_and_operate(t, args, deadline);
}

void ipc_exit(struct process *p)
{
	while (!list_empty(&p->semaphore_undos)) {
		struct undo *undo = CONTAINER(p->semaphore_undos.next, struct undo, of_process);
		struct set *set = undo->set;

		for (u32 i = 0; i < set->count; i++) {
			struct semaphore *semaphore = &set->semaphores[i];
			s32 value = semaphore->value + undo->change[i];

			if (!undo->change[i])
				continue;
			semaphore->value = value < 0 ? 0 : value > MOST_VALUE ? MOST_VALUE : value;
			semaphore->last = p->pid;
		}
		set->operated = ipc_seconds();
		wake_all(&set->queue);
		undo_free(undo);
	}
}

/* -- semctl -- */

struct semid_ds {
	struct ipc_perm perm;
	s64 operated;
	u64 unused1;
	s64 changed;
	u64 unused2, count, unused[2];
};

_Static_assert(sizeof(struct semid_ds) == 104, "as the kernel has it");

static s64 put_info(struct task *t, u64 to, bool usage)
{
	const s32 all = (s32)sysctl(SYSCTL_SEMMNS), most = (s32)sysctl(SYSCTL_SEMOPM);
	s32 info[10] = { all, (s32)sysctl(SYSCTL_SEMMNI), all, all, (s32)sysctl(SYSCTL_SEMMSL), most, most, 20, MOST_VALUE, MOST_VALUE };

	if (usage) {
		info[7] = (s32)ipc_own()->sem.count;
		info[9] = (s32)ipc_own()->semaphores;
	}
	return user_write(t->mm, to, info, sizeof(info)) ? -EFAULT : ipc_highest(&ipc_own()->sem);
}

static s64 put_state(struct task *t, const struct set *set, u64 to, bool by_index)
{
	const struct semid_ds state = {
		.perm = ipc_perm_of(&set->ipc), .operated = set->operated, .changed = set->changed, .count = set->count,
	};
	s64 id = set->ipc.id;

	if (user_write(t->mm, to, &state, sizeof(state)))
		return -EFAULT;
	return by_index ? id : 0;
}

static s64 change(struct task *t, s32 id, u32 command, u64 from)
{
	struct semid_ds new = { .count = 0 };
	struct set *set;
	s64 error;

	if (command == IPC_SET && user_read(t->mm, &new, from, sizeof(new)))
		return -EFAULT;
	set = set_of(ipc_find(&ipc_own()->sem, id)); /* after the read, which can sleep */
	if (!set)
		return -EINVAL;
	if (!ipc_owned(&set->ipc))
		return -EPERM;
	if (command == IPC_RMID) {
		destroy(set);
		return 0;
	}
	error = ipc_set(&set->ipc, &new.perm);
	if (!error)
		set->changed = ipc_seconds();
	return error;
}

static void forget_undos(struct set *set, u32 first, u32 count)
{
	LIST_EACH(at, &set->undos)
		for (u32 i = first; i < first + count; i++)
			CONTAINER(at, struct undo, of_set)->change[i] = 0;
}

static s64 set_one(struct task *t, struct set *set, u32 number, s32 value)
{
	if (value < 0 || value > MOST_VALUE)
		return -ERANGE;
	if (!set || number >= set->count)
		return -EINVAL;
	if (!ipc_allowed(&set->ipc, MAY_WRITE_ALL))
		return -EACCES;
	forget_undos(set, number, 1);
	set->semaphores[number] = (struct semaphore){ value, t->process->pid };
	set->changed = ipc_seconds();
	wake_all(&set->queue);
	return 0;
}

static s64 move_all(struct task *t, struct set *set, u64 address, bool to_user)
{
	u16 *values = kmalloc(set->count * sizeof(u16));
	u64 size = set->count * sizeof(u16);
	s64 error = 0;

	if (!values)
		return -ENOMEM;
	reference_get(&set->references);
	for (u32 i = 0; i < set->count; i++)
		values[i] = (u16)set->semaphores[i].value;
	if (to_user ? user_write(t->mm, address, values, size) : user_read(t->mm, values, address, size))
		error = -EFAULT;
	for (u32 i = 0; !error && i < set->count; i++)
		error = values[i] > MOST_VALUE ? -ERANGE : 0;
	if (!error && set->gone)
		error = -EIDRM;
	if (!error && !to_user) {
		for (u32 i = 0; i < set->count; i++)
			set->semaphores[i] = (struct semaphore){ values[i], t->process->pid };
		forget_undos(set, 0, set->count);
		set->changed = ipc_seconds();
		wake_all(&set->queue);
	}
	kfree(values);
	set_put(set);
	return error;
}

static s64 sleepers(const struct set *set, u32 number, bool for_zero)
{
	s64 count = 0;

	LIST_EACH(at, &set->waiting) {
		const struct sleeper *sleeper = CONTAINER(at, struct sleeper, list);

		count += sleeper->number == number && sleeper->for_zero == for_zero;
	}
	return count;
}

static s64 values(struct task *t, struct set *set, u32 number, u32 command, u64 argument)
{
	if (!set)
		return -EINVAL;
	if (!ipc_allowed(&set->ipc, command == SETALL ? MAY_WRITE_ALL : MAY_READ_ALL))
		return -EACCES;
	if (command == GETALL || command == SETALL)
		return move_all(t, set, argument, command == GETALL);
	if (number >= set->count)
		return -EINVAL;
	switch (command) {
	case GETVAL: return set->semaphores[number].value;
	case GETPID: return set->semaphores[number].last;
	}
	return sleepers(set, number, command == GETZCNT);
}

s64 sys_semctl(struct task *t, const u64 *args)
{
	s32 id = (s32)args[0];
	u32 command = (u32)args[2], number = (u32)args[1];
	bool by_index = command == SEM_STAT || command == SEM_STAT_ANY;
	struct set *set = set_of(ipc_of_stat(&ipc_own()->sem, id, by_index));

	if (id < 0)
		return -EINVAL;
	switch (command) {
	case IPC_INFO:
	case SEM_INFO:
		return put_info(t, args[3], command == SEM_INFO);
	case IPC_STAT:
	case SEM_STAT:
	case SEM_STAT_ANY:
		if (!set)
			return -EINVAL;
		if (command != SEM_STAT_ANY && !ipc_allowed(&set->ipc, MAY_READ_ALL))
			return -EACCES;
		return put_state(t, set, args[3], by_index);
	case IPC_SET:
	case IPC_RMID:
		return change(t, id, command, args[3]);
	case SETVAL:
		return set_one(t, set, number, (s32)args[3]);
	case GETVAL: case GETPID: case GETNCNT: case GETZCNT: case GETALL: case SETALL:
		return values(t, set, number, command, args[3]);
	}
	return -EINVAL;
}
