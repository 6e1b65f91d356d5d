// SPDX-License-Identifier: Apache-2.0
#include "processes.h"

#include "util.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A container makes them as deep as it likes; the kernel has no limit. */
#define DEEPEST 16
#define PATH_SIZE 1024

static int list_one(const char *cgroup, void (*each)(pid_t pid, void *context), void *context)
{
	char path[PATH_SIZE + 16], line[32];
	FILE *list;

	snprintf(path, sizeof(path), "%s/cgroup.procs", cgroup);
	list = fopen(path, "re");
	if (!list)
		return -errno;
	while (fgets(line, sizeof(line), list)) {
		long pid = strtol(line, NULL, 10);

		if (pid > 1) /* 0 is one that has no number here */
			each(pid, context);
	}
	fclose(list);
	return 0;
}

static int list_below(const char *cgroup, int depth, void (*each)(pid_t pid, void *context), void *context)
{
	int error = list_one(cgroup, each, context);
	struct dirent *entry;
	DIR *directory;

	if (error || depth == DEEPEST)
		return error;
	directory = opendir(cgroup);
	if (!directory)
		return -errno;
	while ((entry = readdir(directory))) {
		char path[PATH_SIZE];

		if (entry->d_type != DT_DIR || entry->d_name[0] == '.')
			continue;
		if ((size_t)snprintf(path, sizeof(path), "%s/%s", cgroup, entry->d_name) < sizeof(path))
			list_below(path, depth + 1, each, context);
	}
	closedir(directory);
	return 0;
}

int processes_each(const char *cgroup, void (*each)(pid_t pid, void *context), void *context)
{
	return list_below(cgroup, 0, each, context);
}
