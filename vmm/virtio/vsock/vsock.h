/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio-vsock, between its files: vsock.c (objects, the worker's loop), vsock_conn.c (the table of connections, what
 * waits for a socket), vsock_pkt.c (packets from the guest), vsock_rx.c (packets to the guest), vsock_stash.c (the buffers
 * for them), vsock_host.c (the unix sockets), vsock_out.c (what goes into them, and the ends), vsock_kernel.c (what the
 * kernel keeps of it), vsock_mem.c (memory).
 *
 * One thread does everything, so nothing here is locked; only the statistics are read by others.
 */
#ifndef VMM_NATIVE_VSOCK_H
#define VMM_NATIVE_VSOCK_H

#include "base/native.h"
#include "dataplane/worker.h"

/* ==== for Python ==== */

enum { VSOCK_LATENCIES = 20 };

struct vsock_config {
	uint64_t cid;        /* the guest's */
	int listen_fd;       /* non-blocking listening socket for streams: a client writes "CONNECT <port>\n" */
	int seq_listen_fd;   /* the same for SOCK_SEQPACKET, or -1 */
	int dir_fd;          /* where <name>_<port> are, the sockets that the guest can connect to */
	uint32_t max_conns;
	char name[256];
};

/* To the broker, and what it answers: with a descriptor, or with an errno. */
struct vsock_ask {
	uint32_t port, type; /* type: VSOCK_TYPE_* */
};

struct vsock_told {
	uint32_t port, error;
};

/*
 * Before, to the broker (broker.c), until it is told to go: remove this socket's name at the end (BROKER_NAME: text is its path);
 * connect to <text>_<port> in the directory whose descriptor comes with it (BROKER_GO), to nothing without one.
 */
enum { BROKER_NAME = 1, BROKER_GO = 2, BROKER_NAMES = 8 };

struct broker_msg {
	uint32_t op, zero;
	uint64_t dev, ino;
	char text[256];
};

struct vsock_stats {
	uint64_t opened, refused, resets; /* connections; requests of either side that came to nothing; connections cut */
	uint64_t credit_updates;          /* sent to the guest */
	uint64_t malformed;               /* packets that were dropped: no whole header, or not from this guest */
	uint64_t from_guest_bytes, to_guest_bytes, from_guest_packets, to_guest_packets;
	uint64_t connections, waiting_bytes; /* now: connections; bytes of the guest that the host has not taken */
	uint64_t latency[20];             /* connections by what their making took: less than 1024 << i ns; the last: any time */
};

struct vsock_queues {
	struct ring *rx, *tx, *event;     /* event: or NULL */
	int rx_kick, tx_kick;
	struct irq *rx_irq, *tx_irq, *event_irq;
	int event_fd;
	uint32_t seqpacket;               /* negotiated */
	uint32_t reset_event;             /* the driver must be told that its connections are gone (5.10.6.7) */
};

struct vsock;

/* The descriptors stay the caller's, and open. NULL and *err = -errno. */
struct vsock *vsock_new(const struct vsock_config *config, int *err);
/*
 * From now on sockets of the host are connected to by who is asked for it at the other end of `sock`, a SOCK_SEQPACKET that the
 * caller keeps; dir_fd is not needed any more. No worker runs.
 */
void vsock_use_broker(struct vsock *vsock, int sock);
/* After the worker was freed. Closes all connections. */
void vsock_free(struct vsock *vsock);
/* One worker thread for all queues; one at a time. Connections outlive it: they go on with the next. */
struct worker *vsock_start(struct vsock *vsock, const struct vsock_queues *queues, int *err);
/* The guest has reset the device: forget every connection. No worker runs. */
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

/* What one connection may have sent that its unix socket did not take yet. */
enum { VSOCK_BUF_ALLOC = 256 << 10, VSOCK_BUF_MIN = 2 << 10 };
/*
 * What a guest's data may take on the host, 64 MiB: what each connection is promised at least, there being no connection
 * without; what they are promised beyond that; and what is in the kernel until it is read, where a byte may have a
 * buffer of its own.
 */
enum { VSOCK_LEAST = 32 << 20, VSOCK_BUDGET = 16 << 20, VSOCK_KERNEL = 16 << 20 };
/* A message of a host program to a guest, at most. */
enum { VSOCK_MESSAGE_MAX = 1 << 20 };
/* Buffers of the guest that wait for data to be read into them, and their segments. */
enum { VSOCK_STASH = 64, VSOCK_STASH_IOV = 2 * RING_MAX_SEGMENTS };
/* Buffers that one read is offered at least: what programs write at once most often fits. */
enum { VSOCK_BURST_MIN = 16 };
/* RSTs to connections that there are none of. While it is full, nothing is taken from the guest. */
enum { VSOCK_REPLIES = 64 };
/* Clients of the host that have not said which port they want; of more the oldest is closed. */
enum { VSOCK_GREETING_MAX = 1024 };
enum { VSOCK_BUCKETS_MIN = 64 };
enum { VSOCK_FIRST_PORT = 1 << 30 };

