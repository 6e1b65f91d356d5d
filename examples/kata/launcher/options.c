// SPDX-License-Identifier: Apache-2.0
#include "client.h"

#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SYSTEM_ROOT "/run/pyvmm-oci"
#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

enum use {
	PASSED, /* forwarded to the monitor */
	TAKEN,  /* used by this program */
	IGNORED,
};

struct option {
	const char *name, *alias;
	bool has_value;
	enum use use;
};

/* The whole program handles options that are not listed here: terminals, and those that it rejects. */
static const struct option global_options[] = {
	{ "root", NULL, true, TAKEN },		{ "log", NULL, true, IGNORED },	    { "log-format", NULL, true, IGNORED },
	{ "rootless", NULL, true, IGNORED },	{ "criu", NULL, true, IGNORED },    { "config", NULL, true, IGNORED },
	{ "systemd-cgroup", NULL, false, IGNORED }, { "debug", NULL, false, TAKEN },
	{ "isolation", NULL, true, IGNORED },	{ "platform", NULL, true, IGNORED }, { "network", NULL, true, IGNORED },
	{ "strace", NULL, false, IGNORED },
};
static const struct option exec_options[] = {
	{ "process", "p", true, TAKEN },	 { "pid-file", NULL, true, TAKEN },  { "detach", "d", false, TAKEN },
	{ "cwd", NULL, true, PASSED },		 { "env", "e", true, PASSED },	     { "user", "u", true, PASSED },
	{ "additional-gids", "g", true, PASSED }, { "cap", "c", true, PASSED },	     { "no-new-privs", NULL, false, PASSED },
	{ "process-label", NULL, true, PASSED }, { "apparmor", NULL, true, PASSED }, { "cgroup", NULL, true, PASSED },
	{ "ignore-paused", NULL, false, PASSED },
};

/* For the pool, which receives all of them. */
static const struct option create_options[] = {
	{ "bundle", "b", true, IGNORED },	 { "pid-file", NULL, true, IGNORED },
	{ "console-socket", NULL, true, TAKEN }, { "no-pivot", NULL, false, IGNORED },
	{ "no-new-keyring", NULL, false, IGNORED },
};
static const struct option run_options[] = {
	{ "bundle", "b", true, IGNORED },	 { "pid-file", NULL, true, IGNORED },
	{ "console-socket", NULL, true, TAKEN }, { "no-pivot", NULL, false, IGNORED },
	{ "no-new-keyring", NULL, false, IGNORED }, { "no-subreaper", NULL, false, IGNORED },
	{ "detach", "d", false, TAKEN },	 { "keep", NULL, false, TAKEN },
};

static const struct option kill_options[] = { { "all", "a", false, TAKEN } };

static const struct option *option_find(const struct option *table, size_t count, const char *name, size_t length)
{
	for (size_t i = 0; i < count; i++) {
		const char *const names[] = { table[i].name, table[i].alias };

		for (size_t k = 0; k < ARRAY_SIZE(names); k++) {
			if (names[k] && strlen(names[k]) == length && !memcmp(names[k], name, length))
				return &table[i];
		}
	}
	return NULL;
}

static bool option_take(struct options *options, const struct option *option, const char *value)
{
	if (!strcmp(option->name, "root"))
		options->root = value;
	else if (!strcmp(option->name, "process"))
		options->process = value;
	else if (!strcmp(option->name, "pid-file"))
		options->pid_file = value;
	else if (!strcmp(option->name, "all"))
		options->all = true;
	else if (!strcmp(option->name, "keep"))
		options->keep = true;
	else if (!strcmp(option->name, "debug"))
		options->debug = true;
	else if (!strcmp(option->name, "console-socket"))
		options->has_console = true;
	else
		options->detach = true;
	return !value || *value;
}

/*
 * Parse options up to the first other word. Returns its position, or NULL. Accepts Go's syntax: -root, --root and
 * --root=DIR.
 */
static char *const *options_take(struct options *options, char *const *argv, const struct option *table, size_t count,
				 size_t *passed)
{
	while (*argv && (*argv)[0] == '-' && (*argv)[1]) {
		const char *word = *argv, *name = word + 1 + (word[1] == '-'), *value = strchr(name, '=');
		const struct option *option = option_find(table, count, name, value ? (size_t)(value - name) : strlen(name));
		char *const *first = argv++;

		/* `--flag=false` and `--` are rare: leave them to the whole program. */
		if (!option || (value && !option->has_value))
			return NULL;
		if (value)
			value++;
		else if (option->has_value && !(value = *argv++))
			return NULL;
		if (option->use == TAKEN && !option_take(options, option, value))
			return NULL;
		while (option->use == PASSED && first < argv)
			options->arguments[(*passed)++] = *first++;
	}
	return argv;
}

