/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The interface of the C data plane for Python (cffi): integers, file descriptors, plain structs, and -errno for
 * errors. Each device declares its functions in its own header, between the marks "==== for Python ====" and "==== end
 * ====" (build.py). Nothing here calls back into Python. The creator of an object frees it before the objects that it
 * uses: workers before rings, rings before memory. cffi does not parse lines that start with '#', so C files include
 * this one through native.h, which defines the types.
 */

/* ---- guest_access.c: guest RAM ---------------------------------------------------------------------------- */

enum { MEM_MAX_REGIONS = 8 };

struct mem_region {
	uint64_t gpa;  /* first guest physical address */
	uint64_t size; /* bytes */
	uint64_t hva;  /* its mapping in this process */
};

/* Immutable once set, so workers share it without a lock. Regions are sorted by gpa and do not overlap. */
struct mem {
	uint32_t nregions;
	uint32_t pad;
	struct mem_region region[8];
};

/*
 * The address of [gpa, gpa+len) in this process if one region contains all of it, else NULL. A len of 0 outside RAM
 * also returns NULL.
 */
void *mem_ptr(const struct mem *mem, uint64_t gpa, uint64_t len);
/* Find the next run of set bits in [*end, size), in bytes. Sets *start and *end and returns 1; 0: there is none. */
int mem_run(const uint8_t *bits, uint64_t size, uint64_t *start, uint64_t *end);

/* ---- ram.c: saving guest RAM to a sparse file -------------------------------------------------------- */

/*
 * The pages to write: all; those that were touched, according to the page map (anonymous memory); or the
 * copied-on-write pages of a private mapping.
 */
enum { RAM_ALL, RAM_TOUCHED, RAM_OWN };

struct fill;

struct ram_file {
	int fd;
	int pagemap;       /* /proc/self/pagemap; unused for RAM_ALL */
	int what;          /* RAM_ALL, ... */
	int than_fd;       /* the file of `than`; its holes are not read: some file systems would allocate them */
	const void *than;  /* NULL, or an image of the same size: only pages that differ from it are written */
	uint8_t *bitmap;   /* NULL, or a bit for each page, set if it was written */
	const void *again; /* NULL, or a mapping of the file: rewrite pages whose bit is set if they changed */
	const uint8_t *look; /* NULL, or with `again`: compare only these pages (ram_changed()) */
	struct fill *fill; /* NULL, or for RAM filled on demand: RAM_OWN selects filled or written pages, RAM_ALL all */
};

/*
 * Write size bytes of RAM (whole pages) from the offset begin to the same offsets of the file. Other parts of the file
 * do not change. Without `than`, zero pages are skipped. RAM_OWN with a template skips pages that equal the template.
 * Callers that report progress save RAM in several calls. Returns the bytes written, or -errno.
 */
int64_t ram_save(const struct ram_file *file, const void *ram, uint64_t begin, uint64_t size);
/*
 * Start to track writes to the pages whose bits are set, until the descriptor is closed. The pages must be present and
 * private. Writes by a device's DMA already in progress are not tracked. Returns the descriptor, or -errno: the host
 * does not support this (before Linux 6.7) or does not allow it.
 */
int ram_watch(void *ram, uint64_t size, const uint8_t *bits);
/* Whether reads of the file are known to go through the page cache, as they do without O_DIRECT. */
int file_is_cached(int fd);
/* Clear the bits of pages that were not written since ram_watch(). 0 or -errno. */
int ram_changed(const void *ram, uint64_t size, int pagemap, uint8_t *bits);
/* Read the pages whose bits are set from the file into RAM. 0 or -errno. */
int ram_load(void *ram, uint64_t size, int fd, const uint8_t *bits);
/* Replace pages with new anonymous pages, which are zero, even where a file was mapped. 0 or -errno. */
int ram_zero(void *at, uint64_t len);
/*
 * The backing of RAM: anonymous memory; a memfd that other processes map, too; or a private mapping of a snapshot's
 * file.
 */
enum { RAM_ANONYMOUS = 0, RAM_SHARED = 1, RAM_OVER_FILE = 2 };
/*
 * Return pages to the host while the guest runs. They read as zero when touched again. fill: NULL unless RAM is filled
 * on demand. -errno: the host refuses, because the pages are locked.
 */
