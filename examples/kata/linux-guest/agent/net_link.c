// SPDX-License-Identifier: Apache-2.0
/* Interfaces and their addresses. */
#include "net.h"
#include "ttrpc.h"

#include "agent.pb.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <pb_decode.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define LINKS_MAX 256

struct links {
	grpc_Interfaces list;
	int indices[LINKS_MAX];
};

static char *print_hardware(const struct rtattr *attribute)
{
	const uint8_t *bytes = attribute ? RTA_DATA(attribute) : NULL;

	if (!attribute || RTA_PAYLOAD(attribute) != 6)
		return xstrdup("");
	return xasprintf("%02x:%02x:%02x:%02x:%02x:%02x", bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5]);
}

static int take_link(const struct nlmsghdr *message, void *context)
{
	const struct ifinfomsg *info = NLMSG_DATA(message);
	const struct rtattr *found[IFLA_MTU + 1];
	struct links *links = context;
	types_Interface *one;

	if (message->nlmsg_type != RTM_NEWLINK || links->list.Interfaces_count == LINKS_MAX)
		return 0;
	netlink_parse(message, sizeof(*info), found, IFLA_MTU);
	if (!found[IFLA_IFNAME] || info->ifi_type == ARPHRD_LOOPBACK)
		return 0;
	links->indices[links->list.Interfaces_count] = info->ifi_index;
	one = &links->list.Interfaces[links->list.Interfaces_count++];
	one->name = xasprintf("%.*s", IFNAMSIZ, (const char *)RTA_DATA(found[IFLA_IFNAME]));
	one->device = xstrdup(one->name);
	one->hwAddr = print_hardware(found[IFLA_ADDRESS]);
	one->mtu = netlink_u32(found[IFLA_MTU]);
	one->type = xstrdup(info->ifi_type == ARPHRD_ETHER ? "ether" : "");
	one->raw_flags = info->ifi_flags;
	return 0;
}

static int take_address(const struct nlmsghdr *message, void *context)
{
	const struct ifaddrmsg *info = NLMSG_DATA(message);
	const struct rtattr *found[IFA_LOCAL + 1];
	struct links *links = context;

	if (message->nlmsg_type != RTM_NEWADDR)
		return 0;
	netlink_parse(message, sizeof(*info), found, IFA_LOCAL);
	for (size_t i = 0; i < links->list.Interfaces_count; i++) {
		types_Interface *one = &links->list.Interfaces[i];
		types_IPAddress *address;
		void *larger;

		if (links->indices[i] != (int)info->ifa_index)
			continue;
		larger = realloc(one->IPAddresses, (one->IPAddresses_count + 1) * sizeof(*one->IPAddresses));
		if (!larger)
			return -ENOMEM;
		one->IPAddresses = larger;
		address = &one->IPAddresses[one->IPAddresses_count++];
		address->family = net_family(info->ifa_family);
		address->address = net_address_print(info->ifa_family, found[IFA_LOCAL] ? found[IFA_LOCAL] : found[IFA_ADDRESS]);
		address->mask = xasprintf("%u", info->ifa_prefixlen);
	}
	return 0;
}

/* All interfaces but the loopback, with their addresses. 0 or -errno; free the list in either case. */
static int links_read(struct links *links)
{
	struct ifinfomsg link = { .ifi_family = AF_UNSPEC };
	struct ifaddrmsg address = { .ifa_family = AF_UNSPEC };
	struct netlink_request request;
	int error;

	memset(links, 0, sizeof(*links));
	links->list.Interfaces = xzalloc(LINKS_MAX * sizeof(*links->list.Interfaces));
	netlink_begin(&request, RTM_GETLINK, 0, &link, sizeof(link));
	error = netlink_dump(&request, take_link, links);
	if (error)
		return error;
	netlink_begin(&request, RTM_GETADDR, 0, &address, sizeof(address));
	return netlink_dump(&request, take_address, links);
}

void rpc_list_interfaces(struct call *call)
{
	struct links links;
	int error = links_read(&links);

	if (error)
		call_fail(call, STATUS_INTERNAL, "interfaces: %s", strerror(-error));
	else
		call_reply(call, grpc_Interfaces_fields, &links.list);
	pb_release(grpc_Interfaces_fields, &links.list);
}

/* Find the interface with the hardware address, or without one, the interface with the name. */
static int find_link(const struct links *links, const types_Interface *wanted)
{
	for (size_t i = 0; i < links->list.Interfaces_count; i++) {
		const types_Interface *one = &links->list.Interfaces[i];
		const char *device = text_of(wanted->device)[0] ? wanted->device : text_of(wanted->name);

		if (text_of(wanted->hwAddr)[0] ? !strcasecmp(one->hwAddr, wanted->hwAddr) : !strcmp(one->name, device))
			return i;
	}
	return -ENODEV;
}

