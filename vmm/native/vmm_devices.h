/* SPDX-License-Identifier: Apache-2.0 */
/* The virtio devices of the C data plane, behind vmm_native.h and by the same rules. */

struct limit;

/* ---- blk.c: virtio-blk (virtio 1.2, 5.2) ---------------------------------------------------------------------- */

/* BLK_URING: everything through io_uring, also what would not block; for tests and comparisons. */
enum { BLK_RO = 1, BLK_DISCARD = 2, BLK_WRITE_ZEROES = 4, BLK_DIRECT = 8, BLK_NO_URING = 16, BLK_URING = 32 };

struct blk_config {
	int fd;
	uint32_t flags;
	uint64_t capacity;   /* in 512-byte sectors */
	uint32_t seg_max, size_max; /* 0: no limit but the ring's */
	uint32_t max_discard_sectors, max_discard_seg; /* of DISCARD and of WRITE_ZEROES; at most 512 segments */
	uint32_t alignment;  /* of memory, offset and length for direct I/O, else 1 */
	uint8_t serial[20];  /* padded with NUL */
	struct limit *limit; /* of all queues together, or NULL; outlives the disk */
};

struct blk_stats {
	uint64_t reads, writes, flushes, discards, write_zeroes, get_ids, unsupported, errors;
	uint64_t read_bytes, write_bytes;
	int32_t last_errno;  /* of the host; 0 when none failed */
	int32_t uring;       /* 1 when io_uring is in use */
};

struct blk;

/* What all queues of a disk share. */
struct blk *blk_new(const struct blk_config *config, int *err);
void blk_free(struct blk *blk);
/* A worker thread for one queue. event_fd is signalled when the worker stopped on a broken ring or the host failed. */
struct worker *blk_start(struct blk *blk, struct ring *ring, int kick_fd, struct irq *irq, int event_fd, int *err);
/* In writethrough mode (cache_mode 0) a write is completed only when it is on the disk. From any thread. */
void blk_set_writeback(struct blk *blk, int writeback);
/* After the file was resized. */
void blk_set_capacity(struct blk *blk, uint64_t sectors);
void blk_get_stats(struct blk *blk, struct blk_stats *out);

/* ---- dax.c: a window in which the guest sees pages of the host's files ----------------------------------------------- */

/*
 * The guest's addresses offset .. offset + DAX_SLOT of the window are a slot: nothing, which is memory of its own, or a
 * piece of one file. Files may shrink at any time: a page that is not there any more becomes memory as well.
 */
enum { DAX_SLOT = 0x200000 };

struct dax_stats {
	uint64_t maps, unmaps; /* done */
	uint64_t slots;        /* with a file, now */
	uint64_t cut;          /* of those, with pages that the file has lost */
	uint64_t faults;       /* accesses of the guest to such pages, and other pages that cannot be had */
};

struct dax;

/* size: bytes, a multiple of DAX_SLOT. The window is aligned to DAX_SLOT. */
struct dax *dax_new(uint64_t size, int *err);
/* After the VM is gone. */
void dax_free(struct dax *dax);
void *dax_window(const struct dax *dax);
/* Serve another process that asks for mappings; takes the socket over. */
int dax_serve(struct dax *dax, int sock);
/* Start its thread, if it does not run: it answers what dax_serve() got, and notices files that shrink. 0 or -errno. */
int dax_begin(struct dax *dax);
/* An eventfd that is signalled when the thread tried a system call that it must not make; -1: none. */
void dax_watch(struct dax *dax, int event_fd);
/* As worker_forbidden(). */
int dax_forbidden(struct dax *dax);
/* The two ends of a socket for that: *child is for the other process. */
int dax_pair(int *ours, int *child);
/* Everything is memory again: no file is mapped. */
void dax_clear(struct dax *dax);
void dax_get_stats(struct dax *dax, struct dax_stats *out);
/*
 * KVM could not get a page: put memory in the place of every page that its file does not have any more. Returns how many
 * slots had such; 0: nothing is wrong here. vCPUs call it by themselves, of a struct dax.
 */
uint32_t dax_fault(void *dax);
/* A vCPU of this bus whose access fails asks the window, at these guest physical addresses. Before the vCPUs run. */
int bus_add_dax(struct bus *bus, struct dax *dax, uint64_t base, uint64_t size);
/* Its device is about to go, while vCPUs run: none of them asks it any more. */
void bus_remove_window(struct bus *bus, const void *device);
/* A window, by its device, is elsewhere from now on; all ones: the guest cannot reach it. While vCPUs run. */
void bus_move_window(struct bus *bus, const void *device, uint64_t base);

/* ---- fs.c: virtio-fs, a FUSE server for one directory (virtio 1.2, 5.11) ------------------------------------------- */

