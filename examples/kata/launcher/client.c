// SPDX-License-Identifier: Apache-2.0
/*
 * pyvmm-oci-client [--runsc RUNSC] WARM PYTHON SCRIPT -- COMMAND LINE: the launcher of pyvmm-oci. The container's monitor
 * runs `exec` without a terminal, `start`, `kill` and `state`. A process of the pool runs `create` and `run` (pool.c).
 * For everything else, and whenever these do not answer or refuse, the launcher starts the whole pyvmm-oci, SCRIPT,
 * whose errors the user then sees. A process that refuses has changed nothing.
 *
 * With --runsc, the command line is that of pyvmm-runsc. It is translated, or PYTHON starts RUNSC (runsc.c).
 *
 * PYTHON -IS starts SCRIPT. Only commands that make a container start by WARM PYTHON (pyvmm-warm): the imports of other
 * commands are not worth rebuilding the process image.
 *
 * The launcher exists because a Python start takes longer than running a program in a virtual machine.
 */

#include "client.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define FAILED CHANNEL_FAILED
#define ANSWER_MS 90000
#define STATE_MS 1000 /* after that, the state comes from the file */
#define STATE_SIZE (16 << 20)
#define COMMAND_LINE 5 /* its index in argv */

/* -- the monitor -- */

static int monitor_connect(const struct options *options)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int root, folder, fd;

	root = open(options->root, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (root < 0)
		return -errno;
	folder = openat(root, options->container, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	close(root);
	if (folder < 0)
		return -errno;
	/* A socket's path must be short, which the folder's may not be: use its descriptor. */
	snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/control", folder);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address))) {
		close(fd);
		fd = -1;
	}
	close(folder);
	return fd < 0 ? -errno : fd;
}

/* Send a line of JSON with the size of the arguments and the descriptors, then the zero-terminated arguments. */
static bool request_send(int fd, const struct options *options, int process)
{
	const int fds[] = { 0, 1, 2, process };
	char line[64];
	size_t size = 0;
	int length;

	for (size_t i = 0; options->arguments[i]; i++)
		size += strlen(options->arguments[i]) + 1;
	length = snprintf(line, sizeof(line), "{\"op\": \"exec_command\", \"bytes\": %zu}\n", size);
	if (!line_send(fd, line, length, fds, process < 0 ? 3 : 4))
		return false;
	for (size_t i = 0; options->arguments[i]; i++) {
		if (!send_all(fd, options->arguments[i], strlen(options->arguments[i]) + 1))
			return false;
	}
	return true;
}

/* The answer to a request, or NULL after a timeout. */
static const char *channel_answer(struct channel *channel, int milliseconds)
{
	struct pollfd ready = { .fd = channel->fd, .events = POLLIN };
	const char *line;

	while (!(line = channel_line(channel))) {
		if (poll(&ready, 1, milliseconds) <= 0 || channel_read(channel))
			return NULL;
	}
	return line;
}

/* Whether the monitor has started the program. */
static bool channel_started(struct channel *channel)
{
	const char *line = channel_answer(channel, ANSWER_MS);

	return line && !strncmp(line, "{\"pid\":", 7);
}

static void signal_send(int signals, int fd)
{
	struct signalfd_siginfo info;
	char line[64];

	if (read(signals, &info, sizeof(info)) != sizeof(info))
		return;
	send_all(fd, line, snprintf(line, sizeof(line), "{\"signal\": %u}\n", info.ssi_signo));
}

/* Represent the process, as a shell's child would: forward signals to it. Returns its exit status. */
static int process_attend(struct channel *channel, int signals)
{
	struct pollfd ready[] = {
		{ .fd = channel->fd, .events = POLLIN },
		{ .fd = signals, .events = POLLIN },
	};
	const char *line;
	int status;

	while (!(line = channel_line(channel))) {
		if (poll(ready, 2, -1) < 0)
			continue;
		if (ready[1].revents)
			signal_send(signals, channel->fd);
		if (ready[0].revents && channel_read(channel))
			return FAILED;
	}
	return sscanf(line, "{\"exit\": %d", &status) == 1 ? status : FAILED;
}

