// SPDX-License-Identifier: Apache-2.0
/* Options of sockets. */
#include "../vfs/calls.h"
#include "socket.h"

enum option {
	SO_DEBUG = 1, SO_REUSEADDR = 2, SO_TYPE = 3, SO_ERROR = 4, SO_DONTROUTE = 5, SO_BROADCAST = 6, SO_SNDBUF = 7,
	SO_RCVBUF = 8, SO_KEEPALIVE = 9, SO_OOBINLINE = 10, SO_PRIORITY = 12, SO_LINGER = 13, SO_REUSEPORT = 15,
	SO_PASSCRED = 16, SO_PEERCRED = 17, SO_RCVLOWAT = 18, SO_SNDLOWAT = 19, SO_RCVTIMEO = 20, SO_SNDTIMEO = 21,
	SO_TIMESTAMP = 29, SO_ACCEPTCONN = 30, SO_SNDBUFFORCE = 32, SO_RCVBUFFORCE = 33, SO_PROTOCOL = 38, SO_DOMAIN = 39,
};

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
	case SO_PRIORITY: case SO_LINGER: case SO_RCVLOWAT: case SO_TIMESTAMP: case SO_REUSEPORT: return 0;
	}
	return -ENOPROTOOPT;
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
		return -EOPNOTSUPP;
	return set_option(t, socket, (u32)args[2], args[3], (u32)args[4]);
}

static s64 option_value(struct socket *socket, u32 option, s32 *value)
{
	switch (option) {
	case SO_TYPE: *value = socket->type; return 0;
	case SO_DOMAIN: *value = socket->family; return 0;
	case SO_ERROR:
		*value = -socket->error;
		socket->error = 0;
		return 0;
	case SO_SNDBUF: *value = (s32)socket->send_size; return 0;
	case SO_RCVBUF: *value = (s32)socket->receive_size; return 0;
	case SO_PASSCRED: *value = socket->pass_credentials; return 0;
	case SO_ACCEPTCONN: *value = socket->listening; return 0;
	case SO_RCVLOWAT: case SO_SNDLOWAT: *value = 1; return 0;
	case SO_PROTOCOL: case SO_DEBUG: case SO_REUSEADDR: case SO_DONTROUTE: case SO_BROADCAST: case SO_KEEPALIVE:
	case SO_OOBINLINE: case SO_PRIORITY: case SO_TIMESTAMP: case SO_REUSEPORT: *value = 0; return 0;
	}
	return -ENOPROTOOPT;
}

/* Up to two words. */
static s64 get_option(struct socket *socket, u32 option, s64 *value, u32 *size)
{
	u64 timeout = option == SO_RCVTIMEO ? socket->receive_timeout : socket->send_timeout;

	*size = 4;
	switch (option) {
	case SO_PEERCRED:
		bytes_copy(value, &socket->peer, sizeof(socket->peer));
		*size = sizeof(socket->peer);
		return 0;
	case SO_RCVTIMEO:
	case SO_SNDTIMEO:
		value[0] = (s64)(timeout / 1000000000);
		value[1] = (s64)(timeout % 1000000000 / 1000);
		*size = 16;
		return 0;
	case SO_LINGER:
		value[0] = 0;
		*size = 8;
		return 0;
	}
	return option_value(socket, option, (s32 *)value);
}

s64 sys_getsockopt(struct task *t, const u64 *args)
{
	struct file *file;
	s64 error, value[2] = { 0, 0 };
	struct socket *socket = socket_get(t, args[0], &file, &error);
	s32 room;
	u32 size;

	if (!socket)
		return error;
	if ((u32)args[1] != SOL_SOCKET)
		return -EOPNOTSUPP;
	if (user_read(t->mm, &room, args[4], sizeof(room)))
		return -EFAULT;
	if (room < 0)
		return -EINVAL;
	error = get_option(socket, (u32)args[2], value, &size);
	if (error)
		return error;
	if (size > (u32)room)
		size = (u32)room;
	if (user_write(t->mm, args[3], value, size))
		return -EFAULT;
	return user_write(t->mm, args[4], &size, sizeof(size));
}
