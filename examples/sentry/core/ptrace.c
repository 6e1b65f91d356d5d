// SPDX-License-Identifier: Apache-2.0
/* ptrace: the requests. */
#include "ptrace.h"

enum {
	TRACEME, PEEKTEXT, PEEKDATA, PEEKUSER, POKETEXT, POKEDATA, POKEUSER, CONT, KILL, SINGLESTEP, GETREGS = 12, SETREGS,
	GETFPREGS, SETFPREGS, ATTACH, DETACH, OLDSETOPTIONS = 21, SYSCALL = 24, ARCH_PRCTL = 30, SYSEMU, SYSEMU_SINGLESTEP,
	SETOPTIONS = 0x4200, GETEVENTMSG, GETSIGINFO, SETSIGINFO, GETREGSET, SETREGSET, SEIZE, INTERRUPT, LISTEN,
	PEEKSIGINFO = 0x4209, GETSIGMASK, SETSIGMASK, GET_SYSCALL_INFO = 0x420e,
};
enum { SIGINFO_SIZE = 128 };

/* -- the beginning -- */

/* The task that has forked this process, or another one of its parent. */
static struct task *parent_task(const struct process *p)
{
	struct task *found = NULL;

	if (!p->parent)
		return NULL;
	EACH_TASK(t, p->parent)
		if (!t->exiting && (!found || t->tid == p->forked_by))
			found = t;
	return found;
}

/* Otherwise the tracer would gain the rights of its tracee. */
static bool may_begin(const struct task *tracer, const struct task *t)
{
	return !(t->cred.permitted & ~tracer->cred.permitted) || cred_capable(&tracer->cred, CAP_SYS_PTRACE);
}

static s64 trace_me(struct task *t)
{
	struct task *tracer = parent_task(t->process);

	return t->tracee || !tracer || !may_begin(tracer, t) ? -EPERM : tracee_attach(tracer, t, false, 0);
}

static s64 attach(struct task *t, struct task *to, bool seize, u64 address, u64 options)
{
	const struct siginfo stop = { .signal = SIGSTOP, .code = SI_KERNEL };
	s64 error;

	if (seize && (address || options & ~(u64)PTRACE_O_ALL))
		return -EIO;
	if (to->process == t->process || to->exiting || !to->mm || !may_inspect(t, to, false))
		return -EPERM;
	if (to->process->container != t->process->container)
		return -EPERM; /* though containers see the processes of others */
	if (to->tracee || (to->gains_rights && !capable(CAP_SYS_PTRACE)))
		return -EPERM;
	error = tracee_attach(t, to, seize, seize ? (u32)options : 0);
	if (!error && !seize)
		signal_send_task(to, &stop);
	return error;
}

/* -- memory -- */

static s64 access_word(const struct tracee *e, u64 address, u64 *word, bool write)
{
	struct mm *mm = e->task->mm;
	u64 size;

	if (!mm || (mm->secret && !e->capable))
		return -EIO;
	mm_get(mm);
	size = user_copy_traced(mm, address, word, sizeof(*word), write);
	mm_put(mm);
	return size == sizeof(*word) ? 0 : -EIO;
}

static s64 peek(struct task *t, struct tracee *e, u64 address, u64 to, bool registers)
{
	u64 word = 0;
	s64 error = registers ? registers_get(e->task, address, &word) : access_word(e, address, &word, false);

	return error ? error : user_write(t->mm, to, &word, sizeof(word));
}

/* -- registers -- */

/* Find a stopped tracee of the task; NULL sets *error. */
static struct tracee *stopped_tracee(const struct task *t, s32 tid, s64 *error)
{
	struct task *to = task_find(t->process->pids, tid);
	struct tracee *e = to ? to->tracee : NULL;

	if (e && e->tracer == t && e->stopped && !e->listening)
		return e;
	*error = -ESRCH;
	return NULL;
}

