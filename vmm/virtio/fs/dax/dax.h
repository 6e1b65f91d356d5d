/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The DAX window, for a file server. There are two implementations: dax.c, if the window is in this process, and
 * dax_remote.c, which sends requests to the process that has it.
 */
#ifndef VMM_NATIVE_DAX_H
#define VMM_NATIVE_DAX_H

#include "base/native.h"

/* ==== for Python ==== */

/*
 * A slot is DAX_SLOT bytes of the window: anonymous memory, or a piece of one file. Files may be truncated at any time: a
 * page that the file has lost is replaced by anonymous memory.
 */
enum { DAX_SLOT = 0x200000 };

struct dax_stats {
	uint64_t maps, unmaps; /* successful requests */
	uint64_t slots;        /* now: slots with a file */
	uint64_t cut;          /* now: of these, slots with memory in place of lost pages */
	uint64_t faults;       /* accesses of the guest to pages that do not exist */
};

struct dax;

/* size: bytes, a multiple of DAX_SLOT. The window is aligned to DAX_SLOT. */
struct dax *dax_new(uint64_t size, int *err);
/* Free it, after the VM. */
void dax_free(struct dax *dax);
void *dax_window(const struct dax *dax);
/* Serve requests of another process at this socket, which it owns from now on. */
int dax_serve(struct dax *dax, int sock);
/* Start its thread, if it does not run: it serves requests, and looks for truncated files. 0 or -errno. */
int dax_begin(struct dax *dax);
/* Set an eventfd that is signalled when the thread tried a forbidden system call; -1: none. */
void dax_watch(struct dax *dax, int event_fd);
/* As worker_forbidden(). */
int dax_forbidden(struct dax *dax);
/* Make the socket pair for dax_serve(): *child is for the other process. */
int dax_pair(int *ours, int *child);
/* Unmap all files: the window is anonymous memory. */
void dax_clear(struct dax *dax);
void dax_get_stats(struct dax *dax, struct dax_stats *out);
/*
 * KVM_RUN failed, since a page of the guest does not exist: replace pages that files have lost by memory. Returns the number
 * of slots that have changed; 0: the fault was not in this window. vCPUs call this; dax: a struct dax.
 */
uint32_t dax_fault(void *dax);
/* Register the window at these guest physical addresses, for vCPUs of this bus. Before they run. */
int bus_add_dax(struct bus *bus, struct dax *dax, uint64_t base, uint64_t size);

/* ==== end ==== */

/*
 * Map len bytes of fd, from the offset `from` on, at `offset` of the window, in place of what these slots had. offset is a
 * multiple of DAX_SLOT; len and from are multiples of the page size. Writes to a mapping that is not writable change a private
 * copy. -EINVAL: not inside the window, or not aligned; or another -errno of the host.
 */
int dax_map(struct dax *dax, uint64_t offset, uint64_t len, int fd, uint64_t from, bool writable);
/* Unmap all slots that the range touches. */
int dax_unmap(struct dax *dax, uint64_t offset, uint64_t len);

/* Requests of dax_remote.c to the thread of dax_thread.c. */
enum { DAX_MAP = 1, DAX_UNMAP = 2 };
struct dax_msg {
	uint32_t op, writable;
	uint64_t offset, len, from;
};

/* dax_remote.c. Owns the socket. */
struct dax *dax_remote_new(int sock);

#endif