int ram_release(void *at, uint64_t len, uint32_t backing, struct fill *fill);
/*
 * Remove pages of a shared mapping from the page tables of the process and of KVM while the guest runs. Their contents
 * stay in the memfd.
 */
int ram_unmap(void *at, uint64_t len);

/* ---- snapshot.c: checks of a snapshot's files -------------------------------------------------------------- */

/*
 * CRC-32C of the first size bytes of a file. Each nonzero page (4096 bytes) contributes its offset (8 bytes,
 * little-endian) and its bytes. Holes are not read. Or -errno; -ENODATA: the file is shorter.
 */
int64_t file_crc32c(int fd, uint64_t size);
enum { CBOR_DEPTH = 16 };
/*
 * Check that data is one CBOR item (RFC 8949) without tags or indefinite lengths. It may contain at most `most` items,
 * nested at most CBOR_DEPTH deep. 0; -EBADMSG: not CBOR, truncated, or followed by more data; -E2BIG: too many items or
 * too deep; -EOPNOTSUPP: a tag.
 */
int cbor_check(const uint8_t *data, uint64_t size, uint32_t most);

/* ---- ram_map.c: mappings of guest RAM ---------------------------------------------------------------------- */

/*
 * Replace pages with a mapping of the file fd from offset. RAM_SHARED: of a memfd. RAM_OVER_FILE: a private mapping, so
 * the file is never written. 0, or -errno and nothing has changed.
 */
int ram_map(void *at, uint64_t len, uint32_t backing, int fd, uint64_t offset);
/*
 * Collapse 2 MiB ranges of a shared mapping into huge pages, keeping their contents. Ranges are aligned to 2 MiB in
 * memory and in the file. 0, or -errno: the host's policy forbids huge pages or none is free; the mapping stays usable.
 */
int ram_huge(void *at, uint64_t len);

/* ---- fill*.c: guest RAM that is filled from a template when it is touched ------------------------------- */

/* Any thread may call these functions, unless stated otherwise. */
/* A cache of fill_look(): where RAM has data. Initially zero. */
struct fill_extent {
	uint64_t data, hole;
};

struct fill_stats {
	uint64_t faults; /* page faults answered */
	uint64_t filled; /* bytes copied from the template */
};

/*
 * Make a userfaultfd of this process: through the device (fill_device()), or by the system call if device is -1.
 * Returns it, or -errno.
 */
int fill_uffd(int device);
/* Open /dev/userfaultfd. Returns the descriptor, or -errno. */
int fill_device(void);
/*
 * ram: a shared mapping of the memfd, size bytes, untouched until fill_start(). around: how many pages one fault fills;
 * a power of two. Layers are added before fill_start(). -EPERM and other errors: the host does not allow it.
 */
struct fill *fill_new(void *ram, uint64_t size, int memfd, uint32_t around, int *err);
/*
 * Add a layer to the top of the template: the file fd, which is as long as RAM and must not change. The layer provides
 * the pages whose bits are set. bits may be NULL; fill_data() then adds the pages between two offsets where the file
 * has data. 0 or -errno.
 */
int fill_layer(struct fill *f, int fd, const uint8_t *bits);
int fill_data(struct fill *f, int fd, uint64_t start, uint64_t end);
/* Remove the layer added last, before a fill_start() or fill_again() uses it. */
void fill_layer_drop(struct fill *f);
/*
 * Replace the first n layers with one that contains all their pages. Any thread may call this while RAM is in use. 0 or
 * -errno.
 */
int fill_merge(struct fill *f, uint32_t n, int fd, const uint8_t *bits);
/* Copy the bits of layer `index`, for another fill_layer(): cheaper than searching the file for data again. */
void fill_layer_bits(const struct fill *f, uint32_t index, uint8_t *bits);
/*
 * Map fd, the file of the only layer, over RAM between two offsets. Call this in ascending order, before fill_ahead()
 * and fill_start(). It suits memory that the guest reads and that no device writes. 0, or -errno and nothing has
 * changed; FILL_LAID limits the number of ranges.
 */
enum { FILL_LAID = 4 };
int fill_lay(struct fill *f, int fd, uint64_t start, uint64_t end);
/*
 * Map the memfd there again and keep the contents; afterwards all of RAM is filled on demand. Nobody may write RAM
 * meanwhile. 0, or -errno: part of RAM is still mapped over the file.
 */
