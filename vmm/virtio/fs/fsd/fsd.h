/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pyvmm-fsd, the process that serves a share: fsd.c serves requests of the VMM, fsd_isolate.c enters namespaces and drops
 * capabilities, fsd_seccomp.c installs the filter; fsd_call.c is the VMM's side, which sends requests.
 */
#ifndef VMM_NATIVE_FSD_H
#define VMM_NATIVE_FSD_H

#include "fs/fs.h"

/* ==== for Python ==== */

/*
 * The VMM and its child exchange messages over a SOCK_SEQPACKET pair: a fsd_msg, which may have descriptors, and a fsd_answer
 * to each. Neither trusts the other: both check sizes, numbers and descriptors.
 */
enum { FSD_VERSION = 1, FSD_QUEUES = 64, FSD_FDS = 4 };
/* Operations, and the descriptors that come with them. */
enum {
	FSD_SETUP = 1,  /* isolate the process, then serve a directory: root, VMM (a pidfd), socket of the DAX window or -1 */
	FSD_MEMORY = 2, /* RAM, struct ring_state of each queue (FSD_QUEUES * RING_STATE_STRIDE bytes), page of InterruptStatus */
	FSD_START = 3,  /* start a queue: kick, irq, event */
	FSD_STOP = 4,   /* stop all queues: finish I/O in flight, unmap the memory */
	FSD_RESET = 5,  /* the guest has reset the device */
	FSD_STATS = 6,
	FSD_CHECK = 7,  /* has a queue stopped with an error? */
	FSD_SAVE = 8,   /* fs_save() to the file that comes with it; all queues are stopped, or held */
	FSD_RESTORE = 9,
	/* Before SETUP: answer with a userfaultfd of the child; a descriptor of /dev/userfaultfd may come with it. */
	FSD_FAULTS = 10,
	/* As STOP, but the threads only rest. Then MEMORY with RAM alone, which may be another file, and GO_ON; or STOP. */
	FSD_HOLD = 11,
	FSD_GO_ON = 12,
	FSD_STALE = 13, /* fs_stale() */
};
/* Isolation of the child, as bits. */
enum {
	FSD_MOUNT_NS = 1, FSD_PID_NS = 2, FSD_NET_NS = 4, FSD_IPC_NS = 8, FSD_USER_NS = 16, FSD_LANDLOCK = 32, FSD_SECCOMP = 64,
};

struct fsd_region {
	uint64_t gpa, size, offset; /* offset: in the descriptor */
};

struct fsd_msg {
	uint32_t version, op;
	uint32_t index;          /* START: the number of the queue */
	uint32_t status_offset;  /* MEMORY: offset of InterruptStatus in its page */
	struct fs_config config; /* SETUP; its descriptors are ignored */
	uint32_t nregions, pad;  /* MEMORY */
	struct fsd_region region[8];
	struct ring_config ring; /* START */
};

struct fsd_answer {
	uint32_t version, op;
	int32_t result;          /* 0 or -errno */
	uint32_t isolation;      /* SETUP: FSD_*_NS and so on */
	uint32_t index;          /* CHECK: the queue that stopped; result is its error. RESTORE: number of files that are gone.
	                          * STALE: milliseconds */
	uint32_t pad;
	uint64_t address;        /* MEMORY: the address at which it has mapped RAM */
	char text[160];          /* what failed, in words; NUL-terminated */
};

/* The answer to STATS: as long as fifty others. */
struct fsd_figures {
	struct fsd_answer answer;
	struct worker_stats workers; /* since SETUP */
	struct fs_stats fs;
};

/*
 * Send a message and wait up to timeout_ms for the answer. -ETIMEDOUT; -EPIPE: the child has ended; -EPROTO: the answer is
 * not valid. fds: FSD_FDS descriptors, -1 for none. answer: of STATS, that of a fsd_figures. came: NULL, or gets the descriptor
 * of the answer, or -1.
 */
int fsd_call(int sock, const struct fsd_msg *msg, const int *fds, struct fsd_answer *answer, int *came, int timeout_ms);

/* ==== end ==== */

/* How long the answer to an operation is. */
static inline size_t fsd_answer_size(uint32_t op)
{
	return op == FSD_STATS ? sizeof(struct fsd_figures) : sizeof(struct fsd_answer);
}

/* The control socket's descriptor in the child. */
enum { FSD_SOCKET = SPAWN_SOCKET };

/* fsd_isolate.c */

struct isolation {
	uint32_t done;     /* FSD_*_NS, FSD_LANDLOCK */
	const char *stage; /* what failed */
};

/*
 * Restrict this process to the directory *root: it becomes the root of a new mount namespace, or the only directory of a
 * Landlock domain. *root is opened again inside, and *proc is /proc/self/fd. Then give up all capabilities that serving
 * files does not need, for good. Descriptors and threads are limited as config says; its zeros are replaced by defaults. The
 * process has one thread.
 */
int isolate(int *root, int *proc, struct fs_config *config, struct isolation *out);
/* Allow only the system calls of a file server, for good: any other ends the process. handles: also open_by_handle_at(). */
int isolate_seccomp(bool handles);

#endif
