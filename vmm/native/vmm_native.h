/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The interface of the C data plane, as cffi reads it: ints, fds, plain structs, -errno. The functions of a device are in
 * its own header, between the marks "==== for Python ====" and "==== end ====" (build.py).
 * Nothing here calls back into Python.  The creator of an object destroys it, and before the objects that it was made
 * from: workers before rings, rings before memory.  cffi does not understand lines that start with '#', so the C side
 * includes this file through native.h, which brings the types.
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
/* The next pages between *end and size (bytes) that have their bits, from *start to *end; 0: there are none. */
int mem_run(const uint8_t *bits, uint64_t size, uint64_t *start, uint64_t *end);

/* ---- ram.c: guest RAM into a sparse file ------------------------------------------------------------- */

/*
 * Which pages are written: all; those that were touched, by the page map (anonymous memory); or those of a private
 * mapping that are not the file's any more.
 */
enum { RAM_ALL, RAM_TOUCHED, RAM_OWN };

struct ram_file {
	int fd;
	int pagemap;       /* /proc/self/pagemap; unused for RAM_ALL */
	int what;          /* RAM_ALL, ... */
	int than_fd;       /* of `than`: its file, whose holes are not looked at: some file systems would fill them */
	const void *than;  /* NULL, or as many bytes: only pages that differ from them are written */
	uint8_t *bitmap;   /* NULL, or a bit a page, set for what was written */
	const void *again; /* NULL, or the file's own bytes: a page that has its bit is written if it has changed, whatever it is */
	struct fill *fill; /* NULL, or RAM is filled on demand: RAM_OWN are then pages that were filled or written, RAM_ALL all */
};

/*
 * Write size bytes (pages) at ram to the file, each at its place; other parts of the file do not change.  Without `than`,
 * pages of zeros are left out, or with RAM_OWN those that equal the template, if there is one.  begin: offset of the first
 * page; callers that report progress write RAM in several calls.  Returns bytes written, or -errno.
 */
int64_t ram_save(const struct ram_file *file, const void *ram, uint64_t begin, uint64_t size);
/* Read pages that have their bits from the file to RAM. 0 or -errno. */
int ram_load(void *ram, uint64_t size, int fd, const uint8_t *bits);
/* Make pages of a private mapping zero and give them back, whatever file lies below.  0 or -errno. */
int ram_zero(void *at, uint64_t len);
/*
 * Put what lies at offset of the file fd in place of pages of a private mapping, at the same address; the file is never
 * written.  -errno: as it was before.
 */
int ram_lay(void *at, uint64_t len, int fd, uint64_t offset);
/* The same of a shared mapping: the memfd from its beginning. */
int ram_show(void *at, uint64_t len, int fd);

/* ---- fill.c: guest RAM that is filled from a template when it is touched ------------------------------- */

/* Can be called from any thread, if not stated otherwise. */
struct fill;

/* What fill_look() has found out about where RAM has data; zeros at first. */
struct fill_extent {
	uint64_t data, hole;
};

struct fill_stats {
	uint64_t faults; /* that were answered */
	uint64_t filled; /* bytes of the template */
};

/* A userfaultfd of this process, of /dev/userfaultfd (fill_device()) or, with -1, of the system call; -errno. */
int fill_uffd(int device);
int fill_device(void);
/*
 * RAM is size bytes of the memfd, mapped shared at ram, and not touched before fill_start(). around: how many pages, a power
 * of two, are filled together when one of them is touched. Add layers before fill_start(). -EPERM and others: the host does
 * not allow it.
 */
struct fill *fill_new(void *ram, uint64_t size, int memfd, uint32_t around, int *err);
/*
 * The file fd, as long as RAM, lies over the layers before it: with the pages that bits names, or with none, until
 * fill_data() adds those between two offsets in which the file has data. The file must not change. 0 or -errno.
 */
