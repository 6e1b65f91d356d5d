// SPDX-License-Identifier: Apache-2.0
/*
 * The table of nodes: files that the guest knows, by their ids. Decision 0009 has the reasons.
 *
 * An id is an index and a generation, never a pointer; an invalid one is ESTALE. A node has an open descriptor only if it was
 * used recently: when there are more than max_fds, the least recently used one is closed. Before that its file handle is
 * read, by which it is opened again. Where there are no file handles, a node has the directory and the name by which it was
 * last found; the file that has this name must be the same one (fs_same.c).
 *
 * One lock protects the table. No system call that may wait for a disk is made under it, except for close().
 */
#include "fs/fs_inode.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The memory of a node, with its part of the buckets. */
enum { NODE_COST = sizeof(struct node) + 4 * sizeof(uint32_t) };

/* The memory that the allocator takes for a name or a handle of len bytes. */
static uint64_t cost_of(size_t len)
{
	uint64_t cost = (len + sizeof(size_t) + 15) & ~15ull;

	return cost < 32 ? 32 : cost;
}

static bool cost_fits(const struct fs_nodes *t, uint64_t cost)
{
	return cost <= t->max_bytes && t->bytes <= t->max_bytes - cost;
}

bool node_fits(const struct fs_nodes *t, const char *name)
{
	return cost_fits(t, NODE_COST + (name ? cost_of(strlen(name) + 1) : 0));
}

uint64_t node_id(const struct fs_nodes *t, uint32_t index)
{
	return index == ROOT ? FUSE_ROOT_ID : (uint64_t)t->node[index].gen << 32 | index;
}

uint32_t *node_bucket(struct fs_nodes *t, uint32_t domain, uint64_t ino)
{
	uint64_t h = (ino ^ (uint64_t)domain << 48) * 0x9e3779b97f4a7c15u;

	return &t->bucket[(h >> 32) & (t->nbuckets - 1)];
}

static void hash_add(struct fs_nodes *t, uint32_t index)
{
	struct node *n = &t->node[index];
	uint32_t *b = node_bucket(t, n->domain, n->ino);

	n->hash_next = *b;
	*b = index;
	n->hashed = true;
}

void node_unhash(struct fs_nodes *t, uint32_t index)
{
	struct node *n = &t->node[index];
	uint32_t *at;

	if (!n->hashed)
		return;
	for (at = node_bucket(t, n->domain, n->ino); *at != index; at = &t->node[*at].hash_next)
		;
	*at = n->hash_next;
	n->hashed = false;
}

static uint32_t *name_bucket(const struct fs_nodes *t, uint32_t parent, const char *name)
{
	uint64_t h = parent;

	for (; *name; name++)
		h = (h ^ (uint8_t)*name) * 0x100000001b3u;
	h *= 0x9e3779b97f4a7c15u;
	return &t->names[(h >> 32) & (t->nbuckets - 1)];
}

static void name_add(struct fs_nodes *t, uint32_t index)
{
	struct node *n = &t->node[index];
	uint32_t *b = name_bucket(t, n->parent, n->name);

	n->name_next = *b;
	*b = index;
}

static void name_remove(struct fs_nodes *t, uint32_t index)
{
	struct node *n = &t->node[index];
	uint32_t *at;

	for (at = name_bucket(t, n->parent, n->name); *at != index; at = &t->node[*at].name_next)
		;
	*at = n->name_next;
	t->bytes -= cost_of(strlen(n->name) + 1);
	free(n->name);
	n->name = NULL;
}

uint32_t node_named(const struct fs_nodes *t, uint32_t parent, const char *name)
{
	uint32_t index = *name_bucket(t, parent, name);

	while (index && (t->node[index].parent != parent || strcmp(t->node[index].name, name)))
		index = t->node[index].name_next;
	return index;
}

