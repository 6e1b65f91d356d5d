// SPDX-License-Identifier: Apache-2.0
/*
 * Prints what ordinary programs cost, from vfork to the end of wait: a name and nanoseconds of the first run, then those
 * of the fastest of the others.  The same of calls for a file of the root, the first time and the mean of many.  As the
 * first program of a machine it mounts a tmpfs on /tmp, where gcc writes.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

static const struct {
	const char *name, *words[6];
} programs[] = {
	{ "python", { "/usr/bin/python3", "-c", "pass" } },
	{ "find", { "/usr/bin/find", "/usr" } },
	{ "git", { "/usr/bin/git", "-C", "/repository", "status" } },
	{ "gcc", { "/usr/bin/gcc", "/hello.c", "-o", "/tmp/hello" } },
};

static char *const environment[] = { "PATH=/usr/bin:/bin", "HOME=/tmp", "LC_ALL=C", NULL };

static long now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000 + time.tv_nsec;
}

static long run(const char *const *words)
{
	long start = now();
	pid_t child = vfork();
	int status;

	if (!child) {
		int null = open("/dev/null", O_RDWR);

		dup2(null, 0);
		dup2(null, 1);
		execve(words[0], (char *const *)words, environment);
		_exit(127);
	}
	if (waitpid(child, &status, 0) != child || status) {
		printf("%s failed with status %#x\n", words[0], status);
		exit(1);
	}
	return now() - start;
}

static void stat_file(void)
{
	struct stat status;

	if (stat("/hello.c", &status))
		exit(1);
}

static void open_file(void)
{
	int file = open("/hello.c", O_RDONLY);

	if (file < 0)
		exit(1);
	close(file);
}

static void repeat(const char *name, void (*call)(void))
{
	enum { TIMES = 100 };
	long start = now();

	call();
	printf("%s-first %ld\n", name, now() - start);
	start = now();
	for (int i = 0; i < TIMES; i++)
		call();
	printf("%s %ld\n", name, (now() - start) / TIMES);
}

int main(int argc, char **argv)
{
	int turns = argc > 1 ? atoi(argv[1]) : 3;

	if (getpid() == 1)
		mount("tmp", "/tmp", "tmpfs", 0, "mode=1777");
	repeat("stat", stat_file);
	repeat("open-close", open_file);
	fflush(stdout);
	for (size_t i = 0; i < sizeof(programs) / sizeof(*programs); i++) {
		long least = -1;

		if (argc > 2 && strcmp(argv[2], programs[i].name))
			continue;
		printf("%s-first %ld\n", programs[i].name, run(programs[i].words));
		fflush(stdout);
		for (int turn = 1; turn < turns; turn++) {
			long took = run(programs[i].words);

			if (least < 0 || took < least)
				least = took;
		}
		printf("%s %ld\n", programs[i].name, least);
		fflush(stdout);
	}
	tcdrain(1); /* Linux panics at the end of its first program, and prints that in between */
	return 0;
}
