// SPDX-License-Identifier: Apache-2.0
/* Makes calls on files that are open, and on attributes, queues and mounts, for which the rights or values are wrong. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ipc.h>
#include <sys/mount.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>

#include "report.h"

static char large[70000], name256[300];

static void try_read_only(void)
{
	int file, closed = open("closed", O_RDONLY);

	mkdir("ro", 0755);
	CALL(mount("none", "ro", "tmpfs", 0, NULL));
	file = open("ro/file", O_CREAT | O_RDWR, 0644);
	TRY(fsetxattr, file, "trusted.old", "value", 5, 0);
	TRY(mount, "none", "ro", NULL, MS_REMOUNT | MS_RDONLY, NULL);
	close(file);
	TRY(mount, "none", "ro", NULL, MS_REMOUNT | MS_RDONLY, NULL);
	file = open("ro/file", O_RDONLY);
	TRY(fchmod, file, 0600);
	TRY(fchown, file, 1, 1);
	TRY(fsetxattr, file, "trusted.new", "value", 5, 0);
	TRY(fremovexattr, file, "trusted.old");
	TRY(fgetxattr, file, "trusted.old", large, 10);
	TRY(futimesat, file, NULL, NULL);
	TRY(utimensat, file, NULL, NULL, 0);
	TRY(fdatasync, file);
	TRY(umount2, "ro", 0);
	TRY(umount2, name256, 0);
	close(file);
	TRY(umount2, "ro", 0);
	TRY(pivot_root, "/", "/");
	TRY(pivot_root, "closed", "closed");
	IN_CHILD {
		file = open("file", O_RDONLY);
		become(NOBODY);
		TRY(fchdir, closed);
		TRY(fchown, file, 1, 1);
		TRY(fchmod, file, 0600);
		TRY(fsetxattr, file, "user.new", "value", 5, 0);
		TRY(fsetxattr, file, "trusted.new", "value", 5, 0);
		TRY(fremovexattr, file, "trusted.new");
		TRY(fremovexattr, file, "user.new");
		TRY(removexattr, "file", "trusted.new");
		TRY(open, "file", O_RDONLY | O_NOATIME);
		TRY(openat, AT_FDCWD, "file", O_RDONLY | O_NOATIME);
		TRY(openat2, AT_FDCWD, "file", ((unsigned long[]){ O_RDONLY | O_NOATIME, 0, 0 }), 24);
		TRY(fcntl, file, F_SETFL, O_NOATIME);
		TRY(utime, "file", large);
		TRY(mq_unlink, "private");
		TRY(fallocate, file, 0, 0, 1);
		TRY(ioprio_set, 1, 1, 0);
	}
}

static void try_attributes(void)
{
	int file = open("file", O_RDWR);

	TRY(setxattr, "file", "trusted.new", large, sizeof(large), 0);
	TRY(lsetxattr, "file", "trusted.new", large, sizeof(large), 0);
	TRY(fsetxattr, file, "trusted.new", large, sizeof(large), 0);
	TRY(lsetxattr, "file", "trusted.new", large, 1, 4);
	TRY(fsetxattr, file, "trusted.new", large, 1, 4);
	TRY(lsetxattr, "file", name256, large, 1, 0);
	TRY(fsetxattr, file, name256, large, 1, 0);
	TRY(lsetxattr, "file", "", large, 1, 0);
	TRY(fsetxattr, file, BAD, large, 1, 0);
	TRY(fsetxattr, file, "trusted.new", BAD, 1, 0);
	TRY(lgetxattr, "file", name256, large, 1);
	TRY(fgetxattr, file, name256, large, 1);
	TRY(fgetxattr, file, "trusted.absent", large, 1);
	TRY(removexattr, "file", name256);
	TRY(lremovexattr, "file", name256);
	TRY(fremovexattr, file, name256);
	TRY(removexattr, "file", BAD);
	TRY(lremovexattr, "file", BAD);
	TRY(fremovexattr, file, BAD);
	mkdir("small", 0755);
	CALL(mount("none", "small", "tmpfs", 0, "nr_inodes=2"));
	file = open("small/file", O_CREAT | O_RDWR, 0644);
	TRY(fsetxattr, file, "trusted.new", large, 100, 0);
	TRY(open, "small/other", O_CREAT | O_RDWR, 0644);
	TRY(openat2, AT_FDCWD, "small/other", ((unsigned long[]){ O_CREAT | O_RDWR, 0644, 0 }), 24);
	TRY(ftruncate, file, 10);
	close(file);
	CALL(umount("small"));
}

static void try_opens(void)
{
	int directory;
	struct sockaddr_un name = { AF_UNIX, "socket" };

	bind(socket(AF_UNIX, SOCK_STREAM, 0), (struct sockaddr *)&name, sizeof(name));
	TRY(creat, "socket", 0600);
	TRY(openat, AT_FDCWD, "socket", O_RDONLY);
	TRY(openat2, AT_FDCWD, "socket", ((unsigned long[]){ O_RDONLY, 0, 0 }), 24);
	TRY(openat, AT_FDCWD, "file", O_RDONLY | O_TMPFILE);
	TRY(openat, AT_FDCWD, ".", O_TMPFILE, 0600);
	TRY(openat, AT_FDCWD, "file", O_CREAT | O_DIRECTORY, 0600);
	TRY(openat2, AT_FDCWD, "file", ((unsigned long[]){ O_RDWR | O_CREAT | O_EXCL, 0600, 0 }), 24);
	TRY(renameat, AT_FDCWD, "closed", AT_FDCWD, "closed/x");
	TRY(statx, AT_FDCWD, "file", 0x1000000, 0, large);
	TRY(statx, AT_FDCWD, "file", 0x6000, 0, large);
	TRY(statx, AT_FDCWD, "file", 0, 0x80000000, large);
	TRY(statx, AT_FDCWD, "file", 0, 0, BAD);
	mkdir("removed", 0755);
	directory = open("removed", O_RDONLY);
	rmdir("removed");
	TRY(getdents, directory, large, 4096);
	TRY(getdents64, directory, large, 4096);
	TRY(openat, directory, "x", O_CREAT | O_RDWR, 0600);
	TRY(mkdirat, directory, "x", 0700);
	TRY(fchdir, directory);
	TRY(getcwd, large, 4096);
	TRY(open, ".", O_RDONLY);
}

static void try_waits(void)
{
	int epoll = epoll_create1(0), ready = eventfd(1, 0), fds[2];
	struct epoll_event event = { .events = EPOLLIN };
	unsigned long bits = 1ul << 50;
	struct iovec vector = { large, 1 };

	epoll_ctl(epoll, EPOLL_CTL_ADD, ready, &event);
	TRY(epoll_wait, epoll, BAD, 1, 0);
	TRY(epoll_pwait, epoll, BAD, 1, 0, NULL, 8);
	TRY(epoll_pwait2, epoll, BAD, 1, NULL, NULL, 8);
	TRY(epoll_wait, epoll, large, 1, 0);
	TRY(epoll_create, 1);
	TRY(pselect6, 51, &bits, NULL, NULL, NULL, NULL);
	TRY(pselect6, 51, BAD, NULL, NULL, NULL, NULL);
	TRY(pselect6, 51, NULL, NULL, NULL, BAD, NULL);
	TRY(pselect6, 0, NULL, NULL, NULL, NULL, BAD);
	pipe2(fds, O_NONBLOCK);
	TRY(vmsplice, fds[0], &vector, 1, 2);
	while (write(fds[1], large, 4096) > 0)
		;
	TRY(vmsplice, fds[1], &vector, 1, 2);
	TRY(inotify_rm_watch, 0, 1);
	TRY(inotify_rm_watch, 99, 1);
}

/* -- queues -- */

