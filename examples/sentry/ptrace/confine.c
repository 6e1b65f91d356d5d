// SPDX-License-Identifier: Apache-2.0
/* Limits the process of the core itself: from here on it traces processes, reads and writes its console, and ends. */
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/ptrace.h>
#include <linux/seccomp.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "share.h"
#include "tracee.h"

/* A system call that is allowed, at most with one value in the low half of an argument. */
struct rule {
	u32 number;
	int argument; /* -1: any */
	u32 value;
};

enum { STEPS = 5 };

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define RETURN(action) BPF_STMT(BPF_RET | BPF_K, action)

static struct sock_filter if_equal(u32 value, u8 otherwise)
{
	return (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, otherwise);
}

void confine(void)
{
	const struct rule rules[] = {
		{ SYS_read, 0, 0 }, { SYS_write, 0, 1 }, { SYS_write, 0, 2 }, { SYS_ioctl, 1, TIOCGWINSZ },
		{ SYS_read, 0, (u32)share_fds[SHARE_IRQ] }, { SYS_write, 0, (u32)share_fds[SHARE_KICK] },
		{ SYS_write, 0, (u32)share_fds[SHARE_KICK + 1] },
		/* None of these reaches a process that was not traced before. */
		{ SYS_ptrace, 0, PTRACE_SETREGS }, { SYS_ptrace, 0, PTRACE_GETREGS }, { SYS_ptrace, 0, PTRACE_CONT },
		{ SYS_ptrace, 0, PTRACE_SYSEMU }, { SYS_ptrace, 0, PTRACE_GETSIGINFO }, { SYS_ptrace, 0, PTRACE_INTERRUPT },
		{ SYS_ptrace, 0, PTRACE_GET_SYSCALL_INFO }, { SYS_ptrace, 0, PTRACE_GETEVENTMSG },
		{ SYS_ptrace, 0, PTRACE_GETREGSET }, { SYS_ptrace, 0, PTRACE_SETREGSET },
		{ SYS_wait4, -1, 0 }, { SYS_clock_gettime, -1, 0 }, { SYS_setitimer, -1, 0 }, { SYS_rt_sigreturn, -1, 0 },
		{ SYS_getrandom, -1, 0 }, { SYS_rt_sigaction, -1, 0 }, { SYS_kill, 0, (u32)getpid() },
		{ SYS_exit_group, -1, 0 }, { SYS_rt_sigprocmask, -1, 0 }, { SYS_ppoll, -1, 0 },
	};
	enum { ALLOWED = sizeof(rules) / sizeof(*rules) };
	struct sock_filter code[4 + ALLOWED * STEPS] = {
		LOAD(arch), if_equal(AUDIT_ARCH_X86_64, 1), LOAD(nr),
	};
	struct sock_fprog filter = { 3, code };

	/* Of another architecture: over the load of the number, to comparisons that an architecture's number does not pass. */
	for (u32 i = 0; i < ALLOWED; i++) {
		bool any = rules[i].argument < 0;

		code[filter.len++] = if_equal(rules[i].number, any ? 1 : 4);
		if (!any) {
			code[filter.len++] = (struct sock_filter)LOAD(args[rules[i].argument]);
			code[filter.len++] = if_equal(rules[i].value, 1);
		}
		code[filter.len++] = (struct sock_filter)RETURN(SECCOMP_RET_ALLOW);
		if (!any)
			code[filter.len++] = (struct sock_filter)LOAD(nr);
	}
	code[filter.len++] = (struct sock_filter)RETURN(SECCOMP_RET_KILL_PROCESS);
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter))
		fail("the filter of system calls cannot be installed");
}
