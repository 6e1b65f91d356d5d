/* SPDX-License-Identifier: Apache-2.0 */
/* Filters of system calls that programs install (seccomp): a list, which tasks and programs inherit. */
#ifndef SENTRY_FILTERS_H
#define SENTRY_FILTERS_H

#include "task.h"

struct filter;

void filters_get(struct filter *filters); /* NULL: there are none */
void filters_put(struct filter *filters);
u32 filters_count(const struct filter *filters);
/* Whether the task makes its system call; otherwise RAX has the result, or its end is under way. */
bool filters_allow(struct task *t);
enum { MODE_STRICT = 1, MODE_FILTER }; /* of PR_GET_SECCOMP */

u32 filters_mode(const struct task *t);
s64 filters_set_strict(struct task *t);
s64 filters_set(struct task *t, u64 flags, u64 from); /* as SECCOMP_SET_MODE_FILTER */

#endif