static int link_change(int index, unsigned int flags, unsigned int mask, const char *name, uint32_t mtu)
{
	struct ifinfomsg info = { .ifi_family = AF_UNSPEC, .ifi_index = index, .ifi_flags = flags, .ifi_change = mask };
	struct netlink_request request;

	netlink_begin(&request, RTM_NEWLINK, 0, &info, sizeof(info));
	if (name)
		netlink_attribute(&request, IFLA_IFNAME, name, strlen(name) + 1);
	if (mtu)
		netlink_attribute_u32(&request, IFLA_MTU, mtu);
	return netlink_send(&request);
}

static int address_change(int index, uint16_t type, uint16_t flags, const types_IPAddress *wanted)
{
	struct net_address address;
	char *text = xasprintf("%s/%s", text_of(wanted->address), text_of(wanted->mask));
	struct ifaddrmsg info = { .ifa_index = index };
	struct netlink_request request;
	int error = net_address_parse(text, &address);

	free(text);
	if (error)
		return error;
	info.ifa_family = address.family;
	info.ifa_prefixlen = address.prefix;
	/* The address is unique, since the host assigned it: skip duplicate address detection. */
	info.ifa_flags = address.family == AF_INET6 ? IFA_F_NODAD : 0;
	netlink_begin(&request, type, flags, &info, sizeof(info));
	netlink_attribute(&request, IFA_LOCAL, address.bytes, address.size);
	netlink_attribute(&request, IFA_ADDRESS, address.bytes, address.size);
	if (address.family == AF_INET && address.prefix < 31) {
		uint32_t broadcast, host = htonl(~0u >> address.prefix);

		memcpy(&broadcast, address.bytes, sizeof(broadcast));
		netlink_attribute_u32(&request, IFA_BROADCAST, broadcast | host);
	}
	return netlink_send(&request);
}

static bool is_link_local(const types_IPAddress *address)
{
	return !strncasecmp(address->address, "fe80:", 5);
}

/* Free a name that the kernel gave to another interface. That one is renamed later. */
static int name_free(const struct links *links, int index, const char *name)
{
	char other[IFNAMSIZ];
	int error;

	for (size_t i = 0; i < links->list.Interfaces_count; i++) {
		if (links->indices[i] == index || strcmp(links->list.Interfaces[i].name, name))
			continue;
		snprintf(other, sizeof(other), "was%d", links->indices[i]);
		error = link_change(links->indices[i], 0, IFF_UP, NULL, 0);
		return error ? error : link_change(links->indices[i], 0, 0, other, 0);
	}
	return 0;
}

static int interface_apply(int index, const types_Interface *now, const types_Interface *wanted, char what[256])
{
	const char *name = text_of(wanted->name)[0] ? wanted->name : text_of(wanted->device);
	unsigned int noarp = wanted->raw_flags & IFF_NOARP;
	bool rename = name[0] && strcmp(name, now->name);
	int error = 0;

	snprintf(what, 256, "interface %.32s", name);
	if (strlen(name) >= IFNAMSIZ || wanted->mtu > INT32_MAX)
		return -EINVAL;
	/* An interface cannot be renamed while it is up. */
	if (rename && now->raw_flags & IFF_UP)
		error = link_change(index, 0, IFF_UP, NULL, 0);
	for (size_t i = 0; !error && i < now->IPAddresses_count; i++) {
		if (!is_link_local(&now->IPAddresses[i]))
			error = address_change(index, RTM_DELADDR, 0, &now->IPAddresses[i]);
	}
	if (!error)
		error = link_change(index, IFF_UP | noarp, IFF_UP | IFF_NOARP, rename ? name : NULL, wanted->mtu);
	for (size_t i = 0; !error && i < wanted->IPAddresses_count; i++) {
		snprintf(what, 256, "address %.64s/%.8s", text_of(wanted->IPAddresses[i].address),
			 text_of(wanted->IPAddresses[i].mask));
		error = address_change(index, RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, &wanted->IPAddresses[i]);
	}
	return error;
}

void rpc_update_interface(struct call *call)
{
	grpc_UpdateInterfaceRequest *request = call->request;
	const types_Interface *wanted = &request->interface;
	char what[256] = "interfaces";
	struct links links;
	int error = links_read(&links), at;

	if (!error && find_link(&links, wanted) < 0 && net_spare_show()) {
		pb_release(grpc_Interfaces_fields, &links.list);
		error = links_read(&links);
	}
	if (!error) {
		at = find_link(&links, wanted);
		snprintf(what, sizeof(what), "interface %.32s with address %.32s", text_of(wanted->name),
			 text_of(wanted->hwAddr));
		error = at < 0 ? at : name_free(&links, links.indices[at], text_of(wanted->name));
		if (!error)
			error = interface_apply(links.indices[at], &links.list.Interfaces[at], wanted, what);
	}
	if (error)
		call_fail(call, status_of(error), "%s: %s", what, strerror(-error));
	else
		call_reply(call, types_Interface_fields, wanted);
	pb_release(grpc_Interfaces_fields, &links.list);
}
