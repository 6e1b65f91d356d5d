// SPDX-License-Identifier: Apache-2.0
/* The tables of tasks and processes, and their numbers. */
#include "ptrace.h"
#include "control/container.h"
#include "space.h"
#include "vfs/pidfd.h"

enum { BUCKETS = 256, LAST_TID = 4194303, RESERVED = 300 };

static struct {
	struct list by_tid[BUCKETS], processes;
} tasks;

void tasks_init(void)
{
	for (u32 i = 0; i < BUCKETS; i++)
		list_init(&tasks.by_tid[i]);
	list_init(&tasks.processes);
}

struct list *all_processes(void)
{
	return &tasks.processes;
}

struct task *task_find(u32 pids, s32 tid)
{
	struct list *bucket = &tasks.by_tid[(u32)tid % BUCKETS];

	LIST_EACH(at, bucket) {
		struct task *t = CONTAINER(at, struct task, by_tid);

		if (t->tid == tid && t->process->pids == pids)
			return t;
	}
	return NULL;
}

struct task *task_named(struct task *t, s32 tid)
{
	return tid ? task_find(t->process->pids, tid) : t;
}

struct process *process_find(u32 pids, s32 pid)
{
	EACH_PROCESS(p)
		if (p->pid == pid && p->pids == pids)
			return p;
	return NULL;
}

bool process_in_group(const struct process *p, u32 pids, s32 group)
{
	return p->group == group && p->pids == pids;
}

bool same_session(const struct process *a, const struct process *b)
{
	return a->session == b->session && a->pids == b->pids;
}

static bool is_used(u32 pids, s32 number)
{
	if (task_find(pids, number) || tracees_have(pids, number))
		return true;
	EACH_PROCESS(p)
		if (p->pids == pids && (p->pid == number || p->group == number || p->session == number))
			return true;
	return false;
}

s32 tid_new(struct space *pids)
{
	s32 *last = &pids->pids.last;

	do
		*last = *last < LAST_TID ? *last + 1 : RESERVED;
	while (is_used(pids->number, *last));
	return *last;
}

void task_add(struct task *t, s32 tid)
{
	t->tid = tid;
	list_add(&tasks.by_tid[(u32)tid % BUCKETS], &t->by_tid);
	list_add(&t->process->tasks, &t->siblings);
	t->process->task_count++;
}

void task_remove(struct task *t)
{
	list_remove(&t->by_tid);
	list_remove(&t->siblings);
	t->process->task_count--;
}

void process_adopt(struct process *parent, struct process *child)
{
	if (child->parent)
		list_remove(&child->siblings);
	child->parent = parent;
	if (parent)
		list_add(&parent->children, &child->siblings);
}

struct process *process_new(struct process *parent, const struct process *like, s32 pid)
{
	struct process *p = kmalloc(sizeof(*p));

	if (!p)
		return NULL;
	p->pid = p->group = p->session = pid;
	list_init(&p->children);
	list_init(&p->siblings);
	list_init(&p->tasks);
	list_init(&p->cpu_timers);
	list_init(&p->posix_timers);
	list_init(&p->semaphore_undos);
	list_add(&tasks.processes, &p->all);
	p->started = monotonic_now();
	process_adopt(parent, p);
	if (!like)
		return p;
	if (like->container)
		container_join(like->container, p);
	p->group = like->group;
	p->session = like->session;
	p->oom_adjustment = like->oom_adjustment;
	process_share_terminal(p, like);
	bytes_copy(p->limits, like->limits, sizeof(p->limits));
	return p;
}

void process_free(struct process *p)
{
	timer_stop(&p->alarm);
	process_ref_gone(p);
	if (p->container)
		container_leave(p);
	signals_flush(&p->pending, ~0ull);
	list_remove(&p->all);
	list_remove(&p->siblings);
	kfree(p);
}
