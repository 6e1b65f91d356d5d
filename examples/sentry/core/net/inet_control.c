// SPDX-License-Identifier: Apache-2.0
/* Control data of datagrams: their destination and interface, hop limit, and traffic class. */
#include "inet.h"

#include "lwip/ip.h"

enum { IP_TOS = 1, IP_TTL = 2, IP_PKTINFO = 8, IPV6_PKTINFO = 50, IPV6_HOPLIMIT = 52, IPV6_TCLASS = 67 };
enum { LOOPBACK = 1, OUTSIDE = 2 }; /* the numbers of interfaces */

struct packet_info {
	s32 interface;
	u32 local, destination;
};

struct packet_info_6 {
	u8 address[16];
	s32 interface;
};

_Static_assert(sizeof(struct packet_info_6) == CONTROL_SIZE, "the largest part fits");

void inet_note_arrival(struct chunk *chunk)
{
	ip_addr_copy(chunk->to, *ip_current_dest_addr());
	chunk->interface = ip_current_input_netif() == net_loopback() ? LOOPBACK : OUTSIDE;
	chunk->ttl = ip_current_is_v6() ? IP6H_HOPLIM(ip6_current_header()) : IPH_TTL(ip4_current_header());
	chunk->tos = ip_current_is_v6() ? IP6H_TC(ip6_current_header()) : IPH_TOS(ip4_current_header());
}

/* -- what the receiver gets -- */

static void add(struct controls *controls, s32 level, s32 type, const void *data, u32 size)
{
	struct control *part = &controls->parts[controls->count++];

	part->level = level;
	part->type = type;
	part->size = size;
	bytes_copy(part->data, data, size);
}

static void put_4(const struct inet *inet, const struct chunk *chunk, struct controls *controls)
{
	struct packet_info info = { chunk->interface, ip_2_ip4(&chunk->to)->addr, ip_2_ip4(&chunk->to)->addr };
	s32 ttl = chunk->ttl;

	if (inet->values[V_PKTINFO])
		add(controls, LEVEL_IP, IP_PKTINFO, &info, sizeof(info));
	if (inet->values[V_RECVTTL])
		add(controls, LEVEL_IP, IP_TTL, &ttl, sizeof(ttl));
	if (inet->values[V_RECVTOS])
		add(controls, LEVEL_IP, IP_TOS, &chunk->tos, sizeof(chunk->tos));
}

static void put_6(const struct inet *inet, const struct chunk *chunk, struct controls *controls)
{
	s32 hops = chunk->ttl, class = chunk->tos;

	if (inet->values[V_RECVHOPLIMIT])
		add(controls, LEVEL_IP6, IPV6_HOPLIMIT, &hops, sizeof(hops));
	if (inet->values[V_RECVTCLASS])
		add(controls, LEVEL_IP6, IPV6_TCLASS, &class, sizeof(class));
}

void inet_put_control(struct socket *socket, const struct chunk *chunk, struct controls *controls)
{
	const struct inet *inet = inet_of(socket);
	struct packet_info_6 info = { .interface = chunk->interface };
	struct address address;
	u32 size;

	if (inet->values[V_RECVPKTINFO]) {
		inet_put_address(socket, &chunk->to, 0, &address, &size);
		bytes_copy(info.address, address.rest + 6, sizeof(info.address));
		add(controls, LEVEL_IP6, IPV6_PKTINFO, &info, sizeof(info));
	}
	if (IP_IS_V4(&chunk->to))
		put_4(inet, chunk, controls);
	else
		put_6(inet, chunk, controls);
}

/* -- what the sender requests -- */

static s64 take_number(const struct control *part, s32 low, u8 *value)
{
	s32 number;

	if (part->size == 1 && part->type == IP_TOS) {
		*value = part->data[0];
		return 0;
	}
	if (part->size != sizeof(number))
		return -EINVAL;
	bytes_copy(&number, part->data, sizeof(number));
	if (number == -1 && low < 0)
		return 0;
	if (number < low || number > 255)
		return -EINVAL;
	*value = (u8)number;
	return 0;
}

static s64 take_source(struct socket *socket, const struct control *part, struct outgoing *out)
{
	struct address address = { .family = socket->family };
	bool is_4 = part->level == LEVEL_IP;
	ip_addr_t source;
	u16 port;
	s64 error;

	if (part->size != (is_4 ? sizeof(struct packet_info) : sizeof(struct packet_info_6)))
		return -EINVAL;
	if (is_4 && socket->family == AF_INET)
		bytes_copy(address.rest + 2, part->data + 4, 4);
	else if (!is_4)
		bytes_copy(address.rest + 6, part->data, 16);
	error = inet_get_address(socket, &address, sizeof(address), &source, &port);
	if (error || ip_addr_isany(&source))
		return error;
	ip_addr_copy(out->source, source);
	return net_is_local(&source) ? 0 : is_4 ? -ENETUNREACH : -EINVAL;
}

s64 inet_take_control(struct socket *socket, const struct controls *controls, struct outgoing *out)
{
	s64 error = controls->count > CONTROLS_MOST ? -EINVAL : 0;

	for (u32 i = 0; !error && i < controls->count; i++) {
		const struct control *part = &controls->parts[i];
		s32 level = socket->family == AF_INET6 ? LEVEL_IP6 : LEVEL_IP;

		if (part->level != level)
			continue;
		if (part->type == (level == LEVEL_IP ? IP_PKTINFO : IPV6_PKTINFO))
			error = take_source(socket, part, out);
		else if (part->type == (level == LEVEL_IP ? IP_TTL : IPV6_HOPLIMIT))
			error = take_number(part, level == LEVEL_IP ? 1 : -1, &out->ttl);
		else if (part->type == (level == LEVEL_IP ? IP_TOS : IPV6_TCLASS))
			error = take_number(part, level == LEVEL_IP ? 0 : -1, &out->tos);
		else
			error = -EINVAL;
	}
	return error;
}
