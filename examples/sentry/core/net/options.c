// SPDX-License-Identifier: Apache-2.0
/* Options of sockets. */
#include "../vfs/calls.h"
#include "socket.h"

enum { OPTION_MOST = 256 };

static u64 buffer_size(s32 value)
{
	const u32 most = 212992;
	u64 size = (u32)value > most ? most : (u32)value;

	return size * 2 < 4608 ? 4608 : size * 2;
}

static s64 set_timeout(struct task *t, u64 from, u32 size, u64 *timeout)
{
	s64 time[2];

	if (size < sizeof(time))
		return -EINVAL;
	if (user_read(t->mm, time, from, sizeof(time)))
		return -EFAULT;
	if (time[1] < 0 || time[1] >= 1000000)
		return -EDOM;
	*timeout = time[0] < 0 ? 0 : time[0] > 1000000000 ? 0 : (u64)time[0] * 1000000000 + (u64)time[1] * 1000;
	return 0;
}

static s64 set_linger(struct task *t, struct socket *socket, u64 from, u32 size)
{
	s32 linger[2];

	if (size < sizeof(linger))
		return -EINVAL;
	if (user_read(t->mm, linger, from, sizeof(linger)))
		return -EFAULT;
	socket->linger[0] = linger[0] != 0;
	socket->linger[1] = linger[0] ? linger[1] : socket->linger[1];
	return 0;
}

static s64 set_option(struct task *t, struct socket *socket, u32 option, u64 from, u32 size)
{
	s32 value;

	if (size < sizeof(value))
		return -EINVAL;
	if (user_read(t->mm, &value, from, sizeof(value)))
		return -EFAULT;
	switch (option) {
	case SO_PASSCRED: socket->pass_credentials = value; return 0;
	case SO_SNDBUF: case SO_SNDBUFFORCE: socket->send_size = buffer_size(value); return 0;
	case SO_RCVBUF: case SO_RCVBUFFORCE: socket->receive_size = buffer_size(value); return 0;
	case SO_SNDTIMEO: return set_timeout(t, from, size, &socket->send_timeout);
	case SO_RCVTIMEO: return set_timeout(t, from, size, &socket->receive_timeout);
	case SO_DEBUG: case SO_REUSEADDR: case SO_DONTROUTE: case SO_BROADCAST: case SO_KEEPALIVE: case SO_OOBINLINE:
	case SO_TIMESTAMP: case SO_REUSEPORT:
		socket->switches = (socket->switches & ~(1ull << option)) | (u64)(value != 0) << option;
		return 0;
	case SO_PRIORITY: socket->priority = value; return 0;
	case SO_LINGER: return set_linger(t, socket, from, size);
	case SO_RCVLOWAT: socket->low_water = value > 0 ? (u32)value : value ? 0x7fffffff : 1; return 0;
	case SO_BINDTODEVICE: return -EPERM;
	}
	return -ENOPROTOOPT;
}

static s64 set_of_family(struct task *t, struct socket *socket, const u64 *args)
{
	u32 size = (u32)args[4] < OPTION_MOST ? (u32)args[4] : OPTION_MOST;
	u8 value[OPTION_MOST];

	if (!socket->operations->set_option)
		return -EOPNOTSUPP;
	if (user_read(t->mm, value, args[3], size))
		return -EFAULT;
	return socket->operations->set_option(socket, (u32)args[1], (u32)args[2], value, size);
}

s64 sys_setsockopt(struct task *t, const u64 *args)
{
	struct file *file;
	s64 error;
	struct socket *socket = socket_get(t, args[0], &file, &error);

	if ((s32)args[4] < 0)
		return -EINVAL;
	if (!socket)
		return error;
	if ((u32)args[1] != SOL_SOCKET)
		return set_of_family(t, socket, args);
	error = set_option(t, socket, (u32)args[2], args[3], (u32)args[4]);
	if (!error && socket->operations->changed)
		socket->operations->changed(socket);
	return error;
}

static s64 option_value(struct socket *socket, u32 option, s32 *value)
{
	switch (option) {
	case SO_TYPE: *value = socket->type; return 0;
	case SO_DOMAIN: *value = socket->family; return 0;
	case SO_ERROR:
		*value = -(s32)(socket->operations->error ? socket->operations->error(socket) : socket->error);
		socket->error = 0;
		return 0;
	case SO_SNDBUF: *value = (s32)socket->send_size; return 0;
	case SO_RCVBUF: *value = (s32)socket->receive_size; return 0;
	case SO_PASSCRED: *value = socket->pass_credentials; return 0;
	case SO_ACCEPTCONN: *value = socket->listening; return 0;
	case SO_RCVLOWAT: *value = (s32)socket->low_water; return 0;
	case SO_SNDLOWAT: *value = 1; return 0;
	case SO_PRIORITY: *value = socket->priority; return 0;
	case SO_PROTOCOL: *value = socket->protocol; return 0;
	case SO_DEBUG: case SO_REUSEADDR: case SO_DONTROUTE: case SO_BROADCAST: case SO_KEEPALIVE: case SO_OOBINLINE:
	case SO_TIMESTAMP: case SO_REUSEPORT: *value = socket_switch(socket, option); return 0;
	}
	return -ENOPROTOOPT;
}

/* Up to two words. */
static s64 get_option(struct socket *socket, u32 option, s64 *value, u32 *size)
{
	struct credentials_message peer;
	u64 timeout = option == SO_RCVTIMEO ? socket->receive_timeout : socket->send_timeout;

	*size = 4;
	switch (option) {
	case SO_BINDTODEVICE:
		*size = 0;
		return 0;
	case SO_PEERCRED:
		peer = credentials_shown(&socket->peer);
		bytes_copy(value, &peer, sizeof(peer));
		*size = sizeof(peer);
		return 0;
	case SO_RCVTIMEO:
	case SO_SNDTIMEO:
		value[0] = (s64)(timeout / 1000000000);
		value[1] = (s64)(timeout % 1000000000 / 1000);
		*size = 16;
		return 0;
	case SO_LINGER:
		bytes_copy(value, socket->linger, sizeof(socket->linger));
		*size = 8;
		return 0;
	}
	return option_value(socket, option, (s32 *)value);
}

s64 sys_getsockopt(struct task *t, const u64 *args)
{
	struct file *file;
	s64 error, value[OPTION_MOST / 8];
	struct socket *socket = socket_get(t, args[0], &file, &error);
	s32 room;
	u32 size;

	if (!socket)
		return error;
	bytes_zero(value, sizeof(value));
	if (user_read(t->mm, &room, args[4], sizeof(room)))
		return -EFAULT;
	if (room < 0)
		return -EINVAL;
	size = (u32)room < sizeof(value) ? (u32)room : sizeof(value);
	if ((u32)args[1] == SOL_SOCKET)
		error = get_option(socket, (u32)args[2], value, &size);
	else if (socket->operations->get_option)
		error = socket->operations->get_option(socket, (u32)args[1], (u32)args[2], (u8 *)value, &size);
	else
		error = -EOPNOTSUPP;
	if (error)
		return error;
	if (size > (u32)room)
		size = (u32)room;
	if (user_write(t->mm, args[3], value, size))
		return -EFAULT;
	return user_write(t->mm, args[4], &size, sizeof(size));
}
