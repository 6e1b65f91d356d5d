// SPDX-License-Identifier: Apache-2.0
/*
 * Threads and processes that wake, stop and end one another, and change memory that others touch: for some seconds each.
 *
 * What they count must be right at the end. A wake-up that is lost leaves the program waiting for ever.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { THREADS = 4, PAGE = 4096, PAGES = 64 };

static double end_at;
static atomic_int stopped;

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static int is_over(void)
{
	if (!stopped && now() > end_at)
		stopped = 1;
	return stopped;
}

static void must(int good, const char *what)
{
	if (good)
		return;
	printf("%s (errno %d)\n", what, errno);
	fflush(stdout);
	_exit(1);
}

static void together(void *(*run)(void *))
{
	pthread_t threads[THREADS];

	stopped = 0;
	for (long i = 0; i < THREADS; i++)
		must(!pthread_create(&threads[i], NULL, run, (void *)i), "no thread");
	for (int i = 0; i < THREADS; i++)
		must(!pthread_join(threads[i], NULL), "no end of a thread");
}

/* -- futexes: each thread waits for the one before it -- */

static atomic_uint turns[THREADS];
static long passed[THREADS];
static volatile int ended;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void await(atomic_uint *word, unsigned value)
{
	while (*word == value)
		syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void *pass_on(void *argument)
{
	long own = (long)argument, next = (own + 1) % THREADS;
	unsigned seen = 0;

	for (int last = 0; !last;) {
		if (own || seen)
			await(&turns[own], seen - !own);
		seen++;
		last = own ? ended : ended || is_over(); /* before it is passed on */
		ended = last;
		pthread_mutex_lock(&lock);
		passed[own]++;
		pthread_mutex_unlock(&lock);
		turns[next]++;
		syscall(SYS_futex, &turns[next], FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
	}
	return NULL;
}

static void futexes(void)
{
	together(pass_on);
	for (int i = 1; i < THREADS; i++)
		must(passed[i] == passed[0], "a turn is lost");
}

/* -- pipes: bytes go around, between processes -- */

static void pipes(void)
{
	int ends[THREADS][2];
	unsigned char byte = 0;
	int status;

	for (int i = 0; i < THREADS; i++)
		must(!pipe(ends[i]), "no pipe");
	for (int i = 1; i < THREADS; i++) {
		if (fork())
			continue;
		for (int k = 0; k < THREADS; k++) {
			if (k != i)
				close(ends[k][1]);
			if (k != i - 1)
				close(ends[k][0]);
		}
		while (read(ends[i - 1][0], &byte, 1) == 1)
			must(write(ends[i][1], &byte, 1) == 1, "a write fails");
		_exit(0);
	}
	for (unsigned char next = 1; !is_over(); next++) {
		must(write(ends[0][1], &next, 1) == 1, "a write fails");
		must(read(ends[THREADS - 1][0], &byte, 1) == 1 && byte == next, "another byte comes back");
	}
	for (int i = 0; i < THREADS; i++)
		close(ends[i][1]);
	for (int i = 1; i < THREADS; i++)
		must(wait(&status) > 0 && !status, "a process ends otherwise");
}

/* -- signals: to threads that compute, sleep and stop -- */

static atomic_long caught;

static void on_signal(int signal)
{
	(void)signal;
	caught++;
}

static void *be_signalled(void *argument)
{
	if ((long)argument % 2) {
		while (!stopped) /* no system call */
			;
		return NULL;
	}
	while (!stopped)
		usleep(1000000);
	return NULL;
}

static void signal_threads(void)
{
	struct sigaction action = { .sa_handler = on_signal };
	pthread_t threads[THREADS];
	long sent = 0;

	stopped = 0;
	sigaction(SIGUSR1, &action, NULL);
	for (long i = 0; i < THREADS; i++)
		must(!pthread_create(&threads[i], NULL, be_signalled, (void *)i), "no thread");
	while (!is_over()) { /* only this one finds that out while signals are on the way */
		long before = caught;

		must(!pthread_kill(threads[sent % THREADS], SIGUSR1), "no signal");
		while (caught == before) /* each arrives */
			sched_yield();
		sent++;
	}
	for (int i = 0; i < THREADS; i++) {
		pthread_kill(threads[i], SIGUSR1);
		pthread_join(threads[i], NULL);
	}
}

/* A process that computes stops at once: what it counts does not change until it continues. */
static void stop_processes(void)
{
	atomic_long *count = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t child = fork();
	int status;

	if (!child)
		for (;;)
			++*count;
	stopped = 0;
	for (long before; !is_over();) {
		must(!kill(child, SIGSTOP) && waitpid(child, &status, WUNTRACED) == child && WIFSTOPPED(status), "no stop");
		before = *count;
		for (int i = 0; i < 100; i++)
			sched_yield();
		must(*count == before, "it runs although it has stopped");
		must(!kill(child, SIGCONT) && waitpid(child, &status, WCONTINUED) == child, "it does not continue");
		while (*count == before)
			sched_yield();
	}
	kill(child, SIGKILL);
	must(waitpid(child, &status, 0) == child && WIFSIGNALED(status), "it is not killed");
	munmap(count, PAGE);
}

static void signals(void)
{
	double rest = end_at - now();

	end_at -= rest / 2;
	signal_threads();
	end_at += rest / 2;
	stop_processes();
}

/* -- processes: threads fork at once, some of them with threads of their own that compute while all end -- */

static void *compute(void *argument)
{
	for (volatile long i = 0;; i++)
		;
	return argument;
}

static void *fork_and_wait(void *argument)
{
	for (long i = (long)argument; !is_over(); i++) {
		pthread_t thread;
		int status;
		pid_t child = fork();

		must(child >= 0, "no process");
		if (!child) {
			if (i % 4 == 1)
				pthread_create(&thread, NULL, compute, NULL);
			if (i % 8 == 5)
				execl("/proc/self/exe", "storms", "nothing", "0", NULL);
			_exit(i % 100);
		}
		must(waitpid(child, &status, 0) == child, "a child is lost");
		must(WIFEXITED(status) && WEXITSTATUS(status) == (i % 8 == 5 ? 0 : i % 100), "a child ends otherwise");
	}
	return NULL;
}

static void processes(void)
{
	together(fork_and_wait);
}

/* -- memory: what is unmapped, protected or copied by one thread is so for all -- */

static char *volatile area;
static atomic_long faults;
static __thread volatile int expected;

static void on_fault(int signal, siginfo_t *info, void *context)
{
	(void)signal, (void)info;
	if (!expected)
		_exit(2);
	faults++;
	((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP] += expected; /* behind the instruction */
}

/* Write a byte there; whether there is memory. */
static int touch(char *at)
{
	int there = 0;

	expected = 3 + 5; /* mov byte, mov $1 */
	asm volatile("movb $7, (%1)\n mov $1, %k0" : "+r"(there) : "a"(at) : "memory");
	expected = 0;
	return there;
}

static void *change_memory(void *argument)
{
	unsigned seed = (unsigned)(long)argument + 1;
	char *mine = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	must(mine != MAP_FAILED, "no memory");
	while (!is_over()) {
		char *page = area + (rand_r(&seed) % PAGES) * PAGE;

		if ((long)argument) { /* these touch what the first one takes away */
			char *own = mine + (rand_r(&seed) % PAGES) * PAGE;

			touch(page);
			memset(own, (int)(long)argument, PAGE);
			for (int i = 0; i < PAGE; i += 512)
				must(own[i] == (char)(long)argument, "memory of its own has changed");
			if (!(rand_r(&seed) % 8))
				madvise(own, PAGE, MADV_DONTNEED);
			continue;
		}
		switch (rand_r(&seed) % 4) {
		case 0: munmap(page, PAGE); break;
		case 1: mprotect(page, PAGE, PROT_READ); break;
		case 2: mmap(page, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0); break;
		case 3:
			if (mprotect(page, PAGE, PROT_READ))
				break;
			for (int i = 0, before = *(volatile char *)page; i < 50; i++)
				must(*(volatile char *)page == before, "a page that nobody may write has changed");
		}
	}
	munmap(mine, PAGES * PAGE);
	return NULL;
}

static void memory(void)
{
	struct sigaction action = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER };

	area = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	sigaction(SIGSEGV, &action, NULL);
	sigaction(SIGBUS, &action, NULL);
	together(change_memory);
	signal(SIGSEGV, SIG_DFL);
	munmap(area, PAGES * PAGE);
}

/* What one thread writes after fork() is not in the child, whichever thread forks. */
static void *count_up(void *argument)
{
	atomic_long *counts = argument;

	while (!is_over()) {
		counts[0]++;
		counts[PAGE / sizeof(*counts)]++;
	}
	return NULL;
}

static void copies(void)
{
	atomic_long *counts = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	pthread_t thread;

	stopped = 0;
	pthread_create(&thread, NULL, count_up, counts);
	while (!is_over()) {
		int status;
		pid_t child = fork();

		if (!child) {
			long first = counts[0];

			for (int i = 0; i < 100; i++)
				sched_yield();
			_exit(counts[0] != first);
		}
		must(waitpid(child, &status, 0) == child && !status, "a child sees what its parent writes");
	}
	pthread_join(thread, NULL);
	munmap(counts, 2 * PAGE);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*run)(void);
	} storms[] = { { "futexes", futexes }, { "pipes", pipes },   { "signals", signals },
		       { "processes", processes }, { "memory", memory }, { "copies", copies } };

	for (unsigned i = 0; argc == 3 && i < sizeof(storms) / sizeof(*storms); i++) {
		if (strcmp(argv[1], storms[i].name))
			continue;
		end_at = now() + atof(argv[2]);
		storms[i].run();
		printf("%s\n", argv[1]);
	}
	return 0;
}
