/* SPDX-License-Identifier: Apache-2.0 */
/* Clocks, timers, signals that are read from files, and descriptors of processes. Works in a new folder. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/sched.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/time.h>
#include <time.h>
#include "report.h"

/* -- clocks -- */

#define CPU_CLOCK(pid, kind) ((int)(~(unsigned)(pid) << 3 | (kind)))

static void clocks(void)
{
	struct timespec time, real = { 1, 0 }, bad = { -1, 0 }, worse = { 0, 1000000000 };
	static const int ids[] = { 0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12, 16, 99, -1, -2, -3, -5, -6, -7, -8 };

	for (unsigned i = 0; i < sizeof(ids) / sizeof(ids[0]); i++) {
		printf("clock %d\n", ids[i]);
		TRY(clock_gettime, ids[i], &time);
		TRY(clock_gettime, ids[i], BAD);
		TRY(clock_getres, ids[i], NULL);
		TRY(clock_getres, ids[i], BAD);
		TRY(clock_settime, ids[i], BAD);
	}
	TRY(clock_gettime, CPU_CLOCK(getpid(), 2), &time);
	TRY(clock_gettime, CPU_CLOCK(getppid(), 2), &time);
	TRY(clock_gettime, CPU_CLOCK(getppid(), 6), &time);
	TRY(clock_gettime, CPU_CLOCK((1 << 27), 2), &time);
	TRY(clock_gettime, CPU_CLOCK(getpid(), 3), &time);
	TRY(clock_settime, CLOCK_REALTIME, &bad);
	TRY(clock_settime, CLOCK_REALTIME, &worse);
	IN_CHILD {
		become(NOBODY);
		TRY(clock_settime, CLOCK_REALTIME, &real);
		TRY(clock_settime, CLOCK_MONOTONIC, &real);
		TRY(clock_settime, CLOCK_PROCESS_CPUTIME_ID, &real);
	}
	clockid_t id;
	CALL(clock_getcpuclockid(0, &id));
	CALL(pthread_getcpuclockid(pthread_self(), &id));
	TRY(clock_gettime, id, &time);
	clock_t start = clock();
	while (clock() - start < 20000) /* the process uses CPU time */
		;
	puts("CPU time passed");
}

/* -- timers -- */

static void show_timer(int line, timer_t id)
{
	struct itimerspec now;
	long result = syscall(SYS_timer_gettime, id, &now);

	if (result)
		printf("%d   gettime: %s\n", line, strerrorname_np(errno));
	else
		printf("%d   every %ld.%09ld, %s\n", line, now.it_interval.tv_sec, now.it_interval.tv_nsec,
		       now.it_value.tv_sec || now.it_value.tv_nsec ? "runs" : "rests");
}

static void show_info(int line, const siginfo_t *info)
{
	printf("%d   signal %d code %d value %d overrun %d\n", line, info->si_signo, info->si_code, info->si_value.sival_int,
	       info->si_code == SI_TIMER ? info->si_overrun : -1);
}

#define TIMER(id) show_timer(__LINE__, id)

