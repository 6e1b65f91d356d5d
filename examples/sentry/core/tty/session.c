// SPDX-License-Identifier: Apache-2.0
/* The controlling terminal of a session, and job control: which of its processes may use it. */
#include "tty.h"

enum { TIOCSCTTY = 0x540e, TIOCGPGRP, TIOCNOTTY = 0x5422, TIOCGSID = 0x5429 };

static struct process *caller(void)
{
	return core.current->process;
}

static bool is_leader(const struct process *p)
{
	return p->session == p->pid;
}

/* NULL: none. The process gives up its old terminal, if it has one. */
static void set_terminal(struct process *p, struct tty *tty)
{
	struct tty *old = p->terminal;

	if (tty)
		tty_get(tty);
	p->terminal = tty;
	tty_put(old);
}

void process_leave_terminal(struct process *p)
{
	set_terminal(p, NULL);
}

void process_share_terminal(struct process *p, const struct process *like)
{
	set_terminal(p, like->terminal);
}

static void session_leave(u32 pids, s32 session)
{
	EACH_PROCESS(p)
		if (p->session == session && p->pids == pids)
			set_terminal(p, NULL);
}

struct tty *tty_of_caller(void)
{
	return caller()->terminal;
}

static void acquire(struct tty *tty)
{
	struct process *p = caller();

	tty->pids = p->pids;
	tty->session = p->session;
	tty->group = p->group;
	p->old_foreground = 0;
	set_terminal(p, tty);
}

void tty_acquire(struct tty *tty, struct file *file)
{
	const struct process *p = core.current ? caller() : NULL;

	if (p && !(file->flags & O_NOCTTY) && is_leader(p) && !p->terminal && !tty->session && file->readable)
		acquire(tty);
}

/* -- job control -- */

void tty_signal_group(struct tty *tty, int signal)
{
	if (tty->group)
		signal_group(tty->pids, tty->group, signal);
}

static bool caller_ignores(int signal)
{
	struct task *t = core.current;

	return t->blocked & SIGNAL_BIT(signal) || t->sighand->actions[signal - 1].handler == SIG_IGN;
}

s64 tty_check(struct tty *tty, int signal)
{
	const struct process *p = caller();

	if (p->terminal != tty || !tty->group || p->group == tty->group)
		return 0;
	if (caller_ignores(signal))
		return signal == SIGTTIN ? -EIO : 0;
	if (group_is_orphaned(p->pids, p->group, NULL))
		return -EIO;
	signal_group(p->pids, p->group, signal);
	return -ERESTARTSYS;
}

/* -- the end -- */

void session_hangup(struct tty *tty)
{
	s32 session = tty->session, group = tty->group;

	tty_get(tty);
	EACH_PROCESS(p) {
		if (!session || p->session != session || p->pids != tty->pids)
			continue;
		if (p->terminal == tty)
			set_terminal(p, NULL);
		if (!is_leader(p))
			continue;
		signal_process(p, SIGHUP);
		signal_process(p, SIGCONT);
		p->old_foreground = group;
	}
	tty->session = tty->group = 0;
	tty_put(tty);
}

static void send_from_caller(u32 pids, s32 group, int signal)
{
	const struct siginfo info = siginfo_user(signal, SI_USER);

	EACH_PROCESS(p)
		if (process_in_group(p, pids, group))
			signal_send_process(p, &info);
}

/* The leader of a session ends, or gives its terminal up. */
static void leave(struct process *p, bool end)
{
	struct tty *tty = p->terminal;
	s32 group = tty ? tty->group : p->old_foreground;

	if (group && end) {
		signal_group(p->pids, group, SIGHUP);
		if (!tty)
			signal_group(p->pids, group, SIGCONT);
	} else if (group) {
		send_from_caller(p->pids, group, SIGHUP);
		send_from_caller(p->pids, group, SIGCONT);
	}
	p->old_foreground = 0;
	if (!tty)
		return;
	tty->session = tty->group = 0;
	session_leave(p->pids, p->session);
}

void session_exit(struct process *p)
{
	if (is_leader(p))
		leave(p, true);
	set_terminal(p, NULL);
}

/* -- calls -- */

static s64 set_controlling(struct tty *tty, bool master, const struct file *file, u64 steal)
{
	const struct process *p = caller();

	if (is_leader(p) && p->session == tty->session && p->pids == tty->pids && !master)
		return 0;
	if (!is_leader(p) || p->terminal || master)
		return -EPERM;
	if (tty->session && (steal != 1 || !caller_capable(CAP_SYS_ADMIN)))
		return -EPERM;
	if (!file->readable && !caller_capable(CAP_SYS_ADMIN))
		return -EPERM;
	if (tty->session)
		session_leave(tty->pids, tty->session);
	acquire(tty);
	return 0;
}

static s64 give_up(struct tty *tty, bool master)
{
	struct process *p = caller();

	if (p->terminal != tty || master)
		return -ENOTTY;
	if (is_leader(p))
		leave(p, false);
	set_terminal(p, NULL);
	return 0;
}

/* The session of a group, or of a process; 0: there is no such number; -1: it has neither. */
static s32 session_of(u32 pids, s32 number)
{
	const struct process *single = process_find(pids, number);

	EACH_PROCESS(p)
		if (process_in_group(p, pids, number))
			return p->session;
	return single ? single->session : task_find(pids, number) ? -1 : 0;
}

static s64 set_group(struct tty *tty, u64 from)
{
	const struct process *p = caller();
	s64 error = tty_check(tty, SIGTTOU);
	s32 group, session;

	if (error)
		return error == -EIO ? -ENOTTY : error;
	if (user_read(core.current->mm, &group, from, sizeof(group)))
		return -EFAULT;
	if (group < 0)
		return -EINVAL;
	if (p->terminal != tty || tty->session != p->session || tty->pids != p->pids)
		return -ENOTTY;
	session = group ? session_of(p->pids, group) : 0;
	if (!session)
		return -ESRCH;
	if (session != p->session)
		return -EPERM;
	tty->group = group;
	return 0;
}

static s64 get_number(struct tty *tty, bool master, u64 to, bool session)
{
	s32 value = session ? tty->session : tty->group;

	if (tty->pids != caller()->pids)
		value = 0;

	if (!master && caller()->terminal != tty)
		return -ENOTTY;
	if (session && !value)
		return -ENOTTY;
	return put_number(to, value);
}

s64 session_ioctl(struct tty *tty, bool master, struct file *file, u32 command, u64 argument)
{
	switch (command) {
	case TIOCSCTTY: return set_controlling(tty, master, file, argument);
	case TIOCNOTTY: return give_up(tty, master);
	case TIOCGPGRP: return get_number(tty, master, argument, false);
	case TIOCSPGRP: return set_group(tty, argument);
	case TIOCGSID: return get_number(tty, master, argument, true);
	}
	return 1;
}
