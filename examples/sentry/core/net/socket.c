// SPDX-License-Identifier: Apache-2.0
/* System calls for sockets. */
#include "inet.h"

#include "../vfs/async.h"
#include "../vfs/calls.h"

enum { SOCK_NONBLOCK = 0x800, SOCK_CLOEXEC = 0x80000, FAMILIES = 46, DEFAULT_BUFFER = 212992 };

static const struct file_operations socket_operations;

/* -- files -- */

struct socket *socket_new(u16 family, u16 type, const struct socket_operations *operations)
{
	struct socket *socket = kmalloc(sizeof(*socket));

	if (!socket)
		return NULL;
	*socket = (struct socket){
		.operations = operations, .family = family, .type = type, .send_size = DEFAULT_BUFFER,
		.receive_size = DEFAULT_BUFFER, .peer = { { 0, ~0u, ~0u }, 0 }, .low_water = 1,
	};
	return socket;
}

/* The files can be sockets whose messages have files, too: those wait for the outermost call, as the stack is small. */
void rights_free(struct rights *rights)
{
	struct task *t = core.current;
	struct rights *first = rights;

	if (!rights)
		return;
	if (t->closing) {
		rights->next = *t->closing;
		*t->closing = rights;
		return;
	}
	t->closing = &first;
	while ((rights = first)) {
		first = rights->next;
		for (u32 i = 0; i < rights->count; i++)
			file_put(rights->files[i]);
		kfree(rights);
	}
	t->closing = NULL;
}

u64 socket_deadline(u64 timeout, bool wait)
{
	if (!wait)
		return 0;
	return timeout ? monotonic_now() + timeout : FOREVER;
}

s64 socket_broken(u32 flags)
{
	if (!(flags & MSG_NOSIGNAL))
		signal_raise(core.current, SIGPIPE);
	return -EPIPE;
}

s64 socket_wait(struct wait_queue *queue, u64 deadline)
{
	s64 error = deadline ? sleep_on(queue, deadline) : -EAGAIN;

	if (error == -ERESTARTSYS && deadline != FOREVER)
		return -EINTR; /* with a timeout, Linux does not make the call again */
	return error == -ETIMEDOUT ? -EAGAIN : error;
}

struct socket *file_socket(struct file *file)
{
	return file->operations == &socket_operations ? file->data : NULL;
}

struct socket *socket_get(struct task *t, u64 number, struct file **file, s64 *error)
{
	*file = fd_real(t, number);
	*error = *file ? -ENOTSOCK : -EBADF;
	return *file ? file_socket(*file) : NULL;
}

u32 socket_flags(const struct file *file, u32 flags)
{
	return flags | (file->flags & O_NONBLOCK ? MSG_DONTWAIT : 0);
}

static s64 read(struct file *file, struct io *to, u64 *position)
{
	struct message message = { .flags = 0 };
	struct socket *socket = file->data;
	s64 result;

	(void)position;
	if (!to->left)
		return 0;
	result = socket->operations->receive(socket, &message, to, io_flags(to, file) & O_NONBLOCK ? MSG_DONTWAIT : 0);
	rights_free(message.rights);
	return result;
}

static s64 write(struct file *file, struct io *from, u64 *position)
{
	struct message message = { .flags = 0 };
	struct socket *socket = file->data;

	(void)position;
	return socket->operations->send(socket, &message, from, io_flags(from, file) & O_NONBLOCK ? MSG_DONTWAIT : 0);
}

static u32 poll(struct file *file, struct poll *poll)
{
	struct socket *socket = file->data;

	return socket->operations->poll(socket, poll);
}

/* Set or get the owner, who receives the signals of O_ASYNC; 1: another request. */
static s64 owner_ioctl(struct file *file, u32 command, u64 argument)
{
	enum { FIOSETOWN = 0x8901, SIOCSPGRP = 0x8902, FIOGETOWN = 0x8903, SIOCGPGRP = 0x8904 };
	s32 pid;

	switch (command) {
	case FIOSETOWN:
	case SIOCSPGRP:
		return user_read(core.current->mm, &pid, argument, sizeof(pid)) ? -EFAULT : owner_set(file, pid);
	case FIOGETOWN:
	case SIOCGPGRP:
		pid = owner_get(file);
		return user_write(core.current->mm, argument, &pid, sizeof(pid));
	}
	return 1;
}

