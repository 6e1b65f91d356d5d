// SPDX-License-Identifier: Apache-2.0
/* Futexes: tasks that wait for a word of memory to change, and locks that survive their owner. */
#include "clock.h"

enum { BUCKETS = 256 };
enum {
	FUTEX_WAIT, FUTEX_WAKE, FUTEX_REQUEUE = 3, FUTEX_CMP_REQUEUE, FUTEX_WAKE_OP, FUTEX_WAIT_BITSET = 9, FUTEX_WAKE_BITSET,
	FUTEX_PRIVATE = 128, FUTEX_REALTIME = 256,
};
#define FUTEX_WAITERS 0x80000000u
#define FUTEX_OWNER_DIED 0x40000000u
#define FUTEX_TID_MASK 0x3fffffffu
#define ANY 0xffffffffu

/* Where a word is: in an address space, or in a page that several have. */
struct key {
	struct mm *mm; /* NULL: at is in RAM */
	u64 at;
};

struct sleeper {
	struct list list;
	struct key key;
	struct task *task;
	u32 bits;
	bool woken;
};

static struct list buckets[BUCKETS];

void futex_init(void)
{
	for (u32 i = 0; i < BUCKETS; i++)
		list_init(&buckets[i]);
}

static struct list *bucket_of(const struct key *key)
{
	return &buckets[((key->at >> 2) ^ (u64)key->mm >> 6) % BUCKETS];
}

/* The key and the word there; 0 or -errno. */
static s64 look(struct task *t, u64 address, bool private, struct key *key, u32 *value)
{
	struct vma *vma;
	u8 *page;

	if (address % sizeof(u32))
		return -EINVAL;
	if (!user_range(address, sizeof(u32)))
		return -EFAULT;
	page = mm_page(t->mm, address, false);
	vma = page ? mm_vma(t->mm, address) : NULL;
	if (!vma)
		return -EFAULT;
	*value = *(volatile u32 *)page;
	*key = (struct key){ t->mm, address };
	if (!private && vma->flags & VMA_SHARED)
		*key = (struct key){ NULL, page_offset(page) };
	return 0;
}

static u32 wake(const struct key *key, u32 most, u32 bits)
{
	struct list *bucket = bucket_of(key);
	u32 count = 0;

	LIST_EACH_SAFE(at, next, bucket) {
		struct sleeper *s = CONTAINER(at, struct sleeper, list);

		if (count >= most)
			break;
		if (s->key.mm != key->mm || s->key.at != key->at || !(s->bits & bits))
			continue;
		list_remove(&s->list);
		s->woken = true;
		task_wake(s->task);
		count++;
	}
	return count;
}

static u32 move(const struct key *from, const struct key *to, u32 most)
{
	struct list *bucket = bucket_of(from);
	u32 count = 0;

	LIST_EACH_SAFE(at, next, bucket) {
		struct sleeper *s = CONTAINER(at, struct sleeper, list);

		if (count >= most)
			break;
		if (s->key.mm != from->mm || s->key.at != from->at)
			continue;
		list_remove(&s->list);
		s->key = *to;
		list_add(bucket_of(to), &s->list);
		count++;
	}
	return count;
}

struct wait {
	u64 address, deadline;
	u32 value, bits;
	bool private;
};

static s64 wait(struct task *t, const struct wait *w);

static s64 restart_wait(struct task *t)
{
	const u64 *args = t->restart_args;
	const struct wait w = { args[0], args[1], (u32)args[2], (u32)args[3], args[4] };

	return wait(t, &w);
}

static s64 wait(struct task *t, const struct wait *w)
{
	struct sleeper s = { .task = t, .bits = w->bits };
	u32 value;
	s64 error;

	if (!w->bits)
		return -EINVAL;
	error = look(t, w->address, w->private, &s.key, &value);
	if (error)
		return error;
	if (value != w->value)
		return -EAGAIN;
	list_add(bucket_of(&s.key), &s.list);
	t->woken = false;
	do
		error = task_sleep(w->deadline);
	while (!error && !s.woken);
	if (s.woken)
		return 0;
	list_remove(&s.list);
	if (error != -ERESTARTSYS || w->deadline == FOREVER)
		return error;
	t->restart = restart_wait;
	const u64 args[6] = { w->address, w->deadline, w->value, w->bits, w->private };
	bytes_copy(t->restart_args, args, sizeof(args));
	return -ERESTART_RESTARTBLOCK;
}

static s64 wait_call(struct task *t, const u64 *args, u32 operation, bool private)
{
	bool absolute = operation == FUTEX_WAIT_BITSET;
	struct wait w = {
		.address = args[0], .value = (u32)args[2], .bits = absolute ? (u32)args[5] : ANY, .deadline = FOREVER,
		.private = private,
	};
	struct timespec time;

	if (args[3]) {
		if (user_read(t->mm, &time, args[3], sizeof(time)))
			return -EFAULT;
		if (time_deadline(&time, &w.deadline))
			return -EINVAL;
		if (absolute && w.deadline != FOREVER) {
			w.deadline = timespec_nanoseconds(&time);
			if ((u32)args[1] & FUTEX_REALTIME)
				w.deadline = realtime_deadline(w.deadline);
		}
	}
	return wait(t, &w);
}

