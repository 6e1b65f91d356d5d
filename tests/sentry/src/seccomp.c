// SPDX-License-Identifier: Apache-2.0
/* Filters of system calls that a program installs, what they do, and what a tracer sees of them. */
#define _GNU_SOURCE
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/ptrace.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/user.h>

#include "report.h"

#define FIELD(name) offsetof(struct seccomp_data, name)
#define LOAD(name) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, FIELD(name))
#define RETURN(value) BPF_STMT(BPF_RET | BPF_K, value)
#define IS(value, yes, no) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, yes, no)
/* One call gets a verdict, all others are allowed. */
#define VERDICT(call, verdict) { LOAD(nr), IS(SYS_##call, 0, 1), RETURN(verdict), RETURN(SECCOMP_RET_ALLOW) }
#define INSTALL(...) \
	do { \
		struct sock_filter code_[] = __VA_ARGS__; \
		show(__LINE__, "install", install(0, code_, sizeof(code_) / sizeof(*code_))); \
	} while (0)
#define TRACE(request, pid, at, data) TRY(ptrace, request, pid, at, data)

static pid_t child;

static long install(unsigned flags, struct sock_filter *code, unsigned short count)
{
	struct sock_fprog program = { count, code };

	return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
}

static void show_status(int line)
{
	char text[200];
	FILE *file = fopen("/proc/thread-self/status", "r");

	while (file && fgets(text, sizeof(text), file))
		if (!strncmp(text, "Seccomp", 7) || !strncmp(text, "NoNewPrivs", 10))
			printf("%d %s", line, text);
	if (file)
		fclose(file);
}

