/* SPDX-License-Identifier: Apache-2.0 */
/* Steps of a filter of system calls. */
#ifndef SENTRY_FILTER_H
#define SENTRY_FILTER_H

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The low or high half of a field of struct seccomp_data. */
#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define LOAD_HIGH(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field) + 4)
/* Compare what was loaded, and skip so many steps. */
#define EQUAL(value, if_equal, otherwise) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, if_equal, otherwise)
#define ALLOW BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
#define KILL BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS)

/* For all threads of this process. */
static inline bool filter_install(struct sock_filter *code, unsigned short count)
{
	const struct sock_fprog filter = { count, code };

	return !prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) &&
	       !syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &filter);
}

#endif
