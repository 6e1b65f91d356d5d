/* SPDX-License-Identifier: Apache-2.0 */
/* Processes as /proc shows them. */
#ifndef SENTRY_PROCESS_FILE_H
#define SENTRY_PROCESS_FILE_H

#include "../core.h"
#include "synthetic.h"

struct task *process_task(s32 pid); /* the task of that number, or one of that process; NULL: there is none */
s32 process_after(s32 pid);	    /* the next number of a process; 0 */
s32 number_of(const char *text);
void synthetic_free(struct inode *inode); /* what an inode has for its content */
void process_prepare(struct synthetic_inode *node); /* more entries of a directory below a process */
void process_owner(s32 pid, struct inode *inode); /* who owns the files below a process */
const struct utsname *system_name(void);

#endif
