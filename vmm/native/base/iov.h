/* SPDX-License-Identifier: Apache-2.0 */
/* Lists of buffers in guest memory. */
#ifndef VMM_NATIVE_IOV_H
#define VMM_NATIVE_IOV_H

#include "base/native.h"

/* Copy out of guest memory, once; returns how much there was. */
size_t iov_gather(const struct iovec *iov, uint32_t n, void *to, size_t len);
/* Copy into guest memory; returns how much had room. */
size_t iov_scatter(const struct iovec *iov, uint32_t n, const void *from, size_t len);
/* The same, from an offset on. */
size_t iov_write(const struct iovec *iov, uint32_t n, uint64_t at, const void *from, size_t len);
/* Drop len bytes at the front. */
void iov_skip(struct iovec **iov, uint32_t *n, size_t len);
/* Leave only the first len bytes; returns how many entries that are. */
uint32_t iov_cut(struct iovec *iov, uint32_t n, size_t len);

#endif
