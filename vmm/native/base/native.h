/* SPDX-License-Identifier: Apache-2.0 */
/* Functions shared by all C files, which Python does not call. */
#ifndef VMM_NATIVE_NATIVE_H
#define VMM_NATIVE_NATIVE_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <features.h>
/* With _GNU_SOURCE sscanf and strtol are C23's, for binary numbers, which makes a wheel need glibc 2.38. */
#undef __GLIBC_USE_C2X_STRTOL
#define __GLIBC_USE_C2X_STRTOL 0
#undef __GLIBC_USE_C23_STRTOL
#define __GLIBC_USE_C23_STRTOL 0
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "vmm_native.h"

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

enum { PAGE = 4096 };

static inline size_t pages_round(size_t size)
{
	return (size + PAGE - 1) & ~(size_t)(PAGE - 1);
}

/* Whether a bitmap of pages has the page at an offset in bytes. */
static inline bool has_page(const uint8_t *bits, uint64_t at)
{
	return bits[at / PAGE / 8] >> at / PAGE % 8 & 1;
}

/* Whether a page is all zeros. It must be aligned to 8 bytes. */
static inline bool page_is_zero(const uint8_t *page)
{
	const uint64_t *word = (const uint64_t *)(const void *)page;
	uint64_t any;

	/* Most pages with data have a nonzero word at one of these places: test them before reading the whole page. */
	if (word[0] | word[1] | word[64] | word[256] | word[511])
		return false;
	for (int i = 0; i < PAGE / 8; i += 8) {
		any = word[i] | word[i + 1] | word[i + 2] | word[i + 3] | word[i + 4] | word[i + 5] | word[i + 6] | word[i + 7];
		if (any)
			return false;
	}
	return true;
}

/* ---- iov.c: lists of buffers in guest memory ---- */

/* Copy from guest memory, reading each byte once. Returns the bytes copied: less than len if the list is shorter. */
size_t iov_gather(const struct iovec *iov, uint32_t n, void *to, size_t len);
/* Copy to guest memory. Returns the bytes copied: less than len if the list is shorter. */
size_t iov_scatter(const struct iovec *iov, uint32_t n, const void *from, size_t len);
/* The same, starting at the offset `at` in the list. */
size_t iov_write(const struct iovec *iov, uint32_t n, uint64_t at, const void *from, size_t len);
/* Remove the first len bytes from the list. */
void iov_skip(struct iovec **iov, uint32_t *n, size_t len);
/* Truncate the list to its first len bytes. Returns the new number of entries. */
uint32_t iov_cut(struct iovec *iov, uint32_t n, size_t len);

/* ---- out.c: writes to descriptors of the host ---- */

/*
 * The most buffers, or bytes of one buffer, for each write to a file. Before Linux copies a page, it touches all pages
 * that remain (generic_perform_write()). So 1 MiB in 256 buffers takes four times as long in one call as in calls of 16
 * buffers. In a single buffer it takes 1.2 times as long.
 */
enum { FILE_WRITE_BUFFERS = 16, FILE_WRITE_BYTES = 64 << 10 };

/* Write all bytes at an offset of a file. 0 or -errno; -EIO: the file accepts no more. */
int file_write(int fd, const void *from, uint64_t len, uint64_t at);

/* How to write to a descriptor without blocking on its reader. out_kind() detects it. */
enum out_kind { OUT_NONE, OUT_PLAIN, OUT_SOCKET, OUT_POLL, OUT_POLL_BYTE };

enum out_kind out_kind(int fd);
/* Like writev(), but may write less. Fails with EAGAIN while the reader accepts nothing. */
ssize_t out_write(enum out_kind kind, int fd, const struct iovec *iov, int n);

/* ---- fd_socket.c: fixed-size messages with descriptors, between processes, over a SOCK_SEQPACKET pair ---- */

/* The most descriptors in one message. */
enum { FD_SOCKET_MAX = 4 };

/*
 * Send a message, without the descriptors that are -1. 0 or -errno; -EPIPE: the peer closed; -EPROTO: a partial write.
 */
int fd_socket_send(int sock, const void *data, size_t len, const int *fds, int nfds);
/*
 * Wait for a message. Received descriptors are close-on-exec; missing ones are -1, and all are after an error. 0 or
 * -errno; -EPIPE: the peer closed; -EPROTO: the message has another size or too many descriptors.
 */
int fd_socket_recv(int sock, void *data, size_t len, int *fds, int nfds);

#endif
