/* SPDX-License-Identifier: Apache-2.0 */
/* Functions of net/stack.c that lwIP calls. */
#ifndef SENTRY_LWIP_HOOKS_H
#define SENTRY_LWIP_HOOKS_H

struct netif;
struct pbuf;

/* Inspect each packet that comes in; 0: lwIP processes it. */
int net_ip4_input(struct pbuf *packet, struct netif *interface);
int net_ip6_input(struct pbuf *packet, struct netif *interface);

#endif
