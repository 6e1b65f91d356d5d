/* SPDX-License-Identifier: Apache-2.0 */
/* The table of nodes: fs_inode.c has the table, fs_same.c finds the node of a file, other files use it for requests. */
#ifndef VMM_NATIVE_FS_INODE_H
#define VMM_NATIVE_FS_INODE_H

#include "fs/fs.h"

enum { ROOT = 1 };
/* The most directories that are opened by name to reach one node. */
enum { NODE_DEPTH = 256 };
enum { NODE_BUCKETS = 1024 };
/* The most domains that have nodes at a time; their numbers have 16 bits, and 0 is none. */
enum { MAX_DOMAINS = 1 << 16, DOMAIN_BUCKETS = 1024 };

struct node {
	uint64_t ino, nlookup;
	uint32_t gen, hash_next;    /* hash_next: of a free node, the next free one */
	uint32_t name_next;         /* in the bucket of parent and name */
	uint32_t lru_prev, lru_next;
	uint32_t users;             /* how many requests use it */
	uint32_t parent, kids;      /* without file handles: its directory; how many nodes have this one as parent */
	int fd;                     /* -1: closed */
	uint32_t told;              /* its record in fs_told.c; atomic; 0: none */
	char *name;                 /* without file handles: its name in parent, or NULL */
	uint16_t domain, type;
	bool used, hashed, linked;  /* linked: in the LRU list */
	bool unopened;              /* a file that is a mount point, and that the guest has not opened yet */
	uint8_t handle_len;         /* of a handle to open it by, or a mark (struct fs_domain) to compare; 0: not read yet */
	int32_t handle_type;
	union {
		uint8_t handle[FS_HANDLE_INLINE];
		uint8_t *long_handle;
	};
};

struct fs_nodes {
	pthread_mutex_t lock;
	struct node *node;          /* address space for max nodes; never moved */
	uint32_t max, top, free, count;
	uint64_t bytes, max_bytes;  /* memory of all nodes */
	uint32_t *bucket, *names, nbuckets; /* by inode number; by parent and name; a power of two */
	uint32_t nfds, max_fds, pinned; /* open descriptors: not pinned, the most of these, pinned */
	bool any_closed;            /* a domain is or was closed; read without the lock */
	struct fs_domain *domain;   /* address space for MAX_DOMAINS; never moved */
	uint32_t domain_top;
	uint16_t domain_free, domain_bucket[DOMAIN_BUCKETS];
	struct fs_told *told;
	struct inos *inos;          /* numbers of inodes that are told in place of the right ones; NULL: none are */
};

/* These functions are called with the lock held, unless they say otherwise. */

/* The node with this parent and name; 0: none. */
uint32_t node_named(const struct fs_nodes *t, uint32_t parent, const char *name);
uint32_t *node_bucket(struct fs_nodes *t, uint32_t domain, uint64_t ino);
/* Set the domain and the inode number of a node. */
void node_renumber(struct fs_nodes *t, uint32_t index, uint32_t domain, uint64_t ino);
/* Whether the limit on memory allows a node with this name (or NULL). */
bool node_fits(const struct fs_nodes *t, const char *name);
/* Count a new node. */
void node_count(struct fs_nodes *t);
/* Make the unused nodes below the top free, with the generation gen. */
void nodes_settle(struct fs_nodes *t, uint32_t gen);
/* Add a node; 0: there are too many. */
uint32_t node_add(struct fs *fs, uint32_t domain, const struct statx *st);
uint32_t node_of(struct fs_nodes *t, uint64_t id);
uint64_t node_id(const struct fs_nodes *t, uint32_t index);
/* Make a reference, until fs_node_put(). */
void node_use(struct fs_nodes *t, uint32_t index, struct fs_ref *ref);
/* Open the descriptor of a node that is in use, opening up to `depth` directories. Without the lock. */
int node_hold(struct fs *fs, struct fs_ref *ref, uint32_t depth);
void node_touch(struct fs_nodes *t, uint32_t index);
void node_unhash(struct fs_nodes *t, uint32_t index);
void node_free(struct fs_nodes *t, uint32_t index);
/* Set its descriptor; that of another node may be closed. */
void node_set_fd(struct fs_nodes *t, uint32_t index, int fd);
/* Set its name, which another node loses. */
void node_set_name(struct fs_nodes *t, uint32_t index, uint32_t parent, const char *name);
void node_drop_name(struct fs_nodes *t, uint32_t index);
/* Keep its handle or mark. 0 or -ENOMEM. */
int node_keep(struct fs_nodes *t, struct node *n, const struct fs_file_handle *h);
/* Forget that. */
void node_drop_mark(struct fs_nodes *t, struct node *n);
/* Do not close its descriptor until the guest has forgotten it. */
void node_pin(struct fs_nodes *t, uint32_t index);
/* Its domain, and 0 where there is none yet. */
uint32_t node_domain(const struct fs_nodes *t, const struct statx *st);
/* One user less; without any, the domain is freed. */
void node_domain_put(struct fs_nodes *t, uint32_t domain);
/* These two are called without the lock. */
/* The domain of an open file with one user more, which is added if need be; or -errno. */
int node_domain_get(struct fs *fs, int fd, const struct statx *st);
bool node_known(struct fs *fs, uint32_t domain, uint64_t ino);
/* A name in dir was found to be a file of this domain: another one is a mount, of that name. Under the lock. */
void node_crossed(struct fs *fs, const struct fs_ref *dir, const char *name, uint32_t domain);

