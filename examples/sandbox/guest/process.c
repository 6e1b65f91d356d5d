// SPDX-License-Identifier: Apache-2.0
/* The first process of a sandbox, and the parent of each command. */
#include "box.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* The real-time signal of this number and N is signal N for the command: the others are for this program. */
enum { FIRST_PASSED = 34, LAST_PASSED = 64 };

static int blocked_signals(bool passed)
{
	sigset_t set;

	sigemptyset(&set);
	for (int number = FIRST_PASSED + 1; passed && number <= LAST_PASSED; number++)
		sigaddset(&set, number);
	sigaddset(&set, SIGCHLD);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	return signalfd(-1, &set, SFD_CLOEXEC);
}

/* init: adopt and reap orphans, until a signal. */
int box_init(int argc, char **argv)
{
	int signals = blocked_signals(false);
	struct signalfd_siginfo info;

	(void)argc, (void)argv;
	while (read(signals, &info, sizeof(info)) == sizeof(info) && info.ssi_signo == SIGCHLD) {
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
	}
	return 0;
}

static pid_t parent_of(pid_t pid)
{
	char path[64], text[512], *end;
	FILE *file;
	int parent = 0;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	file = fopen(path, "re");
	if (!file)
		return 0;
	if (fgets(text, sizeof(text), file) && (end = strrchr(text, ')')))
		sscanf(end + 1, " %*c %d", &parent);
	fclose(file);
	return parent;
}

static bool descends_from(pid_t pid, pid_t ancestor)
{
	for (int depth = 0; pid > 1 && depth < 1000; depth++) {
		pid = parent_of(pid);
		if (pid == ancestor)
			return true;
	}
	return false;
}

/*
 * Kill all that the command has started. They can start others meanwhile, which the next round finds; one that is found
 * late must not be waited for before.
 */
static void kill_descendants(void)
{
	const struct timespec pause = { .tv_nsec = 1000000 };
	bool found = true;

	while (found) {
		DIR *directory = opendir("/proc");
		struct dirent *entry;

		found = false;
		while (directory && (entry = readdir(directory))) {
			pid_t pid = isdigit((unsigned char)entry->d_name[0]) ? atoi(entry->d_name) : 0;

			if (pid && descends_from(pid, getpid()) && !kill(pid, SIGKILL))
				found = true;
		}
		if (directory)
			closedir(directory);
		while (waitpid(-1, NULL, WNOHANG) > 0)
			found = true;
		if (found)
			nanosleep(&pause, NULL); /* they need time to end; which of them ends first is not known */
	}
}

/* Give up the terminal that this process leads, for the session of the command. */
static void leave_terminal(void)
{
	signal(SIGHUP, SIG_IGN); /* sent to whoever leads it */
	ioctl(0, TIOCNOTTY);
	signal(SIGHUP, SIG_DFL);
}

static int run(char **argv, bool reports_pid)
{
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	setsid();
	ioctl(0, TIOCSCTTY, 0);
	if (reports_pid)
		dprintf(1, "%d%c", getpid(), 0);
	execvp(argv[0], argv);
	dprintf(2, "%s: %s\n", argv[0], strerror(errno));
	return errno == ENOENT ? 127 : 126;
}

static void pass_signal(pid_t child, int number)
{
	if (kill(-child, number)) /* it has no group of its own yet */
		kill(child, number);
}

static int attend(char **argv, bool reports_pid)
{
	int signals, status;
	struct signalfd_siginfo info;
	pid_t child, ended;

	leave_terminal();
	signals = blocked_signals(true);
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	child = fork();
	if (child < 0)
		return 126;
	if (!child)
		_exit(run(argv, reports_pid));
	for (int fd = 0; fd < 3; fd++)
		close(fd); /* whoever reads its output sees the end with the last process that can write */
	for (;;) {
		while ((ended = waitpid(-1, &status, WNOHANG)) > 0) {
			if (ended == child)
				return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
		}
		if (read(signals, &info, sizeof(info)) != sizeof(info))
			return 126;
		if (info.ssi_signo > FIRST_PASSED) {
			pass_signal(child, (int)info.ssi_signo - FIRST_PASSED);
		} else if (info.ssi_signo != SIGCHLD) {
			kill_descendants();
			return 128 + SIGKILL;
		}
	}
}

/*
 * exec COMMAND...: run it; the exit status is its own, or 128 and the number of the signal that ended it. SIGTERM kills
 * it and all that it has started. What runs in the background when it ends goes to the first process.
 */
int box_exec(int argc, char **argv)
{
	(void)argc;
	return attend(argv, false);
}

/* start COMMAND...: the same; the first field of the output is its process number. */
int box_start(int argc, char **argv)
{
	(void)argc;
	return attend(argv, true);
}
