// SPDX-License-Identifier: Apache-2.0
/* Pipes, locks, seals, copies between files and poll, in one process: prints what each call returns. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/memfd.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/uio.h>

#include "report.h"

static char buffer[1 << 20];

static void try_pipe(void)
{
	int p[2], bytes, old_pipe[2];
	long total = 0, size;

	TRY(pipe2, BAD, 0);
	TRY(pipe2, p, 12345);
	TRY(pipe2, p, O_NONBLOCK);
	READY(p[0]), READY(p[1]);
	TRY(read, p[0], buffer, 10);
	TRY(read, p[1], buffer, 10);
	TRY(write, p[0], buffer, 10);
	TRY(read, p[0], buffer, 0);
	TRY(write, p[1], BAD, 10);
	TRY(write, p[1], "hello", 5);
	TRY(ioctl, p[0], FIONREAD, &bytes);
	printf("    %d bytes\n", bytes);
	TRY(read, p[0], BAD, 10);
	TRY(read, p[0], buffer, 3);
	TRY(read, p[0], buffer, 100);
	TRY(lseek, p[0], 0, SEEK_SET);
	TRY(pread64, p[0], buffer, 1, 0);
	TRY(pwrite64, p[1], buffer, 1, 0);
	TRY(fsync, p[0]);
	TRY(fcntl, p[0], F_GETPIPE_SZ);
	TRY(fcntl, p[0], F_GETFL);
	TRY(fcntl, p[1], F_GETFL);
	for (int step = 0; step < 6; step++) {
		static const int sizes[] = { 1, 3000, 4096, 5000, 100, 65536 };

		total = 0;
		while ((size = write(p[1], buffer, sizes[step])) > 0)
			total += size;
		printf("    writes of %d: %ld, then %s\n", sizes[step], total, strerrorname_np(errno));
		READY(p[0]), READY(p[1]);
		total = 0;
		while ((size = read(p[0], buffer, 7777)) > 0)
			total += size;
		printf("    read %ld\n", total);
	}
	TRY(fcntl, p[0], F_SETPIPE_SZ, 10000);
	TRY(fcntl, p[0], F_SETPIPE_SZ, 1);
	TRY(write, p[1], buffer, 20000);
	READY(p[1]);
	TRY(fcntl, p[0], F_SETPIPE_SZ, 65536);
	TRY(write, p[1], buffer, 20000);
	TRY(fcntl, p[0], F_SETPIPE_SZ, 4096);
	close(p[0]);
	READY(p[1]);
	signal(SIGPIPE, SIG_IGN);
	TRY(write, p[1], "x", 1);
	TRY(write, p[1], "x", 0);
	close(p[1]);
	pipe(p);
	write(p[1], "rest", 4);
	close(p[1]);
	READY(p[0]);
	TRY(read, p[0], buffer, 100);
	READY(p[0]);
	TRY(read, p[0], buffer, 100);
	close(p[0]);
	TRY(pipe2, p, O_DIRECT | O_NONBLOCK);
	TRY(write, p[1], "one", 3);
	TRY(write, p[1], "three", 5);
	TRY(read, p[0], buffer, 2);
	TRY(read, p[0], buffer, 100);
	TRY(read, p[0], buffer, 100);
	close(p[0]), close(p[1]);
	TRY(pipe, old_pipe);
	close(old_pipe[0]), close(old_pipe[1]);
}

/* An end that is opened by its name in /proc does not wait for the other one. */
static void try_reopen(void)
{
	char reader[40], writer[40];
	int p[2], fd;

	pipe(p);
	snprintf(reader, sizeof(reader), "/proc/self/fd/%d", p[0]);
	snprintf(writer, sizeof(writer), "/proc/self/fd/%d", p[1]);
	write(p[1], "rest", 4);
	close(p[1]);
	fd = TRY(open, reader, O_RDONLY);
	READY(fd);
	TRY(read, fd, buffer, 100);
	TRY(read, fd, buffer, 100);
	close(fd);
	fd = TRY(open, reader, O_RDONLY | O_NONBLOCK);
	READY(fd);
	TRY(read, fd, buffer, 100);
	close(fd), close(p[0]);
	pipe(p);
	close(p[0]);
	fd = TRY(open, writer, O_WRONLY);
	TRY(write, fd, "x", 1);
	close(fd);
	fd = TRY(open, writer, O_WRONLY | O_NONBLOCK);
	READY(fd);
	close(fd), close(p[1]);
}