static s64 ioctl(struct file *file, u32 command, u64 argument)
{
	enum { FIONREAD = 0x541b, TIOCOUTQ = 0x5411 };
	struct socket *socket = file->data;
	s64 result = owner_ioctl(file, command, argument);
	s32 value;

	if (result <= 0)
		return result;
	if (command != FIONREAD && command != TIOCOUTQ)
		return interface_ioctl(command, argument);
	if (command == FIONREAD && socket->listening)
		return -EINVAL;
	if (command == FIONREAD)
		value = (s32)socket->operations->readable(socket);
	else
		value = socket->operations->unsent ? (s32)socket->operations->unsent(socket) : 0;
	return user_write(core.current->mm, argument, &value, sizeof(value));
}

static void release(struct file *file)
{
	struct socket *socket = file->data;

	if (!socket)
		return;
	socket->operations->release(socket);
	kfree(socket);
}

static const struct file_operations socket_operations = {
	.read = read, .write = write, .poll = poll, .nowait = true, .ioctl = ioctl, .release = release,
	.async = true,
};

/* A file for a socket, which it takes. */
static int open_socket(struct socket *socket, u32 flags, struct file **file)
{
	int error = anonymous_file(S_IFSOCK | 0777, "socket", &socket_operations,
				   O_RDWR | (flags & SOCK_NONBLOCK ? O_NONBLOCK : 0), file);

	if (error) {
		socket->operations->release(socket);
		kfree(socket);
		return error;
	}
	(*file)->data = socket;
	socket->number = (*file)->inode->number;
	socket->owner = (*file)->inode->user;
	(*file)->stream = true;
	return 0;
}

static int create(struct socket **socket, u32 family, u32 type, s32 protocol)
{
	if (type & ~(u32)(SOCK_TYPES | SOCK_NONBLOCK | SOCK_CLOEXEC))
		return -EINVAL;
	if (family >= FAMILIES)
		return -EAFNOSUPPORT;
	type &= SOCK_TYPES;
	if (type > 10)
		return -EINVAL;
	if (family == AF_INET || family == AF_INET6)
		return inet_create(socket, (u16)family, type, protocol);
	if (family == AF_NETLINK)
		return netlink_create(socket, type, protocol);
	return family == AF_UNIX ? unix_create(socket, type, protocol) : -EAFNOSUPPORT;
}

s64 sys_socket(struct task *t, const u64 *args)
{
	struct socket *socket;
	struct file *file;
	int error = create(&socket, (u32)args[0], (u32)args[1], (s32)args[2]);

	if (!error)
		error = open_socket(socket, (u32)args[1], &file);
	return error ? error : fd_install(t, file, 0, (u32)args[1] & SOCK_CLOEXEC);
}

s64 sys_socketpair(struct task *t, const u64 *args)
{
	struct socket *sockets[2];
	struct file *files[2];
	int error;

	if ((u32)args[1] & ~(u32)(SOCK_TYPES | SOCK_NONBLOCK | SOCK_CLOEXEC))
		return -EINVAL;
	error = fd_promise_two(t, args[3]);
	if (error)
		return error;
	error = create(&sockets[0], (u32)args[0], (u32)args[1], (s32)args[2]);
	if (error)
		return error;
	error = open_socket(sockets[0], (u32)args[1], &files[0]);
	if (error)
		return error;
	error = (u32)args[0] == AF_UNIX ? create(&sockets[1], (u32)args[0], (u32)args[1], (s32)args[2]) : -EOPNOTSUPP;
	if (!error)
		error = open_socket(sockets[1], (u32)args[1], &files[1]);
	if (error) {
		file_put(files[0]);
		return error;
	}
	unix_pair(sockets[0], sockets[1]);
	return fd_install_two(t, files, args[3], (u32)args[1] & SOCK_CLOEXEC);
}

/* -- addresses -- */

