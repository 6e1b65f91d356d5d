/* SPDX-License-Identifier: Apache-2.0 */
/* Sockets of the families AF_INET and AF_INET6: streams by TCP, datagrams by UDP. */
#ifndef SENTRY_INET_H
#define SENTRY_INET_H

#include "../sysctl.h"
#include "../vfs/calls.h"
#include "socket.h"
#include "stack.h"

enum { SIZE_4 = 16, SIZE_6 = 28, LEAST_6 = 24 };
enum { PROTOCOL_TCP = 6, PROTOCOL_UDP = 17, PROTOCOL_UDPLITE = 136 };
enum { LEVEL_IP = 0, LEVEL_TCP = 6, LEVEL_IP6 = 41, LEVEL_UDPLITE = 136 };

/* Options that a socket stores (inet_option.c). */
enum inet_value {
	V_TOS, V_TTL, V_RECVTOS, V_PKTINFO, V_RECVTTL, V_MTU_DISCOVER, V_RECVERR, V_FREEBIND, V_NO_PORT, V_MULTICAST_TTL,
	V_MULTICAST_LOOP, V_MULTICAST_ALL, V_NODELAY, V_MAXSEG, V_CORK, V_KEEPIDLE, V_KEEPINTVL, V_KEEPCNT, V_SYNCNT, V_LINGER2,
	V_DEFER_ACCEPT, V_WINDOW_CLAMP, V_QUICKACK, V_USER_TIMEOUT, V_FASTOPEN, V_NOTSENT_LOWAT, V_FASTOPEN_CONNECT,
	V_V6ONLY, V_UNICAST_HOPS, V_MULTICAST_HOPS, V_MULTICAST_LOOP6, V_RECVPKTINFO, V_RECVERR6, V_TCLASS, V_MTU_DISCOVER6,
	V_RECVHOPLIMIT, V_RECVTCLASS, V_SEND_COVERAGE, V_RECEIVE_COVERAGE, VALUES,
};

/* A part of what was received: of a stream, or a datagram. */
struct chunk {
	struct list list;
	struct pbuf *data;
	u32 start;	/* bytes before it have been read */
	ip_addr_t from, to; /* of a datagram, and the rest */
	u16 from_port;
	u8 interface, ttl, tos;
};

/* UNCONNECTED, and CONNECTING after connect() has returned or while it waits. */
enum phase { UNCONNECTED, CONNECTING, CONNECTED };

/* How a datagram leaves. */
struct outgoing {
	ip_addr_t to, source;
	u16 port;
	u8 ttl, tos;
};

struct inet {
	struct socket *socket; /* NULL: a connection that nobody accepted */
	u16 family;
	struct list all;       /* those with a port, by bind or by themselves */
	struct tcp_pcb *tcp;   /* NULL: closed, or not yet open */
	struct udp_pcb *udp;
	ip_addr_t local, remote;
	u16 local_port, remote_port;
	bool bound_address, bound_port, reuse_address; /* of bind() */
	enum phase phase;
	bool established, listening;
	bool no_receive, no_send; /* shutdown() */
	bool ended, finished;	  /* no more data comes; the other side has closed */
	s32 error;		  /* to be reported once */
	struct wait_queue changed;
	struct mutex receiving; /* of a task that copies chunks, which can sleep, or frees all */
	struct list chunks;
	u64 bytes, cost; /* what was received, and what it uses of the limit */
	struct list waiting, in_waiting; /* of a listener: connections that nobody accepted */
	u32 waiting_count, pending, backlog;
	struct inet *listener; /* of one that is not accepted */
	s32 values[VALUES];
};

static inline struct inet *inet_of(struct socket *socket)
{
	return socket->data;
}

/* -- inet.c -- */

int inet_create(struct socket **socket, u16 family, u32 type, s32 protocol);
struct inet *inet_new(void); /* without a socket; NULL: no memory */
void inet_free(struct inet *inet);
/* A socket for an inet that has none. NULL: no memory. */
struct socket *inet_socket(struct inet *inet, u16 family, u16 type);
/* Translate an address of the program: 0 or -errno. The type of `to` is that of the packets. */
int inet_get_address(struct socket *socket, const struct address *from, u32 size, ip_addr_t *to, u16 *port);
/* The same for a destination, where the unspecified address is that of the loopback. */
int inet_get_target(struct socket *socket, const struct address *from, u32 size, ip_addr_t *to, u16 *port);
void inet_put_address(struct socket *socket, const ip_addr_t *from, u16 port, struct address *to, u32 *size);
int inet_bind(struct socket *socket, const struct address *address, u32 size);
int inet_bind_port(struct socket *socket); /* to a free port, if it has none; 0 or -errno */
bool inet_port_conflicts(struct socket *socket, const ip_addr_t *address, u16 port);
void inet_forget_port(struct inet *inet);
int inet_name(struct socket *socket, struct address *address, u32 *size, bool of_peer);
void inet_drop_chunks(struct inet *inet);
u64 chunk_copy(const struct chunk *chunk, u64 size, struct io *to); /* from its start; how many bytes were copied */
void chunk_free(struct inet *inet, struct chunk *chunk);
struct chunk *chunk_new(struct inet *inet, struct pbuf *data); /* at the end; NULL: no memory */
s64 inet_take_error(struct inet *inet);
u8 inet_type(const struct socket *socket, const ip_addr_t *address); /* IPADDR_TYPE_* of a pcb for packets of it */
s64 inet_error(struct socket *socket);
struct list *inet_all(void);

/* -- inet_option.c -- */

void inet_set_defaults(struct inet *inet);
bool inet_is_v6_only(const struct inet *inet);
bool inet_is_corked(const struct inet *inet);
s64 inet_set_option(struct socket *socket, u32 level, u32 option, const u8 *value, u32 size);
s64 inet_get_option(struct socket *socket, u32 level, u32 option, u8 *value, u32 *size);
u8 inet_tcp_state(const struct inet *inet); /* as Linux numbers it */
void inet_apply_options(struct socket *socket); /* to its pcb, which is new */

/* -- inet_control.c -- */

void inet_note_arrival(struct chunk *chunk); /* of the packet that lwIP delivers */
void inet_put_control(struct socket *socket, const struct chunk *chunk, struct controls *controls);
s64 inet_take_control(struct socket *socket, const struct controls *controls, struct outgoing *out);

/* -- tcp.c, tcp_data.c, udp.c -- */

extern const struct socket_operations tcp_operations, udp_operations;
s64 tcp_socket_send(struct socket *socket, struct message *message, struct io *from, u32 flags);
s64 tcp_socket_receive(struct socket *socket, struct message *message, struct io *to, u32 flags);
u64 tcp_room(const struct socket *socket);
bool tcp_is_writable(const struct socket *socket); /* there is room for a third of its buffer */
u64 tcp_unsent(const struct inet *inet); /* bytes that lwIP holds, until the other side has confirmed them */

#endif
