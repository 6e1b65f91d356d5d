// SPDX-License-Identifier: Apache-2.0
/* virtio-net (virtio 1.2, 5.1): frames from and to the outside. The driver accepts no offloads, so each frame has its checksums. */
#include "../core.h"
#include "../net/start.h"
#include "virtio.h"

enum { IN, OUT, BUFFERS = 64, MTU_MOST = 16000, MAC_AT = 0, MTU_AT = 10 };
enum { RX_BYTES = 4 * PAGE, HAS_MTU = 1 << 3, HAS_MAC = 1 << 5 };

static struct {
	struct virtio_device *device; /* NULL: there is none */
	u8 mac[6];
	u16 mtu;
} net;

static void offer(u8 *buffer)
{
	const struct segment segment = { buffer, RX_BYTES };

	if (queue_add(net.device->queues[IN], &segment, 0, 1, buffer))
		kfree(buffer);
}

static void used(struct virtqueue *queue)
{
	bool some = false;
	u8 *buffer;
	u32 size;

	while ((buffer = queue_take(queue, &size))) {
		some = true;
		if (queue->index == OUT) {
			net_free(buffer);
			continue;
		}
		if (size > RX_BYTES)
			size = RX_BYTES;
		if (size > NET_HEADER)
			net_receive(buffer + NET_HEADER, size - NET_HEADER);
		offer(buffer);
	}
	if (some && queue->index == IN) {
		queue_kick(queue);
		net_run();
	}
}

int net_device_send(u8 *frame, u32 size)
{
	struct virtqueue *queue = net.device->queues[OUT];
	const struct segment segment = { frame, size };
	int error;

	bytes_zero(frame, NET_HEADER);
	error = queue_add(queue, &segment, 1, 0, frame);
	if (!error)
		queue_kick(queue);
	return error;
}

bool net_device(const u8 **mac, u16 *mtu)
{
	*mac = net.mac;
	*mtu = net.mtu;
	return net.device;
}

static void begin(struct virtio_device *device)
{
	device->used = used;
	net.device = device;
	for (u32 i = 0; i < BUFFERS; i++) {
		u8 *buffer = kmalloc(RX_BYTES);

		if (buffer)
			offer(buffer);
	}
	queue_kick(device->queues[IN]);
}

void net_start(struct virtio_device *device)
{
	if (net.device || !mmio_begin(device, HAS_MAC | HAS_MTU) || !(device->features & HAS_MAC))
		return;
	net.mtu = 1500;
	mmio_config(device, MAC_AT, net.mac, sizeof(net.mac));
	if (device->features & HAS_MTU)
		mmio_config(device, MTU_AT, &net.mtu, sizeof(net.mtu));
	if (net.mtu > MTU_MOST)
		net.mtu = MTU_MOST;
	if (!mmio_queue(device, IN) || !mmio_queue(device, OUT))
		return;
	mmio_ready(device);
	begin(device);
}

/* A device that the platform has set up. */
void net_start_ready(struct virtio_device *device, u8 *rings)
{
	static const u8 mac[6] = { 2, 0, 0, 0, 0, 1 };

	if (!queue_ready(device, IN, QUEUE_SIZE, rings) || !queue_ready(device, OUT, QUEUE_SIZE, rings))
		return;
	bytes_copy(net.mac, mac, sizeof(mac));
	net.mtu = MTU_MOST;
	begin(device);
}

void net_forget(void)
{
	net.device = NULL;
}
