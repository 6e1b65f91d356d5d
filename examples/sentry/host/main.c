// SPDX-License-Identifier: Apache-2.0
/* The platforms that are processes of the host: runs a program on the Sentry's core, and ends as the program ended. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "below.h"
#include "device.h"
#include "host.h"
#include "image.h"
#include "terminal.h"

enum { CANNOT_RUN = 126, MIB = 1 << 20, LEAST = 16, MOST = 65536, PIDS = 1024, MOST_PIDS = 32768, MOST_CPUS = 64 };

struct options {
	u64 memory; /* MiB */
	u64 pids;   /* tasks at once */
	u64 cpus;
	const char *root; /* an archive */
	const char *directory;
	bool strace, scratch, hooks, control;
	int nursery; /* a socket; -1 */
};

static const char usage[] = "usage: [--control] [--hooks] [--nursery SOCKET] [--strace] [--scratch] [--memory MIB] [--pids NUMBER] [--cpus NUMBER] [--archive FILE] [--directory DIR] -- [PROGRAM [ARGUMENT]...]";
static PROCESS_LOCAL pid_t self;
PROCESS_LOCAL bool may_be_stopped;
PROCESS_LOCAL int points_fd = -1;
static const char *subject = platform_program;
static bool controlled; /* the host starts programs, by calls; standard input is a pipe that it holds open */

/* Without a stream, which would need memory: by now the process may be confined. */
_Noreturn void fail(const char *what)
{
	char line[512];
	/* A raw terminal does not return to the first column by itself. */
	int size = snprintf(line, sizeof(line), "%.256s: %s%s\n", subject, what, terminal_fd < 0 ? "" : "\r");

	if (write(2, line, (size_t)size) < 0)
		_exit(CANNOT_RUN);
	_exit(CANNOT_RUN);
}

/* -- what the core needs of the host -- */

static bool is_served_beside; /* there is a CPU for the server of files while this process runs */
static bool reported; /* input that no task has read yet: it ends no further wait */

_Static_assert(SOURCES == 1 + DEVICES + FAILURES, "a source without a place");

void sources_get(struct pollfd *sources, bool at_once)
{
	sources[0] = (struct pollfd){ .fd = !at_once && reported && !controlled ? -1 : 0, .events = POLLIN };
	for (u32 i = 0; i < DEVICES; i++)
		sources[1 + i] = (struct pollfd){ .fd = served[i].irq, .events = POLLIN };
	for (u32 i = 0; i < FAILURES; i++)
		sources[1 + DEVICES + i] = (struct pollfd){ .fd = served[DEVICE_SHARE].failures[i], .events = POLLIN };
}

bool sources_take(const struct pollfd *sources, bool at_once)
{
	for (u32 i = 0; i < DEVICES; i++)
		if (sources[1 + i].revents)
			device_answered(i);
	for (u32 i = 0; i < FAILURES; i++)
		if (sources[1 + DEVICES + i].revents)
			device_failed();
	if (controlled && sources[0].revents)
		_exit(0); /* the process that serves the devices has ended */
	reported = sources[0].revents || (!at_once && reported);
	return sources[0].revents;
}

/*
 * Watch the queue of requests of files for a moment: to sleep and be woken up takes longer than most answers.  A server
 * that was too slow has a disk to read, or no CPU: after that, some waits sleep at once.
 */
bool answer_comes(void)
{
	enum { PATIENCE_NS = 50000, TURNS = 32, PAUSE = 3 };
	static u32 pause;
	const u64 end = clock_nanoseconds(CLOCK_IS_MONOTONIC) + PATIENCE_NS;

	if (core_rests() || !is_served_beside || (pause && pause--))
		return false;
	do {
		for (u32 i = 0; i < TURNS; i++) {
			if (core_is_answered())
				return true;
			__builtin_ia32_pause();
		}
	} while (clock_nanoseconds(CLOCK_IS_MONOTONIC) < end);
	pause = PAUSE;
	return false;
}

static bool wait_until(u64 deadline)
{
	const u64 now = clock_nanoseconds(CLOCK_IS_MONOTONIC), rest = deadline > now ? deadline - now : 0;
	const struct timespec left = { (time_t)(rest / SECOND), (long)(rest % SECOND) };
	struct pollfd sources[SOURCES];
	sigset_t signals;

	sigemptyset(&signals);
	sigaddset(&signals, SIGALRM); /* the tick of running programs; a new size of the terminal ends the wait */
	sources_get(sources, !deadline);
	if (ppoll(sources, SOURCES, deadline == ~0ull ? NULL : &left, &signals) < 0)
		return false;
	return sources_take(sources, !deadline);
}

static s64 console_read(void *data, u64 size)
{
	ssize_t got;

	below_own_at(data, size);
	do
		got = read(0, data, size);
	while (got < 0 && errno == EINTR);
	return got < 0 ? -errno : got;
}

static s64 console_write(int stream, const void *data, u64 size)
{
	int fd = stream ? stream : terminal_fd;
	ssize_t put;

	do
		put = write(fd, data, size);
	while (put < 0 && errno == EINTR);
	return put < 0 ? -errno : put;
}

