/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio-fs: fs.c has the share and its queues, fs_op.c the table of requests and what they have in common, fs_reply.c
 * answers, fs_inode.c the nodes (files that the guest knows), fs_path.c descriptors for them, fs_handle.c open files,
 * fs_cred.c the user of a thread, and one file for each family of requests.
 */
#ifndef VMM_NATIVE_FS_H
#define VMM_NATIVE_FS_H

#include "dataplane/worker.h"

#include "base/native.h"

#include <linux/fuse.h>
#include <sys/stat.h>

/* ==== for Python ==== */

/* FS_RO: requests that write fail with EROFS. FS_WRITEBACK: the guest may cache written data. FS_ACL: POSIX ACLs.
 * FS_HANDLES: open nodes by file handle, if the host allows that; a process that may do so can open every file of the file
 * system. FS_NO_LOCKS: locks stay in the guest. FS_NO_MARKS: as on a host without file handles; for tests.
 * FS_OVERRIDE: only the guest checks permissions. */
enum { FS_RO = 1, FS_WRITEBACK = 2, FS_ACL = 4, FS_HANDLES = 8, FS_NO_LOCKS = 16, FS_NO_MARKS = 32,
       FS_OVERRIDE = 64 };
/* What the guest may cache: nothing; names and attributes for a second; everything. */
enum { FS_CACHE_NONE = 0, FS_CACHE_AUTO = 1, FS_CACHE_ALWAYS = 2 };
enum { FS_MAPS = 8, FS_OPS = 64, FS_BUCKETS = 20, FS_TEXT = 160 };

/* Maps count ids from `guest` on to those from `host` on. */
struct fs_map {
	uint32_t guest, host, count;
};

/* Of users, or of groups. */
struct fs_ids {
	uint32_t nmaps;       /* 0: ids are the same on both sides */
	uint32_t unmapped;    /* what the guest sees instead of an id that no map has */
	struct fs_map map[8];
};

struct fs_config {
	int root_fd;          /* the shared directory (may be O_PATH); fs_new() duplicates it */
	int proc_fd;          /* /proc/self/fd of this process, which fs_new() duplicates; -1: it opens it */
	uint32_t flags, cache;
	uint32_t max_fds;     /* the most open descriptors of nodes, at least 16; 0: 256, in pyvmm-fsd 2048 */
	uint32_t max_files;   /* the most open files and directories of the guest, and lock owners; 0: 4096 */
	uint32_t max_nodes;   /* the most nodes at a time; 0: 4 million */
	uint64_t node_bytes;  /* the most memory for nodes and their names; 0: 512 MiB */
	struct fs_ids users, groups;
	char sole[32];        /* a mount point of this name has files that only the guest changes; empty: none has */
	struct dax *dax;      /* NULL: no window */
	uint64_t dax_size;    /* the size of the window, or 0 */
};

struct fs_stats {
	uint64_t ops[64];             /* requests by opcode (FUSE_*); 0: those with unknown opcodes */
	uint64_t latency[64][20];     /* for each opcode, requests that took less than 512 << i ns; the last: any time */
	uint64_t errors;              /* requests that failed with an error other than ENOENT, ENODATA and ENOSYS */
	uint64_t read_bytes, write_bytes;
	uint64_t nodes, files, fds;   /* now: nodes, open files, descriptors of nodes */
};

struct fs;

/* A share, which all its queues have in common. NULL and *err = -errno. */
struct fs *fs_new(const struct fs_config *config, int *err);
/* Free it, after all workers. */
void fs_free(struct fs *fs);
/* The guest has reset the device: forget all nodes, open files and locks. No worker runs. */
void fs_reset(struct fs *fs);
/*
 * Save nodes and open files to the empty file fd, and restore them in a new share, which may have another directory. No
 * worker runs. Save: -EBUSY: some of them could not be restored; text (FS_TEXT bytes) lists them. Restore: *gone: how many
 * files do not exist any more; -EPROTO: the guest has negotiated features that are not offered; -EXDEV: it is another
 * directory, and the guest caches everything (FS_CACHE_ALWAYS); -ENFILE: too many nodes; -EINVAL: the file is not valid.
 */
