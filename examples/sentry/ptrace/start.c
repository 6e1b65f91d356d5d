// SPDX-License-Identifier: Apache-2.0
/*
 * Prepares a process for a program's code.
 *
 * The process maps pages of RAM, and one page with an instruction for a system call, by which the core changes its
 * address space. A filter allows the calls for that, from that page only: a second wall, should it ever run untraced.
 */
#define _GNU_SOURCE
#include <linux/ptrace.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "filter.h"
#include "tracee.h"

enum { OPTIONS = PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL | PTRACE_O_TRACEFORK };
static const u8 stub_code[] = { 0x0f, 0x05, 0xcc }; /* syscall; int3 */

static void install_filter(void)
{
	struct sock_filter code[] = {
		LOAD(arch), EQUAL(AUDIT_ARCH_X86_64, 1, 0), KILL,
		LOAD(instruction_pointer), EQUAL((u32)AFTER_SYSCALL, 1, 0), KILL,
		LOAD_HIGH(instruction_pointer), EQUAL((u32)(AFTER_SYSCALL >> 32), 1, 0), KILL,
		LOAD(nr), EQUAL(SYS_munmap, 1, 0), EQUAL(SYS_exit_group, 0, 1), ALLOW,
		EQUAL(SYS_clone, 0, 4), LOAD(args[0]), EQUAL(CLONE_PARENT | SIGCHLD, 0, 1), ALLOW, KILL,
		EQUAL(SYS_mmap, 1, 0), KILL,
		LOAD(args[4]), EQUAL(RAM_FD, 1, 0), KILL,
		LOAD(args[3]), EQUAL(MAP_SHARED | MAP_FIXED, 0, 1), ALLOW, KILL,
	};

	if (!filter_install(code, sizeof(code) / sizeof(*code)))
		_exit(1);
}

static _Noreturn void become_tracee(int ram, const int *seized)
{
	void *stub;
	char byte;

	close(seized[1]); /* otherwise the read below never ends if its writer has died */
	if (!child_detach())
		_exit(1);
	if (read(seized[0], &byte, 1) != 1 || dup2(ram, RAM_FD) < 0 || close_range(RAM_FD + 1, ~0u, 0))
		_exit(1);
	stub = mmap((void *)STUB, STUB_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	if (stub == MAP_FAILED)
		_exit(1);
	memcpy(stub, stub_code, sizeof(stub_code));
	if (mprotect(stub, STUB_SIZE, PROT_READ | PROT_EXEC))
		_exit(1);
	install_filter();
	asm volatile("int3");
	__builtin_unreachable();
}

pid_t tracee_start(int ram)
{
	int status, pipes[2];
	pid_t pid;

	if (pipe(pipes))
		fail("a traced process cannot be started");
	pid = fork();
	if (!pid)
		become_tracee(ram, pipes);
	/* <sys/ptrace.h> and <linux/ptrace.h> do not go together. */
	if (pid < 0 || syscall(SYS_ptrace, PTRACE_SEIZE, pid, NULL, OPTIONS) || write(pipes[1], "", 1) != 1 ||
	    waitpid(pid, &status, 0) != pid || status >> 8 != SIGTRAP)
		fail("a traced process cannot be started: is ptrace allowed here?");
	close(pipes[0]);
	close(pipes[1]);
	return pid;
}