/* fs_told.c */

int told_init(struct fs_nodes *t);
void told_free(struct fs_nodes *t);
/* The node is freed. */
void told_forget(struct fs_nodes *t, uint32_t index);
/* The guest is told these attributes: for how many seconds it may rely on them. */
uint64_t node_tell(struct fs *fs, uint32_t index, const struct statx *st);
/* The guest has changed the file itself. */
void node_changed(struct fs_nodes *t, uint32_t index);
/* A file of this domain was told of which nobody remembers. */
void told_lost(struct fs *fs, uint32_t domain);

/* What the guest was told of a file, and relies on at the time of a snapshot; this is its form in one. */
struct told {
	uint64_t own, sum, ctime; /* as in struct record */
	uint32_t index, pad;
};
enum { TOLD_MAX = 4096 }; /* so many records are there */

/* Into list: what was told lately. Their number, or -1: not all of it has a record. The guest is paused. */
int fs_told_list(struct fs *fs, struct told *list);
/* The guest of a restored share was told that, of a node that it has. Before there are requests. */
void told_again(struct fs *fs, const struct told *one);

/* fs_ino.c */

/* Make room for so many nodes that keep their numbers, in place of those that were; before there are requests. */
int inos_init(struct fs_nodes *t, uint32_t count);
void inos_free(struct fs_nodes *t);
/* The guest knows the node by this number; 0: by the host's. */
void ino_keep(struct fs_nodes *t, uint32_t index, uint64_t ino);
/* The file of that node was found, and has this number on the host. */
void ino_settle(struct fs_nodes *t, uint32_t index, uint64_t ino);
/* All were found that are there. */
void inos_settle(struct fs_nodes *t);
/* The number that the guest is told of a node, whose number on the host is ino. */
uint64_t ino_told(const struct fs_nodes *t, uint32_t index, uint64_t ino);
/* The node is freed. */
void ino_forget(struct fs_nodes *t, uint32_t index);

/* fs_same.c */

/* A file whose node is to be found. */
struct look {
	const struct fs_ref *dir;
	const char *name;           /* NULL: it has none */
	int fd;                     /* of the file; -1: not open */
	bool made;                  /* this request has made the file */
	bool marked;                /* `mark` is set */
	uint32_t domain;
	struct statx st;
	struct fs_file_handle mark;
};

/* The node of the file, whose fd is open and whose domain is set; 0: none. Under the lock. */
uint32_t look_find(struct fs_nodes *t, struct look *l);
/* The same, if only dir and name are set. It takes the lock and returns with it held. l->fd may be open afterwards. */
uint32_t look_named(struct fs *fs, struct look *l, int *err);
/* Whether the node, which has this name, is the file, whose fd is open. Under the lock. */
bool look_is(struct fs_nodes *t, uint32_t index, struct look *l);
#endif
