// SPDX-License-Identifier: Apache-2.0
/* Makes each call that can wait, until a signal interrupts it: with a handler that restarts calls, and without. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <mqueue.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>

#include "report.h"

enum { AFTER_US = 10000, LONG = 1000 };

static char buffer[65536];
static struct iovec vector = { buffer, 1 };
static struct msghdr header = { NULL, 0, &vector, 1, NULL, 0, 0 };
static struct mmsghdr headers = { { NULL, 0, &vector, 1, NULL, 0, 0 }, 0 };
static const struct timespec second = { LONG, 0 };
static struct timespec rest;
static struct timeval seconds;
static int empty_pipe[2], full_pipe[2], pair[2], datagrams[2], full_datagrams[2];
static int locked, listener, full_listener, client, event, epoll;
static int messages, semaphores, queue, full_queue;
static struct sockaddr_un full_name = { AF_UNIX, "full-listener" };
static unsigned word;
static unsigned long none, other_signal = 1ul << (SIGUSR2 - 1);
static struct sembuf down = { 0, -1, 0 };
static struct flock lock = { F_WRLCK, SEEK_SET, 0, 0, 0 };
static struct { long type; char text[8]; } message = { 1, "text" };
static volatile int handled;
static pid_t holder;

static void handle(int signal)
{
	(void)signal;
	handled++;
}

static void arm(int restart)
{
	const struct itimerval timer = { { 0, 0 }, { 0, AFTER_US } };
	struct sigaction action = { .sa_handler = handle, .sa_flags = restart ? SA_RESTART : 0 };

	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &timer, NULL);
}

#define WAIT(name, ...) (arm(0), TRY(name, ##__VA_ARGS__))

static void fill(int fd)
{
	fcntl(fd, F_SETFL, O_NONBLOCK);
	while (write(fd, buffer, 4096) > 0)
		;
	fcntl(fd, F_SETFL, 0);
}

static int listen_at(struct sockaddr_un *name, int backlog)
{
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	bind(fd, (struct sockaddr *)name, sizeof(*name));
	listen(fd, backlog);
	return fd;
}

static void open_all(void)
{
	struct sockaddr_un name = { AF_UNIX, "listener" };
	struct mq_attr small = { .mq_maxmsg = 1, .mq_msgsize = 8 };
	int ready[2];

	pipe(empty_pipe);
	pipe(full_pipe);
	fill(full_pipe[1]);
	socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
	socketpair(AF_UNIX, SOCK_DGRAM, 0, datagrams);
	socketpair(AF_UNIX, SOCK_STREAM, 0, full_datagrams);
	fill(full_datagrams[0]);
	listener = listen_at(&name, 5);
	full_listener = listen_at(&full_name, 0);
	client = socket(AF_UNIX, SOCK_STREAM, 0);
	connect(socket(AF_UNIX, SOCK_STREAM, 0), (struct sockaddr *)&full_name, sizeof(full_name));
	event = eventfd(0, 0);
	epoll = epoll_create1(0);
	messages = msgget(IPC_PRIVATE, 0600);
	semaphores = semget(IPC_PRIVATE, 1, 0600);
	queue = mq_open("/interrupted", O_RDWR | O_CREAT, 0600, &small);
	full_queue = mq_open("/interrupted-full", O_RDWR | O_CREAT, 0600, &small);
	mq_send(full_queue, "x", 1, 0);
	mkfifo("fifo", 0600);
	locked = open("locked", O_RDWR | O_CREAT, 0600);
	pwrite(locked, "text", 4, 0);
	pipe(ready);
	fflush(stdout);
	holder = fork();
	if (!holder) { /* holds the locks */
		int again = open("locked", O_RDWR);

		fcntl(again, F_SETLK, &lock);
		flock(again, LOCK_EX);
		write(ready[1], "x", 1);
		pause();
	}
	read(ready[0], buffer, 1);
}

static void try_files(void)
{
	WAIT(read, empty_pipe[0], buffer, 1);
	WAIT(readv, empty_pipe[0], &vector, 1);
	WAIT(preadv2, empty_pipe[0], &vector, 1, -1l, -1l, 0);
	WAIT(write, full_pipe[1], buffer, 1);
	WAIT(writev, full_pipe[1], &vector, 1);
	WAIT(pwritev2, full_pipe[1], &vector, 1, -1l, -1l, 0);
	WAIT(read, event, buffer, 8);
	WAIT(open, "fifo", O_RDONLY);
	WAIT(openat, AT_FDCWD, "fifo", O_WRONLY);
	WAIT(openat2, AT_FDCWD, "fifo", ((unsigned long[]){ O_RDONLY, 0, 0 }), 24);
	WAIT(creat, "fifo", 0600);
	WAIT(fcntl, locked, F_SETLKW, &lock);
	WAIT(flock, locked, LOCK_EX);
	WAIT(splice, empty_pipe[0], NULL, full_pipe[1], NULL, 1, 0);
	WAIT(splice, full_pipe[0], NULL, full_pipe[1], NULL, 1, 0);
	WAIT(tee, empty_pipe[0], full_pipe[1], 1, 0);
	WAIT(vmsplice, full_pipe[1], &vector, 1, 0);
	WAIT(vmsplice, empty_pipe[0], &vector, 1, 0);
	WAIT(sendfile, full_pipe[1], locked, NULL, 1);
	WAIT(poll, &(struct pollfd){ empty_pipe[0], POLLIN, 0 }, 1, -1);
	WAIT(ppoll, &(struct pollfd){ empty_pipe[0], POLLIN, 0 }, 1, NULL, NULL, 8);
	WAIT(ppoll, NULL, 0, &(struct timespec){ LONG, 0 }, &none, 8);
	WAIT(select, 0, NULL, NULL, NULL, &(struct timeval){ LONG, 0 });
	WAIT(pselect6, 0, NULL, NULL, NULL, &(struct timespec){ LONG, 0 }, NULL);
	WAIT(epoll_wait, epoll, buffer, 1, -1);
	WAIT(epoll_pwait, epoll, buffer, 1, LONG * 1000, &none, 8);
	WAIT(epoll_pwait2, epoll, buffer, 1, &second, &none, 8);
}

