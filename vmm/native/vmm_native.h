/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The interface of the C data plane for Python (cffi): ints, file descriptors, plain structs, and -errno for errors. The
 * functions of a device are in its own header, between the marks "==== for Python ====" and "==== end ====" (build.py).
 * Nothing here calls back into Python.  Whoever made an object frees it, before the objects that it was made from: workers
 * before rings, rings before memory.  cffi does not understand lines that start with '#', so C files include this one
 * through native.h, which defines the types.
 */

/* ---- guest_access.c: guest RAM ---------------------------------------------------------------------------- */

enum { MEM_MAX_REGIONS = 8 };

struct mem_region {
	uint64_t gpa;  /* first guest physical address */
	uint64_t size; /* bytes */
	uint64_t hva;  /* where it is mapped in this process */
};

/* Set once and never changed, so that workers share it without a lock. Regions are sorted by gpa and do not overlap. */
struct mem {
	uint32_t nregions;
	uint32_t pad;
	struct mem_region region[8];
};

/* The address of [gpa, gpa+len) in this process, if all of it lies in one region; else NULL (also for len 0 outside RAM). */
void *mem_ptr(const struct mem *mem, uint64_t gpa, uint64_t len);
/* Find the next run of pages whose bits are set, from *end up to size (bytes): sets *start and *end. 0: there is none. */
int mem_run(const uint8_t *bits, uint64_t size, uint64_t *start, uint64_t *end);

/* ---- ram.c: saving guest RAM to a sparse file -------------------------------------------------------- */

/*
 * The pages to write: all; those that were touched, as the page map says (anonymous memory); or those of a private mapping
 * that were copied on write.
 */
enum { RAM_ALL, RAM_TOUCHED, RAM_OWN };

struct fill;

struct ram_file {
	int fd;
	int pagemap;       /* /proc/self/pagemap; unused for RAM_ALL */
	int what;          /* RAM_ALL, ... */
	int than_fd;       /* the file of `than`; its holes are not read, since some file systems would allocate them */
	const void *than;  /* NULL, or an image of the same size: only pages that differ from it are written */
	uint8_t *bitmap;   /* NULL, or a bit for each page, set if it was written */
	const void *again; /* NULL, or a mapping of the file: a page whose bit is set is written again if it has changed */
	const uint8_t *look; /* NULL, or with `again`: the pages that may have changed (ram_changed()); the others are not compared */
	struct fill *fill; /* NULL, or RAM is filled on demand: RAM_OWN means pages that were filled or written, RAM_ALL all */
};

/*
 * Write size bytes (whole pages) of RAM, from the offset begin on, to the same offsets of the file; other parts of the file
 * do not change.  Without `than`, pages of zeros are not written; with RAM_OWN and a template, those that equal the
 * template are not.  Callers that report progress write RAM in several calls.  Returns the bytes written, or -errno.
 */
int64_t ram_save(const struct ram_file *file, const void *ram, uint64_t begin, uint64_t size);
/*
 * From now on, until the descriptor is closed, have the kernel note which pages of RAM are written, of those whose bits are set: they
 * are there, and private. What is written by a device's DMA that is under way is not noted. The descriptor, or -errno: this
 * host does not do that (Linux 6.7), or does not allow it.
 */
int ram_watch(void *ram, uint64_t size, const uint8_t *bits);
/* Whether the host is known to copy from its page cache what is read from a file that is not open with O_DIRECT. */
int file_is_cached(int fd);
/* Clear the bits of pages that have not been written since ram_watch(). 0 or -errno. */
int ram_changed(const void *ram, uint64_t size, int pagemap, uint8_t *bits);
/* Read the pages whose bits are set from the file to RAM. 0 or -errno. */
int ram_load(void *ram, uint64_t size, int fd, const uint8_t *bits);
/* Replace pages by new anonymous ones, which are zero, also where a file was mapped.  0 or -errno. */
int ram_zero(void *at, uint64_t len);
/* What RAM is: anonymous memory; a file that other processes map, too; or a private mapping of a snapshot's file. */
enum { RAM_ANONYMOUS = 0, RAM_SHARED = 1, RAM_OVER_FILE = 2 };
/*
 * Give pages back to the host, while the guest runs: they are zero when they are touched again. fill: of RAM that is filled on
 * demand, or NULL. -errno: the host does not take them (it has locked them).
 */