/* Between the caller's memory and a tracee, which may end while that is read. */
static s64 transfer(struct task *t, s32 tid, u32 type, const struct iovec *place, bool set)
{
	const u64 most = core.config->fpu_size < PAGE ? PAGE : core.config->fpu_size;
	u8 *buffer = kmalloc(most);
	struct tracee *e;
	s64 error = buffer ? 0 : -ENOMEM;

	if (!error && set)
		error = user_read(t->mm, buffer, place->base, place->size);
	e = error ? NULL : stopped_tracee(t, tid, &error);
	if (e && set)
		error = registers_set_part(e->task, type, buffer, place->size);
	else if (e)
		registers_get_part(e->task, type, buffer, place->size);
	if (!error && !set)
		error = user_write(t->mm, place->base, buffer, place->size);
	kfree(buffer);
	return error;
}

static s64 transfer_whole(struct task *t, s32 tid, u32 type, u64 at, bool set)
{
	const struct iovec place = { at, registers_size(type) };

	return transfer(t, tid, type, &place, set);
}

static s64 transfer_part(struct task *t, s32 tid, u32 type, u64 at, bool set)
{
	struct iovec place;
	s64 error;

	if (user_read(t->mm, &place, at, sizeof(place)))
		return -EFAULT;
	if (!registers_size(type) || place.size % sizeof(u64))
		return -EINVAL;
	if (place.size > registers_size(type))
		place.size = registers_size(type);
	error = transfer(t, tid, type, &place, set);
	return error ? error : user_write(t->mm, at + 8, &place.size, sizeof(place.size));
}

static s64 base(struct task *t, struct tracee *e, u64 code, u64 value)
{
	enum { GET_FS = 0x1003, GET_GS };
	const u64 bases[] = { e->task->regs.fs_base, e->task->regs.gs_base };

	if (code == GET_FS || code == GET_GS)
		return user_write(t->mm, value, &bases[code - GET_FS], sizeof(*bases));
	return registers_set_base(e->task, code, value);
}

/* -- signals and events -- */

static s64 get_info(struct task *t, const struct tracee *e, u64 to)
{
	u64 whole[SIGINFO_SIZE / sizeof(u64)] = { 0 };

	if (!e->info)
		return -EINVAL;
	bytes_copy(whole, e->info, sizeof(*e->info));
	return user_write(t->mm, to, whole, sizeof(whole));
}

static s64 set_info(struct task *t, s32 tid, u64 from)
{
	struct siginfo info;
	struct tracee *e;
	s64 error = user_read(t->mm, &info, from, sizeof(info));

	e = error ? NULL : stopped_tracee(t, tid, &error);
	if (!e)
		return error;
	if (!e->info)
		return -EINVAL;
	info.pad = 0;
	*e->info = info;
	return 0;
}

/* What waits for the task or its process, in the order in which it came; all but what arrives without its siginfo. */
static const struct queued_signal *queued_at(const struct task *t, bool of_process, u64 index)
{
	const struct queued_signal *entry = of_process ? t->process->pending.first : t->pending.first;

	while (entry && index--)
		entry = entry->next;
	return entry;
}

enum { SIGNALS_PER_PAGE = PAGE / SIGINFO_SIZE };

/* Put signals of a queue into a page, from one on: how many. */
static s32 peek_some(u64 (*page)[SIGINFO_SIZE / sizeof(u64)], const struct queued_signal *entry, s32 most)
{
	s32 count = 0;

	bytes_zero(page, PAGE);
	for (; entry && count < most && count < SIGNALS_PER_PAGE; entry = entry->next) {
		bytes_copy(page[count], &entry->info, sizeof(entry->info));
		((struct siginfo *)page[count++])->pad = 0;
	}
	return count;
}

/*
 * How many were copied.  A copy can sleep: the tracee is looked up again for each page.  Queues may be long, and each look
 * begins at their start: others run in between.
 */
