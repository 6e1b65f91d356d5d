// SPDX-License-Identifier: Apache-2.0
/* The server's side of ttrpc: connections, frames of ten bytes and a message, and a task for each call. */
#include "container.h"

#include "../virtio/vsock.h"

/* A process takes three calls: one that waits for it, and two that read its streams. None of them is to be refused. */
enum { HEADER = 10, REQUEST = 1, RESPONSE = 2, MESSAGE_MOST = 2 << 20, CALLS_MOST = 4 * PROCESSES_MOST };
enum { TOUCHED = 512 }; /* pages: what a container with a small program uses */

struct connection {
	struct vsock *socket;
	u32 references; /* of the task that reads, and of each call */
	u32 call_count;
	struct mutex sending;
	struct list calls;
	bool gone;
};

static struct {
	struct process *process;
	struct fs_context *fs;
	struct sighand *sighand;
} agent;

struct process *control_process(void)
{
	return agent.process;
}

/* -- tasks -- */

struct task *control_task(void (*run)(void), void *data)
{
	struct task *t = task_alloc(run);

	if (!t)
		return NULL;
	t->process = agent.process;
	t->fs = agent.fs;
	fs_get(t->fs);
	t->sighand = agent.sighand;
	reference_get(&t->sighand->references);
	cred_init(&t->cred, 0, 0);
	t->number = NO_CALL;
	t->exiting = true; /* no signal reaches it */
	t->data = data;
	bytes_copy(t->name, "agent", 6);
	return t;
}

void control_task_leave(struct task *t)
{
	struct fs_context *fs = t->fs;

	t->fs = NULL;
	fs_put(fs);
	sighand_put(t->sighand);
	cred_free(&t->cred);
}

/* -- what is sent -- */

static void put_big_endian(u8 *to, u32 value)
{
	for (u32 i = 0; i < 4; i++)
		to[i] = (u8)(value >> (24 - 8 * i));
}

static u32 big_endian(const u8 *from)
{
	return (u32)from[0] << 24 | (u32)from[1] << 16 | (u32)from[2] << 8 | from[3];
}

static bool write_all(struct connection *c, const void *data, u64 size)
{
	u64 done = 0;

	while (done < size) {
		s64 put = c->gone ? -EPIPE : vsock_write(c->socket, (const u8 *)data + done, size - done);

		if (put == -EAGAIN)
			sleep_on_always(&c->socket->writable);
		else if (put < 0)
			return false;
		else
			done += (u64)put;
	}
	return true;
}

static void send_message(struct connection *c, u32 stream, const struct text *message)
{
	u8 header[HEADER] = { 0 };

	put_big_endian(header, (u32)message->size);
	put_big_endian(header + 4, stream);
	header[8] = RESPONSE;
	mutex_lock(&c->sending);
	if (!write_all(c, header, HEADER) || !write_all(c, message->data, message->size))
		c->gone = true; /* nothing can follow a part of a message */
	mutex_unlock(&c->sending);
}

static void answer(struct call *call)
{
	struct text message = { .data = NULL }, status = { .data = NULL };

	if (call->answer.failed || call->why.failed) {
		call->status = STATUS_RESOURCE_EXHAUSTED;
		text_free(&call->why);
	}
	if (call->status != STATUS_OK) {
		put_field_number(&status, Status_code, call->status);
		put_field_bytes(&status, Status_message, call->why.data, call->why.size);
		put_field_message(&message, Response_status, &status);
	} else {
		put_field_bytes(&message, Response_payload, call->answer.data, call->answer.size);
	}
	if (!message.failed && !call->cancelled)
		send_message(call->connection, call->stream, &message);
	text_free(&message);
}

s64 call_fail(struct call *call, enum status status, const char *why, const char *subject, const char *more)
{
	call->status = status;
	text_free(&call->why);
	text_put(&call->why, why);
	if (subject)
		text_put(&call->why, subject);
	if (more)
		text_put(&call->why, more);
	return 0;
}

s64 call_sleep(struct call *call, struct wait_queue *queue)
{
	if (!call->cancelled)
		sleep_on_always(queue);
	return call->cancelled ? -ECANCELED : 0;
}

/* -- calls -- */

static void connection_put(struct connection *c)
{
	if (!reference_put(&c->references))
		return;
	vsock_close(c->socket);
	kfree(c);
}

static void call_free(struct call *call)
{
	list_remove(&call->calls);
	call->connection->call_count--;
	connection_put(call->connection);
	text_free(&call->answer);
	text_free(&call->why);
	kfree(call->body);
	kfree(call);
}

