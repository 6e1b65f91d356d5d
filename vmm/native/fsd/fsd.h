/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pyvmm-fsd, between its files: fsd.c (what the VMM asks for), fsd_isolate.c (namespaces, capabilities), fsd_seccomp.c
 * (the list of system calls), fsd_spawn.c (the other side: starting it, asking it).
 */
#ifndef VMM_NATIVE_FSD_H
#define VMM_NATIVE_FSD_H

#include "base/native.h"

/* The control socket's descriptor in the child. */
enum { FSD_SOCKET = 3 };

/* fsd_isolate.c */

struct isolation {
	uint32_t done;     /* FSD_*_NS, FSD_LANDLOCK */
	const char *stage; /* what failed */
};

/*
 * Make *root all that this process can reach: a new root of a new mount namespace, or a Landlock domain. *root is opened
 * anew inside, and *proc is /proc/self/fd. Then give up all capabilities that serving files does not need, and the way back.
 * Descriptors and threads are limited to what config asks for; what it leaves open of that is filled in. Single-threaded.
 */
int isolate(int *root, int *proc, struct fs_config *config, struct isolation *out);
/* The system calls of a file server, nothing else from here on: any other ends the process. handles: open_by_handle_at(), too. */
int isolate_seccomp(bool handles);

#endif