static void timer_errors(void)
{
	struct itimerspec set = { { 0, 0 }, { 100, 0 } }, bad = { { 0, -1 }, { 1, 0 } }, worse = { { 0, 0 }, { 0, 1000000000 } };
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = 65 };
	int id = 77;

	static const int ids[] = { 4, 5, 6, 10, 12, 99, -1, -2, -3 };
	for (unsigned i = 0; i < sizeof(ids) / sizeof(ids[0]); i++)
		TRY(timer_create, ids[i], NULL, &id);
	TRY(timer_create, 1, BAD, &id);
	TRY(timer_create, 1, NULL, BAD);
	TRY(timer_create, 1, &event, &id);
	event.sigev_signo = 0;
	TRY(timer_create, 1, &event, &id);
	event.sigev_signo = 10, event.sigev_notify = 3;
	TRY(timer_create, 1, &event, &id);
	event.sigev_notify = SIGEV_THREAD_ID, event._sigev_un._tid = 1 << 30;
	TRY(timer_create, 1, &event, &id);
	event._sigev_un._tid = getppid();
	TRY(timer_create, 1, &event, &id);
	TRY(timer_settime, 1234, 0, &set, NULL);
	TRY(timer_gettime, 1234, &set);
	TRY(timer_getoverrun, 1234);
	TRY(timer_delete, 1234);
	event.sigev_notify = SIGEV_NONE;
	static const int good[] = { 0, 1, 2, 3, 7, 11 };
	for (unsigned i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		timer_t timer = NULL;

		id = -1;
		TRY(timer_create, good[i], &event, &id);
		timer = (timer_t)(long)id;
		TIMER(timer);
		TRY(timer_settime, id, 0, &bad, NULL);
		TRY(timer_settime, id, 0, &worse, NULL);
		TRY(timer_settime, id, 0, NULL, NULL);
		TRY(timer_settime, id, 0, BAD, NULL);
		TRY(timer_settime, id, 0, &set, BAD);
		TIMER(timer);
		TRY(timer_gettime, id, BAD);
		TRY(timer_getoverrun, id);
		set.it_interval.tv_sec = 3;
		TRY(timer_settime, id, 0, &set, NULL);
		TIMER(timer);
		set.it_value.tv_sec = 0;
		TRY(timer_settime, id, 0, &set, NULL);
		set = (struct itimerspec){ { 0, 0 }, { 0, 1 } };
		TRY(timer_settime, id, 1, &set, NULL); /* long ago */
		TIMER(timer);
		set = (struct itimerspec){ { 1000000, 0 }, { 0, 1 } };
		TRY(timer_settime, id, 1, &set, NULL);
		TIMER(timer);
		set = (struct itimerspec){ { 0, 0 }, { 100, 0 } };
		TRY(timer_delete, id);
		TRY(timer_delete, id);
	}
}

static void timer_signals(void)
{
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN, .sigev_value.sival_int = 42 };
	struct itimerspec set = { { 0, 0 }, { 0, 1000 } };
	sigset_t set_of;
	siginfo_t info;
	int id, other;

	sigemptyset(&set_of);
	sigaddset(&set_of, SIGRTMIN);
	sigaddset(&set_of, SIGALRM);
	sigaddset(&set_of, SIGUSR1);
	sigprocmask(SIG_BLOCK, &set_of, NULL);
	static const int ids[] = { 0, 1, 7, 11 };
	for (unsigned i = 0; i < sizeof(ids) / sizeof(ids[0]); i++) {
		TRY(timer_create, ids[i], &event, &id);
		TRY(timer_settime, id, 0, &set, NULL);
		CALL(sigwaitinfo(&set_of, &info) - SIGRTMIN);
		show_info(__LINE__, &info);
		TIMER((timer_t)(long)id);
		TRY(timer_settime, id, 1, &set, NULL); /* long ago */
		CALL(sigwaitinfo(&set_of, &info) - SIGRTMIN);
		show_info(__LINE__, &info);
		TRY(timer_getoverrun, id);
		TRY(timer_delete, id);
	}
	event.sigev_notify = SIGEV_THREAD_ID, event.sigev_signo = SIGUSR1, event._sigev_un._tid = gettid();
	TRY(timer_create, 1, &event, &id);
	TRY(timer_create, 1, NULL, &other);
	TRY(timer_settime, id, 0, &set, NULL);
	CALL(sigwaitinfo(&set_of, &info));
	show_info(__LINE__, &info);
	TRY(timer_settime, other, 0, &set, NULL);
	CALL(sigwaitinfo(&set_of, &info));
	printf("%d %d\n", info.si_code, info.si_value.sival_int == other);
	/* With an interval, the signals in between are counted. */
	set.it_interval.tv_nsec = 1000000;
	TRY(timer_settime, id, 0, &set, NULL);
	CALL(sigwaitinfo(&set_of, &info));
	nanosleep(&(struct timespec){ 0, 20000000 }, NULL); /* so that several intervals pass */
	CALL(sigwaitinfo(&set_of, &info));
	printf("%d %d\n", info.si_overrun > 3, syscall(SYS_timer_getoverrun, id) == info.si_overrun);
	CALL(sigwaitinfo(&set_of, &info));
	TIMER((timer_t)(long)id);
	set.it_value = (struct timespec){ 0, 0 };
	TRY(timer_settime, other, 0, &set, NULL);
	TIMER((timer_t)(long)other);
	IN_CHILD {
		TRY(timer_gettime, id, &set);
		TRY(timer_create, 1, NULL, &other);
	}
	TRY(timer_delete, id);
	TRY(timer_delete, other);
	while (sigtimedwait(&set_of, NULL, &(struct timespec){ 0, 0 }) > 0)
		;
	/* Of CPU time. */
	set = (struct itimerspec){ { 0, 0 }, { 0, 5000000 } };
	static const int cpu[] = { CLOCK_PROCESS_CPUTIME_ID, CLOCK_THREAD_CPUTIME_ID };
	for (unsigned i = 0; i < 2; i++) {
		event.sigev_notify = SIGEV_SIGNAL;
		TRY(timer_create, cpu[i], &event, &id);
		TRY(timer_settime, id, 0, &set, NULL);
		TIMER((timer_t)(long)id);
		while (sigtimedwait(&set_of, &info, &(struct timespec){ 0, 0 }) < 0)
			;
		printf("%d %d\n", info.si_signo, info.si_code);
		TIMER((timer_t)(long)id);
		TRY(timer_delete, id);
	}
}

