/* SPDX-License-Identifier: Apache-2.0 */
/* Classic BPF, as far as filters of system calls use it. */
#ifndef SENTRY_BPF_H
#define SENTRY_BPF_H

#include "types.h"

enum { BPF_MOST = 4096 };

struct bpf_instruction {
	u16 code;
	u8 if_true, if_false;
	u32 k;
};

/* What a filter reads: struct seccomp_data of Linux. */
struct bpf_input {
	s32 number;
	u32 machine;
	u64 rip, args[6];
};

s64 bpf_check(const struct bpf_instruction *code, u32 count); /* 0; -EINVAL: Linux would not run it; or -ENOMEM */
u32 bpf_run(const struct bpf_instruction *code, const struct bpf_input *input); /* code that bpf_check accepts */

#endif