static void test_errors(void)
{
	struct sock_filter good[] = { RETURN(SECCOMP_RET_ALLOW) };
	struct sock_fprog program = { 0, good };
	unsigned action = SECCOMP_RET_TRACE;

	TRY(seccomp, 99, 0, 0);
	TRY(seccomp, SECCOMP_SET_MODE_FILTER, 1 << 10, &program);
	TRY(seccomp, SECCOMP_SET_MODE_FILTER, 0, BAD);
	TRY(seccomp, SECCOMP_SET_MODE_FILTER, 0, &program);
	program.len = 5000;
	TRY(seccomp, SECCOMP_SET_MODE_FILTER, 0, &program);
	program = (struct sock_fprog){ 1, BAD };
	TRY(seccomp, SECCOMP_SET_MODE_FILTER, 0, &program);
	TRY(seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action);
	TRY(seccomp, SECCOMP_GET_ACTION_AVAIL, 1, &action);
	TRY(seccomp, SECCOMP_GET_ACTION_AVAIL, 0, BAD);
	action = 0x1230000;
	TRY(seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action);
	TRY(prctl, PR_SET_SECCOMP, 7, 0);
	TRY(prctl, PR_GET_SECCOMP, 0, 0);
	IN_CHILD {
		become(NOBODY);
		TRY(seccomp, SECCOMP_SET_MODE_FILTER, 0, &program);
		program = (struct sock_fprog){ 1, good };
		TRY(seccomp, SECCOMP_SET_MODE_FILTER, 0, &program);
		TRY(prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
		TRY(seccomp, SECCOMP_SET_MODE_FILTER, 0, &program);
		TRY(prctl, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
		TRY(prctl, PR_GET_SECCOMP, 0, 0);
		show_status(__LINE__);
	}
}

/* Code that Linux accepts, or not. */
static void test_code(void)
{
	enum { A = BPF_LD | BPF_W | BPF_ABS, M = BPF_LD | BPF_MEM, END = SECCOMP_RET_ALLOW };

	IN_CHILD {
		INSTALL({ BPF_STMT(BPF_LD | BPF_IMM, END), BPF_STMT(BPF_RET | BPF_A, 0) });
		INSTALL({ BPF_STMT(BPF_LD | BPF_IMM, END) });
		INSTALL({ BPF_STMT(A, 64), RETURN(END) });
		INSTALL({ BPF_STMT(A, 2), RETURN(END) });
		INSTALL({ BPF_STMT(A, 60), RETURN(END) });
		INSTALL({ BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 0), RETURN(END) });
		INSTALL({ BPF_STMT(BPF_LD | BPF_W | BPF_IND, 0), RETURN(END) });
		INSTALL({ BPF_STMT(M, 3), RETURN(END) });
		INSTALL({ BPF_STMT(BPF_ST, 3), BPF_STMT(M, 3), RETURN(END) });
		INSTALL({ BPF_STMT(BPF_ST, 16), RETURN(END) });
		INSTALL({ BPF_STMT(BPF_ST, 15), BPF_STMT(M, 15), RETURN(END) });
		INSTALL({ LOAD(nr), IS(1, 0, 1), BPF_STMT(BPF_ST, 2), BPF_STMT(M, 2), RETURN(END) });
		INSTALL({ LOAD(nr), IS(1, 1, 0), BPF_STMT(BPF_STX, 2), RETURN(END) });
		INSTALL({ IS(1, 1, 0), RETURN(END) });
		INSTALL({ BPF_STMT(BPF_JMP | BPF_JA, 0), RETURN(END) });
		INSTALL({ BPF_STMT(BPF_JMP | BPF_JA, 1), RETURN(END) });
		INSTALL({ BPF_STMT(BPF_JMP | BPF_JA, 0xffffffff), RETURN(END) });
		INSTALL({ BPF_STMT(BPF_ALU | BPF_DIV | BPF_K, 0), RETURN(END) });
		INSTALL({ BPF_STMT(BPF_ALU | BPF_MOD | BPF_K, 3), RETURN(END) });
		INSTALL({ BPF_STMT(BPF_ALU | BPF_LSH | BPF_K, 32), RETURN(END) });
		INSTALL({ BPF_STMT(BPF_ALU | BPF_NEG, 0), BPF_STMT(BPF_MISC | BPF_TAX, 0), BPF_STMT(BPF_MISC | BPF_TXA, 0), RETURN(END) });
		INSTALL({ BPF_STMT(0xff, 0), RETURN(END) });
		INSTALL({ BPF_STMT(0x100, 0), RETURN(END) });
		INSTALL({ BPF_STMT(BPF_JMP | BPF_JSET | BPF_X, 0), RETURN(END) });
		INSTALL({ BPF_STMT(BPF_LDX | BPF_W | BPF_LEN, 0), BPF_STMT(BPF_LD | BPF_W | BPF_LEN, 0), RETURN(END) });
		INSTALL({ RETURN(END), BPF_STMT(BPF_LD | BPF_IMM, 1) });
	}
}

static void on_signal(int signal, siginfo_t *info, void *context)
{
	(void)context;
	printf("signal %d: errno %d, code %d, call %d, machine %x\n", signal, info->si_errno, info->si_code, info->si_syscall, info->si_arch);
}

static void *in_thread(void *call)
{
	TRY(sync);
	show_status(__LINE__);
	return (void *)syscall((long)call, -1);
}

/* What each verdict does to a call. */
static void test_verdicts(void)
{
	struct sigaction action = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO };

	sigaction(SIGSYS, &action, NULL);
	IN_CHILD {
		INSTALL(VERDICT(sync, SECCOMP_RET_ERRNO | 33));
		INSTALL(VERDICT(getpriority, SECCOMP_RET_ERRNO | 0));
		INSTALL(VERDICT(setpriority, SECCOMP_RET_ERRNO | 0xffff));
		INSTALL(VERDICT(personality, SECCOMP_RET_TRAP | 44));
		INSTALL(VERDICT(getpgid, SECCOMP_RET_TRACE | 55));
		INSTALL(VERDICT(getsid, SECCOMP_RET_USER_NOTIF));
		INSTALL(VERDICT(sync, SECCOMP_RET_ERRNO | 7)); /* the later one comes first */
		TRY(sync);
		TRY(getpriority, 0, 0);
		CALL(syscall(SYS_setpriority, 0, 0, 0) == -1 ? errno : 0);
		CALL(syscall(SYS_personality, -1) == SYS_personality);
		TRY(getpgid, 0);
		TRY(getsid, 0);
		TRY(close, -1);
		show_status(__LINE__);
	}
	IN_CHILD {
		INSTALL(VERDICT(close, SECCOMP_RET_KILL_PROCESS));
		TRY(close, -1);
	}
	IN_CHILD {
		INSTALL(VERDICT(close, SECCOMP_RET_KILL_THREAD));
		TRY(close, -1);
	}
	IN_CHILD {
		INSTALL(VERDICT(close, 0x00010000)); /* no such action */
		TRY(close, -1);
	}
	IN_CHILD {
		INSTALL(VERDICT(close, 0x7f000000));
		TRY(close, -1);
	}
	IN_CHILD {
		/* An argument decides, of which both halves are read, with arithmetic. */
		INSTALL({ LOAD(args[1]), BPF_STMT(BPF_MISC | BPF_TAX, 0), BPF_STMT(BPF_LD | BPF_W | BPF_ABS, FIELD(args[1]) + 4),
			  BPF_STMT(BPF_ALU | BPF_LSH | BPF_K, 4), BPF_STMT(BPF_ALU | BPF_OR | BPF_X, 0),
			  BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0x25, 0, 1), RETURN(SECCOMP_RET_ERRNO | 11), LOAD(arch),
			  BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0), RETURN(SECCOMP_RET_KILL), RETURN(SECCOMP_RET_ALLOW) });
		TRY(dup2, -1, 0x200000005);
		TRY(dup2, -1, 0x5);
		TRY(dup2, -1, 0x25);
	}
}

