// SPDX-License-Identifier: Apache-2.0
/* /proc/net/unix: the sockets of the family. */
#include "../vfs/synthetic.h"
#include "proc_net.h"
#include "unix.h"

static void put_column(struct text *text, u64 value, u32 digits)
{
	text_put(text, " ");
	net_put_hex(text, value, digits);
}

/* Zeros of an abstract name are shown as @. */
static void put_name(struct text *text, const struct endpoint *end)
{
	u32 size = end->name_size - sizeof(end->name.family);
	bool abstract = !end->name.rest[0];

	text_put(text, " ");
	for (u32 i = 0; i < size && (abstract || end->name.rest[i]); i++)
		text_bytes(text, end->name.rest[i] ? &end->name.rest[i] : "@", 1);
}

static void put_socket(struct text *text, const struct endpoint *end)
{
	enum { ACCEPTS = 0x10000, UNCONNECTED = 1, CONNECTING = 2, CONNECTED = 3 };
	const struct socket *socket = end->socket;
	bool accepted = list_empty(&end->in_waiting);

	text_put(text, "0000000000000000:");
	put_column(text, 2 + (end->peer && end->peer->peer == end), 8);
	put_column(text, 0, 8);
	put_column(text, socket->listening ? ACCEPTS : 0, 8);
	put_column(text, socket->type, 4);
	put_column(text, !accepted ? CONNECTING : end->peer && !is_datagram(socket) ? CONNECTED : UNCONNECTED, 2);
	text_put(text, " ");
	net_put_number(text, accepted ? socket->number : 0, 5);
	if (end->name_size)
		put_name(text, end);
	text_put(text, "\n");
}

void write_net_unix(struct text *text, struct synthetic_inode *node)
{
	(void)node;
	text_put(text, "Num       RefCount Protocol Flags    Type St Inode Path\n");
	LIST_EACH(at, unix_all())
		put_socket(text, CONTAINER(at, struct endpoint, all));
}
