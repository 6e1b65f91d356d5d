/* SPDX-License-Identifier: Apache-2.0 */
/* Names of types, for the core and for platforms, which include their host's headers first. */
#ifndef SENTRY_TYPES_H
#define SENTRY_TYPES_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef short s16;
typedef int s32;
typedef long long s64;

#ifndef NULL
#define NULL ((void *)0)
#endif
#ifndef bool
#define bool _Bool
#define true 1
#define false 0
#endif
#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

#endif