s64 address_get(struct task *t, struct address *address, u64 from, u64 size)
{
	if ((s32)size < 0 || (u32)size > ADDRESS_SIZE)
		return -EINVAL;
	*address = (struct address){ .family = AF_UNSPEC };
	return user_read(t->mm, address, from, (u32)size);
}

s64 address_put(struct task *t, const struct address *address, u32 size, u64 to, u64 size_at)
{
	s32 room;

	if (user_read(t->mm, &room, size_at, sizeof(room)))
		return -EFAULT;
	if (room < 0)
		return -EINVAL;
	if (user_write(t->mm, to, address, (u32)room < size ? (u32)room : size))
		return -EFAULT;
	return user_write(t->mm, size_at, &size, sizeof(size));
}

static s64 bind_or_connect(struct task *t, const u64 *args, bool connects)
{
	struct address address;
	struct file *file;
	s64 error, of_address;
	struct socket *socket = socket_get(t, args[0], &file, &error);

	if (!file)
		return error;
	of_address = address_get(t, &address, args[1], args[2]);
	if (!socket && (!connects || !of_address))
		return error; /* for connect(), Linux looks at the address first */
	if (of_address)
		return of_address;
	if (!connects)
		return socket->operations->bind(socket, &address, (u32)args[2]);
	return socket->operations->connect(socket, &address, (u32)args[2], !(file->flags & O_NONBLOCK));
}

s64 sys_bind(struct task *t, const u64 *args)
{
	return bind_or_connect(t, args, false);
}

s64 sys_connect(struct task *t, const u64 *args)
{
	return bind_or_connect(t, args, true);
}

s64 sys_listen(struct task *t, const u64 *args)
{
	struct file *file;
	s64 error;
	struct socket *socket = socket_get(t, args[0], &file, &error);
	const u64 most = sysctl(SYSCTL_SOMAXCONN);
	u32 backlog = (u32)args[1] < most ? (u32)args[1] : (u32)most;

	if (!socket)
		return error;
	return socket->operations->listen ? socket->operations->listen(socket, backlog) : -EOPNOTSUPP;
}

static s64 accept(struct task *t, const u64 *args, u32 flags)
{
	struct address address;
	struct file *file, *new_file;
	struct socket *socket, *new;
	s64 result;
	u32 size;

	socket = socket_get(t, args[0], &file, &result);
	if (file && flags & ~(u32)(SOCK_NONBLOCK | SOCK_CLOEXEC))
		return -EINVAL;
	if (!socket)
		return result;
	if (!socket->operations->accept)
		return -EOPNOTSUPP;
	result = socket->operations->accept(socket, &new, !(file->flags & O_NONBLOCK));
	if (!result)
		result = open_socket(new, flags, &new_file);
	if (result)
		return result;
	if (args[1]) {
		result = new->operations->name(new, &address, &size, true);
		if (!result)
			result = address_put(t, &address, size, args[1], args[2]);
	}
	if (!result)
		return fd_install(t, new_file, 0, flags & SOCK_CLOEXEC);
	file_put(new_file);
	return result;
}

s64 sys_accept(struct task *t, const u64 *args)
{
	return accept(t, args, 0);
}

s64 sys_accept4(struct task *t, const u64 *args)
{
	return accept(t, args, (u32)args[3]);
}

static s64 show_name(struct task *t, const u64 *args, bool of_peer)
{
	struct address address;
	struct file *file;
	s64 error;
	struct socket *socket = socket_get(t, args[0], &file, &error);
	u32 size;

	if (!socket)
		return error;
	error = socket->operations->name(socket, &address, &size, of_peer);
	return error ? error : address_put(t, &address, size, args[1], args[2]);
}

s64 sys_getsockname(struct task *t, const u64 *args)
{
	return show_name(t, args, false);
}

s64 sys_getpeername(struct task *t, const u64 *args)
{
	return show_name(t, args, true);
}

s64 sys_shutdown(struct task *t, const u64 *args)
{
	struct file *file;
	s64 error;
	struct socket *socket = socket_get(t, args[0], &file, &error);
	u32 how = (u32)args[1];

	if (!socket)
		return error;
	if (how > 2)
		return -EINVAL;
	return socket->operations->shutdown ? socket->operations->shutdown(socket, how != 1, how != 0) : -EOPNOTSUPP;
}