static void *run_strict(void *unused)
{
	TRY(prctl, PR_SET_SECCOMP, SECCOMP_MODE_STRICT);
	syscall(SYS_getpid);
	return unused;
}

static void test_strict(void)
{
	struct sock_filter code[] = { RETURN(SECCOMP_RET_ALLOW) };
	pthread_t thread;

	IN_CHILD {
		TRY(seccomp, SECCOMP_SET_MODE_STRICT, 1, 0);
		CALL(install(0, code, 1));
		TRY(seccomp, SECCOMP_SET_MODE_STRICT, 0, 0);
		TRY(prctl, PR_SET_SECCOMP, SECCOMP_MODE_STRICT);
	}
	IN_CHILD {
		CALL(syscall(SYS_seccomp, SECCOMP_SET_MODE_STRICT, 0, 0));
		(void)!write(1, "allowed\n", 8);
		syscall(SYS_exit, 6);
	}
	IN_CHILD {
		CALL(syscall(SYS_seccomp, SECCOMP_SET_MODE_STRICT, 0, 0));
		syscall(SYS_getpid);
	}
	IN_CHILD {
		pthread_create(&thread, NULL, run_strict, NULL);
		pthread_join(thread, NULL);
		printf("the process goes on\n");
		show_status(__LINE__);
	}
}

/* Of messages to a listener. */
static void test_sizes(void)
{
	unsigned short sizes[3] = { 0 };

	TRY(seccomp, SECCOMP_GET_NOTIF_SIZES, 1, sizes);
	TRY(seccomp, SECCOMP_GET_NOTIF_SIZES, 0, BAD);
	TRY(seccomp, SECCOMP_GET_NOTIF_SIZES, 0, sizes);
	printf("%u %u %u\n", sizes[0], sizes[1], sizes[2]);
}

