// SPDX-License-Identifier: Apache-2.0
/* Sockets of the family AF_NETLINK for routes: they list links, addresses and routes, and refuse changes. */
#include "../vfs/calls.h"
#include "interface.h"
#include "socket.h"

enum { NETLINK_ROUTE = 0, ADDRESS_BYTES = 12, REQUEST_MOST = 8192, REPLY_ROOM = 2 * PAGE, REPLIES = 16, RTM_FIRST = 16 };
enum { NLMSG_ERROR = 2, NLMSG_DONE = 3, NLM_F_MULTI = 2, NLM_F_ACK = 4, NLM_F_DUMP = 0x300 };
enum { RTM_NEWLINK = 16, RTM_GETLINK = 18, RTM_NEWADDR = 20, RTM_GETADDR = 22, RTM_NEWROUTE = 24, RTM_GETROUTE = 26 };

struct header {
	u32 size;
	u16 type, flags;
	u32 sequence, port;
};

struct reply {
	struct list list;
	u32 size, at; /* of the message that is being written */
	bool full;
	_Alignas(struct header) u8 bytes[];
};

struct netlink {
	u32 port, groups, count;
	struct list replies;
	struct wait_queue changed;
};

static const struct socket_operations operations;
static u32 last_port;

int netlink_create(struct socket **socket, u32 type, s32 protocol)
{
	struct netlink *netlink;

	if (type != SOCK_RAW && type != SOCK_DGRAM)
		return -ESOCKTNOSUPPORT;
	if (protocol != NETLINK_ROUTE)
		return -EPROTONOSUPPORT;
	*socket = socket_new(AF_NETLINK, (u16)type, &operations);
	netlink = *socket ? kmalloc(sizeof(*netlink)) : NULL;
	if (!netlink) {
		kfree(*socket);
		return -ENOBUFS;
	}
	list_init(&netlink->replies);
	(*socket)->data = netlink;
	return 0;
}

/* -- replies -- */

static void *put(struct reply *reply, u32 size)
{
	u32 whole = (size + 3) & ~3u;
	u8 *at = reply->bytes + reply->size;

	if (reply->size + whole > REPLY_ROOM - sizeof(*reply)) {
		reply->full = true;
		return NULL;
	}
	bytes_zero(at, whole);
	reply->size += whole;
	return at;
}

static void *begin(struct reply *reply, const struct header *request, u16 type, u16 flags, u32 size)
{
	struct header *header;

	reply->at = reply->size;
	header = put(reply, (u32)sizeof(*header));
	if (!header)
		return NULL;
	*header = (struct header){ .type = type, .flags = flags, .sequence = request->sequence, .port = request->port };
	return put(reply, size);
}

static void end(struct reply *reply)
{
	if (reply->full)
		reply->size = reply->at;
	else
		((struct header *)(reply->bytes + reply->at))->size = reply->size - reply->at;
}

static void attribute(struct reply *reply, u16 type, const void *data, u32 size)
{
	u16 *at = put(reply, 4 + size);

	if (!at)
		return;
	at[0] = (u16)(4 + size);
	at[1] = type;
	bytes_copy(at + 2, data, size);
}

static void put_link(struct reply *reply, const struct header *request, u16 flags, const struct interface *interface)
{
	struct {
		u8 family, pad;
		u16 type;
		s32 index;
		u32 flags, change;
	} *link = begin(reply, request, RTM_NEWLINK, flags, sizeof(*link));
	enum { ADDRESS = 1, BROADCAST, NAME, MTU, QDISC = 6, QUEUE = 13, STATE = 16, MODE = 17, GROUP = 27, UNKNOWN = 0, UP = 6 };
	static const u8 zeros[6], ones[6] = { 255, 255, 255, 255, 255, 255 };
	bool loopback = interface->flags & IFF_LOOPBACK;
	u32 queue = 1000, group = 0;
	u8 state = loopback ? UNKNOWN : UP, mode = 0;

	if (link) {
		link->type = interface->type;
		link->index = (s32)interface->index;
		link->flags = interface->flags | IFF_LOWER_UP;
	}
	attribute(reply, NAME, interface->name, (u32)string_size(interface->name) + 1);
	attribute(reply, QUEUE, &queue, 4);
	attribute(reply, STATE, &state, 1);
	attribute(reply, MODE, &mode, 1);
	attribute(reply, MTU, &interface->mtu, 4);
	attribute(reply, GROUP, &group, 4);
	attribute(reply, QDISC, "noqueue", 8);
	attribute(reply, ADDRESS, loopback ? zeros : interface->netif->hwaddr, 6);
	attribute(reply, BROADCAST, loopback ? zeros : ones, 6);
	end(reply);
}

