// SPDX-License-Identifier: Apache-2.0
/* virtio-console (virtio 1.2, 5.3) with one port. What comes in waits in its buffers until it is read. */
#include "../core.h"
#include "virtio.h"

enum { IN, OUT, BUFFERS = 16, IN_BYTES = 256, HAS_SIZE = 1, END_OF_INPUT = 4, PATIENCE = 1000000 };

struct buffer {
	u32 size, at; /* of input: how much has come, and how much was read */
	bool busy;    /* the device has it */
	u8 bytes[];
};

static struct {
	struct virtio_device *device; /* NULL: there is none */
	struct buffer *in[BUFFERS], *out[BUFFERS];
	u32 first, count; /* of `ready`: input in its order */
	struct buffer *ready[BUFFERS];
	bool ended; /* the input, by a byte behind others, which have been read */
	bool raw;   /* no byte ends it */
} console;

static void offer(struct buffer *buffer)
{
	const struct segment segment = { buffer->bytes, IN_BYTES };

	buffer->at = buffer->size = 0;
	if (!queue_add(console.device->queues[IN], &segment, 0, 1, buffer))
		queue_kick(console.device->queues[IN]);
}

static void used(struct virtqueue *queue)
{
	struct buffer *buffer;
	u32 size;

	while ((buffer = queue_take(queue, &size))) {
		buffer->busy = false;
		if (queue->index == OUT)
			continue;
		buffer->size = size < IN_BYTES ? size : IN_BYTES;
		console.ready[(console.first + console.count++) % BUFFERS] = buffer;
	}
	if (queue->index != IN)
		return;
	wake_all(&core.console_input);
	if (core.console_happened)
		core.console_happened(true);
}

void console_start(struct virtio_device *device)
{
	if (console.device || !mmio_begin(device, HAS_SIZE) || !mmio_queue(device, IN) || !mmio_queue(device, OUT))
		return;
	for (u32 i = 0; i < BUFFERS; i++) {
		console.in[i] = kmalloc(sizeof(struct buffer) + IN_BYTES);
		console.out[i] = kmalloc(sizeof(struct buffer) + PAGE);
		if (!console.in[i] || !console.out[i])
			return;
	}
	device->used = used;
	console.device = device;
	mmio_ready(device);
	for (u32 i = 0; i < BUFFERS; i++)
		offer(console.in[i]);
}

bool console_is_there(void)
{
	return console.device;
}

bool console_ready(void)
{
	return console.count || console.ended;
}

/* At least one byte, for which it waits; 0: the end of the input. */
s64 console_read(void *data, u64 size)
{
	u8 *to = data;
	u64 got = 0;

	while (!console_ready()) {
		virtio_poll();
		if (!console_ready())
			core.ops->wait(monotonic_now() + PATIENCE); /* another CPU may get the interrupt */
	}
	while (console.count && got < size && !console.ended) {
		struct buffer *buffer = console.ready[console.first];

		while (buffer->at < buffer->size && got < size && !console.ended) {
			u8 byte = buffer->bytes[buffer->at++];

			console.ended = byte == END_OF_INPUT && !console.raw;
			if (!console.ended)
				to[got++] = byte;
		}
		if (buffer->at < buffer->size)
			break;
		console.first = (console.first + 1) % BUFFERS;
		console.count--;
		offer(buffer);
	}
	console.ended = console.ended && got;
	return (s64)got;
}

static struct buffer *free_buffer(void)
{
	for (;;) {
		virtio_poll();
		for (u32 i = 0; i < BUFFERS; i++)
			if (!console.out[i]->busy)
				return console.out[i];
		core.ops->wait(monotonic_now() + PATIENCE);
	}
}

s64 console_write(const void *data, u64 size)
{
	struct buffer *buffer = free_buffer();
	u32 part = size < PAGE ? (u32)size : PAGE;
	const struct segment segment = { buffer->bytes, part };

	bytes_copy(buffer->bytes, data, part);
	if (!part || queue_add(console.device->queues[OUT], &segment, 1, 0, buffer))
		return 0;
	buffer->busy = true;
	queue_kick(console.device->queues[OUT]);
	return part;
}

bool console_size(u16 *rows, u16 *columns)
{
	u16 size[2];

	if (!(console.device->features & HAS_SIZE))
		return false;
	mmio_config(console.device, 0, size, sizeof(size));
	*columns = size[0];
	*rows = size[1];
	return size[0] && size[1];
}

void console_make_raw(void)
{
	console.raw = true;
}

bool console_resized(void)
{
	bool changed = console.device && console.device->changed;

	if (changed)
		console.device->changed = false;
	return changed;
}

/* Wait until everything that was written has left. */
void console_drain(void)
{
	for (u32 i = 0; console.device && i < BUFFERS; i++)
		while (console.out[i]->busy) {
			virtio_poll();
			if (console.out[i]->busy)
				core.ops->wait(monotonic_now() + PATIENCE);
		}
}
