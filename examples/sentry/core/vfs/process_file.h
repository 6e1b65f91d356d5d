/* SPDX-License-Identifier: Apache-2.0 */
/* Processes as /proc shows them. */
#ifndef SENTRY_PROCESS_FILE_H
#define SENTRY_PROCESS_FILE_H

#include "../core.h"
#include "synthetic.h"

struct task *process_task(s32 pid); /* one of its tasks; NULL: there is no such process */
s32 process_after(s32 pid);	    /* the next number of a process; 0 */
s32 number_of(const char *text);
void synthetic_free(struct inode *inode); /* what an inode has for its content */
void process_prepare(struct synthetic_inode *node); /* more entries of a directory below a process */
s32 process_parent(struct task *t);
s32 process_group(struct task *t);
s32 process_session(struct task *t);
u64 process_threads(struct task *t);
int process_program(struct task *t, struct path *path); /* the file that it runs */
const struct utsname *system_name(void);

#endif
