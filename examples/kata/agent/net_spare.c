// SPDX-License-Identifier: Apache-2.0
/*
 * A network device for an interface that is not there yet: the kernel's parameter agent.spare=MAC names it. Containers do
 * not see it, since it has no driver until the host configures it.
 */
#include "net.h"

#include <dirent.h>
#include <errno.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PARAMETER "agent.spare="
#define DRIVER "/sys/bus/virtio/drivers/virtio_net/"
#define MAC_LENGTH 17

static char *device; /* its name on the virtio bus while it is hidden */

static bool has_address(const char *interface, const char *mac)
{
	char *path = xasprintf("/sys/class/net/%s/address", interface), address[MAC_LENGTH + 2];
	ssize_t size = file_read(path, address, sizeof(address));

	free(path);
	return size >= MAC_LENGTH && !strncasecmp(address, mac, MAC_LENGTH);
}

static void driver_take(const char *interface)
{
	char *path = xasprintf("/sys/class/net/%s/device", interface), target[PATH_MAX];
	ssize_t size = readlink(path, target, sizeof(target) - 1);

	free(path);
	if (size <= 0)
		return;
	target[size] = '\0';
	device = xstrdup(basename(target));
	if (file_write(DRIVER "unbind", device, strlen(device))) {
		free(device);
		device = NULL;
	}
}

void net_spare_hide(void)
{
	char line[4096], *mac;
	struct dirent *entry;
	DIR *interfaces;

	if (file_read("/proc/cmdline", line, sizeof(line)) <= 0)
		return;
	mac = strstr(line, PARAMETER);
	interfaces = mac ? opendir("/sys/class/net") : NULL;
	if (!interfaces)
		return;
	mac += strlen(PARAMETER);
	while (!device && strnlen(mac, MAC_LENGTH) == MAC_LENGTH && (entry = readdir(interfaces))) {
		if (entry->d_name[0] != '.' && has_address(entry->d_name, mac))
			driver_take(entry->d_name);
	}
	closedir(interfaces);
}

bool net_spare_show(void)
{
	int error;

	if (!device)
		return false;
	error = file_write(DRIVER "bind", device, strlen(device));
	free(device);
	device = NULL;
	return !error;
}