static volatile sig_atomic_t rang;

static void ring(int signal)
{
	rang = signal;
}

/* A timer expires while a program makes one call after the other. */
static void among_calls(void)
{
	const struct itimerval soon = { .it_value.tv_usec = 20000 };
	struct sigaction action = { .sa_handler = ring };

	rang = 0;
	sigaction(SIGALRM, &action, NULL);
	CALL(setitimer(ITIMER_REAL, &soon, NULL));
	while (!rang)
		syscall(SYS_sched_get_priority_max, 0);
	printf("it rang: %d\n", rang);
	signal(SIGALRM, SIG_DFL);
}

/* Signals of a timer that expires all the time do not stop the program. */
static void without_pause(void)
{
	const struct itimerval always = { { 0, 1 }, { 0, 1 } }, never = { { 0, 0 }, { 0, 0 } };
	struct itimerval left;

	signal(SIGVTALRM, ring);
	setitimer(ITIMER_VIRTUAL, &always, NULL);
	for (int i = 0; i < 5000; i++)
		getitimer(ITIMER_VIRTUAL, &left);
	CALL(setitimer(ITIMER_VIRTUAL, &never, NULL));
	signal(SIGVTALRM, SIG_DFL);
}

static void interval_timers(void)
{
	static const int kinds[] = { ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF }, signals[] = { SIGALRM, SIGVTALRM, SIGPROF };
	struct itimerval set = { { 0, 0 }, { 0, 3000 } }, old;
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	for (unsigned i = 0; i < 3; i++) {
		signal(signals[i], ring);
		rang = 0;
		TRY(setitimer, kinds[i], &set, NULL);
		while (!rang)
			;
		printf("rang %d\n", (int)rang);
		TRY(getitimer, kinds[i], &old);
		printf("%ld %ld\n", old.it_value.tv_sec + old.it_value.tv_usec, old.it_interval.tv_sec);
		set = (struct itimerval){ { 7, 0 }, { 1000, 0 } };
		TRY(setitimer, kinds[i], &set, &old);
		TRY(getitimer, kinds[i], &old);
		printf("%d %ld\n", old.it_value.tv_sec > 900, old.it_interval.tv_sec);
		set = (struct itimerval){ { 0, 0 }, { 0, 0 } };
		TRY(setitimer, kinds[i], &set, &old);
		TRY(getitimer, kinds[i], &old);
		printf("%ld %ld\n", old.it_value.tv_sec + old.it_value.tv_usec, old.it_interval.tv_sec);
		set = (struct itimerval){ { 0, 3000 }, { 0, 3000 } };
		TRY(setitimer, kinds[i], &set, NULL);
		for (int count = 0; count < 3; count++)
			for (rang = 0; !rang;)
				;
		set = (struct itimerval){ { 0, 0 }, { 0, 3000 } };
		TRY(setitimer, kinds[i], &(struct itimerval){ 0 }, BAD);
		TRY(setitimer, kinds[i], &(struct itimerval){ { 0, 1000000 }, { 0, 0 } }, NULL);
	}
	TRY(getitimer, 3, &old);
	TRY(setitimer, 3, &set, NULL);
	TRY(getitimer, 0, BAD);
	for (unsigned i = 0; i < 3; i++)
		signal(signals[i], SIG_DFL);
}

