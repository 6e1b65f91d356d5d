// SPDX-License-Identifier: Apache-2.0
/*
 * Virtio devices that the process that started this one serves, with queues in the sandbox's RAM: a directory, a
 * network, and sockets of the host.  Of each it passes RAM, an eventfd for each queue that signals requests, and one that
 * signals answers.  If it has become this process meanwhile, a server of its own serves the directory: it also passes what
 * the server reports failures by.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "device.h"

#define NO_DEVICE { -1, { -1, -1 }, -1, { -1, -1 } }
PROCESS_LOCAL struct served served[DEVICES] = { NO_DEVICE, NO_DEVICE, NO_DEVICE };

static const char lost[] = "the server of a device cannot be reached";

bool device_parse(u32 which, const char *text)
{
	struct served *device = &served[which];
	int *failures = device->failures, count;
	char rest;

	count = sscanf(text, "%d,%d,%d,%d,%d,%d%c", &device->ram, &device->kicks[0], &device->kicks[1], &device->irq,
		       &failures[0], &failures[1], &rest);
	return count == 4 || count == 6;
}

bool device_is_there(u32 which)
{
	return served[which].ram >= 0;
}

int device_ram(void)
{
	for (u32 i = 0; i < DEVICES; i++)
		if (device_is_there(i))
			return served[i].ram;
	return -1;
}

void device_wake(void)
{
	const u64 one = 1;

	for (u32 i = 0; i < DEVICES; i++)
		if (device_is_there(i) && write(served[i].irq, &one, sizeof(one)) < 0 && errno != EAGAIN)
			fail(lost);
}

void device_kick(u32 queue)
{
	const u64 one = 1;

	if (queue < DEVICES * DEVICE_QUEUES &&
	    write(served[queue / DEVICE_QUEUES].kicks[queue % DEVICE_QUEUES], &one, sizeof(one)) < 0 && errno != EAGAIN)
		fail(lost);
}

_Noreturn void device_failed(void)
{
	fail(lost);
}

void device_answered(u32 which)
{
	u64 count;

	if (device_is_there(which) && read(served[which].irq, &count, sizeof(count)) < 0 && errno != EAGAIN)
		fail(lost);
}
