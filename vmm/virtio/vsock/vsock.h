/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio-vsock: vsock.c has the device and the worker, vsock_conn.c the table of connections and their buffers, vsock_pkt.c
 * packets from the guest, vsock_rx.c packets to the guest, vsock_stash.c the guest's buffers for these, vsock_event.c events,
 * vsock_host.c the unix sockets, vsock_out.c writing to them and the ends of connections, vsock_kernel.c limits on memory of the kernel,
 * vsock_mem.c the allocator, vsock_reach.c and broker.c connections to the host's sockets.
 *
 * One thread does all of it, without locks; other threads read only the statistics.
 */
#ifndef VMM_NATIVE_VSOCK_H
#define VMM_NATIVE_VSOCK_H

#include "base/native.h"
#include "dataplane/worker.h"

/* ==== for Python ==== */

enum { VSOCK_LATENCIES = 20 };

struct vsock_config {
	uint64_t cid;        /* the guest's */
	int listen_fd;       /* a non-blocking listening socket for streams: a client writes "CONNECT <port>\n" */
	int seq_listen_fd;   /* the same for SOCK_SEQPACKET, or -1 */
	int dir_fd;          /* the directory with the sockets <name>_<port> that the guest can connect to */
	uint32_t max_conns;
	char name[256];
};

/* A request to the broker, and its answer, which comes with a descriptor or has an errno. */
struct vsock_ask {
	uint32_t port, type; /* type: VSOCK_TYPE_* */
};

struct vsock_told {
	uint32_t port, error;
};

/*
 * Messages that configure the broker (broker.c). BROKER_NAME: remove this socket's name at the end; text: its path. BROKER_GO,
 * the last one: connect to <text>_<port> in the directory whose descriptor comes with it; without one, to nothing.
 */
enum { BROKER_NAME = 1, BROKER_GO = 2, BROKER_NAMES = 8 };

struct broker_msg {
	uint32_t op, zero;
	uint64_t dev, ino;
	char text[256];
};

struct vsock_stats {
	uint64_t opened, refused, resets; /* connections; failed requests of either side; connections that we reset */
	uint64_t credit_updates;          /* sent to the guest */
	uint64_t malformed;               /* packets dropped: without a whole header, or with another CID */
	uint64_t from_guest_bytes, to_guest_bytes, from_guest_packets, to_guest_packets;
	uint64_t connections, waiting_bytes; /* now: connections; bytes of the guest that the host has not taken */
	uint64_t latency[20];             /* connections that took less than 1024 << i ns to open; the last: any time */
};

struct vsock_queues {
	struct ring *rx, *tx, *event;     /* event: or NULL */
	int rx_kick, tx_kick, event_kick; /* event_kick: of event, if there is one */
	struct irq *rx_irq, *tx_irq, *event_irq;
	int event_fd;
	uint32_t seqpacket;               /* negotiated */
	uint32_t reset_event;             /* tell the driver that its connections are gone (5.10.6.7), before all packets */
};

struct vsock;

/* The caller keeps the descriptors open. NULL and *err = -errno. */
struct vsock *vsock_new(const struct vsock_config *config, int *err);
/*
 * From now on the broker connects to sockets of the host. sock: a SOCK_SEQPACKET socket to it, which the caller keeps open;
 * dir_fd is not used any more. No worker runs.
 */
void vsock_use_broker(struct vsock *vsock, int sock);
/* Close all connections and free it, after the worker. */
void vsock_free(struct vsock *vsock);
/* Start the worker of all queues; one at a time. Connections stay open when it ends, and continue with the next one. */
struct worker *vsock_start(struct vsock *vsock, const struct vsock_queues *queues, int *err);
/* The guest has reset the device: drop all connections. No worker runs. */
void vsock_reset(struct vsock *vsock);
void vsock_get_stats(struct vsock *vsock, struct vsock_stats *out);

/* ==== end ==== */

