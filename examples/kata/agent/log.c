// SPDX-License-Identifier: Apache-2.0
#include "loop.h"
#include "util.h"

#include <linux/vm_sockets.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#define LOG_PORT 1025

/* Connected on the first line, since most machines end without one. */
static int log_connect(void)
{
	struct sockaddr_vm address = {
		.svm_family = AF_VSOCK,
		.svm_cid = VMADDR_CID_HOST,
		.svm_port = LOG_PORT,
	};
	struct timeval patience = { .tv_sec = 1 };
	int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return STDERR_FILENO;
	setsockopt(fd, AF_VSOCK, SO_VM_SOCKETS_CONNECT_TIMEOUT, &patience, sizeof(patience));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	if (connect(fd, (struct sockaddr *)&address, sizeof(address))) {
		close(fd);
		return STDERR_FILENO;
	}
	return fd;
}

void log_line(const char *format, ...)
{
	static int fd = -1;
	char line[1024];
	va_list args;
	int length;

	va_start(args, format);
	length = vsnprintf(line, sizeof(line) - 1, format, args);
	va_end(args);
	if (length < 0)
		return;
	if ((size_t)length > sizeof(line) - 2)
		length = sizeof(line) - 2;
	line[length++] = '\n';
	if (fd < 0)
		fd = log_connect();
	if (write(fd, line, length) < 0 && fd != STDERR_FILENO) {
		close(fd);
		fd = STDERR_FILENO;
		if (write(fd, line, length) < 0)
			return; /* there is nobody left to tell */
	}
}

static uint64_t began, connected;

void log_began(void)
{
	began = clock_now();
}

void log_connected(void)
{
	if (!connected)
		connected = clock_now();
}

/* Said at the end: at the start it would be in the way of what it tells of. */
void log_start(void)
{
	char line[2048];

	if (connected && file_read("/proc/cmdline", line, sizeof(line)) > 0 && strstr(line, "agent.log=debug"))
		log_line("agent: %llu ns from its start to the first connection", (unsigned long long)(connected - began));
}
