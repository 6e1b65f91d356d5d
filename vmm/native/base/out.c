// SPDX-License-Identifier: Apache-2.0
/*
 * Writes to host descriptors: file_write() writes everything to a file; out_write() never blocks on the reader.
 *
 * Other processes may share the open file. O_NONBLOCK is a flag of the open file, so this process must not set it.
 */
#include "base/native.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

int file_write(int fd, const void *from, uint64_t len, uint64_t at)
{
	const uint8_t *bytes = from;

	while (len) {
		ssize_t n = pwrite(fd, bytes, len < FILE_WRITE_BYTES ? len : FILE_WRITE_BYTES, (off_t)at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		bytes += n;
		at += (uint64_t)n;
		len -= (uint64_t)n;
	}
	return 0;
}

enum out_kind out_kind(int fd)
{
	struct stat st;
	int flags;

	if (fd < 0)
		return OUT_NONE;
	flags = fcntl(fd, F_GETFL);
	if (flags < 0 || fstat(fd, &st) < 0 || (flags & O_NONBLOCK))
		return OUT_PLAIN;
	if (S_ISSOCK(st.st_mode))
		return OUT_SOCKET;
	if (S_ISFIFO(st.st_mode))
		return OUT_POLL;
	return isatty(fd) ? OUT_POLL_BYTE : OUT_PLAIN;
}

ssize_t out_write(enum out_kind kind, int fd, const struct iovec *iov, int n)
{
	struct pollfd pfd = { .fd = fd, .events = POLLOUT };
	struct msghdr msg = { .msg_iov = (struct iovec *)iov, .msg_iovlen = (size_t)n };
	/*
	 * A pipe that polls as writable accepts PIPE_BUF bytes without blocking; a terminal guarantees only one byte.
	 */
	size_t most = kind == OUT_POLL_BYTE ? 1 : PIPE_BUF;

	if (kind == OUT_SOCKET)
		return sendmsg(fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (kind != OUT_POLL && kind != OUT_POLL_BYTE)
		return pwritev2(fd, iov, n, -1, 0); /* like writev() */
	if (poll(&pfd, 1, 0) == 0) {
		errno = EAGAIN;
		return -1;
	}
	return write(fd, iov->iov_base, iov->iov_len < most ? iov->iov_len : most);
}
