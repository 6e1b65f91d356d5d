/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pyvmm-fsd, between its files: fsd.c (what the VMM asks for), fsd_isolate.c (namespaces, capabilities), fsd_seccomp.c
 * (the list of system calls), fsd_spawn.c (the other side: starting it, asking it).
 */
#ifndef VMM_NATIVE_FSD_H
#define VMM_NATIVE_FSD_H

#include "fs/fs.h"

/* ==== for Python ==== */

/*
 * The VMM and its child speak over a SOCK_SEQPACKET pair: a fsd_msg, perhaps with descriptors, and a fsd_answer to each,
 * in turn. Neither trusts the other: sizes, numbers and descriptors are checked on both sides.
 */
enum { FSD_VERSION = 1, FSD_QUEUES = 64, FSD_FDS = 4 };
/* What a message asks for, and the descriptors that come with it. */
enum {
	FSD_SETUP = 1,  /* isolate yourself, then serve this directory: root, VMM (a pidfd), socket of the DAX window or -1 */
	FSD_MEMORY = 2, /* RAM, struct ring_state of each queue (FSD_QUEUES * RING_STATE_STRIDE bytes), page of InterruptStatus */
	FSD_START = 3,  /* a queue: kick, irq, event */
	FSD_STOP = 4,   /* all queues: finish what is in flight, let go of the memory */
	FSD_RESET = 5,  /* the guest has reset the device */
	FSD_STATS = 6,
	FSD_CHECK = 7,  /* has a queue stopped by itself? */
	FSD_SAVE = 8,   /* fs_save() to the file that comes with it; all queues are stopped */
	FSD_RESTORE = 9,
	/* Before SETUP: answer with a userfaultfd of yours, made of the device that comes with it, if one does. */
	FSD_FAULTS = 10,
};
/* What keeps the child apart from the rest of the machine. */
enum {
	FSD_MOUNT_NS = 1, FSD_PID_NS = 2, FSD_NET_NS = 4, FSD_IPC_NS = 8, FSD_USER_NS = 16, FSD_LANDLOCK = 32, FSD_SECCOMP = 64,
};

struct fsd_region {
	uint64_t gpa, size, offset; /* offset: in the descriptor */
};

struct fsd_msg {
	uint32_t version, op;
	uint32_t index;          /* START: of the queue */
	uint32_t status_offset;  /* MEMORY: of InterruptStatus in its page */
	struct fs_config config; /* SETUP; its descriptors are ignored */
	uint32_t nregions, pad;  /* MEMORY */
	struct fsd_region region[8];
	struct ring_config ring; /* START */
};

struct fsd_answer {
	uint32_t version, op;
	int32_t result;          /* 0 or -errno */
	uint32_t isolation;      /* SETUP: FSD_*_NS and so on */
	uint32_t index;          /* CHECK: of the queue that stopped; result is its error. RESTORE: files that are gone */
	uint32_t pad;
	uint64_t address;        /* MEMORY: where it has mapped RAM */
	char text[160];          /* what failed, in words; NUL-terminated */
	struct worker_stats workers; /* STATS: since SETUP */
	struct fs_stats fs;
};

/*
 * Run the program at path with the other end of *sock as its descriptor 3 and nothing else of ours, in namespaces of its
 * own as far as the host lets us. Returns a pidfd, *sock, and *pid, which the caller waits for; or -errno.
 */
int fsd_spawn(const char *path, int *sock, int *pid);
/*
 * One message and its answer, at most timeout_ms. -ETIMEDOUT, -EPIPE when nobody is there (any more), -EPROTO when what
 * came is not an answer. fds: FSD_FDS of them, -1 for none. came: NULL, or the descriptor that came with the answer, or -1.
 */
int fsd_call(int sock, const struct fsd_msg *msg, const int *fds, struct fsd_answer *answer, int *came, int timeout_ms);

/* ==== end ==== */

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