static void put_address(struct reply *reply, const struct header *request, const struct interface *interface, u32 number)
{
	enum { ADDRESS = 1, LOCAL, LABEL, BROADCAST, LIFE = 6, FLAGS = 8, PERMANENT = 0x80 };
	const u32 forever[4] = { ~0u, ~0u, 0, 0 };
	struct interface_address address;
	u32 size = number ? 16 : 4, flags = PERMANENT, broadcast;
	struct {
		u8 family, prefix, flags, scope;
		u32 index;
	} *head;

	if (!interface_address(interface, number, &address))
		return;
	head = begin(reply, request, RTM_NEWADDR, NLM_F_MULTI, sizeof(*head));
	if (head) {
		head->family = number ? AF_INET6 : AF_INET;
		head->prefix = address.prefix;
		head->flags = PERMANENT;
		head->scope = address.scope;
		head->index = interface->index;
	}
	attribute(reply, ADDRESS, address.bytes, size);
	if (!number) {
		broadcast = *(u32 *)address.bytes | ~interface_mask(interface);
		attribute(reply, LOCAL, address.bytes, size);
		if (interface->flags & IFF_BROADCAST)
			attribute(reply, BROADCAST, &broadcast, 4);
		attribute(reply, LABEL, interface->name, (u32)string_size(interface->name) + 1);
	}
	attribute(reply, LIFE, forever, sizeof(forever));
	attribute(reply, FLAGS, &flags, 4);
	end(reply);
}

/* The default route, or (local) that to the network of the interface. */
static void put_route(struct reply *reply, const struct header *request, const struct interface *interface, bool local)
{
	enum { TO = 1, OUT = 4, GATEWAY = 5, SOURCE = 7, TABLE = 15, MAIN = 254, BOOT = 3, KERNEL = 2, UNICAST = 1 };
	u32 own = ip4_addr_get_u32(netif_ip4_addr(interface->netif)), mask = interface_mask(interface), table = MAIN, to = own & mask;
	struct {
		u8 family, to_prefix, from_prefix, tos, table, protocol, scope, type;
		u32 flags;
	} *head = begin(reply, request, RTM_NEWROUTE, NLM_F_MULTI, sizeof(*head));

	if (head) {
		head->family = AF_INET;
		head->to_prefix = local ? interface_prefix(interface) : 0;
		head->table = MAIN;
		head->protocol = local ? KERNEL : BOOT;
		head->scope = local ? SCOPE_LINK : 0;
		head->type = UNICAST;
	}
	attribute(reply, TABLE, &table, 4);
	if (local) {
		attribute(reply, TO, &to, 4);
		attribute(reply, SOURCE, &own, 4);
	} else {
		attribute(reply, GATEWAY, netif_ip4_gw(interface->netif), 4);
	}
	attribute(reply, OUT, &interface->index, 4);
	end(reply);
}

static void put_error(struct reply *reply, const struct header *request, s32 error)
{
	struct {
		s32 error;
		struct header request;
	} *result = begin(reply, request, NLMSG_ERROR, 0, sizeof(*result));

	if (result) {
		result->error = error;
		result->request = *request;
	}
	end(reply);
}

/* -- requests -- */

