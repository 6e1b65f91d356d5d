// SPDX-License-Identifier: Apache-2.0
/*
 * The connection to the host: questions about system calls, with their answers, and trace points.
 *
 * One task reads, another one writes. Questions wait in a list, trace points in a ring: what does not fit there is counted
 * and lost. If the connection ends, so does the sandbox.
 */
#include "record.h"

#include "../control/control.h"
#include "../strace.h"
#include "../virtio/vsock.h"

enum {
	ORDER_ANSWER, ORDER_WATCH, ORDER_START, ORDER_FILE, ORDER_STATUS,
	COPY_MOST = 1 << 20, TRACE_MOST = 16 << 10, RING = 256 << 10, PART = 16 << 10, ORDER_MOST = 1 << 20, ERRNO_MOST = 4095,
};

/* What the host sends, before `size` bytes. */
struct order {
	u32 kind, size;
	u64 id; /* of the question; of others, for the reply */
	s64 value; /* of an answer: -errno, or which argument the bytes replace; of ORDER_WATCH: seconds to answer, in ns */
};

struct question {
	struct list all;
	u64 id;
	bool answered;
	s64 value;
	u8 *data; /* of the answer */
	u64 size;
	struct wait_queue queue;
};

static struct {
	struct vsock *socket; /* NULL: the host has not connected */
	bool started; /* there are tasks */
	bool ready; /* the host: the program may start */
	u64 last_id, patience;
	struct list questions, outgoing;
	u8 *ring; /* records, each behind its size; NULL: the host wanted no trace points yet */
	u64 first, used; /* bytes */
	u64 dropped, reported;
	struct wait_queue changed, some; /* ready; something to send */
} hooks;

/* -- trace points -- */

static void ring_put(const void *data, u64 size)
{
	u64 at = (hooks.first + hooks.used) % RING, rest = RING - at < size ? RING - at : size;

	bytes_copy(hooks.ring + at, data, rest);
	bytes_copy(hooks.ring, (const u8 *)data + rest, size - rest);
	hooks.used += size;
}

static u32 ring_size_at(u64 offset)
{
	u8 bytes[4];

	for (u32 i = 0; i < sizeof(bytes); i++)
		bytes[i] = hooks.ring[(hooks.first + offset + i) % RING];
	return (u32)bytes[0] | (u32)bytes[1] << 8 | (u32)bytes[2] << 16 | (u32)bytes[3] << 24;
}

static void trace(struct held *held, s64 result)
{
	const u32 size = (u32)held->text.size;
	struct record *record = held_record(held);

	if (!hooks.ring || size > TRACE_MOST || sizeof(size) + size > RING - hooks.used) {
		hooks.dropped++;
	} else {
		record->kind = RECORD_TRACE;
		record->id = 0;
		record->result = result;
		ring_put(&size, sizeof(size));
		ring_put(record, size);
	}
	wake_all(&hooks.some);
}

/* -- what is sent -- */

/* The host has gone, or cannot be understood. */
static _Noreturn void end_sandbox(void)
{
	core.exit = (struct core_exit){ 0, SIGKILL };
	sched_end();
}

static void write_all(const void *data, u64 size)
{
	u64 done = 0;

	while (done < size) {
		s64 put = vsock_write(hooks.socket, (const u8 *)data + done, size - done);

		if (put == -EAGAIN || put == -ENOMEM)
			sleep_on_always(&hooks.socket->writable);
		else if (put < 0)
			end_sandbox();
		else
			done += (u64)put;
	}
}

/* In one piece, since each packet leaves the guest. */
static void send(struct held *held)
{
	const u32 size = (u32)held->text.size;
	u8 *message = kmalloc(sizeof(size) + size);

	list_remove(&held->outgoing);
	if (message) {
		bytes_copy(message, &size, sizeof(size));
		bytes_copy(message + sizeof(size), held->text.data, size);
		write_all(message, sizeof(size) + size);
		kfree(message);
	} else {
		write_all(&size, sizeof(size));
		write_all(held->text.data, size);
	}
	held_put(held);
}

/* Some whole records. The rest of the ring is filled meanwhile. */
static void send_ring(void)
{
	u64 size = 0, next = 0, rest;

	do {
		size = next;
		next = size < hooks.used ? size + sizeof(u32) + ring_size_at(size) : ~0ull;
	} while (next <= PART || (!size && next <= RING));
	rest = RING - hooks.first < size ? RING - hooks.first : size;
	write_all(hooks.ring + hooks.first, rest);
	write_all(hooks.ring, size - rest);
	hooks.first = (hooks.first + size) % RING;
	hooks.used -= size;
}

