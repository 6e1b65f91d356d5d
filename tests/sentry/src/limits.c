// SPDX-License-Identifier: Apache-2.0
/* Makes calls that need more than they may have: descriptors, sizes of files, room, processes, memory. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/sched.h>
#include <mqueue.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>

#include "report.h"

static char buffer[8192];
static struct iovec vector = { buffer, sizeof(buffer) };
static unsigned long set = 1 << 9;

static void limit(int which, unsigned long value)
{
	setrlimit(which, &(struct rlimit){ value, value });
}

/* -- descriptors -- */

static int connected_listener(void)
{
	struct sockaddr_un name = { AF_UNIX, "listener" };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	bind(fd, (struct sockaddr *)&name, sizeof(name));
	listen(fd, 5);
	for (int i = 0; i < 3; i++)
		connect(socket(AF_UNIX, SOCK_STREAM, 0), (struct sockaddr *)&name, sizeof(name));
	return fd;
}

static void try_descriptors(void)
{
	int listener = connected_listener(), fds[2], self = (int)syscall(SYS_pidfd_open, getpid(), 0), receives[2], queue;
	unsigned long how[3] = { O_RDONLY, 0, 0 };
	char control[CMSG_SPACE(sizeof(int))];
	struct msghdr header = { NULL, 0, &vector, 1, control, sizeof(control), 0 };

	socketpair(AF_UNIX, SOCK_STREAM, 0, receives);
	header.msg_control = control;
	*CMSG_FIRSTHDR(&header) = (struct cmsghdr){ CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS };
	memcpy(CMSG_DATA(CMSG_FIRSTHDR(&header)), &self, sizeof(int));
	vector.iov_len = 1;
	sendmsg(receives[0], &header, 0);
	queue = mq_open("/limits", O_CREAT | O_RDWR, 0600, NULL);
	printf("queue %d\n", queue > 0);
	limit(RLIMIT_NOFILE, (unsigned long)queue + 1);
	TRY(open, "/", O_RDONLY);
	TRY(openat, AT_FDCWD, "/", O_RDONLY);
	TRY(openat2, AT_FDCWD, "/", how, sizeof(how));
	TRY(creat, "new", 0600);
	TRY(access, "new", F_OK);
	TRY(dup, 1);
	TRY(dup2, 1, 500);
	TRY(dup3, 1, 500, 0);
	TRY(dup3, 1, 500, O_CLOEXEC);
	TRY(fcntl, 1, F_DUPFD, 3);
	TRY(fcntl, 1, F_DUPFD_CLOEXEC, 3);
	TRY(fcntl, 1, F_DUPFD, 500);
	TRY(pipe, fds);
	TRY(pipe, BAD);
	TRY(pipe2, fds, 0);
	TRY(socket, AF_UNIX, SOCK_STREAM, 0);
	TRY(socket, AF_INET, SOCK_STREAM, 0);
	TRY(socketpair, AF_UNIX, SOCK_STREAM, 0, fds);
	TRY(accept, listener, NULL, NULL);
	TRY(accept4, listener, NULL, NULL, 0);
	TRY(epoll_create, 1);
	TRY(epoll_create1, 0);
	TRY(eventfd, 0);
	TRY(eventfd2, 0, 0);
	TRY(signalfd, -1, &set, 8);
	TRY(signalfd4, -1, &set, 8, 0);
	TRY(timerfd_create, CLOCK_MONOTONIC, 0);
	TRY(inotify_init);
	TRY(inotify_init1, 0);
	TRY(memfd_create, "name", 0);
	TRY(pidfd_open, getpid(), 0);
	TRY(pidfd_getfd, self, 0, 0);
	TRY(mq_open, "limits", O_RDWR, 0600, NULL);
	TRY(clone, 0x1000 /* CLONE_PIDFD */ | SIGCHLD, NULL, fds, NULL, 0);
	TRY(recvmsg, receives[1], &header, 0);
	printf("    flags %x, control %zu\n", header.msg_flags, header.msg_controllen);
	TRY(close_range, 5, 4, 0);
	TRY(close_range, 0, 100, 8);
	mq_unlink("/limits");
}

/* -- sizes -- */

