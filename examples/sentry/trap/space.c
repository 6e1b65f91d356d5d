// SPDX-License-Identifier: Apache-2.0
/*
 * Address spaces.  Each is a process of the host, or several that share it, one for each CPU at most: the tasks of a
 * program take turns in them.
 *
 * What the core changes in an address space is carried out by the stub, before one of its programs continues.  Where
 * another one runs meanwhile, it no longer sees what is unmapped when unmap returns.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/ucontext.h>

#include "below.h"
#include "trap.h"

const char platform_program[] = "pyvmm-sentry-trap";
const bool platform_stops = true;

enum { PAGE = 4096, SOFTWARE_AT = 464, XSTATE_MAGIC = 0x46505853 };

struct space {
	struct stub *stubs; /* NULL: a program that runs here begins with an empty address space */
	u64 slots; /* that they have */
	u32 count; /* of calls to make before a program continues */
	struct stub_call calls[CALLS];
};

static struct space *spaces; /* SPACES, behind one without a program; their content belongs to this process */
static bool used[SPACES + 1];
static u64 fpu_features;
static u64 written; /* the page that a program wanted to write to last */

/* -- changes of an address space, and the process that makes them -- */

static bool is_ready(const struct stub *stub)
{
	return !stub->cpu && !stub->gone;
}

/* A process that runs no program: best one that need not be stopped, otherwise one that is interrupted. NULL: none is left. */
static struct stub *servant(struct space *space)
{
	struct stub *found = NULL;

	for (struct stub *stub = space->stubs; stub; stub = stub->next)
		if (is_ready(stub) && (!found || found->in_call))
			found = stub;
	for (struct stub *stub = space->stubs; stub && !found; stub = stub->next)
		if (!stub->gone) {
			cpu_stop(stub->cpu);
			found = is_ready(stub) ? stub : NULL;
		}
	if (found)
		stub_stop(found);
	return found;
}

static bool is_running(const struct space *space)
{
	for (const struct stub *stub = space->stubs; stub; stub = stub->next)
		if (stub->cpu && !stub->gone)
			return true;
	return false;
}

/* If the host has refused a change, no program here continues: it might see what is no longer its own. */
static bool keep(struct space *space, const struct stub *stub)
{
	if (!stub->gone)
		return true;
	for (struct stub *other = space->stubs; other; other = other->next) {
		if (other->cpu && !other->gone)
			cpu_stop(other->cpu);
		stub_stop(other);
		if (!other->gone)
			stub_kill(other);
	}
	return false;
}

static bool go_on(struct space *space, struct stub *stub, u32 then)
{
	const u32 count = space->count;

	space->count = 0;
	stub_go_on(stub, space->calls, count, then);
	return keep(space, stub);
}

/* Make the calls, and start a process like the one that makes them. */
static bool copy_stub(struct space *space, struct stub *parent, struct stub *new, const struct birth *birth)
{
	if (!go_on(space, parent, birth->then))
		return false;
	if (stub_clone(parent, new, birth))
		return true;
	keep(space, parent);
	return false;
}

/* Make the calls, and wait until they are done. */
static bool finish(struct space *space, struct stub *stub)
{
	if (!go_on(space, stub, THEN_REPORT))
		return false;
	stub_await_idle(stub);
	return keep(space, stub);
}

/* The same now, by any process. */
static void settle(struct space *space)
{
	struct stub *stub = servant(space);

	if (stub)
		finish(space, stub);
	else
		space->count = 0;
}

/* Before a program continues, a stub will make this call for a range of addresses. */
static void add_call(struct space *space, const struct stub_call *call)
{
	struct stub_call *calls = space->calls;
	const u64 start = call->args[0], size = call->args[1];
	u32 count = 0;

	for (u32 i = 0; i < space->count; i++) /* what this one replaces is not needed any more */
		if (calls[i].args[0] - start >= size || calls[i].args[0] - start + calls[i].args[1] > size)
			calls[count++] = calls[i];
	space->count = count;
	if (count == CALLS)
		settle(space);
	calls[space->count++] = *call;
}

void space_writes(u64 address)
{
	written = address & -(u64)PAGE;
}

static void add_mapping(struct space *space, u64 address, u64 ram_offset, u64 size, u32 prot, u32 fd)
{
	const struct stub_call call = { SYS_mmap, { address, size, prot, MAP_SHARED | MAP_FIXED, fd, ram_offset } };

	add_call(space, &call);
}

static int map(void *space, u64 address, u64 ram_offset, u64 size, u32 prot)
{
	if (prot & PROT_WRITE && written - address < size) {
		const u64 page = ram_offset + written - address;

		if (page_is_shared(page))
			below_own(page, PAGE);
		else
			below_take(page);
	}
	for (u64 at = 0, part; at < size; at += part) {
		bool below;

		part = below_show(ram_offset + at, size - at, &below);
		if (below)
			add_mapping(space, address + at, ram_offset + at, part, prot & ~(u32)PROT_WRITE, BELOW_FD);
		else
			add_mapping(space, address + at, ram_offset + at, part, prot, RAM_FD);
	}
	return 0;
}

