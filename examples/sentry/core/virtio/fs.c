// SPDX-License-Identifier: Apache-2.0
/*
 * virtio-fs (virtio 1.2, 5.11): a queue for requests.  The other one, for what must not wait behind them, is not set
 * up: what is posted shares the first.
 */
#include "../core.h"
#include "../fuse/fuse.h"

enum { REQUESTS = 1, TAG_AT = 0 };

/* Whether the device is wanted: the root, or what the host mounts by a call. */
static bool is_wanted(const char *tag)
{
	if (core.config->control)
		return true;
	return strings_equal(tag, "rootfs") || strings_equal(tag, "share");
}

static void take(struct virtio_device *device, struct fuse *fuse)
{
	fuse->requests = device->queues[REQUESTS];
	device->used = fuse_used;
	queue_listen(fuse->requests, false);
	fuse_root = fuse;
}

void fs_start(struct virtio_device *device)
{
	struct fuse *fuse = kmalloc(sizeof(*fuse));

	if (!fuse)
		return;
	mmio_config(device, TAG_AT, fuse->tag, FUSE_TAG);
	if (fuse_root || !is_wanted(fuse->tag) || !mmio_begin(device, 0) || !mmio_queue(device, REQUESTS)) {
		kfree(fuse);
		return;
	}
	mmio_ready(device);
	take(device, fuse);
}

/* A device that the platform has set up. */
void fs_start_ready(struct virtio_device *device, u8 *rings)
{
	struct fuse *fuse = kmalloc(sizeof(*fuse));

	if (!fuse || !queue_ready(device, REQUESTS, QUEUE_SIZE, rings))
		return;
	bytes_copy(fuse->tag, "root", 5);
	take(device, fuse);
}
