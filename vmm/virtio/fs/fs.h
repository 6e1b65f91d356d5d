/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio-fs, between its files: fs.c (the share, its queues), fs_op.c (the table of requests, what they all have in
 * common), fs_reply.c (answers), fs_inode.c (the files that the guest knows), fs_path.c (from those to descriptors), fs_handle.c (what it has
 * open), fs_cred.c (who we are for the host's kernel), and one file per family of requests.
 */
#ifndef VMM_NATIVE_FS_H
#define VMM_NATIVE_FS_H

#include "dataplane/worker.h"

#include "base/native.h"

#include <linux/fuse.h>
#include <sys/stat.h>

/* ==== for Python ==== */

/* FS_RO: every request that writes gets EROFS. FS_WRITEBACK: the guest may hold written data back. FS_ACL: POSIX ACLs.
 * FS_HANDLES: open what is known by its file handle, where the host lets us: whoever may do that reaches every file of the
 * file system. FS_NO_LOCKS: the guest keeps them. FS_NO_MARKS: as on a host that has no file handles at all; for tests.
 * FS_OVERRIDE: only the guest checks permissions. */
enum { FS_RO = 1, FS_WRITEBACK = 2, FS_ACL = 4, FS_HANDLES = 8, FS_NO_LOCKS = 16, FS_NO_MARKS = 32,
       FS_OVERRIDE = 64 };
/* What the guest may keep: nothing; names and attributes for a second; everything. */
enum { FS_CACHE_NONE = 0, FS_CACHE_AUTO = 1, FS_CACHE_ALWAYS = 2 };
enum { FS_MAPS = 8, FS_OPS = 64, FS_BUCKETS = 20, FS_TEXT = 160 };

/* count ids from guest on, of users and of groups alike, are those from host on. */
struct fs_map {
	uint32_t guest, host, count;
};

struct fs_config {
	int root_fd;          /* the shared directory (O_PATH will do); fs_new() duplicates it */
	int proc_fd;          /* /proc/self/fd of this process, or -1: fs_new() opens it; duplicated */
	uint32_t flags, cache;
	uint32_t max_fds;     /* descriptors of nodes kept open, at least 16; 0: 256, of pyvmm-fsd 2048 */
	uint32_t max_files;   /* open files and directories of the guest, and lock owners; 0: 4096 */
	uint32_t max_nodes;   /* files that the guest knows at a time; 0: 4 million */
	uint64_t node_bytes;  /* memory for what is known of those, their names included; 0: 512 MiB */
	uint32_t nmaps;       /* 0: ids are the same on both sides */
	struct fs_map map[8];
	struct dax *dax;      /* NULL: no window */
	uint64_t dax_size;    /* 0, or of the window */
};

struct fs_stats {
	uint64_t ops[64];             /* requests by opcode (FUSE_*); 0: those of unknown opcodes */
	uint64_t latency[64][20];     /* of those, how many took less than 512 << i ns; the last: any time */
	uint64_t errors;              /* requests answered with an error other than ENOENT, ENODATA and ENOSYS */
	uint64_t read_bytes, write_bytes;
	uint64_t nodes, files, fds;   /* now: files that the guest knows, has open, descriptors kept of the former */
};

struct fs;

/* What all queues of a share have in common. NULL and *err = -errno. */
struct fs *fs_new(const struct fs_config *config, int *err);
/* After all workers are freed. */
void fs_free(struct fs *fs);
/* The guest has reset the device: forget every node, file and lock. No worker runs. */
void fs_reset(struct fs *fs);
/*
 * What the guest knows and has open, to the empty file fd, and back into a share that has just been made, perhaps of another
 * directory. No worker runs. Save: -EBUSY when there is something that could not be made again, which text (FS_TEXT
 * bytes) lists. Restore: *gone: how many files are not there any more; -EPROTO: mounted with options that are not
 * offered; -EXDEV: another directory, while the guest keeps what it knows for good; -ENFILE: it knows too many; -EINVAL:
 * no such bytes.
 */
int fs_save(struct fs *fs, int fd, char *text);
int fs_restore(struct fs *fs, int fd, uint32_t *gone);
/* A worker thread for one queue, of the high-priority or of the request kind. event_fd is signalled when it stopped on
 * a broken ring. */
struct worker *fs_start(struct fs *fs, struct ring *ring, int kick_fd, struct irq *irq, int event_fd, int *err);
void fs_get_stats(struct fs *fs, struct fs_stats *out);

/* ==== end ==== */

enum { FS_NAME_MAX = 255, FS_TARGET_MAX = 4095, FS_XATTR_MAX = 65536 };
/* The longest request, without the data of a WRITE; and the longest answer that is not put into guest memory directly. */
enum { FS_BUF_SIZE = 128 << 10 };
/* DAX_SLOT as a power of two. */
enum { FS_DAX_SHIFT = 21 };
enum { FS_MAX_DOMAINS = 256, FS_HANDLE_INLINE = 24 };
/* Other results of a request's handler than 0 and -errno: no answer at all; an answer that comes later. */
enum { FS_NO_REPLY = 1, FS_PENDING = 2 };

struct fs_files;
struct fs_nodes;
struct fs_locks;

struct fs {
	struct fs_config config;
	int root_fd, proc_fd;
	bool can_switch;       /* we may act as the guest's users */
	uint32_t uid, gid;     /* who we are ourselves */
	/* What FUSE_INIT settled; atomic. 0: not yet done. */
	uint64_t features;
	struct fs_nodes *nodes;
	struct fs_files *files;
	struct fs_locks *locks;

	pthread_mutex_t stats_lock; /* for the two below */
	struct fs_queue *queues;
	struct fs_stats totals;     /* of queues that are gone */
};

/* A lock request that waits. The chain stays in flight. */
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
	bool entered;          /* the thread has made itself ready */
	uint32_t umask;        /* of the thread */
	bool answered;         /* a request of this turn was one that somebody waits for */
	uint64_t caps;         /* the capabilities of the thread */
	uint8_t *buf, *out;    /* FS_BUF_SIZE each: arguments, and an answer in pieces */
	uint32_t nwaits;
	uint64_t wait_ns, waited_at, waits_gen; /* how long between two tries, the last of them */
	struct fs_wait *wait;
	struct fs_stats stats;
	struct iovec iov[RING_MAX_SEGMENTS];
};

