/* SPDX-License-Identifier: Apache-2.0 */
/* The command line, as far as this program understands it. */
#ifndef CLIENT_OPTIONS_H
#define CLIENT_OPTIONS_H

#include <stdbool.h>

enum command {
	COMMAND_EXEC,
	COMMAND_START,
	COMMAND_KILL,
};

struct options {
	enum command command;
	const char *root;      /* where the states are */
	const char *container; /* an id */
	const char *pid_file;  /* or NULL */
	const char *process;   /* file with the process, or NULL */
	bool detach;
	bool all;   /* a signal is for all its processes */
	int signal; /* a number */
	bool makes; /* it is a `create` or a `run`, and nothing else here is known */
	/* For the monitor: the options that say what to run, `--`, and the command. Ends with NULL. */
	const char **arguments;
};

/*
 * True: it is an `exec` without a terminal, a `start` or a `kill`, and `options` says which. False: it is something
 * else, or wrong. The strings are those of `argv`.
 */
bool options_parse(char *const argv[], struct options *options);

#endif
