// SPDX-License-Identifier: Apache-2.0
/* System calls for sockets. */
#include "socket.h"

#include "calls.h"

enum { SOCK_NONBLOCK = 0x800, SOCK_CLOEXEC = 0x80000, FAMILIES = 46, DEFAULT_BUFFER = 212992 };
enum { SCM_RIGHTS = 1, SCM_CREDENTIALS = 2, MOST_MESSAGES = 1024, MOST_CONTROL = 20480 };

static const struct file_operations socket_operations;

/* -- files -- */

struct socket *socket_new(u16 family, u16 type, const struct socket_operations *operations)
{
	struct socket *socket = kmalloc(sizeof(*socket));

	if (!socket)
		return NULL;
	*socket = (struct socket){
		.operations = operations, .family = family, .type = type, .send_size = DEFAULT_BUFFER,
		.receive_size = DEFAULT_BUFFER, .peer = { 0, ~0u, ~0u },
	};
	return socket;
}

void rights_free(struct rights *rights)
{
	for (u32 i = 0; rights && i < rights->count; i++)
		file_put(rights->files[i]);
	kfree(rights);
}

u64 socket_deadline(u64 timeout, bool wait)
{
	if (!wait)
		return 0;
	return timeout ? monotonic_now() + timeout : FOREVER;
}

struct socket *file_socket(struct file *file)
{
	return file->operations == &socket_operations ? file->data : NULL;
}

/* The socket of a descriptor, borrowed; NULL with the error. */
static struct socket *get(struct task *t, u64 number, struct file **file, s64 *error)
{
	*file = fd_real(t, number);
	*error = *file ? -ENOTSOCK : -EBADF;
	return *file ? file_socket(*file) : NULL;
}

static u32 wait_flag(const struct file *file, u32 flags)
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
	result = socket->operations->receive(socket, &message, to, wait_flag(file, 0));
	rights_free(message.rights);
	return result;
}

static s64 write(struct file *file, struct io *from, u64 *position)
{
	struct message message = { .flags = 0 };
	struct socket *socket = file->data;

	(void)position;
	return socket->operations->send(socket, &message, from, wait_flag(file, 0));
}

static u32 poll(struct file *file, struct poll *poll)
{
	struct socket *socket = file->data;

	return socket->operations->poll(socket, poll);
}

