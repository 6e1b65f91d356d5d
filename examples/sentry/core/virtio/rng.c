// SPDX-License-Identifier: Apache-2.0
/* virtio-rng (virtio 1.2, 5.4): random numbers of the host. */
#include "../core.h"
#include "virtio.h"

enum { BYTES = 256 };

static struct {
	struct virtio_device *device; /* that has not begun: most CPUs have random numbers themselves */
	struct virtqueue *queue;
	u8 *buffer;
	u32 left; /* bytes of the buffer that no caller has received */
} rng;

void rng_start(struct virtio_device *device)
{
	rng.device = device;
	rng.queue = NULL;
	rng.buffer = NULL;
	rng.left = 0;
}

static void begin(void)
{
	struct virtio_device *device = rng.device;

	rng.device = NULL;
	rng.queue = mmio_begin(device, 0) ? mmio_queue(device, 0) : NULL;
	rng.buffer = rng.queue ? kmalloc(BYTES) : NULL;
	if (rng.buffer)
		mmio_ready(device);
}

/* It answers at once, so no task sleeps for it. */
static void refill(void)
{
	const struct segment segment = { rng.buffer, BYTES };
	u32 written = 0;

	if (queue_add(rng.queue, &segment, 0, 1, rng.buffer))
		return;
	queue_kick(rng.queue);
	while (!queue_take(rng.queue, &written))
		core.ops->wait(monotonic_now() + 1000000);
	rng.left = written < BYTES ? written : BYTES;
}

void rng_forget(void)
{
	rng.left = 0;
}

bool rng_fill(void *data, u64 size)
{
	u8 *at = data;

	if (rng.device)
		begin();
	while (size && rng.buffer) {
		if (!rng.left)
			refill();
		for (; size && rng.left; size--) {
			*at++ = rng.buffer[--rng.left];
			rng.buffer[rng.left] = 0; /* never twice */
		}
	}
	return rng.buffer;
}
