/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-pmem: an image of the host, mapped as guest memory. */
#ifndef VMM_NATIVE_PMEM_H
#define VMM_NATIVE_PMEM_H

#include "base/native.h"
#include "dataplane/worker.h"

/* ==== for Python ==== */

/* Address and size of the window are multiples of this: Linux requires it of memory, and it is a huge page. */
enum { PMEM_ALIGN = 0x200000 };

struct pmem_stats {
	uint64_t flushes, errors; /* flushes, and how many of them failed */
	uint64_t last_errno;      /* the last error of the host, or 0 */
	uint64_t cuts;            /* how often the file was shorter than before */
};

struct pmem;

/*
 * fd: a file or block device, which the caller keeps open. Its length must be a multiple of PMEM_ALIGN, unless read_only:
 * then the rest of the window reads as zeroes. -EINVAL: it is not, or it is 0 or more than 256 GiB.
 */
struct pmem *pmem_new(int fd, int read_only, int *err);
/* Free it, after the worker and the VM. */
void pmem_free(struct pmem *pmem);
/* After the worker was freed: the inotify descriptor, for the caller to close; -1: none. */
int pmem_take_watch(struct pmem *pmem);
void *pmem_window(const struct pmem *pmem);
uint64_t pmem_size(const struct pmem *pmem);
/* Start the worker of the queue; one at a time. event_fd is signalled when the ring has an error, or the host reports one. */
struct worker *pmem_start(struct pmem *pmem, struct ring *ring, int kick_fd, struct irq *irq, int event_fd, int *err);
/*
 * A page of the window does not exist, or may not: map anonymous memory where the file was truncated, and the file where it
 * has grown again. Returns whether something has changed. vCPUs call this; pmem: a struct pmem.
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
	bool watching; /* the worker's epoll has inotify */
	int inotify;   /* -1: none, so the worker checks periodically */
	struct iovec iov[RING_MAX_SEGMENTS];

	int fd;
	bool read_only;
	void *map;
	uint64_t map_size, size; /* size: of the window, which the guest has */
	uint8_t *window;

	pthread_mutex_t lock; /* protects the fields below */
	uint64_t file_end;    /* how many bytes of the window were the file at the start */
	uint64_t mapped;      /* how many are now; the rest is anonymous memory */
	uint64_t generation;
	struct pmem_stats stats;
};

extern const struct worker_ops pmem_ops;

#endif
