// SPDX-License-Identifier: Apache-2.0
/* The cgroup (v2) of a container: statistics, limits, pause, and its processes. */
#include "container.h"
#include "net.h"
#include "oci.h"
#include "ttrpc.h"
#include "util.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pb_decode.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TEXT_MAX 16384
#define FREEZE_MS 10000 /* a process in a request to the file server freezes when the reply arrives */

/* The content of a cgroup file as a string; "" if it does not exist. */
static void read_text(const char *cgroup, const char *name, char text[TEXT_MAX])
{
	char path[512];

	snprintf(path, sizeof(path), "%s/%s", cgroup, name);
	if (file_read(path, text, TEXT_MAX) < 0)
		text[0] = '\0';
}

static uint64_t read_number(const char *cgroup, const char *name, uint64_t missing)
{
	char path[512];
	uint64_t number;

	snprintf(path, sizeof(path), "%s/%s", cgroup, name);
	return file_read_number(path, &number) ? missing : number;
}

/* The number after `key` in a file of "key number" lines; 0 if the key is missing. */
static uint64_t number_of(const char *text, const char *key)
{
	size_t length = strlen(key);
	const char *line = text;

	while (line && *line) {
		if (!strncmp(line, key, length) && line[length] == ' ')
			return strtoull(line + length + 1, NULL, 10);
		line = strchr(line, '\n');
		line = line ? line + 1 : NULL;
	}
	return 0;
}

static void cpu_stats(const char *cgroup, grpc_CgroupStats *stats)
{
	grpc_CpuStats *cpu = &stats->cpu_stats;
	char text[TEXT_MAX];

	read_text(cgroup, "cpu.stat", text);
	stats->has_cpu_stats = cpu->has_cpu_usage = cpu->has_throttling_data = true;
	cpu->cpu_usage.total_usage = number_of(text, "usage_usec") * 1000;
	cpu->cpu_usage.usage_in_usermode = number_of(text, "user_usec") * 1000;
	cpu->cpu_usage.usage_in_kernelmode = number_of(text, "system_usec") * 1000;
	cpu->throttling_data.periods = number_of(text, "nr_periods");
	cpu->throttling_data.throttled_periods = number_of(text, "nr_throttled");
	cpu->throttling_data.throttled_time = number_of(text, "throttled_usec") * 1000;
}

/* Append the "key number" lines, with a prefix before each key. */
static void memory_entries(grpc_MemoryStats *memory, const char *prefix, char *text)
{
	char *save, *line;

	for (line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		char *value = strchr(line, ' ');
		grpc_MemoryStats_StatsEntry *entry;

		if (!value)
			continue;
		*value++ = '\0';
		if (memory->stats_count % 64 == 0) {
			size_t room = (memory->stats_count + 64) * sizeof(*memory->stats);
			void *larger = realloc(memory->stats, room);

			if (!larger)
				return;
			memory->stats = larger;
		}
		entry = &memory->stats[memory->stats_count++];
		entry->key = xasprintf("%s%s", prefix, line);
		entry->value = strtoull(value, NULL, 10);
	}
}

static void memory_stats(const char *cgroup, grpc_CgroupStats *stats)
{
	grpc_MemoryStats *memory = &stats->memory_stats;
	char text[TEXT_MAX], events[TEXT_MAX];

	read_text(cgroup, "memory.stat", text);
	read_text(cgroup, "memory.events", events);
	stats->has_memory_stats = memory->has_usage = memory->has_swap_usage = memory->use_hierarchy = true;
	memory->cache = number_of(text, "file");
	memory->usage.usage = read_number(cgroup, "memory.current", 0);
	memory->usage.max_usage = read_number(cgroup, "memory.peak", 0);
	memory->usage.limit = read_number(cgroup, "memory.max", UINT64_MAX);
	memory->usage.failcnt = number_of(events, "max");
	memory->swap_usage.usage = read_number(cgroup, "memory.swap.current", 0);
	memory->swap_usage.max_usage = read_number(cgroup, "memory.swap.peak", 0);
	memory->swap_usage.limit = read_number(cgroup, "memory.swap.max", UINT64_MAX);
	memory_entries(memory, "", text);
	memory_entries(memory, "events.", events);
}

static void pids_stats(const char *cgroup, grpc_CgroupStats *stats)
{
	uint64_t limit = read_number(cgroup, "pids.max", UINT64_MAX);

	stats->has_pids_stats = true;
	stats->pids_stats.current = read_number(cgroup, "pids.current", 0);
	stats->pids_stats.limit = limit == UINT64_MAX ? 0 : limit;
}

static void io_entry(pb_size_t *count, grpc_BlkioStatsEntry **list, unsigned int numbers[2], const char *op,
		     uint64_t value)
{
	void *larger = realloc(*list, (*count + 1) * sizeof(**list));

	if (!larger)
		return;
	*list = larger;
	(*list)[(*count)++] = (grpc_BlkioStatsEntry){ numbers[0], numbers[1], xstrdup(op), value };
}

/* Lines of "MAJ:MIN rbytes=N wbytes=N rios=N wios=N dbytes=N dios=N". */
static void io_stats(const char *cgroup, grpc_CgroupStats *stats)
{
	static const struct {
		const char *key, *op;
		bool bytes;
	} kinds[] = {
		{ "rbytes=", "Read", true }, { "wbytes=", "Write", true }, { "dbytes=", "Discard", true },
		{ "rios=", "Read", false }, { "wios=", "Write", false }, { "dios=", "Discard", false },
	};
	grpc_BlkioStats *io = &stats->blkio_stats;
	char text[TEXT_MAX], *save, *line;

	read_text(cgroup, "io.stat", text);
	stats->has_blkio_stats = true;
	for (line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		unsigned int numbers[2];

		if (sscanf(line, "%u:%u", &numbers[0], &numbers[1]) != 2)
			continue;
		for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
			const char *at = strstr(line, kinds[i].key);
			uint64_t value;

			if (!at)
				continue;
			value = strtoull(at + strlen(kinds[i].key), NULL, 10);
			if (kinds[i].bytes)
				io_entry(&io->io_service_bytes_recursive_count, &io->io_service_bytes_recursive,
					 numbers, kinds[i].op, value);
			else
				io_entry(&io->io_serviced_recursive_count, &io->io_serviced_recursive, numbers,
					 kinds[i].op, value);
		}
	}
}

