// SPDX-License-Identifier: Apache-2.0
/* Starts the program, and answers what it stops for until it ends. */
#include "core.h"

static struct process process;

static void limits_init(struct process *p)
{
	enum { STACK = 3, CORE = 4, NOFILE = 7 };

	for (u32 i = 0; i < RLIMITS; i++)
		p->limits[i] = (struct rlimit){ ~0ull, ~0ull };
	p->limits[STACK].current = STACK_SIZE;
	p->limits[CORE].current = 0;
	p->limits[NOFILE] = (struct rlimit){ FDS, FDS };
}

const char *core_start(const struct core_config *config)
{
	struct process *p = &process;
	struct image image;
	const char *error;

	bytes_zero(p, sizeof(*p));
	p->config = config;
	p->ops = config->ops;
	p->umask = 022;
	limits_init(p);
	files_init(p);
	if (mm_init(&p->mm, config))
		return "the sandbox has too little memory";
	error = elf_load(&p->mm, config->program, config->program_size, &image);
	if (error)
		return error;
	error = stack_build(&p->mm, config, &image, &p->regs.rsp);
	if (error)
		return error;
	p->mm.heap = p->mm.brk = image.end;
	p->regs.rip = image.entry;
	return NULL;
}

static s64 dispatch(struct process *p, u64 number, const u64 *args)
{
	if (number < SYSCALLS && syscalls[number].call)
		return syscalls[number].call(p, args);
	p->unknown[number < SYSCALLS ? number : SYSCALLS - 1]++;
	return -ENOSYS;
}

static void answer(struct process *p, const struct event *event)
{
	struct regs *r = &p->regs;
	u64 number = event->foreign ? SYSCALLS - 1 : r->rax & 0xffffffff; /* of which Linux takes 32 bits */
	const u64 args[6] = { r->rdi, r->rsi, r->rdx, r->r10, r->r8, r->r9 };
	s64 result = dispatch(p, number, args);

	if (p->config->strace)
		strace_call(p, number, args, result);
	r->rax = (u64)result;
}

struct core_exit core_run(void)
{
	struct process *p = &process;
	struct event event;

	while (!p->ended) {
		p->ops->run(&p->regs, &event);
		if (event.kind == EVENT_SYSCALL)
			answer(p, &event);
		else if (event.kind == EVENT_SIGNAL)
			signal_force(p, event.signal);
		else if (mm_fault(&p->mm, event.address) == -EFAULT)
			signal_force(p, SIGSEGV);
		if (p->mm.exhausted) {
			log_text(p, "the sandbox is out of memory: the program is killed\n");
			signal_force(p, SIGKILL);
		}
	}
	if (p->config->strace)
		strace_unknown(p);
	return p->exit;
}
