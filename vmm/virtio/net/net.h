/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio-net: net.c has the queue pair and the worker, net_tx.c frames from the guest and the check of their headers,
 * net_rx.c frames to the guest, net_backend.c the stream socket.
 *
 * One thread serves a pair of queues, without locks; other threads read only the statistics.
 */
#ifndef VMM_NATIVE_NET_H
#define VMM_NATIVE_NET_H

#include "base/native.h"
#include "dataplane/worker.h"

/* ==== for Python ==== */

/*
 * The backend. NET_TAP: a tap device: each read or write moves one frame behind a struct virtio_net_hdr of 12 bytes.
 * NET_STREAM: a stream socket (passt and others): each frame follows its length, 32 bits, big-endian.
 */
enum { NET_TAP = 0, NET_STREAM = 1 };
/* Negotiated features. The first ones are offloads that the guest may use; NET_GUEST_CSUM: it takes DATA_VALID. */
enum {
	NET_CSUM = 1, NET_TSO4 = 2, NET_TSO6 = 4, NET_ECN = 8, NET_UFO = 16, NET_USO = 32, NET_GUEST_CSUM = 64,
	NET_MRG_RXBUF = 128,
};

struct net_stats {
	uint64_t rx_frames, rx_bytes, rx_dropped; /* to the guest; dropped: larger than its buffers */
	uint64_t tx_frames, tx_bytes, tx_dropped; /* from the guest; dropped: the backend did not take them */
	uint64_t tx_malformed;                    /* how many of the dropped ones had an invalid header */
	uint64_t rx_starved;                      /* how often the guest had no buffer for a frame */
	uint64_t last_errno;                      /* the error with which the backend ended, or 0 */
};

struct net_queues {
	struct ring *rx, *tx;
	int rx_kick, tx_kick;
	struct irq *rx_irq, *tx_irq;
	int event_fd;                       /* signalled when a ring has an error, or the backend has ended */
	uint32_t flags;                     /* NET_CSUM and so on */
	uint32_t rx_frame;                  /* the largest frame that is expected, with its Ethernet header */
	struct limit *rx_limit, *tx_limit;  /* or NULL */
	uint32_t side_address;              /* frames for this IPv4 address, network order, go to side_fd; 0: none do */
	int side_fd;                        /* as of NET_TAP, non-blocking; its frames reach the guest, too */
};

struct net;

/* A pair of queues. fd: the backend, non-blocking; the caller keeps it open. NULL and *err = -errno. */
struct net *net_new(int fd, uint32_t kind, int *err);
/* Free it, after the worker. */
void net_free(struct net *net);
/* Start the worker of both directions; one at a time. */
struct worker *net_start(struct net *net, const struct net_queues *queues, int *err);
void net_get_stats(struct net *net, struct net_stats *out);

/* ==== end ==== */

enum { NET_HDR_SIZE = 12, NET_ETH_SIZE = 14, NET_LEN_SIZE = 4 };
/* The longest IP packet, an Ethernet header and a VLAN tag. */
enum { NET_FRAME_MAX = 65535 + NET_ETH_SIZE + 4 };
/* The stash: the most buffers of the guest that were popped for frames, and their segments. */
enum { NET_STASH = 256, NET_STASH_IOV = 2 * RING_MAX_SEGMENTS };
/* The most segments that preadv2() and pwritev2() take. */
enum { NET_IOV_MAX = 1024 };
/* The most frames, and bytes, of one turn in one direction. */
enum { NET_BATCH = 64, NET_BATCH_BYTES = 512 << 10 };
/* The input buffer of a stream: several frames are read by one system call. */
enum { NET_STREAM_SIZE = 256 << 10 };

enum { NET_F_NEEDS_CSUM = 1, NET_F_DATA_VALID = 2 };
enum { NET_GSO_NONE = 0, NET_GSO_TCPV4 = 1, NET_GSO_UDP = 3, NET_GSO_TCPV6 = 4, NET_GSO_UDP_L4 = 5, NET_GSO_ECN = 0x80 };

