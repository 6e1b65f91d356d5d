/* System calls whose results a filter decides; the first argument is the test. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void call(const char *name, long number, long first, long second)
{
	long result = syscall(number, first, second, 0, 0, 0, 0);

	printf("%s %s\n", name, result < 0 ? strerrorname_np(errno) : "works");
}

static void on_signal(int signal, siginfo_t *info, void *context)
{
	const greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;

	(void)signal;
	printf("SIGSYS code %d number %d arch %x rax %lld here %d\n", info->si_code, info->si_syscall, info->si_arch,
	       registers[REG_RAX], info->si_call_addr == (void *)registers[REG_RIP]);
}

static void *call_in_thread(void *unused)
{
	syscall(SYS_getpgrp);
	puts("the thread goes on");
	return unused;
}

static void trap(void)
{
	struct sigaction action = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO };

	sigaction(SIGSYS, &action, NULL);
	syscall(SYS_getpgrp);
	puts("after the handler");
}

static void in_child(void (*test)(void))
{
	int status;
	pid_t child = fork();

	if (!child) {
		test();
		fflush(stdout);
		_exit(0);
	}
	waitpid(child, &status, 0);
	printf("child %s %d\n", WIFSIGNALED(status) ? "signal" : "status",
	       WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
}

static void alone(void)
{
	syscall(SYS_getpgrp);
	puts("the process goes on");
}

static void with_thread(void)
{
	pthread_t thread;

	pthread_create(&thread, NULL, call_in_thread, NULL);
	pthread_join(thread, NULL);
	puts("the other thread goes on");
}

int main(int argc, char **argv)
{
	const char *test = argc > 1 ? argv[1] : "";

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (!strcmp(test, "results")) {
		call("sync", SYS_sync, 0, 0);
		call("getppid", SYS_getppid, 0, 0);
		call("personality", SYS_personality, 0xffffffff, 0);
		call("other personality", SYS_personality, 0x20000, 0);
		call("umask 1", SYS_umask, 1, 0);
		call("umask 0x1f", SYS_umask, 0x1f, 0);
		call("dup 900", SYS_dup, 900, 0);
		call("dup 0", SYS_dup, 0, 0);
		call("no call", 5000, 0, 0);
		printf("mode %d\n", prctl(PR_GET_SECCOMP));
	} else if (!strcmp(test, "trap")) {
		trap();
		in_child(alone);
		signal(SIGSYS, SIG_IGN);
		in_child(alone);
	} else {
		in_child(alone);
		in_child(with_thread);
	}
	return 0;
}