static void serve(struct call *call)
{
	struct reader r = reader_of(call->body, call->body_size), service = reader_of("", 0), method = service;
	struct field field;

	call->request = service;
	while (field_next(&r, &field))
		switch (field.number) {
		case Request_service: service = field.bytes; break;
		case Request_method: method = field.bytes; break;
		case Request_payload: call->request = field.bytes; break;
		}
	if (r.broken)
		call_fail(call, STATUS_INVALID_ARGUMENT, "this is no request", NULL, NULL);
	else
		call_dispatch(call, &service, &method);
	answer(call);
}

/* Power off after the host has received the answer. */
static _Noreturn void end_sandbox(struct connection *c)
{
	while (!c->gone && !vsock_has_sent())
		sleep_on_always(&c->socket->writable);
	core.exit = (struct core_exit){ 0, 0 };
	sched_end();
}

static void call_run(void)
{
	struct task *t = core.current;
	struct call *call = t->data;

	serve(call);
	if (call->last)
		end_sandbox(call->connection);
	call_free(call);
	control_task_leave(t);
}

/* Takes the body. */
static void call_start(struct connection *c, u32 stream, u8 *body, u64 size)
{
	struct call *call = c->call_count < CALLS_MOST ? kmalloc(sizeof(*call)) : NULL;

	if (!call) {
		struct call refused = { .connection = c, .stream = stream };

		call_fail(&refused, STATUS_RESOURCE_EXHAUSTED, "too many calls at once", NULL, NULL);
		answer(&refused);
		text_free(&refused.why);
		kfree(body);
		return;
	}
	*call = (struct call){ .connection = c, .stream = stream, .body = body, .body_size = size };
	list_add(&c->calls, &call->calls);
	c->call_count++;
	reference_get(&c->references);
	call->task = control_task(call_run, call);
	if (call->task) {
		task_start(call->task);
		return;
	}
	call_fail(call, STATUS_RESOURCE_EXHAUSTED, "the sandbox is out of memory", NULL, NULL);
	answer(call);
	call_free(call);
}

/* -- connections -- */

static bool read_all(struct connection *c, void *data, u64 size)
{
	u64 done = 0;

	while (done < size) {
		s64 got = vsock_read(c->socket, (u8 *)data + done, size - done);

		if (got == -EAGAIN)
			sleep_on_always(&c->socket->readable);
		else if (got <= 0)
			return false;
		else
			done += (u64)got;
	}
	return true;
}

/* The next frame; false: there is no other, or it makes no sense. */
static bool read_frame(struct connection *c)
{
	u8 header[HEADER], *body;
	u32 size;

	if (!read_all(c, header, HEADER))
		return false;
	size = big_endian(header);
	body = size <= MESSAGE_MOST ? kmalloc(size + 1) : NULL;
	if (!body || !read_all(c, body, size)) {
		kfree(body);
		return false;
	}
	if (header[8] == REQUEST)
		call_start(c, big_endian(header + 4), body, size);
	else
		kfree(body);
	return true;
}

static void connection_run(void)
{
	struct task *t = core.current;
	struct connection *c = t->data;

	while (read_frame(c))
		;
	c->gone = true;
	LIST_EACH(at, &c->calls) {
		struct call *call = CONTAINER(at, struct call, calls);

		call->cancelled = true;
		task_wake(call->task);
	}
	wake_all(&c->socket->writable);
	connection_put(c);
	control_task_leave(t);
}

static bool accept(struct vsock *socket)
{
	struct connection *c = kmalloc(sizeof(*c));
	struct task *t = c ? control_task(connection_run, c) : NULL;

	if (!t) {
		kfree(c);
		return false;
	}
	c->socket = socket;
	c->references = 1;
	list_init(&c->calls);
	task_start(t);
	return true;
}

bool control_tasks_init(void)
{
	bytes_zero(&agent, sizeof(agent));
	agent.process = process_new(NULL, NULL, 0);
	agent.fs = fs_new();
	agent.sighand = kmalloc(sizeof(*agent.sighand));
	if (!agent.process || !agent.fs || !agent.sighand)
		return false;
	list_remove(&agent.process->all);
	agent.sighand->references = 1;
	return true;
}

const char *control_start(void)
{
	if (!vsock_is_there())
		return "there is no vsock device for the agent's calls";
	containers_init();
	if (!control_tasks_init() || roots_init())
		return "the sandbox has too little memory";
	if (core.config->ram_touched)
		ram_touch(TOUCHED);
	vsock_listen(CONTROL_PORT, accept);
	return NULL;
}
