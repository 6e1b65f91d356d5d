/* SPDX-License-Identifier: Apache-2.0 */
/* What the C files share beyond vmm_native.h. */
#ifndef VMM_NATIVE_NATIVE_H
#define VMM_NATIVE_NATIVE_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "vmm_native.h"

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

enum { PAGE = 4096 };

/* Of bits for pages: that of the page at an offset in bytes. */
static inline bool has_page(const uint8_t *bits, uint64_t at)
{
	return bits[at / PAGE / 8] >> at / PAGE % 8 & 1;
}

/* ---- iov.c: lists of buffers in guest memory ---- */

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

/* ---- out.c: writing to a descriptor of the host that may be anything, without ever blocking on a reader ---- */

/* How it can be written so. */
enum out_kind { OUT_NONE, OUT_PLAIN, OUT_SOCKET, OUT_POLL, OUT_POLL_BYTE };

enum out_kind out_kind(int fd);
/* As writev(), perhaps less of it; EAGAIN while the reader takes nothing. */
ssize_t out_write(enum out_kind kind, int fd, const struct iovec *iov, int n);

/* ---- fd_socket.c: messages of one size with descriptors, between processes, over a SOCK_SEQPACKET pair ---- */

/* Descriptors of one message. */
enum { FD_SOCKET_MAX = 4 };

/* Descriptors that are not there are -1. -errno; -EPIPE: the other side is gone; -EPROTO: of another size. */
int fd_socket_send(int sock, const void *data, size_t len, const int *fds, int nfds);
/* Waits. Descriptors come close-on-exec; those that are not there are -1. After an error there are none. */
int fd_socket_recv(int sock, void *data, size_t len, int *fds, int nfds);

#endif
