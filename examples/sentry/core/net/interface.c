// SPDX-License-Identifier: Apache-2.0
/* Interfaces as programs see them, and their ioctls. */
#include "interface.h"

#include "socket.h"

static char outside_name[NAME_SIZE];

void interfaces_init(void)
{
	outside_name[0] = 0; /* until the host configures it */
	if (!core.config->control)
		interface_rename("eth0");
}

bool interface_rename(const char *name)
{
	u64 size = string_size(name);

	if (!size || size >= NAME_SIZE || strings_equal(name, "lo"))
		return false;
	for (u64 i = 0; i < size; i++)
		if (name[i] <= ' ' || name[i] == '/' || name[i] == ':' || name[i] > '~')
			return false;
	bytes_copy(outside_name, name, size + 1);
	return true;
}

bool interface_get(u32 index, struct interface *interface)
{
	struct netif *netif = index == 1 ? net_loopback() : index == 2 && *outside_name ? net_outside() : NULL;

	if (!netif)
		return false;
	*interface = (struct interface){ .netif = netif, .index = index };
	interface->name = index == 1 ? "lo" : outside_name;
	interface->type = index == 1 ? ARPHRD_LOOPBACK : ARPHRD_ETHER;
	interface->mtu = index == 1 ? 65536 : netif->mtu;
	interface->flags = IFF_UP | IFF_RUNNING | (index == 1 ? IFF_LOOPBACK : IFF_BROADCAST | IFF_MULTICAST);
	return true;
}

u32 interface_mask(const struct interface *interface)
{
	return ip4_addr_get_u32(netif_ip4_netmask(interface->netif));
}

u8 interface_prefix(const struct interface *interface)
{
	u8 bits = 0;

	for (u32 rest = __builtin_bswap32(interface_mask(interface)); rest; rest <<= 1)
		bits++;
	return bits;
}

bool interface_address(const struct interface *interface, u32 number, struct interface_address *address)
{
	enum { ONE_NETWORK = 64, ONE_HOST = 128 };
	bool loopback = interface->netif == net_loopback();
	const ip6_addr_t *six;

	*address = (struct interface_address){ .prefix = 0 };
	if (!number) {
		bytes_copy(address->bytes, netif_ip4_addr(interface->netif), 4);
		address->prefix = interface_prefix(interface);
		address->scope = loopback ? SCOPE_HOST : 0;
		return !ip4_addr_isany(netif_ip4_addr(interface->netif));
	}
	six = netif_ip6_addr(interface->netif, number - 1);
	bytes_copy(address->bytes, six->addr, 16);
	address->prefix = loopback ? ONE_HOST : ONE_NETWORK;
	address->scope = loopback ? SCOPE_HOST : ip6_addr_islinklocal(six) ? SCOPE_LINK : 0;
	return ip6_addr_isvalid(netif_ip6_addr_state(interface->netif, number - 1));
}

/* -- ioctl -- */

enum {
	SIOCGIFNAME = 0x8910, SIOCGIFCONF = 0x8912, SIOCGIFFLAGS = 0x8913, SIOCGIFADDR = 0x8915, SIOCGIFDSTADDR = 0x8917,
	SIOCGIFBRDADDR = 0x8919, SIOCGIFNETMASK = 0x891b, SIOCGIFMETRIC = 0x891d, SIOCGIFMTU = 0x8921, SIOCGIFHWADDR = 0x8927,
	SIOCGIFINDEX = 0x8933, SIOCGIFTXQLEN = 0x8942,
};

struct request {
	char name[NAME_SIZE];
	union {
		u8 bytes[24];
		s32 number;
		u16 family;
	};
};

static void put_inet(struct request *request, u32 address)
{
	bytes_zero(request->bytes, sizeof(request->bytes));
	request->family = AF_INET;
	bytes_copy(request->bytes + 4, &address, 4);
}

/* As many as there is room for; without a buffer, the size that they need. */
static s64 list(u64 argument)
{
	struct mm *mm = core.current->mm;
	struct {
		s32 size, pad;
		u64 to;
	} all;
	struct interface interface;
	s32 done = 0;

	if (user_read(mm, &all, argument, sizeof(all)))
		return -EFAULT;
	for (u32 i = 1; interface_get(i, &interface); i++) {
		struct request request = { .name = "" };

		if (all.to && done + (s32)sizeof(request) > all.size)
			break;
		bytes_copy(request.name, interface.name, string_size(interface.name));
		put_inet(&request, ip4_addr_get_u32(netif_ip4_addr(interface.netif)));
		if (all.to && user_write(mm, all.to + (u64)done, &request, sizeof(request)))
			return -EFAULT;
		done += (s32)sizeof(request);
	}
	all.size = done;
	return user_write(mm, argument, &all, sizeof(all));
}

static bool find(const struct request *request, struct interface *interface)
{
	for (u32 i = 1; interface_get(i, interface); i++)
		if (strings_equal(interface->name, request->name))
			return true;
	return false;
}

static s64 answer(u32 command, const struct interface *interface, struct request *request)
{
	u32 address = ip4_addr_get_u32(netif_ip4_addr(interface->netif)), mask = interface_mask(interface);

	switch (command) {
	case SIOCGIFFLAGS: request->number = (s32)interface->flags; return 0;
	case SIOCGIFADDR: case SIOCGIFDSTADDR: put_inet(request, address); return address ? 0 : -EADDRNOTAVAIL;
	case SIOCGIFNETMASK: put_inet(request, mask); return address ? 0 : -EADDRNOTAVAIL;
	case SIOCGIFBRDADDR:
		put_inet(request, interface->flags & IFF_BROADCAST ? address | ~mask : 0);
		return address ? 0 : -EADDRNOTAVAIL;
	case SIOCGIFMTU: request->number = (s32)interface->mtu; return 0;
	case SIOCGIFMETRIC: request->number = 0; return 0;
	case SIOCGIFTXQLEN: request->number = 1000; return 0;
	case SIOCGIFINDEX: request->number = (s32)interface->index; return 0;
	case SIOCGIFHWADDR:
		bytes_zero(request->bytes, sizeof(request->bytes));
		request->family = interface->type;
		bytes_copy(request->bytes + 2, interface->netif->hwaddr, interface->netif->hwaddr_len);
		return 0;
	}
	return (command & 0xff00) == 0x8900 ? -EPERM : -ENOTTY;
}

s64 interface_ioctl(u32 command, u64 argument)
{
	struct interface interface;
	struct request request;
	s64 error;

	if (command == SIOCGIFCONF)
		return list(argument);
	if ((command & 0xff00) != 0x8900)
		return -ENOTTY;
	if (user_read(core.current->mm, &request, argument, sizeof(request)))
		return -EFAULT;
	request.name[NAME_SIZE - 1] = 0;
	if (command == SIOCGIFNAME) {
		if (!interface_get((u32)request.number, &interface))
			return -ENODEV;
		bytes_zero(request.name, NAME_SIZE);
		bytes_copy(request.name, interface.name, string_size(interface.name));
		error = 0;
	} else {
		error = find(&request, &interface) ? answer(command, &interface, &request) : -ENODEV;
	}
	return error ? error : user_write(core.current->mm, argument, &request, sizeof(request));
}