enum { VSOCK_HOST_CID = 2 };
enum { VSOCK_TYPE_STREAM = 1, VSOCK_TYPE_SEQPACKET = 2 };
enum {
	VSOCK_OP_REQUEST = 1,
	VSOCK_OP_RESPONSE = 2,
	VSOCK_OP_RST = 3,
	VSOCK_OP_SHUTDOWN = 4,
	VSOCK_OP_RW = 5,
	VSOCK_OP_CREDIT_UPDATE = 6,
	VSOCK_OP_CREDIT_REQUEST = 7,
};
enum { VSOCK_SHUT_RCV = 1, VSOCK_SHUT_SEND = 2, VSOCK_SHUT_BOTH = 3 };
enum { VSOCK_SEQ_EOM = 1 };

/* 5.10.6; packed by itself but for its length. */
struct vsock_hdr {
	uint64_t src_cid, dst_cid;
	uint32_t src_port, dst_port;
	uint32_t len;
	uint16_t type, op;
	uint32_t flags;
	uint32_t buf_alloc, fwd_cnt;
} __attribute__((packed));

enum { VSOCK_HDR_SIZE = 44 };
_Static_assert(sizeof(struct vsock_hdr) == VSOCK_HDR_SIZE, "the header of the specification");

/* buf_alloc: how many bytes of a connection we keep that its unix socket has not taken; the most and the least. */
enum { VSOCK_BUF_ALLOC = 256 << 10, VSOCK_BUF_MIN = 2 << 10 };
/*
 * How much memory of the host a guest's data may take, 64 MiB: the least buf_alloc of all connections; what they get beyond
 * that; and memory of the kernel for data that readers have not read, where each byte may have a buffer of its own.
 */
enum { VSOCK_LEAST = 32 << 20, VSOCK_BUDGET = 16 << 20, VSOCK_KERNEL = 16 << 20 };
/* The longest message of a program of the host to a guest. */
enum { VSOCK_MESSAGE_MAX = 1 << 20 };
/* The stash: the most buffers of the guest that were popped for data, and their segments. */
enum { VSOCK_STASH = 64, VSOCK_STASH_IOV = 2 * RING_MAX_SEGMENTS };
/* The least number of buffers for one read: most single writes of programs fit. */
enum { VSOCK_BURST_MIN = 16 };
/* The most queued RSTs for packets without a connection. While there are so many, no packet is popped. */
enum { VSOCK_REPLIES = 64 };
/* The most clients of the host that have not sent CONNECT; beyond that the oldest is closed. */
enum { VSOCK_GREETING_MAX = 1024 };
/* How long such a client keeps its place, in milliseconds, when there is room for no other connection. */
enum { VSOCK_GREETING_MS = 1000 };
enum { VSOCK_BUCKETS_MIN = 64 };
/* Ports of the host's clients are from VSOCK_FIRST_PORT on; the first one is anywhere in the VSOCK_PORTS after that. */
enum { VSOCK_FIRST_PORT = 1 << 30, VSOCK_PORTS = 1 << 30 };
/* The most buffers in the event queue. */
enum { VSOCK_EVENTS = 16 };

/* epoll data of the listening sockets; that of connections is a pointer. */
enum { VSOCK_SOURCE_LISTEN = WORKER_OWN, VSOCK_SOURCE_SEQ_LISTEN, VSOCK_SOURCES };

enum vsock_state {
	VSOCK_GREETING,    /* a client of the host that has not sent CONNECT; not in the table */
	VSOCK_REQUESTED,   /* a REQUEST was sent to the guest, or will be */
	VSOCK_ESTABLISHED,
	VSOCK_CLOSING,     /* only a RST is still to be sent */
	VSOCK_ORPHAN,      /* the guest has closed it; its last data still go to the host; not in the table */
	VSOCK_DEAD,        /* freed at the end of this turn */
};

/* Packets that are to be sent to the guest, as bits. */
enum {
	VSOCK_OWE_REQUEST = 1,
	VSOCK_OWE_RESPONSE = 2,
	VSOCK_OWE_RST = 4,
	VSOCK_OWE_CREDIT = 8,
	VSOCK_OWE_CREDIT_REQUEST = 16,
	VSOCK_OWE_SHUTDOWN = 32,
};

/* Bytes that the receiver has not taken: data[head .. tail). */
struct vsock_pend {
	uint32_t size, head, tail;
	uint8_t data[];
};