int fill_together(struct fill *f);
/*
 * Fill the pages whose bits are set before fill_start(), which is cheaper than filling them later. huge: if seven
 * eighths of a 2 MiB range are wanted, fill all of it as a huge page where the host allows one. 0, even if memory is
 * short: then nothing is filled. -errno: what was written cannot be removed.
 */
int fill_ahead(struct fill *f, const uint8_t *bits, bool huge);
/*
 * Fill and map the pages whose bits are set. Call this after fill_start() without layers, once layers were added, while
 * nobody touches RAM. fill_layer_drop() may follow. 0, or -errno: a page may be partly filled, and this RAM must not be
 * used.
 */
int fill_early(struct fill *f, const uint8_t *bits);
/*
 * Update the pages that fill_early() filled to the final layers. Call this between fill_early() and fill_again(). same:
 * this many of the first layers are the ones that fill_early() used. Pages that only these have are not compared; 0:
 * compare all.
 */
void fill_renew(struct fill *f, uint32_t same);
/* Record which missing pages are touched from now on: the first FILL_FIRST. `first` must outlive f. */
enum { FILL_FIRST = 2048 };
struct fill_first {
	uint32_t count;
	uint32_t page[2048]; /* page numbers, in the order of the first touch */
};
void fill_record(struct fill *f, struct fill_first *first);
/*
 * Start the thread that answers page faults. After fill_rest(), call this again if something else was mapped at ram
 * meanwhile. 0 or -errno.
 */
int fill_start(struct fill *f);
/*
 * fill_rest() ends the thread temporarily; nobody touches RAM until fill_go_on() starts it again. The new thread
 * inherits the restrictions of the calling thread. 0 or -errno.
 */
void fill_rest(struct fill *f);
int fill_go_on(struct fill *f);
/*
 * Call this after fill_start() when layers were added, or something else was mapped at ram and nobody has touched it.
 * empty: no page of RAM is present any more. 0 or -errno.
 */
int fill_again(struct fill *f, bool empty);
/*
 * Register another process that will map RAM. uffd: a userfaultfd of that process, possibly used before. The caller
 * closes it after fill_client_drop() or fill_free(). Returns the client's number for the other calls, or -errno. The
 * client may map RAM at any address. Pass it to fill_client_maps() before the client touches RAM; the call may be
 * repeated.
 */
int fill_client(struct fill *f, int uffd);
int fill_client_maps(struct fill *f, int client, uint64_t address);
void fill_client_drop(struct fill *f, int client);
/*
 * Mark pages that the caller is about to discard: they will read as zero instead of being filled from the template.
 * -EBUSY: they are zero already and must not be discarded.
 */
int fill_forget(struct fill *f, void *at, uint64_t len);
/* ram_unmap() for all of RAM. */
int fill_unmap(struct fill *f);
/* Fill the pages between two offsets immediately. Returns the bytes filled, or -errno. */
int64_t fill_range(struct fill *f, uint64_t start, uint64_t end);
/* Fill the pages at these guest physical addresses immediately. Addresses outside RAM are ignored. */
void fill_places(struct fill *f, const struct mem *mem, const uint64_t *gpa, uint32_t n);
/* Set the bits of all pages that were filled or discarded. */
void fill_done(struct fill *f, uint8_t *bits);
/* The same, including pages that the template lacks and the kernel filled with zeros. */
void fill_own(struct fill *f, uint8_t *bits);
void fill_get_stats(struct fill *f, struct fill_stats *out);
/*
 * The address of a page's bytes, in RAM or in the template, without filling the page. Call this between fill_hold() and
 * fill_release(), while RAM does not change. *own: the page is in RAM.
 */
const uint8_t *fill_look(const struct fill *f, struct fill_extent *extent, uint64_t at, bool *own);
/* Whether `page` differs from the template's page at an offset. */
bool fill_differs(const struct fill *f, const uint8_t *page, uint64_t at);
void fill_hold(struct fill *f);
void fill_release(struct fill *f);
/* End the thread permanently. Unfilled pages read as zero afterwards. No thread may access RAM meanwhile. */
void fill_stop(struct fill *f);
/* Free f. RAM must be unmapped already, or untouched. */
void fill_free(struct fill *f);

/* ---- warm_save.c: an image of this process for pyvmm-warm ------------------------------------------------------ */

