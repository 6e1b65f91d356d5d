// SPDX-License-Identifier: Apache-2.0
/* Sockets of the families AF_INET and AF_INET6: their lives, addresses and ports. */
#include "inet.h"

enum { CAP_NET_BIND_SERVICE = 10, OVERHEAD = 512 };

static struct slab inets = SLAB(struct inet);
static struct slab chunks = SLAB(struct chunk);
static struct list all; /* with a port */

void inet_init(void)
{
	list_init(&all);
}

struct list *inet_all(void)
{
	return &all;
}

/* -- lives -- */

struct inet *inet_new(void)
{
	struct inet *inet = net_is_low() ? NULL : slab_alloc(&inets);

	if (!inet)
		return NULL;
	list_init(&inet->all);
	list_init(&inet->chunks);
	list_init(&inet->waiting);
	list_init(&inet->in_waiting);
	inet_set_defaults(inet);
	return inet;
}

void inet_forget_port(struct inet *inet)
{
	list_remove(&inet->all);
	inet->local_port = 0;
}

void inet_free(struct inet *inet)
{
	inet_drop_chunks(inet);
	list_remove(&inet->all);
	slab_free(&inets, inet);
}

struct socket *inet_socket(struct inet *inet, u16 family, u16 type)
{
	struct socket *socket = socket_new(family, type, type == SOCK_STREAM ? &tcp_operations : &udp_operations);

	if (!socket)
		return NULL;
	socket->protocol = type == SOCK_STREAM ? PROTOCOL_TCP : PROTOCOL_UDP;
	socket->data = inet;
	inet->family = family;
	inet->socket = socket;
	return socket;
}

int inet_create(struct socket **socket, u16 family, u32 type, s32 protocol)
{
	s32 own = type == SOCK_STREAM ? PROTOCOL_TCP : protocol == PROTOCOL_UDPLITE ? PROTOCOL_UDPLITE : PROTOCOL_UDP;
	struct inet *inet;

	if (protocol < 0 || protocol > 255)
		return -EINVAL;
	if (type == SOCK_RAW)
		return protocol ? -EPERM : -EPROTONOSUPPORT;
	if (type != SOCK_STREAM && type != SOCK_DGRAM)
		return -ESOCKTNOSUPPORT;
	if (protocol && protocol != own)
		return -EPROTONOSUPPORT;
	inet = inet_new();
	*socket = inet ? inet_socket(inet, family, (u16)type) : NULL;
	if (*socket) {
		(*socket)->protocol = (u16)own;
		ip_addr_set_any(family == AF_INET6, &inet->local);
		ip_addr_set_any(family == AF_INET6, &inet->remote);
		return 0;
	}
	if (inet)
		inet_free(inet);
	return -ENOBUFS;
}

/* -- what was received -- */

struct chunk *chunk_new(struct inet *inet, struct pbuf *data)
{
	struct chunk *chunk = slab_alloc(&chunks);

	if (!chunk)
		return NULL;
	chunk->data = data;
	inet->bytes += data->tot_len;
	inet->cost += data->tot_len + OVERHEAD;
	list_add(&inet->chunks, &chunk->list);
	return chunk;
}

void chunk_free(struct inet *inet, struct chunk *chunk)
{
	inet->cost -= chunk->data->tot_len + OVERHEAD;
	list_remove(&chunk->list);
	pbuf_free(chunk->data);
	slab_free(&chunks, chunk);
}

u64 chunk_copy(const struct chunk *chunk, u64 size, struct io *to)
{
	u64 done = 0, skip = chunk->start;

	for (const struct pbuf *p = chunk->data; p && done < size; p = p->next) {
		u64 part, moved;

		if (skip >= p->len) {
			skip -= p->len;
			continue;
		}
		part = p->len - skip < size - done ? p->len - skip : size - done;
		moved = io_put(to, (const u8 *)p->payload + skip, part);
		done += moved;
		skip = 0;
		if (moved < part)
			break;
	}
	return done;
}

void inet_drop_chunks(struct inet *inet)
{
	while (!list_empty(&inet->chunks))
		chunk_free(inet, CONTAINER(inet->chunks.next, struct chunk, list));
	inet->bytes = 0;
}

s64 inet_take_error(struct inet *inet)
{
	s64 error = inet->error;

	inet->error = 0;
	return error;
}

s64 inet_error(struct socket *socket)
{
	return inet_take_error(inet_of(socket));
}

