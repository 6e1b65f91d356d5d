/* SPDX-License-Identifier: Apache-2.0 */
/* For programs that print what system calls return, which is the same natively and on the Sentry. */
#ifndef REPORT_H
#define REPORT_H

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BAD ((void *)0xdead0000000) /* nothing is there */

/* A system call by its name, without the C library. */
#define TRY(name, ...) show(__LINE__, #name "(" #__VA_ARGS__ ")", syscall(SYS_##name, ##__VA_ARGS__))
/* A call of the C library. Flushes, since a forked process would print the buffer again. */
#define CALL(call) (show(__LINE__, #call, (long)(call)), fflush(stdout))
#define READY(fd) show_ready(__LINE__, fd)

static inline long show(int line, const char *what, long result)
{
	if (result == -1)
		printf("%d %s: %s\n", line, what, strerrorname_np(errno));
	else
		printf("%d %s = %ld\n", line, what, result);
	return result;
}

static inline void show_ready(int line, int fd)
{
	struct pollfd p = { fd, POLLIN | POLLOUT | POLLPRI | POLLRDHUP | POLLRDNORM | POLLWRNORM, 0 };
	int count = poll(&p, 1, 0);

	printf("%d    poll of %d: %d %x\n", line, fd, count, p.revents);
}

/* Until a child waits in a system call. */
static inline void wait_until_asleep(pid_t pid)
{
	char name[40], state = 0;

	snprintf(name, sizeof(name), "/proc/%d/stat", pid);
	while (state != 'S') {
		FILE *file = fopen(name, "r");

		if (!file || fscanf(file, "%*d %*s %c", &state) != 1)
			state = 'S'; /* it has ended */
		if (file)
			fclose(file);
	}
}

/* Make the folder that the argument names, and work in it; the output comes at the end. Not 0: it cannot be made. */
static inline int enter_folder(int argc, char **argv)
{
	setvbuf(stdout, malloc(1 << 18), _IOFBF, 1 << 18);
	umask(022);
	return argc != 2 || mkdir(argv[1], 0755) || chdir(argv[1]);
}

#endif
