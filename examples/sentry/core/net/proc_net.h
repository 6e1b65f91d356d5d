/* SPDX-License-Identifier: Apache-2.0 */
/* The files of /proc/net. */
#ifndef SENTRY_PROC_NET_H
#define SENTRY_PROC_NET_H

#include "../types.h"

struct synthetic;
struct synthetic_inode;
struct text;

void write_net_tcp(struct text *text, struct synthetic_inode *node);
void write_net_tcp6(struct text *text, struct synthetic_inode *node);
void write_net_udp(struct text *text, struct synthetic_inode *node);
void write_net_udp6(struct text *text, struct synthetic_inode *node);
void write_net_dev(struct text *text, struct synthetic_inode *node);
void write_net_if_inet6(struct text *text, struct synthetic_inode *node);
void write_net_route(struct text *text, struct synthetic_inode *node);
void write_net_unix(struct text *text, struct synthetic_inode *node);
enum { NET_SYS_FILES = 8 };
u32 net_sys_files(struct synthetic *files); /* those of /sys/class/net: at most so many, which stay */
void net_put_hex(struct text *text, u64 value, u32 digits); /* in capitals */
void net_put_number(struct text *text, u64 value, u64 width); /* with spaces before it */

#endif
