// SPDX-License-Identifier: Apache-2.0
/*
 * A filter from a list of system calls. A call without conditions is a number followed by "allow", so that the kernel finds
 * it to be independent of arguments and does not run the filter for it at all.
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

/* One line: returns, or goes on behind itself when the arguments are others. */
static void code_line(struct code *c, const struct seccomp_call *call)
{
	uint8_t left = 1;

	for (int i = 0; i < 2; i++)
		left = (uint8_t)(left + (call->match[i].mask ? 3 : 0));
	for (int i = 0; i < 2; i++) {
		const struct seccomp_match *m = &call->match[i];

		if (!m->mask)
			continue;
		left = (uint8_t)(left - 3);
		/* Little endian: the low half comes first. */
		code_load(c, offsetof(struct seccomp_data, args) + m->arg * sizeof(uint64_t));
		code_put(c, BPF_ALU | BPF_AND | BPF_K, 0, 0, m->mask);
		code_put(c, BPF_JMP | BPF_JEQ | BPF_K, 0, left, m->value);
	}
	code_return(c, call->err ? SECCOMP_RET_ERRNO | call->err : SECCOMP_RET_ALLOW);
}

/* The lines of one call; returns how many they are. */
static size_t code_call(struct code *c, const struct seccomp_call *calls, size_t n, uint32_t other)
{
	size_t head = c->n, lines = 0;
	bool always = false;

	code_put(c, BPF_JMP | BPF_JEQ | BPF_K, 0, 0, calls->nr);
	for (; lines < n && calls[lines].nr == calls->nr; lines++) {
		code_line(c, &calls[lines]);
		always |= !calls[lines].match[0].mask && !calls[lines].match[1].mask;
	}
	if (!always)
		code_return(c, other); /* the number is not loaded any more */
	if (c->n - head - 1 > MAX_SKIP)
		c->n = MAX_CODE + 1;
	else if (head < MAX_CODE)
		c->at[head].jf = (uint8_t)(c->n - head - 1);
	return lines;
}

int seccomp_install(const struct seccomp_call *calls, size_t n, uint32_t other)
{
	struct code c = { .n = 0 };
	struct sock_fprog program = { .filter = c.at };

	code_load(&c, offsetof(struct seccomp_data, arch));
	code_put(&c, BPF_JMP | BPF_JEQ | BPF_K, 1, 0, AUDIT_ARCH_X86_64);
	code_return(&c, SECCOMP_RET_KILL_PROCESS);
	code_load(&c, offsetof(struct seccomp_data, nr));
	if (other == SECCOMP_RET_ALLOW) {
		/* The same calls have other numbers in the x32 ABI. */
		code_put(&c, BPF_JMP | BPF_JGE | BPF_K, 0, 1, X32_BIT);
		code_return(&c, SECCOMP_RET_ERRNO | ENOSYS);
	}
	for (size_t i = 0; i < n;)
		i += code_call(&c, calls + i, n - i, other);
	code_return(&c, other);
	if (c.n > MAX_CODE)
		return -E2BIG;
	program.len = (unsigned short)c.n;
	/* Without the flag kernels before 5.16 make every branch slower, against code that a guest cannot bring along. */
	if (!syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW, &program))
		return 0;
	return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) < 0 ? -errno : 0;
}