int ram_release(void *at, uint64_t len, uint32_t backing, struct fill *fill);
/* Take pages of a shared mapping out of the tables of the process and of KVM, while the guest runs: they stay in the memfd. */
int ram_unmap(void *at, uint64_t len);

/* ---- snapshot.c: checks of a snapshot's files -------------------------------------------------------------- */

/*
 * CRC-32C of the first size bytes of a file: of each page (4096 bytes) that is not zero its offset (8 bytes, little-endian), and
 * then the page. Holes are not read. Or -errno; ENODATA: the file ends earlier.
 */
int64_t file_crc32c(int fd, uint64_t size);
enum { CBOR_DEPTH = 16 };
/*
 * Whether data is one item of CBOR (RFC 8949) without tags and without lengths that are not stated, of at most so many items,
 * which are nested at most CBOR_DEPTH deep. 0; -EBADMSG: it is no CBOR, or ends early or late; -E2BIG: it has more, or is deeper;
 * -EOPNOTSUPP: it has a tag.
 */
int cbor_check(const uint8_t *data, uint64_t size, uint32_t most);

/* ---- ram_map.c: mappings of guest RAM ---------------------------------------------------------------------- */

/*
 * Replace pages by a mapping of the file fd, from offset on: RAM_SHARED, of a memfd; RAM_OVER_FILE, a private one, and the file is
 * never written. 0, or -errno and nothing has changed.
 */
int ram_map(void *at, uint64_t len, uint32_t backing, int fd, uint64_t offset);
/*
 * Have pieces of 2 MiB of a shared mapping, aligned to that in memory and in the file, there as huge pages, with what they have
 * in them. 0, or -errno: this host does not make them (its policy, no such page free); what is there is as good.
 */
int ram_huge(void *at, uint64_t len);

/* ---- fill*.c: guest RAM that is filled from a template when it is touched ------------------------------- */

/* Any thread may call these functions, if not stated otherwise. */
/* fill_look() caches here where RAM has data. Zeros at first. */
struct fill_extent {
	uint64_t data, hole;
};

struct fill_stats {
	uint64_t faults; /* page faults that were answered */
	uint64_t filled; /* bytes that were copied from the template */
};

/* Make a userfaultfd of this process, by the device (fill_device()) or, if that is -1, by the system call. It, or -errno. */
int fill_uffd(int device);
/* Open /dev/userfaultfd. The descriptor, or -errno. */
int fill_device(void);
/*
 * ram: a shared mapping of the memfd, size bytes, which nobody touches before fill_start(). around: how many pages are
 * filled together when one of them is touched; a power of two. Layers are added before fill_start(). -EPERM and others:
 * the host does not allow it.
 */
struct fill *fill_new(void *ram, uint64_t size, int memfd, uint32_t around, int *err);
/*
 * Add a layer to the template, above those before it: the file fd, which is as long as RAM and must not change. It has the
 * pages whose bits are set. bits may be NULL; fill_data() then adds the pages between two offsets in which the file has
 * data. 0 or -errno.
 */
int fill_layer(struct fill *f, int fd, const uint8_t *bits);
int fill_data(struct fill *f, int fd, uint64_t start, uint64_t end);
/* Remove the layer that was added last, before a fill_start() or fill_again() with it. */
void fill_layer_drop(struct fill *f);
/* Have one layer, which has all their pages, instead of the first n. Any thread, while RAM is used. 0 or -errno. */
int fill_merge(struct fill *f, uint32_t n, int fd, const uint8_t *bits);
/* The bits of layer `index`: for another fill_layer(), which takes less than to ask for the data again. */
void fill_layer_bits(const struct fill *f, uint32_t index, uint8_t *bits);
/*
 * Have RAM lie over fd, the file of the only layer, between two offsets: before fill_ahead() and fill_start(), from the bottom up. That
 * is for what the guest reads and does not let a device write. 0, or -errno and nothing has changed: there are FILL_LAID at most.
 */
enum { FILL_LAID = 4 };
int fill_lay(struct fill *f, int fd, uint64_t start, uint64_t end);
/*
 * Have it be the memfd again there, with what it has: afterwards all of RAM is filled on demand. Nobody writes RAM meanwhile. 0, or
 * -errno: some of it lies there still.
 */
