/* SPDX-License-Identifier: Apache-2.0 */
/* The network of the guest: rtnetlink, names and addresses, counters. */
#ifndef AGENT_NET_H
#define AGENT_NET_H

#include "util.h"

#include "agent.pb.h"
#include "types.pb.h"

#include <linux/rtnetlink.h>
#include <stddef.h>
#include <stdint.h>

/* ---- netlink.c ---- */

/* rtnetlink(7): requests, their acknowledgements, and dumps. */

#define NETLINK_REQUEST_MAX 1024

/* A message under construction: its header, the header of its kind, attributes. */
struct netlink_request {
	union {
		struct nlmsghdr header;
		uint8_t space[NETLINK_REQUEST_MAX];
	};
};

/* Begin a message of a type (RTM_*) with flags (NLM_F_*) and the header of its kind. */
void netlink_begin(struct netlink_request *request, uint16_t type, uint16_t flags, const void *header, size_t size);
void netlink_attribute(struct netlink_request *request, uint16_t type, const void *data, size_t size);
void netlink_attribute_u32(struct netlink_request *request, uint16_t type, uint32_t value);
/* Send it and wait for the acknowledgement: 0 or -errno. */
int netlink_send(struct netlink_request *request);
/*
 * Dump: call `each` with every message of the answer until it returns non-zero, which is then the result. 0 or
 * -errno.
 */
int netlink_dump(struct netlink_request *request, int (*each)(const struct nlmsghdr *message, void *context),
		 void *context);
/* The attributes after a header of `size` bytes, indexed by type. Types above `most` are skipped. */
void netlink_parse(const struct nlmsghdr *message, size_t size, const struct rtattr *found[], unsigned short most);

static inline uint32_t netlink_u32(const struct rtattr *attribute)
{
	return attribute && RTA_PAYLOAD(attribute) >= sizeof(uint32_t) ? *(const uint32_t *)RTA_DATA(attribute) : 0;
}

/* ---- net.c, net_link.c, net_route.c ---- */

/* Shared by net_link.c and net_route.c: interface names, addresses as text. */

struct net_address {
	int family; /* AF_INET, AF_INET6; AF_UNSPEC: none */
	uint8_t bytes[16];
	size_t size;
	unsigned int prefix;
};

/* "10.0.0.2" or "10.0.0.2/24"; the empty string is no address. 0 or -EINVAL. */
int net_address_parse(const char *text, struct net_address *address);
/* An address attribute as an allocated string; "" if it is missing. */
char *net_address_print(int family, const struct rtattr *attribute);
types_IPFamily net_family(int family);
/* The index of an interface; 0 if the name does not exist. */
unsigned int net_index(const char *name);

/* Unbind the spare devices that the kernel parameter lists from their driver. */
void net_spares_hide(void);
/* Bind the next spare device to the driver; false if none is left. */
bool net_spare_show(void);

/* Counters of the network interfaces. */

/* The counters of all interfaces but the loopback, allocated, and their number. */
grpc_NetworkStats *netstat_read(pb_size_t *count);

#endif
