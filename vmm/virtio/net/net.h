/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio-net, between its files: net.c (objects, the worker's loop), net_tx.c (frames from the guest, and what their headers
 * may say), net_rx.c (frames to the guest), net_backend.c (what they are connected to).
 *
 * One thread serves a pair of queues, so nothing here is locked; only the statistics are read by others.
 */
#ifndef VMM_NATIVE_NET_H
#define VMM_NATIVE_NET_H

#include "base/native.h"
#include "dataplane/worker.h"

/* ==== for Python ==== */

/*
 * Where frames come from and go to. NET_TAP: a descriptor that reads and writes one frame at a time, each behind a struct
 * virtio_net_hdr of 12 bytes: a tap device. NET_STREAM: a stream socket, each frame behind its length (32 bits, big-endian):
 * what passt and others speak.
 */
enum { NET_TAP = 0, NET_STREAM = 1 };
/* What was negotiated. The first ones are what the guest may ask of us with a frame, NET_GUEST_CSUM what it takes from us. */
enum {
	NET_CSUM = 1, NET_TSO4 = 2, NET_TSO6 = 4, NET_ECN = 8, NET_UFO = 16, NET_USO = 32, NET_GUEST_CSUM = 64,
	NET_MRG_RXBUF = 128,
};

struct net_stats {
	uint64_t rx_frames, rx_bytes, rx_dropped; /* to the guest; dropped: larger than its buffers */
	uint64_t tx_frames, tx_bytes, tx_dropped; /* from the guest; dropped: the host did not take them */
	uint64_t tx_malformed;                    /* of those: with a header that is not right */
	uint64_t rx_starved;                      /* how often the guest had no buffer for what there was */
	uint64_t last_errno;                      /* of the host; the backend is gone */
};

struct net_queues {
	struct ring *rx, *tx;
	int rx_kick, tx_kick;
	struct irq *rx_irq, *tx_irq;
	int event_fd;                       /* signalled when the worker stopped, or the backend is gone */
	uint32_t flags;                     /* NET_CSUM and so on */
	uint32_t rx_frame;                  /* the largest frame that is likely to come, with its Ethernet header */
	struct limit *rx_limit, *tx_limit;  /* or NULL */
};

struct net;

/* One pair of queues. fd: non-blocking; it stays the caller's, and open. NULL and *err = -errno. */
struct net *net_new(int fd, uint32_t kind, int *err);
/* After the worker was freed. */
void net_free(struct net *net);
/* One worker thread for both directions; one at a time. */
struct worker *net_start(struct net *net, const struct net_queues *queues, int *err);
void net_get_stats(struct net *net, struct net_stats *out);

/* ==== end ==== */

enum { NET_HDR_SIZE = 12, NET_ETH_SIZE = 14, NET_LEN_SIZE = 4 };
/* The longest IP packet, an Ethernet header and a VLAN tag. */
enum { NET_FRAME_MAX = 65535 + NET_ETH_SIZE + 4 };
/* Buffers of the guest that wait for a frame, and their segments. */
enum { NET_STASH = 256, NET_STASH_IOV = 2 * RING_MAX_SEGMENTS };
/* What readv() and writev() take. */
enum { NET_IOV_MAX = 1024 };
/* Frames, and bytes, for one turn in one direction. */
enum { NET_BATCH = 64, NET_BATCH_BYTES = 512 << 10 };
/* Of the stream: several frames for one system call. */
enum { NET_STREAM_SIZE = 256 << 10 };

enum { NET_F_NEEDS_CSUM = 1, NET_F_DATA_VALID = 2 };
enum { NET_GSO_NONE = 0, NET_GSO_TCPV4 = 1, NET_GSO_UDP = 3, NET_GSO_TCPV6 = 4, NET_GSO_UDP_L4 = 5, NET_GSO_ECN = 0x80 };

/* 5.1.6 */
struct net_hdr {
	uint8_t flags, gso_type;
	uint16_t hdr_len, gso_size, csum_start, csum_offset, num_buffers;
};

_Static_assert(sizeof(struct net_hdr) == NET_HDR_SIZE, "the header of the specification");

/* What epoll says of a descriptor that is not one of the worker's own. */
enum { NET_SOURCE_FD = WORKER_OWN, NET_SOURCE_RX_TIMER, NET_SOURCE_TX_TIMER };

/* A buffer of the guest: its chain was popped, nothing that counts is in it yet. */
struct net_slot {
	uint32_t head, niov;
	uint64_t room;
};

struct net {
	struct worker worker;          /* its ring: from the guest */
	int fd;
	uint32_t kind;
	struct net_queues q;
	bool gone;                     /* the backend has ended: frames of the guest are dropped */
	bool readable;                 /* fd may have a frame */
	bool starved;                  /* a frame waits for buffers of the guest */
	bool tx_full;                  /* fd takes nothing at the moment */
	uint32_t watched;              /* events that epoll is asked for */
	uint32_t turns;                /* of run() since the descriptors were looked at */
	struct limit_gate rx_gate, tx_gate;

	uint32_t nstash, stash_first;  /* slots [stash_first, stash_first + nstash) */
	uint32_t iov_first, iov_end;   /* their segments */
	uint64_t stash_room;
	uint64_t held;                 /* bytes of a frame, header and all, that is in the stash and in spill; 0: none */
	uint64_t direct;               /* of those, in the stash */
	struct net_slot stash[NET_STASH];
	struct iovec stash_iov[NET_STASH_IOV + 1];

	struct iovec tx_iov[RING_MAX_SEGMENTS + 1];
	uint32_t in_head, in_tail;     /* of in: received, not yet given to the guest */
	uint32_t out_len;              /* of out: what is left of a frame that was sent in part */
	uint8_t spill[NET_HDR_SIZE + NET_FRAME_MAX]; /* what was larger than the buffers at hand */
	uint8_t flat[NET_FRAME_MAX];   /* a frame in more pieces than the kernel takes */
	uint8_t in[NET_STREAM_SIZE];
	uint8_t out[NET_LEN_SIZE + NET_FRAME_MAX];

	struct net_stats stats;
};

/* net.c */

extern const struct worker_ops net_ops;
/* What net_start() does before it starts a thread; a fuzzer does without one. */
void net_prepare(struct net *n, const struct net_queues *queues);

/* net_tx.c */

/* Take frames off the guest's ring; returns how many, or the latched error. */
int net_tx_run(struct net *n);
/* Is this header of a frame of len bytes one that the guest may send? What need not be trusted is put right. */
bool net_hdr_check(uint32_t flags, struct net_hdr *h, uint64_t len);

/* net_rx.c */

/* Give the guest the frames that there are; returns how many, or the latched error. */
int net_rx_run(struct net *n);
/* Let the guest have the frames so far, with an interrupt if it wants one. */
void net_rx_flush(struct net *n);
/* Let the guest have the buffers back that nothing was put in. */
void net_rx_unstash(struct net *n);

/* net_backend.c */

/* The backend has failed for good: tell whoever watches. */
void net_lost(struct net *n, int err);
/* Send a frame: its bytes moved, or -EAGAIN (none of it was), or -errno. */
ssize_t net_stream_send(struct net *n, const struct iovec *iov, uint32_t niov, uint64_t len);
/* Send what is left of the last one; false when something still is. */
bool net_stream_flush(struct net *n);
/* The next frame behind an empty header, as readv() of a tap device gives it. */
ssize_t net_stream_read(struct net *n, const struct iovec *iov, uint32_t niov);

#endif