int fill_together(struct fill *f);
/*
 * Fill the pages whose bits are set, before fill_start(), which takes less than to fill them later. huge: where seven eighths
 * of 2 MiB are wanted, fill all of it as a huge page if the host makes one. 0, also if there is no room: then nothing is filled;
 * -errno: what was written cannot be removed.
 */
int fill_ahead(struct fill *f, const uint8_t *bits, bool huge);
/*
 * After fill_start() without layers, when layers were added and nobody touches RAM: fill the pages whose bits are set, and map them.
 * fill_layer_drop() may follow. 0, or -errno: a page may be half full, and this RAM must not be used.
 */
int fill_early(struct fill *f, const uint8_t *bits);
/*
 * After fill_early(), with the layers that count, before fill_again(): the pages that were filled become what those have. same: the
 * first `same` layers, all that fill_early() saw, are those it saw, so pages that no other layer has are not compared; 0: all are.
 */
void fill_renew(struct fill *f, uint32_t same);
/* Record from now on which pages are missing when they are touched, the first FILL_FIRST of them. first: lives as long as f. */
enum { FILL_FIRST = 2048 };
struct fill_first {
	uint32_t count;
	uint32_t page[2048]; /* numbers of pages, in the order in which they were touched */
};
void fill_record(struct fill *f, struct fill_first *first);
/*
 * Start the thread that answers page faults. Called again after fill_rest() if something else was mapped at ram meanwhile.
 * 0 or -errno.
 */
int fill_start(struct fill *f);
/*
 * fill_rest() ends the thread for a while; meanwhile nobody touches RAM. fill_go_on() starts it again, as a child of the
 * calling thread, whose restrictions it inherits. 0 or -errno.
 */
void fill_rest(struct fill *f);
int fill_go_on(struct fill *f);
/*
 * After fill_start(), when layers were added, or something else was mapped at ram: nobody has touched that. empty: nothing of RAM
 * is there any more. 0 or -errno.
 */
int fill_again(struct fill *f, bool empty);
/*
 * Another process will map RAM. uffd: a userfaultfd of that process, which may have been used before; the caller closes
 * it after fill_client_drop() or fill_free(). Returns the number of the client for the other calls, or -errno. The client
 * may map RAM at any address, which fill_client_maps() is told before the client touches RAM; it may be called again.
 */
int fill_client(struct fill *f, int uffd);
int fill_client_maps(struct fill *f, int client, uint64_t address);
void fill_client_drop(struct fill *f, int client);
/*
 * These pages will be discarded: when they are touched again they are zero, and not filled from the template. -EBUSY: they are zero
 * now, and must not be discarded.
 */
int fill_forget(struct fill *f, void *at, uint64_t len);
/* ram_unmap() of all of RAM. */
int fill_unmap(struct fill *f);
/* Fill the pages between two offsets now. Returns the bytes filled, or -errno. */
int64_t fill_range(struct fill *f, uint64_t start, uint64_t end);
/* Fill the pages with these guest physical addresses now; those that are no RAM are left out. */
void fill_places(struct fill *f, const struct mem *mem, const uint64_t *gpa, uint32_t n);
/* Set the bits of the pages that were filled or discarded. */
void fill_done(struct fill *f, uint8_t *bits);
/* The same, and of pages that the template does not have and that the kernel has filled with zeros. */
void fill_own(struct fill *f, uint8_t *bits);
void fill_get_stats(struct fill *f, struct fill_stats *out);
/*
 * The address of the bytes of a page, without filling it: in RAM, or in the template. Called between fill_hold() and
 * fill_release(), while RAM does not change. *own: the page is in RAM.
 */
const uint8_t *fill_look(const struct fill *f, struct fill_extent *extent, uint64_t at, bool *own);
/* Whether the bytes at `page` differ from the page of the template at an offset. */
bool fill_differs(const struct fill *f, const uint8_t *page, uint64_t at);
void fill_hold(struct fill *f);
void fill_release(struct fill *f);
/* End the thread for good. Pages that are not filled are zero afterwards. Meanwhile nobody touches RAM. */
void fill_stop(struct fill *f);
/* Free it. RAM is unmapped already, or nobody has touched it. */
void fill_free(struct fill *f);

