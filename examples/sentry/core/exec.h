/* SPDX-License-Identifier: Apache-2.0 */
/* The start of programs. */
#ifndef SENTRY_EXEC_H
#define SENTRY_EXEC_H

#include "core.h"

struct file;

enum { ARGUMENT_BYTES = 2 << 20, ARGUMENT_MOST = 128 << 10, SCRIPT_BYTES = 256 };

/* Texts one behind the other, each with its zero: the arguments, then the environment. */
struct arguments {
	char *texts;
	u64 bytes, room;
	u64 argc, envc;
};

/* A loaded program: its addresses and its rights. */
struct image {
	u64 entry, headers, header_count, end;
	u64 base; /* of the interpreter; 0: it has none */
	u64 vdso; /* 0: none */
	const struct cred *cred; /* which the program gets */
	bool secure; /* it must not trust its environment */
	u64 start; /* where it begins: its entry, or the interpreter's */
};

/* Map a file's program. NULL, or an error message; *error is then what execve returns. */
const char *elf_load(struct mm *mm, struct file *file, struct image *image, int *error);
/* Build the first stack; name is that of the file. NULL, or an error message. */
const char *stack_build(struct mm *mm, const struct arguments *arguments, const char *name, const struct image *image,
			u64 *top);
int argument_add(struct arguments *arguments, const char *text, u64 size); /* with its zero; 0, -E2BIG, -ENOMEM */
/* Start a program for the core in a task that may have none: 0 or -errno. Its directories' rights are not checked. */
s64 exec_named(struct task *t, const char *path_name, struct arguments *arguments);
/* Load the sandbox's first program into its first task. NULL, or an error message. */
const char *exec_first(struct task *t);

#endif
