// SPDX-License-Identifier: Apache-2.0
/* Frames from the outside: large ones stay in the buffers of the device, until the program has read their data. */
#include "stack.h"

#include "frames.h"

enum { COPIED_MOST = 2048, PACKET_MOST = 0xffff };

/* A buffer of the device that lwIP holds. */
struct lent {
	struct pbuf_custom custom;
	u8 *buffer;
};

static void take_back(struct pbuf *packet)
{
	struct lent *lent = (struct lent *)packet;

	net_device_return(lent->buffer);
	net_discharge(NET_BUFFER);
	net_free(lent);
}

static struct pbuf *lend(u8 *buffer, u8 *data, u32 size)
{
	bool charged = net_charge(NET_BUFFER);
	struct lent *lent = charged ? net_malloc(sizeof(*lent)) : NULL;

	if (!lent || !net_device_lend()) {
		if (charged)
			net_discharge(NET_BUFFER);
		net_free(lent);
		net_device_return(buffer);
		return NULL;
	}
	lent->custom.custom_free_function = take_back;
	lent->buffer = buffer;
	return pbuf_alloced_custom(PBUF_RAW, (u16)size, PBUF_REF, &lent->custom, data, (u16)size);
}

/* A frame as a packet that holds its buffers; NULL: no memory. */
static struct pbuf *lend_all(const struct net_piece *pieces, u32 count)
{
	struct pbuf *packet = NULL;
	bool whole = true;

	for (u32 i = 0; i < count; i++) {
		struct pbuf *next = lend(pieces[i].buffer, pieces[i].data, pieces[i].size);

		whole = whole && next;
		if (packet && next)
			pbuf_cat(packet, next);
		else if (next)
			packet = next;
	}
	if (whole || !packet)
		return packet;
	pbuf_free(packet);
	return NULL;
}

/* A copy of a frame as a packet, whose buffers are returned. */
static struct pbuf *copy_all(const struct net_piece *pieces, u32 count, u32 size)
{
	struct pbuf *packet = pbuf_alloc(PBUF_RAW, (u16)size, PBUF_RAM);
	u32 done = 0;

	for (u32 i = 0; i < count; i++) {
		if (packet)
			pbuf_take_at(packet, pieces[i].data, (u16)pieces[i].size, (u16)done);
		done += pieces[i].size;
		net_device_return(pieces[i].buffer);
	}
	return packet;
}

void net_receive(const struct net_piece *from, u32 count, const void *device_header)
{
	const struct frame_header *header = device_header;
	bool right = header->flags & (NEEDS_SUM | SUM_IS_RIGHT) && net_device_offloads();
	struct netif *outside = net_outside();
	struct net_piece pieces[NET_PIECES];
	struct pbuf *packet;
	u32 size = 0, skip;

	for (u32 i = 0; i < count; i++) {
		pieces[i] = from[i];
		size += from[i].size;
	}
	/* A packet may be as large as lwIP can count, without the header of its frame. */
	skip = size > PACKET_MOST && pieces[0].size > ETHERNET ? ETHERNET : 0;
	pieces[0].data += skip;
	pieces[0].size -= skip;
	size -= skip;
	if (!outside || size > PACKET_MOST) {
		for (u32 i = 0; i < count; i++)
			net_device_return(pieces[i].buffer);
		return;
	}
	packet = size > COPIED_MOST ? lend_all(pieces, count) : copy_all(pieces, count, size);
	if (!packet)
		return;
	outside->chksum_flags = (u16)(right ? outside->chksum_flags & ~NET_CHECKS : outside->chksum_flags | NET_CHECKS);
	packet->if_idx = netif_get_index(outside);
	if ((skip ? ip_input : outside->input)(packet, outside) != ERR_OK)
		pbuf_free(packet);
}
