// SPDX-License-Identifier: Apache-2.0
/* Numbers of processes, groups and sessions. */
#include "core.h"

s64 sys_getpid(struct task *t, const u64 *args)
{
	(void)args;
	return t->process->pid;
}

s64 sys_gettid(struct task *t, const u64 *args)
{
	(void)args;
	return t->tid;
}

s32 parent_pid(const struct process *p)
{
	return p->parent && p->parent->pids == p->pids ? p->parent->pid : 0;
}

s64 sys_getppid(struct task *t, const u64 *args)
{
	(void)args;
	return parent_pid(t->process);
}

/* The process of a task's number; 0: the caller's. */
static struct process *find(struct task *t, u64 number)
{
	struct task *other = task_named(t, (s32)number);

	return other ? other->process : process_find(t->process->pids, (s32)number);
}

s64 sys_getpgid(struct task *t, const u64 *args)
{
	struct process *p = find(t, args[0]);

	return p ? p->group : -ESRCH;
}

s64 sys_getpgrp(struct task *t, const u64 *args)
{
	(void)args;
	return t->process->group;
}

s64 sys_getsid(struct task *t, const u64 *args)
{
	struct process *p = find(t, args[0]);

	return p ? p->session : -ESRCH;
}

/* Whether a group has a process in the session of another. */
static bool group_in_session(s32 group, const struct process *like)
{
	EACH_PROCESS(p)
		if (p->group == group && same_session(p, like))
			return true;
	return false;
}

s64 sys_setpgid(struct task *t, const u64 *args)
{
	s32 pid = (s32)args[0] ? (s32)args[0] : t->process->pid, group = (s32)args[1] ? (s32)args[1] : pid;
	struct process *p;

	if (group < 0)
		return -EINVAL;
	p = process_find(t->process->pids, pid);
	if (!p || (p != t->process && p->parent != t->process))
		return -ESRCH;
	if (!same_session(p, t->process))
		return -EPERM;
	if (p != t->process && p->has_executed)
		return -EACCES;
	if (p->session == p->pid || (group != pid && !group_in_session(group, t->process)))
		return -EPERM;
	p->group = group;
	return 0;
}

s64 sys_setsid(struct task *t, const u64 *args)
{
	struct process *me = t->process;

	(void)args;
	EACH_PROCESS(p)
		if (process_in_group(p, me->pids, me->pid))
			return -EPERM;
	me->group = me->session = me->pid;
	process_leave_terminal(me);
	return me->pid;
}
