// SPDX-License-Identifier: Apache-2.0
/* The interface that leads outside, as the host configures it: a name, addresses, and the gateway. */
#include "container.h"

#include "../net/configure.h"
#include "../vfs/synthetic.h"

static char *text_of(struct reader message, u32 number)
{
	const struct reader part = reader_part(message, number);

	return reader_text(&part);
}

static s64 add_address(struct reader message)
{
	char *address = text_of(message, IPAddress_address), *mask = text_of(message, IPAddress_mask);
	u32 prefix = 0;
	s64 error = address && mask ? 0 : -EINVAL;

	for (const char *at = mask; !error && *at; at++) {
		if (*at < '0' || *at > '9' || prefix > 128)
			error = -EINVAL;
		prefix = prefix * 10 + (u32)(*at - '0');
	}
	if (!error)
		error = outside_add_address(address, prefix);
	kfree(address);
	kfree(mask);
	return error;
}

s64 update_interface(struct call *call)
{
	const struct reader message = reader_part(call->request, UpdateInterfaceRequest_interface);
	char *name = text_of(message, Interface_name), *mac = text_of(message, Interface_hwAddr);
	struct reader r = message;
	struct field field;
	u64 mtu = 0;
	s64 error;

	while (field_next(&r, &field))
		if (field.number == Interface_mtu)
			mtu = field.value;
	error = name && mac ? outside_begin(name, mac, mtu) : -EINVAL;
	for (r = message; !error && field_next(&r, &field);)
		if (field.number == Interface_IPAddresses)
			error = add_address(field.bytes);
	if (!error)
		sys_forget();
	if (error == -ENODEV)
		call_fail(call, STATUS_NOT_FOUND, "the sandbox has no interface", NULL, NULL);
	kfree(name);
	kfree(mac);
	return error;
}

/* Gateways of default routes. Other routes have no effect: what is not on the link goes to the gateway. */
s64 update_routes(struct call *call)
{
	struct reader routes = reader_part(call->request, UpdateRoutesRequest_routes);
	struct field field;
	s64 error = 0;

	while (!error && field_next(&routes, &field)) {
		const struct reader where = reader_part(field.bytes, Route_dest);
		char *gateway = field.number == Routes_Routes ? text_of(field.bytes, Route_gateway) : NULL;

		if (gateway && *gateway && !reader_size(&where))
			error = outside_set_gateway(gateway);
		kfree(gateway);
	}
	return error;
}

s64 add_neighbors(struct call *call)
{
	(void)call; /* the core asks for them by itself */
	return 0;
}
