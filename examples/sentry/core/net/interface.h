/* SPDX-License-Identifier: Apache-2.0 */
/* Interfaces as programs see them: lo is the first, and eth0 the second if there is an outside. */
#ifndef SENTRY_INTERFACE_H
#define SENTRY_INTERFACE_H

#include "stack.h"

enum { IFF_UP = 1, IFF_BROADCAST = 2, IFF_LOOPBACK = 8, IFF_RUNNING = 0x40, IFF_MULTICAST = 0x1000, IFF_LOWER_UP = 0x10000 };
enum { SCOPE_LINK = 253, SCOPE_HOST = 254 }; /* of rtnetlink; 0: all networks */
enum { ARPHRD_ETHER = 1, ARPHRD_LOOPBACK = 772, NAME_SIZE = 16 };

struct interface {
	struct netif *netif;
	const char *name;
	u32 index, flags, mtu;
	u16 type;
};

/* An address of an interface: number 0 is that of IPv4, if there is one. */
struct interface_address {
	u8 bytes[16], prefix, scope;
};

bool interface_rename(const char *name); /* the one outside; false: it is no name */
bool interface_get(u32 index, struct interface *interface); /* false: there is none */
bool interface_address(const struct interface *interface, u32 number, struct interface_address *address);
enum { INTERFACE_ADDRESSES = 1 + LWIP_IPV6_NUM_ADDRESSES };
u32 interface_mask(const struct interface *interface); /* of IPv4, as lwIP has it */
u8 interface_prefix(const struct interface *interface); /* of IPv4, in bits */

#endif
