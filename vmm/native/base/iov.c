// SPDX-License-Identifier: Apache-2.0
/* Lists of buffers in guest memory. A driver may split a message into descriptors at any byte (virtio 1.2, 2.7.4). */
#include "base/native.h"

#include <string.h>

size_t iov_gather(const struct iovec *iov, uint32_t n, void *to, size_t len)
{
	size_t done = 0;

	for (uint32_t i = 0; i < n && done < len; i++) {
		size_t some = iov[i].iov_len < len - done ? iov[i].iov_len : len - done;

		memcpy((uint8_t *)to + done, iov[i].iov_base, some);
		done += some;
	}
	/* Callers validate the copy: prevent the compiler from reading the guest's bytes a second time instead. */
	__asm__ volatile("" ::: "memory");
	return done;
}

size_t iov_write(const struct iovec *iov, uint32_t n, uint64_t at, const void *from, size_t len)
{
	size_t done = 0;

	for (uint32_t i = 0; i < n && done < len; i++) {
		size_t some;

		if (at >= iov[i].iov_len) {
			at -= iov[i].iov_len;
			continue;
		}
		some = iov[i].iov_len - at < len - done ? iov[i].iov_len - at : len - done;
		memcpy((uint8_t *)iov[i].iov_base + at, (const uint8_t *)from + done, some);
		done += some;
		at = 0;
	}
	return done;
}

size_t iov_scatter(const struct iovec *iov, uint32_t n, const void *from, size_t len)
{
	return iov_write(iov, n, 0, from, len);
}

void iov_skip(struct iovec **iov, uint32_t *n, size_t len)
{
	while (*n && len >= (*iov)->iov_len) {
		len -= (*iov)->iov_len;
		(*iov)++;
		(*n)--;
	}
	if (*n) {
		(*iov)->iov_base = (uint8_t *)(*iov)->iov_base + len;
		(*iov)->iov_len -= len;
	}
}

uint32_t iov_cut(struct iovec *iov, uint32_t n, size_t len)
{
	uint32_t i;

	for (i = 0; i < n && len; i++) {
		if (iov[i].iov_len > len)
			iov[i].iov_len = len;
		len -= iov[i].iov_len;
	}
	return i;
}