static void test_threads(void)
{
	struct sock_filter code[] = VERDICT(sync, SECCOMP_RET_ERRNO | 22);
	pthread_t thread;
	void *result;

	IN_CHILD {
		pthread_create(&thread, NULL, in_thread, (void *)SYS_close);
		pthread_join(thread, &result);
		TRY(prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
		CALL(install(SECCOMP_FILTER_FLAG_TSYNC, code, 4));
		pthread_create(&thread, NULL, in_thread, (void *)SYS_close);
		pthread_join(thread, &result);
		INSTALL(VERDICT(close, SECCOMP_RET_KILL_THREAD));
		pthread_create(&thread, NULL, in_thread, (void *)SYS_close);
		pthread_join(thread, &result);
		printf("the process goes on\n");
		fflush(stdout);
		execl("/proc/self/exe", "seccomp", "again", NULL);
	}
}

static void next(int line, long how)
{
	struct user_regs_struct regs;
	struct ptrace_syscall_info info;
	unsigned long message = 0;
	int status = 0;
	long size;

	syscall(SYS_ptrace, how, child, 0, 0);
	waitpid(child, &status, 0);
	printf("%d wait: %x", line, status);
	if (WIFSTOPPED(status)) {
		memset(&info, 0, sizeof(info));
		syscall(SYS_ptrace, PTRACE_GETEVENTMSG, child, 0, &message);
		syscall(SYS_ptrace, PTRACE_GETREGS, child, 0, &regs);
		size = syscall(SYS_ptrace, PTRACE_GET_SYSCALL_INFO, child, sizeof(info), &info);
		printf(", message %lu, number %lld, result %lld, info %ld: %d", message, (long long)regs.orig_rax, (long long)regs.rax, size, info.op);
		if (info.op == PTRACE_SYSCALL_INFO_SECCOMP)
			printf(" %lld %lld data %u", (long long)info.seccomp.nr, (long long)info.seccomp.args[0], info.seccomp.ret_data);
	}
	printf("\n");
}

#define NEXT(how) next(__LINE__, how)
#define POKE(field, value) TRY(ptrace, PTRACE_POKEUSR, child, offsetof(struct user_regs_struct, field), value)

/* What a tracer sees, and changes. */
static void test_tracer(unsigned long options)
{
	int status;

	printf("-- options %lx\n", options);
	fflush(stdout);
	child = fork();
	if (!child) {
		long results[5];

		syscall(SYS_ptrace, PTRACE_TRACEME, 0, 0, 0);
		INSTALL(VERDICT(close, SECCOMP_RET_TRACE | 1));
		INSTALL(VERDICT(dup2, SECCOMP_RET_TRACE | 2));
		INSTALL(VERDICT(sync, SECCOMP_RET_ERRNO | 3));
		fflush(stdout);
		raise(SIGSTOP);
		for (int i = 0; i < 5; i++)
			results[i] = syscall(i == 4 ? SYS_dup2 : SYS_close, -10 - i, 1) < 0 ? errno : -1;
		for (int i = 0; i < 5; i++)
			printf("call %d: %ld\n", i, results[i]);
		fflush(stdout);
		syscall(SYS_exit_group, 3);
	}
	waitpid(child, &status, 0);
	TRACE(PTRACE_SETOPTIONS, child, 0, options);
	NEXT(PTRACE_CONT);
	if (!(options & PTRACE_O_TRACESECCOMP))
		return;
	POKE(orig_rax, -1L); /* not made, with another result */
	POKE(rax, -77L);
	NEXT(PTRACE_CONT);
	POKE(orig_rax, SYS_sync); /* which another filter refuses */
	NEXT(PTRACE_CONT);
	NEXT(PTRACE_SYSCALL); /* the end of this call */
	NEXT(PTRACE_SYSCALL); /* the beginning of the next one */
	NEXT(PTRACE_CONT);    /* and its filter */
	POKE(orig_rax, SYS_dup2);
	NEXT(PTRACE_CONT);
	NEXT(PTRACE_CONT);
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "again")) {
		setvbuf(stdout, NULL, _IONBF, 0);
		TRY(sync);
		show_status(__LINE__); /* which closes a file: this program ends */
	}
	signal(SIGALRM, SIG_DFL);
	alarm(30);
	test_errors();
	test_code();
	test_verdicts();
	test_strict();
	test_sizes();
	test_threads();
	test_tracer(PTRACE_O_TRACESECCOMP | PTRACE_O_TRACESYSGOOD);
	test_tracer(0);
	return 42;
}