/* -- signals from files -- */

static void show_record(int line, int fd)
{
	struct signalfd_siginfo got[2];
	ssize_t size = read(fd, got, sizeof(got));

	if (size < 0) {
		printf("%d   read: %s\n", line, strerrorname_np(errno));
		return;
	}
	for (unsigned i = 0; i < size / sizeof(got[0]); i++)
		printf("%d   signal %d code %d pid %d uid %u status %d value %d pointer %llx\n", line, got[i].ssi_signo, got[i].ssi_code,
		       got[i].ssi_pid == (unsigned)getpid(), got[i].ssi_uid, got[i].ssi_status, got[i].ssi_int,
		       (unsigned long long)got[i].ssi_ptr);
}

#define RECORD(fd) show_record(__LINE__, fd)

static void signal_files(void)
{
	unsigned long mask = 1ul << (SIGUSR1 - 1) | 1ul << (SIGCHLD - 1) | 1ul << (SIGRTMIN - 1) | 1ul << (SIGUSR2 - 1);
	unsigned long all = ~0ul, some = 1ul << (SIGUSR2 - 1);
	struct epoll_event event = { .events = EPOLLIN };
	sigset_t set;
	char small[64];
	int fd, epoll;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1), sigaddset(&set, SIGCHLD), sigaddset(&set, SIGRTMIN), sigaddset(&set, SIGUSR2);
	sigprocmask(SIG_BLOCK, &set, NULL);
	TRY(signalfd4, -1, &mask, 4, 0);
	TRY(signalfd4, -1, BAD, 8, 0);
	TRY(signalfd4, -1, &mask, 8, 1);
	TRY(signalfd4, 99, &mask, 8, 0);
	TRY(signalfd4, 0, &mask, 8, 0);
	CALL(fd = syscall(SYS_signalfd4, -1, &all, 8, SFD_NONBLOCK | SFD_CLOEXEC));
	CALL(fcntl(fd, F_GETFD));
	CALL(fcntl(fd, F_GETFL) & O_NONBLOCK);
	CALL(close(fd));
	CALL(fd = syscall(SYS_signalfd, -1, &mask, 8));
	CALL(syscall(SYS_signalfd4, fd, &mask, 8, SFD_NONBLOCK) == fd);
	CALL(fcntl(fd, F_SETFL, O_NONBLOCK));
	CALL(epoll = epoll_create1(0));
	CALL(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
	READY(fd);
	RECORD(fd);
	CALL(read(fd, small, sizeof(small)));
	CALL(write(fd, small, sizeof(small)));
	CALL(epoll_wait(epoll, &event, 1, 0));
	CALL(kill(getpid(), SIGUSR1));
	CALL(epoll_wait(epoll, &event, 1, 0));
	READY(fd);
	CALL(read(fd, BAD, 128));
	CALL(kill(getpid(), SIGUSR1));
	CALL(kill(getpid(), SIGUSR1));
	CALL(sigqueue(getpid(), SIGRTMIN, (union sigval){ .sival_int = 7 }));
	CALL(raise(SIGUSR2));
	RECORD(fd);
	RECORD(fd);
	RECORD(fd);
	if (!fork())
		_exit(3);
	CALL(fcntl(fd, F_SETFL, 0));
	RECORD(fd);
	wait(NULL);
	CALL(kill(getpid(), SIGUSR1));
	CALL(syscall(SYS_signalfd4, fd, &some, 8, 0) == fd);
	READY(fd);
	CALL(kill(getpid(), SIGUSR2));
	READY(fd);
	RECORD(fd);
	CALL(close(fd));
	CALL(close(epoll));
	sigtimedwait(&set, NULL, &(struct timespec){ 0, 0 });
}