/* ---- warm_save.c: an image of this process for pyvmm-warm ------------------------------------------------------ */

/*
 * Write a start image of this process to fd (an empty file); pyvmm-warm starts processes from it.  sources: paths, each
 * ended by a zero byte, the last by two: the interpreter, the script, and all files from which memory was made; the image
 * is valid as long as none of them changes.  0, or -errno: -EBUSY: this process has more than memory (threads,
 * descriptors); -EAGAIN: a file is so new that it may have changed after it was read.  Returns 1 in a process that was
 * started from the image.
 */
int warm_save(int fd, const char *sources);
/* Take `blocks` blocks of `size` bytes from the interpreter's memory for small objects, for good. */
void warm_fill_pools(size_t size, size_t blocks);
/* Free an object of the interpreter's as memory that has none in it. */
void warm_free(void *object);
/* Memory for the code of functions; its address, 0: there is none. Once. */
uint64_t warm_code_area(size_t size);
/* In a process that started from an image: have that be what it was in the image. */
void warm_forget_code(void);
/* In a process that was started from an image: its command line from the script on, and its environment; NULL ends each. */
char **warm_arguments(void);
char **warm_environment(void);

/* ---- guest_access.c: an interrupt of the guest -------------------------------------------------------------- */

enum { IRQ_VRING = 1, IRQ_CONFIG = 2 };

/* status: the transport's register InterruptStatus (virtio 1.2, 4.2.2), or NULL with MSI-X. */
struct irq {
	int fd; /* eventfd bound with KVM_IRQFD */
	uint32_t *status;
	uint64_t raised; /* statistics */
};

/* Set bits in *status, then signal fd. Safe from any thread. */
void irq_raise(struct irq *irq, uint32_t bits);
/* Clear bits in *status, for an InterruptACK that did not come through bus.c. */
void irq_ack(struct irq *irq, uint32_t bits);

/* ---- bus.c: exits that vcpu.c answers without Python --------------------------------------------------------- */

enum { BUS_PIO = 0, BUS_MMIO = 1 };

struct bus;
struct uart;

struct bus *bus_new(void);
void bus_free(struct bus *bus);
/* Python answers this range. */
int bus_add_python(struct bus *bus, int space, uint64_t base, uint64_t size);
/* The register page of a virtio-mmio transport: reads are answered from page[]; a write to InterruptACK (0x64) clears bits of
 * InterruptStatus (0x60), with `keep` all but IRQ_VRING; Python gets every other write. */
int bus_add_regpage(struct bus *bus, uint64_t base, uint64_t size, uint8_t *page, bool keep);
/* An 8250 at an I/O port range of 8. */
int bus_add_uart(struct bus *bus, uint64_t base, struct uart *uart);
/* PCI configuration space of bus 0 behind ECAM. page: for each device number the configuration space of function 0, or NULL.
 * Reads are answered from there. Python gets writes to existing functions, and accesses to the four bytes at trap, if that
 * is not 0. The pages stay readable until the bus is freed. */
struct ecam {
	uint8_t *page[32];
	uint32_t trap[32];
};
int bus_add_ecam(struct bus *bus, uint64_t base, struct ecam *ecam);
/* A virtio-pci BAR: reads of its first 256 bytes are answered from page; Python gets all other accesses. */
int bus_add_bar(struct bus *bus, uint64_t base, uint64_t size, uint8_t *page);
int bus_remove(struct bus *bus, int space, uint64_t base);
/* Remove the window of a device while vCPUs run. When this returns, no vCPU calls the device. */
void bus_remove_window(struct bus *bus, const void *device);
/* Move the window of a device while vCPUs run. base: all ones: the guest cannot reach it. */
void bus_move_window(struct bus *bus, const void *device, uint64_t base);
/* An access of a vCPU. BUS_DONE: C has answered it. BUS_UNCLAIMED: no range has this address; a read gets all ones.
 * BUS_TO_PYTHON: Python answers this range or register. */
enum { BUS_DONE = 0, BUS_UNCLAIMED = 1, BUS_TO_PYTHON = 2 };
int bus_access(struct bus *bus, int space, uint64_t addr, uint8_t *data, uint32_t len, bool write);

