// SPDX-License-Identifier: Apache-2.0
/* Filters of system calls that programs install: seccomp(2). */
#include "filters.h"
#include "bpf.h"
#include "ptrace.h"
#include "seccomp.h"

enum { OF_PROCESS = 1, LOGGED = 2, SPECULATION = 4, LISTENER = 8, TID_AS_ESRCH = 16, WAIT_KILLABLE = 32, FLAGS = 63 };
enum { WORK_MOST = 32768, WORK_EACH = 4 };
enum { SET_STRICT, SET_FILTER, ACTION_AVAILABLE, NOTIFICATION_SIZES };
/* What a filter returns: an action, and 16 bits for it. The lowest wins, as a signed number. */
enum {
	KILL_THREAD = 0, TRAP = 0x30000, ERRNO = 0x50000, USER_NOTIFICATION = 0x7fc00000, TRACE = 0x7ff00000, LOG = 0x7ffc0000,
	ALLOW = 0x7fff0000, ERRNO_MOST = 4095,
};
#define KILL_PROCESS 0x80000000u
#define ACTION 0xffff0000u

struct filter {
	u32 references, count;
	struct filter *before; /* the one that was installed before; a reference */
	struct bpf_instruction code[];
};

/* Strict mode: four calls are allowed. It lives for ever. */
static struct filter strict = { .references = 1 };

void filters_get(struct filter *filters)
{
	if (filters && filters != &strict)
		reference_get(&filters->references);
}

void filters_put(struct filter *filters)
{
	while (filters && filters != &strict && reference_put(&filters->references)) {
		struct filter *before = filters->before;

		kfree(filters);
		filters = before;
	}
}

u32 filters_count(const struct filter *filters)
{
	u32 count = 0;

	for (; filters && filters != &strict; filters = filters->before)
		count++;
	return count;
}

u32 filters_mode(const struct task *t)
{
	return t->filters == &strict ? MODE_STRICT : t->filters || t->seccomp ? MODE_FILTER : 0;
}

/* -- what they decide -- */

static u32 judge(const struct task *t)
{
	const struct regs *r = &t->regs;
	const struct bpf_input input = {
		(s32)t->number, AUDIT_X86_64, r->rip, { r->rdi, r->rsi, r->rdx, r->r10, r->r8, r->r9 },
	};
	u32 verdict = ALLOW;

	for (const struct filter *filter = t->filters; filter; filter = filter->before) {
		u32 next = bpf_run(filter->code, &input);

		if ((s32)(next & ACTION) < (s32)(verdict & ACTION))
			verdict = next;
	}
	return verdict;
}

/* The tracer may change the call, or make it none. */
static bool ask_tracer(struct task *t, u32 message)
{
	if (!t->tracee || !(t->tracee->options & PTRACE_O_TRACESECCOMP))
		return false;
	task_flush(t);
	tracing_event(t, PTRACE_EVENT_SECCOMP, message);
	return t->number != NO_CALL && !task_must_end(t);
}

/* is_traced: the tracer has seen the call. */
static bool act(struct task *t, bool is_traced)
{
	const u32 verdict = judge(t);
	const u16 data = (u16)verdict;

	t->regs.rax = (u64)-ENOSYS;
	switch (verdict & ACTION) {
	case ALLOW: return true;
	case LOG: return seccomp_log();
	case TRACE: return is_traced || (ask_tracer(t, data) && act(t, true));
	case USER_NOTIFICATION: return false; /* nobody listens */
	case ERRNO: t->regs.rax = (u64)-(s64)(data < ERRNO_MOST ? data : ERRNO_MOST); return false;
	case TRAP:
		t->regs.rax = t->number;
		signal_force_seccomp(t, data);
		return false;
	case KILL_THREAD: return seccomp_kill(t, SIGSYS, false);
	}
	return seccomp_kill(t, SIGSYS, true); /* KILL_PROCESS, and what Linux does not have */
}

static bool is_strictly_allowed(u64 number)
{
	enum { READ, WRITE, SIGNAL_RETURN = 15, EXIT = 60 };

	return number == READ || number == WRITE || number == SIGNAL_RETURN || number == EXIT;
}

bool filters_allow(struct task *t)
{
	if (t->filters == &strict)
		return is_strictly_allowed(t->number) || seccomp_kill(t, SIGKILL, false);
	return act(t, false);
}