struct vsock_conn {
	struct vsock_conn *hash_next;
	struct vsock_conn *prev, *next;  /* in one of the lists: ready, greeting, orphans, dead */
	struct vsock_pend *to_host;      /* stream: bytes; seqpacket: each message behind its length (32 bits) */
	struct vsock_pend *to_guest;     /* a message that does not fit into the buffers or the credit at once */
	uint64_t since_ns;               /* when the connection was requested */
	int fd;                          /* -1: the host's side is closed */
	uint32_t host_port, guest_port;
	uint32_t buf_alloc, rx_cnt, fwd_cnt, last_fwd; /* data of the guest; last_fwd: the fwd_cnt that was sent last */
	uint32_t peer_alloc, peer_fwd, tx_cnt;         /* data for the guest */
	uint32_t promised;               /* its part of VSOCK_BUDGET */
	uint32_t leased, room;           /* its part of VSOCK_KERNEL, and how much of that is unused */
	uint32_t message_len;            /* seqpacket: length so far of the incomplete message at the end of to_host */
	uint16_t type;
	uint8_t state, owe;              /* owe: VSOCK_OWE_* */
	uint8_t guest_shut, host_shut;   /* VSOCK_SHUT_*: the directions that each side has closed */
	uint8_t burst;                   /* how many buffers to use for one read */
	bool listed;                     /* in vsock.ready */
	bool in_table;
	bool wr_closed;                  /* fd is shut down for writing */
	bool readable;                   /* fd may have data */
	bool hup, rdhup;                 /* epoll has reported EPOLLHUP or EPOLLRDHUP: the end follows the data */
	bool wide;                       /* the send buffer of fd was enlarged, or cannot be */
	bool want_out;                   /* epoll reports when fd is writable */
	bool in_message;                 /* to_host ends with an incomplete message */
	bool asked_credit;
	bool starved;                    /* to_host waits for memory of VSOCK_KERNEL */
	bool from_guest;                 /* the guest requested the connection */
};

/* A closed connection whose socket has data that its reader has not read. */
struct vsock_linger {
	int fd;
	uint32_t leased;
};

/* Sizes of small blocks: for a connection, and for its buffer if it has the least buf_alloc. */
enum { VSOCK_CLASSES = 2 };
#define VSOCK_CLASS_SIZES { 256, 2624 }

struct vsock_list {
	struct vsock_conn *first, *last;
	uint32_t n;
};

/* A buffer of the guest in the stash: its chain was popped, and it has no data yet. */
struct vsock_slot {
	uint32_t head, niov;
	struct iovec *iov;
	uint64_t room;
};

struct vsock_piece;
struct free_block;

struct vsock {
	struct worker worker;
	struct vsock_config config;
	int broker_fd;                  /* -1: there is no broker, or it has failed */
	bool has_broker;
	bool seqpacket;                 /* negotiated */
	bool running;                   /* the worker's epoll has all descriptors */
	bool rx_starved;                /* packets wait for buffers of the guest */
	bool listening;                 /* the worker's epoll has the listening sockets */
	bool reset_event;               /* tell the driver that all connections are gone */
	bool reset_told;                /* it was told, and gets no packets until it has handled that */
	int events_left;                /* how many buffers for events it had posted besides */
	uint64_t stalled_ns;            /* since when a connection has had no credit and has not asked for it; 0: none */
	uint32_t turns;                 /* calls of run() since epoll was asked */
	uint64_t seed;                  /* of the hash */

	struct ring *rx, *event;
	struct irq *rx_irq, *event_irq; /* the worker's is that of the transmit queue */
	int rx_kick, event_kick;

	struct vsock_conn **bucket;
	uint32_t nbuckets, nconns, next_port;
	uint64_t promised, least;
	uint64_t leased;                /* by all connections, and by lingering sockets */
	uint64_t swept_ns, shrunk_ns;   /* times of the last vsock_kernel_sweep(), and of the last sweep for unused leases */
	bool starved;                   /* a connection is starved */
	bool closes_only;               /* sockets are closed without a question of what is unread */
	struct vsock_piece *pieces;            /* memory from which small blocks are allocated */
	struct free_block *free_block[VSOCK_CLASSES];
	struct vsock_linger *linger;
	uint32_t nlinger, max_linger;
	struct vsock_list ready, greeting, orphans, dead;