/* ---- vcpu.c: the KVM_RUN loop ------------------------------------------------------------------------------- */

enum { VCPU_REASONS = 64 };

struct vcpu_stats {
	uint64_t c[64];      /* exits by KVM_EXIT_* that C answered */
	uint64_t python[64]; /* exits by KVM_EXIT_* that Python answered */
	uint64_t unclaimed;  /* of those in C: accesses outside of all ranges, which read as all ones */
	uint64_t first_run_ns; /* CLOCK_MONOTONIC of the first KVM_RUN */
};

struct vcpu;

/* fd: a KVM vCPU; kvm_run: its mapping. The caller keeps both alive until vcpu_free(). */
struct vcpu *vcpu_new(int fd, void *kvm_run, uint64_t kvm_run_size, struct bus *bus);
void vcpu_free(struct vcpu *vcpu);
/*
 * Run the vCPU until an exit needs Python. Returns its KVM_EXIT_* (>= 0); -EINTR after vcpu_kick(); or another -errno of
 * KVM_RUN.
 */
int vcpu_run(struct vcpu *vcpu);
/* Make vcpu_run() return -EINTR soon, and each further call at once, until vcpu_resume(). From any thread. */
void vcpu_kick(struct vcpu *vcpu);
void vcpu_resume(struct vcpu *vcpu);
void vcpu_stats(const struct vcpu *vcpu, struct vcpu_stats *out);
/*
 * Map the pages of RAM whose bits are set for the guest, before it runs, so that it takes no page fault for each of them
 * (KVM_PRE_FAULT_MEMORY, Linux 6.11). fd: a KVM vCPU that does not run; ram: the address of RAM. 0, or -errno: this KVM
 * cannot do it, or has not mapped all of them.
 */
int vcpu_map_pages(int fd, const struct mem *mem, const void *ram, const uint8_t *bits);

struct ioctl_call {
	uint64_t request, argument; /* argument: an offset in the room */
	int32_t fd;
	int32_t result; /* or -errno */
};

/*
 * Make n calls, an array of struct ioctl_call, one after the other. KVM_GET_MSRS stops at an MSR that KVM does not have for this
 * guest: here that is left out, and those behind it are read, too.
 */
void ioctl_all(void *room, void *calls, uint32_t n);

/* kvm-clock, and the host's TSC at that moment. */
struct vm_clocks {
	uint64_t clock, tsc;
};

/* By a vCPU whose TSC is ahead of the host's by `offset`. 0 or -errno. */
int clocks_get(int vm_fd, int vcpu_fd, uint64_t offset, struct vm_clocks *now);
/* Set kvm-clock so that it is, or was, `from.clock` at `from.tsc`, where the TSC makes khz thousand ticks a second; then get. */
int clocks_set(int vm_fd, int vcpu_fd, uint64_t offset, const struct vm_clocks *from, uint32_t khz, struct vm_clocks *now);

/* ---- spawn.c: other programs -------------------------------------------------------------------------------------- */

/* The descriptor of a program by which it is told what to do. */
enum { SPAWN_SOCKET = 3 };

/*
 * Run the program at path in namespaces of its own, as far as the host allows. Its descriptor SPAWN_SOCKET is the other end of *sock;
 * it gets no other descriptor. Returns a pidfd, *sock, and *pid, for which the caller waits; or -errno.
 */
int process_spawn(const char *path, int *sock, int *pid);

struct spawn_answer {
	int32_t pid, err; /* the process, if there is one; 0, or an errno: it has not become the program, and ends */
};

/*
 * Run a program for a process that may not, which has forked this one: for each message of one byte and a descriptor, argv,
 * with that as descriptor 3, `more` as descriptor 4, no other but the first three, and a session of its own. It is the
 * other's child, not this one's. Answers with a spawn_answer. Returns when the other has ended, or has sent anything else.
 */
void spawn_serve(int sock, int more, char *const *argv);

/* ---- ring.c: a virtqueue, device side: split (virtio 1.2, 2.7) or packed (2.8) -------------------------------- */

enum { RING_MAX_SIZE = 1024, RING_MAX_SEGMENTS = 1024 };
enum { RING_EVENT_IDX = 1, RING_INDIRECT = 2, RING_PACKED = 4 };