/* FS_RO: every request that writes gets EROFS. FS_WRITEBACK: the guest may hold written data back. FS_ACL: POSIX ACLs.
 * FS_HANDLES: open what is known by its file handle, where the host lets us: whoever may do that reaches every file of the
 * file system. FS_NO_LOCKS: the guest keeps them. FS_NO_MARKS: as on a host that has no file handles at all; for tests.
 * FS_OVERRIDE: only the guest checks permissions. */
enum { FS_RO = 1, FS_WRITEBACK = 2, FS_ACL = 4, FS_HANDLES = 8, FS_NO_LOCKS = 16, FS_NO_MARKS = 32,
       FS_OVERRIDE = 64 };
/* What the guest may keep: nothing; names and attributes for a second; everything. */
enum { FS_CACHE_NONE = 0, FS_CACHE_AUTO = 1, FS_CACHE_ALWAYS = 2 };
enum { FS_MAPS = 8, FS_OPS = 64, FS_BUCKETS = 20 };

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
 * directory. No worker runs. Save: -EBUSY when there is something that could not be made again, which text (FSD_TEXT
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

/* ---- vsock.c: virtio-vsock over unix sockets (virtio 1.2, 5.10) ---------------------------------------------------- */

enum { VSOCK_LATENCIES = 20 };

struct vsock_config {
	uint64_t cid;        /* the guest's */
	int listen_fd;       /* non-blocking listening socket for streams: a client writes "CONNECT <port>\n" */
	int seq_listen_fd;   /* the same for SOCK_SEQPACKET, or -1 */
	int dir_fd;          /* where <name>_<port> are, the sockets that the guest can connect to */
	uint32_t max_conns;
	char name[256];
};

struct vsock_stats {
	uint64_t opened, refused, resets; /* connections; requests of either side that came to nothing; connections cut */
	uint64_t credit_updates;          /* sent to the guest */
	uint64_t malformed;               /* packets that were dropped: no whole header, or not from this guest */
	uint64_t from_guest_bytes, to_guest_bytes, from_guest_packets, to_guest_packets;
	uint64_t connections, waiting_bytes; /* now: connections; bytes of the guest that the host has not taken */
	uint64_t latency[20];             /* connections by what their making took: less than 1024 << i ns; the last: any time */
};

struct vsock_queues {
	struct ring *rx, *tx, *event;     /* event: or NULL */
	int rx_kick, tx_kick;
	struct irq *rx_irq, *tx_irq, *event_irq;
	int event_fd;
	uint32_t seqpacket;               /* negotiated */
	uint32_t reset_event;             /* the driver must be told that its connections are gone (5.10.6.7) */
};

struct vsock;

/* The descriptors stay the caller's, and open. NULL and *err = -errno. */
struct vsock *vsock_new(const struct vsock_config *config, int *err);
/* After the worker was freed. Closes all connections. */
void vsock_free(struct vsock *vsock);
/* One worker thread for all queues; one at a time. Connections outlive it: they go on with the next. */
struct worker *vsock_start(struct vsock *vsock, const struct vsock_queues *queues, int *err);
/* The guest has reset the device: forget every connection. No worker runs. */
void vsock_reset(struct vsock *vsock);
void vsock_get_stats(struct vsock *vsock, struct vsock_stats *out);

/* ---- limit.c: how much a device may do in a time --------------------------------------------------------------------- */

/* Two token buckets. A rate of 0: no limit of that kind. burst: what may be done at once after an idle time. */
struct limit_config {
	uint64_t bytes, bytes_burst; /* bytes a second; bytes */
	uint64_t ops, ops_burst;     /* requests, or frames, a second; their number */
};

struct limit;

/* Shared by all queues of a device; from any thread. NULL: no memory. */
struct limit *limit_new(const struct limit_config *config);
/* After the workers were freed. */
void limit_free(struct limit *limit);
/* At `now` (ns on any clock that does not go back): 0 when the next request may be done, else how many ns it must wait. */
uint64_t limit_wait(struct limit *limit, uint64_t now);
/* A request of so many bytes is done. It may be larger than what was left: those behind it wait the longer. */
void limit_charge(struct limit *limit, uint64_t now, uint64_t bytes);
/* How often a queue had to wait. */
uint64_t limit_waits(const struct limit *limit);

/* ---- net.c: virtio-net (virtio 1.2, 5.1) ---------------------------------------------------------------------------- */

/*
 * Where frames come from and go to. NET_TAP: a descriptor that reads and writes one frame at a time, each behind a struct
 * virtio_net_hdr of 12 bytes: a tap device. NET_STREAM: a stream socket, each frame behind its length (32 bits, big-endian):
 * what passt and others speak.
 */
enum { NET_TAP = 0, NET_STREAM = 1 };
/* What was negotiated. The first ones are what the guest may ask of us with a frame, NET_GUEST_CSUM what it takes from us. */
enum {
	NET_CSUM = 1, NET_TSO4 = 2, NET_TSO6 = 4, NET_ECN = 8, NET_UFO = 16, NET_USO = 32, NET_GUEST_CSUM = 64,
	NET_MRG_RXBUF = 128,
};

struct net_stats {
	uint64_t rx_frames, rx_bytes, rx_dropped; /* to the guest; dropped: larger than its buffers */
	uint64_t tx_frames, tx_bytes, tx_dropped; /* from the guest; dropped: the host did not take them */
	uint64_t tx_malformed;                    /* of those: with a header that is not right */
	uint64_t rx_starved;                      /* how often the guest had no buffer for what there was */
	uint64_t last_errno;                      /* of the host; the backend is gone */
};

struct net_queues {
	struct ring *rx, *tx;
	int rx_kick, tx_kick;
	struct irq *rx_irq, *tx_irq;
	int event_fd;                       /* signalled when the worker stopped, or the backend is gone */
	uint32_t flags;                     /* NET_CSUM and so on */
	uint32_t rx_frame;                  /* the largest frame that is likely to come, with its Ethernet header */
	struct limit *rx_limit, *tx_limit;  /* or NULL */
};

struct net;

/* One pair of queues. fd: non-blocking; it stays the caller's, and open. NULL and *err = -errno. */
struct net *net_new(int fd, uint32_t kind, int *err);
/* After the worker was freed. */
void net_free(struct net *net);
/* One worker thread for both directions; one at a time. */
struct worker *net_start(struct net *net, const struct net_queues *queues, int *err);
void net_get_stats(struct net *net, struct net_stats *out);

/* ---- balloon.c: virtio-balloon (virtio 1.2, 5.5) ------------------------------------------------------------------- */

enum { BALLOON_INFLATE = 0, BALLOON_DEFLATE = 1, BALLOON_REPORT = 2 };

/* How RAM gives pages back: anonymous; a file that others map too; or a private mapping over a file (a snapshot's). */
enum { BALLOON_ANONYMOUS = 0, BALLOON_SHARED = 1, BALLOON_OVER_FILE = 2 };

struct balloon_memory {
	const struct mem *mem;
	uint32_t backing; /* BALLOON_ANONYMOUS, ... */
	uint32_t pad;
};

struct balloon_stats {
	uint64_t inflated, deflated; /* pages that the guest has named */
	uint64_t reported;           /* bytes that it has reported as free */
	uint64_t released, errors;   /* bytes given back to the host; ranges that the host did not take */
};

/*
 * Serve chains of one queue, a bounded number; not locked, no worker. iov: room for RING_MAX_SEGMENTS. Returns how many were
 * pushed, for ring_flush() to publish; or -errno, latched: the guest broke the ring, or named a page that is not RAM.
 */
int balloon_run(const struct balloon_memory *memory, int what, struct ring *ring, struct iovec *iov, struct balloon_stats *stats);

/* ---- pmem.c: virtio-pmem (virtio 1.2, 5.19) -------------------------------------------------------------------------- */

/* The window begins at a multiple of this, and is one long: what Linux wants of memory, and a huge page. */
enum { PMEM_ALIGN = 0x200000 };

struct pmem_stats {
	uint64_t flushes, errors; /* done, of them failed */
	uint64_t last_errno;      /* of the host; 0 when none failed */
	uint64_t cuts;            /* how often the file was found shorter than before */
};

struct pmem;

/*
 * fd: a file or block device; stays the caller's, and open. Its length is a multiple of PMEM_ALIGN, or it is read_only; then
 * what lacks reads as zeroes. -EINVAL: not so, empty, or more than 256 GiB.
 */
struct pmem *pmem_new(int fd, int read_only, int *err);
/* After the worker was freed, and the VM is gone. */
void pmem_free(struct pmem *pmem);
void *pmem_window(const struct pmem *pmem);
uint64_t pmem_size(const struct pmem *pmem);
/* A worker thread for the queue of flushes; one at a time. event_fd is signalled when it stopped, or the host failed. */
struct worker *pmem_start(struct pmem *pmem, struct ring *ring, int kick_fd, struct irq *irq, int event_fd, int *err);
/*
 * KVM could not get a page: put memory in the place of what the file has lost, or the file where it is whole again. Returns
 * whether something changed. vCPUs call it by themselves, of a struct pmem.
 */
uint32_t pmem_fault(void *pmem);
void pmem_get_stats(struct pmem *pmem, struct pmem_stats *out);
/* As bus_add_dax(). */
int bus_add_pmem(struct bus *bus, struct pmem *pmem, uint64_t base, uint64_t size);

/* ---- console.c: virtio-console, one port (virtio 1.2, 5.3) ---------------------------------------------------------- */

/* Bytes for the guest that wait for its buffers; bytes of the guest's that wait for out_fd. */
enum { CONSOLE_INPUT = 16384, CONSOLE_KEEP = 65536 };

struct console_queues {
	struct ring *rx, *tx;      /* rx: or NULL */
	int rx_kick, tx_kick;
	struct irq *rx_irq, *tx_irq;
	int event_fd;              /* signalled when a ring is broken, or console_error() has something to say */
};

struct console_stats {
	uint64_t tx_bytes, rx_bytes, tx_dropped, tx_writes;
};

struct console;

/*
 * out_fd: where the guest's bytes go, -1 for nowhere; stays the caller's. drop: what it does not take at once is dropped,
 * instead of holding the guest up. space_fd: eventfd signalled when console_input() can take bytes again after it was full,
 * or -1.
 */
struct console *console_new(int out_fd, int drop, int space_fd);
/* After the worker was freed. To lose nothing, console_drain() before. */
void console_free(struct console *console);
/* One worker thread for both queues; one at a time. */
struct worker *console_start(struct console *console, const struct console_queues *queues, int *err);
/* Bytes for the guest; returns how many were taken (0 when full). From any thread. */
int64_t console_input(struct console *console, const uint8_t *data, uint64_t len);
/* Wait until all that the guest has sent is written, at most so long; returns how many bytes still wait. From any thread. */
int64_t console_drain(struct console *console, int timeout_ms);
/* An errno of out_fd that was not told yet, or 0. */
int console_error(struct console *console);
void console_get_stats(struct console *console, struct console_stats *out);

/* ---- fsd: the same server as a process of its own, the program pyvmm-fsd -------------------------------------------- */

/*
 * The VMM and its child speak over a SOCK_SEQPACKET pair: a fsd_msg, perhaps with descriptors, and a fsd_answer to each,
 * in turn. Neither trusts the other: sizes, numbers and descriptors are checked on both sides.
 */
enum { FSD_VERSION = 1, FSD_QUEUES = 64, FSD_FDS = 4, FSD_TEXT = 160 };
/* What a message asks for, and the descriptors that come with it. */
enum {
	FSD_SETUP = 1,  /* isolate yourself, then serve this directory: root, VMM (a pidfd), socket of the DAX window or -1 */
	FSD_MEMORY = 2, /* RAM, books of the rings (FSD_QUEUES * RING_STATE_STRIDE bytes), page of InterruptStatus */
	FSD_START = 3,  /* a queue: kick, irq, event */
	FSD_STOP = 4,   /* all queues: finish what is in flight, let go of the memory */
	FSD_RESET = 5,  /* the guest has reset the device */
	FSD_STATS = 6,
	FSD_CHECK = 7,  /* has a queue stopped by itself? */
	FSD_SAVE = 8,   /* fs_save() to the file that comes with it; all queues are stopped */
	FSD_RESTORE = 9,
};
/* What keeps the child apart from the rest of the machine. */
enum {
	FSD_MOUNT_NS = 1, FSD_PID_NS = 2, FSD_NET_NS = 4, FSD_IPC_NS = 8, FSD_USER_NS = 16, FSD_LANDLOCK = 32, FSD_SECCOMP = 64,
};

struct fsd_region {
	uint64_t gpa, size, offset; /* offset: in the descriptor */
};

struct fsd_msg {
	uint32_t version, op;
	uint32_t index;          /* START: of the queue */
	uint32_t status_offset;  /* MEMORY: of InterruptStatus in its page */
	struct fs_config config; /* SETUP; its descriptors are ignored */
	uint32_t nregions, pad;  /* MEMORY */
	struct fsd_region region[8];
	struct ring_config ring; /* START */
};

struct fsd_answer {
	uint32_t version, op;
	int32_t result;          /* 0 or -errno */
	uint32_t isolation;      /* SETUP: FSD_*_NS and so on */
	uint32_t index;          /* CHECK: of the queue that stopped; result is its error. RESTORE: files that are gone */
	char text[160];          /* what failed, in words; NUL-terminated */
	struct worker_stats workers; /* STATS: since SETUP */
	struct fs_stats fs;
};

/*
 * Run the program at path with the other end of *sock as its descriptor 3 and nothing else of ours, in namespaces of its
 * own as far as the host lets us. Returns a pidfd, *sock, and *pid, which the caller waits for; or -errno.
 */
int fsd_spawn(const char *path, int *sock, int *pid);
/*
 * One message and its answer, at most timeout_ms. -ETIMEDOUT, -EPIPE when nobody is there (any more), -EPROTO when what
 * came is not an answer. fds: FSD_FDS of them, -1 for none.
 */
int fsd_call(int sock, const struct fsd_msg *msg, const int *fds, struct fsd_answer *answer, int timeout_ms);
