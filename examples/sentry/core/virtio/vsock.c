// SPDX-License-Identifier: Apache-2.0
/*
 * virtio-vsock (virtio 1.2, 5.10): streams that the host opens.
 *
 * The host's packets are copied into a buffer of the connection, so a reader that never reads keeps no buffer of the
 * device. Control packets that do not fit into the queue are owed, and sent when there is room.
 */
#include "vsock.h"

#include "../core.h"
#include "virtio.h"

enum { IN, OUT, EVENTS, RX_BUFFERS = 16, EVENT_BUFFERS = 4, DATA_MOST = 4 * PAGE, RESERVED = 32 };
enum { REQUEST = 1, RESPONSE, RST, SHUTDOWN, RW, CREDIT_UPDATE, CREDIT_REQUEST };
enum { STREAM = 1, HOST = 2, SHUT_RECEIVE = 1, SHUT_SEND = 2, CONNECTIONS_MOST = 16, LISTENERS = 2, USUAL_CID = 3 };
#define OWES(operation) (1u << (operation))

struct header {
	u64 from, to;
	u32 from_port, to_port, size;
	u16 type, operation;
	u32 flags, room, taken;
} __attribute__((packed));

_Static_assert(sizeof(struct header) == 44, "as in the specification");

struct packet {
	struct header header;
	u8 data[];
};

static struct {
	struct virtio_device *device; /* NULL: there is none */
	u64 cid;
	struct list all;
	u32 count;
	struct {
		u32 port;
		bool (*accept)(struct vsock *socket);
	} listeners[LISTENERS];
	u32 listener_count;
	bool has_moved;
} vsock;

/* -- packets to the host -- */

static bool send(struct packet *packet)
{
	struct virtqueue *queue = vsock.device->queues[OUT];
	const struct segment segment = { packet, (u32)sizeof(packet->header) + packet->header.size };

	if (!packet || queue_add(queue, &segment, 1, 0, packet)) {
		kfree(packet);
		return false;
	}
	queue_kick(queue);
	return true;
}

static struct packet *packet_new(const struct vsock *socket, u16 operation, u32 size)
{
	struct packet *packet = kmalloc(sizeof(*packet) + size);

	if (packet)
		packet->header = (struct header){
			.from = vsock.cid, .to = HOST, .from_port = socket->port, .to_port = socket->host_port, .size = size,
			.type = STREAM, .operation = operation, .room = VSOCK_BUFFER, .taken = socket->taken,
			.flags = operation == SHUTDOWN ? SHUT_RECEIVE | SHUT_SEND : 0,
		};
	return packet;
}

/* In the order of their numbers. Whether all were sent. */
static bool pay(struct vsock *socket)
{
	for (u16 operation = RESPONSE; operation <= CREDIT_REQUEST; operation++) {
		struct packet *packet;

		if (!(socket->owed & OWES(operation)))
			continue;
		packet = packet_new(socket, operation, 0);
		if (!packet || !send(packet))
			return false;
		socket->owed &= (u8)~OWES(operation);
		socket->reported = socket->taken;
	}
	return true;
}

static void owe(struct vsock *socket, u16 operation)
{
	socket->owed |= OWES(operation);
	pay(socket);
}

/* Answer a packet that belongs to no connection. */
static void refuse(const struct header *header)
{
	const struct vsock nobody = { .port = header->to_port, .host_port = header->from_port };
	struct packet *packet = header->operation == RST ? NULL : packet_new(&nobody, RST, 0);

	if (!packet)
		return;
	packet->header.type = header->type;
	packet->header.room = 0;
	send(packet);
}

/* -- connections -- */

static struct vsock *find(const struct header *header)
{
	LIST_EACH(at, &vsock.all) {
		struct vsock *socket = CONTAINER(at, struct vsock, all);

		if (socket->port == header->to_port && socket->host_port == header->from_port && !socket->finished)
			return socket;
	}
	return NULL;
}

static void wake(struct vsock *socket)
{
	wake_all(&socket->readable);
	wake_all(&socket->writable);
}

static void end(struct vsock *socket)
{
	socket->ended = socket->closed = socket->finished = true;
	socket->owed &= OWES(RST);
	wake(socket);
}

