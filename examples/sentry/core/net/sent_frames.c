// SPDX-License-Identifier: Apache-2.0
/*
 * Frames to the outside.
 *
 * With a device that can, the host adds the sums of TCP, and segments of a connection that follow one another leave as
 * one frame, which the host's network splits where it has to.
 */
#include "stack.h"

#include "lwip/prot/ethernet.h"
#include "lwip/prot/ip4.h"
#include "lwip/prot/ip6.h"
#include "lwip/prot/tcp.h"

#include "frames.h"

enum { HEADERS_MOST = ETHERNET + 60 + 60, PART_LEAST = 512 };
/* A block of 16 pages, with the header of net_malloc(). */
enum { ROOM = 16 * PAGE - 16, SPARE_FRAMES = 4 };
enum { PUSH = 8, ACK = 16, SUM_AT = 16 }; /* of a TCP header: flags, and where its sum is */

/* Where the parts of a segment of TCP are in its frame. */
struct segment_view {
	bool six;
	u8 flags;
	u32 ip, tcp, data; /* offsets */
	u32 sequence;
};

static struct {
	u8 *frame;		  /* whose segments wait for more; NULL: there is none */
	u32 size;		  /* with NET_HEADER */
	u32 part;		  /* bytes of data of each segment but the last */
	u32 next;		  /* the sequence number behind the last one */
	struct segment_view view; /* of the first one */
} waiting;

static u8 *spare[SPARE_FRAMES];
static u32 spares;

/* -- headers -- */

static u16 get16(const u8 *at)
{
	return (u16)(at[0] << 8 | at[1]);
}

static void put16(u8 *at, u32 value)
{
	at[0] = (u8)(value >> 8);
	at[1] = (u8)value;
}

static u32 sum(const u8 *data, u32 size)
{
	u32 total = 0;

	for (u32 i = 0; i < size; i += 2)
		total += get16(data + i);
	return total;
}

static u32 folded(u32 total)
{
	total = (total & 0xffff) + (total >> 16);
	return (total + (total >> 16)) & 0xffff;
}

/* Whether the first bytes of a frame begin a segment of TCP. */
static bool view(const u8 *frame, u32 size, struct segment_view *found)
{
	const u8 *ip = frame + ETHERNET, *tcp;
	u16 type = size >= ETHERNET + IP_HLEN + TCP_HLEN ? get16(frame + 12) : 0;

	*found = (struct segment_view){ .six = type == ETHTYPE_IPV6, .ip = ETHERNET };
	if (type == ETHTYPE_IP && ip[0] == 0x45 && ip[9] == IP_PROTO_TCP && !(get16(ip + 6) & (IP_MF | IP_OFFMASK)))
		found->tcp = ETHERNET + IP_HLEN;
	else if (type == ETHTYPE_IPV6 && size >= ETHERNET + IP6_HLEN + TCP_HLEN && ip[6] == IP_PROTO_TCP)
		found->tcp = ETHERNET + IP6_HLEN;
	else
		return false;
	tcp = frame + found->tcp;
	found->data = found->tcp + (tcp[12] >> 4) * 4u;
	found->sequence = (u32)get16(tcp + 4) << 16 | get16(tcp + 6);
	found->flags = tcp[13];
	return found->data <= size;
}

/* Put the headers of a segment right whose size has changed, and those for the device. */
static void finish(u8 *frame, u32 size, const struct segment_view *segment, u32 part)
{
	u8 *start = frame + NET_HEADER, *ip = start + segment->ip;
	u32 packet = size - NET_HEADER - segment->ip, tcp = size - NET_HEADER - segment->tcp;
	struct frame_header header = { NEEDS_SUM, .sum_start = (u16)segment->tcp, .sum_offset = SUM_AT };

	if (size - NET_HEADER - segment->data > part) {
		header.type = segment->six ? SPLIT_TCP6 : SPLIT_TCP4;
		header.headers = (u16)segment->data;
		header.part = (u16)part;
	}
	*(struct frame_header *)frame = header;
	if (segment->six) {
		put16(ip + 4, packet - IP6_HLEN);
	} else {
		put16(ip + 2, packet);
		put16(ip + 10, 0);
		put16(ip + 10, ~folded(sum(ip, IP_HLEN)));
	}
	/* To the sum of addresses, protocol and size the host adds that of the segment. */
	put16(start + segment->tcp + SUM_AT, folded(IP_PROTO_TCP + tcp + (segment->six ? sum(ip + 8, 32) : sum(ip + 12, 8))));
}

