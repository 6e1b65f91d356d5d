// SPDX-License-Identifier: Apache-2.0
/* The machine: its CPUs, memory, clock and random numbers. */
#include "ttrpc.h"
#include "container.h"

#include "agent.pb.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/random.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/time.h>
#include <unistd.h>

#define SEED_MAX 512

/*
 * Write `word` to the file `name` of each "PREFIXn" in `directory` that has another content. The number of files
 * written, or -errno.
 */
static int switch_on(const char *directory, const char *prefix, const char *name, const char *word, uint32_t most)
{
	DIR *list = opendir(directory);
	struct dirent *entry;
	uint32_t count = 0;

	if (!list)
		return errno == ENOENT ? 0 : -errno;
	while (count < most && (entry = readdir(list))) {
		char path[PATH_MAX], now[32];

		if (strncmp(entry->d_name, prefix, strlen(prefix)))
			continue;
		snprintf(path, sizeof(path), "%s/%s/%s", directory, entry->d_name, name);
		if (file_read(path, now, sizeof(now)) < 0 || !strncmp(now, word, strlen(word)))
			continue;
		if (!file_write(path, word, strlen(word)))
			count++;
	}
	closedir(list);
	return count;
}

/* Set the first `count` CPUs online and all others offline. 0 or -errno (-ENXIO: the machine has fewer). */
static int set_online(uint32_t count)
{
	for (uint32_t cpu = 1;; cpu++) { /* CPU 0 is always online and has no such file */
		const char *word = cpu < count ? "1" : "0";
		char path[64], now[8];
		int error;

		snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%u/online", cpu);
		if (file_read(path, now, sizeof(now)) < 0)
			return cpu < count ? -ENXIO : 0;
		if (now[0] == *word)
			continue;
		error = file_write(path, word, 1);
		if (error)
			return error;
	}
}

void rpc_online_cpu_mem(struct call *call)
{
	grpc_OnlineCPUMemRequest *request = call->request;
	uint32_t most = request->nb_cpus ? request->nb_cpus : UINT32_MAX;
	int error;

	if (request->cpus)
		error = set_online(request->cpus);
	else
		error = switch_on("/sys/devices/system/cpu", "cpu", "online", "1", most);
	if (error >= 0 && !request->cpu_only && !request->cpus)
		error = switch_on("/sys/devices/system/memory", "memory", "state", "online", UINT32_MAX);
	if (error < 0)
		call_fail(call, STATUS_INTERNAL, "online: %s", strerror(-error));
	else
		call_done(call);
}

int generation_renew(void)
{
	char text[64];
	ssize_t length = file_read("/proc/sys/kernel/random/uuid", text, sizeof(text));
	int error;

	if (length < 0)
		return length;
	/* Not truncated first: all lines are equally long, so a reader always sees one whole line. */
	error = file_write(GENERATION_FILE, text, length);
	return error == -ENOENT ? file_create(GENERATION_FILE, text, length, 0444) : error;
}

void rpc_reseed_random_dev(struct call *call)
{
	union {
		struct rand_pool_info info;
		uint8_t space[sizeof(struct rand_pool_info) + SEED_MAX];
	} pool;
	int fd, error = 0;

	if (!call->data_size || call->data_size > SEED_MAX) {
		call_fail(call, STATUS_INVALID_ARGUMENT, "the seed has 1 to %d bytes", SEED_MAX);
		return;
	}
	pool.info.entropy_count = call->data_size * 8;
	pool.info.buf_size = call->data_size;
	memcpy(pool.info.buf, call->data, call->data_size);
	fd = open("/dev/urandom", O_WRONLY | O_CLOEXEC);
	/*
	 * Add entropy to the pool, and reseed from it: without the second step a clone would draw the same numbers
	 * for a while.
	 */
	if (fd < 0 || ioctl(fd, RNDADDENTROPY, &pool) || ioctl(fd, RNDRESEEDCRNG))
		error = -errno;
	explicit_bzero(&pool, sizeof(pool));
	if (fd >= 0)
		close(fd);
	if (!error)
		error = generation_renew();
	if (error)
		call_fail(call, STATUS_INTERNAL, "seed: %s", strerror(-error));
	else
		call_done(call);
}

void rpc_set_guest_date_time(struct call *call)
{
	grpc_SetGuestDateTimeRequest *request = call->request;
	struct timeval now = { .tv_sec = request->Sec, .tv_usec = request->Usec };

	if (settimeofday(&now, NULL))
		call_fail(call, STATUS_INVALID_ARGUMENT, "date: %s", strerror(errno));
	else
		call_done(call);
}

void rpc_get_guest_details(struct call *call)
{
	static char *devices[] = { "blk" };
	grpc_GuestDetailsRequest *request = call->request;
	grpc_GuestDetailsResponse answer = {
		.has_agent_details = true,
		.agent_details = {
			.version = AGENT_VERSION,
			.init_daemon = getpid() == 1,
			.device_handlers_count = ARRAY_SIZE(devices),
			.device_handlers = devices,
			.storage_handlers_count = storage_driver_count,
			.storage_handlers = (char **)storage_drivers,
			.supports_seccomp = !access("/proc/sys/kernel/seccomp", F_OK),
		},
	};
	char size[32];

	if (request->mem_block_size &&
	    file_read("/sys/devices/system/memory/block_size_bytes", size, sizeof(size)) > 0)
		answer.mem_block_size_bytes = strtoull(size, NULL, 16);
	if (request->mem_hotplug_probe)
		answer.support_mem_hotplug_probe = !access("/sys/devices/system/memory/probe", F_OK);
	call_reply(call, grpc_GuestDetailsResponse_fields, &answer);
}
