// SPDX-License-Identifier: Apache-2.0
#include "oci.h"

#include "util.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WORD_SIZE 512

static int namespace_fill(struct json *json, const struct config_source *source, char *word)
{
	char *id = strchr(word, ':'), *path;
	pid_t pid;

	if (!id || strspn(word, "abcdefghijklmnopqrstuvwxyz") != (size_t)(id - word))
		return -EINVAL;
	*id++ = '\0';
	pid = source->find(id);
	if (!pid)
		return -ESRCH;
	path = xasprintf("/proc/%d/ns/%s", pid, word);
	json_string(json, NULL, path);
	free(path);
	return 0;
}

static int word_fill(struct json *json, const struct config_source *source, char *word)
{
	static const char namespace[] = "ns:";

	if (!strncmp(word, namespace, strlen(namespace)))
		return namespace_fill(json, source, word + strlen(namespace));
	if (!strcmp(word, "devices")) {
		oci_write_devices_below(json, "/dev");
		return 0;
	}
	if (!strcmp(word, "sandbox:pid") && source->pid_namespace) {
		json_string(json, NULL, source->pid_namespace);
		return 0;
	}
	return -EINVAL;
}

int config_fill(struct json *json, const struct config_source *source, char what[256])
{
	char *start = xasprintf("\"@%s:", source->mark), word[WORD_SIZE];
	const char *text = source->text, *at, *end;
	int error = 0;

	while (!error && source->mark[0] && (at = strstr(text, start))) {
		json_raw(json, text, at - text);
		at += strlen(start);
		end = strchr(at, '"');
		if (!end || (size_t)(end - at) >= sizeof(word)) {
			error = -EINVAL;
			break;
		}
		memcpy(word, at, end - at);
		word[end - at] = '\0';
		error = word_fill(json, source, word);
		if (error)
			snprintf(what, 256, "config.json: %.200s", word);
		text = end + 1;
	}
	json_raw(json, text, strlen(text));
	free(start);
	return error;
}
