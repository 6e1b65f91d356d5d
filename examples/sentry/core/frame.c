// SPDX-License-Identifier: Apache-2.0
/* What Linux puts on a program's stack for a handler of a signal, and takes from there afterwards. */
#include "core.h"

enum { UC_FP_XSTATE = 1, UC_SIGCONTEXT_SS = 2, UC_STRICT_RESTORE_SS = 4 };
enum { USER_CODE = 0x33, USER_DATA = 0x2b, RED_ZONE = 128, SOFTWARE_AT = 464, HEADER_AT = 512, MXCSR_AT = 24 };
enum { MAGIC_1 = 0x46505853, MAGIC_2 = 0x46505845 };
#define SA_ONSTACK 0x08000000u
#define SA_RESTORER 0x04000000u
/* What a program may have in its flags: as RESTORE_ALL_MASK of Linux. */
#define FLAGS_FIXED 0x202ull
#define FLAGS_OWN 0x50dd5ull /* CF PF AF ZF SF TF DF OF RF AC */
#define FLAGS_FOR_HANDLER (~0x10500ull) /* without RF, DF, TF */

struct context {
	u64 flags, link;
	struct sigaltstack stack;
	u64 r8, r9, r10, r11, r12, r13, r14, r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip, eflags;
	u16 cs, gs, fs, ss;
	u64 error, trap, old_mask, address, fpu, reserved[8];
	u64 blocked;
};

struct frame {
	u64 return_to;
	struct context context;
	u64 info[16];
};

struct software {
	u32 magic, extended_size;
	u64 features;
	u32 size, pad[7];
};

_Static_assert(sizeof(struct context) == 304 && sizeof(struct frame) == 440, "as the kernel has them");
_Static_assert(sizeof(struct software) == 48, "as the kernel has it");

bool is_on_altstack(const struct task *t)
{
	const struct sigaltstack *stack = &t->altstack;
	u64 rsp = t->regs.rsp;

	return !((u32)stack->flags & SS_AUTODISARM) && rsp > stack->stack && rsp - stack->stack <= stack->size;
}

static int push_fpu(struct task *t, u64 to)
{
	const u32 size = core.config->fpu_size;
	struct software software = {
		.magic = MAGIC_1, .extended_size = size + 4, .features = core.config->fpu_features, .size = size,
	};
	u32 end = MAGIC_2;
	u8 *fpu = t->fpu;

	bytes_copy(fpu + SOFTWARE_AT, &software, sizeof(software));
	if (user_write(t->mm, to, fpu, size) || user_write(t->mm, to + size, &end, sizeof(end)))
		return -EFAULT;
	return 0;
}

static void fill_context(struct task *t, struct context *c)
{
	const struct regs *r = &t->regs;

	*c = (struct context){
		.flags = UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS, .stack = t->altstack,
		.r8 = r->r8, .r9 = r->r9, .r10 = r->r10, .r11 = r->r11, .r12 = r->r12, .r13 = r->r13, .r14 = r->r14,
		.r15 = r->r15, .rdi = r->rdi, .rsi = r->rsi, .rbp = r->rbp, .rbx = r->rbx, .rdx = r->rdx, .rax = r->rax,
		.rcx = r->rcx, .rsp = r->rsp, .rip = r->rip, .eflags = r->flags, .cs = USER_CODE, .ss = USER_DATA,
		.error = t->trap.error, .trap = t->trap.number, .address = t->trap.address,
	};
	c->stack.pad = 0;
	if (!t->altstack.size)
		c->stack.flags = SS_DISABLE;
}