static void dump(struct reply *reply, const struct header *request, u8 family)
{
	struct interface interface;
	s32 *done;

	for (u32 i = 1; interface_get(i, &interface); i++) {
		if (request->type == RTM_GETLINK)
			put_link(reply, request, NLM_F_MULTI, &interface);
		for (u32 k = 0; request->type == RTM_GETADDR && k < INTERFACE_ADDRESSES; k++)
			if (!family || family == (k ? AF_INET6 : AF_INET))
				put_address(reply, request, &interface, k);
		if (request->type != RTM_GETROUTE || i == 1 || family == AF_INET6 || ip4_addr_isany(netif_ip4_addr(interface.netif)))
			continue;
		put_route(reply, request, &interface, false);
		put_route(reply, request, &interface, true);
	}
	done = begin(reply, request, NLMSG_DONE, NLM_F_MULTI, sizeof(*done));
	if (done)
		*done = 0;
	end(reply);
}

static void get_link(struct reply *reply, const struct header *request, const u8 *body, u32 size)
{
	enum { INDEX_AT = 4, BODY = 16, NAME = 3 };
	struct interface interface;
	s32 index = 0;

	if (size >= BODY)
		bytes_copy(&index, body + INDEX_AT, 4);
	for (u32 at = BODY, part; !index && at + 4 <= size; at += (part + 3) & ~3u) {
		part = (u32)(body[at] | body[at + 1] << 8);
		if (part < 4 || part > size - at)
			break;
		for (u32 i = 1; body[at + 2] == NAME && interface_get(i, &interface); i++)
			if (part > 4 + string_size(interface.name) && bytes_equal(body + at + 4, interface.name, string_size(interface.name) + 1))
				index = (s32)i;
	}
	if (index > 0 && interface_get((u32)index, &interface))
		put_link(reply, request, 0, &interface);
	else
		put_error(reply, request, -ENODEV);
}

static void answer(struct netlink *netlink, struct header request, const u8 *body, u32 size)
{
	struct reply *reply = netlink->count < REPLIES ? kmalloc(REPLY_ROOM) : NULL;
	bool lists = request.type == RTM_GETLINK || request.type == RTM_GETADDR || request.type == RTM_GETROUTE;

	if (!reply)
		return;
	request.port = netlink->port;
	if (lists && (request.flags & NLM_F_DUMP) == NLM_F_DUMP)
		dump(reply, &request, size ? body[0] : 0);
	else if (request.type == RTM_GETLINK)
		get_link(reply, &request, body, size);
	else if (request.type >= RTM_FIRST)
		put_error(reply, &request, (request.type & 3) == 2 ? -EOPNOTSUPP : -EPERM);
	else if (request.flags & NLM_F_ACK)
		put_error(reply, &request, 0);
	if (!reply->size) {
		kfree(reply);
		return;
	}
	list_add(&netlink->replies, &reply->list);
	netlink->count++;
	wake_all(&netlink->changed);
}

static void give_port(struct netlink *netlink)
{
	if (!netlink->port)
		netlink->port = last_port++ ? 0xf0000000u + last_port : (u32)core.current->process->pid;
}

static s64 send(struct socket *socket, struct message *message, struct io *from, u32 flags)
{
	struct netlink *netlink = socket->data;
	u64 size = from->left, at = 0;
	u8 *data = size <= REQUEST_MOST ? kmalloc(size ? size : 1) : NULL;

	(void)message;
	if (flags & MSG_OOB || !data) {
		kfree(data);
		return flags & MSG_OOB ? -EOPNOTSUPP : size > REQUEST_MOST ? -EMSGSIZE : -ENOBUFS;
	}
	if (io_get(from, data, size) < size) {
		kfree(data);
		return -EFAULT;
	}
	give_port(netlink);
	while (size - at >= sizeof(struct header)) {
		struct header header;

		bytes_copy(&header, data + at, sizeof(header));
		if (header.size < sizeof(header) || header.size > size - at)
			break;
		answer(netlink, header, data + at + sizeof(header), header.size - (u32)sizeof(header));
		at += (header.size + 3ull) & ~3ull;
		if (at > size)
			break;
	}
	kfree(data);
	return (s64)size;
}

