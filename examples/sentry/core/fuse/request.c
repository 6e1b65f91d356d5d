// SPDX-License-Identifier: Apache-2.0
/* Requests to the server: a message in RAM, the queue, and the wait for the answer. */
#include "../control/container.h"
#include "fuse.h"

struct request {
	bool done, posted; /* posted: nobody waits for it */
	u32 written;
	struct wait_queue waiter;
	u32 in_size, out_room;
	u8 message[]; /* what the server reads, and behind it, aligned to 8, where it writes */
};

static u64 align8(u64 size)
{
	return (size + 7) & ~7ull;
}

static u32 names_size(const struct fuse_call *call)
{
	u64 size = 0;

	for (u32 i = 0; i < ARRAY_SIZE(call->names); i++)
		size += call->names[i] ? string_size(call->names[i]) + 1 : 0;
	return (u32)size;
}

static struct fuse_out *answer_of(struct request *request)
{
	return (struct fuse_out *)(request->message + align8(request->in_size));
}

static struct request *make(struct fuse *fuse, const struct fuse_call *call)
{
	u32 in_size = (u32)sizeof(struct fuse_in) + call->arguments_size + names_size(call) + call->data_size;
	u32 out_room = (u32)sizeof(struct fuse_out) + call->answer_size;
	struct request *request = kmalloc(sizeof(*request) + align8(in_size) + out_room);
	struct fuse_in *in = request ? (struct fuse_in *)request->message : NULL;
	u8 *at = (u8 *)(in + 1);
	u32 whole = in_size;

	if (!request)
		return NULL;
	request->in_size = in_size;
	request->out_room = out_room;
	for (u32 i = 0; call->opcode == FUSE_WRITE && i < call->page_count; i++)
		whole += call->pages[i].size;
	*in = (struct fuse_in){ .size = whole, .opcode = call->opcode, .unique = ++fuse->unique, .node = call->node,
				.user = caller_user(), .group = caller_group(),
				.pid = core.current ? (u32)core.current->process->pid : 0 };
	bytes_copy(at, call->arguments, call->arguments_size);
	at += call->arguments_size;
	for (u32 i = 0; i < ARRAY_SIZE(call->names); i++) {
		u64 size = call->names[i] ? string_size(call->names[i]) + 1 : 0;

		bytes_copy(at, call->names[i], size);
		at += size;
	}
	bytes_copy(at, call->data, call->data_size);
	return request;
}

static void end_posted(struct fuse *fuse, struct request *request)
{
	const struct fuse_in *in = (const struct fuse_in *)request->message;
	const struct fuse_out *out = answer_of(request);

	if (in->opcode == FUSE_SETATTR) {
		if (request->written < sizeof(*out) || out->error)
			fuse_failed(fuse, in->node, -EIO);
		if (!--core.unsettled)
			wake_all(&fuse->settled);
	}
	kfree(request);
}

void fuse_used(struct virtqueue *queue)
{
	struct fuse *fuse = fuse_root;
	struct request *request;
	u32 written;

	while ((request = queue_take(queue, &written))) {
		request->written = written;
		request->done = true;
		if (request->posted)
			end_posted(fuse, request);
		else
			wake_all(&request->waiter);
	}
	wake_all(&fuse->room);
}

/*
 * The device interrupts only while somebody sleeps.  An interrupt is a system call of the server, and one more for each
 * wait of this side until it is taken; in a machine, it is an exit.
 */
static void listen(struct fuse *fuse)
{
	queue_listen(fuse->requests, fuse->sleepers);
}

void fuse_begin_sleep(struct fuse *fuse)
{
	fuse->sleepers++;
	listen(fuse);
	fuse_used(fuse->requests);
}

void fuse_end_sleep(struct fuse *fuse)
{
	fuse->sleepers--;
	listen(fuse);
}

/* Sleep; before there are tasks, wait for the device. */
static void wait_on(struct wait_queue *queue)
{
	if (core.current) {
		sleep_on_always(queue);
		return;
	}
	core.ops->wait(FOREVER);
	virtio_poll(); /* which only this function does then, so no interrupt is missed */
}

/* They wait together for the next request that needs an answer, or until somebody could notice that they do. */
static void hold(struct fuse *fuse)
{
	core.unsettled += !fuse->held;
	fuse->held = true;
}

void fuse_push(struct fuse *fuse)
{
	core.unsettled -= fuse->held;
	fuse->held = false;
	queue_kick(fuse->requests);
}

