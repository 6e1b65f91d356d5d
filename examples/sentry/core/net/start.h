/* SPDX-License-Identifier: Apache-2.0 */
/* The start of networks, for core.c. */
#ifndef SENTRY_NET_START_H
#define SENTRY_NET_START_H

void net_init(void);
void inet_init(void);

#endif
