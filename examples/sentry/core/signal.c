// SPDX-License-Identifier: Apache-2.0
/* Signals: how they are sent, which task gets one, and what it does before it returns to the program. */
#include "ptrace.h"
#include "space.h"

#define IGNORED (SIGNAL_BIT(SIGCHLD) | SIGNAL_BIT(SIGCONT) | SIGNAL_BIT(SIGURG) | SIGNAL_BIT(SIGWINCH))
#define STOPS (SIGNAL_BIT(SIGSTOP) | SIGNAL_BIT(SIGTSTP) | SIGNAL_BIT(SIGTTIN) | SIGNAL_BIT(SIGTTOU))
#define SYNCHRONOUS                                                                                                 \
	(SIGNAL_BIT(SIGSEGV) | SIGNAL_BIT(SIGBUS) | SIGNAL_BIT(SIGILL) | SIGNAL_BIT(SIGTRAP) | SIGNAL_BIT(SIGFPE) | \
	 SIGNAL_BIT(SIGSYS))
enum { FIRST_REAL_TIME = 32 };

struct wait_queue signal_arrived;

static struct slab queue_entries = SLAB(struct queued_signal);

static struct sigaction *action_of(struct task *t, int signal)
{
	return &t->sighand->actions[signal - 1];
}

bool signal_is_ignored(struct task *t, int signal)
{
	u64 handler = action_of(t, signal)->handler;

	return handler == SIG_IGN || (handler == SIG_DFL && SIGNAL_BIT(signal) & IGNORED);
}

/*
 * Process 1 of a namespace gets no signal for which it has no handler.  SIGKILL and SIGSTOP reach it from outside and from
 * the core, such as for a tracer, and a fault of its own ends it.
 */
static bool is_shielded(struct task *t, int signal)
{
	const struct process *p = t->process;

	if (!process_is_init(p) || action_of(t, signal)->handler != SIG_DFL)
		return false;
	if (SIGNAL_BIT(signal) & UNBLOCKABLE)
		return core.current && core.current->process->pids == p->pids;
	return !p->faulted;
}

/* -- what is pending -- */

void signals_flush(struct pending *pending, u64 set)
{
	struct queued_signal **place = &pending->first, *entry;

	pending->last = NULL;
	while ((entry = *place)) {
		if (SIGNAL_BIT(entry->info.signal) & set) {
			*place = entry->next;
			slab_free(&queue_entries, entry);
		} else {
			pending->last = entry;
			place = &entry->next;
		}
	}
	pending->set &= ~set;
}

static void enqueue(struct pending *pending, const struct siginfo *info)
{
	struct queued_signal *entry;

	if (info->signal < FIRST_REAL_TIME && pending->set & SIGNAL_BIT(info->signal) && !info->pad)
		return;
	pending->set |= SIGNAL_BIT(info->signal);
	entry = slab_alloc(&queue_entries);
	if (!entry)
		return; /* it arrives without its siginfo */
	entry->info = *info;
	*(pending->last ? &pending->last->next : &pending->first) = entry;
	pending->last = entry;
}

/* The first of a set: its number, or 0. */
static int dequeue(struct pending *pending, u64 set, struct siginfo *info)
{
	u64 ready = pending->set & set;
	struct queued_signal **place = &pending->first, *entry, *before = NULL;
	bool more = false;
	int signal;

	if (!ready)
		return 0;
	if (ready & SYNCHRONOUS)
		ready &= SYNCHRONOUS;
	signal = __builtin_ctzll(ready) + 1;
	*info = (struct siginfo){ .signal = signal };
	while (*place && (*place)->info.signal != signal)
		before = *place, place = &(*place)->next;
	entry = *place;
	if (entry) {
		*info = entry->info;
		*place = entry->next;
		if (pending->last == entry)
			pending->last = before;
		for (struct queued_signal *next = entry->next; next; next = next->next)
			more = more || next->info.signal == signal;
		slab_free(&queue_entries, entry);
	}
	if (!more)
		pending->set &= ~SIGNAL_BIT(signal);
	return signal;
}

bool signal_is_queued(const struct pending *pending, const struct siginfo *info)
{
	for (const struct queued_signal *entry = pending->first; entry; entry = entry->next)
		if (entry->info.pad == info->pad)
			return true;
	return false;
}

int signal_take(struct task *t, u64 set, struct siginfo *info)
{
	int signal = dequeue(&t->pending, set, info);

	if (!signal)
		signal = dequeue(&t->process->pending, set, info);
	if (signal && info->pad)
		posix_timer_taken(t->process, info);
	return signal;
}

bool task_must_end(const struct task *t)
{
	const struct process *p = t->process;

	return p->ending || (p->alone && p->alone != t);
}

bool signal_interrupts(struct task *t, bool killable)
{
	if (t->exiting)
		return false;
	if (task_must_end(t))
		return true;
	if (!killable && t->tracee && tracing_pending(t))
		return true;
	return signals_deliverable(t) & (killable ? SIGNAL_BIT(SIGKILL) : ~0ull);
}

