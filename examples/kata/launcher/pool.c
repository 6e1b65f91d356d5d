// SPDX-License-Identifier: Apache-2.0
#include "client.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define FACE "pyvmm-face"
#define FACE_SOCKET 3
#define MAX_WORDS 64 /* of the proxy process's command line */
#define PLACE_SIZE 512
#define MAX_FDS 8 /* in one line */
#define ATTEND "{\"attend\":"
#define READY "{\"ready\":"
#define TAKE_MS 1000 /* the time for a pool to answer; after that, make a machine without it */
#define STATE_MAX (1 << 20)
#define PODS "/run/pyvmm/pods" /* must match pyvmm_kata.pod.pool_client */

extern char **environ;

/* -- the whole program -- */

void caches_place(void)
{
	if (!getenv("XDG_CACHE_HOME") && !getenv("HOME") && !geteuid())
		setenv("XDG_CACHE_HOME", "/var/cache", 0);
}

int whole_run(char *argv[], bool warm)
{
	argv[4] = argv[3];
	if (warm) {
		argv[3] = argv[2];
		argv[2] = argv[1];
		execv(argv[2], argv + 2);
		argv[2] = argv[3]; /* WARM does not exist */
	}
	argv[3] = "-IS";
	execvp(argv[2], argv + 2);
	fprintf(stderr, "%s: %s\n", argv[2], strerror(errno));
	return CHANNEL_FAILED;
}

/* -- the channel -- */

bool send_all(int fd, const char *data, size_t size)
{
	while (size) {
		ssize_t sent = send(fd, data, size, MSG_NOSIGNAL);

		if (sent < 0)
			return false;
		data += sent;
		size -= sent;
	}
	return true;
}

bool line_send(int fd, const char *line, size_t size, const int *fds, size_t count)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(MAX_FDS * sizeof(int))];
	} control;
	struct iovec part = { .iov_base = (char *)line, .iov_len = size };
	struct msghdr message = {
		.msg_iov = &part,
		.msg_iovlen = 1,
		.msg_control = count ? &control : NULL,
		.msg_controllen = count ? CMSG_SPACE(count * sizeof(int)) : 0,
	};

	if (count > MAX_FDS)
		return false;
	memset(&control, 0, sizeof(control));
	control.header.cmsg_level = SOL_SOCKET;
	control.header.cmsg_type = SCM_RIGHTS;
	control.header.cmsg_len = CMSG_LEN(count * sizeof(int));
	if (count)
		memcpy(CMSG_DATA(&control.header), fds, count * sizeof(int));
	return sendmsg(fd, &message, MSG_NOSIGNAL) == (ssize_t)size;
}

const char *channel_line(struct channel *channel)
{
	char *end = memchr(channel->text, '\n', channel->used);
	size_t length;

	if (!end && channel->used < sizeof(channel->text))
		return NULL;
	length = end ? (size_t)(end - channel->text) + 1 : channel->used;
	memcpy(channel->line, channel->text, length - 1);
	channel->line[length - 1] = '\0';
	channel->used -= length;
	memmove(channel->text, channel->text + length, channel->used);
	return channel->line;
}

int channel_read(struct channel *channel)
{
	ssize_t got = recv(channel->fd, channel->text + channel->used, sizeof(channel->text) - channel->used, 0);

	if (got <= 0)
		return -EPIPE;
	channel->used += got;
	return 0;
}

/* -- signals for a container -- */

int signals_take(bool children, sigset_t *before)
{
	static const int forwarded[] = { SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2 };
	sigset_t set;

	sigemptyset(&set);
	for (size_t i = 0; i < sizeof(forwarded) / sizeof(forwarded[0]); i++)
		sigaddset(&set, forwarded[i]);
	if (children)
		sigaddset(&set, SIGCHLD);
	sigprocmask(SIG_BLOCK, &set, before);
	return signalfd(-1, &set, SFD_CLOEXEC);
}

/* -- the pool -- */

/*
 * Describe our namespaces and root, which must equal the pool's, since it opens the paths of our command line. Must
 * match pyvmm_kata.oci.launcher_server.
 */
static bool place_write(char *place, size_t size)
{
	static const char *const spaces[] = { "mnt", "pid", "user", "cgroup", "net" };
	struct stat info;
	size_t used = 0;

	for (size_t i = 0; i < sizeof(spaces) / sizeof(spaces[0]); i++) {
		char path[32];
		ssize_t length;

		snprintf(path, sizeof(path), "/proc/self/ns/%s", spaces[i]);
		length = readlink(path, place + used, size - used - 64);
		if (length < 0)
			return false;
		used += length;
		place[used++] = ' ';
	}
	if (stat("/", &info))
		return false;
	snprintf(place + used, size - used, "%lu:%lu", (unsigned long)info.st_dev, (unsigned long)info.st_ino);
	return true;
}