/* Free a connection that was reset and that nothing uses. */
static void settle(struct vsock *socket)
{
	if (socket->attached || socket->owed || !socket->finished)
		return;
	list_remove(&socket->all);
	vsock.count--;
	wait_queue_end(&socket->readable);
	wait_queue_end(&socket->writable);
	kfree(socket->buffer);
	kfree(socket);
}

static void reset(struct vsock *socket)
{
	end(socket);
	owe(socket, RST);
	settle(socket);
}

static void accept(const struct header *header)
{
	struct vsock *socket = NULL;
	u32 i = 0;

	while (i < vsock.listener_count && vsock.listeners[i].port != header->to_port)
		i++;
	if (i < vsock.listener_count && vsock.count < CONNECTIONS_MOST)
		socket = kmalloc(sizeof(*socket));
	if (socket)
		socket->buffer = kmalloc(VSOCK_BUFFER);
	if (!socket || !socket->buffer) {
		kfree(socket);
		refuse(header);
		return;
	}
	socket->port = header->to_port;
	socket->host_port = header->from_port;
	socket->room = header->room;
	socket->attached = true;
	list_add(&vsock.all, &socket->all);
	vsock.count++;
	if (vsock.listeners[i].accept(socket)) {
		owe(socket, RESPONSE);
		return;
	}
	socket->attached = false;
	reset(socket);
}

static void store(struct vsock *socket, const u8 *data, u32 size)
{
	u32 at = (socket->first + socket->used) % VSOCK_BUFFER, rest = VSOCK_BUFFER - at;
	u32 part = size < rest ? size : rest;

	bytes_copy(socket->buffer + at, data, part);
	bytes_copy(socket->buffer, data + part, size - part);
	socket->used += size;
	wake_all(&socket->readable);
}

static void shut_down(struct vsock *socket, u32 flags)
{
	socket->ended = socket->ended || flags & SHUT_SEND;
	socket->closed = socket->closed || flags & SHUT_RECEIVE;
	if (socket->ended && socket->closed)
		reset(socket);
	else
		wake(socket);
}

static void receive(const struct header *header, const u8 *data)
{
	struct vsock *socket = find(header);

	if (header->type != STREAM || (!socket && header->operation != REQUEST)) {
		refuse(header);
		return;
	}
	if (!socket) {
		accept(header);
		return;
	}
	socket->room = header->room;
	socket->host_taken = header->taken;
	switch (header->operation) {
	case RW:
		if (socket->ended || header->size > VSOCK_BUFFER - socket->used)
			reset(socket);
		else
			store(socket, data, header->size);
		break;
	case CREDIT_UPDATE:
		wake_all(&socket->writable);
		break;
	case CREDIT_REQUEST:
		owe(socket, CREDIT_UPDATE);
		break;
	case SHUTDOWN:
		shut_down(socket, header->flags);
		break;
	case RST:
		end(socket);
		settle(socket);
		break;
	default:
		reset(socket);
	}
}

/* -- the queues -- */

static void offer(u32 index, void *buffer, u32 size)
{
	const struct segment segment = { buffer, size };

	if (queue_add(vsock.device->queues[index], &segment, 0, 1, buffer))
		kfree(buffer);
}

/* The device was reset or moved to another host: its connections are gone, and it may have another CID. */
static void transport_reset(void)
{
	LIST_EACH_SAFE(at, next, &vsock.all) {
		struct vsock *socket = CONTAINER(at, struct vsock, all);

		socket->owed = 0;
		end(socket);
		settle(socket);
	}
	if (vsock.device->registers)
		mmio_config(vsock.device, 0, &vsock.cid, sizeof(vsock.cid));
}

static void pay_all(void)
{
	LIST_EACH_SAFE(at, next, &vsock.all) {
		struct vsock *socket = CONTAINER(at, struct vsock, all);

		if (!pay(socket))
			return;
		wake_all(&socket->writable);
		settle(socket);
	}
}

static void take(const struct packet *packet, u32 size)
{
	const struct header header = packet->header;

	if (size >= sizeof(header) && header.size <= size - sizeof(header) && header.from == HOST && header.to == vsock.cid)
		receive(&header, packet->data);
}