struct ring_config {
	uint32_t size;  /* 1 .. RING_MAX_SIZE; of a split ring a power of two */
	uint32_t flags; /* RING_* negotiated features */
	uint64_t desc, avail, used; /* guest physical addresses; avail and used: driver and device area of a packed ring */
	uint32_t next_avail, next_used; /* 0 for a new queue; of a saved one from ring_save() */
};

struct ring;

/* A descriptor chain, copied from guest memory and checked. The device reads from the first nread buffers of iov and writes
 * to the nwrite buffers behind them. */
struct chain {
	uint32_t head; /* less than the size of the queue; in a packed ring the buffer id */
	uint32_t nread, nwrite;
	uint32_t max; /* length of iov, set by the caller */
	uint64_t read_len, write_len; /* bytes in each part */
	struct iovec *iov;
};

/* Checks the whole configuration (alignment, every byte in RAM). NULL and *err = -errno if it is not valid. */
struct ring *ring_new(const struct mem *mem, const struct ring_config *config, int *err);
void ring_free(struct ring *ring);
/* 1: *chain is set; 0: the ring is empty; -errno: the guest broke a rule. The error is latched: each later call returns
 * it, and ring_error() describes the rule. */
int ring_pop(struct ring *ring, struct chain *chain);
/* Give a popped head back; the guest does not see it yet. -EINVAL: that head is not in flight. */
int ring_push(struct ring *ring, uint32_t head, uint32_t written);
/* Publish all pushes. 1 if the guest wants an interrupt for them, else 0. */
int ring_flush(struct ring *ring);
/* Ask for a kick at the next chain (enable 1), or suppress kicks while the caller polls (0). After asking, 1 is returned if
 * there is a chain already; the caller must not sleep then. */
int ring_kicks(struct ring *ring, int enable);
/*
 * The device's state of a ring. It may lie in memory that is shared with another process, which continues when the process
 * that serves the ring dies. A packed ring also needs a struct ring_log, RING_LOG_OFFSET bytes behind it.
 */
enum { RING_STATE_STRIDE = 32768, RING_LOG_OFFSET = 256 };
struct ring_state {
	uint16_t next_avail, next_used; /* where to pop and push next: an index (split), a position (packed) */
	uint16_t published;             /* next_used at the last publish */
	uint16_t signalled;             /* split: next_used at the last decision about an interrupt */
	uint32_t in_flight;
	uint32_t descs;                 /* packed: descriptors of the chains in flight */
	uint16_t last_pop, last_push;   /* packed: buffer ids */
	uint16_t first_flags, pad;      /* packed: the flags that the next publish gives to the descriptor at `published` */
	uint64_t busy[16];              /* a bit for each head that was popped and not pushed */
};
/* A chain of a packed ring: its position, how many descriptors it has, and the first of their copies in the log. */
struct ring_chain {
	uint16_t position, count, first, pad;
};
/* Copies of the descriptors of all chains in flight: in the ring itself they may be overwritten. */
struct ring_log_desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags, next;
};
struct ring_log {
	struct ring_chain chain[1024]; /* by buffer id */
	struct ring_log_desc desc[1024];
};
/* Keep the state at `state` from now on, in RING_STATE_STRIDE bytes that exist longer than the ring. 0 or -ENOMEM. */
int ring_share(struct ring *ring, struct ring_state *state);
/*
 * Continue where another process left a ring of the same configuration. Returns the number of chains in flight: ring_pop()
 * returns these first. Pushes of the other process are published; the caller then interrupts the guest, which may have
 * missed that. The state is checked: -EPROTO if it is not valid, and nothing has changed.
 */
int ring_adopt(struct ring *ring, const struct ring_state *state);
/* The rule that the guest broke, in words; NULL: no error. */
const char *ring_error(const struct ring *ring);
/* 0; -EBUSY while heads are in flight or pushes are not flushed, since they would be lost; or the latched error. */
int ring_save(const struct ring *ring, struct ring_config *out);

/* ---- worker.c: a data-plane thread --------------------------------------------------------------------------- */

struct worker;

struct worker_stats {
	uint64_t kicks, chains, irqs, wakeups;
};

