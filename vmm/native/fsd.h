/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pyvmm-fsd, between its files: fsd.c (what the VMM asks for), fsd_wire.c (the socket), fsd_isolate.c (namespaces,
 * capabilities), fsd_seccomp.c (the list of system calls).
 */
#ifndef VMM_NATIVE_FSD_H
#define VMM_NATIVE_FSD_H

#include "native.h"

/* The control socket's descriptor in the child. */
enum { FSD_SOCKET = 3 };

/* fsd_wire.c, on both sides */

/* Descriptors that are not there are -1. -errno; -EPIPE: the other side is gone; -EPROTO: of another size. */
int wire_send(int sock, const void *data, size_t len, const int *fds, int nfds);
/* Waits. Descriptors come close-on-exec; those that are not there are -1. After an error there are none. */
int wire_recv(int sock, void *data, size_t len, int *fds, int nfds);

/* fsd_isolate.c */

struct isolation {
	uint32_t done;     /* FSD_*_NS, FSD_LANDLOCK */
	const char *stage; /* what failed */
};

/*
 * Make *root all that this process can reach: a new root of a new mount namespace, or a Landlock domain. *root is opened
 * anew inside, and *proc is /proc/self/fd. Then give up all capabilities that serving files does not need, and the way back. Single-threaded.
 */
int isolate(int *root, int *proc, bool read_only, struct isolation *out);
/* The system calls of a file server, nothing else from here on: any other ends the process. */
int isolate_seccomp(void);

#endif
