/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-pmem from inside: for its own file, the bus, tests and fuzzers. */
#ifndef VMM_NATIVE_PMEM_H
#define VMM_NATIVE_PMEM_H

#include "base/native.h"
#include "dataplane/worker.h"

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