/* -- how they are installed -- */

static bool may_install(const struct task *t)
{
	return t->no_new_privs || cred_capable(&t->cred, CAP_SYS_ADMIN);
}

static s64 read_filter(struct task *t, u64 from, struct filter **made)
{
	struct {
		u16 count, pad[3];
		u64 code;
	} program;
	struct filter *filter;
	s64 error;

	if (user_read(t->mm, &program, from, sizeof(program)))
		return -EFAULT;
	if (!program.count || program.count > BPF_MOST)
		return -EINVAL;
	if (!may_install(t))
		return -EACCES;
	filter = kmalloc(sizeof(*filter) + program.count * sizeof(*filter->code));
	if (!filter)
		return -ENOMEM;
	error = user_read(t->mm, filter->code, program.code, program.count * sizeof(*filter->code));
	if (!error)
		error = bpf_check(filter->code, program.count);
	if (error) {
		kfree(filter);
		return error;
	}
	filter->references = 1;
	filter->count = program.count;
	*made = filter;
	return 0;
}

/* A thread that has other filters than those of this one, or older ones of them; NULL: there is none. */
static const struct task *other_filters(const struct task *t)
{
	EACH_TASK(other, t->process) {
		const struct filter *own = t->filters;

		while (own && own != other->filters)
			own = own->before;
		if (other->filters && !own)
			return other;
	}
	return NULL;
}

static bool is_too_much(const struct task *t, const struct filter *filter)
{
	u64 work = filter->count;

	for (const struct filter *each = t->filters; each; each = each->before)
		work += each->count + WORK_EACH;
	return work > WORK_MOST;
}

static void give_to_threads(struct task *t)
{
	EACH_TASK(other, t->process) {
		if (other == t)
			continue;
		filters_get(t->filters);
		filters_put(other->filters);
		other->filters = t->filters;
		other->no_new_privs |= t->no_new_privs;
	}
}

s64 filters_set(struct task *t, u64 flags, u64 from)
{
	const struct task *other;
	struct filter *filter;
	s64 error;

	if (flags & ~(u64)FLAGS || (flags & WAIT_KILLABLE && !(flags & LISTENER)) ||
	    (flags & (OF_PROCESS | LISTENER | TID_AS_ESRCH)) == (OF_PROCESS | LISTENER))
		return -EINVAL;
	error = read_filter(t, from, &filter);
	if (error)
		return error;
	if (flags & LISTENER || t->filters == &strict) { /* there are no listeners */
		kfree(filter);
		return -EINVAL;
	}
	other = flags & OF_PROCESS ? other_filters(t) : NULL;
	if (other || is_too_much(t, filter)) {
		kfree(filter);
		return !other ? -ENOMEM : flags & TID_AS_ESRCH ? -ESRCH : other->tid;
	}
	filter->before = t->filters; /* and its reference */
	t->filters = filter;
	if (flags & OF_PROCESS)
		give_to_threads(t);
	return 0;
}

s64 filters_set_strict(struct task *t)
{
	if (filters_mode(t) == MODE_FILTER)
		return -EINVAL;
	t->filters = &strict;
	return 0;
}

/* Of messages to listeners, which there are none of. */
static s64 put_sizes(struct task *t, u64 to)
{
	static const u16 sizes[] = { 80, 24, 64 };

	return user_write(t->mm, to, sizes, sizeof(sizes));
}

static s64 is_available(struct task *t, u64 from)
{
	u32 action;

	if (user_read(t->mm, &action, from, sizeof(action)))
		return -EFAULT;
	switch (action) {
	case KILL_THREAD:
	case KILL_PROCESS:
	case TRAP:
	case ERRNO:
	case TRACE:
	case LOG:
	case ALLOW: return 0;
	}
	return -EOPNOTSUPP;
}

s64 sys_seccomp(struct task *t, const u64 *args)
{
	switch ((u32)args[0]) {
	case SET_STRICT: return args[1] || args[2] ? -EINVAL : filters_set_strict(t);
	case SET_FILTER: return filters_set(t, args[1], args[2]);
	case ACTION_AVAILABLE: return args[1] ? -EINVAL : is_available(t, args[2]);
	case NOTIFICATION_SIZES: return args[1] ? -EINVAL : put_sizes(t, args[2]);
	}
	return -EINVAL;
}
