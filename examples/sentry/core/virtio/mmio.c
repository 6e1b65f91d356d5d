// SPDX-License-Identifier: Apache-2.0
/* The registers of virtio-mmio, version 2 (virtio 1.2, 4.2). */
#include "../core.h"
#include "virtio.h"

enum {
	MAGIC = 0x00, VERSION = 0x04, DEVICE_ID = 0x08, DEVICE_FEATURES = 0x10, DEVICE_SELECT = 0x14, FEATURES = 0x20,
	SELECT = 0x24, QUEUE_SELECT = 0x30, QUEUE_MAX = 0x34, QUEUE_NUMBER = 0x38, QUEUE_READY = 0x44, STATUS = 0x70,
	QUEUE_DESCRIPTORS = 0x80, QUEUE_DRIVER = 0x90, QUEUE_DEVICE = 0xa0, CONFIG = 0x100, VIRT = 0x74726976,
};
enum { ACKNOWLEDGE = 1, DRIVER = 2, DRIVER_OK = 4, FEATURES_OK = 8, FAILED = 128, USED_BUFFER = 1, TRIES = 1000000 };

static void put(struct virtio_device *device, u32 at, u32 value)
{
	*(volatile u32 *)(device->registers + at) = value;
}

static u32 get(const struct virtio_device *device, u32 at)
{
	return *(const volatile u32 *)(device->registers + at);
}

u64 mmio_features(struct virtio_device *device)
{
	u64 high;

	put(device, DEVICE_SELECT, 1);
	high = (u64)get(device, DEVICE_FEATURES) << 32;
	put(device, DEVICE_SELECT, 0);
	return high | get(device, DEVICE_FEATURES);
}

bool mmio_begin(struct virtio_device *device, u64 features)
{
	if (get(device, MAGIC) != VIRT || get(device, VERSION) != 2 || get(device, DEVICE_ID) != device->id)
		return false;
	put(device, STATUS, 0);
	for (u32 i = 0; get(device, STATUS); i++)
		if (i == TRIES)
			return false;
	device->kept = get(device, INTERRUPT_STATUS) & USED_BUFFER; /* before it can have used any */
	put(device, STATUS, ACKNOWLEDGE | DRIVER);
	device->features = mmio_features(device) & (features | VIRTIO_VERSION_1 | VIRTIO_EVENT_IDX);
	put(device, SELECT, 1);
	put(device, FEATURES, (u32)(device->features >> 32));
	put(device, SELECT, 0);
	put(device, FEATURES, (u32)device->features);
	put(device, STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
	if (device->features & VIRTIO_VERSION_1 && get(device, STATUS) & FEATURES_OK)
		return true;
	put(device, STATUS, FAILED);
	return false;
}

static void put_address(struct virtio_device *device, u32 at, const volatile void *memory)
{
	u64 address = page_offset((const void *)memory);

	put(device, at, (u32)address);
	put(device, at + 4, (u32)(address >> 32));
}

struct virtqueue *mmio_queue(struct virtio_device *device, u32 index)
{
	struct virtqueue *queue;
	u32 size = QUEUE_SIZE;
	u8 *memory;

	put(device, QUEUE_SELECT, index);
	if (index >= QUEUES || get(device, QUEUE_READY))
		return NULL;
	while (size > get(device, QUEUE_MAX))
		size /= 2;
	queue = size ? kmalloc(sizeof(*queue)) : NULL;
	memory = queue ? kmalloc(page_up(queue_bytes(size))) : NULL;
	if (!memory) {
		kfree(queue);
		return NULL;
	}
	queue_init(queue, device, index, size, memory);
	put(device, QUEUE_NUMBER, size);
	put_address(device, QUEUE_DESCRIPTORS, queue->descriptors);
	put_address(device, QUEUE_DRIVER, queue->available);
	put_address(device, QUEUE_DEVICE, queue->used);
	put(device, QUEUE_READY, 1);
	return queue;
}

void mmio_ready(struct virtio_device *device)
{
	put(device, STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
}

void mmio_config(const struct virtio_device *device, u32 offset, void *to, u32 size)
{
	for (u32 i = 0; i < size; i++)
		((u8 *)to)[i] = device->registers[CONFIG + offset + i];
}