/* What epoll says of a descriptor that is no connection: one of the worker's, or the listening sockets. */
enum { VSOCK_SOURCE_LISTEN = WORKER_OWN, VSOCK_SOURCE_SEQ_LISTEN, VSOCK_SOURCES };

enum vsock_state {
	VSOCK_GREETING,    /* a client of the host, CONNECT not read yet; not in the table */
	VSOCK_REQUESTED,   /* the guest has been asked, or will be */
	VSOCK_ESTABLISHED,
	VSOCK_CLOSING,     /* a RST is to be sent, nothing else */
	VSOCK_ORPHAN,      /* the guest is done with it; what it sent last still goes to the host; not in the table */
	VSOCK_DEAD,        /* freed at the end of this turn */
};

/* Packets that a connection owes the guest. */
enum {
	VSOCK_OWE_REQUEST = 1,
	VSOCK_OWE_RESPONSE = 2,
	VSOCK_OWE_RST = 4,
	VSOCK_OWE_CREDIT = 8,
	VSOCK_OWE_CREDIT_REQUEST = 16,
	VSOCK_OWE_SHUTDOWN = 32,
};

/* Bytes that wait for somebody who is slower: data[head .. tail). */
struct vsock_pend {
	uint32_t size, head, tail;
	uint8_t data[];
};

struct vsock_conn {
	struct vsock_conn *hash_next;
	struct vsock_conn *prev, *next;  /* among those that have something for the guest, or greet, or are dead */
	struct vsock_pend *to_host;      /* stream: bytes; seqpacket: each message behind its length (32 bits) */
	struct vsock_pend *to_guest;     /* a message too long for one go */
	uint64_t since_ns;               /* when the connection was asked for */
	int fd;                          /* -1: the host's side is gone */
	uint32_t host_port, guest_port;
	uint32_t buf_alloc, rx_cnt, fwd_cnt, last_fwd; /* from the guest: promised, received, passed on, passed on as told */
	uint32_t peer_alloc, peer_fwd, tx_cnt;         /* to the guest */
	uint32_t promised;               /* of the budget */
	uint32_t leased, room;           /* of the kernel's memory: taken from VSOCK_KERNEL; of that, not used yet */
	uint32_t message_len;            /* seqpacket: of the message at the end of to_host that goes on */
	uint16_t type;
	uint8_t state, owe;
	uint8_t guest_shut, host_shut;   /* VSOCK_SHUT_*: what each side said it will not do any more */
	uint8_t burst;                   /* buffers to offer for one read */
	bool listed;                     /* in vsock.ready */
	bool in_table;
	bool wr_closed;                  /* fd: shut down for writing */
	bool readable;                   /* fd may have something */
	bool hup, rdhup;                 /* what epoll has seen: once it did, there is an end behind the data */
	bool wide;                       /* fd has been given a larger buffer, or cannot have one */
	bool want_out;                   /* waiting for fd to be writable */
	bool in_message;                 /* there is such a message */
	bool asked_credit;
	bool starved;                    /* what waits for fd waits for the kernel's memory */
	bool from_guest;                 /* who asked */
};

/* A socket that is done with, but for what its reader has not read. */
struct vsock_linger {
	int fd;
	uint32_t leased;
};

/* Sizes of small blocks: connections; what waits of one that has no more than what is promised at least. */
enum { VSOCK_CLASSES = 2 };
#define VSOCK_CLASS_SIZES { 256, 2624 }

struct vsock_list {
	struct vsock_conn *first, *last;
	uint32_t n;
};

