// SPDX-License-Identifier: Apache-2.0
/* Nodes come and go: looked up, counted, forgotten. */
#include "fs_inode.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { DEFAULT_NODES = 4 << 20, DEFAULT_FDS = 256, LEAST_NODES = 1 << 16 };

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
	t->nbuckets = NODE_BUCKETS;
	t->bucket = calloc(t->nbuckets, sizeof(*t->bucket));
	/* Where the host does not overcommit, address space is memory: then fewer. */
	for (;; t->max /= 2) {
		t->node = mmap(NULL, t->max * sizeof(*t->node), PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (t->node != MAP_FAILED || t->max < LEAST_NODES)
			break;
	}
	if (t->node == MAP_FAILED)
		t->node = NULL;
	if (!t->node || !t->bucket)
		return -ENOMEM;
	t->top = ROOT;
	err = fs_statx(fs->root_fd, "", &st);
	if (err)
		return err;
	if (!S_ISDIR(st.stx_mode))
		return -ENOTDIR;
	err = node_domain_add(fs, fs->root_fd, &st);
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
	if (t->node && t->bucket)
		fs_nodes_reset(fs);
	for (uint32_t i = 0; i < t->ndomains; i++)
		if (t->domain[i].mount_fd >= 0)
			close(t->domain[i].mount_fd);
	if (t->node)
		munmap(t->node, t->max * sizeof(*t->node));
	free(t->bucket);
	pthread_mutex_destroy(&t->lock);
	free(t);
}

/* A node in use by a request goes when that is over. */
void fs_nodes_reset(struct fs *fs)
{
	struct fs_nodes *t = fs->nodes;

	pthread_mutex_lock(&t->lock);
	for (uint32_t i = ROOT + 1; i < t->top; i++) {
		t->node[i].nlookup = 0;
		node_free(t, i);
	}
	pthread_mutex_unlock(&t->lock);
}

bool fs_node_deleted(struct fs *fs, uint64_t id, struct fuse_attr *attr)
{
	struct fs_nodes *t = fs->nodes;
	uint32_t index;

	pthread_mutex_lock(&t->lock);
	index = node_of(t, id);
	if (index && !t->node[index].handle_len)
		index = 0;
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

		/* A guest that forgets more than it was told has forgotten it all. */
		n->nlookup -= count < n->nlookup ? count : n->nlookup;
		node_free(t, index);
	}
	pthread_mutex_unlock(&t->lock);
}

static void node_answer(struct fs *fs, uint64_t id, bool submount, const struct statx *st, struct fuse_entry_out *out)
{
	memset(out, 0, sizeof(*out));
	out->nodeid = id;
	out->entry_valid = out->attr_valid = fs_timeout(fs);
	fs_fill_attr(fs, st, &out->attr);
	if (submount)
		out->attr.flags = FUSE_ATTR_SUBMOUNT;
}

/* The guest knows it already, if it does: count that. Returns its id or 0. */
static uint64_t node_again(struct fs *fs, const struct fs_ref *dir, const char *name, const struct statx *st, bool *submount)
{
	struct fs_nodes *t = fs->nodes;
	uint32_t index = 0;
	uint64_t id = 0;
	int domain;

	pthread_mutex_lock(&t->lock);
	domain = node_domain(t, st);
	if (domain >= 0)
		index = node_find(t, (uint32_t)domain, st);
	if (index) {
		t->node[index].nlookup++;
		id = node_id(t, index);
		*submount = domain != dir->domain;
		if (name && t->domain[domain].mount_fd < 0)
			node_set_name(t, index, dir->index, name);
	}
	pthread_mutex_unlock(&t->lock);
	return id;
}

static int node_domain_of(struct fs *fs, int fd, const struct statx *st)
{
	int domain;

	pthread_mutex_lock(&fs->nodes->lock);
	domain = node_domain(fs->nodes, st);
	pthread_mutex_unlock(&fs->nodes->lock);
	return domain >= 0 ? domain : node_domain_add(fs, fd, st);
}

/*
 * A file that the guest does not know yet, and that fd (O_PATH, taken over) stands for; or fd is -1 and h says where the
 * file is. Returns its id; 0: too many, or no memory.
 */
static uint64_t node_new(struct fs *fs, uint32_t domain, const struct fs_ref *dir, const char *name, int fd,
			 const struct fs_file_handle *h, const struct statx *st)
{
	struct fs_nodes *t = fs->nodes;
	uint32_t index;
	uint64_t id = 0;

	pthread_mutex_lock(&t->lock);
	/* Another thread may have been faster. */
	index = node_find(t, domain, st);
	if (!index)
		index = node_add(fs, domain, st);
	if (index) {
		struct node *n = &t->node[index];

		id = node_id(t, index);
		n->nlookup++;
		if (name && t->domain[domain].mount_fd < 0)
			node_set_name(t, index, dir->index, name);
		if (fd >= 0 && n->fd < 0) {
			node_set_fd(t, index, fd);
			fd = -1;
		}
		if (h && node_keep(n, h)) {
			n->nlookup--;
			node_free(t, index);
			id = 0;
		}
	}
	pthread_mutex_unlock(&t->lock);
	if (fd >= 0)
		close(fd);
	return id;
}

int fs_node_lookup(struct fs_req *r, const struct fs_ref *dir, const char *name, uint64_t hint, struct fuse_entry_out *out)
{
	struct fs *fs = r->fs;
	bool submount = false;
	struct statx st;
	uint64_t id = 0;
	int fd, err, domain;

	if (!hint || node_known(fs, dir->domain, hint)) {
		err = fs_statx(dir->fd, name, &st);
		if (err)
			return err;
		id = node_again(fs, dir, name, &st, &submount);
	}
	if (!id) {
		fd = fs_open_beneath(dir->fd, name, O_PATH);
		if (fd < 0)
			return fd;
		err = fs_statx(fd, "", &st);
		domain = err ? err : node_domain_of(fs, fd, &st);
		if (domain < 0) {
			close(fd);
			return domain;
		}
		submount = domain != dir->domain;
		id = node_new(fs, (uint32_t)domain, dir, name, fd, NULL, &st);
	}
	if (!id)
		return -ENFILE;
	node_answer(fs, id, submount, &st, out);
	return 0;
}

int fs_node_enter(struct fs_req *r, const struct fs_ref *dir, const char *name, int fd, struct fuse_entry_out *out)
{
	struct fs *fs = r->fs;
	struct fs_file_handle h;
	struct statx st;
	int domain, path = -1;
	uint64_t id;

	domain = fs_statx(fd, "", &st);
	if (!domain)
		domain = node_domain_of(fs, fd, &st);
	if (domain < 0)
		return domain;
	if (fs->nodes->domain[domain].mount_fd < 0 || fs_handle_of(fd, &h)) {
		path = fs_reopen(fs, fd, O_PATH);
		if (path < 0)
			return path;
	}
	id = node_new(fs, (uint32_t)domain, dir, name, path, path < 0 ? &h : NULL, &st);
	if (!id)
		return -ENFILE;
	node_answer(fs, id, domain != dir->domain, &st, out);
	return 0;
}
