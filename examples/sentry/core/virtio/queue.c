// SPDX-License-Identifier: Apache-2.0
/* The driver's side of a split queue (virtio 1.2, 2.7). */
#include "../core.h"
#include "virtio.h"

enum { NEXT = 1, WRITE = 2, NO_NOTIFY = 1, HEADER = 4, LINE = 64 };
#define BARRIER() asm volatile("" : : : "memory") /* x86 keeps the order of loads, and of stores */
#define FULL_BARRIER() asm volatile("lock; addl $0, -4(%%rsp)" : : : "memory", "cc")

static u64 used_at(u32 size)
{
	return (sizeof(struct ring_descriptor) * size + HEADER + 2 * size + 2 + LINE - 1) & -(u64)LINE;
}

u64 queue_bytes(u32 size)
{
	return used_at(size) + HEADER + sizeof(struct ring_used) * size + 2;
}

void queue_init(struct virtqueue *queue, struct virtio_device *device, u32 index, u32 size, u8 *memory)
{
	*queue = (struct virtqueue){ .device = device, .index = index, .size = (u16)size, .free_count = (u16)size };
	queue->descriptors = (struct ring_descriptor *)memory;
	queue->available = (volatile u16 *)(memory + sizeof(struct ring_descriptor) * size);
	queue->used = memory + used_at(size);
	for (u32 i = 0; i < size; i++)
		queue->descriptors[i].next = (u16)(i + 1);
	device->queues[index] = queue;
}

bool queue_ready(struct virtio_device *device, u32 index, u32 size, u8 *rings)
{
	struct virtqueue *queue = kmalloc(sizeof(*queue));

	if (queue)
		queue_init(queue, device, index, size, rings + index * RINGS_STRIDE);
	return queue;
}

static volatile u16 *used_index(const struct virtqueue *queue)
{
	return (volatile u16 *)(queue->used + 2);
}

int queue_add(struct virtqueue *queue, const struct segment *segments, u32 readable, u32 writable, void *token)
{
	u32 count = readable + writable;
	u16 head = queue->free, at = head;

	if (!count || count > queue->free_count)
		return -EAGAIN;
	for (u32 i = 0; i < count; i++) {
		struct ring_descriptor *d = &queue->descriptors[at];

		d->address = page_offset(segments[i].at);
		if (core.ops->expose)
			core.ops->expose(d->address, segments[i].size);
		d->size = segments[i].size;
		d->flags = (u16)((i + 1 < count ? NEXT : 0) | (i < readable ? 0 : WRITE));
		at = d->next;
	}
	queue->free = at;
	queue->free_count -= (u16)count;
	queue->tokens[head] = token;
	queue->available[2 + queue->added % queue->size] = head;
	BARRIER();
	queue->available[1] = ++queue->added;
	return 0;
}

void queue_kick(struct virtqueue *queue)
{
	u16 event, first = queue->kicked;

	FULL_BARRIER(); /* what the device wants is read after it can see the new index */
	queue->kicked = queue->added;
	event = *(volatile u16 *)(queue->used + HEADER + sizeof(struct ring_used) * queue->size);
	if (queue->device->features & VIRTIO_EVENT_IDX) {
		if ((u16)(queue->added - event - 1) >= (u16)(queue->added - first))
			return;
	} else if (*(volatile u16 *)queue->used & NO_NOTIFY) {
		return;
	}
	if (queue->device->registers)
		*(volatile u32 *)(queue->device->registers + 0x50) = queue->index;
	else
		core.ops->kick(queue->device->first_kick + queue->index);
}

bool queue_has_used(const struct virtqueue *queue)
{
	return *used_index(queue) != queue->taken;
}

/* used_event: interrupt for the next one, or none. What has come back meanwhile is seen by who looks after this. */
static void set_event(struct virtqueue *queue)
{
	queue->available[2 + queue->size] = queue->quiet ? (u16)(queue->taken - 1) : queue->taken;
	FULL_BARRIER();
}

void *queue_take(struct virtqueue *queue, u32 *written)
{
	volatile struct ring_used *element;
	void *token;
	u32 id;

	if (!queue_has_used(queue))
		return NULL;
	BARRIER();
	element = (volatile struct ring_used *)(queue->used + HEADER) + queue->taken % queue->size;
	id = element->id;
	*written = element->size;
	if (id >= queue->size || !queue->tokens[id])
		core.ops->fatal("a virtio device has returned a buffer that it did not have");
	token = queue->tokens[id];
	queue->tokens[id] = NULL;
	for (u16 at = (u16)id;; at = queue->descriptors[at].next) {
		queue->free_count++;
		if (!(queue->descriptors[at].flags & NEXT)) {
			queue->descriptors[at].next = queue->free;
			break;
		}
	}
	queue->free = (u16)id;
	queue->taken++;
	set_event(queue);
	return token;
}

bool queue_is_idle(const struct virtqueue *queue)
{
	return *used_index(queue) == queue->added;
}

void queue_listen(struct virtqueue *queue, bool listens)
{
	queue->quiet = !listens;
	set_event(queue);
}
