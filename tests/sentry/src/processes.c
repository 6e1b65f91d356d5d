// SPDX-License-Identifier: Apache-2.0
/* Processes, signals and shared memory: prints what happens, the same natively and on the Sentry. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <time.h>
#include <ucontext.h>

#include "report.h"

static volatile sig_atomic_t handled, last_signal, last_code;
static int value = 1;
static char big[1 << 20];

static void print_status(const char *what, int status)
{
	if (WIFEXITED(status))
		printf("%s exited with %d\n", what, WEXITSTATUS(status));
	else if (WIFSIGNALED(status))
		printf("%s was ended by %d\n", what, WTERMSIG(status));
	else if (WIFSTOPPED(status))
		printf("%s was stopped by %d\n", what, WSTOPSIG(status));
	else if (WIFCONTINUED(status))
		printf("%s continues\n", what);
	fflush(stdout);
}

static int end_of(pid_t pid)
{
	int status = -1;

	if (waitpid(pid, &status, 0) != pid)
		show(__LINE__, "waitpid", -1);
	return status;
}

static void on_signal(int signal, siginfo_t *info, void *context)
{
	(void)context;
	handled++;
	last_signal = signal;
	last_code = info->si_code;
}

static void handle(int signal, int flags)
{
	struct sigaction action = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | flags };

	sigaction(signal, &action, NULL);
}

static void forks(void)
{
	pid_t pid;
	int status;

	memset(big, 1, sizeof(big));
	for (int i = 0; i < 3; i++) {
		pid = fork();
		if (!pid) {
			value += i;
			big[i * 4096] = 9;
			_exit(value * 10 + (big[0] == (i ? 1 : 9)));
		}
		print_status("child", end_of(pid));
	}
	show(__LINE__, "value is the parent's own", value + big[0] + big[4096]);
	CALL(wait(NULL));
	CALL(waitpid(1 << 30, &status, 0));
	CALL(waitpid(-1, &status, 0x1234));
	pid = fork();
	if (!pid)
		for (;;)
			pause();
	CALL(waitpid(pid, &status, WNOHANG));
	CALL(kill(pid, SIGTERM));
	print_status("killed child", end_of(pid));
	pid = fork();
	if (!pid)
		abort();
	print_status("aborted child", end_of(pid));
	pid = fork();
	if (!pid)
		asm volatile("movl $1, (%0)" : : "r"(8l) : "memory");
	print_status("child that faults", end_of(pid));
	pid = vfork();
	if (!pid) {
		value = 77;
		_exit(3);
	}
	print_status("vfork's child", end_of(pid));
	show(__LINE__, "which had the parent's memory", value);
}

static void grandchildren(void)
{
	int pipes[2];
	char c = 0;
	pid_t pid;

	prctl(PR_SET_CHILD_SUBREAPER, 1);
	if (pipe(pipes))
		show(__LINE__, "pipe", -1);
	pid = fork();
	if (!pid) {
		if (!fork()) {
			close(pipes[1]);
			if (read(pipes[0], &c, 1) == 0)
				_exit(5);
			_exit(6);
		}
		_exit(4);
	}
	print_status("child", end_of(pid));
	close(pipes[1]);
	print_status("grandchild", end_of(-1));
	prctl(PR_SET_CHILD_SUBREAPER, 0);
}

/* CLONE_PARENT: the caller's parent becomes the parent; all else is inherited from the caller. */
static void siblings(void)
{
	struct rlimit limit = { 50, 60 };
	pid_t pid = fork();

	if (!pid) {
		setpgid(0, 0);
		setrlimit(RLIMIT_NOFILE, &limit);
		if (syscall(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0))
			_exit(1);
		getrlimit(RLIMIT_NOFILE, &limit);
		_exit((int)limit.rlim_cur + (getpgrp() != getppid()));
	}
	print_status("child", end_of(pid));
	print_status("its sibling", end_of(-1));
}

static void stops(void)
{
	siginfo_t info;
	int status, go_on[2];
	char byte = 0;
	pid_t pid;

	pipe(go_on);
	pid = fork();
	if (!pid) {
		raise(SIGSTOP);
		read(go_on[0], &byte, 1);
		_exit(8);
	}
	waitpid(pid, &status, WUNTRACED);
	print_status("child", status);
	kill(pid, SIGCONT);
	waitpid(pid, &status, WCONTINUED);
	print_status("child", status);
	write(go_on[1], &byte, 1); /* its end would hide that it continued */
	close(go_on[0]), close(go_on[1]);
	memset(&info, 0, sizeof(info));
	CALL(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT));
	printf("waitid: signal %d code %d status %d same %d\n", info.si_signo, info.si_code, info.si_status, info.si_pid == pid);
	CALL(waitid(P_PID, (id_t)pid, &info, 0));
	print_status("child", end_of(pid));
	pid = fork();
	if (!pid) {
		kill(getpid(), SIGSTOP);
		_exit(1);
	}
	waitpid(pid, &status, WUNTRACED);
	kill(pid, SIGKILL);
	print_status("stopped child", end_of(pid));
}