/* A request. Everything but the buffers behind in_iov and out_iov is our own copy. */
struct fs_req {
	struct fs *fs;
	struct fs_queue *q;
	struct fuse_in_header in;
	uint32_t head;
	const void *arg;         /* the fixed part, FS_BUF_SIZE of readable memory at least */
	uint32_t arg_len;        /* of it and of what follows, extensions excluded */
	const char *name[2];     /* checked; NULL when the request has none */
	uint32_t name_len[2];
	bool acting;             /* as the guest's user: between fs_begin() and fs_end() */
	bool overriding;         /* with CAP_DAC_OVERRIDE: see fs_override() */
	bool has_supp;
	uint32_t supp;           /* a group to have too while something is made */
	struct iovec *in_iov;    /* of requests with data: the rest of what is to be read */
	uint32_t in_n;
	uint64_t in_len;
	struct iovec *out_iov;   /* behind the header of the answer */
	uint32_t out_n, nhdr;
	uint64_t out_room;
	uint64_t out_len;        /* how much of it was written */
	struct iovec hdr[sizeof(struct fuse_out_header)];
};

typedef int (*fs_fn)(struct fs_req *r);

enum {
	OP_WRITES = 1,   /* changes something: not on a read-only share */
	OP_NAME = 2,     /* a name follows the fixed part */
	OP_NAMES = 4,    /* two names */
	OP_TARGET = 8,   /* a name, then what a symbolic link says */
	OP_DATA = 16,    /* data follows, left where it is */
	OP_QUIET = 32,   /* is never answered */
	OP_FIRST = 64,   /* may come before FUSE_INIT */
	OP_OPENS = 128,  /* the fixed part begins with flags as of open(): they decide whether it writes */
};

struct fs_op {
	fs_fn fn;
	uint16_t arg_min; /* bytes of the fixed part */
	uint16_t flags;
};

/* fs_reply.c */

/* Put the answer's payload into guest memory. -EINVAL: the guest left too little room. */
int fs_reply(struct fs_req *r, const void *data, size_t len);
/* Give a chain back: err is 0 or -errno, payload is counted without the header. */
void fs_finish(struct fs_queue *q, uint32_t head, const struct iovec *hdr, uint32_t nhdr, uint64_t unique, int err,
	       uint64_t payload);
void fs_account(struct fs_queue *q, uint32_t opcode, int err, uint64_t ns);

/* fs_op.c */

/* One chain: parse, do, answer. 0, FS_PENDING, or the latched error of a ring whose chain cannot be answered. */
int fs_handle(struct fs_queue *q, struct chain *chain);
/* Could FUSE_INIT have settled these? */
bool fs_features_are_offered(const struct fs *fs, uint64_t features);
static inline bool fs_has(const struct fs *fs, uint64_t feature)
{
	return __atomic_load_n(&fs->features, __ATOMIC_RELAXED) & feature;
}