static void try_fifo(void)
{
	struct stat s;
	int fd, other;

	mknod("fifo", S_IFIFO | 0600, 0);
	TRY(open, "fifo", O_WRONLY | O_NONBLOCK);
	fd = TRY(open, "fifo", O_RDONLY | O_NONBLOCK);
	READY(fd);
	TRY(read, fd, buffer, 1);
	other = TRY(open, "fifo", O_WRONLY);
	READY(fd);
	TRY(read, fd, buffer, 1);
	TRY(write, other, "abc", 3);
	TRY(read, fd, buffer, 10);
	close(other);
	READY(fd);
	TRY(read, fd, buffer, 10);
	close(fd);
	fd = TRY(open, "fifo", O_RDWR);
	TRY(write, fd, "abc", 3);
	TRY(read, fd, buffer, 10);
	READY(fd);
	TRY(fstat, fd, &s);
	printf("    mode %o\n", s.st_mode);
	close(fd);
}

static void try_copies(void)
{
	long at = 2, far = 5, wrong = -1;
	int in = open("in", O_CREAT | O_RDWR, 0644), out = open("out", O_CREAT | O_RDWR, 0644), p[2], q[2];
	int append = open("out", O_WRONLY | O_APPEND);

	for (int i = 0; i < 100; i++)
		write(in, "0123456789", 10);
	lseek(in, 0, SEEK_SET);
	pipe2(p, O_NONBLOCK), pipe2(q, O_NONBLOCK);
	TRY(sendfile, out, in, NULL, 100);
	TRY(sendfile, out, in, &at, 100);
	printf("    %ld %ld %ld\n", at, lseek(in, 0, SEEK_CUR), lseek(out, 0, SEEK_CUR));
	TRY(sendfile, out, in, &wrong, 100);
	TRY(sendfile, out, in, BAD, 100);
	TRY(sendfile, out, p[0], NULL, 100);
	TRY(sendfile, out, p[0], &at, 100);
	TRY(sendfile, p[1], in, NULL, 100);
	TRY(sendfile, append, in, NULL, 100);
	TRY(sendfile, in, -1, NULL, 1);
	TRY(sendfile, p[0], in, NULL, 1);
	TRY(copy_file_range, in, NULL, out, NULL, 5000, 0);
	TRY(copy_file_range, in, &far, out, &at, 10, 0);
	printf("    %ld %ld\n", far, at);
	TRY(copy_file_range, in, &far, in, &at, 1000, 0);
	TRY(copy_file_range, in, NULL, out, NULL, 10, 1);
	TRY(copy_file_range, in, NULL, p[1], NULL, 10, 0);
	TRY(copy_file_range, in, NULL, append, NULL, 10, 0);
	TRY(copy_file_range, 99, NULL, out, NULL, 10, 0);
	TRY(copy_file_range, open(".", O_RDONLY), NULL, out, NULL, 10, 0);
	lseek(in, 0, SEEK_SET);
	TRY(read, p[0], buffer, 1000);
	TRY(splice, in, NULL, p[1], NULL, 500, 0);
	TRY(splice, p[0], NULL, out, NULL, 200, 0);
	TRY(tee, p[0], q[1], 150, 0);
	TRY(tee, p[0], p[1], 150, 0);
	TRY(tee, in, q[1], 150, 0);
	TRY(read, q[0], buffer, 1000);
	TRY(read, p[0], buffer, 1000);
	TRY(tee, p[0], q[1], 150, SPLICE_F_NONBLOCK);
	TRY(splice, p[0], NULL, out, NULL, 200, SPLICE_F_NONBLOCK);
	TRY(splice, in, &far, p[1], NULL, 30, 0);
	TRY(splice, in, NULL, p[1], &far, 30, 0);
	TRY(splice, in, NULL, out, NULL, 30, 0);
	TRY(splice, in, NULL, p[1], NULL, 30, 16);
	TRY(splice, in, NULL, p[1], NULL, 0, 16);
	TRY(splice, p[0], NULL, q[1], NULL, 10, 0);
	TRY(read, q[0], buffer, 100);
	TRY(vmsplice, q[1], &(struct iovec){ "vector", 6 }, 1, 0);
	TRY(read, q[0], buffer, 100);
	TRY(vmsplice, in, &(struct iovec){ "vector", 6 }, 1, 0);
	TRY(fadvise64, in, 0, 0, 3);
	TRY(fadvise64, in, 0, 0, 77);
	TRY(fadvise64, p[0], 0, 0, 3);
	TRY(readahead, in, 0, 100);
	TRY(sync_file_range, in, 0, 10, 7);
	TRY(sync_file_range, in, 0, 10, 8);
	TRY(fsync, in);
	TRY(fdatasync, out);
	TRY(syncfs, in);
	TRY(fsync, 99);
	for (int fd = 3; fd < 20; fd++)
		close(fd);
}