	struct vsock_hdr reply[VSOCK_REPLIES];
	uint32_t reply_first, nreplies;

	uint32_t stash_first, nstash;   /* slots [stash_first, stash_first + nstash), their segments up to stash_end */
	uint32_t stash_end;
	struct vsock_slot stash[VSOCK_STASH];
	struct iovec stash_iov[VSOCK_STASH_IOV];
	struct iovec iov[RING_MAX_SEGMENTS]; /* of the packet, or the read, under way */

	struct vsock_stats stats;
};

/* vsock.c */

extern const struct worker_ops vsock_ops;
/* The part of vsock_start() before it starts the thread; a fuzzer needs none. */
void vsock_prepare(struct vsock *v, const struct vsock_queues *queues);

/* vsock_conn.c */

struct vsock_conn *vsock_conn_find(const struct vsock *v, uint32_t host_port, uint32_t guest_port);
/* Whether there may be one more connection: if there are as many as allowed, the oldest client without CONNECT gives way. */
bool vsock_conn_room(struct vsock *v);
/* A connection that is not in the table yet, with its buf_alloc. NULL: too many, or no memory. On success it owns fd. */
struct vsock_conn *vsock_conn_new(struct vsock *v, int fd, uint16_t type, enum vsock_state state);
/* Add it to the table, by its two ports. 0, or -ENOMEM and it is not added. */
int vsock_conn_enter(struct vsock *v, struct vsock_conn *c);
/* Remove it from the table and close its descriptor. vsock_conn_bury() frees it when nothing points to it any more. */
void vsock_conn_kill(struct vsock *v, struct vsock_conn *c);
void vsock_conn_bury(struct vsock *v);
/* Close the host's side, and drop the data that wait for it. */
void vsock_conn_close_fd(struct vsock *v, struct vsock_conn *c);
/* Send a RST to the guest, then drop the connection. */
void vsock_conn_reset(struct vsock *v, struct vsock_conn *c);
/* The guest has closed it: send the rest of its data to the host, then drop the connection. */
void vsock_conn_finish(struct vsock *v, struct vsock_conn *c);
/* It has packets for the guest: add it to the list of those that take turns. */
void vsock_conn_ready(struct vsock *v, struct vsock_conn *c);
/* Add packets that are to be sent (VSOCK_OWE_*). */
void vsock_conn_owe(struct vsock *v, struct vsock_conn *c, uint8_t what);
/* The host's side has taken len bytes of the guest. */
void vsock_conn_forwarded(struct vsock *v, struct vsock_conn *c, uint32_t len);
/* Drop all connections without packets to the guest. */
void vsock_conn_kill_all(struct vsock *v);
/* Have epoll report that the descriptor is readable, and while want_out, that it is writable. */
int vsock_conn_watch(struct vsock *v, struct vsock_conn *c, int how);
/* Add the listening sockets to the worker's epoll, or remove them. */
void vsock_conn_listen(struct vsock *v, bool on);
/* A local port that has no connection to that port of the guest. */
uint32_t vsock_conn_port(struct vsock *v, uint32_t guest_port);
void vsock_list_remove(struct vsock_list *list, struct vsock_conn *c);

/* vsock_mem.c. NULL: no memory. size: of the block, as it was allocated. */
void *vsock_alloc(struct vsock *v, size_t size);
void vsock_release(struct vsock *v, void *at, size_t size);
void *vsock_realloc(struct vsock *v, void *at, size_t size, size_t wanted);
void vsock_memory_free(struct vsock *v);

struct vsock_pend *vsock_pend_new(struct vsock *v, uint32_t size);
void vsock_pend_drop(struct vsock *v, struct vsock_pend **pend);
int vsock_pend_add(struct vsock *v, struct vsock_pend **pend, const struct iovec *iov, uint32_t niov, uint32_t len);
void vsock_pend_take(struct vsock *v, struct vsock_pend **pend, uint32_t len);
static inline uint32_t vsock_pend_len(const struct vsock_pend *pend)
{
	return pend ? pend->tail - pend->head : 0;
}

/* vsock_pkt.c */