/* Stop the worker: finish all I/O in flight and join the thread. Afterwards nothing of it touches guest memory. */
void worker_stop(struct worker *worker);
void worker_free(struct worker *worker);
/*
 * Have the worker rest: as worker_stop(), and its thread waits for worker_go_on(), or worker_stop(). Of devices that are said to
 * have such workers.
 */
void worker_hold(struct worker *worker);
void worker_go_on(struct worker *worker);
/* Set the name (top -H) of the next worker that the calling thread starts; at most 15 bytes, the rest is cut off. */
void thread_name_next(const char *name);
/* Set the name of the calling thread. */
void thread_set_name(const char *name);
/* The number of the forbidden system call that the worker's thread tried; -1: none. */
int worker_forbidden(struct worker *worker);
/* 1: the worker's thread has a filter that allows only the system calls of its kind. */
int worker_walled(struct worker *worker);
/* 0, or the latched -errno of the ring that stopped the worker. */
int worker_error(struct worker *worker);
void worker_get_stats(struct worker *worker, struct worker_stats *out);
/*
 * Make a spare: a thread with this name for a worker that is to be of the same kind as this one. It has its list of system
 * calls, and waits for the start of such a worker of any device that has this name, see thread_name_next(). 0 or -errno.
 */
struct spare;
int worker_spare(struct worker *like, const char *name, struct spare **out);
/* Free it; the thread ends unless a worker has it. */
void spare_free(struct spare *spare);

/* ---- calls.c: the system calls of each kind of thread --------------------------------------------------------- */

/* Kinds of threads, as bits. */
enum {
	SECCOMP_BLK = 1, SECCOMP_NET = 2, SECCOMP_VSOCK = 4, SECCOMP_CONSOLE = 8, SECCOMP_PMEM = 16, SECCOMP_DAX = 32,
	/* A process that only has a machine; and the calls that it needs with certain options. */
	SECCOMP_VMM = 64, SECCOMP_VHOST = 128, SECCOMP_TTY = 256, SECCOMP_DISK = 512, SECCOMP_CHILD = 1024,
	/* Its threads: a vCPU; the control loop; the starter, and workers before they install their own filter. */
	SECCOMP_VCPU = 2048, SECCOMP_LOOP = 4096, SECCOMP_START = 8192,
	/*
	 * Calls for certain purposes: a clone that reads memory ahead; a worker that connects to sockets of the host without a
	 * broker; a machine with a control socket; gdb.
	 */
	SECCOMP_PREFETCH = 16384, SECCOMP_REACH = 65536, SECCOMP_CONTROL = 131072, SECCOMP_GDB = 262144,
	/* The broker; and a process that has one. */
	SECCOMP_BROKER = 524288, SECCOMP_OUTSIDE = 1048576,
	SECCOMP_FILL = 2097152, /* the thread that fills guest RAM (fill_faults.c) */
	SECCOMP_SERVER = 4194304, /* the process that serves the control socket of a jailed machine */
	SECCOMP_HOST = 8388608, /* a process with a machine that continues to serve its host */
	SECCOMP_SPAWN = 16777216, /* such a process that starts programs, and these programs */
	SECCOMP_RNG = 33554432, /* a worker, as the first ones */
	SECCOMP_SHARES = 67108864, /* the process that starts servers of shares, and these until they have their own list */
	SECCOMP_FORKS = 134217728, /* the process that makes forks of a jailed machine */
};

/* A line of calls/table.h; whose: bits SECCOMP_*. value: the n values of its test of an argument. */
struct seccomp_row {
	const char *name, *test, *why;
	uint32_t nr, whose, argument, n;
	const uint32_t *value;
};

/*
 * Restrict the calling thread, and those that it starts, to the calls of these kinds, for good. Any other call ends the process
 * with status 1 and a line on stderr. 0 or -errno.
 */
int seccomp_enter_process(uint32_t kinds);
/*
 * The same for the calling thread alone, which gives up its capabilities, too. Any other call of it ends the process, since
 * the thread may run Python, and the state of the process cannot be relied on afterwards. 0 or -errno.
 */
int seccomp_enter_thread(uint32_t kinds);
/*
 * Make the starter, a thread that has only the calls that workers need, and starts workers on behalf of threads that have
 * called seccomp_enter_thread(). Each begin needs an end. 0 or -errno.
 */
