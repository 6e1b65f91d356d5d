// SPDX-License-Identifier: Apache-2.0
/* System calls for signals. */
#include "core.h"

s64 sys_rt_sigaction(struct task *t, const u64 *args)
{
	struct sigaction new, old;
	s32 signal = (s32)args[0];

	if (args[3] != sizeof(t->blocked))
		return -EINVAL;
	if (args[1] && user_read(t->mm, &new, args[1], sizeof(new)))
		return -EFAULT;
	if (signal < 1 || signal > SIGNALS || (args[1] && SIGNAL_BIT(signal) & UNBLOCKABLE))
		return -EINVAL;
	old = t->sighand->actions[signal - 1];
	if (args[1]) {
		new.mask &= ~UNBLOCKABLE;
		new.flags &= SA_KNOWN; /* so that programs can detect what there is */
		t->sighand->actions[signal - 1] = new;
		if (signal_is_ignored(t, signal)) {
			signals_flush(&t->process->pending, SIGNAL_BIT(signal));
			EACH_TASK(other, t->process)
				signals_flush(&other->pending, SIGNAL_BIT(signal));
		}
	}
	return args[2] ? user_write(t->mm, args[2], &old, sizeof(old)) : 0;
}

s64 sys_rt_sigprocmask(struct task *t, const u64 *args)
{
	u64 set, old = t->blocked;

	if (args[3] != sizeof(set))
		return -EINVAL;
	if (args[1]) {
		if (user_read(t->mm, &set, args[1], sizeof(set)))
			return -EFAULT;
		set &= ~UNBLOCKABLE;
		switch ((s32)args[0]) {
		case 0: t->blocked |= set; break;
		case 1: t->blocked &= ~set; break;
		case 2: t->blocked = set; break;
		default: return -EINVAL;
		}
	}
	return args[2] ? user_write(t->mm, args[2], &old, sizeof(old)) : 0;
}

s64 sys_rt_sigpending(struct task *t, const u64 *args)
{
	u64 set = (t->pending.set | t->process->pending.set) & t->blocked;

	if (args[1] > sizeof(set))
		return -EINVAL;
	return user_write(t->mm, args[0], &set, args[1]);
}

s64 sys_rt_sigreturn(struct task *t, const u64 *args)
{
	u64 blocked;

	(void)args;
	t->number = NO_CALL; /* what RAX has is the program's */
	if (frame_pop(t, &blocked)) {
		signal_force(t, SIGSEGV, SI_KERNEL, 0);
		return 0;
	}
	t->blocked = blocked & ~UNBLOCKABLE;
	return (s64)t->regs.rax;
}

s64 sys_rt_sigsuspend(struct task *t, const u64 *args)
{
	u64 set;

	if (args[1] != sizeof(set))
		return -EINVAL;
	if (user_read(t->mm, &set, args[0], sizeof(set)))
		return -EFAULT;
	t->saved_blocked = t->blocked;
	t->blocked = set & ~UNBLOCKABLE;
	t->restore_blocked = true;
	while (task_sleep(FOREVER) != -ERESTARTSYS)
		;
	return -ERESTARTNOHAND;
}

s64 sys_pause(struct task *t, const u64 *args)
{
	(void)t, (void)args;
	while (task_sleep(FOREVER) != -ERESTARTSYS)
		;
	return -ERESTARTNOHAND;
}

static s64 put_info(struct task *t, u64 to, const struct siginfo *info)
{
	u64 whole[16] = { 0 };

	bytes_copy(whole, info, sizeof(*info));
	return user_write(t->mm, to, whole, sizeof(whole));
}

s64 sys_rt_sigtimedwait(struct task *t, const u64 *args)
{
	struct timespec time;
	struct siginfo info;
	u64 set, deadline = FOREVER, blocked = t->blocked;
	s64 error = 0;
	int signal;

	if (args[3] != sizeof(set))
		return -EINVAL;
	if (user_read(t->mm, &set, args[0], sizeof(set)) || (args[2] && user_read(t->mm, &time, args[2], sizeof(time))))
		return -EFAULT;
	if (args[2] && time_deadline(&time, &deadline))
		return -EINVAL;
	set &= ~UNBLOCKABLE;
	signal = signal_take(t, set, &info);
	t->blocked &= ~set; /* so that they interrupt the sleep */
	t->awaited = blocked & set;
	while (!signal && !error) {
		error = task_sleep(deadline);
		signal = signal_take(t, set, &info);
	}
	t->blocked = blocked;
	t->awaited = 0;
	if (!signal)
		return error == -ETIMEDOUT ? -EAGAIN : -EINTR;
	return args[1] && put_info(t, args[1], &info) ? -EFAULT : signal;
}

