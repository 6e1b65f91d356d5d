/* SPDX-License-Identifier: Apache-2.0 */
/* What net_link.c and net_route.c have in common: names of interfaces, addresses as text. */
#ifndef AGENT_NET_H
#define AGENT_NET_H

#include "netlink.h"
#include "util.h"

#include "types.pb.h"

struct net_address {
	int family; /* AF_INET, AF_INET6; AF_UNSPEC: none */
	uint8_t bytes[16];
	size_t size;
	unsigned int prefix;
};

/* "10.0.0.2" or "10.0.0.2/24"; an empty text is no address. 0 or -EINVAL. */
int net_address_parse(const char *text, struct net_address *address);
/* The text of an address attribute, allocated; "" when there is none. */
char *net_address_print(int family, const struct rtattr *attribute);
types_IPFamily net_family(int family);
/* The index of an interface; 0 when there is none of that name. */
unsigned int net_index(const char *name);

/* Take the driver from the device of an interface to come, if the kernel's parameters name one. */
void net_spare_hide(void);
/* Give it back; false: there is none. */
bool net_spare_show(void);

#endif
