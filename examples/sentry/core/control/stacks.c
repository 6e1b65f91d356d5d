// SPDX-License-Identifier: Apache-2.0
/* What the tasks of a container do in the core, for its maintainers (pyvmm-runsc debug --stacks). */
#include "../core.h"
#include "container.h"

enum { FRAMES_MOST = 32, TASK_MOST = 2048, ALL_MOST = 1 << 20 };

/* Where the functions return to that a task has called in the core, the last first; 0: its program runs. */
static u32 frames_of(const struct task *t, u64 *addresses, u32 most)
{
	enum { SAVED_RBP = 4, RETURN = 6 }; /* on the stack, as context_switch has left it */
	const u64 top = (u64)t->stack + STACK_BYTES, *at = (const u64 *)t->core_rsp;
	u64 below = (u64)at, frame = at[SAVED_RBP];
	u32 count = 0;

	if (t->state != TASK_SLEEPING && t->state != TASK_READY)
		return 0;
	addresses[count++] = at[RETURN];
	while (count < most && frame > below && frame % 8 == 0 && frame <= top - 16) {
		const u64 *saved = (const u64 *)frame;

		if (!saved[1])
			break;
		addresses[count++] = saved[1];
		below = frame;
		frame = saved[0];
	}
	return count;
}

/* On one line, whatever the program has put there. */
static void put_name(struct text *list, const struct task *t)
{
	for (u32 i = 0; i < sizeof(t->name) && t->name[i]; i++) {
		const char c = t->name[i] > ' ' && t->name[i] <= '~' ? t->name[i] : '?';

		text_bytes(list, &c, 1);
	}
}

static void put_value(struct text *list, u64 value)
{
	text_put(list, " 0x");
	text_hex(list, value, 1);
}

static void put_call(struct text *list, const struct task *t)
{
	const u64 args[] = { t->regs.rdi, t->regs.rsi, t->regs.rdx, t->regs.r10, t->regs.r8, t->regs.r9 };
	const struct syscall *call = t->number < SYSCALLS ? &syscalls[t->number] : NULL;

	text_put(list, "call ");
	if (call && call->name)
		text_put(list, call->name);
	else
		text_number(list, t->number);
	for (u32 i = 0; i < (call && call->name ? call->count : ARRAY_SIZE(args)); i++)
		put_value(list, args[i]);
	text_put(list, "\n");
}

static void put_task(struct text *list, const struct process *p, const struct task *t)
{
	static const char *const states[] = {
		[TASK_NEW] = " new ", [TASK_READY] = " ready ", [TASK_RUNNING] = " running ", [TASK_SLEEPING] = " sleeping ",
		[TASK_DEAD] = " dead ",
	};
	u64 frames[FRAMES_MOST];
	const u32 count = frames_of(t, frames, FRAMES_MOST);

	text_put(list, "task ");
	text_signed(list, p->pid);
	text_put(list, " ");
	text_signed(list, t->tid);
	text_put(list, states[t->state]);
	put_name(list, t);
	text_put(list, "\n");
	if (!count) /* its program runs: what is known of it is old */
		return;
	if (t->number != NO_CALL)
		put_call(list, t);
	text_put(list, "program");
	put_value(list, t->regs.rip);
	put_value(list, t->regs.rsp);
	text_put(list, "\nframes");
	for (u32 i = 0; i < count; i++)
		put_value(list, frames[i]);
	text_put(list, "\n");
}

void stacks_put(struct text *list, const struct container *container)
{
	text_put(list, "core");
	put_value(list, (u64)stacks_put); /* which build this is */
	text_put(list, "\n");
	EACH_PROCESS(p) {
		if (p->container != container)
			continue;
		EACH_TASK(t, p)
			if (list->size + TASK_MOST < ALL_MOST)
				put_task(list, p, t);
	}
	text_put(list, "end\n");
}
