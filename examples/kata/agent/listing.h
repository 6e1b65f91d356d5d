/* SPDX-License-Identifier: Apache-2.0 */
/* What /proc says of a container's processes, for tools of the host that look at its pid. */
#ifndef AGENT_LISTING_H
#define AGENT_LISTING_H

#include "container.h"

/*
 * Answer the call with files of /proc: uptime and stat, then PID/status, PID/stat and PID/cmdline of every process in the
 * container's pid namespace and in those below it. PID and all numbers in the files are those of the agent's own namespace.
 * Each file is a line "NAME LENGTH\n" and LENGTH bytes of content; before the files there is a line "first PID\n" with the
 * container's first process, and "end\n" is the last. 1 MiB at most: the processes that do not fit are missing.
 */
void listing_send(struct call *call, struct container *container);

#endif
