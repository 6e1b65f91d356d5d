// SPDX-License-Identifier: Apache-2.0
/* References of requests to nodes: from an id to a descriptor that stays open. */
#include "fs/fs_inode.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

void node_use(struct fs_nodes *t, uint32_t index, struct fs_ref *ref)
{
	struct node *n = &t->node[index];

	ref->index = index;
	ref->fd = n->fd;
	ref->domain = n->domain;
	ref->type = n->type;
	n->users++;
	t->domain[n->domain].users++;
	if (n->linked)
		node_touch(t, index);
}

/* Open a node by its directory and name. */
static int node_open_named(struct fs *fs, struct fs_ref *parent, const char *name, uint32_t index, uint32_t depth)
{
	struct look l = { .dir = parent, .name = name, .fd = -1 };
	struct fs_nodes *t = fs->nodes;
	int domain, err;
	bool same;

	err = parent->fd >= 0 ? 0 : depth ? node_hold(fs, parent, depth - 1) : -ELOOP;
	if (!err) {
		l.fd = fs_open_beneath(parent->fd, name, O_PATH);
		err = l.fd < 0 ? l.fd : fs_statx(l.fd, "", &l.st);
	}
	domain = err ? err : node_domain_get(fs, l.fd, &l.st);
	if (domain > 0) {
		l.domain = (uint32_t)domain;
		pthread_mutex_lock(&t->lock);
		same = look_is(t, index, &l);
		node_domain_put(t, l.domain);
		pthread_mutex_unlock(&t->lock);
		if (same)
			return l.fd;
	}
	if (l.fd >= 0)
		close(l.fd);
	return domain > 0 || domain == -ENOENT || domain == -ENOTDIR ? -ESTALE : domain;
}

/* Read its file handle. Returns the descriptor of its mount; -1: it has no handle to open it by. Under the lock. */
static int node_handle(const struct fs_nodes *t, const struct node *n, struct fs_file_handle *h)
{
	if (!n->handle_len)
		return -1;
	h->len = n->handle_len;
	h->type = n->handle_type;
	memcpy(h->bytes, h->len <= FS_HANDLE_INLINE ? n->handle : n->long_handle, h->len);
	return t->domain[n->domain].mount_fd;
}

/* Open a node that is in use and has no descriptor. */
static int node_open(struct fs *fs, uint32_t index, uint32_t depth)
{
	struct fs_nodes *t = fs->nodes;
	const struct node *n = &t->node[index];
	char name[FS_NAME_MAX + 1] = "";
	struct fs_file_handle h;
	struct fs_ref parent;
	int mount_fd, fd;

	pthread_mutex_lock(&t->lock);
	mount_fd = node_handle(t, n, &h);
	if (mount_fd < 0 && n->name) {
		strcpy(name, n->name);
		node_use(t, n->parent, &parent);
	}
	pthread_mutex_unlock(&t->lock);
	if (mount_fd >= 0)
		return fs_handle_open(mount_fd, &h, O_PATH);
	if (!*name)
		return -ESTALE;
	fd = node_open_named(fs, &parent, name, index, depth);
	fs_node_put(fs, &parent);
	return fd;
}

int node_hold(struct fs *fs, struct fs_ref *ref, uint32_t depth)
{
	struct fs_nodes *t = fs->nodes;
	int fd = node_open(fs, ref->index, depth);

	pthread_mutex_lock(&t->lock);
	ref->fd = t->node[ref->index].fd;
	if (ref->fd < 0 && fd >= 0) {
		node_set_fd(t, ref->index, fd);
		ref->fd = fd;
		fd = -1;
	} else if (ref->fd < 0 && fd == -ESTALE) {
		/* It cannot be found again: another file may have its inode number now. */
		node_unhash(t, ref->index);
	}
	pthread_mutex_unlock(&t->lock);
	if (ref->fd < 0)
		return fd;
	if (fd >= 0)
		close(fd);
	return 0;
}

int fs_node_use(struct fs *fs, uint64_t id, struct fs_ref *ref)
{
	struct fs_nodes *t = fs->nodes;
	uint32_t index;

	pthread_mutex_lock(&t->lock);
	index = node_of(t, id);
	if (index)
		node_use(t, index, ref);
	pthread_mutex_unlock(&t->lock);
	return index ? 0 : -ESTALE;
}

int fs_node_get(struct fs *fs, uint64_t id, struct fs_ref *ref)
{
	int err = fs_node_use(fs, id, ref);

	if (err || ref->fd >= 0)
		return err;
	err = node_hold(fs, ref, NODE_DEPTH);
	if (err)
		fs_node_put(fs, ref);
	return err;
}

int fs_node_open(struct fs *fs, struct fs_ref *ref, int flags)
{
	struct fs_nodes *t = fs->nodes;
	struct fs_file_handle h;
	int mount_fd = -1, err = 0;

	if (ref->fd < 0) {
		pthread_mutex_lock(&t->lock);
		mount_fd = node_handle(t, &t->node[ref->index], &h);
		pthread_mutex_unlock(&t->lock);
		/* The type of the node is known, so this does not open a device. */
		if (mount_fd >= 0)
			return fs_handle_open(mount_fd, &h, flags);
		err = node_hold(fs, ref, NODE_DEPTH);
	}
	return err ? err : fs_reopen(fs, ref->fd, flags);
}

void fs_node_put(struct fs *fs, struct fs_ref *ref)
{
	struct fs_nodes *t = fs->nodes;

	pthread_mutex_lock(&t->lock);
	t->node[ref->index].users--;
	node_free(t, ref->index);
	node_domain_put(t, ref->domain);
	pthread_mutex_unlock(&t->lock);
}

void fs_node_opened(struct fs *fs, const struct fs_ref *ref)
{
	struct node *n = &fs->nodes->node[ref->index];

	if (__atomic_load_n(&n->unopened, __ATOMIC_RELAXED))
		__atomic_store_n(&n->unopened, false, __ATOMIC_RELAXED);
}

bool fs_node_closed(struct fs *fs, const struct fs_ref *ref)
{
	return fs->nodes->domain[ref->domain].closed;
}

bool fs_node_is_closed(struct fs *fs, uint64_t id)
{
	struct fs_nodes *t = fs->nodes;
	uint32_t index;
	bool closed;

	/* A domain is added before its first node, so no lock is needed here. */
	if (!__atomic_load_n(&t->any_closed, __ATOMIC_RELAXED))
		return false;
	pthread_mutex_lock(&t->lock);
	index = node_of(t, id);
	closed = index && t->domain[t->node[index].domain].closed;
	pthread_mutex_unlock(&t->lock);
	return closed;
}

uint64_t fs_node_ino(struct fs *fs, uint64_t id, uint64_t ino)
{
	struct fs_nodes *t = fs->nodes;
	uint32_t index;

	/* Set before there are requests, and never afterwards. */
	if (!t->inos)
		return ino;
	pthread_mutex_lock(&t->lock);
	index = node_of(t, id);
	if (index)
		ino = ino_told(t, index, ino);
	pthread_mutex_unlock(&t->lock);
	return ino;
}
