// SPDX-License-Identifier: Apache-2.0
/*
 * Compiles a list of system calls into a seccomp filter. For a call without conditions the filter compares only the
 * number. The kernel detects that the result does not depend on arguments, and skips the filter for such calls.
 */
#define _GNU_SOURCE /* syscall() */
#include "base/seccomp.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdbool.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SECCOMP_FILTER_FLAG_SPEC_ALLOW
#define SECCOMP_FILTER_FLAG_SPEC_ALLOW (1UL << 2)
#endif

enum { MAX_CODE = 1024, MAX_SKIP = 255, X32_BIT = 0x40000000 };
/* The most system calls that a leaf of the tree compares one after another. */
enum { LEAF = 8 };

struct code {
	struct sock_filter at[MAX_CODE];
	size_t n;
};

static void code_put(struct code *c, uint16_t op, uint8_t yes, uint8_t no, uint32_t k)
{
	if (c->n < MAX_CODE)
		c->at[c->n] = (struct sock_filter){ op, yes, no, k };
	c->n++;
}

static void code_return(struct code *c, uint32_t action)
{
	code_put(c, BPF_RET | BPF_K, 0, 0, action);
}

static void code_load(struct code *c, size_t offset)
{
	code_put(c, BPF_LD | BPF_W | BPF_ABS, 0, 0, (uint32_t)offset);
}

/* Skip the next `skip` instructions unless the loaded word is `value`. */
static void code_unless(struct code *c, uint32_t value, size_t skip)
{
	if (skip > MAX_SKIP)
		c->n = MAX_CODE;
	code_put(c, BPF_JMP | BPF_JEQ | BPF_K, 0, (uint8_t)skip, value);
}

static bool is_plain(const struct seccomp_call *call)
{
	return !call->match[0].mask && !call->match[1].mask && !call->err;
}

/* Whether the only condition is that one argument has one value. */
static bool is_value(const struct seccomp_call *call)
{
	return call->match[0].mask == SECCOMP_ALL && !call->match[1].mask;
}

static void code_load_argument(struct code *c, uint32_t arg)
{
	/* Little endian: the low half comes first. */
	code_load(c, offsetof(struct seccomp_data, args) + arg * sizeof(uint64_t));
}

static void code_act(struct code *c, const struct seccomp_call *call)
{
	code_return(c, call->err ? SECCOMP_RET_ERRNO | call->err : SECCOMP_RET_ALLOW);
}

/* Emit one line: it returns from the filter, or continues with the next line if the arguments do not match. */
static void code_line(struct code *c, const struct seccomp_call *call)
{
	size_t left = 1;

	for (int i = 0; i < 2; i++)
		left += call->match[i].mask ? 3 : 0;
	for (int i = 0; i < 2; i++) {
		const struct seccomp_match *m = &call->match[i];

		if (!m->mask)
			continue;
		left -= 3;
		code_load_argument(c, m->arg);
		code_put(c, BPF_ALU | BPF_AND | BPF_K, 0, 0, m->mask);
		code_unless(c, m->value, left);
	}
	code_act(c, call);
}

/* Emit lines that differ only in the value: they load the argument once. */
static void code_values(struct code *c, const struct seccomp_call *line[], size_t n)
{
	code_load_argument(c, line[0]->match[0].arg);
	for (; n > 1; n--, line++) {
		if (n - 1 > MAX_SKIP)
			c->n = MAX_CODE;
		code_put(c, BPF_JMP | BPF_JEQ | BPF_K, (uint8_t)(n - 1), 0, line[0]->match[0].value);
	}
	code_unless(c, line[0]->match[0].value, 1);
	code_act(c, line[0]);
}

/* Count the lines, starting with the first, that differ only in the value. */
static size_t lines_alike(const struct seccomp_call *line[], size_t n)
{
	size_t i = 1;

	if (!is_value(line[0]))
		return 1;
	while (i < n && is_value(line[i]) && line[i]->err == line[0]->err && line[i]->match[0].arg == line[0]->match[0].arg)
		i++;
	return i;
}

/* Emit all lines of one system call. */
static void code_call(struct code *c, const struct seccomp_call *line[], size_t n, uint32_t other)
{
	size_t head = c->n;
	bool always = false;

	code_unless(c, line[0]->nr, 0);
	for (size_t i = 0, same; i < n; i += same) {
		same = lines_alike(line + i, n - i);
		if (is_value(line[i]))
			code_values(c, line + i, same);
		else
			code_line(c, line[i]);
		always |= !line[i]->match[0].mask && !line[i]->match[1].mask;
	}
	if (!always)
		code_return(c, other); /* the argument has replaced the number, so no further call can be compared */
	if (c->n - head - 1 > MAX_SKIP)
		c->n = MAX_CODE + 1;
	else if (head < MAX_CODE)
		c->at[head].jf = (uint8_t)(c->n - head - 1);
}