static bool console_size(int stream, u16 *rows, u16 *columns)
{
	struct winsize size;

	if (ioctl(stream, TIOCGWINSZ, &size))
		return false;
	*rows = size.ws_row;
	*columns = size.ws_col;
	return true;
}

static void random_bytes(void *data, u64 size)
{
	u8 *at = data;

	below_own_at(data, size);
	while (size) {
		ssize_t got = getrandom(at, size, 0);

		if (got <= 0)
			fail("the host has no random numbers");
		at += got;
		size -= (u64)got;
	}
}

static u8 *ram;

static bool release(u64 ram_offset, u64 size)
{
	below_drop(ram_offset, size);
	return !madvise(ram + ram_offset, size, MADV_REMOVE);
}

static void log_line(const char *line, u64 size)
{
	bool at_end = terminal_fd >= 0 && size && line[size - 1] == '\n'; /* of a line for a raw terminal */

	if (write(2, line, size - at_end) < 0 || (at_end && write(2, "\r\n", 2) < 0))
		return; /* nobody reads it */
}

static void point(enum point which, u32 value)
{
	const u32 what[2] = { which, value };

	if (write(points_fd, what, sizeof(what)) < 0)
		return; /* nobody reads it */
}

static struct platform_ops ops = {
	.wait = wait_until,
	.kick = device_kick,
	.watch = answer_comes,
	.release = release,
	.expose = below_own,
	.fatal = fail,
	.console_read = console_read,
	.console_write = console_write,
	.console_size = console_size,
	.random = random_bytes,
	.log = log_line,
	.console_resized = terminal_resized,
};

/* -- start and end -- */

static u8 *read_program(const char *path, u64 most, u64 *size)
{
	int fd = access(path, X_OK) ? -1 : open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct stat stat;
	u64 done = 0;
	u8 *data;

	if (fd < 0 || fstat(fd, &stat))
		fail(strerror(errno));
	if (!S_ISREG(stat.st_mode))
		fail("not a file");
	if ((u64)stat.st_size > most)
		fail("larger than the memory of the sandbox");
	*size = (u64)stat.st_size;
	data = malloc(*size + 1);
	while (data && done < *size) {
		ssize_t got = read(fd, data + done, *size - done);

		if (got <= 0)
			fail(got ? strerror(errno) : "it became shorter while it was read");
		done += (u64)got;
	}
	close(fd);
	if (!data)
		fail("no memory");
	return data;
}