/* -- memory of frames -- */

static u8 *frame_new(u32 size)
{
	net_device_reap();
	if (size == ROOM && spares)
		return spare[--spares];
	return net_malloc(size);
}

void frame_free(u8 *frame)
{
	if (net_block_size(frame) == ROOM && spares < SPARE_FRAMES)
		spare[spares++] = frame;
	else
		net_free(frame);
}

/* -- sending -- */

static err_t send(u8 *frame, u32 size)
{
	if (!net_device_send(frame, size))
		return ERR_OK;
	frame_free(frame);
	return ERR_MEM;
}

static err_t send_alone(const struct pbuf *packet, const struct segment_view *segment)
{
	u32 size = NET_HEADER + packet->tot_len;
	u8 *frame = frame_new(size);

	if (!frame)
		return ERR_MEM;
	bytes_zero(frame, NET_HEADER);
	pbuf_copy_partial(packet, frame + NET_HEADER, packet->tot_len, 0);
	if (segment)
		finish(frame, size, segment, size);
	return send(frame, size);
}

void frames_flush(void)
{
	u8 *frame = waiting.frame;

	if (!frame)
		return;
	waiting.frame = NULL;
	finish(frame, waiting.size, &waiting.view, waiting.part);
	send(frame, waiting.size);
}

/* Whether a segment continues those that wait, and says the same beside its data. */
static bool continues(const u8 *headers, const struct segment_view *next, u32 data)
{
	const struct segment_view *first = &waiting.view;
	const u8 *other = waiting.frame + NET_HEADER;
	u32 ip = next->ip, tcp = next->tcp, limit = ip + (next->six ? 7 : 8), source = ip + (next->six ? 8 : 12);

	return waiting.frame && data && data <= waiting.part && waiting.size + data <= ROOM &&
	       first->six == next->six && first->data == next->data && next->sequence == waiting.next &&
	       !(next->flags & ~(ACK | PUSH)) &&
	       bytes_equal(headers, other, ip + 2) && headers[limit] == other[limit] &&
	       bytes_equal(headers + source, other + source, tcp + 4 - source) && /* addresses, ports */
	       bytes_equal(headers + tcp + 8, other + tcp + 8, 5) &&		  /* what is confirmed */
	       bytes_equal(headers + tcp + 14, other + tcp + 14, 2) &&		  /* the window */
	       bytes_equal(headers + tcp + TCP_HLEN, other + tcp + TCP_HLEN, next->data - tcp - TCP_HLEN);
}

static void append(const struct pbuf *packet, const struct segment_view *next, u32 data)
{
	pbuf_copy_partial(packet, waiting.frame + waiting.size, (u16)data, (u16)next->data);
	waiting.size += data;
	waiting.next += data;
	waiting.frame[NET_HEADER + waiting.view.tcp + 13] |= next->flags;
	if (data < waiting.part || next->flags & PUSH)
		frames_flush();
}

/* A segment that others may follow waits for them. */
static bool wait_for_more(const struct pbuf *packet, const struct segment_view *first, u32 data)
{
	u8 *frame = data < PART_LEAST || first->flags != ACK ? NULL : frame_new(ROOM);

	if (!frame)
		return false;
	pbuf_copy_partial(packet, frame + NET_HEADER, packet->tot_len, 0);
	waiting.frame = frame;
	waiting.size = NET_HEADER + packet->tot_len;
	waiting.part = data;
	waiting.next = first->sequence + data;
	waiting.view = *first;
	return true;
}

err_t frame_put(struct netif *interface, struct pbuf *packet)
{
	u8 headers[HEADERS_MOST];
	struct segment_view found;
	u32 size, data;

	(void)interface;
	if (!net_device_offloads())
		return send_alone(packet, NULL);
	size = pbuf_copy_partial(packet, headers, sizeof(headers), 0);
	if (!view(headers, size, &found)) {
		frames_flush();
		return send_alone(packet, NULL);
	}
	data = packet->tot_len - found.data;
	if (continues(headers, &found, data)) {
		append(packet, &found, data);
		return ERR_OK;
	}
	frames_flush();
	return wait_for_more(packet, &found, data) ? ERR_OK : send_alone(packet, &found);
}

void frames_init(void)
{
	waiting.frame = NULL;
	spares = 0;
}
