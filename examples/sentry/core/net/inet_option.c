// SPDX-License-Identifier: Apache-2.0
/* Options of sockets at the levels IP, IPv6 and TCP: each is stored, and those that lwIP supports are set there, too. */
#include "inet.h"

enum { ON_OFF = -1000000 };

/* Values from low to high are valid. ON_OFF: any value is, and all but 0 are stored as 1. */
static const struct row {
	u16 level, option;
	u8 value;
	s32 normal, low, high;
} rows[] = {
	{ LEVEL_IP, 1, V_TOS, 0, 0, 255 },
	{ LEVEL_IP, 2, V_TTL, 64, 1, 255 },
	{ LEVEL_IP, 8, V_PKTINFO, 0, ON_OFF, 0 },
	{ LEVEL_IP, 10, V_MTU_DISCOVER, 1, 0, 5 },
	{ LEVEL_IP, 11, V_RECVERR, 0, ON_OFF, 0 },
	{ LEVEL_IP, 12, V_RECVTTL, 0, ON_OFF, 0 },
	{ LEVEL_IP, 13, V_RECVTOS, 0, ON_OFF, 0 },
	{ LEVEL_IP, 15, V_FREEBIND, 0, ON_OFF, 0 },
	{ LEVEL_IP, 24, V_NO_PORT, 0, ON_OFF, 0 },
	{ LEVEL_IP, 33, V_MULTICAST_TTL, 1, 0, 255 },
	{ LEVEL_IP, 34, V_MULTICAST_LOOP, 1, ON_OFF, 0 },
	{ LEVEL_IP, 49, V_MULTICAST_ALL, 1, 0, 1 },
	{ LEVEL_TCP, 1, V_NODELAY, 0, ON_OFF, 0 },
	{ LEVEL_TCP, 2, V_MAXSEG, 0, 88, 32767 },
	{ LEVEL_TCP, 3, V_CORK, 0, ON_OFF, 0 },
	{ LEVEL_TCP, 4, V_KEEPIDLE, 7200, 1, 32767 },
	{ LEVEL_TCP, 5, V_KEEPINTVL, 75, 1, 32767 },
	{ LEVEL_TCP, 6, V_KEEPCNT, 9, 1, 127 },
	{ LEVEL_TCP, 7, V_SYNCNT, 6, 1, 127 },
	{ LEVEL_TCP, 8, V_LINGER2, 60, -1, 120 },
	{ LEVEL_TCP, 9, V_DEFER_ACCEPT, 0, 0, 0x7fffffff },
	{ LEVEL_TCP, 10, V_WINDOW_CLAMP, 0, 0, 0x7fffffff },
	{ LEVEL_TCP, 12, V_QUICKACK, 1, ON_OFF, 0 },
	{ LEVEL_TCP, 18, V_USER_TIMEOUT, 0, 0, 0x7fffffff },
	{ LEVEL_TCP, 23, V_FASTOPEN, 0, 0, 0x7fffffff },
	{ LEVEL_TCP, 25, V_NOTSENT_LOWAT, 0, -0x7fffffff, 0x7fffffff },
	{ LEVEL_TCP, 30, V_FASTOPEN_CONNECT, 0, 0, 1 },
	{ LEVEL_IP6, 16, V_UNICAST_HOPS, 64, -1, 255 },
	{ LEVEL_IP6, 18, V_MULTICAST_HOPS, 1, -1, 255 },
	{ LEVEL_IP6, 19, V_MULTICAST_LOOP6, 1, 0, 1 },
	{ LEVEL_IP6, 23, V_MTU_DISCOVER6, 1, 0, 5 },
	{ LEVEL_IP6, 25, V_RECVERR6, 0, ON_OFF, 0 },
	{ LEVEL_IP6, 26, V_V6ONLY, 0, ON_OFF, 0 },
	{ LEVEL_IP6, 49, V_RECVPKTINFO, 0, ON_OFF, 0 },
	{ LEVEL_IP6, 51, V_RECVHOPLIMIT, 0, ON_OFF, 0 },
	{ LEVEL_IP6, 66, V_RECVTCLASS, 0, ON_OFF, 0 },
	{ LEVEL_IP6, 67, V_TCLASS, 0, -1, 255 },
	{ LEVEL_UDPLITE, 10, V_SEND_COVERAGE, 0, 0, 0x7fffffff },
	{ LEVEL_UDPLITE, 11, V_RECEIVE_COVERAGE, 0, 0, 0x7fffffff },
};

enum { TCP_INFO = 11, TCP_CONGESTION = 13, MULTICAST_IF = 32, ADD_MEMBERSHIP = 35, DROP_MEMBERSHIP = 36, V6_JOIN = 20, V6_LEAVE = 21 };

