/* SPDX-License-Identifier: Apache-2.0 */
/* O_ASYNC: a signal to the owner of an open file when it becomes ready. */
#ifndef SENTRY_ASYNC_H
#define SENTRY_ASYNC_H

#include "vfs.h"

/* Switch it for an open file, which siginfo names by the descriptor. -ENOTTY: the file does not support it. */
s64 async_set(struct file *file, u32 fd, bool on);
void async_stop(struct file *file); /* before it is freed, too */

/* Who gets the signal: a process, a group (negative), or nobody (0). */
s64 owner_set(struct file *file, s32 pid);
s32 owner_get(const struct file *file);
s64 owner_set_ex(struct file *file, u64 from);
s64 owner_get_ex(const struct file *file, u64 to);

#endif