int fs_save(struct fs *fs, int fd, char *text);
int fs_restore(struct fs *fs, int fd, uint32_t *gone);
/* Start the worker of one queue, high-priority or request. event_fd is signalled when the ring has an error. */
struct worker *fs_start(struct fs *fs, struct ring *ring, int kick_fd, struct irq *irq, int event_fd, int *err);
void fs_get_stats(struct fs *fs, struct fs_stats *out);
/*
 * For how many nanoseconds the guest may still rely on something that it was told of a file and that the host has changed
 * since (FS_CACHE_AUTO); 0: for none. What is told from now on is what the host has now. -errno: the host is out of memory.
 */
int64_t fs_stale(struct fs *fs);

/* ==== end ==== */

enum { FS_NAME_MAX = 255, FS_TARGET_MAX = 4095, FS_XATTR_MAX = 65536 };
/* The longest request, without the data of a WRITE; and the longest answer that is not put into guest memory directly. */
enum { FS_BUF_SIZE = 128 << 10 };
/* DAX_SLOT as a power of two. */
enum { FS_DAX_SHIFT = 21 };
/* Of fuse_attr.flags, for guest-kernel/virtiofs: the guest may read what it has of the file without opening it here. */
#define FS_ATTR_SOLE (1U << 31)
/* A feature of FUSE_INIT of our own: with this handle, READ opens the file, reads and closes it, in one request. */
#define FS_READ_BY_NODE (1ULL << 62)
#define FS_NO_FILE UINT64_MAX
/* Another one: an answer to WRITE ends with the attributes that the file has then. */
#define FS_WRITE_ATTR (1ULL << 61)
enum { FS_HANDLE_INLINE = 24 };
/* Results of a request's handler besides 0 and -errno: no answer is sent; the answer is sent later. */
enum { FS_NO_REPLY = 1, FS_PENDING = 2 };

struct fs_files;
struct fs_nodes;
struct fs_locks;

/* A program that the guest has opened to run it, as it was then. */
struct fs_program {
	uint64_t node; /* 0: none */
	uint64_t size;
	struct timespec modified, changed;
};
enum { FS_PROGRAMS = 64 };

struct fs {
	struct fs_config config;
	int root_fd, proc_fd;
	bool can_switch;       /* the process may act as the guest's users */
	uint32_t uid, gid;     /* of the process */
	/* The features that FUSE_INIT has negotiated; atomic. 0: no FUSE_INIT yet. */
	uint64_t features;
	struct fs_nodes *nodes;
	struct fs_files *files;
	struct fs_locks *locks;

	pthread_mutex_t programs_lock;
	struct fs_program programs[FS_PROGRAMS]; /* each at its node's number, whichever was the last there */

	pthread_mutex_t stats_lock; /* protects the two fields below */
	struct fs_queue *queues;
	struct fs_stats totals;     /* of queues that were freed */
};

/* A lock request that waits for the lock. Its chain stays in flight. */
struct fs_wait {
	struct fuse_in_header in;
	struct fuse_lk_in lk;
	uint64_t started;
	uint32_t head, nhdr;
	struct iovec hdr[sizeof(struct fuse_out_header)];
};
enum { FS_MAX_WAITS = 64 };

struct fs_queue {
	struct worker worker;
	struct fs *fs;
	struct fs_queue *next;
	bool entered;          /* the thread has called fs_thread_enter() */
	uint32_t umask;        /* of the thread */
	bool answered;         /* a request of this turn had an answer */
	bool answers;          /* a request of any turn */
	uint64_t caps;         /* the capabilities of the thread */
	uint8_t *buf, *out;    /* FS_BUF_SIZE each: the arguments of a request, and its answer */
	uint32_t nwaits;
	uint64_t wait_ns, waited_at, waits_gen; /* time between two tries; time and fs_locks.gen of the last one */
	struct fs_wait *wait;
	struct fs_stats stats;
	struct iovec iov[RING_MAX_SEGMENTS];
};

