// SPDX-License-Identifier: Apache-2.0
/* Routes and neighbours. */
#include "net.h"
#include "ttrpc.h"

#include "agent.pb.h"

#include <errno.h>
#include <linux/neighbour.h>
#include <net/if.h>
#include <pb_decode.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define ROUTES_MAX 256

struct routes {
	grpc_Routes list;
	bool ours_only; /* routes that were set explicitly, not those that the kernel adds with an address */
};

static int take_route(const struct nlmsghdr *message, void *context)
{
	const struct rtmsg *info = NLMSG_DATA(message);
	const struct rtattr *found[RTA_TABLE + 1];
	char name[IF_NAMESIZE] = "", *address;
	struct routes *routes = context;
	types_Route *one;

	if (message->nlmsg_type != RTM_NEWROUTE || routes->list.Routes_count == ROUTES_MAX)
		return 0;
	netlink_parse(message, sizeof(*info), found, RTA_TABLE);
	if (info->rtm_table != RT_TABLE_MAIN || info->rtm_type != RTN_UNICAST || !found[RTA_OIF] ||
	    (routes->ours_only && info->rtm_protocol == RTPROT_KERNEL))
		return 0;
	if (!if_indextoname(netlink_u32(found[RTA_OIF]), name) || !strcmp(name, "lo"))
		return 0;
	one = &routes->list.Routes[routes->list.Routes_count++];
	address = net_address_print(info->rtm_family, found[RTA_DST]);
	one->dest = address[0] ? xasprintf("%s/%u", address, info->rtm_dst_len) : xstrdup("");
	free(address);
	one->gateway = net_address_print(info->rtm_family, found[RTA_GATEWAY]);
	one->source = net_address_print(info->rtm_family, found[RTA_PREFSRC]);
	one->device = xstrdup(name);
	one->scope = info->rtm_scope;
	one->metric = netlink_u32(found[RTA_PRIORITY]);
	one->flags = info->rtm_flags & (RTNH_F_ONLINK | RTNH_F_PERVASIVE);
	one->family = net_family(info->rtm_family);
	return 0;
}

static int routes_read(struct routes *routes, bool ours_only)
{
	static const unsigned char families[] = { AF_INET, AF_INET6 };
	int error = 0;

	memset(routes, 0, sizeof(*routes));
	routes->ours_only = ours_only;
	routes->list.Routes = xzalloc(ROUTES_MAX * sizeof(*routes->list.Routes));
	for (size_t i = 0; !error && i < ARRAY_SIZE(families); i++) {
		struct rtmsg info = { .rtm_family = families[i] };
		struct netlink_request request;

		netlink_begin(&request, RTM_GETROUTE, 0, &info, sizeof(info));
		error = netlink_dump(&request, take_route, routes);
	}
	return error;
}

static void routes_answer(struct call *call)
{
	struct routes routes;
	int error = routes_read(&routes, false);

	if (error)
		call_fail(call, STATUS_INTERNAL, "routes: %s", strerror(-error));
	else
		call_reply(call, grpc_Routes_fields, &routes.list);
	pb_release(grpc_Routes_fields, &routes.list);
}

void rpc_list_routes(struct call *call)
{
	routes_answer(call);
}

