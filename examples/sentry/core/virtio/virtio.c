// SPDX-License-Identifier: Apache-2.0
/* The devices of the machine, and what has come back from them. */
#include "../core.h"
#include "../fuse/fuse.h"
#include "virtio.h"

enum { DEVICE_ID = 0x08, INTERRUPT_ACK = 0x64, CONFIGURATION = 2 };

static struct virtio_device *devices;
bool virtio_is_ready_made;

static const struct {
	u32 id;
	void (*start)(struct virtio_device *device);
} drivers[] = {
	{ VIRTIO_CONSOLE, console_start },
	{ VIRTIO_RNG, rng_start },
	{ VIRTIO_BALLOON, balloon_start },
	{ VIRTIO_FS, fs_start },
	{ VIRTIO_NET, net_start },
	{ VIRTIO_VSOCK, vsock_start },
};

static void start_ready(u32 id, u32 first_kick, void (*start)(struct virtio_device *device, u8 *rings), u8 *rings)
{
	struct virtio_device *device = kmalloc(sizeof(*device));

	if (!device)
		return;
	device->id = id;
	device->first_kick = first_kick;
	device->features = VIRTIO_VERSION_1 | VIRTIO_EVENT_IDX;
	device->next = devices;
	devices = device;
	virtio_is_ready_made = true;
	start(device, rings);
}

void virtio_init(const struct core_config *config)
{
	devices = NULL;
	virtio_is_ready_made = false;
	fuse_root = NULL;
	net_forget();
	vsock_forget();
	balloon_forget();
	for (u32 i = 0; i < config->device_count; i++) {
		volatile u8 *registers = config->ram + config->devices[i];
		u32 id = *(volatile u32 *)(registers + DEVICE_ID);

		for (u32 k = 0; k < ARRAY_SIZE(drivers); k++) {
			struct virtio_device *device = id == drivers[k].id ? kmalloc(sizeof(*device)) : NULL;

			if (!device)
				continue;
			device->id = id;
			device->registers = registers;
			device->next = devices;
			devices = device;
			drivers[k].start(device);
		}
	}
	if (config->share_rings)
		start_ready(VIRTIO_FS, 0, fs_start_ready, config->ram + config->share_rings);
	if (config->net_rings)
		start_ready(VIRTIO_NET, 2, net_start_ready, config->ram + config->net_rings);
	if (config->vsock_rings)
		start_ready(VIRTIO_VSOCK, 4, vsock_start_ready, config->ram + config->vsock_rings);
}

bool virtio_waits(void)
{
	for (const struct virtio_device *device = devices; device; device = device->next)
		for (u32 i = 0; i < QUEUES && !device->registers; i++)
			if (device->queues[i] && device->queues[i]->free_count < device->queues[i]->size)
				return true;
	return false;
}

bool core_rests(void)
{
	return !fuse_root || queue_is_idle(fuse_root->requests);
}

bool core_is_answered(void)
{
	return fuse_root && queue_has_used(fuse_root->requests);
}

void virtio_poll(void)
{
	vsock_poll();
	for (struct virtio_device *device = devices; device; device = device->next) {
		const bool interrupts = device->registers && device->features; /* and somebody drives it */
		u32 status = interrupts ? *(volatile u32 *)(device->registers + INTERRUPT_STATUS) : 0;

		if (status & ~device->kept) /* an exit */
			*(volatile u32 *)(device->registers + INTERRUPT_ACK) = status;
		device->changed = device->changed || status & CONFIGURATION;
		for (u32 i = 0; i < QUEUES; i++)
			if (device->queues[i] && device->used && queue_has_used(device->queues[i]))
				device->used(device->queues[i]);
	}
}
