// SPDX-License-Identifier: Apache-2.0
/*
 * Address spaces, each of which is a process of the host whose threads take turns.
 *
 * A process runs, or waits in a system call until this one answers it: one of the program, or a report of the stub.
 * Either way the host's kernel holds it.  What the core changes in an address space meanwhile is carried out by the
 * stub before the program's next instruction; a call of the stub that fails ends the process.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/audit.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/ucontext.h>
#include <sys/wait.h>
#include <unistd.h>

#include "trap.h"

const char platform_program[] = "pyvmm-sentry-trap";

enum { SPACES = 4096, PAGE = 4096, SOFTWARE_AT = 464, XSTATE_MAGIC = 0x46505853 };

struct space {
	pid_t pid;
	bool used, gone;
	bool in_call;	    /* of the program, otherwise in a report of the stub */
	u64 id;		    /* of the call that waits for an answer */
	u64 call_rip;	    /* where the program continues after it */
	struct regs *owner; /* of the registers and of the FPU's state that the process has; NULL: nobody's */
	void *fpu;
	u64 frame_fpu;	    /* where the stub has that state, if it reports */
	u32 calls;	    /* to make before the program continues */
};

/* What a report or a call is about. */
struct report {
	int signal;
	siginfo_t info;
	u64 error; /* of a page fault */
};

static struct space spaces[SPACES + 1]; /* the first runs no program: others are made of it */
static struct space *last = spaces;	/* of those that were ever in use */
static struct block *blocks;
static u32 fpu_size;
static u64 fpu_features;

static struct block *block_of(const struct space *space)
{
	return &blocks[space - spaces];
}

/* -- waiting -- */

static void reap(void)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		for (struct space *space = spaces; space <= last; space++)
			if (space->used && space->pid == pid)
				space->gone = true;
}

/* Wait for a call of this process, or of its new child if that is not NULL. false: it is gone, or the child is. */
static bool await(struct space *space, struct seccomp_notif *call, bool preempt, const struct space *child)
{
	while (!space->gone && !(child && child->gone)) {
		struct notify_signals came;

		if (notify_receive(call)) {
			const bool is_new = call->data.instruction_pointer == stub_at(after_child);

			if ((pid_t)call->pid == space->pid || (child && (child->pid ? (pid_t)call->pid == child->pid : is_new)))
				return true;
			notify_refuse(call->id); /* no other one runs */
			continue;
		}
		came = notify_signals();
		if (came.child)
			reap();
		if (came.tick && preempt && !space->gone)
			notify_interrupt(space->pid);
	}
	return false;
}

/* The stub ends the process when its call fails; the program's code does not run again. */
static void end(struct space *space, u64 id)
{
	notify_refuse(id);
	space->gone = true;
}

/* -- reports -- */

static bool is_report(const struct seccomp_notif *call)
{
	return call->data.instruction_pointer == stub_at(after_report);
}

static bool lies_in_stack(u64 at, u64 size)
{
	return at >= STACK && at <= STUB_END - size && !(at % 8);
}

static const void *stack_at(const struct space *space, u64 at)
{
	return block_of(space)->stack + (at - STACK);
}

