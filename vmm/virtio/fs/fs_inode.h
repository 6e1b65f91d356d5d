/* SPDX-License-Identifier: Apache-2.0 */
/* The table of nodes, between fs_inode.c (the table), fs_same.c (which of them a file is) and what requests do with it. */
#ifndef VMM_NATIVE_FS_INODE_H
#define VMM_NATIVE_FS_INODE_H

#include "fs/fs.h"

enum { ROOT = 1 };
/* How many directories are opened by name to get at one node. */
enum { NODE_DEPTH = 256 };
enum { NODE_BUCKETS = 1024 };

struct node {
	uint64_t ino, nlookup;
	uint32_t gen, hash_next;    /* hash_next: of a free node, the next free one */
	uint32_t name_next;         /* by parent and name */
	uint32_t lru_prev, lru_next;
	uint32_t users;             /* requests that work on it */
	uint32_t parent, kids;      /* only where there are no handles: found in; found by name in this */
	int fd;                     /* -1: closed */
	char *name;                 /* the same */
	uint16_t domain, type;
	bool used, hashed, linked;  /* linked: in the circle of those to be closed */
	uint8_t handle_len;         /* 0: not taken yet. A handle to open, or a mark (struct fs_domain) to compare */
	int32_t handle_type;
	union {
		uint8_t handle[FS_HANDLE_INLINE];
		uint8_t *long_handle;
	};
};

struct fs_nodes {
	pthread_mutex_t lock;
	struct node *node;          /* address space for max; never moves */
	uint32_t max, top, free, count;
	uint64_t bytes, max_bytes;  /* what all nodes take */
	uint32_t *bucket, *names, nbuckets; /* by number, by parent and name; a power of two */
	uint32_t nfds, max_fds, pinned; /* nfds: without those that are pinned */
	uint32_t ndomains;
	bool any_closed;            /* there is such a domain; read without the lock */
	struct fs_domain domain[FS_MAX_DOMAINS];
};

/* Everything under the lock, unless it says otherwise. */

/* The node that was found by name in parent; 0: none. */
uint32_t node_named(const struct fs_nodes *t, uint32_t parent, const char *name);
uint32_t *node_bucket(struct fs_nodes *t, uint32_t domain, uint64_t ino);
/* It has this number now. */
void node_renumber(struct fs_nodes *t, uint32_t index, uint32_t domain, uint64_t ino);
/* Is there memory left for a node with such a name (or NULL)? */
bool node_fits(const struct fs_nodes *t, const char *name);
/* There is one more. */
void node_count(struct fs_nodes *t);
/* Nodes below the top that are not used are free, and of the generation gen. */
void nodes_settle(struct fs_nodes *t, uint32_t gen);
/* 0: the guest knows too many. */
uint32_t node_add(struct fs *fs, uint32_t domain, const struct statx *st);
uint32_t node_of(struct fs_nodes *t, uint64_t id);
uint64_t node_id(const struct fs_nodes *t, uint32_t index);
/* For as long as a request works on it: fs_node_put(). */
void node_use(struct fs_nodes *t, uint32_t index, struct fs_ref *ref);
/* Give a node that is in use a descriptor, if need be by opening so many directories. Without the lock. */
int node_hold(struct fs *fs, struct fs_ref *ref, uint32_t depth);
void node_touch(struct fs_nodes *t, uint32_t index);
void node_unhash(struct fs_nodes *t, uint32_t index);
void node_free(struct fs_nodes *t, uint32_t index);
/* It has been opened; others may be closed for that. */
void node_set_fd(struct fs_nodes *t, uint32_t index, int fd);
/* No other node has that name any more. */
void node_set_name(struct fs_nodes *t, uint32_t index, uint32_t parent, const char *name);
void node_drop_name(struct fs_nodes *t, uint32_t index);
/* Remember how to open it again. */
int node_keep(struct fs_nodes *t, struct node *n, const struct fs_file_handle *h);
/* Not to be closed before it is forgotten. */
void node_pin(struct fs_nodes *t, uint32_t index);
int node_domain(const struct fs_nodes *t, const struct statx *st);
/* The lock not held. */
int node_domain_add(struct fs *fs, int fd, const struct statx *st);
bool node_known(struct fs *fs, uint32_t domain, uint64_t ino);

/* fs_same.c */

/* A file that somebody looks at, to find its node. */
struct look {
	const struct fs_ref *dir;
	const char *name;           /* NULL: it has none */
	int fd;                     /* of the file, or -1: not open */
	bool made;                  /* just now, by us */
	bool marked;                /* mark is its */
	uint32_t domain;
	struct statx st;
	struct fs_file_handle mark;
};

/* Under the lock; fd is open and domain is set. 0: the guest does not know it. */
uint32_t look_find(struct fs_nodes *t, struct look *l);
/* The same for dir and name alone. Without the lock; with it when it returns. *fd may be open afterwards. */
uint32_t look_named(struct fs *fs, struct look *l, int *err);
/* Is that node, found by this very name, the file? Under the lock; fd is open. */
bool look_is(struct fs_nodes *t, uint32_t index, struct look *l);
int node_domain_of(struct fs *fs, int fd, const struct statx *st);

#endif