static void try_sockets(void)
{
	WAIT(recvfrom, pair[0], buffer, 1, 0, NULL, NULL);
	WAIT(recvmsg, pair[0], &header, 0);
	WAIT(recvmmsg, pair[0], &headers, 1, 0, NULL);
	WAIT(recvfrom, datagrams[0], buffer, 1, 0, NULL, NULL);
	WAIT(sendto, full_datagrams[0], buffer, 1, 0, NULL, 0);
	WAIT(sendmsg, full_datagrams[0], &header, 0);
	WAIT(sendmmsg, full_datagrams[0], &headers, 1, 0);
	WAIT(accept, listener, NULL, NULL);
	WAIT(accept4, listener, NULL, NULL, 0);
	WAIT(connect, client, &full_name, sizeof(full_name));
	seconds.tv_sec = LONG;
	setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &seconds, sizeof(seconds));
	WAIT(recvfrom, pair[0], buffer, 1, 0, NULL, NULL);
}

static void try_others(void)
{
	WAIT(pause);
	WAIT(rt_sigsuspend, &none, 8);
	WAIT(rt_sigtimedwait, &other_signal, NULL, NULL, 8);
	WAIT(rt_sigtimedwait, &other_signal, NULL, &second, 8);
	WAIT(nanosleep, &second, &rest);
	printf("    some time is left: %d\n", rest.tv_sec == LONG - 1);
	WAIT(nanosleep, &second, BAD);
	WAIT(clock_nanosleep, CLOCK_MONOTONIC, 0, &second, &rest);
	WAIT(clock_nanosleep, CLOCK_REALTIME, 1, &(struct timespec){ 1l << 40, 0 }, NULL);
	WAIT(wait4, -1, NULL, 0, NULL);
	WAIT(waitid, P_ALL, 0, NULL, WEXITED, NULL);
	WAIT(futex, &word, 0, 0, NULL);
	WAIT(futex, &word, 0, 0, &second);
	WAIT(futex, &word, 9, 0, NULL, NULL, -1);
	WAIT(msgrcv, messages, &message, 8, 0, 0);
	msgsnd(messages, &message, 8, 0);
	CALL(msgctl(messages, IPC_SET, &(struct msqid_ds){ .msg_qbytes = 8, .msg_perm.mode = 0600 }));
	WAIT(msgsnd, messages, &message, 8, 0);
	WAIT(semop, semaphores, &down, 1);
	WAIT(semtimedop, semaphores, &down, 1, NULL);
	WAIT(semtimedop, semaphores, &down, 1, &second);
	WAIT(mq_timedreceive, queue, buffer, 8, NULL, NULL);
	WAIT(mq_timedsend, full_queue, buffer, 1, 0, NULL);
}

/* What a handler with SA_RESTART does not restart. */
#define RESTART(name, ...) (arm(1), TRY(name, ##__VA_ARGS__))

static void try_restarts(void)
{
	RESTART(poll, NULL, 0, LONG * 1000);
	RESTART(ppoll, NULL, 0, NULL, NULL, 8);
	RESTART(select, 0, NULL, NULL, NULL, NULL);
	RESTART(pselect6, 0, NULL, NULL, NULL, NULL, NULL);
	RESTART(epoll_wait, epoll, buffer, 1, -1);
	RESTART(pause);
	RESTART(rt_sigsuspend, &none, 8);
	RESTART(rt_sigtimedwait, &other_signal, NULL, NULL, 8);
	RESTART(nanosleep, &second, NULL);
	RESTART(clock_nanosleep, CLOCK_MONOTONIC, 0, &second, NULL);
	RESTART(msgrcv, messages, &message, 8, 77, 0);
	RESTART(semop, semaphores, &down, 1);
	RESTART(futex, &word, 0, 0, &second);
	RESTART(recvfrom, pair[0], buffer, 1, 0, NULL, NULL); /* it has a timeout */
}

int main(int argc, char **argv)
{
	if (enter_folder(argc, argv))
		return 1;
	close_range(3, ~0u, 0);
	open_all();
	try_files();
	try_sockets();
	try_others();
	try_restarts();
	printf("%d signals\n", handled);
	fflush(stdout);
	mq_unlink("/interrupted");
	mq_unlink("/interrupted-full");
	kill(holder, SIGKILL);
	return 42;
}
