// SPDX-License-Identifier: Apache-2.0
/*
 * Starts a program from a process with many threads, without copying its memory.
 *
 * Until execve() the child shares the memory, as with vfork(); it runs on its own stack and makes only system calls. A
 * process enters a new PID namespace only at its creation. Without the privilege for that, the child also gets a user
 * namespace, where it has all capabilities. The only user there is this process's, with the same id.
 */
#include "base/native.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SPAWN_STACK = 64 << 10 };

struct spawn {
	const char *path;
	char *const *argv, *const *env; /* argv: NULL: only the program's name */
	bool session;                   /* start a new session */
	int sock, more, err;            /* more: becomes descriptor SPAWN_SOCKET + 1; -1: none */
	char uid_map[64], gid_map[64]; /* empty without a user namespace */
};

static int spawn_write(const char *path, const char *text)
{
	ssize_t len = (ssize_t)strlen(text);
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	int ret = -1;

	if (fd < 0)
		return -1;
	if (write(fd, text, (size_t)len) == len)
		ret = 0;
	close(fd);
	return ret;
}

/* execve() drops the capabilities of a non-root process, except ambient ones: make them all ambient. */
static int spawn_keep_caps(void)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2];

	if (syscall(SYS_capget, &head, data) < 0)
		return -1;
	data[0].inheritable = data[0].permitted;
	data[1].inheritable = data[1].permitted;
	if (syscall(SYS_capset, &head, data) < 0)
		return -1;
	for (unsigned long cap = 0; cap < 64; cap++)
		if (data[cap / 32].permitted >> (cap % 32) & 1)
			prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0);
	return 0;
}

static int spawn_main(void *arg)
{
	struct spawn *s = arg;
	const char *slash = strrchr(s->path, '/');
	char *name[] = { (char *)(uintptr_t)(slash ? slash + 1 : s->path), NULL }, *empty[] = { NULL };
	struct sigaction dfl = { .sa_handler = SIG_DFL };
	int more = -1;
	sigset_t none;

	for (int sig = 1; sig < NSIG; sig++)
		sigaction(sig, &dfl, NULL);
	if (*s->uid_map && (spawn_write("/proc/self/setgroups", "deny") || spawn_write("/proc/self/uid_map", s->uid_map) ||
			    spawn_write("/proc/self/gid_map", s->gid_map) || spawn_keep_caps()))
		goto fail;
	/*
	 * Move it away from the socket's number. The child has its own descriptor table, so the parent keeps its
	 * numbers.
	 */
	if (s->more >= 0) {
		more = fcntl(s->more, F_DUPFD, SPAWN_SOCKET + 2);
		if (more < 0)
			goto fail;
	}
	/* dup2() to the same number would not clear close-on-exec. */
	if (s->sock == SPAWN_SOCKET ? fcntl(s->sock, F_SETFD, 0) < 0 : dup2(s->sock, SPAWN_SOCKET) < 0)
		goto fail;
	if (more >= 0 && dup2(more, SPAWN_SOCKET + 1) < 0)
		goto fail;
	if (syscall(SYS_close_range, SPAWN_SOCKET + (more >= 0 ? 2 : 1), ~0U, CLOSE_RANGE_CLOEXEC) < 0)
		goto fail;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (s->session)
		setsid();
	execve(s->path, s->argv ? s->argv : name, s->env ? s->env : empty);
fail:
	s->err = errno;
	_exit(127);
}

static int spawn_try(struct spawn *s, int flags, int *pid)
{
	/*
	 * Root owns the /proc files of a process that is not dumpable. The child shares our memory and so this flag: it
	 * could not write its uid_map.
	 */
	const bool hidden = flags & CLONE_NEWUSER && prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) != 1;
	int pidfd = -1;
	void *stack;

	stack = mmap(NULL, SPAWN_STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
	if (stack == MAP_FAILED)
		return -errno;
	s->err = 0;
	s->uid_map[0] = 0;
	if (flags & CLONE_NEWUSER) {
		snprintf(s->uid_map, sizeof(s->uid_map), "%u %u 1", geteuid(), geteuid());
		snprintf(s->gid_map, sizeof(s->gid_map), "%u %u 1", getegid(), getegid());
	}
	if (hidden)
		prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
	*pid = clone(spawn_main, (char *)stack + SPAWN_STACK, CLONE_VM | CLONE_VFORK | CLONE_PIDFD | SIGCHLD | flags, s, &pidfd);
	if (*pid < 0)
		s->err = errno;
	if (hidden)
		prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	munmap(stack, SPAWN_STACK);
	if (*pid > 0 && s->err) {
		if (!(flags & CLONE_PARENT))
			waitpid(*pid, NULL, 0);
		close(pidfd);
	}
	return s->err ? -s->err : pidfd;
}

int process_spawn(const char *path, int *sock, int *pid)
{
	static const int ways[] = { CLONE_NEWPID, CLONE_NEWUSER | CLONE_NEWPID, 0 };
	struct spawn s = { .path = path, .more = -1 };
	sigset_t all, before;
	int ret = -EPERM, pair[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	s.sock = pair[1];
	/* Block signals: the child shares our memory, so none of our handlers may run in it. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	for (size_t i = 0; i < sizeof(ways) / sizeof(*ways); i++) {
		ret = spawn_try(&s, ways[i], pid);
		if (ret != -EPERM && ret != -EACCES && ret != -ENOSPC && ret != -EINVAL && ret != -EUSERS)
			break;
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	close(pair[1]);
	if (ret < 0)
		close(pair[0]);
	else
		*sock = pair[0];
	return ret;
}

void spawn_serve(int sock, int more, char *const *argv)
{
	struct spawn s = { .path = argv[0], .argv = argv, .env = environ, .session = true, .more = more };
	struct spawn_answer answer;
	sigset_t all;
	char byte;
	int pidfd;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, NULL);
	while (!fd_socket_recv(sock, &byte, sizeof(byte), &s.sock, 1) && s.sock >= 0) {
		pidfd = spawn_try(&s, CLONE_PARENT, &answer.pid);
		answer.err = pidfd < 0 ? -pidfd : 0;
		if (pidfd >= 0)
			close(pidfd);
		close(s.sock);
		if (fd_socket_send(sock, &answer, sizeof(answer), NULL, 0))
			break;
	}
}