int fill_layer(struct fill *f, int fd, const uint8_t *bits);
int fill_data(struct fill *f, int fd, uint64_t start, uint64_t end);
/* Start to answer page faults, on a thread; again after fill_rest() when another file was mapped there and taken away. 0 or -errno. */
int fill_start(struct fill *f);
/*
 * End the thread for a while, in which RAM is not touched; and start it again, as a child of the calling thread, whose
 * restrictions it inherits. 0 or -errno.
 */
void fill_rest(struct fill *f);
int fill_go_on(struct fill *f);
/*
 * Another process will map RAM; uffd is a userfaultfd of that process, perhaps used before, and is closed by fill_free(). Returns the client's
 * number, for the other calls, or -errno. It maps RAM at an address of its own, and does not touch it before
 * fill_client_maps(), which may be called again.
 */
int fill_client(struct fill *f, int uffd);
int fill_client_maps(struct fill *f, int client, uint64_t address);
void fill_client_drop(struct fill *f, int client);
/* These pages will be discarded: they are zero from now on, and not the template's. */
void fill_forget(struct fill *f, const void *at, uint64_t len);
/* Fill pages between two offsets now; bytes, or -errno. */
int64_t fill_range(struct fill *f, uint64_t start, uint64_t end);
/* The same of the pages that have their bits. */
int64_t fill_pages(struct fill *f, const uint8_t *bits);
/* A bit for each page that was filled, written or discarded. */
void fill_done(struct fill *f, uint8_t *bits);
/* The same, and those outside of what the template has, which the kernel brought. */
void fill_own(struct fill *f, uint8_t *bits);
void fill_get_stats(struct fill *f, struct fill_stats *out);
/*
 * Where the bytes of a page are, between fill_hold() and fill_release(), while RAM does not change: nothing is filled. own:
 * the page is not the template's any more.
 */
const uint8_t *fill_look(const struct fill *f, struct fill_extent *extent, uint64_t at, bool *own);
/* The page has other bytes than the template. */
bool fill_differs(const struct fill *f, const uint8_t *page, uint64_t at);
void fill_hold(struct fill *f);
void fill_release(struct fill *f);
/* End the thread: pages that are missing are zero then. Meanwhile RAM is not touched. */
void fill_stop(struct fill *f);
/* Free it. RAM is unmapped already, or was never touched. */
void fill_free(struct fill *f);

/* ---- warm_save.c: an image of this process for pyvmm-warm ------------------------------------------------------ */

/*
 * Write to fd (an empty file) what pyvmm-warm needs to become this process.  sources: paths, each ended by a zero byte,
 * the last by two: the interpreter, the script, and the files from which something in memory was made; the image is valid
 * as long as none of them changes.  0, or -errno: -EBUSY when this process has more than memory (threads,
 * descriptors), -EAGAIN when a file is so new that it may have changed since it was read.  In a process that is started
 * from the image it returns 1.
 */
int warm_save(int fd, const char *sources);
/* In a process that was started from an image: its command line from the script on, and its environment, each ended by NULL. */
char **warm_arguments(void);
char **warm_environment(void);

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
/* A device with a window of guest memory will be removed while vCPUs run: none of them calls it any more. */
void bus_remove_window(struct bus *bus, const void *device);
/* Move a window, named by its device, while vCPUs run; all ones: the guest cannot reach it. */
void bus_move_window(struct bus *bus, const void *device, uint64_t base);
/* One access from a vCPU. BUS_DONE: answered in C. BUS_UNCLAIMED: no range there, data filled with ones on a read.
 * BUS_TO_PYTHON: a range, or a register, that Python answers. */
enum { BUS_DONE = 0, BUS_UNCLAIMED = 1, BUS_TO_PYTHON = 2 };
int bus_access(struct bus *bus, int space, uint64_t addr, uint8_t *data, uint32_t len, bool write);

/* ---- vcpu.c: the KVM_RUN loop ------------------------------------------------------------------------------- */