/* Serve packets of the guest; returns how many, or the latched error. */
int vsock_tx_run(struct vsock *v);
/* Whether packets may be popped: not while there is no room for an answer. */
static inline bool vsock_tx_open(const struct vsock *v)
{
	return v->nreplies < VSOCK_REPLIES;
}

/* vsock_rx.c */

/* Publish the pushes of a ring, and interrupt the guest if it wants that. */
void vsock_flush(struct vsock *v, struct ring *ring, struct irq *irq);
/* The same for packets to the guest. */
void vsock_rx_flush(struct vsock *v);
/* Send packets to the guest; returns how much was done, or the latched error. */
int vsock_rx_run(struct vsock *v);
/* Send credit requests for connections that have had no credit for long. */
void vsock_rx_ask(struct vsock *v);
/* The number of bytes that the guest can still take. */
uint32_t vsock_credit(const struct vsock_conn *c);

/* vsock_stash.c */

/* Pop buffers until the stash has `want`, or the ring is empty. Returns how many it has, or the latched error. */
int vsock_stash_fill(struct vsock *v, uint32_t want);
/* Where the next bytes go: behind the headers of the first n buffers, at most max bytes. Returns how many entries. */
uint32_t vsock_stash_iov(struct vsock *v, uint32_t n, uint64_t max, uint64_t *room);
/* The first buffer, which is filled but for the header, goes to the guest. */
void vsock_stash_send(struct vsock *v, const struct vsock_hdr *h);
/* Let the guest have the buffers back that nothing was put in. */
void vsock_stash_return(struct vsock *v);

/* vsock_event.c */

/* Tell the driver that its connections are gone. 0, or the latched error. */
int vsock_event_tell(struct vsock *v);
/* Whether it has handled that: 1 or 0, or the latched error. arm: if not, there will be a kick. */
int vsock_event_taken(struct vsock *v, bool arm);

/* vsock_host.c */

/* A descriptor said something: events of epoll. */
void vsock_host_event(struct vsock *v, struct vsock_conn *c, uint32_t events);
/* Clients wait at a listening socket. */
void vsock_host_accept(struct vsock *v, int listen_fd, uint16_t type);
/* recv(), by the system call that the worker has. */
ssize_t vsock_recv(int fd, void *data, size_t len, int flags);
/* A socket connected to what listens for that port of the host, or -errno. */
int vsock_host_connect(struct vsock *v, uint32_t port, uint16_t type);
/* The guest has accepted: tell the client. */
void vsock_host_accepted(struct vsock *v, struct vsock_conn *c);

/* vsock_reach.c */

/* A socket connected to <name>_<port> in a directory, or -errno; type: VSOCK_TYPE_*. */
int vsock_reach(int dir_fd, const char *name, uint32_t port, uint32_t type);

/* vsock_kernel.c */

/* May len bytes go into the connection's socket? Then they are counted. */
bool vsock_kernel_take(struct vsock *v, struct vsock_conn *c, uint64_t len);
/* Close c->fd; what has not been read stays counted until it is. */
void vsock_kernel_close(struct vsock *v, struct vsock_conn *c);
/* Look what has been read; false: that was looked at lately. */
bool vsock_kernel_sweep(struct vsock *v);
/* Every connection that has a socket. One may be killed meanwhile, and is not freed before the end of the turn. */
void vsock_kernel_each(struct vsock *v, void (*fn)(struct vsock *, struct vsock_conn *));
/* Close all that lingers. */
void vsock_kernel_free(struct vsock *v);

/* vsock_out.c */

/* The same of a connection that waits for the kernel's memory, or for nothing. */
void vsock_host_flush_starved(struct vsock *v, struct vsock_conn *c);
/* Pass on what waits. */
void vsock_host_flush(struct vsock *v, struct vsock_conn *c);
/* One packet of a connection, len not 0: what the socket does not take waits. */
void vsock_host_send(struct vsock *v, struct vsock_conn *c, struct iovec *iov, uint32_t niov, uint32_t len, bool eom);
/* The host's end will send no more: it said so, or (all) it is gone. */
void vsock_host_eof(struct vsock *v, struct vsock_conn *c, bool all);
/* A direction is over: close, or shut down, what can be by now. */
void vsock_host_settle(struct vsock *v, struct vsock_conn *c);

#endif
