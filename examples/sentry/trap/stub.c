// SPDX-License-Identifier: Apache-2.0
/*
 * Processes of the host that run programs, and the stub in each.
 *
 * A process runs, or waits in a system call until this one answers it: one of the program, or a report of the stub.
 * Either way the host's kernel holds it.  Several run at the same time: what one of them reports stays with it until the
 * core gets to it.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ucontext.h>
#include <sys/wait.h>
#include <unistd.h>

#include "trap.h"

enum { COMPUTES = 50000 }; /* ns between two calls */

static PROCESS_LOCAL struct stub *stubs;	      /* the first runs no program: others are made of it */
static PROCESS_LOCAL struct stub *last;		      /* of those that were ever in use */
static PROCESS_LOCAL struct stub *running[SLOTS + 8]; /* those that do not wait */
static PROCESS_LOCAL u32 running_count;
static PROCESS_LOCAL struct stub *child; /* that begins, and whose number may not be known yet; NULL */
static PROCESS_LOCAL u64 child_calls_at; /* where its first call is made */
PROCESS_LOCAL struct block *blocks;
u32 fpu_size;

struct block *block_of(const struct stub *stub)
{
	return &blocks[stub - stubs];
}

u64 block_offset(const struct stub *stub)
{
	return (u64)(stub - stubs) * sizeof(struct block);
}

u64 slot_at(const struct stub *stub)
{
	return STUB - (u64)stub->slot * SLOT_SIZE;
}

/* -- waiting -- */

static void runs(struct stub *stub)
{
	if (running_count == ARRAY_SIZE(running))
		fail("too many processes run");
	stub->runs = true;
	running[running_count++] = stub;
}

static void waits(struct stub *stub)
{
	for (u32 i = 0; i < running_count; i++)
		if (running[i] == stub)
			running[i] = running[--running_count];
	stub->runs = false;
}

static void lost(struct stub *stub)
{
	stub->gone = true;
	waits(stub);
}

static void reap(void)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		for (struct stub *stub = stubs; stub <= last; stub++)
			if (stub->used && stub->pid == pid)
				lost(stub);
}

static struct stub *caller_of(const struct seccomp_notif *call)
{
	for (u32 i = 0; i < running_count; i++)
		if (running[i]->pid == (pid_t)call->pid)
			return running[i];
	return child && !child->pid && call->data.instruction_pointer == child_calls_at ? child : NULL;
}

bool stubs_signalled(void)
{
	struct notify_signals came = notify_signals();

	if (came.child)
		reap();
	if (came.tick)
		cpus_tick();
	return came.child || came.tick;
}

bool stubs_receive(void)
{
	struct seccomp_notif call;
	struct stub *stub;

	if (!notify_receive(&call))
		return stubs_signalled();
	stub = caller_of(&call);
	if (!stub) {
		notify_refuse(call.id); /* no other one runs */
		return true;
	}
	stub->call = call;
	stub->id = call.id;
	if (stub->since)
		stub->stretch = (stub->stretch + clock_nanoseconds(CLOCK_IS_MONOTONIC) - stub->since) / 2;
	waits(stub);
	return true;
}

/* Wait until this process makes a call; false: it is gone. */
static bool await(struct stub *stub)
{
	while (stub->runs)
		stubs_receive();
	return !stub->gone;
}

/* -- answers -- */

/*
 * One that computes beside others continues on a CPU of its own, one that makes calls where the core is: to wake another CPU
 * takes longer than most calls.
 */
static bool answer(struct stub *stub, u64 value)
{
	const bool beside = running_count, computes = stub->stretch > COMPUTES;

	stub->since = beside ? clock_nanoseconds(CLOCK_IS_MONOTONIC) : 0;
	runs(stub);
	if (!(beside && computes ? notify_answer_elsewhere : notify_answer)(stub->id, value))
		lost(stub);
	return !stub->gone;
}

static bool approve(struct stub *stub)
{
	runs(stub);
	if (!notify_approve(stub->id))
		lost(stub);
	return !stub->gone;
}

void stub_kill(struct stub *stub)
{
	notify_refuse(stub->id);
	stub->gone = true;
}

bool stub_answer_call(struct stub *stub, u64 value)
{
	return answer(stub, value);
}

/* -- reports -- */

static bool has_reported(const struct stub *stub)
{
	return stub->call.data.instruction_pointer == stub_at(after_report);
}

bool is_in_stub(u64 rip)
{
	return rip >= STUB && rip < STUB + STUB_SIZE;
}

static u64 stack_of(const struct stub *stub)
{
	return slot_at(stub) + STUB_SIZE + CONTROL_SIZE;
}

static bool lies_in_stack(const struct stub *stub, u64 at, u64 size)
{
	return at >= stack_of(stub) && at <= stack_of(stub) + STACK_SIZE - size && !(at % 8);
}

static const void *stack_at(const struct stub *stub, u64 at)
{
	return block_of(stub)->stack + (at - stack_of(stub));
}

void stub_save_fpu(struct stub *stub, void *fpu)
{
	memcpy(fpu, stack_at(stub, stub->frame_fpu), fpu_size);
}

static void get_regs(struct regs *r, const greg_t *from, const struct seccomp_data *call)
{
	*r = (struct regs){
		.r15 = (u64)from[REG_R15], .r14 = (u64)from[REG_R14], .r13 = (u64)from[REG_R13], .r12 = (u64)from[REG_R12],
		.r11 = (u64)from[REG_R11], .r10 = (u64)from[REG_R10], .r9 = (u64)from[REG_R9], .r8 = (u64)from[REG_R8],
		.rax = (u64)from[REG_RAX], .rbx = (u64)from[REG_RBX], .rcx = (u64)from[REG_RCX], .rdx = (u64)from[REG_RDX],
		.rsi = (u64)from[REG_RSI], .rdi = (u64)from[REG_RDI], .rbp = (u64)from[REG_RBP], .rsp = (u64)from[REG_RSP],
		.rip = (u64)from[REG_RIP], .flags = (u64)from[REG_EFL], .fs_base = call->args[3], .gs_base = call->args[4],
	};
}

