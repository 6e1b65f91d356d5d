/* SPDX-License-Identifier: Apache-2.0 */
/* lwIP in the core: its memory, its time, its interfaces. Nothing here sleeps, and lwIP calls nothing that does. */
#ifndef SENTRY_STACK_H
#define SENTRY_STACK_H

#include "lwip/netif.h"
#include "lwip/pbuf.h"
#include "lwip/priv/tcp_priv.h"
#include "lwip/tcp.h"
#include "lwip/udp.h"

#include "../core.h"
#include "start.h"

enum { NET_CHECKS = NETIF_CHECKSUM_CHECK_TCP | NETIF_CHECKSUM_CHECK_UDP };

bool net_is_low(void); /* its memory is nearly used up */
bool net_charge(u64 bytes); /* memory that is held for it; false: the limit leaves no room */
void net_discharge(u64 bytes);
u64 net_block_size(const void *memory); /* of net_malloc() */

/* The address that a packet to this one leaves from: 0 or -ENETUNREACH. */
int net_source(const ip_addr_t *to, ip_addr_t *from);
bool net_is_local(const ip_addr_t *address); /* an address of this sandbox */
struct netif *net_loopback(void);
struct netif *net_outside(void); /* NULL: there is none */

/* A datagram that a socket sent was refused: of inet.c. */
void inet_refused(const ip_addr_t *local, u16 local_port, const ip_addr_t *remote, u16 remote_port);

#endif