/*
 * Write a process image of this process to fd (an empty file); pyvmm-warm starts processes from it. sources: paths,
 * each terminated by a zero byte, the last by two. They name the interpreter, the script and every file that memory was
 * made from. The image is valid while none of them changes. 0, or -errno. -EBUSY: the process has more than memory,
 * such as threads or descriptors. -EAGAIN: a file is so new that a change after it was read could go unnoticed. Returns
 * 1 in a process that starts from the image.
 */
int warm_save(int fd, const char *sources);
/* Allocate `blocks` blocks of `size` bytes from the interpreter's small-object memory and never free them. */
void warm_fill_pools(size_t size, size_t blocks);
/* Return the memory of an object to the interpreter without finalizing the object. */
void warm_free(void *object);
/* Allocate memory for the code of functions. Returns its address; 0: none. May be called once. */
uint64_t warm_code_area(size_t size);
/* In a process that started from an image: discard all changes of the code area since then. */
void warm_forget_code(void);
/*
 * Call MADV_DONTNEED for *count* pairs of address and size, and for pages of objects that have not changed since a start
 * from an image, then wait until fd is readable, a signal is handled or the timeout (milliseconds, -1: never) expires.
 * The kernel maps unmodified pages of files again on access. The wait is in C because a wait in Python would map the
 * caller's code again. It repeats the call after 2, 4, 8 seconds and so on, finally each minute: other threads may
 * briefly touch some of the pages. maps, pagemap: the files of /proc/self.
 */
void warm_unmap_and_wait(const uint64_t *ranges, uint32_t count, int maps, int pagemap, int fd, int timeout);
/*
 * In a process that started from an image: its arguments, beginning with the script, and its environment; each ends
 * with NULL.
 */
char **warm_arguments(void);
char **warm_environment(void);

/* ---- guest_access.c: an interrupt of the guest -------------------------------------------------------------- */

enum { IRQ_VRING = 1, IRQ_CONFIG = 2 };

/* status: the transport's register InterruptStatus (virtio 1.2, 4.2.2), or NULL with MSI-X. */
struct irq {
	int fd; /* eventfd bound with KVM_IRQFD */
	uint32_t *status;
	uint64_t raised; /* a statistic */
};

/* Set bits in *status, then signal fd. Any thread may call this. */
void irq_raise(struct irq *irq, uint32_t bits);
/* Clear bits in *status, for a write to InterruptACK that did not pass through bus.c. */
void irq_ack(struct irq *irq, uint32_t bits);

/* ---- bus.c: exits that vcpu.c answers without Python --------------------------------------------------------- */

enum { BUS_PIO = 0, BUS_MMIO = 1 };

struct bus;
struct uart;

struct bus *bus_new(void);
void bus_free(struct bus *bus);
/* Add a range that Python handles. */
int bus_add_python(struct bus *bus, int space, uint64_t base, uint64_t size);
/*
 * Add the register page of a virtio-mmio transport. Reads are answered from page[]. A write to InterruptACK (0x64)
 * clears bits of InterruptStatus (0x60), all but IRQ_VRING. Python handles every other write.
 */
int bus_add_regpage(struct bus *bus, uint64_t base, uint64_t size, uint8_t *page);
/* Add an 8250 at a range of 8 I/O ports. */
int bus_add_uart(struct bus *bus, uint64_t base, struct uart *uart);
/*
 * PCI configuration space of bus 0, accessed through ECAM. page: for each device number, the configuration space of
 * function 0, or NULL. Reads are answered from there. Python handles writes to existing functions, and accesses to the
 * four bytes at trap unless that is 0. The pages must stay readable until the bus is freed.
 */
struct ecam {
	uint8_t *page[32];
	uint32_t trap[32];
};
int bus_add_ecam(struct bus *bus, uint64_t base, struct ecam *ecam);
/* Add a virtio-pci BAR: reads of its first 256 bytes are answered from page; Python handles all other accesses. */
int bus_add_bar(struct bus *bus, uint64_t base, uint64_t size, uint8_t *page);
int bus_remove(struct bus *bus, int space, uint64_t base);
/* Remove a device's window while vCPUs run. After this returns, no vCPU calls the device. */
void bus_remove_window(struct bus *bus, const void *device);
/* Move a device's window while vCPUs run. A base of all ones makes it unreachable. */
void bus_move_window(struct bus *bus, const void *device, uint64_t base);
/*
 * Perform a vCPU's access. BUS_DONE: C has answered it. BUS_UNCLAIMED: no range has this address; a read returns all
 * ones. BUS_TO_PYTHON: Python handles this range or register.
 */