static s64 peek_signals(struct task *t, s32 tid, u64 from, u64 to)
{
	enum { OF_PROCESS = 1 };
	struct {
		u64 first;
		u32 flags;
		s32 count;
	} wanted;
	s64 error = user_read(t->mm, &wanted, from, sizeof(wanted));
	u64 (*page)[SIGINFO_SIZE / sizeof(u64)];
	s32 done = 0, some = 1;

	if (error)
		return error;
	if (wanted.flags & ~(u32)OF_PROCESS || wanted.count < 0)
		return -EINVAL;
	page = page_alloc();
	if (!page)
		return -ENOMEM;
	while (done < wanted.count && some && !error && !task_must_end(t)) {
		struct tracee *e = stopped_tracee(t, tid, &error);

		some = e ? peek_some(page, queued_at(e->task, wanted.flags, wanted.first + (u64)done), wanted.count - done) : 0;
		if (some)
			error = user_write(t->mm, to + (u64)done * SIGINFO_SIZE, page, (u64)some * SIGINFO_SIZE);
		if (!error)
			done += some;
		if (some == SIGNALS_PER_PAGE)
			task_yield();
	}
	page_free(page);
	return done ? done : error;
}

static s64 get_mask(struct task *t, const struct tracee *e, u64 size, u64 to)
{
	u64 mask = e->task->restore_blocked ? e->task->saved_blocked : e->task->blocked;

	return size == sizeof(mask) ? user_write(t->mm, to, &mask, sizeof(mask)) : -EINVAL;
}

static s64 set_mask(struct task *t, s32 tid, u64 size, u64 from)
{
	struct tracee *e;
	u64 mask;
	s64 error;

	if (size != sizeof(mask))
		return -EINVAL;
	error = user_read(t->mm, &mask, from, sizeof(mask));
	e = error ? NULL : stopped_tracee(t, tid, &error);
	if (!e)
		return error;
	e->task->blocked = mask & ~UNBLOCKABLE;
	e->task->restore_blocked = false;
	return 0;
}

static s64 get_message(struct task *t, const struct tracee *e, u64 to)
{
	u64 message = e->message;

	return user_write(t->mm, to, &message, sizeof(message));
}

struct call_info {
	u8 kind, pad[3];
	u32 machine;
	u64 rip, rsp, first; /* the number, or the result */
	union {
		u64 args[6];
		u8 is_error;
	};
	u32 data, unused; /* of a filter */
};

_Static_assert(sizeof(struct call_info) == 88, "as the kernel has it");

static s64 call_info(struct task *t, const struct tracee *e, u64 room, u64 to)
{
	const struct regs *r = &e->task->regs;
	struct call_info info = { .machine = AUDIT_X86_64, .rip = r->rip, .rsp = r->rsp };
	const bool is_filter = e->info && e->info->code == (SIGTRAP | PTRACE_EVENT_SECCOMP << 8);
	u64 size = __builtin_offsetof(struct call_info, first);

	if (is_filter || (e->info && e->info->code == (SIGTRAP | 0x80) && e->message == AT_ENTRY)) {
		info.first = e->task->number;
		bytes_copy(info.args, (const u64[6]){ r->rdi, r->rsi, r->rdx, r->r10, r->r8, r->r9 }, sizeof(info.args));
		info.data = is_filter ? (u32)e->message : 0;
		size = is_filter ? __builtin_offsetof(struct call_info, unused) : __builtin_offsetof(struct call_info, data);
	} else if (e->info && e->info->code == (SIGTRAP | 0x80) && e->message == AT_EXIT) {
		info.first = r->rax;
		info.is_error = r->rax >= (u64)-4095;
		size = __builtin_offsetof(struct call_info, is_error) + 1;
	}
	info.kind = is_filter ? AT_FILTER : size == __builtin_offsetof(struct call_info, first) ? 0 : (u8)e->message;
	return user_write(t->mm, to, &info, size < room ? size : room) ? -EFAULT : (s64)size;
}

/* -- how it continues -- */

static s64 set_options(struct tracee *e, u64 options)
{
	if (options & ~(u64)PTRACE_O_ALL)
		return -EINVAL;
	e->options = (u32)options;
	return 0;
}

static s64 resume(struct tracee *e, enum resume how, u64 signal)
{
	if (signal > SIGNALS)
		return -EIO;
	tracee_resume(e, how, (s32)signal);
	return 0;
}

static s64 detach(struct tracee *e, u64 signal)
{
	if (signal > SIGNALS)
		return -EIO;
	tracee_detach(e, (s32)signal);
	return 0;
}