static void lock(int line, int fd, int command, int type, long start, long length)
{
	struct flock f = { .l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = length };
	long result = fcntl(fd, command, &f);

	printf("%d lock %d %d %ld+%ld: %s", line, command, type, start, length, result < 0 ? strerrorname_np(errno) : "0");
	printf(" -> %d %ld+%ld %d\n", f.l_type, (long)f.l_start, (long)f.l_len,
	       f.l_pid == getpid() ? 1 : f.l_pid);
}

#define LOCK(...) lock(__LINE__, __VA_ARGS__)

static void try_locks(void)
{
	int a = open("lock", O_CREAT | O_RDWR, 0644), b = open("lock", O_RDWR), ro = open("lock", O_RDONLY);

	TRY(flock, a, LOCK_EX);
	TRY(flock, b, LOCK_EX | LOCK_NB);
	TRY(flock, b, LOCK_SH | LOCK_NB);
	TRY(flock, a, LOCK_SH);
	TRY(flock, b, LOCK_SH | LOCK_NB);
	TRY(flock, b, LOCK_EX | LOCK_NB);
	TRY(flock, a, LOCK_UN);
	TRY(flock, b, LOCK_EX | LOCK_NB);
	TRY(flock, b, LOCK_UN);
	TRY(flock, 99, LOCK_UN);
	TRY(flock, a, 77);
	TRY(flock, a, 0);
	LOCK(a, F_SETLK, F_WRLCK, 10, 10);
	LOCK(b, F_GETLK, F_WRLCK, 0, 0);
	LOCK(a, F_OFD_GETLK, F_WRLCK, 0, 0);
	LOCK(b, F_OFD_SETLK, F_RDLCK, 0, 15);
	LOCK(b, F_OFD_SETLK, F_RDLCK, 0, 10);
	LOCK(b, F_OFD_SETLK, F_RDLCK, 20, 0);
	LOCK(a, F_OFD_GETLK, F_WRLCK, 25, 1);
	LOCK(a, F_SETLK, F_UNLCK, 12, 3);
	LOCK(b, F_OFD_SETLK, F_WRLCK, 12, 3);
	LOCK(b, F_OFD_SETLK, F_WRLCK, 12, 4);
	LOCK(a, F_SETLK, F_RDLCK, 5, 10);
	LOCK(a, F_SETLK, F_WRLCK, 5, 1);
	LOCK(ro, F_SETLK, F_WRLCK, 0, 1);
	LOCK(ro, F_SETLK, F_RDLCK, 0, 1);
	LOCK(a, F_SETLK, 7, 0, 1);
	LOCK(a, F_SETLK, F_RDLCK, -1, 1);
	LOCK(a, F_SETLK, F_RDLCK, 100, -50);
	LOCK(a, F_SETLK, F_RDLCK, 10, -50);
	LOCK(a, F_SETLK, F_RDLCK, 0x7ffffffffffffff0, 100);
	TRY(fcntl, a, F_SETLK, BAD);
	TRY(fcntl, 99, F_SETLK, BAD);
	close(ro); /* all locks of the process are gone */
	LOCK(b, F_OFD_GETLK, F_WRLCK, 0, 12);
	close(b);
	LOCK(a, F_OFD_GETLK, F_WRLCK, 0, 0);
	close(a);
}

