// SPDX-License-Identifier: Apache-2.0
/*
 * Makes a process fit for a program's code.
 *
 * It has pages of RAM mapped, and one page with an instruction for a system call, by which its address space is changed
 * from outside. A filter allows it what that needs from that page only: a second wall, should it ever run untraced.
 */
#define _GNU_SOURCE
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/ptrace.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tracee.h"

enum { OPTIONS = PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL | PTRACE_O_TRACEFORK };
static const u8 stub_code[] = { 0x0f, 0x05, 0xcc }; /* syscall; int3 */

static void install_filter(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 0, 11),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, instruction_pointer)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (u32)AFTER_SYSCALL, 0, 9),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, instruction_pointer) + 4),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (u32)(AFTER_SYSCALL >> 32), 0, 7),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mmap, 6, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_munmap, 5, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_exit_group, 4, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone, 0, 2),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[0])),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, CLONE_PARENT | SIGCHLD, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog filter = { sizeof(code) / sizeof(*code), code };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter))
		_exit(1);
}

/* The host's kernel would go on writing to libc's area for restartable sequences, which will not be there. */
static bool leave_rseq(void)
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

static _Noreturn void become_tracee(int ram, int seized)
{
	sigset_t none;
	void *stub;
	char byte;

	sigemptyset(&none);
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) || setsid() < 0 || sigprocmask(SIG_SETMASK, &none, NULL) || !leave_rseq())
		_exit(1);
	if (read(seized, &byte, 1) != 1 || dup2(ram, RAM_FD) < 0 || close_range(RAM_FD + 1, ~0u, 0))
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
		become_tracee(ram, pipes[0]);
	/* <sys/ptrace.h> and <linux/ptrace.h> do not go together. */
	if (pid < 0 || syscall(SYS_ptrace, PTRACE_SEIZE, pid, NULL, OPTIONS) || write(pipes[1], "", 1) != 1 ||
	    waitpid(pid, &status, 0) != pid || status >> 8 != SIGTRAP)
		fail("a traced process cannot be started: is ptrace allowed here?");
	close(pipes[0]);
	close(pipes[1]);
	return pid;
}
