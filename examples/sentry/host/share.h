/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SENTRY_SHARE_H
#define SENTRY_SHARE_H

#include <stdbool.h>

#include "host.h"

enum { SHARE_RAM, SHARE_KICK, SHARE_QUEUES = 2, SHARE_IRQ = SHARE_KICK + SHARE_QUEUES, SHARE_FDS };
/* Where the queues lie in RAM, and where what is free of it begins: as pyvmm_sentry/share.py has it. */
enum { SHARE_RINGS = 0x1000, SHARE_END = 0x5000 };

extern int share_fds[SHARE_FDS]; /* -1: there is no such device */

bool share_parse(const char *text); /* false: not the four descriptors */
bool share_is_there(void);
void share_kick(u32 queue);
void share_answered(void); /* clear the eventfd of answers, before the core looks for them */

#endif
