/* SPDX-License-Identifier: Apache-2.0 */
/* The configuration of the interface that leads outside, instead of what DHCP assigns. */
#ifndef SENTRY_CONFIGURE_H
#define SENTRY_CONFIGURE_H

#include "../types.h"

/* Each returns 0 or -errno. Text is as inet_ntop(3) writes it. */
s64 outside_begin(const char *name, const char *mac, u64 mtu); /* without addresses; mtu 0: that of the device */
s64 outside_add_address(const char *address, u32 prefix);
s64 outside_set_gateway(const char *address);

#endif
