/* SPDX-License-Identifier: Apache-2.0 */
/* Options of prctl that other files implement. They get the arguments after the option. */
#ifndef SENTRY_PRCTL_H
#define SENTRY_PRCTL_H

#include "core.h"

/* -- capability.c -- */

s64 prctl_bounding_read(struct task *t, const u64 *args);
s64 prctl_bounding_drop(struct task *t, const u64 *args);
s64 prctl_securebits_get(struct task *t, const u64 *args);
s64 prctl_securebits_set(struct task *t, const u64 *args);
s64 prctl_keep_get(struct task *t, const u64 *args);
s64 prctl_keep_set(struct task *t, const u64 *args);
s64 prctl_ambient(struct task *t, const u64 *args);

#endif