static void report_dropped(void)
{
	struct held *held = held_new(RECORD_DROPPED);

	hooks.reported = hooks.dropped;
	if (!held)
		return;
	held_record(held)->args[0] = hooks.dropped;
	send(held);
}

static void write_run(void)
{
	for (;;)
		if (!list_empty(&hooks.outgoing))
			send(CONTAINER(hooks.outgoing.next, struct held, outgoing));
		else if (hooks.used)
			send_ring();
		else if (hooks.reported != hooks.dropped)
			report_dropped();
		else
			sleep_on_always(&hooks.some);
}

/* Takes the reference. */
static void post(struct held *held)
{
	list_add(&hooks.outgoing, &held->outgoing);
	wake_all(&hooks.some);
}

/* -- questions -- */

/* Wait for the answer; *data is that of the answer, and the caller's. */
static s64 ask(struct held *held, u8 **data, u64 *size)
{
	struct question question = { .id = ++hooks.last_id };
	const u64 deadline = monotonic_now() + hooks.patience;
	s64 error = 0;

	held_record(held)->id = question.id;
	list_add(&hooks.questions, &question.all);
	reference_get(&held->references);
	post(held);
	while (!question.answered && !error)
		error = sleep_on_killable(&question.queue, deadline);
	list_remove(&question.all);
	*data = question.data;
	*size = question.size;
	if (question.answered)
		return question.value >= -ERRNO_MOST ? question.value : -EPERM;
	return error == -ETIMEDOUT ? -EPERM : error;
}

static s64 decide(struct held *held)
{
	u8 *data;
	u64 size;
	s64 verdict = ask(held, &data, &size);

	if (verdict >= 0)
		verdict = size ? held_rewrite(held, (u32)verdict, data, size) : 0;
	kfree(data);
	return verdict;
}

static bool ends(const struct task *t)
{
	return t->number < SYSCALLS && syscalls[t->number].result == T_NOTHING;
}

s64 hooks_call(struct task *t, const u64 *args, u8 watched, s64 (*call)(struct task *t, const u64 *args))
{
	const bool is_decided = watched & WATCH_DECIDE, is_traced = watched & WATCH_TRACE;
	struct held *held = held_new(is_decided ? RECORD_DECIDE : RECORD_TRACE);
	s64 error = held ? held_copy(held, t, args, is_decided ? COPY_MOST : TRACE_MOST) : -ENOMEM, result;

	if (!error && is_decided)
		error = decide(held);
	if (!error && ends(t)) { /* it may not return */
		if (is_traced)
			trace(held, 0);
		held_put(held);
		return call(t, args);
	}
	if (is_decided)
		result = error ? error : held_call(held, t, call);
	else
		result = call(t, args);
	if (is_traced && held)
		trace(held, result);
	if (held)
		held_put(held);
	return result;
}

s64 hooks_content(u64 number, struct text *content)
{
	struct held *held = held_new(RECORD_FILE);
	u8 *data;
	u64 size;
	s64 error;

	if (!held)
		return -ENOMEM;
	held_record(held)->args[0] = number;
	held_record(held)->pid = core.current->process->pid;
	held_record(held)->tid = core.current->tid;
	error = ask(held, &data, &size);
	held_put(held);
	if (error >= 0 && size)
		text_bytes(content, data, size);
	kfree(data);
	return error < 0 ? error : content->failed ? -ENOMEM : 0;
}

/* -- orders -- */

static void read_all(void *data, u64 size)
{
	u64 done = 0;

	while (done < size) {
		s64 got = vsock_read(hooks.socket, (u8 *)data + done, size - done);

		if (got == -EAGAIN)
			sleep_on_always(&hooks.socket->readable);
		else if (got <= 0)
			end_sandbox();
		else
			done += (u64)got;
	}
}

/* Takes the bytes. A late answer has no question any more. */
static void take_answer(const struct order *order, u8 *data)
{
	LIST_EACH(at, &hooks.questions) {
		struct question *question = CONTAINER(at, struct question, all);

		if (question->id != order->id || question->answered)
			continue;
		question->answered = true;
		question->value = order->value;
		question->data = data;
		question->size = order->size;
		wake_all(&question->queue);
		return;
	}
	kfree(data);
}