static void handlers(void)
{
	struct timespec tenth = { 0, 100000000 }, hour = { 3600, 0 };
	struct itimerval often = { { 0, 20000 }, { 0, 20000 } }, never = { { 0, 0 }, { 0, 0 } };
	char c;
	int pipes[2], ready = pipe(pipes);
	sigset_t set, old;
	double x = 1.5;
	pid_t pid;

	handle(SIGUSR1, 0);
	handle(SIGALRM, 0);
	handle(SIGCHLD, 0);
	CALL(raise(SIGUSR1));
	printf("handled %d signal %d code %d pipe %d\n", handled, last_signal, last_code, ready);
	x *= 2;
	kill(getpid(), SIGUSR1);
	printf("handled %d code %d x %f\n", handled, last_code, x);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigprocmask(SIG_BLOCK, &set, &old);
	kill(getpid(), SIGUSR1);
	kill(getpid(), SIGUSR1);
	printf("blocked: handled %d pending %d\n", handled, sigpending(&set) || sigismember(&set, SIGUSR1));
	sigprocmask(SIG_SETMASK, &old, NULL);
	printf("unblocked: handled %d\n", handled);
	setitimer(ITIMER_REAL, &often, NULL);
	CALL(read(pipes[0], &c, 1));
	setitimer(ITIMER_REAL, &never, NULL);
	printf("signal %d code %d\n", last_signal, last_code == SI_KERNEL);
	handle(SIGALRM, SA_RESTART);
	pid = fork();
	if (!pid) {
		nanosleep(&tenth, NULL); /* meanwhile, signals interrupt the reader */
		_exit(write(pipes[1], "x", 1) == 1 ? 0 : 1);
	}
	setitimer(ITIMER_REAL, &often, NULL);
	CALL(read(pipes[0], &c, 1));
	setitimer(ITIMER_REAL, &never, NULL);
	print_status("writer", end_of(pid));
	setitimer(ITIMER_REAL, &often, NULL);
	/* It ends by the signal. */
	CALL(nanosleep(&hour, &hour));
	printf("rest is positive %d\n", hour.tv_sec > 0);
	setitimer(ITIMER_REAL, &often, NULL);
	CALL(pause());
	setitimer(ITIMER_REAL, &never, NULL);
}

static void on_fault(int signal, siginfo_t *info, void *context)
{
	ucontext_t *c = context;

	printf("signal %d code %d address %p trap %lld\n", signal, info->si_code, info->si_addr,
	       (long long)c->uc_mcontext.gregs[REG_TRAPNO]);
	c->uc_mcontext.gregs[REG_RIP] += 2; /* the instruction's size */
}

static void faults(void)
{
	static char stack[65536];
	stack_t alternate = { stack, 0, sizeof(stack) };
	struct sigaction action = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK };
	char *page = mmap((void *)0x30000000, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);

	CALL(sigaltstack(&alternate, NULL));
	sigaction(SIGSEGV, &action, NULL);
	sigaction(SIGILL, &action, NULL);
	asm volatile("movb %%cl, (%%rax)" : : "a"(page), "c"(0) : "memory");
	asm volatile("movb %%cl, (%%rax)" : : "a"(0x50000000l), "c"(0) : "memory");
	action.sa_flags = SA_SIGINFO;
	asm volatile("ud2");
	fflush(stdout);
}

static void queue(void)
{
	union sigval data = { .sival_int = 41 };
	struct timespec none = { 0, 0 };
	siginfo_t info;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN + 2);
	sigaddset(&set, SIGUSR2);
	sigprocmask(SIG_BLOCK, &set, NULL);
	CALL(sigtimedwait(&set, &info, &none));
	CALL(sigqueue(getpid(), SIGRTMIN + 2, data));
	data.sival_int++;
	CALL(sigqueue(getpid(), SIGRTMIN + 2, data));
	CALL(kill(getpid(), SIGUSR2));
	for (int i = 0; i < 3; i++) {
		CALL(sigwaitinfo(&set, &info));
		printf("code %d value %d\n", info.si_code, info.si_code == SI_QUEUE ? info.si_int : 0);
	}
}