static void try_sizes(void)
{
	int file = open("file", O_CREAT | O_RDWR, 0644), other = open("other", O_CREAT | O_RDWR, 0644), fds[2];
	long at = 4096, far = 1l << 62;

	signal(SIGXFSZ, SIG_IGN);
	pwrite(other, buffer, 6000, 0);
	pipe(fds);
	write(fds[1], buffer, 100);
	limit(RLIMIT_FSIZE, 4096);
	vector.iov_len = sizeof(buffer);
	TRY(write, file, buffer, 5000);
	TRY(write, file, buffer, 1);
	TRY(write, file, buffer, 0);
	TRY(writev, file, &vector, 1);
	TRY(pwrite64, file, buffer, 1, 4096);
	TRY(pwrite64, file, buffer, 10, 4090);
	TRY(pwritev, file, &vector, 1, 5000, 0);
	TRY(pwritev2, file, &vector, 1, 5000, 0, 0);
	TRY(pwritev2, file, &vector, 1, -1l, -1l, 0);
	TRY(truncate, "file", 4097);
	TRY(truncate, "file", 4096);
	TRY(ftruncate, file, 5000);
	TRY(fallocate, file, 0, 0, 5000);
	TRY(fallocate, file, 1, 4000, 5000);
	TRY(copy_file_range, other, NULL, file, &at, 10, 0);
	TRY(copy_file_range, other, NULL, file, &far, 10, 0);
	TRY(sendfile, file, other, NULL, 10);
	TRY(splice, fds[0], NULL, file, &at, 10, 0);
	TRY(lseek, file, far, SEEK_SET);
	TRY(write, file, buffer, 1);
	TRY(lseek, file, 0x7fffffffffffffff, SEEK_SET);
	TRY(write, file, buffer, 10);
	TRY(read, file, buffer, 10);
	TRY(lseek, file, 10, SEEK_CUR);
	signal(SIGXFSZ, SIG_DFL);
	IN_CHILD {
		TRY(pwrite64, file, buffer, 1, 5000);
	}
}

/* -- room -- */

static void try_room(void)
{
	long at = 1 << 20;
	int file, pipes[2], other = open("other", O_RDWR);

	mkdir("room", 0755);
	if (CALL(mount("none", "room", "tmpfs", 0, "size=8k")))
		return;
	file = open("room/file", O_CREAT | O_RDWR, 0644);
	pipe(pipes);
	write(pipes[1], buffer, 100);
	TRY(write, file, buffer, 8192);
	TRY(write, file, buffer, 1);
	TRY(writev, file, &vector, 1);
	TRY(pwrite64, file, buffer, 1, 8192);
	TRY(pwritev, file, &vector, 1, 8192, 0);
	TRY(pwritev2, file, &vector, 1, 8192, 0, 0);
	TRY(pwritev2, file, &vector, 1, -1l, -1l, 0);
	TRY(fallocate, file, 0, 0, 20000);
	TRY(sendfile, file, other, NULL, 10);
	TRY(splice, pipes[0], NULL, file, &at, 10, 0);
	TRY(ftruncate, file, 1 << 20);
	TRY(fsync, file);
	TRY(truncate, "room/file", 0);
	TRY(pwrite64, file, buffer, 8192, 100);
	TRY(pwrite64, file, buffer, 8192, 8192);
	close(file);
	close(other);
	CALL(umount("room"));
}

/* -- processes -- */

static void try_processes(void)
{
	struct clone_args args = { .exit_signal = SIGCHLD };

	IN_CHILD {
		become(NOBODY);
		limit(RLIMIT_NPROC, 0);
		TRY(fork);
		TRY(vfork);
		TRY(clone, SIGCHLD, NULL, NULL, NULL, 0);
		TRY(clone3, &args, sizeof(args));
	}
	IN_CHILD {
		limit(RLIMIT_NPROC, 0);
		TRY(setresuid, NOBODY - 1, NOBODY - 1, NOBODY - 1);
		TRY(getuid);
	}
	IN_CHILD {
		TRY(setrlimit, RLIMIT_NOFILE, BAD);
		TRY(setrlimit, 99, buffer);
		TRY(setrlimit, RLIMIT_NOFILE, (&(struct rlimit){ 5, 4 }));
		TRY(setrlimit, RLIMIT_NOFILE, (&(struct rlimit){ 100, 200 }));
		become(NOBODY);
		TRY(setrlimit, RLIMIT_NOFILE, (&(struct rlimit){ 100, 201 }));
		TRY(prlimit64, 0, RLIMIT_NOFILE, (&(struct rlimit){ 100, 201 }), NULL);
		TRY(setrlimit, RLIMIT_NOFILE, (&(struct rlimit){ 100, 199 }));
	}
}

/* -- memory -- */

static void try_memory(void)
{
	char *pages = mmap(NULL, 64 << 10, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	IN_CHILD {
		TRY(mlock, pages, 4096);
		TRY(mlock, pages, -1l);
		TRY(mlock, BAD, 4096);
		TRY(munlock, pages, -1l);
		TRY(munlock, BAD, 4096);
		TRY(mlock2, pages, 4096, 1);
		TRY(mlock2, pages, 4096, 8);
		TRY(mlock2, BAD, 4096, 0);
		TRY(mlock2, pages, -1l, 0);
		TRY(munlock, pages, 64 << 10);
		TRY(mlockall, MCL_CURRENT);
		TRY(munlockall);
	}
	IN_CHILD {
		limit(RLIMIT_AS, 4 << 20);
		TRY(mmap, NULL, 64 << 20, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		TRY(mremap, pages, 64 << 10, 64 << 20, MREMAP_MAYMOVE);
	}
}

int main(int argc, char **argv)
{
	if (enter_folder(argc, argv))
		return 1;
	close_range(3, ~0u, 0);
	IN_CHILD try_descriptors();
	IN_CHILD try_sizes();
	IN_CHILD try_room();
	try_processes();
	try_memory();
	return 42;
}