void inet_refused(const ip_addr_t *local, u16 local_port, const ip_addr_t *remote, u16 remote_port)
{
	LIST_EACH(at, inet_all()) {
		struct inet *inet = CONTAINER(at, struct inet, all);

		if (!inet->udp || inet->phase != CONNECTED || inet->local_port != local_port ||
		    inet->remote_port != remote_port || !ip_addr_eq(&inet->remote, remote) ||
		    !ip_addr_eq(&inet->local, local))
			continue;
		inet->error = -ECONNREFUSED;
		wake_all(&inet->changed);
	}
}

/* -- addresses -- */

u8 inet_type(const struct socket *socket, const ip_addr_t *address)
{
	const struct inet *inet = socket->data;

	if (socket->family == AF_INET || IP_IS_V4(address))
		return IPADDR_TYPE_V4;
	return ip_addr_isany(address) && !inet_is_v6_only(inet) ? IPADDR_TYPE_ANY : IPADDR_TYPE_V6;
}

static int get_address_6(struct inet *inet, const u8 *bytes, ip_addr_t *to)
{
	static const u8 mapped[12] = { [10] = 0xff, [11] = 0xff };

	if (bytes_equal(bytes, mapped, sizeof(mapped))) {
		ip_addr_set_zero_ip4(to);
		bytes_copy(&ip_2_ip4(to)->addr, bytes + 12, 4);
		return inet_is_v6_only(inet) ? -ENETUNREACH : 0;
	}
	ip_addr_set_zero_ip6(to);
	bytes_copy(ip_2_ip6(to)->addr, bytes, 16);
	return 0;
}

int inet_get_address(struct socket *socket, const struct address *from, u32 size, ip_addr_t *to, u16 *port)
{
	const u8 *rest = (const u8 *)from->rest;

	if (size < (socket->family == AF_INET ? SIZE_4 : LEAST_6))
		return -EINVAL;
	if (from->family != socket->family)
		return -EAFNOSUPPORT;
	*port = (u16)(rest[0] << 8 | rest[1]);
	if (socket->family == AF_INET6)
		return get_address_6(inet_of(socket), rest + 6, to);
	ip_addr_set_zero_ip4(to);
	bytes_copy(&ip_2_ip4(to)->addr, rest + 2, 4);
	return 0;
}

int inet_get_target(struct socket *socket, const struct address *from, u32 size, ip_addr_t *to, u16 *port)
{
	int error = inet_get_address(socket, from, size, to, port);

	if (error || !ip_addr_isany(to))
		return error;
	if (IP_IS_V4(to))
		IP_ADDR4(to, 127, 0, 0, 1);
	else
		IP_ADDR6_HOST(to, 0, 0, 0, 1);
	return 0;
}

void inet_put_address(struct socket *socket, const ip_addr_t *from, u16 port, struct address *to, u32 *size)
{
	u8 *rest = (u8 *)to->rest;

	*to = (struct address){ .family = socket->family };
	*size = socket->family == AF_INET ? SIZE_4 : SIZE_6;
	rest[0] = (u8)(port >> 8);
	rest[1] = (u8)port;
	if (socket->family == AF_INET) {
		bytes_copy(rest + 2, &ip_2_ip4(from)->addr, 4);
	} else if (IP_IS_V4(from)) {
		rest[16] = rest[17] = 0xff;
		bytes_copy(rest + 18, &ip_2_ip4(from)->addr, 4);
	} else {
		bytes_copy(rest + 6, ip_2_ip6(from)->addr, 16);
	}
}

int inet_name(struct socket *socket, struct address *address, u32 *size, bool of_peer)
{
	struct inet *inet = inet_of(socket);
	bool there = socket->type == SOCK_STREAM ? inet->established && inet->tcp : inet->phase == CONNECTED;

	if (of_peer && !(there && inet->remote_port))
		return -ENOTCONN;
	if (of_peer)
		inet_put_address(socket, &inet->remote, inet->remote_port, address, size);
	else
		inet_put_address(socket, &inet->local, inet->local_port, address, size);
	return 0;
}

/* -- ports -- */

enum { ONLY_4 = 1, ONLY_6 = 2, BOTH = 3 };

static u32 versions(const struct inet *inet, const ip_addr_t *address)
{
	if (IP_IS_V4(address))
		return ONLY_4;
	return ip_addr_isany(address) && !inet_is_v6_only(inet) ? BOTH : ONLY_6;
}

static bool overlap(const struct inet *a, const ip_addr_t *address, const struct inet *b, const ip_addr_t *other)
{
	if (!(versions(a, address) & versions(b, other)))
		return false;
	return ip_addr_isany(address) || ip_addr_isany(other) || ip_addr_eq(address, other);
}

