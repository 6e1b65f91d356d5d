// SPDX-License-Identifier: Apache-2.0
/* Updates the names of nodes in domains without file handles, where nodes are opened by name. */
#include "fs/fs_inode.h"

#include <fcntl.h>
#include <unistd.h>

bool fs_node_named(struct fs *fs, const struct fs_ref *dir, const char *name, struct fs_ref *ref)
{
	struct look l = { .dir = dir, .name = name, .fd = -1 };
	struct fs_nodes *t = fs->nodes;
	uint32_t index;
	int err;

	if (t->domain[dir->domain].mount_fd >= 0)
		return false;
	index = look_named(fs, &l, &err);
	if (index && t->domain[l.domain].mount_fd >= 0)
		index = 0;
	if (index && l.fd >= 0 && t->node[index].fd < 0) {
		node_set_fd(t, index, l.fd);
		l.fd = -1;
	}
	if (index)
		node_use(t, index, ref);
	pthread_mutex_unlock(&t->lock);
	if (l.fd >= 0)
		close(l.fd);
	return index;
}

/* Without its name it could not be opened again; the guest may still have it open, or know another name of it. */
void fs_node_keep(struct fs *fs, struct fs_ref *ref, const struct fs_ref *dir, const char *name)
{
	struct fs_nodes *t = fs->nodes;
	struct look l = { .dir = dir, .name = name };

	int domain = 0;

	l.fd = ref->fd < 0 ? fs_open_beneath(dir->fd, name, O_PATH) : -1;
	if (l.fd >= 0 && !fs_statx(l.fd, "", &l.st))
		domain = node_domain_get(fs, l.fd, &l.st);
	l.domain = domain > 0 ? (uint32_t)domain : 0;
	pthread_mutex_lock(&t->lock);
	if (l.domain && t->node[ref->index].fd < 0 && look_is(t, ref->index, &l)) {
		node_set_fd(t, ref->index, l.fd);
		l.fd = -1;
	}
	if (t->node[ref->index].fd >= 0)
		node_pin(t, ref->index);
	node_domain_put(t, l.domain);
	pthread_mutex_unlock(&t->lock);
	if (l.fd >= 0)
		close(l.fd);
}

void fs_node_moved(struct fs *fs, const struct fs_ref *ref, const struct fs_ref *dir, const char *name)
{
	pthread_mutex_lock(&fs->nodes->lock);
	node_set_name(fs->nodes, ref->index, dir->index, name);
	node_changed(fs->nodes, ref->index);
	pthread_mutex_unlock(&fs->nodes->lock);
}

void fs_node_unnamed(struct fs *fs, const struct fs_ref *ref, const struct fs_ref *dir, const char *name)
{
	struct fs_nodes *t = fs->nodes;

	pthread_mutex_lock(&t->lock);
	node_changed(t, ref->index);
	/* Not if the node has the name of another link. */
	if (node_named(t, dir->index, name) == ref->index)
		node_drop_name(t, ref->index);
	pthread_mutex_unlock(&t->lock);
}