/* -- sending -- */

/* Seized tasks report that to their tracers. A stop that a tracer still thinks about has no effect. */
static void continue_tracees(struct process *p)
{
	EACH_TASK(t, p) {
		struct tracee *e = t->tracee;

		t->may_stop_group = false;
		if (!e)
			continue;
		e->group_stop = false;
		e->news = e->seized;
		if (e->seized && e->listening)
			tracee_trap_again(e);
		else if (e->seized)
			task_ready(t);
	}
}

static void continue_process(struct process *p)
{
	if (!p->stopped)
		return;
	p->stopped = p->stop_is_new = false;
	p->continue_is_new = true;
	wake_all(&p->continued);
	process_notify_parent(p, CLD_CONTINUED, SIGCONT);
}

/* What a signal does when it is sent, whether or not it is blocked; false: it goes no further. */
static bool prepare(struct task *t, const struct siginfo *info)
{
	struct process *p = t->process;
	const int signal = info->signal;

	if (SIGNAL_BIT(signal) & UNBLOCKABLE && info->code != SI_KERNEL && is_shielded(t, signal))
		return false;
	if (SIGNAL_BIT(signal) & STOPS) {
		signals_flush(&p->pending, SIGNAL_BIT(SIGCONT));
		EACH_TASK(other, p)
			signals_flush(&other->pending, SIGNAL_BIT(SIGCONT));
	} else if (signal == SIGCONT) {
		signals_flush(&p->pending, STOPS);
		EACH_TASK(other, p)
			signals_flush(&other->pending, STOPS);
		continue_process(p);
		continue_tracees(p);
	} else if (signal == SIGKILL) {
		wake_all(&p->continued);
		tracees_killed(p);
	}
	if ((t->blocked | t->awaited) & SIGNAL_BIT(signal) || t->tracee) /* Linux ignores no signal that is blocked */
		return true;
	return !(signal_is_ignored(t, signal) || is_shielded(t, signal));
}

static bool takes(const struct task *t, int signal)
{
	return !t->exiting && (signal == SIGKILL || !(t->blocked & SIGNAL_BIT(signal)));
}

void signal_send_task(struct task *t, const struct siginfo *info)
{
	if (t->exiting || !prepare(t, info))
		return;
	enqueue(&t->pending, info);
	wake_all(&signal_arrived);
	if (takes(t, info->signal))
		task_ready(t);
}

void signal_send_process(struct process *p, const struct siginfo *info)
{
	struct task *first = NULL;

	if (list_empty(&p->tasks))
		return;
	EACH_TASK(t, p) {
		if (t->awaited & SIGNAL_BIT(info->signal)) {
			first = t;
			break;
		}
		if (!first && takes(t, info->signal))
			first = t;
	}
	if (!prepare(first ? first : CONTAINER(p->tasks.next, struct task, siblings), info))
		return;
	enqueue(&p->pending, info);
	wake_all(&signal_arrived);
	if (first)
		task_ready(first);
}

struct siginfo siginfo_user(int signal, int code)
{
	return (struct siginfo){
		.signal = signal, .code = code, .fields = { (u32)core.current->process->pid | (u64)core.current->cred.user.real << 32 },
	};
}

void signal_raise(struct task *t, int signal)
{
	const struct siginfo info = siginfo_user(signal, SI_USER);

	signal_send_task(t, &info);
}

void signal_process(struct process *p, int signal)
{
	const struct siginfo info = { .signal = signal, .code = SI_KERNEL };

	signal_send_process(p, &info);
}

bool signal_group(u32 pids, s32 group, int signal)
{
	bool any = false;

	EACH_PROCESS(p) {
		if (!process_in_group(p, pids, group))
			continue;
		any = true;
		signal_process(p, signal);
	}
	return any;
}

static void force(struct task *t, const struct siginfo *info)
{
	struct sigaction *action = action_of(t, info->signal);

	if (t->blocked & SIGNAL_BIT(info->signal) || action->handler == SIG_IGN)
		action->handler = SIG_DFL;
	t->process->faulted |= action->handler == SIG_DFL && !t->tracee;
	t->blocked &= ~SIGNAL_BIT(info->signal);
	enqueue(&t->pending, info);
}

void signal_force(struct task *t, int signal, int code, u64 address)
{
	const struct siginfo info = { .signal = signal, .code = code, .fields = { address } };

	if (signal == SIGKILL)
		process_end(t->process, SIGKILL);
	else
		force(t, &info);
}

void signal_force_seccomp(struct task *t, u16 data)
{
	enum { SYS_SECCOMP = 1 };
	const struct siginfo info = { .signal = SIGSYS, .error = data, .code = SYS_SECCOMP,
				      .fields = { t->regs.rip, (u32)t->number | (u64)AUDIT_X86_64 << 32 } };

	force(t, &info);
}

struct sighand *sighand_copy(const struct sighand *from)
{
	struct sighand *sighand = kmalloc(sizeof(*sighand));

