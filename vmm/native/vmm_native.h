/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The whole surface of the C data plane, as cffi reads it: ints, fds, plain structs, -errno.
 * Nothing here calls back into Python.  Whoever creates an object destroys it, and destroys it before what it was
 * made from: workers before rings, rings before memory.  Lines that start with '#' are not understood by cffi, so the
 * C side includes this file through native.h, which brings the types.
 */

/* ---- mem.c: guest RAM ------------------------------------------------------------------------------------- */

enum { MEM_MAX_REGIONS = 8 };

struct mem_region {
	uint64_t gpa;  /* first guest physical address */
	uint64_t size; /* bytes */
	uint64_t hva;  /* where it is mapped in this process */
};

/* Filled once, then immutable: shared by every worker without a lock. Sorted by gpa, not overlapping. */
struct mem {
	uint32_t nregions;
	uint32_t pad;
	struct mem_region region[8];
};

/* Pointer to [gpa, gpa+len) when all of it lies in one region; NULL otherwise (also for len 0 out of RAM). */
void *mem_ptr(const struct mem *mem, uint64_t gpa, uint64_t len);

/* ---- irq.c: an interrupt towards the guest ----------------------------------------------------------------- */

enum { IRQ_VRING = 1, IRQ_CONFIG = 2 };

/* status is the transport's InterruptStatus word (virtio 1.2, 4.2.2), or NULL where there is none (MSI-X). */
struct irq {
	int fd; /* eventfd bound with KVM_IRQFD */
	uint32_t *status;
	uint64_t raised; /* statistics */
};

/* Set bits in *status, then signal fd. Safe from any thread. */
void irq_raise(struct irq *irq, uint32_t bits);
/* Clear bits in *status: an InterruptACK that did not come through bus.c. */
void irq_ack(struct irq *irq, uint32_t bits);

/* ---- bus.c: what vcpu.c answers without Python -------------------------------------------------------------- */

enum { BUS_PIO = 0, BUS_MMIO = 1 };

struct bus;
struct uart;

struct bus *bus_new(void);
void bus_free(struct bus *bus);
/* Python answers this range. */
int bus_add_python(struct bus *bus, int space, uint64_t base, uint64_t size);
/* A transport's register page: reads come from page[]; a write to InterruptACK (0x64) clears bits of InterruptStatus
 * (0x60), with keep all but IRQ_VRING; every other write goes to Python. */
int bus_add_regpage(struct bus *bus, uint64_t base, uint64_t size, uint8_t *page, bool keep);
/* An 8250 at an I/O port range of 8. */
int bus_add_uart(struct bus *bus, uint64_t base, struct uart *uart);
/* PCI configuration space of bus 0 behind ECAM: of each device the page that its function 0 reads from, or NULL. Reads
 * come from there, but for the four bytes at trap, if any; those and writes to what is there go to Python. The pages stay
 * readable until the bus is freed. */
struct ecam {
	uint8_t *page[32];
	uint32_t trap[32];
};
int bus_add_ecam(struct bus *bus, uint64_t base, struct ecam *ecam);
/* A virtio-pci BAR: reads of its first 256 bytes come from page; all else goes to Python. */
int bus_add_bar(struct bus *bus, uint64_t base, uint64_t size, uint8_t *page);
int bus_remove(struct bus *bus, int space, uint64_t base);
/* One access from a vCPU. BUS_DONE: answered in C. BUS_UNCLAIMED: nobody there, data filled with ones on a read.
 * BUS_TO_PYTHON: a range, or a register, that Python answers. */
enum { BUS_DONE = 0, BUS_UNCLAIMED = 1, BUS_TO_PYTHON = 2 };
int bus_access(struct bus *bus, int space, uint64_t addr, uint8_t *data, uint32_t len, bool write);

/* ---- vcpu.c: the KVM_RUN loop ------------------------------------------------------------------------------- */

enum { VCPU_REASONS = 64 };

struct vcpu_stats {
	uint64_t c[64];      /* exits by KVM_EXIT_* that C answered */
	uint64_t python[64]; /* exits by KVM_EXIT_* that were handed to Python */
	uint64_t unclaimed;  /* of those in C: accesses that nobody claims, read as all ones */
	uint64_t first_run_ns; /* CLOCK_MONOTONIC of the first KVM_RUN */
};

struct vcpu;

/* fd: a KVM vCPU; kvm_run: its mapping. The caller keeps both alive until vcpu_free(). */
struct vcpu *vcpu_new(int fd, void *kvm_run, uint64_t kvm_run_size, struct bus *bus);
void vcpu_free(struct vcpu *vcpu);
/*
 * Run until Python is needed. Returns KVM_EXIT_* (>= 0) of an exit that C does not answer, -EINTR once vcpu_kick()
 * asked it to stop, or another -errno from KVM_RUN.
 */
