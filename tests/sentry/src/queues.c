/* SPDX-License-Identifier: Apache-2.0 */
/* POSIX message queues, memory of other processes, and calls that few programs make. Works in a new folder. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <mqueue.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <time.h>
#include "report.h"

static const char name[] = "sentry-test-queue";

static void show_queue(int line, int fd)
{
	struct mq_attr a = { 0 };
	long result = syscall(SYS_mq_getsetattr, fd, NULL, &a);

	printf("%d   %s: %ld %ld %ld %ld\n", line, result ? strerrorname_np(errno) : "queue", a.mq_flags, a.mq_maxmsg, a.mq_msgsize,
	       a.mq_curmsgs);
}

#define QUEUE(fd) show_queue(__LINE__, fd)

static void take(int line, int fd)
{
	char text[65] = "";
	unsigned priority = 0;

	if (show(line, "receive", syscall(SYS_mq_timedreceive, fd, text, 64, &priority, NULL)) >= 0)
		printf("   %s %u\n", text, priority);
}

#define TAKE(fd) take(__LINE__, fd)

/* A queue that gets no descriptor is not made. */
static void without_descriptors(struct mq_attr *a)
{
	struct rlimit old, none;

	getrlimit(RLIMIT_NOFILE, &old);
	none = (struct rlimit){ 0, old.rlim_max };
	setrlimit(RLIMIT_NOFILE, &none);
	TRY(mq_open, name, O_RDWR, 0, NULL);
	TRY(mq_open, name, O_RDWR | O_CREAT, 0600, a);
	setrlimit(RLIMIT_NOFILE, &old);
	TRY(mq_open, name, O_RDWR, 0, NULL);
}

static void opening(void)
{
	struct mq_attr a = { .mq_maxmsg = 3, .mq_msgsize = 64 }, bad = { .mq_maxmsg = 0, .mq_msgsize = 64 };
	char large[300];
	int fd;

	memset(large, 'x', sizeof(large) - 1);
	large[299] = 0;
	TRY(mq_unlink, name);
	TRY(mq_open, name, O_RDWR, 0, NULL);
	TRY(mq_open, BAD, O_RDWR, 0, NULL);
	TRY(mq_open, name, O_RDWR | O_CREAT, 0600, BAD);
	TRY(mq_open, "", O_RDWR | O_CREAT, 0600, &a);
	TRY(mq_open, "/a", O_RDWR | O_CREAT, 0600, &a);
	TRY(mq_open, ".", O_RDWR | O_CREAT, 0600, &a);
	TRY(mq_open, large, O_RDWR | O_CREAT, 0600, &a);
	TRY(mq_open, name, O_RDWR | O_CREAT, 0600, &bad);
	bad = (struct mq_attr){ .mq_maxmsg = 3, .mq_msgsize = -1 };
	TRY(mq_open, name, O_RDWR | O_CREAT, 0600, &bad);
	without_descriptors(&a);
	CALL(fd = syscall(SYS_mq_open, name, O_RDWR | O_CREAT | O_EXCL, 0620, &a));
	CALL(fcntl(fd, F_GETFD));
	CALL(fcntl(fd, F_GETFL) & (O_ACCMODE | O_NONBLOCK));
	TRY(mq_open, name, O_RDWR | O_CREAT | O_EXCL, 0600, &a);
	TRY(mq_open, name, 3, 0, NULL);
	QUEUE(fd);
	IN_CHILD {
		become(NOBODY);
		TRY(mq_open, name, O_RDWR, 0, NULL);
		TRY(mq_unlink, name);
		bad = (struct mq_attr){ .mq_maxmsg = 11, .mq_msgsize = 64 };
		TRY(mq_open, "sentry-test-other", O_RDWR | O_CREAT, 0600, &bad);
		bad = (struct mq_attr){ .mq_maxmsg = 3, .mq_msgsize = 8193 };
		TRY(mq_open, "sentry-test-other", O_RDWR | O_CREAT, 0600, &bad);
		setrlimit(RLIMIT_MSGQUEUE, &(struct rlimit){ 1000, 1000 });
		bad = (struct mq_attr){ .mq_maxmsg = 3, .mq_msgsize = 1000 };
		TRY(mq_open, "sentry-test-other", O_RDWR | O_CREAT, 0600, &bad);
	}
	close(fd);
}