	if (sighand) {
		*sighand = *from;
		sighand->references = 1;
	}
	return sighand;
}

void sighand_put(struct sighand *sighand)
{
	if (reference_put(&sighand->references))
		kfree(sighand);
}

void signal_reset_handlers(struct sighand *sighand)
{
	for (u32 i = 0; i < SIGNALS; i++) {
		struct sigaction *action = &sighand->actions[i];

		*action = (struct sigaction){ .handler = action->handler == SIG_IGN ? SIG_IGN : SIG_DFL };
	}
}

/* -- before the program continues -- */

static void stop(struct process *p, int signal)
{
	const struct tracee *leader = CONTAINER(p->tasks.next, struct task, siblings)->tracee;
	bool is_new = !p->stopped;

	p->stopped = true;
	p->stop_is_new = is_new || p->stop_is_new;
	p->continue_is_new = false;
	p->status = is_new ? signal << 8 | 0x7f : p->status;
	EACH_TASK(t, p) {
		if (t->tracee) {
			t->tracee->group_stop = true;
			task_ready(t);
		}
		task_interrupt(t, true);
	}
	if (is_new && !(leader && leader->tracer->process == p->parent)) /* a parent that traces it hears of its tasks */
		process_notify_parent(p, CLD_STOPPED, signal);
}

static void stay_stopped(struct task *t)
{
	while (t->process->stopped && !t->tracee && !signal_interrupts(t, true))
		sleep_on_killable(&t->process->continued, FOREVER);
}

/* What happens to the system call that was interrupted, if one was. */
static void settle_call(struct task *t, const struct sigaction *handler)
{
	enum { SA_RESTART = 0x10000000, RESTART_SYSCALL = 219 };
	struct regs *r = &t->regs;
	s64 result = (s64)r->rax;
	bool again;

	if (!call_restarts(t))
		return;
	again = result == -ERESTARTNOINTR || (result == -ERESTARTSYS && (!handler || handler->flags & SA_RESTART)) ||
		(result == -ERESTARTNOHAND && !handler);
	if (again) {
		r->rax = t->number;
		r->rip -= 2;
	} else if (result == -ERESTART_RESTARTBLOCK && !handler) {
		r->rax = RESTART_SYSCALL;
		r->rip -= 2;
	} else {
		r->rax = (u64)-EINTR;
	}
	t->number = NO_CALL;
}

static void call_handler(struct task *t, const struct siginfo *info)
{
	enum { SA_NODEFER = 0x40000000 };
	const u32 once = 0x80000000; /* SA_RESETHAND */
	struct sigaction *place = action_of(t, info->signal), action = *place;
	u64 blocked = t->restore_blocked ? t->saved_blocked : t->blocked;

	settle_call(t, &action);
	t->restore_blocked = false;
	if (action.flags & once)
		place->handler = SIG_DFL;
	if (frame_push(t, &action, info, blocked)) {
		if (info->signal == SIGSEGV)
			place->handler = SIG_DFL;
		signal_force(t, SIGSEGV, SI_KERNEL, 0);
		return;
	}
	t->blocked |= action.mask | (action.flags & SA_NODEFER ? 0 : SIGNAL_BIT(info->signal));
	t->blocked &= ~UNBLOCKABLE;
	if (t->tracee)
		tracing_handler(t);
}

static void act(struct task *t, const struct siginfo *info)
{
	u64 handler = action_of(t, info->signal)->handler, bit = SIGNAL_BIT(info->signal);

	if (handler > SIG_IGN) {
		call_handler(t, info);
	} else if (handler == SIG_IGN || bit & IGNORED || (!(bit & UNBLOCKABLE) && is_shielded(t, info->signal))) {
		return;
	} else if (bit & STOPS) {
		if (t->may_stop_group && (info->signal == SIGSTOP || !group_is_orphaned(t->process->pids, t->process->group, NULL)))
			stop(t->process, info->signal);
	} else {
		process_end(t->process, info->signal);
	}
}

/* Apart, so that a call without a signal prepares no siginfo. */
static __attribute__((noinline)) void deliver(struct task *t)
{
	struct siginfo info;

	while (!task_must_end(t)) {
		if (t->tracee && tracing_pending(t)) {
			tracing_trap(t);
			continue;
		}
		if (t->process->stopped && !t->tracee) {
			stay_stopped(t);
			if (t->tracee)
				continue;
		}
		if (!signal_take(t, ~t->blocked, &info))
			break;
		t->may_stop_group = true;
		if (!t->tracee || tracing_signal(t, &info))
			act(t, &info);
	}
	if (task_must_end(t))
		task_exit(t);
}

/* Whether deliver() may have something to do. */
static bool is_concerned(const struct task *t)
{
	return signals_deliverable(t) || t->process->stopped || t->tracee || task_must_end(t);
}

void signal_deliver(struct task *t)
{
	if (is_concerned(t))
		deliver(t);
	settle_call(t, NULL);
	if (t->restore_blocked) {
		t->blocked = t->saved_blocked;
		t->restore_blocked = false;
	}
}
