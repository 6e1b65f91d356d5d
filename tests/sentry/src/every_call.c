// SPDX-License-Identifier: Apache-2.0
/*
 * Makes calls of every number with random arguments, while another thread changes the memory that they point to.
 *
 * every_call SEED SECONDS NAME...: names of files to try. Each child makes calls until it dies, or for a while.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { LAST = 470, AREA = 16 * 4096, CALLS = 3000, WAIT_US = 300000 };

static uint64_t state;
static volatile uint64_t *area;
static char **names;
static unsigned name_count;

static uint64_t next_random(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

/* Descriptors, small numbers, pointers into memory that changes, names, addresses of the core and of nothing. */
static long argument(uint64_t *s)
{
	static const uint64_t odd[] = {
		0, 1, ~0ull, 0x7fffffff, 0x80000000, 1ull << 63, 0xffff888000000000, 0x7fffffc00000, 0x7ffffffff000, 4096, 0x10000,
	};
	uint64_t kind = next_random(s) % 8, value = next_random(s);

	if (kind == 0)
		return (long)odd[value % (sizeof(odd) / sizeof(*odd))];
	if (kind == 1)
		return (long)(value % 12);
	if (kind == 2)
		return (long)value;
	if (kind == 3)
		return (long)(1ull << value % 32);
	if (kind == 4)
		return (long)names[value % name_count];
	return (long)((uintptr_t)area + value % (AREA + 64));
}

/* Calls that end or stop this process or its relatives, and no call that waits for ever in the parent. */
static int is_left_out(long number)
{
	return number == SYS_exit || number == SYS_exit_group || number == SYS_kill || number == SYS_tkill ||
	       number == SYS_tgkill || number == SYS_rt_sigqueueinfo || number == SYS_rt_tgsigqueueinfo ||
	       number == SYS_pidfd_send_signal || number == SYS_reboot || number == SYS_ptrace;
}

static void *change(void *unused)
{
	uint64_t s = state ^ 0x9e3779b97f4a7c15;

	(void)unused;
	for (;;) {
		uint64_t at = next_random(&s) % (AREA / 8), kind = next_random(&s) % 4;

		area[at] = kind == 0 ? (uintptr_t)area + at : kind == 1 ? (uintptr_t)names[at % name_count] :
								kind == 2 ? next_random(&s) :
									    next_random(&s) % 64;
	}
	return NULL;
}

static void attack(void)
{
	const struct itimerval limit = { .it_value = { 0, WAIT_US } };
	pthread_t thread;
	int null = open("/dev/null", O_RDWR);

	area = mmap(NULL, AREA, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	for (int fd = 0; fd < 3; fd++)
		dup2(null, fd);
	setitimer(ITIMER_REAL, &limit, NULL); /* its signal ends the process */
	if (pthread_create(&thread, NULL, change, NULL))
		_exit(1);
	for (int i = 0; i < CALLS; i++) {
		long number = (long)(next_random(&state) % LAST);

		if (!is_left_out(number))
			syscall(number, argument(&state), argument(&state), argument(&state), argument(&state), argument(&state),
				argument(&state));
	}
	syscall(SYS_exit_group, 0);
}

int main(int argc, char **argv)
{
	uint64_t seed = strtoull(argv[1], NULL, 10), round = 0;
	time_t end = time(NULL) + atoi(argv[2]);

	names = argv + 3;
	name_count = (unsigned)(argc - 3);
	for (; time(NULL) < end; round++) {
		pid_t child;

		state = (seed + round) * 0x9e3779b97f4a7c15 | 1;
		child = fork();
		if (!child)
			attack();
		if (child < 0) {
			perror("fork");
			return 1;
		}
		/* The signal may be blocked or handled by then. */
		for (int turns = 0; waitpid(child, NULL, WNOHANG) == 0; turns++) {
			usleep(10000); /* the step of the loop */
			if (turns > 100)
				kill(child, SIGKILL);
		}
	}
	printf("%llu rounds\n", (unsigned long long)round);
	return 0;
}
