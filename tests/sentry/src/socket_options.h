/* SPDX-License-Identifier: Apache-2.0 */
/* For programs that print the options of sockets. */
#ifndef SOCKET_OPTIONS_H
#define SOCKET_OPTIONS_H

#include <sys/socket.h>

#include "report.h"

#define OPTION(fd, level, option) show_option(__LINE__, fd, level, option)
#define SET(fd, level, option, value) set_option(__LINE__, fd, level, option, value)

static inline void show_option(int line, int fd, int level, int option)
{
	int value[4] = { -7, -7, -7, -7 };
	socklen_t size = sizeof(value);
	int result = getsockopt(fd, level, option, value, &size);

	if (result)
		printf("%d    option %d %d: %s\n", line, level, option, strerrorname_np(errno));
	else
		printf("%d    option %d %d: %d %d, %u bytes\n", line, level, option, value[0], size > 4 ? value[1] : 0, size);
}

static inline long set_option(int line, int fd, int level, int option, int value)
{
	long result = setsockopt(fd, level, option, &value, sizeof(value));

	printf("%d    set %d %d to %d: %s\n", line, level, option, value, result ? strerrorname_np(errno) : "0");
	return result;
}

#endif
