// SPDX-License-Identifier: Apache-2.0
/*
 * virtio-balloon (virtio 1.2, 5.5): reports free blocks of pages, whose memory the host takes back until they are used.
 * The balloon itself stays empty.
 */
#include "../core.h"
#include "virtio.h"

/* The specification numbers the queue 4. Devices and Linux leave no gap for the queue of hints, a feature that is off. */
enum { REPORTS = 3, MOST = 32, REPORTING = 1 << 5, PATIENCE = 1000000 };

static struct {
	struct virtqueue *queue; /* NULL: there is no such device */
	u32 count;		 /* of blocks that are reported next, or that the device has */
	bool sent;
	u32 blocks[MOST];
} balloon;

bool balloon_is_there(void)
{
	return balloon.queue;
}

static void take_back(struct virtqueue *queue)
{
	u32 size;

	if (!queue_take(queue, &size))
		return;
	for (u32 i = 0; i < balloon.count; i++)
		block_put_back(balloon.blocks[i]);
	balloon.count = 0;
	balloon.sent = false;
}

bool balloon_report(u32 at)
{
	if (balloon.sent || balloon.count == MOST)
		return false;
	block_take(at);
	balloon.blocks[balloon.count++] = at;
	return true;
}

void balloon_send(void)
{
	struct segment segments[MOST];

	if (balloon.sent || !balloon.count)
		return;
	for (u32 i = 0; i < balloon.count; i++)
		segments[i] = (struct segment){
			page_at((u64)balloon.blocks[i] * PAGE), (u32)PAGE << core.ram.pages[balloon.blocks[i]].order,
		};
	balloon.sent = true;
	if (queue_add(balloon.queue, segments, 0, balloon.count, &balloon))
		core.ops->fatal("a virtio balloon has no room for a report");
	queue_kick(balloon.queue);
}

bool balloon_wait(void)
{
	if (!balloon.sent)
		return false;
	while (balloon.sent) {
		take_back(balloon.queue);
		if (balloon.sent)
			core.ops->wait(monotonic_now() + PATIENCE);
	}
	return true;
}

void balloon_start(struct virtio_device *device)
{
	if (balloon.queue || !mmio_begin(device, REPORTING) || !(device->features & REPORTING))
		return;
	balloon.queue = mmio_queue(device, REPORTS);
	if (!balloon.queue)
		return;
	device->used = take_back;
	mmio_ready(device);
}

void balloon_forget(void)
{
	balloon.queue = NULL;
	balloon.count = 0;
	balloon.sent = false;
}
