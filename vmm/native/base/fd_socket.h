/* SPDX-License-Identifier: Apache-2.0 */
/* Messages of one size with descriptors, between processes, over a SOCK_SEQPACKET pair. */
#ifndef VMM_NATIVE_FD_SOCKET_H
#define VMM_NATIVE_FD_SOCKET_H

#include "base/native.h"

/* Descriptors of one message. */
enum { FD_SOCKET_MAX = 4 };

/* Descriptors that are not there are -1. -errno; -EPIPE: the other side is gone; -EPROTO: of another size. */
int fd_socket_send(int sock, const void *data, size_t len, const int *fds, int nfds);
/* Waits. Descriptors come close-on-exec; those that are not there are -1. After an error there are none. */
int fd_socket_recv(int sock, void *data, size_t len, int *fds, int nfds);

#endif
