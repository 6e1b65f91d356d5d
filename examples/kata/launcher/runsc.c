// SPDX-License-Identifier: Apache-2.0
/*
 * The command line of pyvmm-runsc as one of pyvmm-oci, as pyvmm_sentry.__main__ has it: flags of runsc before the command.
 * What is not translated here, pyvmm-runsc does itself: other commands, flags that it refuses, and errors.
 */
#include "client.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define MOST_OF_OURS 20 /* words that the translation adds at most */

enum kind { NO_FLAG, FLAG, VALUE };

/* Flags with an effect. The order is that of `used`. */
enum {
	ROOT, LOG, LOG_FORMAT, DEBUG_LOG, CONFIG, PLATFORM, NETWORK, OVERLAY2, HOST_UDS, DEBUG, SYSTEMD_CGROUP, STRACE, OVERLAY
};

static const struct {
	const char *name;
	enum kind kind;
} used[] = {
	[ROOT] = { "root", VALUE },	    [LOG] = { "log", VALUE },
	[LOG_FORMAT] = { "log-format", VALUE }, [DEBUG_LOG] = { "debug-log", VALUE },
	[CONFIG] = { "config", VALUE },	    [PLATFORM] = { "platform", VALUE },
	[NETWORK] = { "network", VALUE },   [OVERLAY2] = { "overlay2", VALUE },
	[HOST_UDS] = { "host-uds", VALUE }, [DEBUG] = { "debug", FLAG },
	[SYSTEMD_CGROUP] = { "systemd-cgroup", FLAG }, [STRACE] = { "strace", FLAG },
	[OVERLAY] = { "overlay", FLAG },
};

/* Those without an effect. */
static const char *const flags[] = {
	"rootless", "ignore-cgroups", "alsologtostderr", "debug-to-user-log", "log-packets", "strace-event", "directfs",
	"lisafs", "vfs2", "fuse", "cgroupfs", "oci-seccomp", "cpu-num-from-quota", "gso", "software-gso", "gvisor-gro",
	"tx-checksum-offload", "rx-checksum-offload", "buffer-pooling", "app-huge-pages", "net-raw", "allow-flag-override",
	"iouring", "enable-core-tags",
};
static const char *const values[] = {
	"debug-log-format", "strace-log-size", "file-access", "file-access-mounts", "dcache", "watchdog-action",
	"panic-signal", "qdisc", "num-network-channels", "fdlimit", "ref-leak-mode", "traceback",
};
static const char *const commands[] = {
	"create", "start", "run", "exec", "state", "list", "ps", "kill", "delete", "pause", "resume", "checkpoint",
	"restore", "update", "events", "features", "spec",
};
static const char *const makers[] = { "create", "run", "restore" };
static const char *const networks[] = { "none", "sandbox", "user" };
static const struct {
	const char *name, *ours;
} platforms[] = {
	{ "kvm", "kvm" }, { "systrap", "trap" }, { "trap", "trap" }, { "ptrace", "ptrace" }, { "auto", "auto" },
};

static bool is_off(const char *value)
{
	return value && (!strcasecmp(value, "false") || !strcasecmp(value, "f") || !strcmp(value, "0"));
}

static bool is_among(const char *word, const char *const *list, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		if (!strcmp(list[i], word))
			return true;
	}
	return false;
}
#define IS_AMONG(word, list) is_among(word, list, ARRAY_SIZE(list))

/* Split a word of Go's syntax: -name, --name, --name=value. The name is a copy. */
static char *flag_name(const char *word, const char **value)
{
	const char *name = word + strspn(word, "-"), *equals = strchr(name, '=');

	*value = equals ? equals + 1 : NULL;
	return equals ? strndup(name, equals - name) : strdup(name);
}

/* Its kind, and its place in `used`; -1: it has no effect. */
static enum kind flag_kind(const char *name, int *place)
{
	*place = -1;
	for (size_t i = 0; i < ARRAY_SIZE(used); i++) {
		if (!strcmp(used[i].name, name)) {
			*place = (int)i;
			return used[i].kind;
		}
	}
	return IS_AMONG(name, flags) ? FLAG : IS_AMONG(name, values) ? VALUE : NO_FLAG;
}

/* Parse the flags into `found`, whose strings are empty for those that are off. The rest of the line; NULL: not here. */
static char *const *flags_take(char *const *line, const char **found)
{
	while (*line && (*line)[0] == '-' && (*line)[1]) {
		const char *value;
		char *name = flag_name(*line++, &value);
		int place;
		enum kind kind = name ? flag_kind(name, &place) : NO_FLAG;

		free(name);
		if (kind == NO_FLAG)
			return NULL;
		if (kind == FLAG)
			value = is_off(value) ? "" : "true";
		else if (!value && !(value = *line++))
			return NULL;
		if (place >= 0)
			found[place] = value;
	}
	return line;
}

/* The platform's name here; empty: none was given; NULL: there is no such platform. */
static const char *platform_of(const char *name)
{
	for (size_t i = 0; *name && i < ARRAY_SIZE(platforms); i++) {
		if (!strcmp(platforms[i].name, name))
			return platforms[i].ours;
	}
	return *name ? NULL : "";
}

/* Whether nothing about them is refused. */
static bool flags_are_plain(const char **found)
{
	return platform_of(found[PLATFORM]) && (!*found[NETWORK] || IS_AMONG(found[NETWORK], networks)) && !*found[OVERLAY] &&
	       (!*found[OVERLAY2] || !strcmp(found[OVERLAY2], "none")) && (!*found[HOST_UDS] || !strcmp(found[HOST_UDS], "none"));
}

static const char *log_of(const char **found)
{
	const char *log = *found[LOG] ? found[LOG] : found[DEBUG_LOG];
	char *path;

	if (!*log || log[strlen(log) - 1] != '/')
		return log;
	return asprintf(&path, "%spyvmm-runsc.log", log) < 0 ? "" : path;
}

static void option_put(const char ***to, const char *name, const char *value)
{
	if (!*value)
		return;
	*(*to)++ = name;
	*(*to)++ = value;
}

static void flag_put(const char ***to, const char *name, const char *value)
{
	if (*value)
		*(*to)++ = name;
}

char **runsc_translate(char *const *line)
{
	const char *found[ARRAY_SIZE(used)], **made, **to;
	size_t count = 0;

	while (line[count])
		count++;
	for (size_t i = 0; i < ARRAY_SIZE(used); i++)
		found[i] = "";
	line = flags_take(line, found);
	made = to = calloc(count + MOST_OF_OURS + 1, sizeof(*made));
	if (!made || !line || !*line || !IS_AMONG(*line, commands) || !flags_are_plain(found))
		return NULL;
	option_put(&to, "--root", found[ROOT]);
	option_put(&to, "--log-format", found[LOG_FORMAT]);
	option_put(&to, "--config", found[CONFIG]);
	option_put(&to, "--log", log_of(found));
	flag_put(&to, "--debug", found[DEBUG]);
	flag_put(&to, "--systemd-cgroup", found[SYSTEMD_CGROUP]);
	if (IS_AMONG(*line, makers)) {
		option_put(&to, "--isolation", "sentry");
		flag_put(&to, "--strace", found[STRACE]);
		option_put(&to, "--platform", platform_of(found[PLATFORM]));
		option_put(&to, "--network", found[NETWORK]);
	}
	while (*line)
		*to++ = *line++;
	return (char **)made;
}
