// SPDX-License-Identifier: Apache-2.0
/*
 * The directory for the root: the process that started this one serves a virtio-fs device, whose queues lie in the
 * sandbox's RAM.  It passes RAM, an eventfd for each queue that signals requests, and one that signals answers.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "share.h"

int share_fds[SHARE_FDS] = { -1, -1, -1, -1 };

bool share_parse(const char *text)
{
	char rest;

	return sscanf(text, "%d,%d,%d,%d%c", &share_fds[SHARE_RAM], &share_fds[SHARE_KICK], &share_fds[SHARE_KICK + 1],
		      &share_fds[SHARE_IRQ], &rest) == SHARE_FDS;
}

bool share_is_there(void)
{
	return share_fds[SHARE_RAM] >= 0;
}

void share_kick(u32 queue)
{
	const u64 one = 1;

	if (queue < SHARE_QUEUES && write(share_fds[SHARE_KICK + queue], &one, sizeof(one)) < 0 && errno != EAGAIN)
		fail("the server of the root cannot be reached");
}

void share_answered(void)
{
	u64 count;

	if (share_is_there() && read(share_fds[SHARE_IRQ], &count, sizeof(count)) < 0 && errno != EAGAIN)
		fail("the server of the root cannot be reached");
}
