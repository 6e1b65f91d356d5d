// SPDX-License-Identifier: Apache-2.0
/* The time that a program may run while others wait. */
#include <sys/time.h>

#include "host.h"

enum { SLICE_US = 5000 };

void slice_timer(bool on)
{
	static PROCESS_LOCAL bool is_on;
	const struct itimerval timer = { { 0, on ? SLICE_US : 0 }, { 0, on ? SLICE_US : 0 } };

	if (on != is_on && setitimer(ITIMER_REAL, &timer, NULL))
		fail("the host has no timer");
	is_on = on;
}
