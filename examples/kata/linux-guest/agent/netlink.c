// SPDX-License-Identifier: Apache-2.0
#include "net.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

void netlink_begin(struct netlink_request *request, uint16_t type, uint16_t flags, const void *header, size_t size)
{
	memset(request, 0, sizeof(*request));
	request->header.nlmsg_type = type;
	request->header.nlmsg_flags = NLM_F_REQUEST | flags;
	request->header.nlmsg_len = NLMSG_LENGTH(size);
	memcpy(NLMSG_DATA(&request->header), header, size);
}

void netlink_attribute(struct netlink_request *request, uint16_t type, const void *data, size_t size)
{
	size_t at = NLMSG_ALIGN(request->header.nlmsg_len);
	struct rtattr *attribute = (struct rtattr *)(request->space + at);

	if (at + RTA_SPACE(size) > sizeof(request->space))
		return; /* only addresses and names, which always fit */
	attribute->rta_type = type;
	attribute->rta_len = RTA_LENGTH(size);
	memcpy(RTA_DATA(attribute), data, size);
	request->header.nlmsg_len = at + RTA_LENGTH(size);
}

void netlink_attribute_u32(struct netlink_request *request, uint16_t type, uint32_t value)
{
	netlink_attribute(request, type, &value, sizeof(value));
}

static int netlink_open(struct netlink_request *request)
{
	struct timeval patience = { .tv_sec = 5 };
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);

	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	if (send(fd, request->space, request->header.nlmsg_len, 0) < 0) {
		int error = -errno;

		close(fd);
		return error;
	}
	return fd;
}

/* Read one datagram of a reply; sets `done` at the end of the reply. */
static int read_answers(int fd, int (*each)(const struct nlmsghdr *, void *), void *context, bool *done)
{
	static union {
		struct nlmsghdr header;
		uint8_t space[32768];
	} answer;
	ssize_t got = recv(fd, answer.space, sizeof(answer.space), 0);
	const struct nlmsghdr *message = &answer.header;
	int result = 0;

	if (got < 0)
		return -errno;
	for (; !result && NLMSG_OK(message, (size_t)got); message = NLMSG_NEXT(message, got)) {
		if (message->nlmsg_type == NLMSG_ERROR) {
			*done = true;
			return ((const struct nlmsgerr *)NLMSG_DATA(message))->error;
		}
		if (message->nlmsg_type == NLMSG_DONE) {
			*done = true;
			return 0;
		}
		if (each)
			result = each(message, context);
	}
	return result;
}

static int netlink_ask(struct netlink_request *request, int (*each)(const struct nlmsghdr *, void *), void *context)
{
	int fd = netlink_open(request), result = 0;
	bool done = false;

	if (fd < 0)
		return fd;
	while (!done && !result)
		result = read_answers(fd, each, context, &done);
	close(fd);
	return result;
}

int netlink_send(struct netlink_request *request)
{
	request->header.nlmsg_flags |= NLM_F_ACK;
	return netlink_ask(request, NULL, NULL);
}

int netlink_dump(struct netlink_request *request, int (*each)(const struct nlmsghdr *, void *), void *context)
{
	request->header.nlmsg_flags |= NLM_F_DUMP;
	return netlink_ask(request, each, context);
}

void netlink_parse(const struct nlmsghdr *message, size_t size, const struct rtattr *found[], unsigned short most)
{
	const struct rtattr *attribute = (const struct rtattr *)((const uint8_t *)NLMSG_DATA(message) + NLMSG_ALIGN(size));
	size_t left = message->nlmsg_len - NLMSG_SPACE(size);

	memset(found, 0, (most + 1) * sizeof(found[0]));
	for (; RTA_OK(attribute, left); attribute = RTA_NEXT(attribute, left)) {
		unsigned short type = attribute->rta_type & ~NLA_F_NESTED;

		if (type <= most)
			found[type] = attribute;
	}
}