/* Change a word as the program wants, and whether its old value compares as it wants. */
static s64 change(struct task *t, u64 address, u32 code)
{
	u32 operation = code >> 28 & 7, compare = code >> 24 & 15, old, new;
	s32 argument = (s32)(code << 8) >> 20, with = (s32)(code << 20) >> 20;
	u32 *word = mm_page(t->mm, address, true);

	if (!word)
		return -EFAULT;
	if (code >> 31)
		argument = (s32)(1u << (argument & 31));
	old = __atomic_load_n(word, __ATOMIC_RELAXED);
	do {
		switch (operation) {
		case 0: new = (u32)argument; break;
		case 1: new = old + (u32)argument; break;
		case 2: new = old | (u32)argument; break;
		case 3: new = old & ~(u32)argument; break;
		case 4: new = old ^ (u32)argument; break;
		default: return -ENOSYS;
		}
	} while (!__atomic_compare_exchange_n(word, &old, new, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED));
	switch (compare) {
	case 0: return (s32)old == with;
	case 1: return (s32)old != with;
	case 2: return (s32)old < with;
	case 3: return (s32)old <= with;
	case 4: return (s32)old > with;
	case 5: return (s32)old >= with;
	}
	return -ENOSYS;
}

static s64 with_two(struct task *t, const u64 *args, u32 operation, bool private)
{
	struct key one, two;
	u32 value, other;
	s64 result = look(t, args[0], private, &one, &value);

	if (!result)
		result = look(t, args[4], private, &two, &other);
	if (result)
		return result;
	if (operation == FUTEX_WAKE_OP) {
		result = change(t, args[4], (u32)args[5]);
		if (result < 0)
			return result;
		return wake(&one, (u32)args[2], ANY) + (result ? wake(&two, (u32)args[3], ANY) : 0);
	}
	if ((s32)args[2] < 0 || (s32)args[3] < 0)
		return -EINVAL;
	if (operation == FUTEX_CMP_REQUEUE && value != (u32)args[5])
		return -EAGAIN;
	value = wake(&one, (u32)args[2], ANY);
	other = move(&one, &two, (u32)args[3]);
	return value + other;
}

s64 sys_futex(struct task *t, const u64 *args)
{
	u32 operation = (u32)args[1] & ~(u32)(FUTEX_PRIVATE | FUTEX_REALTIME), value;
	bool private = (u32)args[1] & FUTEX_PRIVATE;
	struct key key;
	s64 error;

	if ((u32)args[1] & FUTEX_REALTIME && operation != FUTEX_WAIT_BITSET)
		return -ENOSYS;
	switch (operation) {
	case FUTEX_WAIT:
	case FUTEX_WAIT_BITSET:
		return wait_call(t, args, operation, private);
	case FUTEX_WAKE:
	case FUTEX_WAKE_BITSET:
		if (operation == FUTEX_WAKE_BITSET && !(u32)args[5])
			return -EINVAL;
		if (private) { /* the address need not be mapped */
			key = (struct key){ t->mm, args[0] };
			error = args[0] % sizeof(u32) ? -EINVAL : user_range(args[0], sizeof(u32)) ? 0 : -EFAULT;
		} else {
			error = look(t, args[0], private, &key, &value);
		}
		if (error)
			return error;
		value = (s32)args[2] < 1 ? 1 : (u32)args[2];
		return wake(&key, value, operation == FUTEX_WAKE ? ANY : (u32)args[5]);
	case FUTEX_REQUEUE:
	case FUTEX_CMP_REQUEUE:
	case FUTEX_WAKE_OP:
		return with_two(t, args, operation, private);
	}
	return -ENOSYS;
}

void futex_wake_address(struct task *t, u64 address)
{
	struct key key;
	u32 value;

	if (!look(t, address, false, &key, &value))
		wake(&key, 1, ANY);
}

/* -- robust locks -- */

static void owner_died(struct task *t, u64 address, bool pending)
{
	u32 *word = address % sizeof(*word) || !user_range(address, sizeof(*word)) ? NULL : mm_page(t->mm, address, true), value;

	if (!word)
		return;
	value = __atomic_load_n(word, __ATOMIC_RELAXED);
	if ((value & FUTEX_TID_MASK) == (u32)t->tid) {
		while (!__atomic_compare_exchange_n(word, &value, (value & FUTEX_WAITERS) | FUTEX_OWNER_DIED, false, __ATOMIC_SEQ_CST,
						    __ATOMIC_RELAXED))
			if ((value & FUTEX_TID_MASK) != (u32)t->tid)
				return;
		if (value & FUTEX_WAITERS)
			futex_wake_address(t, address);
	} else if (pending && !value) {
		futex_wake_address(t, address);
	}
}

void futex_exit(struct task *t)
{
	enum { MOST = 2048 };
	u64 head[3], entry;

	if (!t->robust_list || user_read(t->mm, head, t->robust_list, sizeof(head)))
		return;
	entry = head[0];
	for (u32 i = 0; i < MOST && (entry & ~1ull) != t->robust_list; i++) {
		u64 at = entry & ~1ull;
		bool is_bad = user_read(t->mm, &entry, at, sizeof(entry));

		if (at != (head[2] & ~1ull))
			owner_died(t, at + head[1], false);
		if (is_bad)
			break;
	}
	if (head[2])
		owner_died(t, (head[2] & ~1ull) + head[1], true);
}

s64 sys_set_robust_list(struct task *t, const u64 *args)
{
	if (args[1] != 24)
		return -EINVAL;
	t->robust_list = args[0];
	return 0;
}

s64 sys_get_robust_list(struct task *t, const u64 *args)
{
	struct task *other = task_named(t, (s32)args[0]);
	const u64 size = 24, list = other ? other->robust_list : 0;

	if (!other)
		return -ESRCH;
	if (!may_inspect(t, other, false))
		return -EPERM;
	if (user_write(t->mm, args[2], &size, sizeof(size)))
		return -EFAULT;
	return user_write(t->mm, args[1], &list, sizeof(list));
}