/* A request. All of it is a copy, except for the guest's buffers in in_iov and out_iov. */
struct fs_req {
	struct fs *fs;
	struct fs_queue *q;
	struct fuse_in_header in;
	uint32_t head;
	const void *arg;         /* the fixed part, in at least FS_BUF_SIZE bytes of memory */
	uint32_t arg_len;        /* length of the fixed part and of what follows, without extensions */
	const char *name[2];     /* checked; NULL: the request has none */
	uint32_t name_len[2];
	bool acting;             /* the thread acts as the guest's user: between fs_begin() and fs_end() */
	bool overriding;         /* it has CAP_DAC_OVERRIDE meanwhile: see fs_override() */
	bool has_supp;
	uint32_t supp;           /* a supplementary group of the guest's user, for new files */
	struct iovec *in_iov;    /* the data of a request (OP_DATA) */
	uint32_t in_n;
	uint64_t in_len;
	struct iovec *out_iov;   /* the buffers for the answer, behind its header */
	uint32_t out_n, nhdr;
	uint64_t out_room;
	uint64_t out_len;        /* how many bytes of them were written */
	struct iovec hdr[sizeof(struct fuse_out_header)];
};

typedef int (*fs_fn)(struct fs_req *r);

enum {
	OP_WRITES = 1,   /* it changes something: refused on a read-only share */
	OP_NAME = 2,     /* a name follows the fixed part */
	OP_NAMES = 4,    /* two names */
	OP_TARGET = 8,   /* a name, then the target of a symbolic link */
	OP_DATA = 16,    /* data follow, which are not copied */
	OP_QUIET = 32,   /* it has no answer */
	OP_FIRST = 64,   /* it may come before FUSE_INIT */
	OP_OPENS = 128,  /* the fixed part begins with flags of open(), which say whether it writes */
};

struct fs_op {
	fs_fn fn;
	uint16_t arg_min; /* bytes of the fixed part */
	uint16_t flags;
};

/* fs_reply.c */

/* Copy the payload of the answer to guest memory. -EINVAL: the guest's buffers are too small. */
int fs_reply(struct fs_req *r, const void *data, size_t len);
/* Write the header of the answer and push the chain. err: 0 or -errno; payload: its length without the header. */
void fs_finish(struct fs_queue *q, uint32_t head, const struct iovec *hdr, uint32_t nhdr, uint64_t unique, int err,
	       uint64_t payload);
void fs_account(struct fs_queue *q, uint32_t opcode, int err, uint64_t ns);

/* fs_op.c */

/* Open the file of a request's node to read it, as OPEN does: a descriptor, or -errno. */
int fs_open_to_read(struct fs_req *r);
/* Serve one chain: parse, do, answer. 0; FS_PENDING; or the latched error, if the chain has no room for an answer. */
int fs_handle(struct fs_queue *q, struct chain *chain);
/* Whether FUSE_INIT could have negotiated these. */
bool fs_features_are_offered(const struct fs *fs, uint64_t features);
static inline bool fs_has(const struct fs *fs, uint64_t feature)
{
	return __atomic_load_n(&fs->features, __ATOMIC_RELAXED) & feature;
}

/* fs_inode.c and others: nodes, the files that the guest knows, by their ids. */

/* A reference of a request to a node: neither the node nor its domain is freed, nor its descriptor closed. */
struct fs_ref {
	uint32_t index;
	int fd;                 /* O_PATH */
	uint16_t domain, type;  /* type: S_IFMT bits */
};

int fs_nodes_init(struct fs *fs);
void fs_nodes_free(struct fs *fs);
/* Free all nodes but the root. */
void fs_nodes_reset(struct fs *fs);
/* Get a reference, with an open descriptor. -ESTALE: there is no such node (any more). Not between fs_begin() and fs_end(). */
int fs_node_get(struct fs *fs, uint64_t id, struct fs_ref *ref);
void fs_node_put(struct fs *fs, struct fs_ref *ref);
/* The same, but the descriptor may be closed: ref->fd is -1 then. */
int fs_node_use(struct fs *fs, uint64_t id, struct fs_ref *ref);
/* Open the file, with flags of open(). If ref->fd is -1, not between fs_begin() and fs_end(). */
int fs_node_open(struct fs *fs, struct fs_ref *ref, int flags);
/* After -ESTALE: the known attributes of a node whose file was removed or renamed. False: there is no such node. */
bool fs_node_deleted(struct fs *fs, uint64_t id, struct fuse_attr *attr);
/* The numbers of nodes and of their descriptors. */
void fs_nodes_count(struct fs *fs, struct fs_stats *out);
void fs_node_forget(struct fs *fs, uint64_t id, uint64_t count);
/* Look up name in dir, count the lookup, and fill in the answer. hint: an inode number that it probably has, or 0. */
int fs_node_lookup(struct fs_req *r, const struct fs_ref *dir, const char *name, uint64_t hint, struct fuse_entry_out *out);
/* The same for a file that is open already, and stays open. name: NULL: it has none. */
int fs_node_enter(struct fs_req *r, const struct fs_ref *dir, const char *name, int fd, struct fuse_entry_out *out);
/*
 * For domains without file handles, whose nodes are opened by name. fs_node_named() returns a reference to the node of a
 * name; false: there is none, or it has a file handle. Before a name is removed or replaced, fs_node_keep() keeps the node's
 * descriptor open. Afterwards, fs_node_moved() or fs_node_unnamed() set its new name, or none.
 */
