/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The DAX window, as a file server sees it. There are two of these: dax.c, where the window is in this process, and
 * dax_remote.c, which asks another process to do it.
 */
#ifndef VMM_NATIVE_DAX_H
#define VMM_NATIVE_DAX_H

#include "base/native.h"

/* ==== for Python ==== */

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

/* ==== end ==== */

/*
 * Map len bytes of fd, from from on, to offset in the window; what was in these slots is gone. offset: a multiple of
 * DAX_SLOT; len and from: of pages. A guest that writes where it asked to read only changes a copy that nobody else sees.
 * -EINVAL: not wholly inside the window, or not aligned. Else the host's -errno, and nothing is changed.
 */
int dax_map(struct dax *dax, uint64_t offset, uint64_t len, int fd, uint64_t from, bool writable);
/* All slots that the range touches. */
int dax_unmap(struct dax *dax, uint64_t offset, uint64_t len);

/* Between dax.c and dax_remote.c. */
enum { DAX_MAP = 1, DAX_UNMAP = 2 };
struct dax_msg {
	uint32_t op, writable;
	uint64_t offset, len, from;
};

/* dax_remote.c. Takes the socket over. */
struct dax *dax_remote_new(int sock);

#endif
