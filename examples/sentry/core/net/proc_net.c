// SPDX-License-Identifier: Apache-2.0
/* /proc/net: sockets for IPv4 and IPv6, interfaces and routes. */
#include "../vfs/synthetic.h"
#include "inet.h"
#include "interface.h"
#include "proc_net.h"

#define SPACES(text, count) text_bytes(text, "                                                     ", count)

void net_put_hex(struct text *text, u64 value, u32 digits)
{
	while (digits--)
		text_bytes(text, &"0123456789ABCDEF"[value >> (4 * digits) & 15], 1);
}

static u8 words_of(const struct inet *inet, const ip_addr_t *address, u32 *words)
{
	words[0] = words[1] = words[2] = words[3] = 0;
	if (inet->family == AF_INET) {
		words[0] = ip_2_ip4(address)->addr;
		return 1;
	}
	if (IP_IS_V4(address)) {
		words[2] = 0xffff0000;
		words[3] = ip_2_ip4(address)->addr;
	} else {
		bytes_copy(words, ip_2_ip6(address)->addr, 16);
	}
	return 4;
}

static void put_end(struct text *text, const struct inet *inet, const ip_addr_t *address, u16 port)
{
	u32 words[4];
	u8 count = words_of(inet, address, words);

	for (u8 i = 0; i < count; i++)
		net_put_hex(text, words[i], 8);
	text_put(text, ":");
	net_put_hex(text, port, 4);
	text_put(text, " ");
}

void net_put_number(struct text *text, u64 value, u64 width)
{
	u64 digits = 1;

	for (u64 rest = value; rest >= 10; rest /= 10)
		digits++;
	if (digits < width)
		SPACES(text, width - digits);
	text_number(text, value);
}

static void put_socket(struct text *text, const struct inet *inet, u32 number, bool stream)
{
	const struct socket *socket = inet->socket;

	net_put_number(text, number, stream ? 4 : 5);
	text_put(text, ": ");
	put_end(text, inet, &inet->local, inet->local_port);
	put_end(text, inet, &inet->remote, inet->listening ? 0 : inet->remote_port);
	net_put_hex(text, stream ? inet_tcp_state(inet) : inet->phase == CONNECTED ? 1 : 7, 2);
	text_put(text, " ");
	net_put_hex(text, tcp_unsent(inet), 8);
	text_put(text, ":");
	net_put_hex(text, inet->listening ? inet->waiting_count : inet->bytes, 8);
	text_put(text, " 00:00000000 00000000 ");
	net_put_number(text, socket ? socket->owner : 0, 5);
	text_put(text, "        0 ");
	text_number(text, socket ? socket->number : 0);
	text_put(text, stream ? " 1 0000000000000000 20 4 30 10 -1\n" : " 2 0000000000000000 0\n");
}

static void put_sockets(struct text *text, u16 family, u16 type)
{
	u32 number = 0;

	text_put(text, family == AF_INET && type == SOCK_DGRAM ? " " : "");
	text_put(text, family == AF_INET ? "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode" :
		"  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode");
	text_put(text, type == SOCK_DGRAM ? " ref pointer drops" : "");
	if (family == AF_INET)
		SPACES(text, type == SOCK_DGRAM ? 12 : 53);
	text_put(text, "\n");
	LIST_EACH(at, inet_all()) {
		struct inet *inet = CONTAINER(at, struct inet, all);
		bool stream = !inet->udp && (!inet->socket || inet->socket->type == SOCK_STREAM);

		/* A stream that is only bound is in no state that Linux lists. */
		if (inet->family == family && stream == (type == SOCK_STREAM) && (inet->udp || inet->tcp))
			put_socket(text, inet, number++, stream);
	}
}

void write_net_tcp(struct text *text, struct synthetic_inode *node)
{
	(void)node;
	put_sockets(text, AF_INET, SOCK_STREAM);
}

void write_net_tcp6(struct text *text, struct synthetic_inode *node)
{
	(void)node;
	put_sockets(text, AF_INET6, SOCK_STREAM);
}

void write_net_udp(struct text *text, struct synthetic_inode *node)
{
	(void)node;
	put_sockets(text, AF_INET, SOCK_DGRAM);
}

void write_net_udp6(struct text *text, struct synthetic_inode *node)
{
	(void)node;
	put_sockets(text, AF_INET6, SOCK_DGRAM);
}