/* A buffer of the guest: its chain was popped, nothing is in it yet. */
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
	int broker_fd;                  /* -1: connect to sockets of the host by oneself */
	bool has_broker;
	bool seqpacket;                 /* negotiated */
	bool running;                   /* in the worker's epoll is what belongs there */
	bool rx_starved;                /* something waits for buffers of the guest */
	bool listening;                 /* accept() is expected to work */
	bool reset_event;               /* tell the driver that all connections are gone */
	uint64_t stalled_ns;            /* since when a connection has no credit and has not asked for it; 0: none does */
	uint32_t turns;                 /* of run() since the descriptors were looked at */
	uint64_t seed;                  /* of the hash */

	struct ring *rx, *event;
	struct irq *rx_irq, *event_irq; /* the worker's is that of the transmit queue */
	int rx_kick;

	struct vsock_conn **bucket;
	uint32_t nbuckets, nconns, next_port;
	uint64_t promised, least;
	uint64_t leased;                /* by all connections, and by what lingers */
	uint64_t swept_ns, shrunk_ns;   /* when it was looked what has been read; what is leased and not used */
	bool starved;                   /* a connection is */
	struct vsock_piece *pieces;            /* of small blocks, all that there are */
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
/* What vsock_start() does before it starts a thread; a fuzzer does without one. */
void vsock_prepare(struct vsock *v, const struct vsock_queues *queues);

/* vsock_conn.c */

struct vsock_conn *vsock_conn_find(const struct vsock *v, uint32_t host_port, uint32_t guest_port);
/* A connection that is in no table yet, with its promise of room. NULL: too many, or no memory. Takes fd over when it
 * succeeds. */
struct vsock_conn *vsock_conn_new(struct vsock *v, int fd, uint16_t type, enum vsock_state state);
/* Into the table, under its two ports. -ENOMEM leaves it out. */
int vsock_conn_enter(struct vsock *v, struct vsock_conn *c);
/* Out of the table, its descriptor closed; freed when nobody can come upon it any more: vsock_conn_bury(). */
void vsock_conn_kill(struct vsock *v, struct vsock_conn *c);
void vsock_conn_bury(struct vsock *v);
/* Close the host's side, and forget what waits for it. */
void vsock_conn_close_fd(struct vsock *v, struct vsock_conn *c);
/* Tell the guest that it is over, then forget it. */
void vsock_conn_reset(struct vsock *v, struct vsock_conn *c);
/* The guest is done: pass the rest on, if there is one, and forget the connection. */
void vsock_conn_finish(struct vsock *v, struct vsock_conn *c);
/* It has something for the guest. */
void vsock_conn_ready(struct vsock *v, struct vsock_conn *c);
void vsock_conn_owe(struct vsock *v, struct vsock_conn *c, uint8_t what);
/* The host's side has taken len bytes of the guest's. */
void vsock_conn_forwarded(struct vsock *v, struct vsock_conn *c, uint32_t len);
/* Every connection, without a word to the guest. */
void vsock_conn_kill_all(struct vsock *v);
/* Have epoll tell about the descriptor: what is to be read always, that it can be written while want_out. */
int vsock_conn_watch(struct vsock *v, struct vsock_conn *c, int how);
/* Listen for clients or do not, with the worker's epoll. */
void vsock_conn_listen(struct vsock *v, bool on);
/* A local port that no connection to that port of the guest has. */
uint32_t vsock_conn_port(struct vsock *v, uint32_t guest_port);
void vsock_list_remove(struct vsock_list *list, struct vsock_conn *c);

/* Bytes at the end; -ENOMEM. */
/* vsock_mem.c. NULL: the host is out of memory. What is given back is as long as it was made. */
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

/* Take packets off the guest's ring; returns how many, or the latched error. */
int vsock_tx_run(struct vsock *v);
/* May packets be taken? Not while their answers could not be kept. */
static inline bool vsock_tx_open(const struct vsock *v)
{
	return v->nreplies < VSOCK_REPLIES;
}

/* vsock_rx.c */

/* The guest sees what was pushed to a ring. */
void vsock_flush(struct vsock *v, struct ring *ring, struct irq *irq);
/* The guest gets the packets that were pushed for it. */
void vsock_rx_flush(struct vsock *v);
/* Give the guest what there is for it; returns how much was done, or the latched error. */
int vsock_rx_run(struct vsock *v);
/* Ask for credit where there has been none for long. */
void vsock_rx_ask(struct vsock *v);
/* What the guest may still be sent. */
uint32_t vsock_credit(const struct vsock_conn *c);

/* vsock_stash.c */

/* Pop until there are so many, if the guest has given them. Returns how many there are, or the latched error. */
int vsock_stash_fill(struct vsock *v, uint32_t want);
/* Where the next bytes go: behind the headers of the first n buffers, at most max bytes. Returns how many entries. */
uint32_t vsock_stash_iov(struct vsock *v, uint32_t n, uint64_t max, uint64_t *room);
/* The first buffer, which is filled but for the header, goes to the guest. */
void vsock_stash_send(struct vsock *v, const struct vsock_hdr *h);
/* Let the guest have the buffers back that nothing was put in. */
void vsock_stash_return(struct vsock *v);

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