static void unmap(void *space, u64 address, u64 size)
{
	const struct stub_call call = { SYS_munmap, { address, size } };

	add_call(space, &call);
	if (is_running(space))
		settle(space);
}

/* -- processes -- */

static void add_stub(struct space *space, struct stub *stub)
{
	cpu_clocks_read(&stub->clocks, stub->pid);
	stub->next = space->stubs;
	space->stubs = stub;
	space->slots |= 1ull << stub->slot;
}

/* The first calls of a process that is copied: to map its own block instead of that of its parent, and no others. */
static u32 prepare_block(const struct space *from, struct stub *stub)
{
	struct control *control = &block_of(stub)->control;
	u32 count = 0;

	control->features = fpu_features;
	control->calls[count++] = (struct stub_call){
		SYS_mmap, { slot_at(stub) + STACK - STUB, STACK_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, CONTROL_FD,
			    block_offset(stub) + CONTROL_SIZE },
	};
	for (const struct stub *other = from->stubs; other; other = other->next)
		if (other->slot != stub->slot)
			control->calls[count++] = (struct stub_call){
				SYS_munmap, { slot_at(other) + CONTROL - STUB, STUB_END - CONTROL },
			};
	control->first = count;
	return count;
}

/* Fork a process by its stub. The new one then waits in a report. */
static bool copy_process(struct space *from, struct stub *stub)
{
	struct stub *parent = servant(from);
	struct birth birth;

	if (!parent)
		return false;
	stub->slot = parent->slot;
	birth = (struct birth){
		THEN_FORK, stub_at(after_child), prepare_block(from, stub),
		{ slot_at(stub) + CONTROL - STUB, CONTROL_SIZE, PROT_READ, MAP_SHARED | MAP_FIXED, CONTROL_FD, block_offset(stub) },
	};
	block_of(parent)->control.child = block_offset(stub);
	return copy_stub(from, parent, stub, &birth);
}

static bool add_first(struct space *space, struct space *from)
{
	struct stub *stub = stub_new();

	if (!stub)
		return false;
	if (!copy_process(from->stubs ? from : spaces, stub)) {
		stub->used = false;
		return false;
	}
	*space = (struct space){ 0 };
	add_stub(space, stub);
	return true;
}

static void *space_new(u64 tables, void *from, bool copy)
{
	u32 number = 1;

	(void)tables;
	while (used[number])
		if (++number > SPACES)
			return NULL;
	if (!add_first(spaces + number, copy ? from : spaces))
		return NULL;
	used[number] = true;
	return spaces + number;
}

static void space_free(void *which)
{
	struct space *space = which;

	for (struct stub *stub = space->stubs, *next; stub; stub = next) {
		next = stub->next;
		stub_free(stub);
	}
	space->stubs = NULL;
	used[space - spaces] = false;
}

/* One more process in an address space; NULL: there are too many. */
static struct stub *add_process(struct space *space)
{
	struct stub *parent = servant(space), *stub = parent ? stub_new() : NULL;
	const u64 read_only = PROT_READ, shared = MAP_SHARED | MAP_FIXED;
	struct birth birth = { THEN_THREAD, stub_at(after_altstack), 0, { 0 } };
	struct control *control;

	if (!stub)
		return NULL;
	stub->slot = (u32)__builtin_ctzll(~space->slots);
	control = &block_of(stub)->control;
	control->features = fpu_features;
	control->altstack = (stack_t){ .ss_sp = (void *)(slot_at(stub) + STACK - STUB), .ss_size = STACK_SIZE };
	birth.args[0] = slot_at(stub) + CONTROL - STUB + CONTROL_ALTSTACK;
	birth.args[5] = slot_at(stub); /* left from the parent's call */
	block_of(parent)->control.child = slot_at(stub);
	add_call(space, &(struct stub_call){ SYS_mmap, { slot_at(stub) + CONTROL - STUB, CONTROL_SIZE, read_only, shared, CONTROL_FD,
							 block_offset(stub) } });
	add_call(space, &(struct stub_call){ SYS_mmap, { slot_at(stub) + STACK - STUB, STACK_SIZE, PROT_READ | PROT_WRITE, shared,
							 CONTROL_FD, block_offset(stub) + CONTROL_SIZE } });
	if (!copy_stub(space, parent, stub, &birth)) {
		stub->used = false;
		return NULL;
	}
	add_stub(space, stub);
	return stub;
}

/* -- the program -- */

static void leave_program(struct stub *stub, void *fpu)
{
	stub_stop(stub);
	if (!stub->gone)
		stub_save_fpu(stub, fpu);
	stub->owner = NULL;
}

