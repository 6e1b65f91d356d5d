// SPDX-License-Identifier: Apache-2.0
/* Limits the process of the core itself: from here on it traces processes, reads and writes its console, and ends. */
#include <linux/ptrace.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "filter.h"
#include "share.h"
#include "tracee.h"

/* An allowed system call; with an argument, only with this value in the argument's low half. */
struct rule {
	u32 number;
	int argument; /* -1: any */
	u32 value;
};

enum { START = 4, STEPS = 5 };

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
	struct sock_filter code[START + ALLOWED * STEPS + 1] = {
		LOAD(arch), EQUAL(AUDIT_ARCH_X86_64, 1, 0), KILL, LOAD(nr),
	};
	unsigned short count = START;

	for (u32 i = 0; i < ALLOWED; i++) {
		bool any = rules[i].argument < 0;

		code[count++] = (struct sock_filter)EQUAL(rules[i].number, 0, any ? 1 : 4);
		if (!any) {
			code[count++] = (struct sock_filter)LOAD(args[rules[i].argument]);
			code[count++] = (struct sock_filter)EQUAL(rules[i].value, 0, 1);
		}
		code[count++] = (struct sock_filter)ALLOW;
		if (!any)
			code[count++] = (struct sock_filter)LOAD(nr);
	}
	code[count++] = (struct sock_filter)KILL;
	if (!filter_install(code, count))
		fail("the filter of system calls cannot be installed");
}
