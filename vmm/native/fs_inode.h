/* SPDX-License-Identifier: Apache-2.0 */
/* The table of nodes, between fs_inode.c (the table) and fs_node.c (what requests do with it). */
#ifndef VMM_NATIVE_FS_INODE_H
#define VMM_NATIVE_FS_INODE_H

#include "fs.h"

enum { ROOT = 1 };
/* How many directories are opened by name to get at one node. */
enum { NODE_DEPTH = 256 };
enum { NODE_BUCKETS = 1024 };

struct node {
	uint64_t ino, nlookup;
	int64_t btime;              /* ns, 0: not known */
	uint32_t gen, hash_next;    /* hash_next: of a free node, the next free one */
	uint32_t lru_prev, lru_next;
	uint32_t users;             /* requests that work on it */
	uint32_t parent, kids;      /* only where there are no handles: found in; found by name in this */
	int fd;                     /* -1: closed */
	char *name;                 /* the same */
	uint16_t domain, type;
	bool used, hashed, linked;  /* linked: in the circle of those to be closed */
	uint8_t handle_len;         /* 0: not taken yet */
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
	uint32_t *bucket, nbuckets; /* a power of two */
	uint32_t nfds, max_fds, pinned; /* nfds: without those that are pinned */
	uint32_t ndomains;
	struct fs_domain domain[FS_MAX_DOMAINS];
};

/* Everything under the lock, unless it says otherwise. */

bool node_is(const struct node *n, const struct statx *st);
uint32_t node_find(struct fs_nodes *t, uint32_t domain, const struct statx *st);
/* 0: the guest knows too many. */
uint32_t node_add(struct fs *fs, uint32_t domain, const struct statx *st);
uint32_t node_of(struct fs_nodes *t, uint64_t id);
uint64_t node_id(const struct fs_nodes *t, uint32_t index);
void node_touch(struct fs_nodes *t, uint32_t index);
void node_unhash(struct fs_nodes *t, uint32_t index);
void node_free(struct fs_nodes *t, uint32_t index);
/* It has been opened; others may be closed for that. */
void node_set_fd(struct fs_nodes *t, uint32_t index, int fd);
void node_set_name(struct fs_nodes *t, uint32_t index, uint32_t parent, const char *name);
/* Remember how to open it again. */
int node_keep(struct node *n, const struct fs_file_handle *h);
/* Not to be closed before it is forgotten. */
void node_pin(struct fs_nodes *t, uint32_t index);
int node_domain(const struct fs_nodes *t, const struct statx *st);
/* The lock not held. */
int node_domain_add(struct fs *fs, int fd, const struct statx *st);
bool node_known(struct fs *fs, uint32_t domain, uint64_t ino);

#endif