static s64 put_altstack(struct task *t, u64 to, struct sigaltstack stack, bool is_on)
{
	stack.flags = stack.size ? (s32)((u32)stack.flags | is_on) : SS_DISABLE;
	stack.pad = 0;
	return to ? user_write(t->mm, to, &stack, sizeof(stack)) : 0;
}

s64 sys_sigaltstack(struct task *t, const u64 *args)
{
	struct sigaltstack new, old = t->altstack;
	bool is_on;
	u32 mode;

	task_flush(t);
	is_on = is_on_altstack(t);
	if (args[0]) {
		if (user_read(t->mm, &new, args[0], sizeof(new)))
			return -EFAULT;
		mode = (u32)new.flags & ~SS_AUTODISARM;
		if (is_on)
			return -EPERM;
		if (mode != SS_DISABLE && mode != SS_ONSTACK && mode)
			return -EINVAL;
		new.pad = new.flags;
		if (new.stack == old.stack && new.size == old.size && new.pad == old.pad)
			return put_altstack(t, args[1], old, is_on); /* not even the size is checked */
		if (mode == SS_DISABLE)
			new.stack = new.size = 0;
		else if (new.size < MINSIGSTKSZ)
			return -ENOMEM;
		new.flags = (s32)((u32)new.flags & SS_AUTODISARM);
		t->altstack = new;
	}
	return put_altstack(t, args[1], old, is_on);
}

/* -- sending -- */

s64 signal_some(struct task *t, s32 pid, s32 group, const struct siginfo *info)
{
	s64 error = -ESRCH;

	if (info->signal < 0 || info->signal > SIGNALS)
		return -EINVAL;
	EACH_PROCESS(p) {
		if (p->pids != t->process->pids)
			continue;
		if (pid ? p->pid != pid : group ? p->group != group : p->pid == PID || p == t->process)
			continue;
		if (!may_signal(t, p, info->signal)) {
			error = error && (pid || group) ? -EPERM : 0;
			continue;
		}
		error = 0;
		if (info->signal)
			signal_send_process(p, info);
	}
	return error;
}

s64 sys_kill(struct task *t, const u64 *args)
{
	const struct siginfo info = siginfo_user((s32)args[1], SI_USER);
	s32 pid = (s32)args[0];

	if (pid == -2147483647 - 1)
		return info.signal < 0 || info.signal > SIGNALS ? -EINVAL : -ESRCH;
	return signal_some(t, pid > 0 ? pid : 0, pid == -1 ? 0 : pid ? -pid : t->process->group, &info);
}

static s64 send_task(s32 process, s32 tid, s32 signal)
{
	const struct siginfo info = siginfo_user(signal, SI_TKILL);
	struct task *to = task_find(core.current->process->pids, tid);

	if (!to || (process && to->process->pid != process))
		return -ESRCH;
	if (signal < 0 || signal > SIGNALS)
		return -EINVAL;
	if (!may_signal(core.current, to->process, signal))
		return -EPERM;
	if (signal)
		signal_send_task(to, &info);
	return 0;
}

s64 sys_tkill(struct task *t, const u64 *args)
{
	(void)t;
	return (s32)args[0] <= 0 ? -EINVAL : send_task(0, (s32)args[0], (s32)args[1]);
}

s64 sys_tgkill(struct task *t, const u64 *args)
{
	(void)t;
	if ((s32)args[0] <= 0 || (s32)args[1] <= 0)
		return -EINVAL;
	return send_task((s32)args[0], (s32)args[1], (s32)args[2]);
}

/* For a process, or for one of its tasks: tid 0 is none. */
static s64 queue_info(struct task *t, s32 pid, s32 tid, s32 signal, u64 from)
{
	struct siginfo info;
	struct process *p;
	struct task *to;

	if (user_read(t->mm, &info, from, sizeof(info)))
		return -EFAULT;
	to = tid ? task_named(t, tid) : NULL; /* after the read, which can sleep */
	p = !tid ? process_find(t->process->pids, pid) : to ? to->process : NULL;
	if (!p || p->pid != pid)
		return -ESRCH;
	if (signal < 0 || signal > SIGNALS)
		return -EINVAL;
	if ((info.code >= 0 || info.code == SI_TKILL) && p != t->process)
		return -EPERM;
	if (!may_signal(t, p, signal))
		return -EPERM;
	info.signal = signal;
	info.pad = 0;
	if (signal && to)
		signal_send_task(to, &info);
	else if (signal)
		signal_send_process(p, &info);
	return 0;
}

s64 sys_rt_sigqueueinfo(struct task *t, const u64 *args)
{
	return queue_info(t, (s32)args[0], 0, (s32)args[1], args[2]);
}

s64 sys_rt_tgsigqueueinfo(struct task *t, const u64 *args)
{
	if ((s32)args[0] <= 0 || (s32)args[1] <= 0)
		return -EINVAL;
	return queue_info(t, (s32)args[0], (s32)args[1], (s32)args[2], args[3]);
}