/* Write the file atomically, without following another user's link. */
static bool pid_write(const char *path, pid_t pid)
{
	char *new_path;
	int fd;
	bool done;

	if (!path)
		return true;
	if (asprintf(&new_path, "%s.%d.new", path, getpid()) < 0)
		return false;
	fd = open(new_path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
	done = fd >= 0 && dprintf(fd, "%d", pid) > 0;
	done = fd >= 0 && !close(fd) && done && !rename(new_path, path);
	free(new_path);
	return done;
}

/* A child remains for the process, in its own session and without our caller's streams. */
static int leave_child(const struct options *options, struct channel *channel, int signals)
{
	pid_t pid = fork();

	if (pid < 0)
		return FAILED; /* closing the connection ends the process */
	if (!pid) {
		int null = open("/dev/null", O_RDWR);

		setsid();
		for (int fd = 0; fd < 3; fd++)
			dup2(null, fd);
		return process_attend(channel, signals);
	}
	if (!pid_write(options->pid_file, pid)) {
		fprintf(stderr, "--pid-file %s: %s\n", options->pid_file, strerror(errno));
		kill(pid, SIGKILL);
		return 1;
	}
	return 0;
}

/* Send a `start` or a `kill` to the monitor. 0; -1: it did not run it. */
static int ask_monitor(const struct options *options)
{
	struct channel channel = { .fd = monitor_connect(options) };
	const char *answer;
	char line[64];
	int size;

	if (channel.fd < 0)
		return -1;
	if (options->command == COMMAND_START)
		size = snprintf(line, sizeof(line), "{\"op\": \"start\", \"hooks\": false}\n");
	else
		size = snprintf(line, sizeof(line), "{\"op\": \"kill\", \"signal\": %d, \"all\": %s}\n", options->signal,
				options->all ? "true" : "false");
	if (!send_all(channel.fd, line, size))
		return -1;
	answer = channel_answer(&channel, ANSWER_MS);
	return answer && !strcmp(answer, "{}") ? 0 : -1;
}

/* Print the state that the monitor reports. 0; -1: it reports none, and nothing was printed. */
static int state_print(const struct options *options)
{
	static const char request[] = "{\"op\": \"state\"}\n";
	struct channel channel = { .fd = monitor_connect(options) };
	const char *answer;
	char *text;
	size_t size;

	if (channel.fd < 0 || !send_all(channel.fd, request, strlen(request)))
		return -1;
	answer = channel_answer(&channel, STATE_MS);
	if (!answer || sscanf(answer, "{\"bytes\": %zu", &size) != 1 || size < channel.used || size > STATE_SIZE)
		return -1;
	text = malloc(size + 1);
	if (!text)
		return -1;
	memcpy(text, channel.text, channel.used);
	while (channel.used < size) {
		const ssize_t got = recv(channel.fd, text + channel.used, size - channel.used, 0);

		if (got <= 0)
			return -1;
		channel.used += got;
	}
	return fwrite(text, 1, size, stdout) == size && !fflush(stdout) ? 0 : 1;
}

/* Run an `exec` through the monitor. Returns the exit status; -1: it did not run it. */
static int exec_by_monitor(const struct options *options)
{
	struct channel channel = { .fd = monitor_connect(options) };
	int process = -1, signals, status = -1;
	sigset_t before;

	if (channel.fd < 0)
		return -1;
	if (options->process) {
		process = open(options->process, O_RDONLY | O_CLOEXEC);
		if (process < 0)
			return -1;
	}
	if (!options->detach && !pid_write(options->pid_file, getpid()))
		return -1;
	/* Signals that arrive before the process runs are forwarded once it does. */
	signals = signals_take(false, &before);
	if (signals >= 0 && request_send(channel.fd, options, process) && channel_started(&channel))
		status = options->detach ? leave_child(options, &channel, signals) : process_attend(&channel, signals);
	sigprocmask(SIG_SETMASK, &before, NULL);
	return status;
}

static int by_monitor(const struct options *options)
{
	if (options->command == COMMAND_EXEC)
		return exec_by_monitor(options);
	return options->command == COMMAND_STATE ? state_print(options) : ask_monitor(options);
}

/* Delete a container that `run` made; no other process does. */
static void leave_nothing(char *argv[], const struct options *options)
{
	char *line[] = { argv[0],  argv[1],	argv[2],   argv[3], NULL, "--root", (char *)options->root,
			 "delete", "--force", (char *)options->container, NULL };
	pid_t pid = fork();

	if (!pid)
		_exit(whole_run(line, false));
	while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
}

/* The arguments of this program for a command line of pyvmm-runsc, which `argv` has. Does not return if that does it. */
static char **translate(char *argv[])
{
	char *script = argv[2], **own = argv + 2, **line = runsc_translate(own + COMMAND_LINE);
	size_t count = 0;
	char **made;

	if (!line) {
		own[3] = script;
		exit(whole_run(own, false));
	}
	while (line[count])
		count++;
	made = calloc(COMMAND_LINE + count + 1, sizeof(*made));
	if (!made)
		exit(FAILED);
	memcpy(made, own, COMMAND_LINE * sizeof(*made));
	memcpy(made + COMMAND_LINE, line, count * sizeof(*made));
	made[0] = argv[0];
	return made;
}

int main(int argc, char *argv[])
{
	const bool runsc = argc > 2 && !strcmp(argv[1], "--runsc");
	char *const *line;
	struct options options;
	int status = -1;
	bool left = false;

	if (argc - 2 * runsc < COMMAND_LINE || strcmp(argv[COMMAND_LINE - 1 + 2 * runsc], "--")) {
		fprintf(stderr, "usage: %s [--runsc RUNSC] WARM PYTHON SCRIPT -- COMMAND LINE\n", argv[0]);
		return FAILED;
	}
	caches_place();
	if (runsc)
		argv = translate(argv);
	line = argv + COMMAND_LINE;
	if (options_parse(line, &options)) {
		if (options.makes)
			status = run_by_pool(&options, line, &left);
		else
			status = by_monitor(&options);
	}
	if (left)
		leave_nothing(argv, &options);
	return status >= 0 ? status : whole_run(argv, options.makes);
}
