// SPDX-License-Identifier: Apache-2.0
/* The first process of a sandbox, and the parent of each command. */
#include "box.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int blocked_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
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
	int signals = blocked_signals();
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

static int run(char **argv)
{
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	setsid();
	execvp(argv[0], argv);
	dprintf(2, "%s: %s\n", argv[0], strerror(errno));
	return errno == ENOENT ? 127 : 126;
}

/*
 * exec COMMAND...: run it; the exit status is its own, or 128 and the number of the signal that ended it. SIGTERM kills
 * it and all that it has started. What runs in the background when it ends goes to the first process.
 */
int box_exec(int argc, char **argv)
{
	int signals = blocked_signals(), status;
	struct signalfd_siginfo info;
	pid_t child, ended;

	(void)argc;
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	child = fork();
	if (child < 0)
		return 126;
	if (!child)
		_exit(run(argv));
	for (int fd = 0; fd < 3; fd++)
		close(fd); /* whoever reads its output sees the end with the last process that can write */
	for (;;) {
		while ((ended = waitpid(-1, &status, WNOHANG)) > 0) {
			if (ended == child)
				return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
		}
		if (read(signals, &info, sizeof(info)) != sizeof(info))
			return 126;
		if (info.ssi_signo != SIGCHLD) {
			kill_descendants();
			return 128 + SIGKILL;
		}
	}
}