static void used(struct virtqueue *queue)
{
	bool some = false;
	void *buffer;
	u32 size;

	while ((buffer = queue_take(queue, &size))) {
		some = true;
		if (queue->index == OUT) {
			kfree(buffer);
		} else if (queue->index == IN) {
			take(buffer, size < PAGE ? size : PAGE);
			offer(IN, buffer, PAGE);
		} else {
			transport_reset();
			offer(EVENTS, buffer, sizeof(u32));
		}
	}
	if (some && queue->index == OUT)
		pay_all();
	else if (some)
		queue_kick(queue);
}

static void fill(u32 index, u32 count, u32 size)
{
	for (u32 i = 0; i < count; i++) {
		void *buffer = kmalloc(size);

		if (buffer)
			offer(index, buffer, size);
	}
	queue_kick(vsock.device->queues[index]);
}

static void begin(struct virtio_device *device, u64 cid)
{
	vsock.cid = cid;
	vsock.device = device;
	device->used = used;
	fill(IN, RX_BUFFERS, PAGE);
	if (device->queues[EVENTS])
		fill(EVENTS, EVENT_BUFFERS, sizeof(u32));
}

void vsock_start(struct virtio_device *device)
{
	u64 cid;

	if (vsock.device || !mmio_begin(device, 0) || !mmio_queue(device, IN) || !mmio_queue(device, OUT) ||
	    !mmio_queue(device, EVENTS))
		return;
	mmio_config(device, 0, &cid, sizeof(cid));
	mmio_ready(device);
	begin(device, cid);
}

/* A device that the platform has set up: no event comes, see vsock_move(). */
void vsock_start_ready(struct virtio_device *device, u8 *rings)
{
	if (queue_ready(device, IN, QUEUE_SIZE, rings) && queue_ready(device, OUT, QUEUE_SIZE, rings))
		begin(device, USUAL_CID);
}

void vsock_forget(void)
{
	bytes_zero(&vsock, sizeof(vsock));
	list_init(&vsock.all);
}

void vsock_move(void)
{
	vsock.has_moved = vsock.device;
}

void vsock_poll(void)
{
	if (!vsock.has_moved)
		return;
	vsock.has_moved = false;
	transport_reset();
}

bool vsock_is_there(void)
{
	return vsock.device;
}

bool vsock_has_sent(void)
{
	const struct virtqueue *queue = vsock.device->queues[OUT];

	return queue->free_count == queue->size;
}

/* -- its users -- */

void vsock_listen(u32 port, bool (*accept_one)(struct vsock *socket))
{
	if (vsock.listener_count == LISTENERS)
		return;
	vsock.listeners[vsock.listener_count].port = port;
	vsock.listeners[vsock.listener_count++].accept = accept_one;
}

s64 vsock_read(struct vsock *socket, void *to, u64 size)
{
	u32 part = size < socket->used ? (u32)size : socket->used, rest = VSOCK_BUFFER - socket->first;
	u32 first = part < rest ? part : rest;

	if (!part)
		return socket->ended || !size ? 0 : -EAGAIN;
	bytes_copy(to, socket->buffer + socket->first, first);
	bytes_copy((u8 *)to + first, socket->buffer, part - first);
	socket->first = (socket->first + part) % VSOCK_BUFFER;
	socket->used -= part;
	socket->taken += part;
	if (socket->taken - socket->reported >= VSOCK_BUFFER / 4 && !socket->finished)
		owe(socket, CREDIT_UPDATE);
	return part;
}

s64 vsock_write(struct vsock *socket, const void *from, u64 size)
{
	u32 waiting = socket->sent - socket->host_taken, credit = waiting < socket->room ? socket->room - waiting : 0;
	u32 part = size < DATA_MOST ? (u32)size : DATA_MOST;
	struct packet *packet;

	if (socket->closed)
		return -EPIPE;
	if (part > credit)
		part = credit;
	if (!part || socket->owed || vsock.device->queues[OUT]->free_count <= RESERVED)
		return size ? -EAGAIN : 0;
	packet = packet_new(socket, RW, part);
	if (!packet)
		return -ENOMEM;
	bytes_copy(packet->data, from, part);
	if (!send(packet))
		return -EAGAIN;
	socket->sent += part;
	socket->reported = socket->taken;
	return part;
}

void vsock_close(struct vsock *socket)
{
	bool finished = socket->finished;

	socket->attached = false;
	socket->used = 0;
	socket->ended = socket->closed = true;
	if (!finished)
		owe(socket, SHUTDOWN);
	settle(socket);
}
