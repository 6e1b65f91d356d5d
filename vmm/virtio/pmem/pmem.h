/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-pmem from inside: for its own file, the bus, tests and fuzzers. */
#ifndef VMM_NATIVE_PMEM_H
#define VMM_NATIVE_PMEM_H

#include "base/native.h"
#include "dataplane/worker.h"

/* ==== for Python ==== */

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
/* After the worker was freed: what the file was watched by, for the caller to close; -1: nothing. */
int pmem_take_watch(struct pmem *pmem);
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

/* ==== end ==== */

enum { PMEM_BATCH = 32 };
#define PMEM_MOST (1ull << 38)

/* A request that waits for the flush. */
struct pmem_answer {
	uint32_t head, nout;
	bool flush;
	struct iovec out[4];
};

struct pmem {
	struct worker worker; /* first */
	bool watching;         /* epoll has inotify */
	int inotify; /* -1: the worker looks by itself */
	struct iovec iov[RING_MAX_SEGMENTS];

	int fd;
	bool read_only;
	void *map;
	uint64_t map_size, size; /* size: what the guest has, from window on */
	uint8_t *window;

	pthread_mutex_t lock; /* of all below */
	uint64_t file_end;    /* so much of the window was the file's at the start */
	uint64_t mapped;      /* and so much is now; the rest is memory */
	uint64_t generation;
	struct pmem_stats stats;
};

extern const struct worker_ops pmem_ops;

#endif
