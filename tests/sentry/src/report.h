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
#include <sys/wait.h>
#include <unistd.h>

#define BAD ((void *)0xdead0000000) /* nothing is there */

/* A system call by its name, without the C library. */
#define TRY(name, ...) show(__LINE__, #name "(" #__VA_ARGS__ ")", syscall(SYS_##name, ##__VA_ARGS__))
/* A call of the C library. Flushes, since a forked process would print the buffer again. */
#define CALL(call) (show(__LINE__, #call, (long)(call)), fflush(stdout))
#define READY(fd) show_ready(__LINE__, fd)
/* Run the block that follows in a child, and wait for its end. */
#define IN_CHILD for (pid_t child_ = begin_child(__LINE__); child_ >= 0; child_ = end_child(child_))

enum { NOBODY = 65534 };

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

static inline pid_t begin_child(int line)
{
	int status = 0;
	pid_t child;

	printf("%d -- child\n", line);
	fflush(stdout);
	child = fork();
	if (!child)
		return 0;
	waitpid(child, &status, 0);
	if (status)
		printf("%d   ended with %x\n", line, status);
	return -1;
}

static inline pid_t end_child(pid_t child)
{
	(void)child;
	fflush(stdout);
	_exit(0);
}

/* Change the user and the group, without any other groups. */
static inline void become(unsigned id)
{
	syscall(SYS_setgroups, 0, NULL);
	syscall(SYS_setresgid, id, id, id);
	syscall(SYS_setresuid, id, id, id);
}

/* Wait until a child sleeps in a system call. */
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