/* 5.1.6 */
struct net_hdr {
	uint8_t flags, gso_type;
	uint16_t hdr_len, gso_size, csum_start, csum_offset, num_buffers;
};

_Static_assert(sizeof(struct net_hdr) == NET_HDR_SIZE, "the header of the specification");

/* epoll data of descriptors that are not the worker's own. */
enum { NET_SOURCE_FD = WORKER_OWN, NET_SOURCE_RX_TIMER, NET_SOURCE_TX_TIMER, NET_SOURCE_SIDE };

/* A buffer of the guest in the stash: its chain was popped, and it has no frame yet. */
struct net_slot {
	uint32_t head, niov;
	uint64_t room;
};

struct net {
	struct worker worker;          /* its ring has frames from the guest */
	int fd;
	uint32_t kind;
	struct net_queues q;
	bool gone;                     /* the backend has ended: frames of the guest are dropped */
	bool readable;                 /* fd may have a frame */
	bool side_readable;            /* side_fd may have a frame */
	bool starved;                  /* a frame waits for buffers of the guest */
	bool tx_full;                  /* fd takes nothing at the moment */
	uint32_t watched;              /* the events of fd that epoll reports */
	uint32_t turns;                /* calls of run() since epoll was asked */
	struct limit_gate rx_gate, tx_gate;

	uint32_t nstash, stash_first;  /* the stash: slots [stash_first, stash_first + nstash) */
	uint32_t iov_first, iov_end;   /* their segments */
	uint64_t stash_room;           /* bytes that fit into them */
	uint64_t held;                 /* bytes of a frame, with its header, that is in the stash and in spill; 0: none */
	uint64_t direct;               /* how many of them are in the stash */
	struct net_slot stash[NET_STASH];
	struct iovec stash_iov[NET_STASH_IOV + 1];

	struct iovec tx_iov[RING_MAX_SEGMENTS + 1];
	uint32_t in_head, in_tail;     /* bytes of `in` that were received and not given to the guest */
	uint32_t out_len;              /* bytes of `out`: the rest of a frame that was sent in part */
	uint8_t spill[NET_HDR_SIZE + NET_FRAME_MAX]; /* the part of a frame that did not fit into the stash */
	uint8_t flat[NET_FRAME_MAX];   /* a copy of a frame with more segments than the kernel takes */
	uint8_t in[NET_STREAM_SIZE];
	uint8_t out[NET_LEN_SIZE + NET_FRAME_MAX];

	struct net_stats stats;
};

/* net.c */

extern const struct worker_ops net_ops;
/* The part of net_start() before it starts the thread; a fuzzer needs none. */
void net_prepare(struct net *n, const struct net_queues *queues);

/* net_tx.c */

/* Send frames of the guest; returns how many, or the latched error. */
int net_tx_run(struct net *n);
/* Whether the guest may send a frame of len bytes with this header. Clears fields that have no meaning. */
bool net_hdr_check(uint32_t flags, struct net_hdr *h, uint64_t len);

/* net_rx.c */

/* Receive frames for the guest; returns how many, or the latched error. */
int net_rx_run(struct net *n);
/* Publish the received frames, with an interrupt if the guest wants one. */
void net_rx_flush(struct net *n);
/* Give unused buffers back to the guest. */
void net_rx_unstash(struct net *n);

/* net_backend.c */

/* The backend has failed for good: signal event_fd. */
void net_lost(struct net *n, int err);
/* Send a frame: the number of bytes; -EAGAIN: nothing was sent; or -errno. */
ssize_t net_stream_send(struct net *n, const struct iovec *iov, uint32_t niov, uint64_t len);
/* Send the rest of the last frame; false: some of it is left. */
bool net_stream_flush(struct net *n);
/* Receive the next frame, with an empty header, like readv() of a tap device. */
ssize_t net_stream_read(struct net *n, const struct iovec *iov, uint32_t niov);

#endif
