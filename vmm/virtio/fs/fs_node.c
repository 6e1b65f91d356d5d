// SPDX-License-Identifier: Apache-2.0
/* Looking up, counting and forgetting nodes. */
#include "fs/fs_inode.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { DEFAULT_NODES = 4 << 20, DEFAULT_FDS = 256, LEAST_NODES = 1 << 16, DEFAULT_BYTES = 512 << 20 };

int fs_nodes_init(struct fs *fs)
{
	struct fs_nodes *t = calloc(1, sizeof(*t));
	struct statx st;
	int err;

	if (!t)
		return -ENOMEM;
	pthread_mutex_init(&t->lock, NULL);
	fs->nodes = t;
	t->max_fds = fs->config.max_fds ? fs->config.max_fds : DEFAULT_FDS;
	t->max = (fs->config.max_nodes ? fs->config.max_nodes : DEFAULT_NODES) + ROOT + 1;
	t->max_bytes = fs->config.node_bytes ? fs->config.node_bytes : DEFAULT_BYTES;
	t->nbuckets = NODE_BUCKETS;
	t->bucket = calloc(t->nbuckets, sizeof(*t->bucket));
	t->names = calloc(t->nbuckets, sizeof(*t->names));
	/* A host that does not overcommit may refuse so much address space: then have fewer nodes. */
	for (;; t->max /= 2) {
		t->node = fs_table(t->max * sizeof(*t->node));
		if (t->node || t->max < LEAST_NODES)
			break;
	}
	t->domain = fs_table(MAX_DOMAINS * sizeof(*t->domain));
	if (!t->node || !t->bucket || !t->names || !t->domain)
		return -ENOMEM;
	t->top = ROOT;
	t->domain_top = 1;
	t->domain[0].mount_fd = -1;
	err = told_init(t);
	if (err)
		return err;
	err = fs_statx(fs->root_fd, "", &st);
	if (err)
		return err;
	if (!S_ISDIR(st.stx_mode))
		return -ENOTDIR;
	/* The root keeps this user, too. */
	err = node_domain_get(fs, fs->root_fd, &st);
	if (err < 0)
		return err;
	node_add(fs, (uint32_t)err, &st);
	t->node[ROOT].fd = fs->root_fd;
	t->count = 0;
	return 0;
}

void fs_nodes_free(struct fs *fs)
{
	struct fs_nodes *t = fs->nodes;

	if (!t)
		return;
	if (t->node && t->bucket && t->names && t->domain)
		fs_nodes_reset(fs);
	for (uint32_t i = 1; t->domain && i < t->domain_top; i++)
		if (t->domain[i].mount_fd >= 0)
			close(t->domain[i].mount_fd);
	if (t->domain)
		munmap(t->domain, MAX_DOMAINS * sizeof(*t->domain));
	told_free(t);
	inos_free(t);
	if (t->node)
		munmap(t->node, t->max * sizeof(*t->node));
	free(t->bucket);
	free(t->names);
	pthread_mutex_destroy(&t->lock);
	free(t);
}

/* A node that a request uses is freed at the end of the request. */
void fs_nodes_reset(struct fs *fs)
{
	struct fs_nodes *t = fs->nodes;

	pthread_mutex_lock(&t->lock);
	/* Drop all names first: directories that the host has moved into each other refer to each other. */
	for (uint32_t i = ROOT + 1; i < t->top; i++) {
		t->node[i].nlookup = 0;
		node_drop_name(t, i);
	}
	for (uint32_t i = ROOT + 1; i < t->top; i++)
		node_free(t, i);
	pthread_mutex_unlock(&t->lock);
}

bool fs_node_deleted(struct fs *fs, uint64_t id, struct fuse_attr *attr)
{
	struct fs_nodes *t = fs->nodes;
	uint32_t index;

	pthread_mutex_lock(&t->lock);
	index = node_of(t, id);
	if (index)
		*attr = (struct fuse_attr){ .ino = t->node[index].ino, .mode = t->node[index].type };
	pthread_mutex_unlock(&t->lock);
	return index;
}

void fs_nodes_count(struct fs *fs, struct fs_stats *out)
{
	pthread_mutex_lock(&fs->nodes->lock);
	out->nodes = fs->nodes->count;
	out->fds = fs->nodes->nfds + fs->nodes->pinned;
	pthread_mutex_unlock(&fs->nodes->lock);
}

void fs_node_forget(struct fs *fs, uint64_t id, uint64_t count)
{
	struct fs_nodes *t = fs->nodes;
	uint32_t index;

	pthread_mutex_lock(&t->lock);
	index = node_of(t, id);
	if (index && index != ROOT) {
		struct node *n = &t->node[index];

		/* If the guest forgets more lookups than there were, it has forgotten all. */
		n->nlookup -= count < n->nlookup ? count : n->nlookup;
		node_free(t, index);
	}
	pthread_mutex_unlock(&t->lock);
}

/* What an answer says of a node, beside its attributes. */
struct entered {
	uint64_t id, valid; /* id 0: too many nodes, or no memory */
	bool submount, sole;
};

