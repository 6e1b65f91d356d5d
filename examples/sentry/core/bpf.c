// SPDX-License-Identifier: Apache-2.0
/* Classic BPF: Linux's Documentation/networking/filter.rst and include/uapi/linux/bpf_common.h describe it. */
#include "bpf.h"
#include "core.h"

enum { LD, LDX, ST, STX, ALU, JMP, RET, MISC, FROM_X = 0x08, WORDS = 16 };
enum { LD_IMM = 0x00, LD_ABS = 0x20, LD_MEM = 0x60, LD_LEN = 0x80, LDX_IMM = 0x01, LDX_MEM = 0x61, LDX_LEN = 0x81 };
enum { ADD = 0x00, SUB = 0x10, MUL = 0x20, DIV = 0x30, OR = 0x40, AND = 0x50, LSH = 0x60, RSH = 0x70, NEG = 0x80, XOR = 0xa0 };
enum { JA = 0x05, JEQ = 0x10, JGT = 0x20, JGE = 0x30, JSET = 0x40, RET_K = 0x06, RET_A = 0x16, TAX = 0x07, TXA = 0x87 };

/* -- the check -- */

static bool is_load(const struct bpf_instruction *i)
{
	switch (i->code) {
	case LD_ABS: return i->k < sizeof(struct bpf_input) && i->k % sizeof(u32) == 0;
	case LD_MEM:
	case LDX_MEM: return i->k < WORDS;
	case LD_IMM:
	case LD_LEN:
	case LDX_IMM:
	case LDX_LEN: return true;
	}
	return false;
}

static bool is_arithmetic(const struct bpf_instruction *i)
{
	switch (i->code & 0xf0) {
	case ADD:
	case SUB:
	case MUL:
	case OR:
	case AND:
	case XOR: return true;
	case NEG: return !(i->code & FROM_X);
	case DIV: return i->code & FROM_X || i->k;
	case LSH:
	case RSH: return i->code & FROM_X || i->k < 32;
	}
	return false;
}

/* rest: how many instructions follow it. */
static bool is_jump(const struct bpf_instruction *i, u32 rest)
{
	u32 kind = i->code & 0xf0;

	if (i->code == JA)
		return i->k < rest;
	return kind >= JEQ && kind <= JSET && i->if_true < rest && i->if_false < rest;
}

static bool is_valid(const struct bpf_instruction *i, u32 rest)
{
	if (i->code > 0xff)
		return false;
	switch (i->code & 7) {
	case LD:
	case LDX: return is_load(i);
	case ST:
	case STX: return i->code == (i->code & 7) && i->k < WORDS;
	case ALU: return is_arithmetic(i);
	case JMP: return is_jump(i, rest);
	case RET: return i->code == RET_K || i->code == RET_A;
	}
	return i->code == TAX || i->code == TXA;
}

/* Which words of memory have a value at each instruction, on every way there. */
static bool reads_what_is_written(const struct bpf_instruction *code, u32 count, u16 *written)
{
	u16 now = 0;

	bytes_fill(written, 0xff, count * sizeof(*written));
	for (u32 at = 0; at < count; at++) {
		const struct bpf_instruction *i = &code[at];
		u32 kind = i->code & 7;

		now &= written[at];
		if (kind == ST || kind == STX)
			now |= (u16)(1u << i->k);
		if ((i->code == LD_MEM || i->code == LDX_MEM) && !(now & 1u << i->k))
			return false;
		if (kind != JMP)
			continue;
		written[at + 1 + (i->code == JA ? i->k : i->if_true)] &= now;
		written[at + 1 + (i->code == JA ? i->k : i->if_false)] &= now;
		now = 0xffff;
	}
	return true;
}

s64 bpf_check(const struct bpf_instruction *code, u32 count)
{
	u16 *written;
	bool is_good;

	for (u32 at = 0; at < count; at++)
		if (!is_valid(&code[at], count - at - 1))
			return -EINVAL;
	if (!count || (code[count - 1].code & 7) != RET)
		return -EINVAL;
	written = kmalloc(count * sizeof(*written));
	if (!written)
		return -ENOMEM;
	is_good = reads_what_is_written(code, count, written);
	kfree(written);
	return is_good ? 0 : -EINVAL;
}

/* -- the run -- */

static u32 load(const struct bpf_instruction *i, const u32 *memory, const struct bpf_input *input)
{
	switch (i->code & 0xe0) {
	case LD_ABS: return ((const u32 *)input)[i->k / sizeof(u32)];
	case LD_MEM: return memory[i->k];
	case LD_LEN: return sizeof(*input);
	}
	return i->k;
}

static u32 compute(u32 operation, u32 a, u32 by)
{
	switch (operation) {
	case ADD: return a + by;
	case SUB: return a - by;
	case MUL: return a * by;
	case DIV: return a / by;
	case OR: return a | by;
	case AND: return a & by;
	case LSH: return a << (by & 31);
	case RSH: return a >> (by & 31);
	case XOR: return a ^ by;
	}
	return -a;
}

static bool compare(u32 operation, u32 a, u32 with)
{
	switch (operation) {
	case JEQ: return a == with;
	case JGT: return a > with;
	case JGE: return a >= with;
	}
	return a & with;
}

u32 bpf_run(const struct bpf_instruction *code, const struct bpf_input *input)
{
	u32 a = 0, x = 0, memory[WORDS] = { 0 };

	for (const struct bpf_instruction *i = code;; i++) {
		const u32 operand = i->code & FROM_X ? x : i->k;

		switch (i->code & 7) {
		case LD: a = load(i, memory, input); break;
		case LDX: x = load(i, memory, input); break;
		case ST: memory[i->k] = a; break;
		case STX: memory[i->k] = x; break;
		case ALU:
			if ((i->code & 0xf0) == DIV && !operand)
				return 0;
			a = compute(i->code & 0xf0, a, operand);
			break;
		case JMP: i += i->code == JA ? i->k : compare(i->code & 0xf0, a, operand) ? i->if_true : i->if_false; break;
		case RET: return i->code == RET_A ? a : i->k;
		default:
			if (i->code == TAX)
				x = a;
			else
				a = x;
		}
	}
}