/* A signal that would be ignored ends a wait for it, whether it came before or comes now. */
static void awaited(void)
{
	const struct timespec limit = { .tv_sec = 20 };
	siginfo_t info;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigprocmask(SIG_BLOCK, &set, NULL);
	for (int late = 0; late < 2; late++) {
		pid_t child = fork();

		if (!child) {
			if (late)
				wait_until_asleep(getppid());
			_exit(3);
		}
		if (!late)
			CALL(waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT));
		CALL(sigtimedwait(&set, &info, &limit));
		printf("code %d status %d\n", info.si_code, info.si_status);
		CALL(waitpid(child, NULL, 0) == child);
	}
	sigprocmask(SIG_UNBLOCK, &set, NULL);
}

static void shared(void)
{
	int *word = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int *own = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	pid_t pid = fork();

	*own = 1;
	if (!pid) {
		word[0] = 5;
		word[1024] = 6;
		own[0] = 7;
		_exit(0);
	}
	end_of(pid);
	printf("shared %d %d own %d\n", word[0], word[1024], own[0]);
}

static void groups(void)
{
	pid_t pid = fork();

	if (!pid) {
		printf("session %d ", setsid() == getpid());
		printf("%d\n", getsid(0) == getpid() && getpgrp() == getpid());
		CALL(setsid());
		CALL(setpgid(0, 0));
		fflush(stdout);
		_exit(0);
	}
	print_status("session leader", end_of(pid));
	pid = fork();
	if (!pid)
		for (;;)
			pause();
	CALL(setpgid(pid, pid));
	printf("group %d\n", getpgid(pid) == pid);
	CALL(kill(-pid, SIGINT));
	print_status("group", end_of(-pid));
	CALL(getpgid(1 << 30));
	CALL(setpgid(1 << 30, 0));
	CALL(setpgid(0, -1));
}

/* What /proc shows of a child that waits. */
static void show_child(pid_t pid)
{
	char name[40], comm[32] = "", state = 0, line[100];
	int number = 0, parent = 0, group = 0, session = 0, same = 0;
	long threads = 0;
	FILE *file;
	DIR *proc = opendir("/proc");

	snprintf(name, sizeof(name), "/proc/%d/stat", pid);
	while (state != 'S' && state != 'T') { /* until it has reached its wait */
		file = fopen(name, "r");
		if (!file || fscanf(file, "%d %31s %c %d %d %d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %ld", &number,
				    comm, &state, &parent, &group, &session, &threads) != 7)
			break;
		fclose(file);
	}
	printf("%s %c pid %d parent %d group %d %d session %d threads %ld\n", comm, state, number == pid, parent == getpid(),
	       group == getpgrp(), group == pid, session == getsid(0), threads);
	for (struct dirent *entry; (entry = readdir(proc));)
		same += atoi(entry->d_name) == pid;
	closedir(proc);
	snprintf(name, sizeof(name), "/proc/%d/status", pid);
	file = fopen(name, "r");
	while (file && fgets(line, sizeof(line), file))
		if (!strncmp(line, "State", 5) || !strncmp(line, "Threads", 7) || !strncmp(line, "SigBlk", 6) ||
		    !strncmp(line, "ShdPnd", 6) || !strncmp(line, "NoNew", 5))
			printf("%s", line);
	if (file)
		fclose(file);
	snprintf(name, sizeof(name), "/proc/%d/comm", pid);
	printf("listed %d\n", same);
	CALL(write(open(name, O_WRONLY), "other", 5));
}

static void proc(void)
{
	char name[40];
	pid_t pid = fork();

	if (!pid) {
		sigset_t set;

		prctl(PR_SET_NAME, "a-child");
		sigemptyset(&set);
		sigaddset(&set, SIGUSR1);
		sigprocmask(SIG_BLOCK, &set, NULL);
		kill(getpid(), SIGUSR1);
		for (;;)
			pause();
	}
	show_child(pid);
	setpgid(pid, pid);
	kill(pid, SIGSTOP);
	waitpid(pid, NULL, WUNTRACED);
	show_child(pid);
	kill(pid, SIGKILL);
	end_of(pid);
	snprintf(name, sizeof(name), "/proc/%d/stat", pid);
	CALL(open(name, O_RDONLY));
}

int main(void)
{
	setvbuf(stdout, NULL, _IOFBF, 1 << 16);
	forks();
	grandchildren();
	siblings();
	stops();
	handlers();
	faults();
	queue();
	awaited();
	shared();
	groups();
	proc();
	return 6;
}