enum { BUS_DONE = 0, BUS_UNCLAIMED = 1, BUS_TO_PYTHON = 2 };
int bus_access(struct bus *bus, int space, uint64_t addr, uint8_t *data, uint32_t len, bool write);

/* ---- vcpu.c: the KVM_RUN loop ------------------------------------------------------------------------------- */

enum { VCPU_REASONS = 64 };

struct vcpu_stats {
	uint64_t c[64];      /* exits by KVM_EXIT_* that C answered */
	uint64_t python[64]; /* exits by KVM_EXIT_* that Python answered */
	uint64_t unclaimed;  /* of those in C: accesses outside all ranges, which read as all ones */
	uint64_t first_run_ns; /* CLOCK_MONOTONIC of the first KVM_RUN */
};

struct vcpu;

/* fd: a KVM vCPU; kvm_run: its mapping. The caller keeps both alive until vcpu_free(). */
struct vcpu *vcpu_new(int fd, void *kvm_run, uint64_t kvm_run_size, struct bus *bus);
void vcpu_free(struct vcpu *vcpu);
/*
 * Run the vCPU until an exit needs Python. Returns its KVM_EXIT_* (>= 0), -EINTR after vcpu_kick(), or another -errno.
 */
int vcpu_run(struct vcpu *vcpu);
/*
 * Interrupt vcpu_run(), which returns -EINTR, at once in each later call, until vcpu_resume(). Any thread may call
 * this.
 */
void vcpu_kick(struct vcpu *vcpu);
void vcpu_resume(struct vcpu *vcpu);
void vcpu_stats(const struct vcpu *vcpu, struct vcpu_stats *out);
/*
 * Map the pages of RAM whose bits are set in the guest before it runs, which avoids a fault for each page
 * (KVM_PRE_FAULT_MEMORY, Linux 6.11). fd: a KVM vCPU that is not running; ram: the address of RAM. 0, or -errno: this
 * KVM does not support it, or has not mapped all pages.
 */
int vcpu_map_pages(int fd, const struct mem *mem, const void *ram, const uint8_t *bits);

struct ioctl_call {
	uint64_t request, argument; /* argument: an offset into the room */
	int32_t fd;
	int32_t result; /* or -errno */
};

/*
 * Make n calls in order, an array of struct ioctl_call. KVM_GET_MSRS stops at an MSR that KVM lacks for this guest: the
 * function skips it and continues with the next.
 */
void ioctl_all(void *room, void *calls, uint32_t n);

/* kvm-clock, and the host's TSC at the same moment. */
struct vm_clocks {
	uint64_t clock, tsc;
};

/* Read both clocks through a vCPU whose TSC is `offset` ahead of the host TSC. Returns 0 or -errno. */
int clocks_get(int vm_fd, int vcpu_fd, uint64_t offset, struct vm_clocks *now);
/*
 * Set kvm-clock so that it reads `from.clock` when the TSC, at khz kHz, reads `from.tsc`. Then do the same as
 * clocks_get().
 */
int clocks_set(int vm_fd, int vcpu_fd, uint64_t offset, const struct vm_clocks *from, uint32_t khz, struct vm_clocks *now);

/* ---- spawn.c: other programs -------------------------------------------------------------------------------------- */

/* The program's descriptor through which the parent sends commands. */
enum { SPAWN_SOCKET = 3 };

/*
 * Run the program at path in new namespaces, as far as the host allows. Its only descriptor, SPAWN_SOCKET, is the peer
 * of *sock. Returns a pidfd, *sock, and *pid, which the caller must wait for; or -errno.
 */
int process_spawn(const char *path, int *sock, int *pid);

struct spawn_answer {
	int32_t pid, err; /* pid: the process, if one exists; err: 0, or why it failed to start the program and ends */
};

/*
 * Run programs for the parent process, which is not allowed to. Each message is one byte and a descriptor. It starts
 * argv in a new session, with that descriptor as 3, `more` as 4, and besides these only the first three. The program
 * becomes the parent's child. The answer is a spawn_answer. Returns when the parent ends or sends anything else.
 */
void spawn_serve(int sock, int more, char *const *argv);

/* ---- ring.c: a virtqueue, device side: split (virtio 1.2, 2.7) or packed (2.8) -------------------------------- */

