// SPDX-License-Identifier: Apache-2.0
/* The one command that runs on the host: what cleans up after the owner of sandboxes. */
#include "box.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

/* after PID COMMAND...: wait until that process has ended, then become the command. */
int box_after(int argc, char **argv)
{
	static const int ignored[] = { SIGHUP, SIGINT, SIGQUIT, SIGTERM };
	struct pollfd owner = { (int)syscall(SYS_pidfd_open, atoi(argv[0]), 0), POLLIN, 0 };

	(void)argc;
	for (size_t i = 0; i < sizeof(ignored) / sizeof(*ignored); i++)
		signal(ignored[i], SIG_IGN);
	if (owner.fd >= 0)
		while (poll(&owner, 1, -1) < 0 && errno == EINTR)
			;
	execv(argv[1], argv + 1);
	return errno;
}
