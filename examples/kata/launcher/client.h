/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of pyvmm-oci-client, and pyvmm-shim-client, have of each other. */
#ifndef CLIENT_H
#define CLIENT_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>

/* -- the command line, as far as this program understands it (options.c) ------------------------------------------- */

enum command {
	COMMAND_EXEC,
	COMMAND_START,
	COMMAND_KILL,
	COMMAND_STATE,
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
	bool makes; /* it is a `create`, a `run` or a `restore`, whatever else is known of it */
	bool keep, debug, has_console;
	/* For the monitor: the options that say what to run, `--`, and the command. Ends with NULL. */
	const char **arguments;
};

/*
 * True: it is an `exec` without a terminal, a `start`, a `kill`, a `state`, or a `create` or `run` of which a pool can be asked, and
 * `options` says which. False: it is something else, or wrong. The strings are those of `argv`.
 */
bool options_parse(char *const argv[], struct options *options);

/* -- a connection over which lines of JSON go, with descriptors, and bytes that a line announces (pool.c) ------------- */

#define CHANNEL_FAILED 255

/* The last line, and what has come of the next. */
struct channel {
	int fd;
	size_t used;
	char text[4096], line[4096];
};

bool send_all(int fd, const char *data, size_t size);

/* A line, with a few descriptors. */
bool line_send(int fd, const char *line, size_t size, const int *fds, size_t count);

/*
 * The next line, or NULL: not yet. What is too long is cut off, since its start says what it is, and no answer follows
 * that is of interest.
 */
const char *channel_line(struct channel *channel);

/* 0, or -EPIPE: the other end is gone. */
int channel_read(struct channel *channel);

/*
 * Block the signals that are a container's, and SIGCHLD if `children`: a descriptor that tells of them (signalfd(2)), or -1.
 * `before` is the mask until now.
 */
int signals_take(bool children, sigset_t *before);

/* -- the program in Python (pool.c) ----------------------------------------------------------------------------------- */

/* Root's services have no home (systemd.exec(5)): their caches are in /var/cache. pyvmm_kata.bundle.settings has the same rule. */
void caches_place(void);

/*
 * Start it: argv is NAME WARM PYTHON SCRIPT -- LINE..., and becomes `WARM PYTHON SCRIPT LINE...` if `warm`, which starts from
 * an image, else, or where there is no WARM, `PYTHON -IS SCRIPT LINE...`. Returns the status for that neither is there.
 */
int whole_run(char *argv[], bool warm);

/* -- containers in machines of a pool, which a process of the pool makes for us (pool.c) ------------------------------ */

/*
 * Have the pool do a `create` or a `run`: the exit status, or -1: it does not, and has done nothing. What it does is done
 * by pyvmm_kata.oci.launcher_server, with our command line, environment and descriptors; only the container's face is a child of
 * ours. `left`: the container has ended, and it is on us to delete it.
 */
int run_by_pool(const struct options *options, char *const *arguments, bool *left);

/*
 * Have a process of the pool for pods be a shim, which is told the command line: true: it is, and has printed its address.
 */
bool shim_by_pool(char *const *arguments);

#endif
