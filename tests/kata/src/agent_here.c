// SPDX-License-Identifier: Apache-2.0
/*
 * usage: agent_here CONNECTION END
 *
 * The agent without a machine: it serves one connection until END, a pipe, is closed (both are numbers of descriptors).
 * Its directories and crun are those of the directory it is started in.
 */
#include "loop.h"
#include "ttrpc.h"

#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/prctl.h>

static void stop(struct watch *watch, uint32_t events)
{
	(void)watch;
	(void)events;
	exit(0); /* what is leaked now is found */
}

int main(int argc, char *argv[])
{
	static struct watch end = { .ready = stop };

	if (argc != 3)
		return 2;
	end.fd = atoi(argv[2]);
	/* As process 1 does, it inherits what crun has started. */
	if (prctl(PR_SET_CHILD_SUBREAPER, 1) || loop_init() || watch_add(&end, EPOLLIN) || conn_serve(atoi(argv[1])))
		return 1;
	loop_run();
	return 1;
}