/* The whole program rejects ids that could name another file or directory. */
static bool id_is_plain(const char *id)
{
	static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_+.-";

	return *id && *id != '.' && strspn(id, plain) == strlen(id);
}

/* Parse a signal: a number, or a name with or without SIG. 0: unknown here. */
static int signal_number(const char *text)
{
	char *end;
	long number = strtol(text, &end, 10);

	if (*text >= '0' && *text <= '9')
		return *end || number < 1 || number > 64 ? 0 : (int)number;
	if (!strncmp(text, "SIG", 3))
		text += 3;
	for (int i = 1; i < NSIG; i++) {
		const char *name = sigabbrev_np(i);

		if (name && !strcmp(name, text))
			return i;
	}
	return 0;
}

/* Must match pyvmm_kata.oci.context. */
static const char *root_default(void)
{
	const char *runtime = getenv("XDG_RUNTIME_DIR"), *user = getenv("USER");
	unsigned int inside = 0, outside = 0, count = UINT_MAX;
	char *path = NULL;
	FILE *map;

	if (!runtime || !*runtime)
		return SYSTEM_ROOT;
	if (!geteuid()) {
		map = fopen("/proc/self/uid_map", "re");
		if (map) {
			if (fscanf(map, "%u %u %u", &inside, &outside, &count) != 3)
				count = UINT_MAX;
			fclose(map);
		}
		if ((!inside && !outside && count == UINT_MAX) || (user && !strcmp(user, "root")))
			return SYSTEM_ROOT;
	}
	return asprintf(&path, "%s/pyvmm-oci", runtime) < 0 ? NULL : path;
}

bool options_parse(char *const argv[], struct options *options)
{
	size_t count = 0, passed = 0;

	while (argv[count])
		count++;
	memset(options, 0, sizeof(*options));
	options->arguments = calloc(count + 2, sizeof(*options->arguments));
	if (!options->arguments)
		return false;
	options->root = root_default();
	argv = options_take(options, argv, global_options, ARRAY_SIZE(global_options), &passed);
	if (!argv || !*argv)
		return false;
	options->makes = !strcmp(*argv, "create") || !strcmp(*argv, "run") || !strcmp(*argv, "restore");
	if (!options->root)
		return false;
	if (!strcmp(*argv, "exec")) {
		options->command = COMMAND_EXEC;
		argv = options_take(options, argv + 1, exec_options, ARRAY_SIZE(exec_options), &passed);
	} else if (!strcmp(*argv, "start")) {
		options->command = COMMAND_START;
		argv = options_take(options, argv + 1, NULL, 0, &passed);
	} else if (!strcmp(*argv, "state")) {
		options->command = COMMAND_STATE;
		argv = options_take(options, argv + 1, NULL, 0, &passed);
	} else if (!strcmp(*argv, "kill")) {
		options->command = COMMAND_KILL;
		argv = options_take(options, argv + 1, kill_options, ARRAY_SIZE(kill_options), &passed);
	} else if (!strcmp(*argv, "create")) {
		argv = options_take(options, argv + 1, create_options, ARRAY_SIZE(create_options), &passed);
	} else if (!strcmp(*argv, "run")) {
		argv = options_take(options, argv + 1, run_options, ARRAY_SIZE(run_options), &passed);
		/* An interactive terminal: only the whole program forwards its input. */
		if (!options->detach && !options->has_console && isatty(0))
			return false;
	} else {
		return false;
	}
	if (!argv || !*argv || !id_is_plain(*argv))
		return false;
	options->container = *argv++;
	if (options->makes)
		return !*argv && !options->debug;
	if (options->command == COMMAND_START || options->command == COMMAND_STATE)
		return !*argv;
	if (options->command == COMMAND_KILL) {
		options->signal = signal_number(*argv ? *argv++ : "TERM");
		return options->signal && !*argv;
	}
	options->arguments[passed++] = "--";
	while (*argv)
		options->arguments[passed++] = *argv++;
	return true;
}