int seccomp_starter_begin(void);
void seccomp_starter_end(void);
enum {
	SECCOMP_FORBID_SEALED, /* calls that start programs or processes, or make machines */
	SECCOMP_FORBID_NEVER,  /* those of calls/forbidden.h */
	SECCOMP_FORBID_HELPER, /* the same, but not those that machines make while they start */
};

/* Make system calls fail with EPERM for the calling thread and those that it starts, for good. what: SECCOMP_FORBID_*. 0 or -errno. */
int seccomp_forbid(uint32_t what);
/*
 * Restrict all threads of the process, for good, to the calls of SECCOMP_HOST and of a machine's threads; others fail with ENOSYS.
 * So it starts no programs, processes or machines; with `programs` it may start programs, which have the same list, and all have the
 * calls of SECCOMP_SPAWN. The calling thread keeps the capabilities of this bit set. 0 or -errno; -EBUSY: another thread has a list.
 */
int seccomp_keep(uint64_t capabilities, uint32_t programs);
/* The i-th line; -ENOENT behind the last. */
int seccomp_row(uint32_t i, struct seccomp_row *out);

/* ---- jail.c: the jail of a machine's process -------------------------------------------------------------------- */

/* Walls, as bits. */
enum {
	JAIL_USER = 1, JAIL_USER_NS = 2, JAIL_CAPABILITIES = 4, JAIL_NO_NEW_PRIVS = 8, JAIL_FILES = 16, JAIL_NET_NS = 32,
	JAIL_IPC_NS = 64, JAIL_UTS_NS = 128, JAIL_CGROUP_NS = 256, JAIL_LANDLOCK = 512, JAIL_LIMITS = 1024,
	JAIL_UNDUMPABLE = 2048, JAIL_SECCOMP = 4096,
};

struct jail_config {
	uint32_t uid;       /* user and group to change to; 0: do not change */
	uint32_t files;     /* RLIMIT_NOFILE; 0: do not change */
	uint32_t threads;   /* RLIMIT_NPROC; only with a uid */
	uint32_t grows;     /* file_size is only the soft limit: jail_raise_file_size() can raise it */
	uint64_t file_size; /* RLIMIT_FSIZE; 0: do not change */
};

struct jail_walls {
	uint32_t standing;                /* the walls that are in force: bits JAIL_* */
	uint32_t missing;                 /* the first one that the host refused, or 0 */
	int32_t first_errno, pad;         /* the error of that one */
};

/*
 * Enter the jail, for good. The only thread of the process calls this when all files are open. Returns 0 even if the host
 * refused walls: see *walls. -EBUSY: there are other threads, which did not end within a second; nothing has changed.
 */
int jail_enter(const struct jail_config *config, struct jail_walls *walls);
/*
 * Restrict the calling thread, and those that it starts, for good: no new privileges, no capabilities but these (bits by
 * number), an IPC and a UTS namespace of its own, no core dump; processes of the same user cannot trace the process. Returns
 * 0 even if the host refused walls: see *walls.
 */
int jail_reduce(uint64_t capabilities, struct jail_walls *walls);
/*
 * Let a jailed process, whose user and group *uid* is (0: the caller's own), write files of *size* bytes. Its filter does not
 * let it change the limit itself. 0 or -errno.
 */
int jail_raise_file_size(int pid, uint32_t uid, uint64_t size);
/* Open a file to read as one without capabilities: a descriptor or -errno. */
int jail_open_unprivileged(const char *path);
/*
 * Restrict the calling thread, and those that it starts, for good: files can be made, read, written and removed below these n
 * directories (O_PATH descriptors) only, and nothing else be done to the host's files. After jail_reduce(). 0; -errno: not with
 * this kernel.
 */
int jail_keep_folders(const int *folders, uint32_t n);
/*
 * MADV_DONTNEED for *count* pairs of address and size: unmodified pages of files are mapped again when they are touched. Then
 * wait until fd can be read, or a signal is handled, or the time is over (milliseconds, -1: never); here, since the caller's
 * own wait would have its code mapped again. Meanwhile it does so again after 2 seconds, 4, 8 and so on, at last each minute:
 * other threads may need some of it for a moment.
 */
void memory_unmap_and_wait(const uint64_t *ranges, uint32_t count, int fd, int timeout);