int vcpu_run(struct vcpu *vcpu);
/* Make vcpu_run() return -EINTR soon, whatever it is doing; sticky until vcpu_resume(). From any thread. */
void vcpu_kick(struct vcpu *vcpu);
void vcpu_resume(struct vcpu *vcpu);
void vcpu_stats(const struct vcpu *vcpu, struct vcpu_stats *out);

/* ---- uart.c: an 8250/16550A --------------------------------------------------------------------------------- */

enum { UART_RX_SIZE = 4096, UART_FIFO_SIZE = 16 };
enum { UART_OUT_BLOCK = 0, UART_OUT_DROP = 1 };
/* What the driver has done since reset, in uart_state.seen: written MCR; asserted RTS. */
enum { UART_SEEN_MCR = 1, UART_SEEN_RTS = 2 };

/* Everything the guest can see of a UART: it can be saved and restored as plain data. */
struct uart_state {
	uint8_t ier, lcr, lsr, mcr, msr, scr, fcr, dll, dlm, thr_pending, seen, fifo_len;
	uint8_t fifo[16]; /* received in loopback, or a break: read before rx */
	uint32_t rx_len;
	uint8_t rx[4096]; /* from the host */
};

struct uart_stats {
	uint64_t tx_bytes, rx_bytes, tx_dropped, tx_writes, irqs;
};

/*
 * irq_fd: eventfd signalled on every rising edge of the interrupt line.
 * out_fd: where the guest's bytes go, -1 for nowhere. UART_OUT_BLOCK: a slow reader holds the guest up;
 * UART_OUT_DROP: what does not fit is dropped and counted. Better non-blocking, but need not be.
 * space_fd: eventfd signalled when uart_input() can take bytes again after it was full, or -1.
 */
struct uart *uart_new(int irq_fd, int out_fd, int out_mode, int space_fd);
/* Writes what it can without waiting; to lose nothing, call uart_flush() until it returns 0 before. */
void uart_free(struct uart *uart);
/* Readable when uart_flush() has something to do: output and input wait for it. Belongs to the UART. */
int uart_timer_fd(const struct uart *uart);
/* Write what was collected, let input go on. Returns how many bytes still wait for out_fd (call again when it is writable), or -errno of
 * out_fd, once per kind of error. */
int64_t uart_flush(struct uart *uart);
/* An access of the guest to len registers from offset on; always answered. What the bus calls. */
bool uart_access(void *uart, uint64_t offset, uint8_t *data, uint32_t len, bool write);
/* Bytes for the guest; returns how many were taken (0 when full). */
int64_t uart_input(struct uart *uart, const uint8_t *data, uint64_t len);
/* The other end sends a break. */
void uart_break(struct uart *uart);
void uart_save(struct uart *uart, struct uart_state *out);
/* -EINVAL when the state is not one that uart_save() returns. */
int uart_restore(struct uart *uart, const struct uart_state *state);
void uart_get_stats(struct uart *uart, struct uart_stats *out);

/* ---- ring.c: a virtqueue, device side: split (virtio 1.2, 2.7) or packed (2.8) -------------------------------- */

enum { RING_MAX_SIZE = 1024, RING_MAX_SEGMENTS = 1024 };
enum { RING_EVENT_IDX = 1, RING_INDIRECT = 2, RING_PACKED = 4 };

struct ring_config {
	uint32_t size;  /* 1 .. RING_MAX_SIZE; of a split ring a power of two */
	uint32_t flags; /* RING_* negotiated features */
	uint64_t desc, avail, used; /* guest physical addresses; avail and used: driver and device area of a packed ring */
	uint32_t next_avail, next_used; /* 0 for a new queue; from ring_save() to go on */
};

struct ring;

/* One descriptor chain, copied out of guest memory and checked. The first nread of iov are for the device to read,
 * the nwrite behind them for it to write. */
struct chain {
	uint32_t head; /* below the size of the queue; of a packed ring the buffer id */
	uint32_t nread, nwrite;
	uint32_t max; /* room in iov, set by the caller */
	uint64_t read_len, write_len; /* bytes in each part */
	struct iovec *iov;
};

/* Checks the whole configuration (alignment, every byte in RAM). NULL and *err = -errno when it is not right. */
struct ring *ring_new(const struct mem *mem, const struct ring_config *config, int *err);
void ring_free(struct ring *ring);
/* 1: chain filled; 0: nothing there; -errno: the guest broke the ring. That is latched: the same error again for ever,
 * ring_error() says which rule in words. */
int ring_pop(struct ring *ring, struct chain *chain);
/* Give a popped head back, not yet visible to the guest. -EINVAL: that head is not in flight. */
int ring_push(struct ring *ring, uint32_t head, uint32_t written);
/* Make all pushes visible. 1 when the guest wants an interrupt for them, 0 when not. */
int ring_flush(struct ring *ring);
/* Ask for a kick for the next chain (1) or say that none is needed while we look ourselves (0).
 * After asking, 1 is returned when chains are there already: then do not sleep. */
