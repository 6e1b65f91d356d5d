// SPDX-License-Identifier: Apache-2.0
/* Interface names, addresses as text, counters, and spare devices for future interfaces. */
#include "net.h"
#include "util.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <libgen.h>
#include <limits.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int net_address_parse(const char *text, struct net_address *address)
{
	char copy[INET6_ADDRSTRLEN + 8], *slash, *end;

	memset(address, 0, sizeof(*address));
	if (!text_of(text)[0])
		return 0;
	if (strlen(text) >= sizeof(copy))
		return -EINVAL;
	strcpy(copy, text);
	slash = strchr(copy, '/');
	if (slash)
		*slash++ = '\0';
	address->family = strchr(copy, ':') ? AF_INET6 : AF_INET;
	address->size = address->family == AF_INET ? 4 : 16;
	address->prefix = address->size * 8;
	if (inet_pton(address->family, copy, address->bytes) != 1)
		return -EINVAL;
	if (slash) {
		unsigned long prefix = strtoul(slash, &end, 10);

		if (end == slash || *end || prefix > address->prefix)
			return -EINVAL;
		address->prefix = prefix;
	}
	return 0;
}

char *net_address_print(int family, const struct rtattr *attribute)
{
	char text[INET6_ADDRSTRLEN] = "";
	size_t size = family == AF_INET ? 4 : 16;

	if (attribute && RTA_PAYLOAD(attribute) >= size)
		inet_ntop(family, RTA_DATA(attribute), text, sizeof(text));
	return xstrdup(text);
}

types_IPFamily net_family(int family)
{
	return family == AF_INET6 ? types_IPFamily_v6 : types_IPFamily_v4;
}

unsigned int net_index(const char *name)
{
	return text_of(name)[0] ? if_nametoindex(name) : 0;
}

/* ---- spare devices ---- */

/*
 * Spare network devices for future interfaces: the kernel parameter agent.spare=MAC,MAC lists them. They have no
 * driver, so containers do not see them, until the host configures them. It does so in that order, since it may have
 * changed their addresses by then.
 */

#define PARAMETER "agent.spare="
#define DRIVER "/sys/bus/virtio/drivers/virtio_net/"
#define MAC_LENGTH 17
#define SPARES_MAX 8

static char *spares[SPARES_MAX]; /* their names on the virtio bus while they have no driver */

static bool has_address(const char *interface, const char *mac)
{
	char *path = xasprintf("/sys/class/net/%s/address", interface), address[MAC_LENGTH + 2];
	ssize_t size = file_read(path, address, sizeof(address));

	free(path);
	return size >= MAC_LENGTH && !strncasecmp(address, mac, MAC_LENGTH);
}

/* The name of the device that was unbound from its driver; NULL if it was not. */
static char *driver_take(const char *interface)
{
	char *path = xasprintf("/sys/class/net/%s/device", interface), target[PATH_MAX], *device;
	ssize_t size = readlink(path, target, sizeof(target) - 1);

	free(path);
	if (size <= 0)
		return NULL;
	target[size] = '\0';
	device = xstrdup(basename(target));
	if (!file_write(DRIVER "unbind", device, strlen(device)))
		return device;
	free(device);
	return NULL;
}

static char *spare_hide(const char *mac)
{
	DIR *interfaces = opendir("/sys/class/net");
	struct dirent *entry;
	char *device = NULL;

	while (interfaces && !device && (entry = readdir(interfaces))) {
		if (entry->d_name[0] != '.' && has_address(entry->d_name, mac))
			device = driver_take(entry->d_name);
	}
	if (interfaces)
		closedir(interfaces);
	return device;
}

void net_spares_hide(void)
{
	char line[4096], *mac;
	size_t count = 0;

	if (file_read("/proc/cmdline", line, sizeof(line)) <= 0)
		return;
	mac = strstr(line, PARAMETER);
	if (!mac)
		return;
	for (mac += strlen(PARAMETER); count < SPARES_MAX && strnlen(mac, MAC_LENGTH) == MAC_LENGTH; mac++) {
		spares[count] = spare_hide(mac);
		count += spares[count] != NULL;
		mac += MAC_LENGTH;
		if (*mac != ',')
			break;
	}
}

bool net_spare_show(void)
{
	for (size_t i = 0; i < SPARES_MAX; i++) {
		char *device = spares[i];
		int error;

		if (!device)
			continue;
		error = file_write(DRIVER "bind", device, strlen(device));
		free(device);
		spares[i] = NULL;
		return !error;
	}
	return false;
}

/* ---- counters ---- */

#define INTERFACES_MAX 64

/* /proc/net/dev: two header lines, then "NAME: " and 16 numbers, eight received and eight sent. */
grpc_NetworkStats *netstat_read(pb_size_t *count)
{
	grpc_NetworkStats *list = xzalloc(INTERFACES_MAX * sizeof(*list));
	char text[16384], *save, *line;

	*count = 0;
	if (file_read("/proc/net/dev", text, sizeof(text)) < 0)
		text[0] = '\0';
	for (line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		grpc_NetworkStats *one = &list[*count];
		char *colon = strchr(line, ':');

		if (!colon || *count == INTERFACES_MAX)
			continue;
		*colon = '\0';
		line += strspn(line, " ");
		if (!strcmp(line, "lo"))
			continue;
		if (sscanf(colon + 1,
			   "%" SCNu64 "%" SCNu64 "%" SCNu64 "%" SCNu64 " %*u %*u %*u %*u %" SCNu64 "%" SCNu64 "%" SCNu64
			   "%" SCNu64,
			   &one->rx_bytes, &one->rx_packets, &one->rx_errors, &one->rx_dropped, &one->tx_bytes,
			   &one->tx_packets, &one->tx_errors, &one->tx_dropped) != 8)
			continue;
		one->name = xstrdup(line);
		(*count)++;
	}
	return list;
}
