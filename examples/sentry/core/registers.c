// SPDX-License-Identifier: Apache-2.0
/* Registers of a task that has stopped for its tracer, in the forms that ptrace has for them. */
#include "ptrace.h"

enum { USER_CODE = 0x33, USER_DATA = 0x2b, DEBUG_AT = 848, DEBUG_END = 912, USER_SIZE = 928 };
enum { LEGACY = 512, MXCSR_AT = 24, XMM_AT = 160, SOFTWARE_AT = 464, HEADER_AT = 512, HEADER_END = 576, X87 = 1, SSE = 2 };
/* What a tracer may change: CF PF AF ZF SF TF DF OF NT RF AC. */
#define FLAGS_OWN 0x54dd5ull

/* As Linux has them: struct user_regs_struct. */
enum {
	ORIG_RAX = 15, CS = 17, FLAGS, RSP, SS, FS_BASE, GS_BASE, DS, ES, FS, GS, REGISTERS,
};
static const u8 places[REGISTERS] = {
#define AT(name) (u8)(__builtin_offsetof(struct regs, name) / sizeof(u64))
	AT(r15), AT(r14), AT(r13), AT(r12), AT(rbp), AT(rbx), AT(r11), AT(r10), AT(r9), AT(r8), AT(rax), AT(rcx), AT(rdx),
	AT(rsi), AT(rdi), 0, AT(rip), 0, AT(flags), AT(rsp), 0, AT(fs_base), AT(gs_base),
#undef AT
};

static u64 get(const struct task *t, u32 index)
{
	switch (index) {
	case ORIG_RAX: return t->number;
	case CS: return USER_CODE;
	case SS: return USER_DATA;
	case DS:
	case ES:
	case FS:
	case GS: return 0;
	}
	return ((const u64 *)&t->regs)[places[index]];
}

static s64 set(struct task *t, u32 index, u64 value)
{
	switch (index) {
	case ORIG_RAX: t->number = value; return 0;
	case CS: return value == USER_CODE ? 0 : -EIO;
	case SS: return value == USER_DATA ? 0 : -EIO;
	case DS:
	case ES:
	case FS:
	case GS: return value ? -EIO : 0;
	case FLAGS: t->regs.flags = (t->regs.flags & ~FLAGS_OWN) | (value & FLAGS_OWN); return 0;
	case FS_BASE:
	case GS_BASE:
		if (value >= TASK_SIZE)
			return -EIO;
	}
	((u64 *)&t->regs)[places[index]] = value;
	return 0;
}

static bool is_debug(u64 at)
{
	return at >= DEBUG_AT && at < DEBUG_END;
}

s64 registers_get(struct task *t, u64 at, u64 *value)
{
	if (at % sizeof(u64) || at >= USER_SIZE)
		return -EIO;
	if (is_debug(at))
		return breakpoints_get(t->tracee, (u32)((at - DEBUG_AT) / sizeof(u64)), value);
	*value = at < REGISTERS * sizeof(u64) ? get(t, (u32)(at / sizeof(u64))) : 0;
	return 0;
}

s64 registers_set(struct task *t, u64 at, u64 value)
{
	if (at % sizeof(u64) || at >= USER_SIZE)
		return -EIO;
	if (at < REGISTERS * sizeof(u64))
		return set(t, (u32)(at / sizeof(u64)), value);
	return is_debug(at) ? breakpoints_set(t->tracee, (u32)((at - DEBUG_AT) / sizeof(u64)), value) : -EIO;
}

static s64 set_all(struct task *t, const u64 *values, u64 size)
{
	s64 error = 0;

	for (u32 i = 0; i < size / sizeof(u64) && !error; i++)
		error = set(t, i, values[i]);
	return error;
}

s64 registers_set_base(struct task *t, u64 code, u64 value)
{
	enum { SET_GS = 0x1001, SET_FS };

	switch (code) {
	case SET_GS:
	case SET_FS:
		if (value >= TASK_SIZE)
			return -EPERM;
		return set(t, code == SET_FS ? FS_BASE : GS_BASE, value);
	}
	return -EINVAL;
}

/* -- the FPU -- */

static u64 *components(struct task *t)
{
	return (u64 *)((u8 *)t->fpu + HEADER_AT);
}

/* XSAVE leaves parts alone that have their first values. */
static void complete(struct task *t)
{
	u8 *fpu = t->fpu;

	if (core.config->fpu_size < HEADER_END)
		return;
	if (!(*components(t) & X87)) {
		bytes_zero(fpu, MXCSR_AT);
		bytes_zero(fpu + MXCSR_AT + 8, XMM_AT - MXCSR_AT - 8);
		*(u16 *)fpu = 0x37f;
	}
	if (!(*components(t) & SSE))
		bytes_zero(fpu + XMM_AT, 16 * 16);
	*components(t) |= (X87 | SSE) & core.config->fpu_features;
	bytes_zero(fpu + SOFTWARE_AT, LEGACY - SOFTWARE_AT);
	*(u64 *)(fpu + SOFTWARE_AT) = core.config->fpu_features;
}

/* The CPU must be able to load what comes from a tracer. */
static s64 set_legacy(struct task *t, const u8 *state, u64 size)
{
	u8 new[LEGACY];

	complete(t);
	bytes_copy(new, t->fpu, LEGACY);
	bytes_copy(new, state, size);
	if (*(u32 *)(new + MXCSR_AT) & ~0xffffu)
		return -EINVAL;
	bytes_copy(t->fpu, new, SOFTWARE_AT);
	return 0;
}

static s64 set_extended(struct task *t, const u8 *state, u64 size)
{
	const u64 *header = (const u64 *)(state + HEADER_AT);

	if (size < core.config->fpu_size)
		return -EFAULT;
	if (header[0] & ~core.config->fpu_features || *(const u32 *)(state + MXCSR_AT) & ~0xffffu)
		return -EINVAL;
	for (u32 i = 1; i < 8; i++)
		if (header[i])
			return -EINVAL;
	bytes_copy(t->fpu, state, size);
	return 0;
}

/* -- parts -- */

u64 registers_size(u32 type)
{
	switch (type) {
	case NT_PRSTATUS: return REGISTERS * sizeof(u64);
	case NT_PRFPREG: return LEGACY;
	case NT_X86_XSTATE: return core.config->fpu_size < HEADER_END ? 0 : core.config->fpu_size;
	}
	return 0;
}

void registers_get_part(struct task *t, u32 type, u8 *to, u64 size)
{
	if (type == NT_PRSTATUS) {
		for (u32 i = 0; i < size / sizeof(u64); i++)
			((u64 *)to)[i] = get(t, i);
		return;
	}
	complete(t);
	bytes_copy(to, t->fpu, size);
	if (type == NT_PRFPREG && size > SOFTWARE_AT)
		bytes_zero(to + SOFTWARE_AT, size - SOFTWARE_AT);
}

s64 registers_set_part(struct task *t, u32 type, const u8 *from, u64 size)
{
	if (type == NT_PRSTATUS)
		return set_all(t, (const u64 *)from, size);
	return type == NT_PRFPREG ? set_legacy(t, from, size) : set_extended(t, from, size);
}
