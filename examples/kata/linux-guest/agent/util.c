// SPDX-License-Identifier: Apache-2.0
/* Files, names and log messages: helpers for all parts of the agent. */
#include "loop.h"
#include "util.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/vm_sockets.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <termios.h>
#include <unistd.h>

static void *memory_checked(void *memory)
{
	if (!memory) {
		fputs("agent: out of memory\n", stderr);
		abort();
	}
	return memory;
}

void *xzalloc(size_t size)
{
	return memory_checked(calloc(1, size));
}

char *xstrdup(const char *text)
{
	return memory_checked(strdup(text));
}

char *xasprintf(const char *format, ...)
{
	char *text = NULL;
	va_list args;

	va_start(args, format);
	if (vasprintf(&text, format, args) < 0)
		text = NULL;
	va_end(args);
	return memory_checked(text);
}

bool id_is_valid(const char *id)
{
	size_t length = 0;

	if (!id || id[0] == '-' || !strcmp(id, ".") || !strcmp(id, ".."))
		return false;
	for (; id[length]; length++) {
		if (length >= NAME_MAX || (!isalnum((unsigned char)id[length]) && !strchr("_+.-", id[length])))
			return false;
	}
	return length;
}

bool path_is_valid(const char *path)
{
	const char *at;

	if (!path || path[0] != '/' || strlen(path) >= PATH_MAX)
		return false;
	for (at = path; *at; ) {
		size_t length = strcspn(++at, "/");

		if (!length && !*at && at > path + 1)
			break;
		if (!length || (length == 1 && at[0] == '.') || (length == 2 && at[0] == '.' && at[1] == '.'))
			return false;
		at += length;
	}
	return true;
}

ssize_t file_read(const char *path, char *buffer, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t used = 0;
	ssize_t got;

	if (fd < 0)
		return -errno;
	while (used < size - 1) {
		got = read(fd, buffer + used, size - 1 - used);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0) {
			got = -errno;
			close(fd);
			return got;
		}
		if (got == 0)
			break;
		used += got;
	}
	close(fd);
	buffer[used] = '\0';
	return used;
}

int file_read_number(const char *path, uint64_t *number)
{
	char text[64], *end;
	ssize_t got = file_read(path, text, sizeof(text));

	if (got < 0)
		return got;
	if (!strncmp(text, "max", 3)) {
		*number = UINT64_MAX;
		return 0;
	}
	errno = 0;
	*number = strtoull(text, &end, 10);
	return end == text || errno ? -EINVAL : 0;
}

int file_write_all(int fd, const void *data, size_t size)
{
	const char *at = data;

	while (size) {
		ssize_t put = write(fd, at, size);

		if (put < 0 && errno == EINTR)
			continue;
		if (put < 0)
			return -errno;
		at += put;
		size -= put;
	}
	return 0;
}

int file_write(const char *path, const char *data, size_t size)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	int error;

	if (fd < 0)
		return -errno;
	error = file_write_all(fd, data, size);
	close(fd);
	return error;
}

int file_print(const char *path, const char *format, ...)
{
	char text[512];
	va_list args;
	int length;

	va_start(args, format);
	length = vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	if (length < 0 || (size_t)length >= sizeof(text))
		return -EOVERFLOW;
	return file_write(path, text, length);
}

int file_create(const char *path, const char *data, size_t size, mode_t mode)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, mode);
	int error;

	if (fd < 0)
		return -errno;
	error = file_write_all(fd, data, size);
	close(fd);
	return error;
}

int directory_make(const char *path, mode_t mode)
{
	char part[PATH_MAX];
	size_t length = strlen(path), at;

	if (length >= sizeof(part))
		return -ENAMETOOLONG;
	if (!mkdir(path, mode) || errno == EEXIST)
		return 0;
	memcpy(part, path, length + 1);
	for (at = 1; at <= length; at++) {
		if (part[at] != '/' && part[at] != '\0')
			continue;
		part[at] = '\0';
		if (mkdir(part, mode) && errno != EEXIST)
			return -errno;
		part[at] = path[at];
	}
	return 0;
}

void directory_remove(const char *path)
{
	DIR *directory = opendir(path);
	struct dirent *entry;

	if (!directory)
		return;
	while ((entry = readdir(directory)))
		unlinkat(dirfd(directory), entry->d_name, 0);
	closedir(directory);
	rmdir(path);
}

/* ---- log ---- */

#define LOG_PORT 1025

/* Connected at the first line, since most machines never log. */
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
			return; /* no log is left to report it to */
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

/* Printed at the end, so that printing does not delay what is measured. */
void log_start(void)
{
	char line[2048];

	if (!connected || file_read("/proc/cmdline", line, sizeof(line)) <= 0 || !strstr(line, "agent.log=debug"))
		return;
	log_line("agent: %llu ns from its start to the first connection", (unsigned long long)(connected - began));
	/* The UART sends 16 bytes per interrupt, and the host closes the machine after our answer. */
	tcdrain(STDERR_FILENO);
}
