// SPDX-License-Identifier: Apache-2.0
/* What a container shares with others: IPC objects, and unix sockets whose peers have numbers. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <mqueue.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/msg.h>
#include <sys/ptrace.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum { KEY = 4711, SIZE = 16 << 20 };

static struct sockaddr_un address = { .sun_family = AF_UNIX, .sun_path = "\0spaces" };
static const socklen_t address_size = offsetof(struct sockaddr_un, sun_path) + 7;

/* Objects of each kind: make them, or look for them. */
static int objects(int flags)
{
	int shm = shmget(KEY, SIZE, flags | 0600), sem = semget(KEY, 1, flags | 0600), msg = msgget(KEY, flags | 0600);
	mqd_t mq = mq_open("/spaces", O_RDWR | (flags & IPC_CREAT ? O_CREAT : 0), 0600, NULL);
	int *memory = shm < 0 ? NULL : shmat(shm, NULL, 0);

	if (memory && flags & IPC_CREAT) {
		memset(memory, 1, SIZE);
		*memory = 42;
	}
	printf("%d %d %d %d\n", memory ? *memory : -1, sem >= 0, msg >= 0, mq >= 0);
	return 0;
}

/* The credentials of whoever connects, as the socket has them and as a message brings them. */
static int serve(void)
{
	struct msghdr header = { .msg_iov = &(struct iovec){ (char[1]){ 0 }, 1 }, .msg_iovlen = 1 };
	char control[CMSG_SPACE(sizeof(struct ucred))];
	int one = 1, listener = socket(AF_UNIX, SOCK_STREAM, 0), s;
	struct ucred peer;
	socklen_t size = sizeof(peer);

	header.msg_control = control;
	header.msg_controllen = sizeof(control);
	if (bind(listener, (void *)&address, address_size) || listen(listener, 1))
		return 1;
	puts("up");
	fflush(stdout);
	s = accept(listener, NULL, NULL);
	if (setsockopt(s, SOL_SOCKET, SO_PASSCRED, &one, sizeof(one)) || write(s, "x", 1) != 1 || recvmsg(s, &header, 0) != 1 ||
	    getsockopt(s, SOL_SOCKET, SO_PEERCRED, &peer, &size))
		return 2;
	printf("%d %d\n", peer.pid, ((struct ucred *)CMSG_DATA(CMSG_FIRSTHDR(&header)))->pid);
	return 0;
}

static int use(void)
{
	int s = socket(AF_UNIX, SOCK_STREAM, 0);
	char byte;

	if (connect(s, (void *)&address, address_size) || read(s, &byte, 1) != 1 || write(s, &byte, 1) != 1)
		return 1;
	return read(s, &byte, 1); /* until the other end has looked */
}

/* Attach to process 1, which has no handler of SIGSTOP. */
static int trace(void)
{
	int status = 0;

	if (ptrace(PTRACE_ATTACH, 1, 0, 0) || waitpid(1, &status, 0) != 1)
		return 1;
	printf("stopped %d\n", WIFSTOPPED(status) ? WSTOPSIG(status) : 0);
	return (int)ptrace(PTRACE_DETACH, 1, 0, 0);
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";

	if (!strcmp(what, "make"))
		return objects(IPC_CREAT);
	if (!strcmp(what, "look"))
		return objects(0);
	if (!strcmp(what, "trace"))
		return trace();
	return !strcmp(what, "serve") ? serve() : use();
}