void node_renumber(struct fs_nodes *t, uint32_t index, uint32_t domain, uint64_t ino)
{
	struct node *n = &t->node[index];

	if (n->hashed && n->domain == domain && n->ino == ino)
		return;
	node_unhash(t, index);
	t->domain[domain].users++;
	node_domain_put(t, n->domain);
	n->domain = (uint16_t)domain;
	n->ino = ino;
	hash_add(t, index);
}

/* Double the number of buckets. Without memory for that, their lists get longer. */
static void hash_grow(struct fs_nodes *t)
{
	uint32_t count = t->nbuckets * 2;
	uint32_t *bucket = calloc(count, sizeof(*bucket));
	uint32_t *names = calloc(count, sizeof(*names));

	if (!bucket || !names) {
		free(bucket);
		free(names);
		return;
	}
	free(t->bucket);
	free(t->names);
	t->bucket = bucket;
	t->names = names;
	t->nbuckets = count;
	for (uint32_t i = ROOT; i < t->top; i++) {
		if (t->node[i].hashed)
			hash_add(t, i);
		if (t->node[i].name)
			name_add(t, i);
	}
}

/* The LRU list is circular; its head is node 0, which is no file. */
static void lru_remove(struct fs_nodes *t, uint32_t index)
{
	struct node *n = &t->node[index];

	if (!n->linked)
		return;
	t->node[n->lru_prev].lru_next = n->lru_next;
	t->node[n->lru_next].lru_prev = n->lru_prev;
	n->linked = false;
}

void node_touch(struct fs_nodes *t, uint32_t index)
{
	struct node *n = &t->node[index];

	lru_remove(t, index);
	n->lru_next = t->node[0].lru_next;
	n->lru_prev = 0;
	t->node[n->lru_next].lru_prev = index;
	t->node[0].lru_next = index;
	n->linked = true;
}

int node_keep(struct fs_nodes *t, struct node *n, const struct fs_file_handle *h)
{
	if (n->handle_len)
		return 0;
	if (h->len > FS_HANDLE_INLINE) {
		n->long_handle = cost_fits(t, cost_of(h->len)) ? malloc(h->len) : NULL;
		if (!n->long_handle)
			return -ENOMEM;
		t->bytes += cost_of(h->len);
		memcpy(n->long_handle, h->bytes, h->len);
	} else {
		memcpy(n->handle, h->bytes, h->len);
	}
	n->handle_len = (uint8_t)h->len;
	n->handle_type = h->type;
	return 0;
}

void node_drop_mark(struct fs_nodes *t, struct node *n)
{
	if (n->handle_len > FS_HANDLE_INLINE) {
		t->bytes -= cost_of(n->handle_len);
		free(n->long_handle);
	}
	n->handle_len = 0;
}

static void node_close(struct fs_nodes *t, uint32_t index)
{
	struct node *n = &t->node[index];

	if (n->fd < 0)
		return;
	if (n->linked)
		t->nfds--;
	else
		t->pinned--;
	lru_remove(t, index);
	close(n->fd);
	n->fd = -1;
}

void node_pin(struct fs_nodes *t, uint32_t index)
{
	if (!t->node[index].linked || t->pinned >= t->max_fds)
		return;
	lru_remove(t, index);
	t->nfds--;
	t->pinned++;
}

/* Whether the node can be opened again after its descriptor is closed, and be recognized as the same file. */
static bool node_prepare_close(struct fs_nodes *t, struct node *n)
{
	const struct fs_domain *d = &t->domain[n->domain];
	struct fs_file_handle h;

	if (d->mount_fd < 0 && !n->name)
		return false;
	return d->mark < 0 || n->handle_len || (!fs_handle_at(n->fd, "", d->mark, &h) && !node_keep(t, n, &h));
}

static void node_evict(struct fs_nodes *t)
{
	uint32_t index = t->node[0].lru_prev;

	while (t->nfds > t->max_fds && index) {
		struct node *n = &t->node[index];
		uint32_t before = n->lru_prev;

		if (!n->users) {
			bool again = node_prepare_close(t, n);

			if (!again)
				node_pin(t, index);
			if (n->linked) {
				node_close(t, index);
				/* It cannot be found again: another file may have its inode number later. */
				if (!again)
					node_unhash(t, index);
			}
		}
		index = before;
	}
}

