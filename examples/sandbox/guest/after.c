// SPDX-License-Identifier: Apache-2.0
/* Host-side helpers: they kill a sandbox when its owner exits or its time to live expires. */
#include "box.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/inotify.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* Poll interval in milliseconds, the time within which a step of the wall clock is detected. */
#define LONGEST_WAIT 60000.0

static void ignore_signals(void)
{
	static const int ignored[] = { SIGHUP, SIGINT, SIGQUIT, SIGTERM };

	for (size_t i = 0; i < sizeof(ignored) / sizeof(*ignored); i++)
		signal(ignored[i], SIG_IGN);
}

/* after PID COMMAND...: wait until the process exits, then execute the command. */
int box_after(int argc, char **argv)
{
	struct pollfd owner = { (int)syscall(SYS_pidfd_open, atoi(argv[0]), 0), POLLIN, 0 };

	(void)argc;
	ignore_signals();
	if (owner.fd >= 0)
		while (poll(&owner, 1, -1) < 0 && errno == EINTR)
			;
	execv(argv[1], argv + 1);
	return errno;
}

/* Milliseconds until the deadline in the file (seconds since 1970), 0 if it has passed; -1: no deadline. */
static double time_left(const char *path)
{
	FILE *file = fopen(path, "re");
	char text[64] = "", *end;
	struct timespec now;
	double left;

	if (!file)
		return -1;
	if (!fgets(text, sizeof(text), file))
		text[0] = '\0';
	fclose(file);
	left = strtod(text, &end);
	if (end == text)
		return -1;
	clock_gettime(CLOCK_REALTIME, &now);
	left = (left - (double)now.tv_sec) * 1e3 - (double)now.tv_nsec / 1e6;
	return left > 0 ? left : 0;
}

/*
 * expire PID DIRECTORY FILE COMMAND...: execute the command at the deadline in FILE, or exit when the process does.
 * Renaming a new file over FILE, in DIRECTORY, changes the deadline. The call returns at once: a daemon waits.
 */
int box_expire(int argc, char **argv)
{
	struct pollfd polled[2] = { { (int)syscall(SYS_pidfd_open, atoi(argv[0]), 0), POLLIN, 0 },
				    { inotify_init1(IN_NONBLOCK), POLLIN, 0 } };
	char events[CHUNK];
	pid_t child;

	(void)argc;
	if (polled[0].fd < 0 || inotify_add_watch(polled[1].fd, argv[1], IN_MOVED_TO) < 0)
		return errno;
	child = fork();
	if (child)
		return child < 0 ? errno : 0;
	setsid();
	ignore_signals();
	for (;;) {
		double left = time_left(argv[2]);

		if (!left)
			break;
		poll(polled, 2, left < 0 ? -1 : (int)(left < LONGEST_WAIT ? left + 1 : LONGEST_WAIT));
		if (polled[0].revents)
			return 0;
		while (read(polled[1].fd, events, sizeof(events)) > 0)
			;
	}
	close(polled[0].fd);
	close(polled[1].fd);
	execv(argv[3], argv + 3);
	return errno;
}