bool fs_node_named(struct fs *fs, const struct fs_ref *dir, const char *name, struct fs_ref *ref);
void fs_node_keep(struct fs *fs, struct fs_ref *ref, const struct fs_ref *dir, const char *name);
void fs_node_moved(struct fs *fs, const struct fs_ref *ref, const struct fs_ref *dir, const char *name);
void fs_node_unnamed(struct fs *fs, const struct fs_ref *ref, const struct fs_ref *dir, const char *name);

/* Whether the files of its domain must not be opened or changed (struct fs_domain). */
bool fs_node_closed(struct fs *fs, const struct fs_ref *ref);
/* The same, of a node by its id. */
bool fs_node_is_closed(struct fs *fs, uint64_t id);

/* fs_told.c: what the guest was told. */

/* The guest is told these attributes: for how many seconds it may rely on them. */
uint64_t fs_tell(struct fs *fs, uint64_t id, const struct statx *st);
/* The guest has changed the file itself. */
void fs_node_changed(struct fs *fs, uint64_t id);
/* The guest has opened the file. */
void fs_node_opened(struct fs *fs, const struct fs_ref *ref);

/*
 * fs_ino.c: the number of the inode that the guest is told. A file that it knew before the share was restored, in another
 * directory, keeps the number that it had: programs take a file with another number for another file.
 */
uint64_t fs_node_ino(struct fs *fs, uint64_t id, uint64_t ino);

/* fs_path.c: descriptors. */

/* A part of the tree in which an inode number identifies a file: a mount, or a subvolume in it. */
struct fs_domain {
	uint64_t mnt_id;        /* since Linux 6.8 no other mount ever gets it */
	uint32_t major, minor;
	uint32_t users;         /* its nodes, references to them, and requests that are about to add one */
	uint16_t next;          /* in its bucket; of a free one, the next free one; 0: none */
	int mount_fd;           /* for open_by_handle_at(); -1: files are not opened by handle */
	int mark;               /* flags of name_to_handle_at() for a mark, which identifies a file; -1: there are none */
	bool renumbers;         /* a file may get another inode or device number while it exists (overlayfs, FUSE) */
	bool closed;            /* no file is opened or changed: they are interfaces of the host's kernel */
	bool sole;              /* only the guest changes its files (struct fs_config) */
};

struct fs_file_handle {
	uint32_t len;
	int32_t type;
	uint8_t bytes[128];
};

#ifndef STATX_MNT_ID_UNIQUE
#define STATX_MNT_ID_UNIQUE 0x4000U
#endif
enum { FS_STATX_MASK = STATX_BASIC_STATS | STATX_BTIME | STATX_MNT_ID | STATX_MNT_ID_UNIQUE };

/* A decimal number, for names in proc_fd. */
struct fs_fd_name {
	char text[12];
};
struct fs_fd_name fs_fd_name(int fd);
/* Open one component of a path in dir, without following a link. */
int fs_open_beneath(int dir, const char *name, uint64_t flags);
/* Open the file of a descriptor again, with other flags. */
int fs_reopen(const struct fs *fs, int fd, int flags);
/* The attributes of name in fd; of fd itself, if name is empty. */
int fs_statx(int fd, const char *name, struct statx *st);
/* Zeros for a table that is as large as it may ever get, and has pages where it is used; NULL: there are none. */
void *fs_table(uint64_t size);
/* The handle of name in fd; of fd itself, if name is empty. flags: of name_to_handle_at(). */
int fs_handle_at(int fd, const char *name, int flags, struct fs_file_handle *h);
int fs_handle_open(int mount_fd, const struct fs_file_handle *h, int flags);
int fs_domain_init(const struct fs *fs, struct fs_domain *d, int fd, const struct statx *st);

