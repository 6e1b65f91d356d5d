// SPDX-License-Identifier: Apache-2.0
/*
 * Prints what system calls cost: a name and nanoseconds, the least of several turns, each shorter than a time slice.  With
 * a name and a number, it makes these calls so often.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int zero, file, to_child[2], from_child[2];
static char *self;
static char buffer[4096];

static void get_pid(void) { syscall(SYS_getpid); }
static void read_zero(void) { (void)!read(zero, buffer, 64); }
static void write_file(void) { (void)!pwrite(file, buffer, sizeof(buffer), 0); }
static void read_file(void) { (void)!pread(file, buffer, sizeof(buffer), 0); }

static void stat_file(void)
{
	struct stat stat_buffer;

	stat("/tmp/costs", &stat_buffer);
}

static void open_file(void)
{
	close(open("/tmp/costs", O_RDONLY));
}

static void map_page(void)
{
	char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	*(volatile char *)page = 1;
	munmap(page, 4096);
}

static void ping_pong(void)
{
	(void)!write(to_child[1], buffer, 1);
	(void)!read(from_child[0], buffer, 1);
}

static void fork_child(void)
{
	pid_t child = fork();

	if (!child)
		_exit(0);
	waitpid(child, NULL, 0);
}

static void exec_child(void)
{
	pid_t child = vfork();

	if (!child) {
		execl(self, self, "nothing", NULL);
		_exit(1);
	}
	waitpid(child, NULL, 0);
}

static const struct {
	const char *name;
	void (*run)(void);
	int count;
} costs[] = {
	{ "getpid", get_pid, 100 },	 { "read-64", read_zero, 100 },	  { "pwrite-4k", write_file, 50 },
	{ "pread-4k", read_file, 50 },	 { "stat", stat_file, 50 },	  { "open-close", open_file, 25 },
	{ "map-touch", map_page, 20 },	 { "ping-pong", ping_pong, 25 },  { "fork", fork_child, 3 },
	{ "exec", exec_child, 1 },
};

static void start_partner(void)
{
	if (pipe(to_child) || pipe(from_child))
		exit(1);
	if (!fork()) {
		close(to_child[1]);
		while (read(to_child[0], buffer, 1) == 1)
			(void)!write(from_child[1], buffer, 1);
		_exit(0);
	}
	close(to_child[0]);
}

static long now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000 + time.tv_nsec;
}

static int repeat(const char *name, int count)
{
	for (size_t i = 0; i < sizeof(costs) / sizeof(*costs); i++)
		if (!strcmp(costs[i].name, name)) {
			while (count--)
				costs[i].run();
			return 0;
		}
	return 1;
}

int main(int argc, char **argv)
{
	if (argc != 2 && argc != 3)
		return 1;
	if (!strcmp(argv[1], "nothing"))
		return 0;
	self = argv[0];
	zero = open("/dev/zero", O_RDONLY);
	file = open("/tmp/costs", O_RDWR | O_CREAT, 0600);
	start_partner();
	if (argc == 3)
		return repeat(argv[1], atoi(argv[2]));
	for (size_t i = 0; i < sizeof(costs) / sizeof(*costs); i++) {
		long least = -1;

		for (int turn = 0; turn < atoi(argv[1]); turn++) {
			long start = now(), took;

			for (int n = 0; n < costs[i].count; n++)
				costs[i].run();
			took = (now() - start) / costs[i].count;
			if (least < 0 || took < least)
				least = took;
		}
		printf("%s %ld\n", costs[i].name, least);
		fflush(stdout);
	}
	unlink("/tmp/costs");
	return 0;
}
