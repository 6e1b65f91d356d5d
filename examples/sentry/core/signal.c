// SPDX-License-Identifier: Apache-2.0
/* Signals that a program sends to itself, or has deserved. Handlers are noted, but not called yet. */
#include "core.h"

#define BIT(signal) (1ull << ((signal) - 1))
#define IGNORED (BIT(SIGCHLD) | BIT(SIGCONT) | BIT(SIGURG) | BIT(SIGWINCH))
#define STOPPED (BIT(SIGSTOP) | BIT(SIGTSTP) | BIT(SIGTTIN) | BIT(SIGTTOU)) /* nobody could continue it */
#define UNBLOCKABLE (BIT(SIGKILL) | BIT(SIGSTOP))

static void end(struct task *t, int signal)
{
	if (t->sighand->actions[signal - 1].handler > SIG_IGN)
		log_text("a signal ends the program although it has a handler: those are not called yet\n");
	t->process->ended = true;
	t->process->exit = (struct core_exit){ .signal = signal };
}

/* Nobody else sends signals yet. */
bool signal_interrupts(struct task *t, bool killable)
{
	(void)t, (void)killable;
	return false;
}

void signal_force(struct task *t, int signal)
{
	end(t, signal);
}

void signal_raise(struct task *t, int signal)
{
	u64 handler = t->sighand->actions[signal - 1].handler, bit = BIT(signal);

	if (t->blocked & bit)
		t->pending |= bit;
	else if (handler != SIG_IGN && (handler != SIG_DFL || !(bit & (IGNORED | STOPPED))))
		end(t, signal);
}

s64 sys_rt_sigaction(struct task *t, const u64 *args)
{
	struct sigaction new, old;
	s32 signal = (s32)args[0];

	if (args[3] != sizeof(t->blocked))
		return -EINVAL;
	if (args[1] && user_read(t->mm, &new, args[1], sizeof(new)))
		return -EFAULT;
	if (signal < 1 || signal > SIGNALS || (args[1] && BIT(signal) & UNBLOCKABLE))
		return -EINVAL;
	old = t->sighand->actions[signal - 1];
	if (args[1]) {
		new.mask &= ~UNBLOCKABLE;
		t->sighand->actions[signal - 1] = new;
	}
	return args[2] ? user_write(t->mm, args[2], &old, sizeof(old)) : 0;
}

s64 sys_rt_sigprocmask(struct task *t, const u64 *args)
{
	u64 set, old = t->blocked, ready;

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
	ready = t->pending & ~t->blocked;
	t->pending &= t->blocked;
	for (int signal = 1; signal <= SIGNALS && !t->process->ended; signal++)
		if (ready & BIT(signal))
			signal_raise(t, signal);
	return args[2] ? user_write(t->mm, args[2], &old, sizeof(old)) : 0;
}

s64 sys_sigaltstack(struct task *t, const u64 *args)
{
	enum { ON_STACK = 1, DISABLE = 2, LEAST = 2048 };
	const u32 autodisarm = 1u << 31;
	struct sigaltstack new, old = t->altstack;
	u32 mode;

	if (args[0]) {
		if (user_read(t->mm, &new, args[0], sizeof(new)))
			return -EFAULT;
		mode = (u32)new.flags & ~autodisarm;
		if (mode != DISABLE && mode != ON_STACK && mode)
			return -EINVAL;
		if (mode == DISABLE)
			new.stack = new.size = 0;
		else if (new.size < LEAST)
			return -ENOMEM;
		new.pad = 0;
		t->altstack = new;
	}
	if (!old.size)
		old.flags = DISABLE;
	return args[1] ? user_write(t->mm, args[1], &old, sizeof(old)) : 0;
}

static s64 send(struct task *t, s32 signal)
{
	if (signal < 0 || signal > SIGNALS)
		return -EINVAL;
	if (signal)
		signal_raise(t, signal);
	return 0;
}

s64 sys_kill(struct task *t, const u64 *args)
{
	s32 pid = (s32)args[0];

	if (pid != PID && pid != 0 && pid != -PID)
		return (u32)args[1] > SIGNALS ? -EINVAL : -ESRCH;
	return send(t, (s32)args[1]);
}

s64 sys_tkill(struct task *t, const u64 *args)
{
	if ((s32)args[0] <= 0)
		return -EINVAL;
	return (s32)args[0] == PID ? send(t, (s32)args[1]) : -ESRCH;
}

s64 sys_tgkill(struct task *t, const u64 *args)
{
	if ((s32)args[0] <= 0 || (s32)args[1] <= 0)
		return -EINVAL;
	return (s32)args[0] == PID && (s32)args[1] == PID ? send(t, (s32)args[2]) : -ESRCH;
}
