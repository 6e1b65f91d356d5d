// SPDX-License-Identifier: Apache-2.0
/* The interface that leads outside, as the host wants it. lwIP has one IPv4 address an interface. */
#include "configure.h"

#include "interface.h"
#include "start.h"

enum { MTU_LEAST = 68, MTU_LEAST_IPV6 = 1280 };

static bool read_hex(const char *text, u8 *value)
{
	*value = 0;
	for (u32 i = 0; i < 2; i++) {
		char c = text[i];

		if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f')))
			return false;
		*value = (u8)(*value << 4 | (c <= '9' ? c - '0' : c - 'a' + 10));
	}
	return true;
}

static bool read_mac(const char *text, u8 *mac)
{
	if (string_size(text) != 17)
		return false;
	for (u32 i = 0; i < 6; i++)
		if (!read_hex(text + 3 * i, &mac[i]) || (i < 5 && text[3 * i + 2] != ':'))
			return false;
	return true;
}

s64 outside_begin(const char *name, const char *mac, u64 mtu)
{
	struct netif *netif = net_outside();
	u8 address[6];

	if (!netif)
		return -ENODEV;
	if (!read_mac(mac, address) || !interface_rename(name))
		return -EINVAL;
	netif_set_addr(netif, NULL, NULL, NULL);
	for (s8_t i = 0; i < LWIP_IPV6_NUM_ADDRESSES; i++)
		netif_ip6_addr_set_state(netif, i, IP6_ADDR_INVALID);
	bytes_copy(netif->hwaddr, address, sizeof(address));
	if (mtu >= MTU_LEAST && mtu < netif->mtu)
		netif->mtu = (u16)mtu;
	netif->mtu6 = netif->mtu > MTU_LEAST_IPV6 ? netif->mtu : MTU_LEAST_IPV6;
	netif_create_ip6_linklocal_address(netif, 1);
	net_run();
	return 0;
}

s64 outside_add_address(const char *address, u32 prefix)
{
	struct netif *netif = net_outside();
	ip4_addr_t four, mask;
	ip6_addr_t six;
	s8_t index;

	if (ip4addr_aton(address, &four)) {
		if (prefix > 32)
			return -EINVAL;
		if (!ip4_addr_isany(netif_ip4_addr(netif)))
			return 0; /* the first one counts */
		ip4_addr_set_u32(&mask, prefix ? __builtin_bswap32(~0u << (32 - prefix)) : 0);
		netif_set_addr(netif, &four, &mask, NULL);
	} else {
		if (!ip6addr_aton(address, &six) || prefix > 128)
			return -EINVAL;
		if (ip6_addr_islinklocal(&six))
			return 0;
		if (netif_add_ip6_address(netif, &six, &index) != ERR_OK)
			return -ENOSPC;
		netif_ip6_addr_set_state(netif, index, IP6_ADDR_PREFERRED);
	}
	net_run();
	return 0;
}

/* Routers of IPv6 announce themselves. */
s64 outside_set_gateway(const char *address)
{
	struct netif *netif = net_outside();
	ip4_addr_t gateway;

	if (!netif)
		return -ENODEV;
	if (ip4addr_aton(address, &gateway))
		netif_set_gw(netif, &gateway);
	return 0;
}
