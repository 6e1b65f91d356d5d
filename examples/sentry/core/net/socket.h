/* SPDX-License-Identifier: Apache-2.0 */
/* Sockets: what their families provide, and messages. */
#ifndef SENTRY_SOCKET_H
#define SENTRY_SOCKET_H

#include "../vfs/vfs.h"

enum { AF_UNSPEC = 0, AF_UNIX = 1, AF_INET = 2, AF_INET6 = 10, AF_NETLINK = 16 };
enum { SOCK_STREAM = 1, SOCK_DGRAM = 2, SOCK_RAW = 3, SOCK_SEQPACKET = 5, SOCK_TYPES = 15 };
enum {
	MSG_OOB = 1, MSG_PEEK = 2, MSG_CTRUNC = 8, MSG_TRUNC = 0x20, MSG_DONTWAIT = 0x40, MSG_WAITALL = 0x100, MSG_ERRQUEUE = 0x2000,
	MSG_NOSIGNAL = 0x4000, MSG_MORE = 0x8000, MSG_CMSG_CLOEXEC = 0x40000000,
};
enum { SOL_SOCKET = 1 };
enum {
	SO_DEBUG = 1, SO_REUSEADDR = 2, SO_TYPE = 3, SO_ERROR = 4, SO_DONTROUTE = 5, SO_BROADCAST = 6, SO_SNDBUF = 7,
	SO_RCVBUF = 8, SO_KEEPALIVE = 9, SO_OOBINLINE = 10, SO_PRIORITY = 12, SO_LINGER = 13, SO_REUSEPORT = 15,
	SO_PASSCRED = 16, SO_PEERCRED = 17, SO_RCVLOWAT = 18, SO_SNDLOWAT = 19, SO_RCVTIMEO = 20, SO_SNDTIMEO = 21,
	SO_BINDTODEVICE = 25, SO_TIMESTAMP = 29, SO_ACCEPTCONN = 30, SO_SNDBUFFORCE = 32, SO_RCVBUFFORCE = 33, SO_PROTOCOL = 38, SO_DOMAIN = 39,
};
enum { ADDRESS_SIZE = 128, RIGHTS_MOST = 253 };

/* An address; its family comes first. */
struct address {
	u16 family;
	char rest[ADDRESS_SIZE - 2];
};

struct credentials_message {
	s32 pid;
	u32 user, group;
};

/* With the namespace of the number. */
struct credentials {
	struct credentials_message message;
	u32 pids;
};

struct credentials_message credentials_shown(const struct credentials *credentials); /* to the caller */

/* Open files in a message, each with a reference. */
struct rights {
	struct rights *next; /* to be freed */
	u32 count;
	struct file *files[RIGHTS_MOST];
};

/* A part of the control data that belongs to the family's own level. */
enum { CONTROLS_MOST = 4, CONTROL_SIZE = 20 };

struct controls {
	u32 count; /* more than CONTROLS_MOST: there was no room for the last */
	struct control {
		s32 level, type;
		u32 size;
		u8 data[CONTROL_SIZE];
	} parts[CONTROLS_MOST];
};

struct message {
	struct address address; /* to or from */
	u32 address_size;	/* 0: none */
	struct rights *rights;
	struct credentials sender;
	bool wants_sender; /* the receiver gets the sender's credentials */
	bool sender_given;
	struct controls *controls; /* NULL: the call has none */
	u32 flags; /* MSG_* of what was received */
};

struct socket;

struct socket_operations {
	int (*bind)(struct socket *socket, const struct address *address, u32 size);
	int (*connect)(struct socket *socket, const struct address *address, u32 size, bool wait);
	int (*listen)(struct socket *socket, u32 backlog); /* NULL: -EOPNOTSUPP */
	int (*accept)(struct socket *socket, struct socket **new, bool wait); /* NULL: -EOPNOTSUPP */
	int (*name)(struct socket *socket, struct address *address, u32 *size, bool of_peer);
	s64 (*send)(struct socket *socket, struct message *message, struct io *from, u32 flags);
	s64 (*receive)(struct socket *socket, struct message *message, struct io *to, u32 flags);
	int (*shutdown)(struct socket *socket, bool receive, bool send); /* NULL: -EOPNOTSUPP */
	u32 (*poll)(struct socket *socket, struct poll *poll);
	/* Of other levels than SOL_SOCKET; NULL: no such level. `size` of the second: in, the room; out, the size of the value. */
	s64 (*set_option)(struct socket *socket, u32 level, u32 option, const u8 *value, u32 size);
	s64 (*get_option)(struct socket *socket, u32 level, u32 option, u8 *value, u32 *size);
	void (*changed)(struct socket *socket); /* an option of SOL_SOCKET; may be NULL */
	s64 (*error)(struct socket *socket);	/* for SO_ERROR: the last, which it clears; NULL: socket->error */
	u64 (*readable)(struct socket *socket); /* bytes */
	u64 (*unsent)(struct socket *socket);	/* bytes; NULL: 0 */
	void (*release)(struct socket *socket);
};

struct socket {
	const struct socket_operations *operations;
	u16 family, type, protocol;
	u32 owner;	/* the user who made it */
	u64 number;	/* of its inode */
	s32 error; /* of an earlier event, reported once */
	bool pass_credentials, listening;
	u64 send_size, receive_size;
	u64 switches; /* SO_*, each a bit: those that are on or off */
	s32 priority, linger[2];
	u32 low_water;
	u64 send_timeout, receive_timeout; /* nanoseconds; 0: none */
	struct credentials peer; /* of SO_PEERCRED */
	void *data;
};

static inline bool socket_switch(const struct socket *socket, u32 option)
{
	return socket->switches >> option & 1;
}

struct socket *socket_new(u16 family, u16 type, const struct socket_operations *operations);
void rights_free(struct rights *rights); /* may be NULL */
u64 socket_deadline(u64 timeout, bool wait); /* when a call gives up: 0 at once */
s64 socket_broken(u32 flags); /* -EPIPE, with SIGPIPE */
s64 socket_wait(struct wait_queue *queue, u64 deadline); /* 0, -EAGAIN at that time, or that of a signal */
struct socket *file_socket(struct file *file); /* NULL: it is none */
/* The socket of a descriptor and its file, borrowed; NULL with the error. */
struct socket *socket_get(struct task *t, u64 number, struct file **file, s64 *error);
u32 socket_flags(const struct file *file, u32 flags); /* of a call, with MSG_DONTWAIT if the file does not wait */
s64 address_get(struct task *t, struct address *address, u64 from, u64 size);
/* As much of an address as there is room for, and how large it is. */
s64 address_put(struct task *t, const struct address *address, u32 size, u64 to, u64 size_at);

/* -- interface.c, netlink.c -- */

s64 interface_ioctl(u32 command, u64 argument); /* -ENOTTY: it is none */
int netlink_create(struct socket **socket, u32 type, s32 protocol);

/* -- unix.c -- */

int unix_create(struct socket **socket, u32 type, s32 protocol);
void unix_pair(struct socket *a, struct socket *b);

#endif
