/* SPDX-License-Identifier: Apache-2.0 */
/* Networks, for files that do not include lwIP: their start, and the device to the outside. */
#ifndef SENTRY_NET_START_H
#define SENTRY_NET_START_H

#include "../platform.h"

void net_init(void);
void interfaces_init(void);
void net_settle(void); /* wait for an address of the outside, if there is one */
void inet_init(void);
/* After each call of lwIP: deliver the packets of the loopback, and start or stop lwIP's timer. */
void net_run(void);

/* -- received_frames.c, sent_frames.c -- */

/* A part of a frame, in a buffer of the device. */
struct net_piece {
	u8 *buffer, *data;
	u32 size;
};

/* A frame with its virtio header has arrived: all of its buffers are returned, some of them later. */
void net_receive(const struct net_piece *pieces, u32 count, const void *header);
void frame_free(u8 *frame); /* that the device has sent */

/* -- virtio/net.c -- */

enum { NET_HEADER = 12, NET_BUFFER = 4 << 12, NET_PIECES = 8 };

bool net_device(const u8 **mac, u16 *mtu); /* false: there is none */
bool net_device_offloads(void); /* the device adds sums of TCP, and splits large segments */
/* Send a frame behind its virtio header. The device frees it, except with -EAGAIN: there is no room. */
int net_device_send(u8 *frame, u32 size);
void net_device_reap(void);		/* free what was sent */
bool net_device_lend(void);		/* a buffer stays away for long, and another takes its place; false: there is none */
void net_device_return(u8 *buffer);	/* of net_receive() */

#endif
