// SPDX-License-Identifier: Apache-2.0
/* Names of sockets of the family AF_UNIX: in a file system, or abstract. */
#include "../vfs/calls.h"
#include "unix.h"

enum { PATH_SIZE = 108 };

static struct list *bound_list(void)
{
	if (!vfs.bound.next)
		list_init(&vfs.bound);
	return &vfs.bound;
}

/* A name in a file system ends with a zero that may be missing: 0 or -EINVAL. */
int unix_check_name(const struct address *address, u32 size)
{
	if (size <= 2 || size > 2 + PATH_SIZE)
		return -EINVAL;
	return address->family == AF_UNIX ? 0 : -EINVAL;
}

static bool is_abstract(const struct address *address)
{
	return !address->rest[0];
}

static bool same_name(const struct endpoint *end, const struct address *address, u32 size)
{
	return !end->place.dentry && end->name_size == size && bytes_equal(&end->name, address, size);
}

static struct endpoint *find_abstract(const struct address *address, u32 size)
{
	LIST_EACH(at, bound_list())
		if (same_name(CONTAINER(at, struct endpoint, bound), address, size))
			return CONTAINER(at, struct endpoint, bound);
	return NULL;
}

static struct endpoint *find_place(const struct inode *inode)
{
	LIST_EACH(at, bound_list()) {
		struct endpoint *end = CONTAINER(at, struct endpoint, bound);

		if (end->place.dentry && end->place.dentry->inode == inode)
			return end;
	}
	return NULL;
}

int unix_find(const struct address *address, u32 size, struct endpoint **result)
{
	struct path path = { .dentry = NULL };
	struct endpoint *end = NULL;
	int error = 0;

	if (is_abstract(address)) {
		end = find_abstract(address, size);
	} else {
		error = path_lookup(address->rest, WALK_FOLLOW, &path);
		if (error)
			return error;
		error = inode_permission(path.dentry->inode, MAY_WRITE);
		end = error ? NULL : find_place(path.dentry->inode);
	}
	if (end)
		reference_get(&end->references);
	path_put(&path); /* can sleep, and the socket be closed meanwhile */
	if (end && end->socket) {
		*result = end;
		return 0;
	}
	endpoint_put(end);
	return error ? error : -ECONNREFUSED;
}

static int bind_path(struct endpoint *end, struct address *address, u32 *size)
{
	int error;

	address->rest[*size - 2] = 0;
	*size = (u32)string_size(address->rest) + 3;
	error = name_socket(address->rest, 0777 & ~caller_fs()->umask);
	if (!error)
		error = path_lookup(address->rest, 0, &end->place);
	return error == -EEXIST ? -EADDRINUSE : error;
}

/* A name of five digits that no socket has. */
static int bind_automatically(struct endpoint *end)
{
	for (u32 number = 0; number < 0x100000; number++) {
		struct address address = { .family = AF_UNIX };

		for (u32 i = 0; i < 5; i++)
			address.rest[1 + i] = "0123456789abcdef"[number >> (16 - 4 * i) & 15];
		if (find_abstract(&address, 8))
			continue;
		end->name = address;
		end->name_size = 8;
		list_add(bound_list(), &end->bound);
		return 0;
	}
	return -ENOSPC;
}

static int bind(struct endpoint *end, const struct address *given, u32 size)
{
	struct address address = *given;
	int error;

	if (address.family != AF_UNIX)
		return -EINVAL;
	if (size == 2)
		return end->name_size ? 0 : bind_automatically(end);
	error = unix_check_name(&address, size);
	if (error)
		return error;
	if (end->name_size)
		return -EINVAL;
	if (!is_abstract(&address))
		error = bind_path(end, &address, &size);
	else if (find_abstract(&address, size))
		error = -EADDRINUSE;
	if (error)
		return error;
	end->name = address;
	end->name_size = size;
	list_add(bound_list(), &end->bound);
	return 0;
}

int unix_bind(struct socket *socket, const struct address *address, u32 size)
{
	struct endpoint *end = end_of(socket);
	int error;

	mutex_lock(&end->binding);
	error = bind(end, address, size);
	mutex_unlock(&end->binding);
	return error;
}

void unix_put_name(const struct endpoint *end, struct address *address, u32 *size)
{
	*address = end->name_size ? end->name : (struct address){ .family = AF_UNIX };
	*size = end->name_size ? end->name_size : 2;
}