/* fs_inode.c: files by the ids that the guest has for them. */

/* A node in use by a request: it stays, and so does its descriptor. */
struct fs_ref {
	uint32_t index;
	int fd;                 /* O_PATH */
	uint16_t domain, type;  /* type: S_IFMT bits */
};

int fs_nodes_init(struct fs *fs);
void fs_nodes_free(struct fs *fs);
/* The guest forgets everything but the root. */
void fs_nodes_reset(struct fs *fs);
/* -ESTALE: no such node (any more). Only as ourselves (see fs_cred.c). */
int fs_node_get(struct fs *fs, uint64_t id, struct fs_ref *ref);
void fs_node_put(struct fs *fs, struct fs_ref *ref);
/* The same, but fd is -1 where it is not open anyway. */
int fs_node_use(struct fs *fs, uint64_t id, struct fs_ref *ref);
/* Open the file itself, with flags as of open(). As ourselves where ref->fd is -1. */
int fs_node_open(struct fs *fs, struct fs_ref *ref, int flags);
/* After -ESTALE: what is left of the attributes of a file that the guest knows, and that is gone or has another name. */
bool fs_node_deleted(struct fs *fs, uint64_t id, struct fuse_attr *attr);
/* How many nodes, and how many descriptors of theirs. */
void fs_nodes_count(struct fs *fs, struct fs_stats *out);
void fs_node_forget(struct fs *fs, uint64_t id, uint64_t count);
/*
 * The guest gets to know name in dir: look it up, count it, fill in the answer. hint: an inode number that it probably
 * has, or 0.
 */
int fs_node_lookup(struct fs_req *r, const struct fs_ref *dir, const char *name, uint64_t hint, struct fuse_entry_out *out);
/* The same for a file that is open already; it stays open. name may be NULL: it has none. */
int fs_node_enter(struct fs_req *r, const struct fs_ref *dir, const char *name, int fd, struct fuse_entry_out *out);
/*
 * Where nodes are found by name only, to follow the names. fs_node_named: the node that the guest has for name in dir, to be
 * put; false: none, or it needs no name. Before a name goes: keep what it stands for. Afterwards: it has another, or none.
 */
bool fs_node_named(struct fs *fs, const struct fs_ref *dir, const char *name, struct fs_ref *ref);
void fs_node_keep(struct fs *fs, struct fs_ref *ref, const struct fs_ref *dir, const char *name);
void fs_node_moved(struct fs *fs, const struct fs_ref *ref, const struct fs_ref *dir, const char *name);
void fs_node_unnamed(struct fs *fs, const struct fs_ref *ref, const struct fs_ref *dir, const char *name);

/* May the files of its domain be opened? */
bool fs_node_closed(struct fs *fs, const struct fs_ref *ref);
/* The same of a node by its id. */
bool fs_node_is_closed(struct fs *fs, uint64_t id);

/* fs_path.c: descriptors. */

/* Part of the tree where an inode number means one file: a mount, or a subvolume in it. */
struct fs_domain {
	uint64_t mnt_id;
	uint32_t major, minor;
	int mount_fd;           /* -1: nothing is opened by file handle here */
	int mark;               /* flags that name_to_handle_at() gives a mark with, which one file only has; -1: it does not */
	bool renumbers;         /* a file may get another number, or device, while it exists (overlayfs, FUSE) */
	bool closed;            /* its files are not opened, nor is anything changed: they are the host's kernel */
};

struct fs_file_handle {
	uint32_t len;
	int32_t type;
	uint8_t bytes[128];
};

enum { FS_STATX_MASK = STATX_BASIC_STATS | STATX_BTIME | STATX_MNT_ID };

/* A decimal number, for names in proc_fd. */
struct fs_fd_name {
	char text[12];
};
struct fs_fd_name fs_fd_name(int fd);
/* One component of a path, below dir and without following a link. */
int fs_open_beneath(int dir, const char *name, uint64_t flags);
/* Open anew what fd stands for. */
int fs_reopen(const struct fs *fs, int fd, int flags);
/* Of name in fd, or of fd itself when name is empty. */
int fs_statx(int fd, const char *name, struct statx *st);
/* Of name in fd, or of fd itself when name is empty; flags as of name_to_handle_at(). */
int fs_handle_at(int fd, const char *name, int flags, struct fs_file_handle *h);
int fs_handle_open(int mount_fd, const struct fs_file_handle *h, int flags);
void fs_domain_init(const struct fs *fs, struct fs_domain *d, int fd, const struct statx *st);