static void node_answer(struct fs *fs, const struct entered *e, const struct look *l, struct fuse_entry_out *out)
{
	memset(out, 0, sizeof(*out));
	out->nodeid = e->id;
	out->entry_valid = fs_timeout(fs);
	out->attr_valid = e->valid;
	fs_fill_attr(fs, &l->st, &out->attr);
	out->attr.ino = fs_node_ino(fs, e->id, l->st.stx_ino);
	/* Only for directories: for a file, Linux would invalidate the dentry at each revalidation. */
	if (e->submount && S_ISDIR(l->st.stx_mode))
		out->attr.flags = FUSE_ATTR_SUBMOUNT;
	else if (e->sole && S_ISREG(l->st.stx_mode))
		out->attr.flags = FS_ATTR_SOLE;
}

/*
 * Count a lookup of a node, which is added if index is 0. *path: a descriptor of the file (O_PATH), which the node may take
 * over; or -1, and the node keeps l->mark as its handle. Under the lock.
 */
static struct entered node_enter(struct fs *fs, struct look *l, uint32_t index, int *path)
{
	struct entered e = { .submount = l->domain != l->dir->domain };
	struct fs_nodes *t = fs->nodes;
	bool new = !index;
	struct node *n;

	if (new && node_fits(t, t->domain[l->domain].mount_fd < 0 ? l->name : NULL))
		index = node_add(fs, l->domain, &l->st);
	if (!index)
		return e;
	n = &t->node[index];
	n->nlookup++;
	if (t->domain[l->domain].mount_fd < 0 && l->name)
		node_set_name(t, index, l->dir->index, l->name);
	if (n->fd < 0 && *path >= 0) {
		node_set_fd(t, index, *path);
		*path = -1;
	} else if (n->fd < 0 && !n->handle_len && l->marked && node_keep(t, n, &l->mark)) {
		n->nlookup--;
		node_free(t, index);
		return e;
	}
	if (l->name)
		node_crossed(fs, l->dir, l->name, l->domain);
	/* A runtime binds it for a container, and the host writes it before the container starts: no time to rely on it. */
	if (new && e.submount && n->type == S_IFREG && fs->config.cache == FS_CACHE_AUTO)
		n->unopened = true;
	e.id = node_id(t, index);
	e.sole = t->domain[l->domain].sole;
	e.valid = node_tell(fs, index, &l->st);
	return e;
}

/*
 * Whether the guest probably knows the file. Then its attributes are enough to find the node; else the file is opened first.
 * Without file handles, a known file has its name in the table, except for further hard links.
 */
static bool node_may_be_known(struct fs *fs, const struct fs_ref *dir, const char *name, uint64_t hint)
{
	struct fs_nodes *t = fs->nodes;
	bool known;

	if (hint)
		return node_known(fs, dir->domain, hint);
	pthread_mutex_lock(&t->lock);
	known = t->domain[dir->domain].mount_fd >= 0 || node_named(t, dir->index, name);
	pthread_mutex_unlock(&t->lock);
	return known;
}

int fs_node_lookup(struct fs_req *r, const struct fs_ref *dir, const char *name, uint64_t hint, struct fuse_entry_out *out)
{
	struct look l = { .dir = dir, .name = name, .fd = -1 };
	struct fs_nodes *t = r->fs->nodes;
	uint32_t index = 0;
	struct entered e = { 0 };
	int err = 0, domain = 0;

	if (node_may_be_known(r->fs, dir, name, hint)) {
		index = look_named(r->fs, &l, &err);
		if (index)
			e = node_enter(r->fs, &l, index, &l.fd);
		pthread_mutex_unlock(&t->lock);
	}
	if (!err && !index && l.fd < 0) {
		l.fd = fs_open_beneath(dir->fd, name, O_PATH);
		err = l.fd < 0 ? l.fd : fs_statx(l.fd, "", &l.st);
	}
	if (!err && !index) {
		l.marked = false;
		domain = node_domain_get(r->fs, l.fd, &l.st);
		l.domain = (uint32_t)domain;
		err = domain < 0 ? domain : 0;
	}
	if (!err && !index) {
		pthread_mutex_lock(&t->lock);
		/* Another thread may have added it meanwhile. */
		e = node_enter(r->fs, &l, look_find(t, &l), &l.fd);
		node_domain_put(t, l.domain);
		pthread_mutex_unlock(&t->lock);
	}
	if (l.fd >= 0)
		close(l.fd);
	if (err)
		return err;
	if (!e.id)
		return -ENFILE;
	node_answer(r->fs, &e, &l, out);
	return 0;
}

int fs_node_enter(struct fs_req *r, const struct fs_ref *dir, const char *name, int fd, struct fuse_entry_out *out)
{
	struct look l = { .dir = dir, .name = name, .fd = fd, .made = true };
	struct fs_nodes *t = r->fs->nodes;
	int domain, path = -1, err = 0;
	struct entered e = { 0 };

	domain = fs_statx(fd, "", &l.st);
	if (!domain)
		domain = node_domain_get(r->fs, fd, &l.st);
	if (domain < 0)
		return domain;
	l.domain = (uint32_t)domain;
	l.marked = t->domain[domain].mount_fd >= 0 && !fs_handle_at(fd, "", 0, &l.mark);
	if (!l.marked) {
		path = fs_reopen(r->fs, fd, O_PATH);
		err = path < 0 ? path : 0;
	}
	pthread_mutex_lock(&t->lock);
	if (!err)
		e = node_enter(r->fs, &l, look_find(t, &l), &path);
	node_domain_put(t, l.domain);
	pthread_mutex_unlock(&t->lock);
	if (path >= 0)
		close(path);
	if (err || !e.id)
		return err ? err : -ENFILE;
	node_answer(r->fs, &e, &l, out);
	return 0;
}
