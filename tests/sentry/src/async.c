// SPDX-License-Identifier: Apache-2.0
/* Signals for files that become ready (O_ASYNC), and who gets them. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "report.h"

static const struct timespec none;
static char text[100];

/* Which of the blocked signals is pending, and what comes with it. */
static void take(const char *what)
{
	siginfo_t info;
	sigset_t all;
	int signal;

	sigfillset(&all);
	sigdelset(&all, SIGCHLD);
	signal = sigtimedwait(&all, &info, &none);
	if (signal < 0)
		printf("    %s: %s\n", what, strerrorname_np(errno));
	else
		printf("    %s: signal %d code %x band %lx descriptor %d\n", what, signal, info.si_code,
		       info.si_code == SI_KERNEL ? 0 : info.si_band, info.si_code == SI_KERNEL ? 0 : info.si_fd);
	while (sigtimedwait(&all, &info, &none) > 0)
		;
}

static void start(int fd, int signal)
{
	int on = 1;

	CALL(fcntl(fd, F_SETOWN, getpid()) == 0);
	TRY(fcntl, fd, F_SETSIG, signal);
	TRY(ioctl, fd, FIOASYNC, &on);
	printf("    flags %x\n", fcntl(fd, F_GETFL) & O_ASYNC);
}

static void try_pipe(int signal)
{
	int fds[2], off = 0;

	CALL(pipe(fds));
	start(fds[0], signal);
	take("nothing");
	CALL(write(fds[1], "x", 1));
	take("written");
	CALL(write(fds[1], "x", 1));
	take("written again");
	CALL(read(fds[0], text, 1));
	take("read");
	TRY(fcntl, fds[0], F_SETFL, 0);
	CALL(write(fds[1], "x", 1));
	take("off");
	TRY(fcntl, fds[0], F_SETFL, O_ASYNC | O_NONBLOCK);
	TRY(ioctl, fds[0], FIOASYNC, &off);
	TRY(ioctl, fds[0], FIOASYNC, &off);
	TRY(ioctl, fds[0], FIOASYNC, BAD);
	CALL(fcntl(fds[0], F_GETFL) & (O_ASYNC | O_NONBLOCK));
	TRY(fcntl, fds[0], F_SETFL, O_ASYNC);
	TRY(fcntl, fds[0], F_SETOWN, 0);
	CALL(write(fds[1], "x", 1));
	take("without an owner");
	CALL(fcntl(fds[0], F_SETOWN, getpid()) == 0);
	close(fds[1]);
	take("closed");
	close(fds[0]);
}

static void try_sockets(int type, int signal)
{
	int fds[2];

	CALL(socketpair(AF_UNIX, type, 0, fds));
	start(fds[0], signal);
	take("nothing");
	CALL(write(fds[1], "x", 1));
	take("written");
	CALL(read(fds[0], text, 10));
	if (type == SOCK_STREAM && !signal) {
		close(fds[1]);
		take("closed");
	}
	close(fds[0]), close(fds[1]);
	take("end");
}

static void try_inet(int signal)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
	socklen_t size = sizeof(address);
	int listener = TRY(socket, AF_INET, SOCK_STREAM, 0), client = TRY(socket, AF_INET, SOCK_STREAM, 0), server;

	CALL(bind(listener, (void *)&address, size));
	CALL(listen(listener, 5));
	CALL(getsockname(listener, (void *)&address, &size));
	start(listener, signal);
	CALL(connect(client, (void *)&address, size));
	take("connected");
	server = TRY(accept, listener, NULL, NULL);
	start(server, signal);
	CALL(write(client, "x", 1));
	take("written");
	CALL(read(server, text, 10));
	close(client);
	take("closed");
	close(server), close(listener);
}

static void try_others(void)
{
	int on = 1, file = open("file", O_RDWR | O_CREAT, 0600), watches = inotify_init();

	TRY(ioctl, file, FIOASYNC, &on);
	TRY(fcntl, file, F_SETFL, O_ASYNC);
	CALL(fcntl(file, F_GETFL) & O_ASYNC);
	CALL(inotify_add_watch(watches, ".", IN_CREATE));
	start(watches, 0);
	CALL(mkdir("folder", 0700));
	take("a folder");
	close(file), close(watches);
}

static void show_owner(int fd)
{
	struct f_owner_ex owner = { -1, -1 };

	TRY(fcntl, fd, F_GETOWN_EX, &owner);
	printf("    type %d own %d\n", owner.type, owner.pid == getpid());
}

static void try_owners(void)
{
	struct f_owner_ex owner = { F_OWNER_TID, getpid() }, wrong = { 3, 0 }, nobody = { F_OWNER_PID, 0x3ffffff };
	int fds[2], pid = 0, self = getpid();

	CALL(socketpair(AF_UNIX, SOCK_STREAM, 0, fds));
	TRY(fcntl, fds[0], F_GETOWN);
	show_owner(fds[0]);
	TRY(fcntl, fds[0], F_SETOWN, 0x3ffffff);
	TRY(fcntl, fds[0], F_SETOWN, -0x3ffffff);
	TRY(fcntl, fds[0], F_SETOWN, INT_MIN);
	TRY(fcntl, fds[0], F_SETOWN_EX, &wrong);
	TRY(fcntl, fds[0], F_SETOWN_EX, &nobody);
	TRY(fcntl, fds[0], F_SETOWN_EX, BAD);
	TRY(fcntl, fds[0], F_GETOWN_EX, BAD);
	TRY(fcntl, fds[0], F_SETOWN_EX, &owner);
	show_owner(fds[0]);
	TRY(fcntl, fds[0], F_SETFL, O_ASYNC);
	CALL(write(fds[1], "x", 1));
	take("to a thread");
	setpgid(0, 0);
	TRY(ioctl, fds[0], SIOCGPGRP, &pid);
	CALL(pid == self);
	self = -self;
	TRY(ioctl, fds[0], FIOSETOWN, &self);
	show_owner(fds[0]);
	TRY(ioctl, fds[0], FIOGETOWN, &pid);
	CALL(pid == self);
	TRY(ioctl, fds[0], SIOCSPGRP, BAD);
	TRY(ioctl, fds[0], SIOCGPGRP, BAD);
	CALL(write(fds[1], "x", 1));
	take("to a group");
}

/* Who decides about the owner must have the right to send it a signal. */
static void try_rights(void)
{
	int fds[2], parent = getpid();

	CALL(socketpair(AF_UNIX, SOCK_STREAM, 0, fds));
	IN_CHILD {
		become(NOBODY);
		CALL(fcntl(fds[0], F_SETOWN, parent) == 0);
		TRY(fcntl, fds[0], F_SETFL, O_ASYNC);
	}
	CALL(write(fds[1], "x", 1));
	take("not from nobody");
	CALL(fcntl(fds[0], F_SETOWN, parent) == 0);
	CALL(write(fds[1], "x", 1));
	take("from the superuser");
}

int main(int argc, char **argv)
{
	sigset_t all;

	if (enter_folder(argc, argv))
		return 1;
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, NULL);
	for (int signal = 0; signal <= SIGRTMIN; signal += SIGRTMIN) {
		try_pipe(signal);
		try_sockets(SOCK_STREAM, signal);
		try_sockets(SOCK_DGRAM, signal);
		try_inet(signal);
	}
	try_others();
	try_owners();
	if (!getuid())
		try_rights();
	fflush(stdout);
	return 42;
}