static int route_change(uint16_t type, uint16_t flags, const types_Route *route)
{
	struct net_address destination, gateway, source;
	unsigned int index = net_index(route->device);
	struct netlink_request request;
	struct rtmsg info = {
		.rtm_table = RT_TABLE_MAIN,
		.rtm_protocol = RTPROT_STATIC,
		.rtm_type = RTN_UNICAST,
		.rtm_scope = route->scope,
		.rtm_flags = route->flags & RTNH_F_ONLINK,
	};

	if (!index)
		return -ENODEV;
	if (net_address_parse(route->dest, &destination) || net_address_parse(route->gateway, &gateway) ||
	    net_address_parse(route->source, &source))
		return -EINVAL;
	info.rtm_dst_len = destination.prefix;
	info.rtm_family = destination.family ? destination.family : gateway.family;
	if (!info.rtm_family)
		info.rtm_family = route->family == types_IPFamily_v6 ? AF_INET6 : AF_INET;
	if (type == RTM_DELROUTE) {
		info.rtm_protocol = RTPROT_UNSPEC;
		info.rtm_scope = RT_SCOPE_NOWHERE;
	}
	netlink_begin(&request, type, flags, &info, sizeof(info));
	if (destination.size)
		netlink_attribute(&request, RTA_DST, destination.bytes, destination.size);
	if (gateway.size)
		netlink_attribute(&request, RTA_GATEWAY, gateway.bytes, gateway.size);
	if (source.size)
		netlink_attribute(&request, RTA_PREFSRC, source.bytes, source.size);
	if (route->metric)
		netlink_attribute_u32(&request, RTA_PRIORITY, route->metric);
	netlink_attribute_u32(&request, RTA_OIF, index);
	return netlink_send(&request);
}

static int routes_delete(void)
{
	struct routes routes;
	int error = routes_read(&routes, true);

	for (size_t i = 0; !error && i < routes.list.Routes_count; i++)
		error = route_change(RTM_DELROUTE, 0, &routes.list.Routes[i]);
	pb_release(grpc_Routes_fields, &routes.list);
	return error;
}

/* Replace all routes by those of the request. Routes that the kernel adds with addresses stay. */
void rpc_update_routes(struct call *call)
{
	grpc_UpdateRoutesRequest *request = call->request;
	const grpc_Routes *wanted = &request->routes;
	int error = routes_delete();

	if (error) {
		call_fail(call, STATUS_INTERNAL, "old routes: %s", strerror(-error));
		return;
	}
	/* A gateway must be reachable when its route is added: add routes without a gateway first. */
	for (int with_gateway = 0; with_gateway < 2; with_gateway++) {
		for (size_t i = 0; i < wanted->Routes_count; i++) {
			const types_Route *route = &wanted->Routes[i];

			if (!!text_of(route->gateway)[0] != with_gateway)
				continue;
			error = route_change(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, route);
			if (error) {
				call_fail(call, status_of(error), "route %s via %s on %s: %s", text_of(route->dest),
					  text_of(route->gateway), text_of(route->device), strerror(-error));
				return;
			}
		}
	}
	routes_answer(call);
}

static int neighbor_add(const types_ARPNeighbor *neighbor)
{
	struct ndmsg info = {
		.ndm_ifindex = net_index(neighbor->device),
		.ndm_state = neighbor->state ? neighbor->state : NUD_PERMANENT,
		.ndm_flags = neighbor->flags,
	};
	struct netlink_request request;
	struct net_address address;
	uint8_t hardware[6];

	if (!info.ndm_ifindex)
		return -ENODEV;
	if (net_address_parse(neighbor->toIPAddress.address, &address) || !address.family)
		return -EINVAL;
	info.ndm_family = address.family;
	netlink_begin(&request, RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, &info, sizeof(info));
	netlink_attribute(&request, NDA_DST, address.bytes, address.size);
	if (text_of(neighbor->lladdr)[0]) {
		if (sscanf(neighbor->lladdr, "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx", &hardware[0], &hardware[1],
			   &hardware[2], &hardware[3], &hardware[4], &hardware[5]) != 6)
			return -EINVAL;
		netlink_attribute(&request, NDA_LLADDR, hardware, sizeof(hardware));
	}
	return netlink_send(&request);
}

void rpc_add_arp_neighbors(struct call *call)
{
	grpc_AddARPNeighborsRequest *request = call->request;
	const grpc_ARPNeighbors *list = &request->neighbors;

	for (size_t i = 0; i < list->ARPNeighbors_count; i++) {
		int error = neighbor_add(&list->ARPNeighbors[i]);

		if (error) {
			call_fail(call, status_of(error), "neighbour %s: %s",
				  text_of(list->ARPNeighbors[i].toIPAddress.address), strerror(-error));
			return;
		}
	}
	call_done(call);
}