/* All lines, grouped by system call. */
struct lines {
	const struct seccomp_call *line[SECCOMP_LINES]; /* sorted by number; lines of one call keep their order */
	size_t first[SECCOMP_LINES + 1];                /* index in line[] of each call's first line */
	size_t calls;
};

static void lines_sort(struct lines *l, const struct seccomp_call *calls, size_t n)
{
	size_t done = 0;

	/* An insertion sort is stable: lines of one call keep their order. */
	for (size_t i = 0; i < n; i++) {
		size_t at = i;

		for (; at && l->line[at - 1]->nr > calls[i].nr; at--)
			l->line[at] = l->line[at - 1];
		l->line[at] = &calls[i];
	}
	for (l->calls = 0; done < n; l->calls++) {
		l->first[l->calls] = done;
		while (done < n && l->line[done]->nr == l->line[l->first[l->calls]]->nr)
			done++;
	}
	l->first[l->calls] = n;
}

/* Emit comparisons with a few calls, one after another. */
static void code_leaf(struct code *c, struct lines *l, size_t from, size_t to, uint32_t other)
{
	size_t plains = 0;

	for (size_t i = from; i < to; i++) {
		if (is_plain(l->line[l->first[i]]))
			plains++;
		else
			code_call(c, &l->line[l->first[i]], l->first[i + 1] - l->first[i], other);
	}
	/* Calls without conditions share one "allow", after `other`. */
	for (size_t i = from; i < to; i++)
		if (is_plain(l->line[l->first[i]]))
			code_put(c, BPF_JMP | BPF_JEQ | BPF_K, (uint8_t)plains--, 0, l->line[l->first[i]]->nr);
	code_return(c, other);
	code_return(c, SECCOMP_RET_ALLOW);
}

/*
 * Emit a binary tree of comparisons. At installation the kernel runs the filter once for each existing system call.
 * With linear comparisons, these runs take most of the installation time.
 */
static void code_tree(struct code *c, struct lines *l, size_t from, size_t to, uint32_t other)
{
	const size_t middle = from + (to - from) / 2;
	size_t skip;

	if (to - from <= LEAF) {
		code_leaf(c, l, from, to, other);
		return;
	}
	code_put(c, BPF_JMP | BPF_JGE | BPF_K, 0, 1, l->line[l->first[middle]]->nr);
	skip = c->n;
	code_put(c, BPF_JMP | BPF_JA, 0, 0, 0); /* a conditional jump has too short a range */
	code_tree(c, l, from, middle, other);
	if (skip < MAX_CODE)
		c->at[skip].k = (uint32_t)(c->n - skip - 1);
	code_tree(c, l, middle, to, other);
}

static int install(const struct seccomp_call *calls, size_t n, uint32_t other, bool all_threads)
{
	const unsigned long flags = SECCOMP_FILTER_FLAG_SPEC_ALLOW | (all_threads ? SECCOMP_FILTER_FLAG_TSYNC : 0);
	struct lines l;
	struct code c = { .n = 0 };
	struct sock_fprog program = { .filter = c.at };
	long err;

	if (n > SECCOMP_LINES)
		return -E2BIG;
	code_load(&c, offsetof(struct seccomp_data, arch));
	code_put(&c, BPF_JMP | BPF_JEQ | BPF_K, 1, 0, AUDIT_ARCH_X86_64);
	code_return(&c, SECCOMP_RET_KILL_PROCESS);
	code_load(&c, offsetof(struct seccomp_data, nr));
	if (other == SECCOMP_RET_ALLOW) {
		/* The x32 ABI has other numbers for the same calls, so the list would not match them. */
		code_put(&c, BPF_JMP | BPF_JGE | BPF_K, 0, 1, X32_BIT);
		code_return(&c, SECCOMP_RET_ERRNO | ENOSYS);
	}
	lines_sort(&l, calls, n);
	code_tree(&c, &l, 0, l.calls, other);
	if (c.n > MAX_CODE)
		return -E2BIG;
	program.len = (unsigned short)c.n;
	/*
	 * Without this flag, kernels before 5.16 disable speculative store bypass for the thread, which slows it down.
	 * That defends against hostile code in the same thread; a guest cannot inject any.
	 */
	err = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
	if (err > 0)
		return -EBUSY; /* the id of the thread that the kernel could not synchronize */
	if (!err || all_threads)
		return err < 0 ? -errno : 0;
	return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) < 0 ? -errno : 0;
}

int seccomp_install(const struct seccomp_call *calls, size_t n, uint32_t other)
{
	return install(calls, n, other, false);
}

int seccomp_install_for_all(const struct seccomp_call *calls, size_t n, uint32_t other)
{
	return install(calls, n, other, true);
}