int frame_push(struct task *t, const struct sigaction *action, const struct siginfo *info, u64 blocked)
{
	struct regs *r = &t->regs;
	struct frame frame = { .return_to = action->restorer };
	u64 rsp, fpu, at;
	bool is_on, switches;

	if (!(action->flags & SA_RESTORER))
		return -EFAULT;
	task_flush(t);
	is_on = is_on_altstack(t);
	switches = action->flags & SA_ONSTACK && t->altstack.size && !is_on;
	rsp = switches ? t->altstack.stack + t->altstack.size : r->rsp - RED_ZONE;
	fpu = (rsp - core.config->fpu_size - 4) & -64ull;
	at = ((fpu - sizeof(frame)) & -16ull) - 8;
	if ((switches || is_on) && (at <= t->altstack.stack || at > rsp))
		return -EFAULT;
	fill_context(t, &frame.context);
	frame.context.fpu = fpu;
	frame.context.blocked = frame.context.old_mask = blocked;
	bytes_copy(frame.info, info, sizeof(*info));
	if (push_fpu(t, fpu) || user_write(t->mm, at, &frame, sizeof(frame)))
		return -EFAULT;
	if ((u32)t->altstack.flags & SS_AUTODISARM)
		t->altstack = (struct sigaltstack){ .pad = SS_DISABLE };
	r->rdi = (u64)info->signal;
	r->rsi = at + __builtin_offsetof(struct frame, info);
	r->rdx = at + __builtin_offsetof(struct frame, context);
	r->rax = 0;
	r->rip = action->handler;
	r->rsp = at;
	r->flags &= FLAGS_FOR_HANDLER;
	return 0;
}

/* The CPU must be able to load the result, whatever the program has written there. */
static int pop_fpu(struct task *t, u64 from)
{
	const u32 size = core.config->fpu_size;
	struct software software;
	u8 *fpu = t->fpu;
	u32 end = 0;
	u64 *header = (u64 *)(fpu + HEADER_AT);

	fpu_reset(fpu);
	if (!from)
		return 0;
	if (user_read(t->mm, &software, from + SOFTWARE_AT, sizeof(software)))
		return -EFAULT;
	if (software.magic != MAGIC_1 || software.size > size || software.size < HEADER_AT + 64 ||
	    software.extended_size != software.size + 4 || user_read(t->mm, &end, from + software.size, sizeof(end)) ||
	    end != MAGIC_2)
		software.size = HEADER_AT; /* what FXSAVE has */
	if (user_read(t->mm, fpu, from, software.size))
		return -EFAULT;
	header[0] = software.size == HEADER_AT ? 3 : header[0] & software.features & core.config->fpu_features;
	for (u32 i = 1; i < 8 && size >= HEADER_AT + 64; i++)
		header[i] = 0;
	*(u32 *)(fpu + MXCSR_AT) &= 0xffff;
	return 0;
}

int frame_pop(struct task *t, u64 *blocked)
{
	struct regs *r = &t->regs;
	struct context c;

	task_flush(t);
	if (user_read(t->mm, &c, r->rsp, sizeof(c)) || pop_fpu(t, c.fpu))
		return -EFAULT;
	r->r8 = c.r8, r->r9 = c.r9, r->r10 = c.r10, r->r11 = c.r11, r->r12 = c.r12, r->r13 = c.r13, r->r14 = c.r14;
	r->r15 = c.r15, r->rdi = c.rdi, r->rsi = c.rsi, r->rbp = c.rbp, r->rbx = c.rbx, r->rdx = c.rdx, r->rax = c.rax;
	r->rcx = c.rcx, r->rsp = c.rsp, r->rip = c.rip;
	r->flags = (c.eflags & FLAGS_OWN) | FLAGS_FIXED;
	*blocked = c.blocked;
	c.stack.pad = 0;
	if (!((u32)c.stack.flags & SS_DISABLE) && c.stack.size >= MINSIGSTKSZ)
		t->altstack = (struct sigaltstack){ c.stack.stack, c.stack.flags & (s32)SS_AUTODISARM, c.stack.flags, c.stack.size };
	else
		t->altstack = (struct sigaltstack){ .flags = 0 };
	return 0;
}