/* What the row has, unless a kernel parameter decides that. */
static s32 normal_of(const struct row *row)
{
	static const struct {
		u32 value;
		enum sysctl sysctl;
	} decided[] = {
		{ V_TTL, SYSCTL_IP_DEFAULT_TTL },
		{ V_KEEPIDLE, SYSCTL_TCP_KEEPALIVE_TIME },
		{ V_KEEPINTVL, SYSCTL_TCP_KEEPALIVE_INTVL },
		{ V_KEEPCNT, SYSCTL_TCP_KEEPALIVE_PROBES },
	};

	for (u32 i = 0; i < ARRAY_SIZE(decided); i++)
		if (decided[i].value == row->value)
			return (s32)sysctl(decided[i].sysctl);
	return row->normal;
}

void inet_set_defaults(struct inet *inet)
{
	for (u32 i = 0; i < ARRAY_SIZE(rows); i++)
		inet->values[rows[i].value] = normal_of(&rows[i]);
}

bool inet_is_v6_only(const struct inet *inet)
{
	return inet->values[V_V6ONLY];
}

bool inet_is_corked(const struct inet *inet)
{
	return inet->values[V_CORK];
}

static const struct row *find(u32 level, u32 option)
{
	for (u32 i = 0; i < ARRAY_SIZE(rows); i++)
		if (rows[i].level == level && rows[i].option == option)
			return &rows[i];
	return NULL;
}

/* Whether a socket has options of this level. */
static bool has_level(const struct socket *socket, u32 level)
{
	return level == LEVEL_IP || ((level == LEVEL_TCP || level == LEVEL_UDPLITE) && level == socket->protocol) ||
	       (level == LEVEL_IP6 && socket->family == AF_INET6);
}

static void apply_tcp(struct inet *inet, bool keep_alive)
{
	struct tcp_pcb *pcb = inet->tcp;

	if (inet->values[V_NODELAY])
		tcp_nagle_disable(pcb);
	else
		tcp_nagle_enable(pcb);
	pcb->keep_idle = (u32)inet->values[V_KEEPIDLE] * 1000;
	pcb->keep_intvl = (u32)inet->values[V_KEEPINTVL] * 1000;
	pcb->keep_cnt = (u32)inet->values[V_KEEPCNT];
	if (keep_alive)
		ip_set_option(pcb, SOF_KEEPALIVE);
	else
		ip_reset_option(pcb, SOF_KEEPALIVE);
	if (inet->established && !inet->values[V_CORK])
		tcp_output(pcb);
}

void inet_apply_options(struct socket *socket)
{
	struct inet *inet = inet_of(socket);
	u8 ttl = (u8)(socket->family == AF_INET ? inet->values[V_TTL] : inet->values[V_UNICAST_HOPS]);
	u8 tos = (u8)(socket->family == AF_INET ? inet->values[V_TOS] : inet->values[V_TCLASS]);

	if (inet->udp) {
		inet->udp->ttl = ttl;
		inet->udp->tos = tos;
		inet->udp->chksum_len_tx = (u16)inet->values[V_SEND_COVERAGE];
		udp_set_multicast_ttl(inet->udp, (u8)inet->values[V_MULTICAST_TTL]);
		ip_set_option(inet->udp, SOF_REUSEADDR); /* inet.c has found no conflict */
	}
	if (!inet->tcp)
		return;
	inet->tcp->ttl = ttl;
	inet->tcp->tos = tos;
	if (socket_switch(socket, SO_REUSEADDR))
		ip_set_option(inet->tcp, SOF_REUSEADDR);
	else
		ip_reset_option(inet->tcp, SOF_REUSEADDR);
	if (!inet->listening)
		apply_tcp(inet, socket_switch(socket, SO_KEEPALIVE));
	net_run();
}

/* -- setting -- */

static s64 set_row(struct socket *socket, const struct row *row, s32 value)
{
	struct inet *inet = inet_of(socket);

	if (row->low == ON_OFF)
		value = value != 0;
	else if (value == -1 && (row->value == V_TTL || row->value == V_MULTICAST_TTL || row->value == V_UNICAST_HOPS || row->value == V_TCLASS))
		value = normal_of(row);
	else if (row->value == V_MAXSEG && !value)
		value = 0;
	else if (row->level == LEVEL_UDPLITE && value)
		value = value < 8 ? 8 : value > 0xffff ? 0xffff : value;
	else if (value < row->low || value > row->high)
		return -EINVAL;
	if (row->value == V_V6ONLY && inet->local_port)
		return -EINVAL;
	inet->values[row->value] = value;
	inet_apply_options(socket);
	return 0;
}

