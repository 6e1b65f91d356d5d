// SPDX-License-Identifier: Apache-2.0
/*
 * Runs a program's code under PTRACE_SYSEMU: a system call stops the process, and the host does not carry it out.
 *
 * The process has pages of RAM mapped, and one page with an instruction for a system call, by which its address space
 * is changed from here. A filter allows it mmap and munmap from that page only: a second wall, should it ever run
 * untraced.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/ptrace.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tracee.h"

enum { STUB_SIZE = 4096, RAM_FD = 0, STOPPED_AT_SYSCALL = SIGTRAP | 0x80 };
enum { OPTIONS = PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL };
#define TASK_SIZE 0x7ffffffff000ull
#define STUB 0x10000ull /* below all that a program may have, where no process of the host has its stack */
#define AFTER_SYSCALL (STUB + 2)
#define AFTER_TRAP (STUB + 3)
static const u8 stub_code[] = { 0x0f, 0x05, 0xcc }; /* syscall; int3 */

static pid_t tracee;
static bool gone;
static struct user_regs_struct home;   /* registers fit for a call from the stub */
static struct user_regs_struct latest; /* those of the program when it last stopped */

/* <sys/ptrace.h> and <linux/ptrace.h> do not go together. */
static long trace(long request, void *address, void *data)
{
	return syscall(SYS_ptrace, request, tracee, address, data);
}

/* -- the start, in the new process -- */

static void install_filter(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 0, 7),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, instruction_pointer)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (u32)AFTER_SYSCALL, 0, 5),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, instruction_pointer) + 4),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (u32)(AFTER_SYSCALL >> 32), 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mmap, 2, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_munmap, 1, 0),
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

static _Noreturn void become_tracee(int ram)
{
	sigset_t none;
	void *stub;

	sigemptyset(&none);
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) || setsid() < 0 || sigprocmask(SIG_SETMASK, &none, NULL) || !leave_rseq())
		_exit(1);
	if (dup2(ram, RAM_FD) < 0 || close_range(RAM_FD + 1, ~0u, 0))
		_exit(1);
	stub = mmap((void *)STUB, STUB_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	if (stub == MAP_FAILED)
		_exit(1);
	memcpy(stub, stub_code, sizeof(stub_code));
	if (mprotect(stub, STUB_SIZE, PROT_READ | PROT_EXEC) || trace(PTRACE_TRACEME, NULL, NULL))
		_exit(1);
	install_filter();
	asm volatile("int3");
	__builtin_unreachable();
}

/* -- calls from the stub -- */

static s64 call(u64 number, u64 a, u64 b, u64 c, u64 d, u64 e, u64 f)
{
	struct user_regs_struct regs = home;
	int status;

	if (gone)
		return 0;
	regs.rip = STUB;
	regs.rax = number;
	regs.rdi = a, regs.rsi = b, regs.rdx = c, regs.r10 = d, regs.r8 = e, regs.r9 = f;
	if (trace(PTRACE_SETREGS, NULL, &regs) || trace(PTRACE_CONT, NULL, NULL) || waitpid(tracee, &status, 0) != tracee)
		fail("the traced process cannot be used");
	/* Signals from elsewhere on the host are not for the program. */
	while (WIFSTOPPED(status) && WSTOPSIG(status) != SIGTRAP)
		if (trace(PTRACE_CONT, NULL, NULL) || waitpid(tracee, &status, 0) != tracee)
			fail("the traced process cannot be used");
	if (!WIFSTOPPED(status)) {
		gone = true;
		return 0;
	}
	if (trace(PTRACE_GETREGS, NULL, &regs) || regs.rip != AFTER_TRAP)
		fail("the traced process stopped somewhere else");
	return (s64)regs.rax;
}

int tracee_map(u64 address, u64 ram_offset, u64 size, u32 prot)
{
	s64 at = call(SYS_mmap, address, size, prot, MAP_SHARED | MAP_FIXED, RAM_FD, ram_offset);

	return at < 0 && at > -4096 ? (int)at : 0;
}

void tracee_unmap(u64 address, u64 size)
{
	if (call(SYS_munmap, address, size, 0, 0, 0, 0))
		fail("memory cannot be taken from the traced process"); /* the program must not see it when it is reused */
}

