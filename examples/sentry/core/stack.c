// SPDX-License-Identifier: Apache-2.0
/* The first stack of a program: its arguments, environment and auxiliary vector, as the System V ABI has them. */
#include "exec.h"

enum {
	AT_NULL, AT_IGNORE, AT_PHDR = 3, AT_PHENT = 4, AT_PHNUM = 5, AT_PAGESZ = 6, AT_BASE = 7, AT_FLAGS = 8, AT_ENTRY = 9, AT_UID = 11,
	AT_EUID = 12, AT_GID = 13, AT_EGID = 14, AT_PLATFORM = 15, AT_HWCAP = 16, AT_CLKTCK = 17, AT_SECURE = 23,
	AT_RANDOM = 25, AT_EXECFN = 31, AT_SYSINFO_EHDR = 33, AT_MINSIGSTKSZ = 51,
};

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

/* Write pointers to consecutive texts, and a NULL; returns where the next text is. */
static u64 push_pointers(struct stack *s, const char **from, u64 count, u64 at, u64 text)
{
	u64 zero = 0;

	for (u64 i = 0; i < count; i++, at += sizeof(text)) {
		u64 size = string_size(*from) + 1;

		if (user_write(s->mm, at, &text, sizeof(text)))
			s->error = -ENOMEM;
		text += size;
		*from += size;
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
static void push_auxv(struct stack *s, const char *file, const struct image *image, u64 words)
{
	const struct core_config *config = core.config;
	const struct cred *cred = image->cred;
	u64 name = push(s, file, string_size(file) + 1);
	u64 platform = push(s, "x86_64", 7);
	u64 seed, bytes[2];

	core.ops->random(bytes, sizeof(bytes));
	seed = push(s, bytes, sizeof(bytes));
	const u64 auxv[][2] = {
		{ AT_HWCAP, cpu_features() }, { AT_PAGESZ, PAGE }, { AT_CLKTCK, 100 }, { AT_PHDR, image->headers },
		{ AT_PHENT, sizeof(struct elf_segment) }, { AT_PHNUM, image->header_count }, { AT_BASE, image->base },
		{ AT_FLAGS, 0 }, { AT_ENTRY, image->entry }, { AT_UID, cred->user.real }, { AT_EUID, cred->user.effective },
		{ AT_GID, cred->group.real }, { AT_EGID, cred->group.effective }, { AT_SECURE, image->secure }, { AT_RANDOM, seed },
		{ AT_EXECFN, name }, { AT_PLATFORM, platform }, { image->vdso ? AT_SYSINFO_EHDR : AT_IGNORE, image->vdso },
		{ AT_MINSIGSTKSZ, (config->fpu_size + 4 + 440 + 128 + 64 + 15) & -16ull }, { AT_NULL, 0 },
	};
	s->top = (s->top & -16ull) - words % 2 * sizeof(u64);
	s->mm->vector.start = push(s, auxv, sizeof(auxv));
	s->mm->vector.end = s->mm->vector.start + sizeof(auxv);
}

const char *stack_build(struct mm *mm, const struct arguments *arguments, const char *name, const struct image *image,
			u64 *top)
{
	struct stack s = { .mm = mm, .top = USER_TOP };
	u64 argc = arguments->argc, envc = arguments->envc, text;
	const char *from = arguments->texts;

	if (mm_map(mm, USER_TOP - STACK_SIZE, STACK_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED_NOREPLACE) < 0)
		return "a segment is where the stack must be";
	push_word(&s, 0);
	text = push(&s, arguments->texts, arguments->bytes);
	push_auxv(&s, name, image, argc + envc + 3);
	s.top -= (argc + envc + 2) * sizeof(u64);
	mm->arguments.start = text;
	text = push_pointers(&s, &from, argc, s.top, text);
	mm->arguments.end = mm->environment.start = text;
	mm->environment.end = push_pointers(&s, &from, envc, s.top + (argc + 1) * sizeof(u64), text);
	push_word(&s, argc);
	*top = s.top;
	return s.error ? "the stack does not fit into the memory of the sandbox" : NULL;
}