/* Joining a group fails: no interface supports groups. */
static s64 set_group(u32 level, u32 option, u32 size)
{
	if (level == LEVEL_IP && (option == ADD_MEMBERSHIP || option == DROP_MEMBERSHIP))
		return size < 8 ? -EINVAL : option == ADD_MEMBERSHIP ? -ENODEV : -EADDRNOTAVAIL;
	if (level == LEVEL_IP && option == MULTICAST_IF)
		return size < 4 ? -EINVAL : 0;
	if (level == LEVEL_IP6 && (option == V6_JOIN || option == V6_LEAVE))
		return size < 20 ? -EINVAL : option == V6_JOIN ? -ENODEV : -EADDRNOTAVAIL;
	return -ENOPROTOOPT;
}

s64 inet_set_option(struct socket *socket, u32 level, u32 option, const u8 *value, u32 size)
{
	const struct row *row = find(level, option);
	s32 number = 0;

	if (!has_level(socket, level))
		return -ENOPROTOOPT;
	if (level == LEVEL_TCP && option == TCP_CONGESTION)
		return !size ? -EINVAL : bytes_equal(value, "cubic", size < 5 ? size : 5) || bytes_equal(value, "reno", size < 4 ? size : 4)
			       ? 0 : -ENOENT;
	if (!row && level == LEVEL_TCP)
		return size < 4 ? -EINVAL : -ENOPROTOOPT;
	if (!row)
		return set_group(level, option, size);
	if (size >= sizeof(number))
		bytes_copy(&number, value, sizeof(number));
	else if (level == LEVEL_IP && size)
		number = value[0];
	else if (level != LEVEL_IP)
		return -EINVAL;
	return set_row(socket, row, number);
}

/* -- getting -- */

struct tcp_info {
	u8 state, ca_state, retransmits, probes, backoff, options, scales, rate;
	u32 rto, ato, snd_mss, rcv_mss, unacked, sacked, lost, retrans, fackets;
	u32 last_data_sent, last_ack_sent, last_data_recv, last_ack_recv;
	u32 pmtu, rcv_ssthresh, rtt, rttvar, snd_ssthresh, snd_cwnd, advmss, reordering;
};

u8 inet_tcp_state(const struct inet *inet)
{
	static const u8 states[] = {
		[CLOSED] = 7, [LISTEN] = 10, [SYN_SENT] = 2, [SYN_RCVD] = 3, [ESTABLISHED] = 1, [FIN_WAIT_1] = 4, [FIN_WAIT_2] = 5,
		[CLOSE_WAIT] = 8, [CLOSING] = 11, [LAST_ACK] = 9, [TIME_WAIT] = 6,
	};

	return inet->listening ? states[LISTEN] : inet->tcp ? states[inet->tcp->state] : states[CLOSED];
}

static u32 mss_of(const struct inet *inet)
{
	return inet->tcp && inet->established ? tcp_mss(inet->tcp) : inet->values[V_MAXSEG] ? (u32)inet->values[V_MAXSEG] : 536;
}

static s64 get_info(const struct inet *inet, u8 *value, u32 *size)
{
	struct tcp_info info = { .state = inet_tcp_state(inet), .rto = 1000000, .snd_mss = mss_of(inet), .rcv_mss = 536, .snd_cwnd = 10 };

	if (inet->tcp && inet->established) {
		info.rto = (u32)inet->tcp->rto * TCP_SLOW_INTERVAL * 1000;
		info.unacked = inet->tcp->unacked != NULL;
		info.snd_cwnd = inet->tcp->cwnd / tcp_mss(inet->tcp);
		info.rcv_mss = info.advmss = tcp_mss(inet->tcp);
	}
	if (*size > sizeof(info))
		*size = sizeof(info);
	bytes_copy(value, &info, *size);
	return 0;
}

s64 inet_get_option(struct socket *socket, u32 level, u32 option, u8 *value, u32 *size)
{
	const struct row *row = find(level, option);
	const struct inet *inet = inet_of(socket);
	static const char congestion[16] = "cubic";
	s32 number;

	if (!has_level(socket, level))
		return socket->family == AF_INET ? -EOPNOTSUPP : -ENOPROTOOPT;
	if (level == LEVEL_TCP && option == TCP_INFO)
		return get_info(inet, value, size);
	if (level == LEVEL_TCP && option == TCP_CONGESTION) {
		*size = *size < sizeof(congestion) ? *size : sizeof(congestion);
		bytes_copy(value, congestion, *size);
		return 0;
	}
	if (!row)
		return -ENOPROTOOPT;
	number = row->value == V_MAXSEG ? (s32)mss_of(inet) : inet->values[row->value];
	if (level == LEVEL_IP && *size > 0 && *size < sizeof(number) && number >= 0 && number <= 255) {
		*size = 1;
		value[0] = (u8)number;
		return 0;
	}
	*size = *size < sizeof(number) ? *size : sizeof(number);
	bytes_copy(value, &number, *size);
	return 0;
}