static s64 receive(struct socket *socket, struct message *message, struct io *to, u32 flags)
{
	u64 deadline = socket_deadline(socket->receive_timeout, !(flags & MSG_DONTWAIT)), part;
	struct netlink *netlink = socket->data;
	struct reply *reply;
	s64 result;

	while (list_empty(&netlink->replies)) {
		s64 error = socket_wait(&netlink->changed, deadline);

		if (error)
			return error;
	}
	reply = CONTAINER(netlink->replies.next, struct reply, list);
	list_remove(&reply->list); /* the copy can sleep */
	part = reply->size < to->left ? reply->size : to->left;
	message->flags |= part < reply->size ? MSG_TRUNC : 0;
	message->address = (struct address){ .family = AF_NETLINK };
	message->address_size = ADDRESS_BYTES;
	result = io_put(to, reply->bytes, part) < part ? -EFAULT : flags & MSG_TRUNC ? (s64)reply->size : (s64)part;
	if (flags & MSG_PEEK) {
		list_add(netlink->replies.next, &reply->list);
		return result;
	}
	netlink->count--;
	kfree(reply);
	return result;
}

/* -- names and the rest -- */

static int bind(struct socket *socket, const struct address *address, u32 size)
{
	struct netlink *netlink = socket->data;
	u32 given[2];

	if (size < ADDRESS_BYTES || address->family != AF_NETLINK)
		return -EINVAL;
	bytes_copy(given, address->rest + 2, sizeof(given));
	if (netlink->port && given[0] != netlink->port)
		return -EINVAL;
	netlink->port = given[0];
	netlink->groups = given[1]; /* nothing changes, so there are no notices */
	give_port(netlink);
	return 0;
}

static int connect(struct socket *socket, const struct address *address, u32 size, bool wait)
{
	(void)wait;
	if (size < ADDRESS_BYTES || address->family != AF_NETLINK)
		return -EINVAL;
	give_port(socket->data);
	return 0;
}

static int name(struct socket *socket, struct address *address, u32 *size, bool of_peer)
{
	const struct netlink *netlink = socket->data;

	*address = (struct address){ .family = AF_NETLINK };
	*size = ADDRESS_BYTES;
	if (!of_peer) {
		bytes_copy(address->rest + 2, &netlink->port, 4);
		bytes_copy(address->rest + 6, &netlink->groups, 4);
	}
	return 0;
}

static u32 poll(struct socket *socket, struct poll *poll)
{
	struct netlink *netlink = socket->data;

	poll_wait(poll, &netlink->changed);
	return POLLOUT | POLLWRNORM | POLLWRBAND | (list_empty(&netlink->replies) ? 0 : POLLIN | POLLRDNORM);
}

static u64 readable(struct socket *socket)
{
	struct netlink *netlink = socket->data;

	return list_empty(&netlink->replies) ? 0 : CONTAINER(netlink->replies.next, struct reply, list)->size;
}

/* Accept the options that enable more reports, of which there are none. */
static s64 set_option(struct socket *socket, u32 level, u32 option, const u8 *value, u32 size)
{
	enum { SOL_NETLINK = 270, OPTIONS = 12 };

	(void)socket;
	(void)value;
	return level != SOL_NETLINK || !option || option > OPTIONS ? -ENOPROTOOPT : size < 4 ? -EINVAL : 0;
}

static void release(struct socket *socket)
{
	struct netlink *netlink = socket->data;

	while (!list_empty(&netlink->replies)) {
		struct reply *reply = CONTAINER(netlink->replies.next, struct reply, list);

		list_remove(&reply->list);
		kfree(reply);
	}
	kfree(netlink);
}

static const struct socket_operations operations = {
	.bind = bind,
	.connect = connect,
	.name = name,
	.send = send,
	.receive = receive,
	.poll = poll,
	.set_option = set_option,
	.readable = readable,
	.release = release,
};
