// SPDX-License-Identifier: Apache-2.0
/* Messages of sockets: data that programs send and receive, with descriptors and credentials. */
#include "../id_map.h"
#include "../vfs/calls.h"
#include "socket.h"

enum { SCM_RIGHTS = 1, SCM_CREDENTIALS = 2, MOST_MESSAGES = 1024, MOST_CONTROL = 20480 };

/* -- messages with data only -- */

s64 sys_sendto(struct task *t, const u64 *args)
{
	struct message message = { .flags = 0 };
	struct iovec vector = { args[1], args[2] };
	struct io io = { .mm = t->mm, .vectors = &vector, .left = args[2] < MAX_RW_COUNT ? args[2] : MAX_RW_COUNT };
	struct file *file;
	s64 result;
	struct socket *socket = socket_get(t, args[0], &file, &result);

	if (!user_range(args[1], args[2]))
		return -EFAULT;
	if (!socket)
		return result;
	if (args[4]) {
		result = address_get(t, &message.address, args[4], args[5]);
		if (result)
			return result;
		message.address_size = (u32)args[5];
	}
	return socket->operations->send(socket, &message, &io, socket_flags(file, (u32)args[3]));
}

s64 sys_recvfrom(struct task *t, const u64 *args)
{
	struct message message = { .flags = 0 };
	struct iovec vector = { args[1], args[2] };
	struct io io = { .mm = t->mm, .vectors = &vector, .left = args[2] < MAX_RW_COUNT ? args[2] : MAX_RW_COUNT };
	struct file *file;
	s64 result, error;
	struct socket *socket = socket_get(t, args[0], &file, &result);

	if (!user_range(args[1], args[2]))
		return -EFAULT;
	if (!socket)
		return result;
	result = socket->operations->receive(socket, &message, &io, socket_flags(file, (u32)args[3]));
	rights_free(message.rights);
	if (result >= 0 && args[4]) {
		error = address_put(t, &message.address, message.address_size, args[4], args[5]);
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

static bool is_own(const struct ids *ids, u32 id)
{
	return id == ids->real || id == ids->effective || id == ids->saved;
}

struct credentials_message credentials_shown(const struct credentials *credentials)
{
	struct credentials_message shown = credentials->message;

	if (credentials->pids != core.current->process->pids)
		shown.pid = 0;
	return shown;
}

static s64 take_credentials(struct task *t, struct message *message, const u8 *data, u64 size)
{
	struct credentials_message sender;

	if (size != sizeof(sender))
		return -EINVAL;
	bytes_copy(&sender, data, sizeof(sender));
	if (!id_map_has(&id_maps.users, sender.user) || !id_map_has(&id_maps.groups, sender.group))
		return -EINVAL;
	if (sender.pid != t->process->pid && !capable(CAP_SYS_ADMIN))
		return -EPERM;
	if (!is_own(&t->cred.user, sender.user) && !capable(CAP_SETUID))
		return -EPERM;
	if (!is_own(&t->cred.group, sender.group) && !capable(CAP_SETGID))
		return -EPERM;
	message->sender = (struct credentials){ sender, t->process->pids };
	message->sender_given = true;
	return 0;
}

/* Add a part of another level, which the family of the socket checks. */
static void take_other(struct controls *controls, const struct cmsghdr *header)
{
	u64 size = header->size - sizeof(*header);
	struct control *part = &controls->parts[controls->count];

	if (controls->count > CONTROLS_MOST || controls->count++ == CONTROLS_MOST)
		return;
	*part = (struct control){ .level = header->level, .type = header->type, .size = size > CONTROL_SIZE ? 0 : (u32)size };
	bytes_copy(part->data, header + 1, part->size);
}

static s64 parse_control(struct task *t, struct message *message, const u8 *data, u64 size)
{
	u64 at = 0;

	while (size - at >= sizeof(struct cmsghdr)) {
		const struct cmsghdr *header = (const struct cmsghdr *)(data + at);
		s64 error = 0;

		if (header->size < sizeof(*header) || header->size > size - at)
			return -EINVAL;
		if (header->level != SOL_SOCKET) {
			take_other(message->controls, header);
		} else {
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
	struct controls controls = { .count = 0 };
	struct message message = { .controls = &controls };
	struct vectors vectors = { .first = NULL };
	struct io io = { .mm = t->mm };
	struct msghdr header;
	s64 result;

	if (user_read(t->mm, &header, from, sizeof(header)))
		return -EFAULT;
	if (header.vector_count > IOV_MAX)
		return -EMSGSIZE;
	result = header.name && header.name_size ? address_get(t, &message.address, header.name, (u32)header.name_size) : 0;
	if (!result)
		message.address_size = header.name ? (u32)header.name_size : 0;
	if (!result)
		result = vectors_get(t, &vectors, header.vectors, header.vector_count);
	io.vectors = vectors.first;
	io.left = result > 0 ? (u64)result : 0;
	if (result >= 0)
		result = get_control(t, &message, &header);
	if (!result)
		result = socket->operations->send(socket, &message, &io, socket_flags(file, flags));
	rights_free(message.rights);
	vectors_free(&vectors);
	return result;
}

/* Append a part to the control data, as much of it as fits; false: not all of it. */
static bool put_control(struct task *t, struct msghdr *header, s32 level, s32 type, const void *data, u64 size)
{
	struct cmsghdr part = { sizeof(part) + size, level, type };
	u64 whole = (part.size + 7) & -8ull;
	bool fits = part.size <= header->control_size;

	if (header->control_size < sizeof(part))
		return false;
	if (!fits)
		part.size = header->control_size;
	if (user_write(t->mm, header->control, &part, sizeof(part)) ||
	    user_write(t->mm, header->control + sizeof(part), data, part.size - sizeof(part)))
		return false;
	if (whole > header->control_size)
		whole = header->control_size;
	header->control += whole;
	header->control_size -= whole;
	return fits;
}

/* Install files as descriptors, as many as there is room for; false: some were left out. */
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
	if (count && !put_control(t, header, SOL_SOCKET, SCM_RIGHTS, numbers, count * sizeof(s32)))
		return false;
	return count == rights->count;
}

static s64 put_message(struct task *t, struct message *message, struct msghdr *header, u64 to, u32 flags)
{
	u64 start = header->control;
	const struct credentials_message sender = credentials_shown(&message->sender);
	bool whole = true;

	if (message->wants_sender)
		whole = put_control(t, header, SOL_SOCKET, SCM_CREDENTIALS, &sender, sizeof(sender));
	if (message->rights)
		whole &= put_rights(t, header, message->rights, flags & MSG_CMSG_CLOEXEC);
	for (u32 i = 0; i < message->controls->count; i++) {
		const struct control *part = &message->controls->parts[i];

		whole &= put_control(t, header, part->level, part->type, part->data, part->size);
	}
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
	struct controls controls = { .count = 0 };
	struct message message = { .wants_sender = socket->pass_credentials, .controls = &controls };
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
		result = socket->operations->receive(socket, &message, &io, socket_flags(file, flags));
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

	return socket_get(t, args[0], &file, &result) ? each(t, file, args[1], (u32)args[2]) : result;
}

s64 sys_sendmsg(struct task *t, const u64 *args)
{
	return with_file(t, args, send_message);
}

s64 sys_recvmsg(struct task *t, const u64 *args)
{
	return with_file(t, args, receive_message);
}

/* Several in a row: how many succeeded, or the first error. */
static s64 many(struct task *t, const u64 *args, one_message each, u64 deadline)
{
	enum { WAITFORONE = 0x10000, STRIDE = 64, LENGTH_AT = 56 };
	u32 count = (u32)args[2] < MOST_MESSAGES ? (u32)args[2] : MOST_MESSAGES, done = 0, flags = (u32)args[3];
	struct file *file;
	s64 result = 0;

	if (!socket_get(t, args[0], &file, &result))
		return result;
	result = 0;
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
		if (deadline != FOREVER && monotonic_now() >= deadline)
			return done + 1;
	}
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
