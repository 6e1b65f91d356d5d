// SPDX-License-Identifier: Apache-2.0
/* Threads: locks, conditions, storms of wake-ups, signals and ends. The same output natively and on the Sentry. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { THREADS = 8, ROUNDS = 500 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static pthread_barrier_t barrier;
static __thread long own;
static long total, turn;

static void *count(void *argument)
{
	for (int i = 0; i < ROUNDS; i++) {
		pthread_mutex_lock(&lock);
		total++;
		pthread_mutex_unlock(&lock);
		own++;
	}
	pthread_barrier_wait(&barrier);
	return (void *)(own + (long)argument);
}

/* Each waits for its turn, which the one before gives. */
static void *take_turns(void *argument)
{
	for (int i = 0; i < ROUNDS; i++) {
		pthread_mutex_lock(&lock);
		while (turn % THREADS != (long)argument)
			pthread_cond_wait(&changed, &lock);
		turn++;
		pthread_cond_broadcast(&changed);
		pthread_mutex_unlock(&lock);
	}
	return NULL;
}

/* Without a system call: others run all the same. */
static volatile int stop_spinning;

static void *spin(void *argument)
{
	double x = 1;

	while (!stop_spinning)
		x = x * 1.000001 + 1e-9;
	return x > 0 ? argument : NULL;
}

static void *stop(void *argument)
{
	stop_spinning = 1;
	return argument;
}

static void run(void *(*function)(void *), const char *name)
{
	pthread_t threads[THREADS];
	long sum = 0;

	for (long i = 0; i < THREADS; i++)
		if (pthread_create(&threads[i], NULL, i == THREADS - 1 && function == spin ? stop : function, (void *)i))
			printf("pthread_create fails\n");
	for (int i = 0; i < THREADS; i++) {
		void *result;

		pthread_join(threads[i], &result);
		sum += (long)result;
	}
	printf("%s: %ld, total %ld, turn %ld\n", name, sum, total, turn);
}

static void *hold(void *argument)
{
	pthread_mutex_lock(argument);
	return NULL;
}

static void robust(void)
{
	pthread_mutexattr_t attributes;
	pthread_mutex_t mutex;
	pthread_t thread;

	pthread_mutexattr_init(&attributes);
	pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
	pthread_mutex_init(&mutex, &attributes);
	pthread_create(&thread, NULL, hold, &mutex);
	pthread_join(thread, NULL);
	printf("lock of a dead thread: %s\n", strerrorname_np(pthread_mutex_lock(&mutex)));
	printf("consistent %d unlock %d\n", pthread_mutex_consistent(&mutex), pthread_mutex_unlock(&mutex));
}

static void between_processes(void)
{
	pthread_mutexattr_t attributes;
	struct {
		pthread_mutex_t lock;
		long value;
	} *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	pthread_mutexattr_init(&attributes);
	pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
	pthread_mutex_init(&shared->lock, &attributes);
	for (int child = 0; child < 4; child++) {
		if (fork())
			continue;
		for (int i = 0; i < ROUNDS; i++) {
			pthread_mutex_lock(&shared->lock);
			long value = shared->value;
			if (i % 50 == 0)
				sched_yield();
			shared->value = value + 1;
			pthread_mutex_unlock(&shared->lock);
		}
		_exit(0);
	}
	while (wait(NULL) > 0)
		;
	printf("processes counted to %ld\n", shared->value);
}

static volatile sig_atomic_t caught_by;

static void catch(int signal)
{
	(void)signal;
	caught_by = (sig_atomic_t)syscall(SYS_gettid);
}

static void *wait_for_signal(void *argument)
{
	struct timespec hour = { 3600, 0 };

	*(volatile int *)argument = (int)syscall(SYS_gettid);
	while (!caught_by)
		nanosleep(&hour, NULL);
	return NULL;
}

static void signals(void)
{
	static volatile int tid;
	pthread_t thread;

	signal(SIGUSR1, catch);
	pthread_create(&thread, NULL, wait_for_signal, (void *)&tid);
	while (!tid)
		sched_yield();
	while (!caught_by) {
		pthread_kill(thread, SIGUSR1);
		sched_yield();
	}
	pthread_join(thread, NULL);
	printf("the thread caught it %d\n", caught_by == tid);
}

static void timeouts(void)
{
	struct timespec time;

	clock_gettime(CLOCK_REALTIME, &time);
	time.tv_nsec += 20000000;
	time.tv_sec += time.tv_nsec / 1000000000;
	time.tv_nsec %= 1000000000;
	pthread_mutex_lock(&lock);
	printf("wait: %s\n", strerrorname_np(pthread_cond_timedwait(&changed, &lock, &time)));
	pthread_mutex_unlock(&lock);
}

static void *end_process(void *argument)
{
	(void)argument;
	exit(9);
}

static void *leave(void *argument)
{
	while (pause() < 0)
		;
	return argument;
}

static void *execute(void *argument)
{
	char *const arguments[] = { argument, "again", NULL };

	execv(argument, arguments);
	return NULL;
}

static int ends(void *(*function)(void *), void *argument)
{
	int status;
	pid_t pid = fork();

	if (!pid) {
		pthread_t thread;

		pthread_create(&thread, NULL, leave, NULL);
		pthread_create(&thread, NULL, function, argument);
		pthread_exit(NULL);
	}
	waitpid(pid, &status, 0);
	return status;
}

static const struct flock whole = { .l_type = F_WRLCK };

/* The owner of a file's lock after exec. */
static int report_lock(int fd)
{
	struct flock found = whole;

	unshare(CLONE_FILES); /* no other task shares them */
	if (!fork()) {
		fcntl(fd, F_GETLK, &found);
		printf("lock after exec: %d %d\n", found.l_type == F_WRLCK, found.l_pid == getppid());
		fflush(stdout);
		_exit(0);
	}
	wait(NULL);
	return 5;
}

static void keep_lock(char *program)
{
	char number[12];
	int fd = memfd_create("locked", 0);

	snprintf(number, sizeof(number), "%d", fd);
	fflush(stdout);
	if (!fork()) {
		fcntl(fd, F_SETLK, &whole);
		execl(program, program, "locked", number, NULL);
	}
	wait(NULL);
	close(fd);
}

int main(int argc, char **argv)
{
	if (argc == 3)
		return report_lock(atoi(argv[2]));
	if (argc > 1) {
		printf("executed, leader %d\n", getpid() == syscall(SYS_gettid));
		return 4;
	}
	pthread_barrier_init(&barrier, NULL, THREADS);
	run(count, "count");
	run(take_turns, "turns");
	run(spin, "spin");
	robust();
	between_processes();
	signals();
	timeouts();
	fflush(stdout);
	printf("exit in a thread: %x\n", ends(end_process, NULL));
	fflush(stdout);
	printf("exec in a thread: %x\n", ends(execute, argv[0]));
	keep_lock(argv[0]);
	return 0;
}