void spaces_leave(void)
{
	for (u32 i = 1; i <= SPACES; i++)
		for (struct stub *stub = used[i] ? spaces[i].stubs : NULL; stub; stub = stub->next)
			if (stub->owner)
				leave_program(stub, stub->fpu);
}

static void flush(void *which, struct regs *regs, void *fpu)
{
	for (struct stub *stub = ((struct space *)which)->stubs; stub; stub = stub->next)
		if (stub->owner == regs)
			leave_program(stub, fpu);
}

struct stub *space_stub(void *which, const struct regs *regs)
{
	struct space *space = which;
	struct stub *found = NULL, *added;
	u32 count = 0;

	if (!space->stubs && !add_first(space, spaces))
		return NULL;
	for (struct stub *stub = space->stubs; stub; stub = stub->next, count++) {
		if (stub->owner == regs)
			return stub;
		if (is_ready(stub) && (!found || (found->owner && !stub->owner)))
			found = stub;
	}
	if (!(found && !found->owner) && count < cpu_count) {
		added = add_process(space);
		found = added ? added : found;
	}
	if (found && found->owner)
		leave_program(found, found->fpu);
	return found;
}

/* What the stub loads before the program continues. */
static void load(struct stub *stub, const struct regs *r, void *fpu)
{
	struct control *c = &block_of(stub)->control;

	if (stub->owner == r) {
		c->fpu = stub->frame_fpu;
	} else {
		memcpy(block_of(stub)->state, fpu, fpu_size);
		c->fpu = slot_at(stub) + CONTROL - STUB + CONTROL_STATE;
	}
	c->r15 = r->r15, c->r14 = r->r14, c->r13 = r->r13, c->r12 = r->r12, c->rbp = r->rbp, c->rbx = r->rbx;
	c->r11 = r->r11, c->r10 = r->r10, c->r9 = r->r9, c->r8 = r->r8, c->rax = r->rax, c->rcx = r->rcx;
	c->rdx = r->rdx, c->rsi = r->rsi, c->rdi = r->rdi, c->rip = r->rip, c->rsp = r->rsp, c->flags = r->flags;
	c->cs = 0x33, c->ss = 0x2b, c->fs_base = r->fs_base, c->gs_base = r->gs_base;
}

bool space_resume(void *which, struct stub *stub, struct regs *regs, void *fpu)
{
	struct space *space = which;

	if (stub->in_call && stub->owner == regs && stub->call_rip == regs->rip && !space->count)
		return stub_answer_call(stub, regs->rax);
	stub_stop(stub);
	/* What comes next may be done by another process. It must not overtake these changes. */
	if (stub->gone || (space->count && space->stubs->next && !finish(space, stub)))
		return false;
	load(stub, regs, fpu);
	stub->owner = regs;
	stub->fpu = fpu;
	return go_on(space, stub, THEN_RUN);
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

void platform_prepare(void)
{
	probe_cpu();
	stubs_prepare();
	spaces = memory_private((SPACES + 1) * sizeof(*spaces));
}

void platform_start(int ram, struct platform_ops *ops, struct core_config *config)
{
	const u64 size = sizeof(*blocks) * (STUBS + 1);
	const int fd = memory_create("sentry-blocks", size);
	const struct stub_call all = { SYS_munmap, { 0, STUB } };
	static const char ended[] = "the first process for programs has ended";
	struct listener listener;
	struct stub *first;

	blocks = memory_map(fd, size);
	listener = stub_start(ram, fd);
	close(fd);
	notify_init(listener.fd);
	first = stub_first(listener.first);
	if (!first)
		fail(ended);
	blocks[0].control.features = fpu_features;
	used[0] = true;
	add_stub(spaces, first);
	add_call(spaces, &all);
	settle(spaces);
	if (first->gone)
		fail(ended);
	config->fpu_size = fpu_size;
	config->fpu_features = fpu_features;
	ops->space_new = space_new, ops->space_free = space_free, ops->flush = flush, ops->map = map, ops->unmap = unmap;
	cpus_init(ops, config->cpus);
	watcher_start();
	leave_rseq();
}

u32 platform_rules(const struct rule **rules)
{
	static const struct rule own[] = {
		{ SYS_ioctl, 1, (u32)SECCOMP_IOCTL_NOTIF_RECV }, { SYS_ioctl, 1, (u32)SECCOMP_IOCTL_NOTIF_SEND },
		{ SYS_ioctl, 1, (u32)SECCOMP_IOCTL_NOTIF_SET_FLAGS },
		{ SYS_tgkill, 2, SIGURG }, /* which programs ignore, unless they expect it */
		{ SYS_wait4, -1, 0 },
	};

	*rules = own;
	return ARRAY_SIZE(own);
}