static void try_memfd(void)
{
	char name[300];
	struct stat s;
	int fd;

	memset(name, 'm', sizeof(name));
	name[249] = 0;
	fd = TRY(memfd_create, name, 0);
	close(fd);
	name[249] = 'm', name[250] = 0;
	TRY(memfd_create, name, 0);
	TRY(memfd_create, BAD, 0);
	TRY(memfd_create, "x", 0x100);
	fd = TRY(memfd_create, "x", 0);
	TRY(fcntl, fd, F_GET_SEALS);
	TRY(fcntl, fd, F_ADD_SEALS, F_SEAL_WRITE);
	close(fd);
	fd = TRY(memfd_create, "x", MFD_ALLOW_SEALING);
	TRY(fstat, fd, &s);
	printf("    mode %o links %d size %ld\n", s.st_mode, (int)s.st_nlink, (long)s.st_size);
	TRY(fcntl, fd, F_GETFL);
	TRY(write, fd, "hello", 5);
	TRY(fcntl, fd, F_ADD_SEALS, F_SEAL_GROW);
	TRY(write, fd, "hello", 5);
	TRY(pwrite64, fd, "HELLO", 5, 2);
	TRY(ftruncate, fd, 10);
	TRY(ftruncate, fd, 4);
	TRY(fcntl, fd, F_ADD_SEALS, F_SEAL_SHRINK);
	TRY(ftruncate, fd, 2);
	TRY(fcntl, fd, F_ADD_SEALS, F_SEAL_WRITE);
	TRY(pwrite64, fd, "H", 1, 0);
	TRY(pwrite64, fd, "", 0, 0);
	TRY(fallocate, fd, 3, 0, 4096);
	TRY(fcntl, fd, F_ADD_SEALS, 0x1000);
	TRY(fcntl, fd, F_ADD_SEALS, F_SEAL_SEAL);
	TRY(fcntl, fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE);
	TRY(fcntl, fd, F_GET_SEALS);
	TRY(fcntl, 1, F_GET_SEALS);
	close(fd);
}

static void try_poll(void)
{
	struct pollfd p[3] = { { -1, POLLIN, 7 }, { 999, POLLIN, 0 }, { 1, POLLOUT, 0 } };
	struct timespec none = { 0, 0 }, wrong = { 0, 1000000000 };
	struct timeval wrong_too = { -1, 0 }, zero = { 0, 0 };
	int pair[2];
	fd_set in, out;

	pipe(pair);
	TRY(poll, p, 3, 0);
	printf("    %x %x %x\n", p[0].revents, p[1].revents, p[2].revents);
	TRY(poll, BAD, 1, 0);
	TRY(poll, p, 100000000, 0);
	TRY(poll, p, 1, 10);
	TRY(ppoll, p, 3, &wrong, NULL, 8);
	TRY(ppoll, p, 1, &none, NULL, 8);
	TRY(ppoll, p, 1, &none, p, 4);
	TRY(ppoll, p, 1, BAD, NULL, 8);
	FD_ZERO(&in);
	FD_ZERO(&out);
	FD_SET(pair[0], &in);
	FD_SET(pair[1], &out);
	TRY(select, 64, &in, &out, NULL, &zero);
	printf("    %d %d\n", FD_ISSET(pair[0], &in), FD_ISSET(pair[1], &out));
	write(pair[1], "x", 1);
	FD_SET(pair[0], &in);
	TRY(select, 64, &in, &out, NULL, NULL);
	printf("    %d %d\n", FD_ISSET(pair[0], &in), FD_ISSET(pair[1], &out));
	TRY(select, -1, &in, &out, NULL, NULL);
	TRY(select, 64, BAD, &out, NULL, NULL);
	TRY(select, 64, &in, NULL, NULL, &wrong_too);
	FD_SET(60, &in);
	TRY(select, 64, &in, NULL, NULL, NULL);
	TRY(select, 0, NULL, NULL, NULL, &zero);
	TRY(pselect6, 0, NULL, NULL, NULL, &none, NULL);
	TRY(pselect6, 0, NULL, NULL, NULL, &wrong, NULL);
	close(pair[0]), close(pair[1]);
}

static int from[2], to[2];

static void *tee_between(void *unused)
{
	TRY(tee, from[0], to[1], 10, 0);
	return unused;
}

static void *read_from(void *unused)
{
	TRY(read, from[0], buffer, 10);
	return unused;
}

/* A thread closes the files that another one waits for. */
static void close_meanwhile(void *(*function)(void *))
{
	pthread_t thread;

	pipe(from), pipe(to);
	pthread_create(&thread, NULL, function, NULL);
	usleep(100000); /* until the call sleeps: nothing else shows that */
	close(from[0]), close(from[1]);
	pthread_join(thread, NULL);
	close(to[0]), close(to[1]);
}