static void sending(void)
{
	int fd = (int)syscall(SYS_mq_open, name, O_RDWR, 0, NULL), reader = (int)syscall(SYS_mq_open, name, O_RDONLY, 0, NULL);
	int writer = (int)syscall(SYS_mq_open, name, O_WRONLY | O_NONBLOCK, 0, NULL);
	struct timespec past = { 1, 0 }, bad = { 1, 1000000000 };
	struct mq_attr a = { .mq_flags = O_NONBLOCK };
	char text[64];
	unsigned priority;

	READY(fd);
	TRY(mq_timedsend, reader, "a", 2, 0, NULL);
	TRY(mq_timedsend, 0, "a", 2, 0, NULL);
	TRY(mq_timedsend, 99, "a", 2, 0, NULL);
	TRY(mq_timedsend, fd, "a", 2, 32768, NULL);
	TRY(mq_timedsend, fd, text, 65, 0, NULL);
	TRY(mq_timedsend, fd, BAD, 2, 0, NULL);
	TRY(mq_timedsend, fd, "a", 2, 0, BAD);
	TRY(mq_timedsend, fd, "a", 2, 0, &bad);
	TRY(mq_timedreceive, writer, text, 64, NULL, NULL);
	TRY(mq_timedreceive, 0, text, 64, NULL, NULL);
	TRY(mq_timedreceive, 99, text, 64, NULL, NULL);
	TRY(mq_timedreceive, fd, text, 63, NULL, NULL);
	TRY(mq_timedreceive, fd, text, 64, NULL, &past);
	TRY(mq_timedreceive, fd, text, 64, NULL, BAD);
	TRY(mq_timedreceive, fd, text, 64, NULL, &bad);
	TRY(mq_timedsend, fd, "low", 4, 1, NULL);
	TRY(mq_timedsend, fd, "high", 5, 9, NULL);
	READY(fd);
	TRY(mq_timedsend, fd, "high again", 11, 9, NULL);
	READY(fd);
	QUEUE(fd);
	TRY(mq_timedsend, writer, "full", 5, 0, NULL);
	TRY(mq_timedsend, fd, "full", 5, 0, &past);
	TAKE(fd);
	TAKE(reader);
	TAKE(fd);
	TRY(mq_getsetattr, fd, &a, NULL);
	QUEUE(fd);
	TAKE(fd);
	a.mq_flags = 1;
	TRY(mq_getsetattr, fd, &a, NULL);
	TRY(mq_getsetattr, fd, BAD, NULL);
	TRY(mq_getsetattr, fd, NULL, BAD);
	TRY(mq_getsetattr, 0, NULL, &a);
	TRY(mq_getsetattr, 99, NULL, &a);
	TRY(mq_timedsend, fd, "lost", 5, 0, NULL);
	TRY(mq_timedreceive, fd, BAD, 64, &priority, NULL);
	QUEUE(fd);
	a.mq_flags = 0;
	TRY(mq_getsetattr, fd, &a, NULL);
	fflush(stdout);
	if (!fork()) {
		TAKE(fd);
		fflush(stdout);
		_exit(0);
	}
	TRY(mq_timedsend, fd, "for the child", 14, 3, NULL);
	wait(NULL);
	close(fd), close(reader), close(writer);
}

static void notifying(void)
{
	int fd = (int)syscall(SYS_mq_open, name, O_RDWR, 0, NULL);
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1, .sigev_value.sival_int = 77 };
	siginfo_t info;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigprocmask(SIG_BLOCK, &set, NULL);
	TRY(mq_notify, fd, BAD);
	TRY(mq_notify, 0, &event);
	TRY(mq_notify, 99, NULL);
	event.sigev_signo = 65;
	TRY(mq_notify, fd, &event);
	event.sigev_signo = SIGUSR1, event.sigev_notify = 7;
	TRY(mq_notify, fd, &event);
	event.sigev_notify = SIGEV_SIGNAL;
	TRY(mq_notify, fd, &event);
	TRY(mq_notify, fd, &event);
	TRY(mq_timedsend, fd, "one", 4, 0, NULL);
	CALL(sigwaitinfo(&set, &info));
	printf("%d %d %d %u\n", info.si_code, info.si_value.sival_int, info.si_pid == getpid(), info.si_uid);
	TRY(mq_notify, fd, &event);
	TRY(mq_timedsend, fd, "two", 4, 0, NULL); /* the queue was not empty */
	CALL(sigtimedwait(&set, &info, &(struct timespec){ 0, 0 }));
	TRY(mq_notify, fd, NULL);
	TRY(mq_notify, fd, NULL);
	TRY(mq_notify, fd, &event);
	TRY(mq_unlink, name);
	TRY(mq_open, name, O_RDWR, 0, NULL);
	TAKE(fd);
	QUEUE(fd);
	close(fd);
}

/* -- other processes -- */

