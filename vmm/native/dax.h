/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The DAX window, as a file server sees it. There are two of these: dax.c, where the window is in this process, and
 * dax_remote.c, which asks another process to do it.
 */
#ifndef VMM_NATIVE_DAX_H
#define VMM_NATIVE_DAX_H

#include "native.h"

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

/* bus.c: for vcpu.c. Grows with every change of a window of the bus. */
uint64_t bus_dax_generation(struct bus *bus);
/*
 * KVM could not get a page for the guest. true: try again, something was wrong with a window, or is not any more since
 * generation.
 */
bool bus_dax_fault(struct bus *bus, uint64_t generation);
/*
 * Where KVM emulates an instruction, a page that cannot be had comes as an access to nothing instead. true: it is in a
 * window, and was done there as far as there is something now.
 */
bool bus_dax_mmio(struct bus *bus, uint64_t addr, uint8_t *data, uint32_t len, bool write);
/* dax.c: for bus.c. */
uint64_t dax_generation(const struct dax *dax);

#endif
