/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SENTRY_DEVICE_SERVER_H
#define SENTRY_DEVICE_SERVER_H

#include <stdbool.h>

#include "host.h"

enum { DEVICE_SHARE, DEVICE_NET, DEVICE_VSOCK, DEVICES, DEVICE_QUEUES = 2, FAILURES = 2 };
/* Offsets in RAM of the queues, as in pyvmm_sentry/share.py, and of the first byte behind them. */
enum { SHARE_RINGS = 0x1000, NET_RINGS = 0x5000, VSOCK_RINGS = 0xb000, DEVICES_END = 0x11000 };

/* Descriptors; -1: there is no such device. */
struct served {
	int ram, kicks[DEVICE_QUEUES], irq;
	int failures[FAILURES]; /* readable when a queue is broken, and when the server has ended; -1: others watch that */
};

extern struct served served[DEVICES];

bool device_parse(u32 which, const char *text); /* false: these are neither four descriptors nor six */
bool device_is_there(u32 which);
int device_ram(void); /* of any of them; -1: there is none */
void device_wake(void); /* the core, as if each of them had answered */
void device_kick(u32 queue); /* those of the first device, then those of the next */
_Noreturn void device_failed(void);
void device_answered(u32 which); /* clear the eventfd of answers before the core reads them */

#endif