/* fs_handle.c: what the guest has open. */

enum fs_kind { FS_FREE, FS_REGULAR, FS_DIRECTORY };

struct fs_dir;

enum { FS_DIR_BUF_SIZE = 8 << 10 };

/* What was read ahead of an open directory. The guest reads with one page at a time. */
struct fs_dir {
	pthread_mutex_t lock;
	uint64_t off;     /* where the entry at `at` is */
	uint32_t at, len;
	uint8_t buf[FS_DIR_BUF_SIZE] __attribute__((aligned(8)));
};

struct fs_file {
	int fd;
	uint32_t gen, users, next_free;
	uint8_t kind;
	bool closing;
	bool locked;      /* by flock() */
	uint64_t node;    /* its id */
	struct fs_dir *dir;
};

int fs_files_init(struct fs *fs);
uint32_t fs_files_count(struct fs *fs);
void fs_files_free(struct fs *fs);
void fs_files_reset(struct fs *fs);
/* Takes fd over, also when it fails. */
int fs_file_new(struct fs *fs, enum fs_kind kind, int fd, uint64_t node, uint64_t *fh);
/* NULL: not open, or not of that kind (FS_FREE: any). Until fs_file_put() it stays open. */
struct fs_file *fs_file_get(struct fs *fs, uint64_t fh, enum fs_kind kind);
void fs_file_put(struct fs *fs, struct fs_file *file);
/* -EBADF: it was not open. */
int fs_file_close(struct fs *fs, uint64_t fh, enum fs_kind kind);
/*
 * For fs_state.c; no worker runs. The next open file behind *index, NULL: no more. Numbers that no file has had so far. To
 * open one by the number that it had, fd taken over; and then what lies between them.
 */
const struct fs_file *fs_file_next(struct fs *fs, uint32_t *index);
void fs_files_limits(struct fs *fs, uint32_t *top, uint32_t *gen);
int fs_file_restore(struct fs *fs, uint32_t index, uint32_t gen, enum fs_kind kind, int fd, uint64_t node);
int fs_files_settle(struct fs *fs, uint32_t top, uint32_t gen);

/* fs_cred.c: who we are. */

/* Can this thread act as other users? */
bool fs_can_switch(void);
/* The thread begins: what is shared with the rest of the process so that requests would disturb it, is not any more. */
int fs_thread_enter(struct fs_queue *q);
/* Act as the guest's user, to make something. Always followed by fs_end(). */
int fs_begin(struct fs_req *r, uint32_t umask);
void fs_end(struct fs_req *r);
/*
 * With FS_OVERRIDE, whether to do it once more: the host has refused the guest's user what the guest's kernel, which has
 * checked permissions, allows. So it is for root of a user namespace there, whose capabilities no FUSE request tells.
 */
bool fs_override(struct fs_req *r, int err);
/* Let the kernel take set-user-id bits away, or not, as it does for ordinary users. */
void fs_kill_priv(struct fs_queue *q, bool on);
/* -EINVAL: there is no such id on the host. UINT32_MAX stays what it is. */
int fs_id_to_host(const struct fs *fs, uint32_t guest, uint32_t *host);
uint32_t fs_id_to_guest(const struct fs *fs, uint32_t host);

/* fs_reply.c: attributes as they are answered, and for how many seconds the guest may keep them. */

void fs_fill_attr(const struct fs *fs, const struct statx *st, struct fuse_attr *attr);
uint64_t fs_timeout(const struct fs *fs);

/* fs_lock.c */

int fs_locks_init(struct fs *fs);
void fs_locks_free(struct fs *fs);
void fs_locks_reset(struct fs *fs);
/* Has anybody one of fcntl()? Those of flock() are told by the open file. */
bool fs_locks_held(struct fs *fs);
/* The owner has closed the file: its POSIX locks are gone. */
void fs_locks_drop(struct fs *fs, uint64_t node, uint64_t owner);
/* The file itself is closed. */
void fs_locks_release(struct fs *fs, uint64_t fh);
/* Try those that wait again. How many got an answer. */
int fs_waits_run(struct fs_queue *q);
void fs_waits_sleep(struct fs_queue *q);
/* Answer all with err. */
void fs_waits_cancel(struct fs_queue *q, int err);

/* The requests. Each answers one: 0, -errno, FS_NO_REPLY or FS_PENDING. */
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
