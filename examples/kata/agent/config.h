/* SPDX-License-Identifier: Apache-2.0 */
/*
 * config.json as the host has written it, with what only the guest knows filled in. A string "@MARK:WORD:..." stands for it,
 * where MARK is the request's own, so that no string of a user's is taken for one:
 *
 *   ns:TYPE:ID    the path of a namespace of the container ID's first process
 *   sandbox:pid   the path of the pid namespace that the sandbox shares
 *   devices       members of a list: all devices that the guest has
 */
#ifndef AGENT_CONFIG_H
#define AGENT_CONFIG_H

#include "json.h"

#include <sys/types.h>

struct config_source {
	const char *text, *mark;
	/* The pid of a container's first process, 0: there is none. */
	pid_t (*find)(const char *container_id);
	const char *pid_namespace; /* of the sandbox, or NULL */
};

/* 0 or -errno, and what was wrong. */
int config_fill(struct json *json, const struct config_source *source, char what[256]);

#endif
