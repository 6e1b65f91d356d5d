/* SPDX-License-Identifier: Apache-2.0 */
/* What lwIP needs of its compiler and system, in a program without a C library. */
#ifndef SENTRY_LWIP_CC_H
#define SENTRY_LWIP_CC_H

#include "../../../types.h"

#define LWIP_NO_STDDEF_H 1
#define LWIP_NO_STDINT_H 1
#define LWIP_NO_INTTYPES_H 1
#define LWIP_NO_LIMITS_H 1
#define LWIP_NO_CTYPE_H 1
#define LWIP_NO_UNISTD_H 1

typedef __SIZE_TYPE__ size_t;
typedef __PTRDIFF_TYPE__ ptrdiff_t;
typedef long ssize_t;
typedef u8 u8_t;
typedef signed char s8_t;
typedef u16 u16_t;
typedef s16 s16_t;
typedef u32 u32_t;
typedef s32 s32_t;
typedef u64 u64_t;
typedef s64 s64_t;
typedef unsigned long mem_ptr_t;

#define LWIP_HAVE_INT64 1
#define INT_MAX __INT_MAX__
#define SSIZE_MAX __LONG_MAX__
#define X8_F "02x"
#define U16_F "u"
#define S16_F "d"
#define X16_F "x"
#define U32_F "u"
#define S32_F "d"
#define X32_F "x"
#define SZT_F "lu"

#ifndef BYTE_ORDER
#define BYTE_ORDER 1234
#endif
#ifndef LITTLE_ENDIAN
#define LITTLE_ENDIAN 1234
#endif
#ifndef BIG_ENDIAN
#define BIG_ENDIAN 4321
#endif

#define lwip_htons(x) __builtin_bswap16(x)
#define lwip_htonl(x) __builtin_bswap32(x)
#define LWIP_DONT_PROVIDE_BYTEORDER_FUNCTIONS 1

_Noreturn void net_broken(const char *why);
u32 net_random(void);

#define LWIP_PLATFORM_DIAG(text) ((void)0)
#define LWIP_PLATFORM_ASSERT(text) net_broken("lwIP: " text)
#define LWIP_RAND() net_random()

#endif
