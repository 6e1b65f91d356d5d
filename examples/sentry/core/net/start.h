/* SPDX-License-Identifier: Apache-2.0 */
/* Networks, for files that do not include lwIP: their start, and the device to the outside. */
#ifndef SENTRY_NET_START_H
#define SENTRY_NET_START_H

#include "../types.h"

void net_init(void);
void interfaces_init(void);
void net_settle(void); /* wait for an address of the outside, if there is one */
void inet_init(void);
/* After each call of lwIP: deliver the packets of the loopback, and start or stop lwIP's timer. */
void net_run(void);
void net_receive(const u8 *frame, u32 size);
void net_free(void *memory); /* of net_malloc() */

/* -- virtio/net.c -- */

enum { NET_HEADER = 12 };

bool net_device(const u8 **mac, u16 *mtu); /* false: there is none */
/* Send a frame behind NET_HEADER bytes, of net_malloc(). The device frees it, except with -EAGAIN: there is no room. */
int net_device_send(u8 *frame, u32 size);

#endif