static int pool_connect(const char *root)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	const char *slash = strrchr(root, '/'), *name = slash ? slash + 1 : "";
	struct ucred peer;
	socklen_t size = sizeof(peer);
	char *above;
	int folder, fd, length;

	/* The whole program resolves any other path. */
	if (*root != '/' || !*name || !strcmp(name, ".") || !strcmp(name, ".."))
		return -1;
	above = slash == root ? strdup("/") : strndup(root, slash - root);
	folder = above ? open(above, O_PATH | O_DIRECTORY | O_CLOEXEC) : -1;
	free(above);
	if (folder < 0)
		return -1;
	/* A socket's path must be short, which the folder's may not be: use its descriptor. */
	length = snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/%s.pool", folder, name);
	fd = length < (int)sizeof(address.sun_path) ? socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0) : -1;
	if (fd >= 0 && (connect(fd, (struct sockaddr *)&address, sizeof(address)) ||
			getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) || peer.uid != geteuid())) {
		close(fd);
		fd = -1;
	}
	close(folder);
	return fd;
}

static size_t words_size(char *const *words)
{
	size_t size = 0;

	for (; *words; words++)
		size += strlen(*words) + 1;
	return size;
}

static char *words_write(char *to, char *const *words)
{
	for (; *words; words++)
		to = stpcpy(to, *words) + 1;
	return to;
}

/* Ask whether a process accepts a command line. It does nothing before the command arrives. */
static bool request_send(int fd)
{
	char place[PLACE_SIZE], line[PLACE_SIZE + 64];

	return place_write(place, sizeof(place)) &&
	       line_send(fd, line, snprintf(line, sizeof(line), "{\"op\": \"command\", \"place\": \"%s\"}\n", place), NULL, 0);
}

/* Send our command line, environment and open descriptors. */
static bool command_send(int fd, char *const *arguments)
{
	const size_t size = words_size(arguments), all = size + words_size(environ);
	char line[128], *words = malloc(all + 1);
	mode_t mask = umask(0);
	int fds[] = { 0, 1, 2, open(".", O_PATH | O_DIRECTORY | O_CLOEXEC) };
	bool sent;
	int length;

	umask(mask);
	if (!words || fds[3] < 0)
		return false;
	words_write(words_write(words, arguments), environ);
	length = snprintf(line, sizeof(line), "{\"umask\": %u, \"words\": %zu, \"bytes\": %zu}\n", mask, size, all);
	sent = line_send(fd, line, length, fds, 4) && send_all(fd, words, all);
	close(fds[3]);
	free(words);
	return sent;
}

static bool file_actions_fill(posix_spawn_file_actions_t *actions, int sock)
{
	for (int fd = 0; fd < FACE_SOCKET; fd++) {
		if (posix_spawn_file_actions_addopen(actions, fd, "/dev/null", O_RDWR, 0))
			return false;
	}
	return !posix_spawn_file_actions_adddup2(actions, sock, FACE_SOCKET);
}

/* Start the proxy process, which its launcher makes our child. Returns our end of its socket, or -1. */
static int face_launch(char *words, size_t size)
{
	char path[4096], *argv[MAX_WORDS + 3] = { FACE, "3" }, *slash, *none[] = { NULL };
	ssize_t length = readlink("/proc/self/exe", path, sizeof(path) - sizeof(FACE));
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attributes;
	int ends[2], one = 1, fd = -1;
	sigset_t set;
	pid_t pid;

	if (length < 0 || !size || words[size - 1])
		return -1;
	path[length] = '\0';
	slash = strrchr(path, '/');
	strcpy(slash + 1, FACE);
	for (size_t i = 2, at = 0; at < size; at += strlen(words + at) + 1) {
		if (i == MAX_WORDS + 2)
			return -1;
		argv[i++] = words + at;
	}
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends))
		return -1;
	sigemptyset(&set);
	posix_spawn_file_actions_init(&actions);
	posix_spawnattr_init(&attributes);
	posix_spawnattr_setsigmask(&attributes, &set);
	posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
	if (!setsockopt(ends[0], SOL_SOCKET, SO_PASSCRED, &one, sizeof(one)) && file_actions_fill(&actions, ends[1]) &&
	    !posix_spawn(&pid, path, &actions, &attributes, argv, none)) {
		waitpid(pid, NULL, 0);
		fd = ends[0];
	} else {
		close(ends[0]);
	}
	close(ends[1]);
	return fd;
}

/* Receive a proxy process's command line, start it, and answer with its socket. */
static bool face_serve(struct channel *channel, const char *line)
{
	size_t size;
	int fd;
	bool sent;

	if (sscanf(line, "{\"face\": %zu", &size) != 1 || size > sizeof(channel->text))
		return false;
	while (channel->used < size) {
		if (channel_read(channel))
			return false;
	}
	fd = face_launch(channel->text, size);
	channel->used -= size;
	memmove(channel->text, channel->text + size, channel->used);
	if (fd < 0)
		return line_send(channel->fd, "{\"error\": \"the container's face cannot be run\"}\n", 49, NULL, 0);
	sent = line_send(channel->fd, "{}\n", 3, &fd, 1);
	close(fd);
	return sent;
}

