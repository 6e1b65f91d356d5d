/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Virtio devices (virtio 1.2): split queues in the core's RAM, and the registers by which they are set up.
 *
 * A driver adds buffers to a queue, with a token for each request, and takes the tokens back.  All buffers are in RAM
 * (slab.h, ram.h), and belong to the device meanwhile.
 */
#ifndef SENTRY_VIRTIO_H
#define SENTRY_VIRTIO_H

#include "../platform.h"

enum { VIRTIO_NET = 1, VIRTIO_CONSOLE = 3, VIRTIO_RNG = 4, VIRTIO_BALLOON = 5, VIRTIO_VSOCK = 19, VIRTIO_FS = 26 };
enum { QUEUE_SIZE = 256, QUEUES = 4 };
enum { INTERRUPT_STATUS = 0x60 }; /* a register */
enum { RINGS_STRIDE = 8192 }; /* between queues of a device that the platform has set up */
#define VIRTIO_EVENT_IDX (1ull << 29)
#define VIRTIO_VERSION_1 (1ull << 32)

struct segment {
	void *at;
	u32 size;
};

struct ring_descriptor {
	u64 address;
	u32 size;
	u16 flags, next;
};

struct ring_used {
	u32 id, size;
};

struct virtio_device;

struct virtqueue {
	struct virtio_device *device;
	u32 index;
	u16 size, free, free_count; /* the first free descriptor, and how many there are */
	u16 added, kicked, taken;   /* indices: of buffers, when the device was last told, of those that came back */
	bool quiet;		    /* the device does not interrupt: somebody looks for what comes back */
	struct ring_descriptor *descriptors;
	volatile u16 *available; /* flags, index, heads, used_event */
	volatile u8 *used;	 /* flags, index, elements, avail_event */
	void *tokens[QUEUE_SIZE];
};

struct virtio_device {
	struct virtio_device *next;
	volatile u8 *registers; /* NULL: the platform has set the device up */
	u32 id, first_kick; /* the number of its first queue for the platform's kick() */
	u64 features;
	u32 kept; /* bits of the interrupt status that are always set, so that nobody needs to acknowledge them */
	struct virtqueue *queues[QUEUES];
	bool changed; /* the configuration; the driver clears this */
	void (*used)(struct virtqueue *queue); /* buffers have come back: of the driver. It must not sleep. */
};

/* -- virtio.c -- */

void virtio_init(const struct core_config *config); /* the devices that the platform has found */
void virtio_poll(void);				    /* call used() where buffers have come back */
extern bool virtio_is_ready_made; /* there are devices without interrupts, which the platform has set up */
bool virtio_waits(void);	  /* one of these has pending requests */

/* -- queue.c -- */

u64 queue_bytes(u32 size);
/* In memory of that many bytes, all zero, aligned to 16. */
void queue_init(struct virtqueue *queue, struct virtio_device *device, u32 index, u32 size, u8 *memory);
/* A queue of a device that the platform has set up, whose queues lie in a row. false: no memory. */
bool queue_ready(struct virtio_device *device, u32 index, u32 size, u8 *rings);
/* Add a request: buffers that the device reads, then such that it writes. -EAGAIN: the queue is full. */
int queue_add(struct virtqueue *queue, const struct segment *segments, u32 readable, u32 writable, void *token);
void queue_kick(struct virtqueue *queue);
/* A request that came back, and how many bytes the device has written; NULL: there is none. */
void *queue_take(struct virtqueue *queue, u32 *written);
bool queue_has_used(const struct virtqueue *queue);
bool queue_is_idle(const struct virtqueue *queue); /* the device has returned all buffers */
void queue_listen(struct virtqueue *queue, bool listens); /* whether it interrupts for what it has not returned yet */

/* -- mmio.c -- */

u64 mmio_features(struct virtio_device *device); /* those that it offers */
/* Begin with a device that has these features beside those of all; false: it does not work like that. */
bool mmio_begin(struct virtio_device *device, u64 features);
struct virtqueue *mmio_queue(struct virtio_device *device, u32 index); /* NULL: there is none */
void mmio_ready(struct virtio_device *device);
void mmio_config(const struct virtio_device *device, u32 offset, void *to, u32 size);

/* -- drivers -- */

void rng_start(struct virtio_device *device);
void rng_forget(void); /* drop the numbers that another machine may have, too */
bool rng_fill(void *data, u64 size); /* false: there is no such device */
void console_start(struct virtio_device *device);
bool console_is_there(void); /* what follows is for then */
bool console_ready(void);    /* there is input, or its end */
s64 console_read(void *data, u64 size);
s64 console_write(const void *data, u64 size); /* how many bytes */
bool console_size(u16 *rows, u16 *columns);    /* false: it is no terminal */
void console_make_raw(void);		       /* of a terminal: no byte is the end of the input */
bool console_resized(void);		       /* since the last call */
void console_drain(void);
void net_start(struct virtio_device *device);
void net_start_ready(struct virtio_device *device, u8 *rings);
void net_forget(void);
void vsock_start(struct virtio_device *device);
void vsock_start_ready(struct virtio_device *device, u8 *rings);
void vsock_forget(void);
void vsock_move(void); /* its connections are gone: vsock_poll() ends them */
void vsock_poll(void);
void balloon_start(struct virtio_device *device);
void balloon_forget(void);
bool balloon_is_there(void);
bool balloon_report(u32 at);		/* a free block, with the next report; false: not now */
void balloon_send(void);		/* the report, if there is one */
bool balloon_wait(void);		/* until the blocks of a report are back; false: there is none */
void fs_start(struct virtio_device *device);
void fs_start_ready(struct virtio_device *device, u8 *rings);

#endif
