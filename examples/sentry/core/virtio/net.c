// SPDX-License-Identifier: Apache-2.0
/*
 * virtio-net (virtio 1.2, 5.1): frames from and to the outside. A device with all offloads for TCP takes frames that are
 * larger than the link's, and gives such.
 */
#include "../core.h"
#include "../net/start.h"
#include "virtio.h"

enum { IN, OUT, BUFFERS = 64, KEPT = 32, PIECES = NET_PIECES, MTU_MOST = 16000, MAC_AT = 0, MTU_AT = 10, COUNT_AT = 10 };
enum { BUFFER_ORDER = 2, HAS_MTU = 1 << 3, HAS_MAC = 1 << 5 };
/* Of the device to the driver, and back: sums of TCP are left out, frames may be larger; a frame may have several buffers. */
enum { LEAVES_SUMS = 1 << 0, MAY_LEAVE_SUMS = 1 << 1, GIVES_LARGE = 3 << 7, TAKES_LARGE = 3 << 11, MERGES = 1 << 15 };
enum { OFFLOADS = LEAVES_SUMS | MAY_LEAVE_SUMS | GIVES_LARGE | TAKES_LARGE | MERGES };
_Static_assert(NET_BUFFER == PAGE << BUFFER_ORDER, "a block of pages");

static struct {
	struct virtio_device *device; /* NULL: there is none */
	u8 mac[6];
	u16 mtu;
	bool busy; /* used() will notify the device */
	u32 offered, spares;
	u8 *spare[KEPT];
} net;

/* -- buffers for what comes -- */

static u8 *buffer_new(void)
{
	u64 offset = net.spares ? 0 : pages_alloc(BUFFER_ORDER);

	if (net.spares)
		return net.spare[--net.spares];
	return offset ? page_at(offset) : NULL;
}

static void buffer_free(u8 *buffer)
{
	if (net.spares < KEPT)
		net.spare[net.spares++] = buffer;
	else
		page_free(buffer);
}

static void offer(u8 *buffer)
{
	const struct segment segment = { buffer, NET_BUFFER };

	if (queue_add(net.device->queues[IN], &segment, 0, 1, buffer))
		buffer_free(buffer);
	else
		net.offered++;
}

bool net_device_lend(void)
{
	u8 *other = buffer_new();

	if (other)
		offer(other);
	return other;
}

void net_device_return(u8 *buffer)
{
	if (net.offered >= BUFFERS) {
		buffer_free(buffer);
		return;
	}
	offer(buffer);
	if (!net.busy)
		queue_kick(net.device->queues[IN]);
}

static u8 *take(u32 *size)
{
	u8 *buffer = queue_take(net.device->queues[IN], size);

	net.offered -= buffer ? 1 : 0;
	if (*size > NET_BUFFER)
		*size = NET_BUFFER;
	return buffer;
}

/* A frame that has come, in one buffer or several; false: there is none. */
static bool receive(void)
{
	struct net_piece pieces[PIECES];
	u8 header[NET_HEADER], *buffer;
	u32 size = 0, count = 1, some;
	bool whole;

	pieces[0].buffer = buffer = take(&size);
	if (!buffer)
		return false;
	bytes_copy(header, buffer, NET_HEADER);
	some = size >= NET_HEADER && net.device->features & MERGES ? (u32)header[COUNT_AT] | (u32)header[COUNT_AT + 1] << 8 : 1;
	whole = size > NET_HEADER && some && some <= PIECES;
	pieces[0].data = buffer + NET_HEADER;
	pieces[0].size = whole ? size - NET_HEADER : 0;
	for (; count < some && (buffer = take(&size)); count++) {
		if (count < PIECES)
			pieces[count] = (struct net_piece){ buffer, buffer, size };
		else
			net_device_return(buffer);
	}
	if (whole && count == some) {
		net_receive(pieces, count, header);
		return true;
	}
	for (u32 i = 0; i < count && i < PIECES; i++)
		net_device_return(pieces[i].buffer);
	return true;
}

/* -- what leaves -- */

void net_device_reap(void)
{
	u8 *frame;
	u32 size;

	while ((frame = queue_take(net.device->queues[OUT], &size)))
		frame_free(frame);
}

/* What was sent is freed when the next frame leaves: a device with interrupts needs none for it. */
static void await_room(bool waits)
{
	if (net.device->registers)
		queue_listen(net.device->queues[OUT], waits);
}

int net_device_send(u8 *frame, u32 size)
{
	struct virtqueue *queue = net.device->queues[OUT];
	const struct segment segment = { frame, size };
	int error;

	net_device_reap();
	error = queue_add(queue, &segment, 1, 0, frame);
	if (error)
		await_room(true);
	else
		queue_kick(queue);
	return error;
}

static void used(struct virtqueue *queue)
{
	bool some = false;

	if (queue->index == OUT) {
		net_device_reap();
		await_room(false);
		return;
	}
	net.busy = true;
	while (receive())
		some = true;
	net.busy = false;
	if (!some)
		return;
	queue_kick(queue);
	net_run();
}

/* -- its start -- */

bool net_device(const u8 **mac, u16 *mtu)
{
	*mac = net.mac;
	*mtu = net.mtu;
	return net.device;
}

bool net_device_offloads(void)
{
	return net.device && net.device->features & LEAVES_SUMS;
}

static void begin(struct virtio_device *device)
{
	device->used = used;
	net.device = device;
	net.offered = net.spares = 0;
	for (u32 i = 0; i < BUFFERS; i++) {
		u8 *buffer = buffer_new();

		if (buffer)
			offer(buffer);
	}
	queue_kick(device->queues[IN]);
	await_room(false);
}

/* All of them or none. */
static u64 offloads(struct virtio_device *device)
{
	return (mmio_features(device) & OFFLOADS) == OFFLOADS ? OFFLOADS : 0;
}

void net_start(struct virtio_device *device)
{
	if (net.device || !mmio_begin(device, HAS_MAC | HAS_MTU | offloads(device)) || !(device->features & HAS_MAC))
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
