// SPDX-License-Identifier: Apache-2.0
#include "container.h"

#include "agent.pb.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>

/* The capacity of a pipe. */
#define READ_MAX (256 << 10)

static void reader_ready(struct watch *watch, uint32_t events);
static void writer_ready(struct watch *watch, uint32_t events);

void stdio_init(struct stdio *io)
{
	memset(io, 0, sizeof(*io));
	io->in.watch.fd = io->out.watch.fd = io->err.watch.fd = io->listener = -1;
	io->in.watch.ready = writer_ready;
	io->out.watch.ready = io->err.watch.ready = reader_ready;
}

/* Watch the descriptor only while a call is parked: a stream at its end would always be ready. */
static int stream_park(struct stream *stream, struct call *call, uint32_t events)
{
	int error = stream->watched ? 0 : watch_add(&stream->watch, events);

	if (error)
		return error;
	stream->watched = true;
	stream->call = call;
	return 0;
}

static struct call *stream_unpark(struct stream *stream)
{
	struct call *call = stream->call;

	if (stream->watched)
		watch_remove(&stream->watch);
	stream->watched = false;
	stream->call = NULL;
	if (call)
		call->cancel = NULL;
	return call;
}

static void parked_cancel(struct call *call)
{
	stream_unpark(call->owner);
}

void stream_close(struct stream *stream)
{
	struct call *call = stream_unpark(stream);

	if (stream->watch.fd >= 0)
		close(stream->watch.fd);
	stream->watch.fd = -1;
	if (call)
		call_fail(call, STATUS_OUT_OF_RANGE, "the stream was closed");
}

static int pipe_open(int *ours, int *theirs, bool ours_writes)
{
	int ends[2];

	if (pipe2(ends, O_CLOEXEC))
		return -errno;
	/* One message fills it. It takes memory for what it contains only. */
	(void)fcntl(ends[0], F_SETPIPE_SZ, READ_MAX);
	*ours = ends[ours_writes];
	*theirs = ends[!ours_writes];
	return fcntl(*ours, F_SETFL, O_NONBLOCK) ? -errno : 0;
}

static int console_listen(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd;

	if (strlen(path) >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	strcpy(address.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	unlink(path);
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) || listen(fd, 1)) {
		int error = -errno;

		close(fd);
		return error;
	}
	return fd;
}

int stdio_open(struct stdio *io, bool terminal, int child[CHILD_FDS])
{
	static unsigned int number;
	int error;

	io->terminal = terminal;
	if (terminal) {
		io->console = xasprintf(AGENT_DIR "/console.%u", number++);
		io->listener = console_listen(io->console);
		return io->listener < 0 ? io->listener : 0;
	}
	error = pipe_open(&io->in.watch.fd, &child[0], true);
	if (!error)
		error = pipe_open(&io->out.watch.fd, &child[1], false);
	if (!error)
		error = pipe_open(&io->err.watch.fd, &child[2], false);
	return error;
}

void stdio_close_child(const int child[CHILD_FDS])
{
	for (int i = 0; i < CHILD_FDS; i++) {
		if (child[i] >= 0)
			close(child[i]);
	}
}

static void listener_close(struct stdio *io)
{
	if (io->listener >= 0)
		close(io->listener);
	io->listener = -1;
	if (io->console)
		unlink(io->console);
	free(io->console);
	io->console = NULL;
}

/* Accept a connection on `listener`, and receive the descriptor in its only message; -errno. */
static int terminal_receive(int listener)
{
	char name[256], control[CMSG_SPACE(sizeof(int))];
	struct iovec data = { .iov_base = name, .iov_len = sizeof(name) };
	struct msghdr message = {
		.msg_iov = &data,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof(control),
	};
	struct cmsghdr *header;
	int fd = -ENOTTY, from = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (from < 0)
		return -errno;
	if (recvmsg(from, &message, MSG_CMSG_CLOEXEC) < 0)
		fd = -errno;
	else if ((header = CMSG_FIRSTHDR(&message)) && header->cmsg_level == SOL_SOCKET &&
		 header->cmsg_type == SCM_RIGHTS)
		memcpy(&fd, CMSG_DATA(header), sizeof(fd));
	close(from);
	return fd;
}