/* Requests that its state does not matter for. */
static s64 interrupt(struct tracee *e)
{
	if (!e->seized)
		return -EIO;
	if (e->listening) {
		tracee_trap_again(e);
	} else {
		e->trap = true;
		task_ready(e->task);
	}
	return 0;
}

static s64 kill_it(struct tracee *e)
{
	const struct siginfo info = { .signal = SIGKILL, .code = SI_KERNEL };

	signal_send_task(e->task, &info);
	return 0;
}

static s64 listen(struct tracee *e)
{
	if (!e->seized || !e->info || e->info->code >> 8 != PTRACE_EVENT_STOP)
		return -EIO;
	e->listening = true;
	e->is_new = false;
	if (e->news)
		tracee_trap_again(e);
	return 0;
}

static s64 request_signal(struct task *t, struct tracee *e, u64 request, u64 address, u64 data)
{
	switch (request) {
	case SETOPTIONS:
	case OLDSETOPTIONS: return set_options(e, data);
	case GETEVENTMSG: return get_message(t, e, data);
	case GETSIGINFO: return get_info(t, e, data);
	case SETSIGINFO: return set_info(t, e->tid, data);
	case PEEKSIGINFO: return peek_signals(t, e->tid, address, data);
	case GETSIGMASK: return get_mask(t, e, address, data);
	case SETSIGMASK: return set_mask(t, e->tid, address, data);
	case GET_SYSCALL_INFO: return call_info(t, e, address, data);
	case CONT: return resume(e, RESUME_FREE, data);
	case SYSCALL: return resume(e, RESUME_CALL, data);
	case SYSEMU: return resume(e, RESUME_EMULATE, data);
	case SINGLESTEP: return resume(e, RESUME_STEP, data);
	case SYSEMU_SINGLESTEP: return resume(e, RESUME_STEP_EMULATE, data);
	case DETACH: return detach(e, data);
	case LISTEN: return listen(e);
	}
	return -EIO;
}

static s64 request_state(struct task *t, struct tracee *e, u64 request, u64 address, u64 data)
{
	switch (request) {
	case PEEKTEXT:
	case PEEKDATA: return peek(t, e, address, data, false);
	case PEEKUSER: return peek(t, e, address, data, true);
	case POKETEXT:
	case POKEDATA: return access_word(e, address, &data, true);
	case POKEUSER: return registers_set(e->task, address, data);
	case GETREGS:
	case SETREGS: return transfer_whole(t, e->tid, NT_PRSTATUS, data, request == SETREGS);
	case GETFPREGS:
	case SETFPREGS: return transfer_whole(t, e->tid, NT_PRFPREG, data, request == SETFPREGS);
	case GETREGSET:
	case SETREGSET: return transfer_part(t, e->tid, (u32)address, data, request == SETREGSET);
	case ARCH_PRCTL: return base(t, e, data, address);
	}
	return request_signal(t, e, request, address, data);
}

/* Find the task of a request; an exec of others ends before anybody attaches to them. 0 or -errno. */
static s64 find(const struct task *t, bool attaches, s32 tid, struct task **to)
{
	while ((*to = task_find(t->process->pids, tid)) && attaches && (*to)->process != t->process && (*to)->process->executing)
		if (sleep_on(&core.executed, FOREVER))
			return -ERESTARTNOINTR;
	return 0;
}

s64 sys_ptrace(struct task *t, const u64 *args)
{
	u64 request = args[0];
	struct task *to;
	struct tracee *e;
	s64 error;

	if (request == TRACEME)
		return trace_me(t);
	error = find(t, request == ATTACH || request == SEIZE, (s32)args[1], &to);
	if (error)
		return error;
	if (!to) {
		const struct process *p = process_find(t->process->pids, (s32)args[1]);

		return p && (request == ATTACH || request == SEIZE) ? -EPERM : -ESRCH;
	}
	if (request == ATTACH || request == SEIZE)
		return attach(t, to, request == SEIZE, args[2], args[3]);
	e = to->tracee;
	if (!e || e->tracer != t)
		return -ESRCH;
	if (request == KILL)
		return kill_it(e);
	if (request == INTERRUPT)
		return interrupt(e);
	if (!e->stopped || e->listening)
		return -ESRCH;
	return request_state(t, e, request, args[2], args[3]);
}
