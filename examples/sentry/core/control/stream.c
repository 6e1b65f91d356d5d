// SPDX-License-Identifier: Apache-2.0
/* Streams of processes, which the host reads and writes by calls: pipes, or a terminal. */
#include "container.h"

#include "../slab.h"
#include "../tty/tty.h"
#include "../vfs/pipe.h"

enum { READ_MOST = 64 << 10, WAITERS = 4 };

/* -- their start -- */

static void own(struct file *file, const struct cred *cred)
{
	file->inode->user = cred->user.real;
	file->inode->group = cred->group.real;
}

/* One pipe: our end, and a descriptor of the process. */
static int add_pipe(struct guest_process *guest, struct task *t, u32 number, struct file **ours)
{
	const bool input = number == 0;
	struct file *ends[2];
	s64 fd;
	int error = pipe_make(0, ends);

	if (error)
		return error;
	*ours = ends[input];
	(*ours)->flags |= O_NONBLOCK;
	own(ends[0], &guest->program.cred);
	fd = fd_install(t, ends[!input], number, false);
	return fd < 0 ? (int)fd : 0;
}

static int add_master(struct guest_process *guest)
{
	struct path path;
	int error = path_lookup("/dev/ptmx", WALK_FOLLOW, &path);

	if (error)
		return error;
	error = file_open(&path, O_RDWR | O_NONBLOCK | O_NOCTTY, &guest->input);
	path_put(&path);
	if (error)
		return error;
	file_get(guest->input);
	guest->output = guest->input;
	pty_give(guest->input, guest->container);
	tty_resize(pty_unlock(guest->input), &guest->program.size);
	return 0;
}

int streams_make(struct guest_process *guest, struct task *t)
{
	int error;

	if (guest->program.terminal)
		return add_master(guest);
	error = add_pipe(guest, t, 0, &guest->input);
	if (!error)
		error = add_pipe(guest, t, 1, &guest->output);
	return error ? error : add_pipe(guest, t, 2, &guest->errors);
}

int streams_open_terminal(struct guest_process *guest, struct task *t)
{
	struct file *file = NULL;
	struct path path;
	int error = devpts_path(pty_unlock(guest->output)->index, &path);

	if (error)
		return error;
	path.dentry->inode->user = guest->program.cred.user.real;
	error = file_open(&path, O_RDWR, &file);
	path_put(&path);
	for (u32 i = 0; !error && i < 3; i++) {
		s64 fd;

		file_get(file);
		fd = fd_install(t, file, i, false);
		error = fd < 0 ? (int)fd : 0;
	}
	if (file)
		file_put(file);
	return error;
}

static void close_stream(struct guest_process *guest, struct file **stream)
{
	struct file *file = *stream;

	*stream = NULL;
	wake_all(&guest->changed); /* calls that wait for it */
	if (file)
		file_put(file);
}

void streams_close(struct guest_process *guest)
{
	close_stream(guest, &guest->input);
	close_stream(guest, &guest->output);
	close_stream(guest, &guest->errors);
}

/* -- calls that wait for one -- */

struct wait {
	struct poll poll;
	struct waiter waiters[WAITERS];
	u32 count;
};

static void add_waiter(struct poll *poll, struct wait_queue *queue)
{
	struct wait *wait = CONTAINER(poll, struct wait, poll);

	if (wait->count < WAITERS)
		waiter_add(queue, &wait->waiters[wait->count++]);
}

/* Sleep until a stream may be ready, was closed by another call, or nobody waits for the answer. */
static s64 wait_for(struct call *call, struct guest_process *guest, struct file *file, u32 wanted)
{
	struct wait wait = { .poll = { add_waiter } };
	bool ready = file_poll(file, &wait.poll) & (wanted | POLLHUP | POLLERR);

	add_waiter(&wait.poll, &guest->changed);
	if (!ready && !call->cancelled)
		task_sleep(FOREVER);
	for (u32 i = 0; i < wait.count; i++)
		waiter_remove(&wait.waiters[i]);
	return call->cancelled ? -ECANCELED : 0;
}