/* -- descriptors of processes -- */

static int clone_pidfd(unsigned long flags, int *pidfd, int status)
{
	struct clone_args args = { .flags = flags, .pidfd = (unsigned long)pidfd, .exit_signal = SIGCHLD };
	int pid = (int)syscall(SYS_clone3, &args, sizeof(args));

	if (!pid)
		_exit(status);
	return pid;
}

/* The directory that /proc has of a process is as good as a pidfd to send it a signal. */
static void try_directory(pid_t child)
{
	char name[64];
	siginfo_t info;
	int directory, file, place, thread;

	sprintf(name, "/proc/%d", child);
	directory = open(name, O_RDONLY | O_DIRECTORY);
	place = open(name, O_PATH);
	sprintf(name, "/proc/%d/task/%d", child, child);
	thread = open(name, O_RDONLY);
	file = open("/proc/self/status", O_RDONLY);
	TRY(pidfd_send_signal, directory, 0, NULL, 0);
	TRY(pidfd_send_signal, directory, 65, NULL, 0);
	TRY(pidfd_send_signal, place, 0, NULL, 0);
	TRY(pidfd_send_signal, thread, 0, NULL, 0);
	TRY(pidfd_send_signal, file, 0, NULL, 0);
	TRY(pidfd_getfd, directory, 0, 0);
	TRY(waitid, P_PIDFD, directory, &info, WEXITED, NULL);
	IN_CHILD {
		become(NOBODY);
		TRY(pidfd_send_signal, directory, 0, NULL, 0);
	}
	close(directory), close(place), close(thread), close(file);
	int end = fork();
	if (!end)
		pause();
	sprintf(name, "/proc/%d", end);
	directory = open(name, O_RDONLY);
	TRY(pidfd_send_signal, directory, SIGKILL, NULL, 0);
	CALL(waitid(P_PID, (id_t)end, &info, WEXITED | WNOWAIT));
	TRY(pidfd_send_signal, directory, 0, NULL, 0);
	CALL(waitpid(end, NULL, 0) == end);
	TRY(pidfd_send_signal, directory, 0, NULL, 0);
	close(directory);
}