/* fs_handle.c: files that the guest has open. */

/* FS_GONE: it was open when the share was saved, and its file is not there any more. */
enum fs_kind { FS_FREE, FS_REGULAR, FS_DIRECTORY, FS_GONE };

struct fs_dir;

enum { FS_DIR_BUF_SIZE = 8 << 10 };

/* Entries of an open directory that were read ahead: the guest reads one page at a time. */
struct fs_dir {
	pthread_mutex_t lock;
	uint64_t off;     /* the offset of the entry at `at` */
	uint32_t at, len;
	uint8_t buf[FS_DIR_BUF_SIZE] __attribute__((aligned(8)));
};

struct fs_file {
	int fd;
	uint32_t gen, users, next_free;
	uint8_t kind;
	bool closing;
	bool locked;      /* by flock() */
	uint32_t lock_pid; /* of the process in the guest that did */
	uint64_t node;    /* the id of its node */
	struct fs_dir *dir;
};

int fs_files_init(struct fs *fs);
uint32_t fs_files_count(struct fs *fs);
void fs_files_free(struct fs *fs);
void fs_files_reset(struct fs *fs);
/* Owns fd from now on; closes it if it fails. */
int fs_file_new(struct fs *fs, enum fs_kind kind, int fd, uint64_t node, uint64_t *fh);
/* Get an open file, which stays open until fs_file_put(). NULL: not open, or not of that kind (FS_FREE: any). */
struct fs_file *fs_file_get(struct fs *fs, uint64_t fh, enum fs_kind kind);
void fs_file_put(struct fs *fs, struct fs_file *file);
/* What fs_file_get() returned NULL for: -ESTALE: its file has gone; -EBADF: it is not open, or of another kind. */
int fs_file_error(struct fs *fs, uint64_t fh);
/* -EBADF: it was not open. */
int fs_file_close(struct fs *fs, uint64_t fh, enum fs_kind kind);
/*
 * For fs_state.c, while no worker runs. fs_file_next(): the next open file behind *index; NULL: there is none.
 * fs_files_limits(): an index and a generation that no file has had. fs_file_restore(): add a file with the index and the
 * generation that it had; owns fd, which is -1 for FS_GONE. fs_files_settle(): afterwards, make the unused indices free.
 */
const struct fs_file *fs_file_next(struct fs *fs, uint32_t *index);
void fs_files_limits(struct fs *fs, uint32_t *top, uint32_t *gen);
int fs_file_restore(struct fs *fs, uint32_t index, uint32_t gen, enum fs_kind kind, int fd, uint64_t node);
int fs_files_settle(struct fs *fs, uint32_t top, uint32_t gen);

/* fs_cred.c: the user of a thread. */

/* Whether this thread can act as other users. */
bool fs_can_switch(void);
/* Called first by a worker's thread: gives it a working directory, a umask and capabilities of its own. 0 or -errno. */
int fs_thread_enter(struct fs_queue *q);
/* Act as the guest's user, to make a file. If it succeeds, fs_end() must follow. */
int fs_begin(struct fs_req *r, uint32_t umask);
void fs_end(struct fs_req *r);
/*
 * With FS_OVERRIDE, whether to try again, with CAP_DAC_OVERRIDE: the host has refused what the guest's kernel, which has
 * checked permissions, allows. That happens for root of a user namespace in the guest: FUSE requests do not have its
 * capabilities.
 */
bool fs_override(struct fs_req *r, int err);
/* Whether the kernel clears set-user-id and set-group-id bits, as it does for ordinary users. */
void fs_kill_priv(struct fs_queue *q, bool on);
/* -EINVAL: no map has the id. UINT32_MAX (no id) is not changed. */
int fs_id_to_host(const struct fs_ids *ids, uint32_t guest, uint32_t *host);
uint32_t fs_id_to_guest(const struct fs_ids *ids, uint32_t host);