int stdio_take_terminal(struct stdio *io, unsigned int rows, unsigned int columns)
{
	int fd;

	if (io->listener < 0)
		return 0;
	fd = terminal_receive(io->listener);
	listener_close(io);
	if (fd < 0)
		return fd;
	/* Duplicated, since epoll allows one watch per descriptor. */
	io->out.watch.fd = fd;
	io->in.watch.fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	if (io->in.watch.fd < 0 || fcntl(fd, F_SETFL, O_NONBLOCK))
		return -errno;
	return rows ? stdio_resize(io, rows, columns) : 0;
}

void stdio_deinit(struct stdio *io)
{
	stream_close(&io->in);
	stream_close(&io->out);
	stream_close(&io->err);
	listener_close(io);
}

/* True if the call was answered. */
static bool try_read(struct stream *stream, struct call *call, size_t size)
{
	static char buffer[READ_MAX];
	ssize_t got = read(stream->watch.fd, buffer, size < READ_MAX ? size : READ_MAX);

	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	/* EIO: the last process has closed the terminal. */
	if (got < 0 && errno != EIO)
		call_fail(call, STATUS_INTERNAL, "read: %s", strerror(errno));
	else if (got <= 0)
		call_fail(call, STATUS_OUT_OF_RANGE, "end of the stream");
	else
		call_reply_bytes(call, buffer, got);
	return true;
}

static void reader_ready(struct watch *watch, uint32_t events)
{
	struct stream *stream = container_of(watch, struct stream, watch);
	struct call *call = stream_unpark(stream);
	grpc_ReadStreamRequest *request;

	(void)events;
	if (!call)
		return;
	request = call->request;
	stream_read(stream, call, request->len);
}

void stream_read(struct stream *stream, struct call *call, size_t size)
{
	int error;

	if (stream->watch.fd < 0) {
		call_fail(call, STATUS_OUT_OF_RANGE, "end of the stream");
		return;
	}
	if (stream->call) {
		call_fail(call, STATUS_FAILED_PRECONDITION, "the stream is being read");
		return;
	}
	if (!size) {
		call_fail(call, STATUS_INVALID_ARGUMENT, "len is 0");
		return;
	}
	if (try_read(stream, call, size))
		return;
	error = stream_park(stream, call, EPOLLIN);
	if (error) {
		call_fail(call, STATUS_INTERNAL, "cannot wait for the stream: %s", strerror(-error));
		return;
	}
	call->owner = stream;
	call->cancel = parked_cancel;
}

static void write_some(struct stream *stream, struct call *call)
{
	grpc_WriteStreamResponse answer = grpc_WriteStreamResponse_init_zero;
	int error;

	while (stream->done < call->data_size) {
		ssize_t put = write(stream->watch.fd, call->data + stream->done, call->data_size - stream->done);

		if (put < 0 && errno == EINTR)
			continue;
		if (put < 0 && errno == EAGAIN) {
			error = stream_park(stream, call, EPOLLOUT);
			if (error) {
				call_fail(call, STATUS_INTERNAL, "cannot wait for the stream: %s", strerror(-error));
				return;
			}
			call->owner = stream;
			call->cancel = parked_cancel;
			return;
		}
		if (put < 0) {
			call_fail(call, STATUS_FAILED_PRECONDITION, "nobody reads the stream: %s", strerror(errno));
			return;
		}
		stream->done += put;
	}
	answer.len = stream->done;
	call_reply(call, grpc_WriteStreamResponse_fields, &answer);
}

static void writer_ready(struct watch *watch, uint32_t events)
{
	struct stream *stream = container_of(watch, struct stream, watch);
	struct call *call = stream_unpark(stream);

	(void)events;
	if (call)
		write_some(stream, call);
}

void stream_write(struct stream *stream, struct call *call)
{
	if (stream->watch.fd < 0) {
		call_fail(call, STATUS_FAILED_PRECONDITION, "the stream is closed");
		return;
	}
	if (stream->call) {
		call_fail(call, STATUS_FAILED_PRECONDITION, "the stream is being written");
		return;
	}
	stream->done = 0;
	write_some(stream, call);
}

int stdio_resize(struct stdio *io, unsigned int rows, unsigned int columns)
{
	struct winsize size = { .ws_row = rows, .ws_col = columns };

	if (!io->terminal || io->out.watch.fd < 0)
		return -ENOTTY;
	return ioctl(io->out.watch.fd, TIOCSWINSZ, &size) ? -errno : 0;
}
