// SPDX-License-Identifier: Apache-2.0
/*
 * Tracers that do anything to a few processes, and end or are killed at any time, for some seconds.
 *
 * Afterwards all processes can be ended and waited for, and the memory is as free as before.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { TRACERS = 3, KNOWN = 16, MOST_LOST = 1 << 20, LEAST = 20 };

static unsigned long long state;

static unsigned next(unsigned below)
{
	state ^= state << 13, state ^= state >> 7, state ^= state << 17;
	return (unsigned)(state >> 20) % below;
}

static void on_signal(int signal)
{
	(void)signal;
}

static void *thread(void *self)
{
	for (int i = 0; i < 3; i++)
		syscall(SYS_getpgid, 0);
	if (!next(8))
		execl("/proc/self/exe", "traces", "victim", (char *)self, NULL);
	return NULL;
}

static void victim(char *seed)
{
	static char text[24];
	pthread_t other;

	state = strtoull(seed, NULL, 10) * 0x9e3779b97f4a7c15ull + 1;
	signal(SIGUSR1, on_signal);
	for (volatile int i = 0; i < 20; i++) {
		pid_t child;

		snprintf(text, sizeof(text), "%u", next(1u << 30));
		switch (next(6)) {
		case 0: raise(SIGUSR1); break;
		case 1: raise(SIGSTOP); break;
		case 2:
			child = fork();
			if (!child)
				_exit(3);
			waitpid(child, NULL, 0);
			break;
		case 3:
			if (!pthread_create(&other, NULL, thread, text))
				pthread_join(other, NULL);
			break;
		case 4:
			child = vfork();
			if (!child)
				_exit(4);
			waitpid(child, NULL, 0);
			break;
		default:
			if (!next(10))
				execl("/proc/self/exe", "traces", "victim", text, NULL);
			syscall(SYS_getpgid, 0);
		}
	}
	if (next(2))
		syscall(SYS_exit, 0); /* the leader only */
	_exit(0);
}

static const int requests[] = {
	PTRACE_CONT, PTRACE_CONT, PTRACE_SYSCALL, PTRACE_SYSCALL, PTRACE_SINGLESTEP, PTRACE_DETACH, PTRACE_LISTEN, PTRACE_KILL,
};
static const int signals[] = { 0, 0, 0, SIGUSR1, SIGSTOP, SIGCONT, SIGTERM };

static void act_on(pid_t pid)
{
	static const unsigned long options[] = { 0, 0x7f, 0x1f, 0x40, PTRACE_O_EXITKILL, PTRACE_O_EXITKILL | 0x7f };
	struct user_regs_struct regs;
	struct {
		void *base;
		unsigned long size;
	} part = { &regs, sizeof(regs) };
	unsigned long option = options[next(sizeof(options) / sizeof(*options))];
	int signal = signals[next(sizeof(signals) / sizeof(*signals))];

	switch (next(12)) {
	case 0: ptrace(PTRACE_ATTACH, pid, 0, 0); break;
	case 1: ptrace(PTRACE_SEIZE, pid, 0, option); break;
	case 2: ptrace(PTRACE_INTERRUPT, pid, 0, 0); break;
	case 3: ptrace(PTRACE_SETOPTIONS, pid, 0, option); break;
	case 4: kill(pid, next(30) ? SIGCONT : SIGKILL); break;
	case 5:
		if (!ptrace(PTRACE_GETREGS, pid, 0, &regs)) {
			ptrace(PTRACE_SETREGS, pid, 0, &regs);
			ptrace(PTRACE_POKEDATA, pid, regs.rsp - 512, 5);
			ptrace(PTRACE_GETREGSET, pid, 1, &part);
		}
		break;
	default: ptrace(requests[next(next(5) ? 5 : 8)], pid, 0, signal);
	}
}

static void tracer(unsigned long seed, pid_t first)
{
	pid_t known[KNOWN] = { first };
	unsigned turns = 30 + (unsigned)(seed % 200), count = 1;

	state = seed * 0x9e3779b97f4a7c15ull + 1;
	ptrace(next(2) ? PTRACE_SEIZE : PTRACE_ATTACH, first, 0, 0x7f);
	while (turns--) {
		int status;
		pid_t pid = waitpid(-1, &status, WNOHANG | __WALL);

		if (pid > 0) {
			known[count % KNOWN] = pid;
			count++;
			act_on(pid);
		}
		act_on(known[next(count < KNOWN ? count : KNOWN)]);
	}
	_exit(0);
}

static void round_of(unsigned long seed)
{
	pid_t group = fork(), pid;
	char text[24];

	if (!group) {
		setpgid(0, 0);
		snprintf(text, sizeof(text), "%lu", seed);
		execl("/proc/self/exe", "traces", "victim", text, NULL);
		_exit(1);
	}
	setpgid(group, group);
	for (int i = 0; i < TRACERS; i++) {
		pid = fork();
		if (!pid) {
			setpgid(0, group);
			tracer(seed * TRACERS + (unsigned long)i, group);
		}
		setpgid(pid, group);
		if (!next(4))
			kill(pid, SIGKILL);
	}
	while (next(8))
		syscall(SYS_sched_yield);
	do
		kill(-group, SIGKILL);
	while ((pid = waitpid(-1, NULL, __WALL)) > 0);
}

static unsigned long free_memory(void)
{
	struct sysinfo info;

	sysinfo(&info);
	return info.freeram;
}

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
	unsigned long seed = 1, before;
	double end;

	if (argc == 3 && !strcmp(argv[1], "victim"))
		victim(argv[2]);
	alarm(50);
	state = 5;
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	while (seed < 6)
		round_of(seed++);
	before = free_memory();
	end = now() + strtod(argv[1], NULL);
	while (now() < end || seed < LEAST)
		round_of(seed++);
	if (free_memory() + MOST_LOST < before)
		printf("%lu bytes are lost\n", before - free_memory());
	printf("traces\n");
	return 0;
}
