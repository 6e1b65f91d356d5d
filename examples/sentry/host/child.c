// SPDX-License-Identifier: Apache-2.0
/* Detaches a new process for programs from the one that started it. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdbool.h>
#include <sys/prctl.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "host.h"

bool leave_rseq(void)
{
	enum { UNREGISTER = 1, SIGNATURE = 0x53053053 };
	char *area = (char *)__builtin_thread_pointer() + __rseq_offset;

	if (!__rseq_size)
		return true;
	for (unsigned int size = 32; size <= 256; size += 32)
		if (!syscall(SYS_rseq, area, size, UNREGISTER, SIGNATURE))
			return true;
	return false;
}

bool child_detach(void)
{
	sigset_t none;

	sigemptyset(&none);
	return !prctl(PR_SET_PDEATHSIG, SIGKILL) && setsid() >= 0 && !sigprocmask(SIG_SETMASK, &none, NULL) && leave_rseq();
}