static s64 watch(const struct order *order, const u8 *wanted)
{
	if (order->size != SYSCALLS)
		return -EINVAL;
	hooks.patience = (u64)order->value;
	for (u32 i = 0; i < SYSCALLS; i++) {
		if (wanted[i] & WATCH_TRACE && !hooks.ring)
			hooks.ring = kmalloc(RING);
		core.watched[i] = (core.watched[i] & WATCH_STRACE) | (wanted[i] & (WATCH_DECIDE | WATCH_TRACE));
	}
	return 0;
}

/* What runs: a line for each process, and figures of the sandbox. */
static void put_status(struct held *held)
{
	struct text *text = &held->text;
	u64 processes = 0, tasks = 0, time = 0;
	struct record *record;

	EACH_PROCESS(p) {
		processes++;
		time += p->cpu_time;
		text_signed(text, p->pid);
		text_put(text, " ");
		text_signed(text, p->parent ? p->parent->pid : 0);
		text_put(text, p->zombie ? " Z " : p->stopped ? " T " : " R ");
		text_number(text, p->task_count);
		text_put(text, " ");
		EACH_TASK(t, p) {
			if (t->tid == p->pid)
				text_bytes(text, t->name, string_size(t->name));
			tasks++;
			time += task_cpu_time(t);
		}
		text_bytes(text, "", 1);
	}
	record = held_record(held);
	record->args[0] = (core.ram.count - core.ram.available) * PAGE;
	record->args[1] = core.ram.count * PAGE;
	record->args[2] = processes;
	record->args[3] = tasks;
	record->args[4] = time;
	record->args[5] = hooks.dropped;
}

static void reply(const struct order *order, s64 result)
{
	struct held *held = held_new(RECORD_REPLY);

	if (!held)
		end_sandbox();
	if (order->kind == ORDER_STATUS)
		put_status(held);
	held_record(held)->id = order->id;
	held_record(held)->result = result;
	post(held);
}

/* Takes the bytes. */
static void obey(const struct order *order, u8 *data)
{
	s64 result = 0;

	switch (order->kind) {
	case ORDER_ANSWER: take_answer(order, data); return;
	case ORDER_WATCH: result = watch(order, data); break;
	case ORDER_FILE: result = hosted_file((u64)order->value, (const char *)data); break;
	case ORDER_START:
		hooks.ready = true;
		wake_all(&hooks.changed);
		break;
	}
	kfree(data);
	reply(order, result);
}

static void read_run(void)
{
	for (;;) {
		struct order order;
		u8 *data;

		read_all(&order, sizeof(order));
		data = order.size <= ORDER_MOST ? kmalloc(order.size + 1) : NULL; /* with a zero behind a text */
		if (!data)
			end_sandbox();
		read_all(data, order.size);
		obey(&order, data);
	}
}

/* -- the start -- */

static bool start_tasks(void)
{
	struct task *reader = control_task(read_run, NULL), *writer = reader ? control_task(write_run, NULL) : NULL;

	if (!writer)
		return false;
	task_start(reader);
	task_start(writer);
	return true;
}

static bool accept(struct vsock *socket)
{
	if (hooks.socket)
		return false;
	hooks.socket = socket;
	return !hooks.started || start_tasks();
}

const char *hooks_listen(void)
{
	if (!vsock_is_there())
		return "there is no vsock device for the host's hooks";
	bytes_zero(&hooks, sizeof(hooks));
	list_init(&hooks.questions);
	list_init(&hooks.outgoing);
	vsock_listen(HOOKS_PORT, accept);
	return NULL;
}

const char *hooks_start(void)
{
	if ((!core.config->control && !control_tasks_init()) || (hooks.socket && !start_tasks()))
		return "the sandbox has too little memory";
	hooks.started = true;
	return NULL;
}

void hooks_flush(void)
{
	const u64 deadline = monotonic_now() + hooks.patience;
	s64 error = 0;

	while (hooks.ready && !error && (hooks.used || hooks.reported != hooks.dropped || !vsock_has_sent()))
		error = sleep_on_killable(&hooks.socket->writable, deadline);
}

void hooks_run(void)
{
	while (!hooks.ready)
		sleep_on_always(&hooks.changed);
	task_run();
}
