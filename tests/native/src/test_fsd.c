// SPDX-License-Identifier: Apache-2.0
/* The list of system calls of pyvmm-fsd: what is on it can be done, and nothing else. */
#include "guest.h"

#include <fcntl.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/seccomp.h"
#include "fs/fsd/fsd.h"
/* The program's own: the extension has no such list. */
#include "fs/fsd/fsd_seccomp.c"

enum { KILLED = -1, NUMBERS = 512, MOST = 85 };

/* The answer to a call after the filter was installed: 0 or an errno; KILLED. */
static int answer(bool handles, long nr, long a, long b, long c, long d)
{
	const struct rlimit none = { 0, 0 };
	int status;
	pid_t pid = fork();

	CHECK(pid >= 0);
	if (pid == 0) {
		setrlimit(RLIMIT_CORE, &none);
		if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || isolate_seccomp(handles))
			_exit(254);
		a = syscall(nr, a, b, c, d, -1L, -1L);
		syscall(SYS_exit_group, a < 0 ? errno : 0);
	}
	CHECK_EQ(waitpid(pid, &status, 0), pid);
	if (WIFSIGNALED(status)) {
		CHECK_EQ(WTERMSIG(status), SIGSYS);
		return KILLED;
	}
	CHECK(WEXITSTATUS(status) != 254);
	return WEXITSTATUS(status);
}

static const struct seccomp_call *listed(uint32_t nr)
{
	for (size_t i = 0; i < sizeof(calls) / sizeof(*calls); i++)
		if (calls[i].nr == nr)
			return &calls[i];
	return NULL;
}

static void a_call_that_is_not_listed_kills(void)
{
	int count = 0;

	for (uint32_t nr = 0; nr < NUMBERS; nr++) {
		const struct seccomp_call *call = listed(nr);

		/* uretprobe() and uprobe(): the kernel's own code makes them; it does not ask the filter, and refuses others. */
		if (nr == 335 || nr == 336)
			continue;
		count += call != NULL;
		if (!call)
			CHECK_EQ(answer(false, nr, -1, -1, -1, -1), KILLED);
		else if (!call->match[0].mask)
			CHECK(answer(false, nr, -1, -1, -1, -1) != KILLED);
	}
	CHECK(count <= MOST);
	CHECK_EQ(answer(false, SYS_getpid | 0x40000000, 0, 0, 0, 0), KILLED); /* the x32 ABI */
}

static void arguments_that_are_not_listed_kill(void)
{
	static const int commands[] = { F_SETFL, F_SETFD, F_SETOWN, F_SETSIG, F_SETLK, F_OFD_SETLKW, F_SETPIPE_SZ,
					F_ADD_SEALS, F_SETLEASE, F_NOTIFY, F_DUPFD };
	const long here = AT_FDCWD;

	for (size_t i = 0; i < sizeof(commands) / sizeof(*commands); i++)
		CHECK_EQ(answer(false, SYS_fcntl, 0, commands[i], 0, 0), KILLED);
	CHECK_EQ(answer(false, SYS_fcntl, -1, F_GETFL, 0, 0), EBADF);
	CHECK_EQ(answer(false, SYS_fcntl, -1, F_DUPFD_CLOEXEC, 0, 0), EBADF);
	CHECK_EQ(answer(false, SYS_mknodat, here, (long)"x", S_IFBLK | 0600, makedev(7, 0)), KILLED);
	CHECK_EQ(answer(false, SYS_mknodat, here, (long)"x", S_IFBLK | 0600, 0), KILLED);
	CHECK_EQ(answer(false, SYS_mknodat, here, (long)"x", S_IFCHR | 0600, makedev(1, 1)), KILLED);
	CHECK_EQ(answer(false, SYS_mknodat, -1, (long)"x", S_IFCHR | 0600, 0), EBADF);
	CHECK_EQ(answer(false, SYS_mknodat, -1, (long)"x", S_IFIFO | 0600, 0), EBADF);
	CHECK_EQ(answer(false, SYS_mmap, 0, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS), KILLED);
	CHECK(answer(false, SYS_mmap, 0, 4096, PROT_READ, MAP_PRIVATE) != KILLED);
	CHECK_EQ(answer(false, SYS_mprotect, 0, 4096, PROT_EXEC, 0), KILLED);
	CHECK_EQ(answer(false, SYS_clone, SIGCHLD, 0, 0, 0), KILLED);
	CHECK_EQ(answer(false, SYS_clone3, 0, 0, 0, 0), ENOSYS);
	CHECK_EQ(answer(false, SYS_unshare, CLONE_NEWUSER, 0, 0, 0), KILLED);
	CHECK_EQ(answer(false, SYS_unshare, CLONE_FS, 0, 0, 0), 0);
	CHECK_EQ(answer(false, SYS_prctl, PR_SET_DUMPABLE, 1, 0, 0), KILLED);
	/* The kernel looks at the low half of a command, and so do we. */
	CHECK_EQ(answer(false, SYS_fcntl, -1, (long)(1ull << 32 | F_SETFL), 0, 0), KILLED);
}

static void nothing_is_opened_by_handle_unless_asked_for(void)
{
	CHECK_EQ(answer(false, SYS_open_by_handle_at, -1, 0, 0, 0), KILLED);
	CHECK(answer(true, SYS_open_by_handle_at, -1, 0, 0, 0) != KILLED);
}

#define T(name) { #name, name }
static const struct test tests[] = {
	T(a_call_that_is_not_listed_kills), T(arguments_that_are_not_listed_kill),
	T(nothing_is_opened_by_handle_unless_asked_for), { NULL, NULL },
};

int main(int argc, char **argv)
{
	return test_main(tests, argc, argv);
}
