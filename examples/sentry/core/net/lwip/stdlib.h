/* SPDX-License-Identifier: Apache-2.0 */
/* For netif_find() of lwIP, which nothing calls. */
#ifndef SENTRY_LWIP_STDLIB_H
#define SENTRY_LWIP_STDLIB_H

#define atoi(text) ((void)(text), 0)

#endif
