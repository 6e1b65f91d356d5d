// SPDX-License-Identifier: Apache-2.0
/*
 * The seccomp filter of a file server (calls/servers.h). A call that is not listed ends the process: only an attacker's code makes
 * it.
 */
#include "fs/fsd/fsd.h"

#include "base/seccomp.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

static const struct seccomp_call calls[] = {
#include "calls/servers.h"
};

static const struct seccomp_call by_handle = { .nr = SYS_open_by_handle_at };

int isolate_seccomp(bool handles)
{
	struct seccomp_call list[sizeof(calls) / sizeof(*calls) + 1];
	size_t n = sizeof(calls) / sizeof(*calls);

	memcpy(list, calls, sizeof(calls));
	if (handles)
		list[n++] = by_handle;
	return seccomp_install(list, n, SECCOMP_RET_KILL_PROCESS);
}