/* fs_reply.c: attributes for an answer, and for how many seconds the guest may cache them. */

/* The caller sets the number of the inode, if fs_node_ino() has another one. */
/* The attributes of the file of a request, for its answer. -errno. */
int fs_get_attr(struct fs_req *r, int fd, struct fuse_attr_out *out);
void fs_fill_attr(const struct fs *fs, const struct statx *st, struct fuse_attr *attr);
uint64_t fs_timeout(const struct fs *fs);

/* fs_lock.c */

int fs_locks_init(struct fs *fs);
void fs_locks_free(struct fs *fs);
void fs_locks_reset(struct fs *fs);
/*
 * While no worker runs: the next one who has locks of fcntl(), from *index on, which is 0 first: a descriptor of the file and
 * a process in the guest. Those of flock() are in struct fs_file.
 */
bool fs_lock_next(struct fs *fs, uint32_t *index, int *fd, uint32_t *pid);
/* The owner has closed the file: release its POSIX locks. */
void fs_locks_drop(struct fs *fs, uint64_t node, uint64_t owner);
/* An open file was closed: release all its locks. */
void fs_locks_release(struct fs *fs, uint64_t fh);
/* Try waiting lock requests again. Returns how many were answered. */
int fs_waits_run(struct fs_queue *q);
void fs_waits_sleep(struct fs_queue *q);
/* Answer all waiting lock requests with err. */
void fs_waits_cancel(struct fs_queue *q, int err);

/* The handlers of requests. Each returns 0, -errno, FS_NO_REPLY or FS_PENDING. */
int fs_op_init(struct fs_req *r);
int fs_op_destroy(struct fs_req *r);
int fs_op_lookup(struct fs_req *r);
int fs_op_forget(struct fs_req *r);
int fs_op_batch_forget(struct fs_req *r);
int fs_op_getattr(struct fs_req *r);
int fs_op_setattr(struct fs_req *r);
int fs_op_statx(struct fs_req *r);
int fs_op_access(struct fs_req *r);
int fs_op_statfs(struct fs_req *r);
int fs_op_readlink(struct fs_req *r);
int fs_op_symlink(struct fs_req *r);
int fs_op_mknod(struct fs_req *r);
int fs_op_mkdir(struct fs_req *r);
int fs_op_unlink(struct fs_req *r);
int fs_op_rmdir(struct fs_req *r);
int fs_op_rename(struct fs_req *r);
int fs_op_rename2(struct fs_req *r);
int fs_op_link(struct fs_req *r);
int fs_op_open(struct fs_req *r);
int fs_op_create(struct fs_req *r);
int fs_op_tmpfile(struct fs_req *r);
int fs_op_flush(struct fs_req *r);
int fs_op_release(struct fs_req *r);
int fs_op_read(struct fs_req *r);
int fs_op_write(struct fs_req *r);
int fs_op_fsync(struct fs_req *r);
int fs_op_lseek(struct fs_req *r);
int fs_op_fallocate(struct fs_req *r);
int fs_op_copy_file_range(struct fs_req *r);
int fs_op_syncfs(struct fs_req *r);
int fs_op_opendir(struct fs_req *r);
int fs_op_readdir(struct fs_req *r);
int fs_op_readdirplus(struct fs_req *r);
int fs_op_releasedir(struct fs_req *r);
int fs_op_fsyncdir(struct fs_req *r);
int fs_op_setxattr(struct fs_req *r);
int fs_op_getxattr(struct fs_req *r);
int fs_op_listxattr(struct fs_req *r);
int fs_op_removexattr(struct fs_req *r);
int fs_op_getlk(struct fs_req *r);
int fs_op_setlk(struct fs_req *r);
int fs_op_setlkw(struct fs_req *r);
int fs_op_interrupt(struct fs_req *r);
int fs_op_setupmapping(struct fs_req *r);
int fs_op_removemapping(struct fs_req *r);

/* fs.c */

extern const struct worker_ops fs_worker_ops;
struct fs_queue *fs_queue_new(struct fs *fs);

#endif