/* The queue is full. */
static void add_later(struct fuse *fuse, const struct segment *segments, u32 readable, u32 writable, struct request *request)
{
	fuse_push(fuse);
	fuse_begin_sleep(fuse);
	while (queue_add(fuse->requests, segments, readable, writable, request))
		wait_on(&fuse->room);
	fuse_end_sleep(fuse);
}

static void submit(struct fuse *fuse, struct request *request, const struct fuse_call *call)
{
	struct segment segments[2 + FUSE_IO_PAGES];
	u32 readable = call->opcode == FUSE_WRITE ? 1 + call->page_count : 1, count = 0;

	segments[count++] = (struct segment){ request->message, request->in_size };
	for (u32 i = 0; call->opcode == FUSE_WRITE && i < call->page_count; i++)
		segments[count++] = call->pages[i];
	if (call->opcode != FUSE_FORGET)
		segments[count++] = (struct segment){ answer_of(request), request->out_room };
	for (u32 i = 0; call->opcode != FUSE_WRITE && i < call->page_count; i++)
		segments[count++] = call->pages[i];
	if (queue_add(fuse->requests, segments, readable, count - readable, request))
		add_later(fuse, segments, readable, count - readable, request);
}

/* Most answers come sooner than a sleep would take. */
static void await_answer(struct fuse *fuse, struct request *request)
{
	while (!request->done && core.ops->watch && core.ops->watch())
		fuse_used(fuse->requests);
	if (request->done)
		return;
	fuse_begin_sleep(fuse);
	while (!request->done)
		wait_on(&request->waiter);
	fuse_end_sleep(fuse);
}

/* The error of an answer, or how many bytes it has. */
static s64 finish(struct request *request, const struct fuse_call *call)
{
	const struct fuse_out *out = answer_of(request);
	u64 room = sizeof(*out) + call->answer_size, size;

	for (u32 i = 0; call->opcode != FUSE_WRITE && i < call->page_count; i++)
		room += call->pages[i].size;
	if (request->written < sizeof(*out) || out->size < sizeof(*out) || out->size > room || out->error > 0 ||
	    out->error < -4095)
		return -EIO;
	if (out->error)
		return out->error;
	size = out->size - sizeof(*out);
	bytes_copy(call->answer, out + 1, size < call->answer_size ? size : call->answer_size);
	return (s64)size;
}

s64 fuse_call(struct fuse *fuse, const struct fuse_call *call)
{
	struct request *request = make(fuse, call);
	struct container *container = core.current ? core.current->process->container : NULL;
	s64 result;

	if (!request)
		return -ENOMEM;
	if (container)
		container->requests++;
	submit(fuse, request, call);
	fuse_push(fuse);
	await_answer(fuse, request);
	if (container && !--container->requests)
		wake_all(&container->stopped);
	result = finish(request, call);
	kfree(request);
	return result;
}

bool fuse_post(struct fuse *fuse, const struct fuse_call *call)
{
	struct request *request = make(fuse, call);

	if (!request)
		return false; /* of FORGET and RELEASE: the server keeps the file until the end */
	request->posted = true;
	core.unsettled += call->opcode == FUSE_SETATTR;
	submit(fuse, request, call);
	hold(fuse);
	return true;
}

int fuse_init(struct fuse *fuse)
{
	const struct fuse_init_in in = {
		.major = FUSE_MAJOR, .minor = FUSE_MINOR, .max_readahead = FUSE_IO_PAGES * PAGE,
		.flags = FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_DONT_MASK | FUSE_READDIRPLUS_ALWAYS | FUSE_PARALLEL_DIROPS |
			 FUSE_MAX_PAGES | FUSE_KILLPRIV_V2 | FUSE_INIT_EXT,
		.flags2 = FUSE_READ_BY_NODE | FUSE_WRITE_ATTR,
	};
	struct fuse_init_out out;
	const struct fuse_call call = { .opcode = FUSE_INIT, .arguments = &in, .arguments_size = sizeof(in), .answer = &out,
					.answer_size = sizeof(out) };
	s64 size = fuse_call(fuse, &call);

	if (size < 0)
		return (int)size;
	fuse->reads_by_node = out.flags & FUSE_INIT_EXT && out.flags2 & FUSE_READ_BY_NODE;
	fuse->tells_writes = out.flags & FUSE_INIT_EXT && out.flags2 & FUSE_WRITE_ATTR;
	return size == sizeof(out) && out.major == FUSE_MAJOR && out.max_write >= FUSE_IO_PAGES * PAGE ? 0 : -EPROTO;
}