static void remove_later(int kind, int id)
{
	fflush(stdout);
	if (fork())
		return;
	wait_until_asleep(getppid());
	if (kind)
		semctl(id, 0, IPC_RMID);
	else
		msgctl(id, IPC_RMID, NULL);
	_exit(0);
}

static void try_queues(void)
{
	struct { long type; char text[8]; } message = { 1, "text" };
	struct sembuf down = { 0, -1, 0 }, up = { 0, 1, 0 }, far = { 9, 1, 0 }, high = { 0, 32767, 0 };
	struct sembuf no_wait = { 0, -1, IPC_NOWAIT };
	int messages = msgget(IPC_PRIVATE, 0600), semaphores = semget(IPC_PRIVATE, 1, 0600);
	int shared = shmget(IPC_PRIVATE, 4096, 0600);

	TRY(msgsnd, messages, &message, 8, 0);
	TRY(msgrcv, messages, BAD, 8, 0, 0);
	TRY(msgsnd, messages, &message, 8, 0);
	TRY(msgrcv, messages, BAD, 8, 0, MSG_NOERROR);
	TRY(semtimedop, semaphores, &up, 1, NULL);
	TRY(semtimedop, semaphores, &up, 501, NULL);
	TRY(semtimedop, semaphores, &far, 1, NULL);
	TRY(semtimedop, semaphores, &high, 1, NULL);
	TRY(semtimedop, semaphores, &high, 1, NULL);
	TRY(semtimedop, semaphores, &down, 1, (&(struct timespec){ 0, -1 }));
	TRY(semtimedop, semaphores, BAD, 1, NULL);
	TRY(semtimedop, 99999, &up, 1, NULL);
	TRY(semctl, semaphores, 0, SETVAL, 0);
	TRY(semtimedop, semaphores, &no_wait, 1, NULL);
	TRY(semtimedop, semaphores, &down, 1, (&(struct timespec){ 0, 1000 }));
	IN_CHILD {
		become(NOBODY);
		TRY(msgsnd, messages, &message, 8, 0);
		TRY(semtimedop, semaphores, &up, 1, NULL);
		TRY(shmctl, shared, IPC_RMID, NULL);
	}
	remove_later(1, semaphores);
	TRY(semtimedop, semaphores, &down, 1, NULL);
	wait(NULL);
	msgctl(messages, IPC_SET, &(struct msqid_ds){ .msg_qbytes = 4, .msg_perm.mode = 0600 });
	remove_later(0, messages);
	TRY(msgsnd, messages, &message, 8, 0);
	wait(NULL);
	TRY(shmctl, shared, IPC_RMID, NULL);
	TRY(shmat, shared, NULL, 0);
	TRY(mq_unlink, BAD);
	TRY(mq_unlink, name256);
	TRY(mq_unlink, "a/b");
	TRY(mq_unlink, "private");
}

int main(int argc, char **argv)
{
	if (enter_folder(argc, argv))
		return 1;
	close_range(3, ~0u, 0);
	memset(name256, 'n', 256);
	mkdir("closed", 0700);
	close(open("file", O_CREAT | O_RDWR, 0644));
	show(__LINE__, "mq_open", syscall(SYS_mq_open, "private", O_CREAT | O_RDWR, 0600, NULL) > 0);
	try_read_only();
	IN_CHILD try_attributes();
	IN_CHILD try_opens();
	IN_CHILD try_waits();
	try_queues();
	return 42;
}
