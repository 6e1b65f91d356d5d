/* SPDX-License-Identifier: Apache-2.0 */
/* lwIP includes it for a function that finds an interface by its name, which nobody calls. */
#ifndef SENTRY_LWIP_STDLIB_H
#define SENTRY_LWIP_STDLIB_H

#define atoi(text) ((void)(text), 0)

#endif