void node_set_fd(struct fs_nodes *t, uint32_t index, int fd)
{
	struct node *n = &t->node[index];

	n->fd = fd;
	n->users++;
	node_touch(t, index);
	t->nfds++;
	node_evict(t);
	n->users--;
}

void node_free(struct fs_nodes *t, uint32_t index)
{
	for (;;) {
		struct node *n = &t->node[index];
		uint32_t parent = n->parent;

		if (index == ROOT || n->nlookup || n->users || n->kids || !n->used)
			return;
		node_unhash(t, index);
		node_close(t, index);
		node_drop_mark(t, n);
		if (n->name)
			name_remove(t, index);
		node_domain_put(t, n->domain);
		told_forget(t, index);
		ino_forget(t, index);
		*n = (struct node){ .gen = n->gen + 1, .fd = -1, .hash_next = t->free };
		t->free = index;
		t->count--;
		t->bytes -= NODE_COST;
		if (!parent)
			return;
		t->node[parent].kids--;
		index = parent;
	}
}

void node_set_name(struct fs_nodes *t, uint32_t index, uint32_t parent, const char *name)
{
	struct node *n = &t->node[index];
	uint32_t holder;
	char *copy;

	if (index == ROOT || index == parent || (n->parent == parent && n->name && !strcmp(n->name, name)))
		return;
	copy = cost_fits(t, cost_of(strlen(name) + 1)) ? strdup(name) : NULL;
	if (!copy)
		return;
	t->bytes += cost_of(strlen(name) + 1);
	t->node[parent].kids++;
	holder = node_named(t, parent, name);
	if (holder)
		node_drop_name(t, holder);
	node_drop_name(t, index);
	n->name = copy;
	n->parent = parent;
	name_add(t, index);
}

void node_drop_name(struct fs_nodes *t, uint32_t index)
{
	struct node *n = &t->node[index];
	uint32_t parent = n->parent;

	if (!n->name)
		return;
	name_remove(t, index);
	n->parent = 0;
	t->node[parent].kids--;
	node_free(t, parent);
}

static uint16_t *domain_bucket(struct fs_nodes *t, const struct fs_domain *d)
{
	uint64_t h = (d->mnt_id ^ (uint64_t)d->minor << 40) * 0x9e3779b97f4a7c15u;

	return &t->domain_bucket[(h >> 32) % DOMAIN_BUCKETS];
}

static bool domain_is(const struct fs_domain *a, const struct fs_domain *b)
{
	return a->mnt_id == b->mnt_id && a->minor == b->minor && a->major == b->major;
}

uint32_t node_domain(const struct fs_nodes *t, const struct statx *st)
{
	const struct fs_domain wanted = {
		.mnt_id = st->stx_mnt_id, .major = st->stx_dev_major, .minor = st->stx_dev_minor,
	};
	uint32_t i = *domain_bucket((struct fs_nodes *)t, &wanted);

	while (i && !domain_is(&t->domain[i], &wanted))
		i = t->domain[i].next;
	return i;
}

/* Add it, without a user. 0: there are too many. */
static uint32_t domain_insert(struct fs_nodes *t, const struct fs_domain *d)
{
	uint16_t *bucket = domain_bucket(t, d);
	uint32_t i = t->domain_free;

	if (i)
		t->domain_free = t->domain[i].next;
	else if (t->domain_top < MAX_DOMAINS)
		i = t->domain_top++;
	else
		return 0;
	t->domain[i] = *d;
	t->domain[i].next = *bucket;
	*bucket = (uint16_t)i;
	if (d->closed)
		__atomic_store_n(&t->any_closed, true, __ATOMIC_RELAXED);
	return i;
}

