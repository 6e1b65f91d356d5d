/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A directory of the host as a file system: FUSE over virtio-fs.
 *
 * If no other program changes the directory meanwhile, names, attributes, targets of links, entries and pages stay valid
 * until the sandbox changes them itself.  Of a directory that is shared with programs of the host, they are valid for a second,
 * and until the host starts a process: that sees what the host has written before.
 * Writes go to the server at once.  Pages that programs change through shared mappings are written when the file is
 * synchronized or no longer used.
 */
#ifndef SENTRY_FUSE_H
#define SENTRY_FUSE_H

#include "../virtio/virtio.h"
#include "../vfs/caller.h"
#include "protocol.h"

enum { FUSE_TAG = 36, FUSE_IO_PAGES = 32 };

/* A server, and what is known of its files. */
struct fuse {
	struct virtqueue *requests; /* also for what needs no answer: another queue would wake another thread of the server */
	struct wait_queue room; /* in the queue of requests */
	struct wait_queue settled; /* woken when core.unsettled becomes 0 */
	u32 sleepers; /* tasks that wait for an answer, for room, or for settled */
	char tag[FUSE_TAG + 1];
	u64 unique;
	struct table nodes; /* by their id */
	struct list recent; /* nodes with pages, those used last at the end */
	u64 pages, most_pages;
	struct list listings; /* that are kept, those used last at the end */
	u64 listing_bytes, most_listing_bytes; /* of those that are kept or read */
	bool growing; /* a tree of pages is changing */
	bool reads_by_node, tells_writes; /* FUSE_READ_BY_NODE, FUSE_WRITE_ATTR */
	bool shared; /* programs of the host change files, too: what is known of them holds for a second */
	u64 refreshed; /* when fuse_refresh() was called last */
	u64 syncs; /* started so far */
	bool held; /* there are requests of which the server does not know yet */
	struct super *super;
};

/* What a file has open at the server; a handle may be 0. */
struct fuse_handle {
	bool open;
	u64 number;
	u32 flags; /* FUSE_OPEN_* */
};

struct fuse_node {
	struct table_entry by_id;
	struct inode *inode; /* which owns this */
	u64 id, lookups;
	bool stale;   /* the server has newer attributes */
	u64 stale_at; /* from this time on, if it is not 0 */
	struct timespec version; /* when the content changed, as the server reported last */
	bool rewritten; /* by this sandbox: the server has not reported the version that came of it */
	u64 changes; /* how often a change of the content has begun or ended */
	struct fuse_handle reader, writer;
	bool made;	/* by this sandbox */
	int error;	/* of a change that nobody has waited for */
	struct tree pages, dirty;
	u64 synced; /* the number of the last sync that flushed it */
	u64 page_count, next_index, window; /* where a sequential read goes on, and how far it looked ahead */
	struct list recent;
	char *target; /* of a link */
	struct listing *listing; /* of a directory: its entries, if they are known */
};

/* A request: arguments, names, data; and the answer. */
struct fuse_call {
	u32 opcode;
	u64 node;
	const void *arguments;
	u32 arguments_size;
	const char *names[2];
	const void *data;
	u32 data_size;
	void *answer;
	u32 answer_size; /* at most; fuse_call() returns how many bytes came */
	const struct segment *pages; /* data of a write, behind the rest; or of a read, behind the answer */
	u32 page_count;
};

/* -- request.c -- */

s64 fuse_call(struct fuse *fuse, const struct fuse_call *call); /* -errno */
/* Without waiting for an answer: later requests come after it. An error becomes that of the node. false: no memory. */
bool fuse_post(struct fuse *fuse, const struct fuse_call *call);
void fuse_push(struct fuse *fuse); /* tell the server of what was posted */
void fuse_begin_sleep(struct fuse *fuse); /* from now on, the device interrupts for answers; what came before is handled */
void fuse_end_sleep(struct fuse *fuse);
void fuse_used(struct virtqueue *queue);
int fuse_init(struct fuse *fuse);

/* -- node.c -- */

extern const struct inode_operations fuse_directory_operations, fuse_file_inode_operations, fuse_link_operations;
extern const struct inode_operations fuse_special_operations;
extern const struct file_operations fuse_file_operations, fuse_directory_file_operations;

struct fuse *fuse_of(const struct inode *inode);
struct fuse_node *fuse_node_of(const struct inode *inode);
/* The inode of an answer, with a reference; counts the lookup. NULL: no memory. */
struct inode *fuse_inode(struct fuse *fuse, const struct fuse_entry *entry);
void fuse_apply(struct inode *inode, const struct fuse_attr *attr);
void fuse_failed(struct fuse *fuse, u64 node, int error); /* a change of its attributes */
int fuse_getattr(struct inode *inode);
bool fuse_is_stale(const struct inode *inode); /* its attributes are to be requested again */
bool fuse_may_differ(const struct inode *inode); /* the host may have changed it since they were */
int fuse_revalidate(struct dentry *dentry);
int fuse_setattr(struct inode *inode, const struct attributes *new);
void fuse_evict(struct inode *inode);
int fuse_open_handle(struct inode *inode, struct fuse_handle *handle, u32 flags);
void fuse_close_handle(struct inode *inode, struct fuse_handle *handle, u32 opcode);

s64 fuse_getxattr(struct inode *inode, const char *name, void *value, u64 size);
int fuse_setxattr(struct inode *inode, const char *name, const void *value, u64 size, u32 flags);
s64 fuse_listxattr(struct inode *inode, char *names, u64 size);
int fuse_removexattr(struct inode *inode, const char *name);
#define FUSE_ATTRIBUTES .getattr = fuse_getattr, .setattr = fuse_setattr, .getxattr = fuse_getxattr, \
			.setxattr = fuse_setxattr, .listxattr = fuse_listxattr, .removexattr = fuse_removexattr

/* -- listing.c -- */

int fuse_open_directory(struct inode *inode, struct file *file);
void fuse_forget_entries(struct inode *directory); /* they change */
bool fuse_reclaim_listing(struct fuse *fuse); /* free the entries of a directory; false: none are kept */

/* -- pages.c -- */

int fuse_flush(struct inode *inode); /* write the pages that are dirty */
bool fuse_reclaim(void); /* free some pages that can be read again; false: there are none */
void fuse_cut(struct inode *inode, u64 from, u64 end); /* forget content that the server has changed */

/* -- mount.c -- */

extern struct fuse *fuse_root; /* the file system of the host; NULL: there is none */
const char *fuse_mount_root(void); /* NULL, or why it cannot be */
void fuse_refresh(void); /* from now on, what the host wrote before is seen */
struct super *fuse_super(void); /* where it is not the root: a reference; NULL: there is none, or it cannot be used */

#endif
