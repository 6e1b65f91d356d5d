// SPDX-License-Identifier: Apache-2.0
#include "netstat.h"

#include "util.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define INTERFACES_MAX 64

/* /proc/net/dev: two lines of headings, then "NAME: " and 16 numbers, eight of what came in and eight of what went. */
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