void node_domain_put(struct fs_nodes *t, uint32_t domain)
{
	struct fs_domain *d = &t->domain[domain];
	uint16_t *at;

	/* Nodes of a saved share that were not found have none. */
	if (!domain || --d->users)
		return;
	for (at = domain_bucket(t, d); *at != domain; at = &t->domain[*at].next)
		;
	*at = d->next;
	if (d->mount_fd >= 0)
		close(d->mount_fd);
	*d = (struct fs_domain){ .mount_fd = -1, .next = t->domain_free };
	t->domain_free = (uint16_t)domain;
}

int node_domain_get(struct fs *fs, int fd, const struct statx *st)
{
	struct fs_nodes *t = fs->nodes;
	struct fs_domain d;
	uint32_t i;
	int err;

	pthread_mutex_lock(&t->lock);
	i = node_domain(t, st);
	if (i)
		t->domain[i].users++;
	pthread_mutex_unlock(&t->lock);
	if (i)
		return (int)i;
	/* Not under the lock, since this opens files. */
	err = fs_domain_init(fs, &d, fd, st);
	if (err)
		return err;
	pthread_mutex_lock(&t->lock);
	i = node_domain(t, st);
	if (!i) {
		i = domain_insert(t, &d);
		d.mount_fd = i ? -1 : d.mount_fd;
	}
	if (i)
		t->domain[i].users++;
	pthread_mutex_unlock(&t->lock);
	if (d.mount_fd >= 0)
		close(d.mount_fd);
	return i ? (int)i : -EMFILE;
}

void node_crossed(struct fs *fs, const struct fs_ref *dir, const char *name, uint32_t domain)
{
	/* Each time, since a mount may have got the number of one that has gone. */
	if (domain != dir->domain)
		fs->nodes->domain[domain].sole = !strcmp(name, fs->config.sole);
}

bool node_known(struct fs *fs, uint32_t domain, uint64_t ino)
{
	struct fs_nodes *t = fs->nodes;
	uint32_t index;

	pthread_mutex_lock(&t->lock);
	for (index = *node_bucket(t, domain, ino); index; index = t->node[index].hash_next)
		if (t->node[index].domain == domain && t->node[index].ino == ino)
			break;
	pthread_mutex_unlock(&t->lock);
	return index;
}

void node_count(struct fs_nodes *t)
{
	t->bytes += NODE_COST;
	if (++t->count > t->nbuckets)
		hash_grow(t);
}

void nodes_settle(struct fs_nodes *t, uint32_t gen)
{
	t->free = 0;
	for (uint32_t i = t->top - 1; i > ROOT; i--) {
		if (t->node[i].used)
			continue;
		t->node[i] = (struct node){ .gen = gen, .fd = -1, .hash_next = t->free };
		t->free = i;
	}
}

uint32_t node_add(struct fs *fs, uint32_t domain, const struct statx *st)
{
	struct fs_nodes *t = fs->nodes;
	uint32_t index = t->free;
	struct node *n;

	if (index)
		t->free = t->node[index].hash_next;
	else if (t->top < t->max)
		index = t->top++;
	else
		return 0;
	n = &t->node[index];
	*n = (struct node){
		.gen = n->gen ? n->gen : 1, /* so that no id is one of the reserved small numbers */
		.fd = -1,
		.used = true,
		.ino = st->stx_ino,
		.domain = (uint16_t)domain,
		.type = st->stx_mode & S_IFMT,
	};
	t->domain[domain].users++;
	node_count(t);
	hash_add(t, index);
	return index;
}

/* The index for an id; 0: there is no such node. Under the lock. */
uint32_t node_of(struct fs_nodes *t, uint64_t id)
{
	uint32_t index = (uint32_t)id;

	if (id == FUSE_ROOT_ID)
		return ROOT;
	if (index <= ROOT || index >= t->top || t->node[index].gen != id >> 32 || !t->node[index].nlookup)
		return 0;
	return index;
}