static s64 closed(struct call *call)
{
	return call_fail(call, STATUS_OUT_OF_RANGE, "the stream was closed", NULL, NULL);
}

static s64 write_some(struct call *call, struct guest_process *guest, const struct reader *data)
{
	s64 put = -EAGAIN;

	while (put == -EAGAIN) {
		struct file *file = guest->input;
		s64 error = 0;

		if (!file)
			return closed(call);
		file_get(file);
		put = file_write_core(file, data->at, reader_size(data), 0);
		if (put == -EAGAIN)
			error = wait_for(call, guest, file, POLLOUT);
		file_put(file);
		if (error)
			return error;
	}
	if (put <= 0)
		return closed(call);
	put_field_number(&call->answer, WriteStreamResponse_len, (u64)put);
	return 0;
}

s64 write_stdin(struct call *call)
{
	const struct reader data = reader_part(call->request, WriteStreamRequest_data);
	struct guest_process *guest = guest_process_of(call);
	s64 error;

	if (!guest)
		return 0;
	error = reader_size(&data) ? write_some(call, guest, &data) : -EINVAL;
	guest_process_put(guest);
	return error;
}

/* Add what is there to the answer. */
static s64 read_once(struct call *call, struct file *file, u64 size)
{
	u8 *buffer = kmalloc(size);
	s64 got = buffer ? file_read_core(file, buffer, size, 0) : -ENOMEM;

	if (got > 0)
		put_field_bytes(&call->answer, ReadStreamResponse_data, buffer, (u64)got);
	kfree(buffer);
	return got;
}

/* Read at least one byte. A call that waits has no buffer. */
static s64 read_some(struct call *call, struct guest_process *guest, struct file **stream, u64 size)
{
	s64 got = -EAGAIN;

	while (got == -EAGAIN) {
		struct file *file = *stream;
		s64 error;

		if (!file)
			return closed(call);
		file_get(file);
		error = wait_for(call, guest, file, POLLIN);
		if (!error)
			got = read_once(call, file, size);
		file_put(file);
		if (error)
			return error;
	}
	if (got == -ENOMEM)
		return got;
	return got > 0 ? 0 : closed(call); /* a master reports -EIO when all others have closed the terminal */
}

static s64 read_stream(struct call *call, bool errors)
{
	struct reader r = call->request;
	struct guest_process *guest = guest_process_of(call);
	struct field field;
	u64 size = 0;
	s64 error = -EINVAL;

	if (!guest)
		return 0;
	while (field_next(&r, &field))
		if (field.number == ReadStreamRequest_len)
			size = field.value < READ_MOST ? field.value : READ_MOST;
	if (size)
		error = read_some(call, guest, errors ? &guest->errors : &guest->output, size);
	guest_process_put(guest);
	return error;
}

s64 read_stdout(struct call *call)
{
	return read_stream(call, false);
}

s64 read_stderr(struct call *call)
{
	return read_stream(call, true);
}

s64 close_stdin(struct call *call)
{
	struct guest_process *guest = guest_process_of(call);

	if (!guest)
		return 0;
	close_stream(guest, &guest->input);
	guest_process_put(guest);
	return 0;
}

s64 resize_terminal(struct call *call)
{
	struct reader r = call->request;
	struct guest_process *guest = guest_process_of(call);
	struct winsize size = { 0 };
	struct field field;
	s64 error = 0;

	if (!guest)
		return 0;
	while (field_next(&r, &field)) {
		if (field.number == TtyWinResizeRequest_row)
			size.rows = (u16)field.value;
		else if (field.number == TtyWinResizeRequest_column)
			size.columns = (u16)field.value;
	}
	if (!guest->terminal)
		error = -ENOTTY;
	else
		tty_resize(pty_unlock(guest->output), &size);
	guest_process_put(guest);
	return error;
}
