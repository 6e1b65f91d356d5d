/* SPDX-License-Identifier: Apache-2.0 */
/* Declarations that the parts of pyvmm-oci-client and pyvmm-shim-client share. */
#ifndef CLIENT_H
#define CLIENT_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>

/* -- the part of the command line that the launcher parses (options.c) ------------------------------------------ */

enum command {
	COMMAND_EXEC,
	COMMAND_START,
	COMMAND_KILL,
	COMMAND_STATE,
};

struct options {
	enum command command;
	const char *root;      /* the directory of the container states */
	const char *container; /* its id */
	const char *pid_file;  /* or NULL */
	const char *process;   /* the file that describes the process, or NULL */
	bool detach;
	bool all;   /* signal all processes of the container */
	int signal;
	bool makes; /* a `create`, a `run` or a `restore`, even if the rest is not recognized */
	bool keep, debug, has_console;
	/* For the monitor: the options that describe the program, `--`, and the command. Ends with NULL. */
	const char **arguments;
};

/*
 * Parse the command line into `options`, whose strings are those of `argv`. True: an `exec` without a terminal, a
 * `start`, a `kill`, a `state`, or a `create` or `run` that a pool can do. False: another command, or an invalid one.
 */
bool options_parse(char *const argv[], struct options *options);

/* -- the command line of pyvmm-runsc (runsc.c) ------------------------------------------------------------------ */

/* The command line of pyvmm-oci for one of pyvmm-runsc. NULL: pyvmm-runsc does it itself, or refuses it. */
char **runsc_translate(char *const *line);

/* -- a connection for lines of JSON, with descriptors and with bytes whose size a line announces (pool.c) ------- */

#define CHANNEL_FAILED 255

/* The last line, and what has arrived of the next one. */
struct channel {
	int fd;
	size_t used;
	char text[4096], line[4096];
};

bool send_all(int fd, const char *data, size_t size);

/* Send a line with up to eight descriptors. */
bool line_send(int fd, const char *line, size_t size, const int *fds, size_t count);

/*
 * The next line, or NULL: incomplete. A line that is too long is truncated: its start identifies it, and no answer that
 * matters follows it.
 */
const char *channel_line(struct channel *channel);

/* 0, or -EPIPE: the peer has closed. */
int channel_read(struct channel *channel);

/*
 * Block the signals that are forwarded to a container, and SIGCHLD if `children`. Returns a signalfd(2) for them, or
 * -1. `before` receives the previous mask.
 */
int signals_take(bool children, sigset_t *before);

/* -- starting the Python program (pool.c) ----------------------------------------------------------------------- */

/*
 * System services of root have no home (systemd.exec(5)), so their caches are in /var/cache. pyvmm_kata.bundle.settings
 * applies the same rule.
 */
void caches_place(void);

/*
 * Replace this process with the Python program. argv is NAME WARM PYTHON SCRIPT -- LINE... With `warm` it becomes `WARM
 * PYTHON SCRIPT LINE...`, which starts from a process image. Otherwise, or without WARM, it becomes `PYTHON -IS SCRIPT
 * LINE...`. Returns an exit status if neither program exists.
 */
int whole_run(char *argv[], bool warm);

/* -- containers in a pool's machines, made by the launcher server (pool.c) -------------------------------------- */

/*
 * Run a `create` or a `run` through the pool. Returns the exit status, or -1: the pool did not run it and changed
 * nothing. pyvmm_kata.oci.launcher_server runs it with our command line, environment and descriptors. Only the
 * container's proxy process is our child. `left`: the container has ended, and the caller must delete it.
 */
int run_by_pool(const struct options *options, char *const *arguments, bool *left);

/* Start a shim through the pool for pods, with this command line. True: it runs, and has printed its address. */
bool shim_by_pool(char *const *arguments);

#endif