int tracee_start(int ram)
{
	int status;

	tracee = fork();
	if (!tracee)
		become_tracee(ram);
	if (tracee < 0 || waitpid(tracee, &status, 0) != tracee || !WIFSTOPPED(status) || WSTOPSIG(status) != SIGTRAP)
		fail("a traced process cannot be started: is ptrace allowed here?");
	if (trace(PTRACE_SETOPTIONS, NULL, (void *)OPTIONS) || trace(PTRACE_GETREGS, NULL, &home))
		fail("the new process cannot be traced");
	home.orig_rax = ~0ull;
	home.eflags = 0x202;
	tracee_unmap(0, STUB);
	tracee_unmap(STUB + STUB_SIZE, TASK_SIZE - STUB - STUB_SIZE);
	latest = home;
	latest.fs_base = latest.gs_base = latest.rbp = latest.rbx = 0;
	return tracee;
}

/* -- the program -- */

static void put_regs(const struct regs *r)
{
	latest.r15 = r->r15, latest.r14 = r->r14, latest.r13 = r->r13, latest.r12 = r->r12;
	latest.r11 = r->r11, latest.r10 = r->r10, latest.r9 = r->r9, latest.r8 = r->r8;
	latest.rax = r->rax, latest.rbx = r->rbx, latest.rcx = r->rcx, latest.rdx = r->rdx;
	latest.rsi = r->rsi, latest.rdi = r->rdi, latest.rbp = r->rbp, latest.rsp = r->rsp;
	latest.rip = r->rip, latest.fs_base = r->fs_base, latest.gs_base = r->gs_base;
	latest.orig_rax = ~0ull; /* nothing to restart */
}

static void get_regs(struct regs *r)
{
	*r = (struct regs){
		.r15 = latest.r15, .r14 = latest.r14, .r13 = latest.r13, .r12 = latest.r12,
		.r11 = latest.r11, .r10 = latest.r10, .r9 = latest.r9, .r8 = latest.r8,
		.rax = latest.rax, .rbx = latest.rbx, .rcx = latest.rcx, .rdx = latest.rdx,
		.rsi = latest.rsi, .rdi = latest.rdi, .rbp = latest.rbp, .rsp = latest.rsp,
		.rip = latest.rip, .flags = latest.eflags, .fs_base = latest.fs_base, .gs_base = latest.gs_base,
	};
}

static void end(struct event *event, int signal)
{
	*event = (struct event){ .kind = EVENT_SIGNAL, .signal = signal };
}

/* What the process has stopped for; false: nothing that the program did. */
static bool classify(int stop, struct event *event)
{
	struct ptrace_syscall_info info;
	siginfo_t signal;

	if (stop == STOPPED_AT_SYSCALL) {
		if (trace(PTRACE_GET_SYSCALL_INFO, (void *)sizeof(info), &info) <= 0)
			fail("a system call cannot be read");
		*event = (struct event){ .kind = EVENT_SYSCALL, .foreign = info.arch != AUDIT_ARCH_X86_64 };
		return true;
	}
	if (trace(PTRACE_GETSIGINFO, NULL, &signal) || signal.si_code <= 0)
		return false; /* sent by somebody on the host */
	if (stop == SIGSEGV && signal.si_code != SI_KERNEL)
		*event = (struct event){ .kind = EVENT_FAULT, .address = (u64)signal.si_addr };
	else
		end(event, stop);
	return true;
}

void tracee_run(struct regs *regs, struct event *event)
{
	int status;

	put_regs(regs);
	/* Fails if a register has a value that only the program's own instructions can set, such as a base in the kernel. */
	if (!gone && trace(PTRACE_SETREGS, NULL, &latest)) {
		end(event, SIGSEGV);
		return;
	}
	do {
		gone = gone || trace(PTRACE_SYSEMU, NULL, NULL) || waitpid(tracee, &status, 0) != tracee || !WIFSTOPPED(status);
		if (gone) {
			end(event, SIGKILL);
			return;
		}
	} while (!classify(WSTOPSIG(status), event));
	if (trace(PTRACE_GETREGS, NULL, &latest))
		fail("registers cannot be read");
	get_regs(regs);
	if (event->kind == EVENT_SYSCALL)
		regs->rax = latest.orig_rax; /* Linux has replaced RAX by -ENOSYS */
}