static bool is_in_stub(u64 rip)
{
	return rip >= STUB && rip < STUB + STUB_SIZE;
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

/*
 * Why the stub reports, and the program's registers; false: the program has made the report, and is ended.  All that is
 * read here lies in memory that the program can write to: it is copied once, and harms nobody but the program.
 */
static bool read_report(struct space *space, const struct seccomp_notif *call, struct regs *regs, struct report *report)
{
	enum { CONTEXT_SIZE = sizeof(greg_t) * (NGREG + 1), CONTEXT_AT = 40 };
	const u64 *args = call->data.args, info = args[1], context = args[2];
	u64 content[NGREG + 1];

	space->id = call->id;
	space->in_call = false;
	if (is_report(call) && lies_in_stack(info, sizeof(report->info)) && lies_in_stack(context, CONTEXT_AT + CONTEXT_SIZE)) {
		memcpy(&report->info, stack_at(space, info), sizeof(report->info));
		memcpy(content, stack_at(space, context + CONTEXT_AT), CONTEXT_SIZE);
		report->signal = (int)args[0];
		report->error = content[REG_ERR];
		space->frame_fpu = content[NGREG];
		if (!is_in_stub(content[REG_RIP])) /* otherwise these are the stub's, which could not load the program's */
			get_regs(regs, (const greg_t *)content, &call->data);
		if (lies_in_stack(space->frame_fpu, fpu_size) && !(space->frame_fpu % 64))
			return true;
	}
	end(space, call->id);
	return false;
}

/* Stop a program that waits in a call, to get the registers that did not come with it. The core keeps its result. */
static void stop(struct space *space)
{
	struct regs *regs = space->owner;
	struct seccomp_notif call;
	struct report report;
	u64 rax, rip;

	if (!space->in_call || space->gone)
		return;
	notify_interrupt(space->pid);
	if (!notify_answer(space->id, 0)) {
		space->gone = true;
		return;
	}
	rax = regs->rax, rip = regs->rip;
	if (await(space, &call, false, NULL))
		read_report(space, &call, regs, &report);
	regs->rax = rax, regs->rip = rip;
}

/* -- calls of the stub -- */

/* Approve the calls that the stub makes after this answer. */
static bool make_calls(struct space *space, u32 count)
{
	const struct stub_call *calls = block_of(space)->control.calls;
	struct seccomp_notif call;

	for (u32 i = 0; i < count; i++) {
		if (!await(space, &call, false, NULL))
			return false;
		if (call.data.instruction_pointer != stub_at(after_call) || (u64)call.data.nr != calls[i].number ||
		    memcmp(call.data.args, calls[i].args, sizeof(calls[i].args))) {
			end(space, call.id);
			return false;
		}
		if (!notify_approve(call.id))
			space->gone = true;
	}
	return !space->gone;
}

/* Answer the stub's report: it makes the calls that are due, and then does this. */
static bool go_on(struct space *space, u32 then)
{
	const u32 count = space->calls;

	space->calls = 0;
	if (!notify_answer(space->id, count | then << 8))
		space->gone = true;
	return make_calls(space, count);
}

/* Wait until the stub waits for more. */
static bool await_idle(struct space *space)
{
	struct seccomp_notif call;

	if (!await(space, &call, false, NULL))
		return false;
	space->id = call.id;
	if (!is_report(&call) || call.data.args[0])
		end(space, call.id);
	return !space->gone;
}

/* Before the program continues, the stub will make this call for a range of addresses. */
static void add_call(struct space *space, const struct stub_call *call)
{
	struct stub_call *calls = block_of(space)->control.calls;
	const u64 start = call->args[0], size = call->args[1];
	u32 count = 0;

	for (u32 i = 0; i < space->calls; i++) /* what this one replaces is not needed any more */
		if (calls[i].args[0] - start >= size || calls[i].args[0] - start + calls[i].args[1] > size)
			calls[count++] = calls[i];
	space->calls = count;
	if (count == CALLS) {
		stop(space);
		if (space->gone || !go_on(space, THEN_REPORT) || !await_idle(space))
			return;
	}
	calls[space->calls++] = *call;
}

static int map(void *space, u64 address, u64 ram_offset, u64 size, u32 prot)
{
	const struct stub_call call = { SYS_mmap, { address, size, prot, MAP_SHARED | MAP_FIXED, RAM_FD, ram_offset } };

	add_call(space, &call);
	return 0;
}

static void unmap(void *space, u64 address, u64 size)
{
	const struct stub_call call = { SYS_munmap, { address, size } };

	add_call(space, &call);
}

/* -- processes -- */

static struct space *space_find(void)
{
	for (struct space *space = spaces + 1; space <= spaces + SPACES; space++)
		if (!space->used) {
			last = space > last ? space : last;
			return space;
		}
	return NULL;
}

/* The first calls of a process that is copied: to map its own block instead of that of its parent. */
static void prepare_block(struct space *space, u64 offset)
{
	struct control *control = &block_of(space)->control;

	control->first = 1;
	control->features = fpu_features;
	control->calls[0] = (struct stub_call){
		SYS_mmap, { STACK, STACK_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, CONTROL_FD, offset + CONTROL_SIZE },
	};
}

/* Fork a process by its stub. The new one then waits in a report. */
static bool copy_process(struct space *from, struct space *space, u64 offset)
{
	const u64 fork_args[6] = { FORK_FLAGS, 0, 0, 0, 0, offset };
	const u64 map_args[6] = { CONTROL, CONTROL_SIZE, PROT_READ, MAP_SHARED | MAP_FIXED, CONTROL_FD, offset };
	struct seccomp_notif call;
	pid_t child_pid = 0;
	u64 child = 0;

	if (!go_on(from, THEN_FORK) || !await(from, &call, false, NULL))
		return false;
	if (call.data.instruction_pointer != stub_at(after_fork) || memcmp(call.data.args, fork_args, sizeof(fork_args))) {
		end(from, call.id);
		return false;
	}
	notify_approve(call.id);
	/* Both run at the same time. The new one waits until the other one has reported its number. */
	while (!space->pid || !child) {
		if (!await(from, &call, false, space))
			return false;
		if (is_report(&call) && (pid_t)call.pid == from->pid) {
			from->id = call.id;
			if (call.data.args[0] || (s64)call.data.args[1] <= 0)
				return false;
			space->pid = (pid_t)call.data.args[1];
		} else if (memcmp(call.data.args, map_args, sizeof(map_args))) {
			notify_refuse(call.id);
		} else {
			child = call.id;
			child_pid = (pid_t)call.pid;
		}
	}
	if (child_pid != space->pid || !notify_approve(child))
		return false;
	return make_calls(space, 1) && await_idle(space);
}

static void *space_new(u64 tables, void *from, bool copy)
{
	struct space *space = space_find(), *parent = copy ? from : spaces;
	const u64 offset = space ? (u64)(space - spaces) * sizeof(struct block) : 0;

	(void)tables;
	if (!space)
		return NULL;
	stop(parent);
	prepare_block(space, offset);
	block_of(parent)->control.child = offset;
	*space = (struct space){ .used = true };
	if (parent->gone || !copy_process(parent, space, offset)) {
		space->used = false;
		return NULL;
	}
	return space;
}

static void space_free(void *which)
{
	struct space *space = which;

	stop(space);
	if (!space->gone)
		end(space, space->id);
	space->used = false;
	madvise(block_of(space), sizeof(struct block), MADV_REMOVE);
}

/* -- the program -- */

static void save_fpu(struct space *space, void *fpu)
{
	memcpy(fpu, stack_at(space, space->frame_fpu), fpu_size);
}

static void flush(void *which, struct regs *regs, void *fpu)
{
	struct space *space = which;

	if (space->owner != regs)
		return;
	stop(space);
	if (!space->gone)
		save_fpu(space, fpu);
	space->owner = NULL;
}

/* What the stub loads before the program continues. */
static void load(struct space *space, const struct regs *r, void *fpu)
{
	struct control *c = &block_of(space)->control;

	if (space->owner == r) {
		c->fpu = space->frame_fpu;
	} else {
		if (space->owner)
			save_fpu(space, space->fpu);
		memcpy(block_of(space)->state, fpu, fpu_size);
		c->fpu = CONTROL + CONTROL_STATE;
	}
	c->r15 = r->r15, c->r14 = r->r14, c->r13 = r->r13, c->r12 = r->r12, c->rbp = r->rbp, c->rbx = r->rbx;
	c->r11 = r->r11, c->r10 = r->r10, c->r9 = r->r9, c->r8 = r->r8, c->rax = r->rax, c->rcx = r->rcx;
	c->rdx = r->rdx, c->rsi = r->rsi, c->rdi = r->rdi, c->rip = r->rip, c->rsp = r->rsp, c->flags = r->flags;
	c->cs = 0x33, c->ss = 0x2b, c->fs_base = r->fs_base, c->gs_base = r->gs_base;
}

/* Continue the program; false: it is gone. */
static bool resume(struct space *space, struct regs *regs, void *fpu)
{
	bool only_result = space->in_call && space->owner == regs && space->call_rip == regs->rip && !space->calls;

	if (only_result) {
		if (!notify_answer(space->id, regs->rax))
			space->gone = true;
		return !space->gone;
	}
	stop(space);
	if (space->gone)
		return false;
	load(space, regs, fpu);
	space->owner = regs;
	space->fpu = fpu;
	return go_on(space, THEN_RUN);
}

static void read_call(struct space *space, const struct seccomp_notif *call, struct regs *regs, struct event *event)
{
	const struct seccomp_data *data = &call->data;

	space->in_call = true;
	space->id = call->id;
	space->call_rip = regs->rip = data->instruction_pointer;
	regs->rax = (u64)data->nr;
	regs->rdi = data->args[0], regs->rsi = data->args[1], regs->rdx = data->args[2], regs->r10 = data->args[3];
	regs->r8 = data->args[4], regs->r9 = data->args[5];
	*event = (struct event){ .kind = EVENT_SYSCALL };
}

/* Why a program has stopped; false: not through the program. */
static bool classify(const struct report *report, struct event *event)
{
	enum { WRITE = 2, FETCH = 16 };
	const siginfo_t *info = &report->info;

	if (report->signal == SIGURG) {
		*event = (struct event){ .kind = EVENT_PREEMPTED };
		return true;
	}
	if (info->si_code <= 0)
		return false; /* sent by somebody on the host */
	if (report->signal == SIGSYS) {
		*event = (struct event){ .kind = EVENT_SYSCALL, .foreign = info->si_arch != AUDIT_ARCH_X86_64 };
		return true;
	}
	*event = (struct event){ .kind = EVENT_SIGNAL, .signal = report->signal, .code = info->si_code,
				 .address = (u64)info->si_addr };
	if (report->signal == SIGSEGV && info->si_code != SI_KERNEL) {
		event->kind = EVENT_FAULT;
		event->present = info->si_code != SEGV_MAPERR;
		event->access = report->error & FETCH ? ACCESS_EXEC : report->error & WRITE ? ACCESS_WRITE : ACCESS_READ;
	}
	return true;
}

static void run(void *which, struct regs *regs, void *fpu, bool preempt, struct event *event)
{
	struct space *space = which;
	struct seccomp_notif call;
	struct report report;
	bool done = false;

	if (notify_signals().child) /* a tick that came before the program runs is forgotten */
		reap();
	slice_timer(preempt);
	while (!done && resume(space, regs, fpu) && await(space, &call, preempt, NULL)) {
		if (!is_in_stub(call.data.instruction_pointer)) {
			read_call(space, &call, regs, event);
			done = true;
		} else if (read_report(space, &call, regs, &report)) {
			if (stub_handles(report.signal))
				done = classify(&report, event);
			else
				end(space, call.id);
		}
	}
	if (!done)
		*event = (struct event){ .kind = EVENT_SIGNAL, .signal = SIGKILL };
}

/* -- start -- */

/* How large the state of the FPU is that the host's kernel gives a handler, and which parts it has. */
static void on_probe(int signal, siginfo_t *info, void *context)
{
	const u8 *state = (const u8 *)((ucontext_t *)context)->uc_mcontext.fpregs;
	struct {
		u32 magic, extended_size;
		u64 features;
		u32 size;
	} software;

	(void)signal, (void)info;
	memcpy(&software, state + SOFTWARE_AT, sizeof(software));
	if (software.magic == XSTATE_MAGIC) {
		fpu_features = software.features;
		fpu_size = software.size;
	}
}

static void probe_cpu(void)
{
	const struct sigaction probe = { .sa_sigaction = on_probe, .sa_flags = SA_SIGINFO };
	const unsigned long has_bases = 2;

	sigaction(SIGURG, &probe, NULL);
	raise(SIGURG);
	signal(SIGURG, SIG_DFL);
	if (!(getauxval(AT_HWCAP2) & has_bases) || !fpu_size || fpu_size > CONTROL_SIZE - CONTROL_STATE)
		fail("the CPU or the host's kernel is too old: it needs FSGSBASE and XSAVE");
}

void platform_start(int ram, struct platform_ops *ops, struct core_config *config)
{
	const u64 size = sizeof(*blocks) * (SPACES + 1);
	const int fd = memory_create("sentry-blocks", size);
	const struct stub_call all = { SYS_munmap, { 0, STUB } };
	struct listener listener;

	probe_cpu();
	blocks = memory_map(fd, size);
	listener = stub_start(ram, fd);
	close(fd);
	notify_init(listener.fd);
	spaces[0] = (struct space){ .used = true, .pid = listener.first };
	if (!await_idle(spaces))
		fail("the first process for programs has ended");
	blocks[0].control.features = fpu_features;
	add_call(spaces, &all);
	if (!go_on(spaces, THEN_REPORT) || !await_idle(spaces))
		fail("the first process for programs has ended");
	config->fpu_size = fpu_size;
	config->fpu_features = fpu_features;
	ops->space_new = space_new, ops->space_free = space_free, ops->run = run, ops->flush = flush;
	ops->map = map, ops->unmap = unmap;
}

u32 platform_rules(const struct rule **rules)
{
	static const struct rule own[] = {
		{ SYS_ioctl, 1, (u32)SECCOMP_IOCTL_NOTIF_RECV }, { SYS_ioctl, 1, (u32)SECCOMP_IOCTL_NOTIF_SEND },
		{ SYS_tgkill, 2, SIGURG }, /* which programs ignore, unless they expect it */
		{ SYS_wait4, -1, 0 }, { SYS_madvise, 2, MADV_REMOVE },
	};

	*rules = own;
	return ARRAY_SIZE(own);
}