static bool may_share(const struct inet *inet, u32 option)
{
	return inet->socket ? socket_switch(inet->socket, option) : inet->reuse_address; /* without one it is a stream */
}

/* Connections that have no socket any longer. */
static bool orphan_conflicts(struct tcp_pcb *list, const struct inet *inet, const ip_addr_t *address, u16 port)
{
	for (struct tcp_pcb *pcb = list; pcb; pcb = pcb->next) {
		if (pcb->callback_arg || pcb->local_port != port)
			continue;
		if (ip_get_option(pcb, SOF_REUSEADDR) && may_share(inet, SO_REUSEADDR))
			continue;
		if (overlap(inet, address, inet, &pcb->local_ip))
			return true;
	}
	return false;
}

bool inet_port_conflicts(struct socket *socket, const ip_addr_t *address, u16 port)
{
	struct inet *inet = inet_of(socket);
	bool stream = socket->type == SOCK_STREAM;

	LIST_EACH(at, inet_all()) {
		struct inet *other = CONTAINER(at, struct inet, all);

		if (other == inet || other->local_port != port || (other->socket ? other->socket->protocol : PROTOCOL_TCP) != socket->protocol)
			continue;
		if (may_share(inet, SO_REUSEADDR) && may_share(other, SO_REUSEADDR) && !(stream && other->listening))
			continue;
		if (!stream && may_share(inet, SO_REUSEPORT) && may_share(other, SO_REUSEPORT))
			continue;
		if (overlap(inet, address, other, &other->local))
			return true;
	}
	return stream && (orphan_conflicts(tcp_active_pcbs, inet, address, port) ||
			  orphan_conflicts(tcp_tw_pcbs, inet, address, port));
}

static bool list_has_port(const struct tcp_pcb *list, u16 port)
{
	for (const struct tcp_pcb *pcb = list; pcb; pcb = pcb->next)
		if (pcb->local_port == port)
			return true;
	return false;
}

static bool port_is_used(const struct socket *socket, u16 port)
{
	LIST_EACH(at, inet_all())
		if (CONTAINER(at, struct inet, all)->local_port == port)
			return true;
	return socket->type == SOCK_STREAM && (list_has_port(tcp_active_pcbs, port) || list_has_port(tcp_tw_pcbs, port));
}

int inet_bind_port(struct socket *socket)
{
	struct inet *inet = inet_of(socket);
	const u32 first = (u32)sysctl(SYSCTL_LOCAL_PORT_FIRST), count = (u32)sysctl(SYSCTL_LOCAL_PORT_LAST) - first + 1;
	const u32 start = net_random() % count;

	for (u32 i = 0; !inet->local_port && i < count; i++) {
		u16 port = (u16)(first + (start + i) % count);

		if (port_is_used(socket, port))
			continue;
		inet->local_port = port;
		list_add(inet_all(), &inet->all);
	}
	return inet->local_port ? 0 : -EADDRINUSE;
}

static int check_bind(struct socket *socket, const struct address *address, u32 size, ip_addr_t *to, u16 *port)
{
	struct address copy = *address;
	int error;

	if (socket->family == AF_INET && size >= SIZE_4 && address->family == AF_UNSPEC &&
	    bytes_equal(address->rest + 2, "\0\0\0", 4))
		copy.family = AF_INET;
	error = inet_get_address(socket, &copy, size, to, port);
	if (error)
		return error == -ENETUNREACH ? -EINVAL : error;
	if (!ip_addr_isany(to) && !net_is_local(to) && !ip_addr_ismulticast(to))
		return -EADDRNOTAVAIL;
	if (*port && *port < sysctl(SYSCTL_UNPRIVILEGED_PORT) && !caller_capable(CAP_NET_BIND_SERVICE))
		return -EACCES;
	return 0;
}

int inet_bind(struct socket *socket, const struct address *address, u32 size)
{
	struct inet *inet = inet_of(socket);
	ip_addr_t to;
	u16 port;
	int error = size < sizeof(address->family) ? -EINVAL : check_bind(socket, address, size, &to, &port);

	if (error)
		return error;
	if (inet->local_port || inet->phase != UNCONNECTED)
		return -EINVAL;
	if (port && inet_port_conflicts(socket, &to, port))
		return -EADDRINUSE;
	if (IP_IS_V4(&to) && ip_addr_isany(&to))
		ip_addr_set_any(socket->family == AF_INET6, &to);
	ip_addr_copy(inet->local, to);
	inet->bound_address = !ip_addr_isany(&to);
	inet->bound_port = port;
	if (!port)
		return inet_bind_port(socket);
	inet->local_port = port;
	list_add(inet_all(), &inet->all);
	return 0;
}