int ring_kicks(struct ring *ring, int enable);
/*
 * What the device remembers of a ring. It can lie in memory that another process sees: when the one that serves the ring
 * dies, the other takes over where it was. A struct ring_log lies RING_LOG_OFFSET behind it, which a packed ring needs.
 */
enum { RING_STATE_STRIDE = 32768, RING_LOG_OFFSET = 256 };
struct ring_state {
	uint16_t next_avail, next_used; /* the next to pop, the next to push: indices (split), places in the ring (packed) */
	uint16_t published;             /* the same as the guest sees it */
	uint16_t signalled;             /* of a split ring, when the last decision about an interrupt was taken */
	uint32_t in_flight;
	uint32_t descs;                 /* of a packed ring, that the device has: those of the chains in flight */
	uint16_t last_pop, last_push;   /* of a packed ring: buffer ids */
	uint16_t first_flags, pad;      /* of a packed ring: what the descriptor at `published` will get */
	uint64_t busy[16];              /* heads popped and not pushed */
};
/* A chain of a packed ring, by its buffer id: where it was popped, how many descriptors it has, the first in the log. */
struct ring_chain {
	uint16_t position, count, first, pad;
};
/* A copy of the descriptors of all chains that were popped and not pushed: in the ring they may be gone. */
struct ring_log_desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags, next;
};
struct ring_log {
	struct ring_chain chain[1024];
	struct ring_log_desc desc[1024];
};
/* From now on remember at state, in RING_STATE_STRIDE bytes that outlive the ring. 0 or -ENOMEM. */
int ring_share(struct ring *ring, struct ring_state *state);
/*
 * Go on where another left a ring of the same configuration. Returns how many chains that one had popped and not pushed:
 * ring_pop() gives them once more, first. What that one had pushed is published; interrupt the guest, it may have missed that. The state is
 * checked: -EPROTO when it cannot be, then nothing is changed.
 */
int ring_adopt(struct ring *ring, const struct ring_state *state);
/* NULL while nothing is wrong. */
const char *ring_error(const struct ring *ring);
/* -EBUSY while heads are in flight or pushes not flushed: they would be lost. The latched error of a broken ring. */
int ring_save(const struct ring *ring, struct ring_config *out);

/* ---- worker.c: a data-plane thread --------------------------------------------------------------------------- */

struct worker;

struct worker_stats {
	uint64_t kicks, chains, irqs, wakeups;
};

/* Stop, finish what is in flight, join. Nothing of the worker touches guest memory afterwards. */
void worker_stop(struct worker *worker);
void worker_free(struct worker *worker);
/* 0, or the latched -errno of the ring that stopped this worker. */
int worker_error(struct worker *worker);
void worker_get_stats(struct worker *worker, struct worker_stats *out);

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
/* The two ends of a socket for that: *child is for the other process. */
int dax_pair(int *ours, int *child);
/* Everything is memory again: no file is mapped. */
void dax_clear(struct dax *dax);
void dax_get_stats(struct dax *dax, struct dax_stats *out);
/*
 * KVM could not get a page: put memory in the place of every page that its file does not have any more. Returns how many
 * slots had such; 0: nothing is wrong here. vCPUs call it by themselves.
 */
uint32_t dax_fault(struct dax *dax);
/* A vCPU of this bus whose access fails asks the window, at these guest physical addresses. Before the vCPUs run. */
int bus_add_dax(struct bus *bus, struct dax *dax, uint64_t base, uint64_t size);
/* Its device is about to go, while vCPUs run: none of them asks it any more. */
void bus_remove_window(struct bus *bus, const void *device);
/* A window, by its device, is elsewhere from now on; all ones: the guest cannot reach it. While vCPUs run. */
void bus_move_window(struct bus *bus, const void *device, uint64_t base);

/* ---- fs.c: virtio-fs, a FUSE server for one directory (virtio 1.2, 5.11) ------------------------------------------- */

/* FS_RO: every request that writes gets EROFS. FS_WRITEBACK: the guest may hold written data back. FS_ACL: POSIX ACLs.
 * FS_NO_HANDLES: as on a host that does not let us open by file handle; for tests. FS_NO_LOCKS: the guest keeps them. */
enum { FS_RO = 1, FS_WRITEBACK = 2, FS_ACL = 4, FS_NO_HANDLES = 8, FS_NO_LOCKS = 16 };
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
	uint32_t max_fds;     /* descriptors of nodes kept open, at least 16; 0: 256 */
	uint32_t max_files;   /* open files and directories of the guest, and lock owners; 0: 4096 */
	uint32_t max_nodes;   /* files that the guest knows at a time; 0: 4 million */
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

struct balloon_memory {
	const struct mem *mem;
	uint32_t shared; /* RAM is a file that others map too */
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
 * whether something changed. vCPUs call it by themselves.
 */
uint32_t pmem_fault(struct pmem *pmem);
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
	uint32_t index;          /* CHECK: of the queue that stopped; result is its error */
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
