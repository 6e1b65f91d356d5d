/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The DAX window, as a file server sees it. There are two of these: dax.c, where the window is in this process, and
 * dax_remote.c, which asks another process to do it.
 */
#ifndef VMM_NATIVE_DAX_H
#define VMM_NATIVE_DAX_H

#include "base/native.h"

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