/* Frames are not counted. */
void write_net_dev(struct text *text, struct synthetic_inode *node)
{
	struct interface interface;

	(void)node;
	text_put(text, "Inter-|   Receive                                                |  Transmit\n"
		       " face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n");
	for (u32 i = 1; interface_get(i, &interface); i++) {
		SPACES(text, 6 - string_size(interface.name));
		text_put(text, interface.name);
		text_put(text, ":       0       0    0    0    0     0          0         0        0       0    0    0    0     0       0          0\n");
	}
}

void write_net_if_inet6(struct text *text, struct synthetic_inode *node)
{
	struct interface_address address;
	struct interface interface;

	(void)node;
	for (u32 i = 1; interface_get(i, &interface); i++) {
		for (u32 k = 1; k < INTERFACE_ADDRESSES; k++) {
			if (!interface_address(&interface, k, &address))
				continue;
			for (u32 byte = 0; byte < 16; byte++)
				text_hex(text, address.bytes[byte], 2);
			text_put(text, " ");
			text_hex(text, i, 2);
			text_put(text, " ");
			text_hex(text, address.prefix, 2);
			text_put(text, address.scope == SCOPE_HOST ? " 10 80 " : address.scope == SCOPE_LINK ? " 20 80 " : " 00 80 ");
			SPACES(text, 8 - string_size(interface.name));
			text_put(text, interface.name);
			text_put(text, "\n");
		}
	}
}

static void put_route(struct text *text, const char *name, u32 to, u32 by, u32 flags, u32 mask)
{
	text_put(text, name);
	text_put(text, "\t");
	net_put_hex(text, to, 8);
	text_put(text, "\t");
	net_put_hex(text, by, 8);
	text_put(text, "\t");
	net_put_hex(text, flags, 4);
	text_put(text, "\t0\t0\t0\t");
	net_put_hex(text, mask, 8);
	text_put(text, "\t0\t0\t0");
	SPACES(text, 31);
	text_put(text, "\n");
}

void write_net_route(struct text *text, struct synthetic_inode *node)
{
	enum { UP = 1, GATEWAY = 2, OUTSIDE = 2 };
	struct interface interface;
	u32 own, mask;

	(void)node;
	text_put(text, "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT");
	SPACES(text, 23);
	SPACES(text, 32);
	text_put(text, "\n");
	if (!interface_get(OUTSIDE, &interface))
		return;
	own = ip4_addr_get_u32(netif_ip4_addr(interface.netif));
	mask = interface_mask(&interface);
	if (!own)
		return;
	put_route(text, interface.name, 0, ip4_addr_get_u32(netif_ip4_gw(interface.netif)), UP | GATEWAY, 0);
	put_route(text, interface.name, own & mask, 0, UP, mask);
}

/* -- /sys/class/net -- */

static bool interface_named(const struct synthetic_inode *node, struct interface *interface)
{
	enum { LOOPBACK = 1, OUTSIDE = 2 };

	return interface_get(bytes_equal(node->entry->name, "class/net/lo/", 13) ? LOOPBACK : OUTSIDE, interface);
}

static void write_address(struct text *text, struct synthetic_inode *node)
{
	struct interface interface;

	for (u32 i = 0; i < 6 && interface_named(node, &interface); i++) {
		text_put(text, i ? ":" : "");
		text_hex(text, interface.netif->hwaddr[i], 2);
	}
	text_put(text, "\n");
}

#define NUMBER(name, field) \
	static void write_##name(struct text *text, struct synthetic_inode *node) \
	{ \
		struct interface interface; \
\
		if (interface_named(node, &interface)) \
			text_line(text, "", interface.field, ""); \
	}

NUMBER(mtu, mtu)
NUMBER(index, index)
NUMBER(type, type)

u32 net_sys_files(struct synthetic *files)
{
	static const struct synthetic kinds[] = {
		{ .name = "/address", .write = write_address }, { .name = "/ifindex", .write = write_index },
		{ .name = "/mtu", .write = write_mtu }, { .name = "/type", .write = write_type },
	};
	static char names[NET_SYS_FILES][48];
	struct interface interface;
	u32 count = 0;

	for (u32 i = 1; interface_get(i, &interface); i++)
		for (u32 k = 0; k < ARRAY_SIZE(kinds); k++, count++) {
			struct text name = { .data = NULL };

			text_put(&name, "class/net/");
			text_put(&name, interface.name);
			text_put(&name, kinds[k].name);
			if (name.failed)
				return count;
			bytes_copy(names[count], name.data, name.size);
			names[count][name.size] = 0;
			text_free(&name);
			files[count] = kinds[k];
			files[count].name = names[count];
		}
	return count;
}
