/* SPDX-License-Identifier: Apache-2.0 */
/* Functions that all C files share, and that Python does not call. */
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

static inline size_t pages_round(size_t size)
{
	return (size + PAGE - 1) & ~(size_t)(PAGE - 1);
}

/* Whether a bitmap of pages has the page at an offset in bytes. */
static inline bool has_page(const uint8_t *bits, uint64_t at)
{
	return bits[at / PAGE / 8] >> at / PAGE % 8 & 1;
}

/* Whether all bytes of a page, which begins at a multiple of 8, are zero. */
static inline bool page_is_zero(const uint8_t *page)
{
	const uint64_t *word = (const uint64_t *)(const void *)page;
	uint64_t any;

	/* Most pages have a word that is not zero at one of these places: test them before reading the whole page. */
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

/* Copy from guest memory, reading each byte once; returns the number of bytes, less than len if the list is shorter. */
size_t iov_gather(const struct iovec *iov, uint32_t n, void *to, size_t len);
/* Copy to guest memory; returns the number of bytes, less than len if the list is shorter. */
size_t iov_scatter(const struct iovec *iov, uint32_t n, const void *from, size_t len);
/* The same, from the offset `at` of the list on. */
size_t iov_write(const struct iovec *iov, uint32_t n, uint64_t at, const void *from, size_t len);
/* Remove the first len bytes from the list. */
void iov_skip(struct iovec **iov, uint32_t *n, size_t len);
/* Keep only the first len bytes; returns the new number of entries. */
uint32_t iov_cut(struct iovec *iov, uint32_t n, size_t len);

/* ---- out.c: writes to descriptors of the host ---- */

/*
 * How many buffers, or bytes of one, are written to a file by one call. Before each page that Linux copies it touches all pages that are
 * left (generic_perform_write()): a MiB of 256 buffers at once takes four times as long as 16 at a time, one of a single buffer 1.2 times.
 */
enum { FILE_WRITE_BUFFERS = 16, FILE_WRITE_BYTES = 64 << 10 };

/* Write all of it at an offset of a file. 0 or -errno; -EIO: the file takes no more. */
int file_write(int fd, const void *from, uint64_t len, uint64_t at);

/* How to write to a descriptor of any kind without blocking on its reader; out_kind() finds out. */
enum out_kind { OUT_NONE, OUT_PLAIN, OUT_SOCKET, OUT_POLL, OUT_POLL_BYTE };

enum out_kind out_kind(int fd);
/* As writev(), but it may write less; EAGAIN while the reader takes nothing. */
ssize_t out_write(enum out_kind kind, int fd, const struct iovec *iov, int n);

/* ---- fd_socket.c: messages of one size with descriptors, between processes, over a SOCK_SEQPACKET pair ---- */

/* The most descriptors of one message. */
enum { FD_SOCKET_MAX = 4 };

/* A descriptor of -1 is not sent. 0 or -errno; -EPIPE: the other end is closed; -EPROTO: it did not take len bytes. */
int fd_socket_send(int sock, const void *data, size_t len, const int *fds, int nfds);
/*
 * Wait for a message. Descriptors are close-on-exec; those that did not come are -1, after an error all. 0 or -errno;
 * -EPIPE: the other end is closed; -EPROTO: the message has another size or too many descriptors.
 */
int fd_socket_recv(int sock, void *data, size_t len, int *fds, int nfds);

#endif