static void processes(void)
{
	siginfo_t info = { 0 };
	int fd, other, pair[2], child, pidfd = -1;

	fflush(stdout);
	(void)!pipe(pair);
	child = fork();
	if (!child) {
		char byte;

		close(pair[1]);
		syscall(SYS_setresgid, 5, 5, 5);
		(void)!read(pair[0], &byte, 1);
		for (;;)
			pause();
	}
	TRY(pidfd_open, 0, 0);
	TRY(pidfd_open, -1, 0);
	TRY(pidfd_open, 1 << 30, 0);
	TRY(pidfd_open, child, 1);
	CALL(fd = syscall(SYS_pidfd_open, child, 0));
	CALL(fcntl(fd, F_GETFD));
	CALL(other = syscall(SYS_pidfd_open, child, O_NONBLOCK));
	CALL(fcntl(other, F_GETFL) & O_NONBLOCK);
	CALL(read(fd, &info, 8));
	READY(fd);
	TRY(waitid, P_PIDFD, other, &info, WEXITED, NULL);
	TRY(waitid, P_PIDFD, fd, &info, WEXITED | WNOHANG, NULL);
	TRY(waitid, P_PIDFD, 0, &info, WEXITED, NULL);
	TRY(waitid, P_PIDFD, -1, &info, WEXITED, NULL);
	TRY(waitid, P_PIDFD, 99, &info, WEXITED, NULL);
	TRY(pidfd_send_signal, fd, 0, NULL, 0);
	TRY(pidfd_send_signal, fd, 65, NULL, 0);
	TRY(pidfd_send_signal, fd, 0, NULL, 8);
	TRY(pidfd_send_signal, fd, 0, NULL, 3);
	TRY(pidfd_send_signal, 0, 0, NULL, 0);
	TRY(pidfd_send_signal, 99, 0, NULL, 0);
	TRY(pidfd_send_signal, fd, 0, BAD, 0);
	info.si_signo = 10, info.si_code = SI_QUEUE;
	TRY(pidfd_send_signal, fd, 12, &info, 0);
	info.si_code = SI_USER;
	TRY(pidfd_send_signal, fd, 10, &info, 0);
	TRY(pidfd_getfd, fd, 0, 1);
	TRY(pidfd_getfd, 0, 0, 0);
	TRY(pidfd_getfd, 99, 0, 0);
	TRY(pidfd_getfd, fd, 99, 0);
	int got = (int)syscall(SYS_pidfd_getfd, fd, pair[0], 0);
	CALL(got);
	CALL(fcntl(got, F_GETFD));
	CALL(write(pair[1], "x", 1));
	try_directory(child);
	IN_CHILD {
		become(NOBODY);
		TRY(pidfd_getfd, fd, 0, 0);
		TRY(pidfd_send_signal, fd, 0, NULL, 0);
	}
	TRY(pidfd_send_signal, fd, SIGKILL, NULL, 0);
	struct pollfd watched = { fd, POLLIN, 0 };
	CALL(poll(&watched, 1, -1));
	TRY(pidfd_send_signal, fd, 0, NULL, 0);
	TRY(waitid, P_PIDFD, fd, &info, WEXITED | WNOWAIT, NULL);
	printf("%d %d %d\n", info.si_pid == child, info.si_code, info.si_status);
	TRY(waitid, P_PIDFD, fd, &info, WEXITED, NULL);
	TRY(waitid, P_PIDFD, fd, &info, WEXITED, NULL);
	TRY(pidfd_send_signal, fd, 0, NULL, 0);
	TRY(pidfd_getfd, fd, 0, 0);
	TRY(pidfd_open, child, 0);
	close(fd), close(other), close(got), close(pair[0]), close(pair[1]);
	child = clone_pidfd(CLONE_PIDFD, &pidfd, 9);
	printf("%d %d\n", child > 0, pidfd);
	CALL(fcntl(pidfd, F_GETFD));
	CALL(waitid(P_PIDFD, pidfd, &info, WEXITED));
	printf("%d %d %d\n", info.si_pid == child, info.si_code, info.si_status);
	close(pidfd);
	CALL(clone_pidfd(CLONE_PIDFD, BAD, 0));
	CALL(waitpid(-1, NULL, 0));
	TRY(clone, CLONE_PIDFD | CLONE_PARENT_SETTID | SIGCHLD, NULL, &pidfd, NULL, NULL);
	TRY(clone, CLONE_PIDFD | CLONE_DETACHED | SIGCHLD, NULL, &pidfd, NULL, NULL);
}

