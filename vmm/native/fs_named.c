// SPDX-License-Identifier: Apache-2.0
/* Where there are no file handles and nodes are found by name: to follow the names when they change. */
#include "fs_inode.h"

#include <fcntl.h>
#include <unistd.h>

/* The node that a name stands for, 0 if there is none; only where nodes are found by name. Under the lock. */
static uint32_t node_named(struct fs_nodes *t, const struct fs_ref *dir, const char *name, struct statx *st)
{
	int domain;

	if (t->domain[dir->domain].mount_fd >= 0 || fs_statx(dir->fd, name, st))
		return 0;
	domain = node_domain(t, st);
	return domain < 0 || t->domain[domain].mount_fd >= 0 ? 0 : node_find(t, (uint32_t)domain, st);
}

/* Without its name it cannot be opened again, but the guest may have it open, or under another name. */
void fs_node_leaving(struct fs *fs, const struct fs_ref *dir, const char *name)
{
	struct fs_nodes *t = fs->nodes;
	struct statx st;
	uint32_t index;
	int fd;

	if (t->domain[dir->domain].mount_fd >= 0)
		return;
	pthread_mutex_lock(&t->lock);
	index = node_named(t, dir, name, &st);
	if (index && t->node[index].fd < 0) {
		fd = fs_open_beneath(dir->fd, name, O_PATH);
		if (fd >= 0 && !fs_statx(fd, "", &st) && node_is(&t->node[index], &st))
			node_set_fd(t, index, fd);
		else if (fd >= 0)
			close(fd);
	}
	if (index && t->node[index].fd >= 0)
		node_pin(t, index);
	pthread_mutex_unlock(&t->lock);
}

void fs_node_moved(struct fs *fs, const struct fs_ref *dir, const char *name)
{
	struct fs_nodes *t = fs->nodes;
	struct statx st;
	uint32_t index;

	if (t->domain[dir->domain].mount_fd >= 0)
		return;
	pthread_mutex_lock(&t->lock);
	index = node_named(t, dir, name, &st);
	if (index)
		node_set_name(t, index, dir->index, name);
	pthread_mutex_unlock(&t->lock);
}
