// SPDX-License-Identifier: Apache-2.0
/*
 * The host's terminal while a program has it: raw, since the core edits lines, echoes and sends signals.
 *
 * A process of its own guards it: it starts the core as its child and restores the terminal however the core ends.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "host.h"
#include "terminal.h"

int terminal_fd = -1;
static struct termios before;
static bool is_raw;
static volatile sig_atomic_t resized;

bool terminal_resized(void)
{
	bool was = resized;

	resized = 0;
	return was;
}

/* -- which one -- */

static bool is_same(int fd, dev_t device)
{
	struct stat stat;

	return isatty(fd) && !fstat(fd, &stat) && stat.st_rdev == device;
}

/* A descriptor by which the terminal can be written. */
static int writable(u32 streams)
{
	if ((fcntl(0, F_GETFL) & O_ACCMODE) == O_RDWR)
		return 0;
	if (streams & 6)
		return streams & 2 ? 1 : 2;
	return open("/proc/self/fd/0", O_RDWR | O_NOCTTY | O_CLOEXEC);
}

u32 terminal_find(u8 *modes)
{
	struct stat stat;
	u32 streams = 1;

	/* A process in the background stops when it changes the terminal. */
	if (!isatty(0) || fstat(0, &stat) || tcgetpgrp(0) != getpgrp() || tcgetattr(0, &before))
		return 0;
	for (int fd = 1; fd < 3; fd++)
		streams |= is_same(fd, stat.st_rdev) ? 1u << fd : 0;
	terminal_fd = writable(streams);
	/* The C library's structure differs from the kernel's. */
	if (terminal_fd < 0 || syscall(SYS_ioctl, 0, TCGETS, modes))
		return 0;
	return streams;
}

/* -- the guard -- */

static void make_raw(void)
{
	struct termios raw = before;

	if (tcgetpgrp(0) != getpgrp())
		return;
	cfmakeraw(&raw);
	is_raw = !tcsetattr(0, TCSANOW, &raw);
}

static void restore(void)
{
	if (is_raw)
		tcsetattr(0, TCSANOW, &before);
	is_raw = false;
}

static _Noreturn void end_as(int status)
{
	int signal_number = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
	sigset_t none;

	restore();
	if (signal_number) {
		signal(signal_number, SIG_DFL);
		sigemptyset(&none);
		kill(getpid(), signal_number);
		sigprocmask(SIG_SETMASK, &none, NULL);
	}
	_exit(signal_number ? 128 + signal_number : WEXITSTATUS(status));
}

/* The terminal may have another size than when it was left. */
static void resume(pid_t core)
{
	make_raw();
	kill(core, SIGCONT);
	kill(core, SIGWINCH);
}

/* The core has stopped, as a job does: so does this process, until somebody continues it. */
static void stop(pid_t core)
{
	restore();
	raise(SIGSTOP);
	resume(core);
}

static void child_changed(pid_t core)
{
	int status;

	while (waitpid(core, &status, WNOHANG | WUNTRACED) == core) {
		if (!WIFSTOPPED(status))
			end_as(status);
		stop(core);
	}
}

static _Noreturn void guard(pid_t core, const sigset_t *signals)
{
	for (;;) {
		int number = sigwaitinfo(signals, NULL);

		if (number == SIGCHLD)
			child_changed(core);
		else if (number == SIGTSTP)
			kill(core, SIGSTOP);
		else if (number == SIGCONT)
			resume(core);
		else if (number > 0)
			kill(core, number);
	}
}

/* -- the core's process -- */

static void on_resize(int number)
{
	(void)number;
	resized = 1;
}

/* SIGWINCH is blocked except while the core waits, which then reads the new size. */
static void begin_core(pid_t parent, const sigset_t *signals)
{
	struct sigaction action = { .sa_handler = on_resize };
	sigset_t resize;

	if (prctl(PR_SET_PDEATHSIG, SIGKILL) || getppid() != parent)
		_exit(1);
	sigprocmask(SIG_UNBLOCK, signals, NULL);
	signal(SIGTTOU, SIG_DFL);
	sigaction(SIGWINCH, &action, NULL);
	sigemptyset(&resize);
	sigaddset(&resize, SIGWINCH);
	sigprocmask(SIG_BLOCK, &resize, NULL);
}

void terminal_guard(void)
{
	static const int guarded[] = { SIGCHLD, SIGTSTP, SIGCONT, SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGALRM };
	const struct rlimit no_core = { 0, 0 };
	pid_t parent = getpid(), core;
	sigset_t signals;

	sigemptyset(&signals);
	for (unsigned int i = 0; i < sizeof(guarded) / sizeof(*guarded); i++)
		sigaddset(&signals, guarded[i]);
	sigprocmask(SIG_BLOCK, &signals, NULL);
	signal(SIGCHLD, SIG_DFL);
	signal(SIGTTOU, SIG_IGN); /* restoring it may never stop this process */
	setrlimit(RLIMIT_CORE, &no_core);
	make_raw();
	core = fork();
	if (core < 0) {
		restore();
		fail("there are too many processes");
	}
	if (core)
		guard(core, &signals);
	is_raw = false;
	begin_core(parent, &signals);
}
