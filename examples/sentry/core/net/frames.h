/* SPDX-License-Identifier: Apache-2.0 */
/* Frames between lwIP and the device to the outside. */
#ifndef SENTRY_FRAMES_H
#define SENTRY_FRAMES_H

#include "start.h"

struct netif;
struct pbuf;

/* struct virtio_net_hdr */
struct frame_header {
	u8 flags, type;
	u16 headers, part, sum_start, sum_offset, buffers;
};
_Static_assert(sizeof(struct frame_header) == NET_HEADER, "what the device expects");

enum { NEEDS_SUM = 1, SUM_IS_RIGHT = 2 };	    /* flags */
enum { SPLIT_TCP4 = 1, SPLIT_TCP6 = 4 };	    /* type */
enum { ETHERNET = 14 };

/* -- sent_frames.c -- */

signed char frame_put(struct netif *interface, struct pbuf *packet); /* for lwIP: what leaves */
void frames_flush(void);				     /* send the segments that wait for others */
void frames_init(void);

#endif