static void other_memory(void)
{
	static char there[64] = "what the child has";
	char mine[64] = "", more[8] = "";
	struct iovec local[2] = { { more, 4 }, { mine, 60 } }, remote[2] = { { there, 10 }, { there + 10, 54 } };
	int ready[2], go[2], child;
	char byte;

	if (pipe(ready) || pipe(go))
		return;
	fflush(stdout);
	child = fork();
	if (!child) {
		strcpy(there, "only the child has this");
		(void)!write(ready[1], "", 1);
		(void)!read(go[0], &byte, 1);
		puts(there);
		fflush(stdout);
		_exit(0);
	}
	(void)!read(ready[0], &byte, 1);
	TRY(process_vm_readv, child, local, 2, remote, 2, 0);
	printf("%.4s %s\n", more, mine);
	TRY(process_vm_readv, child, local, 2, remote, 2, 1);
	TRY(process_vm_readv, child, local, 1025, remote, 2, 0);
	TRY(process_vm_readv, child, local, 2, remote, 1025, 0);
	TRY(process_vm_readv, child, BAD, 2, remote, 2, 0);
	TRY(process_vm_readv, child, local, 2, BAD, 2, 0);
	TRY(process_vm_readv, child, local, 0, remote, 2, 0);
	TRY(process_vm_readv, child, local, 2, remote, 0, 0);
	TRY(process_vm_readv, 1 << 30, local, 2, remote, 2, 0);
	remote[1].iov_base = BAD;
	TRY(process_vm_readv, child, local, 2, remote, 2, 0);
	remote[0].iov_base = BAD;
	TRY(process_vm_readv, child, local, 2, remote, 2, 0);
	remote[0] = (struct iovec){ there, 20 };
	strcpy(mine, "this is new");
	TRY(process_vm_writev, child, &local[1], 1, remote, 1, 0);
	CALL(syscall(SYS_kcmp, getpid(), child, 1, 0, 0) > 0);
	TRY(kcmp, getpid(), getpid(), 1, 0, 0);
	CALL(syscall(SYS_kcmp, getpid(), child, 0, 0, 0));
	TRY(kcmp, getpid(), child, 0, ready[0], ready[0]);
	TRY(kcmp, getpid(), child, 0, 99, 0);
	TRY(kcmp, getpid(), getpid(), 2, 0, 0);
	TRY(kcmp, getpid(), getpid(), 3, 0, 0);
	TRY(kcmp, getpid(), getpid(), 4, 0, 0);
	TRY(kcmp, getpid(), child, 6, 0, 0);
	TRY(kcmp, getpid(), getpid(), 77, 0, 0);
	TRY(kcmp, getpid(), 1 << 30, 1, 0, 0);
	IN_CHILD {
		become(NOBODY);
		TRY(process_vm_readv, child, local, 2, remote, 1, 0);
		TRY(kcmp, getpid(), child, 1, 0, 0);
	}
	(void)!write(go[1], "", 1);
	wait(NULL);
	close(ready[0]), close(ready[1]), close(go[0]), close(go[1]);
}

static void the_rest(void)
{
	char entries[4096], *page = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int fd, other;

	close(open("file", O_CREAT | O_WRONLY, 0600));
	mkdir("folder", 0700);
	fd = open(".", O_RDONLY);
	CALL(fd > 0);
	long size = TRY(getdents, fd, entries, sizeof(entries));
	unsigned seen = 0;
	for (long at = 0; at < size;) {
		unsigned short length = *(unsigned short *)(entries + at + 16);
		const char *entry = entries + at + 18;

		seen |= !strcmp(entry, "file") && entries[at + length - 1] == 8;
		seen |= (!strcmp(entry, "folder") && entries[at + length - 1] == 4) * 2;
		seen |= !strcmp(entry, "..") * 4;
		at += length;
	}
	printf("%u\n", seen);
	TRY(getdents, fd, entries, sizeof(entries));
	lseek(fd, 0, SEEK_SET);
	TRY(getdents, fd, entries, 10);
	TRY(getdents, fd, BAD, sizeof(entries));
	TRY(getdents, 99, entries, sizeof(entries));
	TRY(getdents, (other = open("file", O_RDONLY)), entries, sizeof(entries));
	TRY(pkey_alloc, 1, 0);
	TRY(pkey_alloc, 0, 4);
	TRY(pkey_free, 99);
	TRY(pkey_mprotect, page, 4096, PROT_READ | PROT_WRITE, -1);
	*page = 1;
	TRY(pkey_mprotect, page, 4096, PROT_READ, 99);
	TRY(unshare, 0);
	TRY(unshare, 1);
	TRY(unshare, CLONE_FILES | CLONE_FS | CLONE_SYSVSEM);
	TRY(setns, 99, 0);
	TRY(setns, other, 0);
	TRY(sethostname, "", -1);
	TRY(sethostname, "", 65);
	TRY(sethostname, BAD, 5);
	TRY(setdomainname, BAD, 5);
	TRY(setdomainname, "", 65);
	IN_CHILD {
		become(NOBODY);
		TRY(sethostname, "x", 1);
		TRY(setdomainname, "x", 1);
		TRY(unshare, CLONE_NEWUTS);
	}
	close(fd), close(other);
}

int main(int argc, char **argv)
{
	if (enter_folder(argc, argv))
		return 1;
	opening();
	sending();
	notifying();
	other_memory();
	the_rest();
	return 42;
}