/* The archive of the root, which the core unpacks. */
static const u8 *map_root(const char *path, u64 *size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat stat;
	void *data;

	subject = path;
	if (fd < 0 || fstat(fd, &stat))
		fail(strerror(errno));
	*size = (u64)stat.st_size;
	data = mmap(NULL, *size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (data == MAP_FAILED)
		fail(strerror(errno));
	close(fd);
	return data;
}

static const char *real_path(const char *path)
{
	const char *real = realpath(path, NULL);

	return real ? real : path;
}

/* Ends this process as the program ended. */
static _Noreturn void finish(struct core_exit end)
{
	if (end.signal) {
		signal(end.signal, SIG_DFL);
		kill(self, end.signal);
	}
	_exit(end.signal ? 128 + end.signal : end.status);
}

static u64 number(const char *text, u64 least, u64 most, const char *what)
{
	char *end;
	u64 value = strtoull(text, &end, 10);

	if (*end || value < least || value > most)
		fail(what);
	return value;
}

static u64 cpus_allowed(void)
{
	cpu_set_t set;
	u64 count = sched_getaffinity(0, sizeof(set), &set) ? 1 : (u64)CPU_COUNT(&set);

	return count < MOST_CPUS ? count : MOST_CPUS;
}

static int parse(int argc, char **argv, struct options *options)
{
	int at = 1;

	for (; at < argc && !strncmp(argv[at], "--", 2); at++) {
		if (!strcmp(argv[at], "--"))
			return at + 1;
		if (!strcmp(argv[at], "--strace")) {
			options->strace = true;
		} else if (!strcmp(argv[at], "--scratch")) {
			options->scratch = true;
		} else if (!strcmp(argv[at], "--hooks")) {
			options->hooks = true;
		} else if (!strcmp(argv[at], "--control")) {
			options->control = true;
		} else if (!strcmp(argv[at], "--nursery") && at + 1 < argc && platform_stops) {
			options->nursery = (int)number(argv[++at], 0, 1 << 20, "--nursery is a descriptor");
		} else if (!strcmp(argv[at], "--share") && at + 1 < argc) {
			if (!device_parse(DEVICE_SHARE, argv[++at]))
				fail("--share is four or six descriptors: RAM, two kicks, an irq, two failures");
		} else if (!strcmp(argv[at], "--net") && at + 1 < argc) {
			if (!device_parse(DEVICE_NET, argv[++at]))
				fail("--net is four descriptors: RAM, two kicks, an irq");
		} else if (!strcmp(argv[at], "--vsock") && at + 1 < argc) {
			if (!device_parse(DEVICE_VSOCK, argv[++at]))
				fail("--vsock is four descriptors: RAM, two kicks, an irq");
		} else if (!strcmp(argv[at], "--archive") && at + 1 < argc) {
			options->root = argv[++at];
		} else if (!strcmp(argv[at], "--directory") && at + 1 < argc) {
			options->directory = argv[++at];
		} else if (!strcmp(argv[at], "--memory") && at + 1 < argc) {
			options->memory = number(argv[++at], LEAST, MOST, "--memory is a number of MiB from 16 to 65536");
		} else if (!strcmp(argv[at], "--pids") && at + 1 < argc) {
			options->pids = number(argv[++at], 1, MOST_PIDS, "--pids is a number from 1 to 32768");
		} else if (!strcmp(argv[at], "--cpus") && at + 1 < argc) {
			options->cpus = number(argv[++at], 1, MOST_CPUS, "--cpus is a number from 1 to 64");
		} else {
			fail(usage);
		}
	}
	return at;
}

static void find_program(struct core_config *config, const struct options *options, const char *const *argv,
			 const char *const *envp)
{
	subject = config->path = argv[0];
	config->real_path = real_path(argv[0]);
	config->argv = argv;
	config->envp = envp;
	if (options->root) {
		config->root = map_root(options->root, &config->root_size);
		subject = argv[0];
	}
	if (options->root || device_is_there(DEVICE_SHARE) || options->nursery >= 0)
		config->real_path = config->path;
	else
		config->program = read_program(argv[0], config->ram_size, &config->program_size);
	config->terminal = options->nursery >= 0 ? 0 : terminal_find(config->terminal_modes);
	if (config->terminal)
		terminal_guard();
}

/* Save what another process needs to continue. Its programs end with this one. */
static _Noreturn void stopped(struct image *image)
{
	clock_stop();
	below_save();
	image_save(image);
	_exit(0);
}

/* What the core has of the host: devices, RAM, and the first process for programs. */
static void start(struct core_config *config, const struct born *born)
{
	int fd = born ? born->ram : device_ram();

	config->share_rings = device_is_there(DEVICE_SHARE) ? SHARE_RINGS : 0;
	config->net_rings = device_is_there(DEVICE_NET) ? NET_RINGS : 0;
	config->vsock_rings = device_is_there(DEVICE_VSOCK) ? VSOCK_RINGS : 0;
	config->ram_reserved = device_ram() >= 0 ? DEVICES_END : 0;
	fd = fd >= 0 ? fd : memory_create("sentry", config->ram_size);
	if (born)
		memory_map_at(ram, fd, config->ram_size);
	else
		ram = memory_map(fd, config->ram_size);
	if (born && born->below >= 0)
		below_start(born->below, fd, ram, config->ram_size);
	config->ram = ram;
	self = getpid(); /* the filter does not allow this call */
	may_be_stopped = born;
	points_fd = born ? born->points : -1;
	ops.point = born ? point : NULL;
	clock_start(&ops);
	platform_start(fd, &ops, config);
	if (below_fd() < 0) /* otherwise pages are copied there later */
		close(fd);
	if (born)
		nursery_wait();
	confine();
}

static struct core_exit run(const struct core_config *config, const struct born *born)
{
	const char *error;

	if (born && born->in) {
		image_load(born->in);
		clock_continue();
		if (born->moved)
			core_moved();
		return core_continue();
	}
	error = core_start(config);
	if (error)
		fail(error);
	return core_run();
}

int main(int argc, char **argv, char **envp)
{
	static struct core_config config; /* a part of an image */
	struct options options = { .memory = 256, .pids = PIDS, .cpus = cpus_allowed(), .nursery = -1 };
	int first = parse(argc, argv, &options);
	struct rlimit no_core = { 0, 0 };
	struct born born;
	struct core_exit end;

	if ((first >= argc) != options.control)
		fail(usage);
	config = (struct core_config){
		.ops = &ops, .ram_size = options.memory * MIB, .strace = options.strace, .scratch = options.scratch,
		.user = getuid(), .group = getgid(), .most_tasks = (u32)options.pids, .cpus = (u32)options.cpus,
		.hooks = options.hooks, .control = options.control, .directory = options.directory,
	};
	controlled = options.control;
	is_served_beside = cpus_allowed() > 1;
	if (!controlled)
		find_program(&config, &options, (const char *const *)argv + first, (const char *const *)envp);
	signal(SIGPIPE, SIG_IGN);
	setrlimit(RLIMIT_CORE, &no_core);
	platform_prepare();
	if (options.nursery >= 0) {
		ram = memory_reserve(config.ram_size);
		born = nursery_serve(options.nursery);
	}
	start(&config, options.nursery >= 0 ? &born : NULL);
	end = run(&config, options.nursery >= 0 ? &born : NULL);
	if (core_has_left())
		stopped(born.out);
	finish(end);
}