enum { RING_MAX_SIZE = 1024, RING_MAX_SEGMENTS = 1024 };
enum { RING_EVENT_IDX = 1, RING_INDIRECT = 2, RING_PACKED = 4 };

struct ring_config {
	uint32_t size;  /* 1 .. RING_MAX_SIZE; for a split ring a power of two */
	uint32_t flags; /* RING_* negotiated features */
	uint64_t desc, avail, used; /* guest physical addresses; avail and used: driver and device area of a packed ring */
	uint32_t next_avail, next_used; /* 0 for a new queue; for a saved one from ring_save() */
};

struct ring;

/*
 * A descriptor chain, copied from guest memory and validated. The device reads the first nread buffers of iov and
 * writes the nwrite buffers after them.
 */
struct chain {
	uint32_t head; /* less than the queue size; in a packed ring the buffer id */
	uint32_t nread, nwrite;
	uint32_t max; /* length of iov, set by the caller */
	uint64_t read_len, write_len; /* bytes in each part */
	struct iovec *iov;
};

/* Validates the whole configuration (alignment, every byte in RAM). On failure returns NULL and sets *err to -errno. */
struct ring *ring_new(const struct mem *mem, const struct ring_config *config, int *err);
void ring_free(struct ring *ring);
/*
 * 1: *chain is set; 0: the ring is empty; -errno: the guest broke a rule. The error is latched: later calls return it,
 * and ring_error() describes the rule.
 */
int ring_pop(struct ring *ring, struct chain *chain);
/*
 * Return a popped head to the driver, which does not see it before ring_flush(). -EINVAL: that head is not in flight.
 */
int ring_push(struct ring *ring, uint32_t head, uint32_t written);
/* Publish all pushes. Returns 1 if the guest wants an interrupt for them, else 0. */
int ring_flush(struct ring *ring);
/*
 * Request a kick for the next chain (enable 1), or suppress kicks while the caller polls (0). Returns 1 if a chain is
 * already available after the request; the caller must not sleep then.
 */
int ring_kicks(struct ring *ring, int enable);
/*
 * The device's state of a ring. It may lie in memory shared with another process, which takes over if the serving
 * process dies. A packed ring also needs a struct ring_log, at RING_LOG_OFFSET.
 */
enum { RING_STATE_STRIDE = 32768, RING_LOG_OFFSET = 256 };
struct ring_state {
	uint16_t next_avail, next_used; /* next position to pop and push: an index (split) or a position (packed) */
	uint16_t published;             /* next_used at the last publish */
	uint16_t signalled;             /* split: next_used when an interrupt was last considered */
	uint32_t in_flight;
	uint32_t descs;                 /* packed: descriptors of the chains in flight */
	uint16_t last_pop, last_push;   /* packed: buffer ids */
	uint16_t first_flags, pad;      /* packed: the next publish writes these flags at `published` */
	uint64_t busy[16];              /* a bit for each head that was popped but not pushed */
};
/* A chain of a packed ring: its position, its number of descriptors, and the index of the first copy in the log. */
struct ring_chain {
	uint16_t position, count, first, pad;
};
/* Copies of the descriptors of all chains in flight: the driver may overwrite them in the ring itself. */
struct ring_log_desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags, next;
};
struct ring_log {
	struct ring_chain chain[1024]; /* by buffer id */
	struct ring_log_desc desc[1024];
};
/* Keep the state at `state`, in RING_STATE_STRIDE bytes that must outlive the ring. 0 or -ENOMEM. */
int ring_share(struct ring *ring, struct ring_state *state);
/*
 * Continue a ring of the same configuration where another process stopped. Returns the number of chains in flight;
 * ring_pop() returns these first. The other process's pushes are published; the caller must then interrupt the guest,
 * which may have missed it. The state is validated: -EPROTO if invalid, and nothing has changed.
 */
int ring_adopt(struct ring *ring, const struct ring_state *state);
/* A description of the rule that the guest broke; NULL: no error. */
const char *ring_error(const struct ring *ring);
/* 0; -EBUSY: saving now would lose heads in flight or unflushed pushes; or the latched error. */
int ring_save(const struct ring *ring, struct ring_config *out);

/* ---- worker.c: a data-plane thread --------------------------------------------------------------------------- */

struct worker;

struct worker_stats {
	uint64_t kicks, chains, irqs, wakeups;
};

