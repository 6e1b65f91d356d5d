/* SPDX-License-Identifier: Apache-2.0 */
/* Writing to a descriptor of the host that may be anything, without ever blocking on a reader. */
#ifndef VMM_NATIVE_OUT_H
#define VMM_NATIVE_OUT_H

#include "base/native.h"

/* How it can be written so. */
enum out_kind { OUT_NONE, OUT_PLAIN, OUT_SOCKET, OUT_POLL, OUT_POLL_BYTE };

enum out_kind out_kind(int fd);
/* As writev(), perhaps less of it; EAGAIN while the reader takes nothing. */
ssize_t out_write(enum out_kind kind, int fd, const struct iovec *iov, int n);

#endif