/*
 * Handle a signal that arrives before the container exists: die of its default action, and the server removes the
 * container. If the container has just started, return that answer and raise the signal again.
 */
static const char *die_of(struct channel *channel, int number)
{
	const char *line;
	sigset_t set;

	shutdown(channel->fd, SHUT_RDWR);
	while (!(line = channel_line(channel)) && !channel_read(channel))
		;
	if (line && !strncmp(line, ATTEND, strlen(ATTEND))) {
		kill(getpid(), number);
		return line;
	}
	sigemptyset(&set);
	sigaddset(&set, number);
	signal(number, SIG_DFL);
	raise(number);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
	return NULL;
}

/*
 * Whether the container that we waited for still exists, so that only we can delete it. Its proxy process has ended,
 * but its pid is still reserved.
 */
static bool is_left(const struct options *options, pid_t face)
{
	char *path, wanted[32], *text = NULL;
	bool left = false;
	ssize_t size;
	int fd;

	if (options->keep || asprintf(&path, "%s/%s/state.json", options->root, options->container) < 0)
		return false;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	free(path);
	if (fd < 0)
		return false;
	text = calloc(STATE_MAX + 1, 1);
	size = text ? read(fd, text, STATE_MAX) : -1;
	snprintf(wanted, sizeof(wanted), "\"pid\": %d,", face);
	left = size > 0 && strstr(text, wanted);
	free(text);
	close(fd);
	return left;
}

/* Forward signals until the proxy process ends. Returns the container's exit status. */
static int face_attend(const struct options *options, pid_t face, int signals, bool *left)
{
	siginfo_t ended = { 0 };
	struct signalfd_siginfo info;

	for (;;) {
		if (waitid(P_PID, face, &ended, WEXITED | WNOHANG | WNOWAIT))
			return CHANNEL_FAILED;
		if (ended.si_pid == face)
			break;
		if (read(signals, &info, sizeof(info)) == sizeof(info) && info.ssi_signo != SIGCHLD)
			kill(face, info.ssi_signo);
	}
	*left = is_left(options, face);
	waitpid(face, NULL, 0);
	return ended.si_code == CLD_EXITED ? ended.si_status : 128 + ended.si_status;
}

/* The next line, or NULL: the peer closed or timed out. A signal ends this process. */
static const char *answer_wait(struct channel *channel, int signals, int milliseconds)
{
	struct pollfd ready[] = {
		{ .fd = channel->fd, .events = POLLIN },
		{ .fd = signals, .events = POLLIN },
	};
	struct signalfd_siginfo info;
	const char *line;

	while (!(line = channel_line(channel))) {
		const int found = poll(ready, 2, milliseconds);

		if (!found)
			return NULL;
		if (found < 0)
			continue;
		if (ready[0].revents) {
			if (channel_read(channel))
				return NULL;
		} else if (read(signals, &info, sizeof(info)) == sizeof(info) && info.ssi_signo != SIGCHLD) {
			return die_of(channel, info.ssi_signo);
		}
	}
	return line;
}

/* Send our command line to a process of the pool. Returns its first line; NULL: no process accepts it. */
static const char *front_ask(struct channel *channel, int signals, char *const *arguments)
{
	const char *line;

	if (!request_send(channel->fd) || !(line = answer_wait(channel, signals, TAKE_MS)) ||
	    strncmp(line, READY, strlen(READY)) || !command_send(channel->fd, arguments))
		return NULL;
	return answer_wait(channel, signals, -1);
}

bool shim_by_pool(char *const *arguments)
{
	struct channel channel = { .fd = pool_connect(PODS) };
	const char *line = channel.fd < 0 ? NULL : front_ask(&channel, -1, arguments);

	if (channel.fd >= 0)
		close(channel.fd);
	return line && !strncmp(line, "{\"exit\": 0", 10);
}

int run_by_pool(const struct options *options, char *const *arguments, bool *left)
{
	struct channel channel = { .fd = pool_connect(options->root) };
	const char *line;
	sigset_t before;
	int signals, status = -1, number;

	*left = false;
	if (channel.fd < 0)
		return -1;
	signals = signals_take(true, &before);
	line = signals < 0 ? NULL : front_ask(&channel, signals, arguments);
	while (line && !strncmp(line, "{\"face\":", 8))
		line = face_serve(&channel, line) ? answer_wait(&channel, signals, -1) : NULL;
	if (line && sscanf(line, "{\"exit\": %d", &number) == 1)
		status = number;
	close(channel.fd);
	if (line && sscanf(line, ATTEND " %d", &number) == 1)
		status = face_attend(options, number, signals, left);
	if (signals >= 0)
		close(signals);
	sigprocmask(SIG_SETMASK, &before, NULL);
	return status;
}