/* Stop the worker: finish all I/O in flight and join the thread. Afterwards it no longer touches guest memory. */
void worker_stop(struct worker *worker);
void worker_free(struct worker *worker);
/*
 * Pause the worker: like worker_stop(), but its thread waits for worker_go_on() or worker_stop(). Only for devices
 * whose workers support it.
 */
void worker_hold(struct worker *worker);
void worker_go_on(struct worker *worker);
/* Name (in top -H) the next worker that the calling thread starts. Only the first 15 bytes count. */
void thread_name_next(const char *name);
/* Set the name of the calling thread. */
void thread_set_name(const char *name);
/* The number of the forbidden system call that the worker's thread attempted; -1: none. */
int worker_forbidden(struct worker *worker);
/* 1: a filter limits the worker's thread to the system calls of its kind. */
int worker_walled(struct worker *worker);
/* 0, or the latched -errno of the ring that stopped the worker. */
int worker_error(struct worker *worker);
void worker_get_stats(struct worker *worker, struct worker_stats *out);
/*
 * Start a spare thread for a later worker of the same kind as `like`. It already has its system call filter. It waits
 * for a worker with this name (thread_name_next()) of any such device. 0 or -errno.
 */
struct spare;
int worker_spare(struct worker *like, const char *name, struct spare **out);
/* Free a spare; its thread ends unless a worker uses it. */
void spare_free(struct spare *spare);

/* ---- calls.c: the system calls of each kind of thread --------------------------------------------------------- */

/* Kinds of threads, as bits. */
enum {
	SECCOMP_BLK = 1, SECCOMP_NET = 2, SECCOMP_VSOCK = 4, SECCOMP_CONSOLE = 8, SECCOMP_PMEM = 16, SECCOMP_DAX = 32,
	/* A process dedicated to one machine; and the calls that some of its options need. */
	SECCOMP_VMM = 64, SECCOMP_VHOST = 128, SECCOMP_TTY = 256, SECCOMP_DISK = 512, SECCOMP_CHILD = 1024,
	/* Its threads: a vCPU; the control loop; the starter, and workers before they install their own filter. */
	SECCOMP_VCPU = 2048, SECCOMP_LOOP = 4096, SECCOMP_START = 8192,
	/*
	 * Calls for specific purposes: a clone that prefetches memory; a worker that connects to host sockets without a
	 * broker; a machine with a control socket; gdb.
	 */
	SECCOMP_PREFETCH = 16384, SECCOMP_REACH = 65536, SECCOMP_CONTROL = 131072, SECCOMP_GDB = 262144,
	/* The broker; and a process that uses one. */
	SECCOMP_BROKER = 524288, SECCOMP_OUTSIDE = 1048576,
	SECCOMP_FILL = 2097152, /* the thread that fills guest RAM (fill_faults.c) */
	SECCOMP_SERVER = 4194304, /* the process that serves the control socket of a jailed machine */
	SECCOMP_HOST = 8388608, /* a process with a machine that continues to serve its host */
	SECCOMP_SPAWN = 16777216, /* such a process that starts programs, and these programs */
	SECCOMP_RNG = 33554432, /* a worker, like the first ones */
	SECCOMP_SHARES = 67108864, /* the process that starts share servers, and these until they have their own list */
	SECCOMP_FORKS = 134217728, /* the process that makes forks of a jailed machine */
	SECCOMP_GATEWAY = 268435456, /* the process that connects a sandbox with network rules to the outside */
	SECCOMP_RESOLVER = 536870912, /* the process that looks up names for it */
};

/* A line of calls/table.h; whose: bits SECCOMP_*. value: the n values that its argument is compared with. */
struct seccomp_row {
	const char *name, *test, *why;
	uint32_t nr, whose, argument, n;
	const uint32_t *value;
};

/*
 * Restrict the calling thread, and threads it starts, permanently to the calls of these kinds. Any other call ends the
 * process with status 1 and a line on stderr. 0 or -errno.
 */
int seccomp_enter_process(uint32_t kinds);
/*
 * The same for the calling thread alone, which also drops its capabilities. Any other call ends the process: the thread
 * may run Python, so the state of the process would be unreliable. 0 or -errno.
 */
int seccomp_enter_thread(uint32_t kinds);
/*
 * Make the starter, a thread limited to the calls that workers need. It starts workers for threads that have called
 * seccomp_enter_thread(). Each begin needs an end. 0 or -errno.
 */