/* What a socket does not take stays in the pipe, and what a pipe has no room for stays in the socket. */
static void try_full(void)
{
	static char page[4096];
	int p[2], q[2], s[2];
	long lost = 0, got;

	CALL(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, s));
	CALL(pipe2(p, O_NONBLOCK));
	CALL(pipe2(q, O_NONBLOCK | O_DIRECT));
	while (write(s[0], page, sizeof(page)) > 0)
		;
	CALL(write(p[1], "kept", 4));
	TRY(splice, p[0], NULL, s[0], NULL, 4, 0);
	TRY(read, p[0], page, 10);
	while (write(p[1], page, sizeof(page)) > 0)
		;
	while ((got = read(s[1], page, sizeof(page))) > 0)
		;
	CALL(write(s[0], "kept", 4));
	TRY(splice, s[1], NULL, p[1], NULL, 4, 0);
	TRY(read, s[1], page, 10);
	CALL(write(q[1], "one", 3));
	CALL(write(q[1], "two", 3));
	while ((got = read(p[0], page, sizeof(page))) > 0)
		lost += got;
	printf("    %ld\n", lost);
	TRY(splice, q[0], NULL, p[1], NULL, 4, 0);
	TRY(read, q[0], page, 10);
	TRY(read, p[0], page, 10);
	TRY(read, p[0], page, 10);
	close(p[0]);
	signal(SIGPIPE, SIG_IGN);
	CALL(write(q[1], "kept", 4));
	TRY(splice, q[0], NULL, p[1], NULL, 4, 0);
	TRY(read, q[0], page, 10);
	fflush(stdout);
}

/* sendfile() does not wait for more of a stream: it moves what one read gives into a pipe, and refuses other files. */
static void try_streams(void)
{
	int s[2], p[2], terminal = open("/dev/ptmx", O_RDWR | O_NOCTTY), other, unlocked = 0, out = open("out", O_RDWR);
	char line[100] = { 0 };

	CALL(socketpair(AF_UNIX, SOCK_STREAM, 0, s));
	CALL(pipe2(p, O_NONBLOCK));
	CALL(write(s[0], "first", 5));
	TRY(sendfile, out, s[1], NULL, 100);
	TRY(sendfile, s[0], s[1], NULL, 100);
	TRY(sendfile, p[1], s[1], NULL, 100);
	TRY(read, p[0], line, 100);
	CALL(ioctl(terminal, TIOCSPTLCK, &unlocked));
	other = ioctl(terminal, TIOCGPTPEER, O_RDWR | O_NOCTTY);
	CALL(write(terminal, "line\n", 5));
	TRY(sendfile, out, other, NULL, 100);
	TRY(sendfile, s[0], other, NULL, 100);
	TRY(sendfile, p[1], other, NULL, 100);
	TRY(read, p[0], line, 100);
	printf("    %s", line);
}

static void try_nowait(void)
{
	struct iovec in = { (char[8]){ 0 }, 8 };
	int p[2], s[2];

	CALL(pipe(p));
	CALL(socketpair(AF_UNIX, SOCK_STREAM, 0, s));
	TRY(preadv2, p[0], &in, 1, -1l, 0, RWF_NOWAIT);
	TRY(pwritev2, p[1], &in, 1, -1l, 0, RWF_NOWAIT);
	TRY(preadv2, s[0], &in, 1, -1l, 0, RWF_NOWAIT);
	TRY(preadv2, eventfd(0, 0), &in, 1, -1l, 0, RWF_NOWAIT);
	TRY(preadv2, timerfd_create(CLOCK_MONOTONIC, 0), &in, 1, -1l, 0, RWF_NOWAIT);
	TRY(preadv2, inotify_init(), &in, 1, -1l, 0, RWF_NOWAIT);
	TRY(preadv2, open("/dev/zero", O_RDWR), &in, 1, -1l, 0, RWF_NOWAIT);
	TRY(preadv2, open("/dev/full", O_RDWR), &in, 1, -1l, 0, RWF_NOWAIT);
	TRY(preadv2, memfd_create("m", 0), &in, 1, -1l, 0, RWF_NOWAIT);
	TRY(fcntl, p[0], F_GETFL);
}

int main(int argc, char **argv)
{
	if (enter_folder(argc, argv))
		return 1;
	try_pipe();
	try_reopen();
	try_fifo();
	try_copies();
	try_streams();
	try_locks();
	try_memfd();
	try_poll();
	try_nowait();
	try_full();
	close_meanwhile(tee_between);
	close_meanwhile(read_from);
	return 42;
}
