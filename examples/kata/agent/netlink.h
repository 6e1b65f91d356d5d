/* SPDX-License-Identifier: Apache-2.0 */
/* rtnetlink(7): requests, their acknowledgements, and dumps. */
#ifndef AGENT_NETLINK_H
#define AGENT_NETLINK_H

#include <linux/rtnetlink.h>
#include <stddef.h>
#include <stdint.h>

#define NETLINK_REQUEST_MAX 1024

/* A message under construction: its header, the header of its kind, attributes. */
struct netlink_request {
	union {
		struct nlmsghdr header;
		uint8_t space[NETLINK_REQUEST_MAX];
	};
};

/* Begin a message of a type (RTM_*) and flags (NLM_F_*) with the kind's own header. */
void netlink_begin(struct netlink_request *request, uint16_t type, uint16_t flags, const void *header, size_t size);
void netlink_attribute(struct netlink_request *request, uint16_t type, const void *data, size_t size);
void netlink_attribute_u32(struct netlink_request *request, uint16_t type, uint32_t value);
/* Send it and wait for the kernel's answer: 0 or -errno. */
int netlink_send(struct netlink_request *request);
/*
 * Dump: call `each` with every message of the answer until it returns something else than 0, which is then the result;
 * 0 or -errno.
 */
int netlink_dump(struct netlink_request *request, int (*each)(const struct nlmsghdr *message, void *context),
		 void *context);
/* The attributes behind a kind's header of `size` bytes, by type; `most` is the largest type that is looked at. */
void netlink_parse(const struct nlmsghdr *message, size_t size, const struct rtattr *found[], unsigned short most);

static inline uint32_t netlink_u32(const struct rtattr *attribute)
{
	return attribute && RTA_PAYLOAD(attribute) >= sizeof(uint32_t) ? *(const uint32_t *)RTA_DATA(attribute) : 0;
}

#endif