int seccomp_starter_begin(void);
void seccomp_starter_end(void);
enum {
	SECCOMP_FORBID_SEALED, /* calls that start programs or processes, or make machines */
	SECCOMP_FORBID_NEVER,  /* those of calls/forbidden.h */
	SECCOMP_FORBID_HELPER, /* the same, except those that machines make while they start */
};

/*
 * Make system calls fail with EPERM, permanently, in the calling thread and those that it starts. what:
 * SECCOMP_FORBID_*. 0 or -errno.
 */
int seccomp_forbid(uint32_t what);
/*
 * Restrict all threads of the process permanently to the calls of SECCOMP_HOST and of a machine's threads; others fail
 * with ENOSYS. So it cannot start programs, processes or machines. `programs` also allows SECCOMP_SPAWN: it may start
 * programs, which inherit the list. The calling thread keeps the capabilities in this bit set. 0 or -errno; -EBUSY:
 * another thread has a different filter.
 */
int seccomp_keep(uint64_t capabilities, uint32_t programs);
/* Copy line i to *out; -ENOENT after the last. */
int seccomp_row(uint32_t i, struct seccomp_row *out);

/* ---- jail.c: the jail of a machine's process -------------------------------------------------------------------- */

/* Layers of the jail, as bits. */
enum {
	JAIL_USER = 1, JAIL_USER_NS = 2, JAIL_CAPABILITIES = 4, JAIL_NO_NEW_PRIVS = 8, JAIL_FILES = 16, JAIL_NET_NS = 32,
	JAIL_IPC_NS = 64, JAIL_UTS_NS = 128, JAIL_CGROUP_NS = 256, JAIL_LANDLOCK = 512, JAIL_LIMITS = 1024,
	JAIL_UNDUMPABLE = 2048, JAIL_SECCOMP = 4096,
};

struct jail_config {
	uint32_t uid;       /* user and group to change to; 0: do not change */
	uint32_t files;     /* RLIMIT_NOFILE; 0: do not change */
	uint32_t threads;   /* RLIMIT_NPROC; only with a uid */
	uint32_t grows;     /* 1: file_size is only the soft limit, which jail_raise_file_size() can raise */
	uint64_t file_size; /* RLIMIT_FSIZE; 0: do not change */
	uint32_t network;   /* 1: keep the network namespace, and the right to connect to TCP ports, not to listen */
	uint32_t scratch;   /* 1: the root directory has one file, "scratch", which the process may read */
};

struct jail_walls {
	uint32_t standing;                /* the layers in force: bits JAIL_* */
	uint32_t missing;                 /* the first layer that the host refused, or 0 */
	int32_t first_errno;              /* its error */
	int32_t scratch;                  /* a descriptor for writing the file, or -1 */
};

/*
 * Enter the jail permanently. The only thread of the process calls this after opening all files. Returns 0 even if the
 * host refuses some layers, see *walls. -EBUSY: other threads did not end within a second; nothing has changed.
 */
int jail_enter(const struct jail_config *config, struct jail_walls *walls);
/*
 * Restrict the calling thread, and those that it starts, permanently. It gets no new privileges, only these
 * capabilities (bits by number), new IPC and UTS namespaces, and no core dumps. Processes of the same user cannot trace
 * it. Returns 0 even if the host refuses some layers, see *walls.
 */
int jail_reduce(uint64_t capabilities, struct jail_walls *walls);
/*
 * Raise the file size limit of a jailed process to *size* bytes; its own filter forbids that call. *uid* is the
 * process's user and group id; 0: the caller's own. 0 or -errno.
 */
int jail_raise_file_size(int pid, uint32_t uid, uint64_t size);
/* Open a file for reading without using capabilities. Returns the descriptor, or -errno. */
int jail_open_unprivileged(const char *path);
/*
 * Restrict the calling thread, and those that it starts, permanently to these n directories (O_PATH descriptors). Below
 * them it may read files, and if `writes` create, write and remove them; it has no other access to the host's files.
 * Call this after jail_reduce(). 0; -errno: the kernel does not support it.
 */
int jail_keep_folders(const int *folders, uint32_t n, uint32_t writes);
/* Become this user and group without other groups. The only thread of the process calls this. 0 or -errno. */
int jail_become(uint32_t uid);