void rpc_stats_container(struct call *call)
{
	grpc_StatsContainerRequest *request = call->request;
	struct container *container = container_for(call, request->container_id);
	grpc_StatsContainerResponse answer = grpc_StatsContainerResponse_init_zero;

	if (!container)
		return;
	answer.has_cgroup_stats = true;
	cpu_stats(container->cgroup, &answer.cgroup_stats);
	memory_stats(container->cgroup, &answer.cgroup_stats);
	pids_stats(container->cgroup, &answer.cgroup_stats);
	io_stats(container->cgroup, &answer.cgroup_stats);
	answer.network_stats = netstat_read(&answer.network_stats_count);
	call_reply(call, grpc_StatsContainerResponse_fields, &answer);
	pb_release(grpc_StatsContainerResponse_fields, &answer);
}

/*
 * Wait until all processes of a cgroup are frozen, as cgroup.events reports (Documentation/admin-guide/cgroup-v2.rst):
 * 0 or -errno.  The host copies the files of a frozen container, so no process may be in the middle of a write.
 */
static int await_frozen(const char *cgroup)
{
	char path[512], text[TEXT_MAX];
	struct pollfd events = { .events = POLLPRI };
	int result = -ETIMEDOUT, left = FREEZE_MS;

	snprintf(path, sizeof(path), "%s/cgroup.events", cgroup);
	events.fd = open(path, O_RDONLY | O_CLOEXEC);
	if (events.fd < 0)
		return -errno;
	while (left > 0) {
		ssize_t size = pread(events.fd, text, sizeof(text) - 1, 0);

		if (size < 0) {
			result = -errno;
			break;
		}
		text[size] = '\0';
		if (number_of(text, "frozen") == 1) {
			result = 0;
			break;
		}
		left -= poll(&events, 1, 100) > 0 ? 1 : 100; /* an event comes at once, a timeout after 100 ms */
	}
	close(events.fd);
	return result;
}

static void set_frozen(struct call *call, const char *id, bool frozen)
{
	struct container *container = container_for(call, id);
	char path[512];
	int error;

	if (!container)
		return;
	if (container->state != CONTAINER_RUNNING || container->processes->exited) {
		call_fail(call, STATUS_FAILED_PRECONDITION, "the container %s does not run", container->id);
		return;
	}
	snprintf(path, sizeof(path), "%s/cgroup.freeze", container->cgroup);
	error = file_write(path, frozen ? "1" : "0", 1);
	if (!error && frozen) {
		error = await_frozen(container->cgroup);
		if (error)
			file_write(path, "0", 1);
	}
	if (error)
		call_fail(call, STATUS_INTERNAL, "freeze: %s", strerror(-error));
	else
		call_done(call);
}

void rpc_pause_container(struct call *call)
{
	grpc_PauseContainerRequest *request = call->request;

	set_frozen(call, request->container_id, true);
}

void rpc_resume_container(struct call *call)
{
	grpc_ResumeContainerRequest *request = call->request;

	set_frozen(call, request->container_id, false);
}

static void update_done(struct crun_job *job, int status)
{
	char *path = xasprintf("%s/resources.json", job->container->directory);

	unlink(path);
	free(path);
	if (status)
		crun_fail(job, "update", status);
	else
		call_done(job->call);
}

void rpc_update_container(struct call *call)
{
	grpc_UpdateContainerRequest *request = call->request;
	struct container *container = container_for(call, request->container_id);
	struct json json = { 0 };
	char *option;
	int error;

	if (!container)
		return;
	if (container->processes->exited) {
		call_fail(call, STATUS_FAILED_PRECONDITION, "the container %s has ended", container->id);
		return;
	}
	if (text_of(request->config)[0])
		json_raw(&json, request->config, strlen(request->config));
	else
		oci_write_resources(&json, NULL, &request->resources);
	option = xasprintf("--resources=%s/resources.json", container->directory);
	error = file_create(strchr(option, '=') + 1, json.text, json.used, 0600);
	if (!error) {
		const char *const arguments[] = { "update", option, NULL };

		error = crun_start(container, NULL, call, arguments, crun_no_fds, update_done);
	}
	free(json.text);
	free(option);
	if (error)
		call_fail(call, status_of(error), "update: %s", strerror(-error));
}

static void write_pid(pid_t pid, void *context)
{
	json_uint(context, NULL, pid);
}

void rpc_list_processes(struct call *call)
{
	grpc_ListProcessesRequest *request = call->request;
	struct container *container = container_for(call, request->container_id);
	struct json json = { 0 };

	if (!container)
		return;
	if (!strcmp(text_of(request->format), "files")) {
		listing_send(call, container);
		return;
	}
	json_open(&json, NULL, '[');
	processes_each(container->cgroup, write_pid, &json); /* no cgroup, no processes */
	json_close(&json, ']');
	call_reply_bytes(call, json.text, json.used);
	free(json.text);
}

/* ---- processes ---- */

/* A container may nest cgroups without a limit of the kernel, so the walk has one. */
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

		if (pid > 1) /* 0: a process of another pid namespace, without a pid in ours */
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
