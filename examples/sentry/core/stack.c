// SPDX-License-Identifier: Apache-2.0
/* The first stack of a program: its arguments, environment and auxiliary vector, as the System V ABI has them. */
#include "core.h"

enum {
	AT_NULL, AT_PHDR = 3, AT_PHENT = 4, AT_PHNUM = 5, AT_PAGESZ = 6, AT_BASE = 7, AT_FLAGS = 8, AT_ENTRY = 9, AT_UID = 11,
	AT_EUID = 12, AT_GID = 13, AT_EGID = 14, AT_PLATFORM = 15, AT_HWCAP = 16, AT_CLKTCK = 17, AT_SECURE = 23,
	AT_RANDOM = 25, AT_EXECFN = 31, AT_MINSIGSTKSZ = 51,
};

#define ARGUMENT_BYTES (1ull << 20)
#define ARGUMENTS 0x8000

struct stack {
	struct mm *mm;
	u64 top;
	int error;
};

static u64 push(struct stack *s, const void *data, u64 size)
{
	s->top -= size;
	if (user_write(s->mm, s->top, data, size))
		s->error = -ENOMEM;
	return s->top;
}

static void push_word(struct stack *s, u64 word)
{
	push(s, &word, sizeof(word));
}

/* Count texts, and the bytes that they have with their ends. */
static u64 measure(const char *const *texts, u64 *bytes)
{
	u64 count = 0;

	for (; texts[count]; count++)
		*bytes += string_size(texts[count]) + 1;
	return count;
}

/* Write pointers to texts that are in a row, from a place on; returns where the next text is. */
static u64 push_pointers(struct stack *s, const char *const *texts, u64 count, u64 at, u64 text)
{
	u64 zero = 0;

	for (u64 i = 0; i < count; i++, at += sizeof(text)) {
		if (user_write(s->mm, at, &text, sizeof(text)) ||
		    user_write(s->mm, text, texts[i], string_size(texts[i]) + 1))
			s->error = -ENOMEM;
		text += string_size(texts[i]) + 1;
	}
	if (user_write(s->mm, at, &zero, sizeof(zero)))
		s->error = -ENOMEM;
	return text;
}

static u32 cpu_features(void)
{
	u32 a = 1, b, c = 0, d;

	asm volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
	return d;
}

/* So many words follow it, and then the stack pointer is a multiple of 16. */
static void push_auxv(struct stack *s, const struct image *image, u64 words)
{
	const struct core_config *config = core.config;
	u64 name = push(s, config->path, string_size(config->path) + 1);
	u64 platform = push(s, "x86_64", 7);
	u64 seed, bytes[2];

	core.ops->random(bytes, sizeof(bytes));
	seed = push(s, bytes, sizeof(bytes));
	const u64 auxv[][2] = {
		{ AT_HWCAP, cpu_features() }, { AT_PAGESZ, PAGE }, { AT_CLKTCK, 100 }, { AT_PHDR, image->headers },
		{ AT_PHENT, sizeof(struct elf_segment) }, { AT_PHNUM, image->header_count }, { AT_BASE, 0 }, { AT_FLAGS, 0 },
		{ AT_ENTRY, image->entry }, { AT_UID, config->user }, { AT_EUID, config->user }, { AT_GID, config->group },
		{ AT_EGID, config->group }, { AT_SECURE, 0 }, { AT_RANDOM, seed }, { AT_EXECFN, name },
		{ AT_PLATFORM, platform }, { AT_MINSIGSTKSZ, 3632 }, { AT_NULL, 0 },
	};
	s->top = (s->top & -16ull) - words % 2 * sizeof(u64);
	push(s, auxv, sizeof(auxv));
}

const char *stack_build(struct mm *mm, const struct image *image, u64 *top)
{
	const struct core_config *config = core.config;
	struct stack s = { .mm = mm, .top = USER_TOP };
	u64 bytes = 0, argc = measure(config->argv, &bytes), envc = measure(config->envp, &bytes), text;

	if (bytes > ARGUMENT_BYTES || argc + envc > ARGUMENTS)
		return "the arguments and the environment are too long";
	if (mm_map(mm, USER_TOP - STACK_SIZE, STACK_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED_NOREPLACE) < 0)
		return "a segment is where the stack has to be";
	mm->map_top = USER_TOP - STACK_SIZE - (1 << 20);
	push_word(&s, 0);
	text = s.top -= bytes;
	push_auxv(&s, image, argc + envc + 3);
	s.top -= (argc + envc + 2) * sizeof(u64);
	text = push_pointers(&s, config->argv, argc, s.top, text);
	push_pointers(&s, config->envp, envc, s.top + (argc + 1) * sizeof(u64), text);
	push_word(&s, argc);
	*top = s.top;
	return s.error ? "the stack does not fit into the memory of the sandbox" : NULL;
}