/* The group of the first process, which is number 1 on the Sentry, and no other one. */
static void group_of_pidfd(void)
{
	enum { TO_GROUP = 4 };
	const struct timespec none = { 0, 0 };
	int fd, told[2], ready[2];
	siginfo_t info = { 0 };
	sigset_t set;
	char byte;

	sigemptyset(&set);
	sigaddset(&set, SIGURG);
	sigprocmask(SIG_BLOCK, &set, NULL);
	(void)!pipe(told);
	(void)!pipe(ready);
	fflush(stdout);
	if (!fork()) {
		setpgid(0, 0);
		(void)!write(ready[1], "", 1);
		(void)!read(told[0], &byte, 1);
		CALL(sigtimedwait(&set, &info, &none));
		_exit(0);
	}
	(void)!read(ready[0], &byte, 1);
	fd = (int)syscall(SYS_pidfd_open, getpid(), 0);
	TRY(pidfd_send_signal, fd, SIGURG, NULL, TO_GROUP); /* it leads none */
	info.si_signo = SIGURG;
	TRY(pidfd_send_signal, fd, SIGURG, &info, TO_GROUP);
	close(fd);
	fd = (int)syscall(SYS_pidfd_open, getppid(), 0);
	TRY(pidfd_send_signal, fd, 65, NULL, TO_GROUP);
	TRY(pidfd_send_signal, fd, SIGURG, NULL, TO_GROUP);
	CALL(sigtimedwait(&set, &info, &none));
	printf("%d %d\n", info.si_code, info.si_pid == getpid());
	fflush(stdout);
	(void)!write(told[1], "", 1);
	wait(NULL);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
	close(fd), close(told[0]), close(told[1]), close(ready[0]), close(ready[1]);
}

/* -- parents -- */

static void subreaper(void)
{
	int value = 7, status, pair[2];

	TRY(prctl, PR_GET_CHILD_SUBREAPER, &value);
	printf("%d\n", value);
	TRY(prctl, PR_GET_CHILD_SUBREAPER, BAD);
	TRY(prctl, PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
	TRY(prctl, PR_GET_CHILD_SUBREAPER, &value);
	printf("%d\n", value);
	(void)!pipe(pair);
	fflush(stdout);
	if (!fork()) {
		TRY(prctl, PR_GET_CHILD_SUBREAPER, &value);
		printf("%d\n", value);
		fflush(stdout);
		if (!fork()) {
			char byte;

			close(pair[1]);
			(void)!read(pair[0], &byte, 1); /* until its parent has ended */
			_exit(5);
		}
		_exit(4);
	}
	CALL(wait(&status) > 0);
	printf("%x\n", status);
	close(pair[1]);
	CALL(wait(&status) > 0);
	printf("%x\n", status);
	close(pair[0]);
	TRY(prctl, PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0);
}

static void death_signal(void)
{
	int value = 7, status, pair[2];
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	TRY(prctl, PR_SET_PDEATHSIG, 65);
	TRY(prctl, PR_SET_PDEATHSIG, -1);
	TRY(prctl, PR_SET_PDEATHSIG, SIGUSR1);
	TRY(prctl, PR_GET_PDEATHSIG, BAD);
	TRY(prctl, PR_GET_PDEATHSIG, &value);
	printf("%d\n", value);
	prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
	(void)!pipe(pair);
	fflush(stdout);
	if (!fork()) {
		TRY(prctl, PR_GET_PDEATHSIG, &value); /* not inherited */
		printf("%d\n", value);
		fflush(stdout);
		sigprocmask(SIG_BLOCK, &set, NULL);
		if (!fork()) {
			int parent = getppid();
			siginfo_t info;

			prctl(PR_SET_PDEATHSIG, SIGUSR1);
			(void)!write(pair[1], "", 1);
			CALL(sigwaitinfo(&set, &info));
			printf("%d %d\n", info.si_code, info.si_pid == parent);
			fflush(stdout);
			_exit(0);
		}
		char byte;
		(void)!read(pair[0], &byte, 1);
		_exit(0);
	}
	while (wait(&status) > 0)
		;
	prctl(PR_SET_PDEATHSIG, 0);
	prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0);
}