static s64 ioctl(struct file *file, u32 command, u64 argument)
{
	enum { FIONREAD = 0x541b, TIOCOUTQ = 0x5411 };
	struct socket *socket = file->data;
	s32 value;

	if (command != FIONREAD && command != TIOCOUTQ)
		return -ENOTTY;
	if (command == FIONREAD && socket->listening)
		return -EINVAL;
	value = command == FIONREAD ? (s32)socket->operations->readable(socket) : 0;
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
	.read = read, .write = write, .poll = poll, .ioctl = ioctl, .release = release,
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
	int error = create(&sockets[0], (u32)args[0], (u32)args[1], (s32)args[2]);

	if (error)
		return error;
	error = open_socket(sockets[0], (u32)args[1], &files[0]);
	if (error)
		return error;
	error = create(&sockets[1], (u32)args[0], (u32)args[1], (s32)args[2]);
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

static s64 get_address(struct task *t, struct address *address, u64 from, u64 size)
{
	if ((s32)size < 0 || (u32)size > ADDRESS_SIZE)
		return -EINVAL;
	*address = (struct address){ .family = AF_UNSPEC };
	return user_read(t->mm, address, from, (u32)size);
}

/* As much of an address as there is room for, and how large it is. */
static s64 put_address(struct task *t, const struct address *address, u32 size, u64 to, u64 size_at)
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

s64 sys_bind(struct task *t, const u64 *args)
{
	struct address address;
	struct file *file;
	s64 error;
	struct socket *socket = get(t, args[0], &file, &error);

	if (!socket)
		return error;
	error = get_address(t, &address, args[1], args[2]);
	return error ? error : socket->operations->bind(socket, &address, (u32)args[2]);
}

s64 sys_connect(struct task *t, const u64 *args)
{
	struct address address;
	struct file *file;
	s64 error;
	struct socket *socket = get(t, args[0], &file, &error);

	if (!socket)
		return error;
	error = get_address(t, &address, args[1], args[2]);
	if (error)
		return error;
	file_get(file);
	error = socket->operations->connect(socket, &address, (u32)args[2], !(file->flags & O_NONBLOCK));
	file_put(file);
	return error;
}

s64 sys_listen(struct task *t, const u64 *args)
{
	struct file *file;
	s64 error;
	struct socket *socket = get(t, args[0], &file, &error);

	return socket ? socket->operations->listen(socket, (s32)args[1]) : error;
}

static s64 accept(struct task *t, const u64 *args, u32 flags)
{
	struct address address;
	struct file *file, *new_file;
	struct socket *socket, *new;
	s64 result;
	u32 size;

	if (flags & ~(u32)(SOCK_NONBLOCK | SOCK_CLOEXEC))
		return -EINVAL;
	socket = get(t, args[0], &file, &result);
	if (!socket)
		return result;
	file_get(file);
	result = socket->operations->accept(socket, &new, !(file->flags & O_NONBLOCK));
	file_put(file);
	if (!result)
		result = open_socket(new, flags, &new_file);
	if (result)
		return result;
	if (args[1]) {
		result = new->operations->name(new, &address, &size, true);
		if (!result)
			result = put_address(t, &address, size, args[1], args[2]);
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
	struct socket *socket = get(t, args[0], &file, &error);
	u32 size;

	if (!socket)
		return error;
	error = socket->operations->name(socket, &address, &size, of_peer);
	return error ? error : put_address(t, &address, size, args[1], args[2]);
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
	struct socket *socket = get(t, args[0], &file, &error);
	u32 how = (u32)args[1];

	if (!socket)
		return error;
	return how > 2 ? -EINVAL : socket->operations->shutdown(socket, how != 1, how != 0);
}

/* -- options -- */

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
	struct socket *socket = get(t, args[0], &file, &error);

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
	struct socket *socket = get(t, args[0], &file, &error);
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

/* -- messages with data only -- */

s64 sys_sendto(struct task *t, const u64 *args)
{
	struct message message = { .flags = 0 };
	struct iovec vector = { args[1], args[2] };
	struct io io = { .mm = t->mm, .vectors = &vector, .left = args[2] < MAX_RW_COUNT ? args[2] : MAX_RW_COUNT };
	struct file *file;
	s64 result;
	struct socket *socket = get(t, args[0], &file, &result);

	if (!user_range(args[1], args[2]))
		return -EFAULT;
	if (!socket)
		return result;
	if (args[4]) {
		result = get_address(t, &message.address, args[4], args[5]);
		if (result)
			return result;
		message.address_size = (u32)args[5];
	}
	file_get(file);
	result = socket->operations->send(socket, &message, &io, wait_flag(file, (u32)args[3]));
	file_put(file);
	return result;
}

s64 sys_recvfrom(struct task *t, const u64 *args)
{
	struct message message = { .flags = 0 };
	struct iovec vector = { args[1], args[2] };
	struct io io = { .mm = t->mm, .vectors = &vector, .left = args[2] < MAX_RW_COUNT ? args[2] : MAX_RW_COUNT };
	struct file *file;
	s64 result, error;
	struct socket *socket = get(t, args[0], &file, &result);

	if (!user_range(args[1], args[2]))
		return -EFAULT;
	if (!socket)
		return result;
	file_get(file);
	result = socket->operations->receive(socket, &message, &io, wait_flag(file, (u32)args[3]));
	file_put(file);
	rights_free(message.rights);
	if (result >= 0 && args[4]) {
		error = put_address(t, &message.address, message.address_size, args[4], args[5]);
		if (error)
			return error;
	}
	return result;
}

/* -- messages with control data -- */

struct msghdr {
	u64 name;
	s32 name_size, pad;
	u64 vectors, vector_count, control, control_size;
	s32 flags, pad2;
};

struct cmsghdr {
	u64 size;
	s32 level, type;
};

static s64 take_rights(struct task *t, struct message *message, const u8 *data, u64 size)
{
	u64 count = size / sizeof(s32);

	if (!message->rights)
		message->rights = kmalloc(sizeof(*message->rights));
	if (!message->rights)
		return -ENOMEM;
	if (count > RIGHTS_MOST - message->rights->count)
		return -EINVAL;
	for (u64 i = 0; i < count; i++) {
		struct file *file = fd_file(t, (u32)((const s32 *)data)[i]);

		if (!file)
			return -EBADF;
		file_get(file);
		message->rights->files[message->rights->count++] = file;
	}
	return 0;
}

static s64 take_credentials(struct task *t, struct message *message, const u8 *data, u64 size)
{
	struct credentials_message sender;

	if (size != sizeof(sender))
		return -EINVAL;
	bytes_copy(&sender, data, sizeof(sender));
	if ((sender.pid != t->process->pid || sender.user != caller_user() || sender.group != caller_group()) &&
	    !caller_capable(CAP_SYS_ADMIN))
		return -EPERM;
	message->sender = sender;
	message->sender_given = true;
	return 0;
}

static s64 parse_control(struct task *t, struct message *message, const u8 *data, u64 size)
{
	u64 at = 0;

	while (size - at >= sizeof(struct cmsghdr)) {
		const struct cmsghdr *header = (const struct cmsghdr *)(data + at);
		s64 error = 0;

		if (header->size < sizeof(*header) || header->size > size - at)
			return -EINVAL;
		if (header->level == SOL_SOCKET) {
			u64 part = header->size - sizeof(*header);

			if (header->type == SCM_RIGHTS)
				error = take_rights(t, message, data + at + sizeof(*header), part);
			else if (header->type == SCM_CREDENTIALS)
				error = take_credentials(t, message, data + at + sizeof(*header), part);
			else
				error = -EINVAL;
		}
		if (error)
			return error;
		at += (header->size + 7) & -8ull;
		if (at > size)
			break;
	}
	return 0;
}

static s64 get_control(struct task *t, struct message *message, const struct msghdr *header)
{
	u8 *data;
	s64 error;

	if (!header->control || !header->control_size)
		return 0;
	if (header->control_size > MOST_CONTROL)
		return -ENOBUFS;
	data = kmalloc(header->control_size);
	if (!data)
		return -ENOMEM;
	error = user_read(t->mm, data, header->control, header->control_size);
	if (!error)
		error = parse_control(t, message, data, header->control_size);
	kfree(data);
	return error;
}

static s64 send_message(struct task *t, struct file *file, u64 from, u32 flags)
{
	struct socket *socket = file_socket(file);
	struct message message = { .flags = 0 };
	struct vectors vectors = { .first = NULL };
	struct io io = { .mm = t->mm };
	struct msghdr header;
	s64 result;

	if (user_read(t->mm, &header, from, sizeof(header)))
		return -EFAULT;
	if (header.vector_count > IOV_MAX)
		return -EMSGSIZE;
	result = header.name && header.name_size ? get_address(t, &message.address, header.name, (u32)header.name_size) : 0;
	if (!result)
		message.address_size = header.name ? (u32)header.name_size : 0;
	if (!result)
		result = vectors_get(t, &vectors, header.vectors, header.vector_count);
	io.vectors = vectors.first;
	io.left = result > 0 ? (u64)result : 0;
	if (result >= 0)
		result = get_control(t, &message, &header);
	if (!result)
		result = socket->operations->send(socket, &message, &io, wait_flag(file, flags));
	rights_free(message.rights);
	vectors_free(&vectors);
	return result;
}

/* Add a part of the control data; whether it was there whole. */
static bool put_control(struct task *t, struct msghdr *header, s32 type, const void *data, u64 size)
{
	struct cmsghdr part = { sizeof(part) + size, SOL_SOCKET, type };
	u64 whole = (part.size + 7) & -8ull;

	if (header->control_size < sizeof(part) + size)
		return false;
	if (user_write(t->mm, header->control, &part, sizeof(part)) ||
	    user_write(t->mm, header->control + sizeof(part), data, size))
		return false;
	if (whole > header->control_size)
		whole = header->control_size;
	header->control += whole;
	header->control_size -= whole;
	return true;
}

/* Install files as descriptors, as many as there is room for; whether it was all of them. */
static bool put_rights(struct task *t, struct msghdr *header, struct rights *rights, bool close_on_exec)
{
	u64 room = header->control_size > sizeof(struct cmsghdr) ? (header->control_size - sizeof(struct cmsghdr)) / 4 : 0;
	s32 numbers[RIGHTS_MOST];
	u32 count = 0;

	while (count < rights->count && count < room) {
		s64 number;

		file_get(rights->files[count]);
		number = fd_install(t, rights->files[count], 0, close_on_exec);
		if (number < 0)
			break;
		numbers[count++] = (s32)number;
	}
	if (count && !put_control(t, header, SCM_RIGHTS, numbers, count * sizeof(s32)))
		return false;
	return count == rights->count;
}

static s64 put_message(struct task *t, struct message *message, struct msghdr *header, u64 to, u32 flags)
{
	u64 start = header->control;
	bool whole = true;

	if (message->wants_sender)
		whole = put_control(t, header, SCM_CREDENTIALS, &message->sender, sizeof(message->sender));
	if (message->rights)
		whole &= put_rights(t, header, message->rights, flags & MSG_CMSG_CLOEXEC);
	if (header->name && user_write(t->mm, header->name, &message->address,
				       (u32)header->name_size < message->address_size ? (u32)header->name_size
										      : message->address_size))
		return -EFAULT;
	if (header->name)
		header->name_size = (s32)message->address_size;
	header->flags = (s32)(message->flags | (whole ? 0 : MSG_CTRUNC) | (flags & MSG_CMSG_CLOEXEC));
	header->control_size = header->control - start;
	header->control = start;
	return user_write(t->mm, to, header, sizeof(*header));
}

static s64 receive_message(struct task *t, struct file *file, u64 to, u32 flags)
{
	struct socket *socket = file_socket(file);
	struct message message = { .wants_sender = socket->pass_credentials };
	struct vectors vectors = { .first = NULL };
	struct io io = { .mm = t->mm };
	struct msghdr header;
	s64 result, error;

	if (user_read(t->mm, &header, to, sizeof(header)))
		return -EFAULT;
	if (header.name && header.name_size < 0)
		return -EINVAL;
	if (header.vector_count > IOV_MAX)
		return -EMSGSIZE;
	result = vectors_get(t, &vectors, header.vectors, header.vector_count);
	io.vectors = vectors.first;
	io.left = result > 0 ? (u64)result : 0;
	if (result >= 0)
		result = socket->operations->receive(socket, &message, &io, wait_flag(file, flags));
	if (result >= 0) {
		error = put_message(t, &message, &header, to, flags);
		result = error ? error : result;
	}
	rights_free(message.rights);
	vectors_free(&vectors);
	return result;
}

typedef s64 (*one_message)(struct task *t, struct file *file, u64 header, u32 flags);

static s64 with_file(struct task *t, const u64 *args, one_message each)
{
	struct file *file;
	s64 result;

	if (!get(t, args[0], &file, &result))
		return result;
	file_get(file);
	result = each(t, file, args[1], (u32)args[2]);
	file_put(file);
	return result;
}

s64 sys_sendmsg(struct task *t, const u64 *args)
{
	return with_file(t, args, send_message);
}

s64 sys_recvmsg(struct task *t, const u64 *args)
{
	return with_file(t, args, receive_message);
}

/* Several in a row: how many went well, or the first error. */
static s64 many(struct task *t, const u64 *args, one_message each, u64 deadline)
{
	enum { WAITFORONE = 0x10000, STRIDE = 64, LENGTH_AT = 56 };
	u32 count = (u32)args[2] < MOST_MESSAGES ? (u32)args[2] : MOST_MESSAGES, done = 0, flags = (u32)args[3];
	struct file *file;
	s64 result = 0;

	if (!get(t, args[0], &file, &result))
		return result;
	file_get(file);
	for (; done < count; done++) {
		u64 header = args[1] + done * STRIDE;
		u32 size;

		result = each(t, file, header, flags & ~(u32)WAITFORONE);
		if (result < 0)
			break;
		size = (u32)result;
		result = user_write(t->mm, header + LENGTH_AT, &size, sizeof(size));
		if (result)
			break;
		if (flags & WAITFORONE)
			flags |= MSG_DONTWAIT;
		if (deadline != FOREVER && monotonic_now() >= deadline) {
			done++;
			break;
		}
	}
	file_put(file);
	return done ? done : result;
}

s64 sys_sendmmsg(struct task *t, const u64 *args)
{
	return many(t, args, send_message, FOREVER);
}

s64 sys_recvmmsg(struct task *t, const u64 *args)
{
	u64 deadline;
	s64 error = deadline_from(t, args[4], &deadline);

	return error ? error : many(t, args, receive_message, deadline);
}