enum { VCPU_REASONS = 64 };

struct vcpu_stats {
	uint64_t c[64];      /* exits by KVM_EXIT_* that C answered */
	uint64_t python[64]; /* exits by KVM_EXIT_* that were handed to Python */
	uint64_t unclaimed;  /* of those in C: accesses outside of all ranges, read as all ones */
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
/*
 * Map pages of RAM that have their bits for the guest, before it runs, and takes an exit for each of them
 * (KVM_PRE_FAULT_MEMORY, Linux 6.11). fd: a KVM vCPU that does not run; ram: where RAM begins. 0 or -errno: this KVM cannot,
 * or not all.
 */
int vcpu_map_pages(int fd, const struct mem *mem, const void *ram, const uint8_t *bits);

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
/* 1: chain filled; 0: the ring is empty; -errno: the guest broke the ring. That is latched: each later call returns the
 * same error, and ring_error() describes the rule that was broken. */
int ring_pop(struct ring *ring, struct chain *chain);
/* Give a popped head back, not yet visible to the guest. -EINVAL: that head is not in flight. */
int ring_push(struct ring *ring, uint32_t head, uint32_t written);
/* Make all pushes visible. 1 when the guest wants an interrupt for them, 0 when not. */
int ring_flush(struct ring *ring);
/* Ask for a kick for the next chain (1), or suppress kicks while the caller polls (0).
 * After asking, 1 is returned when chains are there already: then do not sleep. */
int ring_kicks(struct ring *ring, int enable);
/*
 * The device's state of a ring. It can be in memory that is shared with another process, which takes the ring over when the
 * process that serves it dies. A struct ring_log lies RING_LOG_OFFSET behind it, which a packed ring needs.
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
/* Keep the state at `state` from now on, in RING_STATE_STRIDE bytes that outlive the ring. 0 or -ENOMEM. */
int ring_share(struct ring *ring, struct ring_state *state);
/*
 * Continue where another process left a ring of the same configuration. Returns how many chains that one had popped and not
 * pushed: ring_pop() returns these again, first. What it had pushed is published; interrupt the guest, which may have missed
 * that. The state is checked: -EPROTO when it is not valid, and nothing changes then.
 */
int ring_adopt(struct ring *ring, const struct ring_state *state);
/* NULL while there is no error. */
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
/* What top -H shows of the next worker that the calling thread starts: up to 15 bytes, the rest is cut off. */
void thread_name_next(const char *name);
/* The same of the thread that calls. */
void thread_set_name(const char *name);
/* The number of the forbidden system call that ended its thread; -1: none. */
int worker_forbidden(struct worker *worker);
/* 1: the thread has no other system calls than those of its kind. */
int worker_walled(struct worker *worker);
/* 0, or the latched -errno of the ring that stopped this worker. */
int worker_error(struct worker *worker);
void worker_get_stats(struct worker *worker, struct worker_stats *out);

/* ---- calls.c: the system calls of each kind of thread --------------------------------------------------------- */

/* Kinds of threads, as bits of `whose`. */
enum {
	SECCOMP_BLK = 1, SECCOMP_NET = 2, SECCOMP_VSOCK = 4, SECCOMP_CONSOLE = 8, SECCOMP_PMEM = 16, SECCOMP_DAX = 32,
	/* A process that has a machine and nothing else; and what it needs with certain options only. */
	SECCOMP_VMM = 64, SECCOMP_VHOST = 128, SECCOMP_TTY = 256, SECCOMP_DISK = 512, SECCOMP_CHILD = 1024,
	/* Of its threads: a vCPU; the control loop; the one that starts workers, and these before they have their own list. */
	SECCOMP_VCPU = 2048, SECCOMP_LOOP = 4096, SECCOMP_START = 8192,
	/* A worker that serves rings and guest memory, and has no file or socket of the host's. */
	SECCOMP_WORKER = 32768,
	/*
	 * More for certain things only: a clone that reads memory beforehand; a worker that connects to sockets of the host by
	 * itself; a control socket, which somebody else serves; gdb.
	 */
	SECCOMP_PREFETCH = 16384, SECCOMP_REACH = 65536, SECCOMP_CONTROL = 131072, SECCOMP_GDB = 262144,
	/* The broker, a program of its own; and a process that has one. */
	SECCOMP_BROKER = 524288, SECCOMP_OUTSIDE = 1048576,
	SECCOMP_FILL = 2097152, /* brings pages of guest RAM (fill.c) */
	SECCOMP_SERVER = 4194304, /* a process that serves the control socket of a machine in a jail */
};

/* A line of the table, calls/table.h. */
struct seccomp_row {
	const char *name, *test, *why;
	uint32_t nr, whose;
};

/*
 * For ever, this thread and those that it starts have the calls of these kinds and no others, whatever filters they add. A call
 * that is not listed ends the process with status 1 and a line on stderr. 0 or -errno.
 */
int seccomp_enter_process(uint32_t kinds);
/*
 * The same for the calling thread alone, which gives its capabilities up, too. Python may run in it: once it has tried such a
 * call, the state of the process is not reliable any more. 0 or -errno.
 */
int seccomp_enter_thread(uint32_t kinds);
/*
 * From now on a thread of its own, which has the calls that workers need and no others, starts the workers for threads that
 * called seccomp_enter_thread(). Each begin needs an end. 0 or -errno.
 */
int seccomp_starter_begin(void);
void seccomp_starter_end(void);
/*
 * For a process that continues to serve its host: for this thread and those that it starts, calls of calls/forbidden.h, or
 * (without `programs`) those that start programs and make machines, fail with EPERM. 0 or -errno.
 */
int seccomp_forbid(uint32_t programs);
/* The i-th; -ENOENT behind the last. */
int seccomp_row(uint32_t i, struct seccomp_row *out);

/* ---- jail.c: what a process gives up that holds a machine ------------------------------------------------------- */

/* Walls, as bits. */
enum {
	JAIL_USER = 1, JAIL_USER_NS = 2, JAIL_CAPABILITIES = 4, JAIL_NO_NEW_PRIVS = 8, JAIL_FILES = 16, JAIL_NET_NS = 32,
	JAIL_IPC_NS = 64, JAIL_UTS_NS = 128, JAIL_CGROUP_NS = 256, JAIL_LANDLOCK = 512, JAIL_LIMITS = 1024,
	JAIL_UNDUMPABLE = 2048, JAIL_SECCOMP = 4096,
};

struct jail_config {
	uint32_t uid;       /* user and group to become; 0: stay */
	uint32_t files;     /* RLIMIT_NOFILE; 0: as it is */
	uint32_t threads;   /* RLIMIT_NPROC, with a uid */
	uint32_t pad;
	uint64_t file_size; /* RLIMIT_FSIZE; 0: as it is */
};

struct jail_walls {
	uint32_t standing;                /* JAIL_* */
	uint32_t missing;                 /* the first that the host does not allow, or 0 */
	int32_t first_errno, pad;         /* why */
};

/*
 * For ever; called by the only thread of the process, when all files are open. 0 however few of the walls stand; -EBUSY: there
 * are other threads, which did not end within a second, and nothing was given up.
 */
int jail_enter(const struct jail_config *config, struct jail_walls *walls);
/*
 * For ever, for the calling thread and those that it starts: no new privileges, no capabilities but these (bits by number),
 * namespaces of their own for IPC and the host's name, no core; processes of the same user cannot trace the process. 0 however
 * few of the walls stand.
 */
int jail_reduce(uint64_t capabilities, struct jail_walls *walls);
/* MADV_DONTNEED: pages of files that were not written are read again when they are touched. */
void memory_unmap_pages(uint64_t address, uint64_t size);
