// SPDX-License-Identifier: Apache-2.0
#include "net.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>

int net_address_parse(const char *text, struct net_address *address)
{
	char copy[INET6_ADDRSTRLEN + 8], *slash, *end;

	memset(address, 0, sizeof(*address));
	if (!text_of(text)[0])
		return 0;
	if (strlen(text) >= sizeof(copy))
		return -EINVAL;
	strcpy(copy, text);
	slash = strchr(copy, '/');
	if (slash)
		*slash++ = '\0';
	address->family = strchr(copy, ':') ? AF_INET6 : AF_INET;
	address->size = address->family == AF_INET ? 4 : 16;
	address->prefix = address->size * 8;
	if (inet_pton(address->family, copy, address->bytes) != 1)
		return -EINVAL;
	if (slash) {
		unsigned long prefix = strtoul(slash, &end, 10);

		if (end == slash || *end || prefix > address->prefix)
			return -EINVAL;
		address->prefix = prefix;
	}
	return 0;
}

char *net_address_print(int family, const struct rtattr *attribute)
{
	char text[INET6_ADDRSTRLEN] = "";
	size_t size = family == AF_INET ? 4 : 16;

	if (attribute && RTA_PAYLOAD(attribute) >= size)
		inet_ntop(family, RTA_DATA(attribute), text, sizeof(text));
	return xstrdup(text);
}

types_IPFamily net_family(int family)
{
	return family == AF_INET6 ? types_IPFamily_v6 : types_IPFamily_v4;
}

unsigned int net_index(const char *name)
{
	return text_of(name)[0] ? if_nametoindex(name) : 0;
}