static void options(void)
{
	char name[17] = "";
	unsigned long slack;
	int value = 3;

	TRY(prctl, PR_SET_NAME, "a name that is too long");
	TRY(prctl, PR_GET_NAME, name);
	puts(name);
	TRY(prctl, PR_SET_NAME, BAD);
	TRY(prctl, PR_GET_NAME, BAD);
	CALL(slack = prctl(PR_GET_TIMERSLACK));
	TRY(prctl, PR_SET_TIMERSLACK, 1234);
	TRY(prctl, PR_GET_TIMERSLACK);
	IN_CHILD {
		TRY(prctl, PR_SET_TIMERSLACK, 5);
		TRY(prctl, PR_SET_TIMERSLACK, 0);
		TRY(prctl, PR_GET_TIMERSLACK);
	}
	TRY(prctl, PR_SET_TIMERSLACK, 0);
	CALL(slack == (unsigned long)prctl(PR_GET_TIMERSLACK));
	TRY(prctl, PR_SET_DUMPABLE, 2);
	TRY(prctl, PR_SET_DUMPABLE, 0);
	TRY(prctl, PR_GET_DUMPABLE);
	IN_CHILD {
		TRY(prctl, PR_GET_DUMPABLE);
	}
	TRY(prctl, PR_SET_DUMPABLE, 1);
	TRY(prctl, PR_GET_DUMPABLE);
	TRY(prctl, PR_GET_TIMING);
	TRY(prctl, PR_SET_TIMING, 0);
	TRY(prctl, PR_SET_TIMING, 1);
	TRY(prctl, PR_GET_TSC, &value);
	printf("%d\n", value);
	TRY(prctl, PR_GET_TSC, BAD);
	TRY(prctl, PR_SET_TSC, 9);
	TRY(prctl, PR_SET_TSC, 1);
	TRY(prctl, PR_GET_SECCOMP);
	TRY(prctl, PR_TASK_PERF_EVENTS_DISABLE);
	TRY(prctl, PR_TASK_PERF_EVENTS_ENABLE);
	TRY(prctl, PR_MCE_KILL_GET, 0, 0, 0, 0);
	TRY(prctl, PR_MCE_KILL_GET, 1, 0, 0, 0);
	TRY(prctl, PR_MCE_KILL, 0, 1, 0, 0);
	TRY(prctl, PR_MCE_KILL, 0, 0, 0, 0);
	TRY(prctl, PR_MCE_KILL, 7, 0, 0, 0);
	TRY(prctl, PR_SET_THP_DISABLE, 1, 0, 0, 1);
	TRY(prctl, PR_GET_THP_DISABLE, 0, 0, 0, 1);
	TRY(prctl, PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0);
	TRY(prctl, PR_SET_NO_NEW_PRIVS, 1, 1, 0, 0);
	TRY(prctl, PR_GET_NO_NEW_PRIVS, 1, 0, 0, 0);
	TRY(prctl, PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0);
	TRY(prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	TRY(prctl, PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0);
	static const int none[] = { 0, 5, 6, 9, 10, 11, 12, 17, 18, 19, 20, 43, 44, 45, 46, 54, 77777 };
	for (unsigned i = 0; i < sizeof(none) / sizeof(none[0]); i++)
		TRY(prctl, none[i], 0, 0, 0, 0);
}

int main(int argc, char **argv)
{
	int status = 0;

	if (enter_folder(argc, argv))
		return 1;
	setpgid(0, 0); /* natively a group of its own */
	fflush(stdout);
	if (!fork()) { /* so that there is a parent */
		clocks();
		timer_errors();
		timer_signals();
		interval_timers();
		among_calls();
		without_pause();
		signal_files();
		processes();
		group_of_pidfd();
		subreaper();
		death_signal();
		options();
		fflush(stdout);
		_exit(42);
	}
	wait(&status);
	return WEXITSTATUS(status);
}