bool stub_read_report(struct stub *stub, struct regs *regs, struct report *report)
{
	enum { CONTEXT_SIZE = sizeof(greg_t) * (NGREG + 1), CONTEXT_AT = 40 };
	const struct seccomp_data *data = &stub->call.data;
	const u64 *args = data->args, info = args[1], context = args[2];
	u64 content[NGREG + 1];

	stub->in_call = false;
	if (has_reported(stub) && lies_in_stack(stub, info, sizeof(report->info)) &&
	    lies_in_stack(stub, context, CONTEXT_AT + CONTEXT_SIZE)) {
		memcpy(&report->info, stack_at(stub, info), sizeof(report->info));
		memcpy(content, stack_at(stub, context + CONTEXT_AT), CONTEXT_SIZE);
		report->signal = (int)args[0];
		report->error = content[REG_ERR];
		stub->frame_fpu = content[NGREG];
		if (!is_in_stub(content[REG_RIP])) /* otherwise these are the stub's, which could not load the program's */
			get_regs(regs, (const greg_t *)content, data);
		if (lies_in_stack(stub, stub->frame_fpu, fpu_size) && !(stub->frame_fpu % 64))
			return true;
	}
	stub_kill(stub);
	return false;
}

void stub_stop(struct stub *stub)
{
	struct regs *regs = stub->owner;
	struct report report;
	u64 rax, rip;

	if (!stub->in_call || stub->gone)
		return;
	notify_interrupt(stub->pid);
	if (!answer(stub, 0))
		return;
	rax = regs->rax, rip = regs->rip;
	if (await(stub))
		stub_read_report(stub, regs, &report);
	regs->rax = rax, regs->rip = rip;
}

/* -- calls of the stub -- */

/* Approve the calls that the stub makes after an answer. */
static bool make_calls(struct stub *stub, u32 count)
{
	const struct stub_call *calls = block_of(stub)->control.calls;
	const struct seccomp_data *data = &stub->call.data;

	for (u32 i = 0; i < count; i++) {
		if (!await(stub))
			return false;
		if (data->instruction_pointer != stub_at(after_call) || (u64)data->nr != calls[i].number ||
		    memcmp(data->args, calls[i].args, sizeof(calls[i].args))) {
			stub_kill(stub);
			return false;
		}
		if (!approve(stub))
			return false;
	}
	return !stub->gone;
}

bool stub_go_on(struct stub *stub, const struct stub_call *calls, u32 count, u32 then)
{
	memcpy(block_of(stub)->control.calls, calls, count * sizeof(*calls));
	return answer(stub, count | then << 8) && make_calls(stub, count);
}

bool stub_await_idle(struct stub *stub)
{
	if (!await(stub))
		return false;
	if (!has_reported(stub) || stub->call.data.args[0])
		stub_kill(stub);
	return !stub->gone;
}

/* -- new ones -- */

struct stub *stub_new(void)
{
	for (struct stub *stub = stubs + 1; stub <= stubs + STUBS; stub++)
		if (!stub->used) {
			last = stub > last ? stub : last;
			*stub = (struct stub){ .used = true };
			return stub;
		}
	return NULL;
}

void stub_free(struct stub *stub)
{
	stub_stop(stub);
	if (!stub->gone)
		stub_kill(stub);
	stub->used = false;
	madvise(block_of(stub), sizeof(struct block), MADV_REMOVE);
}

/* The parent has called clone(), and runs as the new one does. Wait until it has reported its number, and that calls. */
static bool await_both(struct stub *parent, struct stub *new)
{
	const struct seccomp_data *data = &parent->call.data;

	runs(new);
	if (!approve(parent) || !await(parent) || !has_reported(parent) || data->args[0] || (s64)data->args[1] <= 0)
		return false;
	if (!new->runs) /* it was faster */
		return (pid_t)new->call.pid == (pid_t)data->args[1] && (new->pid = (pid_t)data->args[1]);
	new->pid = (pid_t)data->args[1];
	return await(new);
}

bool stub_clone(struct stub *parent, struct stub *new, const struct birth *birth)
{
	const u64 flags = birth->then == THEN_FORK ? FORK_FLAGS : THREAD_FLAGS;
	const u64 args[6] = { flags, 0, 0, 0, 0, block_of(parent)->control.child };
	bool good;

	if (!await(parent))
		return false;
	if (parent->call.data.instruction_pointer != stub_at(after_fork) ||
	    memcmp(parent->call.data.args, args, sizeof(args))) {
		stub_kill(parent);
		return false;
	}
	child = new;
	child_calls_at = birth->at;
	good = await_both(parent, new);
	child = NULL;
	if (new->runs)
		waits(new);
	if (!good || memcmp(new->call.data.args, birth->args, sizeof(birth->args)) || !approve(new))
		return false;
	return make_calls(new, birth->count) && stub_await_idle(new);
}

void stubs_prepare(void)
{
	stubs = last = memory_private((STUBS + 1) * sizeof(*stubs));
}

struct stub *stub_first(pid_t pid)
{
	*stubs = (struct stub){ .used = true, .pid = pid };
	runs(stubs);
	return stub_await_idle(stubs) ? stubs : NULL;
}
