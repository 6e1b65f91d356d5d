// SPDX-License-Identifier: Apache-2.0
/* CopyFile: receives files over the connection, where there is no share or the share must not contain them. */
#include "ttrpc.h"

#include "agent.pb.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define TOP "/run/kata-containers"

/*
 * Open the parent directory of a file, and create missing ones. Follows no symbolic link, since a container may have
 * placed one. A descriptor or -errno.
 */
static int open_parent(char *path, mode_t mode)
{
	int fd = open(TOP, O_PATH | O_DIRECTORY | O_CLOEXEC), next;
	char *at = path + sizeof(TOP), *slash;

	if (fd < 0)
		return -errno;
	for (; (slash = strchr(at, '/')); at = slash + 1) {
		*slash = '\0';
		if (mkdirat(fd, at, mode) && errno != EEXIST)
			next = -errno;
		else if ((next = openat(fd, at, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)) < 0)
			next = -errno;
		*slash = '/';
		close(fd);
		if (next < 0)
			return next;
		fd = next;
	}
	return fd;
}

static int copy_link(int parent, const char *name, const struct call *call)
{
	char *target = xzalloc(call->data_size + 1);
	int error;

	memcpy(target, call->data ? (const char *)call->data : "", call->data_size);
	error = symlinkat(target, parent, name) ? -errno : 0;
	free(target);
	return error;
}

/* Write one piece of a file. The last piece renames it to its final name. */
static int copy_piece(int parent, const char *name, const grpc_CopyFileRequest *request, const struct call *call)
{
	char *partial = xasprintf(".%.200s.partial", name);
	int flags = O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC | (request->offset ? 0 : O_TRUNC);
	int error = 0, fd = openat(parent, partial, flags, 0600);
	struct stat status;
	size_t done = 0;

	if (fd < 0)
		error = -errno;
	while (!error && done < call->data_size) {
		ssize_t put = pwrite(fd, call->data + done, call->data_size - done, request->offset + done);

		if (put < 0)
			error = -errno;
		else
			done += put;
	}
	if (!error && fstat(fd, &status))
		error = -errno;
	if (!error && status.st_size >= request->file_size) {
		if (ftruncate(fd, request->file_size) || fchown(fd, request->uid, request->gid) ||
		    fchmod(fd, request->file_mode & 07777) || renameat(parent, partial, parent, name))
			error = -errno;
	}
	if (fd >= 0)
		close(fd);
	free(partial);
	return error;
}

static int copy_directory(int parent, const char *name, const grpc_CopyFileRequest *request)
{
	if (mkdirat(parent, name, request->file_mode & 07777) && errno != EEXIST)
		return -errno;
	if (fchownat(parent, name, request->uid, request->gid, AT_SYMLINK_NOFOLLOW))
		return -errno;
	return 0;
}

void rpc_copy_file(struct call *call)
{
	grpc_CopyFileRequest *request = call->request;
	int error, parent;
	const char *name;

	if (!path_is_valid(request->path) || strncmp(request->path, TOP "/", sizeof(TOP))) {
		call_fail(call, STATUS_INVALID_ARGUMENT, "path: not below " TOP);
		return;
	}
	if (request->offset < 0 || request->file_size < 0 ||
	    request->offset > request->file_size - (int64_t)call->data_size) {
		if (!S_ISLNK(request->file_mode) && !S_ISDIR(request->file_mode)) {
			call_fail(call, STATUS_INVALID_ARGUMENT, "%s: the piece is not inside of the file", request->path);
			return;
		}
	}
	parent = open_parent(request->path, request->dir_mode ? request->dir_mode & 07777 : 0755);
	if (parent < 0) {
		call_fail(call, status_of(parent), "%s: its directory: %s", request->path, strerror(-parent));
		return;
	}
	name = strrchr(request->path, '/') + 1;
	if (S_ISLNK(request->file_mode))
		error = copy_link(parent, name, call);
	else if (S_ISDIR(request->file_mode))
		error = copy_directory(parent, name, request);
	else
		error = copy_piece(parent, name, request, call);
	close(parent);
	if (error)
		call_fail(call, status_of(error), "%s: %s", request->path, strerror(-error));
	else
		call_done(call);
}
